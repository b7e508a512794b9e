//! The exported C functions: C in, an operation, C out.
//!
//! Every hook is `C-unwind` and owns nothing while it runs the real function: a thread that is cancelled there (read,
//! write, ... are cancellation points) unwinds through it as if it were not there.
//!
//! The exports have no version: in the C library each of these names has exactly one, and a reference with a version is
//! satisfied by a definition without.

#![allow(clippy::missing_safety_doc, clippy::too_many_arguments)]

mod descriptors;
mod exec;
mod io;
mod names;
mod poll;
mod socket;
mod syscall;

use crate::outcome::{Outcome, set_errno};

/// A hook whose operation can pass through, in one line: `name(arguments) -> type = operation;`. Until a connection of
/// ours exists it is one load and a jump.
macro_rules! hooks {
    ($($(#[$attribute:meta])* $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $real:ident, $operation:expr;)*) => {
        $(
            $(#[$attribute])*
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
                if $crate::process::active() {
                    // The operation's own unsafe is covered by the contract of the C function, which is the caller's.
                    #[allow(unused_unsafe)]
                    // SAFETY: the caller keeps to the contract of the C function.
                    let outcome = $crate::outcome::guarded(|| unsafe { $operation });
                    if let Some(value) = $crate::hooks::value(outcome) {
                        return value as $ret;
                    }
                }
                // SAFETY: the caller keeps to the contract of the C function.
                unsafe { $crate::real::$real($($arg),*) }
            }
        )*
    };
}
pub(crate) use hooks;

/// The C value of an outcome; `None`: call the real function.
#[inline]
fn value<T: TryInto<isize>>(outcome: Outcome<T>) -> Option<isize> {
    match outcome {
        Outcome::Handled(value) => Some(value.try_into().unwrap_or(isize::MAX)),
        Outcome::PassThrough(_) => None,
        Outcome::Failed(errno) => {
            set_errno(errno);
            Some(-1)
        }
    }
}
