//! Names, requests and the cache (DESIGN section 6). Codecs and rules only: sockets and clocks belong to the callers.

#![forbid(unsafe_code)]

pub mod cache;
pub mod identity;
pub mod keepalive;
pub mod name;
pub mod query;
pub mod ssrp;
pub mod ticket;
pub mod wire;

use crate::via::Transport;
use std::net::SocketAddr;
use std::time::Duration;

/// Grows at every takeover of a name; milliseconds since 1970 or the previous one plus 1, whichever is larger.
pub type Generation = u64;

/// Random identity of a cluster; generations are compared only within one.
pub type ClusterId = [u8; 16];

/// One place where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// What is spoken there.
    pub transport: Transport,
    /// Where; for [`Transport::Shm`] the address is unspecified: the socket is found by node name in the client's own
    /// configured directory, never by what came over the wire.
    pub addr: SocketAddr,
}

/// What a node is for a server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Serves the name now.
    Active = 1,
    /// Watches the node that does.
    Passive = 2,
    /// Is taking over: ask again soon.
    TakingOver = 3,
    /// Does not know the name at all.
    Unknown = 4,
}

/// A node's answer to a query, as the cache keeps it. `docs/protocol.md` has the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which cluster; `None` from a foreign SQL Browser.
    pub cluster_id: Option<ClusterId>,
    /// Name of the node that answered.
    pub node: String,
    /// What that node is for the name.
    pub role: Role,
    /// Generation of its role; 0 from a foreign SQL Browser.
    pub generation: Generation,
    /// How long the cache may hand the answer out without asking again.
    pub ttl: Duration,
    /// Where the node can be reached, one entry per transport at least (claim 30).
    pub endpoints: Vec<Endpoint>,
    /// The signature was checked against the pinned key.
    pub authentic: bool,
    /// Where the node answered from: liveness probes go there. Not on the wire; `None` until the asker fills it in.
    pub from: Option<SocketAddr>,
}
