//! What counts as dead.

use super::*;

/// The first thread of a process that is being killed may be gone while another one still has its sockets.
#[test]
fn a_process_is_dead_only_with_its_last_thread() {
    // SAFETY: the child makes one thread and ends its first one; the parent kills it.
    let pid = match unsafe { libc::fork() } {
        0 => {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
            // SAFETY: ends this thread of the child alone.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            unreachable!("the thread has ended")
        }
        pid => pid,
    };
    let end = Instant::now() + Duration::from_secs(20);
    let state = || Stat::read(pid).map(|stat| stat.state);
    while state() != Some('Z') && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    let half_dead = Process::of(pid);
    // SAFETY: our own child.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let process = half_dead.expect("its other thread runs");
    assert!(process.wait(Duration::from_secs(20)));
    // SAFETY: our own child, and no status is wanted.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}
