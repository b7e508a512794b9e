//! What the packets of a connection go through: the socket itself, or records of TLS over it. Chosen once for each connection; the
//! wire is compiled for each.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

/// Why nothing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The system call's.
    System(Errno),
    /// The peer's bytes cannot be: the connection is of no use any more.
    Broken(&'static str),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System(errno) => errno.fmt(f),
            Self::Broken(text) => f.write_str(text),
        }
    }
}

/// A stream of bytes over a connected socket. Never waits, but for a [`Link::recv`] that is not told to not wait.
///
/// # Safety
/// Of all methods that send ([`Link::send`], [`Link::flush`], [`Link::finish`]) one runs at a time, and of all that receive
/// ([`Link::recv`], [`Link::holds`], [`Link::is_drained`]), among all threads and forked processes that have the link. Each is
/// marked so. Once a thread ended in the middle of one, none is called any more.
pub trait Link: Send + Sync + 'static {
    /// The socket, to be waited for.
    fn socket(&self) -> &Arc<OwnedFd>;

    /// Nobody between the two ends can read or change what passes.
    fn is_private(&self) -> bool;

    /// Takes bytes, and says how many: what it has taken is sent, by a later call if need be.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize, Errno>;

    /// Sends what was taken; `AGAIN` where the socket has no room for all of it.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn flush(&self) -> Result<(), Errno>;

    /// Nothing is sent any more.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn finish(&self);

    /// Puts bytes that came into the slices; 0 is the end.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn recv(&self, slices: &mut [IoSliceMut<'_>], flags: RecvFlags) -> Result<usize, Fault>;

    /// There is something that [`Link::recv`] gives without a look at the socket, which need not be readable for it.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn holds(&self) -> bool;

    /// Whether a [`Link::recv`] that gave `n` bytes where `asked` had room left nothing behind.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn is_drained(&self, n: usize, asked: usize) -> bool;
}

/// The socket itself.
pub struct Clear(pub Arc<OwnedFd>);

impl Link for Clear {
    fn socket(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    fn is_private(&self) -> bool {
        false
    }

    #[inline]
    unsafe fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, slices, &mut SendAncillaryBuffer::default(), flags)
    }

    #[inline]
    unsafe fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    #[inline]
    unsafe fn finish(&self) {}

    #[inline]
    unsafe fn recv(&self, slices: &mut [IoSliceMut<'_>], flags: RecvFlags) -> Result<usize, Fault> {
        if let [one] = slices {
            return Ok(rustix::net::recv(&self.0, &mut **one, flags)?.0);
        }
        let mut nothing = RecvAncillaryBuffer::default();
        Ok(rustix::net::recvmsg(&self.0, slices, &mut nothing, flags)?.bytes)
    }

    #[inline]
    unsafe fn holds(&self) -> bool {
        false
    }

    #[inline]
    unsafe fn is_drained(&self, n: usize, asked: usize) -> bool {
        n < asked
    }
}
