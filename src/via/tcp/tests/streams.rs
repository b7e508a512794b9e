//! Bytes in both directions, ends, acknowledgements, back-pressure.

use super::*;
use crate::via::channel::{Come, Received, Taken, Tap};
use crate::via::testkit::Reactor;
use crate::via::{Broken, EndReason};
use std::io::IoSlice;

/// Byte `n` of a test stream.
fn byte(n: u64) -> u8 {
    (n.wrapping_mul(31) ^ (n >> 8)) as u8
}

pub fn send_all(channel: &Channel, bytes: &[u8]) {
    let n = channel.send(&[IoSlice::new(bytes)], WAIT).expect("sends");
    assert_eq!(n, bytes.len());
}

pub fn recv_exactly(channel: &Channel, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    let mut at = 0;
    while at < n {
        match channel.recv(&mut bytes[at..], WAIT).expect("receives") {
            Received::Bytes(got) => at += got,
            Received::Interrupted => {}
            other => panic!("{other:?} after {at} of {n} bytes"),
        }
    }
    bytes
}

fn drive_until(channel: &Channel, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        let _ = channel.drive();
        std::thread::yield_now();
    }
}

#[test]
fn echo_in_all_sizes() {
    for addr in [v4(), v6()] {
        let (client, server) = pair_on(addr, 1 << 12);
        std::thread::scope(|s| {
            s.spawn(|| {
                for n in (1..300).chain([2015, 2016, 2017, 4096]) {
                    let bytes = recv_exactly(&server, n);
                    send_all(&server, &bytes);
                }
            });
            for n in (1..300).chain([2015, 2016, 2017, 4096]) {
                let bytes: Vec<u8> = (0..n as u64).map(byte).collect();
                send_all(&client, &bytes);
                assert_eq!(recv_exactly(&client, n), bytes);
            }
        });
    }
}

/// Sends `total` bytes in pieces of odd sizes, then the end.
fn produce(channel: &Channel, total: u64, seed: u64) {
    let mut at = 0;
    let mut size = seed;
    while at < total {
        size = size.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let n = (1 + (size >> 33) % 9000).min(total - at);
        let piece: Vec<u8> = (at..at + n).map(byte).collect();
        send_all(channel, &piece);
        at += n;
    }
    channel.shutdown_write().expect("shuts");
}

/// Receives and checks everything up to the end.
fn consume(channel: &Channel) -> u64 {
    let mut buffer = vec![0; 10_000];
    let mut at = 0;
    loop {
        match channel.recv(&mut buffer, WAIT).expect("receives") {
            Received::Bytes(n) => {
                for got in &buffer[..n] {
                    assert_eq!(*got, byte(at), "byte {at}");
                    at += 1;
                }
            }
            Received::End => return at,
            Received::Interrupted => {}
            Received::Empty => panic!("nothing within the limit after byte {at}"),
        }
    }
}

#[test]
fn streams_both_ways_at_once() {
    for (addr, ring) in [(v4(), 1 << 12), (v4(), 1 << 16), (v6(), 1 << 18)] {
        let (client, server) = pair_on(addr, ring);
        let total = 4 << 20;
        std::thread::scope(|s| {
            s.spawn(|| produce(&client, total, 1));
            s.spawn(|| produce(&server, total, 2));
            s.spawn(|| assert_eq!(consume(&client), total));
            s.spawn(|| assert_eq!(consume(&server), total));
        });
    }
}

/// What a call has accepted is the kernel's when it returns, also of a stream that the peer is behind with and in small pieces:
/// the process may end, and nobody drives its side.
#[test]
fn nothing_stays_behind() {
    let message = 64 * 1024;
    let (client, server) = pair_on(v4(), 1 << 19);
    let total = server.rx.size();
    for piece in (0..total).collect::<Vec<_>>().chunks(4096) {
        let bytes: Vec<u8> = piece.iter().map(|n| byte(*n as u64)).collect();
        send_all(&client, &bytes);
    }
    let mut whole = vec![0; message];
    for at in (0..total).step_by(message) {
        drive_until(&server, "a whole message", || server.come() >= message);
        assert_eq!(server.recv(&mut whole, WAIT), Ok(Received::Bytes(message)));
        assert!((at..).zip(&whole).all(|(n, got)| *got == byte(n as u64)));
    }
}

/// A receiver that finds the ring empty gets its bytes from the socket, in packets of any size and into room of any size;
/// what it has no bytes for it finds as it was.
#[test]
fn the_room_behind_what_was_received_is_not_touched() {
    let (client, server) = pair_on(v4(), 1 << 19);
    let total: u64 = 8 << 20;
    std::thread::scope(|s| {
        s.spawn(|| {
            let (mut at, mut size) = (0, 1_u64);
            while at < total {
                size = size.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let n = (1 + (size >> 33) % 200_000).min(total - at);
                let piece: Vec<u8> = (at..at + n).map(byte).collect();
                send_all(&client, &piece);
                at += n;
            }
        });
        let (mut at, mut size) = (0, 7_u64);
        while at < total {
            size = size.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let most = 1 + (size >> 33) as usize % 150_000;
            let mut room: Vec<u8> = (0..most as u64).map(|n| !byte(at + n)).collect();
            let Received::Bytes(n) = server.recv(&mut room, WAIT).expect("receives") else {
                panic!("the stream goes on at byte {at}");
            };
            for (i, got) in room.iter().enumerate() {
                let sent = byte(at + i as u64);
                let expected = if i < n { sent } else { !sent };
                assert_eq!(
                    *got, expected,
                    "byte {i} of {n} from byte {at} of the stream on"
                );
            }
            at += n as u64;
        }
    });
}

/// Takes pairs of bytes, and keeps what it was shown.
#[derive(Default)]
struct Pairs(std::cell::RefCell<Vec<u8>>);

impl Tap for Pairs {
    fn sends(&self, _: u64, _: &[u8]) {}

    fn receives(&self, _: u64, come: &mut Come<'_>) -> Taken {
        let pairs = come.available.min(come.room.len()) & !1;
        self.0.borrow_mut().extend_from_slice(come.take(0, pairs));
        Taken {
            skipped: 0,
            bytes: pairs,
            next: 2,
        }
    }
}

/// Who only looks, or looks before it takes, is not given bytes past the ring, also where it waits for them.
#[test]
fn bytes_that_are_looked_at_stay_and_a_tap_sees_them_all() {
    let (client, server) = pair_on(v4(), 1 << 16);
    let sent: Vec<u8> = (0..60_000).map(byte).collect();
    std::thread::scope(|s| {
        s.spawn(|| {
            for piece in sent.chunks(2999) {
                send_all(&client, piece);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let (tap, mut at, mut room) = (Pairs::default(), 0, [0; 4000]);
        while at < sent.len() {
            let seen = server.peek(&mut room, WAIT).expect("receives");
            let Received::Bytes(n) = seen else {
                continue;
            };
            assert!(n > 0 && room[..n] == sent[at..at + n], "looked at {at}");
            let taken = server.recv_tapped(&mut room, WAIT, server.kicks(), &tap);
            if let Received::Bytes(n) = taken.expect("receives") {
                assert!(room[..n] == sent[at..at + n], "taken at {at}");
                at += n;
            }
        }
        assert!(*tap.0.borrow() == sent);
    });
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    let (client, server) = pair_on(v4(), 1 << 12);
    send_all(&client, b"last words");
    client.shutdown_write().expect("shuts");
    assert_eq!(recv_exactly(&server, 10), b"last words");
    let mut buffer = [0; 10];
    assert_eq!(server.recv(&mut buffer, WAIT), Ok(Received::End));
    send_all(&server, b"answer");
    assert_eq!(recv_exactly(&client, 6), b"answer");
    server.shutdown_write().expect("shuts");
    assert_eq!(client.recv(&mut buffer, WAIT), Ok(Received::End));
    assert_eq!(client.broken(), None);
}

#[test]
fn every_end_reason_arrives_behind_the_last_byte() {
    for reason in (1..=6).map(|n| EndReason::from_wire(n).expect("a reason")) {
        let (client, server) = pair_on(v4(), 1 << 12);
        send_all(&server, b"before");
        server.end(reason);
        assert_eq!(recv_exactly(&client, 6), b"before");
        let over = Err(Broken::Ended(reason));
        assert_eq!(client.recv(&mut [0; 10], WAIT), over);
        assert_eq!(client.broken(), Some(Broken::Ended(reason)));
    }
}

#[test]
fn a_peer_that_vanishes_is_a_break_and_not_an_end() {
    let (client, server) = pair_on(v4(), 1 << 12);
    send_all(&server, b"before");
    drop(server);
    assert_eq!(recv_exactly(&client, 6), b"before");
    let mut buffer = [0; 10];
    match client.recv(&mut buffer, WAIT) {
        Err(Broken::Transport(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sender_without_a_reader_stops_at_the_ring() {
    let (client, server) = pair_on(v4(), 1 << 12);
    let bytes = vec![7; 1 << 16];
    let mut accepted = 0;
    for _ in 0..50 {
        accepted += client
            .send(&[IoSlice::new(&bytes)], Wait::No)
            .expect("sends");
        server.drive().expect("drives");
    }
    assert_eq!(accepted, 1 << 12);
    assert_eq!(client.acked(), 0);
    assert_eq!(server.readable(), 1 << 12);
    // Once half is consumed, the credit comes by itself.
    recv_exactly(&server, 1 << 11);
    drive_until(&client, "credit comes", || client.acked() == 1 << 11);
    let n = client.send(&[IoSlice::new(&bytes)], Wait::No);
    assert_eq!(n, Ok(1 << 11));
}

#[test]
fn consumed_bytes_are_acknowledged_with_data_or_when_settled() {
    let (client, server) = pair_on(v4(), 1 << 16);
    send_all(&client, b"question");
    recv_exactly(&server, 8);
    send_all(&server, b"answer");
    recv_exactly(&client, 6);
    assert_eq!(client.acked(), 8);

    // Alone it waits for data to go with, until somebody settles.
    assert!(client.wire.owes());
    assert_eq!(server.acked(), 0);
    client.settle();
    assert!(!client.wire.owes());
    drive_until(&server, "the acknowledgement comes", || server.acked() == 6);
}

#[test]
fn a_keep_alive_is_answered() {
    let (client, server) = pair_on(v4(), 1 << 12);
    let heard = client.wire.heard();
    client.wire.keep_alive(&client).expect("asks");
    drive_until(&server, "the question comes", || server.wire.heard() > 0);
    drive_until(&client, "the answer comes", || client.wire.heard() > heard);
    assert_eq!(server.wire.heard(), 1);
    assert_eq!(client.wire.heard(), heard + 1);
}

/// A sender has put bytes into the ring, and the thread that waits inside is the one that hands them to the kernel. It
/// gives up waiting with the socket full; nothing comes from the peer, who reads less than is worth an acknowledgement.
#[test]
fn what_a_waiting_thread_leaves_behind_a_full_socket_is_sent_by_the_watcher() {
    let (client, server) = pair_on(v4(), 1 << 20);
    let socket = client.wire.wait_fd();
    rustix::net::sockopt::set_socket_send_buffer_size(socket, 4096).expect("set");
    rustix::net::sockopt::set_socket_recv_buffer_size(server.wire.wait_fd(), 4096).expect("set");
    let client = Arc::new(client);
    // More than the kernel takes, less than the peer would acknowledge by itself.
    let bytes: Vec<u8> = (0..250_000).map(byte).collect();
    let reactor = Reactor::start(vec![Arc::clone(&client)]);
    // The watcher is armed, and idle.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(client.tx.push(&bytes), Ok(bytes.len()));
    let short = Wait::Until {
        spin: Duration::ZERO,
        timeout: Some(Duration::from_millis(100)),
    };
    assert_eq!(client.recv(&mut [0; 8], short), Ok(Received::Empty));
    assert!(client.wire.interest().write, "the socket is full");
    assert!(recv_exactly(&server, bytes.len()) == bytes);
    assert_eq!(client.acked(), 0);
    drop(reactor);
}

#[test]
fn a_full_socket_is_finished_later_and_in_order() {
    // A ring that is larger than what the kernel takes at once: the packet is split, acknowledgements wait for its end.
    let mut node = Node::listen(ListenConfig {
        max_ring_bytes: 1 << 26,
        ..config(v4())
    });
    let large = ConnectRequest {
        ring_bytes: 1 << 26,
        ..request(node.addr())
    };
    let (client, server) = beside(large, || node.accept());
    let client = client.expect("accepted");
    client.activate();
    server.activate();
    let bytes: Vec<u8> = (0..1 << 25).map(byte).collect();
    assert_eq!(
        client.send(&[IoSlice::new(&bytes)], Wait::No),
        Ok(bytes.len())
    );
    assert!(
        client.wire.interest().write,
        "the kernel did not take it all"
    );
    send_all(&server, b"x");
    std::thread::scope(|s| {
        s.spawn(|| {
            assert_eq!(recv_exactly(&client, 1), b"x");
            client.shutdown_write().expect("shuts");
            drive_until(&client, "everything is sent", || {
                client.acked() == client.accepted()
            });
        });
        let mut at = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match server.recv(&mut buffer, WAIT).expect("receives") {
                Received::Bytes(n) => {
                    assert!(buffer[..n] == bytes[at..at + n], "bytes {at} to {}", at + n);
                    at += n;
                    server.settle();
                }
                Received::End => break,
                _ => {}
            }
        }
        assert_eq!(at, bytes.len());
        server.settle();
    });
}

#[test]
fn an_end_that_cannot_be_delivered_is_a_break() {
    let mut node = Node::listen(ListenConfig {
        max_ring_bytes: 1 << 26,
        ..config(v4())
    });
    let large = ConnectRequest {
        ring_bytes: 1 << 26,
        ..request(node.addr())
    };
    let (client, server) = beside(large, || node.accept());
    let client = client.expect("accepted");
    server.activate();
    let bytes = vec![1; 1 << 25];
    client
        .send(&[IoSlice::new(&bytes)], Wait::No)
        .expect("sends");
    client.end(EndReason::Closed);
    drop(client);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match server.recv(&mut buffer, WAIT) {
            Ok(Received::Bytes(_)) => {}
            Err(Broken::Transport(text)) => break assert!(text.contains("ended"), "{text}"),
            other => panic!("{other:?} is no break"),
        }
    }
}

#[test]
fn bytes_that_a_peer_left_unread_do_not_cost_what_it_sent() {
    // Closing a socket with unread bytes makes the kernel send a reset.
    let (client, server) = pair_on(v4(), 1 << 16);
    let bytes: Vec<u8> = (0..1 << 16).map(byte).collect();
    send_all(&server, &bytes[..1000]);
    assert_eq!(client.send(&[IoSlice::new(&bytes)], Wait::No), Ok(1 << 16));
    client.end(EndReason::NotActive);
    drop(client);
    assert_eq!(recv_exactly(&server, 1 << 16), bytes);
    let over = Err(Broken::Ended(EndReason::NotActive));
    assert_eq!(server.recv(&mut [0; 10], WAIT), over);
}
