//! Keeping our descriptors out of the application's way.

use rustix::fd::OwnedFd;

/// Our descriptors are moved to this number and above: programs rely on getting the lowest free ones, and close or reuse
/// small numbers that they believe to be theirs.
const HIGH: i32 = 512;

/// Moves a descriptor of ours out of the way, where the process's limit allows it; close-on-exec.
pub(crate) fn move_high(fd: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&fd, HIGH).unwrap_or(fd)
}
