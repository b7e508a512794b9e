//! How many messages may be sent: each needs a receive that the peer has posted, and a device without one in time breaks
//! the connection.
//!
//! Each side keeps [`DEPTH`] receives posted, and says in every message how many it has received in all (absolute, so
//! that a later one repairs what an earlier one did not say). Data leaves [`RESERVE`] of them alone. A side that has
//! received a quarter of [`DEPTH`] messages since it last said anything says so by a message without data.
//!
//! The last one of all is only for a message that tells of something new: that more messages were received than it said
//! before.
//!
//! Why neither side is ever stuck: suppose that everything sent has arrived, and that a side cannot say what it received.
//! Then it has used all. So has the other side, or it can say that it received these, which frees this one. Both sent
//! their last one after they had received something that the message before did not tell of. That was not one of the
//! other's last [`DEPTH`], or it would have given credit; so it was the one before those. So of what either side had heard
//! when it sent its last one, nothing told that the one before its own last [`DEPTH`] had arrived: as many were on their
//! way already, and it could not send.

use crate::via::sync::{AtomicU32, Ordering};

/// Receives that each side keeps posted.
pub const DEPTH: u32 = 64;
/// Receives of the peer that data does not use.
pub const RESERVE: u32 = 2;
const _: () = assert!(DEPTH <= 128, "counts go modulo 2^8");

/// Counts of one side. `sent` and `told` belong to the sending half, the others to the receiving one.
#[derive(Default)]
pub struct Credit {
    sent: AtomicU32,
    told: AtomicU32,
    received: AtomicU32,
    /// How many of ours the peer says that it received.
    peer: AtomicU32,
}

impl Credit {
    fn in_flight(&self) -> u32 {
        let peer = self.peer.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire).wrapping_sub(peer)
    }

    /// Whether a message with data may be sent.
    pub fn allows_data(&self) -> bool {
        self.in_flight() < DEPTH - RESERVE
    }

    /// Whether a message without data may be sent.
    pub fn allows_control(&self) -> bool {
        let news = self.count() != self.told.load(Ordering::Acquire);
        self.in_flight() < DEPTH - u32::from(!news)
    }

    /// Counts a message that is about to be sent. Before it is: the peer may answer first.
    pub fn send(&self) {
        self.sent.fetch_add(1, Ordering::AcqRel);
    }

    /// The message was not sent after all.
    pub fn take_back(&self) {
        self.sent.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts messages whose receives are posted again.
    pub fn receive(&self, n: u32) {
        self.received.fetch_add(n, Ordering::AcqRel);
    }

    /// What the next message says.
    pub fn count(&self) -> u32 {
        self.received.load(Ordering::Acquire)
    }

    /// A message said `count`.
    pub fn tell(&self, count: u32) {
        self.told.store(count, Ordering::Release);
    }

    /// Whether the peer must be told even if nothing else is to be said.
    pub fn owes(&self) -> bool {
        self.count().wrapping_sub(self.told.load(Ordering::Acquire)) >= DEPTH / 4
    }

    /// The peer received `count` messages. False where that cannot be.
    pub fn heard(&self, count: u32) -> bool {
        let peer = self.peer.load(Ordering::Acquire);
        if count.wrapping_sub(peer) > self.in_flight() {
            return false;
        }
        self.peer.store(count, Ordering::Release);
        true
    }

    /// The same from the count's last 8 bits.
    pub fn heard_low(&self, low: u8) -> bool {
        let peer = self.peer.load(Ordering::Acquire);
        self.heard(peer.wrapping_add(u32::from(low.wrapping_sub(peer as u8))))
    }
}

#[cfg(test)]
mod tests;
