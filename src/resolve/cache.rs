//! The process-wide cache of answers: its rules, without lock, clock or socket (claims 20 to 24, DESIGN section 6).
//!
//! * A connect reads it first; what it hands out is verified by the connect handshake.
//! * A failure purges before the new answer is stored. What was purged is never handed out again: not from the cache,
//!   and not out of a query that had begun before the purge (its answer may be older than the failure).
//! * An answer with a smaller generation than one already seen in the same cluster is refused, purged or not.
//! * Waiting connections share one query: the first leads, the others follow.
//!
//! Time is a [`Duration`] since an origin of the caller's choice that never changes. Not thread-safe: the caller locks.

use super::name::ServerName;
use super::{Answer, ClusterId, Generation};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Events that the journal keeps.
pub const JOURNAL_EVENTS: usize = 256;

/// Names one query on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Who asks the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// The caller: it must end with [`Cache::finish_query`].
    Lead(Ticket),
    /// Another connection's query is on its way: wait for its end.
    Follow(Ticket),
}

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// A larger generation was already seen.
    SmallerGeneration {
        /// The largest one.
        seen: Generation,
    },
    /// Its query began before a purge of its generation: it may be what was purged. Ask again.
    Purged,
    /// It is of another cluster, or of none, and less authentic than what was seen before.
    OtherCluster,
}

/// One event of the journal: what tests of the claims read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Duration,
    /// For which name.
    pub name: ServerName,
    /// What.
    pub what: What,
}

/// What happened to a name in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Read, and handed out: node and generation (claim 21).
    Hit(String, Generation),
    /// Read, and nothing was there.
    Miss,
    /// Removed: node and generation (claim 24). `None`: a purge that found nothing to remove.
    Purged(Option<(String, Generation)>),
    /// Stored: node and generation (claim 20).
    Stored(String, Generation),
    /// Not stored.
    NotStored(NotStored),
    /// A query began.
    QueryBegun(Ticket),
    /// A connection joined a query.
    QueryJoined(Ticket),
    /// A query ended.
    QueryEnded(Ticket),
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    names: HashMap<ServerName, Slot>,
    journal: VecDeque<Entry>,
    last_ticket: u64,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    stored: Option<(Answer, Duration)>,
    /// Largest generation seen, in which cluster, and whether that was authentic.
    floor: Option<(Option<ClusterId>, Generation, bool)>,
    /// Up to which generation was purged, and the newest ticket that had been given out by then.
    purged: Option<(Generation, Ticket)>,
    flight: Option<Ticket>,
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer for `name`, if there is one within its time to live. Connects read first (claim 21).
    pub fn read(&mut self, name: &ServerName, now: Duration) -> Option<Answer> {
        let found = self.names.get(name).and_then(|slot| slot.stored.as_ref());
        let fresh = found.filter(|(answer, at)| now.saturating_sub(*at) <= answer.ttl);
        let answer = fresh.map(|(answer, _)| answer.clone());
        let what = match &answer {
            Some(answer) => What::Hit(answer.node.clone(), answer.generation),
            None => What::Miss,
        };
        self.note(now, name, what);
        answer
    }

    /// The largest generation seen for `name`: what a query asks for at least. 0 when none was seen.
    pub fn min_generation(&self, name: &ServerName) -> Generation {
        let floor = self.names.get(name).and_then(|slot| slot.floor);
        floor.map_or(0, |(_, generation, _)| generation)
    }

    /// Removes the answer for `name` unless it is newer than `generation` (claim 24). True if one was removed.
    pub fn purge(&mut self, name: &ServerName, generation: Generation, now: Duration) -> bool {
        let slot = self.names.entry(name.clone()).or_default();
        let removed = match slot.stored.take_if(|(a, _)| a.generation <= generation) {
            Some((answer, _)) => Some((answer.node, answer.generation)),
            None => None,
        };
        // A thousand connections that lose the same server purge the same answer: only the first one makes the queries
        // on their way worthless, the others share the query that it began.
        let first = slot.purged.is_none_or(|(purged, _)| purged < generation);
        if removed.is_some() || first {
            slot.purged = Some((generation, Ticket(self.last_ticket)));
        }
        let found = removed.is_some();
        self.note(now, name, What::Purged(removed));
        found
    }

    /// Stores what query `ticket` brought (claim 20), if the rules allow it.
    pub fn store(
        &mut self,
        name: &ServerName,
        ticket: Ticket,
        answer: Answer,
        now: Duration,
    ) -> Result<(), NotStored> {
        let slot = self.names.entry(name.clone()).or_default();
        let result = slot.admit(ticket, &answer);
        let what = match result {
            Ok(()) => What::Stored(answer.node.clone(), answer.generation),
            Err(why) => What::NotStored(why),
        };
        if result.is_ok() {
            slot.floor = Some((answer.cluster_id, answer.generation, answer.authentic));
            slot.stored = Some((answer, now));
        }
        self.note(now, name, what);
        result
    }

    /// Joins the query for `name` that is on its way, or begins one. A query that began before the last purge is not
    /// joined: its answer could be the purged one.
    pub fn begin_query(&mut self, name: &ServerName, now: Duration) -> Flight {
        let slot = self.names.entry(name.clone()).or_default();
        let purged = slot.purged.map(|(_, ticket)| ticket);
        let joined = slot.flight.filter(|flight| Some(*flight) > purged);
        let flight = match joined {
            Some(ticket) => Flight::Follow(ticket),
            None => {
                self.last_ticket += 1;
                slot.flight = Some(Ticket(self.last_ticket));
                Flight::Lead(Ticket(self.last_ticket))
            }
        };
        self.note(
            now,
            name,
            match flight {
                Flight::Lead(ticket) => What::QueryBegun(ticket),
                Flight::Follow(ticket) => What::QueryJoined(ticket),
            },
        );
        flight
    }

    /// The query ended, with an answer or without: the next one to ask leads again.
    pub fn finish_query(&mut self, name: &ServerName, ticket: Ticket, now: Duration) {
        if let Some(slot) = self.names.get_mut(name) {
            slot.flight.take_if(|flight| *flight == ticket);
        }
        self.note(now, name, What::QueryEnded(ticket));
    }

    /// The last [`JOURNAL_EVENTS`] events, oldest first.
    pub fn journal(&self) -> impl Iterator<Item = &Entry> {
        self.journal.iter()
    }

    fn note(&mut self, at: Duration, name: &ServerName, what: What) {
        crate::log!(crate::log::Level::Debug, "cache", "{name}: {what:?}");
        if self.journal.len() == JOURNAL_EVENTS {
            self.journal.pop_front();
        }
        self.journal.push_back(Entry {
            at,
            name: name.clone(),
            what,
        });
    }
}

impl Slot {
    fn admit(&self, ticket: Ticket, answer: &Answer) -> Result<(), NotStored> {
        if let Some((cluster_id, seen, authentic)) = self.floor {
            if answer.cluster_id == cluster_id {
                if answer.generation < seen {
                    return Err(NotStored::SmallerGeneration { seen });
                }
            } else if answer.cluster_id.is_none() || (authentic && !answer.authentic) {
                // Generations of two clusters cannot be compared, so only a proof may replace what was proven.
                return Err(NotStored::OtherCluster);
            }
        }
        match self.purged {
            Some((generation, newest)) if ticket <= newest && answer.generation <= generation => {
                Err(NotStored::Purged)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
