//! The suite over shared memory.

use super::*;
use crate::resolve::Endpoint;
use crate::via::testkit::Setup;
use std::net::{Ipv4Addr, SocketAddr};

/// A socket directory of its own.
struct Here(tempfile::TempDir);

impl Here {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Setup for Here {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(Shm)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            addrs: Vec::new(),
            shm_dir: self.0.path().into(),
            node: "node-a".into(),
            signer: None,
            tls: crate::via::Tls::Auto,
            channels_per_peer: 8,
            max_ring_bytes: 1 << 20,
        }
    }

    fn endpoint(&self, _listener: &dyn Listener) -> Endpoint {
        Endpoint {
            transport: Transport::Shm,
            addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        }
    }
}

crate::provider_suite!(Here::new());

mod processes;

/// A peer that writes nonsense into the indexes loses its channel, and nobody else's.
#[test]
fn a_corrupt_index_ends_this_channel_only() {
    use crate::via::channel::{Received, Wait};
    use crate::via::testkit::{Node, patient, receive_stream, send_stream};
    use std::io::IoSlice;
    let here = Here::new();
    let mut node = Node::start(&here);
    let (bad, good) = (node.pair(), node.pair());
    // The client's own half, used against all rules: the head is the consumer's to move.
    send_stream(&bad.node, 2, 0, 100);
    bad.client.rx.consume_to(1 << 40);
    let sent = bad.node.send(&[IoSlice::new(&[0; 100_000])], Wait::No);
    assert!(
        matches!(&sent, Err(Broken::Corrupt(text)) if text.contains("at most 65536")),
        "{sent:?}"
    );
    assert!(matches!(
        bad.node.recv(&mut [0; 9], patient()),
        Err(Broken::Corrupt(_))
    ));
    assert!(matches!(bad.node.broken(), Some(Broken::Corrupt(_))));
    send_stream(&good.client, 1, 0, 50_000);
    receive_stream(&good.node, 1, 0, 50_000);
    assert_eq!(good.node.recv(&mut [0; 9], Wait::No), Ok(Received::Empty));
}

/// Garbage, a stranger's descriptor or a second bell on the control connection end this channel only.
#[test]
fn nonsense_on_the_control_connection_ends_this_channel_only() {
    use crate::via::packet::{Header, Type, packet};
    use crate::via::testkit::{Node, receive_stream, send_stream};
    use rustix::fd::AsFd;
    let here = Here::new();
    let mut node = Node::start(&here);
    let good = node.pair();
    let keep_alive = packet(Header::new(Type::KeepAlive), &[]);
    let pipe = rustix::pipe::pipe().unwrap().0;
    let bell = crate::via::bell::AppBell::pair().unwrap().1;
    for (bytes, fds) in [
        (vec![0xff; 64], vec![]),
        (packet(Header::new(Type::Ack), &[]), vec![]),
        (keep_alive.clone(), vec![pipe.as_fd()]),
        (keep_alive.clone(), vec![bell.far.as_fd()]),
    ] {
        let bad = node.pair();
        bad.node.drive().unwrap();
        control::send(bad.client.wire.wait_fd(), &bytes, &fds).unwrap();
        let end = bad.node.drive();
        assert!(matches!(end, Err(Broken::Corrupt(_))), "{end:?}");
    }
    // A good one is answered.
    control::send(good.client.wire.wait_fd(), &keep_alive, &[]).unwrap();
    good.node.drive().unwrap();
    good.client.drive().unwrap();
    send_stream(&good.client, 1, 0, 50_000);
    receive_stream(&good.node, 1, 0, 50_000);
}

/// Handshakes that are garbage, or stop half-way, cost nobody else anything.
#[test]
fn a_bad_handshake_is_rejected_and_others_go_on() {
    use crate::via::testkit::Node;
    let here = Here::new();
    let mut node = Node::start(&here);
    let dial = || {
        let path = here.0.path().join("node-a.sock");
        let socket = control::unix_stream().unwrap();
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        socket
    };
    let (silent, loud) = (dial(), dial());
    rustix::io::write(&loud, &[0xab; 64]).unwrap();
    let mut pair = node.pair();
    let mut got = [0; 64];
    crate::via::testkit::until("the reject is there", || {
        assert!(node.listener.poll().unwrap().is_none());
        matches!(rustix::io::read(&loud, &mut got), Ok(33))
    });
    assert_eq!(got[..33], crate::via::handshake::bad_request()[..]);
    assert_eq!(
        rustix::io::read(&silent, &mut got),
        Err(rustix::io::Errno::AGAIN)
    );
    pair = {
        drop(pair);
        node.pair()
    };
    drop(pair);
}

#[test]
fn a_client_of_another_host_is_told_so() {
    use crate::via::handshake::{ClientHandshake, ClientHello};
    use crate::via::testkit::{Node, until};
    let here = Here::new();
    let mut node = Node::start(&here);
    let path = here.0.path().join("node-a.sock");
    let socket = control::unix_stream().unwrap();
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let mut client = ClientHandshake::new(ClientHello {
        server: "sales".into(),
        node: "node-a".into(),
        min_generation: 0,
        patient: false,
        warm: false,
        pinned: None,
        ring_bytes: 4096,
        nonce: nonce().unwrap(),
        boot_id: [1; 16],
        resume: None,
    });
    rustix::io::write(&socket, client.output()).unwrap();
    let mut got = [0; 64];
    let mut n = 0;
    until("the reject is there", || {
        assert!(node.listener.poll().unwrap().is_none());
        n = rustix::io::read(&socket, &mut got).unwrap_or(0);
        n > 0
    });
    let rejected = Err(ConnectError::Rejected(
        crate::via::RejectReason::NotSameHost,
    ));
    assert_eq!(client.feed(&got[..n]), rejected);
}

#[test]
fn the_sockets_file_is_replaced_only_where_nobody_answers() {
    let here = Here::new();
    let path = here.0.path().join("node-a.sock");
    let first = Shm.listen(&here.listen()).unwrap();
    let second = Shm.listen(&here.listen()).err().unwrap();
    assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert!(!path.exists(), "a clean end leaves nothing");

    // As after a kill -9: the file stays and nobody listens.
    let dead = control::unix_stream().unwrap();
    rustix::net::bind(&dead, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    drop(dead);
    assert!(path.exists());
    drop(Shm.listen(&here.listen()).unwrap());

    std::fs::write(&path, "somebody's file").unwrap();
    let other = Shm.listen(&here.listen()).err().unwrap();
    assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
    assert!(path.exists());
}

#[test]
fn a_nodes_name_cannot_leave_the_directory() {
    let dir = Path::new("/run/vianet");
    for bad in [
        "",
        ".",
        "..",
        ".x",
        "a/b",
        "../x",
        "a b",
        "a\0",
        "ä",
        &"x".repeat(65),
    ] {
        assert!(socket_path(dir, bad).is_err(), "{bad:?}");
    }
    assert_eq!(
        socket_path(dir, "node-a.1_B").unwrap(),
        dir.join("node-a.1_B.sock")
    );
}

#[test]
fn where_there_is_no_daemon_the_reason_says_which() {
    use crate::via::testkit::Node;
    let here = Here::new();
    let node = Node::start(&here);
    let request = ConnectRequest {
        node: "node-z".into(),
        ..node.request(None)
    };
    let none = Shm.connect(request).err();
    assert!(matches!(none, Some(ConnectError::Unavailable(t)) if t.contains("node-z.sock")));
    let request = node.request(None);
    drop(node);
    let path = here.0.path().join("node-a.sock");
    let dead = control::unix_stream().unwrap();
    rustix::net::bind(&dead, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    drop(dead);
    let refused = Shm.connect(request).err();
    assert!(
        matches!(refused, Some(ConnectError::Failed(_))),
        "{refused:?}"
    );
}

/// The client's bell comes by the control connection, which another thread may be reading at this moment: a ring that
/// went nowhere would leave a word that says RUNG, and the client would take the byte for one that somebody else read.
#[test]
fn a_ring_waits_for_the_bell_that_another_thread_fetches() {
    use crate::via::bell::AppBell;
    use crate::via::packet::{Header, Type, packet};
    use rustix::fd::AsFd;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
    use std::sync::Arc;
    let (unix, stream) = (AddressFamily::UNIX, SocketType::STREAM);
    let (ours, theirs) = socketpair(unix, stream, SocketFlags::NONBLOCK, None).unwrap();
    let (app, bell) = AppBell::pair().unwrap();
    let hello = packet(Header::new(Type::KeepAlive), &[]);
    control::send(theirs.as_fd(), &hello, &[bell.far.as_fd()]).unwrap();
    let wire = ShmWire {
        control: Control::new(Arc::new(ours)),
        peer: PeerBell::Client {
            uid: rustix::process::geteuid().as_raw(),
            bell: OnceLock::new(),
        },
        _slot: None,
    };
    let (fetched, in_hand) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let kept = wire.control.read(|fd| {
                fetched.send(()).unwrap();
                // Stands still between the two for as long as the other needs to come.
                std::thread::sleep(std::time::Duration::from_millis(100));
                wire.keep_bell(fd)
            });
            assert_eq!(kept, Ok(false));
        });
        in_hand.recv().unwrap();
        Bell::ring(&wire, b"t");
    });
    let mut token = [0; 2];
    let got = recv(&app, &mut token, RecvFlags::DONTWAIT).map(|(n, _)| n);
    assert_eq!((got, token[0]), (Ok(1), b't'));
}
