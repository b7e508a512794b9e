//! Connecting, options and addresses.

use super::{hooks, value};
use crate::ops::{connect, io, options};
use crate::outcome::guarded;
use crate::real;
use libc::{c_int, c_ulong, c_void, sockaddr, socklen_t};

/// connect(2). Not short-cut: this is where the first connection begins.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    match value(guarded(|| unsafe { connect::connect(fd, addr, len) })) {
        Some(result) => result as c_int,
        // SAFETY: as above.
        None => unsafe { real::connect(fd, addr, len) },
    }
}

/// The older name of `connect`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __connect(
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { connect(fd, addr, len) }
}

hooks! {
    shutdown(fd: c_int, how: c_int) -> c_int = shutdown, io::shutdown(fd, how);
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t)
        -> c_int
        = getsockopt, options::get(fd, level, name, value, len);
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int
        = setsockopt, options::set(fd, level, name, value, len);
    getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int
        = getpeername, connect::peer_name(fd, addr, len);
    getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int
        = getsockname, connect::socket_name(fd, addr, len);
    // Variadic in C: the third argument is passed on as a register, whatever it is.
    ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int = ioctl, io::ioctl(fd, request, arg);
}
