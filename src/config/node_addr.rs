//! Nodes as `client.toml` names them.

use std::net::{IpAddr, SocketAddr};

/// A node of the configuration: a literal address, or a host name and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAddr {
    /// Asked there.
    Literal(SocketAddr),
    /// Looked up at every query.
    Named(String, u16),
}

impl NodeAddr {
    /// Reads `host`, `host:port`, `address`, `v4:port`, `[v6]:port`, `[v6]`; `None` when it is none of them.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let text = text.trim();
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Some(Self::Literal(addr));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(Self::Literal(SocketAddr::new(ip, default_port)));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, default_port),
        };
        let clean = !host.is_empty()
            && host.len() <= 253
            && !host.contains(|c: char| ":[]".contains(c) || c.is_whitespace() || c.is_control());
        clean.then(|| Self::Named(host.to_owned(), port))
    }
}
