//! The daemon's side: the listening socket, handshakes, and what a client's request becomes.

use super::control::{self, Control};
use super::{PeerBell, ShmWire, boot_id, nonce, refill, socket_path};
use crate::resolve::Generation;
use crate::resolve::identity::SecretKey;
use crate::via::bell::EventBell;
use crate::via::channel::{Channel, Parts};
use crate::via::handshake::{Offsets, Request, ServerHandshake, bad_request};
use crate::via::packet;
use crate::via::region::{Direction, Region};
use crate::via::{Accept, Incoming, ListenConfig, Listener, RejectReason};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketFlags, UCred};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A client has so long to complete its request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Connects that may wait in the kernel.
const BACKLOG: i32 = 1024;
/// Epoll data of the listening socket and of the timer; handshakes count from there.
const LISTENING: u64 = 0;
const TIMER: u64 = 1;

/// Channels and handshakes of each user id.
type Counts = Arc<Mutex<HashMap<u32, usize>>>;

/// One channel (or handshake) of a user, counted while this lives.
pub(super) struct Slot {
    uid: u32,
    counts: Counts,
}

impl Slot {
    fn take(counts: &Counts, uid: u32, most: usize) -> Option<Self> {
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(uid).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self {
            uid,
            counts: Arc::clone(counts),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

/// The listening socket and the handshakes under way.
pub(super) struct ShmListener {
    socket: OwnedFd,
    path: PathBuf,
    /// Of the socket's file, so that only our own is removed.
    inode: (u64, u64),
    epoll: OwnedFd,
    timer: OwnedFd,
    boot_id: [u8; 16],
    counts: Counts,
    handshakes: HashMap<u64, Handshake>,
    next_id: u64,
    config: ListenConfig,
    /// See [`Listener::refused`].
    refused: u64,
}

struct Handshake {
    fd: OwnedFd,
    machine: ServerHandshake,
    cred: UCred,
    slot: Slot,
    ends: Instant,
}

impl ShmListener {
    /// Listens on `<shm_dir>/<node>.sock`, in place of a file on which nobody answers.
    pub(super) fn bind(config: &ListenConfig) -> io::Result<Self> {
        let path = socket_path(&config.shm_dir, &config.node)
            .map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        let at = |e: Errno| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("{}: {e}", path.display()),
            )
        };
        let address = SocketAddrUnix::new(&path).map_err(at)?;
        remove_stale(&path, &address)?;
        let socket = control::unix_stream()?;
        rustix::net::bind(&socket, &address).map_err(at)?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o666)).map_err(at)?;
        rustix::net::listen(&socket, BACKLOG).map_err(at)?;
        let inode = inode(&path).map_err(at)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        for (fd, data) in [(&socket, LISTENING), (&timer, TIMER)] {
            watch(&epoll, fd.as_fd(), data, epoll::EventFlags::IN)?;
        }
        Ok(Self {
            socket,
            path,
            inode,
            epoll,
            timer,
            boot_id: boot_id()?,
            counts: Counts::default(),
            handshakes: HashMap::new(),
            next_id: TIMER + 1,
            config: config.clone(),
            refused: 0,
        })
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                // A client that cannot be served is no reason to stop serving.
                Ok(fd) => drop(self.begin(fd)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn begin(&mut self, fd: OwnedFd) -> io::Result<()> {
        let cred = rustix::net::sockopt::socket_peercred(&fd)?;
        let most = self.config.channels_per_peer;
        let Some(slot) = Slot::take(&self.counts, cred.uid.as_raw(), most) else {
            self.refused += 1;
            let busy = packet::reject(RejectReason::Busy, 0);
            let _ = control::send(fd.as_fd(), &busy, &[]);
            return Ok(());
        };
        let id = self.next_id;
        self.next_id += 1;
        watch(&self.epoll, fd.as_fd(), id, epoll::EventFlags::IN)?;
        let handshake = Handshake {
            fd,
            machine: ServerHandshake::new(nonce()?),
            cred,
            slot,
            ends: Instant::now() + HANDSHAKE_LIMIT,
        };
        self.handshakes.insert(id, handshake);
        self.set_timer()
    }

    /// Drives one handshake; the request when it is complete.
    fn drive(&mut self, id: u64) -> io::Result<Option<Box<dyn Incoming>>> {
        let Some(handshake) = self.handshakes.get_mut(&id) else {
            return Ok(None);
        };
        match handshake.step() {
            Ok(None) => Ok(None),
            Ok(Some(request)) => {
                let Some(handshake) = self.remove(id)? else {
                    return Ok(None);
                };
                if request.boot_id != self.boot_id {
                    let reject = packet::reject(RejectReason::NotSameHost, 0);
                    let _ = control::send(handshake.fd.as_fd(), &reject, &[]);
                    return Ok(None);
                }
                Ok(Some(Box::new(ShmIncoming {
                    control: handshake.fd,
                    request,
                    cred: handshake.cred,
                    slot: handshake.slot,
                    max_ring_bytes: self.config.max_ring_bytes,
                    signer: self.config.signer.clone(),
                })))
            }
            Err(()) => {
                self.remove(id)?;
                Ok(None)
            }
        }
    }

    fn remove(&mut self, id: u64) -> io::Result<Option<Handshake>> {
        let handshake = self.handshakes.remove(&id);
        if let Some(handshake) = &handshake {
            epoll::delete(&self.epoll, &handshake.fd)?;
        }
        Ok(handshake)
    }

    fn expire(&mut self) -> io::Result<()> {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        let now = Instant::now();
        // Dropping closes, which takes it out of the epoll set too.
        self.handshakes.retain(|_, h| h.ends > now);
        self.set_timer()
    }

    fn set_timer(&self) -> io::Result<()> {
        let first = self.handshakes.values().map(|h| h.ends).min();
        let time = first.map_or(Duration::ZERO, |t| {
            // Zero would switch it off.
            t.saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1))
        });
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

impl Listener for ShmListener {
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn poll(&mut self) -> io::Result<Option<Box<dyn Incoming>>> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut events = Vec::with_capacity(64);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&zero),
        ) {
            Err(Errno::INTR) => return Ok(None),
            other => other?,
        };
        for event in events {
            match event.data.u64() {
                LISTENING => self.accept_all()?,
                TIMER => self.expire()?,
                id => {
                    // The others stay ready and are seen by the next call.
                    if let Some(incoming) = self.drive(id)? {
                        return Ok(Some(incoming));
                    }
                }
            }
        }
        Ok(None)
    }

    fn local_addrs(&self) -> Vec<std::net::SocketAddr> {
        Vec::new()
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}

impl Drop for ShmListener {
    fn drop(&mut self) {
        if inode(&self.path) == Ok(self.inode) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

impl Handshake {
    /// `Err`: it is over.
    fn step(&mut self) -> Result<Option<Request>, ()> {
        loop {
            let mut buffer = vec![0; self.machine.want()];
            // Nobody has descriptors to give us before the accept: they are closed.
            let n = match control::receive(self.fd.as_fd(), &mut buffer, &mut Vec::new()) {
                Ok(0) => return Err(()),
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(None),
                Err(_) => return Err(()),
            };
            match self.machine.feed(&buffer[..n]) {
                Ok(Some(request)) => return Ok(Some(request)),
                Ok(None) => {}
                Err(_) => {
                    let _ = control::send(self.fd.as_fd(), &bad_request(), &[]);
                    return Err(());
                }
            }
            // A challenge is the only output and fits into an empty socket buffer, or the client plays games.
            while !self.machine.output().is_empty() {
                match control::send(self.fd.as_fd(), self.machine.output(), &[]) {
                    Ok(n) => self.machine.sent(n),
                    Err(_) => return Err(()),
                }
            }
        }
    }
}

/// A complete request.
struct ShmIncoming {
    control: OwnedFd,
    request: Request,
    cred: UCred,
    slot: Slot,
    max_ring_bytes: u32,
    signer: Option<Arc<SecretKey>>,
}

impl Incoming for ShmIncoming {
    fn server(&self) -> &str {
        &self.request.server
    }

    fn min_generation(&self) -> Generation {
        self.request.min_generation
    }

    fn patient(&self) -> bool {
        self.request.patient
    }

    fn warm(&self) -> bool {
        self.request.warm
    }

    fn nonce(&self) -> [u8; 16] {
        self.request.nonce
    }

    fn is_private(&self) -> bool {
        true
    }

    fn peer(&self) -> String {
        let (uid, pid) = (self.cred.uid.as_raw(), self.cred.pid.as_raw_nonzero());
        format!("uid {uid} pid {pid}")
    }

    fn resumes(&self) -> Option<u64> {
        self.request.resume.as_ref().map(|r| r.channel_id)
    }

    fn proves(&self, secret: &[u8; 32]) -> bool {
        self.request.proves(secret)
    }

    fn accept(self: Box<Self>, accept: Accept, old: Option<&Channel>) -> io::Result<Channel> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let ring_bytes = match old {
            Some(_) => self.request.ring_bytes,
            None => self.request.ring_bytes.min(self.max_ring_bytes),
        };
        if ring_bytes > self.max_ring_bytes {
            return Err(invalid(format!(
                "ring of {ring_bytes} bytes, at most {} is allowed",
                self.max_ring_bytes
            )));
        }
        let region = Region::create_sealed(ring_bytes)?;
        let (up, down) = (
            region.ring(Direction::ClientToServer),
            region.ring(Direction::ServerToClient),
        );
        let mut here = Offsets::default();
        if let (Some(old), Some(resume)) = (old, &self.request.resume) {
            // The client sends again what was not consumed here, so nothing unread is kept.
            here = Offsets {
                consumed: old.consumed(),
                received: old.consumed(),
            };
            up.start_at(here.consumed);
            down.start_at(resume.offsets.consumed);
            refill(&old.tx, &down.producer(), resume.offsets.consumed).map_err(invalid)?;
        } else {
            up.start_at(0);
            down.start_at(0);
        }
        let bell = EventBell::new()?;
        let packet = self
            .request
            .accept(&accept, ring_bytes, here, self.signer.as_deref());
        let memory = region
            .memfd()
            .ok_or_else(|| invalid("the region has no memory file".into()))?;
        let fds = [memory, bell.event.as_fd()];
        if control::send(self.control.as_fd(), &packet, &fds)? != packet.len() {
            return Err(io::Error::other("the accept was cut short"));
        }
        let this = *self;
        Channel::new(Parts {
            rx: up.consumer(),
            tx: down.producer(),
            wire: Box::new(ShmWire {
                control: Control::new(Arc::new(this.control)),
                peer: PeerBell::Client {
                    uid: this.cred.uid.as_raw(),
                    bell: OnceLock::new(),
                },
                _slot: Some(this.slot),
            }),
            bell: Box::new(bell),
            accept,
        })
    }

    fn reject(self: Box<Self>, reason: RejectReason) {
        let _ = control::send(self.control.as_fd(), &packet::reject(reason, 0), &[]);
    }
}

/// Removes a socket's file on which nobody answers.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    let fail = |kind, text: &str| Err(io::Error::new(kind, format!("{}: {text}", path.display())));
    let Ok(stat) = rustix::fs::lstat(path) else {
        return Ok(());
    };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return fail(io::ErrorKind::AlreadyExists, "is no socket; move it away");
    }
    match rustix::net::connect(control::unix_stream()?, address) {
        Err(Errno::CONNREFUSED) => {
            rustix::fs::unlink(path)?;
            Ok(())
        }
        _ => fail(
            io::ErrorKind::AddrInUse,
            "another node daemon listens there; stop it or choose another node name",
        ),
    }
}

fn inode(path: &Path) -> Result<(u64, u64), Errno> {
    rustix::fs::lstat(path).map(|s| (s.st_dev, s.st_ino))
}

fn watch(
    epoll: &OwnedFd,
    fd: BorrowedFd<'_>,
    data: u64,
    flags: epoll::EventFlags,
) -> io::Result<()> {
    Ok(epoll::add(
        epoll,
        fd,
        epoll::EventData::new_u64(data),
        flags,
    )?)
}
