//! The C library's own functions.
//!
//! Each slot starts as the raw system call of [`raw`] and is replaced once, by the constructor, with what
//! `dlsym(RTLD_NEXT)` finds; so a call is one load and an indirect jump, at any time of the process's life. The
//! functions are `C-unwind`: a thread that is cancelled inside `read` unwinds through the hook's frame, which owns nothing.

#![allow(clippy::missing_safety_doc, clippy::too_many_arguments)]

use crate::raw;
use libc::{
    FILE, addrinfo, c_char, c_int, c_long, c_uint, c_ulong, c_void, hostent, iovec, mmsghdr,
    msghdr, nfds_t, off_t, pollfd, sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec,
};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

macro_rules! real {
    ($($name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $symbol:literal;)*) => {
        /// The slots, by the name of the function.
        #[allow(non_upper_case_globals)]
        mod slot {
            use super::*;
            $(pub static $name: AtomicPtr<()> = AtomicPtr::new(raw::$name as *mut ());)*
        }

        $(
            /// The C library's function of this name.
            #[inline(always)]
            pub unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                type Function = unsafe extern "C-unwind" fn($($ty),*) $(-> $ret)?;
                let found = slot::$name.load(Ordering::Relaxed);
                // SAFETY: the slot holds a function of this type from the start; only `resolve` replaces it, with
                // the C library's function of this name, which has it too.
                let function = unsafe { std::mem::transmute::<*mut (), Function>(found) };
                // SAFETY: the caller keeps to the contract of the C function.
                unsafe { function($($arg),*) }
            }
        )*

        /// Fills the slots. Once, from the constructor, before anything of ours runs.
        pub fn resolve() {
            $(if let Some(found) = next($symbol) {
                slot::$name.store(found, Ordering::Relaxed);
            })*
        }
    };
}

real! {
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = c"connect";
    close(fd: c_int) -> c_int = c"close";
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = c"close_range";
    closefrom(first: c_int) = c"closefrom";
    shutdown(fd: c_int, how: c_int) -> c_int = c"shutdown";
    recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = c"recv";
    recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr,
        from_len: *mut socklen_t) -> ssize_t = c"recvfrom";
    recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t = c"recvmsg";
    recvmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec)
        -> c_int = c"recvmmsg";
    read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = c"read";
    readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = c"readv";
    read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t = c"__read_chk";
    recv_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int) -> ssize_t
        = c"__recv_chk";
    recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int,
        from: *mut sockaddr, from_len: *mut socklen_t) -> ssize_t = c"__recvfrom_chk";
    send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = c"send";
    sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, to: *const sockaddr,
        to_len: socklen_t) -> ssize_t = c"sendto";
    sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t = c"sendmsg";
    sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int = c"sendmmsg";
    write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = c"write";
    writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = c"writev";
    sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t = c"sendfile";
    splice(input: c_int, in_off: *mut i64, out: c_int, out_off: *mut i64, len: size_t,
        flags: c_uint) -> ssize_t = c"splice";
    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = c"poll";
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t)
        -> c_int = c"ppoll";
    poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int
        = c"__poll_chk";
    ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t,
        room: size_t) -> c_int = c"__ppoll_chk";
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t)
        -> c_int = c"getsockopt";
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t)
        -> c_int = c"setsockopt";
    getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = c"getpeername";
    getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = c"getsockname";
    dup(fd: c_int) -> c_int = c"dup";
    dup2(old: c_int, new: c_int) -> c_int = c"dup2";
    dup3(old: c_int, new: c_int, flags: c_int) -> c_int = c"dup3";
    fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = c"fcntl64";
    ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int = c"ioctl";
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long
        = c"syscall";
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = c"execve";
    execv(path: *const c_char, argv: *const *const c_char) -> c_int = c"execv";
    execvp(file: *const c_char, argv: *const *const c_char) -> c_int = c"execvp";
    execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = c"execvpe";
    fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = c"fexecve";
    fdopen(fd: c_int, mode: *const c_char) -> *mut FILE = c"fdopen";
    fclose(stream: *mut FILE) -> c_int = c"fclose";
    getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo,
        result: *mut *mut addrinfo) -> c_int = c"getaddrinfo";
    gethostbyname(name: *const c_char) -> *mut hostent = c"gethostbyname";
    gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent = c"gethostbyname2";
    gethostbyname_r(name: *const c_char, host: *mut hostent, buf: *mut c_char, len: size_t,
        result: *mut *mut hostent, h_errno: *mut c_int) -> c_int = c"gethostbyname_r";
    gethostbyname2_r(name: *const c_char, family: c_int, host: *mut hostent, buf: *mut c_char,
        len: size_t, result: *mut *mut hostent, h_errno: *mut c_int) -> c_int
        = c"gethostbyname2_r";
}

/// What the program would call if we were not there.
pub fn next(symbol: &CStr) -> Option<*mut ()> {
    // SAFETY: `symbol` is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, symbol.as_ptr()) };
    (!found.is_null()).then_some(found.cast())
}
