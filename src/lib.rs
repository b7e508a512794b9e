//! vianet: SQL connections by *server name* over a VIA-style transport.
//!
//! The library is the *network access module* of a client process: it asks the cluster over UDP who serves a
//! name now ([`resolve`]), carries the bytes over a channel ([`via`]: shared memory or framed TCP), and when
//! the active server is lost it finds the second one ([`failover`]) and carries on below the application,
//! which holds one descriptor for the whole life of the connection ([`conn`]). C programs use it through
//! `include/vianet.h` ([`capi`]); programs that know nothing of it are served by the preload library.
//!
//! Dependencies point one way: `capi -> conn -> {failover, resolve, session, via}`. The pure parts
//! (`failover`, the codecs and cache rules of `resolve`, `session`) have no unsafe code and never read a clock.

#![deny(unsafe_op_in_unsafe_fn)]

mod callback;
pub mod capi;
pub mod config;
pub mod conn;
pub mod error;
pub mod failover;
mod fd;
pub mod log;
pub mod resolve;
pub mod session;
mod signals;
mod thread;
pub mod via;

pub use error::{Error, Result};
