//! Atomics behind one name: loom's under `cfg(loom)`, the standard library's otherwise. Ring and wake word use
//! nothing else, so that the code that loom checks is the code that runs.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use std::time::Duration;

/// Names this thread, among those of all processes; below 2^29.
#[cfg(not(loom))]
pub fn me() -> u32 {
    crate::thread::id()
}

/// The same among the threads of a model, which are one thread of the system.
#[cfg(loom)]
pub fn me() -> u32 {
    use std::sync::atomic::AtomicU32;
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loom::thread_local! {
        static ME: u32 = NEXT.fetch_add(1, Ordering::Relaxed) & 0xff_ffff;
    }
    ME.with(|me| *me)
}

/// Why a sleep on a word ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody woke us, or the word had changed before, or for no reason.
    Perhaps,
    /// The time was up.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `word` is `expected`, at most for `timeout`. The word may lie in memory shared with other processes.
#[cfg(not(loom))]
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) -> Woken {
    use rustix::io::Errno;
    use rustix::thread::futex;
    let timeout = futex::Timespec {
        tv_sec: timeout.as_secs().min(86_400) as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    match futex::wait(word, futex::Flags::empty(), expected, Some(&timeout)) {
        Err(Errno::TIMEDOUT) => Woken::TimedOut,
        Err(Errno::INTR) => Woken::Interrupted,
        _ => Woken::Perhaps,
    }
}

/// Wakes the thread that sleeps on `word`.
#[cfg(not(loom))]
pub fn futex_wake(word: &AtomicU32) {
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), 1);
}

/// As the kernel's, without the time limit: a sleep that nobody ends is what the model checker must find.
#[cfg(loom)]
pub fn futex_wait(word: &AtomicU32, expected: u32, _: Duration) -> Woken {
    while word.load(Ordering::Relaxed) == expected {
        loom::thread::yield_now();
    }
    Woken::Perhaps
}

/// Nothing to do: the sleeper of the model looks at the word by itself.
#[cfg(loom)]
pub fn futex_wake(_: &AtomicU32) {}

/// Between two looks at a word that another thread is about to change.
pub fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    rustix::thread::sched_yield();
}
