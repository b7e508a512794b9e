//! The addresses of nodes that are configured by host name: looked up by `getaddrinfo` in a thread that ends with its one
//! lookup, since no lookup can be given a deadline. Literal addresses never start a thread.

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// Lookups of this process that may hang at the same time.
const MAX_LOOKUPS: u32 = 16;

/// One lookup on its way.
pub(crate) struct Lookup {
    host: String,
    wake: Arc<OwnedFd>,
    result: Receiver<Result<Vec<IpAddr>, String>>,
}

impl Lookup {
    /// Begins to look `host` up. The text says why it cannot begin.
    pub(crate) fn begin(host: &str) -> Result<Self, String> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(|e| format!("eventfd: {e}"))?);
        let (send, result) = channel();
        let lookup = Self {
            host: host.to_owned(),
            wake: wake.clone(),
            result,
        };
        let (host, waker) = (host.to_owned(), wake);
        let seat =
            Seat::take().ok_or("too many host name lookups hang: name the node by address")?;
        let work = move || {
            let found = look_up(&host);
            if let Ok(addrs) = &found {
                remember(&host, addrs);
            }
            // The asker may be gone; then nobody wants to know.
            let _ = send.send(found);
            let _ = rustix::io::write(&*waker, &1u64.to_ne_bytes());
            drop(seat);
        };
        let thread = std::thread::Builder::new()
            .name("vianet-lookup".into())
            .stack_size(256 << 10);
        crate::signals::with_signals_blocked(|| thread.spawn(work))
            .map_err(|e| format!("no thread for the lookup: {e}"))?;
        Ok(lookup)
    }

    /// Whose addresses.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Readable once [`Lookup::poll`] has something.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The addresses, once they are known.
    pub(crate) fn poll(&self) -> Option<Result<Vec<IpAddr>, String>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("the lookup ended without a word".into())),
        }
    }
}

/// What an earlier lookup of `host` found: used at once while a new one runs, so that a slow name service does not stand
/// between a failure and the second node.
pub(crate) fn remembered(host: &str) -> Vec<IpAddr> {
    let known = KNOWN.try_lock();
    known
        .and_then(|known| known.as_ref()?.get(host).cloned())
        .unwrap_or_default()
}

// Only ever tried, never waited for: after a fork its holder may not exist in this process.
static KNOWN: Mutex<Option<HashMap<String, Vec<IpAddr>>>> = Mutex::new(None);

fn remember(host: &str, addrs: &[IpAddr]) {
    if let Some(mut known) = KNOWN.try_lock() {
        known
            .get_or_insert_default()
            .insert(host.to_owned(), addrs.to_vec());
    }
}

fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0)
        .to_socket_addrs()
        .map_err(|e| format!("host name {host}: {e}"))?;
    let mut addrs = Vec::new();
    for addr in found.map(|addr| addr.ip()) {
        // A node that is named like one of our own servers would be asked at an address that stands for a name.
        if !addrs.contains(&addr) && !crate::resolve::name::is_fake(addr) {
            addrs.push(addr);
        }
    }
    match addrs.is_empty() {
        true => Err(format!("host name {host}: no usable address")),
        false => Ok(addrs),
    }
}

/// Counts lookups under way, per process: a forked child has none of its parent's threads.
struct Seat;

/// Process id in the upper half, lookups under way in the lower.
static LOOKUPS: AtomicU64 = AtomicU64::new(0);

impl Seat {
    fn take() -> Option<Self> {
        let pid = u64::from(std::process::id());
        LOOKUPS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let count = if word >> 32 == pid { word as u32 } else { 0 };
                (count < MAX_LOOKUPS).then(|| pid << 32 | u64::from(count + 1))
            })
            .ok()
            .map(|_| Self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}
