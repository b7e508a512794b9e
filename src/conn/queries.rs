//! The queries under way, and the process-wide cache that they fill (claims 20, 21 and 24): one query for many waiters.

use super::asker::{Asker, Outcome};
use super::connection::Conn;
use super::lock::{Lock, RawLock};
use super::now;
use super::reactor::{Set, Token};
use crate::config::{Client, Cluster};
use crate::error::{Error, Kind, Result};
use crate::failover::{Event, Loss, NotResolved};
use crate::log::Level;
use crate::resolve::Generation;
use crate::resolve::cache::{Cache, Entry, Flight, Ticket};
use crate::resolve::name::ServerName;
use crate::via::Interest;
use once_cell::sync::Lazy;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

mod blocking;

pub use blocking::resolve_blocking;

/// Ended queries that are remembered for those who wait for them by [`blocking`].
const ENDED: usize = 64;

#[derive(Default)]
struct Shared {
    cache: Cache,
    /// Queries on their way, by whichever thread.
    flights: Vec<OnItsWay>,
    /// The last ones that ended, newest last, and what they came to.
    ended: VecDeque<(Ticket, Event, Outcome)>,
    /// Clusters of which was said that their answers are not authenticated.
    unsigned: BTreeSet<String>,
}

struct OnItsWay {
    name: ServerName,
    ticket: Ticket,
    /// What it would come to if it ended now, and what each node said; for those who cannot wait for its end.
    heard: Option<(NotResolved, String)>,
}

static SHARED: Lazy<Lock<Shared>> = Lazy::new(Lock::default);

/// The lock of the cache, for `fork`.
pub fn cache_lock() -> &'static RawLock {
    SHARED.raw()
}

/// In a child after fork: the queries under way are the parent's.
pub fn forget() {
    let mut shared = SHARED.lock();
    for flight in std::mem::take(&mut shared.flights) {
        shared
            .cache
            .finish_query(&flight.name, flight.ticket, now());
    }
    blocking::one_has_ended();
}

/// What happened in the cache of late, oldest first: what was asked, stored, read and purged.
pub fn journal() -> Vec<Entry> {
    SHARED.lock().cache.journal().cloned().collect()
}

fn begin(name: &ServerName) -> Flight {
    let mut shared = SHARED.lock();
    let flight = shared.cache.begin_query(name, now());
    if let Flight::Lead(ticket) = flight {
        shared.flights.push(OnItsWay {
            name: name.clone(),
            ticket,
            heard: None,
        });
    }
    flight
}

/// Something may have come for a query that is on its way.
fn note(ticket: Ticket, asker: &Asker) {
    let why = asker.so_far();
    let mut shared = SHARED.lock();
    let flight = shared.flights.iter_mut().find(|f| f.ticket == ticket);
    // Two may ask under one ticket: silence says less than what the other one has heard.
    if let Some(flight) = flight
        && (why != NotResolved::Nobody || flight.heard.is_none())
    {
        flight.heard = Some((why, asker.report()));
    }
}

/// Stores what a query brought and reads it back: what is used comes from the cache.
fn end(name: &ServerName, ticket: Ticket, outcome: &Outcome) -> Event {
    let mut shared = SHARED.lock();
    let now = now();
    let event = match outcome {
        Outcome::NotFound(why, text) => {
            crate::log!(Level::Debug, "resolve", "{name}: {why:?}: {text}");
            Event::NotResolved(*why)
        }
        Outcome::Found(answer) => {
            match shared.cache.store(name, ticket, answer.clone(), now) {
                Ok(()) => Event::Resolved {
                    // An answer with no time to live is for this once.
                    answer: shared
                        .cache
                        .read(name, now)
                        .unwrap_or_else(|| answer.clone()),
                    cached: false,
                },
                Err(why) => {
                    crate::log!(Level::Debug, "resolve", "{name}: {why:?}: {answer:?}");
                    Event::NotResolved(NotResolved::NobodyActive)
                }
            }
        }
    };
    shared.cache.finish_query(name, ticket, now);
    shared.flights.retain(|flight| flight.ticket != ticket);
    if shared.ended.len() == ENDED {
        shared.ended.pop_front();
    }
    shared
        .ended
        .push_back((ticket, event.clone(), outcome.clone()));
    blocking::one_has_ended();
    event
}

struct UnderWay {
    name: ServerName,
    ticket: Ticket,
    asker: Asker,
    waiters: Vec<u64>,
}

/// The queries of the I/O thread.
#[derive(Default)]
pub struct Queries {
    under_way: HashMap<u64, UnderWay>,
    next: u64,
}

impl Queries {
    /// The answer of the cache.
    pub fn read_cache(&self, name: &ServerName, now: Duration) -> Event {
        match SHARED.lock().cache.read(name, now) {
            Some(answer) => Event::Resolved {
                answer,
                cached: true,
            },
            None => Event::NotResolved(NotResolved::NotCached),
        }
    }

    /// Claim 24.
    pub fn purge(&self, name: &ServerName, generation: Generation, now: Duration) {
        SHARED.lock().cache.purge(name, generation, now);
    }

    /// Asks for the name of `conn`, or joins a query that others wait for. The result comes by [`Queries::take_results`].
    pub fn ask(
        &mut self,
        id: u64,
        conn: &Conn,
        min_generation: Generation,
        now: Duration,
        set: Set<'_>,
    ) -> Result<()> {
        self.leave(id);
        let name = &conn.name;
        let flight = begin(name);
        if let Flight::Follow(ticket) = flight
            && let Some(query) = self.under_way.values_mut().find(|q| q.ticket == ticket)
        {
            query.waiters.push(id);
            return Ok(());
        }
        let cluster = configured(name, &conn.config)?;
        let floor = SHARED.lock().cache.min_generation(name).max(min_generation);
        let asker = match Asker::start(name, cluster, floor, now) {
            Ok(asker) => asker,
            Err(error) => {
                if let Flight::Lead(ticket) = flight {
                    let nobody = Outcome::NotFound(NotResolved::Nobody, error.to_string());
                    end(name, ticket, &nobody);
                }
                return Err(error);
            }
        };
        // A query of `resolve_blocking` is on its way: this thread cannot sleep until it ends, so that one of ours, for
        // all its connections, runs beside it under the same ticket.
        let (Flight::Lead(ticket) | Flight::Follow(ticket)) = flight;
        let key = self.next;
        self.next += 1;
        watch(&asker, key, set);
        let waiters = vec![id];
        self.under_way.insert(
            key,
            UnderWay {
                name: name.clone(),
                ticket,
                asker,
                waiters,
            },
        );
        Ok(())
    }

    /// What the query of `id` has heard so far, for a connection whose time is over before the query's: the loss that
    /// it comes to, and what each node said.
    pub fn heard(&self, id: u64) -> Option<(Loss, String)> {
        let mut queries = self.under_way.values();
        let asker = &queries.find(|query| query.waiters.contains(&id))?.asker;
        Some((asker.so_far().into(), asker.report()))
    }

    /// A connection does not wait any more. Its query goes on: the answer is of use to the next one.
    pub fn leave(&mut self, id: u64) {
        for query in self.under_way.values_mut() {
            query.waiters.retain(|waiter| *waiter != id);
        }
    }

    /// A query's socket is readable.
    pub fn on_readable(&mut self, key: u64, now: Duration) {
        if let Some(query) = self.under_way.get_mut(&key) {
            query.asker.on_readable(now);
            note(query.ticket, &query.asker);
        }
    }

    /// When [`Queries::on_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.under_way
            .values()
            .filter_map(|query| query.asker.poll_timeout())
            .min()
    }

    /// Sends what is due.
    pub fn on_timeout(&mut self, now: Duration, set: Set<'_>) {
        for (key, query) in &mut self.under_way {
            if query.asker.poll_timeout().is_some_and(|due| due <= now) {
                query.asker.on_timeout(now);
                watch(&query.asker, *key, set);
            }
        }
    }

    /// Drops all queries. Their numbers are not used again: an event of theirs may be on its way.
    pub fn forget_all(&mut self, set: Set<'_>) {
        for (_, query) in self.under_way.drain() {
            for fd in query.asker.fds() {
                set.forget(fd);
            }
        }
    }

    /// Who is to be told what, what each node said, and when the one that counts said it.
    pub fn take_results(&mut self, set: Set<'_>) -> Vec<(u64, Event, String, Option<Duration>)> {
        let done = self
            .under_way
            .iter()
            .filter(|(_, query)| query.asker.outcome().is_some());
        let done: Vec<u64> = done.map(|(key, _)| *key).collect();
        let mut results = Vec::new();
        for query in done.iter().filter_map(|key| self.under_way.remove(key)) {
            for fd in query.asker.fds() {
                set.forget(fd);
            }
            let outcome = query.asker.outcome().expect("filtered by it");
            let event = end(&query.name, query.ticket, outcome);
            let waiters = query.waiters.iter();
            let found = query.asker.found();
            results.extend(waiters.map(|id| (*id, event.clone(), query.asker.report(), found)));
        }
        results
    }
}

fn watch(asker: &Asker, key: u64, set: Set<'_>) {
    let read = Interest {
        read: true,
        write: false,
    };
    for fd in asker.fds() {
        set.watch(fd, Token::Query(key), read, false);
    }
}

/// The cluster of `name`, about to be asked.
fn configured<'c>(name: &ServerName, config: &'c Client) -> Result<&'c Cluster> {
    let cluster = name.cluster_config(config).ok_or_else(|| {
        let text = format!("the cluster of {name} is not configured");
        Error::new(Kind::UnknownCluster, text)
    })?;
    let unheard = cluster.public_key.is_none() && crate::log::enabled(Level::Warn);
    if unheard && SHARED.lock().unsigned.insert(name.cluster.clone()) {
        crate::log!(
            Level::Warn,
            "resolve",
            "answers of cluster {} are not authenticated: whoever can send UDP here can redirect connections; pin \
             `public_key` in client.toml",
            name.cluster
        );
    }
    Ok(cluster)
}
