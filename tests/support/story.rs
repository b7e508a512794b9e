//! One failover, told by everything that saw it: the wire, the client application, the library's journal, the daemons.
//!
//! A client application holds one connection to `ledger` by name, over VIA on TCP so that its packets can be seen; or on an
//! RDMA device, where nobody sees them: there the kernel's list of queue pairs and its counters, and what both ends say,
//! stand for them. The active node is killed; the application goes on and never learns. The claims are read from the record.

use super::c::How;
use super::lab::Lab;
use super::programs::install_below;
use super::sqlline::SqlLine;
use super::wire::{Capture, Kind, Packet, tcp_stream};
use super::{rdma, wait_for, with_lab_cluster};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use vianet::resolve::identity::PublicKey;
use vianet::resolve::keepalive::KeepAlive;
use vianet::resolve::query::{Query, TYPE_ANSWER, TYPE_QUERY};
use vianet::resolve::wire::datagram_type;
use vianet::resolve::{Answer, keepalive};
use vianet::via::RejectReason;
use vianet::via::packet::{self, Accepted, Connect, HEADER_BYTES, Header, Type};

/// Where nodes are asked.
pub const QUERY_PORT: u16 = 1434;
/// Where they listen for VIA packets.
pub const VIA_PORT: u16 = 7434;
/// Where they listen for VIA over RDMA.
pub const RDMA_PORT: u16 = 7435;
/// The server name, without and with its cluster.
pub const SERVER: &str = "ledger";
/// See [`SERVER`].
pub const NAME: &str = "ledger.lab";

/// The record.
pub struct Story {
    /// First and second server.
    pub nodes: [Ipv4Addr; 2],
    /// Everything that travelled.
    pub packets: Vec<Packet>,
    /// A moment at which node-a still lived; it was killed next.
    pub killed: Instant,
    /// The cluster's key.
    pub key: PublicKey,
    /// `lab status --json` before and after.
    pub status: [serde_json::Value; 2],
    /// The library's own log: `module: text`, in order.
    pub journal: Vec<String>,
    /// What the daemons logged.
    pub logs: [String; 2],
    /// What the RDMA device under test did for the application's connection to each node.
    pub carried: Option<[Carried; 2]>,
    /// The application's `CONNECTED` lines.
    pub connects: Vec<String>,
    /// The application's descriptor before and after, as far as it can say.
    pub descriptors: [String; 2],
    /// What the application read: after the failure, all rows.
    pub rows: serde_json::Value,
    /// What node-b said to a connect by the name, before and after: the reason of its reject, or its accept.
    pub handshakes: [Result<Accepted, RejectReason>; 2],
    /// The cluster's answers as any client gets them: node-a and node-b before, node-b after.
    pub answers: [Answer; 3],
}

/// The text of the kill's statement must not matter; both must be there in the end.
const ROWS: [&str; 2] = ["before", "after"];

impl Story {
    /// Lives it.
    #[track_caller]
    pub fn tell(how: How, subnet: u8) -> Self {
        let capture = Capture::start(subnet)
            .expect("capturing on lo needs root (or CAP_NET_RAW): see CONTRIBUTING.md");
        let lab = Lab::up("embedded", subnet);
        let nodes = [lab.node(11), lab.node(12)];
        let mut key = None;
        let config = lab.client_toml_with("tcp.toml", |text| {
            with_lab_cluster(&text, |cluster| {
                let hex = cluster["public_key"]
                    .as_str()
                    .expect("the lab pins its key");
                key = Some(PublicKey::from_hex(hex).expect("the lab's key"));
                let transport = rdma::device().map_or("tcp", |_| "rdma");
                cluster.insert("transports".into(), vec![transport].into());
                // What is on the wire is looked at.
                cluster.insert("tls".into(), "off".into());
            })
        });
        let key = key.expect("was read");
        let journal = lab.dir().join("journal");
        // Who opens the library by hand opens the one that was installed.
        let library = match how {
            How::ByHand => install_below(&lab.dir().join("installed")).join("lib/libvianet.so"),
            _ => PathBuf::new(),
        };
        let args = [NAME, &library.to_string_lossy()];
        let mut client = SqlLine::start_with(how, &config, &args, &[("VIANET_DEBUG", &journal)]);
        if how == How::ByHand {
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", client.pid()));
            let file = library.canonicalize().expect("installed");
            let file = file.to_string_lossy();
            assert!(
                maps.expect("it runs").contains(&*file),
                "{file} is not mapped"
            );
        }

        let first = Carried::by(&mut client, &lab, "node-a", |client| {
            client.sql("CREATE TABLE story (n INTEGER PRIMARY KEY, what TEXT)");
            client.sql(&format!("INSERT INTO story VALUES (1, '{}')", ROWS[0]));
        });
        wait_for("the passive node's keep-alives", || {
            (pings(&capture.packets(), nodes, &key).len() >= 5).then_some(())
        });
        let before = client.info("fd");
        let status_before = lab.status();
        let answers = [ask(nodes[0], &key), ask(nodes[1], &key)];
        let handshake = shake_hands(nodes[1]);
        let killed = Instant::now();
        lab.tell("kill", "node-a");

        // A statement that is sent before the library has noticed may have reached the first server: it is not moved.
        wait_until_noticed(&journal);
        // The application notices nothing: no error, no reconnect, the next statement is answered.
        let mut rows = serde_json::Value::Null;
        let second = Carried::by(&mut client, &lab, "node-b", |client| {
            client.sql(&format!("INSERT INTO story VALUES (2, '{}')", ROWS[1]));
            rows = client.sql("SELECT what FROM story ORDER BY n")["rows"].clone();
        });
        let descriptors = [before, client.info("fd")];
        let answers = {
            let [a, b] = answers;
            [a, b, ask(nodes[1], &key)]
        };
        let handshakes = [handshake, shake_hands(nodes[1])];
        let status = [status_before, lab.status()];
        let connects = client.connects.clone();
        client.end();
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        Self {
            nodes,
            killed,
            key,
            status,
            journal: text
                .lines()
                .map(|line| without_origin(line).to_owned())
                .collect(),
            logs: ["node-a", "node-b"].map(|node| lab.daemon_log(node)),
            carried: first.zip(second).map(|(first, second)| [first, second]),
            connects,
            descriptors,
            rows,
            handshakes,
            answers,
            packets: {
                drop(lab);
                capture.finish()
            },
        }
    }

    /// Datagrams of the cluster query, in order: who asked whom for what.
    pub fn queries(&self) -> Vec<(&Packet, Query)> {
        let asked = |p: &&Packet| p.kind == Kind::Udp && datagram_type(&p.data) == Some(TYPE_QUERY);
        self.packets
            .iter()
            .filter(asked)
            .filter_map(|p| Some((p, Query::parse(&p.data).ok()?)))
            .collect()
    }

    /// The authentic answers to `query` from `node`: a request that was sent again may have several.
    pub fn answers_to(&self, asked: &Packet, query: &Query, node: usize) -> Vec<(&Packet, Answer)> {
        self.packets
            .iter()
            .filter(|p| p.kind == Kind::Udp && datagram_type(&p.data) == Some(TYPE_ANSWER))
            .filter(|p| p.dst == asked.src && p.at >= asked.at)
            .filter(|p| p.src == SocketAddrV4::new(self.nodes[node], QUERY_PORT))
            .filter_map(|p| {
                Some((
                    p,
                    query
                        .parse_answer(&p.data, now_ms(), Some(&self.key))
                        .ok()?,
                ))
            })
            .collect()
    }

    /// The application's VIA connections to a node: those on which its stream travelled.
    pub fn via_connections(&self, node: usize) -> Vec<ViaConnection> {
        if let Some(carried) = &self.carried {
            let event = |line: &str, name: &str| line.contains(&format!("event=\"{name}\""));
            let channel = |line: &str| logged(line, "channel").to_owned();
            let lines = || self.logs[node].lines();
            // One that the client no longer waited for when it was accepted: no byte came.
            let unused: Vec<_> = lines()
                .filter(|line| event(line, "channel-closed") && logged(line, "from_client") == "0")
                .map(channel)
                .collect();
            return lines()
                .filter(|line| event(line, "channel-open") && line.contains("transport=rdma"))
                .filter(|line| !unused.contains(&channel(line)))
                .map(|line| ViaConnection::logged(line, NODES[node], &carried[node]))
                .collect();
        }
        let to = SocketAddrV4::new(self.nodes[node], VIA_PORT);
        let syns = self
            .packets
            .iter()
            .filter(|p| p.dst == to && matches!(p.kind, Kind::Tcp { syn: true, .. }));
        syns.filter_map(|syn| {
            let there = via_packets(&tcp_stream(&self.packets, syn.src, to));
            let back = via_packets(&tcp_stream(&self.packets, to, syn.src));
            let data = |(header, _): &(Header, Vec<u8>)| header.kind == Type::Data;
            let used = there.iter().any(data);
            used.then(|| ViaConnection::seen(syn.at, there, back))
        })
        .collect()
    }

    /// Position of the first record of the journal from `after` on that contains all `words`.
    pub fn noted(&self, after: usize, words: &[&str]) -> Option<usize> {
        let has = |line: &String| words.iter().all(|word| line.contains(word));
        (after..self.journal.len()).find(|i| has(&self.journal[*i]))
    }

    /// The passive node's keep-alives to the active one.
    pub fn pings(&self) -> Vec<(Instant, KeepAlive)> {
        pings(&self.packets, self.nodes, &self.key)
    }

    /// Whether something from the active node echoes `ping`.
    pub fn is_answered(&self, ping: &KeepAlive) -> bool {
        let [active, passive] = self.nodes;
        let answers = keep_alives(&self.packets, [passive, active], &self.key);
        answers.iter().any(|(_, said)| said.echo == ping.nonce)
    }

    /// Both rows are there, the one that the first server stored and the one that the second did.
    pub fn rows_are_complete(&self) -> bool {
        self.rows == serde_json::json!([[ROWS[0]], [ROWS[1]]])
    }
}

/// Waits until the library's log says that a connection's failure was noticed.
#[track_caller]
pub fn wait_until_noticed(journal: &std::path::Path) {
    wait_for("the library to notice the failure", || {
        let text = std::fs::read_to_string(journal).unwrap_or_default();
        (text.contains("ChannelBroken") || text.contains("NodeLost")).then_some(())
    });
}

/// The nodes' names.
const NODES: [&str; 2] = ["node-a", "node-b"];

/// One VIA connection of the application's.
#[derive(Debug)]
pub struct ViaConnection {
    /// When the client's SYN was seen; over RDMA, when the node accepted.
    pub begun: Instant,
    /// The name for which the connection was asked for.
    pub server: String,
    /// The node that accepted.
    pub node: String,
    /// In its accept.
    pub generation: u64,
    /// What carried it.
    pub evidence: Evidence,
}

/// How it is known that the bytes travelled so.
#[derive(Debug)]
pub enum Evidence {
    /// Every byte of the TCP connection, read as VIA packets: the client's, and the node's.
    Packets([Vec<(Header, Vec<u8>)>; 2]),
    /// The device.
    Device(Carried),
}

impl ViaConnection {
    fn seen(begun: Instant, there: Vec<(Header, Vec<u8>)>, back: Vec<(Header, Vec<u8>)>) -> Self {
        let (header, payload) = there.first().expect("a client speaks first");
        assert_eq!(header.kind, Type::Connect);
        let asked = *header;
        let connect = Connect::decode(Type::Connect, payload).expect("well formed");
        let (header, payload) = back.first().expect("the node answers");
        assert_eq!(header.kind, Type::Accept);
        let accept = Accepted::decode(header.flags, payload).expect("well formed");
        assert!(header.generation >= asked.generation);
        assert!(accept.signature.is_some(), "the node signs for it");
        Self {
            begun,
            server: connect.server,
            node: accept.node,
            generation: header.generation,
            evidence: Evidence::Packets([there, back]),
        }
    }

    /// From the line of the node that accepted. (That the accept was signed is in the library's journal.)
    fn logged(line: &str, node: &str, carried: &Carried) -> Self {
        Self {
            begun: instant(
                line.split_whitespace()
                    .next()
                    .expect("begins with its time"),
            ),
            server: logged(line, "server").trim_matches('"').to_owned(),
            node: node.to_owned(),
            generation: logged(line, "generation").parse().expect("a number"),
            evidence: Evidence::Device(carried.clone()),
        }
    }
}

/// What the RDMA device under test was seen to do while the application asked one node something.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The application's working queue pairs.
    pub application: usize,
    /// The node daemon's.
    pub daemon: usize,
    /// Packets that the device sent, where it counts them.
    pub packets: Option<u64>,
}

impl Carried {
    /// While `ask` runs; `None` where there is no device under test.
    #[track_caller]
    fn by(
        client: &mut SqlLine,
        lab: &Lab,
        node: &str,
        ask: impl FnOnce(&mut SqlLine),
    ) -> Option<Self> {
        if rdma::device().is_none() {
            ask(client);
            return None;
        }
        let pid = lab.daemon_pid(node);
        let pairs = |pid| rdma::queue_pairs_of(pid);
        // Which one it will be is not known yet: that of a connection that is lost is not a working one.
        let before = rdma::devices().map(|device| (rdma::packets_sent(&device), device));
        let before: Vec<_> = before.collect();
        ask(client);
        let application = pairs(client.pid());
        let used = application
            .first()
            .expect("a queue pair of the application");
        let before = before
            .into_iter()
            .find(|(_, device)| *device == used.device);
        let sent = rdma::packets_sent(&used.device).zip(before.and_then(|(sent, _)| sent));
        Some(Self {
            application: application.len(),
            daemon: pairs(pid).len(),
            packets: sent.map(|(after, before)| after - before),
        })
    }
}

/// A field of a line of a daemon's log.
fn logged<'a>(line: &'a str, key: &str) -> &'a str {
    let rest = line.split(&format!(" {key}=")).nth(1);
    let value = rest.and_then(|rest| rest.split(' ').next());
    value.unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// A moment in a daemon's log, `2026-11-27T21:51:52.123456Z`.
fn instant(text: &str) -> Instant {
    let number = |range| -> i32 {
        let digits: Option<&str> = text.get(range);
        digits
            .and_then(|d| d.parse().ok())
            .unwrap_or_else(|| panic!("{text}: no time"))
    };
    // SAFETY: a plain struct of numbers, for which zero is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    (tm.tm_year, tm.tm_mon, tm.tm_mday) = (number(0..4) - 1900, number(5..7) - 1, number(8..10));
    (tm.tm_hour, tm.tm_min, tm.tm_sec) = (number(11..13), number(14..16), number(17..19));
    // SAFETY: reads and writes only the struct.
    let seconds = unsafe { libc::timegm(&raw mut tm) } as u64;
    let at = std::time::Duration::new(seconds, number(20..26) as u32 * 1000);
    let ago = SystemTime::now().duration_since(UNIX_EPOCH + at);
    Instant::now() - ago.expect("in the past")
}

/// The stream as packets; panics where it is none. Only the end may be cut.
#[track_caller]
fn via_packets(mut stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut packets = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<HEADER_BYTES>() {
        let header =
            Header::decode(header).expect("everything on a VIA connection is a VIA packet");
        let Some(payload) = rest.get(..header.length as usize) else {
            break;
        };
        packets.push((header, payload.to_vec()));
        stream = &rest[header.length as usize..];
    }
    packets
}

/// What the second of `nodes` said to the first about being alive.
fn keep_alives(
    packets: &[Packet],
    nodes: [Ipv4Addr; 2],
    key: &PublicKey,
) -> Vec<(Instant, KeepAlive)> {
    let [to, from] = nodes.map(|ip| SocketAddrV4::new(ip, QUERY_PORT));
    packets
        .iter()
        .filter(|p| p.kind == Kind::Udp && p.src == from && p.dst == to)
        .filter_map(|p| Some((p.at, KeepAlive::parse(&p.data, now_ms(), key).ok()?)))
        .collect()
}

fn pings(packets: &[Packet], nodes: [Ipv4Addr; 2], key: &PublicKey) -> Vec<(Instant, KeepAlive)> {
    let mut pings = keep_alives(packets, nodes, key);
    pings.retain(|(_, alive)| alive.kind == keepalive::Kind::Ping);
    pings
}

/// Asks one node who serves the name.
#[track_caller]
fn ask(node: Ipv4Addr, key: &PublicKey) -> Answer {
    let query = Query {
        nonce: rand_16(),
        server: SERVER.into(),
        min_generation: 0,
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let resend = std::time::Duration::from_millis(300);
    socket.set_read_timeout(Some(resend)).expect("not zero");
    let request = query.encode().expect("a good name");
    let mut buf = [0; 2048];
    let len = wait_for("the node's answer", || {
        socket.send_to(&request, (node, QUERY_PORT)).expect("sent");
        socket.recv(&mut buf).ok()
    });
    query
        .parse_answer(&buf[..len], now_ms(), Some(key))
        .expect("an authentic answer")
}

/// The connect handshake by hand: does this node answer to the name?
#[track_caller]
fn shake_hands(node: Ipv4Addr) -> Result<Accepted, RejectReason> {
    use std::io::{Read, Write};
    let connect = Connect {
        ring_log2: 16,
        nonce: rand_16(),
        boot_id: [0; 16],
        server: SERVER.into(),
        resume: None,
    };
    let addr: SocketAddr = (node, VIA_PORT).into();
    let mut stream = TcpStream::connect(addr).expect("the node listens");
    stream
        .set_read_timeout(Some(super::PATIENCE))
        .expect("not zero");
    stream.write_all(&connect.encode(0, 0)).expect("sent");
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).expect("an answer");
    let header = Header::decode(&bytes).expect("a VIA packet");
    let mut payload = vec![0; header.length as usize];
    stream.read_exact(&mut payload).expect("an answer");
    match header.kind {
        Type::Accept => Ok(Accepted::decode(header.flags, &payload).expect("well formed")),
        Type::Reject => Err(packet::decode_reject(&payload).expect("well formed")),
        other => panic!("{other:?} in answer to a connect"),
    }
}

fn rand_16() -> [u8; 16] {
    vianet::resolve::identity::random_bytes().expect("the kernel has random numbers")
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}

/// Without process id and level.
fn without_origin(line: &str) -> &str {
    // Before the module, which ends with a colon.
    let module = line.find(": ").and_then(|end| line[..end].rfind(' '));
    module.map_or(line, |at| &line[at + 1..])
}
