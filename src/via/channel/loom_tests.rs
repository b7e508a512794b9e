//! The channel's own send and receive under the model checker, over rings that both sides share: `make loom`.

use super::*;
use crate::via::bell::Late;
use crate::via::ring::{Ring, Storage};
use loom::sync::Arc;
use loom::thread;
use std::io::IoSlice;
use std::time::Duration;

/// Counts what was put into it. Atomics as in the kernel: every call is whole.
#[derive(Default)]
struct Counters {
    tokens: AtomicU32,
    fillers: AtomicU32,
}

#[derive(Clone)]
struct CountingBell(Arc<Counters>);

impl CountingBell {
    fn new() -> Self {
        Self(Arc::new(Counters::default()))
    }

    fn is_writable(&self) -> bool {
        self.0.fillers.load(Ordering::SeqCst) == 0
    }
}

fn take_one(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

impl Bell for CountingBell {
    fn ring(&self, _: &[u8]) {
        self.0.tokens.fetch_add(1, Ordering::SeqCst);
    }

    fn take_back(&self, expected: usize, late: Late<'_>) -> usize {
        (0..expected)
            .filter(|_| {
                while !take_one(&self.0.tokens) {
                    if late.is_none() {
                        return false;
                    }
                    thread::yield_now();
                }
                true
            })
            .count()
    }

    fn is_taken(&self) -> bool {
        self.0.tokens.load(Ordering::SeqCst) == 0
    }

    fn finish(&self) {}

    fn block_writes(&self) {
        self.0.fillers.fetch_add(1, Ordering::SeqCst);
    }

    fn open_writes(&self) {
        take_one(&self.0.fillers);
    }

    fn clear_writes(&self) {
        self.0.fillers.store(0, Ordering::SeqCst);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Rings in common memory: nothing to drive.
struct SharedWire {
    peer: CountingBell,
}

impl Wire for SharedWire {
    fn transport(&self) -> Transport {
        Transport::Shm
    }

    fn drive_rx(&self, _: &Channel) -> Result<bool, Broken> {
        Ok(false)
    }

    fn drive_tx(&self, _: &Channel) -> Result<bool, Broken> {
        Ok(false)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody polls it")
    }

    fn interest(&self) -> Interest {
        Interest::default()
    }

    fn end(&self, _: &Channel, _: EndReason) {}

    fn peer_bell(&self) -> Option<&dyn Bell> {
        Some(&self.peer)
    }
}

/// A quarter of it, which is worth a wake-up, is one byte.
const RING: usize = 4;

/// Two ends, both active, and the first one's bell.
fn pair() -> (Channel, Channel, CountingBell) {
    let rings = [(); 2].map(|()| Ring::new(Storage::heap(RING)));
    let bells = [(); 2].map(|()| CountingBell::new());
    for ring in &rings {
        ring.start_at(0);
    }
    let end = |own: usize| {
        let channel = Channel::new(Parts {
            rx: rings[1 - own].consumer(),
            tx: rings[own].producer(),
            wire: Box::new(SharedWire {
                peer: bells[1 - own].clone(),
            }),
            bell: Box::new(bells[own].clone()),
            accept: Accept {
                node: String::new(),
                generation: 1,
                cluster_id: [0; 16],
                channel_id: 1,
                resume_secret: [0; 32],
                authentic: false,
            },
        });
        let channel = channel.expect("needs no descriptor");
        channel.activate();
        channel
    };
    (end(0), end(1), bells[0].clone())
}

const FOREVER: Wait = Wait::Until {
    spin: Duration::ZERO,
    timeout: None,
};

fn send(channel: &Channel, bytes: &[u8]) -> usize {
    channel.send(&[IoSlice::new(bytes)], Wait::No).unwrap()
}

/// The bell is writable exactly when there is room.
fn check_level(sender: &Channel, bell: &CountingBell) {
    let level = (bell.is_writable(), sender.is_open());
    let room = sender.room() > 0;
    assert_eq!(level, (room, room), "(writable, OPEN), and is there room");
}

/// A reader makes room while the sender fills it again.
#[test]
fn loom_writable_exactly_when_there_is_room() {
    loom::model(|| {
        let (sender, reader, bell) = pair();
        assert_eq!(send(&sender, b"abcd"), 4);
        check_level(&sender, &bell);
        let other = thread::spawn(move || {
            assert_eq!(reader.rx.pop(&mut [0; 1]), Ok(1));
            reader.consumed_some();
            reader
        });
        send(&sender, b"e");
        let _reader = other.join().unwrap();
        check_level(&sender, &bell);
    });
}

/// A reader makes room twice while a sender that finds none comes and goes.
#[test]
fn loom_room_is_never_kept_from_a_sender() {
    loom::model(|| {
        let (sender, reader, bell) = pair();
        assert_eq!(send(&sender, b"abc"), 3);
        let other = thread::spawn(move || {
            for _ in 0..2 {
                let _ = reader.rx.pop(&mut [0; 1]);
                reader.consumed_some();
            }
            reader
        });
        send(&sender, b"def");
        let _reader = other.join().unwrap();
        check_level(&sender, &bell);
    });
}

/// Over a driven wire two threads may find out at once that there is room.
#[test]
fn loom_two_who_tell_of_room() {
    loom::model(|| {
        let (sender, reader, bell) = pair();
        let reader = Arc::new(reader);
        assert_eq!(send(&sender, b"abcd"), 4);
        let second = Arc::clone(&reader);
        let second = thread::spawn(move || second.consumed_some());
        let sending = thread::spawn(move || {
            send(&sender, b"e");
            sender
        });
        for _ in 0..2 {
            assert_eq!(reader.rx.pop(&mut [0; 1]), Ok(1));
            reader.consumed_some();
        }
        second.join().unwrap();
        check_level(&sending.join().unwrap(), &bell);
    });
}

/// A sender that sleeps for room is woken, and leaves the level right: full again, or not.
#[test]
fn loom_a_sender_waits_for_room() {
    for more in [&b"e"[..], b"ef"] {
        loom::model(move || {
            let (sender, reader, bell) = pair();
            assert_eq!(send(&sender, b"abcd"), 4);
            let other = thread::spawn(move || {
                for _ in 0..2 {
                    assert_eq!(reader.rx.pop(&mut [0; 1]), Ok(1));
                    reader.consumed_some();
                }
                reader
            });
            let sent = sender.send(&[IoSlice::new(more)], FOREVER);
            assert_eq!(sent, Ok(more.len()));
            let _reader = other.join().unwrap();
            check_level(&sender, &bell);
        });
    }
}

/// A receiver that sleeps for bytes is woken, and leaves the level right.
#[test]
fn loom_a_receiver_waits_for_bytes() {
    loom::model(|| {
        let (receiver, sender, bell) = pair();
        let other = thread::spawn(move || {
            send(&sender, b"a");
            send(&sender, b"b");
            sender
        });
        let got = receiver.recv(&mut [0; 1], FOREVER);
        assert_eq!(got, Ok(Received::Bytes(1)));
        let _sender = other.join().unwrap();
        let tokens = bell.0.tokens.load(Ordering::SeqCst);
        assert_eq!((receiver.readable(), tokens), (1, 1), "and tokens");
    });
}

/// The whole receive against the whole send: the receiver's bell rings exactly when there is something to read.
#[test]
fn loom_readable_exactly_when_there_are_bytes() {
    loom::model(|| {
        let (receiver, sender, bell) = pair();
        let other = thread::spawn(move || {
            send(&sender, b"a");
            sender
        });
        let got = match receiver.recv(&mut [0; 2], Wait::No).unwrap() {
            Received::Bytes(n) => n,
            _ => 0,
        };
        let _sender = other.join().unwrap();
        assert_eq!(receiver.readable(), 1 - got);
        let tokens = bell.0.tokens.load(Ordering::SeqCst);
        assert_eq!(tokens as usize, 1 - got, "tokens in the bell");
    });
}
