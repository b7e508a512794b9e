//! Two nodes watch each other (claims 28 and 29): the passive asks the active periodically and, when several questions
//! in a row stay unanswered, takes over. The active asks too, because each answer renews its lease.
//!
//! A question counts as unanswered only if this process ran without gap while it was open. What the peer says of itself
//! is believed only from a datagram that echoes one of our last few nonces and that is newer than the one before.

use super::{Authority, Told, Word};
use crate::control::PeerStatus;
use crate::role::{Now, PeerRole};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use vianet::resolve::identity::{SecretKey, random_bytes};
use vianet::resolve::keepalive::{KeepAlive, Kind, ServerState};
use vianet::resolve::wire::{Nonce, datagram_type};
use vianet::resolve::{ClusterId, Role};

#[cfg(test)]
mod tests;

/// Servers of one datagram: with names of 32 bytes they fit [`vianet::resolve::keepalive::MAX_KEEPALIVE_BYTES`].
const SERVERS_PER_DATAGRAM: usize = 20;

/// How often, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two questions.
    pub interval: Duration,
    /// So many unanswered in a row are a lost node.
    pub lost_after: u32,
}

/// Who we are.
pub struct Identity {
    /// This node.
    pub node: String,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Signs and checks.
    pub key: SecretKey,
    /// Random number of this run.
    pub incarnation: u64,
}

struct Asked {
    nonce: Nonce,
    at: Duration,
}

struct PeerState {
    node: String,
    addr: SocketAddr,
    /// Our last questions, newest last.
    asked: VecDeque<Asked>,
    /// The newest question is still unanswered, and no gap was seen since it left.
    open: bool,
    unanswered: u32,
    lost: bool,
    last_nonce: Nonce,
    newest: Option<(u64, u64)>,
    heard: Option<Duration>,
    servers: Vec<ServerState>,
}

/// See the module's text.
pub struct KeepAlives {
    me: Identity,
    timing: Timing,
    peers: Vec<PeerState>,
    sequence: u64,
    next: Duration,
    outbox: VecDeque<(SocketAddr, Vec<u8>)>,
    refused_logged: Option<Duration>,
}

impl KeepAlives {
    /// Watches `peers` (name, UDP address).
    pub fn new(me: Identity, timing: Timing, peers: Vec<(String, SocketAddr)>) -> Self {
        let peers = peers
            .into_iter()
            .map(|(node, addr)| PeerState {
                node,
                addr,
                asked: VecDeque::new(),
                open: false,
                unanswered: 0,
                lost: false,
                last_nonce: [0; 16],
                newest: None,
                heard: None,
                servers: Vec::new(),
            })
            .collect();
        Self {
            me,
            timing,
            peers,
            sequence: 0,
            next: Duration::ZERO,
            outbox: VecDeque::new(),
            refused_logged: None,
        }
    }

    fn datagram(&mut self, kind: Kind, peer: usize, nonce: Nonce, own: &[Told]) -> Option<Vec<u8>> {
        self.sequence += 1;
        let to = &self.peers[peer];
        let message = KeepAlive {
            kind,
            cluster_id: self.me.cluster_id,
            from: self.me.node.clone(),
            to: to.node.clone(),
            incarnation: self.me.incarnation,
            sequence: self.sequence,
            nonce,
            echo: to.last_nonce,
            servers: own.iter().map(state).collect(),
        };
        // Names were checked with the configuration, so that this does not fail.
        message.encode(&self.me.key).ok()
    }

    fn ask(&mut self, now: Now, peer: usize, kind: Kind, own: &[Told]) {
        for part in own.chunks(SERVERS_PER_DATAGRAM) {
            let Ok(nonce) = random_bytes() else { return };
            let Some(bytes) = self.datagram(kind, peer, nonce, part) else {
                return;
            };
            let keep = self.timing.lost_after as usize + own.len() / SERVERS_PER_DATAGRAM + 4;
            let p = &mut self.peers[peer];
            p.asked.push_back(Asked { nonce, at: now.at });
            while p.asked.len() > keep {
                p.asked.pop_front();
            }
            self.outbox.push_back((p.addr, bytes));
        }
    }

    /// One line a second at most: whoever sends forgeries must not fill the log.
    fn refuse(&mut self, now: Now, words: &mut Vec<Word>, text: String) {
        let quiet = self
            .refused_logged
            .is_some_and(|at| now.at < at + Duration::from_secs(1));
        if !quiet {
            self.refused_logged = Some(now.at);
            words.push(Word::Refused(text));
        }
    }
}

impl Authority for KeepAlives {
    fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &[u8],
        own: &[Told],
    ) -> (Vec<Word>, Option<Vec<u8>>) {
        let mut words = Vec::new();
        if datagram_type(datagram).and_then(Kind::from_wire).is_none() {
            return (words, None);
        }
        // Only the peer's own address is worth the work of checking a signature.
        if !self.peers.iter().any(|p| p.addr.ip() == from.ip()) {
            let text = format!("{from}: not an address under peers.query");
            self.refuse(now, &mut words, text);
            return (words, None);
        }
        let message = match KeepAlive::parse(datagram, now.wall_ms, &self.me.key.public()) {
            Ok(message) => message,
            Err(why) => {
                self.refuse(now, &mut words, format!("{from}: {why}"));
                return (words, None);
            }
        };
        let known = self.peers.iter().position(|p| p.node == message.from);
        let (Some(peer), true, true) = (
            known,
            message.to == self.me.node,
            message.cluster_id == self.me.cluster_id,
        ) else {
            let text = format!(
                "{from}: from node {:?} to node {:?} of another cluster, or no peer of this node",
                message.from, message.to
            );
            self.refuse(now, &mut words, text);
            return (words, None);
        };
        let window = self.timing.interval * self.timing.lost_after;
        let p = &mut self.peers[peer];
        let newer = match p.newest {
            Some((incarnation, sequence)) if incarnation == message.incarnation => {
                message.sequence > sequence
            }
            _ => true,
        };
        let asked = p
            .asked
            .iter()
            .find(|a| a.nonce == message.echo && now.at <= a.at + window);
        if let (Some(asked), true) = (asked, newer) {
            if p.lost || p.heard.is_none() {
                words.push(Word::Heard);
            }
            p.newest = Some((message.incarnation, message.sequence));
            p.heard = Some(now.at);
            p.open = false;
            p.unanswered = 0;
            p.lost = false;
            for server in &message.servers {
                words.push(Word::Peer {
                    server: server.name.to_ascii_lowercase(),
                    role: peer_role(server.role),
                    generation: server.generation,
                    asked_at: asked.at,
                });
                p.servers.retain(|s| s.name != server.name);
                p.servers.push(server.clone());
            }
        }
        p.last_nonce = message.nonce;
        if message.kind == Kind::Pong {
            return (words, None);
        }
        // Its question is about the names it lists; of those we tell what we are.
        let about: Vec<Told> = own
            .iter()
            .filter(|t| {
                message
                    .servers
                    .iter()
                    .any(|s| s.name.eq_ignore_ascii_case(&t.name))
            })
            .cloned()
            .collect();
        let reply = random_bytes()
            .ok()
            .and_then(|nonce| self.datagram(Kind::Pong, peer, nonce, &about));
        words.push(Word::Answered);
        if message.kind != Kind::Ping {
            // Something changed there: ask at once, so that it is believed at once.
            self.ask(now, peer, Kind::Ping, own);
        }
        (words, reply)
    }

    fn tick(&mut self, now: Now, gap: bool, own: &[Told]) -> Vec<Word> {
        let mut words = Vec::new();
        if gap {
            for p in &mut self.peers {
                p.open = false;
                p.unanswered = 0;
                p.lost = false;
            }
            self.next = now.at;
        }
        if now.at < self.next {
            return words;
        }
        self.next = now.at + self.timing.interval;
        for peer in 0..self.peers.len() {
            let p = &mut self.peers[peer];
            if p.open {
                p.unanswered = p.unanswered.saturating_add(1);
            }
            p.open = true;
            if p.unanswered >= self.timing.lost_after && !p.lost {
                p.lost = true;
                words.push(Word::Lost);
            }
            self.ask(now, peer, Kind::Ping, own);
        }
        words
    }

    fn changed(&mut self, now: Now, own: &[Told]) {
        for peer in 0..self.peers.len() {
            let kind = if own.iter().any(|t| t.role == PeerRole::Active) {
                Kind::Announce
            } else {
                Kind::Resign
            };
            self.ask(now, peer, kind, own);
        }
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.outbox.pop_front()
    }

    fn next_due(&self) -> Duration {
        self.next
    }

    fn peers(&self, now: Now) -> Vec<PeerStatus> {
        self.peers
            .iter()
            .map(|p| PeerStatus {
                node: p.node.clone(),
                addr: p.addr.to_string(),
                state: match (p.lost, p.heard) {
                    (true, _) => "down",
                    (false, Some(_)) => "up",
                    (false, None) => "unknown",
                }
                .into(),
                heard_ms_ago: p
                    .heard
                    .map(|at| now.at.saturating_sub(at).as_millis() as u64),
            })
            .collect()
    }
}

fn state(told: &Told) -> ServerState {
    ServerState {
        name: told.name.clone(),
        role: match told.role {
            PeerRole::Starting => Role::Unknown,
            PeerRole::Passive => Role::Passive,
            PeerRole::TakingOver => Role::TakingOver,
            PeerRole::Active => Role::Active,
        },
        generation: told.generation,
    }
}

fn peer_role(role: Role) -> PeerRole {
    match role {
        Role::Unknown => PeerRole::Starting,
        Role::Passive => PeerRole::Passive,
        Role::TakingOver => PeerRole::TakingOver,
        Role::Active => PeerRole::Active,
    }
}
