//! The memory of the library: an allocator of its own, without a lock.
//!
//! psql cancels from its SIGINT handler: it connects, sends and receives there, while the thread that was interrupted may be
//! inside the C library's `malloc`, with its lock held. Were our memory the C library's, the connect would wait for that
//! lock for ever (seen in a third of the tries, with a large result arriving). And a child of a fork may find any lock
//! held by a thread that does not exist there. So: free blocks are in one lock-free stack for each size, powers of two
//! from 16 bytes to 32 KiB, cut out of anonymous mappings that are kept; what is larger is a mapping of its own.
//!
//! A stack's head has a count in the bits that a 16-byte aligned address of 48 bits leaves free, so that a head that was
//! taken and put back in between is told from one that stayed. Only what goes to the C library to be freed there is
//! made by its `malloc` ([`hooks::names`](crate::hooks)).

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// The smallest block is `1 << SMALLEST` bytes, the largest `1 << LARGEST`.
const SMALLEST: u32 = 4;
const LARGEST: u32 = 15;
const CLASSES: usize = (LARGEST - SMALLEST + 1) as usize;
/// Bytes that are mapped at once for small blocks; of the larger ones, [`AT_LEAST`] blocks.
const CHUNK: usize = 1 << 16;
const AT_LEAST: usize = 4;
const PAGE: usize = 4096;
/// Bits of a head that hold the address without its four low zeros.
const ADDRESS_BITS: u32 = 44;

/// The allocator. Safe in signal handlers and after fork; a failure is a null pointer, as always.
pub struct SignalSafe;

static FREE: [AtomicU64; CLASSES] = [const { AtomicU64::new(0) }; CLASSES];

/// A free block: its first bytes say which is the next one.
#[repr(transparent)]
struct Block(AtomicU64);

// SAFETY: blocks are as large and aligned as the layout asks (see `class_of`), belong to one owner at a time (they leave a
// stack by a successful exchange only), and nothing here unwinds.
unsafe impl GlobalAlloc for SignalSafe {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => pop(class)
                .or_else(|| refill(class))
                .unwrap_or(null_mut())
                .cast(),
            None => map(layout.size()).unwrap_or(null_mut()).cast(),
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match class_of(layout) {
            // SAFETY: the caller gives up a block of this layout, so of this class; it is aligned for a `Block`.
            Some(class) => unsafe { push(class, ptr.cast()) },
            None => {
                let len = layout.size().next_multiple_of(PAGE);
                // SAFETY: a mapping of its own, made with this length, that the caller gives up.
                let _ = unsafe { munmap(ptr.cast(), len) };
            }
        }
    }
}

/// Which stack serves the layout; `None`: a mapping of its own. Nobody asks for more than a page's alignment; a layout that
/// does gets none (see [`map`]).
fn class_of(layout: Layout) -> Option<usize> {
    let bytes = layout.size().max(layout.align()).max(1 << SMALLEST);
    if bytes > 1 << LARGEST || layout.align() > PAGE {
        return None;
    }
    Some((bytes.next_power_of_two().ilog2() - SMALLEST) as usize)
}

fn map(bytes: usize) -> Option<*mut Block> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    let len = bytes.checked_next_multiple_of(PAGE)?;
    // SAFETY: a fresh mapping where the kernel likes; nothing else is there.
    unsafe { mmap_anonymous(null_mut(), len, protection, flags) }
        .ok()
        .map(<*mut _>::cast)
}

/// Maps more blocks of the class, keeps one and frees the others.
fn refill(class: usize) -> Option<*mut Block> {
    let block = 1 << (class as u32 + SMALLEST);
    let len = CHUNK.max(block * AT_LEAST);
    let chunk = map(len)?;
    for at in (block..len).step_by(block) {
        // SAFETY: within the fresh chunk, aligned to the block's size (or a page, if that is less), and nobody's yet.
        unsafe { push(class, chunk.byte_add(at)) };
    }
    Some(chunk)
}

fn pop(class: usize) -> Option<*mut Block> {
    let mut head = FREE[class].load(Ordering::Acquire);
    loop {
        let top = address(head);
        if top.is_null() {
            return None;
        }
        // SAFETY: blocks of a stack are never unmapped. If another owner took this one meanwhile, what is read is
        // whatever is in it now, and the exchange below fails, since the count has moved.
        let next = unsafe { (*top).0.load(Ordering::Relaxed) };
        match replace(class, head, with_exposed_provenance_mut(next as usize)) {
            Ok(()) => return Some(top),
            Err(now) => head = now,
        }
    }
}

/// # Safety
/// The block is of the class and nobody uses it any more.
unsafe fn push(class: usize, block: *mut Block) {
    let mut head = FREE[class].load(Ordering::Acquire);
    loop {
        let next = address(head).expose_provenance() as u64;
        // SAFETY: it is the caller's, and large enough.
        unsafe { (*block).0.store(next, Ordering::Relaxed) };
        match replace(class, head, block) {
            Ok(()) => return,
            Err(now) => head = now,
        }
    }
}

fn address(head: u64) -> *mut Block {
    with_exposed_provenance_mut(((head & ((1 << ADDRESS_BITS) - 1)) << SMALLEST) as usize)
}

/// Puts `top` in the place of `head`, with the next count.
fn replace(class: usize, head: u64, top: *mut Block) -> Result<(), u64> {
    let count = (head >> ADDRESS_BITS).wrapping_add(1);
    let low = (top.expose_provenance() as u64 >> SMALLEST) & ((1 << ADDRESS_BITS) - 1);
    let fresh = (count << ADDRESS_BITS) | low;
    FREE[class]
        .compare_exchange_weak(head, fresh, Ordering::AcqRel, Ordering::Acquire)
        .map(|_| ())
}
