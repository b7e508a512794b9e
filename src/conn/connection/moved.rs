//! A session that goes on on another server: what is needed for it, and how the calls get there.

use super::session::{Known, State};
use super::*;
use crate::conn::cancels;
use crate::session::postgres::{Answer, Moved, Plan, Question, Reason, Way};

impl Conn {
    /// What it takes to make the session again, or why it cannot be; `None`: not now, a thread is inside. For the I/O thread,
    /// while the calls are suspended.
    pub fn plan(&self) -> Option<std::result::Result<Plan, Reason>> {
        let _rx = self.try_hold(&self.control.rx)?;
        let _tx = self.try_hold(&self.control.tx)?;
        let channel = self.channel()?;
        channel.hold_reads();
        let mut state = self.followed.state.lock();
        if (state.sent, state.received) != (channel.accepted(), channel.consumed()) {
            state.observer.lose_sight(Reason::Shared);
        }
        let plan = self.plan_from(&mut state, &channel);
        drop(state);
        // What has come can be read meanwhile.
        channel.open_reads();
        Some(plan)
    }

    fn plan_from(&self, state: &mut State, channel: &Channel) -> std::result::Result<Plan, Reason> {
        if let Some(reason) = state.obstacle() {
            return Err(reason);
        }
        let mut unread = vec![0; channel.come()];
        let n = channel.rx.peek(0, &mut unread).unwrap_or(0);
        unread.truncate(n);
        // Nothing but what comes at any time and changes nothing may stand there; part of a message is dropped.
        if !crate::session::postgres::is_idle_talk(&unread) {
            return Err(Reason::StatePending);
        }
        let known = state.current().and_then(|known| known.state.as_ref().ok());
        let (Some((seed, bytes)), Some(identity)) = (known, &state.identity) else {
            return Err(Reason::StatePending);
        };
        let Ok(Answer::State(snapshot)) = Question::State.read(*seed, bytes) else {
            return Err(Reason::UnknownState);
        };
        Ok(Plan {
            record: state.observer.record().clone(),
            identity: identity.clone(),
            state: snapshot,
            written: state.written.clone(),
            custom: (identity.way() == Way::Derived)
                .then(|| state.observer.record().custom(&self.followed.policy)),
            policy: self.followed.policy.clone(),
        })
    }

    /// The session goes on on `fresh`: what the application has not read of the `old` channel, and what is new to it. For the
    /// holder of both directions' locks.
    pub(super) fn move_session(
        &self,
        old: &Channel,
        fresh: &Channel,
        moved: Moved,
        unread: &mut Vec<u8>,
    ) {
        let mut state = self.followed.state.lock();
        self.keep_theirs(&mut state, unread, Some(old));
        unread.extend_from_slice(&moved.news);
        cancels::moved(
            self.id,
            &self.name,
            &state.observer.record().key,
            &moved.key,
        );
        state.observer.moved(&moved);
        state.sent = fresh.accepted();
        state.received = fresh.consumed();
        let at = (state.sent, state.received);
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
    }
}
