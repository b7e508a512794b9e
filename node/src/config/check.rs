//! What a `node.toml` must fulfil beyond its form. Each message names the key and the remedy.

use super::{Authority, Node, Protocol, RELAY_SOURCE, Server, Upstream};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use vianet::resolve::ticket::MAX_TICKET_SERVERS;
use vianet::via::Tls;

impl Node {
    /// Checks everything that can be checked without touching the system.
    ///
    /// # Errors
    /// The text names the key and the remedy.
    pub fn check(&self) -> Result<(), String> {
        name("node", &self.node, 64)?;
        name("cluster", &self.cluster, 64)?;
        if hex::<16>(&self.cluster_id).is_none() {
            return Err(format!(
                "cluster_id = {:?}: must be 32 hex digits, equal on all nodes of the cluster; \
                 `vianet keygen` makes one",
                self.cluster_id
            ));
        }
        self.check_listen()?;
        self.check_peers()?;
        let Authority::Keepalive {
            interval_ms,
            lost_after,
            start_wait_ms,
            retry_ms,
        } = self.authority;
        range("authority.interval_ms", interval_ms, 10, 60_000)?;
        range("authority.lost_after", lost_after.into(), 2, 100)?;
        range("authority.start_wait_ms", start_wait_ms, 1, 3_600_000)?;
        range("authority.retry_ms", retry_ms, 1, 3_600_000)?;
        let limits = &self.limits;
        if !limits.max_ring_bytes.is_power_of_two() {
            return Err(format!(
                "limits.max_ring_bytes = {}: must be a power of two",
                limits.max_ring_bytes
            ));
        }
        range(
            "limits.max_ring_bytes",
            limits.max_ring_bytes.into(),
            4096,
            1 << 30,
        )?;
        range("limits.channels", limits.channels as u64, 1, 1 << 20)?;
        range("limits.logins", limits.logins as u64, 0, 1 << 20)?;
        range(
            "limits.channels_per_peer",
            limits.channels_per_peer as u64,
            1,
            1 << 20,
        )?;
        range("limits.answers", limits.answers.into(), 1, 10_000_000)?;
        range(
            "limits.answers_per_source",
            limits.answers_per_source.into(),
            1,
            10_000_000,
        )?;
        range("limits.ttl_ms", limits.ttl_ms, 1, 86_400_000)?;
        range("limits.resume_ms", limits.resume_ms, 0, 3_600_000)?;
        range("limits.relay_threads", limits.relay_threads as u64, 0, 64)?;
        if self.servers.is_empty() {
            return Err(
                "servers is empty: add at least one [[servers]] with name and upstream".into(),
            );
        }
        let mut seen = BTreeSet::new();
        let mut with_tickets = 0;
        for server in &self.servers {
            server.check()?;
            if server.tickets.is_some() && self.key_file.is_none() {
                return Err(format!(
                    "key_file is missing: with servers.{}.tickets, nodes and clients must know each other; `vianet \
                     keygen` makes a key",
                    server.name
                ));
            }
            if server.tickets.is_some() && self.peers.is_empty() {
                return Err(format!(
                    "servers.{}.tickets: there is no other node to redeem them: name it in [[peers]], or remove the table",
                    server.name
                ));
            }
            with_tickets += usize::from(server.tickets.is_some());
            if with_tickets > MAX_TICKET_SERVERS {
                return Err(format!(
                    "servers.{}.tickets: more than {MAX_TICKET_SERVERS} servers have tickets; remove the table",
                    server.name
                ));
            }
            if !seen.insert(server.name.to_ascii_lowercase()) {
                return Err(format!(
                    "servers.{}: two [[servers]] have this name (names are compared without case); \
                     rename one",
                    server.name
                ));
            }
        }
        Ok(())
    }

    fn check_listen(&self) -> Result<(), String> {
        if self.listen.query.is_empty() {
            return Err(
                "listen.query is empty: name at least one ADDRESS:PORT (port 1434 for SSRP clients)".into(),
            );
        }
        if self.listen.via_tcp.is_empty() && self.listen.via_rdma.is_empty() && !self.listen.shm {
            return Err(
                "listen: neither via_tcp nor via_rdma nor shm: clients could ask and not connect; name one"
                    .into(),
            );
        }
        for addr in &self.listen.query {
            if addr.ip().is_unspecified() {
                return Err(format!(
                    "listen.query = {addr}: name the addresses one by one; a wildcard socket would answer from \
                     another address than it was asked at, and clients drop that"
                ));
            }
        }
        let tcp = self.listen.via_tcp.iter().map(|a| ("via_tcp", a));
        let rdma = self.listen.via_rdma.iter().map(|a| ("via_rdma", a));
        for (key, addr) in tcp.chain(rdma) {
            if addr.ip().is_unspecified() {
                return Err(format!(
                    "listen.{key} = {addr}: name the addresses one by one; answers tell clients where to connect"
                ));
            }
        }
        Ok(())
    }

    fn check_peers(&self) -> Result<(), String> {
        let mut seen = BTreeSet::from([self.node.as_str()]);
        for peer in &self.peers {
            name("peers.node", &peer.node, 64)?;
            if !seen.insert(&peer.node) {
                return Err(format!(
                    "peers: {:?} is named twice, or is this node itself; name every other node once",
                    peer.node
                ));
            }
            if self.listen.query.contains(&peer.query) {
                return Err(format!(
                    "peers.{}.query = {}: that is this node's own address",
                    peer.node, peer.query
                ));
            }
            if peer.query.port() == 0 {
                return Err(format!(
                    "peers.{}.query = {}: name the port, that of the peer's listen.query (1434)",
                    peer.node, peer.query
                ));
            }
            // Keep-alives leave from these sockets.
            let to = peer.query.ip().to_canonical();
            let reaches = |own: &SocketAddr| {
                let own = own.ip().to_canonical();
                own.is_ipv4() == to.is_ipv4() && (to.is_loopback() || !own.is_loopback())
            };
            if !self.listen.query.iter().any(reaches) {
                return Err(format!(
                    "peers.{}.query = {}: no address of listen.query can send there; add this node's address in the \
                     peer's network",
                    peer.node, peer.query
                ));
            }
        }
        if self.peers.len() > 1 {
            return Err(
                "peers: authority.kind = \"keepalive\" works between two nodes; name one peer"
                    .into(),
            );
        }
        if self.listen.tls == Tls::Require && self.key_file.is_none() {
            return Err(
                "key_file is missing: with listen.tls = \"require\" clients know this node by it; `vianet keygen` makes a key"
                    .into(),
            );
        }
        if !self.peers.is_empty() && self.key_file.is_none() {
            return Err(
                "key_file is missing: with peers, keep-alives must be signed; `vianet keygen` makes a key".into(),
            );
        }
        Ok(())
    }
}

impl Server {
    fn check(&self) -> Result<(), String> {
        let at = |key: &str| format!("servers.{}.{key}", self.name);
        name("servers.name", &self.name, 32)?;
        if let Upstream::Unix(path) = &self.upstream {
            if !self.allow_unauthenticated_upstream {
                return Err(format!(
                    "{} = unix:{}: the SQL server would take every remote client for a local user; use \
                     ADDRESS:PORT, or set allow_unauthenticated_upstream = true if that is wanted",
                    at("upstream"),
                    path.display()
                ));
            }
            if self.upstream_source.is_some() {
                return Err(format!(
                    "{}: has no meaning with a Unix upstream; remove it",
                    at("upstream_source")
                ));
            }
        }
        if let Upstream::Tcp(addr) = &self.upstream
            && addr.port() == 0
        {
            return Err(format!(
                "{} = {addr}: name the port at which the SQL server listens",
                at("upstream")
            ));
        }
        if let (Upstream::Tcp(addr), Some(source)) = (&self.upstream, self.upstream_source)
            && addr.is_ipv4() != source.is_ipv4()
        {
            return Err(format!(
                "{} = {source}: not of the address family of upstream = {addr}",
                at("upstream_source")
            ));
        }
        if let (Upstream::Tcp(addr), Some(source), false) = (
            &self.upstream,
            self.upstream_source,
            self.allow_unauthenticated_upstream,
        ) && is_local_clients_own(source, addr.ip())
        {
            return Err(format!(
                "{} = {source}: with upstream = {addr} relayed clients would come from where this machine's own \
                 connections come from, and the SQL server would take every remote client for a local one; name an \
                 address of this machine that nothing else uses ({RELAY_SOURCE}, or any other of 127.0.0.0/8, if the \
                 SQL server runs on this machine), or set allow_unauthenticated_upstream = true if that is wanted",
                at("upstream_source")
            ));
        }
        if let (Upstream::Tcp(addr), None, false) = (
            &self.upstream,
            self.relay_source(),
            self.allow_unauthenticated_upstream,
        ) {
            let key = at("upstream_source");
            return Err(if addr.ip().is_loopback() {
                format!(
                    "{key} is missing: with upstream = {addr} the SQL server would take every remote client for a local \
                     one, since [::1] is the only loopback address of IPv6; name another address of this machine, or let \
                     the SQL server listen on an address of 127.0.0.0/8"
                )
            } else {
                format!(
                    "{key} is missing: with upstream = {addr} relayed clients would come from whatever address this \
                     machine's own connections have, and the SQL server's access rules could not tell them apart; name \
                     an address of this machine that nothing else uses ({RELAY_SOURCE}, or any other of 127.0.0.0/8, if \
                     the SQL server runs on this machine)"
                )
            });
        }
        let version_ok = !self.version.is_empty()
            && self.version.len() <= 16
            && self
                .version
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'.');
        if !version_ok {
            return Err(format!(
                "{} = {:?}: digits and dots, at most 16 bytes",
                at("version"),
                self.version
            ));
        }
        for (key, addrs) in [
            ("advertise_tcp", &self.advertise_tcp),
            ("advertise_dac", &self.advertise_dac),
        ] {
            if let Some(addr) =
                (addrs.iter()).find(|addr| addr.ip().is_unspecified() || addr.port() == 0)
            {
                return Err(format!(
                    "{} = {addr}: name an address and a port that clients can connect to",
                    at(key)
                ));
            }
        }
        if let Some(np) = &self.advertise_np
            && (np.is_empty()
                || np.len() > 255
                || np.bytes().any(|b| b == b';' || !b.is_ascii_graphic()))
        {
            return Err(format!(
                "{} = {np:?}: 1 to 255 printable ASCII bytes without ';'",
                at("advertise_np")
            ));
        }
        range(
            &at("health_interval_ms"),
            self.health_interval_ms,
            10,
            60_000,
        )?;
        range(&at("health_failures"), self.health_failures.into(), 1, 1000)?;
        range(&at("promote_wait_ms"), self.promote_wait_ms, 1, 3_600_000)?;
        let hooks = &self.hooks;
        for (key, limit) in [
            ("fence", hooks.fence_timeout_ms),
            ("promote", hooks.promote_timeout_ms),
            ("demote", hooks.demote_timeout_ms),
            ("ready", hooks.ready_timeout_ms),
            ("health", hooks.health_timeout_ms),
        ] {
            range(&at(&format!("hooks.{key}_timeout_ms")), limit, 1, 3_600_000)?;
        }
        self.check_tickets()
    }
}

impl Server {
    fn check_tickets(&self) -> Result<(), String> {
        let Some(tickets) = &self.tickets else {
            return Ok(());
        };
        let at = |key: &str| format!("servers.{}.tickets{key}", self.name);
        if self.protocol != Protocol::Postgres || self.allow_unauthenticated_upstream {
            return Err(format!(
                "{}: tickets are for logins that the relay watches: set protocol = \"postgres\", and do not set \
                 allow_unauthenticated_upstream; or remove the table",
                at("")
            ));
        }
        for (key, value) in [(".role", &tickets.role), (".database", &tickets.database)] {
            if !(1..=63).contains(&value.len()) || value.contains(char::is_control) {
                return Err(format!("{} = {value:?}: 1 to 63 bytes", at(key)));
            }
        }
        if let Some(Upstream::Tcp(addr)) = &tickets.connect
            && addr.port() == 0
        {
            return Err(format!("{} = {addr}: name the port", at(".connect")));
        }
        let longest = crate::ticket::epochs::LONGEST.as_secs();
        range(&at(".lifetime_s"), tickets.lifetime_s, 60, longest)
    }
}

/// Whether programs of this machine that connect to `upstream` come from `source` anyway: the system gives a connection
/// to an address of the machine itself `127.0.0.1`, `[::1]`, or that very address.
fn is_local_clients_own(source: IpAddr, upstream: IpAddr) -> bool {
    let (source, upstream) = (source.to_canonical(), upstream.to_canonical());
    let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    source.is_unspecified() || local.contains(&source) || source == upstream
}

fn range(key: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(format!("{key} = {value}: must be from {min} to {max}"))
    }
}

fn name(key: &str, value: &str, max: usize) -> Result<(), String> {
    let ok = !value.is_empty()
        && value.len() <= max
        && !value.starts_with('.')
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{key} = {value:?}: 1 to {max} of A-Z a-z 0-9 . _ -, not beginning with a dot"
        ))
    }
}

/// Exactly `N` bytes from hex digits.
pub(super) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.trim();
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    // `from_str_radix` also takes "+f".
    text.bytes().all(|b| b.is_ascii_hexdigit()).then_some(out)
}
