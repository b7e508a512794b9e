//! What copies or closes a descriptor. The kernel does it; we only have to know.

use crate::ops::descriptors::{closing, closing_range, duplicated, is_ours, replacing, shared};
use crate::outcome::{Outcome, guarded, keeping_errno};
use crate::{process, real};
use libc::{FILE, c_char, c_int, c_uint};

/// Runs one of the announcements behind the panic boundary.
fn tell(operation: impl FnOnce()) {
    guarded(|| {
        operation();
        Outcome::Handled(())
    });
}

macro_rules! closes {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fd: c_int) -> c_int {
            if process::active() {
                tell(|| closing(fd));
            }
            // SAFETY: the caller keeps to the contract of the C function.
            unsafe { real::close(fd) }
        }
    )*};
}
closes!(close __close);

macro_rules! replaces {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(old: c_int, new: c_int) -> c_int {
            if !process::active() {
                // SAFETY: the caller keeps to the contract of the C function.
                return unsafe { real::dup2(old, new) };
            }
            tell(|| replacing(old, new));
            // SAFETY: the caller keeps to the contract of the C function.
            noted(old, unsafe { real::dup2(old, new) })
        }
    )*};
}
replaces!(dup2 __dup2);

macro_rules! controls {
    ($($name:ident)*) => {$(
        /// Variadic in C: the third argument is passed on as a register, whatever it is.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fd: c_int, cmd: c_int, arg: usize) -> c_int {
            if process::active() && matches!(cmd, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
                // SAFETY: the caller keeps to the contract of the C function.
                return noted(fd, unsafe { real::fcntl(fd, cmd, arg) });
            }
            // SAFETY: the caller keeps to the contract of the C function.
            unsafe { real::fcntl(fd, cmd, arg) }
        }
    )*};
}
controls!(fcntl fcntl64 __fcntl);

/// Notes the duplicate that the kernel made of `old`.
fn noted(old: c_int, new: c_int) -> c_int {
    keeping_errno(|| tell(|| duplicated(old, new)));
    new
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup(fd: c_int) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    let new = unsafe { real::dup(fd) };
    if process::active() {
        noted(fd, new)
    } else {
        new
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    if !process::active() {
        // SAFETY: the caller keeps to the contract of the C function.
        return unsafe { real::dup3(old, new, flags) };
    }
    if flags & !libc::O_CLOEXEC == 0 {
        tell(|| replacing(old, new));
    }
    // SAFETY: the caller keeps to the contract of the C function.
    noted(old, unsafe { real::dup3(old, new, flags) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if process::active() && first <= last && flags as c_uint & libc::CLOSE_RANGE_CLOEXEC == 0 {
        tell(|| closing_range(first, last));
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::close_range(first, last, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn closefrom(first: c_int) {
    if process::active() {
        tell(|| closing_range(first.max(0) as c_uint, c_uint::MAX));
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::closefrom(first) }
}

/// The stream that this makes reads by the C library's inside, not through our hooks.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    if process::active() {
        tell(|| shared(fd));
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::fdopen(fd, mode) }
}

/// Closes the stream's descriptor inside the C library, where `close` is not hooked.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fclose(stream: *mut FILE) -> c_int {
    if process::active() && !stream.is_null() {
        // SAFETY: the caller keeps to the contract of the C function: an open stream.
        let fd = unsafe { libc::fileno(stream) };
        if is_ours(fd) {
            // What it still holds goes out while the connection is known.
            // SAFETY: as above.
            unsafe { libc::fflush(stream) };
            tell(|| closing(fd));
        }
    }
    // SAFETY: the caller keeps to the contract of the C function.
    unsafe { real::fclose(stream) }
}
