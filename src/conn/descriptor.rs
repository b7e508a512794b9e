//! The pair of sockets behind a connection.

use crate::error::{Error, Result};
use crate::fd::move_high;
use crate::via::bell::{AppBell, Bell};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{FdFlags, fcntl_setfd};
use std::sync::Arc;

/// A fresh pair: the application's end (not yet writable), the bell over it, and the end's device and inode.
pub fn pair(nonblocking: bool, cloexec: bool) -> Result<(OwnedFd, Arc<AppBell>, (u64, u64))> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::system("socketpair", e))?;
    let far = Arc::new(move_high(far));
    let bell = AppBell::new(near.as_raw_fd(), far).map_err(|e| Error::system("the bell", e))?;
    bell.block_writes();
    if nonblocking {
        rustix::io::ioctl_fionbio(&near, true).map_err(|e| Error::system("FIONBIO", e))?;
    }
    if !cloexec {
        fcntl_setfd(&near, FdFlags::empty()).map_err(|e| Error::system("F_SETFD", e))?;
    }
    let inode = inode(near.as_fd()).map_err(|e| Error::system("fstat", e))?;
    Ok((near, Arc::new(bell), inode))
}

/// What tells one open socket from another.
pub fn inode(fd: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}
