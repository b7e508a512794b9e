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

mod receive;
mod send;

use super::link::{Fault, Link};
use super::payload::Payload;
use super::words::{self, Before, Pending, RxWords, TxWords};
use crate::via::channel::{Awaited, Channel, Direct, Wire};
use crate::via::packet::{self, FLAG_ANSWER, FLAG_FIN, HEADER_BYTES, Header, Type};
use crate::via::ring::{Ring, RingConsumer, RingProducer};
use crate::via::{Broken, EndReason, Interest, Transport};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use std::any::Any;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is read beside the payload: a packet of a request and its answer fits whole.
const SCRATCH: usize = 2048;
/// Reads of one drive: a peer that floods us with empty packets does not hold the thread.
const ROUNDS: usize = 64;

/// See the module's text.
pub struct TcpWire<L: Link> {
    link: L,
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

impl<L: Link> TcpWire<L> {
    /// A wire over a connected socket ([`super::allow_naps`]) whose handshake is complete, and over rings that stand at their
    /// offsets.
    pub fn new(
        link: L,
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
            link,
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

    /// Nothing can be sent any more. The receive half finds out why; and if it was nothing that the socket knows of, by
    /// the socket's end: a channel whose one half is dead in silence would stall for ever.
    fn die(&self) {
        self.tx_words.set(words::DEAD);
        let _ = rustix::net::shutdown(self.link.socket(), Shutdown::Both);
    }

    /// A process died while it sent or read, or was stopped while it read the end. How far it came is known to nobody here,
    /// and to the peer: the transport ends, and a resumption goes on from the offsets.
    fn orphaned(&self) {
        let text = "a process that shared the connection died or was stopped while it used it";
        let _ = self.broken.set(Broken::Transport(text.into()));
        self.die();
    }

    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.link.socket(), PollFlags::RDHUP)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())) == Ok(1)
    }
}

impl<L: Link> Drop for TcpWire<L> {
    /// A socket that is closed with unread bytes resets the connection, and what the kernel has not delivered yet is
    /// lost. So after an end in good order they are read; nobody drives any more.
    fn drop(&mut self) {
        if self.tx_words.flags() & words::END != 0 {
            let mut unread = [0; SCRATCH];
            for _ in 0..ROUNDS * 8 {
                let read = rustix::net::recv(self.link.socket(), &mut unread, RecvFlags::DONTWAIT);
                if !matches!(read, Ok((1.., _))) {
                    break;
                }
            }
        }
    }
}

impl<L: Link> Wire for TcpWire<L> {
    fn transport(&self) -> Transport {
        Transport::Tcp
    }

    /// Each look is a system call that locks the socket against the very packets that are waited for: with few pauses a stream's sender
    /// is the slower for it.
    fn ease(&self) -> u32 {
        128
    }

    fn is_private(&self) -> bool {
        self.link.is_private()
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
        self.link.socket().as_fd()
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
        let _ = rustix::net::shutdown(self.link.socket(), Shutdown::Both);
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

    fn say(&self, _channel: &Channel, word: u8) {
        self.tx_words.say(word);
        self.send_locked();
    }

    fn told(&self) -> u8 {
        self.tx_words.told_word()
    }

    fn answered(&self) -> Option<u64> {
        Some(self.tx_words.answered())
    }
}
