//! The memory of a connection's messages: receive slots, headers of what is being sent, and room for whole packets of the
//! handshake. A shared mapping, which a fork does not copy: a device may be writing to it.

use super::credit::DEPTH;
use super::message::{BARE_BYTES, MESSAGE_MAX};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::NonNull;

/// Bytes of a receive slot.
pub const SLOT: usize = 576;
const _: () = assert!(SLOT >= MESSAGE_MAX);
/// Bytes of a header slot: a packet with a payload of up to 16 bytes.
pub const HEADER_SLOT: usize = 64;
const _: () = assert!(HEADER_SLOT >= BARE_BYTES + 16);
/// Header slots: at most so many messages are on their way.
const HEADERS: usize = 2 * DEPTH as usize;
/// Slots for whole packets: no side sends more of them in a handshake.
const PACKETS: usize = 4;

/// See the module's text.
pub struct Memory {
    base: NonNull<u8>,
}

// SAFETY: plain memory of our own; who may touch which slot when is what the callers' protocol says (`copy_out` after the
// device has filled a slot and before it is posted again, `header` and `packet` by the one sending thread).
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Bytes of the mapping: 48 KiB.
    pub const BYTES: usize =
        (DEPTH as usize * SLOT + HEADERS * HEADER_SLOT + PACKETS * SLOT).next_multiple_of(4096);

    /// Maps it, zero.
    pub fn new() -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so no existing mapping is touched.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), Self::BYTES, prot, MapFlags::SHARED)?
        };
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap gave the null page"))?;
        Ok(Self { base })
    }

    /// Where it begins.
    pub fn address(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of receive slot `n` (modulo their number).
    pub fn slot(&self, n: u32) -> u64 {
        self.at((n % DEPTH) as usize * SLOT) as u64
    }

    /// The first `length` bytes (at most [`SLOT`]) of receive slot `n`, which are put into `bytes`.
    pub fn copy_out<'a>(&self, n: u32, length: usize, bytes: &'a mut [u8; SLOT]) -> &'a [u8] {
        let bytes = &mut bytes[..length.min(SLOT)];
        // SAFETY: the slot has as many bytes, inside the mapping, of which `bytes` is no part.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.at((n % DEPTH) as usize * SLOT),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
        bytes
    }

    /// Puts `bytes` (at most [`HEADER_SLOT`]) into header slot `n` (modulo their number); their address.
    pub fn header(&self, n: u32, bytes: &[u8]) -> u64 {
        let at = DEPTH as usize * SLOT + n as usize % HEADERS * HEADER_SLOT;
        self.put(at, &bytes[..bytes.len().min(HEADER_SLOT)])
    }

    /// Puts `bytes` (at most [`SLOT`]) into packet slot `n` (modulo their number); their address.
    pub fn packet(&self, n: u32, bytes: &[u8]) -> u64 {
        let at = DEPTH as usize * SLOT + HEADERS * HEADER_SLOT + n as usize % PACKETS * SLOT;
        self.put(at, &bytes[..bytes.len().min(SLOT)])
    }

    fn put(&self, at: usize, bytes: &[u8]) -> u64 {
        let to = self.at(at);
        // SAFETY: `at` and the length (both bounded by the callers) lie in the mapping, of which no reference is made.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        to as u64
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < Self::BYTES);
        // SAFETY: the callers' offsets are below the mapping's size.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody holds it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), Self::BYTES) };
    }
}
