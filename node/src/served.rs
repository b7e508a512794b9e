//! One server name as every thread of the daemon sees it: role, lease, health, sessions, counters.

use crate::cancels::Cancels;
use crate::config;
use crate::control::SessionStatus;
use crate::relay::Door;
use crate::ticket::desk::Desk;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use vianet::resolve::Generation;
use vianet::via::switchover::Order;

/// See the module's text. The main loop writes role and lease, everybody reads them.
pub struct Served {
    /// Its configuration.
    pub config: config::Server,
    /// Its name in lower case.
    pub name: String,
    /// Said already: clients speak PostgreSQL although the configuration does not say so.
    pub recognised: AtomicBool,
    /// What the clients of every channel are told: an [`vianet::via::switchover::Order`].
    order: AtomicU8,
    /// Connects are to come again.
    closed: AtomicBool,
    /// The main loop has been told of words that it has not looked at yet.
    standings_told: AtomicBool,
    active: AtomicU64,
    serve_until: AtomicU64,
    /// What sessions that wait beside the standby may count on: see [`Served::standby`].
    standby: Mutex<Standby>,
    health: Mutex<Health>,
    checked: Condvar,
    /// Open channels by id.
    pub sessions: Mutex<BTreeMap<u64, SessionStatus>>,
    /// Whether strangers come in over TLS.
    pub door: Door,
    /// What the channels have logged in with, for tickets; `None`: there are none.
    pub desk: Option<Desk>,
    /// Whom requests to cancel mean.
    pub(crate) cancels: Cancels,
    /// Channels accepted since the start.
    pub accepted: AtomicU64,
    /// Logins under way.
    pub logins: AtomicUsize,
    /// Bytes towards the SQL server.
    pub bytes_in: AtomicU64,
    /// Bytes from the SQL server.
    pub bytes_out: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Standby {
    /// How often this node has become passive.
    times: u64,
    /// It is, and this is the largest generation that it knows.
    now: Option<Generation>,
}

/// The SQL server's health as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Result of the last check that ended.
    pub last: Option<bool>,
    /// When that check began.
    pub begun: Duration,
}

impl Served {
    /// Not active, no lease.
    pub fn new(config: config::Server) -> Self {
        Self {
            name: config.name.to_ascii_lowercase(),
            desk: (config.tickets.as_ref())
                .map(|t| Desk::new(&config.name, Duration::from_secs(t.lifetime_s))),
            config,
            recognised: AtomicBool::new(false),
            order: AtomicU8::new(0),
            closed: AtomicBool::new(false),
            standings_told: AtomicBool::new(false),
            active: AtomicU64::new(0),
            serve_until: AtomicU64::new(0),
            standby: Mutex::default(),
            health: Mutex::default(),
            checked: Condvar::new(),
            sessions: Mutex::default(),
            door: Door::default(),
            cancels: Cancels::default(),
            accepted: AtomicU64::new(0),
            logins: AtomicUsize::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// The generation at which this node is active for the name, whether or not its lease still runs.
    pub fn active(&self) -> Option<Generation> {
        match self.active.load(Ordering::Acquire) {
            0 => None,
            generation => Some(generation),
        }
    }

    /// Whether the lease runs: asked for every chunk that is relayed.
    pub fn may_serve(&self, now: Duration) -> bool {
        (now.as_micros() as u64) < self.serve_until.load(Ordering::Acquire)
    }

    /// The main loop's word. The lease is withdrawn before the role and given after it.
    pub fn publish(&self, active: Option<Generation>, serve_until: Duration) {
        let until = serve_until.as_micros() as u64;
        if active.is_none() {
            self.serve_until.store(0, Ordering::Release);
        }
        self.active.store(active.unwrap_or(0), Ordering::Release);
        if active.is_some() {
            self.serve_until.store(until, Ordering::Release);
        }
    }

    /// The main loop's word: this node is passive, and knows this generation. Withdrawn before it becomes anything else.
    pub fn publish_standby(&self, seen: Option<Generation>) {
        let mut standby = self.standby.lock();
        standby.times += u64::from(standby.now.is_none() && seen.is_some());
        standby.now = seen;
    }

    /// Where this node is passive: which time it is that it is so, and the largest generation that it knows. A session that was let
    /// in to wait may be relayed as long as the first number is the same; once it is not, the SQL server may be another thing.
    pub fn standby(&self) -> Option<(u64, Generation)> {
        let standby = *self.standby.lock();
        Some((standby.times, standby.now?))
    }

    /// What clients are told.
    pub fn order(&self) -> u8 {
        self.order.load(Ordering::Acquire)
    }

    /// The main loop's word.
    pub fn set_order(&self, order: Order, closed: bool) {
        self.closed.store(closed, Ordering::Release);
        self.order.store(order as u8, Ordering::Release);
    }

    /// Whether connects are to come again a little later.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A client has said something new of itself: whether the main loop has to be told. Once until it has looked, and only
    /// while it wants to know: a client may say what it likes as often as it likes.
    pub fn tells_standings(&self) -> bool {
        self.order() != Order::None as u8 && !self.standings_told.swap(true, Ordering::AcqRel)
    }

    /// The main loop is about to look at all of them.
    pub fn look_at_standings(&self) {
        self.standings_told.store(false, Ordering::Release);
    }

    /// The last check that ended.
    pub fn health(&self) -> Health {
        *self.health.lock()
    }

    /// A check that began at `begun` ended.
    pub fn set_health(&self, ok: bool, begun: Duration) {
        let mut health = self.health.lock();
        if begun >= health.begun {
            *health = Health {
                last: Some(ok),
                begun,
            };
        }
        self.checked.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_clients_do_not_pile_up() {
        let config = "name = \"sales\"\nupstream = \"127.0.0.1:5432\"";
        let served = Served::new(toml::from_str(config).unwrap());
        assert!(!served.tells_standings());
        served.set_order(Order::Tell, false);
        assert!(served.tells_standings());
        assert!(!served.tells_standings());
        served.look_at_standings();
        assert!(served.tells_standings());
    }
}
