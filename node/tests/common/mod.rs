//! A cluster of two real daemons on loopback addresses of its own, with an echo server behind each.
#![allow(dead_code)]

pub mod client;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vianet::resolve::identity::{SecretKey, random_bytes};
use vianet::resolve::query::Query;
use vianet::resolve::{Answer, Role};
use vianet::via::Tls;
use vianet_node::config::*;
use vianet_node::control::{Reply, Request, Status};

/// Everything ends within this, on however slow a machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Asks until `f` gives something.
pub fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The peer is lost after so many unanswered keep-alives. On a busy machine one daemon may stand still while the other one
/// runs: the default, a second, is too short for a test.
pub fn lost_after(times: u32) -> Authority {
    let mut authority = Authority::default();
    let Authority::Keepalive { lost_after, .. } = &mut authority;
    *lost_after = times;
    authority
}

/// For clusters in which nothing is to be lost.
pub fn calm(config: &mut Node) {
    config.authority = lost_after(100);
}

/// A server that sends back what it gets, and ends its direction when the client does.
pub fn echo(addr: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(addr).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut copy);
                let _ = copy.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    addr
}

/// Waits until no other run of these tests on this machine uses the subnet; it is ours until the process ends (the
/// echo servers live as long).
fn own(subnet: u8) {
    let path = std::env::temp_dir().join(format!("vianet-test-127.0.{subnet}.lock"));
    let file = std::fs::File::create(path).unwrap();
    file.lock().unwrap();
    std::mem::forget(file);
}

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub subnet: u8,
    pub key: SecretKey,
    pub cluster_id: String,
    pub nodes: Vec<Daemon>,
}

pub struct Daemon {
    pub config: Node,
    pub path: PathBuf,
    pub child: Option<Child>,
    pub log: PathBuf,
}

impl Lab {
    /// Two nodes, `node-a` at 127.0.SUBNET.11 (initially active) and `node-b` at .12, with `edit` applied to each
    /// configuration; not started.
    pub fn new(subnet: u8, edit: impl Fn(usize, &mut Node)) -> Self {
        Self::of(2, subnet, edit)
    }

    pub fn of(count: usize, subnet: u8, edit: impl Fn(usize, &mut Node)) -> Self {
        own(subnet);
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::generate().unwrap();
        let id: [u8; 16] = random_bytes().unwrap();
        let cluster_id: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let key_file = dir.path().join("cluster.key");
        std::fs::write(&key_file, key.to_hex()).unwrap();
        std::fs::set_permissions(key_file, Permissions::from_mode(0o600)).unwrap();
        let names = ["node-a", "node-b"];
        let ip = |i: usize| format!("127.0.{subnet}.{}", 11 + i);
        let nodes = (0..count)
            .map(|i| {
                let upstream: SocketAddr = format!("{}:5432", ip(i)).parse().unwrap();
                let mut config = Node {
                    node: names[i].into(),
                    cluster: "lab".into(),
                    cluster_id: cluster_id.clone(),
                    key_file: Some("cluster.key".into()),
                    state_dir: format!("state-{}", names[i]).into(),
                    shm_dir: "run".into(),
                    control_socket: None,
                    http: None,
                    listen: Listen {
                        query: vec![format!("{}:1434", ip(i)).parse().unwrap()],
                        via_tcp: vec![format!("{}:7434", ip(i)).parse().unwrap()],
                        advertise_via_tcp: Vec::new(),
                        via_rdma: Vec::new(),
                        tls: Tls::Auto,
                        shm: true,
                    },
                    authority: lost_after(12),
                    limits: Limits::default(),
                    peers: (0..count)
                        .filter(|&j| j != i)
                        .map(|j| Peer {
                            node: names[j].into(),
                            query: format!("{}:1434", ip(j)).parse().unwrap(),
                        })
                        .collect(),
                    servers: vec![Server {
                        name: "sales".into(),
                        initial_active: i == 0,
                        upstream: Upstream::Tcp(upstream),
                        upstream_source: None,
                        protocol: Protocol::Raw,
                        allow_unauthenticated_upstream: false,
                        allow_plaintext: false,
                        allow_unwatched_tls: false,
                        version: "15.0".into(),
                        advertise_tcp: vec![upstream],
                        advertise_dac: Vec::new(),
                        advertise_np: None,
                        health_interval_ms: 250,
                        health_failures: 3,
                        promote_wait_ms: 30_000,
                        hooks: Hooks::default(),
                        tickets: None,
                    }],
                };
                edit(i, &mut config);
                let path = dir.path().join(format!("{}.toml", names[i]));
                std::fs::write(&path, config.to_toml()).unwrap();
                let config = Node::load(&path).unwrap();
                Daemon {
                    log: dir.path().join(format!("{}.log", names[i])),
                    config,
                    path,
                    child: None,
                }
            })
            .collect();
        Self {
            dir,
            subnet,
            key,
            cluster_id,
            nodes,
        }
    }

    /// Starts all with an echo server behind each, and waits until one is active.
    pub fn up(mut self) -> Self {
        for node in &self.nodes {
            if let Upstream::Tcp(addr) = node.config.servers[0].upstream {
                echo(addr);
            }
        }
        for node in &mut self.nodes {
            node.start();
        }
        let active = self.wait_active(0);
        if self.nodes.len() > 1 {
            until(&format!("node-b knows\n{}", self.logs()), || {
                self.ask(1, "sales")
                    .filter(|a| a.generation == active.generation)
            });
        }
        self
    }

    pub fn addr(&self, node: usize) -> SocketAddr {
        self.nodes[node].config.listen.query[0]
    }

    /// The active answer of node `i`, waited for.
    pub fn wait_active(&self, i: usize) -> Answer {
        until(&format!("node {i} active\n{}", self.logs()), || {
            self.ask(i, "sales").filter(|a| a.role == Role::Active)
        })
    }

    pub fn wait_role(&self, i: usize, role: Role) -> Answer {
        until(&format!("node {i} {role:?}\n{}", self.logs()), || {
            self.ask(i, "sales").filter(|a| a.role == role)
        })
    }

    /// What node `i` answers; waited for, also because an active node is silent while it may not serve.
    pub fn answer(&self, i: usize, server: &str) -> Answer {
        until(&format!("an answer of node {i}"), || self.ask(i, server))
    }

    /// The cluster query to one node; `None` where nothing (believable) comes back.
    pub fn ask(&self, node: usize, server: &str) -> Option<Answer> {
        let query = Query {
            nonce: random_bytes().unwrap(),
            server: server.into(),
            min_generation: 0,
        };
        let answer = exchange(self.addr(node), &query.encode().unwrap())?;
        let now = vianet_node::clock::wall_ms();
        Some(
            query
                .parse_answer(&answer, now, Some(&self.key.public()))
                .unwrap(),
        )
    }

    pub fn logs(&self) -> String {
        self.nodes
            .iter()
            .map(|n| {
                let log = std::fs::read_to_string(&n.log).unwrap_or_default();
                format!("--- {}\n{log}", n.config.node)
            })
            .collect()
    }
}

/// Sends a datagram and waits a little for the answer: once, so silence proves little and an answer is worth asking for
/// again.
pub fn exchange(to: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    let any = if to.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    socket.send(datagram).ok()?;
    let mut buffer = [0; 65536];
    let n = socket.recv(&mut buffer).ok()?;
    Some(buffer[..n].to_vec())
}

impl Daemon {
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vianetd"))
            .arg("--config")
            .arg(&self.path)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Started so that it cannot write a byte to any file, as on a full disk; the log comes through a pipe.
    pub fn start_on_a_full_disk(&mut self) {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 0; exec \"$0\" --config \"$1\"",
            ])
            .arg(env!("CARGO_BIN_EXE_vianetd"))
            .arg(&self.path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from = child.stderr.take().unwrap();
        let mut to = std::fs::File::create(&self.log).unwrap();
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        self.child = Some(child);
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    pub fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        // SAFETY: a named constant of the platform.
        let signal = unsafe { rustix::process::Signal::from_raw_unchecked(signal) };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn control(&self, request: &Request) -> Option<Reply> {
        control(&self.config.control_path(), request)
    }

    pub fn status(&self) -> Status {
        match until("status", || self.control(&Request::Status)) {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

pub fn control(path: &Path, request: &Request) -> Option<Reply> {
    let mut stream = UnixStream::connect(path).ok()?;
    let mut line = serde_json::to_string(request).unwrap();
    line.push('\n');
    stream.write_all(line.as_bytes()).ok()?;
    let mut reply = String::new();
    BufReader::new(&stream).read_line(&mut reply).ok()?;
    serde_json::from_str(&reply).ok()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads exactly as many bytes as `expected` has and compares.
pub fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, expected);
}
