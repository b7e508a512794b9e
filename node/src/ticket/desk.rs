//! What a server name's channels have logged in with, until their owners ask for it as tickets. Pure but for its lock.

use super::Tickets;
use super::scram::{Exchange, Keys, Verifier};
use super::seal::{Contents, Scope};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use vianet::resolve::Generation;
use vianet::resolve::ticket::{Ask, Given, Key, ServerDigest, Why, startup_digest};

/// Keys for which nobody has asked so long after the login are forgotten.
const UNASKED: Duration = Duration::from_secs(60);

/// See the module's text.
pub struct Desk {
    server: String,
    digest: ServerDigest,
    lifetime: Duration,
    logins: Mutex<HashMap<u64, Login>>,
}

struct Login {
    /// What the connect's nonce has said.
    commitment: [u8; 16],
    startup: [u8; 32],
    generation: Generation,
    id: [u8; 16],
    /// The client has proven who it is. Nobody else hears what was found out about the role: the server hides even whether
    /// there is such a one.
    proven: bool,
    /// What is known is forgotten then, unless it was asked for.
    until: Option<Duration>,
    state: State,
}

enum State {
    /// The login is under way.
    Coming,
    /// It has succeeded by this exchange; the verifier is looked up, and meanwhile this is why there is no ticket.
    Proven(Exchange, Why),
    /// What a ticket takes.
    Known(Keys),
    /// There is no ticket.
    None(Why),
}

/// Time and random numbers of one step.
pub struct Step {
    /// The monotonic clock.
    pub now: Duration,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Random, used for one ticket.
    pub random: [u8; 24],
}

/// A channel on which a login begins.
pub struct Begun<'a> {
    /// Its id.
    pub channel: u64,
    /// The nonce of its connect.
    pub commitment: [u8; 16],
    /// The startup packet, whole.
    pub startup: &'a [u8],
    /// Its generation.
    pub generation: Generation,
    /// Random: names the login.
    pub id: [u8; 16],
}

impl Desk {
    /// Tickets for `server` are good for `lifetime`.
    pub fn new(server: &str, lifetime: Duration) -> Self {
        Self {
            server: server.to_ascii_lowercase(),
            digest: ServerDigest::of(server),
            lifetime,
            logins: Mutex::default(),
        }
    }

    /// Of the server's name.
    pub fn digest(&self) -> ServerDigest {
        self.digest
    }

    /// A login begins. `why`: nothing will come of it.
    pub fn begin(&self, begun: &Begun<'_>, why: Option<Why>) {
        let login = Login {
            commitment: begun.commitment,
            startup: startup_digest(begun.startup),
            generation: begun.generation,
            id: begun.id,
            proven: false,
            until: None,
            state: why.map_or(State::Coming, State::None),
        };
        self.logins.lock().insert(begun.channel, login);
    }

    /// The login has succeeded, by this exchange; or by something else, which gives no ticket. True: the role's verifier is
    /// wanted ([`Desk::looked_up`]).
    pub fn proven(&self, now: Duration, channel: u64, proven: Result<Exchange, Why>) -> bool {
        let mut logins = self.logins.lock();
        let Some(login) = logins.get_mut(&channel) else {
            return false;
        };
        login.proven = true;
        login.until = Some(now + UNASKED);
        if matches!(login.state, State::Coming) {
            let proven = proven.map(|exchange| State::Proven(exchange, Why::Pending));
            login.state = proven.unwrap_or_else(State::None);
        }
        matches!(login.state, State::Proven(..))
    }

    /// Whether the verifier of the channel's role is wanted (still).
    pub fn is_wanted(&self, channel: u64) -> bool {
        let logins = self.logins.lock();
        (logins.get(&channel)).is_some_and(|login| matches!(login.state, State::Proven(..)))
    }

    /// The role's verifier was looked up.
    pub fn looked_up(&self, channel: u64, found: Result<Verifier, Why>) {
        let mut logins = self.logins.lock();
        if let Some(login) = logins.get_mut(&channel)
            && let State::Proven(exchange, _) = &login.state
        {
            let keys = found.and_then(|verifier| exchange.keys(&verifier).ok_or(Why::Mismatch));
            login.state = keys.map_or_else(State::None, State::Known);
        }
    }

    /// The lookup has failed, and is tried again.
    pub fn not_looked_up(&self, channel: u64) {
        if let Some(login) = self.logins.lock().get_mut(&channel)
            && let State::Proven(_, why) = &mut login.state
        {
            *why = Why::Lookup;
        }
    }

    /// The login has succeeded, by a ticket.
    pub fn redeemed(&self, now: Duration, channel: u64, keys: Keys) {
        if let Some(login) = self.logins.lock().get_mut(&channel) {
            login.proven = true;
            login.until = Some(now + UNASKED);
            login.state = State::Known(keys);
        }
    }

    /// A channel that was made in an earlier generation goes on in this one.
    pub fn goes_on(&self, channel: u64, generation: Generation) {
        if let Some(login) = self.logins.lock().get_mut(&channel) {
            login.generation = generation;
        }
    }

    /// The channel is over.
    pub fn end(&self, channel: u64) {
        self.logins.lock().remove(&channel);
    }

    /// Forgets what nobody has asked for.
    pub fn tick(&self, now: Duration) {
        for login in self.logins.lock().values_mut() {
            let late = login.until.is_some_and(|until| now >= until);
            if late && matches!(login.state, State::Proven(..) | State::Known(_)) {
                login.state = State::None(Why::Late);
            }
        }
    }

    /// What the sender of `ask` is told.
    pub fn answer(&self, tickets: &Tickets, ask: &Ask, step: &Step) -> Given {
        match self.seal(tickets, ask, step) {
            Ok(ticket) => Given::Ticket {
                ticket,
                seconds: self.lifetime.as_secs() as u32,
            },
            Err(why) => Given::Not(why),
        }
    }

    fn seal(&self, tickets: &Tickets, ask: &Ask, step: &Step) -> Result<Vec<u8>, Why> {
        let mut logins = self.logins.lock();
        let login = logins.get_mut(&ask.channel).ok_or(Why::Unseen)?;
        // That the asker has the key was checked with its signature.
        if Key::commitment_of(&ask.public) != login.commitment {
            return Err(Why::NotOwner);
        }
        if !login.proven {
            return Err(Why::Pending);
        }
        login.until = None;
        let keys = match &login.state {
            State::Coming => return Err(Why::Pending),
            State::Proven(_, why) | State::None(why) => return Err(*why),
            State::Known(keys) => keys,
        };
        let contents = Contents {
            keys: keys.clone(),
            public: ask.public,
            startup: login.startup,
            channel: ask.channel,
            generation: login.generation,
            expires_ms: step.now_ms + self.lifetime.as_millis() as u64,
            id: login.id,
        };
        let scope = Scope {
            cluster: tickets.cluster,
            server: &self.server,
        };
        let epochs = tickets.epochs.lock();
        let epoch = epochs.sealing(step.now, self.digest)?;
        Ok(contents.seal(epoch, scope, &step.random))
    }
}

#[cfg(test)]
mod tests;
