//! A poll of one descriptor of ours, for readable: a spin in place of the sleep, where that pays.
//!
//! The kernel's poll answers in any case, so that its result, its cancellation point and its EINTR are the kernel's own; what
//! is left of the time limit is all that changes.

use super::ours;
use libc::{POLLIN, POLLOUT, POLLWRNORM, c_int, pollfd, timespec};
use std::time::{Duration, Instant};

/// Spins, if the one entry of a poll is of this kind. `limit`: the poll's; `None`: none. Answers what the poll has left of
/// it; `None`: the poll goes on as it was called.
///
/// # Safety
/// `fds` points to an entry, or is NULL.
#[inline]
pub unsafe fn spin(
    fds: *const pollfd,
    limit: impl FnOnce() -> Option<Duration>,
) -> Option<timespec> {
    if fds.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let pollfd { fd, events, .. } = unsafe { fds.read_unaligned() };
    // A poll for writable is not expected to sleep.
    if events & POLLIN == 0 || events & (POLLOUT | POLLWRNORM) != 0 {
        return None;
    }
    let connection = ours(fd)?;
    match limit() {
        None => {
            connection.spin_for_poll(Duration::MAX);
            None
        }
        Some(Duration::ZERO) => None,
        Some(limit) => {
            let start = Instant::now();
            connection.spin_for_poll(limit);
            Some(to_c(limit.saturating_sub(start.elapsed())))
        }
    }
}

/// The limit of poll(2): milliseconds, negative for none.
pub fn milliseconds(timeout: c_int) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// The limit of ppoll(2): NULL for none. An impossible one is the kernel's to refuse, and counts as zero here.
///
/// # Safety
/// `timeout` is NULL or points to a time.
pub unsafe fn time(timeout: *const timespec) -> Option<Duration> {
    // SAFETY: the caller's promise.
    let time = unsafe { timeout.as_ref() }?;
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) => Some(Duration::new(seconds, nanos)),
        _ => Some(Duration::ZERO),
    }
}

fn to_c(limit: Duration) -> timespec {
    timespec {
        // It was a `time_t` or an `int` before.
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: limit.subsec_nanos().into(),
    }
}
