//! Who says which node is active: one trait, so that an existing engine can take the place of the keep-alive.
//!
//! An authority reports what it knows of the other node's claim to each server name; [`crate::role`] decides. It does no
//! I/O and reads no clock: datagrams go in and out, time is an argument.

pub mod keepalive;

use crate::control::PeerStatus;
use crate::role::{Now, PeerRole};
use std::net::SocketAddr;
use std::time::Duration;
use vianet::resolve::Generation;

/// What this node says of itself for one server name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The name, lower case.
    pub name: String,
    /// The role.
    pub role: PeerRole,
    /// See [`PeerRole`].
    pub generation: Generation,
}

/// What an authority reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The other node's present claim, proven fresh.
    Peer {
        /// Which server name (lower case).
        server: String,
        /// Its role.
        role: PeerRole,
        /// Its generation.
        generation: Generation,
        /// When our question left.
        asked_at: Duration,
    },
    /// The other node is lost (all names).
    Lost,
    /// The other node answers, for the first time or again.
    Heard,
    /// The other node was just told our roles in answer to its question.
    Answered,
    /// Something worth a log line: what was refused, and why.
    Refused(String),
}

/// See the module's text.
pub trait Authority: Send {
    /// A datagram of the keep-alive types came in from `from`; the answer, if any, goes back by the same socket.
    fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &[u8],
        own: &[Told],
    ) -> (Vec<Word>, Option<Vec<u8>>);

    /// Time passed. `gap`: the loop stood still, so nothing unanswered counts.
    fn tick(&mut self, now: Now, gap: bool, own: &[Told]) -> Vec<Word>;

    /// A role changed: the other nodes should learn it at once.
    fn changed(&mut self, now: Now, own: &[Told]);

    /// The next datagram to send.
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)>;

    /// When [`Authority::tick`] is to be called next.
    fn next_due(&self) -> Duration;

    /// For the status.
    fn peers(&self, now: Now) -> Vec<PeerStatus>;
}
