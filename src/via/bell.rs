//! What makes a descriptor's kernel readiness right (DESIGN section 4): the application's bell, and the node's eventfd.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Of a token that may be on its way still: says whether its sender has sent it, and which thread that is.
pub type Late<'a> = Option<(&'a dyn Fn() -> bool, u32)>;

/// Readable means "`recv` would not block", writable means "`send` would not block". All calls are non-blocking and may
/// come from either process of a channel; the wake words decide who calls when.
pub trait Bell: Send + Sync {
    /// Makes it readable; `tokens` is a copy of the next unread stream bytes (one, except for a shared descriptor).
    fn ring(&self, tokens: &[u8]);
    /// Takes back what was rung and says how many of `expected` bytes were still there. `late`: the one token may be on
    /// its way still; waits for it within bounds, or until it is known to have been sent.
    fn take_back(&self, expected: usize, late: Late<'_>) -> usize;
    /// Whether everything that was rung is gone from the bell.
    fn is_taken(&self) -> bool;
    /// Makes it readable for ever: the stream ended and every byte was consumed.
    fn finish(&self);
    /// Makes it not writable.
    fn block_writes(&self);
    /// Makes it writable again: undoes one [`Bell::block_writes`].
    fn open_writes(&self);
    /// Makes it writable, however often it was blocked. Only while nobody else may call.
    fn clear_writes(&self);
    /// The descriptor that a loop of ours watches, where there is one ([`EventBell`]).
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Bytes of one filler: makes a socket with the smallest send buffer not writable (measured: 193 and more do).
pub const FILLER: usize = 200;
/// How a filler begins. Programs that write to the descriptor without us put their bytes into the same queue.
const MARK: [u8; 16] = *b"\xe6\x0b\x91vianet:full\x1d\xf4";
/// A filler.
const FILLING: [u8; FILLER] = {
    let mut bytes = [0; FILLER];
    let mut n = 0;
    while n < MARK.len() {
        bytes[n] = MARK[n];
        n += 1;
    }
    bytes
};
/// How long a late token is waited for: its sender is between two instructions, or dead.
const LATE: Duration = Duration::from_millis(20);
/// The same where its sender is a thread of this process, which lives, and of which nobody may keep us waiting by stopping it: a
/// busy machine may. (Not for ever: it may stand in a signal handler that waits for us.)
const LATE_HERE: Duration = Duration::from_secs(5);

/// Longest wait for a use of a number.
const IN_USE: Duration = Duration::from_millis(200);

/// A use of the application's number; over when dropped.
struct Using<'a>(&'a AtomicU32);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The application's descriptor: one end (`near`) of an AF_UNIX stream pair, of which the library keeps the other (`far`).
///
/// `near` is a duplicate kept by nobody: the application's own number is used, since a private copy would keep the
/// connection alive after the application closed its last one. It is therefore an atomic that `conn` maintains
/// (`-1`: gone), and before every use the socket behind it is compared by inode: a number that was closed and given to
/// a stranger is not touched.
pub struct AppBell {
    /// The application's descriptor number, maintained by the owner of the connection.
    pub near: Arc<AtomicI32>,
    /// The far end.
    pub far: Arc<OwnedFd>,
    inode: (u64, u64),
    strays: AtomicU32,
    /// Threads between the look at the inode and the end of their use of `near`.
    using: AtomicU32,
}

impl AppBell {
    /// A bell over a connected pair; shrinks the send buffer of `near`, so that one filler blocks it.
    ///
    /// # Errors
    /// The system call's, when `near` is no socket.
    pub fn new(near: RawFd, far: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: the caller holds the descriptor open for the length of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(near) };
        rustix::net::sockopt::set_socket_send_buffer_size(fd, 1)?;
        Ok(Self {
            inode: inode(fd)?,
            near: Arc::new(AtomicI32::new(near)),
            far,
            strays: AtomicU32::new(0),
            using: AtomicU32::new(0),
        })
    }

    /// A fresh pair: the application's end, and the bell over it. Close-on-exec, blocking.
    ///
    /// # Errors
    /// The system call's.
    pub fn pair() -> io::Result<(OwnedFd, Self)> {
        let (near, far) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let bell = Self::new(rustix::fd::AsRawFd::as_raw_fd(&near), Arc::new(far))?;
        Ok((near, bell))
    }

    /// Runs `f` on the application's end if the number still means our socket.
    fn near<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        // Count ourselves in, then look: either we see the new number, or `point_at` sees us.
        self.using.fetch_add(1, Ordering::SeqCst);
        let _using = Using(&self.using);
        let raw = self.near.load(Ordering::SeqCst);
        if raw < 0 {
            return None;
        }
        // SAFETY: the number is used at once and only after the inode has shown it to be our socket; whoever closes it
        // through the library waits in `point_at` until no thread is here.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        (inode(fd).ok()? == self.inode).then(|| f(fd))
    }

    /// From now on the application's end has this number (-1: none). Returns when nobody uses the one before, so that it
    /// can be closed: given to a stranger in the middle of a use, it would get our bytes, or lose its own.
    pub fn point_at(&self, number: RawFd) {
        if self.near.swap(number, Ordering::SeqCst) == number {
            return;
        }
        // A use is two system calls that do not block. It lasts only where a signal handler of its own thread came here.
        let mut since = None;
        for round in 0_u32.. {
            if self.using.load(Ordering::SeqCst) == 0
                || since.get_or_insert_with(Instant::now).elapsed() > IN_USE
            {
                return;
            }
            pause(round);
        }
    }

    /// In a forked child: the threads that were using the number do not exist.
    pub fn after_fork(&self) {
        self.using.store(0, Ordering::SeqCst);
    }

    /// The reading part of [`Bell::take_back`]; `buffer` has room for the expected bytes and the strays.
    fn take(&self, buffer: &mut [u8], expected: usize, late: Late<'_>) -> usize {
        let (mut waited, mut sent) = (None, false);
        for round in 0_u32.. {
            match self.receive(buffer) {
                Ok(n) => {
                    if n > expected {
                        let strays = self.strays.load(Ordering::Relaxed);
                        let left = strays.saturating_sub((n - expected) as u32);
                        self.strays.store(left, Ordering::Relaxed);
                    }
                    return n.min(expected);
                }
                Err(Errno::INTR) => {}
                // It was there before its sender said so: somebody read it.
                Err(Errno::AGAIN) if sent => return 0,
                Err(Errno::AGAIN) if let Some((is_sent, sender)) = late => {
                    let stray = self.strays.load(Ordering::Relaxed) > 0;
                    sent = !stray && is_sent();
                    if sent {
                        continue;
                    }
                    let since = *waited.get_or_insert_with(Instant::now);
                    let time = since.elapsed();
                    let here = || !stray && crate::thread::is_another_here(sender);
                    if time > LATE_HERE || (time > LATE && !here()) {
                        self.strays.fetch_add(1, Ordering::Relaxed);
                        // Nobody vouches for it, so it was not sent, and not read by anybody else: nothing is missing.
                        return expected;
                    }
                    pause(round);
                }
                Err(Errno::AGAIN) => return 0,
                // Our number is gone: what was in the bell is nobody's any more.
                Err(_) => return expected,
            }
        }
        unreachable!("the loop has no end of its own")
    }

    /// Takes bytes that somebody wrote to the descriptor without the library, up to the next filler.
    pub fn take_written(&self, buffer: &mut [u8]) -> usize {
        let seen = match rustix::net::recv(
            &*self.far,
            &mut *buffer,
            RecvFlags::DONTWAIT | RecvFlags::PEEK,
        ) {
            Ok((n, _)) => n,
            Err(_) => return 0,
        };
        let mark = buffer[..seen].windows(MARK.len()).position(|w| w == MARK);
        let wanted = match mark {
            Some(at) => at,
            // A mark may begin at the end of what was seen, unless that was all there is.
            None if seen == buffer.len() => seen.saturating_sub(MARK.len() - 1),
            None => seen,
        };
        if wanted == 0 {
            return 0;
        }
        rustix::net::recv(&*self.far, &mut buffer[..wanted], RecvFlags::DONTWAIT)
            .map_or(0, |(n, _)| n)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.near(|fd| rustix::net::recv(fd, buffer, RecvFlags::DONTWAIT).map(|(n, _)| n))
            .unwrap_or(Err(Errno::BADF))
    }
}

impl Bell for AppBell {
    fn ring(&self, tokens: &[u8]) {
        send(self.far.as_fd(), tokens);
    }

    fn take_back(&self, expected: usize, late: Late<'_>) -> usize {
        // A token whose sender was given up on may have come after all.
        let strays = self.strays.load(Ordering::Relaxed) as usize;
        match expected + strays {
            0 => 0,
            few @ 1..=8 => self.take(&mut [0; 8][..few], expected, late),
            many => self.take(&mut vec![0; many], expected, late),
        }
    }

    fn is_taken(&self) -> bool {
        // SIOCOUTQ of the far end counts what nobody has read yet.
        outgoing_queue(self.far.as_fd()) == Some(0)
    }

    fn finish(&self) {
        let _ = rustix::net::shutdown(&self.far, Shutdown::Write);
    }

    fn block_writes(&self) {
        self.near(|fd| send(fd, &FILLING));
    }

    fn open_writes(&self) {
        drain_filler(self.far.as_fd());
    }

    fn clear_writes(&self) {
        while drain_filler(self.far.as_fd()) > 0 {}
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The node daemon's copy of a client's bell: the far end only. It was given to us by somebody else's process, so it is
/// checked to be a connected AF_UNIX stream whose other end is that user's own (a client must not make the daemon talk
/// to a service in the daemon's name), and used with MSG_DONTWAIT and MSG_NOSIGNAL only.
pub struct FarBell {
    far: OwnedFd,
}

impl FarBell {
    /// Checks and keeps the far end that a client of user `uid` gave us.
    ///
    /// # Errors
    /// `InvalidData` where it is anything but a connected AF_UNIX stream of that user.
    pub fn new(far: OwnedFd, uid: u32) -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketType, sockopt};
        let unix = sockopt::socket_domain(&far) == Ok(AddressFamily::UNIX);
        let stream = sockopt::socket_type(&far) == Ok(SocketType::STREAM);
        // Of a pair, this is who made it; of a connected socket, who listened.
        let own = sockopt::socket_peercred(&far).is_ok_and(|cred| cred.uid.as_raw() == uid);
        if unix && stream && own && rustix::net::getpeername(&far).is_ok() {
            Ok(Self { far })
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the bell is no connected AF_UNIX stream of the client's user",
            ))
        }
    }
}

impl Bell for FarBell {
    fn ring(&self, tokens: &[u8]) {
        send(self.far.as_fd(), tokens);
    }

    fn take_back(&self, expected: usize, _late: Late<'_>) -> usize {
        expected // only the process that holds the near end can
    }

    fn is_taken(&self) -> bool {
        outgoing_queue(self.far.as_fd()) == Some(0)
    }

    fn finish(&self) {
        let _ = rustix::net::shutdown(&self.far, Shutdown::Write);
    }

    fn block_writes(&self) {} // only the process that holds the near end can

    fn open_writes(&self) {
        drain_filler(self.far.as_fd());
    }

    fn clear_writes(&self) {
        while drain_filler(self.far.as_fd()) > 0 {}
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The node's bell: an eventfd that a relay loop watches for readable, for bytes and for room alike. The loop reads it
/// (or watches it edge-triggered) and then looks at both rings; so nothing is ever taken back, and a ring too many costs
/// one look.
pub struct EventBell {
    /// The eventfd.
    pub event: Arc<OwnedFd>,
}

impl EventBell {
    /// A fresh one, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// The system call's.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// Resets it; what the loop does before it looks at the rings.
    pub fn reset(&self) {
        let _ = rustix::io::read(&*self.event, &mut [0; 8]);
    }

    fn signal(&self) {
        let _ = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
    }
}

impl Bell for EventBell {
    fn ring(&self, _tokens: &[u8]) {
        self.signal();
    }

    fn take_back(&self, expected: usize, _late: Late<'_>) -> usize {
        expected
    }

    fn is_taken(&self) -> bool {
        false
    }

    fn finish(&self) {
        self.signal();
    }

    fn block_writes(&self) {}

    fn open_writes(&self) {
        self.signal();
    }

    fn clear_writes(&self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }
}

/// No descriptor at all: for a side that only ever waits inside our calls.
pub struct NoBell;

impl Bell for NoBell {
    fn ring(&self, _tokens: &[u8]) {}
    fn take_back(&self, expected: usize, _late: Late<'_>) -> usize {
        expected
    }
    fn is_taken(&self) -> bool {
        false
    }
    fn finish(&self) {}
    fn block_writes(&self) {}
    fn open_writes(&self) {}
    fn clear_writes(&self) {}
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl<B: Bell + ?Sized> Bell for Arc<B> {
    fn ring(&self, tokens: &[u8]) {
        (**self).ring(tokens);
    }
    fn take_back(&self, expected: usize, late: Late<'_>) -> usize {
        (**self).take_back(expected, late)
    }
    fn is_taken(&self) -> bool {
        (**self).is_taken()
    }
    fn finish(&self) {
        (**self).finish();
    }
    fn block_writes(&self) {
        (**self).block_writes();
    }
    fn open_writes(&self) {
        (**self).open_writes();
    }
    fn clear_writes(&self) {
        (**self).clear_writes();
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).fd()
    }
}

fn inode(fd: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino))
}

fn send(fd: BorrowedFd<'_>, bytes: &[u8]) {
    while rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        == Err(Errno::INTR)
    {}
}

/// One filler exactly: a second one may be there for a state that is not over yet. What a program wrote without us is not
/// taken for one; where such bytes are in front of it, the filler stays until they are gone ([`AppBell::take_written`]).
fn drain_filler(far: BorrowedFd<'_>) -> usize {
    let mut front = [0; FILLER];
    loop {
        match rustix::net::recv(far, &mut front, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok(_) if front.starts_with(&MARK) => {}
            Err(Errno::INTR) => continue,
            Ok(_) | Err(_) => return 0,
        }
        match rustix::net::recv(far, &mut front, RecvFlags::DONTWAIT) {
            Ok((n, _)) => return n,
            Err(Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}

fn pause(round: u32) {
    if round < 100 {
        rustix::thread::sched_yield();
    } else {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Bytes (in the kernel's own measure) that were sent on `fd` and not read by the other end.
fn outgoing_queue(fd: BorrowedFd<'_>) -> Option<u32> {
    /// `SIOCOUTQ`, <linux/sockios.h>.
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ stores one int where its argument points, which is what `Getter` passes.
    let value =
        unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<SIOCOUTQ, libc::c_int>::new()) };
    value.ok().map(|n| n.max(0) as u32)
}

#[cfg(all(test, not(loom)))]
mod tests;
