//! The connections: sockets as a C program uses them, and vianet's by name with a server on its provider.

use super::Carrier;
use crate::bench::peer::{accept_as, answer_query, patience};
use crate::bench::pipe::{self, Pipe};
use crate::failure::{Doing, Failure, Outcome};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use vianet::resolve::Endpoint;
use vianet::via::channel::Received;
use vianet::via::rdma::{RING_BYTES, Rdma};
use vianet::via::{Broken, Channel, ListenConfig, Listener, Provider, Transport};

const NODE: &str = "bench-rdma";
/// `AF_SMC`, and its protocols for the two families.
const AF_SMC: libc::c_int = 43;
const SMCPROTO_SMC: libc::c_int = 0;
const SMCPROTO_SMC6: libc::c_int = 1;

/// A server's end that waits for connections.
pub trait Listening {
    /// What a caller must be told.
    fn place(&self) -> Outcome<SocketAddr>;
    /// The next connection.
    fn next(&mut self) -> Outcome<Box<dyn Pipe>>;
}

// ------------------------------------------------------------------------------------------------------------ sockets

/// A socket, by the C library's functions and without flags that came later than those of POSIX: those are what
/// librspreload.so takes over.
pub struct Socket(RawFd);

impl Socket {
    /// Listens on a free port of `address`.
    pub fn listen(carrier: Carrier, address: SocketAddr) -> Outcome<Self> {
        let socket = Self::new(carrier, address)?;
        let (raw, length) = encode(address);
        // SAFETY: a whole address of that length.
        check(unsafe { libc::bind(socket.0, (&raw const raw).cast(), length) })
            .doing(|| format!("bind to {address}"))?;
        // SAFETY: a descriptor of ours.
        check(unsafe { libc::listen(socket.0, 8) }).doing(|| "listen")?;
        Ok(socket)
    }

    /// Connects.
    pub fn connect(carrier: Carrier, address: SocketAddr) -> Outcome<Self> {
        let socket = Self::new(carrier, address)?;
        let (raw, length) = encode(address);
        // SAFETY: a whole address of that length.
        check(unsafe { libc::connect(socket.0, (&raw const raw).cast(), length) })
            .doing(|| format!("connect to {address}"))?;
        socket.no_delay()?;
        Ok(socket)
    }

    fn new(carrier: Carrier, address: SocketAddr) -> Outcome<Self> {
        let (family, protocol) = match (carrier, address.is_ipv6()) {
            (Carrier::Smc, false) => (AF_SMC, SMCPROTO_SMC),
            (Carrier::Smc, true) => (AF_SMC, SMCPROTO_SMC6),
            (_, false) => (libc::AF_INET, 0),
            (_, true) => (libc::AF_INET6, 0),
        };
        // SAFETY: numbers only.
        let fd = unsafe { libc::socket(family, libc::SOCK_STREAM, protocol) };
        check(fd.min(0)).doing(|| format!("{} socket", carrier.name()))?;
        Ok(Self(fd))
    }

    fn no_delay(&self) -> Outcome {
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, which is copied.
        check(unsafe {
            libc::setsockopt(
                self.0,
                libc::IPPROTO_TCP,
                libc::TCP_NODELAY,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })
        .doing(|| "TCP_NODELAY")
    }
}

impl Listening for Socket {
    fn place(&self) -> Outcome<SocketAddr> {
        // SAFETY: zero is a value of every part.
        let mut raw = unsafe { std::mem::zeroed::<libc::sockaddr_storage>() };
        let mut length = size_of_val(&raw) as libc::socklen_t;
        // SAFETY: `raw` has room for `length` bytes.
        check(unsafe { libc::getsockname(self.0, (&raw mut raw).cast(), &mut length) })
            .doing(|| "getsockname")?;
        Ok(decode(&raw))
    }

    fn next(&mut self) -> Outcome<Box<dyn Pipe>> {
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept(self.0, std::ptr::null_mut(), std::ptr::null_mut()) };
        check(fd.min(0)).doing(|| "accept")?;
        let socket = Self(fd);
        socket.no_delay()?;
        Ok(Box::new(socket))
    }
}

impl Pipe for Socket {
    fn put(&mut self, mut bytes: &[u8]) -> Outcome {
        while !bytes.is_empty() {
            // SAFETY: so many bytes are there.
            let n = unsafe {
                libc::send(
                    self.0,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    libc::MSG_NOSIGNAL,
                )
            };
            bytes = &bytes[moved(n).doing(|| "send")?..];
        }
        Ok(())
    }

    fn get(&mut self, mut buffer: &mut [u8]) -> Outcome {
        while !buffer.is_empty() {
            // SAFETY: so many bytes have room.
            let n = unsafe { libc::recv(self.0, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            match moved(n).doing(|| "recv")? {
                0 => return Err(Failure::failed("the other side ended the connection")),
                n => buffer = &mut buffer[n..],
            }
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: ours, once.
        unsafe { libc::close(self.0) };
    }
}

/// 0 or more, or -1 with errno.
fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn moved(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn encode(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: zero is a value of every part.
    let mut raw = unsafe { std::mem::zeroed::<libc::sockaddr_storage>() };
    let length = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is large enough and aligned for every kind of address.
            let to = unsafe { &mut *(&raw mut raw).cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let to = unsafe { &mut *(&raw mut raw).cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (raw, length as libc::socklen_t)
}

fn decode(raw: &libc::sockaddr_storage) -> SocketAddr {
    match libc::c_int::from(raw.ss_family) {
        libc::AF_INET6 => {
            // SAFETY: the family says so, and the storage is large enough.
            let v6 = unsafe { &*(&raw const *raw).cast::<libc::sockaddr_in6>() };
            SocketAddr::new(
                IpAddr::from(v6.sin6_addr.s6_addr),
                u16::from_be(v6.sin6_port),
            )
        }
        // AF_SMC tells the address of the TCP socket below it.
        _ => {
            // SAFETY: the storage is large enough.
            let v4 = unsafe { &*(&raw const *raw).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            SocketAddr::new(ip.into(), u16::from_be(v4.sin_port))
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- vianet

/// The caller's end: a connection by name, used by its descriptor.
pub struct Via {
    pipe: pipe::Via,
    _dir: tempfile::TempDir,
}

impl Via {
    /// Connects by name; the cluster query is answered at `query`.
    pub fn connect(query: SocketAddr) -> Outcome<Self> {
        let dir = tempfile::tempdir().doing(|| "making a directory")?;
        let file = dir.path().join("client.toml");
        let text = format!(
            "[clusters.bench]\nnodes = [\"{query}\"]\ntransports = [\"rdma\"]\nstrict = true\n"
        );
        std::fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
        let pipe = pipe::Via::connect("bench\\echo", &file)?;
        match pipe.transport()?.as_str() {
            "rdma" => Ok(Self { pipe, _dir: dir }),
            other => Err(Failure::failed(format!("asked for rdma, got {other}"))),
        }
    }
}

impl Pipe for Via {
    fn put(&mut self, bytes: &[u8]) -> Outcome {
        self.pipe.put(bytes)
    }

    fn get(&mut self, buffer: &mut [u8]) -> Outcome {
        self.pipe.get(buffer)
    }
}

/// The server's end: the provider's listener, and somebody who answers the cluster query.
pub struct ViaListening {
    listener: Box<dyn Listener>,
    query: SocketAddr,
}

impl ViaListening {
    /// Listens on a free port of `address`.
    pub fn bind(address: SocketAddr) -> Outcome<Self> {
        let config = ListenConfig {
            addrs: vec![address],
            shm_dir: "/nonexistent".into(),
            node: NODE.into(),
            signer: None,
            tls: vianet::via::Tls::Off,
            channels_per_peer: 64,
            max_ring_bytes: RING_BYTES,
        };
        let listener = Rdma.listen(&config).doing(|| "listening on rdma")?;
        let endpoint = Endpoint {
            transport: Transport::Rdma,
            addr: *listener
                .local_addrs()
                .first()
                .ok_or_else(|| Failure::failed("rdma listens nowhere"))?,
        };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = UdpSocket::bind(any).doing(|| "opening the query socket")?;
        let query = socket.local_addr().doing(|| "query address")?;
        std::thread::spawn(move || answer_query(&socket, NODE, &[endpoint], None));
        Ok(Self { listener, query })
    }
}

impl Listening for ViaListening {
    fn place(&self) -> Outcome<SocketAddr> {
        Ok(self.query)
    }

    fn next(&mut self) -> Outcome<Box<dyn Pipe>> {
        loop {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                self.listener.wait_fd(),
                rustix::event::PollFlags::IN,
            )];
            let _ = rustix::event::poll(&mut fds, None);
            if let Some(incoming) = self.listener.poll().doing(|| "listening")? {
                let channel = incoming
                    .accept(accept_as(NODE), None)
                    .doing(|| "accepting")?;
                channel.activate();
                return Ok(Box::new(Served(channel)));
            }
        }
    }
}

/// A channel on the server's side.
struct Served(Channel);

impl Pipe for Served {
    fn put(&mut self, mut bytes: &[u8]) -> Outcome {
        while !bytes.is_empty() {
            let n = self
                .0
                .send(&[IoSlice::new(bytes)], patience())
                .map_err(broken)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn get(&mut self, mut buffer: &mut [u8]) -> Outcome {
        while !buffer.is_empty() {
            match self.0.recv(buffer, patience()).map_err(broken)? {
                Received::Bytes(n) => buffer = &mut buffer[n..],
                Received::End => return Err(Failure::failed("the caller ended the connection")),
                Received::Empty | Received::Interrupted => {}
            }
        }
        Ok(())
    }
}

fn broken(why: Broken) -> Failure {
    Failure::failed(format!("{why:?}"))
}
