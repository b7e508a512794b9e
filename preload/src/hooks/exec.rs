//! exec: the new program reads what it inherits without us (or with a fresh copy of us that knows nothing).

use crate::ops::descriptors::shared_by_exec;
use crate::outcome::{Outcome, guarded};
use crate::{process, real};
use libc::{c_char, c_int};

macro_rules! execs {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> c_int {
            if process::active() {
                guarded(|| {
                    shared_by_exec();
                    Outcome::Handled(())
                });
            }
            // SAFETY: the caller keeps to the contract of the C function.
            unsafe { real::$name($($arg),*) }
        }
    )*};
}

execs! {
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char);
    execv(path: *const c_char, argv: *const *const c_char);
    execvp(file: *const c_char, argv: *const *const c_char);
    execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char);
    fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char);
}
