//! The client's side of the handshake.

use super::control::{self, Control};
use super::{PeerBell, ShmWire, boot_id, nonce, refill, socket_path};
use crate::via::bell::{Bell, EventBell, NoBell};
use crate::via::channel::{Channel, Parts};
use crate::via::handshake::{ClientHandshake, ClientHello, ClientResume, Established, Offsets};
use crate::via::packet::{self, Header, Type};
use crate::via::region::{Direction, Region};
use crate::via::{ConnectError, ConnectRequest, Connecting, Interest};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::sync::Arc;
use std::task::Poll;

/// A connect in progress.
pub(super) struct ShmConnecting {
    control: Arc<OwnedFd>,
    handshake: ClientHandshake,
    request: ConnectRequest,
    fds: Vec<OwnedFd>,
}

impl ShmConnecting {
    /// Connects to the daemon's socket and writes the request.
    pub(super) fn begin(request: ConnectRequest) -> Result<Self, ConnectError> {
        let unavailable = ConnectError::Unavailable;
        let path = socket_path(&request.shm_dir, &request.node).map_err(unavailable)?;
        let shown = path.display();
        let address =
            SocketAddrUnix::new(&path).map_err(|e| unavailable(format!("{shown}: {e}")))?;
        let system = |e: std::io::Error| unavailable(e.to_string());
        let control = crate::fd::move_high(control::unix_stream().map_err(system)?);
        match rustix::net::connect(&control, &address) {
            Ok(()) => {}
            // The socket is there and its owner is not: this node's daemon is dead.
            Err(e @ Errno::CONNREFUSED) => {
                return Err(ConnectError::Failed(format!("{shown}: {e}")));
            }
            Err(e @ Errno::AGAIN) => {
                return Err(ConnectError::Failed(format!(
                    "{shown}: too many connects wait there ({e})"
                )));
            }
            Err(e) => return Err(unavailable(format!("{shown}: {e}"))),
        }
        let resume = request.resume.as_ref().map(|resume| {
            let consumed = resume.old.consumed();
            ClientResume {
                channel_id: resume.channel_id,
                secret: resume.secret,
                // Unread bytes of the old memory come again, in the new one.
                offsets: Offsets {
                    consumed,
                    received: consumed,
                },
            }
        });
        let ring_bytes = match &request.resume {
            Some(resume) => resume.old.tx.size() as u32,
            None => request.ring_bytes,
        };
        let handshake = ClientHandshake::new(ClientHello {
            server: request.server.clone(),
            node: request.node.clone(),
            min_generation: request.min_generation,
            patient: request.patient,
            warm: request.warm,
            pinned: request.pinned,
            ring_bytes,
            nonce: match request.nonce {
                Some(nonce) => nonce,
                None => nonce().map_err(system)?,
            },
            boot_id: boot_id().map_err(system)?,
            resume,
        });
        Ok(Self {
            control: Arc::new(control),
            handshake,
            request,
            fds: Vec::new(),
        })
    }

    fn step(&mut self) -> Result<Option<Channel>, ConnectError> {
        loop {
            while !self.handshake.output().is_empty() {
                match control::send(self.control.as_fd(), self.handshake.output(), &[]) {
                    Ok(n) => self.handshake.sent(n),
                    // A daemon that refuses at once says why before it hangs up.
                    Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => break,
                    Err(e) => return Err(failed(format!("writing the request: {e}"))),
                }
            }
            let mut buffer = vec![0; self.handshake.want()];
            let n = match control::receive(self.control.as_fd(), &mut buffer, &mut self.fds) {
                Ok(0) => return Err(failed("the node hung up before it accepted")),
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(failed(format!("reading the answer: {e}"))),
            };
            if let Some(established) = self.handshake.feed(&buffer[..n])? {
                return self.finish(established).map(Some);
            }
        }
    }

    fn finish(&mut self, established: Established) -> Result<Channel, ConnectError> {
        let Ok([memory, event]) = <[OwnedFd; 2]>::try_from(std::mem::take(&mut self.fds)) else {
            return Err(failed("the accept must come with two descriptors"));
        };
        let region = Region::open_sealed(memory, established.ring_bytes)
            .map_err(|e| failed(e.to_string()))?;
        if region.ring_bytes() != established.ring_bytes {
            return Err(failed(format!(
                "ring of {} bytes in the memory, {} in the accept",
                region.ring_bytes(),
                established.ring_bytes
            )));
        }
        let tx = region.ring(Direction::ClientToServer).producer();
        let rx = region.ring(Direction::ServerToClient).consumer();
        let resumed = self.request.resume.as_ref().map(|r| &r.old);
        let starts = resumed.map_or(0, |old| old.consumed());
        if rx.head() != starts || tx.tail() != established.peer.consumed {
            return Err(failed(format!(
                "the memory begins at {} and {}, must begin at {} and {starts}",
                tx.tail(),
                rx.head(),
                established.peer.consumed,
            )));
        }
        if let Some(old) = resumed {
            refill(&old.tx, &tx, established.peer.received).map_err(failed)?;
        }
        let bell = self.request.bell.take();
        let fds = bell.iter().map(|b| b.far.as_fd()).collect::<Vec<_>>();
        let hello = packet::packet(Header::new(Type::KeepAlive), &[]);
        control::send(self.control.as_fd(), &hello, &fds)
            .map_err(|e| failed(format!("handing over the bell: {e}")))?;
        let bell: Box<dyn Bell> = match bell {
            Some(bell) => Box::new(bell),
            None => Box::new(NoBell),
        };
        let wire = ShmWire {
            control: Control::new(Arc::clone(&self.control)),
            peer: PeerBell::Node(EventBell {
                event: Arc::new(crate::fd::move_high(event)),
            }),
            _slot: None,
        };
        Channel::new(Parts {
            rx,
            tx,
            wire: Box::new(wire),
            bell,
            accept: established.accept,
        })
        .map_err(|e| failed(e.to_string()))
    }
}

impl Connecting for ShmConnecting {
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: !self.handshake.output().is_empty(),
        }
    }

    fn advance(&mut self) -> Poll<Result<Channel, ConnectError>> {
        match self.step() {
            Ok(Some(channel)) => Poll::Ready(Ok(channel)),
            Ok(None) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}

fn failed(text: impl Into<String>) -> ConnectError {
    ConnectError::Failed(text.into())
}
