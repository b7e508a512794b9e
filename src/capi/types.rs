//! The structs and constants of `vianet.h`. Every struct that may grow begins with its size.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};

/// Version of this header; `vianet_version` tells the version of the library.
pub const VIANET_VERSION_MAJOR: u32 = 0;
/// See VIANET_VERSION_MAJOR.
pub const VIANET_VERSION_MINOR: u32 = 1;
/// See VIANET_VERSION_MAJOR.
pub const VIANET_VERSION_PATCH: u32 = 0;

/// Option: the descriptor is non-blocking; `vianet_connect` returns at once, the descriptor becomes writable when the
/// connection stands or has failed (`vianet_info` and SO_ERROR tell which).
pub const VIANET_NONBLOCK: u32 = 1;
/// Option: the descriptor is closed on exec.
pub const VIANET_CLOEXEC: u32 = 2;

/// Transport: shared memory with a node daemon on this host.
pub const VIANET_TRANSPORT_SHM: u32 = 1;
/// Transport: RDMA.
pub const VIANET_TRANSPORT_RDMA: u32 = 2;
/// Transport: VIA packets on one TCP connection.
pub const VIANET_TRANSPORT_TCP: u32 = 3;
/// Transport: an ordinary TCP connection to the SQL server (no VIA).
pub const VIANET_TRANSPORT_PLAIN: u32 = 4;

/// State: the name is being resolved or a node is being connected.
pub const VIANET_STATE_CONNECTING: u32 = 1;
/// State: bytes travel.
pub const VIANET_STATE_ESTABLISHED: u32 = 2;
/// State: the server is lost or silent; calls wait while the second one is found.
pub const VIANET_STATE_SUSPENDED: u32 = 3;
/// State: the connection is over.
pub const VIANET_STATE_LOST: u32 = 4;

/// Role of a node: serves the name.
pub const VIANET_ROLE_ACTIVE: u32 = 1;
/// Role of a node: watches the active one.
pub const VIANET_ROLE_PASSIVE: u32 = 2;
/// Role of a node: is taking over.
pub const VIANET_ROLE_TAKING_OVER: u32 = 3;
/// Role of a node: does not know the name.
pub const VIANET_ROLE_UNKNOWN: u32 = 4;

/// Event: a failover began.
pub const VIANET_EVENT_FAILOVER_BEGUN: u32 = 1;
/// Event: a failover ended on the second server. For a raw stream this server sees a fresh connection.
pub const VIANET_EVENT_FAILOVER_ENDED: u32 = 2;
/// Event: the connection was lost.
pub const VIANET_EVENT_LOST: u32 = 3;
/// Event: the channel to the same node was carried on, nothing is missing.
pub const VIANET_EVENT_RESUMED: u32 = 4;

/// Log level: something that the application or the operator must know.
pub const VIANET_LOG_ERROR: c_int = 1;
/// Log level: something unexpected that was dealt with.
pub const VIANET_LOG_WARN: c_int = 2;
/// Log level: milestones.
pub const VIANET_LOG_INFO: c_int = 3;
/// Log level: one line per decision.
pub const VIANET_LOG_DEBUG: c_int = 4;

/// Most endpoints that a `vianet_answer` lists.
pub const VIANET_MAX_ENDPOINTS: usize = 16;

/// How to connect. Zero everywhere but in `size` means the defaults. A smaller size (an older program) leaves the rest
/// zero; a larger one (a newer program) is accepted if the unknown bytes are zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vianet_options {
    /// sizeof(struct vianet_options)
    pub size: usize,
    /// VIANET_NONBLOCK, VIANET_CLOEXEC
    pub flags: u32,
    /// Longest time for connecting, in milliseconds; 0: as configured (30,000)
    pub deadline_ms: u32,
    /// Configuration file; NULL: $VIANET_CONFIG, else $XDG_CONFIG_HOME/vianet/client.toml (~/.config where that is not
    /// set), else /etc/vianet/client.toml
    pub config_file: *const c_char,
    /// Transports that may be used: bits (1 << VIANET_TRANSPORT_...); 0: as configured
    pub transports: u32,
    /// Must be zero
    pub reserved: u32,
}

/// One place where a node listens.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vianet_endpoint {
    /// VIANET_TRANSPORT_...
    pub transport: u32,
    /// Port number, host byte order; 0 for shared memory
    pub port: u32,
    /// Numeric address, "" for shared memory
    pub address: [c_char; 64],
}

/// Who serves a name now. Set `size`; all else is written by the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vianet_answer {
    /// sizeof(struct vianet_answer)
    pub size: usize,
    /// Name of the node
    pub node: [c_char; 64],
    /// Grows at every takeover of the name; 0 from a foreign SQL Browser
    pub generation: u64,
    /// VIANET_ROLE_...
    pub role: u32,
    /// How long the answer may be used, milliseconds
    pub ttl_ms: u32,
    /// 1: it was in the process's cache
    pub cached: u32,
    /// 1: its signature was checked against the pinned key
    pub authentic: u32,
    /// How many of `endpoints` are set
    pub endpoint_count: u32,
    /// Zero
    pub reserved: u32,
    /// One per transport at least
    pub endpoints: [vianet_endpoint; VIANET_MAX_ENDPOINTS],
}

/// What a connection is like now. Set `size`; all else is written by the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vianet_info {
    /// sizeof(struct vianet_info)
    pub size: usize,
    /// VIANET_STATE_...
    pub state: u32,
    /// VIANET_TRANSPORT_..., 0 while none was chosen
    pub transport: u32,
    /// Why no better transport is in use, "" if the best one is
    pub why_not_better: [c_char; 256],
    /// The name that was asked for
    pub name: [c_char; 256],
    /// Name of the node
    pub node: [c_char; 64],
    /// Generation of the node for the name
    pub generation: u64,
    /// How often the connection moved to another server
    pub failovers: u64,
    /// How often the channel was carried on to the same node
    pub resumptions: u64,
    /// Bytes accepted from the application
    pub bytes_sent: u64,
    /// Bytes given to the application
    pub bytes_received: u64,
    /// errno of the error that ended the connection, else 0
    pub error: i32,
    /// 1: the open stream could move to another server now
    pub movable: u32,
    /// Why not, "" if it could
    pub why_not_movable: [c_char; 64],
    /// Why its session could not log in on another server without the password, "" if it could or if it is not followed
    pub why_no_ticket: [c_char; 32],
    /// How it is found out what its session has become: "exact" by the server's extension, "derived" from its catalogs, "" not (yet)
    pub state_way: [c_char; 16],
    /// The last move to another server, all zero if there was none
    pub last_failover: vianet_times,
    /// 1: what leaves this host is encrypted, by TLS with the cluster's key
    pub encrypted: u32,
    /// Why not, "" if it is: "same_host" (shm), "unpinned", "off", "rdma", "plain", "not_connected"
    pub why_not_encrypted: [c_char; 28],
    /// 1: its session waits on the passive node's standby, logged in
    pub warm: u32,
    /// 1: in the last move to another server it went on with one that waited there
    pub last_failover_warm: u32,
    /// Why none waits, "" if one does: "off", "pending", or what came of the last attempt
    pub why_not_warm: [c_char; 32],
}

/// How long the parts of a failover took, one after the other, in microseconds. What was tried in vain on the way counts to
/// the part before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vianet_times {
    /// From the node's last sign of life (the break itself, where the channel broke) to the decision that it is lost
    pub detection_us: u64,
    /// Until a node said that it serves the name
    pub takeover_us: u64,
    /// Until that answer was settled, and in the cache
    pub resolution_us: u64,
    /// Until it was its turn: many may have lost the same node, and those move first whose application waits
    pub turn_us: u64,
    /// Until a channel to that node stood
    pub connect_us: u64,
    /// Until the session was logged in there; 0 for a stream of bytes
    pub login_us: u64,
    /// Until it was the same session, and the calls went on
    pub restore_us: u64,
}

/// What the event callback hears.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vianet_event {
    /// sizeof(struct vianet_event) of the library
    pub size: usize,
    /// VIANET_EVENT_...
    pub kind: u32,
    /// The application's descriptor
    pub fd: c_int,
    /// Generation of the node
    pub generation: u64,
    /// Milliseconds since the failure was noticed
    pub elapsed_ms: u64,
    /// Name of the node in use (the lost one while a failover begins)
    pub node: [c_char; 64],
}

/// Receives log records: level, module, text, and the context given with it. Runs on any thread, the library's own
/// included; must not call the library.
pub type vianet_log_callback =
    Option<unsafe extern "C" fn(c_int, *const c_char, *const c_char, *mut c_void)>;

/// Receives events and the context given with it. Runs on the library's thread; must not call the library.
pub type vianet_event_callback = Option<unsafe extern "C" fn(*const vianet_event, *mut c_void)>;
