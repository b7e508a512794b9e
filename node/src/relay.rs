//! Channels and the connections to the SQL server that they belong to (DESIGN section 8).
//!
//! One thread per VIA provider takes connect requests and checks them; a few relay threads ([`looper`]) carry the bytes.
//! A request is accepted only after the SQL server has accepted our connection to it.

mod door;
mod looper;
mod pg_login;
mod session;
mod upstream;
mod welcome;

pub use door::Door;

use crate::config::{self, Node, Protocol, cannot_use};
use crate::daemon::Mail;
use crate::served::Served;
use crate::ticket::Tickets;
use crate::ticket::lookup::Lookup;
use crossbeam_channel::{Sender, unbounded};
use looper::Looper;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::{info, warn};
use vianet::resolve::identity::SecretKey;
use vianet::resolve::{ClusterId, Endpoint};
use vianet::via::rdma::Rdma;
use vianet::via::shm::Shm;
use vianet::via::tcp::TcpProvider;
use vianet::via::{EndReason, Incoming, ListenConfig, Listener, Provider, RejectReason, Transport};

/// What a relay thread is told.
enum Command {
    /// A new channel is wanted, and the request is good.
    Open {
        incoming: Box<dyn Incoming>,
        index: usize,
    },
    /// A broken channel is to be carried on.
    Resume {
        incoming: Box<dyn Incoming>,
        channel: u64,
    },
    /// Every client of a server is told what is ordered now.
    Order { index: usize },
    /// The role has changed: for channels that wait.
    Role { index: usize },
    /// Every channel of a server ends.
    End { index: usize, reason: EndReason },
    /// The thread ends.
    Stop,
}

/// What all threads of the relay share.
struct Shared {
    node: Arc<str>,
    cluster_id: ClusterId,
    served: Vec<Arc<Served>>,
    mail: Mail,
    resume: Duration,
    tickets: Arc<Tickets>,
    /// Of each server name; `None`: it has no tickets.
    lookups: Vec<Option<Arc<Lookup>>>,
    /// Channels that are open or being opened.
    open: AtomicUsize,
    most: usize,
    /// Sessions that wait until this node is active.
    warm: Arc<AtomicUsize>,
    most_warm: usize,
    /// Logins of one server name at a time.
    most_logins: usize,
    /// Which loop has which channel.
    loops: Mutex<HashMap<u64, usize>>,
    posts: Vec<Post>,
}

/// Where a relay thread takes its commands.
struct Post {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Post {
    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Shared {
    fn index_of(&self, wake: &Arc<OwnedFd>) -> usize {
        self.posts
            .iter()
            .position(|p| Arc::ptr_eq(&p.wake, wake))
            .unwrap_or(0)
    }
}

/// The relay's threads, as the main loop sees them.
pub struct Relay {
    endpoints: Vec<Endpoint>,
    shared: Arc<Shared>,
}

impl Relay {
    /// Listens on every VIA provider and starts the threads.
    ///
    /// # Errors
    /// The text names the key of the configuration and the remedy.
    pub fn start(
        config: &Node,
        signer: Option<SecretKey>,
        served: Vec<Arc<Served>>,
        tickets: Arc<Tickets>,
        mail: Mail,
    ) -> Result<Self, String> {
        let (listeners, endpoints) = listen(config, signer)?;
        let threads = match config.limits.relay_threads {
            0 => std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 4)),
            n => n,
        };
        let mut posts = Vec::new();
        let mut queues = Vec::new();
        for _ in 0..threads {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let wake = Arc::new(eventfd(0, flags).map_err(|e| format!("eventfd: {e}"))?);
            let (commands, queue) = unbounded();
            queues.push((queue, Arc::clone(&wake)));
            posts.push(Post { commands, wake });
        }
        let lookups = served.iter().map(lookup).collect::<Result<_, _>>()?;
        let shared = Arc::new(Shared {
            node: config.node.as_str().into(),
            cluster_id: config.cluster_id_bytes(),
            served,
            mail,
            resume: Duration::from_millis(config.limits.resume_ms),
            tickets,
            lookups,
            open: AtomicUsize::new(0),
            most: config.limits.channels,
            warm: Arc::default(),
            most_warm: config.limits.warm_sessions,
            most_logins: match config.limits.logins {
                0 => 4 * std::thread::available_parallelism().map_or(1, |n| n.get()),
                n => n,
            },
            loops: Mutex::default(),
            posts,
        });
        for (queue, wake) in queues {
            let looper = Looper::new(wake, queue, Arc::clone(&shared))
                .map_err(|e| format!("relay thread: {e}"))?;
            spawn("relay", move || looper.run())?;
        }
        for listener in listeners {
            let shared = Arc::clone(&shared);
            spawn("listen", move || accept(listener, &shared))?;
        }
        Ok(Self { endpoints, shared })
    }

    /// Where VIA over RDMA and over TCP really listens.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Ends every channel of a server. Its lease was withdrawn before, so nothing moves any more.
    pub fn end_channels(&self, server: usize, reason: EndReason) {
        for post in &self.shared.posts {
            post.send(Command::End {
                index: server,
                reason,
            });
        }
    }

    /// Tells every client of a server what is ordered now ([`Served::order`]).
    pub fn tell_order(&self, server: usize) {
        for post in &self.shared.posts {
            post.send(Command::Order { index: server });
        }
    }

    /// The role has changed, and was published: what waits for it goes on, or ends.
    pub fn tell_role(&self, server: usize) {
        for post in &self.shared.posts {
            post.send(Command::Role { index: server });
        }
    }

    /// No channel is open.
    pub fn is_idle(&self) -> bool {
        self.shared.open.load(Ordering::Acquire) == 0
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for post in &self.shared.posts {
            post.send(Command::Stop);
        }
    }
}

type Listeners = (Vec<Box<dyn Listener>>, Vec<Endpoint>);

fn listen(config: &Node, signer: Option<SecretKey>) -> Result<Listeners, String> {
    let listen = ListenConfig {
        addrs: config.listen.via_tcp.clone(),
        shm_dir: config.shm_dir.clone(),
        node: config.node.clone(),
        signer: signer.map(Arc::new),
        tls: config.listen.tls,
        channels_per_peer: config.limits.channels_per_peer,
        max_ring_bytes: config.limits.max_ring_bytes,
    };
    let mut listeners: Vec<Box<dyn Listener>> = Vec::new();
    let mut endpoints = Vec::new();
    if !config.listen.via_rdma.is_empty()
        && let Some(listener) = listen_rdma(config, &listen)?
    {
        endpoints.extend(endpoints_of(&*listener, Transport::Rdma));
        listeners.push(listener);
    }
    if !listen.addrs.is_empty() {
        let listener = TcpProvider.listen(&listen).map_err(|e| {
            format!("listen.via_tcp: {e}; find who has it with `ss -tlnp`, and whether the address is this machine's")
        })?;
        endpoints.extend(endpoints_of(&*listener, Transport::Tcp));
        listeners.push(listener);
    }
    if config.listen.shm {
        std::fs::create_dir_all(&listen.shm_dir)
            .map_err(|e| cannot_use("shm_dir", &listen.shm_dir, &e))?;
        let listener = Shm.listen(&listen).map_err(|e| {
            format!(
                "shm_dir = {}: socket of node {}: {e}",
                listen.shm_dir.display(),
                listen.node
            )
        })?;
        listeners.push(listener);
    }
    Ok((listeners, endpoints))
}

fn endpoints_of(listener: &dyn Listener, transport: Transport) -> Vec<Endpoint> {
    let addrs = listener.local_addrs().into_iter();
    addrs.map(|addr| Endpoint { transport, addr }).collect()
}

/// Where RDMA cannot be had the other transports are enough; an address that somebody else has is a mistake.
fn listen_rdma(config: &Node, listen: &ListenConfig) -> Result<Option<Box<dyn Listener>>, String> {
    let addrs = config.listen.via_rdma.clone();
    let others = config.listen.shm || !config.listen.via_tcp.is_empty();
    match Rdma.listen(&ListenConfig {
        addrs,
        ..listen.clone()
    }) {
        Ok(listener) => Ok(Some(listener)),
        Err(e) if others && e.kind() != std::io::ErrorKind::AddrInUse => {
            warn!(event = "rdma-unavailable", reason = %e, "clients use the other transports");
            Ok(None)
        }
        Err(e) => Err(format!(
            "listen.via_rdma: {e}; an iWARP device shares its ports with TCP: it needs one of its own"
        )),
    }
}

fn lookup(served: &Arc<Served>) -> Result<Option<Arc<Lookup>>, String> {
    let start = |config: &config::Tickets| Lookup::start(Arc::clone(served), config.clone());
    let started = served.config.tickets.as_ref().map(start).transpose();
    Ok(started
        .map_err(|e| format!("thread tickets: {e}"))?
        .map(Arc::new))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|e| format!("thread {name}: {e}"))
}

/// Takes connect requests of one provider, for ever.
fn accept(mut listener: Box<dyn Listener>, shared: &Shared) {
    let mut turn = 0;
    let mut refusals = Refusals::default();
    loop {
        let mut fds = [PollFd::from_borrowed_fd(listener.wait_fd(), PollFlags::IN)];
        let _ = poll(&mut fds, None);
        loop {
            match listener.poll() {
                Ok(Some(incoming)) => dispatch(incoming, shared, &mut turn),
                Ok(None) => break,
                Err(e) => {
                    warn!(event = "listen-failed", error = %e, "connect requests wait");
                    std::thread::sleep(Duration::from_millis(100));
                    break;
                }
            }
        }
        refusals.look(listener.refused());
    }
}

/// What a listener refuses by itself, told at most once a second.
#[derive(Default)]
struct Refusals {
    told: u64,
    at: Option<Instant>,
}

impl Refusals {
    fn look(&mut self, refused: u64) {
        let quiet = |at: Instant| at.elapsed() >= Duration::from_secs(1);
        if refused != self.told && self.at.is_none_or(quiet) {
            warn!(
                event = "rejected",
                reason = ?RejectReason::Busy,
                requests = refused - self.told,
                "one client has more channels than limits.channels_per_peer allows"
            );
            (self.told, self.at) = (refused, Some(Instant::now()));
        }
    }
}

/// Why a session is not let in to wait here.
fn refuses_warm(incoming: &dyn Incoming, shared: &Shared, index: usize) -> Option<RejectReason> {
    let busy = shared.warm.load(Ordering::Acquire) >= shared.most_warm
        || shared.open.load(Ordering::Acquire) >= shared.most;
    let served = &shared.served[index];
    let may = shared.most_warm > 0 && served.config.protocol == Protocol::Postgres;
    match served.standby() {
        _ if !may => Some(RejectReason::NotAuthorised),
        None => Some(RejectReason::NotActive),
        Some((_, seen)) if seen < incoming.min_generation() => Some(RejectReason::GenerationTooOld),
        Some(_) if busy => Some(RejectReason::Busy),
        Some(_) => None,
    }
}

/// Checks a request (claims 22 and 23: this node answers to the name) and hands it to a relay thread.
fn dispatch(incoming: Box<dyn Incoming>, shared: &Shared, turn: &mut usize) {
    let server = incoming.server().to_ascii_lowercase();
    let found = shared.served.iter().position(|s| s.name == server);
    if let (Some(_), Some(channel)) = (found, incoming.resumes()) {
        let post = shared.loops.lock().get(&channel).copied();
        return match post {
            Some(post) => shared.posts[post].send(Command::Resume { incoming, channel }),
            None => incoming.reject(RejectReason::UnknownChannel),
        };
    }
    let refused = match found {
        None => Some(RejectReason::UnknownName),
        Some(index) if incoming.warm() => refuses_warm(&*incoming, shared, index),
        Some(index) => match shared.served[index].active() {
            None => Some(RejectReason::NotActive),
            Some(own) if own < incoming.min_generation() => Some(RejectReason::GenerationTooOld),
            Some(_) if shared.served[index].is_closed() => Some(RejectReason::Busy),
            Some(_) if shared.open.load(Ordering::Acquire) >= shared.most => {
                Some(RejectReason::Busy)
            }
            Some(_) => None,
        },
    };
    match (refused, found) {
        (None, Some(index)) => {
            shared.open.fetch_add(1, Ordering::AcqRel);
            *turn = (*turn + 1) % shared.posts.len();
            shared.posts[*turn].send(Command::Open { incoming, index });
        }
        (reason, _) => {
            let reason = reason.unwrap_or(RejectReason::UnknownName);
            info!(
                event = "rejected",
                server,
                peer = incoming.peer(),
                ?reason,
                "a connect request"
            );
            incoming.reject(reason);
        }
    }
}
