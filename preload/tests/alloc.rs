//! The library's allocator, by itself: blocks do not overlap, are aligned, and come back; with many threads, and in a
//! signal handler that interrupts it.

#[path = "../src/alloc.rs"]
mod alloc;

use alloc::SignalSafe;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Takes a block, fills it, and checks that it is whole when it is given back.
struct Held {
    ptr: *mut u8,
    layout: Layout,
    mark: u8,
}

impl Held {
    fn take(size: usize, align: usize, mark: u8) -> Self {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        // SAFETY: the size is not zero.
        let ptr = unsafe { SignalSafe.alloc(layout) };
        assert!(!ptr.is_null() && ptr.addr() % align == 0);
        // SAFETY: the block has `size` bytes.
        unsafe { ptr.write_bytes(mark, size) };
        Self { ptr, layout, mark }
    }

    fn whole(&self) -> bool {
        // SAFETY: the block has so many bytes, and was filled.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr, self.layout.size()) };
        bytes.iter().all(|b| *b == self.mark)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        assert!(
            self.whole(),
            "somebody else wrote to a block of {:?}",
            self.layout
        );
        // SAFETY: taken with this layout.
        unsafe { SignalSafe.dealloc(self.ptr, self.layout) };
    }
}

/// A cheap sequence of numbers without a pattern.
fn next(seed: &mut u64) -> usize {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

fn churn(mut seed: u64, rounds: usize) {
    let mut held: Vec<Held> = Vec::new();
    for round in 0..rounds {
        if held.len() > 50 || (next(&mut seed).is_multiple_of(3) && !held.is_empty()) {
            held.swap_remove(next(&mut seed) % held.len());
        } else {
            let size = 1 + next(&mut seed) % [24, 300, 5000, 100_000][next(&mut seed) % 4];
            let align = 1 << (next(&mut seed) % 8);
            held.push(Held::take(size, align, round as u8));
        }
    }
}

#[test]
fn blocks_do_not_overlap_with_many_threads() {
    std::thread::scope(|scope| {
        for n in 1..=8 {
            scope.spawn(move || churn(n, 20_000));
        }
    });
}

#[test]
fn every_size_and_alignment() {
    let mut held = Vec::new();
    for size in [
        1,
        15,
        16,
        17,
        4095,
        4096,
        4097,
        32_767,
        32_768,
        32_769,
        1 << 20,
    ] {
        for align in [1, 8, 16, 64, 512, 4096] {
            held.push(Held::take(size, align, held.len() as u8));
        }
    }
}

static IN_HANDLER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handler(_: libc::c_int) {
    let n = IN_HANDLER.fetch_add(1, Ordering::Relaxed);
    drop(Held::take(1 + n % 500, 8, n as u8));
}

#[test]
fn a_signal_handler_may_interrupt_it() {
    // SAFETY: the handler only uses the allocator and an atomic.
    unsafe { libc::signal(libc::SIGUSR2, handler as *const () as libc::sighandler_t) };
    // SAFETY: takes nothing.
    let target = unsafe { libc::pthread_self() };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the thread waits for this one at the end of the scope.
                unsafe { libc::pthread_kill(target, libc::SIGUSR2) };
                std::thread::yield_now();
            }
        });
        churn(99, 50_000);
        while IN_HANDLER.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
}
