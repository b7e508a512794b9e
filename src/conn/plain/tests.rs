//! Ends of a plain connection: what is an end of the stream, and what is not.

use super::*;
use crate::resolve::Endpoint;
use crate::via::channel::{Received, Wait};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const LONG: Wait = Wait::Until {
    spin: Duration::ZERO,
    timeout: Some(Duration::from_secs(20)),
};

fn connect() -> (Channel, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let request = ConnectRequest {
        endpoint: Endpoint {
            transport: Transport::Plain,
            addr: server.local_addr().unwrap(),
        },
        server: "sales".into(),
        node: String::new(),
        min_generation: 0,
        patient: false,
        warm: false,
        pinned: None,
        tls: crate::via::Tls::Auto,
        shm_dir: "/nonexistent".into(),
        ring_bytes: 65_536,
        bell: None,
        resume: None,
        nonce: None,
    };
    let mut connecting = PlainProvider.connect(request).unwrap();
    let (stream, _) = server.accept().unwrap();
    loop {
        if let Poll::Ready(channel) = connecting.advance() {
            return (channel.unwrap(), stream);
        }
    }
}

fn read(channel: &Channel) -> Result<Received, Broken> {
    loop {
        let _ = channel.drive();
        match channel.recv(&mut [0; 64], LONG) {
            Ok(Received::Empty | Received::Interrupted) => {}
            other => return other,
        }
    }
}

#[test]
fn a_reset_is_never_shown_as_an_end_of_the_stream() {
    let (channel, mut server) = connect();
    server.write_all(b"half of").unwrap();
    assert!(matches!(read(&channel), Ok(Received::Bytes(7))));
    rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
    drop(server);
    for _ in 0..3 {
        let got = read(&channel);
        assert!(matches!(got, Err(Broken::Transport(_))), "{got:?}");
    }
}

#[test]
fn a_connection_that_was_cut_has_no_end_of_the_stream() {
    let (channel, _server) = connect();
    channel.wire.cut();
    for _ in 0..3 {
        let got = read(&channel);
        assert!(matches!(got, Err(Broken::Transport(_))), "{got:?}");
    }
}

#[test]
fn a_server_that_ends_in_good_order_is_an_end_again_and_again() {
    let (channel, mut server) = connect();
    server.write_all(b"all").unwrap();
    drop(server);
    assert!(matches!(read(&channel), Ok(Received::Bytes(3))));
    for _ in 0..3 {
        assert!(matches!(read(&channel), Ok(Received::End)));
    }
}

/// The thread that reads while the process forks does not exist in the child.
#[test]
fn a_forked_child_reads_what_a_thread_of_its_parent_was_reading() {
    let (socket, mut server) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        (OwnedFd::from(client), listener.accept().unwrap().0)
    };
    let region = Region::anonymous(65_536).unwrap();
    let ring = region.ring(Direction::ServerToClient);
    let tx = region.ring(Direction::ClientToServer);
    let wire = PlainWire::new(socket, ring.producer(), tx.consumer()).unwrap();
    wire.reading.store(true, Ordering::Relaxed);
    server.write_all(b"x").unwrap();
    server.shutdown(std::net::Shutdown::Write).unwrap();
    wire.after_fork();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !wire.rx.finished() && std::time::Instant::now() < end {
        wire.read_all().unwrap();
    }
    assert_eq!(ring.consumer().available(), Ok(1));
}
