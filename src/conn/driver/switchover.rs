//! A planned switchover that the node has announced over the channel ([`crate::via::switchover`]): the session is brought to
//! rest, what it has become is asked for, and the node hears how it stands. The move itself is a failover as any other: it
//! begins when the node says that it is not active any more.

use super::*;
use crate::conn::connection::{Gate, Rest};
use crate::session::postgres::Reason;
use crate::via::switchover::{Order, Standing, Why};

/// How often a session is looked at that does not rest yet, once its next request is to wait, and before that.
const CLOSED_LOOK: Duration = Duration::from_millis(5);
const WATCHED_LOOK: Duration = Duration::from_millis(50);
/// The same while the calls are suspended and the state is being asked for; and where nothing is waited for but the node.
const ASKING_LOOK: Duration = Duration::from_millis(1);
const HELD_LOOK: Duration = Duration::from_millis(250);

/// What the driver does for a switchover.
#[derive(Default)]
pub(super) struct Heeded {
    /// What the node was told last on this channel.
    said: u8,
    /// Since when the calls are suspended for it.
    held: Option<Duration>,
    due: Option<Duration>,
}

impl Driver {
    /// When [`Driver::heed`] wants to be called.
    pub(super) fn switchover_due(&self) -> Option<Duration> {
        self.switchover.due.filter(|_| !self.ended)
    }

    /// The channel is another one, or none: its node's orders are void.
    pub(super) fn forget_switchover(&mut self) {
        self.switchover = Heeded::default();
        self.conn.set_gate(Gate::Open);
    }

    /// Does what the node wants.
    pub(super) fn heed(&mut self, todo: &mut Todo<'_>) {
        let gate = self.conn.gate();
        if self.ended || self.unused.is_some() || self.machine.state() != State::Established {
            if gate != Gate::Open && self.unused.is_none() {
                self.forget_switchover();
            }
            return;
        }
        let Some(channel) = self.current.clone() else {
            return;
        };
        let order = Order::from_wire(channel.wire.told());
        self.switchover.due = None;
        if self.back_owed {
            return;
        }
        let closed = matches!(gate, Gate::Closed | Gate::Held);
        if !closed && self.conn.control.phase() == Phase::Suspended {
            // By a sender that found the gate closed, and was slower than who opened it.
            return self.let_go(todo, gate);
        }
        if order == Order::None && gate == Gate::Open {
            return;
        }
        match order {
            Order::None => {
                self.let_go(todo, Gate::Open);
                if std::mem::take(&mut self.switchover.said) != 0 {
                    channel.wire.say(&channel, 0);
                }
                return;
            }
            Order::Tell => {
                if gate.order() != Order::Tell {
                    self.let_go(todo, Gate::Watched);
                }
                self.look_again(todo, WATCHED_LOOK);
            }
            Order::Hold => {
                if gate.order() != Order::Hold {
                    self.conn.set_gate(Gate::Closed);
                }
                self.hold(todo);
            }
        }
        let Some(standing) = self.conn.standing() else {
            return self.look_again(todo, CLOSED_LOOK);
        };
        if self.switchover.due.is_none() && standing.why.is_some_and(Why::passes) {
            self.look_again(todo, WATCHED_LOOK);
        }
        self.say(&channel, standing);
    }

    fn say(&mut self, channel: &Channel, standing: Standing) {
        let word = standing.to_wire();
        if std::mem::replace(&mut self.switchover.said, word) != word {
            crate::log!(
                log::Level::Debug,
                "conn",
                "{}: switchover: {standing:?}",
                self.conn.name
            );
            channel.wire.say(channel, word);
        }
    }

    fn look_again(&mut self, todo: &Todo<'_>, pause: Duration) {
        self.switchover.due = Some(todo.now + pause);
    }

    /// The calls go on.
    fn let_go(&mut self, todo: &mut Todo<'_>, gate: Gate) {
        self.conn.set_gate(gate);
        // A sender may have suspended them although the I/O thread did not know of it yet.
        if self.switchover.held.take().is_some() || self.conn.control.phase() == Phase::Suspended {
            self.go_back(todo);
        }
    }

    /// Brings the session to rest, and finds out what it has become.
    fn hold(&mut self, todo: &mut Todo<'_>) {
        if self.conn.gate() == Gate::Given {
            return;
        }
        if self.switchover.held.is_none() {
            if !self.conn.hold_at_rest() {
                return self.look_again(todo, CLOSED_LOOK);
            }
            self.conn.set_gate(Gate::Held);
            self.switchover.held = Some(todo.now);
            self.owe_level(Level::Blocked);
        }
        let waited = (self.switchover.held).map_or(Duration::ZERO, |at| todo.now - at);
        // A node that gives an order and then says nothing for so long does not keep its part.
        let overdue = waited >= self.conn.deadline;
        match self.conn.stands() {
            None => self.look_again(todo, ASKING_LOOK),
            Some((None | Some(Why::NoTicket), _)) if !overdue => self.look_again(todo, HELD_LOOK),
            Some((Some(Why::Session(Reason::StatePending)), _)) if !overdue => {
                self.ask_at_once(todo);
                self.look_again(todo, ASKING_LOOK);
            }
            Some((Some(why), _)) if why.passes() && !overdue => self.look_again(todo, CLOSED_LOOK),
            // It goes on here as long as there is a here.
            Some(_) => self.let_go(todo, Gate::Given),
        }
    }

    /// The session rests for as long as is needed: its state can be asked for at once.
    fn ask_at_once(&mut self, todo: &mut Todo<'_>) {
        if let Rest::Later(at) = self.conn.rest(None)
            && let Rest::Ask(question) = self.conn.rest(Some(at))
        {
            self.ask_session(todo, question, todo.now + CLOSED_LOOK);
        }
    }
}
