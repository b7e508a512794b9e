//! What an operation answers, and how a hook turns it into C.

use std::panic::AssertUnwindSafe;

/// The answer of an operation.
pub enum Outcome<T> {
    /// Done: this is the value of the C function.
    Handled(T),
    /// Not ours: the hook calls the real function. Not an error.
    PassThrough(Why),
    /// Ours, and failed: -1 with this `errno`.
    Failed(i32),
}

/// Why a call is passed through; the debug log prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The descriptor is none of our connections.
    NotOurs,
    /// The kill switch is set, or the process runs with raised privileges.
    Disabled,
    /// The address is not one that a name of ours hashes to.
    OtherAddress,
    /// The address is in our range, and no name of this process or its configuration hashes to it.
    NoSuchName,
    /// The address is one of ours, but the socket is no TCP socket.
    OtherSocket,
    /// The name names no cluster of the configuration.
    OtherName,
    /// The call says that the host is a numeric address, or names none at all.
    NumericHost,
    /// There is no usable client configuration.
    NoConfiguration,
    /// The kernel object answers this by itself.
    KernelKnows,
}

impl<T> From<vianet::Result<T>> for Outcome<T> {
    fn from(result: vianet::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Handled(value),
            Err(err) => Self::Failed(err.errno()),
        }
    }
}

/// Runs an operation behind the panic boundary: no panic may reach a C caller. Should one happen all the same, the
/// call fails with EIO.
#[inline]
pub fn guarded<T>(operation: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    std::panic::catch_unwind(AssertUnwindSafe(operation)).unwrap_or(Outcome::Failed(libc::EIO))
}

/// The calling thread's `errno`.
#[inline]
pub fn errno() -> i32 {
    // SAFETY: the C library gives a valid pointer to the calling thread's own variable.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
#[inline]
pub fn set_errno(errno: i32) {
    // SAFETY: as in [`errno`].
    unsafe { *libc::__errno_location() = errno }
}

/// Runs `work` and leaves `errno` as it was.
pub fn keeping_errno<T>(work: impl FnOnce() -> T) -> T {
    let before = errno();
    let value = work();
    set_errno(before);
    value
}
