//! The client's key of one channel.

use crate::error::Result;
use crate::resolve::identity::{PublicKey, SIGNATURE_BYTES, SecretKey, random_bytes};
use hmac_sha256::Hash;
use zeroize::Zeroizing;

const COMMITMENT: &[u8] = b"vianet ticket commitment 1\0";

/// An Ed25519 key, made for one channel and kept in memory only. The connect's nonce commits to its public part, and the
/// node's accept is signed over that nonce: so whoever else sees, or changes, what goes over the network cannot put a key
/// of his own in its place. Has no `Debug`, is wiped when it is dropped.
pub struct Key {
    seed: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl Key {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Result<Self> {
        Ok(Self::from_seed(random_bytes()?))
    }

    pub(super) fn from_seed(seed: [u8; 32]) -> Self {
        let mut secret = SecretKey::from_seed(seed);
        let public = secret.public();
        secret.wipe();
        Self {
            seed: Zeroizing::new(seed),
            public,
        }
    }

    /// The public part.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The nonce of the connect that makes the channel ([`crate::via::ConnectRequest::nonce`]).
    pub fn commitment(&self) -> [u8; 16] {
        Self::commitment_of(&self.public)
    }

    /// What a connect must have said for this key to be its own.
    pub fn commitment_of(public: &PublicKey) -> [u8; 16] {
        let digest = Hash::hash(&[COMMITMENT, &public.0].concat());
        *digest.first_chunk().expect("a digest has 32 bytes")
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut secret = SecretKey::from_seed(*self.seed);
        let signature = secret.sign(message);
        secret.wipe();
        signature
    }
}
