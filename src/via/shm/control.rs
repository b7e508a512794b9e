//! The control connection: one Unix stream with VIA packets, and descriptors beside them.

use crate::via::packet::{self, FLAG_ANSWER, HEADER_BYTES, Header, Type};
use crate::via::{Broken, EndReason};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Most descriptors in one message; more are dropped by the kernel.
const MAX_FDS: usize = 2;

/// A control connection after the handshake. All calls are non-blocking.
pub(super) struct Control {
    fd: Arc<OwnedFd>,
    /// The beginning of a packet. Whoever holds it reads everything there is.
    partial: Mutex<Vec<u8>>,
    over: OnceLock<Broken>,
    /// Packets that came.
    heard: AtomicU64,
    /// The peer's last word.
    told: AtomicU8,
}

impl Control {
    pub(super) fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            partial: Mutex::new(Vec::new()),
            over: OnceLock::new(),
            heard: AtomicU64::new(0),
            told: AtomicU8::new(0),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads what came: descriptors go to `take`, packets are dealt with. Does nothing while another thread does it. `Err`:
    /// the channel is over, and how; for ever.
    pub(super) fn read(
        &self,
        take: impl FnMut(OwnedFd) -> Result<(), String>,
    ) -> Result<bool, Broken> {
        self.read_holding(self.partial.try_lock().ok(), take)
    }

    /// The same, after another thread that does it now.
    pub(super) fn read_in_turn(
        &self,
        take: impl FnMut(OwnedFd) -> Result<(), String>,
    ) -> Result<bool, Broken> {
        self.read_holding(self.partial.lock().ok(), take)
    }

    fn read_holding(
        &self,
        partial: Option<MutexGuard<'_, Vec<u8>>>,
        mut take: impl FnMut(OwnedFd) -> Result<(), String>,
    ) -> Result<bool, Broken> {
        if let Some(mut partial) = partial
            && self.over.get().is_none()
            && let Err(broken) = self.read_all(&mut partial, &mut take)
        {
            let _ = self.over.set(broken);
        }
        self.over.get().map_or(Ok(false), |b| Err(b.clone()))
    }

    /// Asks for a sign of life.
    pub(super) fn keep_alive(&self) {
        let _ = send(
            self.fd(),
            &packet::packet(Header::new(Type::KeepAlive), &[]),
            &[],
        );
    }

    /// Tells a word; a peer that does not read does not get it.
    pub(super) fn say(&self, word: u8) {
        let said = packet::packet(Header::new(Type::Word), &[word]);
        let _ = send(self.fd(), &said, &[]);
    }

    /// The peer's last word.
    pub(super) fn told(&self) -> u8 {
        self.told.load(Ordering::Acquire)
    }

    /// Counts the packets that came.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Says why this side ends, and ends.
    pub(super) fn end(&self, reason: EndReason) {
        let disconnect = packet::packet(Header::new(Type::Disconnect), &[reason as u8]);
        let _ = send(self.fd(), &disconnect, &[]);
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
    }

    fn read_all(
        &self,
        partial: &mut Vec<u8>,
        take: &mut impl FnMut(OwnedFd) -> Result<(), String>,
    ) -> Result<(), Broken> {
        let corrupt = |text: String| Broken::Corrupt(format!("control connection: {text}"));
        loop {
            let mut buffer = [0; 1024];
            let mut fds = Vec::new();
            match receive(self.fd(), &mut buffer, &mut fds) {
                Ok(0) => {
                    return Err(Broken::Transport("the peer hung up".into()));
                }
                Ok(n) => partial.extend_from_slice(&buffer[..n]),
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(Broken::Transport(format!("control connection: {e}"))),
            }
            for fd in fds {
                take(fd).map_err(corrupt)?;
            }
            while let Some(header) = partial.first_chunk::<HEADER_BYTES>() {
                let header = Header::decode(header).map_err(|e| corrupt(e.to_string()))?;
                let end = HEADER_BYTES + header.length as usize;
                let (Type::Disconnect | Type::KeepAlive | Type::Word) = header.kind else {
                    return Err(corrupt(format!("unexpected {:?}", header.kind)));
                };
                let Some(payload) = partial.get(HEADER_BYTES..end) else {
                    break;
                };
                self.packet(&header, payload)?;
                partial.drain(..end);
            }
        }
    }

    fn packet(&self, header: &Header, payload: &[u8]) -> Result<(), Broken> {
        self.heard.fetch_add(1, Ordering::Relaxed);
        match header.kind {
            Type::Disconnect => Err(packet::decode_disconnect(payload)
                .map_or_else(|e| Broken::Corrupt(e.to_string()), Broken::Ended)),
            Type::Word => {
                self.told.store(payload[0], Ordering::Release);
                Ok(())
            }
            _ if header.flags & FLAG_ANSWER == 0 => {
                let answer = Header {
                    flags: FLAG_ANSWER,
                    ..Header::new(Type::KeepAlive)
                };
                // A peer that does not read its answers does not get them.
                let _ = send(self.fd(), &packet::packet(answer, &[]), &[]);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Sends `bytes` with `fds` beside the first of them.
pub(super) fn send(
    to: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            sent => return sent,
        }
    }
}

/// Receives into `bytes`, and appends descriptors that came beside them to `fds`.
pub(super) fn receive(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let mut into = [IoSliceMut::new(bytes)];
        match rustix::net::recvmsg(from, &mut into, &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

/// A non-blocking Unix stream socket.
pub(super) fn unix_stream() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}
