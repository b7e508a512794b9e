//! A connection in the place of the application's own TCP socket.

use super::*;
use std::net::SocketAddr;
use vianet::conn::InPlace;
use vianet::error::Kind;

fn tcp_socket(flags: i32) -> RawFd {
    // SAFETY: a plain system call.
    unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | flags, 0) }
}

fn request(bed: &Bed, fd: RawFd, name: &str, transport: Transport) -> InPlace {
    InPlace {
        fd,
        name: bed.name(name),
        peer: SocketAddr::from(([239, 192, 1, 2], 5432)),
        options: bed.options(transport),
    }
}

#[test]
fn a_blocking_connect_keeps_number_and_flags() {
    let bed = bed(40, Behaviour::Echo);
    for transport in transports() {
        let fd = tcp_socket(libc::SOCK_CLOEXEC);
        // SAFETY: a plain system call.
        let alias = unsafe { libc::dup(fd) };
        conn::connect_in_place(&request(&bed, fd, "echo", transport)).unwrap();
        // SAFETY: plain system calls.
        let flags = unsafe {
            [
                libc::fcntl(fd, libc::F_GETFD),
                libc::fcntl(alias, libc::F_GETFD),
            ]
        };
        assert_eq!(flags, [libc::FD_CLOEXEC, 0]);
        let c = conn::lookup(fd).expect("ours");
        assert_eq!(c.peer_addr().to_string(), "239.192.1.2:5432");
        assert!(c.local_addr().ip().is_loopback());
        drop(c);
        assert!(
            conn::lookup(alias).is_some(),
            "the other name of the socket"
        );
        send_all(fd, b"one");
        assert_eq!(recv_exactly(alias, 3), b"one");
        conn::close(fd).unwrap();
        send_all(alias, b"two");
        assert_eq!(recv_exactly(alias, 3), b"two");
        conn::close(alias).unwrap();
    }
}

#[test]
fn a_registration_made_before_the_connect_stays() {
    let bed = bed(41, Behaviour::Echo);
    for transport in transports() {
        let fd = tcp_socket(libc::SOCK_NONBLOCK);
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32,
            u64: 0x1234_5678_9abc_def0,
        };
        // SAFETY: plain system calls with one valid event.
        let set = unsafe {
            let set = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event);
            // An unconnected socket reports HUP; as a program would, it is read away.
            libc::epoll_wait(set, &raw mut event, 1, 0);
            set
        };
        let error = conn::connect_in_place(&request(&bed, fd, "echo", transport))
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::InProgress);
        let next = || {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: one valid event.
            let n = unsafe { libc::epoll_wait(set, &raw mut event, 1, 20_000) };
            (n, event.u64, event.events as i32)
        };
        assert_eq!(
            next(),
            (1, 0x1234_5678_9abc_def0, libc::EPOLLOUT),
            "{transport}"
        );
        assert_eq!(conn::lookup(fd).unwrap().take_error(), 0);
        send_all(fd, b"x");
        let (n, data, events) = next();
        assert_eq!(
            (n, data, events & libc::EPOLLIN),
            (1, 0x1234_5678_9abc_def0, libc::EPOLLIN)
        );
        // SAFETY: our own number.
        unsafe { libc::close(set) };
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_failure_leaves_a_blocking_socket_as_it_was() {
    let bed = bed(42, Behaviour::Echo);
    let fd = tcp_socket(0);
    let error = conn::connect_in_place(&request(&bed, fd, "nobody", Transport::Tcp))
        .err()
        .unwrap();
    assert_eq!(error.kind(), Kind::UnknownServer);
    assert!(conn::lookup(fd).is_none());
    let mut domain = 0;
    let mut size = 4;
    // SAFETY: one valid int.
    unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut size,
        );
        libc::close(fd);
    }
    assert_eq!(domain, libc::AF_INET);
}
