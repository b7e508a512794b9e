//! A connection before its channel stands: one owner, small messages, clear or by TLS.

use super::link::{Clear, Fault, Link};
use super::tls::TlsLink;
use super::wire::{Start, TcpWire};
use crate::via::Wire;
use crate::via::ring::Ring;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::any::Any;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

/// See the module's text.
pub enum Stream {
    /// As it is.
    Clear(Clear),
    /// By TLS, its handshake complete.
    Tls(Box<TlsLink>),
}

impl Stream {
    pub fn socket(&self) -> &Arc<OwnedFd> {
        self.link().socket()
    }

    pub fn is_private(&self) -> bool {
        self.link().is_private()
    }

    fn link(&self) -> &dyn Link {
        match self {
            Self::Clear(link) => link,
            Self::Tls(link) => &**link,
        }
    }

    /// Takes bytes and says how many; what a full socket has not taken of them goes with the next ones.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        loop {
            // SAFETY: `self` is held alone, and no other process has the link yet.
            match unsafe { self.link().send(&[IoSlice::new(bytes)]) } {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// Takes up to so many bytes as came, without waiting, and nothing that follows them from the socket.
    pub fn recv(&mut self, room: &mut [u8]) -> Result<usize, Fault> {
        loop {
            let mut room = [IoSliceMut::new(room)];
            // SAFETY: as above.
            match unsafe { self.link().recv(&mut room, RecvFlags::DONTWAIT) } {
                Err(Fault::System(Errno::INTR)) => {}
                result => return result,
            }
        }
    }

    /// Whether something is left of what was read: there must not be, since nobody would come for it.
    pub fn has_more(&mut self) -> bool {
        // SAFETY: as above.
        unsafe { self.link().holds() }
    }

    /// Sends the last bytes and ends the connection so that they arrive: with bytes of the peer unread, `close` alone would be a
    /// reset that can overtake them.
    pub fn refuse(&mut self, bytes: &[u8]) {
        let _ = self.send(bytes);
        // SAFETY: as above.
        unsafe { self.link().finish() };
        let _ = rustix::net::shutdown(self.socket(), rustix::net::Shutdown::Write);
        let _ = rustix::net::recv(&**self.socket(), &mut [0; 1024], RecvFlags::DONTWAIT);
    }

    /// The wire of the channel, with what the peer is missing after a resumption sent.
    pub fn into_wire(
        self,
        generation: u64,
        rx: &Ring,
        tx: &Ring,
        start: Start,
        guard: Box<dyn Any + Send + Sync>,
    ) -> Box<dyn Wire> {
        match self {
            Self::Clear(link) => begun(TcpWire::new(link, generation, rx, tx, start, guard)),
            Self::Tls(link) => {
                link.spare_no_more();
                begun(TcpWire::new(*link, generation, rx, tx, start, guard))
            }
        }
    }
}

fn begun<L: Link>(wire: TcpWire<L>) -> Box<dyn Wire> {
    wire.send_locked();
    Box::new(wire)
}
