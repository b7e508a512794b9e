//! The observer for protocols that the library does not understand: it knows only whether the stream is *quiet*.
//!
//! A quiet stream may be moved under `raw_failover = "continue"` (DESIGN section 9): every byte sent was acknowledged
//! as written to the old server, and bytes came back after the last send. A stream on which nothing was ever sent
//! is quiet too. Nothing is ever resent.

/// Follows both directions by offset only.
#[derive(Clone, Debug, Default)]
pub struct RawObserver {
    sent: u64,
    received_since_send: bool,
}

/// Whether the stream may move, or why not. The texts are what users look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Movable {
    /// Quiet.
    Yes,
    /// Bytes are on their way and not known to be written to the server.
    NotAcknowledged,
    /// The last bytes sent have had no answer yet.
    AnswerOutstanding,
}

impl Movable {
    /// `"yes"` or the reason, as `vianet_info` and the log show it.
    pub fn reason(self) -> &'static str {
        match self {
            Movable::Yes => "yes",
            Movable::NotAcknowledged => "not_acknowledged",
            Movable::AnswerOutstanding => "answer_outstanding",
        }
    }
}

impl RawObserver {
    /// `n` bytes of the application entered the channel.
    pub fn sent(&mut self, n: usize) {
        if n > 0 {
            self.sent += n as u64;
            self.received_since_send = false;
        }
    }

    /// `n` bytes of the server arrived from the channel.
    pub fn received(&mut self, n: usize) {
        if n > 0 {
            self.received_since_send = true;
        }
    }

    /// Whether the stream may move; `acked` is the number of bytes that the peer says it wrote to the server.
    pub fn movable(&self, acked: u64) -> Movable {
        if acked < self.sent {
            Movable::NotAcknowledged
        } else if self.sent > 0 && !self.received_since_send {
            Movable::AnswerOutstanding
        } else {
            Movable::Yes
        }
    }
}
