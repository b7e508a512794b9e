//! `client.toml`: clusters, aliases, and how connections behave. See `docs/configuration.md`.
//!
//! Found at `$VIANET_CONFIG`, else `$XDG_CONFIG_HOME/vianet/client.toml` (`~/.config` where that is not set), else
//! `/etc/vianet/client.toml`. Unknown keys are refused with file, key and remedy.

mod node_addr;

pub use node_addr::NodeAddr;

use crate::error::{Error, Kind, Result};
use crate::resolve::identity::PublicKey;
use crate::resolve::name::ServerName;
use crate::via::{Tls, Transport};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// UDP port of SSRP and of the cluster query ([MC-SQLR] 2.1: always 1434).
pub const DEFAULT_QUERY_PORT: u16 = 1434;

/// Everything a client process is configured with. Times are milliseconds, sizes bytes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// One deadline rules a connect or a failover. Default 30,000.
    pub deadline_ms: u64,
    /// How often a node with open channels is asked whether it lives. Default 250.
    pub probe_interval_ms: u64,
    /// So many unanswered probes in a row are a lost node. Default 3.
    pub probes_lost: u32,
    /// Longest spin before a sleep, in a blocking call or (preload library) a poll of the connection alone, microseconds; what
    /// is really spun is learned; 0 never spins. Default 100.
    pub spin_us: u64,
    /// How long a PostgreSQL session that may move must have been idle before its server is asked what it has become. Default
    /// 20.
    pub snapshot_idle_ms: u64,
    /// Ring per direction, a power of two from 4096. Default 524,288.
    pub ring_bytes: u32,
    /// Directory of the node daemons' sockets on this host, for shared memory. Default `/run/vianet`.
    pub shm_dir: PathBuf,
    /// Clusters by name.
    pub clusters: BTreeMap<String, Cluster>,
    /// Short names: alias to `cluster\server`.
    pub aliases: BTreeMap<String, String>,
}

/// One cluster: where its nodes are asked, and what is demanded of them.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `host`, `host:port`, `[v6]:port`; the port defaults to 1434.
    pub nodes: Vec<String>,
    /// Ed25519 public key of the cluster, 64 hex digits. With it, unsigned answers are refused.
    #[serde(default)]
    pub public_key: Option<String>,
    /// Whether connections over `tcp` are encrypted: `auto` does if `public_key` is given, `off` never, and `require` uses
    /// nothing else off this host.
    #[serde(default)]
    pub tls: Tls,
    /// Transports in order of preference; see [`Cluster::transports`].
    #[serde(default)]
    pub transports: Option<Vec<Transport>>,
    /// Refuse `plain`. Default false.
    #[serde(default)]
    pub strict: bool,
    /// What to do with an open stream whose protocol is not understood, when the server is lost.
    #[serde(default)]
    pub raw_failover: RawFailover,
    /// Which protocol the servers speak.
    #[serde(default)]
    pub session: Session,
    /// How an application hears that the outcome of its request is unknown.
    #[serde(default)]
    pub on_unknown: OnUnknown,
    /// A COMMIT that hears that its transaction is lost leaves no block open, as one that fails does in PostgreSQL.
    #[serde(default)]
    pub commit_ends_lost_block: bool,
    /// A PostgreSQL session that listens moves too, although what was notified meanwhile is missing.
    #[serde(default)]
    pub move_listening: bool,
    /// A PostgreSQL session that could move is made beforehand on the standby of the passive node too, so that moving it takes no
    /// login.
    #[serde(default)]
    pub warm_sessions: bool,
    /// Libraries of the SQL servers, by file name without `.so`, that keep nothing in a session: one that has loaded them moves.
    #[serde(default)]
    pub stateless_libraries: Vec<String>,
    /// Names of custom settings that sessions may have, for servers without our extension.
    #[serde(default)]
    pub custom_settings: Vec<String>,
    /// Functions that set nothing in a session which would be missed, for the same.
    #[serde(default)]
    pub trusted_functions: Vec<String>,
    /// Per server name: what differs from the cluster.
    #[serde(default)]
    pub servers: BTreeMap<String, Server>,
}

/// What differs for one server name of a cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Overrides [`Cluster::raw_failover`].
    #[serde(default)]
    pub raw_failover: Option<RawFailover>,
    /// Overrides [`Cluster::session`].
    #[serde(default)]
    pub session: Option<Session>,
    /// Overrides [`Cluster::on_unknown`].
    #[serde(default)]
    pub on_unknown: Option<OnUnknown>,
    /// Overrides [`Cluster::commit_ends_lost_block`].
    #[serde(default)]
    pub commit_ends_lost_block: Option<bool>,
    /// Overrides [`Cluster::move_listening`].
    #[serde(default)]
    pub move_listening: Option<bool>,
    /// Overrides [`Cluster::warm_sessions`].
    #[serde(default)]
    pub warm_sessions: Option<bool>,
}

/// `session`: which protocol is followed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Session {
    /// None: bytes.
    #[default]
    Raw,
    /// PostgreSQL's; a stream that is not it never moves.
    Postgres,
    /// PostgreSQL's where a stream begins like it, else none.
    Auto,
}

/// `on_unknown`: for sessions whose protocol is followed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// The connection ends without a word of ours, as drivers know it.
    #[default]
    Close,
    /// The protocol's own error says so first.
    Error,
}

/// `raw_failover`: DESIGN section 9, last paragraph.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RawFailover {
    /// The open connection ends with ECONNRESET; the next connect reaches the second server.
    #[default]
    Reset,
    /// The descriptor is kept and a *quiet* stream moves; anything else is reset.
    Continue,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            deadline_ms: 30_000,
            probe_interval_ms: 250,
            probes_lost: 3,
            spin_us: 100,
            snapshot_idle_ms: 20,
            ring_bytes: 524_288,
            shm_dir: "/run/vianet".into(),
            clusters: BTreeMap::new(),
            aliases: BTreeMap::new(),
        }
    }
}

/// No configuration, key or saved state is larger.
const TEXT_MAX: u64 = 1 << 20;

/// Reads a small text file; one that does not end (a device) is an error and not all of the memory.
///
/// # Errors
/// Those of the system; `InvalidData` where it is no text, `FileTooLarge` above 1 MiB.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if file.take(TEXT_MAX + 1).read_to_string(&mut text)? as u64 > TEXT_MAX {
        let what = "larger than 1 MiB";
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

/// Where a message of the parser does not say it.
const HELP: &str = "`man vianet-client.toml` has all keys, their values, and an example";

impl Client {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        let bad = |text: String| Error::new(Kind::BadConfig, format!("{}: {text}", path.display()));
        let text = read_text(path).map_err(|e| bad(format!("cannot be read: {e}; {HELP}")))?;
        let client: Self = toml::from_str(&text).map_err(|e| bad(format!("{e}{HELP}")))?;
        client.check().map_err(bad)?;
        Ok(client)
    }

    /// The file that [`Client::load`] would be given, or `None` where there is none.
    pub fn find() -> Option<PathBuf> {
        if let Some(path) = named_by_environment() {
            return Some(path);
        }
        usual_places(|name| std::env::var_os(name).map(PathBuf::from))
            .into_iter()
            .find(|p| p.exists())
    }

    /// The deadline of a connect or a failover.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// How long a session must have been idle before its server is asked about it.
    pub fn snapshot_idle(&self) -> Duration {
        Duration::from_millis(self.snapshot_idle_ms)
    }

    fn check(&self) -> std::result::Result<(), String> {
        range("deadline_ms", self.deadline_ms, 1, 86_400_000)?;
        range("probe_interval_ms", self.probe_interval_ms, 10, 60_000)?;
        range("probes_lost", self.probes_lost.into(), 1, 100)?;
        range("spin_us", self.spin_us, 0, 1_000_000)?;
        range("snapshot_idle_ms", self.snapshot_idle_ms, 1, 60_000)?;
        if !self.ring_bytes.is_power_of_two() || !(4096..=1 << 30).contains(&self.ring_bytes) {
            return Err(format!(
                "ring_bytes = {}: must be a power of two from 4096 to 1073741824",
                self.ring_bytes
            ));
        }
        one_each("clusters", self.clusters.keys())?;
        one_each("aliases", self.aliases.keys())?;
        for (name, cluster) in &self.clusters {
            let at = format!("clusters.{name}");
            ServerName::new(name, "x").map_err(|e| format!("{at}: {e}"))?;
            one_each(&format!("{at}.servers"), cluster.servers.keys())?;
            for server in cluster.servers.keys() {
                ServerName::new(name, server).map_err(|e| format!("{at}.servers: {e}"))?;
            }
            cluster.check().map_err(|text| format!("{at}.{text}"))?;
        }
        for (alias, target) in &self.aliases {
            if ServerName::direct(target, self).is_none() {
                let clusters: Vec<&str> = self.clusters.keys().map(String::as_str).collect();
                return Err(format!(
                    "aliases.{alias} = {target:?}: write cluster\\server, with a cluster of this file ({})",
                    clusters.join(", ")
                ));
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// Which transports may be used, best first. All, where nothing is said; but `plain` only where nothing would be encrypted anyway:
    /// otherwise who keeps `tcp` from working would make clients go on in clear.
    pub fn transports(&self) -> Vec<Transport> {
        use Transport::*;
        match &self.transports {
            Some(listed) => listed.clone(),
            None if self.public_key.is_some() && self.tls != Tls::Off => vec![Shm, Rdma, Tcp],
            None => vec![Shm, Rdma, Tcp, Plain],
        }
    }

    /// What differs for a server name.
    pub fn server(&self, name: &str) -> Option<&Server> {
        let mut servers = self.servers.iter();
        servers
            .find(|(server, _)| server.eq_ignore_ascii_case(name))
            .map(|(_, server)| server)
    }

    /// Without I/O: whether a host name exists is seen when it is asked.
    fn check(&self) -> std::result::Result<(), String> {
        if self.nodes.is_empty() {
            return Err("nodes is empty: name at least one node as host or host:port".into());
        }
        for node in &self.nodes {
            if NodeAddr::parse(node, DEFAULT_QUERY_PORT).is_none() {
                return Err(format!(
                    "nodes: {node:?} is no address: write host, host:port, or [v6]:port"
                ));
            }
        }
        if let Some(Err(why)) = self.public_key.as_deref().map(PublicKey::from_hex) {
            return Err(format!("public_key: {why}"));
        }
        let transports = self.transports();
        if transports.is_empty() {
            return Err(
                "transports is empty: name those that may be used, or remove the key for all of them"
                    .into(),
            );
        }
        if self.tls == Tls::Require {
            if self.public_key.is_none() {
                return Err(
                    "tls = \"require\": nodes are known by public_key; add it (`vianet keygen` printed it), or remove tls"
                        .into(),
                );
            }
            if !transports
                .iter()
                .any(|t| matches!(t, Transport::Shm | Transport::Tcp))
            {
                return Err(
                    "tls = \"require\" uses shm and tcp only, and transports allows neither: add tcp, or remove tls".into(),
                );
            }
        }
        let plain_only = transports.iter().all(|t| *t == Transport::Plain);
        if self.strict && plain_only {
            return Err(
                "strict = true refuses plain, and transports allows nothing else: add one, or remove strict"
                    .into(),
            );
        }
        Ok(())
    }
}

/// Names are compared without case: the second of two would never be found.
fn one_each<'a>(
    key: &str,
    names: impl Iterator<Item = &'a String>,
) -> std::result::Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.to_ascii_lowercase()) {
            return Err(format!(
                "{key}.{name}: there are two of this name (names are compared without case); rename one"
            ));
        }
    }
    Ok(())
}

fn range(key: &str, value: u64, least: u64, most: u64) -> std::result::Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} = {value}: must be from {least} to {most}"))
}

/// `$VIANET_CONFIG`; empty counts as not set.
pub fn named_by_environment() -> Option<PathBuf> {
    let path = std::env::var_os("VIANET_CONFIG").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

/// Where a `client.toml` is looked for. A directory that is relative (or empty) counts as not set, as the XDG Base
/// Directory Specification has it: the working directory may be anybody's.
fn usual_places(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let directory = |name| env(name).filter(|path| path.is_absolute());
    let own = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")));
    let system = Some("/etc".into());
    (own.into_iter().chain(system))
        .map(|dir: PathBuf| dir.join("vianet/client.toml"))
        .collect()
}

#[cfg(test)]
mod tests;
