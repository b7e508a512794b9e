//! A peer that has done the handshake and then says impossible things: its channel ends, and nobody else's.

use super::*;
use crate::via::channel::{Channel, Received, Wait};
use crate::via::handshake::Established;
use crate::via::packet::{self, Header, Type};
use crate::via::rdma::cm::{EventChannel, Id};
use crate::via::rdma::connect::RdmaConnecting;
use crate::via::rdma::layout::*;
use crate::via::rdma::link::{Link, Message, Trouble};
use crate::via::rdma::load::library;
use crate::via::rdma::message::{Immediate, PREFIX_BYTES, Prefix, Window, private};
use crate::via::testkit::{Node, accept, patient, receive_stream, send_stream, until};
use crate::via::{Broken, EndReason, RejectReason};

/// A client of our own making: a link, and the node's channel.
struct Raw {
    link: Link,
    node_window: Window,
    generation: u64,
    node: Channel,
}

impl Raw {
    fn connect(node: &mut Node) -> Self {
        let mut connecting = RdmaConnecting::begin(node.request(None)).expect("begins");
        let mut served = None;
        let (link, established): (Link, Established) = loop {
            if let Some(incoming) = node.listener.poll().expect("listens") {
                served = Some(incoming.accept(accept(), None).expect("accepts"));
            }
            if let Some(done) = connecting.step().expect("goes on") {
                break done;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        let served = served.expect("was accepted");
        served.activate();
        Self {
            link,
            node_window: connecting.window,
            generation: established.accept.generation,
            node: served,
        }
    }

    /// A packet with this prefix.
    fn packet(&self, prefix: Prefix, header: Header, payload: &[u8]) {
        let mut packet = header.encode().to_vec();
        packet.extend(payload);
        self.link
            .send_header(prefix, &packet, None, None, true)
            .expect("is posted");
    }

    fn header(&self, kind: Type) -> Header {
        Header {
            generation: self.generation,
            ..Header::new(kind)
        }
    }

    /// The first packet of an honest client: here is my ring (which nobody will write to).
    fn introduce(&self) {
        let prefix = Prefix {
            received: self.link.credit.count(),
            window: Window {
                address: 4096,
                key: 1,
            },
        };
        self.packet(prefix, self.header(Type::Ack), &[]);
    }

    fn prefix(&self) -> Prefix {
        Prefix {
            received: self.link.credit.count(),
            window: Window::default(),
        }
    }

    /// What the node's side makes of it.
    fn end(&self) -> Broken {
        let mut end = None;
        until("the node notices", || {
            end = self.node.drive().err();
            end.is_some()
        });
        end.expect("just seen")
    }
}

/// A connection that was asked for, with this private data.
fn asking(node: &mut Node, private: &[u8]) -> std::io::Result<Link> {
    let addr = node.listener.local_addrs()[0];
    let channel = EventChannel::new(library().expect("is there")).expect("opens");
    let epoll = Link::watch(&channel).expect("watches");
    let id = Id::new(&channel).expect("is made");
    let wait = |channel: &EventChannel, kind: u32| {
        until("the address is resolved", || {
            channel.next().expect("tells").is_some_and(|event| {
                assert_eq!(event.kind, kind);
                true
            })
        });
    };
    id.resolve_addr(&addr, 2000).expect("is looked for");
    wait(&channel, RDMA_CM_EVENT_ADDR_RESOLVED);
    id.resolve_route(2000).expect("is looked for");
    wait(&channel, RDMA_CM_EVENT_ROUTE_RESOLVED);
    let link = Link::new(id, channel, epoll).expect("is made");
    link.id().connect(private)?;
    Ok(link)
}

/// A connection on which nothing was said.
fn silent(node: &mut Node) -> Link {
    let private = private::Request::new("sales", 5).encode();
    let link = asking(node, &private).expect("asks");
    until("the connection stands", || {
        assert!(node.listener.poll().expect("listens").is_none());
        link.event().expect("tells").is_some_and(|event| {
            assert_eq!(event.kind, RDMA_CM_EVENT_ESTABLISHED);
            true
        })
    });
    link
}

/// The packets that the node said, until one of this kind.
fn hears(link: &Link, kind: Type, mut meanwhile: impl FnMut()) -> Vec<u8> {
    let mut heard = None;
    until("the packet comes", || {
        meanwhile();
        let take = |message: Message<'_>| {
            if let Message::Packet(bytes) = message
                && let Some((header, payload)) = bytes[PREFIX_BYTES..].split_first_chunk()
                && Header::decode(header).is_ok_and(|header| header.kind == kind)
            {
                heard = Some(payload.to_vec());
            }
            Ok::<_, Trouble>(())
        };
        let over = link.poll(take).and_then(|_| link.check_events());
        assert!(heard.is_some() || over.is_ok(), "{over:?} before {kind:?}");
        heard.is_some()
    });
    heard.expect("just heard")
}

fn devices() -> [On; 2] {
    [On("RDMA_VM_RXE_ADDR"), On("RDMA_VM_SIW_ADDR")]
}

/// Each of these ends the one channel as corrupt; `text` is in the reason.
fn ends_one_channel(on: &On, introduced: bool, text: &str, say: impl Fn(&Raw)) {
    let mut node = Node::start(on);
    let good = node.pair();
    let bad = Raw::connect(&mut node);
    if introduced {
        bad.introduce();
    }
    say(&bad);
    let end = bad.end();
    assert!(
        matches!(&end, Broken::Corrupt(why) if why.contains(text)),
        "{end:?}, expected {text:?}"
    );
    let told = introduced.then(|| {
        // It is told so, although nobody holds the node's channel any more.
        drop(bad.node);
        hears(&bad.link, Type::Disconnect, || {})
    });
    if let Some(payload) = told {
        assert_eq!(payload, [EndReason::ProtocolError as u8]);
    }
    send_stream(&good.client, 1, 0, 50_000);
    receive_stream(&good.node, 1, 0, 50_000);
    assert_eq!(good.node.recv(&mut [0; 9], Wait::No), Ok(Received::Empty));
}

/// Messages that bring no bytes would make a handshake that never ends.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn empty_messages_are_no_handshake() {
    for on in devices() {
        let mut node = Node::start(&on);
        let link = silent(&mut node);
        for _ in 0..3 {
            link.send_header(Prefix::default(), &[], None, None, true)
                .expect("is posted");
        }
        let payload = hears(&link, Type::Reject, || {
            assert!(node.listener.poll().expect("listens").is_none());
        });
        assert_eq!(
            packet::decode_reject(&payload),
            Ok(RejectReason::BadRequest)
        );
    }
}

/// More than a fabric carries is refused here; more than a request has, by the node, which goes on.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn private_data_that_is_too_long() {
    for on in devices() {
        let mut node = Node::start(&on);
        for length in [57, 200, 255] {
            let mut private = private::Request::new("sales", 5).encode();
            private.resize(length, 1);
            let Ok(link) = asking(&mut node, &private) else {
                continue;
            };
            until("it is refused", || {
                assert!(node.listener.poll().expect("listens").is_none());
                link.event().expect("tells").is_some_and(|event| {
                    assert_eq!(event.kind, RDMA_CM_EVENT_REJECTED);
                    true
                })
            });
        }
        node.pair();
    }
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn impossible_packets() {
    for on in devices() {
        ends_one_channel(&on, false, "names no receive ring", |bad| {
            bad.packet(bad.prefix(), bad.header(Type::Ack), &[]);
        });
        ends_one_channel(&on, true, "second receive ring", |bad| bad.introduce());
        ends_one_channel(&on, true, "which were not sent", |bad| {
            let prefix = Prefix {
                received: 1000,
                ..bad.prefix()
            };
            bad.packet(prefix, bad.header(Type::Ack), &[]);
        });
        ends_one_channel(&on, true, "acknowledges byte 1", |bad| {
            let header = Header {
                acked: 1,
                ..bad.header(Type::Ack)
            };
            bad.packet(bad.prefix(), header, &[]);
        });
        ends_one_channel(&on, true, "stream offset 5", |bad| {
            let header = Header {
                offset: 5,
                ..bad.header(Type::Ack)
            };
            bad.packet(bad.prefix(), header, &[]);
        });
        ends_one_channel(&on, true, "on a channel of generation", |bad| {
            let header = Header {
                generation: 1,
                ..bad.header(Type::Ack)
            };
            bad.packet(bad.prefix(), header, &[]);
        });
        ends_one_channel(&on, true, "credit was given for 65536", |bad| {
            let header = Header {
                length: 1 << 20,
                ..bad.header(Type::Data)
            };
            bad.packet(bad.prefix(), header, &[]);
        });
        ends_one_channel(&on, true, "where 9 are announced", |bad| {
            let header = Header {
                length: 9,
                ..bad.header(Type::Data)
            };
            bad.packet(bad.prefix(), header, b"three");
        });
        ends_one_channel(&on, true, "on a channel that stands", |bad| {
            let header = Header {
                length: 1,
                ..bad.header(Type::Reject)
            };
            bad.packet(bad.prefix(), header, &[1]);
        });
    }
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn impossible_immediates() {
    let on = On("RDMA_VM_RXE_ADDR");
    let tell = |bad: &Raw, immediate: u32| {
        bad.link
            .write_tell(None, bad.node_window, immediate, 0)
            .expect("is posted");
    };
    ends_one_channel(&on, true, "bit 30", |bad| tell(bad, 1 << 30));
    ends_one_channel(&on, true, "which were not sent", |bad| {
        tell(bad, Immediate::new(false, 77, 0).encode());
    });
    ends_one_channel(&on, true, "acknowledges byte", |bad| {
        let count = bad.link.credit.count();
        tell(bad, Immediate::new(false, count, 1).encode());
    });
}

/// A key is good for the one ring, as far as it goes, and over the one queue pair: anything else is the device's to refuse.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn writes_beyond_the_ring_reach_nothing() {
    for on in devices() {
        let mut node = Node::start(&on);
        let (mut one, other) = (Raw::connect(&mut node), Raw::connect(&mut node));
        one.introduce();
        let beyond = Window {
            address: one.node_window.address + 65_536,
            ..one.node_window
        };
        for window in [beyond, other.node_window] {
            let packet = one.header(Type::Ack).encode();
            let length = packet.len() as u32;
            let data = one.link.piece_of_memory(length);
            let _ = one
                .link
                .send_header(one.prefix(), &packet, Some(data), Some(window), true);
            let end = one.end();
            assert!(matches!(end, Broken::Transport(_)), "{end:?}");
            one = Raw::connect(&mut node);
            one.introduce();
        }
        // Nobody wrote to the other one, which goes on.
        assert_eq!(other.node.recv(&mut [0; 9], Wait::No), Ok(Received::Empty));
        other.introduce();
        let goodbye = Header {
            length: 1,
            ..other.header(Type::Disconnect)
        };
        other.packet(other.prefix(), goodbye, &[EndReason::Closed as u8]);
        assert_eq!(
            other.node.recv(&mut [0; 9], patient()),
            Err(Broken::Ended(EndReason::Closed))
        );
    }
}

/// What broke on one side alone is told to the other, which may only wait: a device that gives up says nothing to its peer.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_break_of_one_side_is_told_to_the_other() {
    for on in devices() {
        let mut node = Node::start(&on);
        let raw = Raw::connect(&mut node);
        // A ring that is not there: what the node writes breaks its queue pair.
        raw.introduce();
        until("the introduction is taken", || {
            raw.node.drive().expect("stands");
            raw.node.wire.heard() > 1
        });
        let sent = raw
            .node
            .send(&[std::io::IoSlice::new(&[1; 20_000])], Wait::No);
        sent.expect("stands");
        assert!(matches!(raw.end(), Broken::Transport(_)));
        until("the client is told", || raw.link.check_events().is_err());
        // The node's channel is parked, and not dropped.
        assert!(raw.node.broken().is_some());
    }
}

/// A client that takes nothing keeps the node's channel alive for a while after its end, and that counts as a channel: the
/// memory is held. (How long depends on the machine, so one of many tries must see it.)
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn what_lingers_counts_for_its_source() {
    let mut node = Node::start(&Limited("RDMA_VM_RXE_ADDR", 1));
    let connect = |node: &mut Node| {
        let request = node.request(None);
        let (client, served) =
            node.connect(request, |incoming| incoming.accept(accept(), None).ok());
        client.ok().zip(served)
    };
    let counted = (0..10).any(|_| {
        let mut ends = None;
        until("what lingered of the try before is gone", || {
            ends = connect(&mut node);
            ends.is_some()
        });
        let (client, served) = ends.expect("just connected");
        until("more is accepted than there are receives for", || {
            served.drive().expect("stands");
            let sent = served.send(&[std::io::IoSlice::new(&[1])], Wait::No);
            sent.expect("stands");
            served.accepted() > 200
        });
        drop(served);
        let second = connect(&mut node);
        drop(client);
        second.is_none()
    });
    assert!(
        counted,
        "a second channel beside one that lingers, ten times"
    );
}
