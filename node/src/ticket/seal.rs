//! A ticket: what is in it, and how it is sealed.
//!
//! `epoch id (8), nonce (24), XChaCha20-Poly1305 (contents, tag)`. The additional data are a context, the epoch's id, the
//! cluster and the server name, so that a ticket is worth nothing at another one.

use super::scram::Keys;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use vianet::resolve::identity::PublicKey;
use vianet::resolve::ticket::{MAX_TICKET_BYTES, Why};
use vianet::resolve::{ClusterId, Generation};
use zeroize::{Zeroize, Zeroizing};

const CONTEXT: &[u8] = b"vianet ticket 1\0";
const CONTENT_BYTES: usize = 5 * 32 - 32 + 3 * 8 + 16;
const HEAD_BYTES: usize = 8 + 24;

/// The key of an epoch. Random, in memory only, wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochKey {
    /// Random; names it.
    pub id: u64,
    key: Zeroizing<[u8; 32]>,
}

/// What a ticket is bound to beyond its contents.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// The server name, lower case.
    pub server: &'a str,
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    /// The login.
    pub keys: Keys,
    /// Who may redeem it.
    pub public: PublicKey,
    /// Digest of the startup packet: role, database, parameters.
    pub startup: [u8; 32],
    /// The channel of the login.
    pub channel: u64,
    /// The generation of the login.
    pub generation: Generation,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    /// Random; one login's tickets all have the same.
    pub id: [u8; 16],
}

impl EpochKey {
    /// From its parts.
    pub fn new(id: u64, key: [u8; 32]) -> Self {
        Self {
            id,
            key: Zeroizing::new(key),
        }
    }

    /// The key's own bytes, for the other node only.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.key).into())
    }
}

impl Scope<'_> {
    fn aad(&self, epoch: u64) -> Vec<u8> {
        let epoch = epoch.to_le_bytes();
        [CONTEXT, &epoch, &self.cluster, self.server.as_bytes()].concat()
    }
}

impl Contents {
    /// The ticket; `nonce` must be random.
    pub fn seal(&self, epoch: &EpochKey, scope: Scope<'_>, nonce: &[u8; 24]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(CONTENT_BYTES);
        plain.extend(self.keys.client);
        plain.extend(self.keys.server);
        plain.extend(self.public.0);
        plain.extend(self.startup);
        plain.extend(self.channel.to_le_bytes());
        plain.extend(self.generation.to_le_bytes());
        plain.extend(self.expires_ms.to_le_bytes());
        plain.extend(self.id);
        let payload = Payload {
            msg: &plain,
            aad: &scope.aad(epoch.id),
        };
        let sealed = (epoch.cipher())
            .encrypt(&XNonce::from(*nonce), payload)
            .expect("far from the cipher's limits");
        plain.zeroize();
        let mut ticket = epoch.id.to_le_bytes().to_vec();
        ticket.extend(nonce);
        ticket.extend(sealed);
        ticket
    }

    /// Opens a ticket by the key that `find` has for its epoch.
    ///
    /// # Errors
    /// [`Why::Malformed`], or [`Why::Sealed`] for whatever cannot be opened here.
    pub fn open<'a>(
        find: impl FnOnce(u64) -> Option<&'a EpochKey>,
        scope: Scope<'_>,
        ticket: &[u8],
    ) -> Result<Self, Why> {
        let head = ticket.split_first_chunk::<8>();
        let (id, rest) = head.ok_or(Why::Malformed)?;
        let (nonce, sealed) = rest.split_first_chunk::<24>().ok_or(Why::Malformed)?;
        let epoch = find(u64::from_le_bytes(*id)).ok_or(Why::Sealed)?;
        let payload = Payload {
            msg: sealed,
            aad: &scope.aad(epoch.id),
        };
        let plain = epoch.cipher().decrypt(&XNonce::from(*nonce), payload);
        let plain = Zeroizing::new(plain.map_err(|_| Why::Sealed)?);
        Self::read(&plain).ok_or(Why::Malformed)
    }

    fn read(plain: &[u8]) -> Option<Self> {
        let (client, rest) = plain.split_first_chunk::<32>()?;
        let (server, rest) = rest.split_first_chunk::<32>()?;
        let (public, rest) = rest.split_first_chunk::<32>()?;
        let (startup, rest) = rest.split_first_chunk::<32>()?;
        let (channel, rest) = rest.split_first_chunk::<8>()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let (expires_ms, rest) = rest.split_first_chunk::<8>()?;
        let id: [u8; 16] = rest.try_into().ok()?;
        Some(Self {
            keys: Keys {
                client: *client,
                server: *server,
            },
            public: PublicKey(*public),
            startup: *startup,
            channel: u64::from_le_bytes(*channel),
            generation: u64::from_le_bytes(*generation),
            expires_ms: u64::from_le_bytes(*expires_ms),
            id,
        })
    }
}

const _: () = assert!(HEAD_BYTES + CONTENT_BYTES + 16 <= MAX_TICKET_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCOPE: Scope<'_> = Scope {
        cluster: [1; 16],
        server: "sales",
    };

    fn epoch() -> EpochKey {
        EpochKey::new(77, [3; 32])
    }

    fn contents() -> Contents {
        Contents {
            keys: Keys {
                client: [4; 32],
                server: [5; 32],
            },
            public: PublicKey([6; 32]),
            startup: [7; 32],
            channel: 8,
            generation: 9,
            expires_ms: 10,
            id: [11; 16],
        }
    }

    fn open(scope: Scope<'_>, ticket: &[u8]) -> Result<Contents, Why> {
        let epoch = epoch();
        Contents::open(|id| (id == 77).then_some(&epoch), scope, ticket)
    }

    #[test]
    fn what_was_sealed_is_opened() {
        let ticket = contents().seal(&epoch(), SCOPE, &[2; 24]);
        assert_eq!(ticket.len(), HEAD_BYTES + CONTENT_BYTES + 16);
        assert!(open(SCOPE, &ticket) == Ok(contents()));
        for secret in [[4; 32], [5; 32], [7; 32]] {
            assert!(!ticket.windows(32).any(|w| w == secret));
        }
    }

    #[test]
    fn elsewhere_it_is_not() {
        let ticket = contents().seal(&epoch(), SCOPE, &[2; 24]);
        let sealed = |result: Result<Contents, Why>| result.err() == Some(Why::Sealed);
        let server = "sale";
        assert!(sealed(open(Scope { server, ..SCOPE }, &ticket)));
        let cluster = [2; 16];
        assert!(sealed(open(Scope { cluster, ..SCOPE }, &ticket)));
        assert!(sealed(Contents::open(|_| None, SCOPE, &ticket)));
        let other = EpochKey::new(77, [4; 32]);
        assert!(sealed(Contents::open(|_| Some(&other), SCOPE, &ticket)));
    }

    proptest! {
        #[test]
        fn a_changed_ticket_is_not_opened(at in 0_usize..216, bit in 0_u8..8, cut in 0_usize..216) {
            let ticket = contents().seal(&epoch(), SCOPE, &[2; 24]);
            let mut changed = ticket.clone();
            changed[at] ^= 1 << bit;
            prop_assert!(open(SCOPE, &changed).is_err());
            prop_assert!(open(SCOPE, &ticket[..cut]).is_err());
        }

        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(SCOPE, &bytes).is_err());
        }
    }
}
