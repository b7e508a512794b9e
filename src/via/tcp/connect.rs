//! The client's side: a connect in progress, from the first SYN over the handshake of TLS to the accept.

use super::link::{Clear, Fault};
use super::stream::Stream;
use super::tls::{self, Refused};
use super::wire::Start;
use crate::resolve::identity::random_bytes;
use crate::via::bell::{Bell, NoBell};
use crate::via::channel::{Channel, Parts};
use crate::via::handshake::{ClientHandshake, ClientHello, ClientResume, Established, Offsets};
use crate::via::region::{Direction, Region};
use crate::via::{ConnectError, ConnectRequest, Connecting, Interest, Resume, Tls, resume};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::sync::Arc;
use std::task::Poll;

/// See the module's text.
pub struct TcpConnecting {
    /// Shared with the wire once it stands: the caller may still watch it.
    socket: Arc<OwnedFd>,
    /// The kernel's own handshake is not over.
    syn: bool,
    /// Under way, or still to come.
    tls: Option<tls::Handshake>,
    /// What the packets go through, once there is no `tls` any more.
    stream: Stream,
    handshake: ClientHandshake,
    bell: Option<Arc<crate::via::bell::AppBell>>,
    /// The channel to be carried on, and what of it was told to the node.
    resume: Option<(Resume, Offsets)>,
}

impl TcpConnecting {
    /// Sends the SYN and does not wait.
    pub fn begin(request: ConnectRequest) -> Result<Self, ConnectError> {
        let addr = request.endpoint.addr;
        let tls = match (request.tls, request.pinned) {
            (Tls::Off, _) | (Tls::Auto, None) => None,
            (Tls::Require, None) => {
                return Err(ConnectError::Unavailable(
                    "tls = \"require\", and no public_key is pinned".into(),
                ));
            }
            (_, Some(key)) => Some(tls::Handshake::connect(key, addr.ip()).map_err(failed("TLS"))?),
        };
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
        let family = match addr {
            std::net::SocketAddr::V4(_) => AddressFamily::INET,
            std::net::SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = rustix::net::socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )
        .map(crate::fd::move_high)
        .map_err(failed("socket"))?;
        super::tune(&socket, addr, ring_bytes).map_err(failed("socket options"))?;
        let syn = match rustix::net::connect(&socket, &addr) {
            Ok(()) => false,
            Err(Errno::INPROGRESS | Errno::INTR) => true,
            Err(e) => return Err(failed(&format!("connect to {addr}"))(e)),
        };
        let socket = Arc::new(socket);
        Ok(Self {
            stream: Stream::Clear(Clear(Arc::clone(&socket))),
            socket,
            syn,
            tls,
            handshake: ClientHandshake::new(hello),
            bell: request.bell,
            resume,
        })
    }

    /// False: the kernel's own handshake is not over.
    fn stands(&mut self) -> Result<bool, ConnectError> {
        if self.syn && is_writable(&self.socket)? {
            sockopt::socket_error(&self.socket)
                .map_err(failed("connect"))?
                .map_err(failed("connect"))?;
            self.syn = false;
        }
        Ok(!self.syn)
    }

    /// `Ok(None)`: wait for [`Connecting::interest`].
    fn step(&mut self) -> Result<Option<Channel>, ConnectError> {
        if !self.stands()? {
            return Ok(None);
        }
        if let Some(tls) = &mut self.tls {
            if !tls.advance(&self.socket).map_err(refused)? {
                return Ok(None);
            }
            if let Some(tls) = self.tls.take() {
                let link = tls.finish(Arc::clone(&self.socket));
                self.stream = Stream::Tls(Box::new(link.map_err(failed("TLS"))?));
            }
        }
        loop {
            while !self.handshake.output().is_empty() {
                match self.stream.send(self.handshake.output()) {
                    Ok(n) => self.handshake.sent(n),
                    Err(Errno::AGAIN) => return Ok(None),
                    // The node may have said why before it closed: read on.
                    Err(Errno::PIPE | Errno::CONNRESET) => break,
                    Err(e) => return Err(failed("send")(e)),
                }
            }
            let mut buffer = [0; 1024];
            let want = self.handshake.want().min(buffer.len());
            match self.stream.recv(&mut buffer[..want]) {
                Ok(0) => {
                    return Err(ConnectError::Failed(
                        "the node ended the connection before it accepted".into(),
                    ));
                }
                Ok(n) => {
                    if let Some(established) = self.handshake.feed(&buffer[..n])? {
                        return self.channel(established).map(Some);
                    }
                }
                Err(Fault::System(Errno::AGAIN)) => return Ok(None),
                Err(e) => return Err(failed("read")(e)),
            }
        }
    }

    fn channel(&mut self, established: Established) -> Result<Channel, ConnectError> {
        if self.stream.has_more() {
            return Err(ConnectError::Failed("bytes in the accept's record".into()));
        }
        let region = Region::anonymous(established.ring_bytes).map_err(failed("rings"))?;
        let rx = region.ring(Direction::ServerToClient);
        let tx = region.ring(Direction::ClientToServer);
        let mut told = 0;
        match self.resume.take() {
            Some((resume, here)) => {
                resume::carry(&resume.old, &rx, &tx, here, established.peer)
                    .map_err(failed("resume"))?;
                told = here.consumed;
            }
            None => {
                rx.start_at(0);
                tx.start_at(0);
            }
        }
        let start = Start {
            sent: established.peer.received,
            told,
        };
        super::allow_naps(&self.socket).map_err(failed("socket options"))?;
        let generation = established.accept.generation;
        let clear = Stream::Clear(Clear(Arc::clone(&self.socket)));
        let stream = std::mem::replace(&mut self.stream, clear);
        // What the node is missing after a resumption goes out now: nobody may have anything new to send.
        let wire = stream.into_wire(generation, &rx, &tx, start, Box::new(()));
        let bell: Box<dyn Bell> = match self.bell.take() {
            Some(bell) => Box::new(bell),
            None => Box::new(NoBell),
        };
        Channel::new(Parts {
            rx: rx.consumer(),
            tx: tx.producer(),
            wire,
            bell,
            accept: established.accept,
        })
        .map_err(failed("channel"))
    }
}

impl Connecting for TcpConnecting {
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: !self.syn,
            write: self.syn
                || match &self.tls {
                    Some(tls) => tls.wants_write(),
                    None => !self.handshake.output().is_empty(),
                },
        }
    }

    fn advance(&mut self) -> Poll<Result<Channel, ConnectError>> {
        match self.step() {
            Ok(Some(channel)) => Poll::Ready(Ok(channel)),
            Ok(None) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    fn scout(&mut self) -> Poll<Result<(), ConnectError>> {
        match self.stands() {
            Ok(false) => Poll::Pending,
            stands => Poll::Ready(stands.map(drop)),
        }
    }
}

fn is_writable(socket: &OwnedFd) -> Result<bool, ConnectError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(failed("poll")(e)),
    }
}

fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> ConnectError {
    let what = what.to_owned();
    move |e| ConnectError::Failed(format!("{what}: {e}"))
}

fn refused(refused: Refused) -> ConnectError {
    match refused {
        Refused::Failed(text) => ConnectError::Failed(text),
        Refused::NotAuthentic(text) => ConnectError::NotAuthentic(text),
    }
}
