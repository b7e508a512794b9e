//! Putting a connection in the place of an application's own socket: the number, its flags, the epoll sets that watch
//! it, and its other names in the process.
//!
//! A registration that was made before would be lost with the socket, and with it every event that the application waits
//! for. So where it cannot be made again (its events and data are only in `/proc`), the connect fails and says why.

mod numbers;

use super::{descriptor, reactor};
use crate::error::{Error, Kind, Result};
use numbers::{Registration, Watched, epoll_sets, open_numbers, watched};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::{FdFlags, fcntl_getfd};
use std::os::fd::IntoRawFd;

/// Makes `near` be the number `fd`, which was the socket `inode` when the connect began, and every other name that the socket of `fd` has in this process, with the flags
/// they have, and registers them where the socket was registered. Returns all numbers, `fd` first. An error before
/// anything was changed where a registration would be lost.
pub fn put_in_place(fd: RawFd, inode: (u64, u64), near: OwnedFd) -> Result<Vec<RawFd>> {
    // SAFETY: the application's own number, which it is inside a call on.
    let old = unsafe { BorrowedFd::borrow_raw(fd) };
    let status = rustix::fs::fcntl_getfl(old).map_err(|e| Error::system("F_GETFL", e))?;
    rustix::fs::fcntl_setfl(&near, status).map_err(|e| Error::system("F_SETFL", e))?;
    if descriptor::inode(old) != Ok(inode) {
        return Err(closed());
    }
    let others = open_numbers();
    let mut names: Vec<RawFd> = others
        .iter()
        .copied()
        .filter(|n| *n != fd && same(*n, fd, inode))
        .collect();
    names.insert(0, fd);
    let mut sets = epoll_sets(&others).map_err(|e| Error::system("eventfd", e))?;
    sets.retain(|set| !reactor::is_own_set(*set));
    let found = names.iter().map(|name| registrations(*name, &sets));
    let found = found.collect::<Result<Vec<_>>>()?;
    let mut replaced = Vec::new();
    for (name, registrations) in names.iter().zip(found) {
        // SAFETY: a number found just now; one closed meanwhile gives EBADF.
        if descriptor::inode(unsafe { BorrowedFd::borrow_raw(*name) }) == Ok(inode) {
            replace(*name, near.as_fd(), &registrations)?;
            replaced.push(*name);
        } else if *name == fd {
            return Err(closed());
        }
    }
    Ok(replaced)
}

/// Another thread has closed the number meanwhile; it may be somebody else's file by now.
fn closed() -> Error {
    let text = "the descriptor was closed by another thread while it was being connected";
    Error::new(Kind::BadDescriptor, text)
}

/// Where `name` is registered.
fn registrations(name: RawFd, sets: &[RawFd]) -> Result<Vec<Registration>> {
    let mut found = Vec::new();
    for set in sets {
        match watched(*set, name) {
            Watched::No => {}
            Watched::For(registration) => found.push(registration),
            Watched::Unknown(why) => {
                let text = format!(
                    "descriptor {name} is, or may be, registered in the epoll set {set} since before the connect, \
                     and the registration would be lost: /proc/self/fdinfo/{set}: {why}; mount /proc (mount -t proc \
                     proc /proc), or let the program register the descriptor after it has connected"
                );
                crate::log!(crate::log::Level::Error, "conn", "{text}");
                return Err(Error::new(Kind::System(libc::EOPNOTSUPP), text));
            }
        }
    }
    Ok(found)
}

fn replace(name: RawFd, near: BorrowedFd<'_>, registrations: &[Registration]) -> Result<()> {
    // SAFETY: as for `put_in_place`; the number stays open throughout.
    let place = unsafe { BorrowedFd::borrow_raw(name) };
    for r in registrations {
        // Before the number changes: a copy of the old socket elsewhere would keep a ghost of it in the set.
        // SAFETY: an epoll set of the application, found just now; a number closed meanwhile gives EBADF.
        let _ = epoll::delete(unsafe { BorrowedFd::borrow_raw(r.set) }, place);
    }
    let cloexec = fcntl_getfd(place).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC));
    let flags = match cloexec {
        true => rustix::io::DupFlags::CLOEXEC,
        false => rustix::io::DupFlags::empty(),
    };
    // SAFETY: dup3 needs an owned place only to close it when dropped, which it never is here.
    let mut place =
        std::mem::ManuallyDrop::new(unsafe { std::os::fd::FromRawFd::from_raw_fd(name) });
    rustix::io::dup3(near, &mut place, flags).map_err(|e| Error::system("dup3", e))?;
    for r in registrations {
        let (events, data) = (
            EventFlags::from_bits_retain(r.events),
            EventData::new_u64(r.data),
        );
        // SAFETY: as above.
        let _ = epoll::add(
            unsafe { BorrowedFd::borrow_raw(r.set) },
            place.as_fd(),
            data,
            events,
        );
    }
    Ok(())
}

/// A number in this process that is the socket with this inode.
pub fn number_of(inode: (u64, u64)) -> Option<RawFd> {
    open_numbers().into_iter().find(|number| {
        // SAFETY: a number found just now; one closed meanwhile gives EBADF.
        descriptor::inode(unsafe { BorrowedFd::borrow_raw(*number) }) == Ok(inode)
    })
}

/// Whether two numbers are the same open socket. kcmp knows; where it is not allowed, a socket's inode says as much.
fn same(a: RawFd, b: RawFd, inode_of_b: (u64, u64)) -> bool {
    // SAFETY: a number found just now; one closed meanwhile gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(a) };
    if descriptor::inode(fd) != Ok(inode_of_b) {
        return false;
    }
    const KCMP_FILE: libc::c_int = 0;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: kcmp takes five plain numbers and changes nothing.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, a, b) };
    order <= 0
}

/// Gives a descriptor up to the application.
pub fn give(near: OwnedFd) -> RawFd {
    near.into_raw_fd()
}
