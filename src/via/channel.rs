//! A channel: one byte stream per direction between this process and the peer, whatever carries it.
//!
//! Offsets are free-running 64-bit stream positions and survive resumption: byte N of the stream is byte N on every
//! channel that carries it. `rx` holds what the peer delivered and the local side has not consumed; `tx` holds what
//! the local side accepted and the peer has not consumed (so it is also the retention for a resumption).
//!
//! Thread rules: one receiver and one sender at a time (the callers hold one lock per direction); the two directions
//! are independent; everything else may be called from any thread.

mod bare;
mod drive;
mod poll;
mod receive;
mod send;

use super::bell::Bell;
use super::ring::{RingConsumer, RingProducer};
use super::sync::{AtomicU32, Ordering};
use super::wait::{Habit, Spin, Token};
use super::{Accept, Broken, EndReason, Interest, Transport, wake};
use drive::Watch;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// What a receive attempt found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes were copied (at least one).
    Bytes(usize),
    /// Nothing now: nothing came in time, or somebody called [`Channel::kick`].
    Empty,
    /// A signal handler ran while the call slept (EINTR).
    Interrupted,
    /// The peer ended its direction in good order and everything before was consumed.
    End,
}

/// What differs between transports: moving bytes between the rings and the peer. For shared memory the peer does it
/// itself and the drives have nothing to do.
pub trait Wire: Send + Sync {
    /// Which transport.
    fn transport(&self) -> Transport;
    /// Nobody between the two ends can read or change what passes: it does not leave the host, or is encrypted.
    fn is_private(&self) -> bool {
        false
    }
    /// Brings what arrived into `rx` without blocking, and takes the peer's acknowledgements. True if anything moved.
    /// One driver at a time: the caller holds the receive direction's driver token.
    fn drive_rx(&self, channel: &Channel) -> Result<bool, Broken>;
    /// As [`Wire::drive_rx`], for the thread that receives: what arrived may be put into its own room while `rx` is empty, which
    /// saves a copy, and counts as consumed then ([`RingProducer::pass`]). The default uses the ring.
    fn drive_rx_into(&self, channel: &Channel, _direct: &mut Direct<'_>) -> Result<bool, Broken> {
        self.drive_rx(channel)
    }
    /// As [`Wire::drive_rx_into`] for a thread that looks again at once, or drives before it sleeps: [`Wire::wait_fd`] may stay
    /// ready for what was taken.
    fn look_rx(&self, channel: &Channel, direct: &mut Direct<'_>) -> Result<bool, Broken> {
        self.drive_rx_into(channel, direct)
    }
    /// Pauses of the processor before each look of a thread that spins.
    fn ease(&self) -> u32 {
        16
    }
    /// As [`Wire::drive_rx_into`], and where nothing is there sleeps in the kernel for a few milliseconds: one system call where
    /// a poll and a read are two, and the common case of a question and its answer. A kick does not end it. The default
    /// does nothing.
    fn await_rx(&self, _channel: &Channel, _direct: &mut Direct<'_>) -> Result<Awaited, Broken> {
        Ok(Awaited::Nothing)
    }
    /// Sends what `tx` holds and the peer has credit for, without blocking, and owed acknowledgements. True if
    /// anything moved.
    fn drive_tx(&self, channel: &Channel) -> Result<bool, Broken>;
    /// So many bytes are sent on their way before more are copied behind them: where a device sends by itself, the next are
    /// copied meanwhile.
    fn portion(&self) -> usize {
        usize::MAX
    }
    /// The descriptor that tells when to drive (tcp: the socket; shm: the control connection, whose hang-up is the
    /// peer's death).
    fn wait_fd(&self) -> BorrowedFd<'_>;
    /// What to watch it for.
    fn interest(&self) -> Interest;
    /// Tells the peer that this side ends, best effort and without blocking, then ends the transport.
    fn end(&self, channel: &Channel, reason: EndReason);
    /// Breaks the transport at once and without a word, as a lost link does. Does nothing where there is no such way.
    fn cut(&self) {}
    /// Sends acknowledgements that [`Wire::drive_tx`] holds back in the hope that data take them along. Called a few
    /// milliseconds after the last bytes were consumed. True if something was sent.
    fn settle(&self, _channel: &Channel) -> Result<bool, Broken> {
        Ok(false)
    }
    /// Whether [`Wire::settle`] has something to send.
    fn owes(&self) -> bool {
        false
    }
    /// See [`Channel::after_fork`].
    fn after_fork(&self) {}
    /// Called a few times a second in a process that may share the wire with forked ones: breaks the transport if one of them
    /// died, or was stopped, while it used it.
    fn look_around(&self) {}
    /// Asks the peer for a sign of life over the channel itself; [`Wire::heard`] grows when it comes.
    fn keep_alive(&self, _channel: &Channel) -> Result<(), Broken> {
        Ok(())
    }
    /// Counts what came from the peer (packets); a count that grows is a sign of life. 0 where the wire cannot tell.
    fn heard(&self) -> u64 {
        0
    }
    /// Counts what the peer's host is known to have taken of what was sent: a count that grows shows that the path works, and
    /// nothing of the peer, who may be stopped. 0 where the wire cannot tell.
    fn taken(&self) -> u64 {
        0
    }
    /// Tells the peer a word about a [switchover](super::switchover), best effort and without blocking; only the last one
    /// need arrive.
    fn say(&self, _channel: &Channel, _word: u8) {}
    /// The peer's last word; 0 where none has come.
    fn told(&self) -> u8 {
        0
    }
    /// Stream offset of ours that the peer had consumed when it sent the last bytes that have come: bytes answer what is
    /// below it, and nothing above. `None` where the wire cannot tell.
    fn answered(&self) -> Option<u64> {
        None
    }
    /// The peer's bell, where the peer shares the memory of the rings: this side then rings it after it has published
    /// or freed bytes, the peer does the same for us, nobody has to drive, and a thread that waits sleeps on the wake
    /// word. `None` (the default): bytes move only when somebody drives, so a waiting thread polls the wire's
    /// descriptor and drives.
    fn peer_bell(&self) -> Option<&dyn Bell> {
        None
    }
}

/// The room of a thread that receives, for bytes that need not pass through the ring.
#[derive(Default)]
pub struct Direct<'a> {
    room: &'a mut [u8],
    filled: usize,
    open: bool,
}

impl<'a> Direct<'a> {
    /// No room.
    pub fn none() -> Self {
        Self::default()
    }

    /// All of `room`, for a wire only if it is `open`.
    pub fn of(room: &'a mut [u8], open: bool) -> Self {
        Self {
            room,
            filled: 0,
            open,
        }
    }

    /// Whether a wire may fill the rest, of which there is some.
    pub fn is_open(&self) -> bool {
        self.open && self.filled < self.room.len()
    }

    /// The part that has no bytes yet.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.room[self.filled..]
    }

    /// The next `n` bytes of it are filled.
    pub fn fill(&mut self, n: usize) {
        self.filled = self.room.len().min(self.filled + n);
    }

    /// How many bytes are.
    pub fn filled(&self) -> usize {
        self.filled
    }
}

/// How [`Wire::await_rx`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Something moved.
    Moved,
    /// Nothing came in time.
    Nothing,
    /// A signal handler ran.
    Interrupted,
}

/// Whoever watches [`Wire::wait_fd`] for a channel that must be driven (the client's I/O thread). It watches one-shot:
/// after each event it calls [`Channel::drive`], and watches again only when told to.
pub trait Watcher: Send + Sync {
    /// Watch the descriptor for `interest`, once. May be called from any thread, holding no lock.
    fn arm(&self, interest: Interest);
}

/// Follows what passes a channel. Called with the direction's lock held, and must not wait.
pub trait Tap {
    /// These bytes are about to be published to the peer, from stream offset `at` on.
    fn sends(&self, at: u64, bytes: &[u8]);
    /// Bytes have come, from stream offset `at` on: copies those that may be taken into the room, and says how many.
    fn receives(&self, at: u64, come: &mut Come<'_>) -> Taken;
    /// What comes next is not for the receiver: it is told of nothing, until [`Channel::open_reads`].
    fn is_quiet(&self) -> bool {
        false
    }
}

/// What has come and was not taken yet.
pub struct Come<'a> {
    /// The receiver's; empty in [`Channel::sift`]. What is not taken is not written to it.
    pub room: &'a mut [u8],
    /// How much has come.
    pub available: usize,
    /// Nothing follows.
    pub last: bool,
    /// Bytes that the whole ring holds.
    pub ring: usize,
    /// Copies bytes from so far behind the first one, and says how many there were.
    pub ahead: &'a dyn Fn(usize, &mut [u8]) -> usize,
}

impl Come<'_> {
    /// Copies up to so many bytes from behind the first `skip` into the room, and shows them.
    pub fn take(&mut self, skip: usize, bytes: usize) -> &[u8] {
        let n = bytes.min(self.room.len());
        let n = (self.ahead)(skip, &mut self.room[..n]);
        &self.room[..n]
    }
}

/// What [`Tap::receives`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many bytes were not for the receiver, and are gone.
    pub skipped: usize,
    /// So many bytes behind them.
    pub bytes: usize,
    /// Behind them so many must have come before there is more to take; at least 1, at most what the ring holds.
    pub next: usize,
}

/// What a channel is made of; both sides of every provider make theirs with [`Channel::new`].
pub struct Parts {
    /// What the peer sends.
    pub rx: RingConsumer,
    /// What goes to the peer.
    pub tx: RingProducer,
    /// What carries it.
    pub wire: Box<dyn Wire>,
    /// The local side's bell.
    pub bell: Box<dyn Bell>,
    /// What the node said.
    pub accept: Accept,
}

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: the descriptor is non-blocking, or MSG_DONTWAIT.
    No,
    /// Until something happens, spinning at first for at most `spin`; `timeout` is SO_RCVTIMEO or SO_SNDTIMEO.
    Until {
        /// Longest spin before the sleep; what is really spun is learned from hits.
        spin: std::time::Duration,
        /// `None`: no limit.
        timeout: Option<std::time::Duration>,
    },
}

/// See the module's text.
pub struct Channel {
    /// What the peer sent.
    pub rx: RingConsumer,
    /// What is to go to the peer.
    pub tx: RingProducer,
    /// What carries it.
    pub wire: Box<dyn Wire>,
    /// Rung when `rx` becomes readable and the consumer is not inside; blocks and opens the writer.
    pub bell: Box<dyn Bell>,
    /// What the node said when it accepted.
    pub accept: Accept,
    broken: OnceLock<Broken>,
    /// The receiver has no use for bytes before the stream has come to this offset (as SO_RCVLOWAT): until then nobody is
    /// told that there are any. (A peer that shares the rings does not know of it, and may ring for fewer.) Process-local:
    /// where another process receives, it is soon behind, and means nothing.
    wanted: AtomicU64,
    reads_shut: AtomicBool,
    kicks: AtomicU32,
    /// 1: retired, the words stay INSIDE.
    retired: AtomicU32,
    receive_spin: Spin,
    /// Driving before a wait, which the wait's own poll may make useless.
    receive_habit: Habit,
    send_spin: Spin,
    /// Who runs `drive_rx`, and who `drive_tx`.
    driving_rx: Token,
    driving_tx: Token,
    /// Who polls the wire's descriptor. (The watcher does not hold it: it is told when to watch.)
    pilot: Token,
    /// Ends the pilot's poll; only for wires that must be driven.
    kick_event: Option<OwnedFd>,
    watch: Watch,
}

impl Channel {
    /// A channel of these parts, its wake words INSIDE until [`Channel::activate`].
    ///
    /// # Errors
    /// Out of descriptors (a wire that must be driven needs one).
    pub fn new(parts: Parts) -> io::Result<Self> {
        let kick_event = match parts.wire.peer_bell() {
            Some(_) => None,
            None => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                Some(crate::fd::move_high(event))
            }
        };
        let wanted = AtomicU64::new(parts.rx.head());
        Ok(Self {
            rx: parts.rx,
            tx: parts.tx,
            wire: parts.wire,
            bell: parts.bell,
            accept: parts.accept,
            broken: OnceLock::new(),
            wanted,
            reads_shut: AtomicBool::new(false),
            kicks: AtomicU32::new(0),
            retired: AtomicU32::new(0),
            receive_spin: Spin::default(),
            receive_habit: Habit::default(),
            send_spin: Spin::default(),
            driving_rx: Token::default(),
            driving_tx: Token::default(),
            pilot: Token::default(),
            kick_event,
            watch: Watch::default(),
        })
    }

    /// A new channel stands with both wake words INSIDE, so that nobody rings: this makes them true (ARMED or RUNG
    /// after a look at the rings) and opens the bell for writing. Called when the application may see it, or see it again after
    /// [`Channel::hold`].
    pub fn activate(&self) {
        self.bell.clear_writes();
        if self.tx.room().unwrap_or(0) > 0 {
            wake::leave_open(self.tx.space_word());
        } else {
            self.leave_full(false);
        }
        self.leave_rx();
        self.watch_on();
    }

    /// As a new channel stands: nobody rings until [`Channel::activate`]. The caller holds the locks of both directions.
    pub fn hold(&self) {
        self.hold_reads();
        wake::enter_space(self.tx.space_word());
    }

    /// Takes back every token and never rings for what the peer does from now on: before another channel takes the bell
    /// over. The bell stays blocked for writing. Unread bytes stay readable by [`Channel::recv`], which rings for them. The
    /// caller holds the locks of both directions.
    pub fn retire(&self) {
        self.retired.store(1, Ordering::Release);
        if !wake::enter_space(self.tx.space_word()) {
            self.bell.block_writes();
        }
        if self.enter_rx().is_ok() {
            self.leave_rx();
        }
    }

    /// In a forked child, while it has one thread: forgets what threads of the parent were doing.
    pub fn after_fork(&self) {
        for token in [&self.driving_rx, &self.driving_tx, &self.pilot] {
            token.give_back();
        }
        self.wire.after_fork();
    }

    // ----------------------------------------------------------------------------------------------- what stands

    /// Bytes readable now without waiting (FIONREAD).
    pub fn readable(&self) -> usize {
        match self.rx.available() {
            Ok(n) if n >= self.low_water() || self.rx.finished() => n,
            _ => 0,
        }
    }

    /// Bytes that have come, whether or not the receiver has use for them.
    pub fn come(&self) -> usize {
        self.rx.available().unwrap_or(0)
    }

    /// Nothing more is taken, whatever comes.
    pub fn shut_reads(&self) {
        self.reads_shut.store(true, Ordering::Release);
    }

    /// Whether the receiver finds something: bytes enough, or the end.
    fn deliverable(&self) -> bool {
        let enough = |n| n >= self.low_water();
        self.rx.finished() || self.rx.available().is_ok_and(enough)
    }

    /// So many unread bytes there must be before there is something for the receiver.
    fn low_water(&self) -> usize {
        if self.reads_shut.load(Ordering::Acquire) {
            return usize::MAX;
        }
        let wanted = self.wanted.load(Ordering::Relaxed);
        let ahead = wanted.wrapping_sub(self.rx.head()) as i64;
        usize::try_from(ahead).unwrap_or(0).max(1)
    }

    /// The receiver has use for whatever comes.
    fn want_all(&self) {
        self.wanted.store(self.rx.head(), Ordering::Relaxed);
    }

    /// Stream offset up to which the peer consumed what we sent (the node: wrote it to the SQL server).
    pub fn acked(&self) -> u64 {
        // An impossible index of the peer acknowledges nothing.
        self.tx
            .head()
            .unwrap_or_else(|_| self.tx.tail().wrapping_sub(self.tx.size() as u64))
    }

    /// Stream offset up to which bytes were accepted from the local side.
    pub fn accepted(&self) -> u64 {
        self.tx.tail()
    }

    /// Stream offset up to which the local side consumed.
    pub fn consumed(&self) -> u64 {
        self.rx.head()
    }

    /// Set when a side noticed a break, so that every later call reports it.
    pub fn broken(&self) -> Option<Broken> {
        self.broken.get().cloned()
    }

    // --------------------------------------------------------------------------------------------- from any thread

    /// Marks the channel broken (first word wins) and wakes everybody inside.
    pub fn fail(&self, why: Broken) {
        let _ = self.broken.set(why);
        self.kick();
    }

    /// Gives the transport up, for this reason: the peer sees a lost link, and later calls here report one. Nothing is waited
    /// for: what carries the channel may hang.
    pub fn cut(&self, why: &str) {
        self.wire.cut();
        self.fail(Broken::Transport(why.into()));
    }

    /// Ends the channel from this side: tells the peer why, and later calls report that it is over.
    pub fn end(&self, reason: EndReason) {
        self.wire.end(self, reason);
        self.fail(Broken::Ended(reason));
    }

    /// Wakes every thread that waits inside a call on this channel; their calls return `Empty` or what they have sent.
    pub fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::AcqRel);
        wake::nudge(self.rx.receive_word());
        wake::nudge(self.tx.space_word());
        self.end_poll();
    }

    /// Counts [`Channel::kick`]s. A caller that looks at its own state before it waits takes the number before it looks
    /// and waits with [`Channel::recv_since`] or [`Channel::send_since`]; no kick is lost then.
    pub fn kicks(&self) -> u32 {
        self.kicks.load(Ordering::Acquire)
    }

    /// Acknowledges what was consumed, now and not with the next data: the relay calls it before it goes to sleep.
    pub fn settle(&self) {
        if self.wire.owes() {
            // A break is found by whoever receives.
            let _ = self.wire.settle(self);
            self.watch_for_room();
        }
    }

    /// After the wire or the owner moved bytes by the ring halves themselves (the relay reading from a socket straight
    /// into `tx` or writing straight from `rx`): tells whoever has to know. `drive` does it by itself.
    pub fn moved(&self) {
        self.produced();
        self.consumed_some();
    }

    // ---------------------------------------------------------------------------------------------------- inside

    /// Whether bytes move only when somebody drives.
    fn driven(&self) -> bool {
        self.kick_event.is_some()
    }

    /// `tx` got bytes or its end.
    fn produced(&self) {
        match self.wire.peer_bell() {
            Some(bell) => wake::publish(
                self.tx.receive_word(),
                self.tx.voucher(),
                || self.tx.finished() || self.tx.next_unread().is_some(),
                |force| ring(bell, self.tx.next_unread(), self.tx.finished(), force),
            ),
            None => self.drive_tx(),
        }
    }

    /// `rx` was consumed from.
    fn consumed_some(&self) {
        match self.wire.peer_bell() {
            Some(bell) => wake::freed(
                self.rx.space_word(),
                || worth_waking(self.rx.room().unwrap_or(0), self.rx.size()),
                || bell.open_writes(),
            ),
            None => self.drive_tx(), // an acknowledgement may be owed
        }
    }
}

/// Rings a bell with the next byte that its owner has not read, or shows it the end. False: there is neither, and
/// it was not to be forced.
fn ring(bell: &dyn Bell, next: Option<u8>, finished: bool, force: bool) -> bool {
    match next {
        Some(byte) => bell.ring(&[byte]),
        None if finished => bell.finish(),
        None if force => bell.ring(&[0]),
        None => return false,
    }
    true
}

/// Less than a quarter of the ring is not worth a wake-up of the sender: it would be short again at once.
fn worth_waking(room: usize, size: usize) -> bool {
    room >= size / 4
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
