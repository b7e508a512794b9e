//! The wire's state, in words of the rings' shared pages: a process that was forked off carries on in mid-packet.
//!
//! Each group is used under its own exclusion (driver token of the receive direction, lock of the send direction), so
//! relaxed accesses do; the few words that the other direction reads say so.

use crate::thread;
use crate::via::packet::{HEADER_BYTES, Header, Type};
use crate::via::ring::Ring;
use crate::via::sync::{AtomicU64, Ordering};

/// Largest packet that is not data, after the handshake: a disconnect, or a word.
pub const CONTROL_BYTES: usize = HEADER_BYTES + 1;
/// Bytes of a packet that are kept until it is whole.
const STASH: usize = 40;

/// State of the send direction, in the page of the send ring.
#[derive(Clone)]
pub struct TxWords(Ring);

const SENT: usize = 0;
const OFFERED: usize = 1;
const PENDING: usize = 2;
const TOLD: usize = 3;
const LOCK: usize = 4;
const FLAGS: usize = 5;
const ANSWERED: usize = 6;
/// Of the receive direction, whose own words are all in use.
const READER: usize = 7;

/// The peer asked for a sign of life.
pub const ANSWER: u64 = 1;
/// We ask for one.
pub const ASK: u64 = 1 << 1;
/// The end of our stream was sent.
pub const FIN_SENT: u64 = 1 << 2;
/// The socket took less than there was.
pub const BLOCKED: u64 = 1 << 3;
/// Nothing can be sent any more.
pub const DEAD: u64 = 1 << 4;
/// Acknowledge now, however little.
pub const SETTLE: u64 = 1 << 5;
/// The channel is to be ended, with the reason in bits 32 to 39.
pub const END: u64 = 1 << 6;
/// The disconnect packet was begun.
pub const DISCONNECTED: u64 = 1 << 7;
/// A word is to be said, which stands in bits 40 to 47.
pub const SAY: u64 = 1 << 8;
/// Where the reason is.
const END_REASON: u32 = 32;
/// Where our word is, and the peer's.
const SAID: u32 = 40;
const WORD: u32 = 48;
/// In the word of the thread that sends: once more.
const AGAIN: u64 = 1 << 32;

/// The packet of which the kernel has taken a part of the header, or not even that.
#[derive(Clone, Copy)]
pub struct Pending {
    /// Bytes of the header (with a disconnect's reason, or a word) that are still to be sent; 0: none.
    pub left: usize,
    pub kind: Type,
    pub flags: u8,
    /// A disconnect's reason, or a word.
    pub reason: u8,
}

impl TxWords {
    pub fn new(ring: Ring) -> Self {
        Self(ring)
    }

    fn word(&self, n: usize) -> &AtomicU64 {
        &self.0.wire_words()[n]
    }

    /// Begins at stream offset `sent`, with `told` acknowledged in the handshake.
    pub fn start(&self, sent: u64, told: u64) {
        for n in 0..8 {
            self.word(n).store(0, Ordering::Relaxed);
        }
        self.word(TOLD).store(told, Ordering::Relaxed);
        self.word(SENT).store(sent, Ordering::Relaxed);
        self.word(OFFERED).store(sent, Ordering::Release);
    }

    /// Payload up to this stream offset was taken by the kernel.
    pub fn sent(&self) -> u64 {
        self.word(SENT).load(Ordering::Relaxed)
    }

    pub fn set_sent(&self, offset: u64) {
        self.word(SENT).store(offset, Ordering::Relaxed);
    }

    /// End of the data packet that was begun last. The receive direction reads it: nothing behind it can be
    /// acknowledged (`sent` is stored only after the system call, when the peer's answer may be here already).
    pub fn offered(&self) -> u64 {
        self.word(OFFERED).load(Ordering::Acquire)
    }

    /// What the last data packet that came acknowledged; the receive direction's.
    pub fn answered(&self) -> u64 {
        self.word(ANSWERED).load(Ordering::Acquire)
    }

    pub fn set_answered(&self, offset: u64) {
        self.word(ANSWERED).store(offset, Ordering::Release);
    }

    /// The last acknowledgement that went out.
    pub fn told(&self) -> u64 {
        self.word(TOLD).load(Ordering::Relaxed)
    }

    /// Begins a packet that carries data up to `offered` and acknowledges up to `told`.
    pub fn begin(&self, pending: Pending, offered: u64, told: u64) {
        self.word(TOLD).store(told, Ordering::Relaxed);
        self.word(OFFERED).store(offered, Ordering::Release);
        self.set_pending(pending);
    }

    pub fn pending(&self) -> Option<Pending> {
        let [left, kind, flags, reason, ..] =
            self.word(PENDING).load(Ordering::Relaxed).to_le_bytes();
        let kind = Type::from_wire(kind)?;
        (left > 0).then_some(Pending {
            left: left.into(),
            kind,
            flags,
            reason,
        })
    }

    pub fn set_pending(&self, p: Pending) {
        let bytes = [p.left as u8, p.kind as u8, p.flags, p.reason, 0, 0, 0, 0];
        self.word(PENDING)
            .store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }

    pub fn flags(&self) -> u64 {
        self.word(FLAGS).load(Ordering::Acquire)
    }

    pub fn set(&self, flags: u64) {
        self.word(FLAGS).fetch_or(flags, Ordering::AcqRel);
    }

    pub fn clear(&self, flags: u64) {
        self.word(FLAGS).fetch_and(!flags, Ordering::AcqRel);
    }

    /// Asks for the end; the first reason stays.
    pub fn request_end(&self, reason: u8) {
        let word = self.word(FLAGS);
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| {
            (flags & END == 0).then_some(flags | END | u64::from(reason) << END_REASON)
        });
    }

    /// A word is to go out, in the place of one that did not yet.
    pub fn say(&self, word: u8) {
        self.put(SAID, word, SAY);
    }

    pub fn said(&self) -> u8 {
        (self.flags() >> SAID) as u8
    }

    /// The peer's word has come; the receive direction's, whose own words are all in use.
    pub fn set_told(&self, word: u8) {
        self.put(WORD, word, 0);
    }

    pub fn told_word(&self) -> u8 {
        (self.flags() >> WORD) as u8
    }

    fn put(&self, at: u32, word: u8, flag: u64) {
        let put = |flags: u64| (flags & !(0xff << at)) | u64::from(word) << at | flag;
        let flags = self.word(FLAGS);
        let _ = flags.fetch_update(Ordering::AcqRel, Ordering::Acquire, |it| Some(put(it)));
    }

    pub fn end_reason(&self) -> u8 {
        (self.flags() >> END_REASON) as u8
    }

    /// Runs `f`, which reads the socket, unless another process does so now: a parent and its child may both wait for the
    /// same bytes. (Threads of one process are kept apart by the driver token.) `f` is told who had it before.
    pub fn read_alone<T>(&self, f: impl FnOnce(Before) -> T) -> Option<T> {
        let (reader, me) = (self.word(READER), me());
        let mut seen = 0;
        while let Err(holder) =
            reader.compare_exchange(seen, me, Ordering::Acquire, Ordering::Relaxed)
        {
            if holder != 0 && !is_gone(holder) {
                return None;
            }
            seen = holder;
        }
        let result = f(Before::of(seen));
        reader.store(0, Ordering::Release);
        Some(result)
    }

    /// Runs `f` alone; false if another thread does: it then runs once more after what it does now, so that whatever the
    /// caller wanted to be looked at is looked at. Nobody ever waits. `f` is told who had it before.
    pub fn alone(&self, mut f: impl FnMut(Before)) -> bool {
        let (lock, me) = (self.word(LOCK), me());
        let mut seen = 0;
        while let Err(now) = lock.compare_exchange(seen, me, Ordering::AcqRel, Ordering::Acquire) {
            seen = now;
            if seen == 0 || is_gone(seen) {
                continue;
            }
            let told =
                lock.compare_exchange(seen, seen | AGAIN, Ordering::AcqRel, Ordering::Acquire);
            if told.is_ok() {
                return false;
            }
        }
        let mut before = Before::of(seen);
        loop {
            f(before);
            before = Before::Finished;
            match lock.compare_exchange(me, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(_) => lock.store(me, Ordering::Release),
            }
        }
    }

    /// Whether a process that has ended is the one that reads, or sends.
    pub fn is_orphaned(&self) -> bool {
        [LOCK, READER].into_iter().any(|word| {
            let word = self.word(word);
            let holder = word.load(Ordering::Acquire);
            // One that has finished, and ended after that, has left the word.
            holder != 0 && is_gone(holder) && word.load(Ordering::Acquire) == holder
        })
    }

    /// The thread of another process that reads now, 0 if there is none.
    pub fn foreign_reader(&self) -> u64 {
        match self.word(READER).load(Ordering::Acquire) {
            reader if process_of(reader) == thread::process() => 0,
            reader => reader,
        }
    }
}

/// Names this thread in a word: its id, and above [`AGAIN`] its process.
fn me() -> u64 {
    u64::from(thread::id()) | u64::from(thread::process()) << 33
}

/// Whether a thread of another process does not exist any more. (One of our own comes to the end of what it does.)
fn is_gone(holder: u64) -> bool {
    let id = holder as u32;
    process_of(holder) != thread::process() && (!thread::is_alive(id) || thread::is_zombie(id))
}

fn process_of(holder: u64) -> u32 {
    (holder >> 33) as u32
}

/// What became of the thread that read or sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It finished.
    Finished,
    /// It died in the middle (a forked child that ended, or was killed): what it took from the socket or gave to it is not
    /// known.
    Died,
}

impl Before {
    fn of(holder: u64) -> Self {
        match holder {
            0 => Self::Finished,
            _ => Self::Died,
        }
    }
}

impl Pending {
    pub fn new(kind: Type, flags: u8, reason: u8) -> Self {
        let left = match kind {
            Type::Disconnect | Type::Word => CONTROL_BYTES,
            _ => HEADER_BYTES,
        };
        Self {
            left,
            kind,
            flags,
            reason,
        }
    }

    /// The header, and a disconnect's reason or a word behind it; the last `left` bytes are still to be sent. The number is that
    /// of all of them.
    pub fn bytes(&self, words: &TxWords, generation: u64) -> ([u8; CONTROL_BYTES], usize) {
        let payload = words.offered().wrapping_sub(words.sent()) as u32;
        let header = Header {
            kind: self.kind,
            flags: self.flags,
            length: match self.kind {
                Type::Data => payload,
                Type::Disconnect | Type::Word => 1,
                _ => 0,
            },
            offset: words.sent(),
            acked: words.told(),
            generation,
        };
        let mut bytes = [self.reason; CONTROL_BYTES];
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        (bytes, Self::new(self.kind, 0, 0).left)
    }
}

/// State of the receive direction, in the page of the receive ring.
#[derive(Clone)]
pub struct RxWords(Ring);

const HAVE: usize = 5;
const REMAINING: usize = 6;
const HEARD: usize = 7;
/// In the word of what remains: the stream ends behind it.
const FIN: u64 = 1 << 63;

impl RxWords {
    pub fn new(ring: Ring) -> Self {
        Self(ring)
    }

    fn word(&self, n: usize) -> &AtomicU64 {
        &self.0.wire_words()[n]
    }

    pub fn start(&self) {
        for n in 0..8 {
            self.word(n).store(0, Ordering::Relaxed);
        }
    }

    /// Payload of the current data packet that has not arrived, and whether the stream ends behind it.
    pub fn remaining(&self) -> (usize, bool) {
        let word = self.word(REMAINING).load(Ordering::Relaxed);
        ((word & !FIN) as usize, word & FIN != 0)
    }

    pub fn set_remaining(&self, bytes: usize, fin: bool) {
        let fin = if fin { FIN } else { 0 };
        self.word(REMAINING)
            .store(bytes as u64 | fin, Ordering::Relaxed);
    }

    /// How many bytes of an unfinished header or control packet are kept.
    pub fn stashed(&self) -> usize {
        (self.word(HAVE).load(Ordering::Relaxed) as usize).min(STASH)
    }

    /// Takes the kept bytes to the front of `buffer` and says how many.
    pub fn unstash(&self, buffer: &mut [u8]) -> usize {
        let have = self.stashed();
        if have > 0 {
            let mut all = [0; STASH];
            for (n, part) in all.chunks_exact_mut(8).enumerate() {
                part.copy_from_slice(&self.word(n).load(Ordering::Relaxed).to_le_bytes());
            }
            buffer[..have].copy_from_slice(&all[..have]);
            self.word(HAVE).store(0, Ordering::Relaxed);
        }
        have
    }

    /// Keeps `bytes`, fewer than the longest control packet.
    pub fn stash(&self, bytes: &[u8]) {
        let mut all = [0; STASH];
        all[..bytes.len()].copy_from_slice(bytes);
        for (n, part) in all.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(part.try_into().expect("chunks of eight"));
            self.word(n).store(word, Ordering::Relaxed);
        }
        self.word(HAVE).store(bytes.len() as u64, Ordering::Relaxed);
    }

    /// Packets that arrived; read by anyone.
    pub fn heard(&self) -> u64 {
        self.word(HEARD).load(Ordering::Relaxed)
    }

    pub fn count_packet(&self) {
        self.word(HEARD).fetch_add(1, Ordering::Relaxed);
    }
}

const _: () = assert!(STASH > CONTROL_BYTES && STASH == 8 * HAVE);
