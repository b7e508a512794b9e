//! The end of the process, in good order. (`_exit` and signals end it at once; the node sees a break.) A device has no kernel
//! buffer that survives it: so what was accepted for a channel over RDMA is waited for, for a limited time. And where the
//! application has closed a connection, the I/O thread is given a moment to end its channel in good order: of one that breaks
//! without a word the node keeps the SQL server's connection until nobody has resumed it.

use super::connection::Conn;
use super::{Phase, fork, lock};
use crate::via::Transport;
use crate::via::channel::Channel;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

/// Longest.
const LIMIT: Duration = Duration::from_secs(3);
/// Longest for the end of a channel whose bytes are in the kernel: a SQL server that takes none holds nobody up.
const MOMENT: Duration = Duration::from_secs(1);
/// Between two looks.
const TICK: Duration = Duration::from_millis(1);

/// Connections that have, or had, a channel whose end is waited for.
static CONNECTIONS: lock::Lock<Vec<Weak<Conn>>> = lock::Lock::new(Vec::new());
/// The process whose they are. A forked child has no RDMA, and perhaps no whole locks.
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// The lock, for `fork`.
pub fn lock() -> &'static lock::RawLock {
    CONNECTIONS.raw()
}

/// The connection's channel is one that nobody ends with the process.
pub fn watch(conn: &Arc<Conn>) {
    static AT_EXIT: Once = Once::new();
    // SAFETY: a function without arguments that lives as long as the library, which is never unloaded.
    AT_EXIT.call_once(|| unsafe {
        libc::atexit(at_exit);
    });
    // Contended only by the end of the process, which is too late.
    let Some(mut connections) = CONNECTIONS.lock_if_free() else {
        return;
    };
    PROCESS.store(fork::own_pid(), Ordering::Release);
    connections.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), &**conn));
    connections.push(Arc::downgrade(conn));
}

/// The I/O thread still runs and delivers.
extern "C" fn at_exit() {
    if PROCESS.load(Ordering::Acquire) != fork::own_pid() {
        return;
    }
    let Some(guard) = CONNECTIONS.lock_if_free() else {
        return;
    };
    let connections: Vec<_> = guard.iter().filter_map(Weak::upgrade).collect();
    // The I/O thread may come by here.
    drop(guard);
    let closed: Vec<_> = connections.iter().filter_map(closed).collect();
    let begun = Instant::now();
    let waits = |passed| {
        passed < LIMIT && connections.iter().any(|conn| owes(conn))
            || passed < MOMENT && closed.iter().any(|channel| channel.broken().is_none())
    };
    while waits(begun.elapsed()) {
        std::thread::sleep(TICK);
    }
}

/// The channel of a connection that the application has closed, as long as it is not ended.
fn closed(conn: &Arc<Conn>) -> Option<Arc<Channel>> {
    let own = conn.control.owner.load(Ordering::Acquire) == fork::process_token();
    // Lost: the I/O thread is at it, and says so before it has told the node.
    let stands = matches!(conn.control.phase(), Phase::Established | Phase::Lost);
    conn.channel()
        .filter(|_| own && stands && conn.far_hung_up())
}

/// Bytes that this process sent are not known to have reached the SQL server, and may. Those of a channel that broke, and is
/// or will be carried on, are nowhere but here.
fn owes(conn: &Conn) -> bool {
    let own = conn.control.owner.load(Ordering::Acquire) == fork::process_token();
    let suspended = match conn.control.phase() {
        Phase::Established => false,
        Phase::Suspended => true,
        Phase::Connecting | Phase::Lost => return false,
    };
    let only_here = |channel: &Arc<Channel>| {
        suspended || channel.wire.transport() == Transport::Rdma || channel.broken().is_some()
    };
    let channel = conn.channel().filter(only_here);
    own && channel.is_some_and(|channel| channel.acked() != channel.accepted())
}

#[cfg(test)]
#[path = "leaving_tests.rs"]
mod tests;
