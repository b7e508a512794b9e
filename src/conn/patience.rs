//! How long one call may wait. The descriptor itself says: O_NONBLOCK and SO_RCVTIMEO, SO_SNDTIMEO of the kernel object
//! are read when a call would have to wait, so it does not matter who set them, when, or how.

use super::Phase;
use super::connection::{Here, would_block};
use super::control::Control;
use super::now;
use crate::error::{Error, Kind, Result};
use crate::via::channel::Wait;
use rustix::fs::OFlags;
use rustix::net::sockopt::{Timeout, socket_timeout};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

/// Longest single sleep on the phase: whoever closes the number wakes us, and this bounds the one wake that could come
/// between a look and the sleep.
const NAP: Duration = Duration::from_millis(100);

/// Which timeout counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// SO_RCVTIMEO.
    Receive,
    /// SO_SNDTIMEO.
    Send,
}

/// One call's.
pub struct Patience {
    fd: RawFd,
    direction: Direction,
    mode: Mode,
}

#[derive(Clone, Copy)]
enum Mode {
    /// The first attempt never waits; the descriptor was not asked yet.
    Unasked,
    Never,
    /// `None`: for ever.
    Until(Option<Duration>),
}

impl Patience {
    /// Of a call on `fd` with `flags`.
    pub fn new(fd: RawFd, flags: i32, direction: Direction) -> Self {
        let mode = match flags & libc::MSG_DONTWAIT != 0 {
            true => Mode::Never,
            false => Mode::Unasked,
        };
        Self {
            fd,
            direction,
            mode,
        }
    }

    /// Before the first attempt: whether it is one that does not wait because the descriptor was not asked yet.
    pub fn is_unasked(&self) -> bool {
        matches!(self.mode, Mode::Unasked)
    }

    /// Asks the descriptor before the first attempt, which may then wait.
    pub fn ask_first(&mut self) {
        if self.is_unasked() {
            self.mode = ask(self.fd, self.direction);
        }
    }

    /// After an attempt that found nothing: an error if the call may not wait (any longer).
    pub fn spend(&mut self) -> Result<()> {
        if let Mode::Unasked = self.mode {
            self.mode = ask(self.fd, self.direction);
            return match self.mode {
                Mode::Never => Err(would_block()),
                _ => Ok(()),
            };
        }
        match self.is_over() {
            true => Err(would_block()),
            false => Ok(()),
        }
    }

    /// Whether the time is over.
    pub fn is_over(&self) -> bool {
        match self.mode {
            Mode::Unasked => false,
            Mode::Never => true,
            Mode::Until(end) => end.is_some_and(|end| now() >= end),
        }
    }

    /// Whether the call may wait at all; asks the descriptor if need be.
    pub fn may_wait(&self) -> bool {
        match self.mode {
            Mode::Unasked => !matches!(ask(self.fd, self.direction), Mode::Never),
            Mode::Never => false,
            Mode::Until(_) => true,
        }
    }

    /// How long the channel may wait in the next attempt.
    pub fn channel_wait(&self, spin_us: u64) -> Wait {
        match self.mode {
            Mode::Unasked | Mode::Never => Wait::No,
            Mode::Until(end) => Wait::Until {
                spin: Duration::from_micros(spin_us),
                timeout: end.map(|end| end.saturating_sub(now())),
            },
        }
    }

    /// Sleeps until the phase is another one, in naps: the caller looks at everything again after each.
    pub fn wait_while(&mut self, control: &Control, phase: Phase, here: Here<'_>) -> Result<()> {
        self.spend()?;
        here.check()?;
        let limit = match self.mode {
            Mode::Until(Some(end)) => end.saturating_sub(now()).min(NAP),
            _ => NAP,
        };
        match control.wait_while(phase, Some(limit)) {
            true => Err(Error::new(Kind::Interrupted, "a signal handler ran")),
            false => Ok(()),
        }
    }
}

fn ask(fd: RawFd, direction: Direction) -> Mode {
    // SAFETY: the number is one of ours and `close` waits for this call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)) {
        return Mode::Never;
    }
    let which = match direction {
        Direction::Receive => Timeout::Recv,
        Direction::Send => Timeout::Send,
    };
    let timeout = socket_timeout(fd, which).ok().flatten();
    Mode::Until(timeout.map(|timeout| now() + timeout))
}
