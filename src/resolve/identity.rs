//! The cluster's Ed25519 key pair: nodes sign, clients pin the public part (DESIGN section 6, "Identity").
//!
//! Thread-safe: the types are plain values.

use crate::error::{Error, Kind, Result};
use ed25519_compact as ed25519;
use std::fmt;
use zeroize::Zeroize;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The public part, pinned by clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// The private part, held by nodes. Has no `Debug`, so that no log can show it.
#[derive(Clone)]
pub struct SecretKey {
    seed: [u8; 32],
    pair: ed25519::KeyPair,
}

impl PublicKey {
    /// From 64 hex digits, as in `client.toml`. [`Kind::BadConfig`] says what is wrong.
    pub fn from_hex(text: &str) -> Result<Self> {
        from_hex(text, "public key").map(Self)
    }

    /// As 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// Whether `signature` is this key's over `message`. False for anything malformed, the key included.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        ed25519::PublicKey::new(self.0)
            .verify(message, &ed25519::Signature::new(*signature))
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl SecretKey {
    /// A new key from the kernel's random numbers.
    pub fn generate() -> Result<Self> {
        random_bytes().map(Self::from_seed)
    }

    /// The key with this seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = ed25519::KeyPair::from_seed(ed25519::Seed::new(seed));
        Self { seed, pair }
    }

    /// From the 64 hex digits of its seed, as in the daemon's key file.
    pub fn from_hex(text: &str) -> Result<Self> {
        from_hex(text, "secret key").map(Self::from_seed)
    }

    /// The seed as 64 hex digits: whoever has them can sign for the cluster.
    pub fn to_hex(&self) -> String {
        to_hex(&self.seed)
    }

    /// The part that clients pin.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.pair.pk)
    }

    /// Overwrites what is secret in memory; it is of no use afterwards. For keys that live for moments.
    pub fn wipe(&mut self) {
        self.seed.zeroize();
        (*self.pair.sk).zeroize();
    }

    /// Signs `message` (deterministic; about 46 µs on the reference machine).
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        *self.pair.sk.sign(message, None)
    }
}

/// `N` bytes of the kernel's random numbers: nonces, seeds, cluster ids.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::system("getrandom", e)),
        }
    }
    Ok(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

// The text itself is not repeated in the error: it may be a secret.
fn from_hex(text: &str, what: &str) -> Result<[u8; 32]> {
    let text = text.trim();
    let bad = || {
        let remedy = "expected 64 hex digits, as `vianet keygen` prints them";
        Error::new(
            Kind::BadConfig,
            format!("{what} of {} bytes: {remedy}", text.len()),
        )
    };
    if text.len() != 64 || !text.is_ascii() {
        return Err(bad());
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        let digit = |c: u8| (c as char).to_digit(16).ok_or_else(bad);
        let pair = &text.as_bytes()[2 * i..2 * i + 2];
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 section 7.1, test 2.
    #[test]
    fn known_key_and_signature() {
        let key =
            SecretKey::from_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
                .unwrap();
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(key.public().to_hex(), public);
        assert_eq!(
            to_hex(&key.sign(&[0x72])),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
    }

    #[test]
    fn round_trip_and_refusals() {
        let key = SecretKey::generate().unwrap();
        let again = SecretKey::from_hex(&key.to_hex()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(
            PublicKey::from_hex(&key.public().to_hex()).unwrap(),
            key.public()
        );
        let signature = key.sign(b"message");
        assert!(key.public().verify(b"message", &signature));
        assert!(!key.public().verify(b"massage", &signature));
        assert!(
            !SecretKey::generate()
                .unwrap()
                .public()
                .verify(b"message", &signature)
        );
        assert!(!PublicKey([0; 32]).verify(b"message", &signature));
        for bad in ["", "00", &"zz".repeat(32), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(
                PublicKey::from_hex(bad).unwrap_err().kind(),
                Kind::BadConfig
            );
        }
    }
}
