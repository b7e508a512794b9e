//! Socket options of a connection: what was set on the application's TCP socket, remembered and answered.
//!
//! The bell is an AF_UNIX socket. Options of the level SOL_SOCKET are the kernel's business there too, except those that
//! say what kind of socket it is, SO_ERROR, and the buffer sizes (the bell's are part of its readiness). All other
//! levels (TCP_NODELAY, IP_TOS, ...) are remembered here; a TCP socket made for the purpose checks what is set and
//! knows what was never set.

use super::on;
use super::settings::{Setting, forget_others, remember, remembered};
use crate::outcome::{Outcome, Why};
use crate::raw;
use libc::{
    AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SO_DOMAIN, SO_ERROR, SO_KEEPALIVE,
    SO_LINGER, SO_PROTOCOL, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE, SOL_SOCKET,
    c_int, c_void, socklen_t,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use vianet::conn::ConnRef;

/// Options that programs set before `connect` and that live on afterwards.
const BEFORE_CONNECT: &[(c_int, c_int)] = &[
    (SOL_SOCKET, SO_KEEPALIVE),
    (SOL_SOCKET, SO_LINGER),
    (SOL_SOCKET, SO_RCVBUF),
    (SOL_SOCKET, SO_SNDBUF),
    (SOL_SOCKET, libc::SO_PRIORITY),
    (SOL_SOCKET, libc::SO_REUSEADDR),
    (IPPROTO_TCP, libc::TCP_NODELAY),
    (IPPROTO_TCP, libc::TCP_CORK),
    (IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (IPPROTO_TCP, libc::TCP_KEEPCNT),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (IPPROTO_TCP, libc::TCP_SYNCNT),
    (IPPROTO_IP, libc::IP_TOS),
    (IPPROTO_IP, libc::IP_TTL),
    (IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (IPPROTO_IPV6, libc::IPV6_TCLASS),
];

/// The settings of the application's own socket, before the bell takes its place.
pub fn of_tcp_socket(fd: RawFd) -> Vec<Setting> {
    BEFORE_CONNECT
        .iter()
        .filter_map(|&(level, name)| Setting::read(fd, level, name))
        .collect()
}

/// Gives them to the connection that took the place of the socket.
pub fn carry_over(fd: RawFd, settings: Vec<Setting>) {
    for setting in &settings {
        if setting.level == SOL_SOCKET && !ours_to_answer(setting.name) {
            setting.write(fd);
        }
    }
    forget_others();
    remember(fd, |all| *all = settings);
}

/// setsockopt(2).
///
/// # Safety
/// As setsockopt(2).
pub unsafe fn set(
    fd: RawFd,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Outcome<c_int> {
    on(fd, |c| {
        if level == SOL_SOCKET && !ours_to_answer(name) {
            return Outcome::PassThrough(Why::KernelKnows);
        }
        // A TCP socket says whether this can be set, and what becomes of the value.
        let Ok(model) = model(&c) else {
            return Outcome::Failed(libc::ENOBUFS);
        };
        let args = [
            model.as_raw_fd() as usize,
            level as usize,
            name as usize,
            value as usize,
            len as usize,
            0,
        ];
        // SAFETY: the application's own call, on another socket of the same kind.
        let result = unsafe { raw::call(libc::SYS_setsockopt, args) };
        if result < 0 {
            return Outcome::Failed(-result as i32);
        }
        if let Some(setting) = Setting::read(model.as_raw_fd(), level, name) {
            remember(fd, |all| {
                all.retain(|s| !s.is(level, name));
                all.push(setting);
            });
        }
        Outcome::Handled(0)
    })
}

/// getsockopt(2).
///
/// # Safety
/// As getsockopt(2).
pub unsafe fn get(
    fd: RawFd,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome<c_int> {
    on(fd, |c| {
        let number = match (level, name) {
            (SOL_SOCKET, SO_ERROR) => c.take_error(),
            (SOL_SOCKET, SO_DOMAIN) => family(&c),
            (SOL_SOCKET, SO_PROTOCOL) => IPPROTO_TCP,
            (SOL_SOCKET, name) if !ours_to_answer(name) => {
                return Outcome::PassThrough(Why::KernelKnows);
            }
            _ => {
                return match remembered(fd, level, name) {
                    // SAFETY: the application's contract.
                    Some(setting) => unsafe { give(setting.value(), value, len) },
                    // SAFETY: as above.
                    None => unsafe { ask_model(&c, level, name, value, len) },
                };
            }
        };
        // SAFETY: the application's contract.
        unsafe { give(&number.to_ne_bytes(), value, len) }
    })
}

/// Options of SOL_SOCKET that the bell's own kernel object answers wrongly or must not be given.
fn ours_to_answer(name: c_int) -> bool {
    let buffers = [SO_SNDBUF, SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE];
    buffers.contains(&name) || [SO_ERROR, SO_DOMAIN, SO_PROTOCOL].contains(&name)
}

fn family(c: &ConnRef) -> c_int {
    if c.peer_addr().is_ipv4() {
        AF_INET
    } else {
        AF_INET6
    }
}

/// A TCP socket of the connection's family on which nothing was set yet.
fn model(c: &ConnRef) -> rustix::io::Result<OwnedFd> {
    let family = if c.peer_addr().is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

unsafe fn ask_model(
    c: &ConnRef,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome<c_int> {
    let Ok(model) = model(c) else {
        return Outcome::Failed(libc::ENOBUFS);
    };
    let args = [
        model.as_raw_fd() as usize,
        level as usize,
        name as usize,
        value as usize,
        len as usize,
        0,
    ];
    // SAFETY: the application's own call, on another socket of the same kind.
    match unsafe { raw::call(libc::SYS_getsockopt, args) } {
        0.. => Outcome::Handled(0),
        errno => Outcome::Failed(-errno as i32),
    }
}

/// # Safety
/// `len` points to the number of writable bytes at `value`; both may be NULL.
unsafe fn give(bytes: &[u8], value: *mut c_void, len: *mut socklen_t) -> Outcome<c_int> {
    if value.is_null() || len.is_null() {
        return Outcome::Failed(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    let room = unsafe { len.read_unaligned() };
    if room > i32::MAX as u32 {
        return Outcome::Failed(libc::EINVAL);
    }
    let n = bytes.len().min(room as usize);
    // SAFETY: `n` is at most what is there on both sides.
    unsafe {
        value
            .cast::<u8>()
            .copy_from_nonoverlapping(bytes.as_ptr(), n);
        len.write_unaligned(n as socklen_t);
    }
    Outcome::Handled(0)
}
