//! Registered memory: one shared mapping with the two rings of a channel.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | 1024 | [`RingHeader`] of ring 0, client to server |
//! | 1024 | 1024 | [`RingHeader`] of ring 1, server to client |
//! | 2048 | 2048 | not used, zero |
//! | 4096 | ring size | bytes of ring 0 |
//! | 4096 + ring size | ring size | bytes of ring 1 |
//!
//! The ring size is a power of two from 4096 to 2^30 and follows from the size of the mapping, so nothing has to be
//! believed. A region is either a sealed memfd (shm: the node daemon creates it, the client checks seals and size) or
//! anonymous and shared (wires with local rings: a forked child sees the same bytes).

use super::ring::{Ring, RingHeader, Storage};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Smallest ring, bytes.
pub const MIN_RING: u32 = 4096;
/// Largest ring, bytes.
pub const MAX_RING: u32 = 1 << 30;
/// Where the bytes of ring 0 begin.
const CONTROL: usize = 4096;
/// Where the header of ring 1 begins.
const HEADER_STRIDE: usize = 1024;
const _: () = assert!(size_of::<RingHeader>() <= HEADER_STRIDE);

/// Which of the two rings of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ring 0: the client produces.
    ClientToServer = 0,
    /// Ring 1: the server produces.
    ServerToClient = 1,
}

/// The mapping; unmapped when the last ring half is dropped.
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    ring: u32,
    memfd: Option<OwnedFd>,
}

// SAFETY: the mapping is plain shared memory that outlives every use (rings hold the `Arc`), and it is reached only
// through atomics and through raw copies that the ring protocol orders.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A sealed memfd with rings of `ring` bytes each, for a channel with another process. Close-on-exec; cannot
    /// shrink or grow any more, nor be unsealed.
    ///
    /// # Errors
    /// `InvalidInput` for a size that is no power of two in range; else the system call's.
    pub fn create_sealed(ring: u32) -> io::Result<Arc<Self>> {
        let len = Self::len_for(ring)?;
        let memfd = rustix::fs::memfd_create(
            "vianet-channel",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&memfd, len as u64)?;
        // Allocated now: a full tmpfs or memory group is an error here and not a SIGBUS later.
        rustix::fs::fallocate(&memfd, rustix::fs::FallocateFlags::empty(), 0, len as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SEALS)?;
        Self::map(Some(memfd), len, ring)
    }

    /// Maps what [`Region::create_sealed`] of the peer made, after checking that it is sealed against every change of
    /// size and that its size is that of a region.
    ///
    /// # Errors
    /// `InvalidData` with the text of what is wrong; else the system call's.
    pub fn open_sealed(memfd: OwnedFd, max_ring: u32) -> io::Result<Arc<Self>> {
        let seals = rustix::fs::fcntl_get_seals(&memfd)
            .map_err(|_| invalid("the descriptor is no sealable memory file".into()))?;
        if !seals.contains(SEALS) {
            return Err(invalid(format!(
                "memory file has seals {seals:?} and must have {SEALS:?}"
            )));
        }
        let len = rustix::fs::fstat(&memfd)?.st_size as u64;
        let ring = len.checked_sub(CONTROL as u64).map_or(0, |rings| rings / 2);
        let ring = u32::try_from(ring).unwrap_or(0);
        if Self::len_for(ring).ok() != Some(len as usize) || ring > max_ring {
            return Err(invalid(format!(
                "memory file of {len} bytes is not 4096 plus two rings of at most {max_ring}"
            )));
        }
        Self::map(Some(memfd), len as usize, ring)
    }

    /// Anonymous shared memory with rings of `ring` bytes each, which a forked child shares.
    ///
    /// # Errors
    /// As [`Region::create_sealed`].
    pub fn anonymous(ring: u32) -> io::Result<Arc<Self>> {
        let len = Self::len_for(ring)?;
        Self::map(None, len, ring)
    }

    /// Bytes of one ring.
    pub fn ring_bytes(&self) -> u32 {
        self.ring
    }

    /// The memory file, for handing it to the peer.
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }

    /// Where the bytes of one of the two rings begin, for registering them with a device.
    pub(super) fn bytes(&self, direction: Direction) -> NonNull<u8> {
        let before = CONTROL + direction as usize * self.ring as usize;
        // SAFETY: inside the mapping (`len_for`).
        unsafe { self.base.add(before) }
    }

    /// One of the two rings; its halves are made by [`Ring::producer`] and [`Ring::consumer`].
    pub fn ring(self: &Arc<Self>, direction: Direction) -> Ring {
        let index = direction as usize;
        let ring = self.ring as usize;
        // SAFETY: both offsets are inside the mapping (`len_for`), the header's is a multiple of its alignment, and
        // a fresh mapping is zero, which is a valid `RingHeader`.
        let (header, data) = unsafe {
            (
                self.base.add(index * HEADER_STRIDE).cast::<RingHeader>(),
                self.base.add(CONTROL + index * ring),
            )
        };
        Ring::new(Storage::mapped(header, data, ring, Arc::clone(self)))
    }

    fn len_for(ring: u32) -> io::Result<usize> {
        if ring.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&ring) {
            Ok(CONTROL + 2 * ring as usize)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "ring of {ring} bytes: must be a power of two from {MIN_RING} to {MAX_RING}"
                ),
            ))
        }
    }

    fn map(memfd: Option<OwnedFd>, len: usize, ring: u32) -> io::Result<Arc<Self>> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so no existing mapping is touched.
        let base = unsafe {
            match &memfd {
                Some(fd) => {
                    rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0)?
                }
                None => {
                    rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::SHARED)?
                }
            }
        };
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap gave the null page"))?;
        Ok(Arc::new(Self {
            base,
            len,
            ring,
            memfd,
        }))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of our own mapping, and nobody holds the region any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(all(test, not(loom)))]
mod tests;
