//! Threads by their kernel id: who holds something in memory that processes share, and whether it still lives.

use std::cell::Cell;

thread_local! {
    static ID: Cell<u32> = const { Cell::new(0) };
}

/// This thread's id; never 0.
pub fn id() -> u32 {
    ID.with(|id| {
        if id.get() == 0 {
            id.set(rustix::thread::gettid().as_raw_nonzero().get() as u32);
        }
        id.get()
    })
}

/// To be called in a child after fork: the thread that lives on has another id.
pub fn forget_id() {
    ID.with(|id| id.set(0));
}

/// Whether there is a thread with this id.
pub fn is_alive(id: u32) -> bool {
    match rustix::process::Pid::from_raw(id as i32) {
        Some(pid) => rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH),
        None => false,
    }
}
