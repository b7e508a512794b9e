//! The control socket: one JSON request a line, one JSON answer a line.
//!
//! A Unix socket with mode 0600: whoever can open it may command the daemon. `vianet status` and
//! `vianet node ...` speak it.

use serde::{Deserialize, Serialize};

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything that the daemon knows.
    Status,
    /// Become active for `server` now, whatever the peers say: fence, promote, a generation above every one seen. The
    /// operator's way out when a partition or a generation from the far future blocks the cluster.
    ForceActive {
        /// Which name.
        server: String,
    },
    /// Stop being active for `server`; the peer takes over at once, whatever the sessions do.
    Resign {
        /// Which name.
        server: String,
    },
    /// Give the role of the active node to the peer `to`, once the sessions rest or the drain time is over. Answered at
    /// once; [`Request::Switchovers`] tells how it goes.
    Switchover {
        /// Which name.
        server: String,
        /// The node that is to be active.
        to: String,
        /// Longest wait for sessions that do not rest.
        drain_ms: u64,
        /// Only say what would become of each session.
        #[serde(default)]
        dry_run: bool,
    },
    /// How the last switchover of `server` goes, or went.
    Switchovers {
        /// Which name.
        server: String,
    },
    /// Ask the sessions of `server` whether they could move now. Answered at once; [`ServerStatus::looking`] tells when all have said
    /// so, and [`SessionStatus::movable`] what.
    Look {
        /// Which name.
        server: String,
    },
    /// Stop the daemon in good order.
    Stop,
}

/// What comes back.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Switchover`] and [`Request::Switchovers`].
    Switchover(SwitchoverStatus),
    /// The command was taken; its effect is seen in the status.
    Done,
    /// It was not; the text says why.
    Error {
        /// Why.
        text: String,
    },
}

/// The daemon's state.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Status {
    /// This node.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Version of the daemon.
    pub version: String,
    /// Milliseconds since 1970 when it started.
    pub started_ms: u64,
    /// Every server name.
    pub servers: Vec<ServerStatus>,
    /// Every peer.
    pub peers: Vec<PeerStatus>,
}

/// One server name on this node.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ServerStatus {
    /// The name.
    pub name: String,
    /// `active`, `passive`, `taking-over`, `starting`.
    pub role: String,
    /// What the other node says of itself: `active`, `passive`, `taking-over`, `starting`; `down` or `unknown`. `None`:
    /// there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_role: Option<String>,
    /// Generation of the role that this node knows to be the newest.
    pub generation: u64,
    /// Milliseconds since 1970 when the role began.
    pub since_ms: u64,
    /// The last health check of the SQL server: `healthy`, `failing`, `unknown`.
    pub health: String,
    /// The SQL server's address.
    pub upstream: String,
    /// The sessions are being asked whether they can move ([`Request::Look`]).
    #[serde(default)]
    pub looking: bool,
    /// Channels that are open now.
    pub sessions: Vec<SessionStatus>,
    /// Channels accepted since the start.
    pub accepted: u64,
    /// Bytes from clients to the SQL server since the start.
    pub bytes_in: u64,
    /// Bytes from the SQL server to clients since the start.
    pub bytes_out: u64,
    /// How often this node became active since the start.
    #[serde(default)]
    pub takeovers: u64,
    /// The last changes of role, newest first, at most 16.
    pub changes: Vec<RoleChange>,
}

impl ServerStatus {
    /// When this node became active last, if that is among the last changes.
    pub fn last_takeover(&self) -> Option<&RoleChange> {
        self.changes.iter().find(|change| change.to == "active")
    }
}

/// One open channel.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct SessionStatus {
    /// Its id.
    pub channel: u64,
    /// `shm` or `tcp`.
    pub transport: String,
    /// Who: `uid 1000 pid 4711` or an address.
    pub peer: String,
    /// Milliseconds since 1970 when it was accepted.
    pub since_ms: u64,
    /// The name of the client's program, where that runs on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The PostgreSQL role that it logs in as; `None`: the login was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The database that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// `yes`, or why it cannot move, in one word, when it was asked last; `unknown`: it has not said. Empty: it was not asked.
    #[serde(default)]
    pub movable: String,
    /// The same in a sentence.
    #[serde(default)]
    pub reason: String,
    /// How often the session has moved, as its client says.
    #[serde(default)]
    pub moves: u32,
    /// How long the last move took, which was to this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<FailoverTimes>,
    /// It waits until this node is active.
    #[serde(default)]
    pub warm: bool,
    /// What it said last of itself ([`vianet::via::switchover::Standing`]); 0: nothing.
    #[serde(skip)]
    pub standing: u8,
}

/// The parts of a session's move, in milliseconds, one after the other. All up to the connect are what its client says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct FailoverTimes {
    /// From the lost node's last sign of life to the decision that it is lost.
    pub detection_ms: f64,
    /// Until a node said that it serves the name.
    pub takeover_ms: f64,
    /// Until that answer was settled.
    pub resolution_ms: f64,
    /// Until it was its turn.
    pub turn_ms: f64,
    /// Until a channel to this node stood.
    pub connect_ms: f64,
    /// Until the SQL server had let the session in.
    pub login_ms: f64,
    /// Until it was the same session, and its application went on.
    pub restore_ms: f64,
}

/// A switchover.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct SwitchoverStatus {
    /// Which name.
    pub server: String,
    /// The node that was active.
    pub from: String,
    /// The node that is to be.
    pub to: String,
    /// Nothing is changed.
    pub dry_run: bool,
    /// `checking`, `draining`, `holding`, `handing-over`, `waiting`, `over`.
    pub phase: String,
    /// It has ended.
    pub over: bool,
    /// It came to nothing, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Milliseconds for which busy sessions were waited for while all went on.
    pub drain_ms: u64,
    /// Milliseconds from when requests began to wait, for the last time, to the end of this node's role.
    pub hold_ms: u64,
    /// Milliseconds until this node's SQL server was demoted.
    pub demote_ms: u64,
    /// Milliseconds from then until the other node said that it is active.
    pub takeover_ms: u64,
    /// The sum of the last three: what an application sees, before what its own session needs to move.
    pub stall_ms: u64,
    /// The sessions as they stood when the role was left, or as they stand (dry run).
    pub sessions: Vec<SwitchoverSession>,
}

/// A session in a switchover.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct SwitchoverSession {
    /// Its channel.
    pub channel: u64,
    /// Who.
    pub peer: String,
    /// Over what.
    pub transport: String,
    /// `yes`, `unknown`, or why not, in one word.
    pub movable: String,
    /// The same in a sentence.
    pub reason: String,
    /// What becomes of it.
    pub outcome: String,
}

/// One change of role.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct RoleChange {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The role before.
    pub from: String,
    /// The role after.
    pub to: String,
    /// The generation after.
    pub generation: u64,
    /// Why.
    pub reason: String,
    /// For a takeover: milliseconds from its decision to the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// One peer as seen from here.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PeerStatus {
    /// Its name.
    pub node: String,
    /// Its address.
    pub addr: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
    /// Milliseconds since its last authentic message; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms_ago: Option<u64>,
}
