//! The client's stream: first packets without a type byte, then messages with one.

use super::texts::Texts;
use super::{Reason, record};

pub(super) const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Longest startup packet that the server takes, its length included.
const MAX_STARTUP: u32 = 10_004;
/// Length and code.
const HEAD: usize = 8;

/// What a step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// More bytes are needed.
    Incomplete,
    /// A request for encryption, to be answered with one byte.
    Encryption,
    /// A whole request to cancel.
    Cancel,
    /// A whole startup packet.
    Startup {
        packet: Vec<u8>,
        /// What it asks for that makes the session one that stays.
        fixed: Option<Reason>,
    },
    /// A whole message.
    Message {
        kind: u8,
        /// The beginning of its body, as far as it is of use.
        body: Vec<u8>,
        /// That is all of it.
        whole: bool,
    },
    /// It cannot be followed any more.
    Broken(Reason),
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) enum Frontend {
    /// The packet so far, and whether its head is one.
    First { packet: Vec<u8>, headed: bool },
    /// A type byte and a length, as far as they have come.
    Head { bytes: [u8; 5], have: u8 },
    /// A message's body is still to come.
    Body {
        kind: u8,
        left: u32,
        kept: Vec<u8>,
        whole: bool,
    },
}

impl Default for Frontend {
    fn default() -> Self {
        Self::First {
            packet: Vec::new(),
            headed: false,
        }
    }
}

const FRESH: Frontend = Frontend::Head {
    bytes: [0; 5],
    have: 0,
};

impl Frontend {
    /// Takes bytes off the front of `bytes`, up to the end of a message at most.
    pub(super) fn step(&mut self, bytes: &mut &[u8], texts: &mut Texts) -> Packet {
        match self {
            Self::First { packet, headed } => {
                let wanted = match headed {
                    false => HEAD,
                    true => word(packet, 0) as usize,
                };
                let more = (wanted - packet.len()).min(bytes.len());
                packet.extend_from_slice(&bytes[..more]);
                *bytes = &bytes[more..];
                if !*headed {
                    if !may_begin(packet) {
                        return Packet::Broken(Reason::NotPostgres);
                    }
                    if packet.len() == HEAD {
                        *headed = true;
                        if word(packet, 0) as usize > HEAD {
                            return Packet::Incomplete;
                        }
                    }
                }
                if packet.len() < wanted || packet.len() < HEAD {
                    return Packet::Incomplete;
                }
                self.first_packet()
            }
            Self::Head { bytes: head, have } => {
                let at = usize::from(*have);
                let more = (head.len() - at).min(bytes.len());
                head[at..at + more].copy_from_slice(&bytes[..more]);
                *have += more as u8;
                *bytes = &bytes[more..];
                if usize::from(*have) < head.len() {
                    return Packet::Incomplete;
                }
                let (kind, length) = (head[0], word(&head[1..], 0));
                if !(4..=i32::MAX as u32).contains(&length) {
                    return Packet::Broken(Reason::NotUnderstood);
                }
                *self = Self::Body {
                    kind,
                    left: length - 4,
                    kept: Vec::new(),
                    whole: true,
                };
                self.body(bytes, texts)
            }
            Self::Body { .. } => self.body(bytes, texts),
        }
    }

    /// Part of a message, and not all of it, has been sent.
    pub(super) fn in_message(&self) -> bool {
        match self {
            Self::First { packet, .. } => !packet.is_empty(),
            Self::Head { have, .. } => *have > 0,
            Self::Body { .. } => true,
        }
    }

    fn body(&mut self, bytes: &mut &[u8], texts: &mut Texts) -> Packet {
        let Self::Body {
            kind,
            left,
            kept,
            whole,
        } = self
        else {
            return Packet::Incomplete;
        };
        let skip = (*left as usize).min(bytes.len());
        // Of a statement that has a name the server knows the text itself.
        let most = match (*kind, kept.first().or(bytes.first())) {
            (b'P', Some(1..)) => 1,
            (kind, _) => record::kept_of_client(kind),
        };
        let keep = skip.min(most.saturating_sub(kept.len()));
        kept.extend_from_slice(&bytes[..keep]);
        *whole &= keep == skip;
        texts.body(*kind, &bytes[..skip], skip == *left as usize);
        *bytes = &bytes[skip..];
        *left -= skip as u32;
        if *left > 0 {
            return Packet::Incomplete;
        }
        let packet = Packet::Message {
            kind: *kind,
            body: std::mem::take(kept),
            whole: *whole,
        };
        *self = FRESH;
        packet
    }

    fn first_packet(&mut self) -> Packet {
        let Self::First { packet, .. } = self else {
            return Packet::Incomplete;
        };
        let packet = std::mem::take(packet);
        match word(&packet, 4) {
            SSL_REQUEST | GSS_REQUEST => {
                *self = Self::default();
                Packet::Encryption
            }
            CANCEL_REQUEST => Packet::Cancel,
            _ => match pairs(&packet[HEAD..]) {
                Some(pairs) if pairs.iter().any(|(name, _)| name == b"user") => {
                    *self = FRESH;
                    let fixed = pairs.into_iter().find_map(fixed_by);
                    Packet::Startup { packet, fixed }
                }
                // The head of a short packet of another protocol may look like one.
                _ => Packet::Broken(Reason::NotPostgres),
            },
        }
    }
}

/// The parameters of a startup packet, names and values, which end with an empty name. `None`: they are none.
fn pairs(parameters: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let words = parameters.strip_suffix(b"\0\0")?;
    let words: Vec<_> = words.split(|byte| *byte == 0).collect();
    let pairs = words.chunks(2).map(|pair| match pair {
        [name, value] if !name.is_empty() => Some((*name, *value)),
        _ => None,
    });
    pairs.collect()
}

/// What such a parameter asks for that makes the session one that stays.
fn fixed_by((name, value): (&[u8], &[u8])) -> Option<Reason> {
    let off: [&[u8]; 5] = [b"false", b"off", b"no", b"0", b"f"];
    if name == b"replication" && !off.contains(&value) {
        return Some(Reason::Replication);
    }
    name.starts_with(b"_pq_.").then_some(Reason::ProtocolOption)
}

/// Whether a first packet of version 3 may begin like this.
fn may_begin(head: &[u8]) -> bool {
    // Its length is below 2^16, whatever it asks for.
    if head.iter().take(2).any(|byte| *byte != 0) {
        return false;
    }
    if head.len() < HEAD {
        return true;
    }
    let (length, code) = (word(head, 0), word(head, 4));
    match code {
        SSL_REQUEST | GSS_REQUEST => length == HEAD as u32,
        CANCEL_REQUEST => length > HEAD as u32 && length <= MAX_STARTUP,
        _ => code >> 16 == 3 && length > HEAD as u32 && length <= MAX_STARTUP,
    }
}

/// A number in network order; 0 where there are too few bytes.
fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_be_bytes(*four))
}
