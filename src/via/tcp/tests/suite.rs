//! The suite of all providers over tcp, and channels that are carried on over the other provider.

use crate::resolve::Endpoint;
use crate::resolve::identity::SecretKey;
use crate::via::shm::Shm;
use crate::via::tcp::TcpProvider;
use crate::via::testkit::{Node, Setup, accept, bytes, patient, receive_stream, send_stream};
use crate::via::{
    Broken, Channel, ConnectRequest, ListenConfig, Listener, Provider, Resume, Tls, Transport,
};
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Listens on a free port of this address.
struct On(SocketAddr);

/// The same with a key, which clients pin: by TLS.
struct Encrypted(On);

impl Setup for Encrypted {
    fn provider(&self) -> Box<dyn Provider> {
        self.0.provider()
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            signer: Some(Arc::new(SecretKey::from_seed([1; 32]))),
            ..self.0.listen()
        }
    }

    fn endpoint(&self, listener: &dyn Listener) -> Endpoint {
        self.0.endpoint(listener)
    }
}

impl Setup for On {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(TcpProvider)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            addrs: vec![self.0],
            shm_dir: "/nonexistent".into(),
            node: "node-a".into(),
            signer: None,
            tls: Tls::Auto,
            channels_per_peer: 8,
            max_ring_bytes: 1 << 20,
        }
    }

    fn endpoint(&self, listener: &dyn Listener) -> Endpoint {
        Endpoint {
            transport: Transport::Tcp,
            addr: listener.local_addrs()[0],
        }
    }
}

mod v4 {
    use super::*;
    crate::provider_suite!(On(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
}

mod tls {
    use super::*;
    crate::provider_suite!(Encrypted(On(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))));
}

mod v6 {
    use super::*;
    crate::provider_suite!(On(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))));
}

/// The same node over shared memory.
struct Beside(tempfile::TempDir);

impl Setup for Beside {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(Shm)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            addrs: Vec::new(),
            shm_dir: self.0.path().into(),
            ..On(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).listen()
        }
    }

    fn endpoint(&self, _: &dyn Listener) -> Endpoint {
        Endpoint {
            transport: Transport::Shm,
            addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        }
    }
}

/// Breaks a channel with bytes on their way and carries it on by `node`.
fn cross(node: &mut Node, client: &Arc<Channel>, server: &Channel) -> (Arc<Channel>, Channel) {
    for channel in [client.as_ref(), server] {
        channel.fail(Broken::Transport("cut".into()));
        channel.retire();
    }
    let request = ConnectRequest {
        resume: Some(Resume {
            channel_id: client.accept.channel_id,
            secret: client.accept.resume_secret,
            old: Arc::clone(client),
        }),
        ..node.request(None)
    };
    let (resumed, carried) = node.connect(request, |incoming| {
        assert!(incoming.proves(&accept().resume_secret));
        Some(incoming.accept(accept(), Some(server)).expect("accepts"))
    });
    let (resumed, carried) = (resumed.expect("resumes"), carried.expect("was accepted"));
    resumed.activate();
    carried.activate();
    (Arc::new(resumed), carried)
}

#[test]
fn a_channel_is_carried_on_over_the_other_provider_and_back() {
    over_the_other_and_back(&On(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
}

#[test]
fn the_same_by_tls() {
    let over_tcp = On(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    over_the_other_and_back(&Encrypted(over_tcp));
}

fn over_the_other_and_back(over_tcp: &dyn Setup) {
    let over_shm = Beside(tempfile::tempdir().expect("a directory"));
    let (mut tcp, mut shm) = (Node::start(over_tcp), Node::start(&over_shm));
    let pair = tcp.pair();
    let (mut client, mut server) = (pair.client, None);
    let mut at = 0;
    let piece = 10_000;
    for round in 0..6 {
        let node = server.as_ref().unwrap_or(&*pair.node);
        // Some of it is read, some is unread in the ring, some may still be in the kernel.
        for (from, to, seed) in [(&*client, node, 1), (node, &*client, 2)] {
            let sent = from.send(&[IoSlice::new(&bytes(seed, at, piece))], patient());
            assert_eq!(sent, Ok(piece));
            receive_stream(to, seed, at, at + piece as u64 / 4);
        }
        let onto = if round % 2 == 0 { &mut shm } else { &mut tcp };
        let (next, carried) = cross(onto, &client, node);
        let expected = if round % 2 == 0 {
            Transport::Shm
        } else {
            Transport::Tcp
        };
        assert_eq!(next.wire.transport(), expected);
        for (to, seed) in [(&carried, 1), (&*next, 2)] {
            receive_stream(to, seed, at + piece as u64 / 4, at + piece as u64);
        }
        at += piece as u64;
        client = next;
        server = Some(carried);
    }
    let server = server.expect("carried on");
    std::thread::scope(|s| {
        s.spawn(|| send_stream(&client, 1, at, at + 500_000));
        s.spawn(|| send_stream(&server, 2, at, at + 500_000));
        s.spawn(|| receive_stream(&server, 1, at, at + 500_000));
        s.spawn(|| receive_stream(&client, 2, at, at + 500_000));
    });
}
