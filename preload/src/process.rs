//! Which process this is, and whether anything in it can be ours.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Set for good when the first connection by name begins; until then every hook passes through at once.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// No descriptor of ours has a larger number.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);
/// The process that this memory belongs to.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether a connection of ours ever began in this process or in a parent that it was forked from.
#[inline(always)]
pub fn active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// From now on descriptors are looked up.
pub fn activate() {
    if !ACTIVE.swap(true, Ordering::Relaxed) {
        extern "C" fn in_child() {
            remember();
        }
        // SAFETY: the handler only stores a number. A failure (no memory) means that a forked child counts as one that
        // runs in borrowed memory: its closes are left to the kernel.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

/// Notes that `fd` is ours.
pub fn note(fd: RawFd) {
    HIGHEST.fetch_max(fd, Ordering::Relaxed);
}

/// The numbers from `first` to `last` that can be ours.
pub fn ours_within(first: u32, last: u32) -> impl Iterator<Item = RawFd> {
    let highest = HIGHEST.load(Ordering::Relaxed);
    let first = RawFd::try_from(first).unwrap_or(RawFd::MAX);
    (first..=highest.min(RawFd::try_from(last).unwrap_or(RawFd::MAX)))
        .filter(|&fd| vianet::conn::lookup(fd).is_some())
}

/// Notes which process this memory belongs to: in the constructor, and in a forked child.
pub fn remember() {
    OWNER.store(
        rustix::process::getpid().as_raw_nonzero().get(),
        Ordering::Relaxed,
    );
}

/// Whether the caller runs in another process's memory: the child of a `vfork` (or of `clone(CLONE_VM)`) before its
/// exec. Its descriptors are its own, its memory is not: what it closes must not be forgotten in the parent.
pub fn borrowed() -> bool {
    rustix::process::getpid().as_raw_nonzero().get() != OWNER.load(Ordering::Relaxed)
}
