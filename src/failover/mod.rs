//! The failover machine (DESIGN section 7): what one connection does next, as a pure function of events.
//!
//! Contract, in one sentence: call [`Machine::handle`] or [`Machine::handle_timeout`], then drain
//! [`Machine::poll_action`] until `None` and carry the actions out in order, then wait for an event or for
//! [`Machine::poll_timeout`], whichever comes first. Time is an argument: a [`Duration`] since an origin of the
//! caller's choice that never changes.

#![forbid(unsafe_code)]

mod jitter;
pub mod liveness;
mod machine;
mod paths;
mod table;

pub use machine::Machine;

use crate::resolve::{Answer, Endpoint, Generation};
use crate::via::{RejectReason, Transport};
use std::time::Duration;

/// What is true of the connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Nothing was asked for yet.
    Idle,
    /// A query for the name is on its way, or the wait before the next one runs; no node is chosen.
    Resolving,
    /// A node was chosen and a channel to it is being connected.
    Connecting,
    /// The channel stands and its accept is being compared with the answer (name, node, generation; claims 22 and 23).
    /// The comparison needs no waiting: the machine passes through this state within one call.
    Verifying,
    /// The application's bytes travel.
    Established,
    /// The channel broke or the node is silent, and it is not known yet whether the node lives.
    Suspect,
    /// The node lives and the same session is being carried on over a new channel: another path if there is one.
    Resuming,
    /// The node is lost: the cluster is asked for the second one, which is then connected.
    FailingOver,
    /// The second node's channel stands and the session is being brought back (raw: the quiet check).
    Restoring,
    /// The connection is over; the application was told.
    Lost,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The application asks for a connection.
    Start,
    /// The cache or the wire has an answer; `cached` says which.
    Resolved {
        /// The best answer.
        answer: Answer,
        /// It was in the cache before this connection asked.
        cached: bool,
    },
    /// No answer names an active node of a sufficient generation (yet).
    NotResolved(NotResolved),
    /// The channel stands; what the accept said.
    ChannelUp {
        /// The node's name in the accept.
        node: String,
        /// The generation in the accept.
        generation: Generation,
    },
    /// The node rejects.
    Rejected(RejectReason),
    /// The endpoint of the last [`Action::Connect`] or [`Action::Resume`] could not be connected, or cannot be used here.
    ConnectFailed {
        /// The node refused at once (nobody listens): the daemon is dead, ask again at once.
        refused: bool,
    },
    /// The accept is not authentic or does not fit the answer.
    VerifyFailed,
    /// The established channel broke without a word.
    ChannelBroken,
    /// The node itself said that it does not serve the name any more (not active, upstream lost, stopping).
    NodeResigned,
    /// Liveness: the node is lost (probes unanswered, port unreachable, death notice).
    NodeLost,
    /// Liveness: the node answers, and is active for the name.
    NodeAlive,
    /// The resumed channel stands, all missing bytes were sent again.
    Resumed,
    /// The endpoint of the last [`Action::Scout`] can be reached again.
    PathStands {
        /// This is a moment to make use of it.
        quiet: bool,
    },
    /// Bytes are on their way, or an answer is: no moment for an [`Action::Scout`].
    NotQuiet,
    /// The node does not know the channel any more.
    ResumeRefused,
    /// The session was brought back on the second node.
    Restored,
    /// The session cannot be moved: the open connection ends. May be said as soon as a failover has begun.
    NotMovable,
    /// The connection may move now: see [`Action::Queue`].
    Turn,
    /// The application waits for the connection, in a call or for its descriptor. May be said at any time of a failover.
    Wanted,
    /// The application closed its descriptor. Bytes that it sent may still have to reach the node: a channel that breaks is
    /// carried on for them, but no second server is looked for, and nobody is told anything any more.
    Leaving,
    /// Both sides ended the stream in good order, or there is nothing left to do for an application that closed.
    Closed,
}

/// Why there is no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotResolved {
    /// The cache has nothing that may be used: the answer to [`Action::ReadCache`].
    NotCached,
    /// Silence from every node.
    Nobody,
    /// Nodes answer, none is active (a takeover may be under way).
    NobodyActive,
    /// Every node that answered says it does not know the name.
    UnknownName,
    /// Nothing that came can be believed, and something of it was not signed by the pinned key.
    NotAuthentic,
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the cache for the name and report [`Event::Resolved`] with `cached`, or [`NotResolved::NotCached`] (connects
    /// only; a failover never reads what it has not stored itself).
    ReadCache,
    /// Remove the name's answer from the cache (claim 24), unless it is newer than `generation`. Always comes before the
    /// `Query` whose answer will be stored.
    PurgeCache {
        /// What was tried and failed.
        generation: Generation,
    },
    /// Ask all nodes in parallel for the name, or join the query that other connections of the process wait for. The
    /// answer is stored in the cache, read back from it, and reported as [`Event::Resolved`] with `cached: false`
    /// (claims 20 and 21); or [`Event::NotResolved`] when the query has ended without one. A new `Query` replaces the old.
    Query {
        /// Answers below this generation are refused.
        min_generation: Generation,
    },
    /// Connect a new channel to the node of the answer last reported. Events of attempts that were abandoned, or that
    /// another `Connect` or `Resume` replaced, must not be reported any more.
    Connect {
        /// Which endpoint of the answer.
        endpoint: Endpoint,
        /// The smallest generation that the node may have.
        min_generation: Generation,
    },
    /// A second node was found: wait until it can be borne that this connection moves there, then report [`Event::Turn`].
    /// Those go first for whom [`Event::Wanted`] was said; for the others there is no deadline until their turn comes.
    Queue,
    /// Carry the channel on to the same node: one that broke, or one that works and is left only when the node accepts.
    Resume {
        /// Which endpoint of the answer.
        endpoint: Endpoint,
    },
    /// Find out whether the path that the channel left can be used again, without a word to the node behind it and without
    /// touching the channel in use; or report [`Event::NotQuiet`].
    Scout {
        /// Which endpoint of the answer.
        endpoint: Endpoint,
    },
    /// Drop what is being asked, connected, resumed, scouted or restored.
    Abandon,
    /// Ask the node of the broken channel whether it lives (one probe now, then at the interval).
    Probe,
    /// The application's calls may go on: activate the channel.
    Establish,
    /// The application's calls wait (EAGAIN for non-blocking ones) until `Establish`, `GoBack` or `Lose`.
    Suspend,
    /// The application's calls go on with the channel that they had when they were suspended; it works, or did.
    GoBack,
    /// Bring the session back on the new channel, then report [`Event::Restored`] or [`Event::NotMovable`].
    Restore,
    /// The connection is over: every call gets the error.
    Lose(Loss),
    /// Tell the event callback and the log.
    Tell(Notice),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Nobody answered the name within the deadline.
    NobodyAnswered,
    /// Nobody was active within the deadline.
    NobodyActive,
    /// The cluster does not know the name.
    UnknownName,
    /// The active node could not be connected within the deadline.
    Unreachable,
    /// The node refuses us for good.
    NotAuthorised,
    /// What the node sent is not authentic.
    NotAuthentic,
    /// The stream could not be moved to the second server.
    NotMovable,
    /// Strict: the answer offers no VIA transport.
    StrictRefused,
    /// In good order.
    Closed,
}

/// What a query without a usable answer comes to, if it was the last one.
impl From<NotResolved> for Loss {
    fn from(why: NotResolved) -> Self {
        match why {
            NotResolved::NotCached | NotResolved::Nobody => Self::NobodyAnswered,
            NotResolved::NobodyActive => Self::NobodyActive,
            NotResolved::UnknownName => Self::UnknownName,
            NotResolved::NotAuthentic => Self::NotAuthentic,
        }
    }
}

/// What the event callback hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// A failover began.
    FailoverBegun,
    /// A failover ended on the second server.
    FailoverEnded,
    /// The connection was lost.
    Lost,
    /// The channel to the same node was carried on.
    Resumed,
}

/// How a connection behaves; from the configuration and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// One deadline per connect, and per failover.
    pub deadline: Duration,
    /// Transports that may be used, best first.
    pub transports: Vec<Transport>,
    /// Refuse [`Transport::Plain`] whatever `transports` says.
    pub strict: bool,
    /// Longest wait for one endpoint before the next one is tried.
    pub attempt: Duration,
    /// So long "unknown name" of all nodes is not final: a node may be starting.
    pub unknown_grace: Duration,
    /// First wait before a repeated query; doubles up to `retry_max`, each with jitter.
    pub retry_first: Duration,
    /// Largest wait before a repeated query.
    pub retry_max: Duration,
    /// How long a suspect node may stay silent before it counts as lost, if liveness says nothing.
    pub suspect: Duration,
    /// How long a channel that left a better path stays where it is before a return is tried; doubles with each try up to
    /// `return_max`, each with jitter.
    pub return_first: Duration,
    /// Largest such time. A path that carried the channel for so long is as good as new.
    pub return_max: Duration,
    /// After so long a moment that was not quiet is followed by another look.
    pub return_again: Duration,
}

impl Policy {
    /// The policy of a cluster; what the configuration does not name has its default here.
    pub fn new(client: &crate::config::Client, cluster: &crate::config::Cluster) -> Self {
        let window = client
            .probe_interval_ms
            .saturating_mul(u64::from(client.probes_lost) + 1);
        Self {
            deadline: client.deadline(),
            transports: cluster.transports(),
            strict: cluster.strict,
            attempt: Duration::from_secs(3),
            unknown_grace: Duration::from_millis(500),
            retry_first: Duration::from_millis(20),
            retry_max: Duration::from_millis(500),
            suspect: Duration::from_millis(window),
            return_first: Duration::from_secs(4),
            return_max: Duration::from_secs(120),
            return_again: Duration::from_secs(1),
        }
    }
}

/// An event that means nothing in the state the machine is in. Nothing was changed; the caller logs it and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalEvent {
    /// The state.
    pub state: State,
    /// The event's name.
    pub event: &'static str,
}

impl std::fmt::Display for IllegalEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "event {} is not expected in state {:?}",
            self.event, self.state
        )
    }
}

impl std::error::Error for IllegalEvent {}
