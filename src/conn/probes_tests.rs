//! What the probes make of a node whose channel gives signs of its path alone, with a clock that goes on with their turns.

use super::*;
use crate::conn::asker::tests::closed;
use crate::via::bell::NoBell;
use crate::via::channel::{Parts, Wire};
use crate::via::region::{Direction, Region};
use crate::via::{Broken, EndReason};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};

/// The peer says nothing; its device takes what is sent, or does not.
struct Wired {
    event: OwnedFd,
    takes: bool,
    taken: AtomicU64,
}

impl Wire for Wired {
    fn transport(&self) -> Transport {
        Transport::Rdma
    }

    fn drive_rx(&self, _: &Channel) -> Result<bool, Broken> {
        Ok(false)
    }

    fn drive_tx(&self, _: &Channel) -> Result<bool, Broken> {
        Ok(false)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn interest(&self) -> Interest {
        Interest::default()
    }

    fn end(&self, _: &Channel, _: EndReason) {}

    fn keep_alive(&self, _: &Channel) -> Result<(), Broken> {
        self.taken.fetch_add(self.takes.into(), Ordering::SeqCst);
        Ok(())
    }

    fn heard(&self) -> u64 {
        1
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

/// A connection over such a wire, whose node is asked at `addr`.
fn node(addr: SocketAddr, takes: bool) -> (Node, Arc<Channel>) {
    let region = Region::anonymous(4096).unwrap();
    let channel = Channel::new(Parts {
        rx: region.ring(Direction::ServerToClient).consumer(),
        tx: region.ring(Direction::ClientToServer).producer(),
        wire: Box::new(Wired {
            event: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            takes,
            taken: AtomicU64::new(0),
        }),
        bell: Box::new(NoBell),
        accept: crate::via::testkit::accept(),
    });
    let channel = Arc::new(channel.unwrap());
    let user = User::new(&channel, Weak::new(), Duration::ZERO);
    let rule = (INTERVAL, LOST_AFTER);
    let node = Node {
        addr,
        server: "sales".into(),
        pinned: None,
        prober: Prober::new(addr, "sales", None, rule, Duration::ZERO).unwrap(),
        heard: Duration::ZERO,
        users: HashMap::from([(ID, user)]),
    };
    (node, channel)
}

const INTERVAL: Duration = Duration::from_millis(40);
const LOST_AFTER: u32 = 3;
const ID: u64 = 1;

/// As of a process that is stopped, or hangs: its queue pairs stand, and its device takes every request for a sign of life.
#[test]
fn a_node_whose_device_alone_is_alive_is_lost() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut node, channel) = node(silent.local_addr().unwrap(), true);
    let (mut now, mut results) = (Duration::ZERO, Vec::new());
    for _ in 0..100 {
        now += INTERVAL / 4;
        node.turn(now, &mut results);
    }
    assert!(channel.wire.taken() > 0, "it was asked");
    assert_eq!(results, [(ID, Event::NodeLost)]);
}

/// The node's answers to probes are left out: they would take their own time.
#[test]
fn a_channel_is_cut_when_nothing_is_known_to_arrive() {
    for takes in [true, false] {
        let (mut node, channel) = node(closed(), takes);
        for now in 1..100 {
            let now = Duration::from_secs(now);
            node.listen_to_channels(now);
            node.ask_silent_channels(now);
        }
        assert_eq!(channel.broken().is_none(), takes);
    }
}
