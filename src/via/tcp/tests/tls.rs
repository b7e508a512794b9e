//! Who gets a channel by TLS, who gets one without, and what the network sees of it.

use super::streams::{recv_exactly, send_all};
use super::*;
use crate::via::packet::{self, Header, Type};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;

fn pinned(addr: SocketAddr) -> ConnectRequest {
    ConnectRequest {
        pinned: Some(key().public()),
        ..request(addr)
    }
}

/// What a client hears of a node that is asked nothing meanwhile, or refuses by itself.
fn refused(request: ConnectRequest, node: &mut Node) -> ConnectError {
    std::thread::scope(|s| {
        let client = s.spawn(|| connect(request).err());
        while !client.is_finished() {
            assert!(node.next_within(Duration::from_millis(10)).is_none());
        }
        client.join().expect("the client's side").expect("refused")
    })
}

fn not_authentic(request: ConnectRequest, node: &mut Node) -> String {
    match refused(request, node) {
        ConnectError::NotAuthentic(text) => text,
        other => panic!("{other:?}, must not be authentic"),
    }
}

#[test]
fn a_pinned_key_encrypts() {
    let mut node = Node::listen(keyed(v4()));
    let (client, server) = beside(pinned(node.addr()), || {
        let incoming = node.next();
        assert!(incoming.is_private());
        incoming.accept(accept(), None).expect("accepts")
    });
    let client = client.expect("accepted");
    assert!(client.accept.authentic);
    assert!(client.wire.is_private() && server.wire.is_private());
    assert_eq!(client.wire.transport(), Transport::Tcp);
}

#[test]
fn no_pinned_key_does_not() {
    for node in [keyed(v4()), config(v4())] {
        let mut node = Node::listen(node);
        let (client, server) = beside(request(node.addr()), || {
            let incoming = node.next();
            assert!(!incoming.is_private());
            incoming.accept(accept(), None).expect("accepts")
        });
        assert!(!client.expect("accepted").wire.is_private());
        assert!(!server.wire.is_private());
    }
}

#[test]
fn off_is_off() {
    let mut node = Node::listen(keyed(v4()));
    let off = ConnectRequest {
        tls: Tls::Off,
        ..pinned(node.addr())
    };
    let (client, _) = beside(off, || node.accept());
    let client = client.expect("accepted");
    assert!(client.accept.authentic && !client.wire.is_private());
}

#[test]
fn another_key_is_refused_before_a_word_is_said() {
    let mut node = Node::listen(keyed(v4()));
    let other = ConnectRequest {
        pinned: Some(SecretKey::from_seed([2; 32]).public()),
        ..request(node.addr())
    };
    let text = not_authentic(other, &mut node);
    assert!(text.contains("public_key"), "{text}");
}

#[test]
fn a_node_that_does_not_encrypt_is_refused() {
    let without_key = config(v4());
    let off = ListenConfig {
        tls: Tls::Off,
        ..keyed(v4())
    };
    for node in [without_key, off] {
        let mut node = Node::listen(node);
        let text = not_authentic(pinned(node.addr()), &mut node);
        assert!(
            text.contains("key_file") && text.contains("tls = \"off\""),
            "{text}"
        );
    }
}

#[test]
fn an_accept_in_clear_is_no_answer_to_a_hello() {
    // A man in the middle who takes the TLS away, and has seen a signed accept.
    let listener = TcpListener::bind(v4()).expect("listens");
    let addr = listener.local_addr().expect("an address");
    let client = std::thread::spawn(move || connect(pinned(addr)).err());
    let (mut socket, _) = listener.accept().expect("a client");
    let mut hello = [0; 5];
    socket.read_exact(&mut hello).expect("a hello");
    assert_eq!(hello[0], 22);
    let header = Header {
        generation: GENERATION,
        flags: 1,
        ..Header::new(Type::Accept)
    };
    socket
        .write_all(&packet::packet(header, &[7; 140]))
        .expect("writes");
    let error = client.join().expect("the client's side");
    assert!(
        matches!(error, Some(ConnectError::NotAuthentic(_))),
        "{error:?}"
    );
}

#[test]
fn who_requires_it_gets_nothing_less() {
    let mut node = Node::listen(ListenConfig {
        tls: Tls::Require,
        ..keyed(v4())
    });
    let said = refused(request(node.addr()), &mut node);
    assert_eq!(said, ConnectError::Rejected(RejectReason::NotEncrypted));
    let (client, _) = beside(pinned(node.addr()), || node.accept());
    assert!(client.is_ok());
    // The client that requires it needs a key to know the node by.
    let required = ConnectRequest {
        tls: Tls::Require,
        ..request(node.addr())
    };
    match connect(required).err() {
        Some(ConnectError::Unavailable(text)) => assert!(text.contains("public_key"), "{text}"),
        other => panic!("{other:?}"),
    }
    let keyless = TcpProvider.listen(&ListenConfig {
        tls: Tls::Require,
        ..config(v4())
    });
    assert!(
        keyless
            .err()
            .expect("refused")
            .to_string()
            .contains("key_file")
    );
}

#[test]
fn the_network_sees_neither_names_nor_secrets_nor_bytes() {
    let mut node = Node::listen(keyed(v4()));
    let tap = TcpListener::bind(v4()).expect("listens");
    let (addr, behind) = (tap.local_addr().expect("an address"), node.addr());
    let (tell, seen) = mpsc::channel::<Vec<u8>>();
    let listening = std::thread::spawn(move || {
        let (client, _) = tap.accept().expect("a client");
        let server = TcpStream::connect(behind).expect("connects");
        std::thread::scope(|s| {
            for (mut from, mut to) in [(&client, &server), (&server, &client)] {
                let tell = tell.clone();
                s.spawn(move || {
                    let mut buffer = [0; 4096];
                    let mut all = Vec::new();
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        all.extend_from_slice(&buffer[..n]);
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                    let _ = tell.send(all);
                });
            }
        });
    });
    let (client, server) = beside(pinned(addr), || node.accept());
    let client = client.expect("accepted");
    client.activate();
    server.activate();
    send_all(&client, b"a password in clear");
    assert_eq!(recv_exactly(&server, 19), b"a password in clear");
    send_all(&server, b"rows of a table");
    assert_eq!(recv_exactly(&client, 15), b"rows of a table");
    drop((client, server));
    listening.join().expect("the tap");
    for flight in [
        seen.recv().expect("one way"),
        seen.recv().expect("the other"),
    ] {
        for word in [
            &b"password"[..],
            b"table",
            b"sales",
            b"node-a",
            &SECRET[..8],
        ] {
            assert!(!flight.windows(word.len()).any(|w| w == word), "{word:?}");
        }
    }
}

#[test]
fn slow_and_silent_hellos_are_given_up() {
    // As the other handshakes: a bounded time, and nothing to be answered.
    let mut node = Node::listen(keyed(v4()));
    let mut silent = TcpStream::connect(node.addr()).expect("connects");
    silent.write_all(&[22, 3, 1]).expect("writes");
    silent.set_read_timeout(Some(LIMIT)).expect("sets");
    std::thread::scope(|s| {
        let end = s.spawn(|| silent.read(&mut [0; 10]));
        while !end.is_finished() {
            assert!(node.next_within(Duration::from_millis(50)).is_none());
        }
        assert!(matches!(end.join().expect("no panic"), Ok(0) | Err(_)));
    });
}
