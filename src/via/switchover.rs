//! The words of a planned switchover, one byte each, that a node and its clients tell each other over their channels
//! (`docs/protocol.md`, packet type 11). Pure.
//!
//! The node gives an [`Order`]; a client answers with its [`Standing`], again whenever that changes. Only the last word of
//! each counts, and a fresh channel begins with none.

#![forbid(unsafe_code)]

use crate::session::postgres::Reason;
use crate::session::raw::Movable;

/// What a node wants of its clients. The numbers go over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Nothing (any more).
    #[default]
    None = 0,
    /// Say how the session stands; go on as ever.
    Tell = 1,
    /// As [`Order::Tell`]; and once the session is between two requests, the next one waits.
    Hold = 2,
}

/// What a node that was passive says on a channel that waited for it: it is active now. No [`Order`].
pub const ACTIVE: u8 = 3;

impl Order {
    /// The order with this number; one that is not known is none.
    pub fn from_wire(n: u8) -> Self {
        match n {
            1 => Self::Tell,
            2 => Self::Hold,
            _ => Self::None,
        }
    }
}

/// Why a session could not move to the other server now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its protocol is followed, and says so.
    Session(Reason),
    /// Its bytes are not followed, and not at rest.
    Bytes(Movable),
    /// Its bytes are not followed, and `raw_failover` is "reset".
    RawReset,
    /// Its login ticket is still being asked for.
    TicketPending,
    /// It has no login ticket: it moves if the other server asks for no password.
    NoTicket,
}

impl Why {
    /// Those that are no [`Reason`], with their numbers.
    const OTHERS: [(u8, Self); 5] = [
        (48, Self::Bytes(Movable::NotAcknowledged)),
        (49, Self::Bytes(Movable::AnswerOutstanding)),
        (50, Self::RawReset),
        (51, Self::TicketPending),
        (52, Self::NoTicket),
    ];

    fn number(self) -> u8 {
        if let Self::Session(reason) = self {
            let at = Reason::ALL.iter().position(|r| *r == reason);
            return at.map_or(0, |at| at as u8 + 1);
        }
        let own = Self::OTHERS.iter().find(|(_, why)| *why == self);
        own.map_or(0, |(n, _)| *n)
    }

    fn from_number(n: u8) -> Option<Self> {
        let reason = usize::from(n)
            .checked_sub(1)
            .and_then(|at| Reason::ALL.get(at));
        let other = || Self::OTHERS.iter().find(|(own, _)| *own == n);
        (reason.map(|reason| Self::Session(*reason))).or_else(|| other().map(|(_, why)| *why))
    }

    /// The word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session(reason) => reason.name(),
            Self::Bytes(movable) => movable.reason(),
            Self::RawReset => "raw_failover_reset",
            Self::TicketPending => "ticket_pending",
            Self::NoTicket => "no_ticket",
        }
    }

    /// What it means, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Session(reason) => reason.text(),
            Self::Bytes(Movable::NotAcknowledged) => {
                "bytes are on their way, and not known to be written to the server"
            }
            Self::Bytes(_) => "the last bytes sent have had no answer yet",
            Self::RawReset => "its protocol is not followed, and raw_failover is \"reset\"",
            Self::TicketPending => "its login ticket has not come yet",
            Self::NoTicket => "it has no login ticket",
        }
    }

    /// Whether it passes by itself when the session comes to rest.
    pub fn passes(self) -> bool {
        use Reason as R;
        match self {
            Self::Session(reason) => matches!(
                reason,
                R::Login
                    | R::InFlight
                    | R::Transaction
                    | R::Copy
                    | R::Unanswered
                    | R::Incomplete
                    | R::StatePending
            ),
            Self::Bytes(_) | Self::TicketPending => true,
            Self::RawReset | Self::NoTicket => false,
        }
    }

    /// What becomes of the session if its server goes now (DESIGN section 9), for people.
    pub fn outcome(self) -> &'static str {
        use Reason as R;
        match self {
            Self::NoTicket => "moves if the other server asks it for no password",
            Self::TicketPending | Self::Session(R::StatePending | R::Incomplete) => {
                "ends with FATAL 57P01"
            }
            Self::Session(R::Login) => "ends with FATAL 57P01 during its login",
            Self::Session(R::Transaction) => "ends: its transaction is lost (08006)",
            Self::Session(R::InFlight | R::Copy) => {
                "ends: whether its last request ran is not known"
            }
            Self::Session(R::Ended | R::Cancel) => "is over anyway",
            Self::Bytes(_) | Self::RawReset => "is reset",
            Self::Session(
                R::Tls
                | R::Gss
                | R::Replication
                | R::Pipeline
                | R::Shared
                | R::NotUnderstood
                | R::NotPostgres,
            ) => "is reset",
            Self::Session(_) => {
                "ends with FATAL 57P01 while idle; with 08006 in a transaction, and a reset in a request"
            }
        }
    }
}

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `None`: it can move.
    pub why: Option<Why>,
    /// Its application's next request waits.
    pub held: bool,
    /// It was between two transactions since it was told of the switchover.
    pub rested: bool,
}

// Reasons are numbered from 1, and the others are behind them.
const _: () = assert!(Reason::ALL.len() < 48);

const HELD: u8 = 1 << 6;
const RESTED: u8 = 1 << 7;

/// What a client says once, of itself: its session has moved to this node, and its application goes on. (As a [`Standing`] it
/// would contradict itself: who is held has rested.)
pub const GOES_ON: u8 = HELD;

impl Standing {
    /// On the wire; never 0.
    pub fn to_wire(self) -> u8 {
        // What can move rests.
        let rested = self.rested || self.why.is_none();
        self.why.map_or(0, Why::number)
            | if self.held { HELD } else { 0 }
            | if rested { RESTED } else { 0 }
    }

    /// `None`: nothing was said, or nothing that is known.
    pub fn from_wire(word: u8) -> Option<Self> {
        let why = match word & !(HELD | RESTED) {
            0 if word & RESTED == 0 => return None,
            0 => None,
            n => Some(Why::from_number(n)?),
        };
        Some(Self {
            why,
            held: word & HELD != 0,
            rested: word & RESTED != 0,
        })
    }

    /// Whether it can move as it is.
    pub fn moves(self) -> bool {
        self.why.is_none()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_went() {
        let sessions = Reason::ALL.map(|reason| Some(Why::Session(reason)));
        let others = Why::OTHERS.map(|(_, why)| Some(why));
        for why in sessions.into_iter().chain(others).chain([None]) {
            for (held, rested) in [(false, false), (true, false), (false, true), (true, true)] {
                let standing = Standing { why, held, rested };
                let rested = rested || why.is_none();
                let word = standing.to_wire();
                let back = Standing::from_wire(word);
                assert_eq!(back, Some(Standing { why, held, rested }), "{word}");
            }
        }
    }

    #[test]
    fn every_word_is_safe_to_read() {
        assert_eq!(Standing::from_wire(0), None);
        assert_eq!(Standing::from_wire(GOES_ON), None);
        for word in 0..=255 {
            if let Some(standing) = Standing::from_wire(word) {
                assert!(Standing::from_wire(standing.to_wire()).is_some());
                if let Some(why) = standing.why {
                    assert!(!why.name().is_empty() && !why.outcome().is_empty());
                }
            }
            let known = [Order::None, Order::Tell, Order::Hold];
            assert!(known.contains(&Order::from_wire(word)));
        }
    }
}
