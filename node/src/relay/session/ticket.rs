//! The part of a session that has to do with login tickets: a login with the password is taken down for one, a login by a
//! ticket is made in the client's place ([`crate::ticket`]).

use super::super::pg_login;
use super::{BUDGET, Session};
use crate::clock;
use crate::pg::wire::{Startup, read_startup};
use crate::ticket::Tickets;
use crate::ticket::desk::Begun;
use crate::ticket::login::{Login, Step};
use crate::ticket::lookup::Lookup;
use crate::ticket::redeem::{self, Claim};
use crate::ticket::watch::Watch;
use std::sync::Arc;
use std::time::Duration;
use vianet::resolve::identity::random_bytes;
use vianet::resolve::ticket::{Place, Why};
use vianet::via::EndReason;

/// Bytes of the client that are looked at together.
const PIECE: usize = 4096;

/// See [`Session::ticketing`].
pub struct Ticketing {
    tickets: Arc<Tickets>,
    lookup: Arc<Lookup>,
    commitment: [u8; 16],
    /// The ticket's packet, until the startup packet is there.
    packet: Vec<u8>,
    work: Work,
}

enum Work {
    None,
    /// The client logs in with its password, as this role.
    Watch(Watch, String),
    /// We log in for it. So many bytes of the server's that wait are the client's already.
    Redeem(Login, Claim, usize),
}

impl Ticketing {
    /// For a channel whose connect had this nonce.
    pub fn new(tickets: &Arc<Tickets>, lookup: &Arc<Lookup>, commitment: [u8; 16]) -> Self {
        Self {
            tickets: Arc::clone(tickets),
            lookup: Arc::clone(lookup),
            commitment,
            packet: Vec::new(),
            work: Work::None,
        }
    }
}

impl Session {
    /// A ticket came, and was taken off the stream.
    pub(super) fn ticket_came(&mut self, packet: Vec<u8>) -> Result<(), Why> {
        let ticketing = self.ticketing.as_mut().ok_or(Why::Off)?;
        ticketing.packet = packet;
        Ok(())
    }

    /// The startup packet is there, whole, in `login_in`.
    pub(super) fn startup_came(&mut self) -> Result<(), Why> {
        let (Some(ticketing), Some(desk)) = (&mut self.ticketing, &self.served.desk) else {
            return Ok(());
        };
        let accept = &self.channel.accept;
        let startup = &self.login_in[..];
        let begun = |id| Begun {
            channel: accept.channel_id,
            commitment: ticketing.commitment,
            startup,
            generation: accept.generation,
            id,
        };
        let random = random_bytes();
        if ticketing.packet.is_empty() {
            // A login with the password goes on whatever becomes of its ticket.
            let Ok(random) = random else { return Ok(()) };
            let role = role(startup);
            desk.begin(&begun(random), role.as_ref().err().copied());
            ticketing.work = Work::Watch(Watch::default(), role.unwrap_or_default());
            return Ok(());
        }
        let request = redeem::Request {
            packet: &ticketing.packet,
            startup,
            place: &Place::new(accept, &self.served.name),
            server: &self.served.name,
            now_ms: clock::wall_ms(),
        };
        let is_open = |channel| self.served.sessions.lock().contains_key(&channel);
        let claim = redeem::claim(&ticketing.tickets, &request, is_open)?;
        let no_random = |_| Why::Malformed;
        let (random, nonce) = (
            random.map_err(no_random)?,
            random_bytes().map_err(no_random)?,
        );
        desk.begin(&begun(random), None);
        ticketing.packet = Vec::new();
        ticketing.work = Work::Redeem(Login::new(claim.keys.clone(), &nonce), claim, 0);
        Ok(())
    }

    /// Whether the client's bytes of the login are to be shown to [`Session::watch_client`].
    pub(super) fn is_watching(&self) -> bool {
        let work = self.ticketing.as_ref().map(|t| &t.work);
        matches!(work, Some(Work::Watch(watch, _)) if watch.failed().is_none())
    }

    /// As `move_in`, by a copy that is looked at: what is in shared memory the client could change.
    pub(super) fn watch_client(&mut self, now: Duration) -> Result<usize, &'static str> {
        let mut moved = 0;
        while self.login_in.is_empty() && self.up_out && moved < BUDGET && self.may_serve() {
            // Asked first: what comes between the two is looked at in the next turn, and never passed on unseen.
            let finished = self.channel.rx.finished();
            let mut piece = [0; PIECE];
            let Ok(n) = self.channel.rx.pop(&mut piece) else {
                self.channel.end(EndReason::ProtocolError);
                return Err("protocol-error");
            };
            match (n, finished) {
                (0, true) => return Ok(moved + self.move_in(now)?),
                (0, false) => break,
                _ => {}
            }
            if let Some(Work::Watch(watch, _)) = self.ticketing.as_mut().map(|t| &mut t.work) {
                watch.client(&piece[..n]);
            }
            self.login_in.extend_from_slice(&piece[..n]);
            moved += n;
            self.flush_login_in(now);
        }
        Ok(moved)
    }

    /// These bytes of the server are passed on; with `proven` they complete the login.
    pub(super) fn watch_server(&mut self, now: Duration, passed: usize, proven: bool) {
        let Some(ticketing) = &mut self.ticketing else {
            return;
        };
        if let Work::Watch(watch, _) = &mut ticketing.work {
            watch.server(&self.login_held[..passed]);
        }
        if proven
            && let Work::Watch(watch, role) = std::mem::replace(&mut ticketing.work, Work::None)
            && let Some(desk) = &self.served.desk
        {
            // Only now: a connect that proves nothing must not cost the SQL server a question.
            let channel = self.channel.accept.channel_id;
            if desk.proven(now, channel, watch.finish()) && !ticketing.lookup.ask(channel, role) {
                desk.looked_up(channel, Err(Why::Lookup));
            }
        }
    }

    /// Whether the login is ours to make.
    pub(super) fn is_redeeming(&self) -> bool {
        let work = self.ticketing.as_ref().map(|t| &t.work);
        matches!(work, Some(Work::Redeem(..)))
    }

    /// Goes on with it as far as the server's bytes reach. How many were moved, or a refusal.
    pub(super) fn redeem_turn(&mut self, now: Duration) -> Result<usize, Why> {
        let mut moved = 0;
        loop {
            let Some(Work::Redeem(login, _, passed)) = self.ticketing.as_mut().map(|t| &mut t.work)
            else {
                return Ok(moved);
            };
            match login.server(&self.login_held[*passed..]) {
                Step::Wait => break,
                Step::Refuse => return Err(Why::Upstream),
                Step::Pass(n) => *passed += n,
                Step::Answer(n, answer) => {
                    self.login_held.drain(*passed..*passed + n);
                    self.login_in.extend(answer);
                    moved += n + self.flush_login_in(now);
                }
                Step::Ready(_) => {
                    self.has_redeemed(now);
                    return Ok(moved + self.flush_login());
                }
                Step::Failed(_) => {
                    // The claim ends here: the ticket may be tried again.
                    self.ticketing = None;
                    self.login = None;
                    let (server, channel) = (&self.served.name, self.channel.accept.channel_id);
                    tracing::info!(
                        event = "ticket-refused",
                        server,
                        channel,
                        peer = self.peer,
                        "by the SQL server"
                    );
                    return Ok(moved + self.flush_login());
                }
            }
        }
        if let Some(Work::Redeem(_, _, passed)) = self.ticketing.as_mut().map(|t| &mut t.work) {
            let most = *passed;
            let n = self.channel.tx.push(&self.login_held[..most]).unwrap_or(0);
            *passed -= n;
            self.login_held.drain(..n);
            moved += n;
        }
        Ok(moved)
    }

    fn has_redeemed(&mut self, now: Duration) {
        self.login = None;
        let channel = self.channel.accept.channel_id;
        if let Some(Work::Redeem(_, claim, _)) = self.ticketing.take().map(|t| t.work) {
            let from = claim.channel;
            let keys = claim.keep();
            if let Some(desk) = &self.served.desk {
                desk.redeemed(now, channel, keys);
            }
            let server = &self.served.name;
            tracing::info!(
                event = "ticket-redeemed",
                server,
                channel,
                from,
                peer = self.peer,
                "logged in without the password"
            );
        }
    }

    /// Tells the client why its ticket is not honoured, and drops the SQL server.
    pub(super) fn refuse_ticket(&mut self, now: Duration, why: Why) -> usize {
        self.ticketing = None;
        let (server, channel) = (&self.served.name, self.channel.accept.channel_id);
        tracing::warn!(
            event = "ticket-refused",
            server,
            channel,
            peer = self.peer,
            why = why.name(),
            "{}",
            why.text()
        );
        self.end_login(now, &pg_login::ticket_refusal(why), "ticket-refused")
    }
}

/// The role that a startup packet names, where it is one that may have a ticket.
fn role(startup: &[u8]) -> Result<String, Why> {
    let Ok(Some(Startup::Login(pairs))) = read_startup(&mut &startup[..]) else {
        return Err(Why::Unseen);
    };
    let find = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v);
    if find("replication").is_some() {
        return Err(Why::Replication);
    }
    find("user").cloned().ok_or(Why::NoVerifier)
}
