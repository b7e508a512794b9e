//! TLS 1.3 records (RFC 8446 section 5.2) of the one suite that is spoken: TLS_CHACHA20_POLY1305_SHA256. Pure.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use zeroize::Zeroizing;

/// In front of each record: type, version, length.
pub const HEADER: usize = 5;
/// Most bytes of plaintext in a record.
pub const PLAIN_MAX: usize = 1 << 14;
/// Behind the plaintext: the type within, and the tag.
pub const TRAILER: usize = 1 + TAG;
/// Longest record that is taken, header included.
pub const RECORD_MAX: usize = HEADER + PLAIN_MAX + 256;
const TAG: usize = 16;

/// Types of the contents.
pub const ALERT: u8 = 21;
/// The type of a record of the handshake that is not encrypted yet.
pub const HANDSHAKE: u8 = 22;
/// Contents of the application, and the type that every encrypted record shows.
pub const DATA: u8 = 23;

/// What seals or opens one direction. The key is wiped when it is dropped.
pub struct Key {
    cipher: ChaCha20Poly1305,
    iv: Zeroizing<[u8; 12]>,
}

impl Key {
    /// From the traffic secrets of the handshake.
    pub fn new(key: &[u8; 32], iv: [u8; 12]) -> Self {
        Self {
            cipher: ChaCha20Poly1305::new(key.into()),
            iv: Zeroizing::new(iv),
        }
    }

    /// Encrypts `body` in place; what it gives goes behind it. A number must never be used twice.
    pub fn seal(&self, seq: u64, header: &[u8; HEADER], body: &mut [u8]) -> [u8; TAG] {
        let sealed = self
            .cipher
            .encrypt_inout_detached(&self.nonce(seq), header, body.into());
        sealed.expect("far from the cipher's limit").into()
    }

    /// Decrypts `sealed` in place, the tag at its end excepted. `None`: nobody with the key has made it. What is in it then has no
    /// meaning.
    pub fn open<'a>(
        &self,
        seq: u64,
        header: &[u8; HEADER],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let (body, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        let tag = Tag::from(*tag);
        self.cipher
            .decrypt_inout_detached(&self.nonce(seq), header, (&mut *body).into(), &tag)
            .ok()?;
        Some(body)
    }

    fn nonce(&self, seq: u64) -> Nonce {
        let mut nonce = *self.iv;
        for (n, s) in nonce[4..].iter_mut().zip(seq.to_be_bytes()) {
            *n ^= s;
        }
        nonce.into()
    }
}

/// The header of an encrypted record with so many bytes behind it.
pub fn header(length: usize) -> [u8; HEADER] {
    let [high, low] = (length as u16).to_be_bytes();
    [DATA, 3, 3, high, low]
}

/// Bytes of the encrypted record that begins with `header`, itself included.
///
/// # Errors
/// What is wrong with it.
pub fn length(header: &[u8; HEADER]) -> Result<usize, &'static str> {
    let [kind, major, minor, high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (kind, major, minor) {
        (DATA, 3, 3) if (TRAILER..=RECORD_MAX - HEADER).contains(&length) => Ok(HEADER + length),
        (DATA, 3, 3) => Err("a TLS record of impossible length"),
        _ => Err("bytes that are no encrypted TLS record"),
    }
}

/// Makes one record of `kind` at the front of `room`, of the next up to `n` bytes (at most [`PLAIN_MAX`]) that `fill` copies; its
/// length. `room` has them and [`HEADER`] and [`TRAILER`] bytes more.
pub fn seal(
    key: &Key,
    seq: u64,
    kind: u8,
    room: &mut [u8],
    n: usize,
    fill: impl FnOnce(&mut [u8]),
) -> usize {
    let header = header(n + TRAILER);
    let (head, rest) = room.split_at_mut(HEADER);
    head.copy_from_slice(&header);
    let (body, rest) = rest.split_at_mut(n + 1);
    fill(&mut body[..n]);
    body[n] = kind;
    rest[..TAG].copy_from_slice(&key.seal(seq, &header, body));
    HEADER + n + TRAILER
}

/// Opens one whole record in place: the type of its contents, and how many bytes of them stand behind the header.
///
/// # Errors
/// What is wrong with it.
pub fn open(key: &Key, seq: u64, record: &mut [u8]) -> Result<(u8, usize), &'static str> {
    let (header, sealed) = record
        .split_first_chunk_mut::<HEADER>()
        .ok_or("part of a TLS record")?;
    let body = key
        .open(seq, header, sealed)
        .ok_or("a TLS record that does not decrypt")?;
    // Behind the contents and their type there may be zeros.
    let n = body.iter().rposition(|b| *b != 0);
    let n = n.ok_or("a TLS record without contents")?;
    match n {
        0..=PLAIN_MAX => Ok((body[n], n)),
        _ => Err("a TLS record with too much in it"),
    }
}
