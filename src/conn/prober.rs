//! Asks one node again and again whether it lives, which is the same question as who serves a name (DESIGN section 6).
//!
//! The rule for what counts as unanswered is [`Liveness`]; this is its socket. Used by one thread, the I/O thread.

use super::asker::{Asked, Heard, Target};
use crate::error::Result;
use crate::failover::liveness::Liveness;
use crate::resolve::identity::{PublicKey, random_bytes};
use crate::resolve::query::Query;
use crate::resolve::{Answer, Generation};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Answers to so many of the last probes are heard: a busy node may answer late.
const REMEMBERED: usize = 8;

/// What a turn of the prober found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Nothing new.
    Nothing,
    /// The node answered; look at the role: a node that is not active any more has resigned.
    Alive(Answer),
    /// Nobody listens at the node's port: its daemon is dead, or a firewall rejects. A channel that still stands must not
    /// be given up for this alone.
    Refused,
    /// So many probes in a row are unanswered, and that is enough: the node is lost unless bytes come from it.
    Lost(u32),
}

/// Probes one node for one server name.
pub struct Prober {
    target: Target,
    pinned: Option<PublicKey>,
    server: String,
    min_generation: Generation,
    asked: VecDeque<Query>,
    liveness: Liveness,
    told_lost: bool,
}

impl Prober {
    /// A prober of the node that answered from `addr` ([`Answer::from`]) for `server`. Nothing is sent before one `interval`
    /// has passed, or [`Prober::hurry`]. Fails when the process is out of descriptors or memory.
    pub fn new(
        addr: SocketAddr,
        server: &str,
        pinned: Option<PublicKey>,
        (interval, lost_after): (Duration, u32),
        now: Duration,
    ) -> Result<Self> {
        Ok(Self {
            target: Target::open(addr)?,
            pinned,
            server: server.to_owned(),
            min_generation: 0,
            asked: VecDeque::new(),
            liveness: Liveness::new(interval, lost_after, now),
            told_lost: false,
        })
    }

    /// What to watch for reading; `None` when no way leads to the node.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.target.fd()
    }

    /// Bytes came from the node on a channel.
    pub fn heard_bytes(&mut self, now: Duration) {
        self.liveness.heard_bytes(now);
        self.told_lost = false;
    }

    /// The next probe goes out at once: a channel broke. Call [`Prober::turn`] after it.
    pub fn hurry(&mut self, now: Duration) {
        self.liveness.hurry(now);
    }

    /// Reads, judges, sends: call when [`Prober::fd`] is readable, and at [`Prober::poll_timeout`].
    pub fn turn(&mut self, now: Duration) -> Probed {
        self.liveness.ran(now);
        self.target.heard = Heard::Silent;
        let mut probed = self.read();
        if matches!(probed, Probed::Alive(_)) {
            self.liveness.heard(now);
            self.told_lost = false;
        }
        self.liveness.drained(now);
        if self.liveness.due(now) {
            self.send(now);
            // Over loopback a refusal is there before the call returns.
            if probed == Probed::Nothing {
                probed = self.read();
            }
        }
        if probed == Probed::Nothing && self.liveness.is_lost() && !self.told_lost {
            self.told_lost = true;
            probed = Probed::Lost(self.liveness.unanswered());
        }
        probed
    }

    /// When [`Prober::turn`] must be called at the latest.
    pub fn poll_timeout(&self) -> Duration {
        self.liveness.poll_timeout()
    }

    /// Unanswered probes in a row.
    pub fn unanswered(&self) -> u32 {
        self.liveness.unanswered()
    }

    fn read(&mut self) -> Probed {
        let Self { target, asked, .. } = self;
        target.receive_any(|datagram, target| {
            // The newest first: nearly always the one that is answered.
            for query in asked.iter().rev() {
                let asked = Asked {
                    query,
                    pinned: self.pinned.as_ref(),
                    ssrp: false,
                };
                if target.take(datagram, &asked) {
                    return;
                }
            }
        });
        match &target.heard {
            Heard::Answer(answer) => Probed::Alive(answer.clone()),
            Heard::Refused(_) => Probed::Refused,
            Heard::Silent | Heard::Bad(_) => Probed::Nothing,
        }
    }

    fn send(&mut self, now: Duration) {
        // Without random numbers nothing was asked, and silence then proves nothing.
        if let Some(request) = self.request() {
            let sent = self.target.send(&request);
            self.liveness.sent(now, sent);
        }
    }

    /// A fresh request, remembered.
    fn request(&mut self) -> Option<Vec<u8>> {
        let query = Query {
            nonce: random_bytes().ok()?,
            server: self.server.clone(),
            min_generation: self.min_generation,
        };
        let request = query.encode().ok()?;
        if self.asked.len() == REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back(query);
        Some(request)
    }
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
