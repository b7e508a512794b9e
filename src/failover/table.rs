//! The table of transitions: what the machine does on each event in each step. Everything that is not here is illegal.
//!
//! `transitions.txt` beside this file shows the same with the actions that come out; a test compares it.

use super::{Event, Loss, NotResolved, State};
use crate::via::RejectReason;

/// A state, finer: what exactly is being waited for. First connect and failover share the steps of finding a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Nothing was asked for.
    Idle,
    /// The cache was asked.
    Reading,
    /// The cluster was asked.
    Asking,
    /// A pause before the cluster is asked, or the node tried, again.
    Waiting,
    /// A second node was found, and others move there first.
    Queued,
    /// One endpoint of the answer is being connected.
    Connecting,
    /// The accept is being compared; left within the call that entered.
    Verifying,
    /// Bytes travel.
    Established,
    /// Bytes travel, and it is being looked whether the better path that they left stands again.
    Scouting,
    /// That path stands: the channel, which works where it is, is being carried on over it.
    Returning,
    /// The node was probed.
    Suspect,
    /// The node lives and could not be reached: a pause before it is probed again.
    Pausing,
    /// One endpoint of the same node is being resumed.
    Resuming,
    /// The session is being brought back.
    Restoring,
    /// Over.
    Lost,
}

impl Step {
    /// The state that this step is part of.
    pub(super) fn state(self, failing_over: bool) -> State {
        match self {
            Self::Idle => State::Idle,
            Self::Asking | Self::Waiting | Self::Connecting | Self::Verifying if failing_over => {
                State::FailingOver
            }
            Self::Queued => State::FailingOver,
            Self::Reading | Self::Asking | Self::Waiting => State::Resolving,
            Self::Connecting => State::Connecting,
            Self::Verifying => State::Verifying,
            Self::Established | Self::Scouting => State::Established,
            Self::Suspect | Self::Pausing => State::Suspect,
            Self::Resuming | Self::Returning => State::Resuming,
            Self::Restoring => State::Restoring,
            Self::Lost => State::Lost,
        }
    }
}

/// What the machine does; each is one method of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Read the cache.
    Begin,
    /// The cache has nothing: ask the cluster at once.
    Ask,
    /// Check the answer and connect its first endpoint.
    TakeAnswer,
    /// Wait, then ask again; or give the name up as unknown.
    NoAnswer(NotResolved),
    /// Compare the accept with the answer.
    Verify,
    /// Try the next endpoint of the answer.
    NextEndpoint,
    /// The answer was wrong: purge it, ask again. The loss is what the deadline will say if nothing better comes.
    PurgeAndAsk(Loss),
    /// Wait, then try the same node again.
    RetryNode,
    /// Hold the application's calls and find out whether the node lives.
    Suspect,
    /// Carry the channel on over the better path, which stands again.
    Return,
    /// The better path cannot be had after all: use the channel as it was.
    GoBack,
    /// Stay on the path in use for longer than the last time.
    Stay,
    /// Look for a quiet moment again soon.
    LookAgain,
    /// Carry the channel on to the living node.
    Resume,
    /// The channel was carried on.
    CarryOn,
    /// The node is lost: find the second one.
    FailOver,
    /// Connect the node that was found.
    TakeTurn,
    /// Somebody waits: the deadline counts.
    Want,
    /// The session was brought back.
    Restored,
    /// The application is gone: only what it sent matters from now on.
    Leave,
    /// Over.
    Lose(Loss),
    /// Late or harmless news.
    Ignore,
}

/// The table. `None`: the event means nothing in this step.
#[rustfmt::skip] // one line per rule
pub(super) fn reaction(step: Step, failing_over: bool, event: &Event) -> Option<Reaction> {
    use Event as E;
    use Reaction as R;
    use RejectReason as Why;
    use Step as S;
    Some(match (step, event) {
        (S::Lost | S::Verifying, _) => return None,
        (_, E::Closed) => R::Lose(Loss::Closed),
        // Without a stream, or with one that would have to move to another server, there is nothing to be delivered.
        (S::Established | S::Scouting | S::Returning | S::Suspect | S::Pausing | S::Resuming, E::Leaving) => R::Leave,
        (_, E::Leaving) => R::Lose(Loss::Closed),
        (S::Idle, E::Start) => R::Begin,
        (S::Idle, _) | (_, E::Start) => return None,

        // Finding a node.
        (S::Reading | S::Asking | S::Waiting, E::Resolved { .. }) => R::TakeAnswer,
        (S::Reading, E::NotResolved(_)) => R::Ask,
        (S::Asking, E::NotResolved(why)) => R::NoAnswer(*why),
        (S::Connecting, E::ChannelUp { .. }) => R::Verify,
        (S::Connecting, E::ConnectFailed { .. }) => R::NextEndpoint,
        (S::Connecting, E::Rejected(Why::NotSameHost | Why::BadRequest | Why::UnknownChannel | Why::NotEncrypted)) => R::NextEndpoint,
        (S::Connecting, E::Rejected(Why::NotActive | Why::GenerationTooOld)) => R::PurgeAndAsk(Loss::NobodyActive),
        (S::Connecting, E::Rejected(Why::UnknownName)) => R::PurgeAndAsk(Loss::UnknownName),
        (S::Connecting, E::Rejected(Why::UpstreamRefused)) => R::PurgeAndAsk(Loss::Unreachable),
        (S::Connecting, E::NodeResigned) => R::PurgeAndAsk(Loss::NobodyActive),
        (S::Connecting, E::NodeLost) => R::PurgeAndAsk(Loss::Unreachable),
        (S::Connecting, E::VerifyFailed) => R::PurgeAndAsk(Loss::NotAuthentic),

        // A channel stands, or stood.
        (S::Established | S::Scouting, E::ChannelBroken) => R::Suspect,
        (S::Scouting, E::PathStands { quiet: true }) => R::Return,
        (S::Scouting, E::NotQuiet) => R::LookAgain,
        (S::Scouting, E::PathStands { .. } | E::ConnectFailed { .. } | E::Rejected(_) | E::VerifyFailed) => R::Stay,
        (S::Returning, E::Resumed) => R::CarryOn,
        // Whatever is said there, the channel in use works; if it has ended too, that is found on it.
        (S::Returning, E::ConnectFailed { .. } | E::Rejected(_) | E::ResumeRefused | E::VerifyFailed) => R::GoBack,
        (S::Suspect, E::NodeAlive) => R::Resume,
        (S::Resuming, E::Resumed) => R::CarryOn,
        (S::Resuming, E::ConnectFailed { .. }) => R::NextEndpoint,
        (S::Resuming, E::Rejected(Why::NotSameHost | Why::BadRequest | Why::NotEncrypted)) => R::NextEndpoint,
        (S::Resuming, E::ResumeRefused | E::VerifyFailed) => R::FailOver,
        (S::Resuming, E::Rejected(Why::NotActive | Why::UnknownName | Why::GenerationTooOld | Why::UnknownChannel | Why::UpstreamRefused)) => R::FailOver,
        (S::Established | S::Scouting | S::Returning | S::Suspect | S::Pausing | S::Resuming, E::NodeLost | E::NodeResigned) => R::FailOver,

        // Both.
        (S::Connecting | S::Resuming, E::Rejected(Why::Busy)) => R::RetryNode,
        (S::Connecting | S::Resuming, E::Rejected(Why::NotAuthorised)) => R::Lose(Loss::NotAuthorised),

        // The second node's channel stands.
        (S::Restoring, E::Restored) => R::Restored,
        (S::Restoring, E::ChannelBroken | E::NodeLost) => R::PurgeAndAsk(Loss::Unreachable),
        (S::Restoring, E::NodeResigned) => R::PurgeAndAsk(Loss::NobodyActive),
        (S::Restoring, E::NotMovable) => R::Lose(Loss::NotMovable),
        (S::Asking | S::Waiting | S::Queued | S::Connecting, E::NotMovable) if failing_over => R::Lose(Loss::NotMovable),

        // A second node was found.
        (S::Queued, E::Turn) => R::TakeTurn,
        (S::Asking | S::Waiting | S::Queued | S::Connecting | S::Restoring, E::Wanted) if failing_over => R::Want,
        (_, E::Wanted) => R::Ignore,
        (S::Queued, E::ChannelBroken | E::NodeLost | E::NodeResigned) => R::Ignore,

        // News that comes late, or again, and changes nothing.
        (_, E::NodeAlive) => R::Ignore,
        (S::Returning | S::Suspect | S::Pausing | S::Resuming, E::ChannelBroken) => R::Ignore,
        (S::Reading | S::Asking | S::Waiting | S::Connecting, E::ChannelBroken) => R::Ignore,
        (S::Reading | S::Asking | S::Waiting, E::NodeLost | E::NodeResigned) => R::Ignore,
        _ => return None,
    })
}

impl Event {
    /// The event's name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Resolved { .. } => "Resolved",
            Self::NotResolved(_) => "NotResolved",
            Self::ChannelUp { .. } => "ChannelUp",
            Self::Rejected(_) => "Rejected",
            Self::ConnectFailed { .. } => "ConnectFailed",
            Self::VerifyFailed => "VerifyFailed",
            Self::ChannelBroken => "ChannelBroken",
            Self::NodeResigned => "NodeResigned",
            Self::NodeLost => "NodeLost",
            Self::NodeAlive => "NodeAlive",
            Self::Resumed => "Resumed",
            Self::PathStands { .. } => "PathStands",
            Self::NotQuiet => "NotQuiet",
            Self::ResumeRefused => "ResumeRefused",
            Self::Restored => "Restored",
            Self::NotMovable => "NotMovable",
            Self::Turn => "Turn",
            Self::Wanted => "Wanted",
            Self::Leaving => "Leaving",
            Self::Closed => "Closed",
        }
    }
}
