//! A session that goes on on another server: what is needed for it, and how the calls get there.

use super::session::{Known, State, keep_theirs};
use super::*;
use crate::config::OnUnknown;
use crate::session::postgres::{Lost, Moved, Observer, Onward, Plan, Reason, Way};

impl Conn {
    /// Whether the session can be made again, or why not; `None`: not now, a thread is inside. For the I/O thread, while the calls
    /// are suspended.
    pub fn judge_session(&self) -> Option<std::result::Result<(), Reason>> {
        self.with_unread(|state, channel| {
            let mut unread = vec![0; channel.come()];
            let n = channel.rx.peek(0, &mut unread).unwrap_or(0);
            unread.truncate(n);
            let mut then = state.observer.clone();
            let mut theirs = unread.clone();
            keep_theirs(&mut then, self.ours(), &mut theirs, Some(channel));
            self.plan_from(state, &then, &unread).map(drop)
        })
    }

    /// What it takes to make it again. What has come can be read meanwhile, and is all that the old server has said: what comes
    /// later is not heard, so that the session is what the plan is for. As above.
    pub fn plan(&self) -> Option<std::result::Result<Plan, Reason>> {
        self.with_unread(|state, channel| {
            let unread = turns::drain(channel);
            channel.shut_reads();
            let mut then = state.observer.clone();
            let mut theirs = unread.clone();
            keep_theirs(&mut then, self.take_back_ours(), &mut theirs, Some(channel));
            let plan = self.plan_from(state, &then, &unread);
            if let (Ok(_), true, Some(known)) = (&plan, then.at_safe_point(), state.known.as_mut())
            {
                known.at.1 = channel.consumed();
            }
            state.observer = then;
            state.received = channel.consumed();
            // SAFETY: the receive direction's lock is held.
            let rx = unsafe { &mut *self.rx.get() };
            // What was answered here came before.
            rx.left.append(&mut state.said);
            rx.left.extend_from_slice(&theirs);
            self.ring_for(rx);
            plan
        })
    }

    /// What it would take to make it again if its server were lost now, and where it is, while it is at rest: for who makes it
    /// beforehand. Nothing is suspended, and nothing comes of it. `None`: not now, or nothing has moved since it was at `seen`.
    pub fn plan_at_rest(&self, seen: (u64, u64)) -> Option<(Plan, (u64, u64))> {
        let channel = self.channel()?;
        let mut state = self.followed.state.lock_if_free()?;
        state.check(&channel);
        let at = (state.sent, state.received);
        if at == seen || !state.observer.at_safe_point() {
            return None;
        }
        let plan = self.plan_from(&state, &state.observer, &[]);
        Some((plan.ok()?, at))
    }

    /// Whether it is to be made beforehand.
    pub fn wants_warm(&self) -> bool {
        let wanted = self.setting(
            |server| server.warm_sessions,
            |cluster| cluster.warm_sessions,
        );
        wanted && self.followed.is_on()
    }

    /// Why nothing is made beforehand, "" if something is. Whether that is news.
    pub fn set_warm(&self, why_not: &'static str) -> bool {
        let before = self.slow.lock().why_not_warm.replace(why_not);
        before != Some(why_not)
    }

    fn with_unread<T>(&self, look: impl FnOnce(&mut State, &Channel) -> T) -> Option<T> {
        let _rx = self.try_hold(&self.control.rx)?;
        let _tx = self.try_hold(&self.control.tx)?;
        let channel = self.channel()?;
        channel.hold_reads();
        let mut state = self.followed.state.lock();
        if (state.sent, state.received) != (channel.accepted(), channel.consumed()) {
            state.observer.lose_sight(Reason::Shared);
        }
        let seen = look(&mut state, &channel);
        drop(state);
        // What has come can be read meanwhile.
        channel.open_reads();
        Some(seen)
    }

    /// `then` is the observer once the application has read what it has not yet.
    fn plan_from(
        &self,
        state: &State,
        then: &Observer,
        unread: &[u8],
    ) -> std::result::Result<Plan, Reason> {
        let snapshot = state.snapshot_at_rest();
        let tell = self.on_unknown() == OnUnknown::Error;
        let onward = then.onward(snapshot.as_ref(), tell)?;
        if let Some(reason) = state.obstacle_at_rest() {
            return Err(reason);
        }
        // Nothing but what comes at any time and changes nothing may stand there; part of a message is dropped.
        if then.at_safe_point() && !crate::session::postgres::is_idle_talk(unread) {
            return Err(Reason::StatePending);
        }
        let (Some(snapshot), Some(identity)) = (snapshot, &state.identity) else {
            return Err(Reason::UnknownState);
        };
        Ok(Plan {
            record: then.record_at_rest(matches!(onward, Onward::Same(_))),
            identity: identity.clone(),
            state: snapshot,
            written: state.written.clone(),
            custom: (identity.way() == Way::Derived)
                .then(|| then.record().custom(&self.followed.policy)),
            policy: self.followed.policy.clone(),
            onward,
        })
    }

    /// The session goes on on `fresh`; adds what is new to the application. For the holder of both directions' locks.
    pub(super) fn move_session(
        &self,
        old: &Channel,
        fresh: &Channel,
        moved: Moved,
        left: &mut Vec<u8>,
    ) {
        let mut state = self.followed.state.lock();
        left.extend_from_slice(&moved.news);
        state.observer.moved(&moved);
        state.sent = fresh.accepted();
        state.received = fresh.consumed();
        let again = match &moved.onward {
            Onward::Same(again) => again.len() as u64,
            _ => 0,
        };
        let at = (state.sent.wrapping_sub(again), state.received);
        state.rested = at;
        state.identity = Some(moved.identity);
        if moved.written.is_some() {
            state.written = moved.written;
        }
        state.known = Some(Known {
            at,
            state: Ok(moved.state),
        });
        state.asked = None;
        state.failures = 0;
        state.watched = false;
        let lost = Lost {
            name: &self.name.to_string(),
            node: &old.accept.node,
            why: Reason::Transaction,
        };
        let error = lost.told(&moved.onward, &fresh.accept.node);
        let (said, stand_in) = state.observer.stand_in(&moved.onward, error);
        left.extend_from_slice(&said);
        self.followed.put_in(&mut state, stand_in);
    }
}
