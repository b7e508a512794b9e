//! The part of a session in which a PostgreSQL login is watched ([`pg_login`]).

use super::super::door::Found;
use super::super::pg_login::{self, Client, Login, Server as ServerWord};
use super::{FIRST, LAST_BYTES, LOGIN_BUFFER, Session, UpstreamEnd};
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vianet::session::postgres::arrival::Arrival;
use vianet::via::EndReason;

impl Session {
    /// As the two directions above, watched: [`pg_login`].
    pub(super) fn login_turn(&mut self, now: Duration) -> Result<usize, &'static str> {
        let mut moved = self.login_from_client(now)?;
        moved += self.flush_login_in(now);
        if self.login_in.is_empty() && self.login_unwatched {
            self.login = None;
        }
        Ok(match &self.login {
            None => moved + self.move_in(now)? + self.move_out(now)?,
            Some(login) if login.guessing() => moved + self.move_out(now)?,
            Some(login) if login.started() && login.challenged() => {
                let inward = match self.is_watching() {
                    true => self.watch_client(now)?,
                    false => self.move_in(now)?,
                };
                moved + inward + self.login_from_upstream(now)
            }
            Some(_) => moved + self.login_from_upstream(now),
        })
    }

    /// Whether bytes of the client's ring may be taken now.
    pub(super) fn takes_client_bytes(&self) -> bool {
        match &self.login {
            Some(login) if !self.login_unwatched => match login.started() {
                true => login.challenged(),
                false => !login.asking(),
            },
            _ => true,
        }
    }

    /// Copies the client's first packet out of the ring, exactly, and then looks at the copy: what is in shared memory
    /// the client could change between the look and the writing.
    pub(super) fn login_from_client(&mut self, now: Duration) -> Result<usize, &'static str> {
        let mut moved = 0;
        let may_say_no = self.may_say_no();
        loop {
            let Some(login) = self.login.as_mut().filter(|l| !l.started() && !l.asking()) else {
                return Ok(moved);
            };
            if self.login_unwatched {
                return Ok(moved);
            }
            match login.client(&self.login_in) {
                Client::Wait(more) => {
                    let finished = self.channel.rx.finished();
                    let had = self.login_in.len();
                    self.login_in.resize(had + more, 0);
                    let Ok(n) = self.channel.rx.pop(&mut self.login_in[had..]) else {
                        self.channel.end(EndReason::ProtocolError);
                        return Err("protocol-error");
                    };
                    self.login_in.truncate(had + n);
                    moved += n;
                    if n == 0 && finished {
                        // It never began: its end is passed on, and nothing else.
                        if !login.guessing() {
                            self.login_in.clear();
                        }
                        self.login_unwatched = true;
                        self.flush_rest(now);
                        if self.login_in.is_empty() {
                            // At once: what a client puts into shared memory behind its end must not go on unwatched.
                            self.client_shut = true;
                            let _ = rustix::net::shutdown(&self.upstream, Shutdown::Write);
                        }
                    }
                    if n == 0 {
                        return Ok(moved);
                    }
                }
                Client::Encryption(n) if may_say_no => {
                    self.login_in.drain(..n);
                    moved += n + self.channel.tx.push(b"N").unwrap_or(0);
                    self.said_no = true;
                }
                Client::Encryption(_) => login.asks(),
                Client::Unwatched => {
                    if login.guessing() {
                        // The rest of its first request goes along: not every server likes 8 bytes alone.
                        let had = self.login_in.len();
                        self.login_in.resize(had + FIRST, 0);
                        let more = self.channel.rx.pop(&mut self.login_in[had..]).unwrap_or(0);
                        self.login_in.truncate(had + more);
                        moved += more;
                    }
                    self.login_unwatched = true;
                    self.key_is_hidden();
                }
                Client::Cancel => {
                    if let Some(dropped) = self.cancel_came(now) {
                        return Ok(moved + dropped);
                    }
                }
                Client::Recognised => self.recognised(),
                Client::Arrival(n) => {
                    let packet: Vec<u8> = self.login_in.drain(..n).collect();
                    self.arrival = Arrival::read(&packet);
                }
                Client::Ticket(n) => {
                    let packet = self.login_in.drain(..n).collect();
                    if let Err(why) = self.ticket_came(packet) {
                        return Ok(moved + self.refuse_ticket(now, why));
                    }
                }
                Client::Started => {
                    if let Err(why) = self.startup_came() {
                        return Ok(moved + self.refuse_ticket(now, why));
                    }
                    self.expect_welcome();
                }
                Client::Refuse(why) => return Ok(moved + self.refuse(now, why)),
            }
        }
    }

    /// A client speaks PostgreSQL to a server of which the configuration says nothing.
    fn recognised(&self) {
        if !self.served.recognised.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "protocol",
                server = self.served.name,
                peer = self.peer,
                "clients speak PostgreSQL to a server with protocol = \"raw\": their logins are watched; set protocol = \
                 \"postgres\" in node.toml"
            );
        }
    }

    pub(super) fn flush_login_in(&mut self, now: Duration) -> usize {
        let decided = self.login_unwatched
            || (self.login.as_ref()).is_some_and(|l| l.started() || l.asking() || l.guessing());
        let moved = match decided {
            true => self.flush_rest(now),
            false => 0,
        };
        self.served
            .bytes_in
            .fetch_add(moved as u64, Ordering::Relaxed);
        moved
    }

    /// What of the client's login was taken out of its ring goes to the server.
    pub(super) fn flush_rest(&mut self, now: Duration) -> usize {
        let mut moved = 0;
        while self.up_out && !self.login_in.is_empty() && self.may_serve() {
            match rustix::io::write(&self.upstream, &self.login_in) {
                Ok(n) => {
                    if let Some(login) = &mut self.login {
                        login.passed(&self.login_in[..n]);
                    }
                    self.login_in.drain(..n);
                    moved += n;
                }
                Err(Errno::AGAIN) => self.up_out = false,
                Err(Errno::INTR) => {}
                Err(_) => self.hold(now, true),
            }
        }
        moved
    }

    fn login_from_upstream(&mut self, now: Duration) -> usize {
        while self.up_in && self.end == UpstreamEnd::Open && self.login_held.len() < LOGIN_BUFFER {
            self.read_held(now);
        }
        if self.is_redeeming() {
            return match self.redeem_turn(now) {
                Ok(moved) => moved,
                Err(why) => self.refuse_ticket(now, why),
            };
        }
        let room = self
            .channel
            .tx
            .room()
            .unwrap_or(0)
            .min(self.login_held.len());
        let Some(login) = &mut self.login else {
            return 0;
        };
        let (pass, proven) = match login.server(&self.login_held[..room]) {
            ServerWord::Pass(n) => (n, false),
            ServerWord::Proven => {
                self.login = None;
                (room, true)
            }
            ServerWord::Encrypts => return self.encrypts(now, room),
            ServerWord::Refuse(why) => return self.refuse(now, why),
        };
        self.watch_server(now, pass, proven);
        self.pass_held(pass)
    }

    /// Whether a driver that asks for encryption may be told that there is none.
    fn may_say_no(&self) -> bool {
        let config = &self.served.config;
        !config.allow_unauthenticated_upstream
            && (self.channel.wire.is_private() || config.allow_plaintext)
    }

    /// Whether the session may go on over a channel that is private, or is not: its driver may have been told that it need not
    /// encrypt.
    pub(in super::super) fn may_go_on(&self, private: bool) -> bool {
        private || !self.said_no || self.served.config.allow_plaintext
    }

    /// The server would encrypt with the driver from now on. It may where nobody comes in unasked that way.
    fn encrypts(&mut self, now: Duration, room: usize) -> usize {
        let lenient = self.login.as_ref().is_some_and(Login::is_lenient);
        if !lenient && !self.served.config.allow_unwatched_tls {
            let found = match self.login_held.first() {
                Some(b'S') => self.served.door.found(&self.served.config),
                _ => Some(Found::Unknown("GSSAPI encryption hides the login".into())),
            };
            self.knocking = found.is_none();
            let why = match found {
                None => return 0,
                Some(Found::Asks) => None,
                Some(Found::LetsIn(who)) => Some(format!(
                    "the SQL server lets {who} in over TLS without a proof"
                )),
                Some(Found::Unknown(why)) => Some(why),
            };
            if let Some(why) = why {
                return self.refuse_tls(now, &why);
            }
        }
        self.login = None;
        self.ticketing = None;
        self.key_is_hidden();
        self.pass_held(room)
    }

    fn refuse_tls(&mut self, now: Duration, why: &str) -> usize {
        tracing::error!(
            event = "login-refused",
            server = self.served.name,
            peer = self.peer,
            why,
            "TLS of the driver was not let through, and the client was told; see docs/security.md, encryption"
        );
        let text = pg_login::unwatched(why, &self.node);
        self.end_login(now, &text, "login-refused")
    }

    /// What is left of a login that is decided goes first.
    pub(super) fn flush_login(&mut self) -> usize {
        match self.login_held.len() {
            0 => 0,
            n => self.pass_held(n),
        }
    }

    fn pass_held(&mut self, most: usize) -> usize {
        let n = self.channel.tx.push(&self.login_held[..most]).unwrap_or(0);
        self.login_held.drain(..n);
        self.served.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        n
    }

    /// Tells the client why, and drops the SQL server.
    fn refuse(&mut self, now: Duration, why: &'static str) -> usize {
        tracing::error!(
            event = "login-refused",
            server = self.served.name,
            peer = self.peer,
            why,
            "the client was told; see docs/operations.md, access rules"
        );
        let text = pg_login::refusal(why, &self.node);
        self.end_login(now, &text, "login-refused")
    }

    /// The client's last word of a login that comes to nothing; the SQL server is dropped.
    pub(super) fn end_login(&mut self, now: Duration, text: &[u8], why: &'static str) -> usize {
        let pushed = self.channel.tx.push(text).unwrap_or(0);
        self.channel.tx.finish();
        self.login = None;
        self.knocking = false;
        self.ticketing = None;
        self.welcome = None;
        self.served.cancels.ended(self.channel.accept.channel_id);
        self.login_held = Vec::new();
        self.login_in = Vec::new();
        self.upstream_gone = true;
        self.draining = Some((now + LAST_BYTES, why));
        let _ = rustix::net::shutdown(&self.upstream, Shutdown::Both);
        pushed.max(1)
    }
}
