//! The `rdma` provider: reliable connected queue pairs, set up by rdma_cm (DESIGN section 5; bytes in `docs/protocol.md`).
//!
//! ```text
//! client                                                  node
//!   resolve address, route
//!   connection request: name, generation              ──►  speaks this protocol? handshakes left for this source?
//!                                                     ◄──  accept (or reject with a reason)
//!   CONNECT or RESUME packet (the client sends first)  ──►
//!                                                     ◄──  ACCEPT packet with the node's receive ring, or REJECT
//!   first packet, with the client's receive ring       ──►
//!   ... bytes go by RDMA write into the other side's ring ...
//! ```
//!
//! The handshake is that of all providers, in messages. The layers, from below: `sys` and `layout` (bindings), `load`
//! (libraries, opened on first use), `cm` and `verbs` (safe owners), `link` (one connection), `wire`.
//!
//! *fork*: nothing of a link is of use in a child, where it reports that it is broken; the channel is then carried on over
//! another transport, since a process that was forked from one that uses RDMA has none of its own.

mod alarm;
mod cm;
mod connect;
mod credit;
mod device;
mod diagnose;
mod dial;
mod layout;
mod linger;
mod link;
mod listen;
mod load;
mod memory;
mod message;
mod process;
mod sys;
mod verbs;
mod wire;

use super::{
    ConnectError, ConnectRequest, Connecting, ListenConfig, Listener, Provider, Transport,
};
pub use device::{Device, Found, Limits, Port, devices};
pub use diagnose::{CHANNEL_BYTES, device_of, libraries};
use std::io;

/// The provider; it opens the libraries when it is first used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rdma;

/// Largest ring per direction, of a channel that is carried on too. Rings are locked memory: a channel has two, and 48 KiB for messages.
pub const RING_BYTES: u32 = 128 << 10;
const _: () = assert!(RING_BYTES <= message::RING_MAX);

/// A lost message is repeated after 4.096 µs * 2^15 = 134 ms, seven times: a link that is down is noticed within about a
/// second where bytes are on their way.
const ACK_TIMEOUT: u8 = 15;

impl Provider for Rdma {
    fn transport(&self) -> Transport {
        Transport::Rdma
    }

    fn connect(&self, request: ConnectRequest) -> Result<Box<dyn Connecting>, ConnectError> {
        Ok(Box::new(connect::RdmaConnecting::begin(request)?))
    }

    fn listen(&self, config: &ListenConfig) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(listen::RdmaListener::bind(config)?))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
