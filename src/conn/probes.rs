//! Liveness of the nodes that connections of this process use (DESIGN section 6): the cluster query as a probe
//! (`prober`), and a keep-alive over the channels where it stays unanswered.

use super::connection::Conn;
use super::prober::{Probed, Prober};
use super::reactor::{self, Set, Token};
use crate::failover::Event;
use crate::log::Level;
use crate::resolve::identity::PublicKey;
use crate::resolve::{Answer, Generation, Role};
use crate::via::channel::Channel;
use crate::via::{Interest, Transport};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// So many channels are asked for a sign of life at a time.
const KEEP_ALIVES: usize = 4;
/// A channel on which so long nothing has moved is asked although its node lives: the path to it may be dead, and where only
/// the node had something to send, only the node would know. The shorter time is for who waits for an answer; the node keeps
/// a broken channel's SQL connection only for a while. So it is for who was asked and has not answered.
const SILENT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(20)];

/// So many times, with the shorter time after each, a channel is asked before it is taken to be broken: a transport's own
/// repetitions may go on for a quarter of an hour (TCP, iWARP), or for ever where a device hangs.
const ASKS: u32 = 3;

/// The probes of the I/O thread.
#[derive(Default)]
pub struct Probes {
    nodes: HashMap<u64, Node>,
    next: u64,
    results: Vec<(u64, Event)>,
}

/// A node as one server name's connections use it.
struct Node {
    addr: SocketAddr,
    server: String,
    pinned: Option<PublicKey>,
    prober: Prober,
    /// The last sign of life.
    heard: Duration,
    users: HashMap<u64, User>,
}

struct User {
    channel: Weak<Channel>,
    /// What was seen of the channel's progress.
    progress: Progress,
    /// When it moved last, or was asked.
    since: Duration,
    /// How often it was asked since.
    asked: u32,
    conn: Weak<Conn>,
    /// Its channel broke: it waits for word of its node.
    suspect: bool,
}

impl Probes {
    /// A connection uses the node of `answer` from now on.
    pub fn add(
        &mut self,
        id: u64,
        conn: &Conn,
        answer: Option<&Answer>,
        now: Duration,
        set: Set<'_>,
    ) {
        self.remove(id, set);
        let (Some(channel), Some(answer)) = (conn.channel(), answer) else {
            return;
        };
        if channel.wire.transport() == Transport::Plain {
            return; // the server behind it knows no probes; TCP itself tells
        }
        let Some(addr) = answer.from else { return };
        let user = User::new(&channel, conn.me.clone(), now);
        let server = &conn.name.server;
        let known = |node: &&mut Node| {
            node.addr == addr && node.server == *server && node.pinned == conn.pinned
        };
        if let Some(node) = self.nodes.values_mut().find(known) {
            node.users.insert(id, user);
            return;
        }
        let interval = Duration::from_millis(conn.config.probe_interval_ms);
        let rule = (interval, conn.config.probes_lost);
        let prober = match Prober::new(addr, server, conn.pinned, rule, now) {
            Ok(prober) => prober,
            Err(error) => {
                crate::log!(Level::Warn, "conn", "no liveness probes to {addr}: {error}");
                return;
            }
        };
        let key = self.next;
        self.next += 1;
        if let Some(fd) = prober.fd() {
            let read = Interest {
                read: true,
                write: false,
            };
            set.watch(fd, Token::Probe(key), read, false);
        }
        self.nodes.insert(
            key,
            Node {
                addr,
                server: server.clone(),
                pinned: conn.pinned,
                prober,
                heard: now,
                users: HashMap::from([(id, user)]),
            },
        );
    }

    /// A connection uses no node any more.
    pub fn remove(&mut self, id: u64, set: Set<'_>) {
        self.nodes.retain(|_, node| {
            node.users.remove(&id);
            if let (true, Some(fd)) = (node.users.is_empty(), node.prober.fd()) {
                set.forget(fd);
            }
            !node.users.is_empty()
        });
    }

    /// Drops all probes, and what they found out.
    pub fn forget_all(&mut self, set: Set<'_>) {
        for (_, node) in self.nodes.drain() {
            if let Some(fd) = node.prober.fd() {
                set.forget(fd);
            }
        }
        self.results.clear();
    }

    /// Asks the node of a suspect connection at once; nobody to ask: it is silent.
    pub fn probe_now(&mut self, id: u64, now: Duration) {
        for node in self.nodes.values_mut() {
            if let Some(user) = node.users.get_mut(&id) {
                user.suspect = true;
                node.prober.hurry(now);
            }
        }
    }

    /// When the node of a connection gave its last sign of life.
    pub fn heard(&self, id: u64) -> Option<Duration> {
        let mut nodes = self.nodes.values();
        let node = nodes.find(|node| node.users.contains_key(&id))?;
        Some(node.heard)
    }

    /// A probe's socket is readable.
    pub fn on_readable(&mut self, key: u64, now: Duration) {
        if let Some(node) = self.nodes.get_mut(&key) {
            node.turn(now, &mut self.results);
        }
    }

    /// When [`Probes::on_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.nodes
            .values()
            .map(|node| node.prober.poll_timeout())
            .min()
    }

    /// Judges, and sends what is due.
    pub fn on_timeout(&mut self, now: Duration) {
        for node in self.nodes.values_mut() {
            if node.prober.poll_timeout() <= now {
                node.turn(now, &mut self.results);
            }
        }
    }

    /// Who is to be told what.
    pub fn take_results(&mut self) -> Vec<(u64, Event)> {
        std::mem::take(&mut self.results)
    }
}

impl Node {
    fn turn(&mut self, now: Duration, results: &mut Vec<(u64, Event)>) {
        self.listen_to_channels(now);
        let before = self.prober.unanswered();
        match self.prober.turn(now) {
            Probed::Nothing => {}
            Probed::Alive(answer) => {
                self.heard = now;
                self.answered(&answer, results);
            }
            // For a connection whose channel broke its node is lost. A channel that works is believed more than a datagram
            // that was refused.
            Probed::Refused => {
                for (id, user) in &mut self.users {
                    if std::mem::take(&mut user.suspect) {
                        results.push((*id, Event::NodeLost));
                    }
                }
            }
            Probed::Lost(probes) => {
                let (addr, n) = (self.addr, self.users.len());
                crate::log!(
                    Level::Warn,
                    "conn",
                    "node at {addr}: {probes} probes unanswered, lost with {n} connections"
                );
                results.extend(self.users.keys().map(|id| (*id, Event::NodeLost)));
            }
        }
        if self.prober.unanswered() > before {
            // Datagrams may be filtered: the channels are asked themselves.
            let channels = self
                .users
                .values()
                .filter_map(|user| user.channel.upgrade());
            for channel in channels.take(KEEP_ALIVES) {
                let _ = channel.wire.keep_alive(&channel);
                let _ = channel.drive();
            }
        }
        self.ask_silent_channels(now);
    }

    /// See [`SILENT`] and [`ASKS`].
    fn ask_silent_channels(&mut self, now: Duration) {
        let answers = self.prober.unanswered() == 0;
        let silent = self
            .users
            .iter_mut()
            .filter(|(_, user)| user.is_silent(now));
        for (id, user) in silent.take(KEEP_ALIVES) {
            user.since = now;
            let Some(channel) = user.channel.upgrade() else {
                continue;
            };
            // Shared memory cannot be cut off; and of a wire that never heard anything nobody knows whether it could.
            let may_be_dead = channel.wire.peer_bell().is_none() && channel.wire.heard() > 0;
            if user.asked < ASKS || !answers || !may_be_dead {
                user.asked = user.asked.saturating_add(1);
                let _ = channel.wire.keep_alive(&channel);
                let _ = channel.drive();
                continue;
            }
            let transport = channel.wire.transport();
            crate::log!(
                Level::Warn,
                "conn",
                "{}: its node answers, {transport} does not: no sign of life after {ASKS} requests",
                self.server
            );
            user.asked = 0;
            channel.cut("no sign of life");
            reactor::look_at(*id);
        }
    }

    /// Whatever any channel brings from the node is a sign of life. That a device takes what is sent is none, for it does so
    /// whether or not the process behind it runs; but then the path is not dead.
    fn listen_to_channels(&mut self, now: Duration) {
        let mut alive = false;
        for user in self.users.values_mut() {
            if let Some(channel) = user.channel.upgrade() {
                let seen = Progress::of(&channel);
                alive |= seen.said != user.progress.said;
                if seen != user.progress {
                    user.since = now;
                    user.asked = 0;
                }
                user.progress = seen;
            }
        }
        if alive {
            self.heard = now;
            self.prober.heard_bytes(now);
        }
    }

    fn answered(&mut self, answer: &Answer, results: &mut Vec<(u64, Event)>) {
        for (id, user) in &mut self.users {
            match answer.role {
                Role::Active if std::mem::take(&mut user.suspect) => {
                    results.push((*id, Event::NodeAlive));
                }
                Role::Active => {}
                // It is taking over what it has had: it is not done with its own restart.
                Role::TakingOver if !user.suspect => {}
                _ if outdated(&user.channel, answer.generation) => {}
                _ => {
                    user.suspect = false;
                    results.push((*id, Event::NodeResigned));
                }
            }
        }
    }
}

/// What counts grow while a channel is of use.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// The node's: bytes that came, bytes that it has acknowledged, what else it said.
    said: [u64; 3],
    /// Its host's.
    taken: u64,
}

impl Progress {
    fn of(channel: &Channel) -> Self {
        let arrived = channel.rx.tail().unwrap_or_else(|_| channel.rx.head());
        Self {
            said: [arrived, channel.acked(), channel.wire.heard()],
            taken: channel.wire.taken(),
        }
    }
}

impl User {
    fn new(channel: &Arc<Channel>, conn: Weak<Conn>, now: Duration) -> Self {
        Self {
            progress: Progress::of(channel),
            channel: Arc::downgrade(channel),
            since: now,
            asked: 0,
            conn,
            suspect: false,
        }
    }

    fn is_silent(&self, now: Duration) -> bool {
        let [waiting, idle] = SILENT;
        let silent = now.saturating_sub(self.since);
        let urgent = || self.asked > 0 || self.conn.upgrade().is_some_and(|c| c.is_waiting());
        silent >= idle || (silent >= waiting && urgent())
    }
}

/// An answer about a role from before the channel was accepted says nothing about it.
fn outdated(channel: &Weak<Channel>, generation: Generation) -> bool {
    channel
        .upgrade()
        .is_none_or(|channel| generation < channel.accept.generation)
}

#[cfg(all(test, not(loom)))]
#[path = "probes_tests.rs"]
mod tests;
