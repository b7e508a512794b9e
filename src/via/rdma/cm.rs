//! Safe owners of what librdmacm gives: event channels and connection identifiers.

use super::layout;
use super::load::Library;
use super::sys::{rdma_cm_event, rdma_cm_id, rdma_conn_param, rdma_event_channel, sockaddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr::{NonNull, null_mut};

/// What happened to an identifier.
#[derive(Debug)]
pub struct Event {
    /// `RDMA_CM_EVENT_*`.
    pub kind: u32,
    /// Negative: an errno; positive: the transport's own reason of a rejection.
    pub status: i32,
    /// What the peer sent along; at most 255 bytes.
    pub private_data: Vec<u8>,
    /// A connection request: the new identifier, which still reports to the listener's channel.
    new: Option<NonNull<rdma_cm_id>>,
    /// Whom it happened to; only to be compared.
    to: *mut rdma_cm_id,
}

/// Reports events; its descriptor is non-blocking.
pub struct EventChannel {
    raw: NonNull<rdma_event_channel>,
    library: &'static Library,
}

// SAFETY: librdmacm locks what it shares between threads.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

impl EventChannel {
    /// Opens one.
    pub fn new(library: &'static Library) -> io::Result<Self> {
        // SAFETY: no arguments; null is an error in errno.
        let raw = unsafe { (library.cm.rdma_create_event_channel)() };
        let raw = NonNull::new(raw)
            .ok_or_else(|| super::diagnose::no_channel(io::Error::last_os_error()))?;
        let channel = Self { raw, library };
        nonblocking(channel.fd())?;
        Ok(channel)
    }

    /// Readable when there is an event.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel's own descriptor, which is open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_ref().fd) }
    }

    /// The next event, acknowledged.
    pub fn next(&self) -> io::Result<Option<Event>> {
        // rdma_get_cm_event allocates before it looks, which a call that a signal handler makes must not.
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 0) {
            return Ok(None);
        }
        let mut raw: *mut rdma_cm_event = null_mut();
        // SAFETY: the channel lives, and `raw` takes the event.
        let failed = unsafe { (self.library.cm.rdma_get_cm_event)(self.raw.as_ptr(), &mut raw) };
        if failed != 0 {
            let e = io::Error::last_os_error();
            return match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(e),
            };
        }
        // SAFETY: a successful call gave an event that is ours until it is acknowledged.
        let event = unsafe { &*raw };
        let (data, length) = (event.conn.private_data, event.conn.private_data_len);
        let private_data = match data.is_null() {
            true => Vec::new(),
            false => {
                let data = data.cast::<u8>();
                // SAFETY: the library says that so many bytes are there, with the event.
                unsafe { std::slice::from_raw_parts(data, length.into()) }.to_vec()
            }
        };
        let kind = event.event as u32;
        let taken = Event {
            kind,
            status: event.status,
            private_data,
            to: event.id,
            new: match kind {
                layout::RDMA_CM_EVENT_CONNECT_REQUEST => NonNull::new(event.id),
                _ => None,
            },
        };
        // SAFETY: the event of above, once; nothing of it is used any more.
        unsafe { (self.library.cm.rdma_ack_cm_event)(raw) };
        Ok(Some(taken))
    }

    /// The name of an event, for texts.
    pub fn describe(&self, event: &Event) -> String {
        // SAFETY: a constant text for every number.
        let name = unsafe { CStr::from_ptr((self.library.cm.rdma_event_str)(event.kind as c_int)) };
        let name = name.to_string_lossy();
        match event.status {
            0 => name.into_owned(),
            n if n < 0 => format!("{name}: {}", io::Error::from_raw_os_error(-n)),
            n => format!("{name}, status {n}"),
        }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        if !self.library.owner.is_this() {
            // SAFETY: a forked child's copy, which nobody uses after this: the kernel must not wait for it.
            return unsafe { rustix::io::close(self.raw.as_ref().fd) };
        }
        // SAFETY: ours, and its identifiers are gone ([`Id`] is dropped before its channel by whoever has both).
        unsafe { (self.library.cm.rdma_destroy_event_channel)(self.raw.as_ptr()) };
    }
}

/// A connection identifier; destroyed with its queue pair. Must be dropped before the channel that it reports to.
pub struct Id {
    raw: NonNull<rdma_cm_id>,
    library: &'static Library,
}

// SAFETY: librdmacm locks what it shares between threads.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

impl Id {
    /// Whether the event is its own.
    pub fn is_of(&self, event: &Event) -> bool {
        self.raw.as_ptr() == event.to
    }

    /// A new one that reports to `channel`.
    pub fn new(channel: &EventChannel) -> io::Result<Self> {
        let library = channel.library;
        let mut raw = null_mut();
        // SAFETY: the channel lives, `raw` takes the identifier.
        check(unsafe {
            (library.cm.rdma_create_id)(
                channel.raw.as_ptr(),
                &mut raw,
                null_mut(),
                layout::RDMA_PS_TCP as c_int,
            )
        })?;
        let raw =
            NonNull::new(raw).ok_or_else(|| io::Error::other("rdma_create_id gave nothing"))?;
        Ok(Self { raw, library })
    }

    /// That of a connection request that came over `channel`.
    pub fn requested(channel: &EventChannel, event: &Event) -> Option<Self> {
        let library = channel.library;
        event.new.map(|raw| Self { raw, library })
    }

    /// Reports to `channel` from now on.
    pub fn migrate(&self, channel: &EventChannel) -> io::Result<()> {
        // SAFETY: both live.
        check(unsafe { (self.library.cm.rdma_migrate_id)(self.raw.as_ptr(), channel.raw.as_ptr()) })
    }

    /// Lost messages are repeated after 4.096 µs * 2^`exponent`; where the library or the device cannot, by the default.
    pub fn set_ack_timeout(&self, exponent: u8) {
        let mut value = exponent;
        // SAFETY: the option takes one byte, which is copied.
        let _ = unsafe {
            (self.library.cm.rdma_set_option)(
                self.raw.as_ptr(),
                layout::RDMA_OPTION_ID as c_int,
                layout::RDMA_OPTION_ID_ACK_TIMEOUT as c_int,
                (&raw mut value).cast::<c_void>(),
                1,
            )
        };
    }

    /// Binds to a local address, for listening.
    pub fn bind(&self, addr: &SocketAddr) -> io::Result<()> {
        if addr.is_ipv6() {
            let mut only: c_int = 1;
            // The IPv4 addresses are listed by themselves; where it cannot be set the bind tells of a clash.
            // SAFETY: the option takes an int, which is copied.
            let _ = unsafe {
                (self.library.cm.rdma_set_option)(
                    self.raw.as_ptr(),
                    layout::RDMA_OPTION_ID as c_int,
                    layout::RDMA_OPTION_ID_AFONLY as c_int,
                    (&raw mut only).cast::<c_void>(),
                    size_of::<c_int>(),
                )
            };
        }
        let mut addr = encode(addr);
        // SAFETY: a whole address, which is copied.
        check(unsafe { (self.library.cm.rdma_bind_addr)(self.raw.as_ptr(), &mut addr) })
    }

    /// Listens.
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        // SAFETY: the identifier lives.
        check(unsafe { (self.library.cm.rdma_listen)(self.raw.as_ptr(), backlog) })
    }

    /// Looks for the device and the hardware address; an event tells.
    pub fn resolve_addr(&self, to: &SocketAddr, limit_ms: i32) -> io::Result<()> {
        let mut to = encode(to);
        // SAFETY: a whole address, which is copied; no source address.
        check(unsafe {
            (self.library.cm.rdma_resolve_addr)(self.raw.as_ptr(), null_mut(), &mut to, limit_ms)
        })
    }

    /// Looks for the path; an event tells.
    pub fn resolve_route(&self, limit_ms: i32) -> io::Result<()> {
        // SAFETY: the identifier lives.
        check(unsafe { (self.library.cm.rdma_resolve_route)(self.raw.as_ptr(), limit_ms) })
    }

    /// Asks for the connection; an event tells.
    pub fn connect(&self, private_data: &[u8]) -> io::Result<()> {
        let mut param = parameters(private_data);
        // SAFETY: the parameters and the private data live during the call, which copies them.
        check(unsafe { (self.library.cm.rdma_connect)(self.raw.as_ptr(), &mut param) })
    }

    /// Accepts a request; an event tells when the connection stands.
    pub fn accept(&self, private_data: &[u8]) -> io::Result<()> {
        let mut param = parameters(private_data);
        // SAFETY: as in `connect`.
        check(unsafe { (self.library.cm.rdma_accept)(self.raw.as_ptr(), &mut param) })
    }

    /// Rejects a request.
    pub fn reject(&self, private_data: &[u8]) {
        let length = private_data.len().min(u8::MAX.into()) as u8;
        // SAFETY: so many bytes are there, which are copied. An error leaves a request that times out.
        let _ = unsafe {
            (self.library.cm.rdma_reject)(self.raw.as_ptr(), private_data.as_ptr().cast(), length)
        };
    }

    /// Ends the connection; what is posted is flushed.
    pub fn disconnect(&self) {
        // SAFETY: the identifier lives. An error means that there is no connection.
        let _ = unsafe { (self.library.cm.rdma_disconnect)(self.raw.as_ptr()) };
    }

    /// Its own address.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        // SAFETY: the identifier lives, and the address is set before anybody asks.
        decode(unsafe { &(*self.raw.as_ptr()).src_addr })
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        // SAFETY: as above.
        decode(unsafe { &(*self.raw.as_ptr()).dst_addr })
    }

    /// The name of the device that it is bound to, if it is.
    pub fn device(&self) -> Option<String> {
        // SAFETY: the identifier lives; the context is null, or open as long as it is bound, and has its device, whose
        // name ends with a NUL.
        unsafe {
            let context = self.raw.as_ref().verbs.as_ref()?;
            let name = CStr::from_ptr(context.device.as_ref()?.name.as_ptr());
            Some(name.to_string_lossy().into_owned())
        }
    }

    pub(super) fn raw(&self) -> NonNull<rdma_cm_id> {
        self.raw
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        if !self.library.owner.is_this() {
            return;
        }
        // SAFETY: ours; its queue pair was destroyed before, and all its events are acknowledged.
        unsafe { (self.library.cm.rdma_destroy_id)(self.raw.as_ptr()) };
    }
}

fn parameters(private_data: &[u8]) -> rdma_conn_param {
    rdma_conn_param {
        private_data: private_data.as_ptr().cast(),
        private_data_len: private_data.len().min(u8::MAX.into()) as u8,
        responder_resources: 0,
        initiator_depth: 0,
        flow_control: 1,
        retry_count: 7,
        // A receive is always posted (super::credit): a peer for which there is none is broken.
        rnr_retry_count: 6,
        srq: 0,
        qp_num: 0,
    }
}

/// 0, or -1 with errno.
pub(super) fn check(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(
        fd,
        flags | rustix::fs::OFlags::NONBLOCK,
    )?)
}

fn encode(addr: &SocketAddr) -> sockaddr {
    let mut b = [0; 128];
    b[2..4].copy_from_slice(&addr.port().to_be_bytes());
    match addr {
        SocketAddr::V4(v4) => {
            b[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            b[4..8].copy_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            b[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            b[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            b[8..24].copy_from_slice(&v6.ip().octets());
            b[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
        }
    }
    sockaddr(b)
}

fn decode(addr: &sockaddr) -> Option<SocketAddr> {
    let b = &addr.0;
    let port = u16::from_be_bytes([b[2], b[3]]);
    match c_int::from(u16::from_ne_bytes([b[0], b[1]])) {
        libc::AF_INET => Some((Ipv4Addr::new(b[4], b[5], b[6], b[7]), port).into()),
        libc::AF_INET6 => {
            let ip: [u8; 16] = b[8..24].try_into().ok()?;
            let scope = u32::from_ne_bytes(b[24..28].try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
        }
        _ => None,
    }
}
