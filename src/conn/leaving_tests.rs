//! The end of a process while somebody is in the way.

use super::*;

/// Forks while `CONNECTIONS` is taken, and says whether the child came to the end of `at_exit`.
fn child_ends() -> bool {
    // SAFETY: the child takes no lock that is not given up at once, and ends by `_exit`.
    let child = match unsafe { libc::fork() } {
        0 => {
            at_exit();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        child => child,
    };
    let end = Instant::now() + Duration::from_secs(20);
    let mut status = -1;
    // SAFETY: one valid int.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > end {
            // SAFETY: our own child, and one valid int.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &raw mut status, 0);
            }
            return false;
        }
        std::thread::sleep(TICK);
    }
    status == 0
}

#[test]
fn nobody_waits_for_the_list_at_the_end() {
    let (taken, is_taken) = std::sync::mpsc::channel();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _guard = CONNECTIONS.lock();
            taken.send(()).unwrap();
            let _ = is_done.recv();
        });
        is_taken.recv().unwrap();
        let mut ended = vec![child_ends()];
        // The same in the process itself.
        PROCESS.store(fork::own_pid(), Ordering::Release);
        at_exit();
        ended.push(child_ends());
        PROCESS.store(0, Ordering::Release);
        drop(done);
        assert_eq!(ended, [true, true]);
    });
}
