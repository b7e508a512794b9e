//! Datagrams between the nodes of a cluster (claims 28 and 29), signed by the cluster's key.
//!
//! Every datagram carries a fresh nonce of its sender and echoes the last nonce that the sender had from the receiver.
//! A receiver believes in the *present* only what echoes a nonce it has just sent (that is an *exchange*); what does not
//! can be an old datagram sent again, and may only start an exchange. `sequence` grows with every datagram of one
//! incarnation, so that datagrams that overtake each other are told apart. `docs/protocol.md`, "Keep-alive".

use super::identity::{PublicKey, SecretKey};
use super::wire::{self, MAX_NODE_BYTES, MAX_SERVER_BYTES, Nonce, Reader, Refused, Writer};
use super::{ClusterId, Generation, Role};

/// Longest keep-alive datagram; about 30 servers of 20 bytes fit. More are split over several datagrams.
pub const MAX_KEEPALIVE_BYTES: usize = 1400;

const CONTEXT: &[u8] = b"vianet keep-alive 1\0";

/// What a keep-alive datagram is. The numbers are its type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// "Are you there?" The passive node sends it periodically; it is answered by a pong.
    Ping = 3,
    /// The answer to a ping.
    Pong = 4,
    /// The sender gives the listed servers up (its role in the list is no longer active): take over now.
    /// Answered by an announcement once that is done, and by a pong at once.
    Resign = 5,
    /// The sender has become active for the listed servers with the listed generations. Answered by a pong.
    Announce = 6,
}

/// One server name in a keep-alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// The server name without its cluster, lower case.
    pub name: String,
    /// What the sender is for it.
    pub role: Role,
    /// The largest generation that the sender knows for it.
    pub generation: Generation,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// What it is.
    pub kind: Kind,
    /// The sender's cluster.
    pub cluster_id: ClusterId,
    /// The sender's node name.
    pub from: String,
    /// The receiver's node name: a datagram for another node is not to be believed.
    pub to: String,
    /// Random number of this run of the sender; another one means that it was restarted.
    pub incarnation: u64,
    /// Grows by at least one with every datagram of an incarnation.
    pub sequence: u64,
    /// Fresh random number of the sender.
    pub nonce: Nonce,
    /// The last nonce that the sender had from the receiver; zeros when it had none.
    pub echo: Nonce,
    /// The servers of the sender, or those that a resignation or an announcement is about.
    pub servers: Vec<ServerState>,
}

impl KeepAlive {
    /// The signed bytes. Fails when names are too long or it does not fit [`MAX_KEEPALIVE_BYTES`].
    pub fn encode(&self, signer: &SecretKey) -> Result<Vec<u8>, Refused> {
        let mut w = Writer::new(self.kind as u8);
        w.bytes(&self.cluster_id)
            .u64(self.incarnation)
            .u64(self.sequence)
            .bytes(&self.nonce)
            .bytes(&self.echo);
        w.text(&self.from, MAX_NODE_BYTES, "from")?;
        w.text(&self.to, MAX_NODE_BYTES, "to")?;
        w.u16(u16::try_from(self.servers.len()).map_err(|_| Refused::Long)?);
        for server in &self.servers {
            w.u8(server.role as u8).u64(server.generation);
            w.text(&server.name, MAX_SERVER_BYTES, "server")?;
        }
        w.finish(MAX_KEEPALIVE_BYTES, CONTEXT, Some(signer))
    }

    /// Reads a datagram that must be signed by `key`; `now_ms` is the wall clock in milliseconds since 1970. Whether it
    /// is for this node and cluster, and fresh, is the caller's to compare ([`KeepAlive::echo`]).
    pub fn parse(bytes: &[u8], now_ms: u64, key: &PublicKey) -> Result<Self, Refused> {
        if bytes.len() > MAX_KEEPALIVE_BYTES {
            return Err(Refused::Long);
        }
        let kinds = Kind::ALL.map(|k| k as u8);
        let (kind, mut r) = Reader::new(bytes, &kinds, false)?;
        let kind = Kind::from_wire(kind).ok_or(Refused::Type)?;
        let (cluster_id, incarnation, sequence) = (r.take()?, r.u64()?, r.u64()?);
        let (nonce, echo) = (r.take()?, r.take()?);
        let from = r.text(MAX_NODE_BYTES, "from")?;
        let to = r.text(MAX_NODE_BYTES, "to")?;
        let count = r.u16()?;
        let mut servers = Vec::new();
        for _ in 0..count {
            let role = Role::from_wire(r.u8()?).ok_or(Refused::Field("role"))?;
            let generation = r.u64()?;
            let name = r.text(MAX_SERVER_BYTES, "server")?;
            servers.push(ServerState {
                name,
                role,
                generation,
            });
        }
        r.finish(bytes, CONTEXT, true, Some(key))?;
        for server in &servers {
            wire::check_generation(server.generation, now_ms)?;
        }
        Ok(Self {
            kind,
            cluster_id,
            from,
            to,
            incarnation,
            sequence,
            nonce,
            echo,
            servers,
        })
    }
}

impl Kind {
    const ALL: [Self; 4] = [Self::Ping, Self::Pong, Self::Resign, Self::Announce];

    /// The kind with this type on the wire ([`wire::datagram_type`]).
    pub fn from_wire(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as u8 == n)
    }
}

#[cfg(test)]
#[path = "keepalive_tests.rs"]
mod tests;
