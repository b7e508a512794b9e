//! SCRAM-SHA-256 (RFC 5802, RFC 7677) without the password: what a verifier and one exchange tell, and a client that logs
//! in with that.

use crate::pg::scram::{base64, unbase64};
use hmac_sha256::{HMAC, Hash};
use zeroize::Zeroize;

type Key = [u8; 32];

/// Longest message that is looked at.
pub const MAX_MESSAGE: usize = 4096;

/// What it takes to log in as a role, and to know that it is the role's server. Wiped when it is dropped; no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// ClientKey: as good as the password at every server with the same verifier, and nowhere else.
    pub client: Key,
    /// ServerKey: the server proves by it that it has the verifier.
    pub server: Key,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.client.zeroize();
        self.server.zeroize();
    }
}

/// What PostgreSQL keeps of a password (`pg_authid.rolpassword`).
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    stored: Key,
    server: Key,
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stored.zeroize();
        self.server.zeroize();
    }
}

impl Verifier {
    /// From `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('$');
        let keys = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("SCRAM-SHA-256"), Some(_), Some(keys), None) => keys,
            _ => return None,
        };
        let (stored, server) = keys.split_once(':')?;
        Some(Self {
            stored: key(stored)?,
            server: key(server)?,
        })
    }
}

fn key(text: &str) -> Option<Key> {
    unbase64(text)?.try_into().ok()
}

/// The messages of one exchange, as far as they count.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    auth_message: String,
    proof: Key,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.auth_message.zeroize();
        self.proof.zeroize();
    }
}

impl Exchange {
    /// From the client's first message, the server's challenge and the client's final message; `None`: that is none.
    pub fn new(first: &str, challenge: &str, last: &str) -> Option<Self> {
        // "n,,bare" or "y,,bare", perhaps with a name between the commas. A channel binding would need the TLS that the
        // relay refuses.
        let (flag, rest) = first.split_once(',')?;
        if flag != "n" && flag != "y" {
            return None;
        }
        let (_, bare) = rest.split_once(',')?;
        let (without_proof, proof) = last.rsplit_once(",p=")?;
        Some(Self {
            auth_message: format!("{bare},{challenge},{without_proof}"),
            proof: key(proof)?,
        })
    }

    /// The keys of the role that has proven itself, if `verifier` is the role's.
    pub fn keys(&self, verifier: &Verifier) -> Option<Keys> {
        let signature = HMAC::mac(&self.auth_message, verifier.stored);
        let keys = Keys {
            client: std::array::from_fn(|i| self.proof[i] ^ signature[i]),
            server: verifier.server,
        };
        (Hash::hash(&keys.client) == verifier.stored).then_some(keys)
    }
}

/// A client in the middle of a login by its keys.
pub struct ByKeys {
    keys: Keys,
    nonce: String,
    server_signature: Option<Key>,
}

impl ByKeys {
    /// `random` must be fresh.
    pub fn new(keys: Keys, random: &[u8; 18]) -> Self {
        Self {
            keys,
            nonce: base64(random),
            server_signature: None,
        }
    }

    /// The first message. PostgreSQL takes the user from the startup packet.
    pub fn first(&self) -> String {
        format!("n,,n=,r={}", self.nonce)
    }

    /// Takes the challenge and gives the proof; `None`: the challenge is malformed, or not the answer to our message.
    pub fn prove(&mut self, challenge: &str) -> Option<String> {
        let nonce = challenge.split(',').next()?.strip_prefix("r=")?;
        // Salt and iterations are the password's business. A nonce that is ours alone would not be the server's.
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return None;
        }
        let without_proof = format!("c=biws,r={nonce}");
        let auth_message = format!("n=,r={},{challenge},{without_proof}", self.nonce);
        let signature = HMAC::mac(&auth_message, Hash::hash(&self.keys.client));
        self.server_signature = Some(HMAC::mac(&auth_message, self.keys.server));
        let proof: Key = std::array::from_fn(|i| self.keys.client[i] ^ signature[i]);
        Some(format!("{without_proof},p={}", base64(&proof)))
    }

    /// Whether the server's last message proves that it has the verifier.
    pub fn verify(&self, last: &str) -> bool {
        let said = last.strip_prefix("v=").and_then(key);
        said.is_some() && said == self.server_signature
    }

    /// The keys again.
    pub fn into_keys(self) -> Keys {
        self.keys
    }
}

#[cfg(test)]
mod tests;
