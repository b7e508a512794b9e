//! Whether the session could log in on another server, as everybody in this process may read it.

use super::Conn;
use crate::resolve::ticket::Why;
use std::sync::atomic::{AtomicU8, Ordering};

/// 0: nothing stands in the way; else the number of [`Why`].
pub struct Login(AtomicU8);

impl Default for Login {
    fn default() -> Self {
        Self(AtomicU8::new(Why::Pending as u8))
    }
}

impl Conn {
    /// Why there is no ticket for another login; `None`: there is one, or the stream is none that logs in.
    pub fn login(&self) -> Option<Why> {
        Why::from_wire(self.login.0.load(Ordering::Acquire))
    }

    /// For the I/O thread.
    pub fn set_login(&self, why: Option<Why>) {
        self.login
            .0
            .store(why.map_or(0, |why| why as u8), Ordering::Release);
    }
}
