//! The wire of the rdma provider: stream bytes go from our send ring straight into the peer's receive ring.
//!
//! Sending: the bytes stand in the send ring until the peer's reader has consumed them; an RDMA write takes them from there
//! to the same stream offset of the peer's ring, and its immediate (or the packet that follows it) tells so. Receiving: a
//! completion says how many bytes stand in our ring. Nothing is copied, and nothing allocated, on a device with immediates.
//!
//! Why nothing overflows: unacknowledged bytes never exceed the ring, the peer's ring is as large, and both put a byte at
//! its offset modulo that size; messages are limited by [`super::credit`]. Acknowledgements go with data; alone only when
//! a quarter of the ring was consumed since the last, or when [`Wire::settle`] asks.
//!
//! A peer can write into its ring at any time whatever it likes, as with shared memory: what is read is copied first.

mod receive;
mod send;

use super::link::{Link, Message, Trouble};
use super::memory::HEADER_SLOT;
use super::message::{self, BARE_BYTES, Immediate, PREFIX_BYTES, Prefix, Window};
use super::verbs::{Piece, Registered};
use crate::via::channel::{Awaited, Channel, Direct, Wire};
use crate::via::packet::{FLAG_ANSWER, FLAG_FIN, HEADER_BYTES, Header, Type};
use crate::via::region::Region;
use crate::via::ring::{Ring, RingConsumer, RingProducer};
use crate::via::wait::Token;
use crate::via::{Broken, EndReason, Interest, Transport, packet};
use rustix::fd::BorrowedFd;
use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Polls of one drive: a peer that floods us does not hold the thread.
const ROUNDS: usize = 64;
/// Most bytes of a message: the peer can begin to read, and we can copy what follows, while it is on its way.
const PIECE: usize = 16 << 10;
/// The same without immediates, where a piece is two messages.
const PIECE_AND_PACKET: usize = 32 << 10;
/// Without immediates: up to so many bytes go in the packet, more are written before it.
const IN_PACKET: usize = packet::CONTROL_MAX;

/// The peer asked for a sign of life.
const ANSWER: u32 = 1;
/// We ask for one.
const ASK: u32 = 1 << 1;
/// The end of our stream was sent.
const FIN_SENT: u32 = 1 << 2;
/// The queue took less than there was.
const BLOCKED: u32 = 1 << 3;
/// Nothing can be sent any more.
const DEAD: u32 = 1 << 4;
/// Acknowledge now, however little.
const SETTLE: u32 = 1 << 5;
/// The channel is to be ended.
const END: u32 = 1 << 6;
/// The disconnect packet was sent.
const DISCONNECTED: u32 = 1 << 7;
/// Our window must be told: the next message is a packet.
const INTRODUCE: u32 = 1 << 8;
/// A word is to be said.
const SAY: u32 = 1 << 9;
/// Where the reason of the end is.
const REASON: u32 = 24;

/// What the channel holds. The rest outlives it for a moment where bytes are still to be delivered.
pub struct RdmaWire {
    core: Arc<Core>,
}

/// Where a new wire begins.
pub struct Start {
    /// First byte of our stream that the peer has not received.
    pub sent: u64,
    /// Acknowledged to the peer in the handshake.
    pub told: u64,
    /// The peer's ring, if it is known already.
    pub window: Option<Window>,
}

/// The rings of a channel, registered: ours to be sent from, and ours to be written by the peer.
pub struct Rings {
    /// What goes to the peer.
    pub tx: Ring,
    /// What the peer writes.
    pub rx: Ring,
    tx_key: Registered<Arc<Region>>,
    rx_key: Registered<Arc<Region>>,
    window: Window,
}

impl Rings {
    /// Registers both rings of `region`: one for reading by the device only, one for the peer's writes.
    pub fn register(
        link: &Link,
        region: &Arc<Region>,
        tx: crate::via::region::Direction,
        rx: crate::via::region::Direction,
    ) -> io::Result<Self> {
        let length = region.ring_bytes() as usize;
        let keep = || Arc::clone(region);
        // SAFETY: both are rings of a shared mapping that the region keeps.
        let (tx_key, rx_key) = unsafe {
            (
                link.pair()
                    .register(region.bytes(tx), length, false, false, keep())?,
                link.pair()
                    .register(region.bytes(rx), length, true, true, keep())?,
            )
        };
        let window = Window {
            address: region.bytes(rx).as_ptr() as u64,
            key: rx_key.remote_key(),
        };
        Ok(Self {
            tx: region.ring(tx),
            rx: region.ring(rx),
            tx_key,
            rx_key,
            window,
        })
    }

    /// Where the peer may write.
    pub fn window(&self) -> Window {
        self.window
    }
}

impl From<Trouble> for Broken {
    fn from(trouble: Trouble) -> Self {
        Self::Transport(trouble.0)
    }
}

/// What carries the channel.
pub struct Core {
    /// Before the keys: what is posted must be flushed first.
    link: Link,
    generation: u64,
    /// Our bytes, consumed as the peer acknowledges them.
    tx: RingConsumer,
    /// The peer's bytes.
    rx: RingProducer,
    tx_key: Registered<Arc<Region>>,
    _rx_key: Registered<Arc<Region>>,
    own: Window,
    peer: OnceLock<Window>,
    /// Bytes sent, and offered: what is being sent may be acknowledged before we know that it was.
    sent: AtomicU64,
    offered: AtomicU64,
    /// The last acknowledgement that went out.
    told: AtomicU64,
    heard: AtomicU64,
    flags: AtomicU32,
    /// Our last word, and the peer's.
    said: AtomicU8,
    word: AtomicU8,
    sending: Token,
    /// Why the device takes nothing more, if it said so.
    refused: OnceLock<String>,
    /// What the receive half found; said again whenever it is asked.
    broken: OnceLock<Broken>,
    /// The listener's count of this source's channels: memory and queue pair count as long as they are held.
    _guard: Box<dyn Any + Send + Sync>,
}

impl RdmaWire {
    /// A wire over a link whose handshake is complete, and over rings that stand at their offsets.
    pub fn new(
        link: Link,
        generation: u64,
        rings: Rings,
        start: Start,
        guard: Box<dyn Any + Send + Sync>,
    ) -> Self {
        // The client tells its window after the accept, which told the node's.
        let introduce = if start.window.is_some() { INTRODUCE } else { 0 };
        let core = Core {
            link,
            generation,
            tx: rings.tx.consumer(),
            rx: rings.rx.producer(),
            tx_key: rings.tx_key,
            _rx_key: rings.rx_key,
            own: rings.window,
            peer: start.window.map_or_else(OnceLock::new, OnceLock::from),
            sent: AtomicU64::new(start.sent),
            offered: AtomicU64::new(start.sent),
            told: AtomicU64::new(start.told),
            heard: AtomicU64::new(0),
            flags: AtomicU32::new(introduce),
            said: AtomicU8::new(0),
            word: AtomicU8::new(0),
            sending: Token::default(),
            refused: OnceLock::new(),
            broken: OnceLock::new(),
            _guard: guard,
        };
        Self {
            core: Arc::new(core),
        }
    }

    /// Sends what can be sent.
    pub fn send(&self) -> bool {
        self.core.send()
    }
}

impl Core {
    fn flags(&self) -> u32 {
        self.flags.load(Ordering::Acquire)
    }

    fn set(&self, flags: u32) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
    }

    fn clear(&self, flags: u32) {
        self.flags.fetch_and(!flags, Ordering::AcqRel);
    }

    /// Nobody uses the channel any more: carries on until everything accepted is at the peer. True when it is, or never
    /// will be.
    pub(super) fn wind_up(&self) -> bool {
        if !self.link.is_ours() {
            return true;
        }
        match self.receive_all() {
            Ok(_) => {}
            Err(Broken::Corrupt(_)) => {
                // The peer is still there to be told.
                let said = self.flags() & DISCONNECTED != 0;
                return !said || self.link.last_word().unwrap_or(true);
            }
            Err(_) => return true,
        }
        self.send();
        let flags = self.flags();
        let all = self.tx.tail().ok() == Some(self.sent.load(Ordering::Acquire))
            && (!self.tx.finished() || flags & FIN_SENT != 0)
            && (flags & END == 0 || flags & DISCONNECTED != 0);
        flags & DEAD != 0 || (all && self.link.delivered(self.peer.get()))
    }

    /// Whether this is the process that made it.
    pub(super) fn is_ours(&self) -> bool {
        self.link.is_ours()
    }

    /// Whether the connection is over. (One with a peer that said something impossible is not yet.)
    pub(super) fn is_broken(&self) -> bool {
        let broken = self.broken.get();
        broken.is_some_and(|why| !matches!(why, Broken::Corrupt(_)))
    }

    /// Whether the peer's host may still hold what was delivered in its own buffers.
    pub(super) fn buffered_below(&self) -> bool {
        !self.link.pair().immediates()
    }
}

impl Drop for RdmaWire {
    fn drop(&mut self) {
        super::linger::channel(Arc::clone(&self.core));
    }
}

impl Wire for RdmaWire {
    fn transport(&self) -> Transport {
        Transport::Rdma
    }

    fn drive_rx(&self, _channel: &Channel) -> Result<bool, Broken> {
        self.core.receive_all()
    }

    fn look_rx(&self, _channel: &Channel, _direct: &mut Direct<'_>) -> Result<bool, Broken> {
        self.core.look()
    }

    fn await_rx(&self, _channel: &Channel, _direct: &mut Direct<'_>) -> Result<Awaited, Broken> {
        self.core.nap()
    }

    fn drive_tx(&self, _channel: &Channel) -> Result<bool, Broken> {
        Ok(self.core.send())
    }

    fn portion(&self) -> usize {
        match self.core.link.pair().immediates() {
            true => PIECE,
            // Most of it is sent within the call that posts it: nothing is gained by more of them.
            false => usize::MAX,
        }
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.core.link.fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: false,
        }
    }

    fn end(&self, _channel: &Channel, reason: EndReason) {
        self.core.request_end(reason as u8);
        self.core.send();
    }

    fn cut(&self) {
        // A device that hangs need not say that the connection has ended.
        let why = || Broken::Transport("cut".into());
        self.core.broken.get_or_init(why);
        self.core.set(DEAD);
        self.core.link.disconnect();
    }

    fn settle(&self, _channel: &Channel) -> Result<bool, Broken> {
        if !self.owes() {
            return Ok(false);
        }
        self.core.set(SETTLE);
        Ok(self.core.send())
    }

    fn owes(&self) -> bool {
        let flags = self.core.flags();
        flags & (DEAD | END) == 0 && (self.core.owed() as i64 > 0 || flags & BLOCKED != 0)
    }

    fn keep_alive(&self, _channel: &Channel) -> Result<(), Broken> {
        self.core.set(ASK);
        self.core.send();
        Ok(())
    }

    fn say(&self, _channel: &Channel, word: u8) {
        self.core.said.store(word, Ordering::Release);
        self.core.set(SAY);
        self.core.send();
    }

    fn told(&self) -> u8 {
        self.core.word.load(Ordering::Acquire)
    }

    fn heard(&self) -> u64 {
        // The handshake was heard.
        1 + self.core.heard.load(Ordering::Relaxed)
    }

    fn taken(&self) -> u64 {
        // iWARP reports what the peer's device has not taken yet.
        match self.core.link.pair().immediates() {
            true => self.core.link.finished().into(),
            false => 0,
        }
    }
}
