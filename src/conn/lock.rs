//! A lock that works between threads and, in shared memory, between processes: one futex word.
//!
//! parking_lot is not fork-safe, and a direction's lock must serialise a parent and its child. The word holds the
//! thread id of the holder, so that a holder that was killed is found out and a signal handler that interrupts the
//! holder does not wait for itself.

use crate::thread;
use rustix::thread::futex;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const FREE: u32 = 0;
/// Somebody sleeps; thread ids are below 2^30.
const WAITERS: u32 = 1 << 31;
/// A sleeper looks this often whether the holder still lives.
const HOLDER_CHECK: Duration = Duration::from_millis(100);
/// Whoever has slept so long looks closer: a killed child is a zombie until its parent waits for it.
const ZOMBIE_CHECK: Duration = Duration::from_millis(10);

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Somebody held it for the whole time.
    Busy,
    /// This very thread holds it: we run in a signal handler that interrupted it.
    Own,
}

/// The bare lock. All bytes zero is a free one.
#[derive(Default)]
#[repr(transparent)]
pub struct RawLock(AtomicU32);

/// Unlocks when dropped.
pub struct RawGuard<'a>(&'a RawLock);

impl RawLock {
    /// A free lock.
    pub const fn new() -> Self {
        Self(AtomicU32::new(FREE))
    }

    /// Takes the lock; waits at most `limit` (`None`: as long as it takes).
    pub fn lock(&self, limit: Option<Duration>) -> Result<RawGuard<'_>, NotTaken> {
        let me = thread::id();
        if (self.0)
            .compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return Ok(RawGuard(self));
        }
        self.lock_slowly(me, limit)
    }

    #[cold]
    fn lock_slowly(&self, me: u32, limit: Option<Duration>) -> Result<RawGuard<'_>, NotTaken> {
        let mut slept = Duration::ZERO;
        loop {
            let seen = self.0.load(Ordering::Relaxed);
            let holder = seen & !WAITERS;
            if holder == me {
                return Err(NotTaken::Own);
            }
            // Who had to wait keeps the mark, since others may sleep still: one wake too many, never one too few.
            let ended = || slept >= ZOMBIE_CHECK && thread::is_zombie(holder);
            if holder == FREE || !thread::is_alive(holder) || ended() {
                let taken = (self.0).compare_exchange(
                    seen,
                    me | WAITERS,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                if taken.is_ok() {
                    return Ok(RawGuard(self));
                }
                continue;
            }
            if limit.is_some_and(|limit| slept >= limit) {
                return Err(NotTaken::Busy);
            }
            let marked = seen | WAITERS;
            if seen != marked
                && (self.0)
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let nap = limit.map_or(HOLDER_CHECK, |limit| (limit - slept).min(HOLDER_CHECK));
            wait(&self.0, marked, Some(nap));
            slept += nap;
        }
    }
}

impl RawGuard<'_> {
    /// Frees a lock whose guard was forgotten, or whose holder does not exist in this process.
    pub fn assume_held(lock: &RawLock) {
        drop(RawGuard(lock));
    }
}

impl Drop for RawGuard<'_> {
    fn drop(&mut self) {
        if self.0.0.swap(FREE, Ordering::Release) & WAITERS != 0 {
            wake(&self.0.0, 1);
        }
    }
}

/// Sleeps while `word` is `value`, at most `limit`. True if a signal handler ran.
pub fn wait(word: &AtomicU32, value: u32, limit: Option<Duration>) -> bool {
    let limit = limit.map(|limit| rustix::thread::Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let slept = futex::wait(word, futex::Flags::empty(), value, limit.as_ref());
    slept == Err(rustix::io::Errno::INTR)
}

/// Wakes up to `n` sleepers.
pub fn wake(word: &AtomicU32, n: u32) {
    let _ = futex::wake(word, futex::Flags::empty(), n);
}

/// A value behind a [`RawLock`], for one process. Held for moments only: `fork` waits for it (`conn::fork`).
#[derive(Default)]
pub struct Lock<T> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one thread at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Gives the value; unlocks when dropped.
pub struct Guard<'a, T> {
    _raw: RawGuard<'a>,
    value: &'a UnsafeCell<T>,
}

impl<T> Lock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            raw: RawLock::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes it; `None` when this very thread holds it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.lock_within(None)
    }

    /// Takes it if it is free, and does not wait.
    pub fn lock_if_free(&self) -> Option<Guard<'_, T>> {
        self.lock_within(Some(Duration::ZERO))
    }

    fn lock_within(&self, limit: Option<Duration>) -> Option<Guard<'_, T>> {
        let raw = self.raw.lock(limit).ok()?;
        Some(Guard {
            _raw: raw,
            value: &self.value,
        })
    }

    /// Takes it. The holder never calls out while it holds it, so only a signal handler could find its own thread
    /// inside; whatever handlers may call uses [`Lock::try_lock`].
    pub fn lock(&self) -> Guard<'_, T> {
        self.try_lock()
            .expect("this thread does not hold this lock")
    }

    /// The bare lock, for `conn::fork`.
    pub fn raw(&self) -> &RawLock {
        &self.raw
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.value.get() }
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
