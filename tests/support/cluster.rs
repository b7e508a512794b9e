//! Two node daemons in front of servers of the test's own; no lab involved.

use super::programs::{self, Background, built, command};
use super::{rdma, wait_for};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use vianet::resolve::identity::SecretKey;

/// What differs from the usual cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    /// 127.0.{subnet}.11 and .12.
    pub subnet: u8,
    /// The server names: name, and the address of its SQL server on node-a and on node-b.
    pub servers: Vec<(String, SocketAddr, SocketAddr)>,
    /// UDP port; SSRP clients only know 1434.
    pub query_port: u16,
    /// What clients are told to connect to instead of the real VIA port, per node: a tap, say.
    pub advertise_via: [Option<SocketAddr>; 2],
    /// More lines for each node's file, at its top.
    pub node_lines: String,
    /// More lines for each `[[servers]]` entry.
    pub server_lines: String,
    /// Where nodes listen for RDMA; each has a port of its own there.
    pub rdma: Vec<std::net::IpAddr>,
    /// Each node on a machine of its own, as far as the network goes.
    pub separate: Option<Separate>,
    /// So many unanswered keep-alives are a lost node.
    pub lost_after: u32,
}

/// Where the nodes are, if not on the loopback interface of the test's own network.
#[derive(Clone, Debug)]
pub struct Separate {
    /// Their addresses, for everything, RDMA too.
    pub hosts: [Ipv4Addr; 2],
    /// Their network namespaces.
    pub netns: [&'static str; 2],
}

impl Plan {
    /// One server called `echo`, the same behind both nodes.
    pub fn new(subnet: u8, upstream: SocketAddr) -> Self {
        Self {
            subnet,
            servers: vec![("echo".into(), upstream, upstream)],
            query_port: 1434,
            advertise_via: [None, None],
            node_lines: String::new(),
            server_lines: String::new(),
            rdma: rdma::device().into_iter().collect(),
            separate: None,
            // A busy machine may keep one process from running for seconds: in most stories nothing is to be lost.
            lost_after: 100,
        }
    }
}

/// A running cluster called `test`; its daemons end when it is dropped.
pub struct Cluster {
    plan: Plan,
    dir: tempfile::TempDir,
    key: SecretKey,
    nodes: [Option<Background>; 2],
}

/// The nodes' names.
pub const NODES: [&str; 2] = ["node-a", "node-b"];

impl Cluster {
    /// Starts both daemons and waits until node-a is active for every name.
    #[track_caller]
    pub fn start(plan: Plan) -> Self {
        std::fs::create_dir_all(programs::scratch()).expect("target can be written");
        let dir = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(programs::scratch())
            .expect("target can be written");
        let key = SecretKey::generate().expect("the kernel has random numbers");
        let mut cluster = Self {
            plan,
            dir,
            key,
            nodes: [None, None],
        };
        cluster.write_files();
        for node in 0..2 {
            cluster.start_node(node);
        }
        cluster.wait_active(0);
        cluster
    }

    /// Scratch space.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node's address without a port.
    pub fn addr(&self, node: usize) -> Ipv4Addr {
        match &self.plan.separate {
            Some(separate) => separate.hosts[node],
            None => Ipv4Addr::new(127, 0, self.plan.subnet, 11 + node as u8),
        }
    }

    /// Where a node is asked.
    pub fn query_addr(&self, node: usize) -> SocketAddr {
        (self.addr(node), self.plan.query_port).into()
    }

    /// Starts a node's daemon (again).
    #[track_caller]
    pub fn start_node(&mut self, node: usize) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .expect("the scratch directory can be written");
        let mut vianetd = match &self.plan.separate {
            Some(separate) => {
                // Of that network, and of this file system.
                let mut ip = command("nsenter");
                let netns = format!("--net=/run/netns/{}", separate.netns[node]);
                ip.arg(netns).arg(built("vianetd"));
                ip
            }
            None => command(built("vianetd")),
        };
        vianetd
            .arg("--config")
            .arg(self.dir().join(format!("{}.toml", NODES[node])))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log);
        self.nodes[node] = Some(Background::start(&mut vianetd));
    }

    /// A node's daemon, to be frozen or killed.
    #[track_caller]
    pub fn node(&mut self, node: usize) -> &mut Background {
        self.nodes[node].as_mut().expect("was started")
    }

    /// kill -9 of a node's daemon.
    pub fn kill_node(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// Everything that a node's daemon logged.
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.dir().join(format!("{}.log", NODES[node]))
    }

    /// One request to a node's control socket.
    pub fn control(&self, node: usize, request: &str) -> Option<serde_json::Value> {
        let path = self.dir().join("run").join(format!("{}.ctl", NODES[node]));
        let mut stream = UnixStream::connect(path).ok()?;
        let limit = Some(std::time::Duration::from_secs(5));
        stream.set_read_timeout(limit).ok()?;
        stream.set_write_timeout(limit).ok()?;
        writeln!(stream, "{request}").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// What a node is for the first server name.
    pub fn role(&self, node: usize) -> Option<String> {
        let status = self.control(node, r#"{"do":"status"}"#)?;
        Some(status["servers"][0]["role"].as_str()?.to_owned())
    }

    /// Waits until `node` is active for every name.
    #[track_caller]
    pub fn wait_active(&self, node: usize) {
        wait_for("the node to be active", || {
            let status = self.control(node, r#"{"do":"status"}"#)?;
            status["servers"]
                .as_array()?
                .iter()
                .all(|s| s["role"] == "active")
                .then_some(())
        });
    }

    /// A `client.toml`; `top` goes above the cluster, `inside` into it. Silence is a loss late, unless `top` says otherwise.
    pub fn client_toml(&self, name: &str, top: &str, inside: &str) -> PathBuf {
        let nodes = [self.query_addr(0), self.query_addr(1)].map(|a| a.to_string());
        self.client_toml_at(name, &nodes, top, inside)
    }

    /// The same with other addresses to ask, taps say.
    pub fn client_toml_at(&self, name: &str, nodes: &[String], top: &str, inside: &str) -> PathBuf {
        let path = self.dir().join(name);
        let shm_dir = self.dir().join("run");
        let patience = match top.contains("probes_lost") {
            true => "",
            false => "probes_lost = 100\n",
        };
        let text = format!(
            "shm_dir = {shm_dir:?}\n{patience}{top}\n[clusters.test]\nnodes = {nodes:?}\npublic_key = \"{}\"\n{inside}\n",
            self.key.public().to_hex()
        );
        std::fs::write(&path, text).expect("the scratch directory can be written");
        path
    }

    fn write_files(&self) {
        let dir = self.dir();
        std::fs::create_dir(dir.join("run")).expect("a fresh directory");
        std::fs::write(dir.join("key"), self.key.to_hex()).expect("a fresh directory");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(dir.join("key"), private).expect("our own file");
        for (node, name) in NODES.iter().enumerate() {
            let text = self.node_toml(node);
            std::fs::write(dir.join(format!("{name}.toml")), text).expect("a fresh directory");
        }
    }

    /// A node's configuration file.
    pub fn node_toml(&self, node: usize) -> String {
        let (me, peer) = (self.addr(node), self.query_addr(1 - node));
        let port = self.plan.query_port;
        let advertise = self.plan.advertise_via[node]
            .map(|a| format!("advertise_via_tcp = [\"{a}\"]\n"))
            .unwrap_or_default();
        // All nodes have the device's one address: a port for each.
        let rdma_port = 20_000 + 2 * u16::from(self.plan.subnet) + node as u16;
        let separate = self.plan.separate.iter();
        let own = separate.map(|separate| separate.hosts[node].into());
        let addrs: Vec<_> = (self.plan.rdma.iter().copied().chain(own))
            .map(|ip| SocketAddr::new(ip, rdma_port).to_string())
            .collect();
        let rdma = match addrs.is_empty() {
            true => String::new(),
            false => format!("via_rdma = {addrs:?}\n"),
        };
        let mut text = format!(
            "node = \"{name}\"\ncluster = \"test\"\ncluster_id = \"000102030405060708090a0b0c0d0e0f\"\n\
             key_file = \"key\"\nstate_dir = \"state-{name}\"\nshm_dir = \"run\"\n{more}\n\
             [authority]\nkind = \"keepalive\"\nlost_after = {lost_after}\n\
             [listen]\nquery = [\"{me}:{port}\"]\nvia_tcp = [\"{me}:7434\"]\n{rdma}{advertise}\
             [[peers]]\nnode = \"{other}\"\nquery = \"{peer}\"\n",
            name = NODES[node],
            other = NODES[1 - node],
            more = self.plan.node_lines,
            lost_after = self.plan.lost_after,
        );
        let source = match &self.plan.separate {
            Some(_) => format!("upstream_source = \"{me}\"\n"),
            None => String::new(),
        };
        for (name, a, b) in &self.plan.servers {
            let upstream = [a, b][node];
            let _ = write!(
                text,
                "[[servers]]\nname = \"{name}\"\ninitial_active = {}\nupstream = \"{upstream}\"\n\
                 advertise_tcp = \"{upstream}\"\n{source}{}\n",
                node == 0,
                self.plan.server_lines,
            );
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (node, name) in NODES.iter().enumerate() {
                eprintln!("--- {name}\n{}", self.log(node));
            }
        }
    }
}

/// Sends one datagram and returns what comes back within two seconds.
pub fn ask(addr: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(2)))
        .expect("not zero");
    socket.send_to(request, addr).ok()?;
    let mut buf = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buf).ok()?;
    (from == addr).then(|| buf[..len].to_vec())
}

/// What comes back at last: a datagram may be lost, and an active node is silent while it may not serve.
#[track_caller]
pub fn answer(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    wait_for("an answer", || ask(addr, request))
}
