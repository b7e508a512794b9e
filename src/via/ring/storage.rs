//! Where the header and the bytes of a ring live: in a mapping, or (loom) on the heap with checked cells.

#![allow(dead_code)] // each configuration uses its own half

use super::{Corrupt, RingHeader};
use crate::via::region::Region;
use std::io::{self, IoSlice, IoSliceMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Header and bytes of one ring; keeps the mapping alive.
pub struct Storage {
    header: NonNull<RingHeader>,
    data: Data,
    size: usize,
    _keep: Keep,
}

enum Keep {
    Mapping(Arc<Region>),
    #[cfg(loom)]
    Heap(Box<RingHeader>),
}

#[cfg(not(loom))]
type Data = NonNull<u8>;
#[cfg(loom)]
type Data = Vec<loom::cell::UnsafeCell<u8>>;

// SAFETY: the header is atomics only, and the bytes are reached by one producer and one consumer whose parts the
// indexes keep apart; the memory lives as long as `_keep`.
unsafe impl Send for Storage {}
// SAFETY: as above.
unsafe impl Sync for Storage {}

impl Storage {
    /// Storage in a mapping; `header` and `size` bytes from `data` on lie inside `region`.
    #[cfg(not(loom))]
    pub(in crate::via) fn mapped(
        header: NonNull<RingHeader>,
        data: NonNull<u8>,
        size: usize,
        region: Arc<Region>,
    ) -> Self {
        Self {
            header,
            data,
            size,
            _keep: Keep::Mapping(region),
        }
    }

    /// Loom models heap atomics only; nothing that it checks maps memory.
    #[cfg(loom)]
    pub(in crate::via) fn mapped(
        _: NonNull<RingHeader>,
        _: NonNull<u8>,
        _: usize,
        _: Arc<Region>,
    ) -> Self {
        unimplemented!("a mapping cannot be modelled")
    }

    /// A ring of `size` bytes (a power of two) on the heap, for the model checker.
    #[cfg(loom)]
    pub fn heap(size: usize) -> Self {
        let header = Box::new(RingHeader::default());
        Self {
            header: NonNull::from(&*header),
            data: (0..size).map(|_| loom::cell::UnsafeCell::new(0)).collect(),
            size,
            _keep: Keep::Heap(header),
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn header(&self) -> &RingHeader {
        // SAFETY: points into memory that `_keep` keeps, is aligned, and is only ever reached as atomics.
        unsafe { self.header.as_ref() }
    }

    pub(super) fn check(&self, head: u64, tail: u64) -> Result<(), Corrupt> {
        let size = self.size as u64;
        if tail.wrapping_sub(head) > size {
            return Err(Corrupt { head, tail, size });
        }
        Ok(())
    }

    /// The byte at `head` unless `head == tail`.
    pub(super) fn byte_at(&self, head: u64, tail: u64) -> Option<u8> {
        let mut byte = [0];
        (head != tail).then(|| {
            self.copy_out(head, &mut byte);
            byte[0]
        })
    }

    fn index(&self, offset: u64) -> usize {
        (offset & (self.size as u64 - 1)) as usize
    }
}

#[cfg(not(loom))]
impl Storage {
    /// Copies `src` (at most the ring's size) to stream offset `offset`.
    pub(super) fn copy_in(&self, offset: u64, src: &[u8]) {
        let (first, second) = src.split_at(src.len().min(self.size - self.index(offset)));
        let second = &second[..second.len().min(self.size)];
        // SAFETY: `first` ends at or before the end of the ring and `second`, cut to its size, begins at its start; the
        // caller's memory cannot overlap with the mapping, of which no reference is ever made.
        unsafe {
            let data = self.data.as_ptr();
            std::ptr::copy_nonoverlapping(
                first.as_ptr(),
                data.add(self.index(offset)),
                first.len(),
            );
            std::ptr::copy_nonoverlapping(second.as_ptr(), data, second.len());
        }
    }

    /// Copies from stream offset `offset` into `dst` (at most the ring's size).
    pub(super) fn copy_out(&self, offset: u64, dst: &mut [u8]) {
        let middle = dst.len().min(self.size - self.index(offset));
        let (first, second) = dst.split_at_mut(middle);
        let length = second.len().min(self.size);
        // SAFETY: as in `copy_in`.
        unsafe {
            let data = self.data.as_ptr();
            std::ptr::copy_nonoverlapping(
                data.add(self.index(offset)),
                first.as_mut_ptr(),
                first.len(),
            );
            std::ptr::copy_nonoverlapping(data, second.as_mut_ptr(), length);
        }
    }

    pub(super) fn with_spans(
        &self,
        offset: u64,
        n: usize,
        take: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let [(first, a), (second, b)] = self.spans(offset, n);
        // SAFETY: both spans lie inside the mapping, which lives as long as `self`. They are handed to the kernel,
        // which copies; the contract of the callers is that nobody looks at the bytes in place.
        let slices = unsafe {
            [
                IoSlice::new(std::slice::from_raw_parts(first, a)),
                IoSlice::new(std::slice::from_raw_parts(second, b)),
            ]
        };
        take(&slices[..if b == 0 { 1 } else { 2 }])
    }

    pub(super) fn with_spans_mut(
        &self,
        offset: u64,
        n: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let [(first, a), (second, b)] = self.spans(offset, n);
        // SAFETY: as in `with_spans`; the spans do not overlap, and only the one producer writes this part.
        let mut slices = unsafe {
            [
                IoSliceMut::new(std::slice::from_raw_parts_mut(first, a)),
                IoSliceMut::new(std::slice::from_raw_parts_mut(second, b)),
            ]
        };
        fill(&mut slices[..if b == 0 { 1 } else { 2 }])
    }

    /// The part from `offset` to the end of the ring, and the part that wrapped to its start.
    fn spans(&self, offset: u64, n: usize) -> [(*mut u8, usize); 2] {
        let n = n.min(self.size);
        let index = self.index(offset);
        let first = n.min(self.size - index);
        let data = self.data.as_ptr();
        // SAFETY: `index` is below the ring's size.
        let start = unsafe { data.add(index) };
        [(start, first), (data, n - first)]
    }
}

#[cfg(loom)]
impl Storage {
    pub(super) fn copy_in(&self, offset: u64, src: &[u8]) {
        for (i, byte) in src.iter().enumerate() {
            // SAFETY: loom checks that no other thread touches the cell now.
            self.data[self.index(offset + i as u64)].with_mut(|p| unsafe { *p = *byte });
        }
    }

    pub(super) fn copy_out(&self, offset: u64, dst: &mut [u8]) {
        for (i, byte) in dst.iter_mut().enumerate() {
            // SAFETY: as above.
            *byte = self.data[self.index(offset + i as u64)].with(|p| unsafe { *p });
        }
    }

    pub(super) fn with_spans(
        &self,
        _: u64,
        _: usize,
        _: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        unimplemented!("the kernel cannot be modelled")
    }

    pub(super) fn with_spans_mut(
        &self,
        _: u64,
        _: usize,
        _: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        unimplemented!("the kernel cannot be modelled")
    }
}
