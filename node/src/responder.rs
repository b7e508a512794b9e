//! What a datagram on a query address is answered with: SSRP for foreign clients, the cluster query for ours.
//!
//! No I/O. Silence (`None`) is the answer to everything that is malformed, unknown in SSRP, over its rate, or from
//! source port 1434 (two responders must not be made to talk to each other).

use crate::bucket::Buckets;
use crate::config::{Node, Protocol};
use crate::role::PeerRole;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use vianet::resolve::identity::SecretKey;
use vianet::resolve::query::{Query, REQUEST_BYTES, TYPE_QUERY};
use vianet::resolve::ssrp::{self, Instance, MAX_NETBIOS, Via};
use vianet::resolve::wire::datagram_type;
use vianet::resolve::{Answer, ClusterId, Endpoint, Generation, Role};
use vianet::via::Transport;

mod waiting;

#[cfg(test)]
mod tests;

use waiting::Waiting;

/// What this node is for one server name, as clients are told.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Lower case.
    pub name: String,
    /// The role.
    pub role: PeerRole,
    /// See [`PeerRole`].
    pub generation: Generation,
    /// Active and within its lease. An active node outside of it says nothing until it has asked its peer.
    pub serving: bool,
}

/// See the module's text.
pub struct Responder {
    node: String,
    cluster_id: ClusterId,
    signer: Option<SecretKey>,
    ttl: Duration,
    servers: Vec<crate::config::Server>,
    via_rdma: Vec<SocketAddr>,
    via_tcp: Vec<SocketAddr>,
    shm: bool,
    /// Sessions may wait here while another node serves them.
    warm: bool,
    buckets: Buckets,
    waiting: Waiting,
}

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// From which address of ours.
    pub local: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

impl Responder {
    /// `listening` has the real addresses, after binding; `listen.advertise_via_tcp` is told in the place of tcp's.
    pub fn new(config: &Node, signer: Option<SecretKey>, listening: &[Endpoint]) -> Self {
        let of = |transport| {
            let endpoints = listening.iter().filter(|e| e.transport == transport);
            endpoints.map(|e| e.addr).collect()
        };
        let via_tcp = match &config.listen.advertise_via_tcp[..] {
            [] => of(Transport::Tcp),
            told => told.to_vec(),
        };
        Self {
            node: config.node.clone(),
            cluster_id: config.cluster_id_bytes(),
            signer,
            ttl: Duration::from_millis(config.limits.ttl_ms),
            servers: config.servers.clone(),
            via_rdma: of(Transport::Rdma),
            via_tcp,
            shm: config.listen.shm,
            warm: config.limits.warm_sessions > 0,
            buckets: Buckets::new(config.limits.answers_per_source, config.limits.answers),
            waiting: Waiting::default(),
        }
    }

    /// The answer to `datagram`, which came from `from` to our address `local`.
    pub fn answer(
        &mut self,
        now: Duration,
        local: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        standings: &[Standing],
    ) -> Option<Vec<u8>> {
        if from.port() == ssrp::PORT || from.port() == 0 {
            return None;
        }
        if datagram_type(datagram) == Some(TYPE_QUERY) {
            let query = Query::parse(datagram).ok()?;
            let mut answer = self.cluster_answer(&query, standings)?;
            if !self.buckets.allow(now, from.ip()) {
                return None;
            }
            let mut bytes = query.answer(&answer, self.signer.as_ref()).ok()?;
            if answer.role != Role::Active && 2 * bytes.len() > REQUEST_BYTES {
                // There must be room for a second answer.
                answer.endpoints.clear();
                bytes = query.answer(&answer, self.signer.as_ref()).ok()?;
            }
            if matches!(answer.role, Role::Passive | Role::TakingOver) {
                self.waiting.add(now, query, local, from, bytes.len());
            }
            return Some(bytes);
        }
        let request = ssrp::Request::parse(datagram)?;
        let instances: Vec<Instance> = self
            .servers
            .iter()
            .zip(standings)
            .filter(|(_, standing)| standing.serving)
            .map(|(server, _)| self.instance(server, local))
            .collect();
        let answer = request.answer(&instances)?;
        self.buckets.allow(now, from.ip()).then_some(answer)
    }

    /// Second answers, for those who asked for a name that this node serves by now.
    pub fn second_answers(&mut self, now: Duration, standings: &[Standing]) -> Vec<Reply> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let is_served = |server: &str| standings.iter().any(|it| it.serving && it.name == server);
        let waiting = self.waiting.take(now, is_served);
        let mut replies = Vec::new();
        for question in waiting {
            let answer = self.cluster_answer(&question.query, standings);
            let bytes = answer.and_then(|it| question.query.answer(&it, self.signer.as_ref()).ok());
            let bytes = bytes.filter(|bytes| bytes.len() <= question.room);
            if let Some(bytes) = bytes
                && self.buckets.allow(now, question.from.ip())
            {
                replies.push(Reply {
                    local: question.local,
                    to: question.from,
                    bytes,
                });
            }
        }
        replies
    }

    /// Whether something else than an answer of ours may be sent to `from`: the same rules for all.
    pub fn allows(&mut self, now: Duration, from: SocketAddr) -> bool {
        from.port() != ssrp::PORT && from.port() != 0 && self.buckets.allow(now, from.ip())
    }

    fn cluster_answer(&self, query: &Query, standings: &[Standing]) -> Option<Answer> {
        let found = standings.iter().position(|s| s.name == query.server);
        let (role, generation, endpoints) = match found {
            None => (Role::Unknown, 0, Vec::new()),
            Some(i) => {
                let standing = &standings[i];
                match standing.role {
                    PeerRole::Active if !standing.serving => return None,
                    PeerRole::Active => (
                        Role::Active,
                        standing.generation,
                        self.endpoints(&self.servers[i]),
                    ),
                    PeerRole::Passive => {
                        let endpoints = self.warm.then(|| self.via(&self.servers[i]));
                        let endpoints = endpoints.unwrap_or_default();
                        (Role::Passive, standing.generation, endpoints)
                    }
                    PeerRole::Starting | PeerRole::TakingOver => {
                        (Role::TakingOver, standing.generation, Vec::new())
                    }
                }
            }
        };
        Some(Answer {
            cluster_id: Some(self.cluster_id),
            node: self.node.clone(),
            role,
            generation,
            ttl: self.ttl,
            endpoints,
            authentic: false,
            from: None,
        })
    }

    /// Where a session may wait; only where it is known what a login is.
    fn via(&self, server: &crate::config::Server) -> Vec<Endpoint> {
        let mut endpoints = self.endpoints(server);
        endpoints.retain(|endpoint| endpoint.transport != Transport::Plain);
        match server.protocol {
            Protocol::Postgres => endpoints,
            Protocol::Raw => Vec::new(),
        }
    }

    fn endpoints(&self, server: &crate::config::Server) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if self.shm {
            endpoints.push(Endpoint {
                transport: Transport::Shm,
                addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            });
        }
        // There must be room for one of each transport.
        let most = vianet::resolve::query::MAX_ENDPOINTS;
        for (transport, addrs, room) in [
            (Transport::Rdma, &self.via_rdma, most - 2),
            (Transport::Tcp, &self.via_tcp, most - 1),
        ] {
            let left = room.saturating_sub(endpoints.len());
            let addrs = addrs.iter().take(left);
            endpoints.extend(addrs.map(|&addr| Endpoint { transport, addr }));
        }
        let left = most.saturating_sub(endpoints.len());
        let plain = server.advertise_tcp.iter().take(left);
        endpoints.extend(plain.map(|&addr| Endpoint {
            transport: Transport::Plain,
            addr,
        }));
        endpoints
    }

    /// As [MC-SQLR] 2.2.5 has it. A port is told only if it can be reached at the address that was asked, because that
    /// is where such a client connects.
    fn instance(&self, server: &crate::config::Server, local: SocketAddr) -> Instance {
        let here = |addr: &&SocketAddr| addr.ip() == local.ip();
        let port = |addrs: &[SocketAddr]| addrs.iter().find(here).map(SocketAddr::port);
        let netbios: String = self
            .node
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '-'
                }
            })
            .take(MAX_NETBIOS)
            .collect();
        let ports: Vec<(u32, u32)> = self
            .via_tcp
            .iter()
            .filter(here)
            .map(|addr| (0, addr.port().into()))
            .collect();
        Instance {
            server_name: self.node.clone(),
            instance_name: server.name.clone(),
            clustered: true,
            version: server.version.clone(),
            tcp: port(&server.advertise_tcp),
            dac: port(&server.advertise_dac),
            np: server.advertise_np.clone(),
            via: (!ports.is_empty()).then_some(Via { netbios, ports }),
        }
    }
}
