//! Whether the SQL server lets strangers in unasked who come over TLS from the relay's address.
//!
//! A login inside TLS of the driver cannot be watched ([`super::pg_login`]). So before TLS passes through, the relay knocks itself: as
//! nobody, and as PostgreSQL's superuser. An access rule that trusts its address lets one of them in, and then no TLS passes. What a
//! rule for one other role alone says is not found out this way; who writes such a rule names the role.

use super::upstream;
use crate::config::{self, Upstream};
use crate::pg::wire::{self, Outbox, put_text};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;
mod tls;

/// Longest wait for one step of the server's.
const LIMIT: Duration = Duration::from_secs(2);
/// A good answer holds so long.
const GOOD: Duration = Duration::from_secs(60);
/// A bad one: somebody may be mending it.
const BAD: Duration = Duration::from_secs(5);
/// A name that nobody has, and one that has everything.
const WHO: [&str; 2] = ["vianet_nobody", "postgres"];
/// Beside the superuser.
const DATABASE: &str = "postgres";
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const PROTOCOL_3_0: u32 = 3 << 16;
const AUTHENTICATION_OK: &[u8] = &[0, 0, 0, 0];

/// What knocking has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Strangers are asked for a proof, or turned away.
    Asks,
    /// This role came in without one.
    LetsIn(&'static str),
    /// It could not be found out; why.
    Unknown(String),
}

/// One SQL server's. Never blocks.
#[derive(Default)]
pub struct Door(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    New,
    Knocking,
    Known(Found, Instant),
}

impl Door {
    /// What is known; `None`: not yet, ask again soon.
    pub fn found(&self, server: &config::Server) -> Option<Found> {
        let mut state = self.0.lock();
        match &*state {
            State::Knocking => None,
            State::Known(found, since) if since.elapsed() < lasts(found) => Some(found.clone()),
            _ => {
                *state = State::Knocking;
                let (state, server) = (Arc::clone(&self.0), server.clone());
                let knock = move || {
                    let found = knock(&server).unwrap_or_else(|e| Found::Unknown(e.to_string()));
                    *state.lock() = State::Known(found, Instant::now());
                };
                let thread = std::thread::Builder::new().name("door".into());
                if let Err(e) = thread.spawn(knock) {
                    *self.0.lock() = State::Known(Found::Unknown(e.to_string()), Instant::now());
                }
                None
            }
        }
    }
}

fn lasts(found: &Found) -> Duration {
    match found {
        Found::Asks => GOOD,
        Found::LetsIn(_) | Found::Unknown(_) => BAD,
    }
}

fn knock(server: &config::Server) -> io::Result<Found> {
    for who in WHO {
        let mut stream = connect(server)?;
        stream.write_all(SSL_REQUEST)?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        if answer != *b"S" {
            let text = "the SQL server gave the relay no TLS 1.3, and nobody could tell whom it lets in over TLS";
            return Ok(Found::Unknown(text.into()));
        }
        let name = "vianet".try_into().map_err(io::Error::other)?;
        let mut tls =
            rustls::ClientConnection::new(tls::config()?, name).map_err(io::Error::other)?;
        if let Some(found) = ask(&mut rustls::Stream::new(&mut tls, &mut stream), who)? {
            return Ok(found);
        }
    }
    Ok(Found::Asks)
}

/// `None`: this one is not let in.
fn ask(stream: &mut (impl Read + Write), who: &'static str) -> io::Result<Option<Found>> {
    let mut out = Outbox::default();
    out.sized(|body| {
        body.extend(PROTOCOL_3_0.to_be_bytes());
        for text in ["user", who, "database", DATABASE] {
            put_text(body, text);
        }
        body.push(0);
    });
    out.flush(stream)?;
    loop {
        return Ok(match wire::read(stream)? {
            // A notice, or what the server would rather speak.
            Some((b'N' | b'v', _)) => continue,
            Some((b'R', body)) if body.starts_with(AUTHENTICATION_OK) => Some(Found::LetsIn(who)),
            // Turned away before anything else was said: nobody of this name comes in without more.
            Some((b'R' | b'E', _)) => None,
            Some(_) => Some(Found::Unknown(
                "the SQL server answered the relay's knock with an unknown message".into(),
            )),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        });
    }
}

/// As the relay connects for a client, and waiting.
fn connect(server: &config::Server) -> io::Result<TcpStream> {
    if let Upstream::Unix(_) = server.upstream {
        return Err(io::Error::other(
            "over a Unix socket PostgreSQL does no TLS",
        ));
    }
    let socket = upstream::begin(server).map_err(io::Error::other)?;
    let limit = Timespec::try_from(LIMIT).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    if poll(&mut fds, Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    upstream::finish(&socket).map_err(io::Error::other)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}
