//! Who tells the watcher what to watch for, over a wire that does as it is told. What other threads do at the worst
//! moment is done here inside the wire's and the watcher's calls.

use super::*;
use crate::via::bell::NoBell;
use crate::via::region::{Direction, Region};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Hook = Box<dyn FnOnce() + Send>;

/// What the tests say to the wire and see of the watcher.
#[derive(Default)]
struct Script {
    /// The socket takes nothing.
    stuck: AtomicBool,
    /// The receive half has an answer of its own to send.
    answers: AtomicBool,
    /// The peer's acknowledgements wait in the socket: the next drive of the receive half takes all that was sent.
    acks_wait: AtomicBool,
    /// Something was to be sent and did not fit.
    blocked: AtomicBool,
    /// The drive of this number, from 1 on, brings the peer's last words past the ring, and finds its end behind them.
    ends_at: AtomicUsize,
    drives: AtomicUsize,
    /// Done in the next `drive_tx`, before it sends.
    in_drive_tx: Mutex<Option<Hook>>,
    /// Done in the next `arm`, before it has an effect.
    in_arm: Mutex<Option<Hook>>,
    armed: Mutex<Option<Interest>>,
}

impl Script {
    fn armed(&self) -> Option<Interest> {
        *self.armed.lock().unwrap()
    }

    fn get(flag: &AtomicBool) -> bool {
        flag.load(Ordering::SeqCst)
    }

    fn set(flag: &AtomicBool, to: bool) {
        flag.store(to, Ordering::SeqCst);
    }
}

impl Watcher for Script {
    fn arm(&self, interest: Interest) {
        let hook = self.in_arm.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        *self.armed.lock().unwrap() = Some(interest);
    }
}

struct ToldWire {
    script: Arc<Script>,
    socket: OwnedFd,
    rx: RingProducer,
    tx: RingConsumer,
}

impl Wire for ToldWire {
    fn transport(&self) -> Transport {
        Transport::Tcp
    }

    fn drive_rx(&self, _: &Channel) -> Result<bool, Broken> {
        if Script::get(&self.script.answers) && Script::get(&self.script.stuck) {
            Script::set(&self.script.blocked, true);
        }
        if self.script.acks_wait.swap(false, Ordering::SeqCst) {
            self.tx.consume(self.tx.available()?);
            return Ok(true);
        }
        let mut buffer = [0; 64];
        match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((n, _)) => Ok(self.rx.push(&buffer[..n])? > 0),
            Err(_) => Ok(false),
        }
    }

    fn drive_rx_into(&self, channel: &Channel, direct: &mut Direct<'_>) -> Result<bool, Broken> {
        let script = &self.script;
        if script.drives.fetch_add(1, Ordering::SeqCst) + 1 != script.ends_at.load(Ordering::SeqCst)
        {
            return self.drive_rx(channel);
        }
        if direct.is_open() {
            direct.rest()[..LAST.len()].copy_from_slice(LAST);
            direct.fill(LAST.len());
            self.rx.pass(LAST.len());
        } else {
            self.rx.push(LAST)?;
        }
        Err(Broken::Transport("the end".into()))
    }

    fn drive_tx(&self, _: &Channel) -> Result<bool, Broken> {
        let hook = self.script.in_drive_tx.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        let unsent = self.tx.available()?;
        let blocked = unsent > 0 && Script::get(&self.script.stuck);
        Script::set(&self.script.blocked, blocked);
        if !blocked {
            self.tx.consume(unsent);
        }
        Ok(!blocked && unsent > 0)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: Script::get(&self.script.blocked),
        }
    }

    fn end(&self, _: &Channel, _: EndReason) {}
}

const LAST: &[u8] = b"last words";

const READ: Option<Interest> = Some(Interest {
    read: true,
    write: false,
});
const BOTH: Option<Interest> = Some(Interest {
    read: true,
    write: true,
});

/// A channel that is watched for reading, and the peer's end of its socket.
fn watched() -> (Arc<Channel>, Arc<Script>, OwnedFd) {
    let script = Arc::new(Script::default());
    let (socket, peer) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let region = Region::anonymous(4096).unwrap();
    let rx = region.ring(Direction::ServerToClient);
    let tx = region.ring(Direction::ClientToServer);
    rx.start_at(0);
    tx.start_at(0);
    let wire = ToldWire {
        script: Arc::clone(&script),
        socket,
        rx: rx.producer(),
        tx: tx.consumer(),
    };
    let channel = Channel::new(Parts {
        rx: rx.consumer(),
        tx: tx.producer(),
        wire: Box::new(wire),
        bell: Box::new(NoBell),
        accept: crate::via::testkit::accept(),
    });
    let channel = Arc::new(channel.unwrap());
    channel.activate();
    assert_eq!(script.armed(), None);
    channel.set_watcher(Arc::clone(&script) as Arc<dyn Watcher>);
    assert_eq!(script.armed(), READ);
    (channel, script, peer)
}

fn send(channel: &Channel) {
    assert_eq!(channel.send(&[IoSlice::new(b"data")], Wait::No), Ok(4));
}

#[test]
fn a_sender_that_fills_the_wire_has_it_watched_for_room() {
    let (channel, script, _peer) = watched();
    Script::set(&script.stuck, true);
    send(&channel);
    assert_eq!(script.armed(), BOTH);

    Script::set(&script.stuck, false);
    assert_eq!(channel.drive(), Ok(()));
    assert_eq!(script.armed(), READ);
    assert_eq!(channel.acked(), 4);
}

/// Who does not wait may look: the way to "not writable" and back costs more than reading what is there.
#[test]
fn a_sender_that_fills_the_ring_looks_for_acknowledgements() {
    for waiting in [false, true] {
        let (channel, script, _peer) = watched();
        Script::set(&script.stuck, true);
        Script::set(&script.acks_wait, waiting);
        let room = vec![7; channel.room()];
        assert_eq!(
            channel.send(&[IoSlice::new(&room)], Wait::No),
            Ok(room.len())
        );
        assert_eq!(channel.is_open(), waiting);
        assert_eq!(channel.room(), if waiting { room.len() } else { 0 });
    }
}

/// A stream goes out and its sender reads the acknowledgements: a tick would only hold the wire against it.
#[test]
fn a_tick_leaves_the_wire_to_who_reads_it() {
    let (channel, script, peer) = watched();
    // Lazy: the watcher was woken while a thread waited inside.
    let c = Arc::clone(&channel);
    let hook: Hook = Box::new(move || assert_eq!(c.drive(), Ok(())));
    *script.in_drive_tx.lock().unwrap() = Some(hook);
    let wait = Wait::Until {
        spin: Duration::ZERO,
        timeout: Some(Duration::from_millis(50)),
    };
    assert_eq!(channel.recv(&mut [0; 8], wait), Ok(Received::Empty));
    assert!(channel.wants_tick());
    channel.tick();
    for (reads, left_alone) in [(true, true), (false, false)] {
        send(&channel);
        if reads {
            assert_eq!(channel.recv(&mut [0; 8], Wait::No), Ok(Received::Empty));
        }
        assert_eq!(rustix::net::send(&peer, b"x", SendFlags::empty()), Ok(1));
        let before = script.drives.load(Ordering::SeqCst);
        channel.tick();
        let driven = script.drives.load(Ordering::SeqCst) != before;
        assert_eq!(driven, !left_alone, "the sender reads: {reads}");
    }
    assert_eq!(channel.readable(), 2);
    // What the tick before has read is nobody else's reading.
    for more in 3..6 {
        send(&channel);
        assert_eq!(rustix::net::send(&peer, b"x", SendFlags::empty()), Ok(1));
        channel.tick();
        assert_eq!(channel.readable(), more);
    }
}

/// A sender comes while the pilot drives, leaves its bytes to the pilot and is gone. They do not fit, and the pilot goes
/// without having received anything.
#[test]
fn a_pilot_that_leaves_with_the_wire_full_has_it_watched_for_room() {
    let (channel, script, _peer) = watched();
    let (c, s) = (Arc::clone(&channel), Arc::clone(&script));
    let hook: Hook = Box::new(move || {
        Script::set(&s.stuck, true);
        send(&c);
        assert_eq!(s.armed(), READ, "it was not driven by the sender");
    });
    *script.in_drive_tx.lock().unwrap() = Some(hook);
    let wait = Wait::Until {
        spin: Duration::ZERO,
        timeout: Some(Duration::from_millis(50)),
    };
    assert_eq!(channel.recv(&mut [0; 8], wait), Ok(Received::Empty));
    assert!(script.in_drive_tx.lock().unwrap().is_none(), "it flew");
    assert!(channel.wire.interest().write);
    assert_eq!(script.armed(), BOTH);
}

/// As above, and the watcher knows that a thread waits inside: the next tick sees to it.
#[test]
fn a_tick_after_a_pilot_that_left_has_it_watched_for_room() {
    let (channel, script, _peer) = watched();
    let (c, s) = (Arc::clone(&channel), Arc::clone(&script));
    let hook: Hook = Box::new(move || {
        *s.armed.lock().unwrap() = None;
        assert_eq!(c.drive(), Ok(()), "the one-shot watch is over");
        assert!(c.wants_tick());
        Script::set(&s.stuck, true);
        send(&c);
    });
    *script.in_drive_tx.lock().unwrap() = Some(hook);
    let wait = Wait::Until {
        spin: Duration::ZERO,
        timeout: Some(Duration::from_millis(50)),
    };
    assert_eq!(channel.recv(&mut [0; 8], wait), Ok(Received::Empty));
    assert_eq!(script.armed(), None);
    channel.tick();
    channel.tick();
    assert_eq!(script.armed(), BOTH);
    assert!(!channel.wants_tick());
}

/// A receiver that only looks drives the receive half, whose answer to the peer does not fit.
#[test]
fn an_answer_that_does_not_fit_has_it_watched_for_room() {
    let (channel, script, peer) = watched();
    Script::set(&script.stuck, true);
    Script::set(&script.answers, true);
    assert_eq!(channel.recv(&mut [0; 8], Wait::No), Ok(Received::Empty));
    assert_eq!(script.armed(), BOTH);
    drop(peer);
}

/// One thread arms for reading and is held up; another fills the wire and arms for room; then the first one goes on.
#[test]
fn arming_late_does_not_take_room_back() {
    let (channel, script, _peer) = watched();
    let (c, s) = (Arc::clone(&channel), Arc::clone(&script));
    let hook: Hook = Box::new(move || {
        Script::set(&s.stuck, true);
        send(&c);
        assert_eq!(s.armed(), BOTH);
    });
    *script.in_arm.lock().unwrap() = Some(hook);
    assert_eq!(channel.drive(), Ok(()));
    assert_eq!(script.armed(), BOTH);
}

/// Another sender empties the wire before the watcher sees that there is room, and fills it again: it is not armed twice,
/// and stays armed through an event that meant reading.
#[test]
fn a_wire_that_empties_and_fills_again_stays_watched_for_room() {
    let (channel, script, peer) = watched();
    Script::set(&script.stuck, true);
    send(&channel);
    Script::set(&script.stuck, false);
    send(&channel);
    assert!(!channel.wire.interest().write);
    Script::set(&script.stuck, true);
    send(&channel);
    assert_eq!(script.armed(), BOTH);
    assert_eq!(
        rustix::net::send(&peer, b"x", SendFlags::empty()),
        Ok(1),
        "an event that means reading only"
    );
    assert_eq!(channel.drive(), Ok(()));
    assert_eq!(script.armed(), BOTH);
    assert_eq!(channel.readable(), 1);
}

/// Whenever they come: before the wait, while it spins, when its time is up.
#[test]
fn the_last_words_of_a_peer_are_received_before_its_end() {
    for spin in [Duration::ZERO, Duration::from_millis(50)] {
        for timeout in [Duration::ZERO, Duration::from_millis(50)] {
            for drive in 1..6 {
                let (channel, script, _peer) = watched();
                script.ends_at.store(drive, Ordering::SeqCst);
                let mut room = [0; 32];
                let received = loop {
                    let wait = Wait::Until {
                        spin,
                        timeout: Some(timeout),
                    };
                    match channel.recv(&mut room, wait) {
                        Ok(Received::Empty | Received::Interrupted) => {}
                        other => break other,
                    }
                };
                let case = format!("drive {drive}, {spin:?} of {timeout:?}");
                assert_eq!(received, Ok(Received::Bytes(LAST.len())), "{case}");
                assert_eq!(&room[..LAST.len()], LAST, "{case}");
            }
        }
    }
}
