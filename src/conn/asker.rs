//! Asks all nodes of a cluster in parallel who serves a name (DESIGN section 6). I/O, but no thread of its own.
//!
//! One connected socket per address and query, from a random port. The question goes out again after 20, 40, 80 ms ...;
//! a node that answered "not active" is asked again every 50 ms, since it may be taking over. With the second
//! retransmission, SSRP (`04 name`) goes to the nodes that are still silent: a foreign SQL Browser gives the plain TCP port.
//! With a pinned key, or once a generation of the name was seen, SSRP is neither asked nor believed.
//!
//! Only answers from the address and port that were asked are heard; what others send never arrives here.

mod lookup;
mod target;

pub(crate) use target::{Asked, Heard, Target};

use crate::config::{Cluster, DEFAULT_QUERY_PORT, NodeAddr};
use crate::error::{Error, Kind, Result};
use crate::failover::NotResolved;
use crate::resolve::identity::{PublicKey, random_bytes};
use crate::resolve::name::ServerName;
use crate::resolve::query::Query;
use crate::resolve::{Answer, Generation, Role, ssrp};
use lookup::Lookup;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// One query lasts no longer; the failover machine pauses and asks again.
pub const QUERY_TIME: Duration = Duration::from_secs(1);
/// First retransmission; doubles up to `RESEND_MAX`.
const RESEND_FIRST: Duration = Duration::from_millis(20);
const RESEND_MAX: Duration = Duration::from_millis(320);
/// Nodes that answer without being active are asked again so soon.
const RESEND_WATCHING: Duration = Duration::from_millis(50);
/// So many rounds without SSRP: the question and its first retransmission.
const ROUNDS_BEFORE_SSRP: u32 = 2;
/// How long silent nodes are waited for once one is active: they might be so with a larger generation.
const LINGER: Duration = Duration::from_millis(10);
/// The same when only a SQL Browser answered: a node of ours on the same machine may have lost a datagram.
const LINGER_SSRP: Duration = Duration::from_millis(50);

/// What a query came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The best answer: the highest generation whose node says "active".
    Found(Answer),
    /// None; why, and what each node said, for logs and error texts.
    NotFound(NotResolved, String),
}

/// One query on its way. Time is a [`Duration`] since an origin of the caller's choice. Not thread-safe.
pub struct Asker {
    query: Query,
    pinned: Option<PublicKey>,
    /// The SSRP question, where it may be asked.
    ssrp: Option<Vec<u8>>,
    targets: Vec<Target>,
    lookups: Vec<(Lookup, u16)>,
    problems: Vec<String>,
    rounds: u32,
    next_send: Duration,
    /// An active node was heard: when the wait for the silent ones ends.
    settled: Option<Duration>,
    /// When that was.
    found: Option<Duration>,
    ends: Duration,
    outcome: Option<Outcome>,
}

impl Asker {
    /// Opens one connected socket per address of a node and sends the first requests. Fails when the process is out of
    /// descriptors or memory, or the pinned key is none; node names that cannot be resolved are part of the outcome.
    pub fn start(
        name: &ServerName,
        cluster: &Cluster,
        min_generation: Generation,
        now: Duration,
    ) -> Result<Self> {
        let pinned = cluster
            .public_key
            .as_deref()
            .map(PublicKey::from_hex)
            .transpose()?;
        let query = Query {
            nonce: random_bytes()?,
            server: name.server.clone(),
            min_generation,
        };
        let ssrp = match pinned.is_none() && min_generation == 0 {
            true => ssrp::Request::Instance(name.server.clone()).encode(),
            false => None,
        };
        let mut asker = Self {
            query,
            pinned,
            ssrp,
            targets: Vec::new(),
            lookups: Vec::new(),
            problems: Vec::new(),
            rounds: 0,
            next_send: now,
            settled: None,
            found: None,
            ends: now + QUERY_TIME,
            outcome: None,
        };
        for node in &cluster.nodes {
            asker.add_node(node)?;
        }
        asker.send_round(now)?;
        asker.judge(now);
        Ok(asker)
    }

    /// What to watch for reading. They change after every call that takes `now`.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let sockets = self.targets.iter().filter_map(Target::fd);
        sockets
            .chain(self.lookups.iter().map(|(lookup, _)| lookup.fd()))
            .collect()
    }

    /// Reads whatever has arrived, without blocking: call when any of [`Asker::fds`] is readable.
    pub fn on_readable(&mut self, now: Duration) {
        if self.outcome.is_some() {
            return;
        }
        self.take_lookups();
        let asked = Asked {
            query: &self.query,
            pinned: self.pinned.as_ref(),
            ssrp: self.ssrp.is_some(),
        };
        for target in &mut self.targets {
            target.receive(&asked);
        }
        self.judge(now);
    }

    /// When [`Asker::on_timeout`] is due. `None` once there is an outcome.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let due = self
            .next_send
            .min(self.ends)
            .min(self.settled.unwrap_or(self.ends));
        self.outcome.is_none().then_some(due)
    }

    /// Reads whatever has arrived, and does what is due: for who looks now and then, and watches nothing.
    pub fn on_timeout_if_due(&mut self, now: Duration) {
        self.on_readable(now);
        if self.poll_timeout().is_some_and(|due| due <= now) {
            self.on_timeout(now);
        }
    }

    /// Sends what is due, ends the query when its time is over.
    pub fn on_timeout(&mut self, now: Duration) {
        // What has arrived counts, also when the caller comes late.
        self.on_readable(now);
        if self.outcome.is_none() && now >= self.next_send && self.send_round(now).is_err() {
            self.next_send = now + RESEND_MAX;
        }
        self.judge(now);
    }

    /// The outcome, once there is one.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// When the active node was heard.
    pub fn found(&self) -> Option<Duration> {
        self.found
    }

    /// What each node said so far, for `vianet resolve` and error texts.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for target in &self.targets {
            let separator = if text.is_empty() { "" } else { "; " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{}: ", target.addr);
            let _ = match &target.heard {
                Heard::Silent => write!(text, "no answer"),
                Heard::Refused(why) => write!(text, "{why}"),
                Heard::Bad(why) => write!(text, "answer not believed: {why}"),
                Heard::Answer(a) => write!(
                    text,
                    "{} is {} with generation {}",
                    a.node,
                    match a.role {
                        Role::Active => "active",
                        Role::Passive => "passive",
                        Role::TakingOver => "taking over",
                        Role::Unknown => "without this name",
                    },
                    a.generation
                ),
            };
        }
        let hangs = |(lookup, _): &(Lookup, u16)| {
            let host = lookup.host();
            format!("{host}: its address is still being looked up")
        };
        let hanging = self.lookups.iter().map(hangs);
        for problem in self.problems.iter().cloned().chain(hanging) {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{problem}");
        }
        text
    }

    /// The answers so far, one per address that answered.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.targets
            .iter()
            .filter_map(|target| match &target.heard {
                Heard::Answer(answer) => Some(answer),
                _ => None,
            })
    }

    fn add_node(&mut self, node: &str) -> Result<()> {
        match NodeAddr::parse(node, DEFAULT_QUERY_PORT) {
            Some(NodeAddr::Literal(addr)) => self.add_target(addr)?,
            Some(NodeAddr::Named(host, port)) => {
                for ip in lookup::remembered(&host) {
                    self.add_target(SocketAddr::new(ip, port))?;
                }
                match Lookup::begin(&host) {
                    Ok(lookup) => self.lookups.push((lookup, port)),
                    Err(why) => self.problems.push(why),
                }
            }
            None => self.problems.push(format!(
                "node \"{}\" is neither host, host:port, address nor [v6]:port",
                node.escape_debug()
            )),
        }
        Ok(())
    }

    fn add_target(&mut self, addr: SocketAddr) -> Result<()> {
        if !self.targets.iter().any(|target| target.addr == addr) {
            self.targets.push(Target::open(addr)?);
        }
        Ok(())
    }

    fn take_lookups(&mut self) {
        let mut found = Vec::new();
        let problems = &mut self.problems;
        self.lookups.retain(|(lookup, port)| match lookup.poll() {
            None => true,
            Some(Ok(ips)) => {
                found.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, *port)));
                false
            }
            Some(Err(why)) => {
                problems.push(why);
                false
            }
        });
        let Ok(request) = self.query.encode() else {
            return;
        };
        for addr in found {
            let known = self.targets.len();
            match self.add_target(addr) {
                Ok(()) => self.targets[known..].iter_mut().for_each(|t| {
                    t.send(&request);
                }),
                Err(e) => self.problems.push(e.to_string()),
            }
        }
    }

    fn send_round(&mut self, now: Duration) -> Result<()> {
        let request = self.query.encode().map_err(|why| {
            Error::new(
                Kind::BadArgument,
                format!("server name {}: {why}", self.query.server),
            )
        })?;
        let mut watching = false;
        for target in &mut self.targets {
            match &target.heard {
                Heard::Answer(answer) if answer.role == Role::Active => continue,
                Heard::Answer(_) => watching = true,
                Heard::Silent | Heard::Refused(_) | Heard::Bad(_) => {
                    if let Some(ssrp) = &self.ssrp
                        && self.rounds >= ROUNDS_BEFORE_SSRP
                    {
                        target.send(ssrp);
                    }
                }
            }
            target.send(&request);
        }
        let pause = RESEND_FIRST
            .saturating_mul(1 << self.rounds.min(8))
            .min(RESEND_MAX);
        self.rounds += 1;
        self.next_send = now
            + if watching {
                pause.min(RESEND_WATCHING)
            } else {
                pause
            };
        Ok(())
    }

    /// Why there is no usable answer, from what was heard until now.
    pub fn so_far(&self) -> NotResolved {
        match self.answers().next() {
            None if self.targets.iter().any(|target| target.forged) => NotResolved::NotAuthentic,
            None => NotResolved::Nobody,
            Some(_) if self.answers().all(|a| a.role == Role::Unknown) => NotResolved::UnknownName,
            Some(_) => NotResolved::NobodyActive,
        }
    }

    fn judge(&mut self, now: Duration) {
        if self.outcome.is_some() {
            return;
        }
        let over = now >= self.ends;
        // An SSRP-only node is silent to our first question and may still be waited for; a refusal is final here.
        let silent = |t: &Target| matches!(t.heard, Heard::Silent | Heard::Bad(_));
        let open = !self.lookups.is_empty() || self.targets.iter().any(silent);
        let usable =
            |a: &&Answer| a.role == Role::Active && a.generation >= self.query.min_generation;
        if let Some(best) = self
            .answers()
            .filter(usable)
            .max_by_key(|a| a.generation)
            .cloned()
        {
            let linger = if best.cluster_id.is_some() {
                LINGER
            } else {
                LINGER_SSRP
            };
            let settled = self.settled.unwrap_or(now + linger).min(now + linger);
            self.settled = Some(settled);
            self.found.get_or_insert(now);
            if !open || over || now >= settled {
                self.outcome = Some(Outcome::Found(best));
            }
            return;
        }
        (self.settled, self.found) = (None, None);
        // While no node is active a takeover may be under way: the question is repeated until the time is over.
        let why = self.so_far();
        if over || (!open && why != NotResolved::NobodyActive) {
            self.outcome = Some(Outcome::NotFound(why, self.report()));
        }
    }
}

/// Asks and waits for the end of the query, at most until `deadline` from now. `heard` is called after each time that
/// something may have come.
///
/// For threads that may block; the library's own connections use [`Asker`] in their I/O thread.
pub fn ask_blocking(
    name: &ServerName,
    cluster: &Cluster,
    min_generation: Generation,
    deadline: Duration,
    mut heard: impl FnMut(&Asker),
) -> Result<Outcome> {
    let origin = Instant::now();
    let mut asker = Asker::start(name, cluster, min_generation, origin.elapsed())?;
    while let Some(due) = asker.poll_timeout() {
        wait_readable(
            &asker.fds(),
            due.min(deadline).saturating_sub(origin.elapsed()),
        )?;
        let now = origin.elapsed();
        if now >= deadline {
            asker.ends = now;
        }
        asker.on_readable(now);
        if asker.poll_timeout().is_some_and(|due| now >= due) {
            asker.on_timeout(now);
        }
        heard(&asker);
    }
    Ok(asker.outcome.take().unwrap_or_else(|| {
        Outcome::NotFound(
            NotResolved::Nobody,
            "the query ended without an outcome".into(),
        )
    }))
}

fn wait_readable(fds: &[BorrowedFd<'_>], time: Duration) -> Result<()> {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::system("poll", errno)),
    }
}

#[cfg(test)]
#[path = "asker/tests.rs"]
pub(crate) mod tests;
