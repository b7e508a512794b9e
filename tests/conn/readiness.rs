//! What the kernel says about the descriptor, by poll, select and epoll.

use super::*;
use libc::{
    EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP, POLLERR, POLLHUP, POLLIN, POLLOUT,
    POLLRDHUP,
};

const MS: i32 = 20_000;

fn epoll() -> RawFd {
    // SAFETY: a plain system call.
    unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }
}

fn control(set: RawFd, op: i32, fd: RawFd, events: i32) {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: 0xfeed_0000 + fd as u64,
    };
    // SAFETY: one valid event.
    assert_eq!(unsafe { libc::epoll_ctl(set, op, fd, &raw mut event) }, 0);
}

fn wait(set: RawFd, ms: i32) -> Vec<(RawFd, i32)> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    // SAFETY: eight valid events.
    let n = unsafe { libc::epoll_wait(set, events.as_mut_ptr(), 8, ms) };
    events[..n.max(0) as usize]
        .iter()
        .map(|e| ((e.u64 - 0xfeed_0000) as RawFd, e.events as i32))
        .collect()
}

#[test]
fn poll_and_select_follow_the_stream() {
    let bed = bed(10, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        assert_eq!(poll_one(fd, POLLIN | POLLOUT | POLLRDHUP, 0), POLLOUT);
        send_all(fd, b"abc");
        assert_eq!(poll_one(fd, POLLIN, MS), POLLIN);
        assert_eq!(recv_exactly(fd, 1), b"a");
        assert_eq!(poll_one(fd, POLLIN, 0), POLLIN, "two bytes are left");
        // SAFETY: an fd_set is plain memory; the number is below FD_SETSIZE.
        let selected = unsafe {
            let mut set = std::mem::zeroed();
            libc::FD_SET(fd, &raw mut set);
            let none = std::ptr::null_mut();
            libc::select(fd + 1, &raw mut set, none, none, none.cast())
        };
        assert_eq!(selected, 1);
        assert_eq!(recv_exactly(fd, 2), b"bc");
        assert_eq!(poll_one(fd, POLLIN, 0), 0, "all was read");
        conn::close(fd).unwrap();
    }
}

#[test]
fn epoll_level_edge_and_one_shot_beside_an_eventfd() {
    let bed = bed(11, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        nonblocking(fd, true);
        let (level, edge, once) = (epoll(), epoll(), epoll());
        // SAFETY: a plain system call.
        let event = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
        control(level, libc::EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP);
        control(level, libc::EPOLL_CTL_ADD, event, EPOLLIN);
        control(
            edge,
            libc::EPOLL_CTL_ADD,
            fd,
            EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP,
        );
        control(once, libc::EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT);
        assert_eq!(wait(edge, MS), [(fd, EPOLLOUT)]);
        for round in 0..200 {
            send_all(fd, b"ping");
            let mut got = 0;
            while got < 4 {
                assert_eq!(wait(level, MS), [(fd, EPOLLIN)], "round {round}");
                assert!(wait(edge, MS)[0].1 & EPOLLIN != 0, "round {round}");
                if got == 0 {
                    assert_eq!(wait(once, MS), [(fd, EPOLLIN)], "round {round}");
                    assert_eq!(wait(once, 0), []);
                }
                // As edge-triggered programs do: until it would block.
                loop {
                    let mut buffer = [0; 3];
                    match conn::find(fd).unwrap().recv(&mut buffer, 0) {
                        Ok(n) => got += n,
                        Err(error) => {
                            assert_eq!(error.errno(), libc::EAGAIN);
                            break;
                        }
                    }
                }
            }
            assert_eq!(wait(level, 0), []);
            control(once, libc::EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT);
            assert_eq!(wait(once, 0), []);
        }
        // SAFETY: eight valid bytes.
        unsafe { libc::write(event, (&raw const MS_ONE).cast(), 8) };
        assert_eq!(wait(level, MS), [(event, EPOLLIN)]);
        for fd in [level, edge, once, event] {
            // SAFETY: our own numbers.
            unsafe { libc::close(fd) };
        }
        conn::close(fd).unwrap();
    }
}

static MS_ONE: u64 = 1;

#[test]
fn a_full_stream_is_not_writable_and_a_drained_one_is() {
    let deaf = bed(12, Behaviour::Deaf);
    let echo = bed(13, Behaviour::Echo);
    for transport in transports() {
        let fd = deaf.connect(transport);
        nonblocking(fd, true);
        let piece = vec![7; 10_000];
        let mut sent = 0;
        let error = loop {
            match conn::find(fd).unwrap().send(&[IoSlice::new(&piece)], 0) {
                Ok(n) => sent += n,
                Err(error) => break error,
            }
        };
        assert_eq!(error.errno(), libc::EAGAIN);
        let ring = match transport {
            Transport::Rdma => vianet::via::rdma::RING_BYTES as usize,
            _ => 262_144,
        };
        assert!(sent >= ring, "{sent}");
        assert_eq!(poll_one(fd, POLLOUT, 50), 0, "{transport}");
        conn::close(fd).unwrap();

        // With an echo behind it: send in one thread of control, read what comes back, nothing is lost.
        let fd = echo.connect(transport);
        nonblocking(fd, true);
        let total = 3_000_000_usize;
        let (mut sent, mut got) = (0, 0);
        while got < total {
            let wanted = if sent < total {
                POLLIN | POLLOUT
            } else {
                POLLIN
            };
            let ready = poll_one(fd, wanted, MS);
            assert!(
                ready & wanted != 0,
                "{transport}: sent {sent}, got {got}, {ready:#x}"
            );
            if ready & POLLOUT != 0 && sent < total {
                let data: Vec<u8> = (sent..(sent + 50_000).min(total))
                    .map(|i| (i % 251) as u8)
                    .collect();
                match conn::find(fd).unwrap().send(&[IoSlice::new(&data)], 0) {
                    Ok(n) => sent += n,
                    Err(error) => assert_eq!(error.errno(), libc::EAGAIN),
                }
            }
            if ready & POLLIN != 0 {
                let mut buffer = [0; 30_000];
                match conn::find(fd).unwrap().recv(&mut buffer, 0) {
                    Ok(n) => {
                        let right = |(i, b): (usize, &u8)| *b == ((got + i) % 251) as u8;
                        assert!(
                            buffer[..n].iter().enumerate().all(right),
                            "{transport}: {n} bytes at {got} of {sent}: {:?}",
                            &buffer[..n.min(40)]
                        );
                        got += n;
                    }
                    Err(error) => assert_eq!(error.errno(), libc::EAGAIN),
                }
            }
        }
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_non_blocking_connect_becomes_writable() {
    let bed = bed(14, Behaviour::Echo);
    for transport in transports() {
        let mut options = bed.options(transport);
        options.nonblocking = true;
        let fd = conn::connect(&bed.name("echo"), &options).unwrap();
        assert_eq!(poll_one(fd, POLLOUT, MS), POLLOUT);
        assert_eq!(conn::find(fd).unwrap().take_error(), 0);
        send_all(fd, b"x");
        assert_eq!(poll_one(fd, POLLIN, MS), POLLIN);
        assert_eq!(recv_exactly(fd, 1), b"x");
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_failed_non_blocking_connect_looks_like_tcps() {
    let bed = bed(15, Behaviour::Echo);
    let mut options = bed.options(Transport::Tcp);
    options.nonblocking = true;
    let fd = conn::connect(&bed.name("nobody"), &options).unwrap();
    assert_eq!(poll_one(fd, POLLIN, 0), 0, "it is not known yet");
    // The kernel hangs up first and frees the filler right after that.
    let refused = POLLOUT | POLLERR | POLLHUP;
    wait_for("OUT|ERR|HUP", || {
        poll_one(fd, POLLIN | POLLOUT, 100) & refused == refused
    });
    let c = conn::find(fd).unwrap();
    assert_eq!(c.take_error(), libc::EADDRNOTAVAIL);
    assert_eq!(c.take_error(), 0, "once");
    assert_eq!(c.info().error, libc::EADDRNOTAVAIL);
    drop(c);
    conn::close(fd).unwrap();
}

#[test]
fn the_end_of_the_stream_shows() {
    let bed = bed(16, Behaviour::Greet);
    for transport in transports() {
        let fd = bed.connect(transport);
        assert_eq!(recv_exactly(fd, 6), b"hello\n");
        wait_for("RDHUP", || {
            poll_one(fd, POLLIN | POLLRDHUP, 100) & POLLRDHUP != 0
        });
        assert_eq!(conn::find(fd).unwrap().recv(&mut [0; 8], 0).unwrap(), 0);
        assert_eq!(
            poll_one(fd, POLLIN | POLLOUT, 0) & POLLHUP,
            0,
            "our direction is open"
        );
        send_all(fd, b"still taken");
        conn::find(fd).unwrap().shutdown(conn::How::Write).unwrap();
        wait_for("HUP", || poll_one(fd, POLLIN, 100) & POLLHUP != 0);
        conn::close(fd).unwrap();
    }
}
