//! The cluster query: our own datagram for what SSRP cannot carry without breaking foreign clients (DESIGN section 6).
//!
//! A request is always [`REQUEST_BYTES`] long and an answer never longer, so that a node is of no use to reflect and
//! amplify. The nonce is fresh for every query, and the signature covers all of the answer, the name and the nonce
//! included. `docs/protocol.md`, "Cluster query", has the bytes.

use super::identity::{PublicKey, SecretKey};
use super::wire::{self, MAX_NODE_BYTES, MAX_SERVER_BYTES, Nonce, Reader, Refused, Writer};
use super::{Answer, ClusterId, Endpoint, Generation, Role};
use crate::via::Transport;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Length of every request, and the most an answer may have.
pub const REQUEST_BYTES: usize = 640;
/// Type of a request.
pub const TYPE_QUERY: u8 = 1;
/// Type of an answer.
pub const TYPE_ANSWER: u8 = 2;
/// Most endpoints of an answer.
pub const MAX_ENDPOINTS: usize = 8;

const CONTEXT: &[u8] = b"vianet cluster answer 1\0";
const SIGNED: u8 = 1;
const HAS_CLUSTER_ID: u8 = 2;

/// "Who serves `server`?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Ties the answer to this request.
    pub nonce: Nonce,
    /// The server name without its cluster, lower case.
    pub server: String,
    /// The asker has seen this generation: smaller ones are of no use to it.
    pub min_generation: Generation,
}

impl Query {
    /// The request's bytes. Fails for names that are empty, too long or have control characters.
    pub fn encode(&self) -> Result<Vec<u8>, Refused> {
        let mut w = Writer::new(TYPE_QUERY);
        w.bytes(&self.nonce).u64(self.min_generation);
        w.text(&self.server, MAX_SERVER_BYTES, "server")?;
        let mut bytes = w.finish(REQUEST_BYTES, b"", None)?;
        bytes.resize(REQUEST_BYTES, 0);
        Ok(bytes)
    }

    /// A node's reading of a request; `server` comes out in lower case.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        // The length first: a short request with a forged source address must not buy an answer.
        if bytes.len() < REQUEST_BYTES {
            return Err(Refused::Short);
        }
        if bytes.len() > REQUEST_BYTES {
            return Err(Refused::Long);
        }
        let (_, mut r) = Reader::new(bytes, &[TYPE_QUERY], true)?;
        let nonce = r.take()?;
        let min_generation = r.u64()?;
        let server = r.text(MAX_SERVER_BYTES, "server")?.to_ascii_lowercase();
        r.finish(bytes, b"", false, None)?;
        Ok(Self {
            nonce,
            server,
            min_generation,
        })
    }

    /// A node's answer to this request: `answer.authentic` is not looked at, it is signed if there is a `signer`.
    /// Fails only for an answer that cannot be expressed (names too long, too many endpoints).
    pub fn answer(&self, answer: &Answer, signer: Option<&SecretKey>) -> Result<Vec<u8>, Refused> {
        let flags = if signer.is_some() { SIGNED } else { 0 }
            | if answer.cluster_id.is_some() {
                HAS_CLUSTER_ID
            } else {
                0
            };
        let mut w = Writer::new(TYPE_ANSWER);
        w.bytes(&self.nonce)
            .bytes(&answer.cluster_id.unwrap_or_default())
            .u64(answer.generation)
            .u32(u32::try_from(answer.ttl.as_millis()).unwrap_or(u32::MAX))
            .u8(answer.role as u8)
            .u8(flags);
        w.text(&self.server, MAX_SERVER_BYTES, "server")?;
        w.text(&answer.node, MAX_NODE_BYTES, "node")?;
        if answer.endpoints.len() > MAX_ENDPOINTS {
            return Err(Refused::Field("endpoints"));
        }
        w.u8(answer.endpoints.len() as u8);
        for endpoint in &answer.endpoints {
            write_endpoint(&mut w, endpoint);
        }
        w.finish(REQUEST_BYTES, CONTEXT, signer)
    }

    /// A client's reading of an answer to this request. `now_ms` is the wall clock in milliseconds since 1970; with a
    /// `pinned` key the answer must be signed by it, without one a signature is not looked at.
    pub fn parse_answer(
        &self,
        bytes: &[u8],
        now_ms: u64,
        pinned: Option<&PublicKey>,
    ) -> Result<Answer, Refused> {
        if bytes.len() > REQUEST_BYTES {
            return Err(Refused::Long);
        }
        let (_, mut r) = Reader::new(bytes, &[TYPE_ANSWER], false)?;
        if r.take()? != self.nonce {
            return Err(Refused::Nonce);
        }
        let cluster_id: ClusterId = r.take()?;
        let generation = r.u64()?;
        let ttl = Duration::from_millis(r.u32()?.into());
        let role = Role::from_wire(r.u8()?).ok_or(Refused::Field("role"))?;
        let flags = r.u8()?;
        if flags & !(SIGNED | HAS_CLUSTER_ID) != 0 {
            return Err(Refused::Field("flags"));
        }
        if !r
            .text(MAX_SERVER_BYTES, "server")?
            .eq_ignore_ascii_case(&self.server)
        {
            return Err(Refused::Name);
        }
        let node = r.text(MAX_NODE_BYTES, "node")?;
        if node.contains('/') || node.starts_with('.') {
            // It names a socket file in the client's own directory.
            return Err(Refused::Field("node"));
        }
        let count = usize::from(r.u8()?);
        if count > MAX_ENDPOINTS {
            return Err(Refused::Field("endpoints"));
        }
        let endpoints = (0..count)
            .map(|_| read_endpoint(&mut r))
            .collect::<Result<Vec<_>, _>>()?;
        let authentic = r.finish(bytes, CONTEXT, flags & SIGNED != 0, pinned)?;
        wire::check_generation(generation, now_ms)?;
        Ok(Answer {
            cluster_id: (flags & HAS_CLUSTER_ID != 0).then_some(cluster_id),
            node,
            role,
            generation,
            ttl,
            endpoints: endpoints.into_iter().flatten().collect(),
            authentic,
            from: None,
        })
    }
}

fn write_endpoint(w: &mut Writer, endpoint: &Endpoint) {
    let (family, octets) = match endpoint.addr.ip() {
        IpAddr::V4(a) => (4, a.to_ipv6_mapped().octets()),
        IpAddr::V6(a) => (6, a.octets()),
    };
    w.u8(endpoint.transport as u8)
        .u8(family)
        .u16(endpoint.addr.port())
        .bytes(&octets);
}

// A transport of a later version is skipped (`None`), so that it can be added; anything else wrong is refused.
fn read_endpoint(r: &mut Reader<'_>) -> Result<Option<Endpoint>, Refused> {
    let transport = Transport::from_wire(r.u8()?);
    let family = r.u8()?;
    let port = r.u16()?;
    let v6 = Ipv6Addr::from(r.take::<16>()?);
    let ip: IpAddr = match (family, v6.to_ipv4_mapped()) {
        (4, Some(v4)) => v4.into(),
        (6, None) => v6.into(),
        _ => return Err(Refused::Field("endpoint.address")),
    };
    let Some(transport) = transport else {
        return Ok(None);
    };
    let addr = SocketAddr::new(ip, port);
    let usable = port != 0 && !ip.is_unspecified() && !ip.is_multicast();
    if transport == Transport::Shm {
        // Never an address from the wire: the socket is found by node name in the client's own directory.
        return Ok(Some(Endpoint {
            transport,
            addr: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        }));
    }
    if !usable || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(Refused::Field("endpoint.address"));
    }
    Ok(Some(Endpoint { transport, addr }))
}

impl Role {
    /// The role with this number on the wire.
    pub fn from_wire(n: u8) -> Option<Self> {
        [Self::Active, Self::Passive, Self::TakingOver, Self::Unknown]
            .into_iter()
            .find(|r| *r as u8 == n)
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
