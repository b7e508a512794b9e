//! Gets the other node's keys, and gives it ours: an X25519 exchange of its own each time, signed by the cluster's key.
//!
//! Whoever listens learns nothing, also with the cluster's key; whoever sends something old again gets an answer that only
//! the first asker could have read, and a request that is not newer than the last one says nothing of what the other node
//! has. Pure: datagrams in and out; time and random numbers are arguments.

use super::epochs::{Epochs, MOST_GIVEN};
use super::seal::EpochKey;
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use ed25519_compact::x25519;
use hmac_sha256::{HKDF, Hash};
use std::net::SocketAddr;
use std::time::Duration;
use vianet::resolve::ClusterId;
use vianet::resolve::identity::SecretKey;
use vianet::resolve::ticket::{KeyAsk, KeysGiven, ServerDigest, TYPE_KEY_ASK, TYPE_KEYS_GIVEN};
use vianet::resolve::wire::datagram_type;
use zeroize::{Zeroize, Zeroizing};

/// How often the other node is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Requests of the other node that are answered in that time.
const MOST_ANSWERS: u32 = 8;
/// A request from further ahead of our clock is not believed.
const AHEAD_MS: u64 = 3_600_000;
/// Id, key, seconds that it is to be kept.
const KEY_BYTES: usize = 8 + 32 + 4;
const CONTEXT: &[u8] = b"vianet ticket keys 1\0";

/// 64 random bytes for one step.
pub type Random = [u8; 64];

/// Who talks to whom.
pub struct Parties {
    /// This node.
    pub node: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's key.
    pub key: SecretKey,
    /// The other node.
    pub peer: String,
    /// Its UDP address.
    pub addr: SocketAddr,
    /// The server names for which this node redeems tickets.
    pub redeems: Vec<ServerDigest>,
}

struct Asked {
    ask: KeyAsk,
    bytes: Vec<u8>,
    secret: x25519::SecretKey,
}

/// See the module's text.
pub struct Exchange {
    who: Parties,
    asked: Option<Asked>,
    next: Duration,
    /// When the newest request was made that we sent, and that we believed, by the sender's clock.
    sent_ms: u64,
    heard_ms: u64,
    answers: (Duration, u32),
}

impl Exchange {
    /// Nothing has been said yet.
    pub fn new(who: Parties) -> Self {
        Self {
            who,
            asked: None,
            next: Duration::ZERO,
            sent_ms: 0,
            heard_ms: 0,
            answers: (Duration::ZERO, 0),
        }
    }

    /// Whether [`Exchange::ask`] is due.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// The next request, and where it goes.
    pub fn ask(
        &mut self,
        now: Duration,
        wall_ms: u64,
        epochs: &Epochs,
        random: &Random,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        self.next = now + EVERY;
        self.sent_ms = wall_ms.max(self.sent_ms + 1);
        let (secret, public) = pair(random)?;
        let ask = KeyAsk {
            cluster_id: self.who.cluster,
            nonce: *random.last_chunk().expect("it is longer"),
            at_ms: self.sent_ms,
            have: epochs.newest_of_peer(),
            public,
            from: self.who.node.clone(),
            to: self.who.peer.clone(),
            redeems: self.who.redeems.clone(),
        };
        let bytes = ask.encode(&self.who.key).ok()?;
        self.asked = Some(Asked {
            ask,
            bytes: bytes.clone(),
            secret,
        });
        Some((self.who.addr, bytes))
    }

    /// A datagram came; the answer, if any, goes back by the same socket.
    pub fn receive(
        &mut self,
        (now, wall_ms): (Duration, u64),
        from: SocketAddr,
        datagram: &[u8],
        epochs: &mut Epochs,
        random: &Random,
    ) -> Option<Vec<u8>> {
        // Only the peer's own address is worth the work of checking a signature.
        if from.ip() != self.who.addr.ip() {
            return None;
        }
        match datagram_type(datagram) {
            Some(TYPE_KEY_ASK) => self.asked_by_peer((now, wall_ms), datagram, epochs, random),
            Some(TYPE_KEYS_GIVEN) => {
                if let Some(keys) = self.given(datagram) {
                    epochs.learned(now, keys);
                    // So that it knows at once that we have them.
                    self.next = now;
                }
                None
            }
            _ => None,
        }
    }

    fn asked_by_peer(
        &mut self,
        (now, wall_ms): (Duration, u64),
        datagram: &[u8],
        epochs: &mut Epochs,
        random: &Random,
    ) -> Option<Vec<u8>> {
        let ask = KeyAsk::parse(datagram, &self.who.key.public()).ok()?;
        let fresh = self.heard_ms < ask.at_ms && ask.at_ms <= wall_ms.saturating_add(AHEAD_MS);
        if !self.is_from_peer(&ask.cluster_id, &ask.from, &ask.to) || !fresh {
            return None;
        }
        self.heard_ms = ask.at_ms;
        epochs.asked(now, ask.have, ask.redeems);
        if epochs.newest() == ask.have || epochs.newest() == 0 {
            return None;
        }
        // Only what is the other node's counts: nobody else can use its answers up.
        if now >= self.answers.0 + EVERY {
            self.answers = (now, 0);
        }
        if self.answers.1 >= MOST_ANSWERS {
            return None;
        }
        self.answers.1 += 1;
        let (secret, public) = pair(random)?;
        let mut plain = Zeroizing::new(Vec::with_capacity(KEY_BYTES * MOST_GIVEN));
        for (key, left) in epochs.give(now, ask.have) {
            plain.extend(key.id.to_le_bytes());
            plain.extend(key.bytes());
            plain.extend((left.as_secs() as u32).to_le_bytes());
        }
        let sealed = shared(&secret, &ask.public, datagram, &public)?
            .encrypt(&Nonce::default(), &plain[..])
            .ok()?;
        let given = KeysGiven {
            cluster_id: self.who.cluster,
            nonce: ask.nonce,
            public,
            from: self.who.node.clone(),
            to: self.who.peer.clone(),
            keys: sealed,
        };
        given.encode(&self.who.key).ok()
    }

    fn given(&mut self, datagram: &[u8]) -> Option<Vec<(EpochKey, Duration)>> {
        let asked = self.asked.as_ref()?;
        let given = KeysGiven::parse(datagram, &self.who.key.public()).ok()?;
        if !self.is_from_peer(&given.cluster_id, &given.from, &given.to)
            || given.nonce != asked.ask.nonce
        {
            return None;
        }
        // One answer to one request; its secret is forgotten.
        let asked = self.asked.take()?;
        let plain = shared(&asked.secret, &given.public, &asked.bytes, &given.public)?
            .decrypt(&Nonce::default(), &given.keys[..])
            .ok()?;
        let plain = Zeroizing::new(plain);
        let (keys, []) = plain.as_chunks::<KEY_BYTES>() else {
            return None;
        };
        let key = |bytes: &[u8; KEY_BYTES]| {
            let (id, rest) = bytes.split_first_chunk::<8>()?;
            let (key, left) = rest.split_first_chunk::<32>()?;
            let left = u32::from_le_bytes(left.try_into().ok()?);
            let key = EpochKey::new(u64::from_le_bytes(*id), *key);
            Some((key, Duration::from_secs(left.into())))
        };
        keys.iter().map(key).collect()
    }

    fn is_from_peer(&self, cluster: &ClusterId, from: &str, to: &str) -> bool {
        *cluster == self.who.cluster && from == self.who.peer && to == self.who.node
    }
}

fn pair(random: &Random) -> Option<(x25519::SecretKey, [u8; 32])> {
    let secret = x25519::SecretKey::new(*random.first_chunk()?);
    let public = *secret.recover_public_key().ok()?;
    Some((secret, public))
}

/// The cipher of this exchange and no other; it seals one message. `None` for a public key that would make it guessable.
fn shared(
    secret: &x25519::SecretKey,
    theirs: &[u8; 32],
    request: &[u8],
    answerer: &[u8; 32],
) -> Option<ChaCha20Poly1305> {
    let shared = x25519::PublicKey::new(*theirs).dh(secret).ok()?;
    let transcript = Hash::hash(&[request, answerer].concat());
    let mut extracted = HKDF::extract(transcript, &shared[..]);
    let mut key = Zeroizing::new([0; 32]);
    HKDF::expand(&mut key[..], extracted, CONTEXT);
    extracted.zeroize();
    Some(ChaCha20Poly1305::new((&*key).into()))
}

#[cfg(test)]
mod tests;
