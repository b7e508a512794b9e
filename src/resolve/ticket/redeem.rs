//! The packet that stands before a startup packet and redeems a ticket.
//!
//! It is framed like PostgreSQL's own requests of that place (length, code), so one flight carries it, the startup packet
//! behind it, and nothing more has to be said: the node answers as a server that trusts the client, or with an
//! ErrorResponse.

use super::{Key, MAX_TICKET_BYTES, Why};
use crate::resolve::identity::{PublicKey, SIGNATURE_BYTES};
use crate::resolve::{ClusterId, Generation};
use crate::via::Accept;
use hmac_sha256::Hash;
use std::sync::Arc;

/// The code of the packet: "VIAT". PostgreSQL's own versions and codes are far from it.
pub const CODE: u32 = 0x5649_4154;

const CONTEXT: &[u8] = b"vianet ticket redemption 1\0";
const FRESH: &[u8] = b"vianet ticket channel 1\0";
const VERSION: u8 = 1;

/// Where a ticket is redeemed: a channel that was just made. The node chose `fresh` for it, so no signature over it can be
/// one that was made before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    cluster: ClusterId,
    server: String,
    channel: u64,
    generation: Generation,
    fresh: [u8; 32],
}

impl Place {
    /// The channel of this accept; `server` is the name asked for, without its cluster.
    pub fn new(accept: &Accept, server: &str) -> Self {
        Self {
            cluster: accept.cluster_id,
            server: server.to_ascii_lowercase(),
            channel: accept.channel_id,
            generation: accept.generation,
            // A digest: the secret itself is signed by nobody.
            fresh: Hash::hash(&[FRESH, &accept.resume_secret].concat()),
        }
    }

    /// The generation in which it is redeemed.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    fn message(&self, ticket: &[u8], startup: &[u8; 32]) -> Vec<u8> {
        let mut message = CONTEXT.to_vec();
        message.extend(self.cluster);
        message.extend(self.channel.to_le_bytes());
        message.extend(self.generation.to_le_bytes());
        message.extend(self.fresh);
        message.extend(startup);
        message.extend(Hash::hash(ticket));
        // The last one, so that no length is needed.
        message.extend(self.server.as_bytes());
        message
    }
}

/// What of a startup packet a ticket is bound to: all of it (role, database, parameters).
pub fn startup_digest(startup: &[u8]) -> [u8; 32] {
    Hash::hash(&[b"vianet ticket startup 1\0", startup].concat())
}

/// A ticket that a client holds, and the key that makes it worth something. In memory only.
#[derive(Clone)]
pub struct Held {
    key: Arc<Key>,
    ticket: Vec<u8>,
}

impl Held {
    /// What the node gave for the channel of `key`.
    pub fn new(key: Arc<Key>, ticket: Vec<u8>) -> Self {
        Self { key, ticket }
    }

    /// The sealed bytes.
    pub fn ticket(&self) -> &[u8] {
        &self.ticket
    }

    /// The bytes to send first on the new channel at `place`, in the place of `startup`: the redemption and `startup`
    /// itself behind it. `startup` must be, byte for byte, the packet of the login that earned the ticket.
    pub fn redemption(&self, place: &Place, startup: &[u8]) -> Vec<u8> {
        let message = place.message(&self.ticket, &startup_digest(startup));
        let redemption = Redemption {
            generation: place.generation,
            ticket: self.ticket.clone(),
            signature: self.key.sign(&message),
        };
        let mut bytes = redemption.encode();
        bytes.extend_from_slice(startup);
        bytes
    }
}

/// The packet, as a node reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redemption {
    /// In which it is to be redeemed.
    pub generation: Generation,
    /// Sealed.
    pub ticket: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

impl Redemption {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(CODE.to_be_bytes());
        bytes.push(VERSION);
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.signature);
        bytes.extend(&self.ticket);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// Reads the whole packet, length and code included.
    pub fn parse(bytes: &[u8]) -> Result<Self, Why> {
        let read = || {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (code, rest) = rest.split_first_chunk::<4>()?;
            let (version, rest) = rest.split_first_chunk::<1>()?;
            let (generation, rest) = rest.split_first_chunk::<8>()?;
            let (signature, ticket) = rest.split_first_chunk::<SIGNATURE_BYTES>()?;
            let fits = u32::from_be_bytes(*length) as usize == bytes.len()
                && u32::from_be_bytes(*code) == CODE
                && *version == [VERSION]
                && (1..=MAX_TICKET_BYTES).contains(&ticket.len());
            fits.then(|| Self {
                generation: u64::from_le_bytes(*generation),
                ticket: ticket.to_vec(),
                signature: *signature,
            })
        };
        read().ok_or(Why::Malformed)
    }

    /// Whether the owner of `public` has signed this redemption at `place` for `startup`.
    pub fn is_signed(&self, public: &PublicKey, place: &Place, startup: &[u8]) -> bool {
        let message = place.message(&self.ticket, &startup_digest(startup));
        self.generation == place.generation && public.verify(&message, &self.signature)
    }
}
