//! From descriptor numbers to connections, without a lock.
//!
//! Two levels of slots that are never freed; a slot has the connection and the number of threads that are inside a
//! call on that number. Whoever removes a connection from a slot first makes it unfindable, then waits until nobody is
//! inside: so a number is never closed (and given to a stranger) under a call of ours.

use super::ConnRef;
use super::connection::Conn;
use super::lock;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

const CHUNK: usize = 1024;
const CHUNKS: usize = 1024;
/// Longest wait for threads inside: they were woken and leave at once, except one that a signal handler interrupted and
/// in which it calls `close` itself.
const LEAVE: Duration = Duration::from_secs(1);

/// One descriptor number.
pub struct Slot {
    conn: AtomicPtr<Conn>,
    users: AtomicU32,
}

type Chunk = [Slot; CHUNK];

static TABLE: [AtomicPtr<Chunk>; CHUNKS] = [const { AtomicPtr::new(null_mut()) }; CHUNKS];

fn slot(fd: RawFd) -> Option<&'static Slot> {
    let fd = usize::try_from(fd).ok()?;
    let chunk = TABLE.get(fd / CHUNK)?.load(Ordering::Acquire);
    // SAFETY: a chunk, once published, is never freed.
    unsafe { chunk.as_ref() }.map(|chunk| &chunk[fd % CHUNK])
}

fn slot_or_new(fd: RawFd) -> Option<&'static Slot> {
    let place = TABLE.get(usize::try_from(fd).ok()? / CHUNK)?;
    if place.load(Ordering::Acquire).is_null() {
        let fresh: Box<Chunk> = Box::new(
            [const {
                Slot {
                    conn: AtomicPtr::new(null_mut()),
                    users: AtomicU32::new(0),
                }
            }; CHUNK],
        );
        let fresh = Box::into_raw(fresh);
        let won = place.compare_exchange(null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire);
        if won.is_err() {
            // SAFETY: another thread's chunk is in place; ours was never seen by anybody.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
    slot(fd)
}

/// The connection of `fd`. Async-signal-safe; a miss is two loads.
pub fn lookup(fd: RawFd) -> Option<ConnRef> {
    let slot = slot(fd)?;
    let conn = slot.conn.load(Ordering::Acquire);
    if conn.is_null() {
        return None;
    }
    // Count ourselves in, then look again: either we see that it was removed, or the remover sees us.
    slot.users.fetch_add(1, Ordering::SeqCst);
    let entered = Entered { slot, conn, fd };
    (slot.conn.load(Ordering::SeqCst) == conn).then_some(ConnRef(entered))
}

/// A thread inside a call on a number; leaves when dropped.
pub struct Entered {
    slot: &'static Slot,
    conn: *const Conn,
    fd: RawFd,
}

impl Entered {
    /// The number that the application used.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Whether the number still means this connection; looked at again after every wait.
    pub fn is_current(&self) -> bool {
        std::ptr::eq(self.slot.conn.load(Ordering::Acquire), self.conn)
    }

    /// The connection. Only for one that [`lookup`] gave out.
    pub fn conn(&self) -> &Conn {
        // SAFETY: we were counted in while the slot still held this connection, and whoever removes it gives its
        // reference up only after the count is zero (or never, if the wait was in vain).
        unsafe { &*self.conn }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let last = self.slot.users.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.slot.conn.load(Ordering::SeqCst) != self.conn.cast_mut() {
            lock::wake(&self.slot.users, u32::MAX >> 1);
        }
    }
}

/// Makes `fd` mean `conn`; an older connection of the number, whose descriptor must be gone, is removed first.
pub fn insert(fd: RawFd, conn: Arc<Conn>) -> bool {
    let Some(slot) = slot_or_new(fd) else {
        return false;
    };
    remove(fd);
    slot.conn
        .store(Arc::into_raw(conn).cast_mut(), Ordering::SeqCst);
    true
}

/// Makes `fd` mean nothing, wakes the threads inside and waits until they left. Returns the connection.
pub fn remove(fd: RawFd) -> Option<Arc<Conn>> {
    let slot = slot(fd)?;
    let raw = slot.conn.swap(null_mut(), Ordering::SeqCst);
    if raw.is_null() {
        return None;
    }
    // SAFETY: the slot owned one reference, made by `Arc::into_raw` in `insert`; the swap made it ours.
    let conn = unsafe { Arc::from_raw(raw) };
    let nap = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let users = slot.users.load(Ordering::SeqCst);
        if users == 0 {
            return Some(conn);
        }
        if waited >= LEAVE {
            // Somebody may hold the pointer for ever: so keep the reference for ever.
            std::mem::forget(Arc::clone(&conn));
            return Some(conn);
        }
        conn.kick();
        lock::wait(&slot.users, users, Some(nap));
        waited += nap;
    }
}

/// Makes `fd` mean nothing if it means `conn` still. For a number that was closed behind our back; waits for nobody.
pub fn forget(fd: RawFd, conn: &Conn) {
    let Some(slot) = slot(fd) else { return };
    let raw = std::ptr::from_ref(conn).cast_mut();
    let taken = (slot.conn).compare_exchange(raw, null_mut(), Ordering::SeqCst, Ordering::SeqCst);
    // With threads inside, the slot's reference is kept for ever: they use it.
    if taken.is_ok() && slot.users.load(Ordering::SeqCst) == 0 {
        // SAFETY: the slot owned one reference, made by `Arc::into_raw` in `insert`; the exchange made it ours.
        drop(unsafe { Arc::from_raw(raw) });
    }
}

/// Calls `f` for every number of ours. For moments when numbers cannot change (in a child after fork), or where a
/// number missed does no harm.
pub fn for_each(mut f: impl FnMut(RawFd, &Conn)) {
    let present = |n: &usize| !TABLE[*n].load(Ordering::Acquire).is_null();
    for fd in (0..CHUNKS)
        .filter(present)
        .flat_map(|n| n * CHUNK..(n + 1) * CHUNK)
    {
        if let Some(found) = lookup(fd as RawFd) {
            f(fd as RawFd, found.0.conn());
        }
    }
}

/// In a child after fork: the threads that were inside do not exist.
pub fn reset_users() {
    for chunk in &TABLE {
        // SAFETY: a chunk, once published, is never freed.
        if let Some(chunk) = unsafe { chunk.load(Ordering::Acquire).as_ref() } {
            for slot in chunk {
                slot.users.store(0, Ordering::SeqCst);
            }
        }
    }
}
