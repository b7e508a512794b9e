//! The daemon put together: one loop that owns the roles, the authority and the UDP sockets; everything that can block
//! (hooks, health checks, the disk, control clients) runs in threads of its own and reports to the loop's mailbox.

mod mailbox;
mod stop;
mod switchover;
mod tickets;
mod unit;
mod work;

pub use mailbox::{Mail, Mailbox, Message};

use crate::authority::keepalive::{Identity, KeepAlives, Timing};
use crate::authority::{Authority, Told, Word};
use crate::config::{self, Node};
use crate::control::{Reply, Request, Status};
use crate::relay::Relay;
use crate::responder::{Responder, Standing};
use crate::role::{Event, Machine, Now, Rules};
use crate::served::Served;
use crate::state::Store;
use crate::{clock, control_server, hooks, http};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};
use unit::Unit;
use vianet::resolve::identity::{SecretKey, random_bytes};
use vianet::resolve::keepalive::Kind;
use vianet::resolve::wire::datagram_type;
use vianet::via::Transport;

/// Datagrams read from one socket before the rest of the loop has its turn.
const BATCH: usize = 512;

/// A running daemon's loop.
pub struct Daemon {
    config: Node,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    /// The last keep-alive left by no socket.
    unsent: bool,
    units: Vec<Unit>,
    authority: Box<dyn Authority>,
    responder: Responder,
    relay: Relay,
    tickets: tickets::Desks,
    mailbox: Mailbox,
    last_pass: Duration,
    gap_limit: Duration,
    started_ms: u64,
    stopping: Option<stop::Stopping>,
}

/// A thread that dies would leave its clients hanging on a node that still answers. From now on the whole process ends
/// instead (SIGABRT, after the panic's text on standard error), and the peer takes over.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        hooks::end_all();
        std::process::abort();
    }));
}

const KEY_HELP: &str =
    "`vianet keygen --out FILE` makes it; the same one is on every node, readable by its daemon";

/// Reads the cluster's key.
pub fn load_key(config: &Node) -> Result<Option<SecretKey>, String> {
    let Some(path) = &config.key_file else {
        return Ok(None);
    };
    let text = vianet::config::read_text(path).map_err(|e| {
        format!(
            "key_file = {}: cannot be read: {e}; {KEY_HELP}",
            path.display()
        )
    })?;
    let key = SecretKey::from_hex(&text)
        .map_err(|e| format!("key_file = {}: {e}; {KEY_HELP}", path.display()))?;
    Ok(Some(key))
}

/// Whether others than the owner and the group can read or write the file.
fn is_open_to_all(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o006 != 0)
}

impl Daemon {
    /// Binds everything, reads the saved state, starts the relay and the control socket. Nothing is answered before
    /// all of it listens.
    ///
    /// # Errors
    /// The text names the key of the configuration, the cause and the remedy.
    pub fn start(config: Node) -> Result<Self, String> {
        let key = load_key(&config)?;
        let state_dir = |e| config::cannot_use("state_dir", &config.state_dir, &e);
        let store = Store::open(&config.state_dir, &config.cluster_id).map_err(state_dir)?;
        let lock = store.lock().map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => format!(
                "state_dir = {}: another vianetd uses it; every node needs its own",
                config.state_dir.display()
            ),
            _ => state_dir(e),
        })?;
        let mut sockets = Vec::new();
        for &addr in &config.listen.query {
            let socket = bind_udp(addr).map_err(|e| {
                format!(
                    "listen.query = {addr}: {e}; find who has it with `ss -ulnp`, and whether the address is this \
                     machine's with `ip addr`"
                )
            })?;
            let real = socket.local_addr().unwrap_or(addr);
            sockets.push((real, socket));
        }
        let mailbox = Mailbox::new().map_err(|e| format!("eventfd: {e}"))?;
        let served: Vec<Arc<Served>> = config
            .servers
            .iter()
            .map(|s| Arc::new(Served::new(s.clone())))
            .collect();
        let tickets = tickets::Desks::new(&config, key.as_ref(), &served);
        let shared = Arc::clone(&tickets.shared);
        let relay = Relay::start(
            &config,
            key.clone(),
            served.clone(),
            shared,
            mailbox.sender(),
        )?;
        let writer = work::Writer::start(store.clone(), lock, mailbox.sender());
        let now = clock::both();
        let mut units = Vec::new();
        for (index, served) in served.into_iter().enumerate() {
            let saved = store.load(&served.name)?;
            let rules = rules(&config, &served.config);
            let machine = Machine::new(rules, now, saved.seen, saved.own);
            units.push(Unit::new(index, served, machine, saved, writer.clone()));
        }
        let authority = Box::new(keepalives(&config, key.clone())?);
        let responder = Responder::new(&config, key, relay.endpoints());
        control_server::start(&config.control_path(), mailbox.sender())?;
        let http = match config.http {
            Some(addr) => Some(http::start(addr, mailbox.sender())?),
            None => None,
        };
        let config::Authority::Keepalive { interval_ms, .. } = config.authority;
        let daemon = Self {
            sockets,
            unsent: false,
            units,
            authority,
            responder,
            relay,
            tickets,
            mailbox,
            last_pass: now.at,
            gap_limit: Duration::from_millis(interval_ms.max(100)),
            started_ms: now.wall_ms,
            stopping: None,
            config,
        };
        daemon.log_start(http);
        Ok(daemon)
    }

    /// For other threads: where the loop takes its mail.
    pub fn mail(&self) -> Mail {
        self.mailbox.sender()
    }

    fn log_start(&self, http: Option<SocketAddr>) {
        let list = |addrs: Vec<String>| addrs.join(",");
        let via = |transport| {
            let endpoints = self.relay.endpoints().iter();
            let of = endpoints.filter(|e| e.transport == transport);
            list(of.map(|e| e.addr.to_string()).collect())
        };
        info!(
            event = "listening",
            node = self.config.node,
            cluster = self.config.cluster,
            query = list(self.sockets.iter().map(|(a, _)| a.to_string()).collect()),
            via_rdma = via(Transport::Rdma),
            via_tcp = via(Transport::Tcp),
            shm = self.config.listen.shm,
            control = %self.config.control_path().display(),
            http = http.map(tracing::field::display),
            "answering"
        );
        match &self.config.key_file {
            None => warn!(event = "unsigned", "no key_file: answers are not signed"),
            Some(path) if is_open_to_all(path) => warn!(
                event = "key-exposed",
                file = %path.display(),
                "every user of this machine can read or write the cluster's key: chmod 600, and make a new one"
            ),
            Some(_) => {}
        }
        let tickets = self
            .config
            .servers
            .iter()
            .filter_map(|s| s.tickets.as_ref());
        for file in tickets.filter_map(|t| t.password_file.as_deref()) {
            if is_open_to_all(file) {
                warn!(
                    event = "key-exposed",
                    file = %file.display(),
                    "every user of this machine can read or write the password of the daemon's database role: chmod 600, \
                     and set another one"
                );
            }
        }
        for unit in &self.units {
            let (seen, own) = unit.machine.generations();
            info!(
                event = "serving",
                server = unit.served.name,
                upstream = %unit.served.config.upstream,
                seen,
                own,
                "knows the name"
            );
            if unit.saved.seen.max(unit.saved.own) > seen {
                error!(
                    event = "generation-refused",
                    server = unit.served.name,
                    saved = unit.saved.seen.max(unit.saved.own),
                    "the saved generation is from the far future: check the clock; this node does not become active \
                     by itself; `vianet node force-active` overrides"
                );
            }
        }
    }

    /// Runs until stopped by a signal or the control socket.
    ///
    /// # Errors
    /// Only what makes going on impossible.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            self.wait()?;
            let now = clock::both();
            let gap = now.at.saturating_sub(self.last_pass) > self.gap_limit;
            if gap {
                let ms = (now.at.saturating_sub(self.last_pass)).as_millis() as u64;
                warn!(
                    event = "gap",
                    ms, "this process stood still; asking the peer before going on"
                );
                self.each(now, &Event::Gap);
            }
            self.last_pass = now.at;
            self.read_sockets(now);
            self.read_mailbox(now);
            let now = clock::both();
            let own = self.told();
            let words = self.authority.tick(now, gap, &own);
            self.hear(now, words);
            self.each(now, &Event::Tick);
            self.carry_out(now);
            self.transmit();
            self.answer_again(now);
            if let Some((to, ask)) = self.tickets.tick(now) {
                let _ = self.send(to, &ask);
            }
            if self.is_stopped(now) {
                info!(event = "stopped", "the daemon ends");
                return Ok(());
            }
        }
    }

    fn wait(&self) -> Result<(), String> {
        let now = clock::now();
        let due = self
            .authority
            .next_due()
            .saturating_sub(now)
            .min(self.gap_limit / 4);
        let timeout = Timespec {
            tv_sec: due.as_secs() as i64,
            tv_nsec: due.subsec_nanos().into(),
        };
        let mut fds: Vec<PollFd<'_>> = self
            .sockets
            .iter()
            .map(|(_, s)| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN))
            .collect();
        fds.push(PollFd::from_borrowed_fd(
            self.mailbox.wait_fd(),
            PollFlags::IN,
        ));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(format!("poll: {e}")),
        }
    }

    fn read_sockets(&mut self, now: Now) {
        let mut buffer = [0; 2048];
        for i in 0..self.sockets.len() {
            for _ in 0..BATCH {
                // Errors here are ICMP's echo of our own datagrams: worth nothing.
                let Ok((n, from)) = self.sockets[i].1.recv_from(&mut buffer) else {
                    break;
                };
                self.datagram(now, i, from, &buffer[..n]);
            }
        }
    }

    fn datagram(&mut self, now: Now, socket: usize, from: SocketAddr, datagram: &[u8]) {
        let reply = if datagram_type(datagram).and_then(Kind::from_wire).is_some() {
            let own = self.told();
            let (words, reply) = self.authority.receive(now, from, datagram, &own);
            self.hear(now, words);
            reply
        } else if datagram_type(datagram).is_some_and(tickets::is_ours) {
            let responder = &mut self.responder;
            let mut allow = || responder.allows(now.at, from);
            self.tickets.receive(now, from, datagram, &mut allow)
        } else {
            let standings: Vec<Standing> = self.units.iter().map(|u| u.standing(now)).collect();
            let local = self.sockets[socket].0;
            self.responder
                .answer(now.at, local, from, datagram, &standings)
        };
        if let Some(reply) = reply {
            let _ = self.sockets[socket].1.send_to(&reply, from);
        }
    }

    /// Who waits for a name that is served by now hears of it.
    fn answer_again(&mut self, now: Now) {
        let standings: Vec<Standing> = self.units.iter().map(|u| u.standing(now)).collect();
        for reply in self.responder.second_answers(now.at, &standings) {
            let socket = self.sockets.iter().find(|(addr, _)| *addr == reply.local);
            if let Some((_, socket)) = socket {
                let _ = socket.send_to(&reply.bytes, reply.to);
            }
        }
    }

    fn told(&self) -> Vec<Told> {
        self.units.iter().map(Unit::told).collect()
    }

    fn each(&mut self, now: Now, event: &Event) {
        for unit in &mut self.units {
            unit.machine.handle(now, event.clone());
        }
    }

    fn hear(&mut self, now: Now, words: Vec<Word>) {
        for word in words {
            match word {
                Word::Peer {
                    server,
                    role,
                    generation,
                    asked_at,
                } => {
                    for unit in self.units.iter_mut().filter(|u| u.served.name == server) {
                        let event = Event::Peer {
                            role,
                            generation,
                            asked_at,
                        };
                        unit.machine.handle(now, event);
                    }
                }
                Word::Lost => {
                    warn!(event = "peer-lost", "the peer does not answer keep-alives");
                    self.tickets.peer_lost();
                    self.each(now, &Event::PeerLost);
                }
                Word::Heard => info!(event = "peer-heard", "the peer answers keep-alives"),
                Word::Answered => {
                    for unit in &mut self.units {
                        unit.machine.answered_peer(now);
                    }
                }
                Word::Refused(why) => {
                    warn!(event = "keepalive-refused", %why, "a keep-alive was not believed");
                }
            }
        }
        self.carry_out(now);
    }

    /// Carries out what the role machines ask for and publishes roles and leases; the peer learns of a change after
    /// every thread of this process has.
    fn carry_out(&mut self, now: Now) {
        let peer = self
            .config
            .peers
            .first()
            .map_or("", |p| p.node.as_str())
            .to_owned();
        let mut changed = false;
        for (i, unit) in self.units.iter_mut().enumerate() {
            let context = work::Context {
                index: i,
                node: &self.config.node,
                peer: &peer,
                mail: self.mailbox.sender(),
            };
            unit.see_to_switchover(now, &self.relay);
            unit.publish();
            while let Some(action) = unit.machine.poll_action() {
                changed |= unit.carry_out(now, action, &context, &self.relay);
            }
            unit.publish();
            unit.check_health(now, &context);
            unit.save_learned();
        }
        if changed {
            let own = self.told();
            self.authority.changed(now, &own);
        }
    }

    /// From each of our addresses: the peer believes the one that its configuration names, which only it knows. A way that
    /// does not lead there (a loopback address to another machine) fails at once and does no harm.
    fn transmit(&mut self) {
        while let Some((to, bytes)) = self.authority.poll_transmit() {
            let sent = self.send(to, &bytes);
            if sent.is_ok() == self.unsent {
                self.unsent = sent.is_err();
                if let Err(why) = sent {
                    warn!(event = "keepalive-unsent", %to, %why, "no keep-alive can be sent to the peer");
                }
            }
        }
    }

    /// To the peer, from each of our addresses; an error where none of them leads there.
    fn send(&self, to: SocketAddr, bytes: &[u8]) -> Result<(), String> {
        let mut used = BTreeSet::new();
        let mut sent = Err(String::new());
        for (own, socket) in &self.sockets {
            if own.is_ipv4() == to.is_ipv4() && used.insert(own.ip()) {
                match socket.send_to(bytes, to) {
                    Ok(_) => sent = Ok(()),
                    Err(e) if sent.is_err() => sent = Err(format!("from {own}: {e}")),
                    Err(_) => {}
                }
            }
        }
        sent
    }

    fn read_mailbox(&mut self, now: Now) {
        for message in self.mailbox.take() {
            match message {
                Message::Event { server, event } => {
                    self.units[server].machine.handle(now, event);
                }
                Message::Checked {
                    server,
                    check,
                    result,
                } => self.units[server].checked(now, check, result),
                // All of them are looked at together.
                Message::Standing { server } => {
                    self.units[server].served.look_at_standings();
                    continue;
                }
                Message::Ready {
                    server,
                    asked,
                    result,
                } => self.units[server].ready(now, asked, result, &self.relay),
                Message::CheckHealth { server } => self.units[server].want_check(),
                Message::Control { request, reply } => {
                    let answer = self.control(now, request);
                    let _ = reply.send(answer);
                }
                Message::Terminate => self.terminate(now, "signal"),
            }
            self.carry_out(now);
        }
    }

    fn control(&mut self, now: Now, request: Request) -> Reply {
        let (server, event) = match request {
            Request::Status => return Reply::Status(self.status(now)),
            Request::Stop => {
                self.terminate(now, "control");
                return Reply::Done;
            }
            Request::ForceActive { server } => (server, Event::Force),
            Request::Resign { server } => (server, Event::Resign),
            Request::Switchover {
                server,
                to,
                drain_ms,
                dry_run,
            } => {
                let drain = Duration::from_millis(drain_ms);
                return self.switch_over(now, &server, &to, drain, dry_run);
            }
            Request::Switchovers { server } => return self.switchover(&server),
            Request::Look { server } => return self.look(now, &server),
        };
        let name = server.to_ascii_lowercase();
        let Some(unit) = self.units.iter_mut().find(|u| u.served.name == name) else {
            return Reply::Error {
                text: format!(
                    "server {server:?} is not configured on node {}",
                    self.config.node
                ),
            };
        };
        warn!(event = "operator", server = name, command = ?event, "the operator's word");
        if let Err(text) = unit.accepts(&event) {
            return Reply::Error { text };
        }
        unit.machine.handle(now, event);
        Reply::Done
    }

    fn status(&self, now: Now) -> Status {
        Status {
            node: self.config.node.clone(),
            cluster: self.config.cluster.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_ms: self.started_ms,
            servers: self.units.iter().map(Unit::status).collect(),
            peers: self.authority.peers(now),
        }
    }
}

fn bind_udp(addr: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn rules(config: &Node, server: &config::Server) -> Rules {
    let config::Authority::Keepalive {
        interval_ms,
        lost_after,
        start_wait_ms,
        retry_ms,
    } = config.authority;
    let lost = Duration::from_millis(interval_ms) * lost_after;
    Rules {
        initial_active: server.initial_active,
        has_peer: !config.peers.is_empty(),
        yields: config.peers.iter().any(|p| p.node < config.node),
        lost,
        lease: lost * 3 / 4,
        start_wait: Duration::from_millis(start_wait_ms),
        retry: Duration::from_millis(retry_ms),
        promote_wait: Duration::from_millis(server.promote_wait_ms),
        health_failures: server.health_failures,
    }
}

fn keepalives(config: &Node, key: Option<SecretKey>) -> Result<KeepAlives, String> {
    let config::Authority::Keepalive {
        interval_ms,
        lost_after,
        ..
    } = config.authority;
    let key = match key {
        Some(key) => key,
        // Without peers nothing is signed with it.
        None => SecretKey::generate().map_err(|e| e.to_string())?,
    };
    let random: [u8; 8] = random_bytes().map_err(|e| e.to_string())?;
    let me = Identity {
        node: config.node.clone(),
        cluster_id: config.cluster_id_bytes(),
        key,
        incarnation: u64::from_ne_bytes(random),
    };
    let timing = Timing {
        interval: Duration::from_millis(interval_ms),
        lost_after,
    };
    let peers = config
        .peers
        .iter()
        .map(|p| (p.node.clone(), p.query))
        .collect();
    Ok(KeepAlives::new(me, timing, peers))
}
