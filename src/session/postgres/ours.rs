//! Which of the server's next bytes answer a question of ours: those never reach the application. What comes at any time (a
//! notice, a notification, a parameter) is for the application, also between them; and so is a fatal error, after which
//! nothing is ours any more.
//!
//! It is one word, so that it can stand in memory that forked processes share: whoever receives goes on where another left.

use super::backend;

/// Longest head that is looked at before it is decided whose a message is.
const LOOK: usize = 96;
const HEAD: usize = 5;

/// See the module's text. All zero: nothing is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// So many ReadyForQuery are still to come.
    readies: u8,
    /// So many bytes are left of a message that has begun.
    left: u32,
    /// That one is the application's.
    passes: bool,
}

/// What to do with the bytes that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many must have come before it can be told.
    Wait(usize),
    /// So many are ours.
    Take(usize),
    /// So many are the application's, all of one message.
    Pass(usize),
    /// All that follow are the application's.
    Over,
}

impl Ours {
    /// Something was asked that ends with so many ReadyForQuery.
    pub fn asked(readies: u8) -> Self {
        Self {
            readies,
            ..Self::default()
        }
    }

    /// Whether anything is.
    pub fn is_over(self) -> bool {
        self == Self::default()
    }

    /// Whether the application has to do something before it goes on.
    pub fn passes(self) -> bool {
        self.passes
    }

    /// So many of the next bytes are the application's; `None`: all.
    pub fn theirs(self) -> Option<usize> {
        let most = if self.passes { self.left as usize } else { 0 };
        (!self.is_over()).then_some(most)
    }

    /// As one word; 0 where it is over.
    pub fn word(self) -> u64 {
        u64::from(self.left) | u64::from(self.passes) << 32 | u64::from(self.readies) << 33
    }

    /// The same back.
    pub fn from_word(word: u64) -> Self {
        Self {
            readies: (word >> 33) as u8,
            left: word as u32,
            passes: word >> 32 & 1 == 1,
        }
    }

    /// What to do with the next bytes, of which so many have come. `ahead` copies from the first of them and says how many there
    /// were. A message of more than `large` bytes need not be whole. Bytes that are ours count as taken by this call; of
    /// those that pass, [`Ours::passed`] says how many went.
    pub fn step(
        &mut self,
        available: usize,
        large: usize,
        ahead: impl FnOnce(&mut [u8]) -> usize,
    ) -> Step {
        if self.left == 0 && self.readies == 0 {
            return Step::Over;
        }
        if self.left == 0 {
            let mut head = [0; HEAD + LOOK];
            let have = ahead(&mut head);
            if have < HEAD {
                return Step::Wait(HEAD);
            }
            let Some(total) = super::message::total(&head) else {
                // No message: nobody can say any more whose it is.
                *self = Self::default();
                return Step::Over;
            };
            if total > available && total <= large.max(HEAD + 1) {
                return Step::Wait(total);
            }
            if head[0] == b'E' && backend::is_fatal(&head[HEAD..have.min(total)]) {
                *self = Self::default();
                return Step::Over;
            }
            self.left = total as u32;
            self.passes = matches!(head[0], b'N' | b'A' | b'S');
            // It is whole.
            self.readies -= u8::from(head[0] == b'Z');
        }
        let n = available.min(self.left as usize);
        match (n, self.passes) {
            (0, _) => Step::Wait(1),
            (_, true) => Step::Pass(n),
            (_, false) => {
                self.left -= n as u32;
                Step::Take(n)
            }
        }
    }

    /// So many bytes of those that pass went to the application.
    pub fn passed(&mut self, bytes: usize) {
        self.left -= bytes.min(self.left as usize) as u32;
        self.passes = self.left > 0;
    }

    /// Removes what is ours from bytes that came last: nothing follows them.
    pub fn remove_from(&mut self, bytes: &mut Vec<u8>) {
        let (mut kept, mut at) = (Vec::new(), 0);
        while at < bytes.len() && !self.is_over() {
            let rest = &bytes[at..];
            let copy = |out: &mut [u8]| {
                let n = out.len().min(rest.len());
                out[..n].copy_from_slice(&rest[..n]);
                n
            };
            match self.step(rest.len(), 0, copy) {
                Step::Take(n) => at += n,
                Step::Pass(n) => {
                    kept.extend_from_slice(&rest[..n]);
                    self.passed(n);
                    at += n;
                }
                // Part of a head: whosever it was, it is of no use.
                Step::Wait(_) => at = bytes.len(),
                Step::Over => break,
            }
        }
        kept.extend_from_slice(&bytes[at..]);
        *bytes = kept;
    }
}
