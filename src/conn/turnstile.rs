//! Who moves to a second node, and when: thousands of connections may have lost the same node at the same moment, and each
//! move is a login. Those go first whose application waits; the others follow at random moments, ever more seldom where the
//! server is busy. A few at a time.

use super::now;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// So many connections of a process move to one server at a time. The node limits what comes from all processes.
const AT_ONCE: usize = 16;
/// How many of these are left to applications that wait.
const RESERVED: usize = 4;
/// When the first ones move that nobody waits for: at a random moment of the second half of this. Many spread over more: [`EACH`] per connection.
const SOON: Duration = Duration::from_millis(250);
const EACH: Duration = Duration::from_millis(10);
/// One that was sent back waits twice as long as the last time, up to this.
const LATEST: Duration = Duration::from_secs(16);

/// See the module's text. The I/O thread's.
#[derive(Default)]
pub struct Turnstile {
    waiting: HashMap<u64, Waiting>,
    /// Whose turn it is, and to which server.
    moving: HashMap<u64, String>,
    /// How long each of those that nobody waits for waited the last time.
    pauses: HashMap<u64, Duration>,
    random: u64,
}

struct Waiting {
    server: String,
    /// Since when the application waits.
    wanted: Option<Duration>,
    due: Duration,
}

impl Turnstile {
    /// A connection is to move to `server`; `wanted`: its application waits.
    pub fn enter(&mut self, id: u64, server: &str, wanted: bool, now: Duration) {
        self.moving.remove(&id);
        let crowd = self.waiting.len() as u32;
        let pause = match self.pauses.get(&id) {
            Some(last) => (*last * 2).min(LATEST),
            None => SOON.max(EACH * crowd),
        };
        let due = match wanted {
            true => now,
            false => {
                self.pauses.insert(id, pause);
                // Not at once: somebody may have work to do who is not here yet.
                now + pause.mul_f64(0.5 + self.fraction(id) / 2.0)
            }
        };
        self.waiting.insert(
            id,
            Waiting {
                server: server.to_owned(),
                wanted: wanted.then_some(now),
                due,
            },
        );
    }

    /// The application of one that waits here began to wait.
    pub fn want(&mut self, id: u64, now: Duration) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.wanted.get_or_insert(now);
        }
    }

    /// A connection has moved, or gave its turn back.
    pub fn done(&mut self, id: u64) {
        self.moving.remove(&id);
    }

    /// A connection moves no more: it did, or is over.
    pub fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
        self.moving.remove(&id);
        self.pauses.remove(&id);
    }

    /// Forgets all of them.
    pub fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// When [`Turnstile::turns`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let full: HashSet<&str> = self.servers().filter(|s| self.room(s) == 0).collect();
        let waiting = self.waiting.values();
        let due = waiting.filter(|w| !full.contains(&*w.server)).map(|w| {
            let reserved = w.wanted.is_none() && self.room(&w.server) <= RESERVED;
            match (w.wanted, reserved) {
                (Some(_), _) => Duration::ZERO,
                // Somebody's turn ends first, which calls here.
                (None, true) => Duration::MAX,
                (None, false) => w.due,
            }
        });
        due.filter(|due| *due < Duration::MAX).min()
    }

    /// Whose turn it is now.
    pub fn turns(&mut self, now: Duration) -> Vec<u64> {
        let mut ready: Vec<(bool, Duration, u64)> = (self.waiting.iter())
            .filter(|(_, w)| w.wanted.is_some() || w.due <= now)
            .map(|(&id, w)| (w.wanted.is_none(), w.wanted.unwrap_or(w.due), id))
            .collect();
        ready.sort_unstable();
        let mut turns = Vec::new();
        for (lazy, _, id) in ready {
            let Some(waiting) = self.waiting.get(&id) else {
                continue;
            };
            let kept = if lazy { RESERVED } else { 0 };
            if self.room(&waiting.server) > kept
                && let Some(waiting) = self.waiting.remove(&id)
            {
                self.moving.insert(id, waiting.server);
                turns.push(id);
            }
        }
        turns
    }

    fn servers(&self) -> impl Iterator<Item = &str> {
        self.moving.values().map(String::as_str)
    }

    fn room(&self, server: &str) -> usize {
        let busy = self.servers().filter(|s| *s == server).count();
        AT_ONCE.saturating_sub(busy)
    }

    /// Between 0 and 1 (SplitMix64; not for secrets).
    fn fraction(&mut self, id: u64) -> f64 {
        if self.random == 0 {
            self.random = super::fork::process_token() ^ now().as_nanos() as u64;
        }
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ id;
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn those_who_are_waited_for_go_first_and_a_few_at_a_time() {
        let mut it = Turnstile::default();
        for id in 0..1000 {
            it.enter(id, "sales", false, MS);
        }
        it.want(999, 2 * MS);
        for id in 2000..2030 {
            it.enter(id, "sales", true, 3 * MS);
        }
        // One server's crowd does not hold another's up.
        it.enter(5000, "other", true, 3 * MS);
        assert_eq!(it.poll_timeout(), Some(Duration::ZERO));
        let turns = it.turns(3600 * 1000 * MS);
        assert_eq!(turns.len(), AT_ONCE + 1, "{turns:?}");
        assert_eq!(turns[0], 999);
        assert!(turns[1..].iter().all(|id| *id >= 2000), "{turns:?}");
        assert!(it.turns(4 * MS).is_empty());
        let mut all = turns.clone();
        let mut moving = turns;
        while let Some(id) = moving.pop() {
            it.leave(id);
            let next = it.turns(3600 * 1000 * MS);
            all.extend(&next);
            moving.extend(&next);
        }
        assert_eq!(all.len(), 1031);
        assert_eq!(
            (it.waiting.len(), it.moving.len(), it.pauses.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn those_who_are_not_come_at_random_moments_and_leave_room() {
        let mut it = Turnstile::default();
        for id in 0..1000 {
            it.enter(id, "sales", false, Duration::ZERO);
        }
        let early = it.waiting.values().filter(|w| w.due < 125 * MS).count();
        assert_eq!(early, 0);
        let half = it.waiting.values().filter(|w| w.due < 3000 * MS).count();
        assert!(half > 100 && half < 900, "{half}");
        let turns = it.turns(10_000 * MS);
        assert_eq!(turns.len(), AT_ONCE - RESERVED);
        // Nobody is due: whoever leaves calls.
        assert_eq!(it.poll_timeout(), None);
        it.enter(5000, "sales", true, Duration::ZERO);
        assert_eq!(it.turns(10_000 * MS), [5000]);
    }

    #[test]
    fn who_is_sent_back_waits_longer() {
        let mut it = Turnstile::default();
        let mut last = Duration::ZERO;
        for round in 0..12 {
            it.enter(7, "sales", false, Duration::ZERO);
            let pause = it.pauses[&7];
            assert!(pause >= last && pause <= LATEST, "{round}");
            last = pause;
            assert_eq!(it.turns(LATEST), [7]);
            it.done(7);
        }
        assert_eq!(last, LATEST);
        it.leave(7);
        it.enter(7, "sales", false, Duration::ZERO);
        assert_eq!(it.pauses[&7], SOON);
    }
}
