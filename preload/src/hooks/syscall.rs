//! `syscall(number, ...)`: libuv closes its descriptors this way. Only the system calls that close or copy a descriptor
//! are ours to know of; reading and writing by `syscall` reaches the bell, where the bytes are true.

use super::descriptors;
use crate::{process, real};
use libc::{c_int, c_long, c_uint};

/// Variadic in C with at most six arguments, all in registers or readable stack, whether given or not.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if process::active() {
        // SAFETY: the caller keeps to the contract of the system call, which is that of the hook.
        if let Some(result) = unsafe { on_descriptors(number, a, b, c) } {
            return result.into();
        }
    }
    // SAFETY: the caller's own system call.
    unsafe { real::syscall(number, a, b, c, d, e, f) }
}

unsafe fn on_descriptors(number: c_long, a: usize, b: usize, c: usize) -> Option<c_int> {
    let (first, second, third) = (a as c_int, b as c_int, c as c_int);
    // SAFETY: the caller's promise, for whichever it is.
    Some(unsafe {
        match number {
            libc::SYS_close => descriptors::close(first),
            libc::SYS_close_range => descriptors::close_range(a as c_uint, b as c_uint, third),
            libc::SYS_dup => descriptors::dup(first),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => descriptors::dup2(first, second),
            libc::SYS_dup3 => descriptors::dup3(first, second, third),
            libc::SYS_fcntl => descriptors::fcntl(first, second, c),
            _ => return None,
        }
    })
}
