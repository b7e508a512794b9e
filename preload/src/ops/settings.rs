//! Where the options of connections are remembered.
//!
//! By the inode of the bell, which all duplicates of a descriptor share. The table has a lock that never waits long and
//! survives a fork: `setsockopt` may run in a signal handler that interrupted its holder, and the child of a fork may
//! find it held by a thread that does not exist there. Whoever does not get it does without: an option is not worth a
//! deadlock.

use crate::process;
use crate::raw;
use libc::{c_int, socklen_t};
use std::cell::UnsafeCell;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Longest option value that is remembered.
const VALUE_BYTES: usize = 32;
/// With more connections remembered than this, those that are closed are looked for.
const SWEEP_ABOVE: usize = 64;
/// How often the lock is tried before its holder is taken for one that cannot go on.
const TRIES: u32 = 1000;

/// One option: level, name, value.
#[derive(Clone, Copy)]
pub struct Setting {
    /// SOL_SOCKET, IPPROTO_TCP, ...
    pub level: c_int,
    /// SO_KEEPALIVE, TCP_NODELAY, ...
    pub name: c_int,
    value: [u8; VALUE_BYTES],
    len: usize,
}

impl Setting {
    /// Whether it is this option.
    pub fn is(&self, level: c_int, name: c_int) -> bool {
        (self.level, self.name) == (level, name)
    }

    /// Its value.
    pub fn value(&self) -> &[u8] {
        &self.value[..self.len]
    }

    /// What it is on the socket `fd`.
    pub fn read(fd: RawFd, level: c_int, name: c_int) -> Option<Self> {
        let mut value = [0; VALUE_BYTES];
        let mut len = VALUE_BYTES as socklen_t;
        let args = [
            fd as usize,
            level as usize,
            name as usize,
            value.as_mut_ptr() as usize,
            &raw mut len as usize,
            0,
        ];
        // SAFETY: `value` has `len` bytes.
        let result = unsafe { raw::call(libc::SYS_getsockopt, args) };
        (result == 0).then_some(Self {
            level,
            name,
            value,
            len: len as usize,
        })
    }

    /// Sets it on `fd`.
    pub fn write(&self, fd: RawFd) {
        let args = [
            fd as usize,
            self.level as usize,
            self.name as usize,
            self.value.as_ptr() as usize,
            self.len,
            0,
        ];
        // SAFETY: `value` has `len` bytes. A refusal leaves the kernel's default, which is all that can be done.
        unsafe { raw::call(libc::SYS_setsockopt, args) };
    }
}

/// Changes what is remembered of the connection of `fd`.
pub fn remember(fd: RawFd, change: impl FnOnce(&mut Vec<Setting>)) {
    let Some(inode) = inode(fd) else { return };
    TABLE.with(|table| {
        let at = table
            .iter()
            .position(|(known, _)| *known == inode)
            .unwrap_or_else(|| {
                table.push((inode, Vec::new()));
                table.len() - 1
            });
        change(&mut table[at].1);
    });
}

/// What is remembered of this option of the connection of `fd`.
pub fn remembered(fd: RawFd, level: c_int, name: c_int) -> Option<Setting> {
    let inode = inode(fd)?;
    TABLE.with(|table| {
        let (_, all) = table.iter().find(|(known, _)| *known == inode)?;
        all.iter().find(|setting| setting.is(level, name)).copied()
    })?
}

/// Forgets connections that are closed, if there are many.
pub fn forget_others() {
    TABLE.with(|table| {
        if table.len() > SWEEP_ABOVE {
            let open: Vec<u64> = process::ours_within(0, u32::MAX)
                .filter_map(inode)
                .collect();
            table.retain(|(known, _)| open.contains(known));
        }
    });
}

fn inode(fd: RawFd) -> Option<u64> {
    // SAFETY: the number is used within this call; a closed one gives EBADF.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) });
    stat.ok().map(|stat| stat.st_ino)
}

type Settings = Vec<(u64, Vec<Setting>)>;

struct Table {
    /// The process that holds the lock, 0: none.
    holder: AtomicI32,
    settings: UnsafeCell<Settings>,
}

// SAFETY: `settings` is only touched by the one thread that set `holder`.
unsafe impl Sync for Table {}

static TABLE: Table = Table {
    holder: AtomicI32::new(0),
    settings: UnsafeCell::new(Vec::new()),
};

impl Table {
    /// Runs `work` with the lock held; `None` if it cannot be had.
    fn with<T>(&self, work: impl FnOnce(&mut Settings) -> T) -> Option<T> {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        for _ in 0..TRIES {
            match self
                .holder
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    // SAFETY: the lock is held.
                    let value = work(unsafe { &mut *self.settings.get() });
                    self.holder.store(0, Ordering::Release);
                    return Some(value);
                }
                // Held by a thread of the parent at the time of the fork, perhaps halfway through a change.
                Err(holder) if holder != me => self.take_over(holder, me),
                Err(_) => rustix::thread::sched_yield(),
            }
        }
        None
    }

    /// Takes the lock from a thread that does not exist here, and starts afresh.
    fn take_over(&self, holder: i32, me: i32) {
        let exchange =
            self.holder
                .compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed);
        if exchange.is_ok() {
            // SAFETY: the lock is held. The old table is leaked, not dropped: it may be half changed.
            unsafe { self.settings.get().write(Vec::new()) };
            self.holder.store(0, Ordering::Release);
        }
    }
}
