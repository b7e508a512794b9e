//! A link: one connection with everything that belongs to it, from the request on: identifier, queue pair, memory of the
//! messages, credit, and the one descriptor that tells when there is something to do.
//!
//! Thread rules: one thread at a time polls ([`Link::poll`], [`Link::event`]), one at a time sends.

use super::alarm::Alarm;
use super::cm::{Event, EventChannel, Id};
use super::credit::{Credit, DEPTH};
use super::memory::{Memory, SLOT};
use super::message::{Prefix, Window};
use super::verbs::{Completion, Operation, Outcome, Piece, QueuePair, Registered, Work};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Work requests that the send queue holds: a message is one or two, and so many messages may be on their way. Twice that,
/// because completions come in lots.
const SENDS: u32 = 4 * DEPTH;
/// One message in so many has its completion reported.
const SIGNAL_EVERY: u32 = 16;
/// In the id of a receive; the rest is the slot. Sends have the count of work requests up to them.
const RECEIVE: u64 = 1 << 63;

/// In a test: the devices refuse whatever is to be sent.
#[cfg(test)]
pub(super) static REFUSES: std::sync::atomic::AtomicBool =
    std::sync::atomic::AtomicBool::new(false);

/// See the module's text.
pub struct Link {
    parts: Parts,
    /// Messages in both directions.
    pub credit: Credit,
    /// Work requests posted, and how many of them are known to be finished.
    posted: AtomicU32,
    finished: AtomicU32,
    /// The last one whose completion is reported.
    signaled: AtomicU32,
    alarm: Alarm,
    /// Looks at the connection's events that were asked for.
    looks: AtomicU32,
    /// Whole packets sent.
    packets: AtomicU32,
    /// Header slots used.
    headers: AtomicU32,
}

/// In the order in which they must go.
struct Parts {
    pair: QueuePair,
    memory: Arc<Memory>,
    registered: Registered<Arc<Memory>>,
    epoll: OwnedFd,
}

/// A message of the peer.
#[derive(Debug)]
pub enum Message<'a> {
    /// Bytes were written (their number, perhaps 0), with this immediate.
    Written(u32, u32),
    /// A packet with its prefix.
    Packet(&'a [u8]),
}

/// The connection is over; why.
#[derive(Debug)]
pub struct Trouble(pub String);

impl Link {
    /// On an identifier whose device is known. `epoll` watches `channel` already. All receives are posted.
    pub fn new(id: Id, channel: EventChannel, epoll: OwnedFd) -> io::Result<Self> {
        let pair = QueuePair::new(id, channel, DEPTH, SENDS)?;
        let memory = Arc::new(Memory::new()?);
        // SAFETY: the whole of a shared mapping that `memory` keeps.
        let registered = unsafe {
            pair.register(
                memory.address(),
                Memory::BYTES,
                true,
                false,
                Arc::clone(&memory),
            )
        }?;
        let slots = (0..DEPTH).map(|n| (RECEIVE | u64::from(n), memory.slot(n)));
        // SAFETY: slots of the memory that was just registered; it goes after the queue pair.
        unsafe { pair.post_receives(slots, SLOT as u32, registered.local_key()) }?;
        epoll::add(
            &epoll,
            pair.fd(),
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            parts: Parts {
                pair,
                memory,
                registered,
                epoll,
            },
            credit: Credit::default(),
            posted: AtomicU32::new(0),
            finished: AtomicU32::new(0),
            signaled: AtomicU32::new(0),
            alarm: Alarm::default(),
            looks: AtomicU32::new(0),
            packets: AtomicU32::new(0),
            headers: AtomicU32::new(0),
        })
    }

    /// An epoll descriptor for a link that is to be.
    pub fn watch(channel: &EventChannel) -> io::Result<OwnedFd> {
        let epoll = crate::fd::move_high(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let data = epoll::EventData::new_u64(0);
        epoll::add(&epoll, channel.fd(), data, epoll::EventFlags::IN)?;
        Ok(epoll)
    }

    /// Readable when there is something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.parts.epoll.as_fd()
    }

    /// The identifier.
    pub fn id(&self) -> &Id {
        self.parts.pair.id()
    }

    /// The queue pair.
    pub fn pair(&self) -> &QueuePair {
        &self.parts.pair
    }

    /// Whether this is the process that made it: nobody else may do anything with it.
    pub fn is_ours(&self) -> bool {
        self.parts.pair.is_ours()
    }

    // ------------------------------------------------------------------------------------------------- receiving

    /// Takes finished work; hands each message of the peer to `take` and posts its receive again. How much work there was;
    /// with none, the queue is armed and the descriptor tells of the next.
    pub fn poll<E: From<Trouble>>(
        &self,
        take: impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        self.take_finished(|queue, done| self.alarm.poll(queue, done), take)
    }

    /// As [`Link::poll`], and with no work nothing is armed: see [`Alarm::look`].
    pub fn look<E: From<Trouble>>(
        &self,
        take: impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        self.take_finished(|queue, done| self.alarm.look(queue, done), take)
    }

    fn take_finished<E: From<Trouble>>(
        &self,
        poll: impl FnOnce(&QueuePair, &mut [Completion; 16]) -> io::Result<usize>,
        mut take: impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let parts = &self.parts;
        let nothing = Completion {
            id: 0,
            outcome: Outcome::Sent,
        };
        let mut done = [nothing; 16];
        // Nothing is allocated: calls that receive and send may be made by a signal handler.
        let mut packet = [0; SLOT];
        let n = poll(&parts.pair, &mut done).map_err(over)?;
        for completion in &done[..n] {
            let slot = completion.id as u32;
            let message = match completion.outcome {
                Outcome::Sent => {
                    self.finished.store(completion.id as u32, Ordering::Release);
                    continue;
                }
                Outcome::Failed(status) => return Err(self.failed(status).into()),
                Outcome::Written(length, immediate) => Message::Written(length, immediate),
                Outcome::Packet(length) => {
                    Message::Packet(parts.memory.copy_out(slot, length as usize, &mut packet))
                }
            };
            // Whatever it is, it has left the slot, and its sender counts on it.
            let again = std::iter::once((completion.id, parts.memory.slot(slot)));
            // SAFETY: a slot of the registered memory, which goes after the queue pair.
            unsafe {
                parts
                    .pair
                    .post_receives(again, SLOT as u32, parts.registered.local_key())
            }
            .map_err(over)?;
            self.credit.receive(1);
            take(message)?;
        }
        Ok(n)
    }

    /// After a poll that found nothing: the connection's end, if it came. It costs a system call, so a thread that spins
    /// asks for it only now and then.
    pub fn look_around(&self) -> Result<(), Trouble> {
        match self.looks.fetch_add(1, Ordering::Relaxed) % 16 {
            0 => self.check_events(),
            _ => Ok(()),
        }
    }

    /// The connection's end, if it came.
    pub fn check_events(&self) -> Result<(), Trouble> {
        while let Some(event) = self.event().map_err(over)? {
            if ends(&event) {
                return Err(Trouble(self.parts.pair.channel().describe(&event)));
            }
        }
        Ok(())
    }

    /// The next event of the connection's.
    pub fn event(&self) -> io::Result<Option<Event>> {
        self.parts.pair.channel().next()
    }

    /// An event in words.
    pub fn describe(&self, event: &Event) -> String {
        self.parts.pair.channel().describe(event)
    }

    fn failed(&self, status: i32) -> Trouble {
        let text = self.parts.pair.describe(status);
        if status == super::layout::IBV_WC_WR_FLUSH_ERR as i32
            && let Err(why) = self.check_events()
        {
            return why;
        }
        Trouble(format!("queue pair: {text}"))
    }

    // --------------------------------------------------------------------------------------------------- sending

    /// Whether the send queue has room for a message.
    pub fn has_room(&self) -> bool {
        self.unfinished() + 2 <= SENDS
    }

    /// Work requests that are not known to be finished.
    fn unfinished(&self) -> u32 {
        let finished = self.finished.load(Ordering::Acquire);
        self.posted.load(Ordering::Acquire).wrapping_sub(finished)
    }

    /// Work requests that are known to be finished, modulo 2^32.
    pub fn finished(&self) -> u32 {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether everything that was sent is known to have been taken by the peer's device. If no report of the last work
    /// request comes by itself, one is asked for.
    pub fn delivered(&self, window: Option<&Window>) -> bool {
        let posted = self.posted.load(Ordering::Acquire);
        if self.unfinished() == 0 {
            return true;
        }
        if let Some(to) = window
            && self.signaled.load(Ordering::Acquire) != posted
            && self.has_room()
        {
            let _ = self.feel(to);
        }
        false
    }

    /// Writes no bytes into the peer's memory, which takes none of its receives, and has it reported: that is finished after
    /// all before it, and fails where the peer's device cannot be reached any more.
    pub fn feel(&self, to: &Window) -> io::Result<()> {
        let (address, key) = (to.address, to.key);
        self.post(Operation::Write { address, key }, &[], None, true)
    }

    /// Sends a whole packet of the handshake.
    pub fn send_packet(&self, packet: &[u8], window: Window) -> io::Result<()> {
        let prefix = Prefix {
            received: self.credit.count(),
            window,
        };
        let mut bytes = prefix.encode().to_vec();
        bytes.extend(packet);
        let slot = self.packets.fetch_add(1, Ordering::Relaxed);
        let address = self.parts.memory.packet(slot, &bytes);
        let piece = self.own(address, bytes.len());
        self.say(prefix.received, || {
            self.post(Operation::Send, &[piece], None, true)
        })
    }

    /// Sends a packet that has no or a short payload, with `data` of the ring behind it; before it, `write` puts `data` into
    /// the peer's memory instead.
    pub fn send_header(
        &self,
        prefix: Prefix,
        packet: &[u8],
        data: Option<Piece>,
        write: Option<Window>,
        signaled: bool,
    ) -> io::Result<()> {
        let mut bytes = [0; super::memory::HEADER_SLOT];
        let length = super::message::PREFIX_BYTES + packet.len();
        bytes[..super::message::PREFIX_BYTES].copy_from_slice(&prefix.encode());
        bytes[super::message::PREFIX_BYTES..length].copy_from_slice(packet);
        let slot = self.headers.fetch_add(1, Ordering::Relaxed);
        let header = self.own(self.parts.memory.header(slot, &bytes[..length]), length);
        self.say(prefix.received, || match (data, write) {
            (Some(data), Some(to)) => {
                let write = Operation::Write {
                    address: to.address,
                    key: to.key,
                };
                self.post(Operation::Send, &[header], Some((write, data)), signaled)
            }
            (Some(data), None) => self.post(Operation::Send, &[header, data], None, signaled),
            _ => self.post(Operation::Send, &[header], None, signaled),
        })
    }

    /// Writes `data` (perhaps none) into the peer's memory and tells so. `count`: what the immediate says was received.
    pub fn write_tell(
        &self,
        data: Option<Piece>,
        to: Window,
        immediate: u32,
        count: u32,
    ) -> io::Result<()> {
        let operation = Operation::WriteTell {
            address: to.address,
            key: to.key,
            immediate,
        };
        self.say(count, || self.post(operation, data.as_slice(), None, false))
    }

    /// Counts the message that `post` sends.
    fn say(&self, count: u32, post: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.credit.send();
        match post() {
            Ok(()) => {
                self.credit.tell(count);
                Ok(())
            }
            Err(e) => {
                self.credit.take_back();
                Err(e)
            }
        }
    }

    /// Some bytes of the messages' memory, to be written somewhere.
    #[cfg(test)]
    pub(super) fn piece_of_memory(&self, length: u32) -> Piece {
        self.own(self.parts.memory.header(0, &[]), length as usize)
    }

    fn own(&self, address: u64, length: usize) -> Piece {
        Piece {
            address,
            length: length as u32,
            key: self.parts.registered.local_key(),
        }
    }

    fn post(
        &self,
        operation: Operation,
        pieces: &[Piece],
        before: Option<(Operation, Piece)>,
        signaled: bool,
    ) -> io::Result<()> {
        #[cfg(test)]
        if REFUSES.load(Ordering::Relaxed) {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let posted = self.posted.load(Ordering::Relaxed);
        let (first, id) = match &before {
            Some((operation, piece)) => {
                let first = Work {
                    id: u64::from(posted.wrapping_add(1)),
                    operation: *operation,
                    pieces: std::slice::from_ref(piece),
                    signaled: false,
                };
                (Some(first), posted.wrapping_add(2))
            }
            None => (None, posted.wrapping_add(1)),
        };
        let last = self.signaled.load(Ordering::Relaxed);
        let signaled = signaled || id.wrapping_sub(last) >= SIGNAL_EVERY;
        let work = Work {
            id: id.into(),
            operation,
            pieces,
            signaled,
        };
        let work = match first {
            Some(first) => &[first, work][..],
            None => &[work][..],
        };
        if signaled {
            self.signaled.store(id, Ordering::Release);
        }
        self.posted.store(id, Ordering::Release);
        // SAFETY: pieces are of this link's memory, or of rings that their owner keeps registered as long as the link.
        let (n, result) = unsafe { self.parts.pair.post_sends(work) };
        if result.is_err() {
            self.posted
                .store(posted.wrapping_add(n as u32), Ordering::Release);
            self.signaled.store(last, Ordering::Release);
        }
        result
    }

    // ------------------------------------------------------------------------------------------------ afterwards

    /// Whether the last word was taken by the peer's device. What the peer says is not listened to any more.
    pub fn last_word(&self) -> Result<bool, Trouble> {
        self.poll(|_| Ok::<_, Trouble>(()))?;
        self.check_events()?;
        Ok(self.delivered(None))
    }

    /// Ends the connection: the peer sees it, and whatever is not finished is not sent any more.
    pub fn disconnect(&self) {
        if self.is_ours() {
            self.parts.pair.id().disconnect();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// Whether a connection is over with this event.
fn ends(event: &Event) -> bool {
    use super::layout::*;
    !matches!(
        event.kind,
        RDMA_CM_EVENT_ESTABLISHED | RDMA_CM_EVENT_TIMEWAIT_EXIT | RDMA_CM_EVENT_ADDR_CHANGE
    )
}

fn over(e: io::Error) -> Trouble {
    Trouble(e.to_string())
}
