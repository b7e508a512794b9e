//! The ticket by which the session could log in on another server: asked for once the application has logged in, renewed
//! while the session lives, kept in memory only ([`crate::resolve::ticket`]).

use super::*;
use crate::conn::asker::Target;
use crate::resolve::identity::{PublicKey, random_bytes};
use crate::resolve::ticket::{Ask, Given, Held, Key, Place, Why};
use crate::via::Accept;
use std::net::SocketAddr;

/// How often it is looked whether the application has logged in.
const LOGIN_LOOK: Duration = Duration::from_millis(100);
/// How often it is looked whether the node has answered, and how long that may take.
const LOOK: Duration = Duration::from_millis(10);
const ANSWER: Duration = Duration::from_millis(250);
/// So many unanswered questions in a row are no answer.
const ASKS: u32 = 4;
/// When to ask again where the reason for none may pass: at first, and ever more seldom up to this.
const SOON: Duration = Duration::from_millis(250);
const LATER: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Default)]
pub(super) struct Tickets {
    /// The key of the channel that is being connected.
    coming: Option<Arc<Key>>,
    /// That of the channel in use.
    owned: Option<(u64, Arc<Key>)>,
    /// What can be redeemed, of the channel in use or, until another is, of the one before.
    held: Option<Held>,
    /// Until when.
    good_until: Duration,
    asked: Option<Asked>,
    unanswered: u32,
    /// How long the last pause between two questions was.
    pause: Duration,
    due: Option<Duration>,
}

struct Asked {
    ask: Ask,
    to: Target,
    until: Duration,
}

impl Driver {
    /// The nonce of a connect that makes a channel: where its session could move, it commits to a key.
    pub(super) fn new_ticket_key(&mut self, transport: Transport) -> Option<[u8; 16]> {
        let wanted = self.conn.pinned.is_some()
            && transport != Transport::Plain
            && self.conn.followed.is_on();
        self.tickets.coming = match wanted {
            true => Key::generate().ok().map(Arc::new),
            false => None,
        };
        self.tickets.coming.as_ref().map(|key| key.commitment())
    }

    /// The calls have the channel: from now on its ticket counts.
    pub(super) fn own_ticket(&mut self, now: Duration) {
        let key = self.tickets.coming.take();
        let channel = self.current.as_ref().map(|c| c.accept.channel_id);
        let owned = channel.zip(key);
        let why = match (&owned, self.conn.pinned) {
            (Some(_), _) => Why::Pending,
            (None, None) => Why::Unpinned,
            (None, Some(_)) => Why::Off,
        };
        self.tickets = Tickets {
            due: owned.is_some().then_some(now),
            owned,
            ..Tickets::default()
        };
        self.conn.set_login(Some(why));
    }

    /// What to send first on a new channel in the place of `startup`, the very packet by which the session logged in: the
    /// node then answers as a server that trusts the client, or with an ErrorResponse. No answer of the application's is
    /// needed, and what follows may be sent at once.
    ///
    /// # Errors
    /// Why there is no ticket: the second server has to be asked as any client asks.
    pub(super) fn redemption(
        &self,
        now: Duration,
        accept: &Accept,
        startup: &[u8],
    ) -> Result<Vec<u8>, Why> {
        match &self.tickets.held {
            Some(_) if now >= self.tickets.good_until => Err(Why::Expired),
            Some(held) => Ok(held.redemption(&Place::new(accept, &self.conn.name.server), startup)),
            None => Err(self.conn.login().unwrap_or(Why::Pending)),
        }
    }

    /// When [`Driver::see_to_ticket`] wants to be called.
    pub(super) fn ticket_due(&self) -> Option<Duration> {
        self.tickets.due.filter(|_| !self.ended)
    }

    /// What is due.
    pub(super) fn see_to_ticket(&mut self, now: Duration) {
        if self.tickets.due.is_none_or(|due| now < due) {
            return;
        }
        self.tickets.due = None;
        let Some((channel, key)) = self.tickets.owned.clone() else {
            return;
        };
        if self.machine.state() != State::Established || self.unused.is_some() {
            // Whatever becomes of it: the channel in use is asked for when it is in use again.
            self.tickets.asked = None;
            self.tickets.due = Some(now + LOGIN_LOOK);
            return;
        }
        if let Some(asked) = &mut self.tickets.asked {
            let answer = asked.answer(self.conn.pinned.as_ref());
            if answer.is_none() && now < asked.until {
                self.tickets.due = Some(now + LOOK);
                return;
            }
            self.tickets.asked = None;
            match answer {
                Some(given) => self.has_ticket(now, given, &key),
                None => self.has_no_answer(now),
            }
            return;
        }
        match self.conn.followed.has_logged_in() {
            Some(true) => self.ask_for_ticket(now, channel, &key),
            Some(false) => self.tickets.due = Some(now + LOGIN_LOOK),
            // Nothing is followed any more: the stream is none that moves.
            None => self.conn.set_login(None),
        }
    }

    /// The channel that is about to be used has committed to this key.
    pub(super) fn owns(&mut self, key: Option<Arc<Key>>) {
        self.tickets.coming = key;
    }

    fn ask_for_ticket(&mut self, now: Duration, channel: u64, key: &Key) {
        let from = self.machine.answer().and_then(|answer| answer.from);
        let server = &self.conn.name.server;
        let asked = from.and_then(|from| Asked::begin(now, key, (server, channel, from)));
        match asked {
            Some(asked) => {
                self.tickets.asked = Some(asked);
                self.tickets.due = Some(now + LOOK);
            }
            None => self.has_no_answer(now),
        }
    }

    fn has_no_answer(&mut self, now: Duration) {
        self.tickets.unanswered += 1;
        let again = self.tickets.unanswered < ASKS;
        match again {
            true => self.tickets.due = Some(now + ANSWER),
            false => {
                self.ask_again(now);
                self.has_none(now, Why::NoAnswer);
            }
        }
    }

    /// Not all connections of a process at the same moment.
    fn ask_again(&mut self, now: Duration) {
        let pause = (self.tickets.pause * 2).clamp(SOON, LATER);
        self.tickets.pause = pause;
        self.tickets.due = Some(now + pause + pause * (self.conn.id % 8) as u32 / 16);
    }

    fn has_ticket(&mut self, now: Duration, given: Given, key: &Arc<Key>) {
        self.tickets.unanswered = 0;
        match given {
            Given::Ticket { ticket, seconds } => {
                let seconds = u64::from(seconds);
                if self.conn.login().is_some() {
                    crate::log!(
                        log::Level::Info,
                        "conn",
                        "{}: login: a ticket for {seconds} s",
                        self.conn.name
                    );
                }
                self.tickets.held = Some(Held::new(Arc::clone(key), ticket));
                self.tickets.pause = Duration::ZERO;
                self.tickets.good_until = now + Duration::from_secs(seconds);
                self.tickets.due = Some(now + Duration::from_secs(seconds / 2));
                self.conn.set_login(None);
            }
            Given::Not(why) => {
                if why.may_pass() {
                    self.ask_again(now);
                }
                self.has_none(now, why);
            }
        }
    }

    /// The ticket that there is stays good until it expires.
    fn has_none(&mut self, now: Duration, why: Why) {
        if self.tickets.held.is_some() && now < self.tickets.good_until {
            return;
        }
        if self.conn.login() != Some(why) && why != Why::Pending {
            crate::log!(
                log::Level::Info,
                "conn",
                "{}: login: no ticket: {why}",
                self.conn.name
            );
        }
        self.tickets.held = None;
        self.conn.set_login(Some(why));
    }
}

impl Asked {
    /// For the channel of `key` at the node with this query address.
    fn begin(now: Duration, key: &Key, of: (&str, u64, SocketAddr)) -> Option<Self> {
        let (server, channel, from) = of;
        let ask = Ask {
            nonce: random_bytes().ok()?,
            server: server.to_owned(),
            channel,
            public: key.public(),
        };
        let mut to = Target::open(from).ok()?;
        let sent = to.send(&ask.encode(key).ok()?);
        sent.then_some(Self {
            ask,
            to,
            until: now + ANSWER,
        })
    }

    fn answer(&mut self, pinned: Option<&PublicKey>) -> Option<Given> {
        let mut given = None;
        let ask = &self.ask;
        self.to.receive_any(|datagram, _| {
            given = given
                .take()
                .or_else(|| ask.parse_answer(datagram, pinned?).ok());
        });
        given
    }
}

/// The ticket of a channel that is not in use yet: asked for so that the node does not forget who logged in there.
#[derive(Default)]
pub(super) struct Renewal {
    pub(super) held: Option<Held>,
    begun: bool,
    asked: Option<Asked>,
    pause: Duration,
    due: Option<Duration>,
}

impl Renewal {
    /// The login is made, if it was not before.
    pub(super) fn begin(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.begun, true) {
            self.due = Some(now);
        }
    }

    /// Whether the login was made.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Asks for it, as [`Asked::begin`]; when it wants to be called again.
    pub(super) fn look(
        &mut self,
        now: Duration,
        pinned: &PublicKey,
        key: &Arc<Key>,
        of: (&str, u64, SocketAddr),
    ) -> Option<Duration> {
        if self.due.is_none_or(|due| now < due) {
            return self.due;
        }
        let Some(mut asked) = self.asked.take() else {
            self.asked = Asked::begin(now, key, of);
            let pause = if self.asked.is_some() { LOOK } else { LATER };
            self.due = Some(now + pause);
            return self.due;
        };
        self.due = match asked.answer(Some(pinned)) {
            Some(Given::Ticket { ticket, seconds }) => {
                crate::log!(log::Level::Debug, "conn", "{}: warm: a ticket", of.0);
                self.held = Some(Held::new(Arc::clone(key), ticket));
                self.pause = Duration::ZERO;
                Some(now + Duration::from_secs(u64::from(seconds) / 2))
            }
            Some(Given::Not(why)) => {
                crate::log!(
                    log::Level::Debug,
                    "conn",
                    "{}: warm: no ticket: {why}",
                    of.0
                );
                self.pause = (self.pause * 2).clamp(SOON, LATER);
                why.may_pass().then_some(now + self.pause)
            }
            None if now < asked.until => {
                self.asked = Some(asked);
                Some(now + LOOK)
            }
            None => Some(now + SOON),
        };
        self.due
    }
}
