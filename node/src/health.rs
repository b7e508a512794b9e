//! Whether the SQL server can be used: the operator's hook, else a connection to it.
//!
//! For `protocol = "postgres"` the built-in check also asks for TLS and waits for the one-byte answer: a server that is
//! frozen accepts connections (the kernel does it), but does not answer.

use crate::config::{Protocol, Server, Upstream};
use crate::hooks::{self, Permit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// An SSLRequest: length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Checks once, within the configured limit; the error says what failed.
pub fn check(server: &Server, env: &[(&str, String)]) -> Result<(), String> {
    let limit = Duration::from_millis(server.hooks.health_timeout_ms);
    if !server.hooks.health.is_empty() {
        let outcome = hooks::run(&server.hooks.health, env, limit, &Permit::default());
        return match outcome.ok {
            true => Ok(()),
            false => Err(format!(
                "health hook: {}: {}",
                outcome.ended, outcome.output
            )),
        };
    }
    let deadline = Instant::now() + limit;
    match &server.upstream {
        Upstream::Tcp(addr) => {
            let mut s = TcpStream::connect_timeout(addr, limit)
                .map_err(|e| format!("connect to {addr}: {e}"))?;
            let left = deadline.saturating_duration_since(Instant::now());
            s.set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .map_err(|e| e.to_string())?;
            greet(&mut s, server.protocol)
        }
        Upstream::Unix(path) => {
            // Connecting to a Unix socket blocks only while its backlog is full; the main loop bounds that.
            let mut s = UnixStream::connect(path)
                .map_err(|e| format!("connect to {}: {e}", path.display()))?;
            s.set_read_timeout(Some(limit)).map_err(|e| e.to_string())?;
            greet(&mut s, server.protocol)
        }
    }
}

fn greet(stream: &mut (impl Read + Write), protocol: Protocol) -> Result<(), String> {
    if protocol == Protocol::Raw {
        return Ok(());
    }
    let mut answer = [0];
    stream
        .write_all(&SSL_REQUEST)
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|e| format!("no answer to an SSLRequest: {e}"))?;
    match answer[0] {
        b'S' | b'N' => Ok(()),
        other => Err(format!("answers an SSLRequest with byte {other:#04x}")),
    }
}
