//! What copies, closes or hands on a descriptor.
//!
//! The child of a `vfork` runs in its parent's memory with its own descriptors: what it closes before its exec (Python's
//! `subprocess` does) must not be forgotten here, so all of these leave such a child to the kernel.

use super::ours;
use crate::process;
use libc::{cmsghdr, msghdr};
use std::os::fd::{BorrowedFd, RawFd};
use vianet::conn;

/// Whether `fd` is one of ours.
pub fn is_ours(fd: RawFd) -> bool {
    ours(fd).is_some()
}

/// Before the kernel closes `fd`: the threads inside leave.
pub fn closing(fd: RawFd) {
    if ours(fd).is_some() && !process::borrowed() {
        conn::closing(fd);
    }
}

/// Before the kernel closes all numbers from `first` to `last`.
pub fn closing_range(first: u32, last: u32) {
    if process::active() && !process::borrowed() {
        process::ours_within(first, last).for_each(conn::closing);
    }
}

/// Before `new` becomes a duplicate of `old`: whatever it was is closed, unless the call is going to fail.
pub fn replacing(old: RawFd, new: RawFd) {
    if old != new && ours(new).is_some() && is_open(old) {
        closing(new);
    }
}

/// After `new` became a duplicate of `old`; a negative number did not.
pub fn duplicated(old: RawFd, new: RawFd) {
    if new >= 0 && new != old && ours(old).is_some() && !process::borrowed() {
        conn::duplicated(old, new);
        process::note(new);
    }
}

/// Before somebody without the library may use `fd`: `fdopen` (the C library reads by itself).
pub fn shared(fd: RawFd) {
    if ours(fd).is_some() {
        conn::announce_shared(fd);
    }
}

/// Before exec: whatever the new program inherits.
pub fn shared_by_exec() {
    if process::active() {
        process::ours_within(0, u32::MAX)
            .filter(|&fd| inherited(fd))
            .for_each(conn::announce_shared);
    }
}

/// Before a message is sent over some other socket: descriptors of ours that go along (SCM_RIGHTS).
///
/// # Safety
/// `msg` is NULL or a valid message header.
pub unsafe fn shared_by_message(msg: *const msghdr) {
    // SAFETY: the caller's promise.
    let Some(header) = (unsafe { msg.as_ref() }) else {
        return;
    };
    if !process::active() || header.msg_control.is_null() {
        return;
    }
    // SAFETY: `msg` is valid, so the macros walk within its control buffer.
    let mut at: *mut cmsghdr = unsafe { libc::CMSG_FIRSTHDR(msg) };
    while !at.is_null() {
        // SAFETY: a header that the macros gave is within the buffer.
        let part = unsafe { &*at };
        if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: plain arithmetic.
            let bytes =
                (part.cmsg_len as usize).saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            // SAFETY: `at` is a header in the buffer.
            let first = unsafe { libc::CMSG_DATA(at) }.cast::<RawFd>();
            for n in 0..bytes / size_of::<RawFd>() {
                // SAFETY: within the part's length; the data may be unaligned.
                shared(unsafe { first.add(n).read_unaligned() });
            }
        }
        // SAFETY: as CMSG_FIRSTHDR.
        at = unsafe { libc::CMSG_NXTHDR(msg, at) };
    }
}

fn is_open(fd: RawFd) -> bool {
    flags(fd).is_some()
}

fn inherited(fd: RawFd) -> bool {
    flags(fd).is_some_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC))
}

fn flags(fd: RawFd) -> Option<rustix::io::FdFlags> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the number is used within this call; a closed one gives EBADF.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).ok()
}
