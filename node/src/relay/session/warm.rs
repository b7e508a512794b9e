//! The part of a session that waits beside the standby of a passive node.

use super::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use vianet::resolve::Generation;
use vianet::via::switchover::{ACTIVE, Order};

/// A place among those that wait, given back when this goes.
pub struct Waiting {
    /// Which time it was that this node was passive; see [`crate::served::Served::standby`].
    time: u64,
    taken: Arc<AtomicUsize>,
}

impl Waiting {
    /// One that `taken` counts already.
    pub fn new(time: u64, taken: Arc<AtomicUsize>) -> Self {
        Self { time, taken }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Session {
    /// It waits, or it does not.
    pub fn waiting(mut self, waiting: Option<Waiting>) -> Self {
        self.waiting = waiting;
        self
    }

    /// Since which time, if it does.
    pub fn waits(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.time)
    }

    /// This node is active: it is a session as any other.
    pub fn becomes_active(&mut self, generation: Generation) {
        self.waiting = None;
        self.was_warm = true;
        self.channel.accept.generation = generation;
        let channel = self.channel.accept.channel_id;
        if let Some(status) = self.served.sessions.lock().get_mut(&channel) {
            status.warm = false;
        }
        if let Some(desk) = &self.served.desk {
            desk.goes_on(channel, generation);
        }
    }

    /// What its client is told where this is ordered: with no order, that this node is active, if it has waited for that. (It may
    /// not have come to need it yet.)
    pub fn word(&self, order: u8) -> u8 {
        match self.was_warm && Order::from_wire(order) == Order::None {
            true => ACTIVE,
            false => order,
        }
    }

    /// Whether bytes may pass: within the lease; of one that waits, while this node is passive and has been so all the time.
    pub(super) fn may_relay(&self, now: Duration) -> bool {
        match &self.waiting {
            None => self.served.may_serve(now),
            Some(own) => (self.served.standby()).is_some_and(|(time, _)| time == own.time),
        }
    }
}
