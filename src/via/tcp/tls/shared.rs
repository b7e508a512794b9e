//! What a connection by TLS has under way, in memory that forked processes share: a child goes on in the middle of a record, with
//! the numbers that follow.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | 64 | words of the sending half |
//! | 128 | 64 | words of the receiving half |
//! | 4096 | [`BUFFER`] | sealed records that the socket has not taken |
//! | 4096 + [`BUFFER`] | [`BUFFER`] | opened contents that nobody has taken, and records behind them |

use super::record::RECORD_MAX;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records that are sealed, or read, at once.
pub const RECORDS: usize = 4;
/// Bytes of each of the two buffers.
pub const BUFFER: usize = (RECORDS * RECORD_MAX).next_multiple_of(4096);
const CONTROL: usize = 4096;
const LEN: usize = CONTROL + 2 * BUFFER;

/// The mapping. Pages that are never used take no memory.
pub struct Shared(NonNull<u8>);

// SAFETY: plain shared memory, reached through atomics, and through [`Half::buffer`], whose callers have it to themselves.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// One of the two halves.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Direction {
    /// To the peer.
    Send = 0,
    /// From the peer.
    Receive = 1,
}

impl Shared {
    /// A mapping of zeros.
    ///
    /// # Errors
    /// The system call's.
    pub fn new() -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so no existing mapping is touched.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), LEN, prot, MapFlags::SHARED)?
        };
        let base = NonNull::new(base.cast());
        Ok(Self(base.ok_or_else(|| {
            io::Error::other("mmap gave the null page")
        })?))
    }

    /// Word `n` of a half, 0 to 7.
    pub fn word(&self, direction: Direction, n: usize) -> &AtomicU64 {
        assert!(n < 8);
        // SAFETY: inside the mapping, aligned to 8, lives as long as `self`, and is only ever used as an atomic.
        unsafe {
            self.0
                .add(128 * direction as usize + 8 * n)
                .cast::<AtomicU64>()
                .as_ref()
        }
    }

    pub fn get(&self, direction: Direction, n: usize) -> usize {
        self.word(direction, n).load(Ordering::Relaxed) as usize
    }

    pub fn set(&self, direction: Direction, n: usize, value: usize) {
        self.word(direction, n)
            .store(value as u64, Ordering::Relaxed);
    }

    /// The buffer of a half.
    ///
    /// # Safety
    /// The caller has it to itself while it uses it, among threads and forked processes.
    #[expect(clippy::mut_from_ref, reason = "the caller has it to itself")]
    pub unsafe fn buffer(&self, direction: Direction) -> &mut [u8] {
        let at = CONTROL + direction as usize * BUFFER;
        // SAFETY: inside the mapping, which lives as long as `self`, bytes of any value are valid, and nobody else uses them.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at).as_ptr(), BUFFER) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody holds it any more.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), LEN) };
    }
}
