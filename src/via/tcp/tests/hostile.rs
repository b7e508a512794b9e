//! Peers that speak nonsense: each kind is named, and nothing of it reaches the reader.

use super::streams::{recv_exactly, send_all};
use super::*;
use crate::via::channel::Received;
use crate::via::handshake::{ClientHandshake, ClientHello, Offsets, ServerHandshake};
use crate::via::packet::{FLAG_ANSWER, FLAG_FIN, HEADER_BYTES, Header, Type, packet};
use crate::via::{Broken, EndReason};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// A client that did its handshake and then writes what it likes.
struct Rogue {
    socket: TcpStream,
}

impl Rogue {
    fn header(kind: Type) -> Header {
        Header {
            generation: GENERATION,
            ..Header::new(kind)
        }
    }

    fn write(&mut self, header: Header, payload: &[u8]) {
        self.socket
            .write_all(&packet(header, payload))
            .expect("writes");
    }

    /// The next packet of the node.
    fn read(&mut self) -> (Header, Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        self.socket.read_exact(&mut header).expect("a header");
        let header = Header::decode(&header).expect("a valid header");
        let mut payload = vec![0; header.length as usize];
        self.socket.read_exact(&mut payload).expect("a payload");
        (header, payload)
    }
}

fn socket_to(node: &Node) -> TcpStream {
    let socket = TcpStream::connect(node.addr()).expect("connects");
    socket.set_read_timeout(Some(LIMIT)).expect("sets");
    socket
}

fn hello() -> ClientHandshake {
    ClientHandshake::new(ClientHello {
        server: "sales".into(),
        node: String::new(),
        min_generation: 0,
        patient: false,
        warm: false,
        pinned: None,
        ring_bytes: 1 << 12,
        nonce: [1; 16],
        boot_id: [0; 16],
        resume: None,
    })
}

/// A rogue client and the node's channel to it.
fn rogue() -> (Rogue, Channel) {
    let mut node = Node::on(v4());
    let mut rogue = Rogue {
        socket: socket_to(&node),
    };
    rogue.socket.write_all(hello().output()).expect("writes");
    let channel = node.accept();
    channel.activate();
    assert_eq!(rogue.read().0.kind, Type::Accept);
    (rogue, channel)
}

/// What the node's reader gets after `before`, which is good.
fn broken_by(write: impl FnOnce(&mut Rogue)) -> Broken {
    let (mut rogue, channel) = rogue();
    let good = Rogue::header(Type::Data);
    rogue.write(good, b"good");
    write(&mut rogue);
    assert_eq!(recv_exactly(&channel, 4), b"good");
    let mut buffer = [0; 64];
    let broken = match channel.recv(&mut buffer, WAIT) {
        Err(broken) => broken,
        other => panic!("{other:?}, must be refused"),
    };
    assert_eq!(channel.readable(), 0);
    // It stays so.
    assert_eq!(channel.recv(&mut buffer, WAIT), Err(broken.clone()));
    if matches!(broken, Broken::Corrupt(_)) {
        loop {
            let (header, payload) = rogue.read();
            if header.kind == Type::Disconnect {
                assert_eq!(payload, [EndReason::ProtocolError as u8]);
                break;
            }
        }
    }
    broken
}

fn corrupt(header: Header, payload: &[u8]) -> String {
    match broken_by(|rogue| rogue.write(header, payload)) {
        Broken::Corrupt(text) => text,
        other => panic!("{other:?}, must be corrupt"),
    }
}

/// A header that would be right after "good".
fn right(kind: Type) -> Header {
    Header {
        offset: 4,
        ..Rogue::header(kind)
    }
}

#[test]
fn data_out_of_place() {
    for offset in [0, 3, 5, u64::MAX] {
        let header = Header {
            offset,
            ..right(Type::Data)
        };
        let text = corrupt(header, b"bad");
        assert_eq!(
            text,
            format!("Data at stream offset {offset}, expected is 4")
        );
    }
}

#[test]
fn more_data_than_credit() {
    let header = Header {
        length: 4097,
        ..right(Type::Data)
    };
    // Only the header: what is announced is refused before it comes.
    let text = match broken_by(|rogue| rogue.socket.write_all(&header.encode()).expect("writes")) {
        Broken::Corrupt(text) => text,
        other => panic!("{other:?}, must be corrupt"),
    };
    assert!(
        text.starts_with("4097 bytes of data, credit was given for 4"),
        "{text}"
    );
}

#[test]
fn data_after_the_end() {
    let (mut rogue, channel) = rogue();
    let fin = Header {
        flags: FLAG_FIN,
        ..Rogue::header(Type::Data)
    };
    rogue.write(fin, b"");
    rogue.write(Rogue::header(Type::Data), b"bad");
    assert_eq!(channel.recv(&mut [0; 8], WAIT), Ok(Received::End));
    let end = Instant::now() + LIMIT;
    let broken = loop {
        assert!(Instant::now() < end, "the packet is noticed");
        if let Err(broken) = channel.drive() {
            break broken;
        }
    };
    let text = "3 bytes of data after the end of the stream at 0";
    assert_eq!(broken, Broken::Corrupt(text.into()));
    assert_eq!(channel.readable(), 0);
}

#[test]
fn acknowledgements_of_what_was_never_sent() {
    for acked in [1, u64::MAX] {
        let header = Header {
            acked,
            ..right(Type::Ack)
        };
        let text = corrupt(header, b"");
        assert_eq!(
            text,
            format!("acknowledges byte {acked}, allowed are 0 to 0")
        );
    }
}

#[test]
fn acknowledgements_that_go_back() {
    let (mut rogue, channel) = rogue();
    send_all(&channel, b"abc");
    for acked in [3, 2] {
        let header = Header {
            acked,
            ..Rogue::header(Type::Ack)
        };
        rogue.write(header, b"");
    }
    match channel.recv(&mut [0; 8], WAIT) {
        Err(Broken::Corrupt(text)) => assert_eq!(text, "acknowledges byte 2, allowed are 3 to 3"),
        other => panic!("{other:?}, must be corrupt"),
    }
    assert_eq!(channel.acked(), 3);
}

#[test]
fn another_generation() {
    let header = Header {
        generation: 7,
        ..right(Type::Ack)
    };
    let text = corrupt(header, b"");
    assert_eq!(text, "generation 7 on a channel of generation 1000");
}

#[test]
fn packets_of_the_handshake() {
    let text = corrupt(right(Type::Connect), &[0; 60]);
    assert!(
        text.starts_with("Connect on a channel that stands"),
        "{text}"
    );
    let text = corrupt(right(Type::Challenge), &[0; 16]);
    assert!(
        text.starts_with("Challenge on a channel that stands"),
        "{text}"
    );
}

#[test]
fn bytes_that_are_no_packet() {
    let raw = |bytes: &[u8]| match broken_by(|rogue| rogue.socket.write_all(bytes).expect("writes"))
    {
        Broken::Corrupt(text) => text,
        other => panic!("{other:?}, must be corrupt"),
    };
    assert_eq!(raw(&[0; 40]), "packet magic 0000, must be 5649");
    let mut unknown = right(Type::Ack).encode();
    unknown[0] = 99;
    assert_eq!(raw(&unknown), "packet type 99, known are 1 to 11");
    let mut long = right(Type::Ack).encode();
    long[4] = 1;
    assert_eq!(raw(&long), "length 1 of Ack, allowed are 0 to 0");
    let mut huge = right(Type::Data).encode();
    huge[7] = 0x7f;
    assert!(raw(&huge).starts_with("length 2130706432 of Data"));
    let reason = packet(right(Type::Disconnect), &[99]);
    assert_eq!(raw(&reason), "disconnect reason 99, known are 1 to 6");
}

#[test]
fn a_connection_that_ends_within_a_packet_is_a_break() {
    let cut = |bytes: Vec<u8>| match broken_by(|rogue| {
        rogue.socket.write_all(&bytes).expect("writes");
        rogue.socket.shutdown(Shutdown::Write).expect("shuts");
    }) {
        Broken::Transport(text) => text,
        other => panic!("{other:?}, must be a break"),
    };
    assert!(cut(right(Type::Ack).encode()[..31].to_vec()).contains("31 bytes into"));
    assert!(cut(packet(right(Type::Disconnect), &[1])[..32].to_vec()).contains("32 bytes into"));
    assert!(cut(Vec::new()).contains("without a disconnect"));
}

#[test]
fn data_of_a_cut_packet_is_delivered_before_the_break() {
    let (mut rogue, channel) = rogue();
    let cut = packet(Rogue::header(Type::Data), b"abcdef");
    rogue
        .socket
        .write_all(&cut[..HEADER_BYTES + 3])
        .expect("writes");
    rogue.socket.shutdown(Shutdown::Write).expect("shuts");
    assert_eq!(recv_exactly(&channel, 3), b"abc");
    match channel.recv(&mut [0; 8], WAIT) {
        Err(Broken::Transport(text)) => assert!(text.contains("3 bytes before"), "{text}"),
        other => panic!("{other:?}, must be a break"),
    }
}

#[test]
fn packets_byte_by_byte() {
    let (mut rogue, channel) = rogue();
    let mut bytes = packet(Rogue::header(Type::Data), b"ab");
    let later = |kind| Header {
        offset: 2,
        ..Rogue::header(kind)
    };
    bytes.extend(packet(later(Type::KeepAlive), b""));
    bytes.extend(packet(later(Type::Data), b"c"));
    let end = Header {
        offset: 3,
        ..Rogue::header(Type::Disconnect)
    };
    bytes.extend(packet(end, &[EndReason::NotActive as u8]));
    rogue.socket.set_nodelay(true).expect("sets");
    for byte in bytes {
        rogue.socket.write_all(&[byte]).expect("writes");
        let _ = channel.drive();
    }
    assert_eq!(recv_exactly(&channel, 3), b"abc");
    assert_eq!(
        channel.recv(&mut [0; 8], WAIT),
        Err(Broken::Ended(EndReason::NotActive))
    );
    let (header, _) = rogue.read();
    assert_eq!((header.kind, header.flags), (Type::KeepAlive, FLAG_ANSWER));
}

#[test]
fn a_second_fin_at_the_same_place_says_nothing_new() {
    let (mut rogue, channel) = rogue();
    let fin = Header {
        flags: FLAG_FIN,
        ..Rogue::header(Type::Data)
    };
    rogue.write(fin, b"");
    rogue.write(fin, b"");
    assert_eq!(channel.recv(&mut [0; 8], WAIT), Ok(Received::End));
    channel.drive().expect("stands");
}

#[test]
fn nonsense_instead_of_a_handshake() {
    let mut node = Node::on(v4());
    let oversized = packet(Header::new(Type::Connect), &[0; 512]);
    let mut version = hello().output().to_vec();
    version[HEADER_BYTES] = 9;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: node-a.example\r\n\r\n"[..],
        &oversized,
        &version,
    ] {
        let mut socket = socket_to(&node);
        socket.write_all(bytes).expect("writes");
        let answer = std::thread::scope(|s| {
            let reader = s.spawn(|| {
                let mut answer = Vec::new();
                // What was not read of an oversized request turns the end into a reset; the answer comes first.
                let _ = socket.read_to_end(&mut answer);
                answer
            });
            while !reader.is_finished() {
                assert!(node.next_within(Duration::from_millis(10)).is_none());
            }
            reader.join().expect("does not panic")
        });
        assert_eq!(answer, crate::via::handshake::bad_request());
    }
}

#[test]
fn half_a_handshake_is_dropped_in_time_and_holds_nobody_up() {
    let mut node = Node::on(v4());
    let mut slow: Vec<TcpStream> = (0..20).map(|_| socket_to(&node)).collect();
    for socket in &mut slow {
        socket.write_all(&hello().output()[..40]).expect("writes");
    }
    let (client, _server) = beside(request(node.addr()), || node.accept());
    assert!(client.is_ok());
    std::thread::scope(|s| {
        let dropped = s.spawn(|| {
            for socket in &mut slow {
                assert_eq!(socket.read(&mut [0; 64]).unwrap_or(0), 0);
            }
        });
        while !dropped.is_finished() {
            assert!(node.next_within(Duration::from_millis(100)).is_none());
        }
    });
}

#[test]
fn one_source_cannot_take_every_handshake() {
    const CLOSED: usize = 200 - 128;
    let mut node = Node::on(v4());
    let begun = Instant::now();
    loop {
        let round = Instant::now();
        let mut sockets: Vec<TcpStream> = (0..200).map(|_| socket_to(&node)).collect();
        let mut closed_after = |ms| {
            let complete = node.next_within(Duration::from_millis(ms));
            assert!(complete.is_none(), "nobody has said anything");
            let is_closed = |socket: &mut TcpStream| {
                socket.set_nonblocking(true).expect("sets");
                let got = socket.read(&mut [0; 8]);
                !matches!(got, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
            };
            sockets
                .iter_mut()
                .filter_map(|s| is_closed(s).then_some(()))
                .count()
        };
        while closed_after(10) < CLOSED {
            assert!(begun.elapsed() < LIMIT, "too few are closed");
        }
        let closed = closed_after(300);
        // Later the others' time may be over too.
        if closed == CLOSED || round.elapsed() < Duration::from_secs(4) {
            assert_eq!(closed, CLOSED);
            return;
        }
    }
}

#[test]
fn a_node_that_speaks_nonsense_fails_the_connect() {
    let listener = std::net::TcpListener::bind(v4()).expect("listens");
    let addr = listener.local_addr().expect("an address");
    let answers: [Vec<u8>; 5] = [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec(),
        packet(Header::new(Type::Accept), &[1, 0, 12]),
        packet(Header::new(Type::Challenge), &[0; 16]),
        packet(Header::new(Type::Data), b"x"),
        Vec::new(),
    ];
    for answer in answers {
        let (client, ()) = beside(request(addr), || {
            let (mut socket, _) = listener.accept().expect("accepts");
            let mut server = ServerHandshake::new([0; 16]);
            loop {
                let mut buffer = vec![0; server.want()];
                socket.read_exact(&mut buffer).expect("reads");
                if let Some(request) = server.feed(&buffer).expect("a request") {
                    assert!(
                        !request
                            .accept(&accept(), 4096, Offsets::default(), None)
                            .is_empty()
                    );
                    break;
                }
            }
            socket.write_all(&answer).expect("writes");
        });
        assert!(matches!(client.err(), Some(ConnectError::Failed(_))));
    }
}
