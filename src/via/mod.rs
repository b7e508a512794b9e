//! The VIA layer (DESIGN section 5): providers, channels, packets, rings.
//!
//! A *provider* makes channels: [`Provider::connect`] on the client, [`Provider::listen`] on the node. A [`Channel`]
//! is one byte stream per direction between registered memory of both sides. Whatever the transport is, the same
//! pair of rings stands at both ends: what differs is the [`Wire`] that moves bytes between them (the peer itself
//! for shared memory; a framed TCP connection; an RDMA queue pair). Nothing outside a provider may know which.

pub mod bell;
pub mod channel;
pub mod handshake;
pub mod packet;
pub mod rdma;
pub mod region;
pub mod resume;
pub mod ring;
pub mod shm;
pub mod switchover;
pub mod sync;
pub mod tcp;
#[cfg(all(test, not(loom)))]
pub mod testkit;
pub mod wait;
pub mod wake;

pub use channel::{Channel, Wire};

use crate::resolve::identity::{PublicKey, SecretKey};
use crate::resolve::{ClusterId, Endpoint, Generation};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

/// The ways bytes can travel, in the order in which they are preferred. The numbers go over the wire.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Transport {
    /// Shared memory with a node daemon on this host.
    Shm = 1,
    /// RDMA.
    Rdma = 2,
    /// VIA packets framed on one TCP connection.
    Tcp = 3,
    /// No VIA at all: an ordinary TCP connection to the SQL server.
    Plain = 4,
}

impl Transport {
    /// The transport with this number on the wire.
    pub fn from_wire(n: u8) -> Option<Self> {
        [Self::Shm, Self::Rdma, Self::Tcp, Self::Plain]
            .into_iter()
            .find(|t| *t as u8 == n)
    }

    /// Its name in configuration files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
            Self::Plain => "plain",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether what leaves the host is encrypted: TLS on `tcp`, with the cluster's key.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Never.
    Off,
    /// A client: on tcp, if it pins the cluster's key. A node with the key: as the client wants.
    #[default]
    Auto,
    /// A client: nothing but shared memory, and tcp with TLS. A node: tcp only with TLS.
    Require,
}

/// Why a node rejects a channel. The numbers go over the wire; VIA: `VIP_REJECT` with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RejectReason {
    /// This node is not active for the name: ask again (claims 22 and 23).
    NotActive = 1,
    /// This node does not know the name (`VIP_NO_MATCH`).
    UnknownName = 2,
    /// The client has seen a larger generation than this node's.
    GenerationTooOld = 3,
    /// Not authorised.
    NotAuthorised = 4,
    /// Too many channels; try again later.
    Busy = 5,
    /// The two are not on the same host, so shared memory cannot be.
    NotSameHost = 6,
    /// The channel to be resumed is not known here any more.
    UnknownChannel = 7,
    /// The SQL server behind the node does not accept the connection.
    UpstreamRefused = 8,
    /// The request was not understood.
    BadRequest = 9,
    /// The node takes encrypted connections only.
    NotEncrypted = 10,
}

impl RejectReason {
    /// The reason with this number on the wire.
    pub fn from_wire(n: u8) -> Option<Self> {
        use RejectReason::*;
        [
            NotActive,
            UnknownName,
            GenerationTooOld,
            NotAuthorised,
            Busy,
            NotSameHost,
            UnknownChannel,
            UpstreamRefused,
            BadRequest,
            NotEncrypted,
        ]
        .into_iter()
        .find(|r| *r as u8 == n)
    }
}

/// Why a side ends a channel, in a disconnect packet. The numbers go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// Both directions ended in good order.
    Closed = 1,
    /// The application or the SQL server reset its connection.
    Reset = 2,
    /// This node is not active any more: resolve again.
    NotActive = 3,
    /// The SQL server behind the node was lost: resolve again.
    UpstreamLost = 4,
    /// The daemon is being stopped in good order: resolve again.
    Stopping = 5,
    /// The peer broke the protocol.
    ProtocolError = 6,
}

impl EndReason {
    /// The reason with this number on the wire.
    pub fn from_wire(n: u8) -> Option<Self> {
        use EndReason::*;
        [
            Closed,
            Reset,
            NotActive,
            UpstreamLost,
            Stopping,
            ProtocolError,
        ]
        .into_iter()
        .find(|r| *r as u8 == n)
    }

    /// The node's own word that the name must be resolved again: a failover, not a resumption.
    pub fn moves_name(self) -> bool {
        matches!(self, Self::NotActive | Self::UpstreamLost | Self::Stopping)
    }
}

/// How a channel that stood came to its end, as the side that notices sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The transport broke (end of file, reset, queue pair error) without a word of the peer: resume, or fail over.
    Transport(String),
    /// The peer said why.
    Ended(EndReason),
    /// The peer wrote something impossible; the text says what was found and what was allowed.
    Corrupt(String),
}

/// Why a connect did not come to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The node answered and rejects.
    Rejected(RejectReason),
    /// This provider cannot be used here (no such socket directory, no library, not the same host): the next transport
    /// is tried; the text is the reason that `vianet_info` shows.
    Unavailable(String),
    /// Nobody listens, or the connection broke before the accept.
    Failed(String),
    /// The accept is not signed by the pinned key, or answers for another name, node or generation.
    NotAuthentic(String),
}

/// What a client asks a node for. VIA: the remote address is `endpoint`, the discriminator `server`.
pub struct ConnectRequest {
    /// The server name without its cluster, lower case: the discriminator.
    pub server: String,
    /// The node's name from the answer; names the socket for shared memory and is compared with the accept.
    pub node: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Smallest generation that will do; the node rejects if its own is smaller.
    pub min_generation: Generation,
    /// The cluster's pinned key: with it, the accept must be signed.
    pub pinned: Option<PublicKey>,
    /// Whether the connection is encrypted, or not made.
    pub tls: Tls,
    /// Directory of the daemons' sockets (shm only).
    pub shm_dir: PathBuf,
    /// Ring per direction in bytes, a power of two.
    pub ring_bytes: u32,
    /// The application's bell; a copy of its far end goes to the side that delivers, after the accept. `None`: no
    /// descriptor, the caller only waits inside our calls.
    pub bell: Option<Arc<bell::AppBell>>,
    /// Carry an earlier channel on.
    pub resume: Option<Resume>,
    /// Nobody waits for the channel: the node may let others go first.
    pub patient: bool,
    /// For a session that waits beside a passive node's standby until the node is active.
    pub warm: bool,
    /// Ties the accept to this connect, and stands for whatever the caller has committed to in it
    /// ([`crate::resolve::ticket::Key::commitment`]). `None`: random.
    pub nonce: Option<[u8; 16]>,
}

/// A channel whose transport broke while its node lives, to be carried on (exactly the missing bytes).
pub struct Resume {
    /// From the first accept.
    pub channel_id: u64,
    /// From the first accept; proven by a MAC over the node's nonce, never sent again.
    pub secret: [u8; 32],
    /// The broken channel: its unconsumed outgoing bytes are sent again, its receive offset is told to the peer.
    pub old: Arc<Channel>,
}

/// What the node says when it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Its name.
    pub node: String,
    /// Its generation for the server name.
    pub generation: Generation,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Names the channel for a resumption.
    pub channel_id: u64,
    /// Proves the right to resume it.
    pub resume_secret: [u8; 32],
    /// The accept was signed by the pinned key.
    pub authentic: bool,
}

/// What a waiter should watch a descriptor for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
}

/// Makes channels of one transport. Thread-safe.
pub trait Provider: Send + Sync {
    /// Which transport.
    fn transport(&self) -> Transport;

    /// Begins a connect and never blocks. `Err` is an immediate failure.
    fn connect(&self, request: ConnectRequest) -> Result<Box<dyn Connecting>, ConnectError>;

    /// Listens on `config`.
    fn listen(&self, config: &ListenConfig) -> io::Result<Box<dyn Listener>>;
}

/// A connect in progress. Whoever holds it watches [`Connecting::wait_fd`] and calls [`Connecting::advance`].
pub trait Connecting: Send {
    /// The descriptor to watch; may change after each `advance`.
    fn wait_fd(&self) -> BorrowedFd<'_>;
    /// What to watch it for; may change after each `advance`.
    fn interest(&self) -> Interest;
    /// Does what can be done without blocking.
    fn advance(&mut self) -> Poll<Result<Channel, ConnectError>>;
    /// In place of [`Connecting::advance`], for who only wants to know whether the path stands: goes on up to the first word
    /// to the node, and does not say it. Once it is ready nothing more can be done with it.
    fn scout(&mut self) -> Poll<Result<(), ConnectError>> {
        // What connects at once, stands.
        Poll::Ready(Ok(()))
    }
}

/// Where and as whom a node listens.
#[derive(Clone)]
pub struct ListenConfig {
    /// tcp: addresses and ports; shm ignores it.
    pub addrs: Vec<std::net::SocketAddr>,
    /// shm: socket `<shm_dir>/<node>.sock`, mode 0666 in a directory the operator protects.
    pub shm_dir: PathBuf,
    /// The node's name.
    pub node: String,
    /// Signs accepts, and is the node's key for TLS.
    pub signer: Option<Arc<SecretKey>>,
    /// tcp: whether clients may, or must, begin with TLS.
    pub tls: Tls,
    /// Most channels of one user id (shm) or source address (tcp).
    pub channels_per_peer: usize,
    /// Largest ring a client may ask for.
    pub max_ring_bytes: u32,
}

/// The node's side of a provider. Not thread-safe: one thread owns it.
pub trait Listener: Send {
    /// Readable when [`Listener::poll`] has something to do (an epoll descriptor of the listener's own).
    fn wait_fd(&self) -> BorrowedFd<'_>;
    /// Accepts connections, drives handshakes (each with a time limit), and returns the next complete request.
    fn poll(&mut self) -> io::Result<Option<Box<dyn Incoming>>>;
    /// Where it listens: the real ports where 0 was asked for. Empty for shm.
    fn local_addrs(&self) -> Vec<std::net::SocketAddr>;
    /// Requests that it refused by itself since it began, since their source had too many already
    /// ([`ListenConfig::channels_per_peer`]); for logs.
    fn refused(&self) -> u64;
}

/// A complete connect request of a client, waiting for the node's word. Dropped unanswered, the client sees a failure.
pub trait Incoming: Send {
    /// The server name asked for: the discriminator.
    fn server(&self) -> &str;
    /// Smallest generation that the client accepts.
    fn min_generation(&self) -> Generation;
    /// The nonce of the connect: what the client may have committed to. The accept's signature covers it.
    fn nonce(&self) -> [u8; 16];
    /// Nobody waits for it: others may go first.
    fn patient(&self) -> bool;
    /// A session is to wait beside our standby until we are active.
    fn warm(&self) -> bool;
    /// Nobody between the client and us can read or change what passes.
    fn is_private(&self) -> bool;
    /// Who asks: `uid 1000 pid 4711` or the peer's address; for logs.
    fn peer(&self) -> String;
    /// Set when the client wants to carry on the channel with this id; [`Incoming::proves`] must be asked first.
    fn resumes(&self) -> Option<u64>;
    /// Whether the client proved that it knows the channel's resume secret.
    fn proves(&self, secret: &[u8; 32]) -> bool;
    /// Accepts; for a resumption `old` is the broken channel whose streams go on (its retained bytes are sent again).
    /// The accept is signed if the listener has a key. Does not block.
    fn accept(self: Box<Self>, accept: Accept, old: Option<&Channel>) -> io::Result<Channel>;
    /// Rejects with a reason.
    fn reject(self: Box<Self>, reason: RejectReason);
}
