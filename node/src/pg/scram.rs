//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, without channel binding. Passwords are taken as they are: SASLprep
//! changes nothing in ASCII, and the lab's are ASCII.

use hmac_sha256::{HMAC, Hash};

/// Iterations of the key derivation (PostgreSQL's default).
pub const ITERATIONS: u32 = 4096;
/// Most iterations that a client lets a server ask for.
const MAX_ITERATIONS: u32 = 1_000_000;

type Key = [u8; 32];

/// What a server keeps of a password.
#[derive(Clone)]
pub struct Verifier {
    salt: [u8; 16],
    iterations: u32,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// The verifier of `password` with a fresh salt.
    pub fn new(password: &str) -> Self {
        Self::with_salt(password, random(), ITERATIONS)
    }

    fn with_salt(password: &str, salt: [u8; 16], iterations: u32) -> Self {
        let salted = salted_password(password, &salt, iterations);
        Self {
            salt,
            iterations,
            stored_key: Hash::hash(&HMAC::mac(b"Client Key", salted)),
            server_key: HMAC::mac(b"Server Key", salted),
        }
    }
}

/// As PostgreSQL writes it in `pg_authid`.
impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(base64);
        write!(
            f,
            "SCRAM-SHA-256${}:{salt}${stored}:{server}",
            self.iterations
        )
    }
}

/// A server in the middle of a login: it sent its challenge.
pub struct ServerLogin {
    verifier: Verifier,
    gs2_header: String,
    nonce: String,
    auth_message: String,
}

impl ServerLogin {
    /// Takes the client's first message and gives the challenge; `None` if the message is malformed.
    pub fn challenge(verifier: &Verifier, client_first: &str) -> Option<(Self, String)> {
        let nonce = base64(&random::<18>());
        Self::challenge_with(verifier, client_first, &nonce)
    }

    fn challenge_with(
        verifier: &Verifier,
        client_first: &str,
        server_nonce: &str,
    ) -> Option<(Self, String)> {
        // "n,," or "y,,": no channel binding. "p=..." would need the TLS that we refused.
        let (flag, rest) = client_first.split_once(',')?;
        if flag != "n" && flag != "y" {
            return None;
        }
        let (authzid, bare) = rest.split_once(',')?;
        let client_nonce = bare.split(',').find_map(|part| part.strip_prefix("r="))?;
        if client_nonce.is_empty() {
            return None;
        }
        let nonce = format!("{client_nonce}{server_nonce}");
        let salt = base64(&verifier.salt);
        let challenge = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let login = Self {
            verifier: verifier.clone(),
            gs2_header: format!("{flag},{authzid},"),
            auth_message: format!("{bare},{challenge}"),
            nonce,
        };
        Some((login, challenge))
    }

    /// Takes the client's proof; gives the server's own proof, or `None` if the password is wrong.
    pub fn finish(self, client_final: &str) -> Option<String> {
        let (without_proof, proof) = client_final.rsplit_once(",p=")?;
        let proof: Key = unbase64(proof)?.try_into().ok()?;
        let expected = format!("c={},r={}", base64(self.gs2_header.as_bytes()), self.nonce);
        if without_proof != expected {
            return None;
        }
        let auth_message = format!("{},{without_proof}", self.auth_message);
        let signature = HMAC::mac(&auth_message, self.verifier.stored_key);
        let client_key = xor(&proof, &signature);
        // Both sides are hashes: a comparison that stops early tells nothing of use.
        if Hash::hash(&client_key) != self.verifier.stored_key {
            return None;
        }
        let server = HMAC::mac(&auth_message, self.verifier.server_key);
        Some(format!("v={}", base64(&server)))
    }
}

/// A client in the middle of a login.
pub struct ClientLogin {
    password: String,
    nonce: String,
    bare: String,
    server_signature: Key,
}

impl ClientLogin {
    /// Begins a login; PostgreSQL takes the user from the startup packet, so none is named here.
    pub fn new(password: &str) -> Self {
        Self::with_nonce(password, "", &base64(&random::<18>()))
    }

    fn with_nonce(password: &str, user: &str, nonce: &str) -> Self {
        Self {
            password: password.into(),
            nonce: nonce.into(),
            bare: format!("n={user},r={nonce}"),
            server_signature: [0; 32],
        }
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// Takes the challenge and gives the proof; `None` if the challenge is malformed or not ours.
    pub fn prove(&mut self, challenge: &str) -> Option<String> {
        let mut parts = challenge.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = unbase64(parts.next()?.strip_prefix("s=")?)?;
        let iterations: u32 = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        if !nonce.starts_with(&self.nonce) || !(1..=MAX_ITERATIONS).contains(&iterations) {
            return None;
        }
        let salted = salted_password(&self.password, &salt, iterations);
        let client_key = HMAC::mac(b"Client Key", salted);
        let without_proof = format!("c=biws,r={nonce}");
        let auth_message = format!("{},{challenge},{without_proof}", self.bare);
        let signature = HMAC::mac(&auth_message, Hash::hash(&client_key));
        self.server_signature = HMAC::mac(&auth_message, HMAC::mac(b"Server Key", salted));
        let proof = base64(&xor(&client_key, &signature));
        Some(format!("{without_proof},p={proof}"))
    }

    /// Whether the server's last message proves that it knows the password too.
    pub fn verify(&self, server_final: &str) -> bool {
        let value = server_final.strip_prefix("v=").and_then(unbase64);
        value.is_some_and(|v| v == self.server_signature)
    }
}

/// PBKDF2 with HMAC-SHA-256 and one block (RFC 5802 calls it Hi).
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let mut first = salt.to_vec();
    first.extend(1u32.to_be_bytes());
    let mut round = HMAC::mac(&first, password);
    let mut out = round;
    for _ in 1..iterations {
        round = HMAC::mac(round, password);
        out = xor(&out, &round);
    }
    out
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    vianet::resolve::identity::random_bytes().expect("getrandom cannot fail without flags")
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .enumerate()
            .fold(0, |n, (i, b)| n | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

pub(crate) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for (n, quad) in text.chunks(4).enumerate() {
        let pad = quad.iter().rev().take_while(|b| **b == b'=').count();
        if pad > 2 || pad > 0 && (n + 1) * 4 != text.len() {
            return None;
        }
        let mut group = 0u32;
        for digit in &quad[..4 - pad] {
            group = group << 6 | ALPHABET.iter().position(|a| a == digit)? as u32;
        }
        group <<= 6 * pad;
        out.extend(&group.to_be_bytes()[1..4 - pad]);
    }
    Some(out)
}

#[cfg(test)]
mod tests;
