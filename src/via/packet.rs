//! VIA packets: the bytes of `docs/protocol.md`, section "VIA packets". Pure: no I/O, no state, total on any input.
//!
//! Every packet begins with the same header of 32 bytes; the same packets carry the handshake of all providers. All
//! numbers are little-endian, as in SSRP. What a decoder refuses, it names: what was found and what is allowed.

#![forbid(unsafe_code)]

use super::{EndReason, RejectReason};
use crate::resolve::{ClusterId, Generation};
use std::fmt;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// First two bytes of every packet after type and flags: a stream that lost its framing shows at once.
pub const MAGIC: [u8; 2] = *b"VI";
/// Version of the protocol that this code speaks.
pub const VERSION: u16 = 1;
/// Most payload of a packet that is not data: bounds what a peer can make us buffer before it is known.
pub const CONTROL_MAX: usize = 512;
/// Smallest ring per direction, as a power of two.
pub const RING_LOG2_MIN: u8 = 12;
/// Largest ring per direction, as a power of two; also the most payload of a data packet.
pub const RING_LOG2_MAX: u8 = 30;

/// Data: the sender's stream ends after this payload (half-close).
pub const FLAG_FIN: u8 = 1;
/// Connect: nobody waits for the channel; others may go first.
pub const FLAG_PATIENT: u8 = 1;
/// Connect: to a node that is passive, for a session that waits there.
pub const FLAG_WARM: u8 = 2;
/// Accept: a signature of 64 bytes ends the payload.
pub const FLAG_SIGNED: u8 = 1;
/// Keep-alive: this one answers one of the peer's.
pub const FLAG_ANSWER: u8 = 1;

/// Number that is used once.
pub type Nonce = [u8; 16];

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Type {
    /// Client: asks for a channel to a server name.
    Connect = 1,
    /// Node: the channel stands.
    Accept = 2,
    /// Node: no channel, and why.
    Reject = 3,
    /// Stream bytes; flag FIN.
    Data = 4,
    /// Acknowledges and gives credit without data.
    Ack = 5,
    /// This side ends the channel, and why.
    Disconnect = 6,
    /// Is the peer there; flag ANSWER: yes.
    KeepAlive = 7,
    /// Client: asks to carry an earlier channel on.
    Resume = 8,
    /// Node: the nonce over which knowledge of the resume secret must be proven.
    Challenge = 9,
    /// Client: the proof.
    Proof = 10,
    /// Where this side stands in a [switchover](super::switchover), in one byte; the last one counts.
    Word = 11,
}

impl Type {
    const ALL: [Self; 11] = [
        Self::Connect,
        Self::Accept,
        Self::Reject,
        Self::Data,
        Self::Ack,
        Self::Disconnect,
        Self::KeepAlive,
        Self::Resume,
        Self::Challenge,
        Self::Proof,
        Self::Word,
    ];

    /// The type with this number on the wire.
    pub fn from_wire(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == n)
    }

    /// Flags that a packet of this type may have.
    fn flags(self) -> u8 {
        match self {
            Self::Data => FLAG_FIN,
            Self::Accept => FLAG_SIGNED,
            Self::Connect => FLAG_PATIENT | FLAG_WARM,
            Self::KeepAlive => FLAG_ANSWER,
            _ => 0,
        }
    }

    /// Smallest and largest payload of this type.
    fn payload(self) -> (u32, u32) {
        let exactly = |n: usize| (n as u32, n as u32);
        match self {
            Self::Connect | Self::Resume | Self::Accept => (1, CONTROL_MAX as u32),
            Self::Data => (0, 1 << RING_LOG2_MAX),
            Self::Ack | Self::KeepAlive => exactly(0),
            Self::Reject | Self::Disconnect | Self::Word => exactly(1),
            Self::Challenge => exactly(size_of::<Nonce>()),
            Self::Proof => exactly(32),
        }
    }
}

/// A packet that cannot be: what was found and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketError(pub String);

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PacketError {}

fn refuse<T>(text: impl Into<String>) -> Result<T, PacketError> {
    Err(PacketError(text.into()))
}

/// What every packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Type,
    /// `FLAG_*` of the type.
    pub flags: u8,
    /// Bytes of payload that follow the header.
    pub length: u32,
    /// Position in the sender's stream: of the first payload byte of a data packet, of the next byte to be sent in
    /// any other. 0 in the handshake.
    pub offset: u64,
    /// The sender's final reader consumed all bytes below this position of the receiver's stream. Absolute, so that a
    /// later one repairs what an earlier one did not say; also the receiver's credit.
    pub acked: u64,
    /// Generation of the node's role; in connect and resume the smallest that the client accepts.
    pub generation: Generation,
}

impl Header {
    /// A header of `kind` without payload, everything else zero.
    pub fn new(kind: Type) -> Self {
        Self {
            kind,
            flags: 0,
            length: 0,
            offset: 0,
            acked: 0,
            generation: 0,
        }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[0] = self.kind as u8;
        b[1] = self.flags;
        b[2..4].copy_from_slice(&MAGIC);
        b[4..8].copy_from_slice(&self.length.to_le_bytes());
        b[8..16].copy_from_slice(&self.offset.to_le_bytes());
        b[16..24].copy_from_slice(&self.acked.to_le_bytes());
        b[24..32].copy_from_slice(&self.generation.to_le_bytes());
        b
    }

    /// Checks everything that one header alone can show: magic, type, flags and the length that the type allows.
    pub fn decode(b: &[u8; HEADER_BYTES]) -> Result<Self, PacketError> {
        let mut r = Reader(b);
        let (kind, flags, magic) = (r.u8()?, r.u8()?, r.array::<2>()?);
        if magic != MAGIC {
            return refuse(format!(
                "packet magic {:02x}{:02x}, must be {:02x}{:02x}",
                magic[0], magic[1], MAGIC[0], MAGIC[1]
            ));
        }
        let Some(kind) = Type::from_wire(kind) else {
            return refuse(format!("packet type {kind}, known are 1 to 11"));
        };
        if flags & !kind.flags() != 0 {
            let allowed = kind.flags();
            return refuse(format!(
                "flags {flags:#04x} in {kind:?}, allowed are {allowed:#04x}"
            ));
        }
        let length = r.u32()?;
        let (least, most) = kind.payload();
        if !(least..=most).contains(&length) {
            return refuse(format!(
                "length {length} of {kind:?}, allowed are {least} to {most}"
            ));
        }
        Ok(Self {
            kind,
            flags,
            length,
            offset: r.u64()?,
            acked: r.u64()?,
            generation: r.u64()?,
        })
    }
}

/// Payload of connect and resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Ring per direction that the client asks for, as a power of two.
    pub ring_log2: u8,
    /// Makes the accept's signature and the resumption's proof those of this connect.
    pub nonce: Nonce,
    /// Boot id of the client's host, for shared memory; zero where the transport does not need it.
    pub boot_id: [u8; 16],
    /// The server name asked for: the VIA discriminator.
    pub server: String,
    /// Resume packets only: which channel, and what of it is here.
    pub resume: Option<ConnectResume>,
}

/// What a resume packet has in addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResume {
    /// From the first accept.
    pub channel_id: u64,
    /// The client holds every byte of the node's stream below this; the node sends from here on. What was consumed
    /// of them is the header's `acked`.
    pub received: u64,
}

impl Connect {
    /// The whole packet. `min_generation` and `consumed` go into the header. The server name is cut at 255 bytes (names are
    /// checked long before).
    pub fn encode(&self, min_generation: Generation, consumed: u64) -> Vec<u8> {
        self.encode_with(0, min_generation, consumed)
    }

    /// The same with flags of the header.
    pub fn encode_with(&self, flags: u8, min_generation: Generation, consumed: u64) -> Vec<u8> {
        let name = &self.server.as_bytes()[..self.server.len().min(255)];
        let mut p = Vec::with_capacity(64 + name.len());
        p.extend(VERSION.to_le_bytes());
        p.extend([self.ring_log2, name.len() as u8]);
        p.extend(self.nonce);
        p.extend(self.boot_id);
        if let Some(resume) = &self.resume {
            p.extend(resume.channel_id.to_le_bytes());
            p.extend(resume.received.to_le_bytes());
        }
        p.extend(name);
        let kind = match self.resume {
            Some(_) => Type::Resume,
            None => Type::Connect,
        };
        let header = Header {
            flags: flags & kind.flags(),
            acked: consumed,
            generation: min_generation,
            ..Header::new(kind)
        };
        packet(header, &p)
    }

    /// The payload of a packet of type `kind`, which is connect or resume.
    pub fn decode(kind: Type, payload: &[u8]) -> Result<Self, PacketError> {
        let mut r = Reader(payload);
        r.version()?;
        let ring_log2 = r.ring_log2()?;
        let name_len = r.u8()?;
        let (nonce, boot_id) = (r.array()?, r.array()?);
        let resume = match kind {
            Type::Resume => Some(ConnectResume {
                channel_id: r.u64()?,
                received: r.u64()?,
            }),
            _ => None,
        };
        let server = r.name("server name", name_len)?;
        r.end()?;
        Ok(Self {
            ring_log2,
            nonce,
            boot_id,
            server,
            resume,
        })
    }
}

/// Payload of accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Ring per direction that was granted, as a power of two; at most what was asked for.
    pub ring_log2: u8,
    /// The node's cluster.
    pub cluster_id: ClusterId,
    /// Names the channel for a resumption.
    pub channel_id: u64,
    /// Resumption: the node holds every byte of the client's stream below this. 0 for a new channel.
    pub received: u64,
    /// The node's name.
    pub node: String,
    /// New channel: the resume secret. Resumption: the node's proof that it knows the secret, which is not sent again.
    pub secret_or_proof: [u8; 32],
    /// By the cluster key, over everything before it (see [`super::handshake`]).
    pub signature: Option<[u8; 64]>,
}

impl Accepted {
    /// Bytes at the payload's end, signature excepted: [`Accepted::secret_or_proof`].
    pub const PROOF_BYTES: usize = 32;

    /// The whole packet. `generation` and `consumed` go into the header. The node's name is cut at 255 bytes.
    pub fn encode(&self, generation: Generation, consumed: u64) -> Vec<u8> {
        let name = &self.node.as_bytes()[..self.node.len().min(255)];
        let mut p = Vec::with_capacity(140 + name.len());
        p.extend(VERSION.to_le_bytes());
        p.extend([self.ring_log2, name.len() as u8]);
        p.extend(self.cluster_id);
        p.extend(self.channel_id.to_le_bytes());
        p.extend(self.received.to_le_bytes());
        p.extend(name);
        p.extend(self.secret_or_proof);
        p.extend(self.signature.iter().flatten());
        let header = Header {
            flags: if self.signature.is_some() {
                FLAG_SIGNED
            } else {
                0
            },
            acked: consumed,
            generation,
            ..Header::new(Type::Accept)
        };
        packet(header, &p)
    }

    /// The payload of an accept whose header has these `flags`.
    pub fn decode(flags: u8, payload: &[u8]) -> Result<Self, PacketError> {
        let mut r = Reader(payload);
        r.version()?;
        let ring_log2 = r.ring_log2()?;
        let name_len = r.u8()?;
        let (cluster_id, channel_id, received) = (r.array()?, r.u64()?, r.u64()?);
        let node = r.name("node name", name_len)?;
        let secret_or_proof = r.array()?;
        let signature = match flags & FLAG_SIGNED {
            0 => None,
            _ => Some(r.array()?),
        };
        r.end()?;
        Ok(Self {
            ring_log2,
            cluster_id,
            channel_id,
            received,
            node,
            secret_or_proof,
            signature,
        })
    }
}

/// A whole reject packet. `generation` is the node's own, so that the client can tell an old node from a new one.
pub fn reject(reason: RejectReason, generation: Generation) -> Vec<u8> {
    let header = Header {
        generation,
        ..Header::new(Type::Reject)
    };
    packet(header, &[reason as u8])
}

/// The payload of a reject.
pub fn decode_reject(payload: &[u8]) -> Result<RejectReason, PacketError> {
    let mut r = Reader(payload);
    let n = r.u8()?;
    r.end()?;
    RejectReason::from_wire(n)
        .ok_or_else(|| PacketError(format!("reject reason {n}, known are 1 to 9")))
}

/// The payload of a disconnect.
pub fn decode_disconnect(payload: &[u8]) -> Result<EndReason, PacketError> {
    let mut r = Reader(payload);
    let n = r.u8()?;
    r.end()?;
    EndReason::from_wire(n)
        .ok_or_else(|| PacketError(format!("disconnect reason {n}, known are 1 to 6")))
}

/// `header` with its length set, and the payload.
pub fn packet(header: Header, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        length: payload.len() as u32,
        ..header
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes fields from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], PacketError> {
        match self.0.split_at_checked(n) {
            Some((front, rest)) => {
                self.0 = rest;
                Ok(front)
            }
            None => refuse(format!(
                "payload ends {} bytes into a field of {n}",
                self.0.len()
            )),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    fn u8(&mut self) -> Result<u8, PacketError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, PacketError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PacketError> {
        self.array().map(u64::from_le_bytes)
    }

    fn version(&mut self) -> Result<(), PacketError> {
        match self.array().map(u16::from_le_bytes)? {
            VERSION => Ok(()),
            found => refuse(format!(
                "protocol version {found}, spoken here is {VERSION}"
            )),
        }
    }

    fn ring_log2(&mut self) -> Result<u8, PacketError> {
        match self.u8()? {
            n @ RING_LOG2_MIN..=RING_LOG2_MAX => Ok(n),
            n => refuse(format!(
                "ring of 2^{n} bytes, allowed are 2^{RING_LOG2_MIN} to 2^{RING_LOG2_MAX}"
            )),
        }
    }

    fn name(&mut self, what: &str, len: u8) -> Result<String, PacketError> {
        if len == 0 {
            return refuse(format!("{what} is empty, must be 1 to 255 bytes"));
        }
        match std::str::from_utf8(self.take(len.into())?) {
            Ok(name) if !name.chars().any(char::is_control) => Ok(name.to_owned()),
            Ok(_) => refuse(format!("{what} has a control character")),
            Err(_) => refuse(format!("{what} is not UTF-8")),
        }
    }

    fn end(&self) -> Result<(), PacketError> {
        match self.0.len() {
            0 => Ok(()),
            n => refuse(format!("{n} bytes after the last field")),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
