//! Threads by their kernel id: who holds something in memory that processes share, and whether it still lives.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

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

static PROCESS: AtomicU32 = AtomicU32::new(0);

/// This process's id.
pub fn process() -> u32 {
    match PROCESS.load(Ordering::Relaxed) {
        0 => {
            let process = rustix::process::getpid().as_raw_nonzero().get() as u32;
            PROCESS.store(process, Ordering::Relaxed);
            process
        }
        process => process,
    }
}

/// To be called in a child after fork: the thread that lives on has another id, and so has the process.
pub fn forget_id() {
    ID.with(|id| id.set(0));
    PROCESS.store(0, Ordering::Relaxed);
}

/// Whether there is a thread with this id.
pub fn is_alive(id: u32) -> bool {
    match rustix::process::Pid::from_raw(id as i32) {
        Some(pid) => rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH),
        None => false,
    }
}

/// Whether this is another thread of this process. (A system call.)
pub fn is_another_here(thread: u32) -> bool {
    // SAFETY: signal 0 is none: the call looks, and touches nothing.
    let found = unsafe { libc::syscall(libc::SYS_tgkill, process(), thread, 0) };
    found == 0 && thread != id()
}

/// Whether this is a process that has ended and was not waited for yet: its number is still in use, and it gives nothing
/// back any more. (Three system calls, for those who have waited for it already.)
pub fn is_zombie(id: u32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(pid) = Pid::from_raw(id as i32) else {
        return false;
    };
    // Other threads of a process have no such descriptor, and leave no zombie.
    pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|fd| {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())) == Ok(1)
    })
}
