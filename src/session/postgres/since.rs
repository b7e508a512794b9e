//! What has happened since the session was last at rest: what of the application's bytes is not settled, and whether what was
//! settled since would be undone by a rollback.

use super::message::Messages;
use super::text;

/// Most bytes that are kept for another server.
pub const MOST: usize = 262_144;
/// A buffer of more than this is not held on to.
const SMALL: usize = 8192;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Since {
    /// What was sent since the last request that was settled; begins with a message.
    kept: Vec<u8>,
    /// Position of its first byte.
    from: u32,
    /// There was too much of it.
    too_much: bool,
    /// Something was answered.
    pub(super) heard: bool,
    /// Of what is not settled, an error was answered.
    pub(super) failed: bool,
    /// The first statement has begun a transaction block; `None`: none was answered.
    began: Option<bool>,
    /// Something may have been committed.
    pub(super) committed: bool,
    /// Something may have been done that a rollback does not undo.
    pub(super) lasting: bool,
    /// A setting may have been changed that a COMMIT keeps.
    pub(super) settings: bool,
    /// The unnamed statement of then, and whether it was too long to be kept, where it is another now.
    pub(super) unnamed: Option<(Option<Vec<u8>>, bool)>,
}

impl Since {
    /// Nothing was sent that is not settled.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.too_much
    }

    /// The session is at rest, and what comes next begins here.
    pub(super) fn begin(&mut self, at: u32) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        *self = Self {
            kept,
            from: at,
            ..Self::default()
        };
    }

    /// These bytes are sent.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.too_much || self.kept.len() + bytes.len() > MOST {
            self.miss();
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// Not all is kept: what it says is not known later on.
    pub(super) fn miss(&mut self) {
        (self.too_much, self.lasting) = (true, true);
        self.kept = Vec::new();
    }

    /// What was sent and is not settled; `None`: that was too much.
    pub(super) fn kept(&self) -> Option<&[u8]> {
        (!self.too_much).then_some(&self.kept)
    }

    /// A CommandComplete.
    pub(super) fn tag(&mut self, body: &[u8]) {
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        let begins = matches!(tag, b"BEGIN" | b"START TRANSACTION");
        match self.began {
            None => self.began = Some(begins),
            Some(_) => self.committed |= begins || tag.starts_with(b"COMMIT"),
        }
        self.settings |= tag.starts_with(b"SET") || tag.starts_with(b"RESET") || tag == b"DO";
        self.settings |= tag.ends_with(b"LISTEN") || tag.starts_with(b"DECLARE");
    }

    /// What a statement does without a tag is not known.
    pub(super) fn did_something(&mut self) {
        self.began.get_or_insert(false);
    }

    /// All that was done since is in one transaction block, begun as the session was then.
    pub(super) fn in_block(&self) -> bool {
        self.began == Some(true) && !self.committed
    }

    /// ReadyForQuery: everything up to this position is settled. `inside`: a block is open; `rest`: nothing else was sent.
    pub(super) fn settle(&mut self, end: u32, inside: bool, rest: bool) {
        self.failed = false;
        let settled = end.wrapping_sub(self.from) as usize;
        if inside {
            let settled = self.kept.get(..settled).unwrap_or_default();
            self.lasting |= lasts(settled);
            self.settings |= sets(settled);
        } else {
            // Outside of a block it is committed, as far as it was done.
            self.committed = true;
        }
        if rest {
            self.kept.clear();
            self.too_much = false;
            self.from = end;
            if !inside {
                // It is at rest again.
                self.unnamed = None;
            }
            if self.kept.capacity() > SMALL {
                self.kept = Vec::new();
            }
        } else if !self.too_much {
            self.kept.drain(..settled.min(self.kept.len()));
            self.from = end;
        }
    }
}

/// Whether what these messages run may leave something that a rollback does not undo.
pub(super) fn lasts(messages: &[u8]) -> bool {
    texts(messages).any(text::lasts) || Messages(messages).any(|(kind, _)| kind == b'F')
}

/// Whether it may set something by a function, or make something temporary.
pub(super) fn sets(messages: &[u8]) -> bool {
    texts(messages).any(text::sets)
}

/// The texts of statements in these messages.
fn texts(messages: &[u8]) -> impl Iterator<Item = &[u8]> {
    Messages(messages).filter_map(|(kind, body)| matches!(kind, b'Q' | b'P').then_some(body))
}
