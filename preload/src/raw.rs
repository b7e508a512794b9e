//! Raw system calls in the shape of the C library's functions: what [`real`](crate::real) holds until the constructor ran,
//! and for a function that the C library does not have.
//!
//! Functions that are no system call (`getaddrinfo`, `fclose`) are looked up each time, and fail in their own way where the C
//! library does not have them. The libraries of a program are initialised before one that is preloaded: libselinux closes a
//! stream in its constructor.

#![allow(clippy::missing_safety_doc)]

use crate::outcome::set_errno;
use crate::real::next;
use libc::{
    FILE, SYS_close, SYS_close_range, SYS_connect, SYS_dup, SYS_dup3, SYS_execve, SYS_fcntl,
    SYS_getpeername, SYS_getsockname, SYS_getsockopt, SYS_ioctl, SYS_ppoll, SYS_read, SYS_readv,
    SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg, SYS_sendto,
    SYS_setsockopt, SYS_shutdown, SYS_splice, SYS_write, SYS_writev, addrinfo, c_char, c_int,
    c_long, c_uint, c_ulong, c_void, hostent, iovec, mmsghdr, msghdr, nfds_t, off_t, pollfd,
    sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec,
};
use std::ptr::{null, null_mut};

/// One system call; a negative result is `-errno`.
///
/// # Safety
/// That of the system call.
#[inline(always)]
pub unsafe fn call(number: c_long, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers are those of the kernel's convention; rcx and r11 are declared clobbered.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the registers are those of the kernel's convention.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// The C library's convention: -1 and `errno`.
#[inline]
fn c_result(result: isize) -> isize {
    if (-4095..0).contains(&result) {
        set_errno(-result as i32);
        return -1;
    }
    result
}

macro_rules! raw {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $number:ident [$($value:expr),*];)*) => {
        $(pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
            let mut args = [0usize; 6];
            let given = [$($value as usize),*];
            args[..given.len()].copy_from_slice(&given);
            // SAFETY: the caller keeps to the contract of the C function, which is that of the system call.
            c_result(unsafe { call($number, args) }) as $ret
        })*
    };
}

raw! {
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = SYS_connect [fd, addr, len];
    close(fd: c_int) -> c_int = SYS_close [fd];
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = SYS_close_range [first, last, flags];
    shutdown(fd: c_int, how: c_int) -> c_int = SYS_shutdown [fd, how];
    recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr, from_len: *mut socklen_t)
        -> ssize_t = SYS_recvfrom [fd, buf, len, flags, from, from_len];
    recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = SYS_recvfrom [fd, buf, len, flags];
    recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t = SYS_recvmsg [fd, msg, flags];
    recvmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int
        = SYS_recvmmsg [fd, msgs, count, flags, timeout];
    send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = SYS_sendto [fd, buf, len, flags];
    sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, to: *const sockaddr, to_len: socklen_t)
        -> ssize_t = SYS_sendto [fd, buf, len, flags, to, to_len];
    sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t = SYS_sendmsg [fd, msg, flags];
    sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int
        = SYS_sendmmsg [fd, msgs, count, flags];
    read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = SYS_read [fd, buf, len];
    readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = SYS_readv [fd, iov, count];
    write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = SYS_write [fd, buf, len];
    writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = SYS_writev [fd, iov, count];
    sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = SYS_sendfile [out, input, offset, count];
    splice(input: c_int, in_off: *mut i64, out: c_int, out_off: *mut i64, len: size_t, flags: c_uint) -> ssize_t
        = SYS_splice [input, in_off, out, out_off, len, flags];
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int
        = SYS_getsockopt [fd, level, name, value, len];
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int
        = SYS_setsockopt [fd, level, name, value, len];
    getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = SYS_getpeername [fd, addr, len];
    getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = SYS_getsockname [fd, addr, len];
    dup(fd: c_int) -> c_int = SYS_dup [fd];
    dup3(old: c_int, new: c_int, flags: c_int) -> c_int = SYS_dup3 [old, new, flags];
    fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = SYS_fcntl [fd, cmd, arg];
    ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int = SYS_ioctl [fd, request, arg];
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = SYS_execve [path, argv, envp];
}

pub unsafe extern "C-unwind" fn dup2(old: c_int, new: c_int) -> c_int {
    if old == new {
        // SAFETY: F_GETFD takes no argument; it only asks whether the descriptor is open.
        let open = unsafe { fcntl(old, libc::F_GETFD, 0) } >= 0;
        return if open { new } else { -1 };
    }
    // SAFETY: plain numbers.
    unsafe { dup3(old, new, 0) }
}

pub unsafe extern "C-unwind" fn closefrom(first: c_int) {
    // SAFETY: the caller asked for just that.
    unsafe { close_range(first.max(0) as c_uint, c_uint::MAX, 0) };
}

/// A fortified twin aborts on a length beyond the buffer, as the C library's does.
fn check(len: size_t, room: size_t) {
    if len > room {
        // SAFETY: takes no argument and does not return.
        unsafe { libc::abort() }
    }
}

pub unsafe extern "C-unwind" fn read_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
) -> ssize_t {
    check(len, room);
    // SAFETY: as the caller gave them.
    unsafe { read(fd, buf, len) }
}

pub unsafe extern "C-unwind" fn recv_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    check(len, room);
    // SAFETY: as the caller gave them.
    unsafe { recv(fd, buf, len, flags) }
}

pub unsafe extern "C-unwind" fn recvfrom_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    check(len, room);
    // SAFETY: as the caller gave them.
    unsafe { recvfrom(fd, buf, len, flags, from, from_len) }
}

pub unsafe extern "C-unwind" fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    let limit = timespec {
        tv_sec: (timeout / 1000).into(),
        tv_nsec: (timeout % 1000 * 1_000_000).into(),
    };
    let limit = match timeout {
        0.. => &raw const limit,
        _ => null(),
    };
    // SAFETY: as the caller gave them.
    unsafe { ppoll(fds, count, limit, null()) }
}

pub unsafe extern "C-unwind" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // The kernel stores the time that was left.
    // SAFETY: the caller's promise: NULL or a time.
    let mut left = unsafe { timeout.as_ref() }.copied();
    let left = left.as_mut().map_or(null_mut(), |left| &raw mut *left);
    const MASK_BYTES: usize = 8;
    let (fds, count) = (fds as usize, count as usize);
    let args = [fds, count, left as usize, mask as usize, MASK_BYTES, 0];
    // SAFETY: the caller keeps to the contract of the system call.
    c_result(unsafe { call(SYS_ppoll, args) }) as c_int
}

pub unsafe extern "C-unwind" fn poll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: c_int,
    room: size_t,
) -> c_int {
    check(count as usize, room / size_of::<pollfd>());
    // SAFETY: as the caller gave them.
    unsafe { poll(fds, count, timeout) }
}

pub unsafe extern "C-unwind" fn ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: size_t,
) -> c_int {
    check(count as usize, room / size_of::<pollfd>());
    // SAFETY: as the caller gave them.
    unsafe { ppoll(fds, count, timeout, mask) }
}

#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // SAFETY: the caller's own system call.
    c_result(unsafe { call(number, [a, b, c, d, e, f]) }) as c_long
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

pub unsafe extern "C-unwind" fn execv(path: *const c_char, argv: *const *const c_char) -> c_int {
    // SAFETY: `environ` is the C library's; the rest as the caller gave it.
    unsafe { execve(path, argv, environ) }
}

/// What is no system call is looked up where it is called so early: in the constructor of another library, which runs
/// before ours.
macro_rules! looked_up {
    ($($name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $symbol:literal, or $without:expr;)*) => {
        $(pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
            type Function = unsafe extern "C-unwind" fn($($ty),*) -> $ret;
            let Some(found) = next($symbol) else {
                return $without;
            };
            // SAFETY: the C library's function of this name has this type.
            let function = unsafe { std::mem::transmute::<*mut (), Function>(found) };
            // SAFETY: the caller keeps to the contract of the C function.
            unsafe { function($($arg),*) }
        })*
    };
}

looked_up! {
    execvp(file: *const c_char, argv: *const *const c_char) -> c_int = c"execvp", or unavailable();
    execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = c"execvpe", or unavailable();
    fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = c"fexecve", or unavailable();
    fdopen(fd: c_int, mode: *const c_char) -> *mut FILE = c"fdopen", or {
        unavailable();
        null_mut()
    };
    fclose(stream: *mut FILE) -> c_int = c"fclose", or unavailable();
    getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo,
        result: *mut *mut addrinfo) -> c_int = c"getaddrinfo", or libc::EAI_AGAIN;
    gethostbyname(name: *const c_char) -> *mut hostent = c"gethostbyname", or null_mut();
    gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent
        = c"gethostbyname2", or null_mut();
    gethostbyname_r(name: *const c_char, host: *mut hostent, buf: *mut c_char, len: size_t,
        result: *mut *mut hostent, h_errno: *mut c_int) -> c_int
        = c"gethostbyname_r", or libc::ENOSYS;
    gethostbyname2_r(name: *const c_char, family: c_int, host: *mut hostent, buf: *mut c_char,
        len: size_t, result: *mut *mut hostent, h_errno: *mut c_int) -> c_int
        = c"gethostbyname2_r", or libc::ENOSYS;
}

fn unavailable() -> c_int {
    set_errno(libc::ENOSYS);
    -1
}
