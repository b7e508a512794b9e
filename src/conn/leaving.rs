//! The end of the process: a device has no kernel buffer that survives it. So what was accepted for a channel over RDMA is waited
//! for, for a limited time, when the process exits in good order. (`_exit` and signals end it at once; the node sees a break.)

use super::connection::Conn;
use super::{fork, lock};
use crate::via::Transport;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

/// Longest.
const LIMIT: Duration = Duration::from_secs(3);
/// Between two looks.
const TICK: Duration = Duration::from_millis(1);

/// Connections that have, or had, a channel over RDMA.
static CONNECTIONS: lock::Lock<Vec<Weak<Conn>>> = lock::Lock::new(Vec::new());

/// The connection's channel runs over RDMA now.
pub fn watch(conn: &Arc<Conn>) {
    static AT_EXIT: Once = Once::new();
    // SAFETY: a function without arguments that lives as long as the library, which is never unloaded.
    AT_EXIT.call_once(|| unsafe {
        libc::atexit(at_exit);
    });
    // Contended only by the end of the process, which is too late, or in a forked child, which has no RDMA.
    let Some(mut connections) = CONNECTIONS.try_lock() else {
        return;
    };
    connections.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), &**conn));
    connections.push(Arc::downgrade(conn));
}

/// The I/O thread still runs and delivers.
extern "C" fn at_exit() {
    let Some(connections) = CONNECTIONS.try_lock() else {
        return;
    };
    let connections: Vec<_> = connections.iter().filter_map(Weak::upgrade).collect();
    let end = Instant::now() + LIMIT;
    while Instant::now() < end && connections.iter().any(|conn| owes(conn)) {
        std::thread::sleep(TICK);
    }
}

/// Bytes that this process sent are not known to have reached the SQL server, and may.
fn owes(conn: &Conn) -> bool {
    let own = conn.control.owner.load(Ordering::Acquire) == fork::process_token();
    let channel = conn.channel().filter(|channel| {
        channel.wire.transport() == Transport::Rdma && channel.broken().is_none()
    });
    own && channel.is_some_and(|channel| channel.acked() != channel.accepted())
}
