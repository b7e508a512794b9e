//! Encryption is never taken away in silence: what a driver hears that asks for it, and which connections a node takes.

mod common;

use common::client::{Client, connect, connect_when_active, request, resume};
use common::{Lab, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vianet::via::{Broken, ConnectError, RejectReason, Tls, Transport};
use vianet_node::config::{Node, Protocol, Server, Upstream};

const ASK: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const STARTUP: &[u8] = b"\0\0\0\x12\0\x03\0\0user\0app\0\0";
const CHALLENGED: &[u8] = b"R\0\0\0\x0c\0\0\0\x05saltR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A server that answers a request for encryption with `answer`, and after a yes sends back what comes, and counts the logins. (The
/// health check asks too, and then closes.)
fn postgres(addr: SocketAddr, answer: &'static [u8]) -> Arc<AtomicU32> {
    let listener = TcpListener::bind(addr).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counter) = (stream.unwrap(), Arc::clone(&counter));
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                let mut encrypts = false;
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let _ = match &buffer[..n] {
                        ASK => {
                            encrypts = answer == b"S";
                            stream.write_all(answer)
                        }
                        all if encrypts => {
                            // (The node's own knock is TLS.)
                            let login = u32::from(all.ends_with(STARTUP));
                            counter.fetch_add(login, Ordering::AcqRel);
                            stream.write_all(all)
                        }
                        _ => stream.write_all(CHALLENGED),
                    };
                }
            });
        }
    });
    asked
}

fn lab(subnet: u8, answer: &'static [u8], edit: impl Fn(&mut Server)) -> (Lab, Arc<AtomicU32>) {
    lab_of(subnet, answer, |node| edit(&mut node.servers[0]))
}

fn lab_of(subnet: u8, answer: &'static [u8], edit: impl Fn(&mut Node)) -> (Lab, Arc<AtomicU32>) {
    let mut lab = Lab::of(1, subnet, |_, c| {
        c.servers[0].protocol = Protocol::Postgres;
        edit(c);
    });
    let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
        unreachable!()
    };
    let asked = postgres(addr, answer);
    lab.nodes[0].start();
    lab.wait_active(0);
    (lab, asked)
}

/// A client whose connection the network can read.
fn in_clear(lab: &Lab) -> Client {
    let clear = || vianet::via::ConnectRequest {
        tls: Tls::Off,
        ..request(lab, 0, Transport::Tcp, "sales")
    };
    let client = common::client::connect_as_soon(clear);
    assert!(!client.channel.wire.is_private());
    client
}

fn all_of(client: &Client) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(more) = client.recv() {
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    all
}

fn logs_in(client: &Client) {
    client.send(STARTUP);
    client.expect(CHALLENGED);
}

#[test]
fn no_is_said_where_nobody_can_read() {
    let (lab, asked) = lab(160, b"S", |_| {});
    for transport in [Transport::Tcp, Transport::Shm] {
        let client = connect_when_active(&lab, 0, transport);
        assert!(client.channel.wire.is_private());
        client.send(ASK);
        client.expect(b"N");
        logs_in(&client);
    }
    assert_eq!(asked.load(Ordering::Acquire), 0);
}

#[test]
fn in_clear_the_servers_own_no_is_passed_on_and_the_login_watched() {
    let (lab, _) = lab(161, b"N", |_| {});
    let client = in_clear(&lab);
    client.send(ASK);
    client.expect(b"N");
    logs_in(&client);
}

#[test]
fn in_clear_a_yes_is_refused_in_words() {
    let (lab, asked) = lab(162, b"S", |_| {});
    let client = in_clear(&lab);
    // Whatever it sends without waiting must not reach the server.
    client.send(&[ASK, STARTUP].concat());
    let text = String::from_utf8_lossy(&all_of(&client)).into_owned();
    assert!(text.starts_with('E') && text.contains("C28000\0"), "{text}");
    for remedy in ["public_key", "allow_plaintext", "allow_unwatched_tls"] {
        assert!(text.contains(remedy), "{text}");
    }
    assert_eq!(asked.load(Ordering::Acquire), 0);
    assert!(lab.logs().contains("login-refused"), "{}", lab.logs());
    // One that does not ask for it is served.
    logs_in(&in_clear(&lab));
}

#[test]
fn allow_unwatched_tls_lets_it_through() {
    let (lab, _) = lab(163, b"S", |s| s.allow_unwatched_tls = true);
    let client = in_clear(&lab);
    client.send(ASK);
    client.expect(b"S");
    client.send(b"\x16\x03\x01 a hello, and whatever follows it");
    client.expect(b"\x16\x03\x01 a hello, and whatever follows it");
    // Where nobody can read, it is not needed.
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(ASK);
    client.expect(b"N");
}

#[test]
fn allow_plaintext_says_no_everywhere() {
    let (lab, _) = lab(164, b"S", |s| s.allow_plaintext = true);
    let client = in_clear(&lab);
    client.send(ASK);
    client.expect(b"N");
    logs_in(&client);
}

#[test]
fn a_session_that_was_told_no_is_not_carried_on_in_clear() {
    let (lab, _) = lab(165, b"S", |_| {});
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    client.send(ASK);
    client.expect(b"N");
    logs_in(&client);
    client.channel.fail(Broken::Transport("cut".into()));
    client.channel.retire();
    let again = || vianet::via::Resume {
        channel_id: client.channel.accept.channel_id,
        secret: client.channel.accept.resume_secret,
        old: Arc::clone(&client.channel),
    };
    let refused = connect(vianet::via::ConnectRequest {
        resume: Some(again()),
        tls: Tls::Off,
        ..request(&lab, 0, Transport::Tcp, "sales")
    });
    let reason = ConnectError::Rejected(RejectReason::NotEncrypted);
    assert_eq!(refused.err(), Some(reason));
    assert!(lab.logs().contains("resume-refused"), "{}", lab.logs());
    let carried = resume(&lab, 0, &client).expect("by TLS it goes on");
    carried.send(b"Q\0\0\0\x05\0");
    carried.expect(CHALLENGED);
}

#[test]
fn one_that_did_not_ask_is() {
    let (lab, _) = lab(166, b"S", |_| {});
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    logs_in(&client);
    client.channel.fail(Broken::Transport("cut".into()));
    client.channel.retire();
    let carried = connect(vianet::via::ConnectRequest {
        resume: Some(vianet::via::Resume {
            channel_id: client.channel.accept.channel_id,
            secret: client.channel.accept.resume_secret,
            old: Arc::clone(&client.channel),
        }),
        tls: Tls::Off,
        ..request(&lab, 0, Transport::Tcp, "sales")
    });
    assert!(carried.is_ok());
}

#[test]
fn a_node_that_requires_it_takes_nobody_in_clear() {
    let (lab, _) = lab_of(168, b"N", |node| node.listen.tls = Tls::Require);
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    assert!(client.channel.wire.is_private());
    let clear = until("the node answers", || {
        connect(vianet::via::ConnectRequest {
            tls: Tls::Off,
            ..request(&lab, 0, Transport::Tcp, "sales")
        })
        .err()
    });
    let reason = ConnectError::Rejected(RejectReason::NotEncrypted);
    assert_eq!(clear, reason);
}
