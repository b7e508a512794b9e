//! The client's side: a connect in progress, from the address to the accept.

use super::cm::{Event, EventChannel, Id};
use super::dial::{Dialling, Unanswered};
use super::layout::*;
use super::link::{Link, Message, Trouble};
use super::load::library;
use super::message::{BARE_BYTES, Prefix, Window, private};
use super::wire::{RdmaWire, Rings, Start};
use crate::resolve::identity::random_bytes;
use crate::via::bell::{AppBell, Bell, NoBell};
use crate::via::channel::{Channel, Parts};
use crate::via::handshake::{ClientHandshake, ClientHello, ClientResume, Established, Offsets};
use crate::via::region::{Direction, Region};
use crate::via::{ConnectError, ConnectRequest, Connecting, Interest, Resume, resume};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::sync::Arc;
use std::task::Poll;

/// For each of address and route, milliseconds.
const RESOLVE_LIMIT_MS: i32 = 2000;
/// From the connection request to the accept, and again from the accepted connection to the node's word; seconds.
const STEP_LIMIT: i64 = 5;

/// See the module's text.
pub struct RdmaConnecting {
    stage: Stage,
    epoll: Arc<OwnedFd>,
    timer: OwnedFd,
    private: Vec<u8>,
    handshake: ClientHandshake,
    bell: Option<Arc<AppBell>>,
    /// The channel to be carried on, and what of it was told to the node.
    resume: Option<(Resume, Offsets)>,
    /// Largest ring that will do.
    ring_bytes: u32,
    /// Registered before the node is asked: where the limit on locked memory is too low, it never hears of us.
    rings: Option<Rings>,
    /// The node's receive ring, from its accept.
    pub(super) window: Window,
    addr: std::net::SocketAddr,
    /// See [`Connecting::scout`].
    silent: bool,
}

/// What is waited for.
enum Stage {
    /// The device; then the path (true).
    Resolving(Id, EventChannel, bool),
    /// A call that asks the node.
    Dialling(Dialling),
    /// The node's answer to the request.
    Asked(Unanswered),
    /// Messages.
    Talking(Link),
    Over,
}

impl RdmaConnecting {
    /// Asks for the device that reaches the address, and does not wait.
    pub fn begin(request: ConnectRequest) -> Result<Self, ConnectError> {
        let unavailable = |what: &str| {
            let what = what.to_owned();
            move |e: std::io::Error| ConnectError::Unavailable(format!("{what}: {e}"))
        };
        let library = library().map_err(ConnectError::Unavailable)?;
        let resume = match request.resume {
            Some(resume) => {
                let told = resume::offsets(&resume.old).map_err(failed("resume"))?;
                Some((resume, told))
            }
            None => None,
        };
        let ring_bytes = match &resume {
            Some((resume, _)) => resume.old.rx.size() as u32,
            None => request.ring_bytes,
        };
        // Those of the channel that is carried on may have been larger: nobody locked their memory.
        let ring_bytes = ring_bytes.min(super::RING_BYTES);
        if let Some((resume, _)) = &resume
            && !resume::fits(&resume.old, ring_bytes)
        {
            return Err(ConnectError::Unavailable(format!(
                "the channel holds more than the {ring_bytes} bytes of a ring of RDMA"
            )));
        }
        let private = private::Request::new(&request.server, request.min_generation).encode();
        let hello = ClientHello {
            server: request.server,
            node: request.node,
            min_generation: request.min_generation,
            patient: request.patient,
            warm: request.warm,
            pinned: request.pinned,
            ring_bytes,
            nonce: match request.nonce {
                Some(nonce) => nonce,
                None => random_bytes().map_err(|e| ConnectError::Failed(e.to_string()))?,
            },
            boot_id: [0; 16],
            resume: resume.as_ref().map(|(resume, told)| ClientResume {
                channel_id: resume.channel_id,
                secret: resume.secret,
                offsets: *told,
            }),
        };
        let addr = request.endpoint.addr;
        let channel = EventChannel::new(library).map_err(unavailable("rdma_cm"))?;
        let epoll = Link::watch(&channel).map_err(failed("epoll"))?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map(crate::fd::move_high)
            .map_err(failed("timer"))?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&epoll, &timer, data, epoll::EventFlags::IN).map_err(failed("epoll"))?;
        let id = Id::new(&channel).map_err(unavailable("rdma_cm"))?;
        id.set_ack_timeout(super::ACK_TIMEOUT);
        id.resolve_addr(&addr, RESOLVE_LIMIT_MS)
            .map_err(unavailable(&format!("no RDMA device reaches {addr}")))?;
        Ok(Self {
            stage: Stage::Resolving(id, channel, false),
            epoll: Arc::new(epoll),
            timer,
            private,
            handshake: ClientHandshake::new(hello),
            bell: request.bell,
            resume,
            ring_bytes,
            rings: None,
            window: Window::default(),
            addr,
            silent: false,
        })
    }

    /// The link when the node has accepted. `Ok(None)`: wait for [`Connecting::wait_fd`].
    pub(super) fn step(&mut self) -> Result<Option<(Link, Established)>, ConnectError> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Resolving(id, channel, routed) => {
                    let Some(event) = channel.next().map_err(failed("rdma_cm"))? else {
                        self.stage = Stage::Resolving(id, channel, routed);
                        return Ok(None);
                    };
                    self.stage = self.resolved(id, channel, &event)?;
                }
                Stage::Dialling(dialling) => match dialling.take(&self.epoll) {
                    Some(asked) => {
                        let asked = asked.map_err(failed(&format!("connect to {}", self.addr)))?;
                        self.stage = Stage::Asked(asked);
                    }
                    None => {
                        self.stage = Stage::Dialling(dialling);
                        return self.in_time();
                    }
                },
                Stage::Asked(asked) => {
                    let Some(event) = asked.event().map_err(failed("rdma_cm"))? else {
                        self.stage = Stage::Asked(asked);
                        return self.in_time();
                    };
                    let Some(link) = asked.answered() else {
                        continue;
                    };
                    if event.kind != RDMA_CM_EVENT_ESTABLISHED {
                        return Err(refused(&event, link.describe(&event), self.addr));
                    }
                    self.set_timer()?;
                    if self.silent {
                        self.stage = Stage::Talking(link);
                        return Ok(None);
                    }
                    self.speak(&link)?;
                    self.stage = Stage::Talking(link);
                }
                Stage::Talking(link) => match self.listen(&link)? {
                    Some(established) => return Ok(Some((link, established))),
                    None => {
                        self.stage = Stage::Talking(link);
                        return self.in_time();
                    }
                },
                Stage::Over => return Err(ConnectError::Failed("the connect is over".into())),
            }
        }
    }

    fn resolved(
        &mut self,
        id: Id,
        channel: EventChannel,
        event: &Event,
    ) -> Result<Stage, ConnectError> {
        match event.kind {
            RDMA_CM_EVENT_ADDR_RESOLVED => {
                id.resolve_route(RESOLVE_LIMIT_MS)
                    .map_err(failed("rdma_resolve_route"))?;
                Ok(Stage::Resolving(id, channel, true))
            }
            RDMA_CM_EVENT_ROUTE_RESOLVED => {
                let epoll = rustix::io::fcntl_dupfd_cloexec(&*self.epoll, 0)
                    .map(crate::fd::move_high)
                    .map_err(failed("epoll"))?;
                let link = Link::new(id, channel, epoll).map_err(|e| {
                    ConnectError::Unavailable(format!("queue pair to {}: {e}", self.addr))
                })?;
                self.rings = Some(rings(&link, self.ring_bytes)?);
                self.set_timer()?;
                let asking = format!("connect to {}", self.addr);
                // The one kind that has it (RoCE, InfiniBand) asks by a message.
                if !link.pair().immediates() {
                    let private = std::mem::take(&mut self.private);
                    let dialling = Dialling::begin(link, private, &self.epoll);
                    return dialling.map(Stage::Dialling).map_err(failed(&asking));
                }
                link.id().connect(&self.private).map_err(failed(&asking))?;
                Ok(Stage::Asked(Unanswered::new(link)))
            }
            RDMA_CM_EVENT_ADDR_ERROR | RDMA_CM_EVENT_ROUTE_ERROR => Err(ConnectError::Unavailable(
                format!("no RDMA path to {}: {}", self.addr, channel.describe(event)),
            )),
            _ => Err(ConnectError::Failed(channel.describe(event))),
        }
    }

    /// Sends what the handshake has to say.
    fn speak(&mut self, link: &Link) -> Result<(), ConnectError> {
        let out = self.handshake.output();
        if !out.is_empty() {
            let n = out.len();
            link.send_packet(out, Window::default())
                .map_err(failed("send"))?;
            self.handshake.sent(n);
        }
        Ok(())
    }

    /// Takes the node's messages, and answers.
    fn listen(&mut self, link: &Link) -> Result<Option<Established>, ConnectError> {
        loop {
            let mut established = None;
            let n = link.poll(|message| self.hear(link, message, &mut established))?;
            if established.is_some() {
                return Ok(established);
            }
            self.speak(link)?;
            if n == 0 {
                link.check_events()?;
                return Ok(None);
            }
        }
    }

    fn hear(
        &mut self,
        link: &Link,
        message: Message<'_>,
        established: &mut Option<Established>,
    ) -> Result<(), ConnectError> {
        let impossible = |text: String| ConnectError::Failed(format!("the node's answer: {text}"));
        let Message::Packet(bytes) = message else {
            return Err(impossible("stream bytes before the accept".into()));
        };
        let (prefix, packet) = Prefix::decode(bytes).map_err(|e| impossible(e.0))?;
        if !link.credit.heard(prefix.received) {
            return Err(impossible(format!(
                "received {} messages, which were not sent",
                prefix.received
            )));
        }
        if established.is_some() || bytes.len() < BARE_BYTES {
            return Err(impossible(format!("{} bytes", bytes.len())));
        }
        *established = self.handshake.feed(packet)?;
        if established.is_some() {
            if prefix.window == Window::default() {
                return Err(impossible("an accept without a receive ring".into()));
            }
            self.window = prefix.window;
        }
        Ok(())
    }

    fn channel(&mut self, link: Link, established: Established) -> Result<Channel, ConnectError> {
        let granted = established.ring_bytes;
        let rings = match self.rings.take() {
            Some(rings) if rings.rx.consumer().size() == granted as usize => rings,
            larger => {
                drop(larger);
                rings(&link, granted)?
            }
        };
        let mut told = 0;
        match self.resume.take() {
            Some((resume, here)) => {
                resume::carry(&resume.old, &rings.rx, &rings.tx, here, established.peer)
                    .map_err(failed("resume"))?;
                told = here.consumed;
            }
            None => {
                rings.rx.start_at(0);
                rings.tx.start_at(0);
            }
        }
        let start = Start {
            sent: established.peer.received,
            told,
            window: Some(self.window),
        };
        let (rx, tx) = (rings.rx.consumer(), rings.tx.producer());
        let generation = established.accept.generation;
        let _ = epoll::delete(&*self.epoll, &self.timer);
        let wire = RdmaWire::new(link, generation, rings, start, Box::new(()));
        // Our ring must be known to the node before it can say anything; and what it is missing after a resumption.
        wire.send();
        let bell: Box<dyn Bell> = match self.bell.take() {
            Some(bell) => Box::new(bell),
            None => Box::new(NoBell),
        };
        Channel::new(Parts {
            rx,
            tx,
            wire: Box::new(wire),
            bell,
            accept: established.accept,
        })
        .map_err(failed("channel"))
    }

    fn set_timer(&self) -> Result<(), ConnectError> {
        let spec = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: STEP_LIMIT,
                tv_nsec: 0,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).map_err(failed("timer"))?;
        Ok(())
    }

    fn in_time<T>(&self) -> Result<Option<T>, ConnectError> {
        match rustix::io::read(&self.timer, &mut [0; 8]) {
            Ok(_) => Err(ConnectError::Failed(format!(
                "no answer of {} within {STEP_LIMIT} s",
                self.addr
            ))),
            Err(_) => Ok(None),
        }
    }
}

impl Connecting for RdmaConnecting {
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: false,
        }
    }

    fn advance(&mut self) -> Poll<Result<Channel, ConnectError>> {
        let channel = match self.step() {
            Ok(Some((link, established))) => self.channel(link, established),
            Ok(None) => return Poll::Pending,
            Err(e) => Err(e),
        };
        match channel {
            Ok(channel) => Poll::Ready(Ok(channel)),
            Err(e) => {
                self.stage = Stage::Over;
                Poll::Ready(Err(e))
            }
        }
    }

    fn scout(&mut self) -> Poll<Result<(), ConnectError>> {
        self.silent = true;
        match self.step() {
            Err(e) => Poll::Ready(Err(e)),
            Ok(_) if matches!(self.stage, Stage::Talking(_)) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
        }
    }
}

impl From<Trouble> for ConnectError {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(format!(
            "the connection ended before the accept: {}",
            trouble.0
        ))
    }
}

fn rings(link: &Link, bytes: u32) -> Result<Rings, ConnectError> {
    let region = Region::anonymous(bytes).map_err(failed("rings"))?;
    let to_server = Direction::ClientToServer;
    Rings::register(link, &region, to_server, Direction::ServerToClient)
        .map_err(|e| ConnectError::Unavailable(format!("rings: {e}")))
}

/// The request did not come to a connection.
fn refused(event: &Event, text: String, addr: std::net::SocketAddr) -> ConnectError {
    match private::refused(&event.private_data) {
        Some(reason) if event.kind == RDMA_CM_EVENT_REJECTED => ConnectError::Rejected(reason),
        _ => ConnectError::Failed(format!("connect to {addr}: {text}")),
    }
}

fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> ConnectError {
    let what = what.to_owned();
    move |e| ConnectError::Failed(format!("{what}: {e}"))
}
