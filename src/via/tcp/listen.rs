//! The node's side: listening sockets, and handshakes that are limited in time and number.
//!
//! One epoll descriptor holds everything that can have something to do; it is what the owner watches. Nothing is believed
//! of a client before its request is complete: a handshake has [`HANDSHAKE_LIMIT`], one source has
//! [`HANDSHAKES_PER_SOURCE`] of them, all together [`HANDSHAKES`]; what is beyond is closed at once.

use super::link::{Clear, Fault};
use super::stream::Stream;
use super::tls;
use super::wire::Start;
use crate::resolve::Generation;
use crate::resolve::identity::{SecretKey, random_bytes};
use crate::via::bell::EventBell;
use crate::via::channel::{Channel, Parts};
use crate::via::handshake::{Offsets, Request, ServerHandshake, bad_request};
use crate::via::packet;
use crate::via::region::{Direction, Region};
use crate::via::{Accept, Incoming, ListenConfig, Listener, RejectReason, Tls, resume};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From the connection to the complete request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Handshakes at a time.
const HANDSHAKES: usize = 1024;
/// Handshakes of one source at a time.
const HANDSHAKES_PER_SOURCE: usize = 128;
/// How often time limits are looked at while there are handshakes.
const TICK: Duration = Duration::from_millis(250);
/// Epoll data of the timer; listening sockets have their index, handshakes count from [`FIRST_HANDSHAKE`].
const TIMER: u64 = u64::MAX;
const FIRST_HANDSHAKE: u64 = 1 << 16;

/// See the module's text.
pub struct TcpListener {
    epoll: OwnedFd,
    timer: OwnedFd,
    ticking: bool,
    sockets: Vec<OwnedFd>,
    /// Out of descriptors: nothing is accepted until the next tick.
    paused: bool,
    handshakes: HashMap<u64, Handshake>,
    next_key: u64,
    sources: HashMap<IpAddr, Source>,
    complete: VecDeque<Box<dyn Incoming>>,
    config: ListenConfig,
    /// For clients that begin with TLS; `None`: they are not understood.
    tls: Option<tls::Acceptor>,
    /// See [`Listener::refused`].
    refused: u64,
}

struct Handshake {
    socket: Arc<OwnedFd>,
    stage: Stage,
    peer: SocketAddr,
    begun: Instant,
    machine: ServerHandshake,
    /// One unit of the source's handshakes.
    _unit: Arc<()>,
}

/// What a connection has come to.
enum Stage {
    /// Its first byte tells whether it begins with TLS.
    First,
    Tls(Box<tls::Handshake>),
    Packets(Stream),
}

/// Counted by the clones that are out: handshakes, and channels with the requests that may become some.
#[derive(Default)]
struct Source {
    handshakes: Arc<()>,
    channels: Arc<()>,
}

impl Source {
    fn count(unit: &Arc<()>) -> usize {
        Arc::strong_count(unit) - 1
    }
}

impl TcpListener {
    /// Listens on every address of `config`.
    pub fn bind(config: &ListenConfig) -> io::Result<Self> {
        let tls = match (config.tls, &config.signer) {
            (Tls::Auto | Tls::Require, Some(key)) => Some(tls::Acceptor::new(key)?),
            (Tls::Off, _) | (Tls::Auto, None) => None,
            (Tls::Require, None) => {
                return Err(io::Error::other("tls = \"require\" needs a key_file"));
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let data = epoll::EventData::new_u64(TIMER);
        epoll::add(&epoll, &timer, data, epoll::EventFlags::IN)?;
        let mut sockets = Vec::new();
        for addr in &config.addrs {
            let socket = listen(addr)
                .map_err(|e| io::Error::new(e.kind(), format!("listen on {addr}: {e}")))?;
            let data = epoll::EventData::new_u64(sockets.len() as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
            sockets.push(socket);
        }
        Ok(Self {
            epoll,
            timer,
            ticking: false,
            sockets,
            paused: false,
            handshakes: HashMap::new(),
            next_key: FIRST_HANDSHAKE,
            sources: HashMap::new(),
            complete: VecDeque::new(),
            config: config.clone(),
            tls,
            refused: 0,
        })
    }

    fn accept_all(&mut self, index: usize) -> io::Result<()> {
        // Bounded, so that a flood of connections does not keep the owner from its other work.
        for _ in 0..64 {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::acceptfrom_with(&self.sockets[index], flags) {
                Ok((socket, Some(peer))) => {
                    if let Ok(peer) = SocketAddr::try_from(peer) {
                        self.begin(socket, peer)?;
                    }
                }
                Ok((_, None)) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return self.pause(true);
                }
                // Errors of the one connection that would have been accepted (accept(2)).
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn begin(&mut self, socket: OwnedFd, peer: SocketAddr) -> io::Result<()> {
        let source = self.sources.entry(source_of(peer)).or_default();
        if self.handshakes.len() >= HANDSHAKES
            || Source::count(&source.handshakes) >= HANDSHAKES_PER_SOURCE
        {
            return Ok(()); // dropped: closed
        }
        let unit = Arc::clone(&source.handshakes);
        sockopt::set_tcp_nodelay(&socket, true)?;
        let key = self.next_key;
        self.next_key += 1;
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        let challenge = random_bytes().map_err(io::Error::other)?;
        self.handshakes.insert(
            key,
            Handshake {
                socket: Arc::new(socket),
                stage: Stage::First,
                peer,
                begun: Instant::now(),
                machine: ServerHandshake::new(challenge),
                _unit: unit,
            },
        );
        self.tick_if_needed()
    }

    fn advance(&mut self, key: u64) {
        let Some(mut handshake) = self.handshakes.remove(&key) else {
            return;
        };
        match handshake.advance(self.tls.as_ref()) {
            Ok(None) => {
                self.handshakes.insert(key, handshake);
            }
            Ok(Some(request)) => {
                // Its descriptor goes on living in the channel: it must leave our set.
                let _ = epoll::delete(&self.epoll, &handshake.socket);
                if let Stage::Packets(stream) =
                    std::mem::replace(&mut handshake.stage, Stage::First)
                {
                    self.completed(handshake, stream, request);
                }
            }
            Err(()) => {}
        }
    }

    fn completed(&mut self, handshake: Handshake, stream: Stream, request: Request) {
        let in_clear = self.config.tls == Tls::Require && !stream.is_private();
        let source = self.sources.entry(source_of(handshake.peer)).or_default();
        let full = Source::count(&source.channels) >= self.config.channels_per_peer;
        let incoming = Box::new(TcpIncoming {
            stream,
            peer: handshake.peer,
            request,
            guard: Arc::clone(&source.channels),
            signer: self.config.signer.clone(),
            max_ring_bytes: self.config.max_ring_bytes,
        });
        if in_clear {
            incoming.reject(RejectReason::NotEncrypted);
        } else if full {
            self.refused += 1;
            incoming.reject(RejectReason::Busy);
        } else {
            self.complete.push_back(incoming);
        }
    }

    fn tick(&mut self) -> io::Result<()> {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        let now = Instant::now();
        self.handshakes
            .retain(|_, h| now.duration_since(h.begun) < HANDSHAKE_LIMIT);
        self.sources
            .retain(|_, s| Source::count(&s.handshakes) + Source::count(&s.channels) > 0);
        if self.paused {
            self.pause(false)?;
        }
        self.tick_if_needed()
    }

    fn pause(&mut self, paused: bool) -> io::Result<()> {
        self.paused = paused;
        let flags = if paused {
            epoll::EventFlags::empty()
        } else {
            epoll::EventFlags::IN
        };
        for (index, socket) in self.sockets.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, socket, data, flags)?;
        }
        self.tick_if_needed()
    }

    /// The timer runs only while there is something to limit: an idle node is not woken.
    fn tick_if_needed(&mut self) -> io::Result<()> {
        let needed = self.paused || !self.handshakes.is_empty();
        if needed != self.ticking {
            let zero = Timespec::default();
            let interval = Timespec {
                tv_sec: 0,
                tv_nsec: TICK.subsec_nanos().into(),
            };
            let spec = Itimerspec {
                it_interval: if needed { interval } else { zero },
                it_value: if needed { interval } else { zero },
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
            self.ticking = needed;
        }
        Ok(())
    }
}

impl Listener for TcpListener {
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
                key @ FIRST_HANDSHAKE.. => self.advance(key),
                index => self.accept_all(index as usize)?,
            }
        }
        Ok(self.complete.pop_front())
    }

    fn local_addrs(&self) -> Vec<SocketAddr> {
        let addr = |s: &OwnedFd| SocketAddr::try_from(rustix::net::getsockname(s).ok()?).ok();
        self.sockets.iter().filter_map(addr).collect()
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}

impl Handshake {
    /// `Err`: over, the connection is to be dropped.
    fn advance(&mut self, acceptor: Option<&tls::Acceptor>) -> Result<Option<Request>, ()> {
        loop {
            match &mut self.stage {
                Stage::First => {
                    let clear = Stream::Clear(Clear(Arc::clone(&self.socket)));
                    self.stage = match (acceptor, tls::begins(&self.socket)) {
                        (_, Ok(None)) => return Ok(None),
                        (Some(acceptor), Ok(Some(true))) => {
                            Stage::Tls(Box::new(acceptor.begin().map_err(|_| ())?))
                        }
                        (_, Ok(Some(_))) => Stage::Packets(clear),
                        (_, Err(_)) => return Err(()),
                    };
                }
                Stage::Tls(handshake) => {
                    if !handshake.advance(&self.socket).map_err(|_| ())? {
                        // A few hundred bytes on a connection that carried nothing yet: they always fit.
                        return match handshake.wants_write() {
                            true => Err(()),
                            false => Ok(None),
                        };
                    }
                    let done = std::mem::replace(&mut self.stage, Stage::First);
                    if let Stage::Tls(done) = done {
                        let link = done.finish(Arc::clone(&self.socket)).map_err(|_| ())?;
                        self.stage = Stage::Packets(Stream::Tls(Box::new(link)));
                    }
                }
                Stage::Packets(stream) => return packets(stream, &mut self.machine),
            }
        }
    }
}

fn packets(stream: &mut Stream, machine: &mut ServerHandshake) -> Result<Option<Request>, ()> {
    let mut buffer = [0; 1024];
    loop {
        let want = machine.want().min(buffer.len());
        match stream.recv(&mut buffer[..want]) {
            Ok(0) => return Err(()),
            Ok(n) => match machine.feed(&buffer[..n]) {
                Ok(Some(_)) if stream.has_more() => return Err(()),
                Ok(Some(request)) => return Ok(Some(request)),
                Ok(None) => {}
                Err(_) => {
                    stream.refuse(&bad_request());
                    return Err(());
                }
            },
            Err(Fault::System(Errno::AGAIN)) => return Ok(None),
            Err(_) => return Err(()),
        }
        // A challenge is 48 bytes on a connection that carried nothing yet: it always fits.
        let out = machine.output();
        if !out.is_empty() {
            let n = stream.send(out).map_err(|_| ())?;
            if n != out.len() {
                return Err(());
            }
            machine.sent(n);
        }
    }
}

/// A complete request; see [`Incoming`].
struct TcpIncoming {
    stream: Stream,
    peer: SocketAddr,
    request: Request,
    guard: Arc<()>,
    signer: Option<Arc<SecretKey>>,
    max_ring_bytes: u32,
}

impl Incoming for TcpIncoming {
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

    fn peer(&self) -> String {
        self.peer.to_string()
    }

    fn resumes(&self) -> Option<u64> {
        self.request.resume.as_ref().map(|r| r.channel_id)
    }

    fn proves(&self, secret: &[u8; 32]) -> bool {
        self.request.proves(secret)
    }

    fn is_private(&self) -> bool {
        self.stream.is_private()
    }

    fn accept(mut self: Box<Self>, accept: Accept, old: Option<&Channel>) -> io::Result<Channel> {
        let largest = self.max_ring_bytes.max(1 << packet::RING_LOG2_MIN);
        let mut ring_bytes = self.request.ring_bytes.min(1 << largest.ilog2());
        let mut told = Offsets::default();
        let mut peer = Offsets::default();
        if let (Some(resumed), Some(old)) = (&self.request.resume, old) {
            ring_bytes = old.rx.size() as u32;
            told = resume::offsets(old)?;
            peer = resumed.offsets;
        } else if self.request.resume.is_some() || old.is_some() {
            return Err(io::Error::other(
                "a resumption needs the old channel, and nothing else does",
            ));
        }
        let region = Region::anonymous(ring_bytes)?;
        let rx = region.ring(Direction::ClientToServer);
        let tx = region.ring(Direction::ServerToClient);
        match old {
            Some(old) => resume::carry(old, &rx, &tx, told, peer)?,
            None => {
                rx.start_at(0);
                tx.start_at(0);
            }
        }
        super::tune(self.stream.socket(), self.peer, ring_bytes)?;
        let answer = self
            .request
            .accept(&accept, ring_bytes, told, self.signer.as_deref());
        // The first bytes that this side sends, or the second after a challenge: they always fit.
        if self.stream.send(&answer)? != answer.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        super::allow_naps(self.stream.socket())?;
        let start = Start {
            sent: peer.received,
            told: told.consumed,
        };
        let generation = accept.generation;
        let guard = Box::new(self.guard);
        // What the client is missing after a resumption goes out now.
        let wire = (self.stream).into_wire(generation, &rx, &tx, start, guard);
        Channel::new(Parts {
            rx: rx.consumer(),
            tx: tx.producer(),
            wire,
            bell: Box::new(EventBell::new()?),
            accept,
        })
    }

    fn reject(mut self: Box<Self>, reason: RejectReason) {
        self.stream.refuse(&packet::reject(reason, 0));
    }
}

fn listen(addr: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        // The IPv4 addresses are listed by themselves.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, addr)?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket)
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 host can choose its address from.
fn source_of(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        v4 => v4,
    }
}
