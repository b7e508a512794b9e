//! What fork does to connections: the child has copies of all descriptors and of all memory, and no I/O thread.
//!
//! Nothing is decided at the fork itself. The first process that uses a connection afterwards owns it (`Conn::own`);
//! the other one's I/O thread notices and stops watching it. The locks that are held for moments are taken before the
//! fork and given back after it, so that the child finds whole values.

use super::connection::Conn;
use super::lock::{RawGuard, RawLock};
use super::{Phase, leaving, queries, reactor, table};
use once_cell::sync::OnceCell;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static TOKEN: AtomicU64 = AtomicU64::new(0);
static HANDLERS: OnceCell<()> = OnceCell::new();

/// Names this process, and no other one that shares a control page with it.
pub fn process_token() -> u64 {
    match TOKEN.load(Ordering::Relaxed) {
        0 => {
            let pid = own_pid();
            TOKEN.store(pid, Ordering::Relaxed);
            pid
        }
        token => token,
    }
}

/// Registers the handlers, once, at the first connect by name.
pub fn register() {
    HANDLERS.get_or_init(|| {
        // SAFETY: the three functions are for this and live as long as the library, which is never unloaded.
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    });
}

/// What `prepare` locked; guarded by `reactor::handle_lock`, which is the first of the locks.
struct Held(UnsafeCell<Vec<Arc<Conn>>>);

// SAFETY: touched only by the thread that holds `reactor::handle_lock`, or by the only thread of a forked child.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(Vec::new()));

fn locks() -> [&'static RawLock; 5] {
    [
        reactor::handle_lock(),
        queries::cache_lock(),
        super::configurations_lock(),
        leaving::lock(),
        super::suspects::lock(),
    ]
}

extern "C" fn prepare() {
    for lock in locks() {
        std::mem::forget(lock.lock(None));
    }
    // SAFETY: the first of the locks is held.
    let held = unsafe { &mut *HELD.0.get() };
    table::for_each(|_, conn| {
        // A duplicate's connection comes twice.
        if let Some(conn) = conn
            .me
            .upgrade()
            .filter(|conn| held.iter().all(|h| h.id != conn.id))
        {
            for lock in conn.momentary_locks() {
                std::mem::forget(lock.lock(None));
            }
            conn.control.forked.store(true, Ordering::Release);
            held.push(conn);
        }
    });
}

extern "C" fn parent() {
    release();
}

extern "C" fn child() {
    crate::thread::forget_id();
    TOKEN.store(own_pid(), Ordering::Relaxed);
    table::reset_users();
    release();
    reactor::forget();
    queries::forget();
    // A connect in progress belongs to the parent; a copy of the far end would only hide its failure.
    table::for_each(|_, conn| {
        conn.control.forked.store(true, Ordering::Release);
        if let Some((_, channel)) = &conn.slow.lock().channel {
            channel.after_fork();
        }
        if let Some(bell) = &*conn.bell.lock() {
            bell.after_fork();
        }
        if conn.control.phase() == Phase::Connecting {
            drop(conn.bell.lock().take());
        }
    });
}

/// In a child of a fork that ran no handlers; see [`super::forked`]. Does nothing where they ran.
pub fn forked_without_handlers() {
    if TOKEN.load(Ordering::Relaxed) == own_pid() || HANDLERS.get().is_none() {
        return;
    }
    // Whoever held a lock at the fork does not exist here.
    table::reset_users();
    table::for_each(|_, conn| {
        for lock in conn.momentary_locks() {
            RawGuard::assume_held(lock);
        }
    });
    child();
}

/// Names this process as the kernel does, also in a child whose fork ran no handlers.
pub fn own_pid() -> u64 {
    rustix::process::getpid().as_raw_nonzero().get() as u64
}

fn release() {
    // SAFETY: the first of the locks is held, by us or (in a child without handlers) by nobody else that exists.
    let held = std::mem::take(unsafe { &mut *HELD.0.get() });
    for conn in &held {
        for lock in conn.momentary_locks() {
            RawGuard::assume_held(lock);
        }
    }
    for lock in locks() {
        RawGuard::assume_held(lock);
    }
}
