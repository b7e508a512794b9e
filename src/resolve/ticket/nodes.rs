//! The datagrams by which a node gets the keys that the other node's tickets are sealed with.
//!
//! Each exchange is its own: both sides make an X25519 key for it and forget it afterwards, and sign what they send by the
//! cluster's key. So the keys can be read by nobody who listens, also not with the cluster's key, and not later.

use crate::resolve::ClusterId;
use crate::resolve::identity::{PublicKey, SIGNATURE_BYTES, SecretKey};
use crate::resolve::keepalive::MAX_KEEPALIVE_BYTES;
use crate::resolve::wire::{MAX_NODE_BYTES, Nonce, Reader, Refused, Writer};
use hmac_sha256::Hash;

/// Type of [`KeyAsk`].
pub const TYPE_KEY_ASK: u8 = 9;
/// Type of [`KeysGiven`].
pub const TYPE_KEYS_GIVEN: u8 = 10;

/// Most server names of which a [`KeyAsk`] can say that they have tickets.
pub const MAX_TICKET_SERVERS: usize = 128;

const SERVER: &[u8] = b"vianet ticket server 1\0";
const ASK_CONTEXT: &[u8] = b"vianet ticket key ask 1\0";
const GIVEN_CONTEXT: &[u8] = b"vianet ticket keys given 1\0";

/// A server name, in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerDigest(pub [u8; 8]);

impl ServerDigest {
    /// Of a server name without its cluster; its case does not count.
    pub fn of(server: &str) -> Self {
        let server = server.to_ascii_lowercase();
        let digest = Hash::hash(&[SERVER, server.as_bytes()].concat());
        Self(*digest.first_chunk().expect("it is longer"))
    }
}

/// "Which keys are your tickets sealed with?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAsk {
    /// Of the sender.
    pub cluster_id: ClusterId,
    /// Fresh.
    pub nonce: Nonce,
    /// Milliseconds since 1970 at the sender: grows with every one, so that an old one sent again is told apart.
    pub at_ms: u64,
    /// The newest of the receiver's keys that the sender has, by its id; 0: none.
    pub have: u64,
    /// The sender's X25519 key for this exchange.
    pub public: [u8; 32],
    /// The sender's node name.
    pub from: String,
    /// The receiver's node name.
    pub to: String,
    /// The server names for which the sender redeems tickets.
    pub redeems: Vec<ServerDigest>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysGiven {
    /// Of the sender.
    pub cluster_id: ClusterId,
    /// Of the request.
    pub nonce: Nonce,
    /// The sender's X25519 key for this exchange.
    pub public: [u8; 32],
    /// The sender's node name.
    pub from: String,
    /// The receiver's node name.
    pub to: String,
    /// Sealed by what the two X25519 keys make.
    pub keys: Vec<u8>,
}

impl KeyAsk {
    /// The signed bytes.
    pub fn encode(&self, signer: &SecretKey) -> Result<Vec<u8>, Refused> {
        let mut w = Writer::new(TYPE_KEY_ASK);
        w.bytes(&self.cluster_id)
            .bytes(&self.nonce)
            .u64(self.at_ms)
            .u64(self.have)
            .bytes(&self.public)
            .text(&self.from, MAX_NODE_BYTES, "from")?
            .text(&self.to, MAX_NODE_BYTES, "to")?;
        if self.redeems.len() > MAX_TICKET_SERVERS {
            return Err(Refused::Field("servers"));
        }
        w.u8(self.redeems.len() as u8);
        for server in &self.redeems {
            w.bytes(&server.0);
        }
        w.finish(MAX_KEEPALIVE_BYTES, ASK_CONTEXT, Some(signer))
    }

    /// Reads one that `key` must have signed.
    pub fn parse(bytes: &[u8], key: &PublicKey) -> Result<Self, Refused> {
        let (_, mut r) = Reader::new(bytes, &[TYPE_KEY_ASK], false)?;
        let mut ask = Self {
            cluster_id: r.take()?,
            nonce: r.take()?,
            at_ms: r.u64()?,
            have: r.u64()?,
            public: r.take()?,
            from: r.text(MAX_NODE_BYTES, "from")?,
            to: r.text(MAX_NODE_BYTES, "to")?,
            redeems: Vec::new(),
        };
        let count = usize::from(r.u8()?);
        if count > MAX_TICKET_SERVERS {
            return Err(Refused::Field("servers"));
        }
        for _ in 0..count {
            ask.redeems.push(ServerDigest(r.take()?));
        }
        r.finish(bytes, ASK_CONTEXT, true, Some(key))?;
        Ok(ask)
    }
}

impl KeysGiven {
    /// The signed bytes.
    pub fn encode(&self, signer: &SecretKey) -> Result<Vec<u8>, Refused> {
        let mut w = Writer::new(TYPE_KEYS_GIVEN);
        w.bytes(&self.cluster_id)
            .bytes(&self.nonce)
            .bytes(&self.public)
            .text(&self.from, MAX_NODE_BYTES, "from")?
            .text(&self.to, MAX_NODE_BYTES, "to")?
            .bytes(&self.keys);
        w.finish(MAX_KEEPALIVE_BYTES, GIVEN_CONTEXT, Some(signer))
    }

    /// Reads one that `key` must have signed.
    pub fn parse(bytes: &[u8], key: &PublicKey) -> Result<Self, Refused> {
        let (_, mut r) = Reader::new(bytes, &[TYPE_KEYS_GIVEN], false)?;
        let given = Self {
            cluster_id: r.take()?,
            nonce: r.take()?,
            public: r.take()?,
            from: r.text(MAX_NODE_BYTES, "from")?,
            to: r.text(MAX_NODE_BYTES, "to")?,
            keys: r.rest(SIGNATURE_BYTES)?.to_vec(),
        };
        r.finish(bytes, GIVEN_CONTEXT, true, Some(key))?;
        Ok(given)
    }
}
