//! One application connection: descriptor, channel, failover machine and session put together (DESIGN sections 4
//! and 7).
//!
//! The application holds one real descriptor for the whole life of the connection; the library holds the other end of
//! that socket pair, a channel, and one I/O thread per process that carries out what the failover machine decides.
//! `capi` and the preload library are thin layers over this module.
//!
//! Thread rules: every function may be called from any thread. One thread may send while another receives; two
//! receivers (or senders) take turns. After `fork` the first process that uses a connection owns it.

mod adopt;
pub mod asker;
mod connection;
mod control;
mod descriptor;
mod driver;
pub mod events;
mod fork;
mod leaving;
mod lock;
mod losses;
mod patience;
mod plain;
pub mod prober;
mod probes;
mod queries;
mod reactor;
mod standbys;
mod suspects;
mod table;
mod transports;
mod turnstile;

use crate::config::Client;
use crate::error::{Error, Kind, Result};
use crate::resolve::identity::PublicKey;
use crate::resolve::name::ServerName;
use crate::resolve::ticket::Why;
use crate::resolve::{Answer, Generation};
use crate::via::Transport;
use connection::{Conn, Here, Parts};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use driver::Times;
pub use queries::journal;

/// How to connect.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The descriptor is non-blocking and the connect is not waited for.
    pub nonblocking: bool,
    /// The descriptor is closed on exec.
    pub cloexec: bool,
    /// Longest time for connecting; `None`: as configured.
    pub deadline: Option<Duration>,
    /// Configuration file; `None`: the usual places.
    pub config: Option<PathBuf>,
    /// Transports that may be used; empty: as configured.
    pub transports: Vec<Transport>,
}

/// Which directions `shutdown` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Both.
    Both,
}

impl How {
    /// From SHUT_RD, SHUT_WR, SHUT_RDWR.
    pub fn from_c(how: i32) -> Result<Self> {
        match how {
            libc::SHUT_RD => Ok(Self::Read),
            libc::SHUT_WR => Ok(Self::Write),
            libc::SHUT_RDWR => Ok(Self::Both),
            _ => Err(Error::new(
                Kind::BadArgument,
                format!("shutdown: how = {how} is not SHUT_RD, SHUT_WR or SHUT_RDWR"),
            )),
        }
    }
}

/// What a connection is doing. The numbers are part of the C interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The name is being resolved or a node is being connected.
    Connecting = 1,
    /// Bytes travel.
    Established = 2,
    /// The server is lost or silent; calls wait.
    Suspended = 3,
    /// It is over.
    Lost = 4,
}

/// What a connection is like now.
#[derive(Clone, Debug)]
pub struct Info {
    /// What it is doing.
    pub phase: Phase,
    /// The transport in use.
    pub transport: Option<Transport>,
    /// Why no better one is, "" if it is the best.
    pub why_not_better: String,
    /// The name asked for.
    pub name: String,
    /// The node in use.
    pub node: String,
    /// Its generation for the name.
    pub generation: Generation,
    /// How often the connection moved to another server.
    pub failovers: u64,
    /// How often the channel was carried on to the same node.
    pub resumptions: u64,
    /// Bytes accepted from the application.
    pub bytes_sent: u64,
    /// Bytes given to the application.
    pub bytes_received: u64,
    /// errno of what ended it, else 0.
    pub error: i32,
    /// Why the open stream could not move to another server now; `None`: it could.
    pub why_not_movable: Option<&'static str>,
    /// Why what it sends is not encrypted; `None`: it is.
    pub why_not_encrypted: Option<&'static str>,
    /// Why a session whose protocol is followed could not log in on another server without the password; `None`: it could,
    /// or nothing is followed.
    pub why_no_ticket: Option<Why>,
    /// How it is found out what its session has become: `exact` or `derived`.
    pub state_way: Option<&'static str>,
    /// How long the parts of the last failover took, if there was one.
    pub last_failover: Option<Times>,
    /// Why its session does not wait on another node's standby; "": it does.
    pub why_not_warm: &'static str,
}

/// The answer to [`resolve`].
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Who serves the name.
    pub answer: Answer,
    /// It was in the process's cache.
    pub cached: bool,
}

/// What [`connect_in_place`] is to put in the place of an application's socket.
#[derive(Clone, Debug)]
pub struct InPlace {
    /// The application's own stream socket, unconnected.
    pub fd: RawFd,
    /// The server name.
    pub name: String,
    /// The address that the application gave to `connect`: what `getpeername` answers.
    pub peer: SocketAddr,
    /// Configuration and limits; `nonblocking` and `cloexec` are read from `fd` instead.
    pub options: Options,
}

/// A connection that cannot be torn down while this is held. Not for keeping: `close` waits for it.
pub struct ConnRef(table::Entered);

/// Time on a clock that never jumps, the same in a forked child.
pub(crate) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of this clock is ever negative.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Connects by name and returns a new descriptor. With `nonblocking` it returns at once.
pub fn connect(name: &str, options: &Options) -> Result<RawFd> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 0));
    let asked = Asked::new(name, options, peer)?;
    let (near, conn) = begin(asked, options.nonblocking, options.cloexec)?;
    if !options.nonblocking {
        wait_until_connected(&conn)?;
    }
    enlist(&conn, &[near.as_raw_fd()])?;
    Ok(adopt::give(near))
}

/// Connects by name and puts the connection in the place of the application's own socket: same number, status flags,
/// close-on-exec flag, timeouts; epoll registrations are made again, aliases in the process replaced. A non-blocking
/// socket gives [`Kind::InProgress`] once the connect has begun.
pub fn connect_in_place(request: &InPlace) -> Result<()> {
    // SAFETY: the application is inside a call on its own number; a closed one gives EBADF.
    let own = unsafe { BorrowedFd::borrow_raw(request.fd) };
    let status = rustix::fs::fcntl_getfl(own).map_err(|e| Error::system("F_GETFL", e))?;
    let nonblocking = status.contains(rustix::fs::OFlags::NONBLOCK);
    let inode = descriptor::inode(own).map_err(|e| Error::system("fstat", e))?;
    let asked = Asked::new(&request.name, &request.options, request.peer)?;
    let (near, conn) = begin(asked, nonblocking, true)?;
    if !nonblocking {
        // A failure leaves the application's socket as it was.
        wait_until_connected(&conn)?;
    }
    let numbers = adopt::put_in_place(request.fd, inode, near)?;
    enlist(&conn, &numbers)?;
    match nonblocking {
        true => Err(Error::new(Kind::InProgress, "the connect has begun")),
        false => Ok(()),
    }
}

/// A request to connect, checked.
struct Asked {
    name: ServerName,
    config: Arc<Client>,
    pinned: Option<PublicKey>,
    wanted: Vec<Transport>,
    transports: Vec<Transport>,
    deadline: Duration,
    peer: SocketAddr,
}

impl Asked {
    fn new(name: &str, options: &Options, peer: SocketAddr) -> Result<Self> {
        let config = configuration(options.config.as_deref())?;
        let name = ServerName::parse(name, &config)?;
        let Some(cluster) = name.cluster_config(&config) else {
            return Err(Error::new(
                Kind::UnknownCluster,
                format!("{name}: no such cluster"),
            ));
        };
        let pinned = cluster
            .public_key
            .as_deref()
            .map(PublicKey::from_hex)
            .transpose()?;
        let wanted = cluster.transports();
        let allowed =
            |t: &Transport| options.transports.is_empty() || options.transports.contains(t);
        let transports = wanted.iter().copied().filter(allowed).collect();
        let deadline = options.deadline.unwrap_or(config.deadline());
        Ok(Self {
            name,
            pinned,
            wanted,
            transports,
            deadline,
            peer,
            config,
        })
    }
}

/// A configuration that was read: from where, and when that file was changed last.
type Read = (PathBuf, Option<std::time::SystemTime>, Arc<Client>);
/// Held for moments, not while a file is read: a forked child may connect, and so may a signal handler.
static READ: lock::Lock<Vec<Read>> = lock::Lock::new(Vec::new());

/// The lock of the configurations, for `fork`.
fn configurations_lock() -> &'static lock::RawLock {
    READ.raw()
}

/// Configurations that were read, by path; the same file is read again when it was changed.
fn configuration(path: Option<&Path>) -> Result<Arc<Client>> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => Client::find().ok_or_else(|| {
            let text = "no client.toml: set VIANET_CONFIG, or write ~/.config/vianet/client.toml";
            Error::new(Kind::BadConfig, text)
        })?,
    };
    let changed = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
    if let Some(read) = READ.try_lock()
        && let Some((_, when, config)) = read.iter().find(|(p, _, _)| *p == path)
        && *when == changed
    {
        return Ok(Arc::clone(config));
    }
    let config = Arc::new(Client::load(&path)?);
    if let Some(mut read) = READ.try_lock() {
        read.retain(|(p, _, _)| *p != path);
        read.push((path, changed, Arc::clone(&config)));
    }
    Ok(config)
}

/// Makes the pair and starts the connect.
fn begin(
    asked: Asked,
    nonblocking: bool,
    cloexec: bool,
) -> Result<(rustix::fd::OwnedFd, Arc<Conn>)> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    fork::register();
    let (near, bell, inode) = descriptor::pair(nonblocking, cloexec)?;
    let conn = Conn::new(Parts {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        name: asked.name,
        config: asked.config,
        pinned: asked.pinned,
        wanted: asked.wanted,
        transports: asked.transports,
        deadline: asked.deadline,
        peer: asked.peer,
        bell,
        inode,
    })?;
    conn.control
        .owner
        .store(fork::process_token(), Ordering::Release);
    reactor::send(reactor::Command::Start(Arc::clone(&conn)))?;
    Ok((near, conn))
}

/// The machine's deadline ends it in any case.
fn wait_until_connected(conn: &Conn) -> Result<()> {
    while conn.control.phase() == Phase::Connecting {
        conn.control
            .wait_while(Phase::Connecting, Some(Duration::from_millis(500)));
    }
    if conn.control.phase() == Phase::Lost {
        return Err(conn.take_loss());
    }
    // The phase comes first and the bell right after it, under this lock: the descriptor is handed out writable.
    conn.settle_sends();
    Ok(())
}

/// Makes the application's numbers known.
fn enlist(conn: &Arc<Conn>, numbers: &[RawFd]) -> Result<()> {
    conn.set_numbers(numbers);
    for fd in numbers {
        if !make_known(*fd, Arc::clone(conn)) {
            let text = format!("descriptor {fd} is beyond what the library can serve");
            return Err(Error::new(Kind::OutOfDescriptors, text));
        }
    }
    Ok(())
}

/// Puts a connection into the table that may not be there yet. Not while the process forks: what a child finds there must
/// have been seen by `fork::prepare`, or a lock of it may be held for ever.
fn make_known(fd: RawFd, conn: Arc<Conn>) -> bool {
    // Outside: an older connection of the number may have threads inside, which are waited for.
    table::remove(fd);
    // A signal handler may have interrupted the thread that holds it: that one is not in the middle of a fork.
    let _no_fork = reactor::handle_lock().lock(None);
    table::insert(fd, conn)
}

/// The connection of `fd`, if `fd` is known to be one of ours. Lock-free, no system call, async-signal-safe; a few
/// nanoseconds for a miss. Does not find numbers made by `dup` behind our back; see [`find`].
pub fn lookup(fd: RawFd) -> Option<ConnRef> {
    table::lookup(fd)
}

/// For calls that carry bytes: as [`lookup`], without a system call while the number is known, and as [`find`] otherwise. A
/// number that was closed behind our back is forgotten when the I/O thread hears of it, a moment later.
pub fn known(fd: RawFd) -> Result<ConnRef> {
    lookup(fd).map_or_else(|| find(fd), Ok)
}

/// As [`lookup`], checks that the number was not closed and reused behind our back, and finds duplicates by inode;
/// [`Kind::BadDescriptor`] or [`Kind::NotOurs`] otherwise.
pub fn find(fd: RawFd) -> Result<ConnRef> {
    let bad = || Error::new(Kind::BadDescriptor, format!("descriptor {fd} is not open"));
    if fd < 0 {
        return Err(bad());
    }
    // SAFETY: used for this one call; a closed number gives EBADF.
    let inode = descriptor::inode(unsafe { BorrowedFd::borrow_raw(fd) });
    if let Some(found) = table::lookup(fd) {
        if Ok(found.0.conn().inode) == inode {
            return Ok(found);
        }
        // Closed (and perhaps given to a stranger) without our knowledge.
        drop(found);
        closing(fd);
    }
    let inode = inode.map_err(|_| bad())?;
    let mut original = None;
    table::for_each(|_, conn| {
        if conn.inode == inode && original.is_none() {
            original = conn.me.upgrade();
        }
    });
    if let Some(conn) = original {
        conn.add_number(fd);
        table::insert(fd, conn);
        if let Some(found) = table::lookup(fd) {
            return Ok(found);
        }
    }
    let text = format!("descriptor {fd} is open and not a connection by name");
    Err(Error::new(Kind::NotOurs, text))
}

/// Closes `fd`, one of ours: threads inside leave first, then the kernel closes.
pub fn close(fd: RawFd) -> Result<()> {
    let conn = find(fd)?.0.conn().me.upgrade();
    closing(fd);
    // SAFETY: the number was one of ours a moment ago, and the caller gives it up.
    unsafe { rustix::io::close(fd) };
    // A duplicate that was made behind our back may be the last of its names here: it must stay findable.
    if let Some(conn) = conn
        && conn.number() == -1
        && !conn.far_hung_up()
        && let Some(other) = adopt::number_of(conn.inode)
    {
        conn.add_number(other);
        make_known(other, conn);
    }
    Ok(())
}

/// To be called before the kernel closes or replaces `fd` (hooked `close`, `dup2` target, `close_range`): threads inside
/// leave, and the number is no longer ours. Does nothing for others' descriptors. Async-signal-safe.
pub fn closing(fd: RawFd) {
    if let Some(conn) = table::remove(fd) {
        conn.remove_number(fd);
    }
}

/// To be called after `new` became a duplicate of `old`. Does nothing for others' descriptors.
pub fn duplicated(old: RawFd, new: RawFd) {
    let conn = table::lookup(old).and_then(|found| found.0.conn().me.upgrade());
    if let Some(conn) = conn.filter(|_| old != new) {
        conn.add_number(new);
        table::insert(new, conn);
    }
}

/// To be called before `exec` or before a descriptor is sent to another process: `fd` may be read by somebody who does
/// not have the library from now on, so the I/O thread looks often.
pub fn announce_shared(fd: RawFd) {
    if let Some(found) = table::lookup(fd) {
        // A forked child that is about to exec gets no I/O thread for this; the parent's finds out by itself.
        let owner = found.0.conn().control.owner.load(Ordering::Acquire);
        if owner == fork::process_token() {
            let _ = reactor::send(reactor::Command::Shared(found.0.conn().id));
        }
    }
}

/// To be called in the child after a `fork` that does not run pthread_atfork handlers.
pub fn forked() {
    fork::forked_without_handlers();
}

/// Asks who serves `name` now: the process's cache, then the cluster.
pub fn resolve(name: &str, options: &Options) -> Result<Resolved> {
    let config = configuration(options.config.as_deref())?;
    let name = ServerName::parse(name, &config)?;
    let deadline = options.deadline.unwrap_or(config.deadline());
    queries::resolve_blocking(&name, &config, deadline)
}

impl ConnRef {
    /// Sends; `flags` are those of send(2). Blocks as the descriptor's O_NONBLOCK and SO_SNDTIMEO say.
    pub fn send(&self, data: &[std::io::IoSlice<'_>], flags: i32) -> Result<usize> {
        self.0
            .conn()
            .send(self.0.fd(), data, flags, Here(Some(&self.0)))
    }

    /// Receives; `flags` are those of recv(2). Blocks as the descriptor's O_NONBLOCK and SO_RCVTIMEO say. 0 is the end.
    pub fn recv(&self, buffer: &mut [u8], flags: i32) -> Result<usize> {
        self.0
            .conn()
            .recv(self.0.fd(), buffer, flags, Here(Some(&self.0)))
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, how: How) -> Result<()> {
        self.0.conn().shutdown(self.0.fd(), how)
    }

    /// For a caller that is about to poll this descriptor alone for readable, and may wait for at most `most`: lets a spin
    /// take the place of the poll's sleep where that was seen to pay. Changes nothing; the poll's answer counts.
    /// Async-signal-safe.
    ///
    /// Signals wait meanwhile: a handler that leaves a poll by `siglongjmp` is in its right, and must not take with it
    /// what a spin holds, this reference included. So it takes the reference, and nothing is held during the poll.
    pub fn spin_for_poll(self, most: Duration) {
        crate::signals::with_signals_blocked(move || {
            self.0.conn().spin_for_poll(most);
            drop(self);
        });
    }

    /// Bytes that `recv` would give without waiting (FIONREAD).
    pub fn readable(&self) -> usize {
        self.0.conn().readable()
    }

    /// SO_ERROR: the errno of a failed connect or a lost connection, once, then 0.
    pub fn take_error(&self) -> i32 {
        self.0.conn().control.so_error.swap(0, Ordering::AcqRel)
    }

    /// The address of the other side as the application knows it: what it gave to `connect`.
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.conn().peer
    }

    /// A local address of the same family.
    pub fn local_addr(&self) -> SocketAddr {
        // The wire's own address would tell which transport is in use, and changes with it: this one stays.
        let port = 32768 + (self.0.conn().id % 28000) as u16;
        match self.0.conn().peer {
            SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], port)),
            SocketAddr::V6(peer) if peer.ip().to_ipv4_mapped().is_some() => {
                SocketAddr::from((std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port))
            }
            SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        }
    }

    /// What the connection is like now.
    pub fn info(&self) -> Info {
        self.0.conn().info()
    }
}
