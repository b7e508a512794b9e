//! The wire of the tcp provider: VIA packets framed on one connection, between this side's rings and the peer.
//!
//! Sending: the application's bytes stand in the send ring until the peer's reader has consumed them; one `sendmsg`
//! hands header and ring spans to the kernel. Receiving: one `recvmsg` puts payload straight into the room of the thread that
//! receives, or into the receive ring ([`Payload`]), and what comes behind it (the next header) into a small buffer. Nothing is allocated for a packet.
//!
//! Why nothing starves or deadlocks: unacknowledged bytes never exceed the ring, and the peer's ring is as large, so
//! whoever reads the socket has room for everything that can come. A packet that the kernel took in part is finished
//! before anything else. Acknowledgements go with data; alone only when half of the ring was consumed since the
//! last, or when [`Wire::settle`] asks.
//!
//! Thread rules: the receive half is driven under the channel's driver token, the send half by whoever comes (they
//! hand over, nobody waits). After a failed send only the receive half reports the break, so that a disconnect packet
//! that is still in the socket is read first.

use super::payload::Payload;
use super::words::{self, Before, Pending, RxWords, TxWords};
use crate::via::channel::{Awaited, Channel, Direct, Wire};
use crate::via::packet::{self, FLAG_ANSWER, FLAG_FIN, HEADER_BYTES, Header, Type};
use crate::via::ring::{Ring, RingConsumer, RingProducer};
use crate::via::{Broken, EndReason, Interest, Transport};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::any::Any;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What is read beside the payload: a packet of a request and its answer fits whole.
const SCRATCH: usize = 2048;
/// Reads of one drive: a peer that floods us with empty packets does not hold the thread.
const ROUNDS: usize = 64;

/// See the module's text.
pub struct TcpWire {
    socket: Arc<OwnedFd>,
    generation: u64,
    /// The application's bytes, consumed as the peer acknowledges them.
    tx: RingConsumer,
    tx_words: TxWords,
    /// The peer's bytes.
    rx: RingProducer,
    rx_words: RxWords,
    /// What the receive half found; said again whenever it is asked, and nothing more is read.
    broken: OnceLock<Broken>,
    /// Who read at the last [`Wire::look_around`], in another process.
    read_by: AtomicU64,
    /// Dropped with the wire: the listener's count of this source's channels.
    _guard: Box<dyn Any + Send + Sync>,
}

/// Where a new wire begins.
pub struct Start {
    /// First byte of our stream that the peer has not received.
    pub sent: u64,
    /// Acknowledged to the peer in the handshake.
    pub told: u64,
}

/// What one read found.
enum Read {
    /// There may be more.
    More,
    /// The socket is empty.
    Drained,
    /// A signal handler ran.
    Interrupted,
}

impl TcpWire {
    /// A wire over a connected socket ([`super::allow_naps`]) whose handshake is complete, and over rings that stand at their
    /// offsets.
    pub fn new(
        socket: Arc<OwnedFd>,
        generation: u64,
        rx: &Ring,
        tx: &Ring,
        start: Start,
        guard: Box<dyn Any + Send + Sync>,
    ) -> Self {
        let (tx_words, rx_words) = (TxWords::new(tx.clone()), RxWords::new(rx.clone()));
        tx_words.start(start.sent, start.told);
        rx_words.start();
        Self {
            socket,
            generation,
            tx: tx.consumer(),
            tx_words,
            rx: rx.producer(),
            rx_words,
            broken: OnceLock::new(),
            read_by: AtomicU64::new(0),
            _guard: guard,
        }
    }

    // --- receive direction ---

    /// Under the driver token: takes what is there, with `nap` after a short sleep until something is.
    fn receive_all(&self, nap: bool, direct: &mut Direct<'_>) -> Result<Awaited, Broken> {
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        let received = self.tx_words.read_alone(|before| {
            if before == Before::Died {
                self.orphaned();
            }
            self.receive_alone(nap, direct)
        });
        received.unwrap_or(Ok(Awaited::Nothing))
    }

    fn receive_alone(&self, nap: bool, direct: &mut Direct<'_>) -> Result<Awaited, Broken> {
        // Who had it before may have found it.
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        let mut payload = Payload::new(&self.rx, direct);
        let mut moved = false;
        let mut flags = match nap {
            true => RecvFlags::empty(),
            false => RecvFlags::DONTWAIT,
        };
        for _ in 0..ROUNDS {
            match self.read(flags, &mut payload, &mut moved) {
                // What the receiver has no room for stays where it is cheapest.
                Ok(Read::More) if payload.is_enough() => break,
                Ok(Read::More) => flags = RecvFlags::DONTWAIT,
                Ok(Read::Interrupted) if flags.is_empty() => return Ok(Awaited::Interrupted),
                Ok(_) => break,
                Err(broken) => {
                    if matches!(broken, Broken::Corrupt(_)) {
                        self.tx_words.request_end(EndReason::ProtocolError as u8);
                        self.send_locked();
                    }
                    self.tx_words.set(words::DEAD);
                    return Err(self.broken.get_or_init(|| broken).clone());
                }
            }
        }
        if self.tx_words.flags() & words::ANSWER != 0 {
            self.send_locked();
        }
        Ok(if moved {
            Awaited::Moved
        } else {
            Awaited::Nothing
        })
    }

    /// Reads once.
    fn read(
        &self,
        flags: RecvFlags,
        sink: &mut Payload<'_, '_>,
        moved: &mut bool,
    ) -> Result<Read, Broken> {
        let mut scratch = [0; SCRATCH];
        let stashed = self.rx_words.unstash(&mut scratch);
        let (remaining, fin) = self.rx_words.remaining();
        let (mut asked, mut straight) = (SCRATCH - stashed, 0);
        let result = if remaining > 0 {
            let mut read = Ok(0);
            let filled = sink.fill(remaining, |spans, behind| {
                let room = spans.iter().map(|span| span.len()).sum::<usize>();
                asked = room + behind.min(SCRATCH);
                read = read_spans(
                    &self.socket,
                    spans,
                    &mut scratch[..behind.min(SCRATCH)],
                    flags,
                );
                straight = read.as_ref().map_or(0, |n| (*n).min(room));
                straight
            });
            match filled {
                Ok(_) => read,
                Err(e) => return Err(Broken::Corrupt(e.to_string())),
            }
        } else {
            rustix::net::recv(&self.socket, &mut scratch[stashed..], flags).map(|(n, _)| n)
        };
        let n = match result {
            Ok(0) => {
                self.rx_words.stash(&scratch[..stashed]);
                return Err(self.end_of_file(remaining, stashed));
            }
            Ok(n) => n,
            Err(e) => {
                self.rx_words.stash(&scratch[..stashed]);
                return match e {
                    Errno::AGAIN => Ok(Read::Drained),
                    Errno::INTR => Ok(Read::Interrupted),
                    e => Err(Broken::Transport(format!("read: {e}"))),
                };
            }
        };
        if straight > 0 {
            *moved = true;
            self.rx_words.set_remaining(remaining - straight, fin);
            self.end_if_complete(remaining - straight, fin);
        }
        self.take(&scratch[..stashed + n - straight], sink, moved)?;
        Ok(if n < asked { Read::Drained } else { Read::More })
    }

    /// Takes packets, and the beginning of one.
    fn take(
        &self,
        mut bytes: &[u8],
        sink: &mut Payload<'_, '_>,
        moved: &mut bool,
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let (remaining, fin) = self.rx_words.remaining();
            if remaining > 0 {
                let n = sink.push(&bytes[..bytes.len().min(remaining)])?;
                if n == 0 {
                    return Err(Broken::Corrupt("no room for announced data".into()));
                }
                *moved = true;
                bytes = &bytes[n..];
                self.rx_words.set_remaining(remaining - n, fin);
                self.end_if_complete(remaining - n, fin);
                continue;
            }
            let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
                self.rx_words.stash(bytes);
                return Ok(());
            };
            let header = Header::decode(header).map_err(|e| Broken::Corrupt(e.0))?;
            let control = match header.kind {
                Type::Data => 0,
                _ => header.length as usize,
            };
            if rest.len() < control && matches!(header.kind, Type::Disconnect) {
                self.rx_words.stash(bytes);
                return Ok(());
            }
            self.rx_words.count_packet();
            self.check(&header, moved)?;
            match header.kind {
                Type::Data => self.accept_data(&header, moved)?,
                Type::Ack => {}
                Type::KeepAlive if header.flags & FLAG_ANSWER != 0 => {}
                Type::KeepAlive => self.tx_words.set(words::ANSWER),
                Type::Disconnect => return Err(self.disconnected(&rest[..control])),
                kind => {
                    return Err(Broken::Corrupt(format!(
                        "{kind:?} on a channel that stands, allowed are data, ack, disconnect and keep-alive"
                    )));
                }
            }
            bytes = &rest[control..];
        }
        Ok(())
    }

    /// What must be true of every packet; takes its acknowledgement.
    fn check(&self, header: &Header, moved: &mut bool) -> Result<(), Broken> {
        if header.generation != self.generation {
            return Err(Broken::Corrupt(format!(
                "generation {} on a channel of generation {}",
                header.generation, self.generation
            )));
        }
        let expected = self.rx.tail();
        if header.offset != expected {
            return Err(Broken::Corrupt(format!(
                "{:?} at stream offset {}, expected is {expected}",
                header.kind, header.offset
            )));
        }
        let (acked, offered) = (self.tx.head(), self.tx_words.offered());
        let forward = header.acked.wrapping_sub(acked);
        if forward > offered.wrapping_sub(acked) {
            return Err(Broken::Corrupt(format!(
                "acknowledges byte {}, allowed are {acked} to {offered}",
                header.acked
            )));
        }
        if forward > 0 {
            self.tx.consume_to(header.acked);
            *moved = true;
        }
        Ok(())
    }

    /// A data header: its payload may come.
    fn accept_data(&self, header: &Header, moved: &mut bool) -> Result<(), Broken> {
        let (length, room) = (header.length as usize, self.rx.room()?);
        if length > room {
            return Err(Broken::Corrupt(format!(
                "{length} bytes of data, credit was given for {room}"
            )));
        }
        let fin = header.flags & FLAG_FIN != 0;
        if self.rx.finished() && (length > 0 || !fin) {
            return Err(Broken::Corrupt(format!(
                "{length} bytes of data after the end of the stream at {}",
                header.offset
            )));
        }
        if length == 0 && fin {
            *moved = true;
        }
        if length > 0 {
            self.tx_words.set_answered(header.acked);
        }
        self.rx_words.set_remaining(length, fin);
        self.end_if_complete(length, fin);
        Ok(())
    }

    fn end_if_complete(&self, remaining: usize, fin: bool) {
        if remaining == 0 && fin {
            self.rx.finish();
            self.rx_words.set_remaining(0, false);
        }
    }

    fn disconnected(&self, payload: &[u8]) -> Broken {
        match packet::decode_disconnect(payload) {
            Ok(reason) => Broken::Ended(reason),
            Err(e) => Broken::Corrupt(e.0),
        }
    }

    fn end_of_file(&self, remaining: usize, stashed: usize) -> Broken {
        Broken::Transport(match (remaining, stashed) {
            (0, 0) => "the connection ended without a disconnect packet".into(),
            (0, n) => format!("the connection ended {n} bytes into a packet's header"),
            (n, _) => format!("the connection ended {n} bytes before the end of a packet"),
        })
    }

    // --- send direction ---

    /// Under the lock: sends until there is nothing more to send, or the socket is full. True if anything moved.
    fn send_all(&self) -> bool {
        let mut moved = false;
        loop {
            if self.tx_words.flags() & words::DEAD != 0 {
                return moved;
            }
            match self.send_begun() {
                Ok(any) => moved |= any,
                Err(e) => {
                    match e.kind() {
                        io::ErrorKind::Interrupted => continue,
                        io::ErrorKind::WouldBlock => self.tx_words.set(words::BLOCKED),
                        _ => self.die(),
                    }
                    break;
                }
            }
            self.tx_words.clear(words::BLOCKED);
            if !self.begin_next() {
                break;
            }
        }
        if self.tx_words.flags() & words::END != 0 {
            // A packet that is cut off here, or bytes without a disconnect packet behind them, are a break of the
            // transport for the peer: what was not delivered is never taken for an end in good order.
            self.tx_words.set(words::DEAD);
            // Only this direction: with the other shut too, a byte that still comes would make the kernel reset the
            // connection and drop what it has not delivered.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
        moved
    }

    /// Nothing can be sent any more. The receive half finds out why; and if it was nothing that the socket knows of, by
    /// the socket's end: a channel whose one half is dead in silence would stall for ever.
    fn die(&self) {
        self.tx_words.set(words::DEAD);
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// A process died while it sent or read, or was stopped while it read the end. How far it came is known to nobody here,
    /// and to the peer: the transport ends, and a resumption goes on from the offsets.
    fn orphaned(&self) {
        let text = "a process that shared the connection died or was stopped while it used it";
        let _ = self.broken.set(Broken::Transport(text.into()));
        self.die();
    }

    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())) == Ok(1)
    }

    /// Sends what is left of the packet that was begun.
    fn send_begun(&self) -> io::Result<bool> {
        let mut moved = false;
        loop {
            let pending = self.tx_words.pending();
            let sent = self.tx_words.sent();
            let payload = self.tx_words.offered().wrapping_sub(sent) as usize;
            if pending.is_none() && payload == 0 {
                return Ok(moved);
            }
            let (bytes, total) = match &pending {
                Some(p) => p.bytes(&self.tx_words, self.generation),
                None => ([0; words::CONTROL_BYTES], 0),
            };
            let left = pending.map_or(0, |p| p.left.min(total));
            let head = &bytes[total - left..total];
            let send = |slices: &[IoSlice<'_>]| send(&self.socket, slices);
            let n = if payload == 0 {
                send(&[IoSlice::new(head)])?
            } else {
                self.tx
                    .with_spans_at(sent, payload, |spans| match (head, spans) {
                        ([], spans) => send(spans),
                        (_, [a]) => send(&[IoSlice::new(head), *a]),
                        (_, [a, b, ..]) => send(&[IoSlice::new(head), *a, *b]),
                        (_, []) => Ok(0),
                    })?
            };
            moved = true;
            if let Some(p) = pending {
                let left = left - n.min(left);
                self.tx_words.set_pending(Pending { left, ..p });
            }
            self.tx_words
                .set_sent(sent.wrapping_add(n.saturating_sub(left) as u64));
        }
    }

    /// Begins the next packet, if there is one to be sent.
    fn begin_next(&self) -> bool {
        let flags = self.tx_words.flags();
        // In this order: what is below `tail` when the stream is finished is all of it.
        let finished = self.tx.finished();
        let sent = self.tx_words.sent();
        let Ok(tail) = self.tx.tail() else {
            self.die();
            return false;
        };
        let consumed = self.rx.head().unwrap_or(self.tx_words.told());
        let owed = consumed.wrapping_sub(self.tx_words.told());
        let fin = finished && flags & words::FIN_SENT == 0;
        let begin = |kind, packet_flags, reason, offered| {
            let pending = Pending::new(kind, packet_flags, reason);
            self.tx_words.begin(pending, offered, consumed);
            true
        };
        if tail != sent || fin {
            if fin {
                self.tx_words.set(words::FIN_SENT);
            }
            self.tx_words.clear(words::SETTLE);
            return begin(Type::Data, if fin { FLAG_FIN } else { 0 }, 0, tail);
        }
        if flags & words::END != 0 {
            // Only now: everything before it is in the kernel.
            if flags & words::DISCONNECTED != 0 {
                return false;
            }
            self.tx_words.set(words::DISCONNECTED);
            return begin(Type::Disconnect, 0, self.tx_words.end_reason(), sent);
        }
        for (flag, packet_flags) in [(words::ANSWER, FLAG_ANSWER), (words::ASK, 0)] {
            if flags & flag != 0 {
                self.tx_words.clear(flag);
                return begin(Type::KeepAlive, packet_flags, 0, sent);
            }
        }
        let settle = flags & words::SETTLE != 0;
        self.tx_words.clear(words::SETTLE);
        if owed >= self.rx.size() as u64 / 2 || (settle && owed > 0) {
            return begin(Type::Ack, 0, 0, sent);
        }
        false
    }

    /// Sends what can be sent. True if anything moved.
    pub(super) fn send_locked(&self) -> bool {
        let mut moved = false;
        self.tx_words.alone(|before| match before {
            Before::Finished => moved |= self.send_all(),
            Before::Died => self.orphaned(),
        });
        moved
    }
}

impl Drop for TcpWire {
    /// A socket that is closed with unread bytes resets the connection, and what the kernel has not delivered yet is
    /// lost. So after an end in good order they are read; nobody drives any more.
    fn drop(&mut self) {
        if self.tx_words.flags() & words::END != 0 {
            let mut unread = [0; SCRATCH];
            for _ in 0..ROUNDS * 8 {
                let read = rustix::net::recv(&*self.socket, &mut unread, RecvFlags::DONTWAIT);
                if !matches!(read, Ok((1.., _))) {
                    break;
                }
            }
        }
    }
}

impl Wire for TcpWire {
    fn transport(&self) -> Transport {
        Transport::Tcp
    }

    fn drive_rx(&self, channel: &Channel) -> Result<bool, Broken> {
        self.drive_rx_into(channel, &mut Direct::none())
    }

    fn drive_rx_into(&self, _channel: &Channel, direct: &mut Direct<'_>) -> Result<bool, Broken> {
        self.receive_all(false, direct)
            .map(|awaited| awaited == Awaited::Moved)
    }

    fn await_rx(&self, _channel: &Channel, direct: &mut Direct<'_>) -> Result<Awaited, Broken> {
        self.receive_all(true, direct)
    }

    fn drive_tx(&self, _channel: &Channel) -> Result<bool, Broken> {
        Ok(self.send_locked())
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn interest(&self) -> Interest {
        let flags = self.tx_words.flags();
        Interest {
            read: true,
            write: flags & words::BLOCKED != 0 && flags & words::DEAD == 0,
        }
    }

    fn end(&self, _channel: &Channel, reason: EndReason) {
        self.tx_words.request_end(reason as u8);
        self.send_locked();
    }

    fn cut(&self) {
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
    }

    fn settle(&self, _channel: &Channel) -> Result<bool, Broken> {
        if !self.owes() {
            return Ok(false);
        }
        self.tx_words.set(words::SETTLE);
        Ok(self.send_locked())
    }

    fn owes(&self) -> bool {
        let consumed = self.rx.head().unwrap_or(0);
        consumed.wrapping_sub(self.tx_words.told()) as i64 > 0
            && self.tx_words.flags() & (words::DEAD | words::END) == 0
    }

    fn keep_alive(&self, _channel: &Channel) -> Result<(), Broken> {
        self.tx_words.set(words::ASK);
        self.send_locked();
        Ok(())
    }

    fn look_around(&self) {
        let reader = self.tx_words.foreign_reader();
        // One that runs would have seen the end since the last look: it was stopped.
        let stopped = self.read_by.swap(reader, Ordering::Relaxed) == reader && reader != 0;
        if self.tx_words.is_orphaned() || (stopped && self.hung_up()) {
            self.orphaned();
        }
    }

    fn heard(&self) -> u64 {
        self.rx_words.heard()
    }

    fn answered(&self) -> Option<u64> {
        Some(self.tx_words.answered())
    }
}

fn send(socket: &OwnedFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut nothing = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(socket, slices, &mut nothing, flags)?)
}

/// Reads into the ring's spans and then into `scratch`.
fn read_spans(
    socket: &OwnedFd,
    spans: &mut [IoSliceMut<'_>],
    scratch: &mut [u8],
    flags: RecvFlags,
) -> Result<usize, Errno> {
    let scratch = IoSliceMut::new(scratch);
    let receive = |slices: &mut [IoSliceMut<'_>]| {
        let received =
            rustix::net::recvmsg(socket, slices, &mut RecvAncillaryBuffer::default(), flags);
        received.map(|received| received.bytes)
    };
    match spans {
        [a] => receive(&mut [IoSliceMut::new(a), scratch]),
        [a, b] => receive(&mut [IoSliceMut::new(a), IoSliceMut::new(b), scratch]),
        _ => receive(&mut [scratch]),
    }
}
