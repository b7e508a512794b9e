//! A place for one callback, called from any thread and after any fork without a lock.
//!
//! A callback that was replaced may still be running on another thread, and is therefore kept for the rest of the
//! process's life; programs set callbacks a few times, so that costs nothing.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module's text. Empty at first.
pub(crate) struct Callback<F>(AtomicPtr<Kept<F>>);

/// Never freed and never changed once it is published; the chain keeps what was replaced reachable.
struct Kept<F> {
    callback: Option<F>,
    _before: *const Kept<F>,
}

impl<F: Send + Sync + 'static> Callback<F> {
    /// An empty place.
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// From now on `callback` is found; `None`: nothing. Calls that began before may still run.
    pub(crate) fn set(&self, callback: Option<F>) {
        let mut before = self.0.load(Ordering::Acquire);
        let mut fresh = Box::new(Kept {
            callback,
            _before: before,
        });
        loop {
            let raw = Box::into_raw(fresh);
            match (self.0).compare_exchange(before, raw, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => {
                    before = other;
                    // SAFETY: made above, and nobody else has seen it.
                    fresh = unsafe { Box::from_raw(raw) };
                    fresh._before = before;
                }
            }
        }
    }

    /// What was set last. Async-signal-safe.
    pub(crate) fn get(&self) -> Option<&'static F> {
        // SAFETY: what was published is never freed or changed.
        let kept = unsafe { self.0.load(Ordering::Acquire).as_ref() };
        kept?.callback.as_ref()
    }
}
