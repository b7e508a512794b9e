//! A planned switchover, as the calls meet it: between two requests the next one waits ([`crate::via::switchover`]).
//!
//! The I/O thread sets the gate by what the node wants (`driver/switchover`). A sender that comes to a closed gate at a safe
//! point suspends the calls itself, under the send direction's lock: nobody else can have begun a request.

use super::*;
use crate::session::postgres::Reason;
use crate::via::switchover::{Order, Standing, Why};

/// How the gate stands; on the control page, since forked processes share the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Gate {
    /// Nothing is wanted.
    Open = 0,
    /// It is to be noted when a safe point comes.
    Watched = 1,
    /// It came.
    Passed = 2,
    /// The next request waits.
    Closed = 3,
    /// The I/O thread has the session at rest: the calls are suspended.
    Held = 4,
    /// The session cannot move, and its requests do not wait for it.
    Given = 5,
}

impl Gate {
    fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Watched,
            2 => Self::Passed,
            3 => Self::Closed,
            4 => Self::Held,
            5 => Self::Given,
            _ => Self::Open,
        }
    }

    /// By which order it stands so. (A session that was given up goes on under [`Order::Hold`].)
    pub fn order(self) -> Order {
        match self {
            Self::Open => Order::None,
            Self::Watched | Self::Passed => Order::Tell,
            Self::Closed | Self::Held | Self::Given => Order::Hold,
        }
    }
}

impl Conn {
    /// How it stands.
    pub fn gate(&self) -> Gate {
        Gate::from_word(self.control.gate.load(Ordering::Acquire))
    }

    /// For the I/O thread.
    pub fn set_gate(&self, gate: Gate) {
        self.control.gate.store(gate as u32, Ordering::Release);
    }

    /// The calls are suspended for a switchover, and the channel works.
    pub(super) fn is_held(&self) -> bool {
        self.gate() == Gate::Held && self.control.phase() == Phase::Suspended
    }

    /// For a sender, which holds its direction's lock: whether it has to wait. Tells the I/O thread.
    #[cold]
    pub(super) fn waits_at_gate(&self, data: &[IoSlice<'_>]) -> bool {
        let gate = self.gate();
        if !matches!(gate, Gate::Watched | Gate::Closed) || !self.followed.is_on() {
            return false;
        }
        // Terminate runs nothing, and nobody waits for what comes of it.
        let first = data.iter().find_map(|piece| piece.first());
        let state = self.followed.state.try_lock();
        if first == Some(&b'X') || !state.is_some_and(|state| state.observer.at_safe_point()) {
            return false;
        }
        let waits = match gate {
            Gate::Closed => self.close(),
            _ => {
                let (old, new) = (Gate::Watched as u32, Gate::Passed as u32);
                let word = &self.control.gate;
                let _ = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
                false
            }
        };
        crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
        waits
    }

    /// Suspends the calls, if they go on.
    fn close(&self) -> bool {
        let (old, new) = (Phase::Established as u32, Phase::Suspended as u32);
        let word = &self.control.phase;
        let closed = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        closed.is_ok()
    }

    /// Suspends the calls where the stream is at rest. For the I/O thread; false: it is not, or somebody is inside.
    pub fn hold_at_rest(&self) -> bool {
        if self.control.phase() == Phase::Suspended {
            return true; // a sender has done it
        }
        let Ok(_tx) = self.control.tx.lock(Some(Duration::ZERO)) else {
            return false;
        };
        let rests = self.stands().is_some_and(|(_, rests)| rests);
        if !rests || !self.close() {
            return false;
        }
        self.kick();
        true
    }

    /// Why the stream could not move to the other server now (`None` inside: it could); `None`: that cannot be said now. And
    /// whether it is between two transactions.
    pub fn stands(&self) -> Option<(Option<Why>, bool)> {
        if !self.is_followed() {
            return Some(self.bytes_stand());
        }
        let channel = self.channel()?;
        let mut state = self.followed.state.lock_if_free()?;
        state.check(&channel);
        let rests = state.observer.at_safe_point();
        let why = state.obstacle().map(Why::Session).or_else(|| {
            let why = self.login()?;
            Some(match why.may_pass() {
                true => Why::TicketPending,
                false => Why::NoTicket,
            })
        });
        Some((why, rests))
    }

    fn bytes_stand(&self) -> (Option<Why>, bool) {
        let why = match (self.raw_failover(), self.movable()) {
            (RawFailover::Reset, _) => Some(Why::RawReset),
            (_, Movable::Yes) => None,
            (_, why) => Some(Why::Bytes(why)),
        };
        (why, why.is_none())
    }

    /// Whether the node has given another order than the gate stands by: the I/O thread is to be told.
    pub(super) fn has_order(&self, channel: &Channel) -> bool {
        self.gate().order() != Order::from_wire(channel.wire.told())
    }

    /// What the node is told.
    pub fn standing(&self) -> Option<Standing> {
        let (why, rests) = self.stands()?;
        let gate = self.gate();
        // What is not the protocol's does not come to rest in a way that could be waited for.
        let rested = rests
            || matches!(gate, Gate::Passed | Gate::Held)
            || why.is_some_and(|why| !why.passes() && why != Why::Session(Reason::Login));
        Some(Standing {
            why,
            held: gate == Gate::Held,
            rested,
        })
    }
}
