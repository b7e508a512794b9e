//! A query for a caller that may block (`vianet_resolve`, the command line): the first of many asks on its own thread, the
//! others sleep until it has the answer.

use super::super::{Resolved, asker, lock, losses, now};
use super::{Outcome, SHARED, begin, configured, end, note};
use crate::config::{Client, Cluster};
use crate::error::{Error, Kind, Result};
use crate::failover::{Event, Loss, NotResolved};
use crate::resolve::Answer;
use crate::resolve::cache::{Flight, Ticket};
use crate::resolve::name::ServerName;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Grows with each query that ends; who waits for one sleeps on it.
static ENDINGS: AtomicU32 = AtomicU32::new(0);

/// Called under the lock of [`SHARED`].
pub fn one_has_ended() {
    ENDINGS.fetch_add(1, Ordering::Release);
    lock::wake(&ENDINGS, i32::MAX as u32);
}

/// So long "unknown name" is not final: a node may be starting.
const UNKNOWN_GRACE: Duration = Duration::from_millis(500);
/// Before the next query.
const PAUSE: Duration = Duration::from_millis(100);

/// Who serves `name`: from the cache, else from a query that is on its way, else asked for on this thread; again and again
/// while no node is active, at most until `deadline` from now.
pub fn resolve_blocking(
    name: &ServerName,
    config: &Client,
    deadline: Duration,
) -> Result<Resolved> {
    if let Some(answer) = SHARED.lock().cache.read(name, now()) {
        return Ok(Resolved {
            answer,
            cached: true,
        });
    }
    let cluster = configured(name, config)?;
    let began = Instant::now();
    let left = || deadline.saturating_sub(began.elapsed());
    let mut before = None;
    loop {
        let ended = match begin(name) {
            Flight::Lead(ticket) => Some(lead(name, cluster, ticket, left())?),
            Flight::Follow(ticket) => follow(ticket, left()),
        };
        let (mut why, mut text) = match ended {
            None => continue,
            Some((Event::Resolved { answer, .. }, _)) => {
                return Ok(Resolved {
                    answer,
                    cached: false,
                });
            }
            Some((_, Outcome::Found(answer))) => return Err(stale(name, &answer)),
            Some((_, Outcome::NotFound(why, text))) => (why, text),
        };
        let left = left();
        // A last query that had no time to hear anything says less than the one before.
        if left.is_zero()
            && why == NotResolved::Nobody
            && let Some(before) = before
        {
            (why, text) = before;
        }
        let unknown = why == NotResolved::UnknownName && began.elapsed() >= UNKNOWN_GRACE;
        if unknown || left <= PAUSE {
            return Err(not_found(why.into(), name, &text));
        }
        before = Some((why, text));
        std::thread::sleep(PAUSE);
    }
}

/// Asks on this thread.
fn lead(
    name: &ServerName,
    cluster: &Cluster,
    ticket: Ticket,
    deadline: Duration,
) -> Result<(Event, Outcome)> {
    let floor = SHARED.lock().cache.min_generation(name);
    match asker::ask_blocking(name, cluster, floor, deadline, |asker| note(ticket, asker)) {
        Ok(outcome) => Ok((end(name, ticket, &outcome), outcome)),
        Err(error) => {
            let nobody = Outcome::NotFound(NotResolved::Nobody, error.to_string());
            end(name, ticket, &nobody);
            Err(error)
        }
    }
}

/// Sleeps until the query that somebody else leads has ended, at most until `deadline` from now, and says what it came to,
/// or has until then. `None` when nothing is known of it any more.
fn follow(ticket: Ticket, deadline: Duration) -> Option<(Event, Outcome)> {
    let began = Instant::now();
    loop {
        let seen = ENDINGS.load(Ordering::Acquire);
        let heard = {
            let shared = SHARED.lock();
            let ended = shared.ended.iter().find(|(t, ..)| *t == ticket);
            if let Some((_, event, outcome)) = ended {
                return Some((event.clone(), outcome.clone()));
            }
            let flight = shared.flights.iter().find(|f| f.ticket == ticket)?;
            flight.heard.clone()
        };
        match deadline.checked_sub(began.elapsed()) {
            None | Some(Duration::ZERO) => {
                let nothing = || {
                    let text = "another thread's query has no answer yet";
                    (NotResolved::Nobody, text.into())
                };
                let (why, text) = heard.unwrap_or_else(nothing);
                return Some((Event::NotResolved(why), Outcome::NotFound(why, text)));
            }
            left => _ = lock::wait(&ENDINGS, seen, left),
        }
    }
}

fn not_found(loss: Loss, name: &ServerName, details: &str) -> Error {
    let error = losses::error(loss, false, name, details);
    error.expect("a query does not end in good order without an answer")
}

fn stale(name: &ServerName, answer: &Answer) -> Error {
    let text = format!(
        "{name}: the answer of {} (generation {}) is older than one already seen",
        answer.node, answer.generation
    );
    Error::new(Kind::NobodyActive, text)
}
