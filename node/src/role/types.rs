//! What goes into the role machine and what comes out of it.

use std::time::Duration;
use vianet::resolve::Generation;
use vianet::via::EndReason;

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since an origin that never changes; runs on while the machine is suspended.
    pub at: Duration,
    /// Milliseconds since 1970, for generations only.
    pub wall_ms: u64,
}

/// Durations and facts that never change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Rules {
    /// This node starts as active when nobody else is.
    pub initial_active: bool,
    /// There is another node.
    pub has_peer: bool,
    /// Of two that do the same at once, this one gives way (its name is the larger).
    pub yields: bool,
    /// Keep-alive interval times the number of unanswered ones that mean "lost".
    pub lost: Duration,
    /// How long an exchange allows us to serve: shorter than `lost`.
    pub lease: Duration,
    /// How long a starting node asks before it decides alone.
    pub start_wait: Duration,
    /// How long a node stays passive after it failed or resigned.
    pub retry: Duration,
    /// How long a takeover waits for a writable SQL server.
    pub promote_wait: Duration,
    /// So many failed health checks in a row and the active resigns.
    pub health_failures: u32,
}

/// What a node is, as told to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// It has not decided yet; its generation is the last at which it was active itself.
    Starting,
    /// It watches; its generation is the largest it knows.
    Passive,
    /// It is becoming active.
    TakingOver,
    /// It serves.
    Active,
}

/// A program of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Stops the other node's SQL server.
    Fence,
    /// Makes ours writable.
    Promote,
    /// Told that we are active no more.
    Demote,
}

/// Why a takeover began; `VIANET_REASON` of its hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// At start, and nobody else is active.
    Start,
    /// The active node does not answer.
    PeerLost,
    /// The active node said that it is active no more.
    PeerResigned,
    /// All nodes answer and none is active.
    NobodyActive,
    /// The operator's word.
    Forced,
    /// This node was to hand the role over, and could not.
    HandoverFailed,
}

impl Cause {
    /// As the hooks, the log and the status show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::PeerLost => "peer-lost",
            Self::PeerResigned => "peer-resigned",
            Self::NobodyActive => "nobody-active",
            Self::Forced => "forced",
            Self::HandoverFailed => "handover-failed",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed and the loop ran without gap.
    Tick,
    /// The loop stood still for longer than it may: what was known of the peer is worth nothing.
    Gap,
    /// A fresh (nonce checked) and authentic word of the peer.
    Peer {
        /// What it is.
        role: PeerRole,
        /// See [`PeerRole`].
        generation: Generation,
        /// When our question left.
        asked_at: Duration,
    },
    /// So many keep-alives in a row are unanswered.
    PeerLost,
    /// A health check ended.
    Health(bool),
    /// A hook ended.
    HookDone {
        /// Which.
        hook: Hook,
        /// Exit status 0 within its time limit.
        ok: bool,
    },
    /// The generation is on disk, or could not be written.
    Persisted {
        /// On disk.
        ok: bool,
    },
    /// The operator wants us active.
    Force,
    /// The operator wants us passive.
    Resign,
    /// The operator wants the peer active: our SQL server is demoted first, and only then the peer begins.
    HandOver,
    /// The daemon is being stopped.
    Stop,
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a hook, then report [`Event::HookDone`]. A hook that is not configured is a success.
    Run {
        /// Which.
        hook: Hook,
        /// For its environment.
        cause: &'static str,
    },
    /// Write generation and "this node is active at it" to disk, then report [`Event::Persisted`].
    Persist(Generation),
    /// Check the SQL server's health now.
    CheckHealth,
    /// End every channel of the name.
    EndChannels(EndReason),
    /// The role changed: log it, and ask the peer at once so that it learns.
    Changed {
        /// From.
        from: &'static str,
        /// To.
        to: &'static str,
        /// The generation of the new role.
        generation: Generation,
        /// Why.
        why: &'static str,
    },
}
