//! Transport `plain`: an ordinary TCP connection to the SQL server, behind the same channel as the others, so that naming
//! and connect-time failover work where no node daemon exists. No packets, no acknowledgements of the reader, nothing to
//! resume: what the kernel took counts as delivered.

use crate::via::bell::{Bell, NoBell};
use crate::via::channel::{Channel, Parts, Wire};
use crate::via::region::{Direction, Region};
use crate::via::ring::{RingConsumer, RingProducer};
use crate::via::{
    Accept, Broken, ConnectError, ConnectRequest, Connecting, EndReason, Interest, ListenConfig,
    Listener, Provider, Transport,
};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

/// Bytes of one read.
const PIECE: usize = 65_536;

/// See the module's text.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainProvider;

impl Provider for PlainProvider {
    fn transport(&self) -> Transport {
        Transport::Plain
    }

    fn connect(&self, request: ConnectRequest) -> Result<Box<dyn Connecting>, ConnectError> {
        let family = match request.endpoint.addr.is_ipv4() {
            true => AddressFamily::INET,
            false => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .map_err(failed("socket"))?;
        let socket = crate::fd::move_high(socket);
        match rustix::net::connect(&socket, &request.endpoint.addr) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(error) => return Err(failed("connect")(error)),
        }
        Ok(Box::new(PlainConnecting {
            socket: Some(socket),
            request,
        }))
    }

    fn listen(&self, _config: &ListenConfig) -> io::Result<Box<dyn Listener>> {
        // The SQL server itself listens.
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct PlainConnecting {
    /// `None` once the channel was made of it.
    socket: Option<OwnedFd>,
    request: ConnectRequest,
}

impl PlainConnecting {
    fn channel(&mut self, socket: OwnedFd) -> Result<Channel, ConnectError> {
        sockopt::socket_error(&socket)
            .map_err(failed("connect"))?
            .map_err(failed("connect"))?;
        let region = Region::anonymous(self.request.ring_bytes).map_err(failed("rings"))?;
        let rx = region.ring(Direction::ServerToClient);
        let tx = region.ring(Direction::ClientToServer);
        rx.start_at(0);
        tx.start_at(0);
        let wire = PlainWire::new(socket, rx.producer(), tx.consumer()).map_err(failed("epoll"))?;
        let bell: Box<dyn Bell> = match self.request.bell.take() {
            Some(bell) => Box::new(bell),
            None => Box::new(NoBell),
        };
        let accept = Accept {
            node: self.request.node.clone(),
            generation: self.request.min_generation,
            cluster_id: [0; 16],
            channel_id: 0,
            resume_secret: [0; 32],
            authentic: false,
        };
        Channel::new(Parts {
            rx: rx.consumer(),
            tx: tx.producer(),
            wire: Box::new(wire),
            bell,
            accept,
        })
        .map_err(failed("channel"))
    }
}

impl Connecting for PlainConnecting {
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket
            .as_ref()
            .expect("asked only while it is pending")
            .as_fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: false,
            write: true,
        }
    }

    fn advance(&mut self) -> Poll<Result<Channel, ConnectError>> {
        let Some(socket) = self.socket.take() else {
            return Poll::Ready(Err(ConnectError::Failed("used up".into())));
        };
        let ready = {
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n| n > 0)
        };
        if !ready {
            self.socket = Some(socket);
            return Poll::Pending;
        }
        Poll::Ready(self.channel(socket))
    }
}

/// The socket is watched through an epoll set of its own, edge-triggered: so a full ring does not make the waiting
/// descriptor ready again and again, and what stopped for want of room goes on when the reader has made some.
struct PlainWire {
    socket: OwnedFd,
    edges: OwnedFd,
    rx: RingProducer,
    tx: RingConsumer,
    /// One thread reads the socket at a time.
    reading: AtomicBool,
    /// There may be more in the socket than the ring had room for.
    stopped: AtomicBool,
    fin_sent: AtomicBool,
    /// Why it broke. A socket tells its error once; afterwards its reads say "end of stream", which it is not.
    broken: OnceLock<Broken>,
    /// Why nothing can be written any more; what the server said before may still be read.
    unwritable: OnceLock<Broken>,
}

impl PlainWire {
    fn new(socket: OwnedFd, rx: RingProducer, tx: RingConsumer) -> io::Result<Self> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        let edges = crate::fd::move_high(epoll::create(CreateFlags::CLOEXEC)?);
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&edges, &socket, EventData::new_u64(0), events)?;
        Ok(Self {
            socket,
            edges,
            rx,
            tx,
            reading: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            fin_sent: AtomicBool::new(false),
            broken: OnceLock::new(),
            unwritable: OnceLock::new(),
        })
    }

    /// Reads until the socket is empty or the ring is full.
    fn read_all(&self) -> Result<bool, Broken> {
        let mut moved = false;
        while !self.rx.finished() {
            if let Some(broken) = self.broken.get() {
                return Err(broken.clone());
            }
            if self.reading.swap(true, Ordering::Acquire) {
                // The other one may have looked before us; it, or whoever comes next, looks again.
                self.stopped.store(true, Ordering::SeqCst);
                return Ok(moved);
            }
            self.stopped.store(false, Ordering::SeqCst);
            let result = self.rx.read_from(&self.socket, PIECE);
            if let Ok(0) = result {
                match self.unwritable.get() {
                    None => self.rx.finish(),
                    Some(why) => _ = self.broken.set(why.clone()),
                }
            }
            self.reading.store(false, Ordering::Release);
            match result {
                Ok(_) => moved = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.rx.room()? > 0 && !self.stopped.load(Ordering::SeqCst) {
                        return Ok(moved);
                    }
                    self.stopped.store(true, Ordering::SeqCst);
                    if self.rx.room()? == 0 {
                        return Ok(moved);
                    }
                }
                Err(e) => {
                    let _ = self.broken.set(Broken::Transport(format!("read: {e}")));
                }
            }
        }
        Ok(moved)
    }

    fn write_all(&self) -> Result<bool, Broken> {
        let mut moved = false;
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = self.tx.with_spans(0, usize::MAX / 2, |spans| {
                let mut none = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(&self.socket, spans, &mut none, flags)?)
            });
            match sent {
                Ok(n) => {
                    self.tx.consume(n);
                    moved = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    let why = || Broken::Transport(format!("write: {e}"));
                    return Err(self.unwritable.get_or_init(why).clone());
                }
            }
        }
        if self.tx.finished()
            && self.tx.available()? == 0
            && !self.fin_sent.swap(true, Ordering::AcqRel)
        {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
        Ok(moved)
    }
}

impl Wire for PlainWire {
    fn transport(&self) -> Transport {
        Transport::Plain
    }

    fn drive_rx(&self, _channel: &Channel) -> Result<bool, Broken> {
        // Takes the edges, so that the set is quiet until something new happens.
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
        let _ = epoll::wait(&self.edges, &mut events, Some(&Timespec::default()));
        self.read_all()
    }

    fn drive_tx(&self, _channel: &Channel) -> Result<bool, Broken> {
        let mut moved = self.write_all()?;
        if self.stopped.load(Ordering::SeqCst) {
            moved |= self.read_all()?;
        }
        Ok(moved)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.edges.as_fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: false,
        }
    }

    fn end(&self, _channel: &Channel, _reason: EndReason) {
        self.cut();
    }

    fn after_fork(&self) {
        self.reading.store(false, Ordering::Release);
    }

    fn cut(&self) {
        let cut = Broken::Transport("the connection was cut".into());
        let _ = self.broken.set(cut);
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> ConnectError {
    move |e| ConnectError::Failed(format!("{what}: {e}"))
}

#[cfg(test)]
mod tests;
