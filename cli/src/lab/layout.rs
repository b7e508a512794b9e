//! What is where in a lab's directory, and who has which address.
//!
//! ```text
//! DIR/lab.json               what kind of lab this is
//! DIR/client.toml            for VIANET_CONFIG
//! DIR/cluster.key            the cluster's private key
//! DIR/run/                   the daemons' sockets
//! DIR/shared/                what both nodes share: the embedded database, or the shared PostgreSQL server
//! DIR/node-a/                node.toml, state/, daemon.{pid,log}, server.{pid,log}, fenced, stale, pg/
//! ```

use super::account::Account;
use super::process::{Life, Process, write_atomically};
use crate::failure::{Doing, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The cluster's name.
pub const CLUSTER: &str = "lab";
/// Port of name queries, SSRP and keep-alives.
pub const QUERY_PORT: u16 = 1434;
/// Port of `sales`: PostgreSQL's protocol.
pub const SALES_PORT: u16 = 7432;
/// Port of `ledger`: lines.
pub const LEDGER_PORT: u16 = 7433;
/// Port of VIA packets.
pub const VIA_PORT: u16 = 7434;
/// Port of VIA over RDMA.
pub const RDMA_PORT: u16 = 7435;
/// Port of the nodes' pages and metrics.
pub const HTTP_PORT: u16 = 9180;
/// Longest DIR: its sockets' paths have at most 107 bytes.
const MAX_DIR: usize = 70;

/// What the nodes' SQL servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// A small SQL server over SQLite, built in; both nodes share one database file.
    Embedded,
    /// PostgreSQL, a primary and a synchronous standby.
    Postgres,
    /// One PostgreSQL behind both nodes.
    PostgresShared,
}

impl Engine {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
            Self::PostgresShared => "postgres-shared",
        }
    }

    /// The server names.
    pub fn servers(self) -> &'static [&'static str] {
        match self {
            Self::Embedded => &["sales", "ledger"],
            Self::Postgres | Self::PostgresShared => &["sales"],
        }
    }
}

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum NodeName {
    /// The one that is active at first.
    NodeA,
    /// The other one.
    NodeB,
}

impl NodeName {
    /// Both.
    pub const ALL: [Self; 2] = [Self::NodeA, Self::NodeB];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeA => "node-a",
            Self::NodeB => "node-b",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::NodeA => Self::NodeB,
            Self::NodeB => Self::NodeA,
        }
    }
}

/// The daemon or the SQL server of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// `vianetd`.
    Daemon,
    /// The SQL server.
    Server,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Daemon, Self::Server];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Server => "server",
        }
    }
}

/// `127.0.N`: the lab's addresses begin with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subnet(u8);

impl Subnet {
    /// 127.0.0.
    pub const DEFAULT: Self = Self(0);

    /// `127.0.n`.
    pub fn new(n: u8) -> Self {
        Self(n)
    }

    /// The address with this last number.
    pub fn host(self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, self.0, last).into()
    }
}

impl std::str::FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("127.0.")
            .and_then(|n| n.parse().ok())
            .filter(|n| *n <= 250)
            .map(Self)
            .ok_or_else(|| "write 127.0.N with N from 0 to 250".into())
    }
}

/// Two addresses of RDMA devices, node-a's and node-b's: one more path to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaPath([IpAddr; 2]);

impl RdmaPath {
    /// Where a node listens on it.
    pub fn addr(self, node: NodeName) -> SocketAddr {
        SocketAddr::new(self.0[node as usize], RDMA_PORT)
    }
}

impl std::str::FromStr for RdmaPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || "write ADDR_A,ADDR_B: an address for node-a and another one for node-b";
        let (a, b) = text.split_once(',').ok_or_else(usage)?;
        let addr = |text: &str| text.parse::<IpAddr>().map_err(|e| format!("{text}: {e}"));
        let both = [addr(a)?, addr(b)?];
        if both[0] == both[1] {
            return Err(usage().into());
        }
        let unusable = both
            .iter()
            .find(|ip| ip.is_loopback() || ip.is_unspecified());
        match unusable {
            Some(ip) => Err(format!("{ip} is no address of an RDMA device")),
            None => Ok(Self(both)),
        }
    }
}

/// `lab.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// Of this file.
    pub version: u32,
    /// Random; every process of the lab has it in its environment.
    pub id: String,
    /// What the SQL servers are.
    pub engine: Engine,
    /// Where the lab is on the loopback network.
    pub subnet: Subnet,
    /// How often the nodes ask each other; `None`: as the engine wants it.
    #[serde(default)]
    pub keepalive_ms: Option<u64>,
    /// Where its nodes are on RDMA devices, best first.
    #[serde(default)]
    pub rdma: Vec<RdmaPath>,
    /// So many times as long as usual are intervals and time limits.
    #[serde(default = "usual")]
    pub patience: u32,
    /// Where PostgreSQL's programs are; `None`: the newest that is installed.
    #[serde(default)]
    pub pg_bin: Option<PathBuf>,
    /// Sessions that a SQL server takes at a time.
    #[serde(default = "usual_connections")]
    pub connections: u32,
    /// PostgreSQL lets the nodes' relays in without a password.
    #[serde(default)]
    pub trust: bool,
    /// It has no extension, even where one is installed.
    #[serde(default)]
    pub no_extension: bool,
    /// Sessions that may wait on the standby.
    #[serde(default)]
    pub warm: u32,
    /// The version of the PostgreSQL extension `vianet` in the database `app`; `None` where the server has none.
    #[serde(default)]
    pub pg_extension: Option<String>,
    /// `lab up` has finished.
    pub up: bool,
    /// `lab down --keep` was run: only files are left.
    pub down: bool,
    /// `lab up` made the directory.
    pub made_dir: bool,
    /// The user that PostgreSQL runs as, where it is not the lab's own.
    pub database_user: Option<String>,
}

fn usual_connections() -> u32 {
    300
}

fn usual() -> u32 {
    1
}

/// A lab in its directory.
pub struct Lab {
    /// The directory, absolute.
    pub dir: PathBuf,
    /// What kind of lab it is.
    pub meta: Meta,
}

impl Lab {
    /// The lab in `dir`.
    pub fn open(dir: &Path) -> Outcome<Self> {
        let nothing = || {
            Failure::refused(format!(
                "there is no lab in {}: name its directory with --dir, or in VIANET_LAB_DIR; or start one: `vianet lab up \
                 --dir /tmp/lab`",
                dir.display()
            ))
        };
        let dir = dir.canonicalize().map_err(|_| nothing())?;
        let path = dir.join("lab.json");
        let text = fs::read(&path).map_err(|_| nothing())?;
        let owner = fs::metadata(&path)
            .doing(|| path.display().to_string())?
            .uid();
        let own = rustix::process::geteuid();
        if !own.is_root() && own.as_raw() != owner {
            return Err(Failure::refused(format!(
                "the lab in {} is another user's (uid {owner}): only that user and root can command it",
                dir.display()
            )));
        }
        let meta: Meta = serde_json::from_slice(&text).doing(|| path.display().to_string())?;
        Ok(Self { dir, meta })
    }

    /// Checks a directory for a new lab, and makes it. Gives its absolute path and whether it was made.
    pub fn claim(dir: &Path) -> Outcome<(PathBuf, bool)> {
        let made = !dir.exists();
        fs::create_dir_all(dir).doing(|| dir.display().to_string())?;
        let dir = dir.canonicalize().doing(|| dir.display().to_string())?;
        let refuse = |text: String| {
            if made {
                let _ = fs::remove_dir(&dir);
            }
            Err(Failure::refused(text))
        };
        let d = dir.display();
        if let Ok(lab) = Self::open(&dir) {
            let what = match (lab.meta.up, lab.meta.down) {
                (_, true) => "the files of an earlier lab are",
                (true, _) => "a lab is",
                (false, _) => "a lab whose start did not finish is",
            };
            let engine = lab.meta.engine.name();
            return refuse(format!(
                "{what} in {d} already (engine {engine}): `vianet lab down --dir {d}` ends it"
            ));
        }
        for name in [
            "node-a",
            "node-b",
            "shared",
            "run",
            "client.toml",
            "cluster.key",
        ] {
            if dir.join(name).exists() {
                return refuse(format!(
                    "{d}/{name} is in the way: choose an empty directory"
                ));
            }
        }
        if dir.as_os_str().len() > MAX_DIR {
            return refuse(format!(
                "{d} is too long for the sockets in it: at most {MAX_DIR} bytes, for example /tmp/lab"
            ));
        }
        if dir.to_str().is_none() {
            return refuse(format!("{d}: the path must be UTF-8"));
        }
        Ok((dir, made))
    }

    /// Writes `lab.json`.
    pub fn save(&self) -> Outcome {
        let text = serde_json::to_string_pretty(&self.meta).doing(|| "lab.json")?;
        write_atomically(&self.dir.join("lab.json"), &(text + "\n"))
    }

    /// Keeps other `vianet lab` commands out while the result lives; waits for them for a while.
    pub fn lock(dir: &Path) -> Outcome<File> {
        let path = dir.join("lab.lock");
        let file = File::create(&path).doing(|| path.display().to_string())?;
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let text = format!("another `vianet lab` is at work in {}", dir.display());
                    return Err(Failure::refused(text));
                }
                Err(TryLockError::Error(e)) => {
                    return Err(Failure::failed(format!("{}: {e}", path.display())));
                }
            }
        }
    }

    /// A node's directory.
    pub fn node_dir(&self, node: NodeName) -> PathBuf {
        self.dir.join(node.name())
    }

    /// What both nodes share.
    pub fn shared_dir(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// The daemons' sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The daemon's control socket.
    pub fn daemon_control(&self, node: NodeName) -> PathBuf {
        self.run_dir().join(format!("{}.ctl", node.name()))
    }

    /// Where a part's process is remembered and logs; the shared server has one place for both nodes.
    pub fn part_file(&self, node: NodeName, part: Part, ending: &str) -> PathBuf {
        let shared = self.meta.engine == Engine::PostgresShared && part == Part::Server;
        let dir = if shared {
            self.shared_dir()
        } else {
            self.node_dir(node)
        };
        dir.join(format!("{}.{ending}", part.name()))
    }

    /// A part's process, dead or alive.
    pub fn process(&self, node: NodeName, part: Part) -> Option<Process> {
        Process::recall(&self.part_file(node, part, "pid"))
    }

    /// What a part does now.
    pub fn life(&self, node: NodeName, part: Part) -> Life {
        self.process(node, part).map_or(Life::Dead, |p| p.life())
    }

    /// Written by the fence hook of the other node: when, and by whom.
    pub fn fenced_file(&self, node: NodeName) -> PathBuf {
        self.node_dir(node).join("fenced")
    }

    /// There while a node's PostgreSQL lacks commits of the other's: it must be rebuilt, never promoted.
    pub fn stale_file(&self, node: NodeName) -> PathBuf {
        self.node_dir(node).join("stale")
    }

    /// The node's address.
    pub fn host(&self, node: NodeName) -> IpAddr {
        node_host(self.meta.subnet, node)
    }

    /// Source address of what the node's relay connects, for the SQL server's access rules.
    pub fn relay_source(&self, node: NodeName) -> IpAddr {
        self.meta.subnet.host(match node {
            NodeName::NodeA => 21,
            NodeName::NodeB => 22,
        })
    }

    /// Where the node's SQL server listens for a server name.
    pub fn upstream(&self, node: NodeName, server: &str) -> SocketAddr {
        let host = match self.meta.engine {
            Engine::PostgresShared => shared_host(self.meta.subnet),
            _ => self.host(node),
        };
        let port = if server == "ledger" {
            LEDGER_PORT
        } else {
            SALES_PORT
        };
        SocketAddr::new(host, port)
    }

    /// The user that PostgreSQL runs as, where it is not the lab's own.
    pub fn database_account(&self) -> Outcome<Option<Account>> {
        let find = |name: &String| {
            Account::named(name)
                .ok_or_else(|| Failure::failed(format!("the user {name} is not there any more")))
        };
        self.meta.database_user.as_ref().map(find).transpose()
    }
}

/// A node's address.
pub fn node_host(subnet: Subnet, node: NodeName) -> IpAddr {
    subnet.host(match node {
        NodeName::NodeA => 11,
        NodeName::NodeB => 12,
    })
}

/// Address of the PostgreSQL that stands behind both nodes.
pub fn shared_host(subnet: Subnet) -> IpAddr {
    subnet.host(10)
}
