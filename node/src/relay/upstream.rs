//! Connections to the SQL server.

use crate::config::{Server, Upstream};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, ipproto, socket_with,
    sockopt,
};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Begins to connect, without blocking. It stands, or has failed, when the descriptor is writable: [`finish`].
///
/// # Errors
/// The text is for the log.
pub fn begin(server: &Server) -> Result<OwnedFd, String> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let failed = |what: &str, e: Errno| format!("{what}: {e}");
    match &server.upstream {
        Upstream::Tcp(addr) => {
            let family = match addr {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
                .map_err(|e| failed("socket", e))?;
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let _ = sockopt::set_socket_keepalive(&socket, true);
            if let Some(source) = server.relay_source() {
                bind(&socket, &SocketAddr::new(source, 0))
                    .map_err(|e| failed(&format!("bind to upstream_source {source}"), e))?;
            }
            match connect(&socket, addr) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
                Err(e) => Err(failed(&format!("connect to {addr}"), e)),
            }
        }
        Upstream::Unix(path) => {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .map_err(|e| failed("socket", e))?;
            let addr =
                SocketAddrUnix::new(path).map_err(|e| failed(&path.display().to_string(), e))?;
            connect(&socket, &addr)
                .map_err(|e| failed(&format!("connect to {}", path.display()), e))?;
            not_our_own_user(&socket)?;
            Ok(socket)
        }
    }
}

/// Whether the connection stands.
///
/// # Errors
/// The text is for the log.
pub fn finish(socket: &OwnedFd) -> Result<(), String> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) | Err(e) => Err(format!("connect: {e}")),
    }
}

/// A SQL server of our own user would take every remote client for the owner of its files (peer authentication).
fn not_our_own_user(socket: &OwnedFd) -> Result<(), String> {
    let server = sockopt::socket_peercred(socket).map_err(|e| format!("SO_PEERCRED: {e}"))?;
    if server.uid == rustix::process::geteuid() {
        return Err(format!(
            "the SQL server runs as our own user (uid {}): over a Unix socket every client would be that user; run \
             vianetd as a user of its own",
            server.uid.as_raw()
        ));
    }
    Ok(())
}
