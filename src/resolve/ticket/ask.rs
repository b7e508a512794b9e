//! The datagrams by which the owner of a channel asks its node for the channel's ticket.

use super::{Key, MAX_TICKET_BYTES, Why};
use crate::resolve::identity::{PublicKey, SecretKey};
use crate::resolve::query::REQUEST_BYTES;
use crate::resolve::wire::{MAX_SERVER_BYTES, Nonce, Reader, Refused, Writer};

/// Type of [`Ask`].
pub const TYPE_ASK: u8 = 7;
/// Type of [`Given`].
pub const TYPE_GIVEN: u8 = 8;

const ASK_CONTEXT: &[u8] = b"vianet ticket ask 1\0";
const GIVEN_CONTEXT: &[u8] = b"vianet ticket given 1\0";

/// "I am the owner of this channel: what is its ticket?" As long as a cluster query, and answered by less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Ties the answer to this request.
    pub nonce: Nonce,
    /// The server name without its cluster, lower case.
    pub server: String,
    /// From the channel's accept.
    pub channel: u64,
    /// The key to which the channel's connect has committed. It signs the request.
    pub public: PublicKey,
}

/// The node's answer, signed by the cluster's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Here it is, good for so many seconds.
    Ticket {
        /// Sealed: only a node can open it.
        ticket: Vec<u8>,
        /// From now on.
        seconds: u32,
    },
    /// There is none.
    Not(Why),
}

impl Ask {
    /// The request's bytes, signed by `key`, which must be that of [`Ask::public`].
    pub fn encode(&self, key: &Key) -> Result<Vec<u8>, Refused> {
        let mut w = Writer::new(TYPE_ASK);
        w.bytes(&self.nonce)
            .u64(self.channel)
            .bytes(&self.public.0)
            .text(&self.server, MAX_SERVER_BYTES, "server")?;
        let mut bytes = w.finish_with(
            REQUEST_BYTES,
            ASK_CONTEXT,
            Some(|signed: &[u8]| key.sign(signed)),
        )?;
        bytes.resize(REQUEST_BYTES, 0);
        Ok(bytes)
    }

    /// A node's reading of a request: whoever sent it has the secret part of [`Ask::public`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() < REQUEST_BYTES {
            return Err(Refused::Short);
        }
        if bytes.len() > REQUEST_BYTES {
            return Err(Refused::Long);
        }
        let (_, mut r) = Reader::new(bytes, &[TYPE_ASK], true)?;
        let size = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let (nonce, channel) = (r.take()?, r.u64()?);
        let public = PublicKey(r.take()?);
        let server = r.text(MAX_SERVER_BYTES, "server")?.to_ascii_lowercase();
        r.finish(&bytes[..size], ASK_CONTEXT, true, Some(&public))?;
        Ok(Self {
            nonce,
            server,
            channel,
            public,
        })
    }

    /// A node's answer to this request.
    pub fn answer(&self, given: &Given, signer: &SecretKey) -> Result<Vec<u8>, Refused> {
        let mut w = Writer::new(TYPE_GIVEN);
        let (why, seconds, ticket) = match given {
            Given::Ticket { ticket, seconds } => (0, *seconds, &ticket[..]),
            Given::Not(why) => (*why as u8, 0, &[][..]),
        };
        w.bytes(&self.nonce)
            .u64(self.channel)
            .u8(why)
            .u32(seconds)
            .blob(ticket, MAX_TICKET_BYTES, "ticket")?;
        w.finish(REQUEST_BYTES, GIVEN_CONTEXT, Some(signer))
    }

    /// A client's reading of an answer to this request, which must be signed by `key`.
    pub fn parse_answer(&self, bytes: &[u8], key: &PublicKey) -> Result<Given, Refused> {
        if bytes.len() > REQUEST_BYTES {
            return Err(Refused::Long);
        }
        let (_, mut r) = Reader::new(bytes, &[TYPE_GIVEN], false)?;
        if r.take()? != self.nonce {
            return Err(Refused::Nonce);
        }
        if r.u64()? != self.channel {
            return Err(Refused::Field("channel"));
        }
        let (why, seconds) = (r.u8()?, r.u32()?);
        let ticket = r.blob(MAX_TICKET_BYTES)?.to_vec();
        r.finish(bytes, GIVEN_CONTEXT, true, Some(key))?;
        match (why, ticket.is_empty()) {
            (0, false) => Ok(Given::Ticket { ticket, seconds }),
            (0, true) => Err(Refused::Field("ticket")),
            (n, _) => Why::from_wire(n)
                .map(Given::Not)
                .ok_or(Refused::Field("reason")),
        }
    }
}
