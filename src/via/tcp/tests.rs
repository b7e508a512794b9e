//! The provider end to end over loopback. [`Node`] and [`connect`] are the two sides that the other test files use too.

mod dead;
mod hostile;
mod resuming;
mod streams;
mod suite;
mod tls;

use super::TcpProvider;
use crate::resolve::Endpoint;
use crate::resolve::identity::{PublicKey, SecretKey};
use crate::via::channel::Wait;
use crate::via::{
    Accept, Channel, ConnectError, ConnectRequest, Incoming, ListenConfig, Listener, Provider,
    RejectReason, Resume, Tls, Transport,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

const GENERATION: u64 = 1000;
const SECRET: [u8; 32] = [0x5e; 32];
/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
const WAIT: Wait = Wait::Until {
    spin: Duration::from_micros(20),
    timeout: Some(LIMIT),
};

fn v4() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn v6() -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0))
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// The node's side: a listener, and what it says.
struct Node {
    listener: Box<dyn Listener>,
}

impl Node {
    fn listen(config: ListenConfig) -> Self {
        let listener = TcpProvider.listen(&config).expect("listens");
        Self { listener }
    }

    fn on(addr: SocketAddr) -> Self {
        Self::listen(config(addr))
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addrs()[0]
    }

    /// The next complete request within `time`.
    fn next_within(&mut self, time: Duration) -> Option<Box<dyn Incoming>> {
        let end = Instant::now() + time;
        loop {
            if let Some(incoming) = self.listener.poll().expect("polls") {
                return Some(incoming);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let fd = self.listener.wait_fd();
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            let _ = poll(
                &mut fds,
                Some(&timespec(left.min(Duration::from_millis(100)))),
            );
        }
    }

    fn next(&mut self) -> Box<dyn Incoming> {
        self.next_within(LIMIT).expect("a request")
    }

    /// Accepts the next request.
    fn accept(&mut self) -> Channel {
        self.next().accept(accept(), None).expect("accepts")
    }
}

fn config(addr: SocketAddr) -> ListenConfig {
    ListenConfig {
        addrs: vec![addr],
        shm_dir: "/nonexistent".into(),
        node: "node-a".into(),
        signer: None,
        tls: Tls::Auto,
        channels_per_peer: 1000,
        max_ring_bytes: 1 << 20,
    }
}

fn key() -> Arc<SecretKey> {
    Arc::new(SecretKey::from_seed([1; 32]))
}

/// As [`config`], for a node with the cluster's key.
fn keyed(addr: SocketAddr) -> ListenConfig {
    ListenConfig {
        signer: Some(key()),
        ..config(addr)
    }
}

fn accept() -> Accept {
    Accept {
        node: "node-a".into(),
        generation: GENERATION,
        cluster_id: [3; 16],
        channel_id: 77,
        resume_secret: SECRET,
        authentic: false,
    }
}

fn request(addr: SocketAddr) -> ConnectRequest {
    ConnectRequest {
        server: "sales".into(),
        node: "node-a".into(),
        endpoint: Endpoint {
            transport: Transport::Tcp,
            addr,
        },
        min_generation: GENERATION - 1,
        patient: false,
        warm: false,
        pinned: None,
        tls: Tls::Auto,
        shm_dir: "/nonexistent".into(),
        ring_bytes: 1 << 16,
        bell: None,
        resume: None,
        nonce: None,
    }
}

fn connect(request: ConnectRequest) -> Result<Channel, ConnectError> {
    let mut connecting = TcpProvider.connect(request)?;
    let end = Instant::now() + LIMIT;
    loop {
        if let Poll::Ready(result) = connecting.advance() {
            return result;
        }
        assert!(Instant::now() < end, "the connect ends in time");
        let interest = connecting.interest();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.read);
        flags.set(PollFlags::OUT, interest.write);
        let mut fds = [PollFd::from_borrowed_fd(connecting.wait_fd(), flags)];
        let _ = poll(&mut fds, Some(&timespec(Duration::from_secs(1))));
    }
}

/// Runs `node` beside a client's connect.
fn beside<T: Send>(
    request: ConnectRequest,
    node: impl FnOnce() -> T + Send,
) -> (Result<Channel, ConnectError>, T) {
    std::thread::scope(|s| {
        let node = s.spawn(node);
        let client = connect(request);
        (client, node.join().expect("the node's side"))
    })
}

/// A channel: the client's side and the node's.
fn pair_on(addr: SocketAddr, ring_bytes: u32) -> (Channel, Channel) {
    let mut node = Node::on(addr);
    let request = ConnectRequest {
        ring_bytes,
        ..request(node.addr())
    };
    let (client, server) = beside(request, || node.accept());
    let client = client.expect("accepted");
    client.activate();
    server.activate();
    (client, server)
}

fn resume_request(addr: SocketAddr, old: &Arc<Channel>) -> ConnectRequest {
    ConnectRequest {
        resume: Some(Resume {
            channel_id: old.accept.channel_id,
            secret: old.accept.resume_secret,
            old: Arc::clone(old),
        }),
        ..request(addr)
    }
}

#[test]
fn accept_says_who_and_what() {
    for addr in [v4(), v6()] {
        let mut node = Node::on(addr);
        let (client, server) = beside(request(node.addr()), || {
            let incoming = node.next();
            assert_eq!(incoming.server(), "sales");
            assert_eq!(incoming.min_generation(), GENERATION - 1);
            assert_eq!(incoming.resumes(), None);
            assert!(!incoming.proves(&SECRET));
            let peer: SocketAddr = incoming.peer().parse().expect("an address");
            assert_eq!(peer.ip(), addr.ip());
            incoming.accept(accept(), None).expect("accepts")
        });
        let client = client.expect("accepted");
        assert_eq!(client.accept, accept());
        assert_eq!(client.wire.transport(), Transport::Tcp);
        assert_eq!(server.wire.transport(), Transport::Tcp);
    }
}

#[test]
fn every_reject_reason_arrives() {
    let mut node = Node::on(v4());
    for reason in (1..=10).map(|n| RejectReason::from_wire(n).expect("a reason")) {
        let (client, ()) = beside(request(node.addr()), || node.next().reject(reason));
        assert_eq!(client.err(), Some(ConnectError::Rejected(reason)));
    }
}

#[test]
fn nobody_listens() {
    let addr = Node::on(v4()).addr();
    match connect(request(addr)) {
        Err(ConnectError::Failed(text)) => assert!(text.contains("refused"), "{text}"),
        other => panic!("must fail: {:?}", other.err()),
    }
}

#[test]
fn a_request_that_is_dropped_fails() {
    let mut node = Node::on(v4());
    let (client, ()) = beside(request(node.addr()), || drop(node.next()));
    assert!(matches!(client.err(), Some(ConnectError::Failed(_))));
}

#[test]
fn a_pinned_key_demands_its_signature() {
    let pinned = |addr, key: Option<PublicKey>| ConnectRequest {
        pinned: key,
        tls: Tls::Off,
        ..request(addr)
    };
    let key = Arc::new(SecretKey::from_seed([1; 32]));
    let mut node = Node::listen(ListenConfig {
        signer: Some(Arc::clone(&key)),
        ..config(v4())
    });
    let good = pinned(node.addr(), Some(key.public()));
    let (client, _) = beside(good, || node.accept());
    assert!(client.expect("accepted").accept.authentic);

    let other = pinned(node.addr(), Some(SecretKey::from_seed([2; 32]).public()));
    let (client, _) = beside(other, || node.accept());
    assert!(matches!(client.err(), Some(ConnectError::NotAuthentic(_))));

    let mut unsigned = Node::on(v4());
    let good = pinned(unsigned.addr(), Some(key.public()));
    let (client, _) = beside(good, || unsigned.accept());
    assert!(matches!(client.err(), Some(ConnectError::NotAuthentic(_))));
}

#[test]
fn another_node_answers() {
    let mut node = Node::on(v4());
    let expected = ConnectRequest {
        node: "node-b".into(),
        ..request(node.addr())
    };
    let (client, _) = beside(expected, || node.accept());
    assert!(matches!(client.err(), Some(ConnectError::NotAuthentic(_))));
}

#[test]
fn one_source_has_a_limit_and_gets_its_channels_back() {
    let mut node = Node::listen(ListenConfig {
        channels_per_peer: 2,
        ..config(v4())
    });
    let addr = node.addr();
    let mut held = Vec::new();
    for _ in 0..2 {
        let (client, server) = beside(request(addr), || node.accept());
        held.push((client.expect("accepted"), server));
    }
    let over = |node: &mut Node| {
        std::thread::scope(|s| {
            let client = s.spawn(|| connect(request(addr)).err());
            while !client.is_finished() {
                assert!(node.next_within(Duration::from_millis(20)).is_none());
            }
            client.join().expect("the client's side")
        })
    };
    let busy = Some(ConnectError::Rejected(RejectReason::Busy));
    assert_eq!(node.listener.refused(), 0);
    assert_eq!(over(&mut node), busy);
    assert_eq!(node.listener.refused(), 1);
    held.pop();
    let (client, _server) = beside(request(addr), || node.accept());
    assert!(client.is_ok());
}

#[test]
fn a_ring_is_granted_up_to_the_nodes_limit() {
    let mut node = Node::listen(ListenConfig {
        max_ring_bytes: 1 << 14,
        ..config(v4())
    });
    let (client, server) = beside(request(node.addr()), || node.accept());
    assert_eq!(client.expect("accepted").rx.size(), 1 << 14);
    assert_eq!(server.tx.size(), 1 << 14);
}

#[test]
fn an_address_in_use_is_named() {
    let node = Node::on(v4());
    let error = TcpProvider.listen(&config(node.addr())).err();
    let text = error.expect("in use").to_string();
    assert!(text.contains(&node.addr().to_string()), "{text}");
}
