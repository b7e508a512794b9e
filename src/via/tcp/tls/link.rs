//! The stream of bytes over the records of a connection whose handshake is complete.
//!
//! Keys are constants that a forked process has too; numbers and what is under way are in [`Shared`]. Nothing is allocated here.
//! A record that was sealed is sent, whatever happens, before another: numbers are never used twice. The peer may send contents
//! only: it has no need to change keys (the numbers run out first), and whatever else comes, and whatever does not decrypt, is
//! the end of the connection.

use super::record::{self, HEADER, Key, PLAIN_MAX};
use super::shared::Direction::{Receive, Send};
use super::shared::{BUFFER, RECORDS, Shared};
use crate::via::tcp::link::{Fault, Link};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module's text.
pub struct TlsLink {
    socket: Arc<OwnedFd>,
    seals: Key,
    opens: Key,
    shared: Shared,
    /// Until the channel stands nothing is read beyond the record that is waited for.
    sparing: AtomicBool,
}

/// Words of either half.
const SEQ: usize = 0;
/// Of the sending half: the sealed bytes that are not sent.
const SEALED: usize = 1;
const SEALED_END: usize = 2;
/// Of the receiving half: contents that nobody has taken.
const PLAIN: usize = 1;
const PLAIN_END: usize = 2;
/// Behind them: bytes of records as they came.
const RAW: usize = 3;
const RAW_END: usize = 4;
/// 1: the last read took all that the socket had.
const DRAINED: usize = 5;
/// It is over: how.
const OVER: usize = 6;
const ENDED: usize = 1;
const FAILED: usize = 2;

/// What the record in front was.
enum Opened {
    /// Contents.
    Data,
    /// It has not come whole.
    Nothing,
    /// The peer's end.
    End,
}

impl TlsLink {
    /// Goes on behind the handshake, with the number that each half has come to.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        socket: Arc<OwnedFd>,
        (sent, seals): (u64, Key),
        (received, opens): (u64, Key),
    ) -> std::io::Result<Self> {
        let shared = Shared::new()?;
        shared.set(Send, SEQ, sent as usize);
        shared.set(Receive, SEQ, received as usize);
        Ok(Self {
            socket,
            seals,
            opens,
            shared,
            sparing: AtomicBool::new(true),
        })
    }

    /// From now on as much is read as is there.
    pub fn spare_no_more(&self) {
        self.sparing.store(false, Ordering::Relaxed);
    }

    fn next(&self, direction: super::shared::Direction) -> Option<u64> {
        let seq = self.shared.word(direction, SEQ);
        let now = seq.load(Ordering::Relaxed);
        seq.store(now.checked_add(1)?, Ordering::Relaxed);
        Some(now)
    }

    /// Sends from `at` to `end` of the sealed bytes.
    fn push(&self, sealed: &[u8]) -> Result<(), Errno> {
        loop {
            let at = self.shared.get(Send, SEALED);
            let end = self.shared.get(Send, SEALED_END);
            if at >= end {
                return Ok(());
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let n = rustix::net::send(&*self.socket, &sealed[at..end], flags)?;
            self.shared.set(Send, SEALED, at + n);
        }
    }

    fn has_plain(&self) -> bool {
        self.shared.get(Receive, PLAIN) < self.shared.get(Receive, PLAIN_END)
    }

    /// Copies contents that were not taken, and says how many.
    fn take(&self, buffer: &[u8], slices: &mut [IoSliceMut<'_>]) -> usize {
        let at = self.shared.get(Receive, PLAIN);
        let mut from = &buffer[at..self.shared.get(Receive, PLAIN_END)];
        let all = from.len();
        for slice in slices {
            let n = slice.len().min(from.len());
            slice[..n].copy_from_slice(&from[..n]);
            from = &from[n..];
        }
        let taken = all - from.len();
        self.shared.set(Receive, PLAIN, at + taken);
        taken
    }

    /// Where the record in front is, if it has come whole.
    fn whole(&self, buffer: &[u8]) -> Result<Option<std::ops::Range<usize>>, &'static str> {
        match self.shared.get(Receive, OVER) {
            0 => {}
            ENDED => return Ok(None),
            _ => return Err("the connection broke before"),
        }
        let at = self.shared.get(Receive, RAW);
        let raw = &buffer[at..self.shared.get(Receive, RAW_END)];
        let Some(head) = raw.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = record::length(head)?;
        Ok((raw.len() >= length).then_some(at..at + length))
    }

    /// Nothing is taken any more: what followed a record that was left out would be another stream.
    fn fail(&self, text: &'static str) -> Fault {
        self.shared.set(Receive, OVER, FAILED);
        Fault::Broken(text)
    }

    /// Opens the record in front, if it is there; the contents before it were taken.
    fn open(&self, buffer: &mut [u8]) -> Result<Opened, &'static str> {
        if self.shared.get(Receive, OVER) == ENDED {
            return Ok(Opened::End);
        }
        let Some(place) = self.whole(buffer)? else {
            return Ok(Opened::Nothing);
        };
        let at = place.start;
        let seq = self.next(Receive).ok_or("more TLS records than can be")?;
        self.shared.set(Receive, RAW, place.end);
        let record = &mut buffer[place];
        match record::open(&self.opens, seq, record)? {
            (record::DATA, 0) => Err("a TLS record without contents"),
            (record::DATA, n) => {
                self.shared.set(Receive, PLAIN, at + HEADER);
                self.shared.set(Receive, PLAIN_END, at + HEADER + n);
                Ok(Opened::Data)
            }
            // close_notify
            (record::ALERT, 2) if record[HEADER + 1] == 0 => {
                self.shared.set(Receive, OVER, ENDED);
                Ok(Opened::End)
            }
            (record::ALERT, _) => Err("a TLS alert"),
            _ => Err("a TLS record that is not expected"),
        }
    }

    /// Reads once from the socket; 0: the end.
    fn fill(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        let (at, end) = (
            self.shared.get(Receive, RAW),
            self.shared.get(Receive, RAW_END),
        );
        // At most a part of one record.
        buffer.copy_within(at..end, 0);
        let have = end - at;
        self.shared.set(Receive, RAW, 0);
        self.shared.set(Receive, RAW_END, have);
        let until = match self.sparing.load(Ordering::Relaxed) {
            false => BUFFER,
            true => (buffer[..have].first_chunk::<HEADER>())
                .map_or(HEADER, |head| record::length(head).unwrap_or(HEADER + 1)),
        };
        let room = &mut buffer[have..until.max(have + 1)];
        let asked = room.len();
        let read = rustix::net::recv(&*self.socket, room, flags);
        let drained = read.as_ref().map_or(true, |(n, _)| *n < asked);
        self.shared.set(Receive, DRAINED, drained.into());
        let (n, _) = read?;
        self.shared.set(Receive, RAW_END, have + n);
        Ok(n)
    }
}

impl Link for TlsLink {
    fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    fn is_private(&self) -> bool {
        true
    }

    unsafe fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
        // SAFETY: the caller's promise.
        let sealed = unsafe { self.shared.buffer(Send) };
        self.push(sealed)?;
        let mut source = Source { slices, at: 0 };
        let total = source.left().min(RECORDS * PLAIN_MAX);
        let (mut left, mut end) = (total, 0);
        while left > 0 {
            let n = left.min(PLAIN_MAX);
            let seq = self.next(Send).ok_or(Errno::OVERFLOW)?;
            let room = &mut sealed[end..];
            end += record::seal(&self.seals, seq, record::DATA, room, n, |out| {
                source.copy(out);
            });
            left -= n;
        }
        self.shared.set(Send, SEALED, 0);
        self.shared.set(Send, SEALED_END, end);
        match self.push(sealed) {
            // Taken all the same.
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(total),
            Err(e) => Err(e),
        }
    }

    unsafe fn flush(&self) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        self.push(unsafe { self.shared.buffer(Send) })
    }

    unsafe fn finish(&self) {
        // SAFETY: the caller's promise.
        let sealed = unsafe { self.shared.buffer(Send) };
        if self.push(sealed).is_err() {
            return; // in the middle of a record
        }
        let Some(seq) = self.next(Send) else { return };
        // A warning, close_notify.
        let end = record::seal(&self.seals, seq, record::ALERT, sealed, 2, |out| {
            out.copy_from_slice(&[1, 0]);
        });
        self.shared.set(Send, SEALED, 0);
        self.shared.set(Send, SEALED_END, end);
        let _ = self.push(sealed);
    }

    unsafe fn recv(
        &self,
        slices: &mut [IoSliceMut<'_>],
        mut flags: RecvFlags,
    ) -> Result<usize, Fault> {
        // SAFETY: the caller's promise.
        let buffer = unsafe { self.shared.buffer(Receive) };
        let mut read = false;
        loop {
            // One record's contents at a time: what comes before a bad one is good.
            if self.has_plain() {
                return Ok(self.take(buffer, slices));
            }
            match self.open(buffer).map_err(|text| self.fail(text))? {
                Opened::Data => {}
                Opened::End => return Ok(0),
                Opened::Nothing if read && self.shared.get(Receive, DRAINED) != 0 => {
                    return Err(Errno::AGAIN.into());
                }
                Opened::Nothing => {
                    if self.fill(buffer, flags)? == 0 {
                        return Ok(0);
                    }
                    flags |= RecvFlags::DONTWAIT;
                    read = true;
                }
            }
        }
    }

    unsafe fn holds(&self) -> bool {
        // SAFETY: the caller's promise.
        let buffer = unsafe { self.shared.buffer(Receive) };
        self.has_plain() || !matches!(self.whole(buffer), Ok(None))
    }

    unsafe fn is_drained(&self, _: usize, _: usize) -> bool {
        // SAFETY: the caller's promise.
        self.shared.get(Receive, DRAINED) != 0 && !unsafe { self.holds() }
    }
}

/// What is to be sent.
struct Source<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// Bytes of the first slice that were copied.
    at: usize,
}

impl Source<'_, '_> {
    fn left(&self) -> usize {
        self.slices.iter().map(|slice| slice.len()).sum()
    }

    fn copy(&mut self, mut out: &mut [u8]) {
        while let ([first, rest @ ..], false) = (self.slices, out.is_empty()) {
            let from = &first[self.at..];
            let n = from.len().min(out.len());
            out[..n].copy_from_slice(&from[..n]);
            out = &mut out[n..];
            self.at += n;
            if self.at == first.len() {
                (self.slices, self.at) = (rest, 0);
            }
        }
    }
}
