//! `connect`, and the addresses of a connection.

use super::{names, on, options, ours};
use crate::outcome::{Outcome, Why};
use crate::process;
use libc::{AF_INET, AF_INET6, c_int, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{BorrowedFd, RawFd};
use vianet::conn::{self, ConnRef, InPlace, Phase};
use vianet::error::Kind;
use vianet::log;
use vianet::log::Level;

/// connect(2): to an address that stands for a name of ours, by that name.
///
/// # Safety
/// `addr` points to `len` readable bytes, or is NULL.
pub unsafe fn connect(fd: RawFd, addr: *const sockaddr, len: socklen_t) -> Outcome<c_int> {
    if let Some(c) = ours(fd) {
        return again(&c);
    }
    // SAFETY: the caller's promise.
    let Some(peer) = (unsafe { inet(addr, len) }) else {
        return Outcome::PassThrough(Why::OtherAddress);
    };
    let name = match names::name_of(peer.ip()) {
        Outcome::Handled(name) => name,
        Outcome::PassThrough(why) => return passed(peer, why),
        Outcome::Failed(errno) => return Outcome::Failed(errno),
    };
    if !is_tcp(fd) {
        return passed(peer, Why::OtherSocket);
    }
    process::activate();
    let before = options::of_tcp_socket(fd);
    let request = InPlace {
        fd,
        name,
        peer,
        options: conn::Options {
            transports: names::transports(),
            ..conn::Options::default()
        },
    };
    let result = conn::connect_in_place(&request);
    if !matches!(&result, Err(err) if err.kind() != Kind::InProgress) {
        process::note(fd);
        options::carry_over(fd, before);
    }
    log!(
        Level::Debug,
        "preload",
        "connect {fd} to {}: {result:?}",
        request.name
    );
    result.map(|()| 0).into()
}

/// A connect on a descriptor that is ours already.
fn again(c: &ConnRef) -> Outcome<c_int> {
    Outcome::Failed(match c.info().phase {
        Phase::Connecting => libc::EALREADY,
        Phase::Established | Phase::Suspended => libc::EISCONN,
        Phase::Lost => match c.take_error() {
            0 => libc::EISCONN,
            errno => errno,
        },
    })
}

/// An address in our range that is passed through is worth a line in the debug log; all others are not even looked at.
fn passed(peer: SocketAddr, why: Why) -> Outcome<c_int> {
    if why != Why::OtherAddress {
        log!(
            Level::Debug,
            "preload",
            "connect to {peer} passes through: {why:?}"
        );
    }
    Outcome::PassThrough(why)
}

fn is_tcp(fd: RawFd) -> bool {
    if fd < 0 {
        return false;
    }
    // SAFETY: the number is used within this call; a closed one gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && matches!(
            sockopt::socket_domain(fd),
            Ok(AddressFamily::INET | AddressFamily::INET6)
        )
}

/// The address in a C structure, if it is one of the internet families.
///
/// # Safety
/// `addr` points to `len` readable bytes, or is NULL.
unsafe fn inet(addr: *const sockaddr, len: socklen_t) -> Option<SocketAddr> {
    let len = len as usize;
    if addr.is_null() || len < size_of::<sa_family_t>() {
        return None;
    }
    // SAFETY: the family comes first and is there.
    match c_int::from(unsafe { addr.cast::<sa_family_t>().read_unaligned() }) {
        AF_INET if len >= size_of::<sockaddr_in>() => {
            // SAFETY: so many bytes are there; every bit pattern is valid.
            let a = unsafe { addr.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(a.sin_port)).into())
        }
        AF_INET6 if len >= size_of::<sockaddr_in6>() => {
            // SAFETY: as above.
            let a = unsafe { addr.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
            let port = u16::from_be(a.sin6_port);
            Some(SocketAddrV6::new(ip, port, a.sin6_flowinfo, a.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// getpeername(2): the address that the application connected to.
///
/// # Safety
/// As getpeername(2).
pub unsafe fn peer_name(fd: RawFd, addr: *mut sockaddr, len: *mut socklen_t) -> Outcome<c_int> {
    on(fd, |c| {
        if c.info().phase == Phase::Connecting {
            return Outcome::Failed(libc::ENOTCONN);
        }
        // SAFETY: the caller's promise.
        unsafe { give(c.peer_addr(), addr, len) }
    })
}

/// getsockname(2): a local address of the family that the application's socket had.
///
/// # Safety
/// As getsockname(2).
pub unsafe fn socket_name(fd: RawFd, addr: *mut sockaddr, len: *mut socklen_t) -> Outcome<c_int> {
    // SAFETY: the caller's promise.
    on(fd, |c| unsafe { give(c.local_addr(), addr, len) })
}

/// Writes `from` as the kernel does: as much as there is room for, and the length that it has.
///
/// # Safety
/// `len` points to the number of writable bytes at `addr`; both may be NULL.
unsafe fn give(from: SocketAddr, addr: *mut sockaddr, len: *mut socklen_t) -> Outcome<c_int> {
    if len.is_null() || addr.is_null() {
        return Outcome::Failed(libc::EFAULT);
    }
    let mut bytes = [0u8; size_of::<sockaddr_in6>()];
    let size = match from {
        SocketAddr::V4(a) => {
            bytes[..2].copy_from_slice(&(AF_INET as sa_family_t).to_ne_bytes());
            bytes[2..4].copy_from_slice(&a.port().to_be_bytes());
            bytes[4..8].copy_from_slice(&a.ip().octets());
            size_of::<sockaddr_in>()
        }
        SocketAddr::V6(a) => {
            bytes[..2].copy_from_slice(&(AF_INET6 as sa_family_t).to_ne_bytes());
            bytes[2..4].copy_from_slice(&a.port().to_be_bytes());
            bytes[4..8].copy_from_slice(&a.flowinfo().to_ne_bytes());
            bytes[8..24].copy_from_slice(&a.ip().octets());
            bytes[24..28].copy_from_slice(&a.scope_id().to_ne_bytes());
            size_of::<sockaddr_in6>()
        }
    };
    // SAFETY: the caller's promise.
    let room = unsafe { len.read_unaligned() } as usize;
    if room > isize::MAX as usize {
        return Outcome::Failed(libc::EINVAL);
    }
    // SAFETY: at most `room` bytes are written to `addr`, and `size` of `bytes` exist.
    unsafe {
        addr.cast::<u8>()
            .copy_from_nonoverlapping(bytes.as_ptr(), size.min(room));
        len.write_unaligned(size as socklen_t);
    }
    Outcome::Handled(0)
}
