//! What goes over a queue pair: messages, each of which takes one receive that the peer has posted.
//!
//! | message | by | when |
//! | --- | --- | --- |
//! | *written* | RDMA write with immediate | stream bytes, already in the receive ring; without bytes: credit, end of stream |
//! | *packet* | send | [`Prefix`], VIA packet header, payload: the handshake, keep-alives, disconnect; on a device without immediates all else |
//!
//! The immediate (big endian) of a written message:
//!
//! | bits | what |
//! | --- | --- |
//! | 31 | the sender's stream ends behind these bytes |
//! | 30 | 0 |
//! | 29 to 22 | messages received, modulo 2^8: gives back [`super::credit`] |
//! | 21 to 0 | bytes consumed, modulo 2^22: gives back room in the ring, so that rings have at most 2^21 bytes |
//!
//! A data packet on a device without immediates has its payload behind the header, or it was written into the ring
//! before: then the message ends with the header.

use crate::via::packet::{HEADER_BYTES, PacketError};

/// Largest ring that an immediate can acknowledge.
pub const RING_MAX: u32 = 1 << 21;
/// Bytes of [`Prefix`].
pub const PREFIX_BYTES: usize = 16;
/// Bytes of a packet without payload.
pub const BARE_BYTES: usize = PREFIX_BYTES + HEADER_BYTES;
/// Largest packet: what a receive has room for.
pub const MESSAGE_MAX: usize = BARE_BYTES + crate::via::packet::CONTROL_MAX;

const FIN: u32 = 1 << 31;
const RESERVED: u32 = 1 << 30;
const COUNT_SHIFT: u32 = 22;
const POSITION: u64 = (1 << COUNT_SHIFT) - 1;

/// What a written message says beside its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Immediate {
    /// The stream ends behind these bytes.
    pub fin: bool,
    /// Messages received, modulo 2^8.
    pub received: u8,
    /// Bytes consumed, modulo 2^22.
    pub acked: u32,
}

impl Immediate {
    /// For these absolute numbers.
    pub fn new(fin: bool, received: u32, acked: u64) -> Self {
        Self {
            fin,
            received: received as u8,
            acked: (acked & POSITION) as u32,
        }
    }

    /// The number, in this host's order.
    pub fn encode(self) -> u32 {
        let fin = if self.fin { FIN } else { 0 };
        fin | u32::from(self.received) << COUNT_SHIFT | self.acked
    }

    /// Checks the bit that must be 0.
    pub fn decode(n: u32) -> Result<Self, PacketError> {
        if n & RESERVED != 0 {
            return Err(PacketError(format!(
                "immediate {n:#010x}: bit 30 is set, must be 0"
            )));
        }
        Ok(Self {
            fin: n & FIN != 0,
            received: (n >> COUNT_SHIFT) as u8,
            acked: n & POSITION as u32,
        })
    }
}

/// The position that `low` (modulo 2^22) means, `head` being the last one known.
pub fn position(head: u64, low: u32) -> u64 {
    head.wrapping_add(u64::from(low).wrapping_sub(head) & POSITION)
}

/// Where the sender of a message takes the peer's bytes: its registered receive ring. The key goes in clear; what can be
/// done with it is to write into this one ring, over this one queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Virtual address of its first byte.
    pub address: u64,
    /// Remote key.
    pub key: u32,
}

/// What every packet begins with here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// Messages received, all of them.
    pub received: u32,
    /// In the accept and in the client's first packet after it; else zero.
    pub window: Window,
}

impl Prefix {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[..4].copy_from_slice(&self.received.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.window.key.to_le_bytes());
        bytes[8..].copy_from_slice(&self.window.address.to_le_bytes());
        bytes
    }

    /// Splits a message.
    pub fn decode(message: &[u8]) -> Result<(Self, &[u8]), PacketError> {
        let Some((p, packet)) = message.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(PacketError(format!(
                "message of {} bytes, at least {BARE_BYTES}",
                message.len()
            )));
        };
        let word = |at: usize| u32::from_le_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]]);
        let prefix = Self {
            received: word(0),
            window: Window {
                key: word(4),
                address: u64::from(word(8)) | u64::from(word(12)) << 32,
            },
        };
        Ok((prefix, packet))
    }
}

/// Private data of a connection request, and of its answers: before anything is allocated for a client, the node knows
/// that it speaks this protocol, which name it wants and from which generation on.
pub mod private {
    use super::super::credit::DEPTH;
    use crate::resolve::Generation;
    use crate::via::RejectReason;
    use crate::via::packet::PacketError;

    const MAGIC: [u8; 4] = *b"VIAr";
    const VERSION: u8 = 1;
    /// What rdma_cm leaves of InfiniBand's request.
    pub const REQUEST_MAX: usize = 56;
    const FIXED: usize = 16;
    /// A longer name goes as its first 8 bytes of SHA-256: the packet that follows has it whole.
    pub const NAME_MAX: usize = REQUEST_MAX - FIXED;
    const HASHED: u8 = 0xff;

    /// What a request says.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// Smallest generation that will do.
        pub min_generation: Generation,
        /// The server name, or what stands for a long one.
        pub name: Vec<u8>,
        hashed: bool,
    }

    impl Request {
        /// For this server name.
        pub fn new(server: &str, min_generation: Generation) -> Self {
            let hashed = server.len() > NAME_MAX;
            let name = match hashed {
                true => hmac_sha256::Hash::hash(server.as_bytes())[..8].to_vec(),
                false => server.as_bytes().to_vec(),
            };
            Self {
                min_generation,
                name,
                hashed,
            }
        }

        /// The bytes.
        pub fn encode(&self) -> Vec<u8> {
            let mut b = MAGIC.to_vec();
            let length = if self.hashed {
                HASHED
            } else {
                self.name.len() as u8
            };
            b.extend([VERSION, DEPTH as u8, length, 0]);
            b.extend(self.min_generation.to_le_bytes());
            b.extend(&self.name);
            b
        }

        /// Takes them; the fabric may have padded them with zeros.
        pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
            let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
                return refuse(format!("private data of {} bytes", bytes.len()));
            };
            if fixed[..4] != MAGIC || fixed[4] != VERSION || u32::from(fixed[5]) != DEPTH {
                return refuse(format!(
                    "private data {:02x?}, must begin with {:02x?}, version {VERSION}, {DEPTH} receives",
                    &fixed[..6],
                    MAGIC
                ));
            }
            let mut generation = [0; 8];
            generation.copy_from_slice(&fixed[8..]);
            let hashed = fixed[6] == HASHED;
            let length = if hashed { 8 } else { usize::from(fixed[6]) };
            if length == 0 || length > NAME_MAX {
                return refuse(format!(
                    "name of {length} bytes, allowed are 1 to {NAME_MAX}"
                ));
            }
            match rest.split_at_checked(length) {
                Some((name, padding)) if padding.iter().all(|b| *b == 0) => Ok(Self {
                    min_generation: Generation::from_le_bytes(generation),
                    name: name.to_vec(),
                    hashed,
                }),
                _ => refuse(format!(
                    "{} bytes where a name of {length} and nothing else must be",
                    rest.len()
                )),
            }
        }
    }

    /// Why a node takes no connection at all.
    pub fn refusal(reason: RejectReason) -> [u8; 8] {
        let mut b = [0; 8];
        b[..4].copy_from_slice(&MAGIC);
        b[4] = VERSION;
        b[5] = reason as u8;
        b
    }

    /// The reason, if one of ours is there.
    pub fn refused(bytes: &[u8]) -> Option<RejectReason> {
        match bytes {
            [b'V', b'I', b'A', b'r', VERSION, reason, ..] => RejectReason::from_wire(*reason),
            _ => None,
        }
    }

    fn refuse<T>(text: String) -> Result<T, PacketError> {
        Err(PacketError(text))
    }
}

#[cfg(test)]
mod tests;
