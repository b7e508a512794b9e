//! What a report about this machine asks the provider (`vianet doctor`), besides [`super::devices`]. A round trip needs
//! nothing of its own: it goes by [`super::Rdma`] as every channel does.

use super::cm::{EventChannel, Id};
use super::load::library;
use super::memory::Memory;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Locked memory of one channel with the largest rings, bytes: two rings, and the messages. Counts against
/// RLIMIT_MEMLOCK, for whoever lacks CAP_IPC_LOCK.
pub const CHANNEL_BYTES: u64 = 2 * super::RING_BYTES as u64 + Memory::BYTES as u64;

/// Opens libibverbs and librdmacm, if that was not done before.
///
/// # Errors
/// Why RDMA cannot be used in this process: which library, or which of its functions, is missing.
pub fn libraries() -> Result<(), String> {
    library().map(drop)
}

/// The name of the device that `address`, one of this machine's, belongs to; `None` where it belongs to none. Loopback
/// addresses belong to none.
///
/// # Errors
/// As [`libraries`]; or rdma_cm cannot be used (`/dev/infiniband/rdma_cm`).
pub fn device_of(address: IpAddr) -> Result<Option<String>, String> {
    let channel = EventChannel::new(library()?).map_err(|e| format!("rdma_cm: {e}"))?;
    let id = Id::new(&channel).map_err(|e| format!("rdma_cm: {e}"))?;
    if address.is_loopback() || id.bind(&SocketAddr::new(address, 0)).is_err() {
        return Ok(None);
    }
    Ok(id.device())
}

/// Why librdmacm cannot be used at all: its own error is the same whether device files are missing or may not be opened.
pub(super) fn no_channel(error: io::Error) -> io::Error {
    for file in ["/dev/infiniband/rdma_cm", "/dev/infiniband/uverbs0"] {
        let opened = rustix::fs::open(file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        if let Err(why) = opened.map_err(io::Error::from) {
            return io::Error::new(why.kind(), format!("{file}: {why}"));
        }
    }
    error
}
