//! One channel and its connection to the SQL server: bytes both ways, straight between ring and socket.
//!
//! Each direction moves at most a budget per turn, and only within the node's lease. What was consumed from the client's
//! ring is what was written to the SQL server, one number: a client that resumes or fails over knows exactly what the
//! server has.

mod arrival;
mod cancel;
mod login;
mod ticket;
mod warm;

pub(super) use ticket::Ticketing;
pub(super) use warm::Waiting;

use super::pg_login::Login;
use super::welcome::Welcome;
use crate::clock;
use crate::config::Protocol;
use crate::served::Served;
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vianet::session::postgres::arrival::Arrival;
use vianet::via::switchover::GOES_ON;
use vianet::via::{Broken, Channel, EndReason, Transport, wake};

/// Bytes that one direction moves before other sessions have their turn.
const BUDGET: usize = 512 * 1024;
/// Bytes of one system call.
const CHUNK: usize = 256 * 1024;
/// A login's bytes of the server that wait for the rest of a message.
const LOGIN_BUFFER: usize = 16 * 1024;
/// Bytes of a client's first request that are passed on together.
const FIRST: usize = 4096;
/// How long the last bytes of an ended session may take.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// What a turn left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing to do until a descriptor says so.
    Idle,
    /// The budget is used up.
    Again,
    /// The lease does not run, or a health check is awaited, or a time limit runs: look again soon.
    Soon,
    /// It is over; what the log says.
    Over(&'static str),
}

/// The SQL server's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamEnd {
    Open,
    /// It ended, and a health check must tell whether that was a close or a loss.
    Held {
        since: Duration,
        reset: bool,
    },
    /// It was a close, and the client was told.
    Passed,
}

/// See the module's text.
pub(super) struct Session {
    pub(super) served: Arc<Served>,
    pub(super) index: usize,
    pub(super) channel: Channel,
    pub(super) upstream: OwnedFd,
    pub(super) peer: String,
    pub(super) node: Arc<str>,
    /// Readiness of the upstream socket, from edge-triggered events.
    pub(super) up_in: bool,
    pub(super) up_out: bool,
    /// The wire's descriptor had an event.
    pub(super) wire_event: bool,
    /// The transport broke; the client may resume until then.
    pub(super) parked_until: Option<Duration>,
    pub(super) resume: Duration,
    /// The channel came by a resumption.
    carried: bool,
    client_shut: bool,
    end: UpstreamEnd,
    /// Both directions ended; the last bytes may take until then.
    complete_by: Option<Duration>,
    /// A PostgreSQL login that is watched, until it is decided; or what may become one.
    login: Option<Login>,
    /// The client's first packet, copied out of the ring.
    login_in: Vec<u8>,
    /// It is none that needs watching, and goes on unwatched.
    login_unwatched: bool,
    /// The driver asked for encryption and was told that there is none.
    said_no: bool,
    /// The login waits for what is found at the server's door.
    knocking: bool,
    /// Looks at what the server says from the startup packet on, until the session is ready.
    welcome: Option<Welcome>,
    /// When the channel was accepted, and when the session was ready.
    accepted: Duration,
    ready: Option<Duration>,
    /// How it got here, if it has moved; until its application goes on.
    arrival: Option<Arrival>,
    /// Its part in login tickets, until the login is decided; `None`: there are none.
    ticketing: Option<Ticketing>,
    /// Bytes of the server that were not passed on yet.
    login_held: Vec<u8>,
    /// The session is over except for bytes that are still to be delivered, until then.
    draining: Option<(Duration, &'static str)>,
    /// What its client said last of itself.
    standing: u8,
    /// It waits until this node is active.
    waiting: Option<Waiting>,
    /// It did.
    was_warm: bool,
    /// The SQL server was dropped by us: it must not be read or written any more.
    upstream_gone: bool,
}

impl Session {
    pub(super) fn new(
        served: Arc<Served>,
        index: usize,
        channel: Channel,
        upstream: OwnedFd,
        peer: String,
        node: Arc<str>,
        resume: Duration,
    ) -> Self {
        let login = match served.config.protocol {
            Protocol::Postgres => Login::default(),
            Protocol::Raw => Login::guess(),
        };
        let login = match served.config.allow_unauthenticated_upstream {
            true => login.lenient(),
            false => login,
        };
        Self {
            served,
            index,
            channel,
            upstream,
            peer,
            node,
            up_in: true,
            up_out: true,
            wire_event: true,
            parked_until: None,
            resume,
            carried: false,
            client_shut: false,
            end: UpstreamEnd::Open,
            complete_by: None,
            login: Some(login),
            login_in: Vec::new(),
            login_unwatched: false,
            said_no: false,
            knocking: false,
            welcome: None,
            accepted: clock::now(),
            ready: None,
            arrival: None,
            ticketing: None,
            login_held: Vec::new(),
            draining: None,
            standing: 0,
            waiting: None,
            was_warm: false,
            upstream_gone: false,
        }
    }

    /// Its logins are for tickets too.
    pub(super) fn with_tickets(mut self, ticketing: Option<Ticketing>) -> Self {
        self.ticketing = ticketing;
        self
    }

    /// Whether an end of file of the SQL server waits for a health check.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.end, UpstreamEnd::Held { .. })
    }

    /// Whether the login is decided, as far as that is known: the SQL server has spoken, and nothing is watched any more.
    pub(super) fn has_logged_in(&self) -> bool {
        let watched = self.login.as_ref().is_some_and(|login| !login.guessing());
        !watched && self.channel.accepted() > 0
    }

    /// Whether the channel may be carried on by a resumption.
    pub(super) fn resumable(&self) -> bool {
        self.draining.is_none()
    }

    /// Whether its client has said something new of itself; notes it.
    pub(super) fn has_new_standing(&mut self) -> bool {
        let told = self.channel.wire.told();
        if std::mem::replace(&mut self.standing, told) == told {
            return false;
        }
        let id = self.channel.accept.channel_id;
        if let Some(status) = self.served.sessions.lock().get_mut(&id) {
            status.standing = told;
        }
        if told == GOES_ON {
            self.goes_on();
        }
        true
    }

    /// The same session on a new channel.
    pub(super) fn resumed(&mut self, channel: Channel) {
        self.channel = channel;
        self.carried = true;
        self.parked_until = None;
        self.wire_event = true;
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, now: Duration) -> Turn {
        if std::mem::take(&mut self.wire_event) && self.parked_until.is_none() {
            let _ = self.channel.drive();
        }
        if let Some(over) = self.look_at_channel(now) {
            return over;
        }
        if !self.may_relay(now) {
            return self.time_limits(now).unwrap_or(Turn::Soon);
        }
        if let Some(over) = self.look_at_upstream_end(now) {
            return over;
        }
        let mut again = false;
        loop {
            let inward = match self.login {
                Some(_) => self.login_turn(now),
                None => self.move_in(now).and_then(|a| Ok(a + self.move_out(now)?)),
            };
            match inward {
                Ok(0) => {}
                Ok(moved) => {
                    self.channel.moved();
                    again = moved >= BUDGET;
                    if again {
                        break;
                    }
                }
                Err(over) => return Turn::Over(over),
            }
            if self.is_complete(now) {
                self.channel.end(EndReason::Closed);
                return Turn::Over("closed");
            }
            if !self.may_serve() {
                return self.time_limits(now).unwrap_or(Turn::Soon);
            }
            if self.rest() {
                break;
            }
        }
        if let Some(over) = self.time_limits(now) {
            return over;
        }
        if again {
            Turn::Again
        } else if self.is_held()
            || self.knocking
            || self.draining.is_some()
            || self.parked_until.is_some()
            || self.complete_by.is_some()
        {
            Turn::Soon
        } else {
            Turn::Idle
        }
    }

    /// Leaves the wake words so that the peer rings for what comes next. False: there is something to do already.
    fn rest(&self) -> bool {
        let (rx, tx) = (&self.channel.rx, &self.channel.tx);
        let readable =
            || (rx.finished() && !self.client_shut) || rx.available().map_or(true, |n| n > 0);
        if self.up_out && !self.upstream_gone && self.takes_client_bytes() {
            // Not writable: the socket's event comes first, then the ring is looked at again.
            wake::enter(rx.receive_word());
            if readable() || !wake::leave_armed(rx.receive_word(), readable) {
                return false;
            }
        }
        let watched = self.login.as_ref().filter(|l| !l.guessing());
        let wants_room = match (watched, self.login_held.is_empty()) {
            // An incomplete message waits for the server, not for room.
            (Some(_), held_none) => !held_none && tx.room().is_ok_and(|room| room == 0),
            (None, false) => true,
            (None, true) => self.up_in && self.end == UpstreamEnd::Open && !self.upstream_gone,
        };
        if wants_room {
            let enough = || tx.room().map_or(true, |room| room >= tx.size() / 4);
            wake::enter_space(tx.space_word());
            if tx.room().map_or(true, |room| room > 0) || wake::leave_full(tx.space_word(), enough)
            {
                return false;
            }
        }
        true
    }

    fn look_at_channel(&mut self, now: Duration) -> Option<Turn> {
        if self.parked_until.is_some() || self.draining.is_some() {
            return None;
        }
        let why = match self.channel.broken()? {
            Broken::Transport(_) if self.waiting.is_some() => "client-gone",
            Broken::Transport(_) if self.may_come_back() && !self.resume.is_zero() => {
                self.parked_until = Some(now + self.resume);
                return None;
            }
            Broken::Transport(_) => "client-gone",
            Broken::Ended(EndReason::Closed) => "closed",
            Broken::Ended(EndReason::Reset) => "reset",
            Broken::Ended(_) => "ended-by-client",
            Broken::Corrupt(_) => {
                self.channel.end(EndReason::ProtocolError);
                return Some(Turn::Over("protocol-error"));
            }
        };
        match &self.login {
            Some(login) if login.is_lenient() => {
                // What it is, is seen from what is there; then all of it goes as it is.
                if let Err(over) = self.login_from_client(now) {
                    return Some(Turn::Over(over));
                }
                self.login = None;
            }
            Some(login) if !login.guessing() => {
                // A login comes to nothing. A request to cancel counts: nobody need stay to hear of it.
                if let Err(over) = self.login_from_client(now) {
                    return Some(Turn::Over(over));
                }
                if !self.login_unwatched {
                    return Some(Turn::Over(why));
                }
                self.login = None;
            }
            _ => {}
        }
        // What the client's `send` accepted reaches the server, whatever became of the client.
        self.draining = Some((now + LAST_BYTES, why));
        None
    }

    /// Shared memory breaks by the end of the client alone; unless that came here by a resumption, which it may have given up
    /// before it knew that it was accepted.
    fn may_come_back(&self) -> bool {
        self.channel.wire.transport() != Transport::Shm || self.carried
    }

    fn time_limits(&mut self, now: Duration) -> Option<Turn> {
        if let Some(until) = self.parked_until
            && now >= until
        {
            if self.channel.wire.transport() != Transport::Shm {
                return Some(Turn::Over("not-resumed"));
            }
            self.parked_until = None;
            self.draining = Some((now + LAST_BYTES, "client-gone"));
        }
        let (until, why) = self.draining?;
        let done = match self.upstream_gone {
            true => self.channel.broken().is_some() || self.delivered(),
            false => self.end != UpstreamEnd::Open,
        };
        if done || now >= until {
            if self.upstream_gone {
                self.channel.end(EndReason::Closed);
            }
            return Some(Turn::Over(why));
        }
        None
    }

    fn delivered(&self) -> bool {
        self.channel
            .tx
            .head()
            .is_ok_and(|head| head == self.channel.tx.tail())
    }

    /// Both directions ended in good order and everything arrived (or there was time enough for it).
    fn is_complete(&mut self, now: Duration) -> bool {
        if self.end != UpstreamEnd::Passed || !self.client_shut {
            return false;
        }
        let by = *self.complete_by.get_or_insert(now + LAST_BYTES);
        self.delivered() || now >= by
    }

    /// Asked for every chunk, with a fresh clock: this thread may have been stopped between two of them.
    fn may_serve(&self) -> bool {
        self.may_relay(clock::now())
    }

    /// From the client's ring to the SQL server. `Err`: over, and why.
    fn move_in(&mut self, now: Duration) -> Result<usize, &'static str> {
        let mut moved = 0;
        if !self.login_in.is_empty() {
            // Of a login that is decided: first things first.
            moved += self.flush_rest(now);
            if !self.login_in.is_empty() {
                return Ok(moved);
            }
        }
        while self.up_out && moved < BUDGET && self.may_serve() && !self.upstream_gone {
            let finished = self.channel.rx.finished();
            match self.channel.rx.available() {
                Err(_) => {
                    self.channel.end(EndReason::ProtocolError);
                    return Err("protocol-error");
                }
                Ok(0) => {
                    if finished && !self.client_shut {
                        self.client_shut = true;
                        let _ = rustix::net::shutdown(&self.upstream, Shutdown::Write);
                    }
                    break;
                }
                Ok(_) => {}
            }
            match self.channel.rx.write_to(&self.upstream, CHUNK) {
                Ok(n) => moved += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.up_out = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.hold(now, true);
                    break;
                }
            }
        }
        self.served
            .bytes_in
            .fetch_add(moved as u64, Ordering::Relaxed);
        Ok(moved)
    }

    /// From the SQL server to the client's ring.
    fn move_out(&mut self, now: Duration) -> Result<usize, &'static str> {
        if self.draining.is_some() {
            self.discard_upstream(now);
            return Ok(0);
        }
        let first = self.flush_login() + self.move_out_until_ready(now);
        if !self.login_held.is_empty() {
            return Ok(first);
        }
        let mut moved = 0;
        while self.up_in && moved < BUDGET && self.end == UpstreamEnd::Open {
            if !self.may_serve() || self.upstream_gone {
                break;
            }
            match self.channel.tx.room() {
                Err(_) => {
                    self.channel.end(EndReason::ProtocolError);
                    return Err("protocol-error");
                }
                Ok(0) => break,
                Ok(_) => {}
            }
            match self.channel.tx.read_from(&self.upstream, CHUNK) {
                Ok(0) => self.hold(now, false),
                Ok(n) => moved += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.up_in = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.hold(now, true),
            }
        }
        self.served
            .bytes_out
            .fetch_add(moved as u64, Ordering::Relaxed);
        Ok(first + moved)
    }

    /// The client is gone: once the server has all of its bytes it is told so, and what it still says is thrown away.
    /// (Closing a socket with unread bytes would be a reset, which can overtake the client's last bytes.)
    fn discard_upstream(&mut self, now: Duration) {
        let given = self.login_in.is_empty() && self.channel.rx.available().unwrap_or(0) == 0;
        if !self.client_shut && given {
            self.client_shut = true;
            let _ = rustix::net::shutdown(&self.upstream, Shutdown::Write);
        }
        while self.up_in && self.end == UpstreamEnd::Open {
            match rustix::io::read(&self.upstream, &mut [0; 4096]) {
                Ok(0) => self.hold(now, false),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.up_in = false,
                Err(_) => self.hold(now, true),
            }
        }
    }

    /// The end of a session. What the server has of a client that was cut off may end in the middle of a statement: by a
    /// reset it is told so, where an end of stream would say that this was all. (A Unix socket knows no reset.)
    pub(super) fn hang_up(self) {
        if !self.client_shut {
            let at_once = Some(Duration::ZERO);
            let _ = rustix::net::sockopt::set_socket_linger(&self.upstream, at_once);
        }
    }

    fn hold(&mut self, now: Duration, reset: bool) {
        if reset {
            self.up_out = false;
        }
        if self.end == UpstreamEnd::Open {
            self.end = UpstreamEnd::Held { since: now, reset };
        }
    }

    /// The SQL server's connection ended: with a healthy server that was a close, else the server was lost.
    fn look_at_upstream_end(&mut self, now: Duration) -> Option<Turn> {
        let UpstreamEnd::Held { since, reset } = self.end else {
            return None;
        };
        if self.draining.is_some() {
            return None;
        }
        if self.waiting.is_some() {
            // Whatever the reason, its client makes another one.
            self.channel.end(EndReason::Reset);
            return Some(Turn::Over("upstream-ended"));
        }
        let health = self.served.health();
        let hooks = &self.served.config.hooks;
        let patience = Duration::from_millis(hooks.health_timeout_ms) + Duration::from_secs(2);
        let healthy = match health.last {
            Some(ok) if health.begun >= since => ok,
            _ if now >= since + patience => false,
            _ => return None,
        };
        if !healthy {
            self.channel.end(EndReason::UpstreamLost);
            return Some(Turn::Over("upstream-lost"));
        }
        if reset {
            self.channel.end(EndReason::Reset);
            return Some(Turn::Over("upstream-reset"));
        }
        self.end = UpstreamEnd::Passed;
        let _ = self.channel.shutdown_write();
        None
    }
}
