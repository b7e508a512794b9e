//! A channel that another transport carried before.

use super::*;
use crate::via::channel::Channel;
use crate::via::tcp::TcpProvider;
use crate::via::testkit::{Node, accept, receive_stream, send_stream, until};
use std::sync::Arc;

const LARGE: u32 = 512 << 10;

struct Tcp;

impl Setup for Tcp {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(TcpProvider)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            addrs: vec![SocketAddr::from(([127, 0, 77, 1], 0))],
            ..On("RDMA_VM_RXE_ADDR").listen()
        }
    }

    fn endpoint(&self, listener: &dyn Listener) -> Endpoint {
        Endpoint {
            transport: Transport::Tcp,
            addr: listener.local_addrs()[0],
        }
    }
}

/// Both ends of a channel over tcp with large rings: `held` bytes of the client's stream are not consumed. It broke.
fn broken(held: u64) -> (Arc<Channel>, Channel) {
    let mut node = Node::start(&Tcp);
    let request = ConnectRequest {
        ring_bytes: LARGE,
        ..node.request(None)
    };
    let (client, served) = node.connect(request, |incoming| {
        Some(incoming.accept(accept(), None).expect("accepts"))
    });
    let (client, served) = (client.expect("connects"), served.expect("was accepted"));
    served.activate();
    client.activate();
    assert_eq!(client.rx.size(), LARGE as usize);
    send_stream(&client, 1, 0, held);
    client.wire.cut();
    until("both notice", || {
        client.drive().is_err() && served.drive().is_err()
    });
    client.retire();
    (Arc::new(client), served)
}

fn carry_on(
    node: &mut Node,
    client: &Arc<Channel>,
    served: &Channel,
) -> (Result<Channel, ConnectError>, Option<Channel>) {
    let request = ConnectRequest {
        resume: Some(crate::via::Resume {
            channel_id: client.accept.channel_id,
            secret: client.accept.resume_secret,
            old: Arc::clone(client),
        }),
        ..node.request(None)
    };
    node.connect(request, |incoming| {
        Some(incoming.accept(accept(), Some(served)).expect("accepts"))
    })
}

/// Rings of RDMA are locked memory, so they do not grow with those that a channel had before.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_channel_with_larger_rings_goes_on_in_smaller_ones() {
    let mut node = Node::start(&On("RDMA_VM_RXE_ADDR"));
    let held = 100_000;
    let (old, served) = broken(held);
    let (client, served) = carry_on(&mut node, &old, &served);
    let (client, served) = (client.expect("connects"), served.expect("was accepted"));
    for end in [&client, &served] {
        assert_eq!(
            (end.rx.size(), end.tx.size()),
            (RING_BYTES as usize, RING_BYTES as usize)
        );
        end.activate();
    }
    std::thread::scope(|s| {
        s.spawn(|| send_stream(&client, 1, held, 400_000));
        receive_stream(&served, 1, 0, 400_000);
    });
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_channel_that_holds_more_than_a_ring_goes_on_elsewhere() {
    let mut node = Node::start(&On("RDMA_VM_RXE_ADDR"));
    let (old, served) = broken(200_000);
    let (client, _) = carry_on(&mut node, &old, &served);
    assert!(
        matches!(&client, Err(ConnectError::Unavailable(why)) if why.contains("holds more")),
        "{:?}",
        client.err()
    );
}
