//! One application connection in this process, and what its parts share. The application's calls are in `calls`; the I/O
//! thread (`reactor`, `driver`) puts channels in and holds the calls back by `turns`.

mod asking;
mod bypass;
mod calls;
mod gate;
mod login;
mod moved;
mod numbers;
mod quiet;
mod session;
mod standing_in;
mod turns;

use super::control::Control;
use super::lock::{Lock, NotTaken, RawGuard};
use super::patience::{Direction, Patience};
use super::{How, Info, Phase, Times, descriptor, fork, lock, reactor, table};
use crate::config::{Client, RawFailover};
use crate::error::{Error, Kind, Result};
use crate::resolve::identity::PublicKey;
use crate::resolve::name::ServerName;
use crate::resolve::{Answer, Endpoint};
use crate::session::postgres::Policy;
use crate::session::raw::{Movable, RawObserver};
use crate::via::bell::{AppBell, Bell};
use crate::via::channel::{Channel, Received};
use crate::via::wait::Habit;
use crate::via::{Broken, Transport};
pub use asking::Rest;
pub use gate::Gate;
use session::Followed;
pub use session::Verdict;
use std::cell::UnsafeCell;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// One application connection in this process.
pub struct Conn {
    /// Names the connection in this process.
    pub id: u64,
    /// Itself, for the I/O thread of a process that takes it over.
    pub me: Weak<Conn>,
    /// What the application asked for.
    pub name: ServerName,
    /// The configuration it asked under.
    pub config: Arc<Client>,
    /// Transports that may be used, best first.
    pub transports: Vec<Transport>,
    /// The cluster's pinned key.
    pub pinned: Option<PublicKey>,
    /// Transports of the configuration, best first.
    pub wanted: Vec<Transport>,
    /// One for the connect, and one for each failover.
    pub deadline: Duration,
    /// What `getpeername` answers.
    pub peer: SocketAddr,
    /// The words that survive a fork.
    pub control: Control,
    /// The application's end and ours; `None` once ours is closed.
    pub bell: Lock<Option<Arc<AppBell>>>,
    /// The numbers by which the application knows its end.
    pub numbers: Lock<Vec<RawFd>>,
    /// What changes seldom.
    pub slow: Lock<Slow>,
    /// The session above the bytes.
    pub followed: Followed,
    /// Whether it could log in elsewhere.
    pub login: login::Login,
    /// Device and inode of the application's end.
    pub inode: (u64, u64),
    /// Whether a receiver looks for bytes before it asks its descriptor how long it may wait.
    look_first: Habit,
    rx: UnsafeCell<Receiving>,
    tx: UnsafeCell<Sending>,
}

/// What the I/O thread writes and reports read.
#[derive(Default)]
pub struct Slow {
    /// The channel in use, and its count (`Words::epoch`).
    pub channel: Option<(u32, Arc<Channel>)>,
    /// The answer that led to it.
    pub answer: Option<Answer>,
    /// Which of the answer's endpoints that was.
    pub endpoint: Option<Endpoint>,
    /// Why better transports are not in use.
    pub why_not_better: String,
    /// The node in use.
    pub node: String,
    /// How long the last failover took.
    pub last_failover: Option<Times>,
    /// Why no session waits on another node, "" if one does.
    pub why_not_warm: Option<&'static str>,
    /// The text of the error that ended the connection.
    pub lost: Option<Error>,
}

/// Guarded by `Words::rx`.
#[derive(Default)]
struct Receiving {
    channel: Option<(u32, Arc<Channel>)>,
    /// Bytes that an earlier channel delivered and nobody has read; they come first.
    left: Vec<u8>,
    /// A token for `left` is in the bell.
    rung: bool,
}

/// Guarded by `Words::tx`.
#[derive(Default)]
struct Sending {
    channel: Option<(u32, Arc<Channel>)>,
}

// SAFETY: `rx` and `tx` are touched only under the locks `control.rx` and `control.tx`; all else is Sync by itself.
unsafe impl Sync for Conn {}
// SAFETY: as above; nothing in it is bound to a thread.
unsafe impl Send for Conn {}

impl Conn {
    /// A connection that is not known to anybody yet.
    pub fn new(parts: Parts) -> Result<Arc<Self>> {
        let control = Control::new()?;
        let cluster = parts.name.cluster_config(&parts.config);
        let server = cluster.and_then(|cluster| cluster.server(&parts.name.server));
        let session = server.and_then(|server| server.session);
        let session = session.or(cluster.map(|cluster| cluster.session));
        let listening = server.and_then(|server| server.move_listening);
        let policy = Policy {
            listening: (listening.or(cluster.map(|cluster| cluster.move_listening)))
                .unwrap_or_default(),
            libraries: (cluster.map(|cluster| cluster.stateless_libraries.clone()))
                .unwrap_or_default(),
            custom: (cluster.map(|cluster| cluster.custom_settings.clone())).unwrap_or_default(),
            trusted: (cluster.map(|cluster| cluster.trusted_functions.clone())).unwrap_or_default(),
        };
        Ok(Arc::new_cyclic(|me| Self {
            id: parts.id,
            me: me.clone(),
            name: parts.name,
            config: parts.config,
            pinned: parts.pinned,
            wanted: parts.wanted,
            transports: parts.transports,
            deadline: parts.deadline,
            peer: parts.peer,
            control,
            bell: Lock::new(Some(parts.bell)),
            numbers: Lock::new(Vec::new()),
            slow: Lock::new(Slow::default()),
            login: login::Login::default(),
            followed: Followed::new(session.unwrap_or_default(), policy),
            inode: parts.inode,
            look_first: Habit::default(),
            rx: UnsafeCell::new(Receiving::default()),
            tx: UnsafeCell::new(Sending::default()),
        }))
    }

    /// The locks that are held for moments, in the order in which they may be taken together.
    pub fn momentary_locks(&self) -> [&lock::RawLock; 4] {
        [
            self.slow.raw(),
            self.bell.raw(),
            self.numbers.raw(),
            self.followed.lock(),
        ]
    }

    /// The first use in a process after fork makes it the owner.
    fn own(&self) {
        let me = fork::process_token();
        if self.control.owner.load(Ordering::Relaxed) != me {
            reactor::take_over(self, me);
        }
    }

    /// Makes this process the owner of a suspended connection whose owner is gone: nobody else would let the calls go on. (One
    /// that lives is at it, and is not to be disturbed.)
    #[cold]
    fn own_orphan(&self) {
        let owner = self.control.owner.load(Ordering::Relaxed);
        let pid = i32::try_from(owner)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let gone = |pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        if owner != fork::process_token() && pid.is_some_and(gone) {
            self.own();
        }
    }

    /// Wakes every thread that waits inside a call, so that it looks at its state again.
    pub fn kick(&self) {
        let channel = self.slow.try_lock().and_then(|slow| slow.channel.clone());
        if let Some((_, channel)) = channel {
            channel.kick();
        }
        lock::wake(&self.control.phase, u32::MAX >> 1);
    }

    /// The channel in use.
    pub fn channel(&self) -> Option<Arc<Channel>> {
        self.slow
            .lock()
            .channel
            .as_ref()
            .map(|(_, channel)| Arc::clone(channel))
    }

    /// Bytes that `recv` would give without waiting.
    pub fn readable(&self) -> usize {
        let left = match self.control.rx.lock(Some(Duration::from_millis(1))) {
            // SAFETY: the direction's lock is held.
            Ok(_lock) => unsafe { (*self.rx.get()).left.len() },
            Err(_) => 0,
        };
        match self.ours().is_over() {
            true => left + self.channel().map_or(0, |channel| channel.readable()),
            false => left,
        }
    }

    /// See [`super::ConnRef::spin_for_poll`].
    pub fn spin_for_poll(&self, most: Duration) {
        let limit = Duration::from_micros(self.config.spin_us).min(most);
        // In a forked child, before it uses the connection, the parent's threads see to it.
        let owned = self.control.owner.load(Ordering::Relaxed) == fork::process_token();
        let open = !self.control.read_shut.load(Ordering::Relaxed);
        if limit.is_zero() || !owned || !open || self.control.phase() != Phase::Established {
            return;
        }
        let slow = self.slow.try_lock();
        let channel = slow.and_then(|slow| slow.channel.as_ref().map(|(_, c)| Arc::clone(c)));
        if let Some(channel) = channel {
            channel.spin_for_poll(limit);
        }
    }

    /// The error of a connect that failed.
    pub fn take_loss(&self) -> Error {
        let lost_text = self.slow.lock().lost.clone();
        lost_text.unwrap_or_else(|| lost(self.control.error.load(Ordering::Acquire)))
    }

    /// What the connection is like now.
    pub fn info(&self) -> Info {
        let words = &self.control;
        let slow = self.slow.lock();
        let channel = slow.channel.as_ref().map(|(_, it)| Arc::clone(it));
        // (While a channel is put in here, ours is ahead.)
        let ahead = |mine: u32| words.epoch.load(Ordering::Acquire).wrapping_sub(mine) as i32 > 0;
        if slow.channel.as_ref().is_some_and(|(mine, _)| ahead(*mine)) {
            self.followed.goes_on_elsewhere();
        }
        let transport = channel.as_ref().map(|channel| channel.wire.transport());
        let private = (channel.as_ref()).is_some_and(|channel| channel.wire.is_private());
        let (node, why_not_better) = (slow.node.clone(), slow.why_not_better.clone());
        let last_failover = slow.last_failover;
        let why_not_warm = slow.why_not_warm.unwrap_or("off");
        drop(slow);
        drop(channel);
        let why_not_movable = match (transport, self.verdict(), self.raw_failover()) {
            (None, ..) => Some("not_connected"),
            (Some(Transport::Plain), ..) => Some("plain_transport"),
            (_, Verdict::Stays(reason), _) => Some(reason.name()),
            (_, Verdict::Moves, _) => None,
            (.., RawFailover::Reset) => Some("raw_failover_reset"),
            _ => match self.movable() {
                Movable::Yes => None,
                other => Some(other.reason()),
            },
        };
        let why_not_encrypted = match transport {
            None => Some("not_connected"),
            Some(Transport::Shm) => Some("same_host"),
            Some(Transport::Tcp) if private => None,
            Some(Transport::Tcp) if self.pinned.is_none() => Some("unpinned"),
            Some(Transport::Tcp) => Some("off"),
            Some(transport) => Some(transport.name()),
        };
        Info {
            phase: words.phase(),
            transport,
            why_not_better,
            name: self.name.to_string(),
            node,
            generation: words.generation.load(Ordering::Acquire),
            failovers: words.failovers.load(Ordering::Acquire),
            resumptions: words.resumptions.load(Ordering::Acquire),
            bytes_sent: words.sent.load(Ordering::Acquire),
            bytes_received: words.received.load(Ordering::Acquire),
            error: words.error.load(Ordering::Acquire),
            why_not_movable,
            why_not_encrypted,
            why_no_ticket: match self.followed.is_on() {
                true => self.login(),
                false => None,
            },
            state_way: self.state_way(),
            last_failover,
            why_not_warm,
        }
    }
}

/// What a connection begins with.
pub struct Parts {
    /// Names it in this process.
    pub id: u64,
    /// What was asked for.
    pub name: ServerName,
    /// Under which configuration.
    pub config: Arc<Client>,
    /// The cluster's pinned key.
    pub pinned: Option<PublicKey>,
    /// Transports of the configuration, best first.
    pub wanted: Vec<Transport>,
    /// Those of them that may be used.
    pub transports: Vec<Transport>,
    /// One for the connect, and one for each failover.
    pub deadline: Duration,
    /// What `getpeername` answers.
    pub peer: SocketAddr,
    /// The pair.
    pub bell: Arc<AppBell>,
    /// Device and inode of the application's end.
    pub inode: (u64, u64),
}

/// The number through which a call came in, to find out whether it was closed meanwhile.
#[derive(Clone, Copy)]
pub struct Here<'a>(pub Option<&'a table::Entered>);

impl Here<'_> {
    /// An error if the number means something else now.
    pub fn check(&self) -> Result<()> {
        match self.0 {
            Some(entered) if !entered.is_current() => {
                let text = "the descriptor was closed by another thread";
                Err(Error::new(Kind::BadDescriptor, text))
            }
            _ => Ok(()),
        }
    }
}

/// The error of a call that would have to wait.
pub fn would_block() -> Error {
    Error::new(Kind::WouldBlock, "the call would block")
}

fn lost(errno: i32) -> Error {
    match errno {
        libc::ECONNRESET => Error::new(Kind::ConnectionLost, "the connection was lost"),
        errno => Error::new(Kind::System(errno), "the connection is over"),
    }
}
