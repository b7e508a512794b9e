//! Whose verbs objects these are: they are of no use in a forked child, which finds out without a system call, by a page
//! that the kernel clears at a fork.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::io;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Of the process that opened the library.
#[derive(Clone, Copy)]
pub struct Owner(&'static AtomicU64);

impl Owner {
    /// This process.
    #[cfg(test)]
    pub fn this() -> io::Result<Self> {
        page().map(Self)
    }

    /// Whether the asking process is it.
    pub fn is_this(self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

fn page() -> io::Result<&'static AtomicU64> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the address; the page is private, ours, and never unmapped, so the reference may live for
    // ever, and a zero page is a valid `AtomicU64`.
    let word = unsafe {
        let page = rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, prot, MapFlags::PRIVATE)?;
        rustix::mm::madvise(page, 4096, Advice::LinuxWipeOnFork)?;
        &*page.cast::<AtomicU64>()
    };
    word.store(1, Ordering::Relaxed);
    Ok(word)
}

/// A value that one process makes, once. A child that was forked while a thread made it must not wait: the thread does not
/// exist there.
pub struct Once<T> {
    owner: AtomicPtr<AtomicU64>,
    value: OnceLock<T>,
}

impl<T> Once<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            owner: AtomicPtr::new(null_mut()),
            value: OnceLock::new(),
        }
    }

    /// The value, made by the first call. `None`: the process that this one was forked from had begun to make it.
    pub fn get_or_make(&self, make: impl FnOnce(Owner) -> T) -> io::Result<Option<&T>> {
        if let Some(value) = self.value.get() {
            return Ok(Some(value));
        }
        let owner = self.owner()?;
        Ok(owner
            .is_this()
            .then(|| self.value.get_or_init(|| make(owner))))
    }

    /// Whoever asks first, without a lock: of two at a time, one has mapped a page for nothing.
    fn owner(&self) -> io::Result<Owner> {
        if self.owner.load(Ordering::Acquire).is_null() {
            let mine = std::ptr::from_ref(page()?).cast_mut();
            let _ =
                self.owner
                    .compare_exchange(null_mut(), mine, Ordering::AcqRel, Ordering::Acquire);
        }
        // SAFETY: not null any more, and then a page that is never unmapped.
        Ok(Owner(unsafe { &*self.owner.load(Ordering::Acquire) }))
    }
}

#[cfg(test)]
mod tests;
