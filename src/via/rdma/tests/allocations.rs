//! What is called by signal handlers must not allocate.

use super::*;
use crate::via::channel::{Received, Wait};
use crate::via::testkit::{Node, until};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does it all; the count is a plain number of the thread's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn nothing_is_allocated_while_bytes_flow() {
    for on in ["RDMA_VM_RXE_ADDR", "RDMA_VM_SIW_ADDR"] {
        let mut node = Node::start(&On(on));
        let pair = node.pair();
        let mut allocated = 0;
        for round in 0..100 {
            for (from, to) in [(&pair.client, &pair.node), (&pair.node, &pair.client)] {
                let bytes = [7; 300];
                let mut got = 0;
                let before = COUNT.with(Cell::get);
                assert_eq!(from.send(&[IoSlice::new(&bytes)], Wait::No), Ok(300));
                from.wire.keep_alive(from).expect("stands");
                until("all is there", || {
                    from.drive().expect("stands");
                    to.drive().expect("stands");
                    match to.recv(&mut [0; 300], Wait::No) {
                        Ok(Received::Bytes(n)) => got += n,
                        Ok(Received::Empty) => {}
                        other => panic!("{other:?}"),
                    }
                    to.settle();
                    got == 300
                });
                // The first ones fill what is made on first use.
                if round > 0 {
                    allocated += COUNT.with(Cell::get) - before;
                }
            }
        }
        assert_eq!(allocated, 0, "{on}");
    }
}
