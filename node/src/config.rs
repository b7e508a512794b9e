//! `node.toml`: who this node is, where it listens, who its peers are, which servers it serves.
//!
//! `docs/configuration.md` has every key. Anything that is not understood is refused with file, key and remedy, before
//! the daemon touches the network. Times are milliseconds, sizes bytes. The types can be written as well as read: the
//! lab makes its nodes' files from them.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use vianet::resolve::ClusterId;
use vianet::via::Tls;

mod check;
#[cfg(test)]
mod tests;

/// Where a message of the parser does not say it.
const HELP: &str = "`man vianet-node.toml` has all keys, their values, and an example";

/// A configuration that cannot be used: file, key and remedy in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The text for a directory of the configuration that cannot be used.
pub(crate) fn cannot_use(key: &str, dir: &Path, why: &std::io::Error) -> String {
    format!(
        "{key} = {}: {why}; name a directory that this user can make or write",
        dir.display()
    )
}

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// This node's name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot.
    pub node: String,
    /// The cluster's name, as clients write it before the backslash.
    pub cluster: String,
    /// Random identity of the cluster, 32 hex digits, equal on all its nodes (`vianet keygen` makes one).
    pub cluster_id: String,
    /// The cluster's private key (64 hex digits). Without it answers are unsigned and keep-alives are not
    /// authenticated, which is refused as soon as there are peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Where generations are kept over a restart.
    pub state_dir: PathBuf,
    /// Directory of the shared-memory socket `<node>.sock` and of the control socket.
    #[serde(default = "default_shm_dir")]
    pub shm_dir: PathBuf,
    /// The control socket; default `<shm_dir>/<node>.ctl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_socket: Option<PathBuf>,
    /// Where the HTTP page and the metrics are; default: nowhere. Read-only, without authentication: it shows the
    /// addresses of clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// Where this node is asked and connected.
    #[serde(default)]
    pub listen: Listen,
    /// How nodes agree on who is active.
    #[serde(default)]
    pub authority: Authority,
    /// What one client may take.
    #[serde(default)]
    pub limits: Limits,
    /// The other nodes of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// The names that this node can serve.
    #[serde(default)]
    pub servers: Vec<Server>,
}

/// `[listen]`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// UDP: SSRP, cluster query and keep-alive, one socket per address. `0.0.0.0` is refused where peers or clients
    /// would get answers from another address than they asked; name the addresses.
    pub query: Vec<SocketAddr>,
    /// VIA packets over TCP.
    pub via_tcp: Vec<SocketAddr>,
    /// What clients are told to connect to instead of `via_tcp`, where an address translation or a forwarder stands
    /// before this node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise_via_tcp: Vec<SocketAddr>,
    /// VIA over RDMA: addresses of interfaces that have an RDMA device. Where there is none, or no library, the daemon
    /// says so and does without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via_rdma: Vec<SocketAddr>,
    /// Whether `via_tcp` takes clients that encrypt: `auto` does where there is a `key_file`, and takes others too;
    /// `require` takes no others; `off` takes only others.
    pub tls: Tls,
    /// Shared memory for clients on this host.
    pub shm: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            query: Vec::new(),
            via_tcp: Vec::new(),
            advertise_via_tcp: Vec::new(),
            via_rdma: Vec::new(),
            tls: Tls::Auto,
            shm: true,
        }
    }
}

/// `[[peers]]`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Its UDP address.
    pub query: SocketAddr,
}

/// `[authority]`: who decides which node is active.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase", from = "AuthorityTable")]
pub enum Authority {
    /// Two nodes watch each other (claims 28 and 29). A partition without a fence hook can make two actives.
    Keepalive {
        /// How often the passive asks the active.
        interval_ms: u64,
        /// So many unanswered in a row and the passive takes over.
        lost_after: u32,
        /// How long a node that starts asks its peer who is active before it decides alone.
        start_wait_ms: u64,
        /// How long a node stays passive after a takeover that failed, or after it resigned.
        retry_ms: u64,
    },
}

/// What is written in the file. Read as an enum by its tag, a wrong value would be reported without its key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityTable {
    kind: AuthorityKind,
    #[serde(default = "default_interval")]
    interval_ms: u64,
    #[serde(default = "default_lost_after")]
    lost_after: u32,
    #[serde(default = "default_start_wait")]
    start_wait_ms: u64,
    #[serde(default = "default_retry")]
    retry_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthorityKind {
    Keepalive,
}

impl From<AuthorityTable> for Authority {
    fn from(table: AuthorityTable) -> Self {
        let AuthorityKind::Keepalive = table.kind;
        Self::Keepalive {
            interval_ms: table.interval_ms,
            lost_after: table.lost_after,
            start_wait_ms: table.start_wait_ms,
            retry_ms: table.retry_ms,
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::Keepalive {
            interval_ms: default_interval(),
            lost_after: default_lost_after(),
            start_wait_ms: default_start_wait(),
            retry_ms: default_retry(),
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most channels of one user id (shm) or source address (tcp).
    pub channels_per_peer: usize,
    /// Most channels at all.
    pub channels: usize,
    /// Logins of one server name that are under way at a time; 0 takes four per processor. What comes beyond that waits.
    pub logins: usize,
    /// Most sessions that wait beside our SQL servers while we are passive for them; 0: none.
    pub warm_sessions: usize,
    /// Largest ring per direction a client may ask for.
    pub max_ring_bytes: u32,
    /// UDP answers a second to one source address.
    pub answers_per_source: u32,
    /// UDP answers a second at all.
    pub answers: u32,
    /// How long a broken channel waits for its client to resume it.
    pub resume_ms: u64,
    /// How long an answer may stay in a client's cache.
    pub ttl_ms: u64,
    /// Threads of the relay; 0 takes one per two processors, at most 4.
    pub relay_threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channels_per_peer: 1024,
            channels: 8192,
            logins: 0,
            warm_sessions: 0,
            max_ring_bytes: 4 << 20,
            answers_per_source: 200,
            answers: 20_000,
            resume_ms: 10_000,
            ttl_ms: 30_000,
            relay_threads: 0,
        }
    }
}

/// Where relayed connections to an IPv4 loopback address come from unless `upstream_source` says otherwise. From
/// 127.0.0.1 a remote client would pass for a local one: that is the address that access rules trust.
pub const RELAY_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 86, 73, 65));

/// `[[servers]]`: one server name.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The name; at most 32 bytes for SSRP; compared without case.
    pub name: String,
    /// This node starts as the active one when no peer is active. Exactly one node of a cluster should say so.
    #[serde(default)]
    pub initial_active: bool,
    /// The SQL server: `address:port`, or `unix:/path` (only with `allow_unauthenticated_upstream`).
    pub upstream: Upstream,
    /// Source address of relayed connections, so that the SQL server's access rules can name it. Without it:
    /// [`RELAY_SOURCE`] where the SQL server listens on an IPv4 loopback address; needed for every other address (or
    /// `allow_unauthenticated_upstream`, then the system chooses).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_source: Option<IpAddr>,
    /// What the SQL server speaks: `postgres`, or `raw` for anything else. PostgreSQL logins without a challenge are
    /// refused either way.
    #[serde(default)]
    pub protocol: Protocol,
    /// Relay also to a server that asks clients for no proof of who they are. Default false.
    #[serde(default)]
    pub allow_unauthenticated_upstream: bool,
    /// Answer a driver that asks for encryption with "no" also where the network can read what passes. Default false.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Where the network can read what passes, let TLS of a driver through to the SQL server also if it could not be found out
    /// that strangers are asked for a proof there. Default false.
    #[serde(default)]
    pub allow_unwatched_tls: bool,
    /// `Version` of the SSRP answer: digits and dots, at most 16 bytes.
    #[serde(default = "default_version")]
    pub version: String,
    /// The SQL server's own addresses as told to clients that know no VIA, and to ours for `plain`. SSRP clients are told
    /// the port of the one at which they asked.
    #[serde(
        default,
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub advertise_tcp: Vec<SocketAddr>,
    /// Where the SQL server's dedicated administrator connection listens (SSRP's `0F`), told in the same way.
    #[serde(
        default,
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub advertise_dac: Vec<SocketAddr>,
    /// Named pipe of the SSRP answer (`np`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise_np: Option<String>,
    /// How often the SQL server's health is checked.
    #[serde(default = "default_interval")]
    pub health_interval_ms: u64,
    /// So many failed checks in a row and the active node resigns.
    #[serde(default = "default_health_failures")]
    pub health_failures: u32,
    /// How long a takeover waits, after the promote hook, for the health check to succeed.
    #[serde(default = "default_promote_wait")]
    pub promote_wait_ms: u64,
    /// Programs that the daemon runs.
    #[serde(default)]
    pub hooks: Hooks,
    /// Login tickets: sessions that are moved to this node, or from it, log in without the password. Without it there are
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Tickets>,
}

/// `[servers.tickets]`: how the daemon looks up the verifiers of roles that log in through it, and for how long it vouches
/// for them.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Tickets {
    /// The daemon's own database role: the only one that may call `vianet.scram_verifier`, and that may do nothing else.
    pub role: String,
    /// The database that has the extension `vianet`.
    pub database: String,
    /// Where the daemon connects as that role: `address:port`, or `unix:/path/of/.s.PGSQL.5432`. Default: `upstream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Upstream>,
    /// A file with the role's password (mode 0600). Without it only a method that needs none will do (`peer`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How long a ticket can be redeemed. Clients renew theirs while their session lives.
    #[serde(default = "default_ticket_lifetime")]
    pub lifetime_s: u64,
}

impl Server {
    /// The source address of relayed connections; `None`: the system chooses.
    pub fn relay_source(&self) -> Option<IpAddr> {
        let loopback = match &self.upstream {
            Upstream::Tcp(addr) => addr.is_ipv4() && addr.ip().is_loopback(),
            Upstream::Unix(_) => false,
        };
        self.upstream_source
            .or_else(|| loopback.then_some(RELAY_SOURCE))
    }
}

/// `[servers.hooks]`: argument vectors, run without a shell. The environment has `VIANET_NODE`, `VIANET_SERVER`,
/// `VIANET_PEER` (the other node's name, empty where there is none), `VIANET_GENERATION` and `VIANET_REASON` (why it
/// runs). Exit status 0 is success; at the time limit the whole process group is killed and that is a failure.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Makes sure that the other node's SQL server cannot write any more. Its failure stops the takeover.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "argv")]
    pub fence: Vec<String>,
    /// Its time limit.
    pub fence_timeout_ms: u64,
    /// Makes this node's SQL server writable. Its failure stops the takeover.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "argv")]
    pub promote: Vec<String>,
    /// Its time limit.
    pub promote_timeout_ms: u64,
    /// Run when this node stops being active. Its failure is logged.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "argv")]
    pub demote: Vec<String>,
    /// Its time limit.
    pub demote_timeout_ms: u64,
    /// Whether the other node's SQL server can take over, asked on the active node before a switchover. Without it: yes.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "argv")]
    pub ready: Vec<String>,
    /// Its time limit.
    pub ready_timeout_ms: u64,
    /// Whether the SQL server can be written to. Without it: whether it accepts a connection.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "argv")]
    pub health: Vec<String>,
    /// The time limit of a health check, hook or not.
    pub health_timeout_ms: u64,
}

/// What is written down for a hook must be a program: an empty list would be a fence that always succeeds.
fn argv<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let argv = Vec::<String>::deserialize(from)?;
    if argv.first().is_none_or(String::is_empty) {
        let text = "names no program: write [\"PROGRAM\", \"ARGUMENT\", ...], or remove the key";
        return Err(serde::de::Error::custom(text));
    }
    Ok(argv)
}

impl Hooks {
    /// A program that is not there would be found out at the takeover.
    ///
    /// # Errors
    /// The text names the key and the remedy.
    pub fn check_programs(&self, server: &str) -> Result<(), String> {
        let all = [
            ("fence", &self.fence),
            ("promote", &self.promote),
            ("demote", &self.demote),
            ("ready", &self.ready),
            ("health", &self.health),
        ];
        for (key, argv) in all {
            if let Some(program) = argv.first().filter(|program| !can_be_run(program)) {
                return Err(format!(
                    "servers.{server}.hooks.{key} = {program:?}: there is no program of that name that this user can \
                     run; name an executable file by its path, or one in PATH"
                ));
            }
        }
        Ok(())
    }

    /// A program that is named by a relative path is below `dir`; one that is a bare name is searched in PATH.
    fn programs_below(&mut self, dir: &Path) {
        let all = [
            &mut self.fence,
            &mut self.promote,
            &mut self.demote,
            &mut self.ready,
            &mut self.health,
        ];
        for program in all.into_iter().filter_map(|argv| argv.first_mut()) {
            if program.contains('/')
                && let Some(path) = dir.join(&*program).to_str()
            {
                *program = path.into();
            }
        }
    }
}

fn can_be_run(program: &str) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let runs = |file: &Path| {
        file.is_file() && accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    };
    if program.contains('/') {
        return runs(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).any(|dir| runs(&dir.join(program)))
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            fence: Vec::new(),
            fence_timeout_ms: 10_000,
            promote: Vec::new(),
            promote_timeout_ms: 60_000,
            demote: Vec::new(),
            demote_timeout_ms: 10_000,
            ready: Vec::new(),
            ready_timeout_ms: 5_000,
            health: Vec::new(),
            health_timeout_ms: 1_000,
        }
    }
}

/// What the relay understands of the bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
    /// Nothing; but a client that begins a PostgreSQL login has it watched.
    #[default]
    Raw,
}

/// Where the SQL server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Upstream {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket: makes every remote client a local one for the server.
    Unix(PathBuf),
}

impl TryFrom<String> for Upstream {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(format!(
                    "upstream = {text:?}: write unix: and an absolute path"
                ));
            }
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("upstream = {text:?}: write ADDRESS:PORT, [V6]:PORT or unix:/PATH")
        })
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.to_string()
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `"ADDRESS:PORT"` or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "write \"ADDRESS:PORT\", or a list of them")]
    enum Read {
        One(SocketAddr),
        Many(Vec<SocketAddr>),
    }
    Ok(match Read::deserialize(from)? {
        Read::One(addr) => vec![addr],
        Read::Many(addrs) => addrs,
    })
}

fn default_shm_dir() -> PathBuf {
    "/run/vianet".into()
}

fn default_interval() -> u64 {
    250
}

fn default_lost_after() -> u32 {
    4
}

fn default_start_wait() -> u64 {
    3_000
}

fn default_retry() -> u64 {
    5_000
}

fn default_health_failures() -> u32 {
    3
}

fn default_promote_wait() -> u64 {
    60_000
}

fn default_ticket_lifetime() -> u64 {
    crate::ticket::epochs::LONGEST.as_secs()
}

fn default_version() -> String {
    "15.0".into()
}

impl Node {
    /// Reads and checks the file; relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// The text names the file, the key and the remedy.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bad = |text: String| ConfigError(format!("{}: {text}", path.display()));
        let text = vianet::config::read_text(path)
            .map_err(|e| bad(format!("cannot be read: {e}; {HELP}")))?;
        let mut node: Self = toml::from_str(&text).map_err(|e| {
            let remedy = match e.message() {
                "invalid socket address syntax" => "write ADDRESS:PORT or [V6]:PORT",
                _ => HELP,
            };
            bad(format!("{e}{remedy}"))
        })?;
        let dir = path.parent().unwrap_or(Path::new("."));
        for p in [&mut node.state_dir, &mut node.shm_dir]
            .into_iter()
            .chain(&mut node.key_file)
            .chain(&mut node.control_socket)
        {
            // `join` keeps an absolute path as it is.
            *p = dir.join(&*p);
        }
        for server in &mut node.servers {
            server.hooks.programs_below(dir);
            let tickets = server.tickets.as_mut();
            if let Some(file) = tickets.and_then(|t| t.password_file.as_mut()) {
                *file = dir.join(&*file);
            }
        }
        node.check().map_err(bad)?;
        Ok(node)
    }

    /// The configuration as the text of a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }

    /// The control socket's path.
    pub fn control_path(&self) -> PathBuf {
        match &self.control_socket {
            Some(path) => path.clone(),
            None => self.shm_dir.join(format!("{}.ctl", self.node)),
        }
    }

    /// The cluster's identity as bytes; zero if it is malformed, which [`Node::load`] refuses.
    pub fn cluster_id_bytes(&self) -> ClusterId {
        check::hex::<16>(&self.cluster_id).unwrap_or_default()
    }
}
