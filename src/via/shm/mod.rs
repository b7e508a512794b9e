//! Provider `shm`: a channel between a client and the node daemon on the same host, in memory that both map.
//!
//! ```text
//! client                                               daemon, listening on <shm_dir>/<node>.sock
//!   connect (server name, generation, boot id)   ──►   same boot id? channels left for this uid? the node's word?
//!                                                ◄──   accept, with descriptors: memory file, daemon's eventfd
//!   checks signature, seals, size; maps
//!   keep-alive, with descriptor: far end of bell ──►   checks that it is a connected AF_UNIX stream
//!   ... bytes go through the rings; each side rings the other's bell ...
//!   disconnect (reason), or just the hang-up     ◄─►   the control connection's end is the channel's
//! ```
//!
//! The daemon creates the memory, so a client cannot shrink it under the daemon; it is sealed, so neither can anybody
//! else. The socket's directory comes from the client's own configuration and the node's name may only have letters,
//! digits and `._-`: nothing that came over a network chooses a path. The kernel ends the control connection when a
//! process dies, however it dies, and nothing but the socket's file outlives the daemon; a file on which nobody answers
//! is replaced. Bytes that were accepted into the ring stay readable after that.

mod client;
mod control;
mod server;

use super::bell::{Bell, FarBell, Late};
use super::channel::{Channel, Wire};
use super::ring::RingProducer;
use super::{Broken, ConnectError, ConnectRequest, Connecting, EndReason, Interest, Listener};
use super::{ListenConfig, Provider, Transport};
use control::Control;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The provider; it has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shm;

impl Provider for Shm {
    fn transport(&self) -> Transport {
        Transport::Shm
    }

    fn connect(&self, request: ConnectRequest) -> Result<Box<dyn Connecting>, ConnectError> {
        Ok(Box::new(client::ShmConnecting::begin(request)?))
    }

    fn listen(&self, config: &ListenConfig) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(server::ShmListener::bind(config)?))
    }
}

/// What carries the channel: the memory does, and this is the control connection beside it.
struct ShmWire {
    control: Control,
    peer: PeerBell,
    /// Keeps the channel counted for its user while it lives (daemon).
    _slot: Option<server::Slot>,
}

/// The other side's bell.
enum PeerBell {
    /// The client's view: the daemon's eventfd.
    Node(super::bell::EventBell),
    /// The daemon's view: comes by the client's first packet, which is sent before the client can want to be rung. A
    /// client without a descriptor never sends one.
    Client { uid: u32, bell: OnceLock<FarBell> },
}

impl Wire for ShmWire {
    fn transport(&self) -> Transport {
        Transport::Shm
    }

    fn is_private(&self) -> bool {
        true
    }

    fn drive_rx(&self, _channel: &Channel) -> Result<bool, Broken> {
        self.read_control()
    }

    fn drive_tx(&self, _channel: &Channel) -> Result<bool, Broken> {
        Ok(false)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.control.fd()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: false,
        }
    }

    fn end(&self, _channel: &Channel, reason: EndReason) {
        self.control.end(reason);
    }

    fn cut(&self) {
        let _ = rustix::net::shutdown(self.control.fd(), rustix::net::Shutdown::Both);
    }

    fn keep_alive(&self, _channel: &Channel) -> Result<(), Broken> {
        self.control.keep_alive();
        Ok(())
    }

    fn heard(&self) -> u64 {
        self.control.heard()
    }

    fn say(&self, _channel: &Channel, word: u8) {
        self.control.say(word);
    }

    fn told(&self) -> u8 {
        self.control.told()
    }

    fn peer_bell(&self) -> Option<&dyn Bell> {
        Some(self)
    }
}

impl ShmWire {
    fn read_control(&self) -> Result<bool, Broken> {
        self.control.read(|fd| self.keep_bell(fd))
    }

    /// Takes a descriptor that came over the control connection.
    fn keep_bell(&self, fd: OwnedFd) -> Result<(), String> {
        match &self.peer {
            PeerBell::Client { uid, bell: cell } => match FarBell::new(fd, *uid) {
                Ok(bell) => cell.set(bell).map_err(|_| "a second bell".to_owned()),
                Err(e) => Err(e.to_string()),
            },
            _ => Err("a descriptor that was not asked for".to_owned()),
        }
    }

    /// Runs `f` on the peer's bell, which may have to be fetched first.
    fn with_peer(&self, f: impl FnOnce(&dyn Bell)) {
        match &self.peer {
            PeerBell::Node(bell) => f(bell),
            PeerBell::Client { bell: cell, .. } => {
                if cell.get().is_none() {
                    // It was sent before the client can want to be rung, and another thread may have it in hand: a ring
                    // that went nowhere would pass for one that somebody took. An error shows again when the channel is
                    // driven.
                    let _ = self.control.read_in_turn(|fd| self.keep_bell(fd));
                }
                if let Some(bell) = cell.get() {
                    f(bell);
                }
            }
        }
    }
}

/// As the *peer's* bell: what this side may do with it.
impl Bell for ShmWire {
    fn ring(&self, tokens: &[u8]) {
        self.with_peer(|bell| bell.ring(tokens));
    }

    fn take_back(&self, expected: usize, _late: Late<'_>) -> usize {
        expected
    }

    fn is_taken(&self) -> bool {
        false
    }

    fn finish(&self) {
        self.with_peer(|bell| bell.finish());
    }

    fn block_writes(&self) {}

    fn open_writes(&self) {
        self.with_peer(|bell| bell.open_writes());
    }

    fn clear_writes(&self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// `<shm_dir>/<node>.sock`, if the node's name cannot lead elsewhere.
fn socket_path(dir: &Path, node: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if node.is_empty() || node.len() > 64 || node.starts_with('.') || !node.chars().all(plain) {
        return Err(format!(
            "node name {node:?}: shared memory needs 1 to 64 letters, digits, '.', '_' or '-', no '.' in front"
        ));
    }
    Ok(dir.join(format!("{node}.sock")))
}

/// Identity of the running kernel: equal on both sides exactly if they are on one host.
fn boot_id() -> io::Result<[u8; 16]> {
    use rustix::fs::{Mode, OFlags, open};
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let fd = open(PATH, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("{PATH}: {e}")))?;
    let mut text = [0; 64];
    let n = rustix::io::read(&fd, &mut text)?;
    let digits = text[..n]
        .iter()
        .filter_map(|c| char::from(*c).to_digit(16))
        .map(|d| d as u8)
        .collect::<Vec<_>>();
    let mut id = [0; 16];
    if digits.len() != 32 {
        return Err(io::Error::other("the kernel's boot id is no UUID"));
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(id)
}

/// 16 bytes from the kernel's random source.
fn nonce() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())? {
        16 => Ok(bytes),
        n => Err(io::Error::other(format!(
            "16 random bytes wanted, {n} came"
        ))),
    }
}

/// A resumption: puts what `old` keeps from stream offset `from` on into `new`, and the end if it was said.
fn refill(old: &RingProducer, new: &RingProducer, from: u64) -> Result<(), String> {
    let held = old.head().map_err(|c| c.to_string())?..=old.tail();
    if from != new.tail() || !held.contains(&from) {
        return Err(format!(
            "bytes from {from} on are wanted, {held:?} are kept, and the new ring begins at {}",
            new.tail()
        ));
    }
    let mut buffer = [0; 8192];
    loop {
        let n = old
            .copy_retained(new.tail(), &mut buffer)
            .map_err(|c| c.to_string())?;
        if n == 0 {
            break;
        }
        if new.push(&buffer[..n]) != Ok(n) {
            return Err(format!("the kept bytes do not fit into {}", new.size()));
        }
    }
    if old.finished() {
        new.finish();
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests;
