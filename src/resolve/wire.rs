//! What all our own datagrams share: the frame, and a reader and a writer that never panic. Numbers are little-endian.
//!
//! `docs/protocol.md`, "Datagrams": magic `VIA1`, version, type, size of the whole datagram without padding.

use super::identity::{PublicKey, SIGNATURE_BYTES, SecretKey};
use std::fmt;

/// First bytes of every datagram of ours; SSRP's first bytes are 02 to 0F, so that both share a port.
pub const MAGIC: [u8; 4] = *b"VIA1";
/// Version of the datagrams.
pub const VERSION: u8 = 1;
/// Magic, version, type and size.
pub const FRAME_BYTES: usize = 8;
/// Longest server name on the wire, bytes.
pub const MAX_SERVER_BYTES: usize = 255;
/// Longest node name on the wire, bytes.
pub const MAX_NODE_BYTES: usize = 64;
/// A generation that is further ahead of one's own clock than this is refused, milliseconds.
pub const MAX_FUTURE_MS: u64 = 3_600_000;

/// A random number that ties an answer to its request.
pub type Nonce = [u8; 16];

/// Why a datagram is not believed. The receiver drops it in silence; the reason is for logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Not one of ours.
    Magic,
    /// Another version.
    Version,
    /// Another type than the one expected here.
    Type,
    /// It ends before its fields do.
    Short,
    /// Bytes after its end, or longer than any of its kind.
    Long,
    /// The size field does not tell the truth.
    Size,
    /// Padding that is not zero.
    Padding,
    /// The nonce is not that of the request.
    Nonce,
    /// It is about another server name.
    Name,
    /// A field has a value that means nothing; which field.
    Field(&'static str),
    /// Its generation is more than an hour ahead of our clock.
    FutureGeneration,
    /// A key is pinned and it is not signed.
    Unsigned,
    /// The signature is not the pinned key's.
    Signature,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "not a vianet datagram",
            Self::Version => "another protocol version",
            Self::Type => "another type than expected",
            Self::Short => "too short",
            Self::Long => "too long",
            Self::Size => "wrong size field",
            Self::Padding => "padding is not zero",
            Self::Nonce => "wrong nonce",
            Self::Name => "about another server name",
            Self::Field(name) => return write!(f, "bad value in field {name}"),
            Self::FutureGeneration => "generation from the far future: check the clocks",
            Self::Unsigned => "not signed, and a key is pinned",
            Self::Signature => "wrong signature",
        })
    }
}

impl std::error::Error for Refused {}

/// Refuses a generation that no honest clock can have made yet.
pub(super) fn check_generation(generation: u64, now_ms: u64) -> Result<(), Refused> {
    if generation > now_ms.saturating_add(MAX_FUTURE_MS) {
        return Err(Refused::FutureGeneration);
    }
    Ok(())
}

/// The type of a datagram of ours, or `None` when it is none.
pub fn datagram_type(bytes: &[u8]) -> Option<u8> {
    (bytes.len() >= FRAME_BYTES && bytes[..4] == MAGIC).then(|| bytes[5])
}

/// Appends fields; the size field is filled in by [`Writer::finish`].
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, kind, 0, 0]);
        Self(bytes)
    }

    pub(super) fn u8(&mut self, n: u8) -> &mut Self {
        self.bytes(&[n])
    }

    pub(super) fn u16(&mut self, n: u16) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(super) fn u32(&mut self, n: u32) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(super) fn u64(&mut self, n: u64) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text with its length in one byte; `field` names it when it is empty or longer than `max`.
    pub(super) fn text(
        &mut self,
        text: &str,
        max: usize,
        field: &'static str,
    ) -> Result<&mut Self, Refused> {
        let fits = (1..=max.min(255)).contains(&text.len()) && !text.contains(char::is_control);
        if !fits {
            return Err(Refused::Field(field));
        }
        Ok(self.u8(text.len() as u8).bytes(text.as_bytes()))
    }

    /// Bytes with their number in one byte; `field` names them when there are more than `max`.
    pub(super) fn blob(
        &mut self,
        bytes: &[u8],
        max: usize,
        field: &'static str,
    ) -> Result<&mut Self, Refused> {
        if bytes.len() > max.min(255) {
            return Err(Refused::Field(field));
        }
        Ok(self.u8(bytes.len() as u8).bytes(bytes))
    }

    /// Fills the size in, signs with `signer` under `context`, and refuses more than `max` bytes.
    pub(super) fn finish(
        self,
        max: usize,
        context: &[u8],
        signer: Option<&SecretKey>,
    ) -> Result<Vec<u8>, Refused> {
        self.finish_with(max, context, signer.map(|key| |m: &[u8]| key.sign(m)))
    }

    /// As [`Writer::finish`], signed by whatever signs.
    pub(super) fn finish_with(
        mut self,
        max: usize,
        context: &[u8],
        signer: Option<impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]>,
    ) -> Result<Vec<u8>, Refused> {
        let size = self.0.len() + if signer.is_some() { SIGNATURE_BYTES } else { 0 };
        if size > max.min(u16::MAX as usize) {
            return Err(Refused::Long);
        }
        self.0[6..8].copy_from_slice(&(size as u16).to_le_bytes());
        if let Some(sign) = signer {
            let signature = sign(&[context, &self.0].concat());
            self.0.extend_from_slice(&signature);
        }
        Ok(self.0)
    }
}

/// Takes fields from a datagram.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks the frame: `kinds` are the types that will do, `padded` allows zeros after the size. Returns the type too.
    pub(super) fn new(bytes: &'a [u8], kinds: &[u8], padded: bool) -> Result<(u8, Self), Refused> {
        if bytes.len() < FRAME_BYTES {
            return Err(Refused::Short);
        }
        if bytes[..4] != MAGIC {
            return Err(Refused::Magic);
        }
        if bytes[4] != VERSION {
            return Err(Refused::Version);
        }
        if !kinds.contains(&bytes[5]) {
            return Err(Refused::Type);
        }
        let size = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        if size < FRAME_BYTES || size > bytes.len() || (size < bytes.len() && !padded) {
            return Err(Refused::Size);
        }
        if bytes[size..].iter().any(|&b| b != 0) {
            return Err(Refused::Padding);
        }
        Ok((bytes[5], Self(&bytes[FRAME_BYTES..size])))
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Refused::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Refused> {
        self.take().map(|[n]| n)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Refused> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Refused> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Refused> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn blob(&mut self, max: usize) -> Result<&'a [u8], Refused> {
        let len = usize::from(self.u8()?);
        if len > max {
            return Err(Refused::Long);
        }
        let (head, rest) = self.0.split_at_checked(len).ok_or(Refused::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// As many bytes as there are before the last `after`.
    pub(super) fn rest(&mut self, after: usize) -> Result<&'a [u8], Refused> {
        let len = self.0.len().checked_sub(after).ok_or(Refused::Short)?;
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn text(&mut self, max: usize, field: &'static str) -> Result<String, Refused> {
        let len = usize::from(self.u8()?);
        if len == 0 || len > max {
            return Err(Refused::Field(field));
        }
        let (head, rest) = self.0.split_at_checked(len).ok_or(Refused::Short)?;
        self.0 = rest;
        let text = std::str::from_utf8(head).map_err(|_| Refused::Field(field))?;
        if text.contains(char::is_control) {
            return Err(Refused::Field(field));
        }
        Ok(text.to_owned())
    }

    /// The end of the fields: nothing, or a signature. `datagram` is the whole of it, without padding. `Ok(true)` when
    /// `key` is pinned and signed it; `Ok(false)` when none is pinned.
    pub(super) fn finish(
        self,
        datagram: &[u8],
        context: &[u8],
        signed: bool,
        key: Option<&PublicKey>,
    ) -> Result<bool, Refused> {
        let expected = if signed { SIGNATURE_BYTES } else { 0 };
        if self.0.len() < expected {
            return Err(Refused::Short);
        }
        if self.0.len() > expected {
            return Err(Refused::Long);
        }
        let Some(key) = key else { return Ok(false) };
        let signature: &[u8; SIGNATURE_BYTES] = self.0.try_into().map_err(|_| Refused::Unsigned)?;
        let body = &datagram[..datagram.len() - SIGNATURE_BYTES];
        match key.verify(&[context, body].concat(), signature) {
            true => Ok(true),
            false => Err(Refused::Signature),
        }
    }
}
