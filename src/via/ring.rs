//! A ring: one byte stream from one producer to one consumer, in memory that both can write.
//!
//! ```text
//!      head                      tail                 free-running 64-bit stream offsets;
//!       v                         v                   byte N is at data[N mod size], size a power of two
//!  .....[ accepted, not consumed ][ room ............
//!       `------- tail - head <= size -------'
//! ```
//!
//! The producer alone moves `tail` (release, after the bytes are in place), the consumer alone moves `head` (release,
//! after it is done with the bytes). What is between them is also what a resumption sends again: bytes are kept until
//! the final reader has consumed them.
//!
//! The other side may be another user's process. So an index that it writes is read once and checked: a distance
//! larger than the ring is [`Corrupt`], never a clamp. Its bytes may change at any time, even behind `head`; they are
//! copied through raw pointers, never looked at through a slice, and whoever parses them does so after the copy.
//!
//! Over a wire with local rings more threads look at a ring than its two sides: one sends what another pushed, a third takes
//! the acknowledgement. Who reads two indexes while both move may see them further apart than they ever were; so a
//! distance is believed impossible only if the first index has not moved since it was read.
//!
//! Each side keeps a copy of the other's index and reads the shared one only when the copy does not do: in a steady
//! stream the cache line of `head` is not moved for every write. A copy can only be too small, which is safe.

mod storage;

pub use storage::Storage;

use super::sync::{AtomicU32, AtomicU64, Ordering};
use rustix::fd::AsFd;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

/// What the two sides share about one ring. Each group is on its own pair of cache lines (adjacent lines are fetched
/// together), so that the sides do not slow each other down.
///
/// | offset | field | written by | meaning |
/// | --- | --- | --- | --- |
/// | 0 | `tail` | producer | offset after the last accepted byte |
/// | 8 | `fin` | producer | 1: nothing follows `tail` |
/// | 128 | `head` | consumer | offset of the first byte not consumed |
/// | 136 | `lot` | consumer | bytes in its bell while its wake word is RUNG |
/// | 144 | `passed` | consumer | offset after the last byte that it got past a local ring ([`RingProducer::pass`]) |
/// | 256 | `receive` | both | wake word of the consumer ([`super::wake`]) |
/// | 260 | `voucher` | publishers | which of them has sent a token that the consumer found to be late |
/// | 384 | `space` | both | wake word of the producer |
/// | 512 | `wire` | the wire | words of a wire with local rings that must survive a fork |
#[repr(C)]
#[derive(Default)]
pub struct RingHeader {
    produced: Produced,
    consumed: Consumed,
    receive: ReceiveWord,
    space: Word,
    wire: WireWords,
}

#[repr(C, align(128))]
#[derive(Default)]
struct Produced {
    tail: AtomicU64,
    fin: AtomicU32,
}

#[repr(C, align(128))]
#[derive(Default)]
struct Consumed {
    head: AtomicU64,
    lot: AtomicU32,
    passed: AtomicU64,
}

#[repr(C, align(128))]
#[derive(Default)]
struct ReceiveWord(AtomicU32, AtomicU32);

#[repr(C, align(128))]
#[derive(Default)]
struct Word(AtomicU32);

/// Eight words for the wire's own use; see [`Ring::wire_words`].
#[repr(C, align(128))]
#[derive(Default)]
struct WireWords([AtomicU64; 8]);

/// The other side wrote an impossible index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The index of the reading side.
    pub head: u64,
    /// The index of the writing side.
    pub tail: u64,
    /// Largest distance allowed: the size of the ring.
    pub size: u64,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ring indexes head {} and tail {} are {} apart, at most {} is possible",
            self.head,
            self.tail,
            self.tail.wrapping_sub(self.head),
            self.size
        )
    }
}

impl std::error::Error for Corrupt {}

impl From<Corrupt> for super::Broken {
    fn from(c: Corrupt) -> Self {
        super::Broken::Corrupt(c.to_string())
    }
}

/// One ring of a region, of which the halves are made.
#[derive(Clone)]
pub struct Ring {
    storage: Arc<Storage>,
}

impl Ring {
    /// A ring over `storage`.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage: Arc::new(storage),
        }
    }

    /// Sets both indexes to `base`, the stream offset of the first byte that this ring will carry, and both wake
    /// words to INSIDE. Before the peer sees the ring.
    pub fn start_at(&self, base: u64) {
        let header = self.storage.header();
        header.produced.tail.store(base, Ordering::Relaxed);
        header.produced.fin.store(0, Ordering::Relaxed);
        header.consumed.head.store(base, Ordering::Relaxed);
        header.consumed.passed.store(base, Ordering::Relaxed);
        header
            .receive
            .0
            .store(super::wake::INSIDE, Ordering::Relaxed);
        header.space.0.store(super::wake::INSIDE, Ordering::Release);
    }

    /// The writing half. There must be one at a time that is used.
    pub fn producer(&self) -> RingProducer {
        RingProducer {
            seen_head: AtomicU64::new(self.storage.header().consumed.head.load(Ordering::Acquire)),
            storage: Arc::clone(&self.storage),
        }
    }

    /// The reading half. There must be one at a time that is used.
    pub fn consumer(&self) -> RingConsumer {
        RingConsumer {
            seen_tail: AtomicU64::new(self.storage.header().produced.tail.load(Ordering::Acquire)),
            storage: Arc::clone(&self.storage),
        }
    }

    /// Words that a wire with local rings may use for what must be the same in a forked child (how far was sent, how
    /// much of a packet arrived). In shared memory with a peer they mean nothing.
    pub fn wire_words(&self) -> &[AtomicU64; 8] {
        &self.storage.header().wire.0
    }
}

/// The writing side of a ring. Thread rule: one producing call at a time.
pub struct RingProducer {
    storage: Arc<Storage>,
    seen_head: AtomicU64,
}

impl RingProducer {
    /// Bytes that the ring holds.
    pub fn size(&self) -> usize {
        self.storage.size()
    }

    /// Stream offset up to which bytes were accepted.
    pub fn tail(&self) -> u64 {
        self.storage.header().produced.tail.load(Ordering::Acquire)
    }

    /// Stream offset up to which the other side consumed.
    pub fn head(&self) -> Result<u64, Corrupt> {
        self.indexes().map(|(head, _)| head)
    }

    /// Bytes that would be accepted now.
    pub fn room(&self) -> Result<usize, Corrupt> {
        let (head, tail) = self.indexes()?;
        Ok(self.size() - tail.wrapping_sub(head) as usize)
    }

    /// Whether not one byte would be accepted now. Reads the other side's cache line only if the copy of its index says so.
    pub fn is_full(&self) -> Result<bool, Corrupt> {
        Ok(self.room_for(self.tail(), 1)? == 0)
    }

    /// Copies in as much of `src` as there is room for and publishes it.
    pub fn push(&self, src: &[u8]) -> Result<usize, Corrupt> {
        self.push_vectored(&[IoSlice::new(src)])
    }

    /// As [`RingProducer::push`] for several pieces.
    pub fn push_vectored(&self, src: &[IoSlice<'_>]) -> Result<usize, Corrupt> {
        let tail = self.tail();
        let wanted = src.iter().map(|s| s.len()).sum::<usize>();
        let room = self.room_for(tail, wanted)?;
        let mut done = 0;
        for piece in src {
            let n = piece.len().min(room - done);
            self.storage
                .copy_in(tail.wrapping_add(done as u64), &piece[..n]);
            done += n;
        }
        self.publish(tail, done);
        Ok(done)
    }

    /// Reads from `fd` straight into the ring, at most `max` bytes, and publishes them. 0 is the descriptor's end of
    /// file; without room for one byte it is `WouldBlock`.
    ///
    /// # Errors
    /// The system call's; `InvalidData` where an index of the other side is impossible.
    pub fn read_from(&self, fd: impl AsFd, max: usize) -> io::Result<usize> {
        self.with_room(max, |spans| Ok(rustix::io::readv(&fd, spans)?))
    }

    /// Lets `fill` write into the free part of the ring (at most `max` bytes, one or two spans) and publishes as many
    /// bytes as it says. The spans are for the kernel: the peer may change them at any time.
    ///
    /// # Errors
    /// `WouldBlock` without room; what `fill` gives; `InvalidData` where an index of the other side is impossible.
    pub fn with_room(
        &self,
        max: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let tail = self.tail();
        let room = self.room_for(tail, max).map_err(corrupt_io)?;
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.storage.with_spans_mut(tail, room, fill)?;
        self.publish(tail, n.min(room));
        Ok(n)
    }

    /// Whether everything that was accepted was consumed.
    pub fn is_empty(&self) -> Result<bool, Corrupt> {
        let tail = self.tail();
        Ok(self.fresh_head(tail)? == tail)
    }

    /// Counts `n` bytes of the stream as accepted and consumed, which the consumer was given without the ring. For a thread
    /// that is producer and consumer both, while the ring is empty. One that dies here leaves an offset that
    /// [`RingConsumer::skip_passed`] finds, and never bytes that were not written.
    pub fn pass(&self, n: usize) {
        let next = self.tail().wrapping_add(n as u64);
        let header = self.storage.header();
        header.consumed.passed.store(next, Ordering::Relaxed);
        header.produced.tail.store(next, Ordering::Release);
        header.consumed.head.store(next, Ordering::Release);
    }

    /// Nothing follows what was accepted so far.
    pub fn finish(&self) {
        let header = self.storage.header();
        header.produced.fin.store(1, Ordering::Release);
    }

    /// Whether [`RingProducer::finish`] was called.
    pub fn finished(&self) -> bool {
        self.storage.header().produced.fin.load(Ordering::Acquire) != 0
    }

    /// Copies kept bytes from stream offset `from` on: what a resumption sends again. The number is short at `tail`,
    /// and 0 when `from` is not between what was consumed and what was accepted.
    pub fn copy_retained(&self, from: u64, dst: &mut [u8]) -> Result<usize, Corrupt> {
        let (head, tail) = self.indexes()?;
        let held = tail.wrapping_sub(head);
        if from.wrapping_sub(head) > held {
            return Ok(0);
        }
        let n = dst.len().min(tail.wrapping_sub(from) as usize);
        self.storage.copy_out(from, &mut dst[..n]);
        Ok(n)
    }

    /// The consumer's wake word.
    pub fn receive_word(&self) -> &AtomicU32 {
        &self.storage.header().receive.0
    }

    /// Beside it, for [`super::wake::publish`].
    pub fn voucher(&self) -> &AtomicU32 {
        &self.storage.header().receive.1
    }

    /// The producer's own wake word.
    pub fn space_word(&self) -> &AtomicU32 {
        &self.storage.header().space.0
    }

    /// A copy of the consumer's next unread byte, for a token; `None` where everything was consumed.
    pub fn next_unread(&self) -> Option<u8> {
        let (head, tail) = self.indexes().ok()?;
        self.storage.byte_at(head, tail)
    }

    /// Both as they were at one moment, for any thread. (The thread that pushes knows that the tail does not move.)
    fn indexes(&self) -> Result<(u64, u64), Corrupt> {
        steady(|| self.tail(), |tail| Ok((self.fresh_head(tail)?, tail)))
    }

    fn publish(&self, tail: u64, n: usize) {
        if n > 0 {
            self.storage
                .header()
                .produced
                .tail
                .store(tail.wrapping_add(n as u64), Ordering::Release);
        }
    }

    /// Room for at most `wanted` bytes; the other side's cache line is read only if the copy of its index says less.
    fn room_for(&self, tail: u64, wanted: usize) -> Result<usize, Corrupt> {
        let size = self.size() as u64;
        let seen = tail.wrapping_sub(self.seen_head.load(Ordering::Relaxed));
        if seen <= size && size - seen >= wanted as u64 {
            return Ok(wanted);
        }
        let used = tail.wrapping_sub(self.fresh_head(tail)?);
        Ok(((size - used) as usize).min(wanted))
    }

    fn fresh_head(&self, tail: u64) -> Result<u64, Corrupt> {
        let head = self.storage.header().consumed.head.load(Ordering::Acquire);
        self.storage.check(head, tail)?;
        self.seen_head.store(head, Ordering::Relaxed);
        Ok(head)
    }
}

/// The reading side of a ring. Thread rule: one consuming call at a time.
pub struct RingConsumer {
    storage: Arc<Storage>,
    seen_tail: AtomicU64,
}

impl RingConsumer {
    /// Bytes that the ring holds.
    pub fn size(&self) -> usize {
        self.storage.size()
    }

    /// Stream offset up to which bytes were consumed.
    pub fn head(&self) -> u64 {
        self.storage.header().consumed.head.load(Ordering::Acquire)
    }

    /// Stream offset up to which the other side delivered.
    pub fn tail(&self) -> Result<u64, Corrupt> {
        self.indexes().map(|(_, tail)| tail)
    }

    /// Bytes that can be read now.
    pub fn available(&self) -> Result<usize, Corrupt> {
        let (head, tail) = self.indexes()?;
        Ok(tail.wrapping_sub(head) as usize)
    }

    /// Room that the producer has.
    pub fn room(&self) -> Result<usize, Corrupt> {
        Ok(self.size() - self.available()?)
    }

    /// Copies out and consumes.
    pub fn pop(&self, dst: &mut [u8]) -> Result<usize, Corrupt> {
        let n = self.peek(0, dst)?;
        self.consume(n);
        Ok(n)
    }

    /// Copies out from `skip` bytes after the head on, and consumes nothing.
    pub fn peek(&self, skip: usize, dst: &mut [u8]) -> Result<usize, Corrupt> {
        let head = self.head();
        let n = self
            .available_for(head, skip.saturating_add(dst.len()))?
            .saturating_sub(skip);
        self.storage
            .copy_out(head.wrapping_add(skip as u64), &mut dst[..n]);
        Ok(n)
    }

    /// Consumes `n` bytes that a peek or [`RingConsumer::with_spans`] showed; the caller guarantees that they were there.
    pub fn consume(&self, n: usize) {
        if n > 0 {
            self.consume_to(self.head().wrapping_add(n as u64));
        }
    }

    /// Consumes what a process that died had passed by the ring ([`RingProducer::pass`]). Before anything is consumed.
    pub fn skip_passed(&self) {
        let word = &self.storage.header().consumed.passed;
        let (passed, head) = (word.load(Ordering::Relaxed), self.head());
        let ahead = passed.wrapping_sub(head);
        if ahead as i64 <= 0 {
            return;
        }
        match self.available() {
            Ok(n) if ahead <= n as u64 => self.consume_to(passed),
            // It died before it moved the tail: they were not accepted.
            _ => word.store(head, Ordering::Relaxed),
        }
    }

    /// Consumes up to stream offset `offset`, which the caller has checked to be between head and tail.
    pub fn consume_to(&self, offset: u64) {
        self.storage
            .header()
            .consumed
            .head
            .store(offset, Ordering::Release);
    }

    /// Writes to `fd` straight from the ring, at most `max` bytes, and consumes what was written. `WouldBlock` where
    /// the ring is empty.
    ///
    /// # Errors
    /// The system call's; `InvalidData` where an index of the other side is impossible.
    pub fn write_to(&self, fd: impl AsFd, max: usize) -> io::Result<usize> {
        let n = self.with_spans(0, max, |spans| Ok(rustix::io::writev(&fd, spans)?))?;
        self.consume(n);
        Ok(n)
    }

    /// Shows the unread bytes from `skip` bytes after the head on, at most `max`, as one or two spans, and consumes
    /// nothing. The spans are for the kernel: the peer may change them at any time.
    ///
    /// # Errors
    /// `WouldBlock` where there is nothing; what `take` gives; `InvalidData` where an index of the other side is
    /// impossible.
    pub fn with_spans(
        &self,
        skip: usize,
        max: usize,
        take: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let head = self.head();
        let n = self
            .available_for(head, skip.saturating_add(max))
            .map_err(corrupt_io)?
            .saturating_sub(skip);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.storage
            .with_spans(head.wrapping_add(skip as u64), n, take)
    }

    /// As [`RingConsumer::with_spans`], from stream offset `from` on, which lies between head and tail: a wire keeps what
    /// it sent until the peer acknowledges it, and the acknowledgement may move the head meanwhile.
    ///
    /// # Errors
    /// As [`RingConsumer::with_spans`]; `InvalidData` also where `from` is outside.
    pub fn with_spans_at(
        &self,
        from: u64,
        max: usize,
        take: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (head, tail) = self.indexes().map_err(corrupt_io)?;
        let rest = tail.wrapping_sub(from);
        if rest > tail.wrapping_sub(head) {
            let size = self.size() as u64;
            return Err(corrupt_io(Corrupt {
                head,
                tail: from,
                size,
            }));
        }
        let n = max.min(rest as usize);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.storage.with_spans(from, n, take)
    }

    /// The producer finished. What it accepted before may still be unread: ask for the bytes after this.
    pub fn finished(&self) -> bool {
        self.storage.header().produced.fin.load(Ordering::Acquire) != 0
    }

    /// How many copies of unread bytes are in the consumer's bell while its word is RUNG (shared with a forked child).
    pub(super) fn lot(&self) -> usize {
        self.storage.header().consumed.lot.load(Ordering::Relaxed) as usize
    }

    /// See [`RingConsumer::lot`]; a publisher that rings by itself always sends one.
    pub(super) fn set_lot(&self, lot: usize) {
        let lot = lot.min(u32::MAX as usize) as u32;
        self.storage
            .header()
            .consumed
            .lot
            .store(lot, Ordering::Relaxed);
    }

    /// The consumer's own wake word.
    pub fn receive_word(&self) -> &AtomicU32 {
        &self.storage.header().receive.0
    }

    /// Beside it, where a publisher vouches for a token ([`super::wake`]).
    pub fn voucher(&self) -> &AtomicU32 {
        &self.storage.header().receive.1
    }

    /// The producer's wake word.
    pub fn space_word(&self) -> &AtomicU32 {
        &self.storage.header().space.0
    }

    /// A copy of the next unread byte, for a token; `None` where there is none.
    pub fn next_unread(&self) -> Option<u8> {
        let (head, tail) = self.indexes().ok()?;
        self.storage.byte_at(head, tail)
    }

    /// Both as they were at one moment, for any thread. (The thread that consumes knows that the head does not move.)
    fn indexes(&self) -> Result<(u64, u64), Corrupt> {
        steady(|| self.head(), |head| Ok((head, self.fresh_tail(head)?)))
    }

    /// Unread bytes, at most `wanted`; the other side's cache line is read only if the copy of its index says less.
    fn available_for(&self, head: u64, wanted: usize) -> Result<usize, Corrupt> {
        let seen = self.seen_tail.load(Ordering::Relaxed).wrapping_sub(head);
        if seen <= self.size() as u64 && seen >= wanted as u64 {
            return Ok(wanted);
        }
        Ok((self.fresh_tail(head)?.wrapping_sub(head) as usize).min(wanted))
    }

    fn fresh_tail(&self, head: u64) -> Result<u64, Corrupt> {
        let tail = self.storage.header().produced.tail.load(Ordering::Acquire);
        self.storage.check(head, tail)?;
        self.seen_tail.store(tail, Ordering::Relaxed);
        Ok(tail)
    }
}

/// Reads the side's `own` index and then looks at the `other`, again while that fails and the own one has moved.
fn steady<T>(
    own: impl Fn() -> u64,
    other: impl Fn(u64) -> Result<T, Corrupt>,
) -> Result<T, Corrupt> {
    let mut before = own();
    // Bounded, since another process may be able to write both.
    for _ in 0..100 {
        let seen = other(before);
        if seen.is_ok() {
            return seen;
        }
        let now = own();
        if now == before {
            return seen;
        }
        before = now;
    }
    other(before)
}

fn corrupt_io(c: Corrupt) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, c)
}

#[cfg(all(test, not(loom)))]
mod tests;
