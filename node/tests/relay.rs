//! Channels through a real daemon to a SQL server (an echo), over both providers.

mod common;

use common::client::{connect, connect_when_active, request, resume};
use common::{Lab, calm, lost_after, until};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use vianet::via::shm::Shm;
use vianet::via::{Broken, ConnectError, EndReason, Provider, RejectReason, Resume, Transport};
use vianet_node::config::Upstream;
use vianet_node::control::Request;

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;
const SIGTERM: i32 = 15;
const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Shm];

/// Bytes that differ from place to place.
fn pattern(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0])
        .collect()
}

#[test]
fn bytes_go_both_ways_and_half_close_is_kept() {
    let lab = Lab::of(1, 210, |_, _| {}).up();
    for transport in BOTH {
        let client = connect_when_active(&lab, 0, transport);
        client.send(b"hello");
        client.expect(b"hello");
        assert_eq!(client.channel.accept.node, "node-a");
        client.send(b"last words");
        client.channel.shutdown_write().unwrap();
        client.expect(b"last words");
        assert_eq!(
            client.recv().unwrap(),
            b"",
            "{transport}: the server's end follows"
        );
        client.until_acked(15);
        assert_eq!(
            client.broken(),
            Broken::Ended(EndReason::Closed),
            "{transport}"
        );
    }
    until("no session is left", || {
        lab.nodes[0].status().servers[0]
            .sessions
            .is_empty()
            .then_some(())
    });
}

#[test]
fn a_large_stream_comes_back_whole() {
    let lab = Lab::of(1, 211, |_, _| {}).up();
    for transport in BOTH {
        let client = connect_when_active(&lab, 0, transport);
        let data = pattern(8 << 20);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.send(&data);
                client.channel.shutdown_write().unwrap();
            });
            client.expect(&data);
        });
        assert_eq!(client.recv().unwrap(), b"", "{transport}");
    }
}

#[test]
fn many_channels_at_once() {
    let lab = Lab::of(1, 212, |_, _| {}).up();
    std::thread::scope(|scope| {
        for i in 0..24 {
            let lab = &lab;
            scope.spawn(move || {
                let client = connect_when_active(lab, 0, BOTH[i % 2]);
                let data = pattern(10_000 + i * 997);
                for _ in 0..20 {
                    client.send(&data);
                    client.expect(&data);
                }
            });
        }
    });
}

#[test]
fn who_may_not_be_served_is_rejected_with_a_reason() {
    let lab = Lab::new(213, |_, c| calm(c)).up();
    for transport in BOTH {
        let reject = |r| match connect(r) {
            Err(ConnectError::Rejected(reason)) => reason,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("accepted"),
        };
        let unknown = request(&lab, 0, transport, "nosuch");
        assert_eq!(reject(unknown), RejectReason::UnknownName);
        let passive = request(&lab, 1, transport, "sales");
        assert_eq!(reject(passive), RejectReason::NotActive);
        let mut newer = request(&lab, 0, transport, "sales");
        newer.min_generation = u64::MAX;
        assert_eq!(reject(newer), RejectReason::GenerationTooOld);
    }
}

#[test]
fn a_server_that_does_not_listen_is_said_so() {
    // No echo server: never healthy, so never active; an upstream that goes away after the start is what clients meet.
    let lab = Lab::of(1, 214, |_, c| c.servers[0].health_failures = 1000);
    let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
        unreachable!()
    };
    let listener = TcpListener::bind(addr).unwrap();
    let mut lab = lab;
    lab.nodes[0].start();
    lab.wait_active(0);
    drop(listener);
    until("refused", || {
        match connect(request(&lab, 0, Transport::Tcp, "sales")) {
            Err(ConnectError::Rejected(RejectReason::UpstreamRefused)) => Some(()),
            // For a moment, if the node stood still.
            Err(ConnectError::Rejected(RejectReason::NotActive)) => None,
            other => panic!("{:?}", other.err()),
        }
    });
}

#[test]
fn a_thawed_node_moves_nothing_and_ends_its_channels() {
    let lab = Lab::new(215, |_, _| {}).up();
    for transport in BOTH {
        let active = usize::from(lab.answer(0, "sales").role != vianet::resolve::Role::Active);
        let client = connect_when_active(&lab, active, transport);
        client.send(b"before");
        client.expect(b"before");
        lab.wait_role(1 - active, vianet::resolve::Role::Passive);
        lab.nodes[active].signal(SIGSTOP);
        lab.wait_active(1 - active);
        // Into the ring, or into the kernel's buffer, of a node that is active no more.
        client.send(b"too late");
        lab.nodes[active].signal(SIGCONT);
        assert_eq!(
            client.broken(),
            Broken::Ended(EndReason::NotActive),
            "{transport}"
        );
        assert_eq!(
            client.channel.acked(),
            6,
            "{transport}: not a byte went to the old server"
        );
    }
}

#[test]
fn stopping_and_resigning_end_channels_with_a_reason() {
    let mut lab = Lab::new(216, |_, c| calm(c)).up();
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    let server = "sales".to_owned();
    lab.nodes[0].control(&Request::Resign { server });
    assert_eq!(client.broken(), Broken::Ended(EndReason::NotActive));
    let client = connect_when_active(&lab, 1, Transport::Shm);
    lab.nodes[1].signal(SIGTERM);
    assert_eq!(client.broken(), Broken::Ended(EndReason::Stopping));
    assert!(
        lab.nodes[1]
            .child
            .as_mut()
            .unwrap()
            .wait()
            .unwrap()
            .success()
    );
}

#[test]
fn a_broken_transport_is_resumed_with_exactly_the_missing_bytes() {
    let lab = Lab::of(1, 217, |_, _| {}).up();
    let data = pattern(1 << 20);
    let mut client = connect_when_active(&lab, 0, Transport::Tcp);
    let mut returned = Vec::new();
    for (i, piece) in data.chunks(50_000).enumerate() {
        client.send(piece);
        if i % 3 == 1 {
            // Cut the TCP connection under both.
            let _ =
                rustix::net::shutdown(client.channel.wire.wait_fd(), rustix::net::Shutdown::Both);
            client = resume(&lab, 0, &client)
                .map_err(|e| format!("{e:?}"))
                .unwrap();
        }
        while returned.len() < (i + 1).min(20) * 50_000 - 50_000 {
            returned.extend(client.recv().unwrap());
        }
    }
    client.channel.shutdown_write().unwrap();
    loop {
        let more = client.recv().unwrap();
        if more.is_empty() {
            break;
        }
        returned.extend(more);
    }
    assert!(
        returned == data,
        "{} of {} bytes, or others",
        returned.len(),
        data.len()
    );
    assert!(lab.nodes[0].log().contains("channel-resumed"));
}

/// The client does not wait for the accept, and goes on with what it had: the session is there still.
#[test]
fn a_resumption_over_shared_memory_that_is_given_up_ends_nothing() {
    let lab = Lab::of(1, 228, |_, _| {}).up();
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(b"before");
    client.expect(b"before");
    let mut over_shm = request(&lab, 0, Transport::Shm, "sales");
    over_shm.resume = Some(Resume {
        channel_id: client.channel.accept.channel_id,
        secret: client.channel.accept.resume_secret,
        old: Arc::clone(&client.channel),
    });
    let mut connecting = Shm.connect(over_shm).unwrap();
    // What comes of it is dropped unused.
    until("accepted by the node", || {
        let _ = connecting.advance();
        let log = lab.nodes[0].log();
        log.contains("channel-resumed").then_some(())
    });
    drop(connecting);
    // Time for the node to notice.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let client = resume(&lab, 0, &client)
        .map_err(|e| format!("{e:?}"))
        .unwrap();
    client.send(b"after");
    client.expect(b"after");
}

/// A node whose lease does not run at this moment is still the one that has the session: it is not "not active", which would
/// end the stream.
#[test]
fn a_node_that_waits_for_its_peer_resumes_later() {
    let lab = Lab::new(251, |_, c| c.authority = lost_after(20)).up();
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(b"before");
    client.expect(b"before");
    lab.nodes[1].signal(SIGSTOP);
    until("out of its lease", || {
        lab.ask(0, "sales").is_none().then_some(())
    });
    let _ = rustix::net::shutdown(client.channel.wire.wait_fd(), rustix::net::Shutdown::Both);
    let resumed = until("resumed", || match resume(&lab, 0, &client) {
        Err(ConnectError::Rejected(RejectReason::Busy)) => None,
        outcome => Some(outcome),
    });
    lab.nodes[1].signal(SIGCONT);
    match resumed {
        Ok(client) => {
            client.send(b"after");
            client.expect(b"after");
        }
        // A node that stood still itself while it was alone gives its role up: another story.
        Err(_) if lab.nodes[0].log().contains("alone-after-gap") => {}
        Err(e) => panic!("{e:?}\n{}", lab.logs()),
    }
}

#[test]
fn a_channel_that_nobody_resumes_is_closed_after_its_time() {
    let lab = Lab::of(1, 218, |_, c| c.limits.resume_ms = 300).up();
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(b"x");
    client.expect(b"x");
    let _ = rustix::net::shutdown(client.channel.wire.wait_fd(), rustix::net::Shutdown::Both);
    until("closed", || {
        lab.nodes[0].log().contains("not-resumed").then_some(())
    });
    match resume(&lab, 0, &client) {
        Err(ConnectError::Rejected(RejectReason::UnknownChannel)) => {}
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_server_whose_client_was_cut_off_sees_a_reset_and_not_the_end_of_the_stream() {
    let mut lab = Lab::of(1, 250, |_, c| c.limits.resume_ms = 100);
    let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
        unreachable!()
    };
    let server = TcpListener::bind(addr).unwrap();
    lab.nodes[0].start();
    let reader = std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut all = Vec::new();
            let end = stream.unwrap().read_to_end(&mut all);
            // Health checks connect too, and say nothing.
            if !all.is_empty() {
                return (all, end.map_err(|e| e.kind()));
            }
        }
        unreachable!()
    });
    lab.wait_active(0);
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    let half = b"delete from orders where id = 1";
    client.send(half);
    client.until_acked(half.len() as u64);
    let _ = rustix::net::shutdown(client.channel.wire.wait_fd(), rustix::net::Shutdown::Both);
    let (all, end) = reader.join().unwrap();
    assert_eq!(
        (&all[..], end),
        (&half[..], Err(std::io::ErrorKind::ConnectionReset))
    );
}

#[test]
fn what_send_accepted_reaches_the_server_although_the_client_is_gone() {
    for transport in BOTH {
        let subnet = 219 + (transport == Transport::Shm) as u8;
        let mut lab = Lab::of(1, subnet, |_, _| {});
        let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
            unreachable!()
        };
        let server = TcpListener::bind(addr).unwrap();
        lab.nodes[0].start();
        // Health checks connect too, and say nothing.
        let reader = std::thread::spawn(move || {
            for stream in server.incoming() {
                let mut all = Vec::new();
                let _ = stream.unwrap().read_to_end(&mut all);
                if !all.is_empty() {
                    return all;
                }
            }
            unreachable!()
        });
        lab.wait_active(0);
        let client = connect_when_active(&lab, 0, transport);
        let data = pattern(40_000);
        client.send(&data);
        client.channel.end(EndReason::Closed);
        drop(client);
        assert!(reader.join().unwrap() == data, "{transport}");
    }
}

#[test]
fn the_end_of_the_servers_stream_is_a_close_when_healthy_and_a_loss_when_not() {
    let mut lab = Lab::of(1, 221, |_, c| c.servers[0].health_failures = 1000);
    let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
        unreachable!()
    };
    let server = TcpListener::bind(addr).unwrap();
    lab.nodes[0].start();
    // Says one word to whoever says something, and closes.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let serving = std::thread::spawn(move || {
        let mut open: Vec<TcpStream> = Vec::new();
        for stream in server.incoming() {
            if stopped.load(std::sync::atomic::Ordering::Acquire) {
                break;
            }
            let mut stream = stream.unwrap();
            let mut word = [0; 4];
            stream.set_read_timeout(Some(common::LONG)).unwrap();
            if stream.read_exact(&mut word).is_ok() {
                if &word == b"stay" {
                    open.push(stream);
                } else {
                    stream.write_all(b"bye").unwrap();
                    stream.shutdown(Shutdown::Both).unwrap();
                }
            }
        }
        // First nobody listens any more: a health check must not find the server well after the loss.
        drop(server);
        drop(open);
    });
    lab.wait_active(0);
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(b"word");
    client.expect(b"bye");
    assert_eq!(client.recv().unwrap(), b"", "a close");
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(b"stay");
    client.until_acked(4);
    stop.store(true, std::sync::atomic::Ordering::Release);
    let _ = TcpStream::connect(addr);
    serving.join().unwrap();
    assert_eq!(client.broken(), Broken::Ended(EndReason::UpstreamLost));
}
