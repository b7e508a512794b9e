//! Server names: what the application asks for, and the fake addresses that `getaddrinfo` gives for them.
//!
//! Three forms (DESIGN section 1): `cluster\server`, `server.cluster`, and an alias of the configuration. Names are not
//! case-sensitive; the canonical form is lower case (ASCII).

use crate::config::{Client, Cluster};
use crate::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name in bytes, in any form.
pub const MAX_NAME_BYTES: usize = 255;

/// A server name of a configured cluster, lower case. Its text form is `cluster\server`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName {
    /// The cluster's name.
    pub cluster: String,
    /// The server's name in it.
    pub server: String,
}

impl ServerName {
    /// The name that `text` means: an alias, `cluster\server` or `server.cluster`.
    ///
    /// Errors: [`Kind::NameTooLong`], [`Kind::BadArgument`] (empty parts, characters that no wire format can carry),
    /// [`Kind::UnknownCluster`] with the names that would do.
    pub fn parse(text: &str, config: &Client) -> Result<Self> {
        check_length(text)?;
        let alias = config
            .aliases
            .iter()
            .find(|(alias, _)| alias.eq_ignore_ascii_case(text));
        let full = alias.map_or(text, |(_, target)| target.as_str());
        check_length(full)?;
        if let Some((cluster, server)) = full.split_once('\\') {
            if find_cluster(config, cluster).is_none() {
                return Err(unknown(&format!("cluster \"{}\"", shown(cluster)), config));
            }
            return Self::new(cluster, server);
        }
        match Self::from_host(full, config) {
            Some(name) => Ok(name),
            None => Err(unknown(
                &format!("\"{}\" names no cluster and", shown(full)),
                config,
            )),
        }
    }

    /// The name that a *host name* means, as a program without knowledge of us passes it to the resolver: `None` for
    /// everything that is not an alias, `cluster\server` or `server.cluster` of a configured cluster. An ordinary host
    /// name is never taken. Allocates nothing unless the name is ours.
    pub fn from_host(host: &str, config: &Client) -> Option<Self> {
        if host.len() > MAX_NAME_BYTES {
            return None;
        }
        if let Some((_, target)) = config
            .aliases
            .iter()
            .find(|(a, _)| a.eq_ignore_ascii_case(host))
        {
            // An alias of an alias is no name: this ends after one step.
            return Self::direct(target, config);
        }
        Self::direct(host, config)
    }

    /// `cluster\server` from its parts; the cluster need not be configured.
    pub fn new(cluster: &str, server: &str) -> Result<Self> {
        for (what, part) in [("cluster", cluster), ("server", server)] {
            if let Some(problem) = problem(part) {
                let text = format!(
                    "the {what} name \"{}\" {problem}: use cluster\\server or server.cluster",
                    shown(part)
                );
                return Err(Error::new(Kind::BadArgument, text));
            }
        }
        if cluster.len() + server.len() + 1 > MAX_NAME_BYTES {
            return Err(too_long(cluster.len() + server.len() + 1));
        }
        Ok(Self {
            cluster: cluster.to_ascii_lowercase(),
            server: server.to_ascii_lowercase(),
        })
    }

    /// The configuration of the name's cluster.
    pub fn cluster_config<'c>(&self, config: &'c Client) -> Option<&'c Cluster> {
        find_cluster(config, &self.cluster)
    }

    /// The IPv4 address that stands for this name (DESIGN section 10): in 239.192.0.0/14, where a plain TCP connect
    /// fails at once. `attempt` is 0 but for collisions, see [`FakeAddresses`].
    fn fake_v4(&self, attempt: u32) -> Ipv4Addr {
        let hash = self.hash(attempt);
        let low = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) & 0x0003_ffff;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(239, 192, 0, 0)) | low)
    }

    fn fake_v6(&self, attempt: u32) -> Ipv6Addr {
        let hash = self.hash(attempt);
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xff, 0x05]);
        octets[2..].copy_from_slice(&hash[4..18]);
        Ipv6Addr::from(octets)
    }

    fn hash(&self, attempt: u32) -> [u8; 32] {
        let mut hash = hmac_sha256::Hash::new();
        hash.update(self.to_string().as_bytes());
        if attempt > 0 {
            hash.update(attempt.to_be_bytes());
        }
        hash.finalize()
    }

    /// As [`ServerName::from_host`], without aliases.
    pub(crate) fn direct(host: &str, config: &Client) -> Option<Self> {
        if let Some((cluster, server)) = host.split_once('\\') {
            find_cluster(config, cluster)?;
            return Self::new(cluster, server).ok();
        }
        // The longest cluster that fits: with clusters `lab` and `eu.lab`, `sales.eu.lab` is of the second.
        let fits = |cluster: &&String| {
            let (host, cluster) = (host.as_bytes(), cluster.as_bytes());
            host.len() > cluster.len() + 1
                && host[host.len() - cluster.len() - 1] == b'.'
                && host[host.len() - cluster.len()..].eq_ignore_ascii_case(cluster)
        };
        let cluster = config
            .clusters
            .keys()
            .filter(fits)
            .max_by_key(|c| c.len())?;
        // The byte before the suffix is an ASCII dot, so this is a character boundary.
        Self::new(cluster, &host[..host.len() - cluster.len() - 1]).ok()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\\{}", self.cluster, self.server)
    }
}

/// The cluster of this name in the configuration, in any case of letters.
pub fn find_cluster<'c>(config: &'c Client, cluster: &str) -> Option<&'c Cluster> {
    config
        .clusters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(cluster))
        .map(|(_, cluster)| cluster)
}

/// Whether an address is in the ranges that stand for names: 239.192.0.0/14 and ff05::/16.
pub fn is_fake(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => u32::from(a) & 0xfffc_0000 == u32::from(Ipv4Addr::new(239, 192, 0, 0)),
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(a) => is_fake(a.into()),
            None => a.segments()[0] == 0xff05,
        },
    }
}

/// The fake addresses of all names of the configuration and of those seen since.
///
/// The configured names come first and in sorted order, so that a child process with the same configuration finds the
/// same addresses; a name whose address is taken gets the next one of its hash. Not thread-safe: the caller locks.
#[derive(Clone, Debug, Default)]
pub struct FakeAddresses {
    by_addr: HashMap<IpAddr, ServerName>,
    by_name: HashMap<ServerName, (Ipv4Addr, Ipv6Addr)>,
}

impl FakeAddresses {
    /// The table of the names in the configuration: aliases, and servers listed under their clusters.
    pub fn new(config: &Client) -> Self {
        let aliases = config
            .aliases
            .values()
            .filter_map(|t| ServerName::direct(t, config));
        let servers = config.clusters.iter().flat_map(|(cluster, c)| {
            c.servers
                .keys()
                .filter_map(|server| ServerName::new(cluster, server).ok())
        });
        let mut names: Vec<ServerName> = aliases.chain(servers).collect();
        names.sort();
        let mut table = Self::default();
        for name in &names {
            table.addresses(name);
        }
        table
    }

    /// The addresses of `name`, which is remembered.
    pub fn addresses(&mut self, name: &ServerName) -> (Ipv4Addr, Ipv6Addr) {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let (v4, v6) = (
            self.free(|n| name.fake_v4(n).into()),
            self.free(|n| name.fake_v6(n).into()),
        );
        let (IpAddr::V4(a4), IpAddr::V6(a6)) = (v4, v6) else {
            unreachable!("each closure makes its own family")
        };
        for addr in [v4, v6] {
            self.by_addr.insert(addr, name.clone());
        }
        self.by_name.insert(name.clone(), (a4, a6));
        (a4, a6)
    }

    /// The name that `addr` stands for, v4-mapped IPv6 included.
    pub fn name(&self, addr: IpAddr) -> Option<&ServerName> {
        self.by_addr.get(&addr.to_canonical())
    }

    // 2^18 addresses: with so many names that 64 tries find none free, the newer name takes the older one's.
    fn free(&self, candidate: impl Fn(u32) -> IpAddr) -> IpAddr {
        (0..64)
            .map(&candidate)
            .find(|addr| !self.by_addr.contains_key(addr))
            .unwrap_or_else(|| candidate(0))
    }
}

fn check_length(text: &str) -> Result<()> {
    if text.len() > MAX_NAME_BYTES {
        return Err(too_long(text.len()));
    }
    Ok(())
}

fn too_long(len: usize) -> Error {
    let text = format!("the server name has {len} bytes: at most {MAX_NAME_BYTES} are allowed");
    Error::new(Kind::NameTooLong, text)
}

fn problem(part: &str) -> Option<&'static str> {
    if part.is_empty() {
        return Some("is empty");
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || "\\;,/:".contains(c);
    part.contains(bad)
        .then_some("has a space, control character or one of \\ ; , / :")
}

fn unknown(what: &str, config: &Client) -> Error {
    let list = |names: Vec<&str>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    let text = format!(
        "{what} is not configured; clusters: {}; aliases: {}; add it to client.toml ($VIANET_CONFIG)",
        list(config.clusters.keys().map(String::as_str).collect()),
        list(config.aliases.keys().map(String::as_str).collect()),
    );
    Error::new(Kind::UnknownCluster, text)
}

// Names come from anywhere: what is repeated in a message has no control characters.
fn shown(text: &str) -> String {
    text.escape_debug().collect()
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
