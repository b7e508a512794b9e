//! The process's one I/O thread: started at the first connect by name, all signals blocked, its descriptors
//! close-on-exec and out of the application's way. It waits on one epoll set and hands what happens to the drivers of
//! the connections (`driver`), the queries under way (`queries`) and the probes of nodes in use (`probes`).

use super::connection::Conn;
use super::driver::{self, Driver, Todo};
use super::lock::Lock;
use super::probes::Probes;
use super::queries::Queries;
use super::standbys::Standbys;
use super::turnstile::Turnstile;
use super::{now, queries};
use crate::error::{Error, Result};
use crate::log::Level;
use crate::via::Interest;
use crate::via::channel::Watcher;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// How often a channel that asks for it is ticked.
const TICK: Duration = Duration::from_millis(1);
/// How often a descriptor that others read is looked at, and for how long after the last time that one did.
const SHARED_TICK: Duration = Duration::from_millis(2);
const SHARED_FOR: Duration = Duration::from_secs(1);
/// How often every descriptor is looked at: who hands one on without a word (`execl`, `posix_spawn`, a raw system call) is
/// found out too.
const LOOK: Duration = Duration::from_millis(250);

/// What the I/O thread is told.
pub enum Command {
    /// Connect it.
    Start(Arc<Conn>),
    /// It stands already; this process owns it from now on (after a fork).
    Adopt(Arc<Conn>),
    /// Its state changed: look.
    Look(u64),
    /// Somebody without the library may read its descriptor.
    Shared(u64),
}

struct Handle {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
}

static HANDLE: Lock<Option<Handle>> = Lock::new(None);
/// The epoll set of this process's I/O thread, for watchers on any thread; -1: none.
static EPOLL: AtomicI32 = AtomicI32::new(-1);

/// Sends a command; starts the thread if this process has none.
pub fn send(command: Command) -> Result<()> {
    let mut handle = HANDLE.lock();
    if handle.is_none() {
        *handle = Some(start()?);
    }
    let handle = handle.as_ref().expect("just set");
    // The receiver lives as long as the process.
    let _ = handle.commands.send(command);
    let _ = rustix::io::write(&*handle.bell, &1u64.to_ne_bytes());
    Ok(())
}

/// Asks the thread, if there is one, to look at a connection.
pub fn look_at(id: u64) {
    let handle = HANDLE.try_lock();
    if let Some(Some(handle)) = handle.as_deref() {
        let _ = handle.commands.send(Command::Look(id));
        let _ = rustix::io::write(&*handle.bell, &1u64.to_ne_bytes());
    }
}

/// This process uses a connection that another one owned: it is ours from now on.
#[cold]
pub fn take_over(conn: &Conn, me: u64) {
    let before = conn.control.owner.swap(me, Ordering::AcqRel);
    if before == me {
        return;
    }
    if let Some(conn) = conn.me.upgrade()
        && let Err(error) = send(Command::Adopt(conn))
    {
        crate::log!(
            Level::Error,
            "conn",
            "the I/O thread does not start: {error}"
        );
    }
}

/// In a child after fork: the thread does not exist here, and its epoll set is the parent's.
pub fn forget() {
    let epoll = EPOLL.swap(-1, Ordering::AcqRel);
    // The lock was taken before the fork (`fork::prepare`), so the value is whole. What it holds is left alone, not
    // dropped: the channel's inner state may be in the middle of a change by the thread that is gone.
    std::mem::forget(HANDLE.lock().take());
    if epoll >= 0 {
        // SAFETY: the number was the thread's own epoll descriptor; only our copy is closed.
        unsafe { rustix::io::close(epoll) };
    }
}

/// The lock of the handle, for `fork::prepare`.
pub fn handle_lock() -> &'static super::lock::RawLock {
    HANDLE.raw()
}

/// Whether this is the epoll set of this process's I/O thread.
pub fn is_own_set(fd: RawFd) -> bool {
    EPOLL.load(Ordering::Acquire) == fd
}

fn start() -> Result<Handle> {
    let failed = |what: &'static str| move |e: Errno| Error::system(what, e);
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed("epoll_create1"))?;
    let epoll = crate::fd::move_high(epoll);
    let bell =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("eventfd"))?;
    let bell = Arc::new(crate::fd::move_high(bell));
    let data = EventData::new_u64(Token::Commands.pack());
    epoll::add(&epoll, &*bell, data, EventFlags::IN).map_err(failed("epoll_ctl"))?;
    let (commands, receiver) = unbounded();
    EPOLL.store(epoll.as_raw_fd(), Ordering::Release);
    let reactor = Reactor {
        epoll,
        bell: Arc::clone(&bell),
        commands: receiver,
        drivers: HashMap::new(),
        queries: Queries::default(),
        probes: Probes::default(),
        turnstile: Turnstile::default(),
        standbys: Standbys::default(),
        timers: BTreeSet::new(),
        ticking: HashSet::new(),
        shared: HashMap::new(),
        look: Duration::ZERO,
        coming: None,
    };
    crate::signals::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("vianet-io".into())
            .spawn(move || reactor.run())
    })
    .map_err(|e| Error::system("starting the I/O thread", e))?;
    Ok(Handle { commands, bell })
}

/// What an event of the epoll set belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The command bell.
    Commands,
    /// The far end of a connection's bell: hung up when the application closed its last copy.
    Far(u64),
    /// The wire of a connection's channel.
    Wire(u64),
    /// A connect in progress.
    Connecting(u64),
    /// A query under way.
    Query(u64),
    /// A probe's socket.
    Probe(u64),
    /// A connect in progress, of the session beforehand.
    Warm(u64),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Token::Commands => (0, 0),
            Token::Far(id) => (1, id),
            Token::Wire(id) => (2, id),
            Token::Connecting(id) => (3, id),
            Token::Query(id) => (4, id),
            Token::Probe(id) => (5, id),
            Token::Warm(id) => (6, id),
        };
        id << 3 | kind
    }

    fn unpack(packed: u64) -> Self {
        let id = packed >> 3;
        match packed & 7 {
            1 => Token::Far(id),
            2 => Token::Wire(id),
            3 => Token::Connecting(id),
            4 => Token::Query(id),
            5 => Token::Probe(id),
            6 => Token::Warm(id),
            _ => Token::Commands,
        }
    }
}

/// The epoll set as drivers, queries and probes use it.
#[derive(Clone, Copy)]
pub struct Set<'a>(BorrowedFd<'a>);

impl Set<'_> {
    /// Watches `fd`; hang-up and error are always reported. Watching again changes what for.
    pub fn watch(&self, fd: BorrowedFd<'_>, token: Token, interest: Interest, once: bool) {
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, interest.read);
        events.set(EventFlags::OUT, interest.write);
        events.set(EventFlags::ONESHOT, once);
        let data = EventData::new_u64(token.pack());
        if epoll::add(self.0, fd, data, events) == Err(Errno::EXIST) {
            let _ = epoll::modify(self.0, fd, data, events);
        }
    }

    /// Stops. Always before the last copy is closed: a copy in a forked child would keep the registration.
    pub fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(self.0, fd);
    }
}

/// Arms the wire of one channel, from any thread of the process that owns it now.
pub struct WireWatcher {
    fd: RawFd,
    id: u64,
}

impl WireWatcher {
    /// For the wire `fd` of connection `id`.
    pub fn new(fd: BorrowedFd<'_>, id: u64) -> Self {
        Self {
            fd: fd.as_raw_fd(),
            id,
        }
    }
}

impl Watcher for WireWatcher {
    fn arm(&self, interest: Interest) {
        let epoll = EPOLL.load(Ordering::Acquire);
        if epoll < 0 {
            return;
        }
        // SAFETY: the epoll descriptor lives as long as the process has an I/O thread, which never ends; the wire's
        // lives as long as the channel, which calls us.
        let (set, fd) = unsafe {
            (
                BorrowedFd::borrow_raw(epoll),
                BorrowedFd::borrow_raw(self.fd),
            )
        };
        Set(set).watch(fd, Token::Wire(self.id), interest, true);
    }
}

struct Reactor {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
    commands: Receiver<Command>,
    drivers: HashMap<u64, Driver>,
    queries: Queries,
    probes: Probes,
    turnstile: Turnstile,
    standbys: Standbys,
    /// When which driver has something to do.
    timers: BTreeSet<(Duration, u64)>,
    /// Channels that want ticks.
    ticking: HashSet<u64>,
    /// Descriptors that others read, and until when that is taken for granted.
    shared: HashMap<u64, Duration>,
    /// When all descriptors are looked at.
    look: Duration,
    /// Its driver is being made.
    coming: Option<Arc<Conn>>,
}

impl Reactor {
    /// A panic, which only a defect can cause (of ours, or of a callback), ends the connections that there are and not the
    /// thread: calls never wait for a thread that is gone, and the next connect is served.
    fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.turns())).is_err() {
            self.start_afresh();
        }
    }

    fn start_afresh(&mut self) {
        let set = Set(rustix::fd::AsFd::as_fd(&self.epoll));
        for mut driver in std::mem::take(&mut self.drivers).into_values() {
            let _ = catch_unwind(AssertUnwindSafe(|| driver.give_up(set)));
        }
        if let Some(conn) = self.coming.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| driver::give_up(&conn)));
        }
        self.queries.forget_all(set);
        self.probes.forget_all(set);
        self.turnstile.forget_all();
        self.standbys.forget_all();
        self.timers.clear();
        self.ticking.clear();
        self.shared.clear();
        let _ = catch_unwind(|| {
            queries::forget();
            crate::log!(
                Level::Error,
                "conn",
                "a defect stopped the I/O thread; all connections are over, please report it"
            );
        });
        // Commands may be left whose ring of the bell was taken.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }

    fn turns(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let timeout = self.timeout();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    // Only a closed or foreign descriptor can do this: an application that closes all numbers it can
                    // think of. Without the set nothing can be served; sleeping keeps the rest of the program alive.
                    crate::log!(
                        Level::Error,
                        "conn",
                        "the I/O thread's epoll set is gone: {error}"
                    );
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            let now = now();
            for event in &events {
                self.dispatch(Token::unpack(event.data.u64()), now);
            }
            self.due(now);
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = now();
        let mut due = [
            self.timers.first().map(|(due, _)| *due),
            self.queries.poll_timeout(),
            self.probes.poll_timeout(),
            self.turnstile.poll_timeout(),
            (!self.ticking.is_empty()).then_some(now + TICK),
            (!self.shared.is_empty()).then_some(now + SHARED_TICK),
            (!self.drivers.is_empty()).then_some(self.look),
        ];
        due.sort();
        let first = due.into_iter().flatten().next()?;
        let wait = first.saturating_sub(now);
        Some(Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    fn dispatch(&mut self, token: Token, now: Duration) {
        match token {
            Token::Commands => {
                let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
                while let Ok(command) = self.commands.try_recv() {
                    self.command(command, now);
                }
            }
            Token::Far(id) => self.drive(id, now, Driver::hung_up),
            Token::Wire(id) => self.drive(id, now, Driver::wire_ready),
            Token::Connecting(id) => self.drive(id, now, Driver::advance),
            Token::Query(id) => self.queries.on_readable(id, now),
            Token::Probe(id) => self.probes.on_readable(id, now),
            Token::Warm(id) => self.drive(id, now, Driver::advance_warm),
        }
    }

    fn command(&mut self, command: Command, now: Duration) {
        match command {
            Command::Start(conn) => {
                let id = self.make_driver(conn);
                self.drive(id, now, Driver::start);
            }
            Command::Adopt(conn) => {
                let id = self.make_driver(conn);
                self.drive(id, now, Driver::adopt);
            }
            Command::Look(id) => self.drive(id, now, Driver::look),
            Command::Shared(id) => {
                self.shared.insert(id, now + SHARED_FOR);
            }
        }
    }

    fn make_driver(&mut self, conn: Arc<Conn>) -> u64 {
        let id = conn.id;
        self.coming = Some(Arc::clone(&conn));
        self.drivers.insert(id, Driver::new(conn));
        self.coming = None;
        id
    }

    /// What is due by time, and what the queries and probes have found out.
    fn due(&mut self, now: Duration) {
        let set = Set(rustix::fd::AsFd::as_fd(&self.epoll));
        self.queries.on_timeout(now, set);
        for (id, event, report, found) in self.queries.take_results(set) {
            self.drive(id, now, |driver, todo| {
                driver.answered(todo, event, report, found)
            });
        }
        self.probes.on_timeout(now);
        for (id, event) in self.probes.take_results() {
            self.drive(id, now, |driver, todo| driver.tell(todo, event));
        }
        for id in self.turnstile.turns(now) {
            self.drive(id, now, Driver::turn);
        }
        while let Some((due, id)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, id));
            self.drive(id, now, Driver::on_timeout);
        }
        for id in self.ticking.clone() {
            self.drive(id, now, Driver::tick);
        }
        if now >= self.look {
            self.look = now + LOOK;
            self.drivers.values().for_each(Driver::look_around);
            let read = |id: &u64| self.drivers[id].pump().then_some((*id, now + SHARED_FOR));
            self.shared.extend(self.drivers.keys().filter_map(read));
        }
        self.shared.retain(|id, until| {
            if self.drivers.get(id).is_some_and(Driver::pump) {
                *until = now + SHARED_FOR;
            }
            *until > now
        });
    }

    /// Runs one step of a driver and then brings its timers up to date; removes it when it is over.
    fn drive(&mut self, id: u64, now: Duration, step: impl FnOnce(&mut Driver, &mut Todo<'_>)) {
        let Some(driver) = self.drivers.get_mut(&id) else {
            return;
        };
        if let Some(due) = driver.due.take() {
            self.timers.remove(&(due, id));
        }
        let mut todo = Todo {
            now,
            set: Set(rustix::fd::AsFd::as_fd(&self.epoll)),
            queries: &mut self.queries,
            probes: &mut self.probes,
            turnstile: &mut self.turnstile,
            standbys: &mut self.standbys,
        };
        step(driver, &mut todo);
        driver.act(&mut todo);
        driver.settle(&mut todo);
        if driver.is_over() {
            self.drivers.remove(&id);
            self.ticking.remove(&id);
            return;
        }
        driver.due = driver.poll_timeout();
        if let Some(due) = driver.due {
            self.timers.insert((due, id));
        }
        match driver.wants_tick() {
            true => self.ticking.insert(id),
            false => self.ticking.remove(&id),
        };
    }
}
