//! The node's side: listening identifiers, and handshakes that are limited in time and number.
//!
//! A handshake costs a queue pair and locked memory before anything of the client is known but what its request said.
//! So there are fewer of them at a time than over tcp; what is beyond is rejected with a reason.
//!
//! A device that is taken away takes its listening identifiers with it. The address is tried again until a device has it.

use super::cm::{Event, EventChannel, Id};
use super::layout::*;
use super::link::{Link, Message, Trouble};
use super::load::library;
use super::message::{BARE_BYTES, Prefix, Window, private};
use super::wire::{RdmaWire, Rings, Start};
use crate::resolve::Generation;
use crate::resolve::identity::{SecretKey, random_bytes};
use crate::via::bell::EventBell;
use crate::via::channel::{Channel, Parts};
use crate::via::handshake::{Offsets, Request, ServerHandshake, bad_request};
use crate::via::region::{Direction, Region};
use crate::via::{Accept, Incoming, ListenConfig, Listener, RejectReason, packet, resume};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From the request to the complete handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Handshakes at a time: 48 KiB of locked memory each.
const HANDSHAKES: usize = 256;
/// Handshakes of one source at a time.
const HANDSHAKES_PER_SOURCE: usize = 64;
/// Between two tries to listen on an address whose device was taken away.
const RELISTEN: Duration = Duration::from_secs(1);
/// How often time limits are looked at while there are handshakes, or an address without a device.
const TICK: Duration = Duration::from_millis(250);
/// Requests that the kernel holds.
const BACKLOG: i32 = 256;
/// Epoll data.
const TIMER: u64 = u64::MAX;
const REQUESTS: u64 = 0;

/// See the module's text.
pub struct RdmaListener {
    epoll: OwnedFd,
    timer: OwnedFd,
    ticking: bool,
    handshakes: HashMap<u64, Handshake>,
    next_key: u64,
    sources: HashMap<IpAddr, Source>,
    complete: VecDeque<Box<dyn Incoming>>,
    config: ListenConfig,
    /// See [`Listener::refused`].
    refused: u64,
    // In the order in which they must go.
    places: Vec<Place>,
    channel: EventChannel,
}

/// Where it listens.
struct Place {
    addr: SocketAddr,
    /// `None`: its device was taken away.
    id: Option<Id>,
    /// When that was, or was tried to be mended last.
    tried: Instant,
}

impl Place {
    fn listen(channel: &EventChannel, addr: SocketAddr) -> io::Result<Id> {
        let id = Id::new(channel)?;
        id.bind(&addr)?;
        id.listen(BACKLOG)?;
        Ok(id)
    }
}

struct Handshake {
    link: Link,
    peer: SocketAddr,
    begun: Instant,
    machine: ServerHandshake,
    asked: private::Request,
    /// One unit of the source's handshakes.
    unit: Arc<()>,
}

/// Counted by the clones that are out: handshakes, and channels with the requests that may become some.
#[derive(Default)]
struct Source {
    handshakes: Arc<()>,
    channels: Arc<()>,
}

fn count(unit: &Arc<()>) -> usize {
    Arc::strong_count(unit) - 1
}

impl RdmaListener {
    /// Listens on every address of `config`.
    pub fn bind(config: &ListenConfig) -> io::Result<Self> {
        let library = library().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why))?;
        let channel = EventChannel::new(library)
            .map_err(|e| io::Error::new(e.kind(), format!("rdma_cm: {e}")))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let watch = |fd: BorrowedFd<'_>, key| {
            let data = epoll::EventData::new_u64(key);
            epoll::add(&epoll, fd, data, epoll::EventFlags::IN)
        };
        watch(timer.as_fd(), TIMER)?;
        watch(channel.fd(), REQUESTS)?;
        let mut places = Vec::new();
        for addr in &config.addrs {
            let id = Place::listen(&channel, *addr)
                .map_err(|e| io::Error::new(e.kind(), format!("listen on {addr} for RDMA: {e}")))?;
            places.push(Place {
                // With the port that was given.
                addr: id.local_addr().unwrap_or(*addr),
                id: Some(id),
                tried: Instant::now(),
            });
        }
        Ok(Self {
            epoll,
            timer,
            ticking: false,
            handshakes: HashMap::new(),
            next_key: REQUESTS + 1,
            sources: HashMap::new(),
            complete: VecDeque::new(),
            config: config.clone(),
            refused: 0,
            places,
            channel,
        })
    }

    fn take_requests(&mut self) -> io::Result<()> {
        // Bounded, so that a flood of requests does not keep the owner from its other work.
        for _ in 0..64 {
            let Some(event) = self.channel.next()? else {
                return Ok(());
            };
            let Some(id) = Id::requested(&self.channel, &event) else {
                if event.kind == RDMA_CM_EVENT_DEVICE_REMOVAL {
                    self.removed(&event)?;
                }
                continue;
            };
            if let Some((id, reason)) = self.begin(id, &event)? {
                id.reject(&private::refusal(reason));
            }
        }
        Ok(())
    }

    fn removed(&mut self, event: &Event) -> io::Result<()> {
        for place in &mut self.places {
            if place.id.as_ref().is_some_and(|id| id.is_of(event)) {
                place.id = None;
                place.tried = Instant::now();
            }
        }
        self.tick_if_needed()
    }

    /// Listens again where there is a device again.
    fn listen_again(&mut self) {
        let lost = self.places.iter_mut().filter(|place| place.id.is_none());
        for place in lost.filter(|place| place.tried.elapsed() >= RELISTEN) {
            place.tried = Instant::now();
            place.id = Place::listen(&self.channel, place.addr).ok();
        }
    }

    /// Begins a handshake; or gives the identifier back, to be rejected.
    fn begin(&mut self, id: Id, event: &Event) -> io::Result<Option<(Id, RejectReason)>> {
        let (Ok(asked), Some(peer)) = (
            private::Request::decode(&event.private_data),
            id.peer_addr(),
        ) else {
            return Ok(Some((id, RejectReason::BadRequest)));
        };
        let source = self.sources.entry(source_of(peer)).or_default();
        if self.handshakes.len() >= HANDSHAKES || count(&source.handshakes) >= HANDSHAKES_PER_SOURCE
        {
            return Ok(Some((id, RejectReason::Busy)));
        }
        let unit = Arc::clone(&source.handshakes);
        let challenge = random_bytes().map_err(io::Error::other)?;
        let Some(link) = self.answer(id) else {
            // The device, a limit on memory or on descriptors; or the client is gone.
            return Ok(None);
        };
        let key = self.next_key;
        self.next_key += 1;
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.epoll, link.fd(), data, epoll::EventFlags::IN)?;
        self.handshakes.insert(
            key,
            Handshake {
                link,
                peer,
                begun: Instant::now(),
                machine: ServerHandshake::new(challenge),
                asked,
                unit,
            },
        );
        self.tick_if_needed()?;
        Ok(None)
    }

    /// Accepts the connection; what it is for follows.
    fn answer(&self, id: Id) -> Option<Link> {
        let library = library().ok()?;
        let channel = EventChannel::new(library).ok();
        let Some(channel) = channel.filter(|channel| id.migrate(channel).is_ok()) else {
            id.reject(&private::refusal(RejectReason::Busy));
            return None;
        };
        id.set_ack_timeout(super::ACK_TIMEOUT);
        let epoll = Link::watch(&channel).ok()?;
        let link = Link::new(id, channel, epoll).ok()?;
        link.id().accept(&[]).ok()?;
        Some(link)
    }

    fn advance(&mut self, key: u64) {
        let Some(mut handshake) = self.handshakes.remove(&key) else {
            return;
        };
        match handshake.advance() {
            Ok(None) => {
                self.handshakes.insert(key, handshake);
            }
            Ok(Some(request)) => {
                // Its descriptor goes on living in the channel: it must leave our set.
                let _ = epoll::delete(&self.epoll, handshake.link.fd());
                self.completed(handshake, request);
            }
            Err(Over::Gone) => {}
            Err(Over::Bad) => {
                let _ = epoll::delete(&self.epoll, handshake.link.fd());
                refuse(handshake.link, &bad_request(), handshake.unit);
            }
        }
    }

    fn completed(&mut self, handshake: Handshake, request: Request) {
        let source = self.sources.entry(source_of(handshake.peer)).or_default();
        if count(&source.channels) >= self.config.channels_per_peer {
            self.refused += 1;
            let busy = packet::reject(RejectReason::Busy, 0);
            return refuse(handshake.link, &busy, handshake.unit);
        }
        self.complete.push_back(Box::new(RdmaIncoming {
            link: handshake.link,
            peer: handshake.peer,
            request,
            guard: Arc::clone(&source.channels),
            signer: self.config.signer.clone(),
            max_ring_bytes: self.config.max_ring_bytes,
        }));
    }

    fn tick(&mut self) -> io::Result<()> {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        let now = Instant::now();
        self.handshakes
            .retain(|_, h| now.duration_since(h.begun) < HANDSHAKE_LIMIT);
        self.sources
            .retain(|_, s| count(&s.handshakes) + count(&s.channels) > 0);
        self.listen_again();
        self.tick_if_needed()
    }

    /// The timer runs only while there is something to limit or to mend: an idle node is not woken.
    fn tick_if_needed(&mut self) -> io::Result<()> {
        let lost = self.places.iter().any(|place| place.id.is_none());
        let needed = lost || !self.handshakes.is_empty();
        if needed != self.ticking {
            let every = match needed {
                true => Timespec {
                    tv_sec: 0,
                    tv_nsec: TICK.subsec_nanos().into(),
                },
                false => Timespec::default(),
            };
            let spec = Itimerspec {
                it_interval: every,
                it_value: every,
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
            self.ticking = needed;
        }
        Ok(())
    }
}

impl Listener for RdmaListener {
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn poll(&mut self) -> io::Result<Option<Box<dyn Incoming>>> {
        if let Some(incoming) = self.complete.pop_front() {
            return Ok(Some(incoming));
        }
        let mut events = Vec::with_capacity(64);
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut events),
            Some(&Timespec::default()),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in events {
            match event.data.u64() {
                TIMER => self.tick()?,
                REQUESTS => self.take_requests()?,
                key => self.advance(key),
            }
        }
        Ok(self.complete.pop_front())
    }

    fn local_addrs(&self) -> Vec<SocketAddr> {
        self.places.iter().map(|place| place.addr).collect()
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}

/// How a handshake came to nothing.
enum Over {
    /// The client is gone.
    Gone,
    /// It said something impossible.
    Bad,
}

impl From<Trouble> for Over {
    fn from(_: Trouble) -> Self {
        Self::Gone
    }
}

impl Handshake {
    fn advance(&mut self) -> Result<Option<Request>, Over> {
        let mut request = None;
        loop {
            let n = self.link.poll(|message| {
                let Message::Packet(bytes) = message else {
                    return Err(Over::Bad);
                };
                let (prefix, packet) = Prefix::decode(bytes).map_err(|_| Over::Bad)?;
                if prefix.window != Window::default() || !self.link.credit.heard(prefix.received) {
                    return Err(Over::Bad);
                }
                // Each brings a header at least, so that they are few.
                if bytes.len() < BARE_BYTES {
                    return Err(Over::Bad);
                }
                // One packet after the other: nothing may come behind the request.
                if request.is_some() {
                    return Err(Over::Bad);
                }
                request = self.machine.feed(packet).map_err(|_| Over::Bad)?;
                Ok(())
            })?;
            let out = self.machine.output();
            if !out.is_empty() {
                let n = out.len();
                self.link
                    .send_packet(out, Window::default())
                    .map_err(|_| Over::Gone)?;
                self.machine.sent(n);
            }
            if let Some(request) = request.take() {
                let said = private::Request::new(&request.server, request.min_generation);
                return match said == self.asked {
                    true => Ok(Some(request)),
                    false => Err(Over::Bad),
                };
            }
            if n == 0 {
                while let Some(event) = self.link.event().map_err(|_| Over::Gone)? {
                    if event.kind != RDMA_CM_EVENT_ESTABLISHED {
                        return Err(Over::Gone);
                    }
                }
                return Ok(None);
            }
        }
    }
}

/// A complete request; see [`Incoming`].
struct RdmaIncoming {
    link: Link,
    peer: SocketAddr,
    request: Request,
    guard: Arc<()>,
    signer: Option<Arc<SecretKey>>,
    max_ring_bytes: u32,
}

impl Incoming for RdmaIncoming {
    fn server(&self) -> &str {
        &self.request.server
    }

    fn min_generation(&self) -> Generation {
        self.request.min_generation
    }

    fn patient(&self) -> bool {
        self.request.patient
    }

    fn warm(&self) -> bool {
        self.request.warm
    }

    fn nonce(&self) -> [u8; 16] {
        self.request.nonce
    }

    fn is_private(&self) -> bool {
        false
    }

    fn peer(&self) -> String {
        self.peer.to_string()
    }

    fn resumes(&self) -> Option<u64> {
        self.request.resume.as_ref().map(|r| r.channel_id)
    }

    fn proves(&self, secret: &[u8; 32]) -> bool {
        self.request.proves(secret)
    }

    fn accept(self: Box<Self>, accept: Accept, old: Option<&Channel>) -> io::Result<Channel> {
        let largest = self
            .max_ring_bytes
            .clamp(1 << packet::RING_LOG2_MIN, super::RING_BYTES);
        // What a channel that is carried on asks for, it needs.
        let asked = self.request.ring_bytes;
        let mut ring_bytes = asked.min(1 << largest.ilog2());
        let mut told = Offsets::default();
        let mut peer = Offsets::default();
        if let (Some(resumed), Some(old)) = (&self.request.resume, old) {
            ring_bytes = asked;
            told = resume::offsets(old)?;
            peer = resumed.offsets;
        } else if self.request.resume.is_some() || old.is_some() {
            return Err(io::Error::other(
                "a resumption needs the old channel, and nothing else does",
            ));
        }
        if ring_bytes > super::RING_BYTES {
            return Err(io::Error::other(format!(
                "rings of {ring_bytes} bytes, RDMA carries at most {}",
                super::RING_BYTES
            )));
        }
        let region = Region::anonymous(ring_bytes)?;
        let to_client = Direction::ServerToClient;
        let rings = Rings::register(&self.link, &region, to_client, Direction::ClientToServer)?;
        match old {
            Some(old) => resume::carry(old, &rings.rx, &rings.tx, told, peer)?,
            None => {
                rings.rx.start_at(0);
                rings.tx.start_at(0);
            }
        }
        let answer = self
            .request
            .accept(&accept, ring_bytes, told, self.signer.as_deref());
        self.link.send_packet(&answer, rings.window())?;
        let start = Start {
            sent: peer.received,
            told: told.consumed,
            window: None,
        };
        let (rx, tx) = (rings.rx.consumer(), rings.tx.producer());
        let generation = accept.generation;
        let wire = RdmaWire::new(self.link, generation, rings, start, Box::new(self.guard));
        Channel::new(Parts {
            rx,
            tx,
            wire: Box::new(wire),
            bell: Box::new(EventBell::new()?),
            accept,
        })
    }

    fn reject(self: Box<Self>, reason: RejectReason) {
        refuse(self.link, &packet::reject(reason, 0), self.guard);
    }
}

/// Sends the last word, and sees to it that it arrives. Until then `unit` counts the link for its source.
fn refuse(link: Link, bytes: &[u8], unit: Arc<()>) {
    if link.send_packet(bytes, Window::default()).is_ok() {
        super::linger::refused(link, unit);
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 host can choose its address from.
fn source_of(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}
