//! The keys that tickets are sealed with, by age: this node's own, and the other node's. Pure: time and random numbers are
//! arguments.
//!
//! A node seals with the newest of its keys that the other node says it has, so a ticket that was given can be redeemed
//! there. Keys are kept until the last ticket under them has expired, and no longer, however often they go from node to
//! node: a node that was restarted gets back what it had given, so that it can open its own tickets.

use super::seal::EpochKey;
use std::time::Duration;
use vianet::resolve::ticket::{ServerDigest, Why};

/// How often a new key is made.
pub const ROTATE: Duration = Duration::from_secs(3600);
/// The longest life of a ticket.
pub const LONGEST: Duration = Duration::from_secs(86_400 / 2);
/// How long a key is kept.
const KEEP: Duration = Duration::from_secs(2 * ROTATE.as_secs() + LONGEST.as_secs());
/// The other node counts as there if it asked within this time.
const HEARD: Duration = Duration::from_secs(10);
/// Most keys of the other node that are kept, its earlier runs included.
const MOST: usize = 256;
/// Most keys that are given at a time: those that a node gets back are the newest for which there is room.
pub const MOST_GIVEN: usize = 25;
/// Most keys of one node at a time.
pub const MOST_OWN: usize = (KEEP.as_secs() / ROTATE.as_secs()) as usize + 2;

struct Epoch {
    key: EpochKey,
    until: Duration,
}

/// See the module's text.
#[derive(Default)]
pub struct Epochs {
    own: Vec<Epoch>,
    peers: Vec<Epoch>,
    /// What the other node says it has.
    has: Option<Has>,
}

struct Has {
    newest: u64,
    at: Duration,
    redeems: Vec<ServerDigest>,
}

impl Epochs {
    /// Forgets what is too old, and says whether a new key is due ([`Epochs::add`]).
    pub fn tick(&mut self, now: Duration) -> bool {
        let young = |epoch: &Epoch| now < epoch.until;
        self.own.retain(young);
        self.peers.retain(young);
        (self.own.last()).is_none_or(|e| now + KEEP >= e.until + ROTATE)
    }

    /// This node's next key, random.
    pub fn add(&mut self, now: Duration, key: EpochKey) {
        let until = now + KEEP;
        self.own.push(Epoch { key, until });
        if self.own.len() > MOST_OWN {
            self.own.remove(0);
        }
    }

    /// The other node asked for our keys and has this one already (0: none); for these servers it redeems tickets.
    pub fn asked(&mut self, now: Duration, newest: u64, redeems: Vec<ServerDigest>) {
        self.has = Some(Has {
            newest,
            at: now,
            redeems,
        });
    }

    /// The other node is lost, and what it had with it.
    pub fn lost(&mut self) {
        self.has = None;
    }

    /// The newest of our keys; 0: none.
    pub fn newest(&self) -> u64 {
        self.own.last().map_or(0, |epoch| epoch.key.id)
    }

    /// What the other node is given that has this one of ours: our keys, oldest first; before them, where it has none, what
    /// it may have given us before it was restarted. Each with the time for which it is to be kept.
    pub fn give(&self, now: Duration, has: u64) -> impl Iterator<Item = (&EpochKey, Duration)> {
        let most = match has {
            0 => MOST_GIVEN.saturating_sub(self.own.len()),
            _ => 0,
        };
        let back = &self.peers[self.peers.len().saturating_sub(most)..];
        let given = back.iter().chain(&self.own);
        given.map(move |epoch| (&epoch.key, epoch.until.saturating_sub(now)))
    }

    /// What the other node has given, in its order.
    pub fn learned(&mut self, now: Duration, keys: Vec<(EpochKey, Duration)>) {
        for (key, left) in keys {
            if self.find(key.id).is_none() {
                let until = now + left.min(KEEP);
                self.peers.push(Epoch { key, until });
            }
        }
        let over = self.peers.len().saturating_sub(MOST);
        self.peers.drain(..over);
    }

    /// The newest of what the other node has given, which is its own newest; 0: none.
    pub fn newest_of_peer(&self) -> u64 {
        self.peers.last().map_or(0, |epoch| epoch.key.id)
    }

    /// The key to seal a ticket for this server with now.
    ///
    /// # Errors
    /// [`Why::NoPeer`]: there is none that the other node has, or it will not be kept for as long as the longest ticket.
    /// [`Why::PeerOff`]: the other node would not redeem it.
    pub fn sealing(&self, now: Duration, server: ServerDigest) -> Result<&EpochKey, Why> {
        let heard = self.has.as_ref().filter(|has| now < has.at + HEARD);
        let has = heard.ok_or(Why::NoPeer)?;
        if !has.redeems.contains(&server) {
            return Err(Why::PeerOff);
        }
        let epoch = self.own.iter().find(|epoch| epoch.key.id == has.newest);
        let young = epoch.filter(|epoch| now + LONGEST < epoch.until);
        young.map(|epoch| &epoch.key).ok_or(Why::NoPeer)
    }

    /// The key of this epoch, whosever it is.
    pub fn find(&self, id: u64) -> Option<&EpochKey> {
        let mut all = self.own.iter().chain(&self.peers);
        all.find(|e| e.key.id == id).map(|e| &e.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u64) -> EpochKey {
        EpochKey::new(id, [id as u8; 32])
    }

    const SALES: ServerDigest = ServerDigest([1; 8]);

    fn asked(epochs: &mut Epochs, now: Duration, newest: u64) {
        epochs.asked(now, newest, vec![SALES]);
    }

    fn seals(epochs: &Epochs, now: Duration) -> Option<u64> {
        epochs.sealing(now, SALES).ok().map(|key| key.id)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_seals_with_what_the_other_node_has() {
        let mut epochs = Epochs::default();
        assert!(epochs.tick(at(1)));
        epochs.add(at(1), key(1));
        assert!(!epochs.tick(at(2)));
        assert!(seals(&epochs, at(2)).is_none());
        asked(&mut epochs, at(2), 0);
        assert!(seals(&epochs, at(2)).is_none());
        asked(&mut epochs, at(3), 1);
        assert_eq!(seals(&epochs, at(3)), Some(1));
        // A new key is used once the other node has it.
        assert!(epochs.tick(at(3601)));
        epochs.add(at(3601), key(2));
        asked(&mut epochs, at(3601), 1);
        assert_eq!(seals(&epochs, at(3602)), Some(1));
        asked(&mut epochs, at(3603), 2);
        assert_eq!(seals(&epochs, at(3603)), Some(2));
        epochs.lost();
        assert!(seals(&epochs, at(3603)).is_none());
        // It was restarted, or is gone.
        asked(&mut epochs, at(3604), 99);
        assert!(seals(&epochs, at(3604)).is_none());
        asked(&mut epochs, at(3605), 2);
        assert_eq!(seals(&epochs, at(3614)), Some(2));
        assert!(seals(&epochs, at(3615)).is_none());
    }

    #[test]
    fn it_seals_for_what_the_other_node_redeems() {
        let mut epochs = Epochs::default();
        let other = ServerDigest([2; 8]);
        epochs.add(at(1), key(1));
        assert_eq!(epochs.sealing(at(1), other).err(), Some(Why::NoPeer));
        epochs.asked(at(1), 1, vec![SALES]);
        assert_eq!(epochs.sealing(at(1), other).err(), Some(Why::PeerOff));
        assert!(epochs.sealing(at(1), SALES).is_ok());
        // It was set up for it and restarted.
        epochs.asked(at(2), 0, vec![other, SALES]);
        assert_eq!(epochs.sealing(at(2), other).err(), Some(Why::NoPeer));
        epochs.asked(at(2), 1, vec![other, SALES]);
        assert!(epochs.sealing(at(2), other).is_ok());
    }

    #[test]
    fn keys_outlive_the_tickets_under_them_and_no_longer() {
        let mut epochs = Epochs::default();
        for n in 0..100 {
            let now = at(n * 3600);
            assert!(epochs.tick(now));
            epochs.add(now, key(n + 1));
            let given = [key(1000 + n), key(1001 + n)].map(|key| (key, KEEP));
            epochs.learned(now, given.into());
            assert_eq!(epochs.newest_of_peer(), 1001 + n);
            assert!(epochs.own.len() <= MOST_OWN);
            assert!(epochs.give(now, 0).count() <= MOST_GIVEN);
            assert!(epochs.give(now, 1).count() <= MOST_OWN);
        }
        let hours = LONGEST.as_secs() / 3600;
        assert!(epochs.find(100 - hours).is_some());
        assert!(epochs.find(1100 - hours).is_some());
        assert!(epochs.find(100 - hours - 3).is_none());
        assert!(epochs.find(1000).is_none());
        epochs.tick(at(1_000_000));
        assert_eq!(epochs.newest_of_peer(), 0);
    }

    /// A ticket under it would outlive it.
    #[test]
    fn it_does_not_seal_with_a_key_that_is_too_old() {
        let mut epochs = Epochs::default();
        epochs.add(at(0), key(1));
        for hour in 0..14 {
            let now = at(hour * 3600);
            epochs.tick(now);
            if hour > 0 {
                epochs.add(now, key(hour + 1));
            }
            // Our newer keys do not reach the other node.
            asked(&mut epochs, now, 1);
            let seals = seals(&epochs, now).is_some();
            assert_eq!(seals, now < 2 * ROTATE, "{hour}");
            assert!(!seals || now + LONGEST <= KEEP);
        }
    }

    /// Two nodes that are restarted in turn hand each other everything, but not for ever.
    #[test]
    fn keys_that_are_given_back_do_not_live_longer() {
        let mut nodes = [Epochs::default(), Epochs::default()];
        nodes[0].add(at(0), key(1000));
        for hour in 0..20 {
            let now = at(hour * 3600);
            let [stays, restarted] = match hour % 2 {
                0 => [0, 1],
                _ => [1, 0],
            };
            nodes[restarted] = Epochs::default();
            nodes[stays].tick(now);
            nodes[stays].add(now, key(hour + 1));
            let copy =
                |(key, left): (&EpochKey, Duration)| (EpochKey::new(key.id, *key.bytes()), left);
            let given: Vec<_> = nodes[stays].give(now, 0).map(copy).collect();
            nodes[restarted].learned(now, given);
            assert_eq!(nodes[restarted].newest_of_peer(), hour + 1);
            let known = nodes[restarted].find(1000).is_some();
            assert_eq!(known, now < KEEP, "{hour}");
        }
        // Whatever the other node says.
        nodes[0].learned(at(0), vec![(key(2000), Duration::MAX)]);
        nodes[0].tick(KEEP);
        assert!(nodes[0].find(2000).is_none());
    }

    #[test]
    fn a_node_that_restarts_without_end_does_not_fill_the_memory() {
        let mut epochs = Epochs::default();
        for n in 0..10_000 {
            epochs.learned(at(1), vec![(key(n), KEEP)]);
        }
        assert_eq!(epochs.peers.len(), MOST);
        assert!(epochs.find(9_999).is_some());
    }
}
