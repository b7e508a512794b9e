//! Whom a request to cancel means: one server name's sessions by their keys (BackendKeyData), the key of the backend now and,
//! where the session has moved, the key of its login, by which applications and those whom they told know it.
//!
//! What a stranger can claim is little. A key that a session has now is never anybody else's; of those who claim the same older
//! key the first one is meant, as long as its channel is there, then the next (a session that has waited here may go on on another
//! channel, which is there before that one has gone); and a claim leads to the claimer's own backend, never to another.

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// See the module's text.
#[derive(Default)]
pub struct Cancels(Mutex<Known>);

#[derive(Default)]
struct Known {
    sessions: HashMap<u64, Keys>,
    /// Channels by the keys that their backends have now.
    now: HashMap<Box<[u8]>, u64>,
    /// Channels by the keys of their logins, of those that have moved, in the order in which they came; none is empty.
    before: HashMap<Box<[u8]>, Vec<u64>>,
    /// Channels whose key is hidden by encryption between driver and server.
    hidden: HashSet<u64>,
}

struct Keys {
    now: Box<[u8]>,
    before: Option<Box<[u8]>>,
}

/// Whom a key means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// The backend with this key.
    Backend(Box<[u8]>),
    /// Perhaps one of those whose keys are hidden: the server knows.
    Hidden,
    /// Nobody.
    Nobody,
}

impl Cancels {
    /// The server has told the session on `channel` its key; the application knows it by the key `before`.
    pub fn logged_in(&self, channel: u64, now: &[u8], before: Option<&[u8]>) {
        let mut known = self.0.lock();
        known.end(channel);
        let keys = Keys {
            now: now.into(),
            before: before.map(Into::into),
        };
        known.now.insert(keys.now.clone(), channel);
        if let Some(before) = &keys.before {
            known
                .before
                .entry(before.clone())
                .or_default()
                .push(channel);
        }
        known.sessions.insert(channel, keys);
    }

    /// Its key cannot be seen.
    pub fn hidden(&self, channel: u64) {
        self.0.lock().hidden.insert(channel);
    }

    /// The channel is over.
    pub fn ended(&self, channel: u64) {
        self.0.lock().end(channel);
    }

    /// Whom the key in a request to cancel means.
    pub fn meant(&self, key: &[u8]) -> Meant {
        let known = self.0.lock();
        let before = || known.before.get(key)?.first();
        let channel = known.now.get(key).or_else(before);
        match channel.and_then(|channel| known.sessions.get(channel)) {
            Some(keys) => Meant::Backend(keys.now.clone()),
            None if known.hidden.is_empty() => Meant::Nobody,
            None => Meant::Hidden,
        }
    }
}

impl Known {
    fn end(&mut self, channel: u64) {
        self.hidden.remove(&channel);
        let Some(keys) = self.sessions.remove(&channel) else {
            return;
        };
        if self.now.get(&keys.now) == Some(&channel) {
            self.now.remove(&keys.now);
        }
        if let Some(before) = &keys.before
            && let Some(claims) = self.before.get_mut(before)
        {
            claims.retain(|claim| *claim != channel);
            if claims.is_empty() {
                self.before.remove(before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(key: &[u8]) -> Meant {
        Meant::Backend(key.into())
    }

    #[test]
    fn a_session_is_meant_by_its_key_and_by_that_of_its_login() {
        let cancels = Cancels::default();
        let long = [7; 260];
        cancels.logged_in(1, &long, Some(b"pid1key1"));
        cancels.logged_in(2, b"pid2key2", None);
        for key in [&long[..], b"pid1key1"] {
            assert_eq!(cancels.meant(key), backend(&long));
        }
        assert_eq!(cancels.meant(b"pid2key2"), backend(b"pid2key2"));
        for key in [&b"pid1key2"[..], &long[1..], b""] {
            assert_eq!(cancels.meant(key), Meant::Nobody);
        }
        cancels.ended(1);
        for key in [&long[..], b"pid1key1"] {
            assert_eq!(cancels.meant(key), Meant::Nobody);
        }
        assert_eq!(cancels.meant(b"pid2key2"), backend(b"pid2key2"));
    }

    #[test]
    fn nobody_takes_a_key_away() {
        let cancels = Cancels::default();
        cancels.logged_in(1, b"pid1key1", None);
        cancels.logged_in(2, b"pid2key2", Some(b"firstkey"));
        cancels.logged_in(3, b"stranger", Some(b"pid1key1"));
        cancels.logged_in(4, b"another1", Some(b"firstkey"));
        assert_eq!(cancels.meant(b"pid1key1"), backend(b"pid1key1"));
        assert_eq!(cancels.meant(b"firstkey"), backend(b"pid2key2"));
        cancels.ended(4);
        cancels.ended(3);
        assert_eq!(cancels.meant(b"pid1key1"), backend(b"pid1key1"));
        assert_eq!(cancels.meant(b"firstkey"), backend(b"pid2key2"));
        // A backend's key, once that is gone, is another's.
        cancels.logged_in(5, b"pid2key2", None);
        cancels.ended(2);
        assert_eq!(cancels.meant(b"pid2key2"), backend(b"pid2key2"));
        assert_eq!(cancels.meant(b"firstkey"), Meant::Nobody);
    }

    /// One that has waited beside the standby ends only once its session goes on on another channel.
    #[test]
    fn who_claimed_later_is_meant_once_the_first_has_gone() {
        let cancels = Cancels::default();
        cancels.logged_in(1, b"pid1key1", Some(b"firstkey"));
        cancels.logged_in(2, b"pid2key2", Some(b"firstkey"));
        assert_eq!(cancels.meant(b"firstkey"), backend(b"pid1key1"));
        cancels.ended(1);
        assert_eq!(cancels.meant(b"firstkey"), backend(b"pid2key2"));
        cancels.ended(2);
        assert_eq!(cancels.meant(b"firstkey"), Meant::Nobody);
        assert!(cancels.0.lock().before.is_empty());
    }

    #[test]
    fn where_keys_are_hidden_the_server_knows() {
        let cancels = Cancels::default();
        cancels.logged_in(1, b"pid1key1", None);
        cancels.hidden(2);
        assert_eq!(cancels.meant(b"pid1key1"), backend(b"pid1key1"));
        assert_eq!(cancels.meant(b"pid2key2"), Meant::Hidden);
        cancels.ended(2);
        assert_eq!(cancels.meant(b"pid2key2"), Meant::Nobody);
    }
}
