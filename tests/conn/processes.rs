//! Two processes, one connection: fork, exec, dup, raw close.

use super::*;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs `child` in a forked child, which must say true.
pub fn in_child(child: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: the child only uses the library, plain system calls and memory, and ends by _exit.
    match unsafe { libc::fork() } {
        0 => {
            let fine =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if fine { 0 } else { 1 }) }
        }
        pid => pid,
    }
}

/// A child that is killed when it was of use, or when the test fails.
struct Killed(libc::pid_t);

impl Drop for Killed {
    fn drop(&mut self) {
        // SAFETY: our own child, and no status is wanted.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

#[track_caller]
pub fn assert_ends_well(pid: libc::pid_t) {
    assert!(ends_well(pid), "the child failed, or hung");
}

/// Waits for a child, and kills one that does not end: it has copies of everybody's descriptors.
pub fn ends_well(pid: libc::pid_t) -> bool {
    let mut status = -1;
    let end = std::time::Instant::now() + PATIENCE;
    // SAFETY: one valid int.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } != pid {
        if std::time::Instant::now() > end {
            // SAFETY: our own child, and one valid int.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &raw mut status, 0);
            }
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    status == 0
}

fn echo(fd: RawFd, text: &[u8]) -> bool {
    let Ok(c) = conn::find(fd) else { return false };
    let mut done = 0;
    while done < text.len() {
        match c.send(&[IoSlice::new(&text[done..])], 0) {
            Ok(n) => done += n,
            Err(_) => return false,
        }
    }
    let (mut buffer, mut got) = (vec![0; text.len()], 0);
    while got < text.len() {
        match c.recv(&mut buffer[got..], 0) {
            Ok(n) if n > 0 => got += n,
            _ => return false,
        }
    }
    buffer == text
}

#[test]
fn the_child_uses_it_and_the_parent_closes() {
    let bed = bed(30, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        assert!(echo(fd, b"before"));
        let child = in_child(|| {
            std::thread::sleep(Duration::from_millis(100));
            (0..50).all(|_| echo(fd, b"from the child")) && poll_one(fd, libc::POLLIN, 0) == 0
        });
        conn::close(fd).unwrap();
        assert_ends_well(child);
        wait_for("the node's channel to end", || bed.a.channels() == 0);
    }
}

#[test]
fn the_parent_uses_it_and_the_child_ends() {
    let bed = bed(31, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        for close in [true, false] {
            let child = in_child(|| !close || conn::close(fd).is_ok());
            assert!(echo(fd, b"meanwhile"));
            assert_ends_well(child);
            for _ in 0..50 {
                assert!(echo(fd, b"after"));
            }
        }
        conn::close(fd).unwrap();
        wait_for("the node's channel to end", || bed.a.channels() == 0);
    }
}

#[test]
fn they_use_it_in_turn() {
    let bed = bed(32, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        // Often: a child ends at once after its call, whatever its I/O thread is in the middle of.
        for _ in 0..40 {
            assert!(echo(fd, b"parent"));
            assert_ends_well(in_child(|| echo(fd, b"child")));
            if transport == Transport::Rdma {
                // The child carried it on over another transport: it cannot be handed back, and is never mixed up.
                assert!(!echo(fd, b"parent again"));
                break;
            }
        }
        if transport == Transport::Rdma {
            conn::close(fd).unwrap();
            continue;
        }
        assert!(echo(fd, b"parent again"));
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_thread_inside_goes_on_when_the_connection_comes_back() {
    let bed = bed(37, Behaviour::Echo);
    for transport in transports() {
        if transport == Transport::Rdma {
            continue; // what the child has used cannot be handed back
        }
        let fd = bed.connect(transport);
        let (tell, told) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            while let Ok(1..) = conn::find(fd).unwrap().recv(&mut [0; 1], 0) {
                let _ = tell.send(());
            }
        });
        for round in 0..50 {
            assert_ends_well(in_child(|| {
                let conn = conn::find(fd);
                conn.is_ok_and(|c| c.send(&[IoSlice::new(b"c")], 0).is_ok())
            }));
            send_all(fd, b"p");
            for who in ["child", "parent"] {
                // Less than the longest sleep of a thread inside.
                let came = told.recv_timeout(Duration::from_secs(20));
                assert!(came.is_ok(), "{transport}: the {who}'s byte, round {round}");
            }
        }
        conn::find(fd).unwrap().shutdown(conn::How::Write).unwrap();
        receiver.join().unwrap();
        conn::close(fd).unwrap();
    }
}

#[test]
fn children_of_a_process_that_connects_in_other_threads() {
    if rdma_device().is_some() {
        return; // closed connections linger there, and their descriptors with them
    }
    let bed = bed(38, Behaviour::Echo);
    let fd = bed.connect(Transport::Shm);
    let stop = AtomicBool::new(false);
    let well = std::thread::scope(|scope| {
        for transport in [Transport::Shm, Transport::Tcp] {
            let (bed, stop) = (&bed, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let fd = bed.connect(transport);
                    assert!(echo(fd, b"x"));
                    conn::close(fd).unwrap();
                }
            });
        }
        let well = (0..100).all(|_| ends_well(in_child(|| echo(fd, b"child"))));
        stop.store(true, Ordering::Relaxed);
        well
    });
    assert!(well, "a child failed, or hung");
    conn::close(fd).unwrap();
}

#[test]
fn a_child_connects_for_itself() {
    let bed = bed(33, Behaviour::Echo);
    let fd = bed.connect(Transport::Tcp);
    assert_ends_well(in_child(|| {
        let options = bed.options(Transport::Shm);
        conn::connect(&bed.name("echo"), &options).is_ok_and(|own| echo(own, b"own"))
    }));
    assert!(echo(fd, b"parent"));
    conn::close(fd).unwrap();
}

#[test]
fn a_program_without_the_library_reads_true_bytes() {
    let bed = bed(34, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        let text: Vec<u8> = (0..20_000_u32).map(|i| b'a' + (i % 23) as u8).collect();
        send_all(fd, &text);
        conn::find(fd).unwrap().shutdown(conn::How::Write).unwrap();
        conn::announce_shared(fd);
        // SAFETY: a fresh number of ours.
        let copy = unsafe { OwnedFd::from_raw_fd(libc::dup(fd)) };
        let cat = Command::new("cat")
            .stdin(Stdio::from(copy))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = cat.wait_with_output().unwrap();
        assert!(
            output.stdout == text,
            "{transport}: {} bytes came",
            output.stdout.len()
        );
        conn::close(fd).unwrap();
    }
}

#[test]
fn duplicates_are_the_same_connection() {
    let bed = bed(35, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        // SAFETY: a plain system call.
        let copy = unsafe { libc::dup(fd) };
        assert!(echo(copy, b"by the copy"));
        assert!(echo(fd, b"by the original"));
        conn::close(fd).unwrap();
        assert_eq!(
            poll_one(copy, libc::POLLIN | libc::POLLOUT, 0),
            libc::POLLOUT
        );
        for _ in 0..20 {
            assert!(echo(copy, b"still there"));
        }
        conn::close(copy).unwrap();
        wait_for("the node's channel to end", || bed.a.channels() == 0);
    }
}

#[test]
fn a_number_closed_behind_our_back_is_found_out() {
    let bed = bed(36, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        assert!(echo(fd, b"x"));
        // SAFETY: our own number, closed and given to a stranger.
        let stranger = unsafe {
            libc::close(fd);
            libc::eventfd(0, 0)
        };
        // Other tests open numbers too; only the same one is of interest.
        if stranger == fd {
            assert_eq!(conn::find(fd).err().unwrap().errno(), libc::ENOTSOCK);
        }
        wait_for("the node's channel to end", || bed.a.channels() == 0);
        // SAFETY: our own number.
        unsafe { libc::close(stranger) };
    }
}

/// Whether the process sleeps in the kernel (by its own will) or was stopped.
fn process_state(pid: libc::pid_t) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.unwrap_or('?')
}

#[test]
fn a_killed_child_that_nobody_waits_for_holds_nobody_up() {
    let bed = bed(39, Behaviour::Echo);
    for transport in transports() {
        if transport == Transport::Rdma {
            continue; // the child goes on over another transport, and the parent is told
        }
        let fd = bed.connect(transport);
        let child = in_child(|| {
            let _ = conn::find(fd).map(|c| c.recv(&mut [0; 1], 0));
            true
        });
        let killed = Killed(child);
        // Asleep in `recv`: it has spun for a moment and holds the direction.
        std::thread::sleep(Duration::from_millis(200));
        wait_for("the child to sleep", || process_state(child) == 'S');
        // SAFETY: our own child.
        unsafe { libc::kill(child, libc::SIGKILL) };
        wait_for("the child to end", || process_state(child) == 'Z');
        let (done, fine) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(echo(fd, b"and on")));
        assert_eq!(fine.recv_timeout(PATIENCE), Ok(true), "{transport}");
        conn::close(fd).unwrap();
        drop(killed);
    }
}

#[test]
fn a_stopped_process_inside_a_call_holds_nobody_else_up() {
    for (n, transport) in transports().into_iter().enumerate() {
        if transport == Transport::Rdma {
            continue; // the child goes on over another transport, and the parent is told
        }
        let bed = bed(159 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        let child = in_child(|| {
            let _ = conn::find(fd).map(|c| c.recv(&mut [0; 1], 0));
            true
        });
        let killed = Killed(child);
        // Asleep in `recv`: it has spun for a moment and holds the direction.
        std::thread::sleep(Duration::from_millis(200));
        wait_for("the child to sleep", || process_state(child) == 'S');
        // SAFETY: our own child.
        unsafe { libc::kill(child, libc::SIGSTOP) };
        wait_for("the child to stop", || process_state(child) == 'T');
        // This process owns the connection again, and the cut is its business.
        send_all(fd, b"x");
        bed.a.break_channels();
        wait_for("the cut to be noticed", || {
            conn::find(fd).unwrap().info().phase == conn::Phase::Suspended
        });
        let (done, other) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let fd = bed.connect(transport);
                let fine = echo(fd, b"another connection");
                let _ = conn::close(fd);
                let _ = done.send(fine);
            });
            let fine = other.recv_timeout(Duration::from_secs(10));
            drop(killed);
            assert_eq!(fine, Ok(true), "{transport}: another connection waits");
        });
        // Nobody holds it any more.
        assert_eq!(recv_exactly(fd, 1), b"x");
        assert!(echo(fd, b"and on"));
        conn::close(fd).unwrap();
    }
}

/// The number of the system call that a process is in.
fn system_call(pid: libc::pid_t) -> Option<libc::c_long> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split(' ').next()?.parse().ok()
}

#[test]
fn a_process_stopped_while_it_reads_the_wire_hides_no_cut() {
    let bed = bed(40, Behaviour::Echo);
    if rdma_device().is_some() {
        return; // a forked child has none
    }
    let stopped = |fd: RawFd| {
        let child = in_child(|| {
            let _ = conn::find(fd).map(|c| c.recv(&mut [0; 1], 0));
            true
        });
        let killed = Killed(child);
        // A call sleeps in a read of the wire for some milliseconds before it polls it.
        let reads = || system_call(child) == Some(libc::SYS_recvfrom);
        let polls = || system_call(child) == Some(libc::SYS_ppoll);
        while !reads() && !polls() {
            std::hint::spin_loop();
        }
        // SAFETY: our own child.
        unsafe { libc::kill(child, libc::SIGSTOP) };
        wait_for("the child to stop", || process_state(child) == 'T');
        (killed, reads())
    };
    // Late for a moment that is so short: again.
    for _ in 0..200 {
        let fd = bed.connect(Transport::Tcp);
        assert!(echo(fd, b"before"));
        let (child, reads) = stopped(fd);
        if reads {
            // This process owns the connection again, and the cut is its business.
            send_all(fd, b"x");
            bed.a.break_channels();
            wait_for("the cut to be noticed", || {
                conn::find(fd).unwrap().info().phase == conn::Phase::Suspended
            });
            drop(child);
            assert_eq!(recv_exactly(fd, 1), b"x");
            return conn::close(fd).unwrap();
        }
        drop(child);
        conn::close(fd).unwrap();
    }
    panic!("no child was stopped in its read");
}

/// The next byte, read by somebody without the library.
fn read_raw(fd: RawFd) -> u8 {
    assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
    let mut byte = [0; 1];
    // SAFETY: a buffer of one byte.
    assert_eq!(unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) }, 1);
    byte[0]
}

/// The token is read the moment it is there, perhaps before the library has noted that it was sent, and a call comes at once.
#[test]
fn what_was_read_without_the_library_as_it_came_does_not_come_again() {
    let bed = bed(234, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        for n in 0..rounds(3000) as u16 {
            let [a, b] = n.to_le_bytes();
            send_all(fd, &[a, b]);
            let mut byte = [0; 1];
            // SAFETY: a buffer of one byte.
            while unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT) } != 1 {
                std::hint::spin_loop();
            }
            assert_eq!(byte, [a], "round {n} over {transport}");
            assert_eq!(recv_exactly(fd, 1), [b], "round {n} over {transport}");
        }
        conn::close(fd).unwrap();
    }
}

/// The channel breaks before anybody has noticed that a byte was read without the library.
#[test]
fn what_was_read_without_the_library_does_not_come_again_after_a_resumption() {
    let bed = bed(216, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        assert!(echo(fd, b"x"));
        bed.a.say(b"abc");
        assert_eq!(read_raw(fd), b'a');
        bed.a.break_channels();
        wait_for("the resumption", || {
            conn::find(fd).unwrap().info().resumptions == 1
        });
        assert_eq!(recv_exactly(fd, 2), b"bc", "{transport}");
        assert_eq!(poll_one(fd, libc::POLLIN, 0), 0, "{transport}");
        assert!(echo(fd, b"y"));
        conn::close(fd).unwrap();
    }
}

/// The same with a server that is lost.
#[test]
fn what_was_read_without_the_library_does_not_come_again_after_a_failover() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(217 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        assert!(echo(fd, b"x"));
        bed.a.say(b"abc");
        wait_for("all of it", || conn::find(fd).unwrap().readable() == 3);
        bed.b.set_role(Role::Active, 2000);
        assert_eq!(read_raw(fd), b'a');
        bed.a.kill();
        wait_for("the second server", || {
            conn::find(fd).unwrap().info().node == "node-b"
        });
        assert_eq!(recv_exactly(fd, 2), b"bc", "{transport}");
        assert_eq!(poll_one(fd, libc::POLLIN, 0), 0, "{transport}");
        assert!(echo(fd, b"y"));
        conn::close(fd).unwrap();
    }
}

/// A child that has the channel could not follow it to a better path: there is no return.
#[test]
fn a_channel_that_a_forked_process_has_does_not_return_to_the_better_path() {
    let bed = bed(220, Behaviour::Echo);
    let options = Options {
        transports: vec![Transport::Shm, Transport::Tcp],
        ..bed.options(Transport::Tcp)
    };
    let fd = conn::connect(&bed.name("echo"), &options).expect("the node is there");
    let transport = || conn::find(fd).unwrap().info().transport;
    assert!(echo(fd, &[1; 1000]));
    bed.a.break_channels();
    wait_for("the other path", || transport() == Some(Transport::Tcp));
    assert!(echo(fd, &[1; 1000]));
    let (mut told, mut teller) = std::io::pipe().unwrap();
    let child = in_child(|| {
        use std::io::Read;
        told.read_exact(&mut [0]).is_ok() && echo(fd, b"child")
    });
    // Twice as long as the first look at the better path takes to come.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(transport(), Some(Transport::Tcp), "it stays");
    std::io::Write::write_all(&mut teller, b"x").unwrap();
    assert_ends_well(child);
    assert!(echo(fd, b"parent"));
    conn::close(fd).unwrap();
}
