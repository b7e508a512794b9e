//! What the application sends to a session whose transaction was lost, or whose request was: it is answered here, up to the end of
//! that request, in the place of the server that is lost. What comes behind it is the new server's.
//!
//! The sender takes the bytes; the answer is put before what the channel holds by whoever receives, or by the I/O thread, which also
//! makes the descriptor readable.

use super::session::State;
use super::*;
use crate::session::postgres::{StandIn, Standing};
use crate::via::channel::Wait;
use crate::via::{Broken, EndReason};

impl Followed {
    /// From now on this answers, if anything does.
    pub(super) fn put_in(&self, state: &mut State, stand_in: Option<StandIn>) {
        self.stands_in.store(stand_in.is_some(), Ordering::Release);
        state.stand_in = stand_in;
    }

    /// Whether what is sent is answered here, or an answer has to be heard before it is sent.
    pub(super) fn stands_in(&self) -> bool {
        self.stands_in.load(Ordering::Acquire) || self.owes()
    }

    /// Whether an answer has to be put where it is received.
    pub fn owes(&self) -> bool {
        self.owes.load(Ordering::Acquire)
    }
}

impl Conn {
    /// Takes what is sent to nobody else, and says how much. 0: not now; only where `waits`, once nothing more is written to
    /// the server in front of it. For the holder of the send direction's lock.
    pub(super) fn answer_here(
        &self,
        channel: &Channel,
        data: &[IoSlice<'_>],
        waits: bool,
    ) -> usize {
        let Some(mut guard) = self.followed.state.try_lock() else {
            return 0;
        };
        let state = &mut *guard;
        let Some(stand_in) = &mut state.stand_in else {
            drop(guard);
            self.followed.stands_in.store(false, Ordering::Release);
            // What the server says to what comes next must not be heard first.
            self.hand_over_answers();
            return 0;
        };
        // No word of ours in the middle of a message; and what passes on must go whole.
        if state.observer.standing() == Standing::Blind {
            self.reset(channel);
            return 0;
        }
        if !state.observer.at_boundary() || channel.room() < StandIn::MOST_PASSED {
            return 0;
        }
        // Nothing of ours is said on a plain stream.
        let waits = waits
            && channel.wire.transport() != Transport::Plain
            && self.setting(
                |server| server.commit_ends_lost_block,
                |cluster| cluster.commit_ends_lost_block,
            );
        let mut taken = 0;
        for piece in data {
            let heard = stand_in.hear(piece, waits);
            state.observer.sent(&piece[..heard.taken]);
            state.observer.received(&heard.said);
            state.said.extend_from_slice(&heard.said);
            taken += heard.taken;
            if !heard.passed.is_empty() {
                // There is room.
                let _ = channel.send(&[IoSlice::new(&heard.passed)], Wait::No);
                state.sent = channel.accepted();
            }
            if heard.done {
                self.followed.put_in(state, None);
                break;
            }
            if heard.commits {
                // The I/O thread rolls back.
                state.watched = true;
                break;
            }
        }
        let commits = state.commits();
        let owes = !state.said.is_empty();
        let blind = state.observer.standing() == Standing::Blind;
        drop(guard);
        if blind {
            self.reset(channel);
        }
        if commits {
            crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
        }
        if owes {
            self.followed.owes.store(true, Ordering::Release);
            // A receiver that is inside takes it; who only waits for the descriptor is woken by the I/O thread.
            self.kick();
            crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
        }
        taken
    }

    /// A COMMIT waits for a rollback, or nobody can say now.
    pub(super) fn waits_to_commit(&self) -> bool {
        let state = self.followed.state.try_lock();
        state.is_none_or(|state| state.commits())
    }

    /// The block of a lost transaction is rolled back, or `well` is false: the COMMIT that waits for it is answered. For who takes the
    /// answer to a question of ours.
    pub(super) fn rolled_back(&self, state: &mut State, well: bool) {
        let Some(mut stand_in) = state.stand_in.take() else {
            return;
        };
        let said = stand_in.rolled_back(well);
        state.observer.received(&said);
        state.said.extend_from_slice(&said);
        self.followed.put_in(state, None);
        self.followed.owes.store(true, Ordering::Release);
        self.kick();
        crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
    }

    /// Nobody can say what a server would have made of what was sent, and the one that is there has not seen it all.
    fn reset(&self, channel: &Channel) {
        channel.fail(Broken::Ended(EndReason::Reset));
        crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
    }

    /// Puts what was answered here where it is received. For the holder of the receive direction's lock.
    pub(super) fn hand_over(&self, rx: &mut Receiving) {
        if !self.followed.owes() {
            return;
        }
        let Some(mut state) = self.followed.state.try_lock() else {
            return;
        };
        self.followed.owes.store(false, Ordering::Release);
        rx.left.append(&mut state.said);
        drop(state);
        self.ring_for(rx);
    }

    /// The same by the I/O thread. False: not now.
    pub fn hand_over_answers(&self) -> bool {
        if !self.followed.owes() {
            return true;
        }
        let Some(_rx) = self.try_hold(&self.control.rx) else {
            return false;
        };
        // SAFETY: the receive direction's lock is held.
        self.hand_over(unsafe { &mut *self.rx.get() });
        !self.followed.owes()
    }
}
