//! The operations: what is done on descriptors and names of ours, in Rust terms.

pub mod connect;
pub mod descriptors;
pub mod io;
pub mod names;
pub mod options;
pub mod poll;
mod settings;

use crate::outcome::{Outcome, Why};
use crate::process;
use std::os::fd::RawFd;
use vianet::conn::{self, ConnRef};

/// The connection of `fd`; lock-free.
#[inline]
fn ours(fd: RawFd) -> Option<ConnRef> {
    if !process::active() {
        return None;
    }
    conn::lookup(fd)
}

/// Runs `operation` on the connection of `fd`, or passes through.
#[inline]
fn on<T>(fd: RawFd, operation: impl FnOnce(ConnRef) -> Outcome<T>) -> Outcome<T> {
    match ours(fd) {
        Some(connection) => operation(connection),
        None => Outcome::PassThrough(Why::NotOurs),
    }
}
