//! The server's stream: messages of a type byte and a length; and which of its bytes the application may have.

use super::record::LONGEST;

/// A message up to this size reaches the application only when all of it has come. Bytes.
pub const LARGE: usize = 65_536;
/// So much of a body is kept: a transaction status, and an error's severity in any language.
const KEPT: usize = 96;
const HEAD: usize = 5;
/// Types that a server's first message may have.
const FIRST: &[u8] = b"RENSv";

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More bytes are needed.
    Incomplete,
    /// The one byte that answers a request for encryption.
    Answer(u8),
    /// A whole message of this type; see [`Backend::body`].
    Message(u8),
    /// No message begins like this.
    Broken,
    /// No server's first message does.
    Foreign,
}

/// How many bytes may be given to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// So many of those that have come.
    pub bytes: usize,
    /// So many must have come, counted from behind `bytes`, before there is more to give: 1 where it is not known.
    pub next: usize,
    /// So many of those that follow belong to a message that was let through.
    cleared: u64,
}

impl Release {
    /// Everything.
    pub fn all(bytes: usize) -> Self {
        Self {
            bytes,
            next: 1,
            cleared: 0,
        }
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    head: [u8; HEAD],
    have: u8,
    /// Of the body.
    left: u32,
    kept: [u8; KEPT],
    kept_len: u8,
    /// The body of a ParameterStatus or BackendKeyData, and whether it is all of it.
    told: Vec<u8>,
    told_whole: bool,
    /// The next byte answers a request for encryption.
    answer: bool,
    /// A first message has begun.
    begun: bool,
    cleared: u64,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            left: 0,
            kept: [0; KEPT],
            kept_len: 0,
            told: Vec::new(),
            told_whole: true,
            answer: false,
            begun: false,
            cleared: 0,
        }
    }
}

impl Backend {
    pub(super) fn expect_answer(&mut self) {
        self.answer = true;
    }

    pub(super) fn awaits_answer(&self) -> bool {
        self.answer
    }

    /// Nothing of a message is with the application that is not whole there.
    pub(super) fn at_boundary(&self) -> bool {
        self.have == 0 && !self.answer
    }

    /// The beginning of the last message's body, of ReadyForQuery, CommandComplete and ErrorResponse only.
    pub(super) fn body(&self) -> &[u8] {
        &self.kept[..usize::from(self.kept_len)]
    }

    /// The body of the last message, of ParameterStatus and BackendKeyData only, and whether it is whole.
    pub(super) fn told(&self) -> (&[u8], bool) {
        (&self.told, self.told_whole)
    }

    /// Whether the last message, an ErrorResponse, says that the server ends the session.
    pub(super) fn is_fatal(&self) -> bool {
        is_fatal(self.body())
    }

    /// Takes bytes off the front of `bytes`, up to the end of a message at most.
    pub(super) fn step(&mut self, bytes: &mut &[u8]) -> Step {
        if std::mem::take(&mut self.answer) {
            let answer = bytes[0];
            if answer != b'E' {
                *bytes = &bytes[1..];
                return Step::Answer(answer);
            }
            // A server that does not know the request: an ordinary error.
        }
        if !std::mem::replace(&mut self.begun, true) && !FIRST.contains(&bytes[0]) {
            return Step::Foreign;
        }
        let at = usize::from(self.have);
        if at < HEAD {
            let more = (HEAD - at).min(bytes.len());
            self.head[at..at + more].copy_from_slice(&bytes[..more]);
            self.have += more as u8;
            *bytes = &bytes[more..];
            if at + more < HEAD {
                return Step::Incomplete;
            }
            let Some(length) = length(&self.head) else {
                return Step::Broken;
            };
            self.left = length - 4;
            self.kept_len = 0;
            self.told.clear();
            self.told_whole = self.left as usize <= LONGEST;
        }
        let take = (self.left as usize).min(bytes.len());
        if matches!(self.head[0], b'E' | b'Z' | b'C') {
            let kept = usize::from(self.kept_len);
            let keep = take.min(KEPT - kept);
            self.kept[kept..kept + keep].copy_from_slice(&bytes[..keep]);
            self.kept_len += keep as u8;
        }
        if matches!(self.head[0], b'S' | b'K') && self.told_whole {
            self.told.extend_from_slice(&bytes[..take]);
        }
        *bytes = &bytes[take..];
        self.left -= take as u32;
        if self.left > 0 {
            return Step::Incomplete;
        }
        self.have = 0;
        Step::Message(self.head[0])
    }

    /// See [`super::Observer::release`].
    pub(super) fn release(
        &self,
        room: usize,
        available: usize,
        large: usize,
        ahead: impl Fn(usize, &mut [u8]) -> usize,
    ) -> Release {
        let room = room.min(available);
        let mut first = [0; 1];
        let foreign = !self.begun && ahead(0, &mut first) == 1 && !FIRST.contains(&first[0]);
        if self.answer || foreign {
            return Release::all(room);
        }
        let mut at = usize::try_from(self.cleared).unwrap_or(usize::MAX);
        loop {
            // Here a message begins, or none is held back before.
            let done = at.min(room);
            let next = |next| Release {
                bytes: done,
                next,
                cleared: (at - done) as u64,
            };
            if at > room || at == available {
                return next(1);
            }
            let mut head = [0; HEAD];
            if ahead(at, &mut head) < HEAD {
                return next(HEAD);
            }
            let Some(length) = length(&head) else {
                // It cannot be followed any more: nothing is held back.
                return Release::all(room);
            };
            let total = length as usize + 1;
            if total > available - at && total <= large {
                return next(total);
            }
            if at == room {
                return next(1);
            }
            at += total;
        }
    }

    /// See [`super::Observer::released`].
    pub(super) fn clear(&mut self, release: &Release) {
        self.cleared = release.cleared;
    }
}

/// Whether an ErrorResponse that begins like this says that the server ends the session.
pub(super) fn is_fatal(body: &[u8]) -> bool {
    let fields = body.split(|byte| *byte == 0);
    // V is not translated; a server that is old enough not to send it is not read any further than S.
    fields
        .take_while(|field| !field.is_empty())
        .filter(|field| matches!(field[0], b'S' | b'V'))
        .any(|field| matches!(&field[1..], b"FATAL" | b"PANIC"))
}

/// The length that a header says, itself included.
fn length(head: &[u8; HEAD]) -> Option<u32> {
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    (4..=i32::MAX as u32).contains(&length).then_some(length)
}
