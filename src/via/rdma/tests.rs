//! Over a real device: `make test-rdma` runs these in a small virtual machine with software devices. The addresses of
//! the devices are in the environment, as there.

use super::*;
use crate::resolve::Endpoint;
use crate::via::testkit::Setup;
use std::net::{IpAddr, SocketAddr};

/// Listens on a free port of the device's address, which this variable has.
struct On(&'static str);

impl On {
    fn addr(&self) -> SocketAddr {
        let ip = std::env::var(self.0)
            .ok()
            .and_then(|text| text.parse::<IpAddr>().ok())
            .unwrap_or_else(|| panic!("{} has no address: run `make test-rdma`", self.0));
        SocketAddr::new(ip, 0)
    }
}

impl Setup for On {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(Rdma)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            addrs: vec![self.addr()],
            shm_dir: "/nonexistent".into(),
            node: "node-a".into(),
            signer: None,
            tls: crate::via::Tls::Auto,
            channels_per_peer: 8,
            max_ring_bytes: 1 << 20,
        }
    }

    fn endpoint(&self, listener: &dyn Listener) -> Endpoint {
        Endpoint {
            transport: Transport::Rdma,
            addr: listener.local_addrs()[0],
        }
    }
}

/// The same with so many channels of one source.
struct Limited(&'static str, usize);

impl Setup for Limited {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(Rdma)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            channels_per_peer: self.1,
            ..On(self.0).listen()
        }
    }

    fn endpoint(&self, listener: &dyn Listener) -> Endpoint {
        On(self.0).endpoint(listener)
    }
}

mod rxe {
    use super::*;
    crate::provider_suite!(
        #[ignore = "needs an RDMA device: make test-rdma"]
        On("RDMA_VM_RXE_ADDR")
    );
}

mod siw {
    use super::*;
    crate::provider_suite!(
        #[ignore = "needs an RDMA device: make test-rdma"]
        On("RDMA_VM_SIW_ADDR")
    );
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn devices_are_listed_with_their_ports() {
    let found = devices().expect("a list");
    for (name, iwarp) in [("rxe0", false), ("siw0", true)] {
        let (_, device) = found.iter().find(|(n, _)| n == name).expect("is listed");
        let device = device.as_ref().expect("can be opened");
        assert_eq!((device.iwarp, device.ports.len()), (iwarp, 1));
        let port = device.ports[0];
        assert!(port.active && port.number == 1, "{port:?}");
        assert!((256..=4096).contains(&port.mtu), "{port:?}");
        assert!(device.limits.queue_pairs > 100 && device.limits.queue_depth > 100);
    }
}

/// A port on which nobody listens, and one of another protocol, are failures of the connect and say so.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn where_nobody_listens_the_connect_fails() {
    use crate::via::testkit::Node;
    for on in ["RDMA_VM_RXE_ADDR", "RDMA_VM_SIW_ADDR"] {
        let mut node = Node::start(&On(on));
        let mut request = node.request(None);
        request.endpoint.addr.set_port(9);
        let (client, _) = node.connect(request, |_| None);
        let text = match client.err() {
            Some(ConnectError::Failed(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(text.contains(":9"), "{text}");
        node.pair();
    }
}

/// An address that no RDMA device has or reaches: the next transport is for it.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn where_no_device_leads_rdma_is_unavailable() {
    use crate::via::testkit::Node;
    let mut node = Node::start(&On("RDMA_VM_RXE_ADDR"));
    for addr in ["127.0.0.1:7434", "192.0.2.1:7434"] {
        let mut request = node.request(None);
        request.endpoint.addr = addr.parse().unwrap();
        let (client, _) = node.connect(request, |_| None);
        assert!(
            matches!(&client, Err(ConnectError::Unavailable(_))),
            "{addr}: {:?}",
            client.err()
        );
    }
}

/// A name that is too long for the request's private data goes in the packet.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_long_name_goes_in_the_packet() {
    use crate::via::testkit::{Node, accept};
    for on in ["RDMA_VM_RXE_ADDR", "RDMA_VM_SIW_ADDR"] {
        let mut node = Node::start(&On(on));
        let name = "n".repeat(200);
        let request = ConnectRequest {
            server: name.clone(),
            ..node.request(None)
        };
        let (client, _) = node.connect(request, |incoming| {
            assert_eq!(incoming.server(), name);
            Some(incoming.accept(accept(), None).unwrap())
        });
        client.expect("connects");
    }
}

mod allocations;
mod faults;
mod hostile;
mod resumed;
