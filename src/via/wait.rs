//! Waiting: how long to spin before a sleep, and who may poll a wire's descriptor.
//!
//! A sleep costs tens of microseconds on an idle virtual machine, a look at the ring a fraction of one; on a busy machine
//! spinning steals the core from the very peer that is waited for. So how to spin is learned from what hit: first with
//! the core kept for ourselves (the peer runs on another one), then giving it up between looks (the peer may be queued
//! behind us), or not at all, with a trial now and then that becomes rarer the more of them fail. A spin that finds that
//! somebody else had the core for long stops at once.

use super::sync::{AtomicU32, Ordering, fence};
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// Full length in steps of an eighth.
const FULL: u32 = 8;
/// With nothing learned in favour, one wait in so many is a trial; each that fails doubles it.
const TRIAL_FIRST: u32 = 32;
/// The rarest trials.
const TRIAL_LAST: u32 = 2048;
/// Looks between two readings of the clock.
const LOOKS: u32 = 8;
/// Longest part of a spin that keeps the core; a peer on another core has answered by then.
const KEEP: Duration = Duration::from_micros(5);
/// Two readings of the clock this far apart: somebody else than the peer had the core.
const PREEMPTED: Duration = Duration::from_micros(100);

/// What is known about spinning in one direction of a channel. A lost update only learns a little later.
pub struct Spin {
    eighths: AtomicU32,
    /// 1: the last hit came after the core had been given up.
    yields: AtomicU32,
    waits: AtomicU32,
    trial_every: AtomicU32,
}

/// How a spin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spun {
    /// What was waited for is there.
    Hit,
    /// It is not: sleep.
    Miss,
}

impl Default for Spin {
    fn default() -> Self {
        Self {
            eighths: AtomicU32::new(FULL),
            yields: AtomicU32::new(0),
            waits: AtomicU32::new(0),
            trial_every: AtomicU32::new(TRIAL_FIRST),
        }
    }
}

impl Spin {
    /// Calls `look` until it is true, at most for the learned part of `limit`.
    pub fn run(&self, limit: Duration, mut look: impl FnMut() -> bool) -> Spun {
        let waits = self.waits.fetch_add(1, Ordering::Relaxed);
        let allowed = self.allowed(limit, waits);
        if allowed.is_zero() {
            return Spun::Miss;
        }
        let keep = match self.yields.load(Ordering::Relaxed) {
            1 if !waits.is_multiple_of(TRIAL_FIRST) => Duration::ZERO,
            _ => KEEP,
        };
        let start = Instant::now();
        let mut last = start;
        let mut yields = false;
        loop {
            if last - start >= keep {
                yields = true;
                rustix::thread::sched_yield();
            }
            for _ in 0..if yields { 1 } else { LOOKS } {
                if look() {
                    self.learn_hit(yields);
                    return Spun::Hit;
                }
                spin_loop();
            }
            let now = Instant::now();
            if now - last > PREEMPTED {
                self.learn_miss(FULL / 2);
                return Spun::Miss;
            }
            if now - start >= allowed {
                self.learn_miss(1);
                return Spun::Miss;
            }
            last = now;
        }
    }

    /// The part of `limit` that is worth spinning now.
    fn allowed(&self, limit: Duration, waits: u32) -> Duration {
        if limit.is_zero() || !several_processors() {
            return Duration::ZERO;
        }
        match self.eighths.load(Ordering::Relaxed) {
            0 if waits.is_multiple_of(self.trial_every.load(Ordering::Relaxed)) => limit,
            eighths => limit * eighths.min(FULL) / FULL,
        }
    }

    fn learn_hit(&self, yields: bool) {
        self.eighths.store(FULL, Ordering::Relaxed);
        self.yields.store(yields.into(), Ordering::Relaxed);
        self.trial_every.store(TRIAL_FIRST, Ordering::Relaxed);
    }

    fn learn_miss(&self, eighths: u32) {
        match self.eighths.load(Ordering::Relaxed) {
            0 => {
                let every = self.trial_every.load(Ordering::Relaxed);
                self.trial_every
                    .store((every * 2).min(TRIAL_LAST), Ordering::Relaxed);
            }
            now => self
                .eighths
                .store(now.saturating_sub(eighths), Ordering::Relaxed),
        }
    }
}

/// Whether a try that costs a system call is worth it before a wait: it is while more tries succeed than fail, otherwise only
/// now and then. (Where the peer runs on our own core it answers before we come to wait, or not, as the scheduler likes.)
#[derive(Default)]
pub struct Habit {
    failures: AtomicU32,
    asked: AtomicU32,
}

impl Habit {
    /// So many failures more than successes make a habit.
    const GIVE_UP: u32 = 4;
    /// With the habit of failing, one in so many is tried.
    const TRY_EVERY: u32 = 16;

    /// Whether to try.
    pub fn worth_a_try(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < Self::GIVE_UP
            || self
                .asked
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(Self::TRY_EVERY)
    }

    /// How the try ended.
    pub fn learn(&self, succeeded: bool) {
        let failures = self.failures.load(Ordering::Relaxed);
        let failures = match succeeded {
            true => failures.saturating_sub(1),
            false => Self::GIVE_UP.min(failures + 1),
        };
        self.failures.store(failures, Ordering::Relaxed);
    }
}

/// Whether this process may run on more than one processor; on one, nobody could deliver while we spin.
fn several_processors() -> bool {
    /// 0: not asked yet, 1: one, 2: several.
    static ANSWER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    match ANSWER.load(Ordering::Relaxed) {
        0 => {
            let several = rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.count() > 1);
            ANSWER.store(1 + u32::from(several), Ordering::Relaxed);
            several
        }
        n => n == 2,
    }
}

/// Held by the one thread that does something, where a thread that cannot have it leaves word that it should be done
/// once more. A word, not a lock: nobody ever waits for it, and a forked child may reset it.
#[derive(Default)]
pub struct Token(AtomicU32);

const FREE: u32 = 0;
const HELD: u32 = 1;
const AGAIN: u32 = 2;

impl Token {
    /// Does `work` unless another thread is at it; that one then does it once more. `None`: left to the other.
    pub fn run<T>(&self, mut work: impl FnMut() -> T) -> Option<T> {
        loop {
            match self.compare(FREE, HELD) {
                Ok(_) => break,
                Err(HELD) if self.compare(HELD, AGAIN).is_ok() => return None,
                Err(AGAIN) => return None,
                Err(_) => {}
            }
        }
        let release = Release(self);
        loop {
            let result = work();
            if self.compare(HELD, FREE).is_ok() {
                std::mem::forget(release);
                return Some(result);
            }
            self.0.store(HELD, Ordering::Release);
        }
    }

    /// Takes it to keep it for a while.
    pub fn take(&self) -> bool {
        self.compare(FREE, HELD).is_ok()
    }

    /// Gives back what [`Token::take`] took.
    pub fn give_back(&self) {
        self.0.store(FREE, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Whether nobody holds it.
    pub fn is_free(&self) -> bool {
        self.0.load(Ordering::Acquire) == FREE
    }

    fn compare(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// Frees the token when `work` panics.
struct Release<'a>(&'a Token);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// Until when a call may wait.
#[derive(Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// `timeout` from now; `None`: never.
    pub fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|t| Instant::now().checked_add(t)))
    }

    /// Time left, at most `most`; `None`: it has passed.
    pub fn left(&self, most: Duration) -> Option<Duration> {
        let Some(end) = self.0 else {
            return Some(most);
        };
        let left = end.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(most))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
