//! poll and ppoll, for the spin before a sleep. The answer is the kernel's.

use crate::ops::poll::{milliseconds, spin, time};
use crate::outcome::{Outcome, guarded};
use crate::{process, real};
use libc::{c_int, nfds_t, pollfd, sigset_t, size_t, timespec};
use std::ptr::null;
use std::time::Duration;

/// What [`spin`] leaves of the time limit; `None`: the call goes on as it is.
///
/// # Safety
/// That of poll(2).
#[inline(always)]
unsafe fn left(
    fds: *const pollfd,
    count: nfds_t,
    limit: impl FnOnce() -> Option<Duration>,
) -> Option<timespec> {
    if count != 1 || !process::active() {
        return None;
    }
    // SAFETY: the caller's promise.
    match guarded(|| Outcome::Handled(unsafe { spin(fds, limit) })) {
        Outcome::Handled(left) => left,
        _ => None,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    if let Some(left) = unsafe { left(fds, count, || milliseconds(timeout)) } {
        // SAFETY: as the caller gave them, with a time limit of our own.
        return unsafe { real::ppoll(fds, count, &raw const left, null()) };
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::poll(fds, count, timeout) }
}

/// The older name of `poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { poll(fds, count, timeout) }
}

/// With a size that is too small the C library ends the program.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __poll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: c_int,
    room: size_t,
) -> c_int {
    if room >= size_of::<pollfd>()
        // SAFETY: the caller keeps to the contract of the C function.
        && let Some(left) = unsafe { left(fds, count, || milliseconds(timeout)) }
    {
        // SAFETY: as the caller gave them, with a time limit of our own.
        return unsafe { real::ppoll(fds, count, &raw const left, null()) };
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::poll_chk(fds, count, timeout, room) }
}

/// With a signal mask there is no spin: its signals would have to be let in, and end it.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    if mask.is_null()
        // SAFETY: the caller keeps to the contract of the C function.
        && let Some(left) = unsafe { left(fds, count, || time(timeout)) }
    {
        // SAFETY: as the caller gave them, with a time limit of our own.
        return unsafe { real::ppoll(fds, count, &raw const left, mask) };
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::ppoll(fds, count, timeout, mask) }
}

/// As [`__poll_chk`].
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: size_t,
) -> c_int {
    if room >= size_of::<pollfd>() && mask.is_null()
        // SAFETY: the caller keeps to the contract of the C function.
        && let Some(left) = unsafe { left(fds, count, || time(timeout)) }
    {
        // SAFETY: as the caller gave them, with a time limit of our own.
        return unsafe { real::ppoll(fds, count, &raw const left, mask) };
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::ppoll_chk(fds, count, timeout, mask, room) }
}
