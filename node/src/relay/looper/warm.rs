//! Sessions that wait beside the standby of a passive node: made by their clients while another node serves them, logged in like
//! any other. They are relayed while this node is passive, not at all while it takes over, and like any other session once it is
//! active; so nothing of theirs reaches a server that is about to be promoted before the other node is known not to serve.

use super::super::Shared;
use super::super::session::Waiting;
use super::{Looper, Slot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tracing::info;
use vianet::resolve::Generation;
use vianet::via::switchover::ACTIVE;
use vianet::via::{EndReason, Incoming, RejectReason};

impl Looper {
    /// In which generation a session is let in, and that it waits; or why it is not.
    pub(super) fn admits(
        &self,
        incoming: &dyn Incoming,
        index: usize,
        may_serve: bool,
    ) -> Result<(Generation, Option<Waiting>), RejectReason> {
        let served = &self.shared.served[index];
        if !incoming.warm() {
            let active = served.active().filter(|_| may_serve);
            return active.map_or(Err(RejectReason::NotActive), |own| Ok((own, None)));
        }
        let (time, seen) = served.standby().ok_or(RejectReason::NotActive)?;
        let waiting = wait(&self.shared, time).ok_or(RejectReason::Busy)?;
        Ok((seen, Some(waiting)))
    }

    /// The role has changed.
    pub(super) fn hear_role(&mut self, index: usize) {
        let served = Arc::clone(&self.shared.served[index]);
        let (active, standby) = (served.active(), served.standby().map(|(time, _)| time));
        let waits = |slot: &Slot| match slot {
            Slot::Open(session) if session.index == index => session.waits(),
            _ => None,
        };
        let slots = self.slots.iter();
        let waiting: Vec<_> = slots
            .filter_map(|(id, slot)| Some((*id, waits(slot)?)))
            .collect();
        for (id, since) in waiting {
            match (active, standby) {
                (Some(generation), _) => self.goes_on(id, generation),
                // It may have been promoted meanwhile.
                (None, Some(time)) if time != since => self.end_waiting(id),
                // As ever; or a takeover is under way.
                _ => {}
            }
        }
    }

    fn goes_on(&mut self, id: u64, generation: Generation) {
        let Some(Slot::Open(session)) = self.slots.get_mut(&id) else {
            return;
        };
        session.becomes_active(generation);
        let (server, channel) = (&session.served.name, session.channel.accept.channel_id);
        info!(
            event = "warm-active",
            server, channel, generation, "a session that has waited may go on"
        );
        session.channel.wire.say(&session.channel, ACTIVE);
        self.ready.insert(id);
    }

    fn end_waiting(&mut self, id: u64) {
        if let Some(Slot::Open(session)) = self.slots.remove(&id) {
            session.channel.end(EndReason::NotActive);
            self.forget(id, *session, "not-active");
        }
    }
}

/// A place among those that wait, if there is one.
fn wait(shared: &Shared, time: u64) -> Option<Waiting> {
    let taken = &shared.warm;
    let more = |n: usize| (n < shared.most_warm).then_some(n + 1);
    let took = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    took.is_ok().then(|| Waiting::new(time, Arc::clone(taken)))
}
