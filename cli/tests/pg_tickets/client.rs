//! A client of one node's channel that speaks PostgreSQL over it, asks for its ticket, and redeems one.

use crate::pg_lab::{LIMIT, Lab};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use vianet::resolve::Endpoint;
use vianet::resolve::identity::{PublicKey, random_bytes};
use vianet::resolve::ticket::{Ask, Given, Held, Key, Place, Why};
use vianet::via::bell::AppBell;
use vianet::via::channel::{Received, Wait};
use vianet::via::shm::Shm;
use vianet::via::tcp::TcpProvider;
use vianet::via::{Accept, Channel, ConnectRequest, Provider, Transport};
use vianet_node::pg::client::{Client, Error};
use vianet_node::pg::wire::{self, Outbox};

const PATIENT: Wait = Wait::Until {
    spin: Duration::ZERO,
    timeout: Some(Duration::from_secs(30)),
};

/// The last part of a node's address.
pub const A: u8 = 11;
pub const B: u8 = 12;

/// A channel as a stream of bytes.
pub struct Stream {
    channel: Arc<Channel>,
    /// The first thing that is written is a startup packet: this goes before it.
    ticket: Option<Held>,
    place: Place,
    /// So many bytes go at once.
    piece: usize,
    _near: std::os::fd::OwnedFd,
}

/// A session through one node, or what is needed to log in again.
pub struct Session {
    pub pg: Client<Stream>,
    pub key: Arc<Key>,
    pub accept: Accept,
    node: u8,
}

pub fn cluster_key(lab: &Lab) -> PublicKey {
    let text = std::fs::read_to_string(lab.dir().join("client.toml")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("public_key = "));
    PublicKey::from_hex(line.unwrap().trim_matches('"')).unwrap()
}

fn connect(lab: &Lab, node: u8, transport: Transport, key: &Key) -> (Stream, Accept) {
    let end = Instant::now() + LIMIT;
    loop {
        let (near, bell) = AppBell::pair().unwrap();
        let request = ConnectRequest {
            patient: false,
            warm: false,
            server: "sales".into(),
            node: if node == A { "node-a" } else { "node-b" }.into(),
            endpoint: Endpoint {
                transport,
                addr: match transport {
                    Transport::Tcp => lab.address(node, 7434),
                    _ => SocketAddr::from(([0, 0, 0, 0], 0)),
                },
            },
            min_generation: 0,
            pinned: Some(cluster_key(lab)),
            tls: vianet::via::Tls::Auto,
            shm_dir: lab.dir().join("run"),
            ring_bytes: 65_536,
            bell: Some(Arc::new(bell)),
            resume: None,
            nonce: Some(key.commitment()),
        };
        match finish(request) {
            Ok(channel) => {
                let accept = channel.accept.clone();
                let stream = Stream {
                    channel,
                    ticket: None,
                    place: Place::new(&accept, "sales"),
                    piece: usize::MAX,
                    _near: near,
                };
                return (stream, accept);
            }
            Err(why) => assert!(Instant::now() < end, "{why}: {}", lab.logs()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn finish(request: ConnectRequest) -> Result<Arc<Channel>, String> {
    let provider: &dyn Provider = match request.endpoint.transport {
        Transport::Shm => &Shm,
        _ => &TcpProvider,
    };
    let mut connecting = provider.connect(request).map_err(|e| format!("{e:?}"))?;
    loop {
        match connecting.advance() {
            Poll::Ready(channel) => {
                let channel = Arc::new(channel.map_err(|e| format!("{e:?}"))?);
                channel.activate();
                return Ok(channel);
            }
            Poll::Pending => {
                let interest = connecting.interest();
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, interest.read);
                flags.set(PollFlags::OUT, interest.write);
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: 100_000_000,
                };
                let fd = connecting.wait_fd();
                let _ = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout));
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = Instant::now() + LIMIT;
        loop {
            self.channel.settle();
            match self.channel.recv(buffer, PATIENT) {
                Ok(Received::Bytes(n)) => return Ok(n),
                Ok(Received::End) | Err(_) => return Ok(0),
                Ok(_) => assert!(Instant::now() < end, "nothing came"),
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(held) = self.ticket.take() {
            let all = held.redemption(&self.place, bytes);
            let mut rest = &all[..];
            while !rest.is_empty() {
                rest = &rest[self.write(rest)?..];
            }
            return Ok(bytes.len());
        }
        let bytes = &bytes[..bytes.len().min(self.piece)];
        let sent = self.channel.send(&[IoSlice::new(bytes)], PATIENT);
        sent.map_err(|e| io::Error::other(format!("{e:?}")))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    /// By password.
    pub fn log_in(lab: &Lab, node: u8, transport: Transport, password: &str) -> Self {
        let key = Arc::new(Key::generate().unwrap());
        let (stream, accept) = connect(lab, node, transport, &key);
        let pg = Client::log_in(stream, "app", password, "app");
        Self {
            pg: pg.unwrap_or_else(|e| panic!("{e}: {}", lab.logs())),
            key,
            accept,
            node,
        }
    }

    /// By password, a byte at a time.
    pub fn log_in_slowly(lab: &Lab, node: u8, transport: Transport) -> Self {
        let key = Arc::new(Key::generate().unwrap());
        let (mut stream, accept) = connect(lab, node, transport, &key);
        stream.piece = 1;
        let pg = Client::log_in(stream, "app", "app", "app").unwrap();
        Self {
            pg,
            key,
            accept,
            node,
        }
    }

    /// By ticket.
    pub fn redeem(lab: &Lab, node: u8, transport: Transport, held: &Held) -> Result<Self, Error> {
        Self::redeem_as(lab, node, transport, held, "app", "app")
    }

    pub fn redeem_as(
        lab: &Lab,
        node: u8,
        transport: Transport,
        held: &Held,
        user: &str,
        database: &str,
    ) -> Result<Self, Error> {
        let key = Arc::new(Key::generate().unwrap());
        let (mut stream, accept) = connect(lab, node, transport, &key);
        stream.ticket = Some(held.clone());
        // A server that lets everybody in is what it looks like: no password is asked for.
        let pg = Client::log_in(stream, user, "", database)?;
        Ok(Self {
            pg,
            key,
            accept,
            node,
        })
    }

    pub fn value(&mut self, sql: &str) -> String {
        let answer = self.pg.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        answer.rows[0][0].clone().unwrap()
    }

    /// What the node says of the channel's ticket, once it says something definite.
    pub fn given(&self, lab: &Lab) -> Given {
        given(lab, self.node, self.accept.channel_id, &self.key, |why| {
            why != Why::Pending
        })
    }

    /// The ticket, as soon as the nodes have exchanged their keys.
    pub fn ticket(&self, lab: &Lab) -> Held {
        let given = given(lab, self.node, self.accept.channel_id, &self.key, |why| {
            !why.may_pass()
        });
        match given {
            Given::Ticket { ticket, seconds } => {
                assert!(seconds > 0);
                Held::new(Arc::clone(&self.key), ticket)
            }
            Given::Not(why) => panic!("{why}: {}", lab.logs()),
        }
    }
}

/// Sends a redemption and a query behind it, `piece` bytes at a time, and waits for nothing between; all that the server says
/// up to the query's answer.
pub fn redeem_ahead(lab: &Lab, node: u8, held: &Held, startup: &[u8], piece: usize) -> Vec<u8> {
    let (mut stream, _) = connect(lab, node, Transport::Tcp, &Key::generate().unwrap());
    stream.piece = piece;
    let mut bytes = held.redemption(&stream.place, startup);
    bytes.extend(b"Q\0\0\0\x1dselect current_user || 1\0");
    stream.write_all(&bytes).unwrap();
    let mut kinds = Vec::new();
    loop {
        match wire::read(&mut stream).unwrap() {
            Some((kind @ (b'D' | b'E'), body)) => {
                kinds.push(kind);
                kinds.extend(body);
                return kinds;
            }
            Some((kind, _)) => kinds.push(kind),
            None => return kinds,
        }
    }
}

/// Logs in with the password in clear, once the server asks for that; what the node says of the channel's ticket then.
pub fn given_to_a_login_in_clear(lab: &Lab, node: u8) -> Given {
    let end = Instant::now() + LIMIT;
    loop {
        let key = Key::generate().unwrap();
        let (mut stream, accept) = connect(lab, node, Transport::Tcp, &key);
        let mut out = Outbox::default();
        out.sized(|b| b.extend(b"\0\x03\0\0user\0app\0database\0app\0\0"));
        out.flush(&mut stream).unwrap();
        let (kind, body) = wire::read(&mut stream).unwrap().unwrap();
        if (kind, &body[..]) == (b'R', &3_u32.to_be_bytes()[..]) {
            out.message(b'p', |b| b.extend(b"app\0"));
            out.flush(&mut stream).unwrap();
            while wire::read(&mut stream).unwrap().unwrap().0 != b'Z' {}
            return given(lab, node, accept.channel_id, &key, |why| {
                why != Why::Pending
            });
        }
        assert!(Instant::now() < end, "{kind} {body:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A login that has begun, up to the server's challenge, and goes no further.
pub fn begin(lab: &Lab, node: u8) -> Stream {
    let (mut stream, _) = connect(lab, node, Transport::Tcp, &Key::generate().unwrap());
    let mut out = Outbox::default();
    out.sized(|b| b.extend(b"\0\x03\0\0user\0app\0database\0app\0\0"));
    out.flush(&mut stream).unwrap();
    assert_eq!(wire::read(&mut stream).unwrap().unwrap().0, b'R');
    stream
}

/// Waits until the server asks for that: it reads changed rules when it likes.
pub fn until_asked(lab: &Lab, node: u8, method: &str) {
    let wanted: &[u8] = match method {
        "password" => &[0, 0, 0, 3],
        "scram-sha-256" => &[0, 0, 0, 10],
        // The relay's word for a server that asks for nothing.
        _ => b"SFATAL",
    };
    let end = Instant::now() + LIMIT;
    loop {
        let (mut stream, _) = connect(lab, node, Transport::Tcp, &Key::generate().unwrap());
        let mut out = Outbox::default();
        out.sized(|b| b.extend(b"\0\x03\0\0user\0app\0database\0app\0\0"));
        out.flush(&mut stream).unwrap();
        let (_, body) = wire::read(&mut stream).unwrap().unwrap();
        if body.starts_with(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{body:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks for the ticket of a channel until the reason for none is one that `stays`.
pub fn given(lab: &Lab, node: u8, channel: u64, key: &Key, stays: impl Fn(Why) -> bool) -> Given {
    let socket = UdpSocket::bind(lab.address(1, 0)).unwrap();
    socket.connect(lab.address(node, 1434)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let end = Instant::now() + LIMIT;
    loop {
        let ask = Ask {
            nonce: random_bytes().unwrap(),
            server: "sales".into(),
            channel,
            public: key.public(),
        };
        socket.send(&ask.encode(key).unwrap()).unwrap();
        let mut buffer = [0; 1000];
        if let Ok(n) = socket.recv(&mut buffer) {
            match ask.parse_answer(&buffer[..n], &cluster_key(lab)) {
                Ok(Given::Not(why)) if !stays(why) => {}
                Ok(given) => return given,
                Err(why) => panic!("{why}"),
            }
        }
        assert!(Instant::now() < end, "{}", lab.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
