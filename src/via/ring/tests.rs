//! The ring against a `VecDeque`, at its edges, and against a peer that lies.

use super::*;
use crate::via::region::{Direction, Region};
use proptest::prelude::*;
use std::collections::VecDeque;

fn ring(base: u64) -> Ring {
    let ring = Region::anonymous(4096)
        .unwrap()
        .ring(Direction::ClientToServer);
    ring.start_at(base);
    ring
}

#[derive(Clone, Debug)]
enum Operation {
    Push(Vec<u8>),
    PushTwo(Vec<u8>, Vec<u8>),
    Fill(Vec<u8>, usize),
    Pop(usize),
    Peek(usize, usize),
    Spans(usize, usize),
    Retained(u64, usize),
    Pass(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..5000);
    prop_oneof![
        bytes().prop_map(Operation::Push),
        (bytes(), bytes()).prop_map(|(a, b)| Operation::PushTwo(a, b)),
        (bytes(), 0..6000_usize).prop_map(|(a, n)| Operation::Fill(a, n)),
        (0..6000_usize).prop_map(Operation::Pop),
        (0..6000_usize, 0..6000_usize).prop_map(|(a, b)| Operation::Peek(a, b)),
        (0..6000_usize, 0..6000_usize).prop_map(|(a, b)| Operation::Spans(a, b)),
        (0..6000_u64, 0..6000_usize).prop_map(|(a, b)| Operation::Retained(a, b)),
        (0..6000_usize).prop_map(Operation::Pass),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_queue(
        base in prop_oneof![Just(0), Just(u64::MAX - 3000), any::<u64>()],
        operations in prop::collection::vec(operation(), 1..80),
    ) {
        let ring = ring(base);
        let (producer, consumer) = (ring.producer(), ring.consumer());
        let mut oracle = VecDeque::new();
        let (mut accepted, mut consumed) = (base, base);
        for operation in operations {
            match operation {
                Operation::Push(src) => {
                    let n = producer.push(&src).unwrap();
                    prop_assert_eq!(n, src.len().min(4096 - oracle.len()));
                    oracle.extend(&src[..n]);
                    accepted = accepted.wrapping_add(n as u64);
                }
                Operation::PushTwo(a, b) => {
                    let n = producer.push_vectored(&[IoSlice::new(&a), IoSlice::new(&b)]).unwrap();
                    prop_assert_eq!(n, (a.len() + b.len()).min(4096 - oracle.len()));
                    oracle.extend(a.iter().chain(&b).take(n));
                    accepted = accepted.wrapping_add(n as u64);
                }
                Operation::Fill(src, max) => {
                    let n = producer.with_room(max, |spans| {
                        let mut rest = &src[..];
                        for span in spans {
                            let n = span.len().min(rest.len());
                            span[..n].copy_from_slice(&rest[..n]);
                            rest = &rest[n..];
                        }
                        Ok(src.len() - rest.len())
                    });
                    let room = max.min(4096 - oracle.len());
                    match n {
                        Ok(n) => prop_assert_eq!(n, src.len().min(room)),
                        Err(e) => {
                            prop_assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                            prop_assert_eq!(room, 0);
                            continue;
                        }
                    }
                    let n = src.len().min(room);
                    oracle.extend(&src[..n]);
                    accepted = accepted.wrapping_add(n as u64);
                }
                Operation::Pop(most) => {
                    let mut dst = vec![0; most];
                    let n = consumer.pop(&mut dst).unwrap();
                    prop_assert_eq!(n, most.min(oracle.len()));
                    prop_assert!(oracle.drain(..n).eq(dst[..n].iter().copied()));
                    consumed = consumed.wrapping_add(n as u64);
                }
                Operation::Peek(skip, most) => {
                    let mut dst = vec![0; most];
                    let n = consumer.peek(skip, &mut dst).unwrap();
                    prop_assert_eq!(n, most.min(oracle.len().saturating_sub(skip)));
                    prop_assert!(oracle.iter().skip(skip).take(n).eq(dst[..n].iter()));
                }
                Operation::Spans(skip, max) => {
                    let mut seen = Vec::new();
                    let n = consumer.with_spans(skip, max, |spans| {
                        seen = join(spans);
                        Ok(seen.len())
                    });
                    let there = max.min(oracle.len().saturating_sub(skip));
                    prop_assert_eq!(n.is_err(), there == 0);
                    prop_assert!(oracle.iter().skip(skip).take(there).eq(seen.iter()));
                }
                Operation::Pass(n) => {
                    prop_assert_eq!(producer.is_empty().unwrap(), oracle.is_empty());
                    if oracle.is_empty() {
                        producer.pass(n);
                        accepted = accepted.wrapping_add(n as u64);
                        consumed = accepted;
                    }
                    consumer.skip_passed();
                }
                Operation::Retained(from, most) => {
                    let mut dst = vec![0; most];
                    let n = producer.copy_retained(consumed.wrapping_add(from), &mut dst).unwrap();
                    let kept = oracle.len().saturating_sub(from as usize);
                    prop_assert_eq!(n, most.min(kept));
                    prop_assert!(oracle.iter().skip(from as usize).take(n).eq(dst[..n].iter()));
                }
            }
            prop_assert_eq!(producer.tail(), accepted);
            prop_assert_eq!(consumer.head(), consumed);
            prop_assert_eq!(consumer.available().unwrap(), oracle.len());
            prop_assert_eq!(producer.room().unwrap(), 4096 - oracle.len());
            prop_assert_eq!(producer.next_unread(), oracle.front().copied());
            prop_assert_eq!(consumer.next_unread(), oracle.front().copied());
        }
    }

    /// Whatever the peer writes into the header, every call ends with bytes or with `Corrupt`, inside the ring.
    #[test]
    fn survives_any_index(head in any::<u64>(), tail in any::<u64>(), seen in any::<u64>()) {
        let ring = ring(seen);
        let (producer, consumer) = (ring.producer(), ring.consumer());
        let header = ring.storage.header();
        header.produced.tail.store(tail, Ordering::Release);
        header.consumed.head.store(head, Ordering::Release);
        let possible = tail.wrapping_sub(head) <= 4096;
        let mut buffer = [0; 9000];
        prop_assert_eq!(consumer.available().is_ok(), possible);
        prop_assert_eq!(producer.room().is_ok(), possible);
        let _ = consumer.peek(10, &mut buffer);
        let _ = consumer.with_spans(0, 9000, |spans| Ok(join(spans).len()));
        let _ = consumer.pop(&mut buffer);
        let _ = producer.push(&buffer);
        let _ = producer.copy_retained(seen, &mut buffer);
        let _ = producer.next_unread();
    }
}

#[test]
fn an_impossible_distance_says_what_was_found_and_what_is_allowed() {
    let ring = ring(0);
    let consumer = ring.consumer();
    ring.storage
        .header()
        .produced
        .tail
        .store(4097, Ordering::Release);
    let corrupt = consumer.pop(&mut [0; 10]).unwrap_err();
    assert_eq!(
        corrupt,
        Corrupt {
            head: 0,
            tail: 4097,
            size: 4096
        }
    );
    assert_eq!(
        corrupt.to_string(),
        "ring indexes head 0 and tail 4097 are 4097 apart, at most 4096 is possible"
    );
}

#[test]
fn moves_between_descriptors_without_a_copy_of_its_own() {
    let ring = ring(4000); // wraps at once
    let (producer, consumer) = (ring.producer(), ring.consumer());
    let (out, into) = rustix::pipe::pipe().unwrap();
    let sent = (0..3000_u32).map(|n| n as u8).collect::<Vec<_>>();
    rustix::io::write(&into, &sent).unwrap();
    assert_eq!(producer.read_from(&out, 2500).unwrap(), 2500);
    assert_eq!(producer.read_from(&out, usize::MAX).unwrap(), 500);
    assert_eq!(consumer.write_to(&into, 2000).unwrap(), 2000);
    assert_eq!(consumer.write_to(&into, usize::MAX).unwrap(), 1000);
    let empty = consumer.write_to(&into, 10).unwrap_err();
    assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    let mut got = [0; 4000];
    assert_eq!(rustix::io::read(&out, &mut got), Ok(3000));
    assert_eq!(got[..3000], sent);
    producer.push(&[0; 4096]).unwrap();
    let full = producer.read_from(&out, 10).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
}

/// A process that passes bytes by the ring and is killed after any of its stores leaves none that nobody wrote.
#[test]
fn a_death_while_bytes_pass_by_leaves_nothing_to_read() {
    for base in [0, 77, u64::MAX - 5] {
        let ring = ring(base);
        let (producer, consumer) = (ring.producer(), ring.consumer());
        let header = ring.storage.header();
        let passed = &header.consumed.passed;
        producer.push(b"before").unwrap();
        consumer.consume(6);
        let (tail, next) = (producer.tail(), producer.tail().wrapping_add(100));

        passed.store(next, Ordering::Relaxed);
        consumer.skip_passed();
        assert_eq!((consumer.head(), consumer.available()), (tail, Ok(0)));
        // And what comes later is not taken for it.
        producer.push(&[1; 200]).unwrap();
        consumer.skip_passed();
        assert_eq!(consumer.available(), Ok(200));
        consumer.consume(200);

        let next = producer.tail().wrapping_add(100);
        passed.store(next, Ordering::Relaxed);
        header.produced.tail.store(next, Ordering::Release);
        consumer.skip_passed();
        assert_eq!((consumer.head(), consumer.available()), (next, Ok(0)));
    }
}

#[test]
fn the_end_is_seen_after_the_last_byte() {
    let ring = ring(7);
    let (producer, consumer) = (ring.producer(), ring.consumer());
    producer.push(b"x").unwrap();
    assert!(!consumer.finished());
    producer.finish();
    assert!(producer.finished() && consumer.finished());
    assert_eq!(consumer.pop(&mut [0; 4]), Ok(1));
}

#[test]
fn the_sides_of_the_header_share_no_cache_line() {
    assert_eq!(size_of::<RingHeader>(), 5 * 128);
    let offsets = [
        std::mem::offset_of!(RingHeader, produced),
        std::mem::offset_of!(RingHeader, consumed),
        std::mem::offset_of!(RingHeader, receive),
        std::mem::offset_of!(RingHeader, space),
        std::mem::offset_of!(RingHeader, wire),
    ];
    assert_eq!(offsets, [0, 128, 256, 384, 512]);
}

fn join(spans: &[IoSlice<'_>]) -> Vec<u8> {
    spans.iter().flat_map(|s| s.iter().copied()).collect()
}
