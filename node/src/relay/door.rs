//! Whether the SQL server lets strangers in unasked who come over TLS from the relay's address.
//!
//! A login inside TLS of the driver cannot be watched ([`super::pg_login`]). So before TLS passes through, the relay knocks itself: as
//! nobody, and as PostgreSQL's superuser, each for a database and for replication. An access rule that trusts its address lets one of
//! them in, and then no TLS passes. What a rule for one other role or database alone says is not found out this way; who writes such a rule names the role.

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
/// Who knocks, as what: a name that nobody has, and one that has everything. Replication, which is a copy of everything, has
/// rules of its own, and they are there from the start.
const KNOCKS: [(&str, &[&str]); 4] = [
    ("vianet_nobody", &["vianet_nobody", "database", "postgres"]),
    ("postgres", &["postgres", "database", "postgres"]),
    (
        "vianet_nobody for replication",
        &["vianet_nobody", "replication", "true"],
    ),
    (
        "postgres for replication",
        &["postgres", "replication", "true"],
    ),
];
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

type Work = Box<dyn FnOnce() + Send>;

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
        let begin = |work: Work| {
            let thread = std::thread::Builder::new().name("door".into());
            thread.spawn(work).map(drop)
        };
        self.found_by(server, begin)
    }

    fn found_by(
        &self,
        server: &config::Server,
        begin: impl FnOnce(Work) -> io::Result<()>,
    ) -> Option<Found> {
        let mut state = self.0.lock();
        match &*state {
            State::Knocking => None,
            State::Known(found, since) if since.elapsed() < lasts(found) => Some(found.clone()),
            _ => {
                *state = State::Knocking;
                let (shared, server) = (Arc::clone(&self.0), server.clone());
                let knock = move || {
                    let found = knock(&server).unwrap_or_else(|e| Found::Unknown(e.to_string()));
                    *shared.lock() = State::Known(found, Instant::now());
                };
                if let Err(e) = begin(Box::new(knock)) {
                    *state = State::Known(Found::Unknown(e.to_string()), Instant::now());
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
    for (who, login) in KNOCKS {
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
        if let Some(found) = ask(&mut rustls::Stream::new(&mut tls, &mut stream), who, login)? {
            return Ok(found);
        }
    }
    Ok(Found::Asks)
}

/// `None`: this one, who logs in with a name and such words, is not let in.
fn ask(
    stream: &mut (impl Read + Write),
    who: &'static str,
    login: &[&str],
) -> io::Result<Option<Found>> {
    let mut out = Outbox::default();
    out.sized(|body| {
        body.extend(PROTOCOL_3_0.to_be_bytes());
        put_text(body, "user");
        login.iter().for_each(|text| put_text(body, text));
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
