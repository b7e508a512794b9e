//! Requests to cancel through a real daemon: they reach the sessions that it relays, by the keys that these have now or had before
//! they moved, and nobody else.

mod common;

use common::client::{Client, connect_when_active};
use common::{Lab, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use vianet::session::postgres::arrival::Arrival;
use vianet::via::{EndReason, Transport};
use vianet_node::config::{Protocol, Upstream};

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Shm];

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 8).to_be_bytes();
    [&length[..], &code.to_be_bytes(), body].concat()
}

/// A startup packet; the server gives this session the key that stands where its user's name would.
fn startup(key: &[u8]) -> Vec<u8> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    packet(3 << 16, &[b"user\0", hex.as_bytes(), b"\0\0"].concat())
}

/// What a client sees of a login after its proof.
fn welcome(key: &[u8]) -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'K', key),
        message(b'Z', b"I"),
    ]
    .concat()
}

/// A server that asks for a password, or for none; encrypts if it is asked to; and gives out keys.
struct Server {
    trusts: bool,
    canceled: Mutex<Vec<Vec<u8>>>,
}

impl Server {
    fn start(addr: SocketAddr, trusts: bool) -> Arc<Self> {
        let server = Arc::new(Self {
            trusts,
            canceled: Mutex::default(),
        });
        let listener = TcpListener::bind(addr).unwrap();
        let shared = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&shared);
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut read = |n: usize| {
            let mut bytes = vec![0; n];
            stream.read_exact(&mut bytes).ok().map(|()| bytes)
        };
        let length = u32::from_be_bytes(read(4)?.try_into().ok()?) as usize;
        let body = read(length.checked_sub(4)?)?;
        match u32::from_be_bytes(*body.first_chunk()?) {
            80_877_102 => {
                self.canceled.lock().unwrap().push(body[4..].to_vec());
                return None;
            }
            80_877_103 => {
                stream.write_all(b"S").ok()?;
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
                return None;
            }
            code => assert_eq!(code, 3 << 16, "{body:?}"),
        }
        let hex = body[9..].split(|byte| *byte == 0).next()?;
        let key: Vec<u8> = (hex.chunks(2))
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect();
        if !self.trusts {
            stream.write_all(&message(b'R', &[0, 0, 0, 3])).ok()?;
            let mut password = [0; 9];
            stream.read_exact(&mut password).ok()?;
        }
        // In pieces, as a slow network has them.
        for piece in welcome(&key).chunks(11) {
            stream.write_all(piece).ok()?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        None
    }

    fn canceled(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.canceled.lock().unwrap())
    }
}

/// One node before such a server.
struct Bed {
    lab: Lab,
    server: Arc<Server>,
}

impl Bed {
    fn new(subnet: u8, protocol: Protocol, trusts: bool) -> Self {
        let mut lab = Lab::of(1, subnet, |_, config| {
            config.servers[0].protocol = protocol;
            config.servers[0].allow_unauthenticated_upstream = trusts;
            config.servers[0].allow_unwatched_tls = true;
        });
        let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
            unreachable!()
        };
        let server = Server::start(addr, trusts);
        lab.nodes[0].start();
        lab.wait_active(0);
        Self { lab, server }
    }

    fn connect(&self, transport: Transport) -> Client {
        connect_when_active(&self.lab, 0, transport)
    }

    /// A session that its server knows by the key `now`, and others by `known` since it was elsewhere.
    fn session(&self, transport: Transport, now: &[u8], known: Option<&[u8]>) -> Client {
        let client = self.connect(transport);
        let arrival = known.map(|key| Arrival {
            key: key.to_vec(),
            ..Arrival::default()
        });
        let known = arrival.map_or_else(Vec::new, |arrival| arrival.packet());
        client.send(&[known, startup(now)].concat());
        if !self.server.trusts {
            client.expect(&message(b'R', &[0, 0, 0, 3]));
            client.send(&message(b'p', b"app\0"));
        }
        client.expect(&welcome(now));
        // It goes on, and nothing is lost or held back.
        client.send(b"what follows");
        client.expect(b"what follows");
        client
    }

    /// Asks to cancel by a key, as libpq does: until the server, or who stands in its place, has closed. Whom that reached.
    #[track_caller]
    fn cancel(&self, transport: Transport, key: &[u8]) -> Vec<Vec<u8>> {
        let client = self.connect(transport);
        client.send(&packet(80_877_102, key));
        assert_eq!(client.recv().unwrap(), b"");
        drop(client);
        self.server.canceled()
    }
}

fn sessions_are_reached(subnet: u8, protocol: Protocol, trusts: bool) {
    let bed = Bed::new(subnet, protocol, trusts);
    let long: Vec<u8> = (0..260_u16).map(|n| n as u8).collect();
    let (short, other) = (b"pid1key1", [9; 36]);
    for transport in BOTH {
        let mine = bed.session(transport, &long, Some(short));
        let theirs = bed.session(transport, &other, None);
        for key in [&long[..], short] {
            assert_eq!(bed.cancel(transport, key), [&long[..]], "{transport}");
        }
        assert_eq!(bed.cancel(transport, &other), [other], "{transport}");
        // Nobody else is, and nothing goes to the server.
        for key in [&b"pid1key2"[..], &long[..8], &[9; 37]] {
            assert_eq!(bed.cancel(transport, key), [] as [Vec<u8>; 0]);
        }
        // Who claims another's key does not get it.
        let stranger = bed.session(transport, b"pid3key3", Some(&other));
        let second = bed.session(transport, b"pid4key4", Some(short));
        assert_eq!(bed.cancel(transport, &other), [other], "{transport}");
        assert_eq!(bed.cancel(transport, short), [&long[..]], "{transport}");
        for client in [stranger, second, theirs, mine] {
            client.channel.end(EndReason::Closed);
        }
        until("nobody is meant any more", || {
            let reached = [short, &other[..], &long].map(|key| bed.cancel(transport, key).len());
            (reached == [0; 3]).then_some(())
        });
    }
}

#[test]
fn by_keys_of_any_length() {
    sessions_are_reached(219, Protocol::Postgres, false);
}

#[test]
fn where_the_protocol_is_recognised() {
    sessions_are_reached(220, Protocol::Raw, false);
}

#[test]
fn where_the_server_lets_in_whom_it_likes() {
    sessions_are_reached(223, Protocol::Postgres, true);
    sessions_are_reached(224, Protocol::Raw, true);
}

/// Who asks need not stay to hear that it was done.
#[test]
fn a_request_counts_whatever_becomes_of_who_asks() {
    for (subnet, protocol) in [(198, Protocol::Postgres), (199, Protocol::Raw)] {
        let bed = Bed::new(subnet, protocol, false);
        let key = [9; 36];
        let session = bed.session(Transport::Shm, &key, None);
        for round in 0..100 {
            let transport = BOTH[round % 2];
            let client = bed.connect(transport);
            client.send(&packet(80_877_102, &key));
            client.channel.end(EndReason::Closed);
            until(&format!("request {round} over {transport}"), || {
                (bed.server.canceled() == [key]).then_some(())
            });
        }
        session.channel.end(EndReason::Closed);
    }
}

/// A session that encrypts to its server cannot be seen, and its driver may still cancel in clear.
#[test]
fn keys_that_are_hidden_are_the_servers_matter() {
    for (subnet, trusts) in [(226, false), (227, true)] {
        let bed = Bed::new(subnet, Protocol::Postgres, trusts);
        let transport = Transport::Tcp;
        let key = b"pid1key1".to_vec();
        assert_eq!(bed.cancel(transport, &key), [] as [Vec<u8>; 0]);
        let client = encrypted(&bed);
        assert_eq!(bed.cancel(transport, &key), [&key[..]]);
        client.channel.end(EndReason::Closed);
        until("it is over", || {
            bed.cancel(transport, &key).is_empty().then_some(())
        });
    }
}

/// Over a channel that is not private: on one that is, the node may say that there is no encryption.
fn encrypted(bed: &Bed) -> Client {
    let client = common::client::connect_as_soon(|| {
        let mut request = common::client::request(&bed.lab, 0, Transport::Tcp, "sales");
        request.tls = vianet::via::Tls::Off;
        request
    });
    client.send(&packet(80_877_103, b""));
    client.expect(b"S");
    client.send(b"\x16\x03\x01");
    client
}
