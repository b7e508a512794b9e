//! Ring and wake words under the model checker: `make loom`.
//!
//! What loom can say here: it explores every interleaving (within the preemption bound) and the weak orders of acquire,
//! release and relaxed, finds data races on the ring's bytes, and deadlocks. It treats sequentially consistent
//! *accesses* as acquire and release only, but orders `fence(SeqCst)`s totally, which is all that this code relies on;
//! `loom_the_model_knows_what_a_fence_does` checks that the checker itself tells the difference.

use super::*;
use crate::via::ring::{Ring, RingConsumer, RingProducer, Storage};
use crate::via::sync::{AtomicBool, futex_wait};
use loom::sync::Arc;
use loom::thread;
use std::time::Duration;

const FOREVER: Duration = Duration::MAX;

/// The two halves of a ring of `size` bytes at rest, and the bell: how many tokens are in it.
fn halves(size: usize) -> (RingProducer, RingConsumer, Arc<AtomicU32>) {
    let ring = Ring::new(Storage::heap(size));
    (
        ring.producer(),
        ring.consumer(),
        Arc::new(AtomicU32::new(0)),
    )
}

fn ring_bell(bell: &AtomicU32) {
    bell.fetch_add(1, Ordering::SeqCst);
}

/// Takes one token back, which is there or on its way.
fn take_back(bell: &AtomicU32) {
    while bell
        .compare_exchange(1, 0, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        thread::yield_now();
    }
}

fn readable(consumer: &RingConsumer) -> bool {
    consumer.finished() || consumer.available().unwrap() > 0
}

/// One non-blocking receive: enter, copy, leave with the level right. The same steps as the channel's.
fn receive(consumer: &RingConsumer, bell: &AtomicU32, dst: &mut [u8]) -> usize {
    let word = consumer.receive_word();
    if enter(word) != Entered::Quiet {
        take_back(bell);
    }
    let n = consumer.pop(dst).unwrap();
    settle(consumer, bell);
    n
}

fn settle(consumer: &RingConsumer, bell: &AtomicU32) {
    let word = consumer.receive_word();
    loop {
        if readable(consumer) {
            ring_bell(bell);
            return leave_rung(word);
        }
        if leave_armed(word, || readable(consumer)) {
            return;
        }
    }
}

/// One blocking receive: sleeps on the word, then leaves as above. 0 at the end of the stream.
fn receive_blocking(consumer: &RingConsumer, bell: &AtomicU32, dst: &mut [u8]) -> usize {
    let word = consumer.receive_word();
    if enter(word) != Entered::Quiet {
        take_back(bell);
    }
    let n = loop {
        let finished = consumer.finished();
        let n = consumer.pop(dst).unwrap();
        if n > 0 || finished {
            break n;
        }
        if lie_down(word, || readable(consumer)) {
            futex_wait(word, FUTEX, FOREVER);
            wake_up(word);
        }
    };
    settle(consumer, bell);
    n
}

fn send(producer: &RingProducer, bell: &AtomicU32, src: &[u8]) {
    assert_eq!(producer.push(src), Ok(src.len()));
    announce(producer, bell);
}

/// The same closures as the channel's.
fn announce(producer: &RingProducer, bell: &AtomicU32) {
    let unread = || producer.finished() || producer.head().unwrap() != producer.tail();
    publish(
        producer.receive_word(),
        producer.voucher(),
        unread,
        |force| {
            let due = force || unread();
            if due {
                ring_bell(bell);
            }
            due
        },
    );
}

#[test]
fn loom_the_model_knows_what_a_fence_does() {
    let missed = |fences: bool| {
        let both = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&both);
        loom::model(move || {
            let (a, b) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let (a2, b2) = (Arc::clone(&a), Arc::clone(&b));
            let other = thread::spawn(move || {
                b2.store(1, Ordering::Release);
                if fences {
                    fence(Ordering::SeqCst);
                }
                a2.load(Ordering::Acquire)
            });
            a.store(1, Ordering::Release);
            if fences {
                fence(Ordering::SeqCst);
            }
            let mine = b.load(Ordering::Acquire);
            if mine == 0 && other.join().unwrap() == 0 {
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        both.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert!(
        missed(false),
        "without fences both sides may miss each other"
    );
    assert!(!missed(true), "with fences they never do");
}

#[test]
fn loom_one_push_one_pop() {
    loom::model(|| {
        let (producer, consumer, _) = halves(4);
        let other = thread::spawn(move || assert_eq!(producer.push(b"ab"), Ok(2)));
        let mut got = [0; 4];
        let n = consumer.pop(&mut got).unwrap();
        assert!(n == 0 || (n == 2 && got[..2] == *b"ab"));
        other.join().unwrap();
    });
}

#[test]
fn loom_full_ring() {
    loom::model(|| {
        let (producer, consumer, _) = halves(2);
        assert_eq!(producer.push(b"abc"), Ok(2));
        let other = thread::spawn(move || producer.push(b"c").unwrap());
        let mut got = [0; 1];
        assert_eq!(consumer.pop(&mut got), Ok(1));
        assert_eq!(&got, b"a");
        let more = other.join().unwrap();
        let mut rest = [0; 4];
        assert_eq!(consumer.pop(&mut rest), Ok(1 + more));
        assert_eq!(rest[..1 + more], b"bc"[..1 + more]);
    });
}

/// A third thread looks while one takes an acknowledgement and pushes more into the full ring.
#[test]
fn loom_indexes_that_move_are_not_corrupt() {
    loom::model(|| {
        let ring = Ring::new(Storage::heap(2));
        let (producer, consumer) = (ring.producer(), ring.consumer());
        assert_eq!(producer.push(b"ab"), Ok(2));
        let (acks, pushes) = (ring.consumer(), producer);
        let other = thread::spawn(move || {
            acks.consume_to(2);
            assert_eq!(pushes.push(b"cd"), Ok(2));
            acks.consume_to(3);
        });
        assert!(matches!(consumer.tail(), Ok(2 | 4)));
        assert!(consumer.available().is_ok());
        let looks = ring.producer();
        assert!(matches!(looks.head(), Ok(0 | 2 | 3)));
        assert!(looks.room().is_ok());
        other.join().unwrap();
    });
}

#[test]
fn loom_close_while_waiting() {
    loom::model(|| {
        let (producer, consumer, bell) = halves(4);
        let rung = Arc::clone(&bell);
        let other = thread::spawn(move || {
            send(&producer, &rung, b"x");
            producer.finish();
            announce(&producer, &rung);
        });
        let mut got = [0; 4];
        assert_eq!(receive_blocking(&consumer, &bell, &mut got), 1);
        assert_eq!(receive_blocking(&consumer, &bell, &mut got), 0);
        other.join().unwrap();
        assert_eq!(bell.load(Ordering::SeqCst), 1, "the end is shown");
    });
}

/// After every history, the bell is readable exactly when there is something to read.
#[test]
fn loom_wake_handshake_level() {
    loom::model(|| {
        let (producer, consumer, bell) = halves(4);
        let rung = Arc::clone(&bell);
        let other = thread::spawn(move || {
            send(&producer, &rung, b"a");
            send(&producer, &rung, b"b");
        });
        let mut got = [0; 1];
        receive(&consumer, &bell, &mut got);
        receive(&consumer, &bell, &mut got);
        other.join().unwrap();
        let level = bell.load(Ordering::SeqCst);
        assert_eq!(level, u32::from(readable(&consumer)), "tokens in the bell");
    });
}

/// A sleeper is always woken: a lost wake-up is a deadlock of the model.
#[test]
fn loom_wake_handshake_sleep() {
    loom::model(|| {
        let (producer, consumer, bell) = halves(4);
        let rung = Arc::clone(&bell);
        let other = thread::spawn(move || {
            send(&producer, &rung, b"a");
            send(&producer, &rung, b"b");
        });
        let mut got = [0; 1];
        for expected in [b"a", b"b"] {
            assert_eq!(receive_blocking(&consumer, &bell, &mut got), 1);
            assert_eq!(&got, expected);
        }
        other.join().unwrap();
        assert_eq!(bell.load(Ordering::SeqCst), 0, "nothing left, no token");
    });
}

/// A sender that came back short: its bell is writable again once there is room, and not before.
#[test]
fn loom_space_handshake_level() {
    loom::model(|| {
        let (producer, consumer, _) = halves(2);
        assert_eq!(producer.push(b"ab"), Ok(2));
        let writable = Arc::new(AtomicBool::new(true));
        let opened = Arc::clone(&writable);
        let other = thread::spawn(move || {
            let mut got = [0; 1];
            for _ in 0..2 {
                assert_eq!(consumer.pop(&mut got), Ok(1));
                freed(
                    consumer.space_word(),
                    || consumer.room().unwrap() > 0,
                    || opened.store(true, Ordering::SeqCst),
                );
            }
            consumer
        });
        // As the channel's send: copy, come in, copy once more, leave.
        let mut sent = producer.push(b"c").unwrap();
        if sent == 0 {
            let word = producer.space_word();
            assert!(!enter_space(word));
            sent = producer.push(b"c").unwrap();
            if sent == 1 {
                leave_open(word);
            } else {
                writable.store(false, Ordering::SeqCst);
                if leave_full(word, || producer.room().unwrap() > 0) {
                    writable.store(true, Ordering::SeqCst);
                }
            }
        }
        let consumer = other.join().unwrap();
        assert_eq!(consumer.available(), Ok(sent));
        assert!(
            writable.load(Ordering::SeqCst),
            "there is room and nobody said so"
        );
    });
}

/// A sender that sleeps for room is woken.
#[test]
fn loom_space_handshake_sleep() {
    loom::model(|| {
        let (producer, consumer, _) = halves(2);
        assert_eq!(producer.push(b"ab"), Ok(2));
        let other = thread::spawn(move || {
            let mut got = [0; 2];
            assert_eq!(consumer.pop(&mut got), Ok(2));
            freed(
                consumer.space_word(),
                || consumer.room().unwrap() > 0,
                || panic!("the sender was never short without sleeping"),
            );
        });
        let word = producer.space_word();
        enter_space(word);
        while producer.push(b"c").unwrap() == 0 {
            if lie_down(word, || producer.room().unwrap() > 0) {
                futex_wait(word, FUTEX, FOREVER);
                wake_up(word);
            }
        }
        leave_open(word);
        other.join().unwrap();
    });
}

/// A kick (close from another thread) wakes a sleeper although nothing came.
#[test]
fn loom_nudge_wakes() {
    loom::model(|| {
        let (_producer, consumer, _) = halves(2);
        let consumer = Arc::new(consumer);
        let over = Arc::new(AtomicBool::new(false));
        let (c, o) = (Arc::clone(&consumer), Arc::clone(&over));
        let other = thread::spawn(move || {
            o.store(true, Ordering::Release);
            nudge(c.receive_word());
        });
        let word = consumer.receive_word();
        enter(word);
        while !over.load(Ordering::Acquire) {
            if lie_down(word, || over.load(Ordering::Acquire)) {
                futex_wait(word, FUTEX, FOREVER);
                wake_up(word);
            }
        }
        other.join().unwrap();
    });
}
