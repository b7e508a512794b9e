//! The packet by which a session that moves introduces itself to its node: how it got there, and under which key it is known
//! (BackendKeyData of its login, which the application was told, and perhaps told others: requests to cancel will name it).
//!
//! It stands before everything else of the stream and is framed like PostgreSQL's own requests of that place (length, code).

use std::time::Duration;

/// The code of the packet: "VIAM". PostgreSQL's own versions and codes are far from it.
pub const CODE: u32 = 0x5649_414d;
/// Lengths that BackendKeyData's body may have: a process id, and a secret of 4 bytes (protocol 3.0) to 256 (3.2).
pub const KEY: std::ops::RangeInclusive<usize> = 8..=LONGEST;
/// Lengths that the packet may have: a server need not give a key.
pub const PACKET: std::ops::RangeInclusive<usize> = HEAD..=HEAD + LONGEST;

const LONGEST: usize = 260;
/// Length, code, version, moves, parts.
const HEAD: usize = 4 + 4 + 1 + 4 + 4 * PARTS;
const PARTS: usize = 5;
const VERSION: u8 = 1;

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// How often the session has moved, this time included.
    pub moves: u32,
    /// How long detection, takeover, resolution, turn and connect took; in microseconds, and at most an hour or so.
    pub parts: [Duration; PARTS],
    /// The key of its login; empty: its server gave none.
    pub key: Vec<u8>,
}

impl Arrival {
    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let key = match KEY.contains(&self.key.len()) {
            true => &self.key[..],
            false => &[],
        };
        let micros = |part: Duration| u32::try_from(part.as_micros()).unwrap_or(u32::MAX);
        let mut out = ((HEAD + key.len()) as u32).to_be_bytes().to_vec();
        out.extend(CODE.to_be_bytes());
        out.push(VERSION);
        out.extend(self.moves.to_be_bytes());
        for part in self.parts {
            out.extend(micros(part).to_be_bytes());
        }
        out.extend_from_slice(key);
        out
    }

    /// Of a whole packet; `None`: it is malformed, or of another version.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let mut rest = packet;
        let head = (word(&mut rest)? as usize, word(&mut rest)?);
        let version = rest.split_off_first()?;
        let moves = word(&mut rest)?;
        let mut parts = [Duration::ZERO; PARTS];
        for part in &mut parts {
            *part = Duration::from_micros(word(&mut rest)?.into());
        }
        let is_one = head == (packet.len(), CODE) && *version == VERSION;
        let has_key = rest.is_empty() || KEY.contains(&rest.len());
        (is_one && has_key).then(|| Self {
            moves,
            parts,
            key: rest.to_vec(),
        })
    }
}

fn word(bytes: &mut &[u8]) -> Option<u32> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_with_keys_of_any_length() {
        for length in 0..300 {
            let arrival = Arrival {
                moves: 7,
                parts: [1, 2_000_000, 0, 3, u32::MAX.into()].map(Duration::from_micros),
                key: vec![7; length],
            };
            let mut packet = arrival.packet();
            assert!(PACKET.contains(&packet.len()));
            let back = Arrival::read(&packet).unwrap();
            let key = match KEY.contains(&length) {
                true => arrival.key.clone(),
                false => Vec::new(),
            };
            assert_eq!(back, Arrival { key, ..arrival });
            assert_eq!(Arrival::read(&packet[1..]), None);
            for at in 0..9 {
                packet[at] ^= 1;
                assert_eq!(Arrival::read(&packet), None, "{at}");
                packet[at] ^= 1;
            }
            packet.push(7);
            assert_eq!(Arrival::read(&packet), None);
        }
        for length in 0..HEAD {
            assert_eq!(Arrival::read(&vec![0; length]), None);
        }
        let long = Arrival {
            parts: [Duration::MAX; PARTS],
            ..Arrival::default()
        };
        assert_eq!(
            Arrival::read(&long.packet()).unwrap().parts[3].as_secs(),
            4294
        );
    }
}
