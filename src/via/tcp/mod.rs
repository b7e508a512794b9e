//! The `tcp` provider: VIA packets framed on one TCP connection (DESIGN section 5; bytes in `docs/protocol.md`), by TLS where the
//! client pins the cluster's key.

mod connect;
mod link;
mod listen;
mod payload;
#[cfg(test)]
mod payload_tests;
mod stream;
mod tls;
mod wire;
mod words;

/// rustls's provider of this crate, for others that make TLS 1.3 connections: without C, and with X25519 alone.
pub use tls::provider;

use super::{
    ConnectError, ConnectRequest, Connecting, ListenConfig, Listener, Provider, Transport,
};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Send buffers are asked for up to what an unprivileged process gets everywhere.
const SEND_BUFFER_MAX: usize = 212_992;

/// See the module's text.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpProvider;

impl Provider for TcpProvider {
    fn transport(&self) -> Transport {
        Transport::Tcp
    }

    fn connect(&self, request: ConnectRequest) -> Result<Box<dyn Connecting>, ConnectError> {
        Ok(Box::new(connect::TcpConnecting::begin(request)?))
    }

    fn listen(&self, config: &ListenConfig) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(listen::TcpListener::bind(config)?))
    }
}

/// Options of every connection. The kernel's buffer should take everything that the ring can hold, since bytes in it
/// survive the process; a larger ring is left to the kernel's own tuning.
fn tune(socket: &OwnedFd, peer: SocketAddr, ring_bytes: u32) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    // The kernel doubles what it is asked for.
    let wanted = ring_bytes as usize / 2 + 65_536;
    if wanted <= SEND_BUFFER_MAX {
        sockopt::set_socket_send_buffer_size(socket, wanted)?;
    }
    if peer.ip().to_canonical().is_loopback() {
        // Nothing can be congested there; and where the system's own choice paces (bbr), each packet would wait for a timer.
        // (A system without reno is none the worse.)
        let _ = sockopt::set_tcp_congestion(socket, "reno");
    }
    Ok(())
}

/// Longest sleep of [`Wire::await_rx`](super::Wire::await_rx): longer than most answers take, and short enough for a kick
/// that has to wait for it.
const NAP: Duration = Duration::from_millis(4);

/// After the handshake: a read may sleep for a [`NAP`]. Whoever must not wait says so by MSG_DONTWAIT.
fn allow_naps(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(NAP))?;
    let flags = rustix::fs::fcntl_getfl(socket)?;
    rustix::fs::fcntl_setfl(socket, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests;
