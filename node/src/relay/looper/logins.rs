//! No more logins at a time than the SQL server bears: thousands of sessions may come at the same moment.
//!
//! A login is under way from the connect to the SQL server until it is decided, but no longer than [`LONGEST`]: a client that
//! takes its time keeps nobody out. Who comes beyond the limit waits here, with its request unanswered, and is told to come again
//! when that takes too long. Only where logins are known: PostgreSQL.

use super::Looper;
use crate::clock;
use crate::config::Protocol;
use crate::served::Served;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vianet::via::{Incoming, RejectReason};

/// A login counts no longer than this.
const LONGEST: Duration = Duration::from_secs(1);
/// Longest wait before a client is told to come again; less than it waits by itself.
const WAIT: Duration = Duration::from_secs(1);
/// Most that wait in one loop, and most for which nobody waits: those come again later.
const MOST: usize = 1024;
const MOST_PATIENT: usize = 64;

/// See the module's text.
#[derive(Default)]
pub(super) struct Logins {
    under_way: HashMap<u64, (Arc<Served>, Duration)>,
    waiting: VecDeque<(Duration, Box<dyn Incoming>, usize)>,
    /// Nobody waits for these: they go last.
    patient: VecDeque<(Duration, Box<dyn Incoming>, usize)>,
}

impl Logins {
    /// Nothing has to be looked at by time.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.waiting.is_empty() && self.patient.is_empty()
    }

    /// Whether this slot's login is under way.
    pub(super) fn counts(&self, slot: u64) -> bool {
        self.under_way.contains_key(&slot)
    }

    pub(super) fn ended(&mut self, slot: u64) {
        if let Some((served, _)) = self.under_way.remove(&slot) {
            served.logins.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Looper {
    /// A connect request that is good: now, or when others are done.
    pub(super) fn open(&mut self, incoming: Box<dyn Incoming>, index: usize) {
        let patient = incoming.patient();
        let nobody_first =
            self.logins.waiting.is_empty() && (!patient || self.logins.patient.is_empty());
        // Those who came before go first.
        if nobody_first && self.has_room(index, patient) {
            return self.begin(incoming, index);
        }
        let (queue, most) = match patient {
            true => (&mut self.logins.patient, MOST_PATIENT),
            false => (&mut self.logins.waiting, MOST),
        };
        match queue.len() < most {
            true => queue.push_back((clock::now() + WAIT, incoming, index)),
            false => self.send_away(incoming),
        }
    }

    /// Half of the room is left to those who wait.
    fn has_room(&self, index: usize, patient: bool) -> bool {
        let (served, most) = (&self.shared.served[index], self.shared.most_logins);
        let most = if patient { most.div_ceil(2) } else { most };
        !counted(served) || served.logins.load(Ordering::Acquire) < most
    }

    fn send_away(&self, incoming: Box<dyn Incoming>) {
        incoming.reject(RejectReason::Busy);
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// A login begins in this slot.
    pub(super) fn count_login(&mut self, slot: u64, index: usize) {
        let served = &self.shared.served[index];
        if counted(served) {
            served.logins.fetch_add(1, Ordering::AcqRel);
            let until = clock::now() + LONGEST;
            self.logins
                .under_way
                .insert(slot, (Arc::clone(served), until));
        }
    }

    /// Who waits, as far as there is room now.
    pub(super) fn let_logins_in(&mut self, now: Duration) {
        let late = |(_, until): &(Arc<Served>, Duration)| now >= *until;
        let over: Vec<u64> = (self.logins.under_way.iter())
            .filter(|(_, login)| late(login))
            .map(|(&slot, _)| slot)
            .collect();
        over.into_iter().for_each(|slot| self.logins.ended(slot));
        let waiting = std::mem::take(&mut self.logins.waiting);
        self.logins.waiting = self.let_in(now, waiting, false);
        let crowded = !self.logins.waiting.is_empty();
        let patient = std::mem::take(&mut self.logins.patient);
        self.logins.patient = self.let_in(now, patient, crowded);
    }

    /// Those who have to wait on.
    fn let_in(
        &mut self,
        now: Duration,
        waiting: VecDeque<(Duration, Box<dyn Incoming>, usize)>,
        after_others: bool,
    ) -> VecDeque<(Duration, Box<dyn Incoming>, usize)> {
        let mut left = VecDeque::new();
        for (until, incoming, index) in waiting {
            let served = &self.shared.served[index];
            if served.active().is_none() {
                incoming.reject(RejectReason::NotActive);
                self.shared.open.fetch_sub(1, Ordering::AcqRel);
            } else if !after_others
                && self.has_room(index, incoming.patient())
                && !served.is_closed()
            {
                self.begin(incoming, index);
            } else if now >= until || served.is_closed() {
                self.send_away(incoming);
            } else {
                // Another name may have room.
                left.push_back((until, incoming, index));
            }
        }
        left
    }
}

fn counted(served: &Served) -> bool {
    served.config.protocol == Protocol::Postgres || served.recognised.load(Ordering::Relaxed)
}
