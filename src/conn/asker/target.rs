//! One address of a node, with the connected socket that asks it: only its own answers arrive there, and an ICMP "port
//! unreachable" is seen at once. The source port is random and new for every query.

use crate::error::{Error, Kind, Result};
use crate::resolve::identity::PublicKey;
use crate::resolve::query::{Query, REQUEST_BYTES};
use crate::resolve::wire::Refused;
use crate::resolve::{Answer, Endpoint, Role, ssrp};
use crate::via::Transport;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long an answer of a foreign SQL Browser, which names no time, may be handed out by the cache.
const SSRP_TTL: Duration = Duration::from_secs(30);
/// Most datagrams read in one go, so that a flood cannot hold the caller's loop.
const BATCH: usize = 64;

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing yet.
    Silent,
    /// Nobody listens there, or no way leads there; the system's word for it.
    Refused(String),
    /// Something that is not believed; why.
    Bad(String),
    /// Its last answer.
    Answer(Answer),
}

/// See the module's text.
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) heard: Heard,
    /// Something came that the pinned key did not sign.
    pub(crate) forged: bool,
    socket: Option<OwnedFd>,
}

impl Target {
    /// Opens the socket. An address that cannot be reached from here is a refused target; only a lack of descriptors or
    /// memory is an error.
    pub(crate) fn open(addr: SocketAddr) -> Result<Self> {
        let family = match addr {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let mut target = Self {
            addr,
            heard: Heard::Silent,
            forged: false,
            socket: None,
        };
        let opened = net::socket_with(family, SocketType::DGRAM, flags, None)
            .map(crate::fd::move_high)
            .and_then(|socket| net::connect(&socket, &addr).map(|()| socket));
        match opened {
            Ok(socket) => target.socket = Some(socket),
            Err(errno) => {
                let error = Error::system(&format!("asking {addr}"), errno);
                if matches!(error.kind(), Kind::OutOfDescriptors | Kind::OutOfMemory) {
                    return Err(error);
                }
                target.refused(errno);
            }
        }
        Ok(target)
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Sends a datagram. True if the system took it.
    pub(crate) fn send(&mut self, datagram: &[u8]) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        // A refusal that came back for an earlier datagram is told to the next send, which then sends nothing: try again.
        let mut error = None;
        for _ in 0..3 {
            match net::send(socket, datagram, SendFlags::NOSIGNAL) {
                Ok(_) => return true,
                Err(errno) => error = Some(errno),
            }
        }
        if let Some(errno) = error {
            self.heard_refusal(errno);
        }
        false
    }

    /// Reads what has arrived and judges it as answers to `asked`.
    pub(crate) fn receive(&mut self, asked: &Asked<'_>) {
        self.receive_any(|datagram, target| {
            target.take(datagram, asked);
        });
    }

    /// Reads what has arrived, refusals included, and hands each datagram to `each`.
    pub(crate) fn receive_any(&mut self, mut each: impl FnMut(&[u8], &mut Self)) {
        // One byte more than any answer that is believed: a longer one must not look whole.
        let mut buffer = [0u8; MAX_ANSWER + 1];
        for _ in 0..BATCH {
            let Some(socket) = &self.socket else { break };
            match net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, n)) => each(&buffer[..n.min(buffer.len())], self),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => self.heard_refusal(errno),
            }
        }
    }

    /// Judges a datagram as an answer to `asked`. True if it is believed.
    pub(crate) fn take(&mut self, datagram: &[u8], asked: &Asked<'_>) -> bool {
        let read = match datagram.first() {
            Some(5) if asked.ssrp => asked
                .read_ssrp(datagram, self.addr)
                .map_err(|e| e.to_string()),
            _ => {
                let now_ms = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let now_ms = u64::try_from(now_ms.as_millis()).unwrap_or(u64::MAX);
                let read = asked.query.parse_answer(datagram, now_ms, asked.pinned);
                self.forged |= matches!(read, Err(Refused::Signature | Refused::Unsigned));
                read.map_err(|e| e.to_string())
            }
        };
        match read {
            Ok(mut answer) => {
                // A node that speaks the cluster query is not heard as a SQL Browser as well.
                let better = |old: &Answer| old.cluster_id.is_some() && answer.cluster_id.is_none();
                if matches!(&self.heard, Heard::Answer(old) if better(old)) {
                    return false;
                }
                answer.from = Some(self.addr);
                self.heard = Heard::Answer(answer);
                true
            }
            Err(why) => {
                if !matches!(self.heard, Heard::Answer(_)) {
                    self.heard = Heard::Bad(why);
                }
                false
            }
        }
    }

    // Answers of nodes that have since gone stay: what they said is as good as it was. A full buffer is no word of anybody.
    fn heard_refusal(&mut self, errno: Errno) {
        let ours = matches!(
            errno,
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR
        );
        if !ours && !matches!(self.heard, Heard::Answer(_)) {
            self.refused(errno);
        }
    }

    fn refused(&mut self, errno: Errno) {
        self.heard = Heard::Refused(std::io::Error::from(errno).to_string());
    }
}

/// What was asked, and how answers are judged.
pub(crate) struct Asked<'a> {
    pub(crate) query: &'a Query,
    pub(crate) pinned: Option<&'a PublicKey>,
    /// SSRP was asked too, and its answers will do.
    pub(crate) ssrp: bool,
}

impl Asked<'_> {
    fn read_ssrp(
        &self,
        datagram: &[u8],
        from: SocketAddr,
    ) -> std::result::Result<Answer, ssrp::BadAnswer> {
        let ask = ssrp::Request::Instance(self.query.server.clone());
        let instances = ask.parse_answer(datagram)?;
        let port = instances.first().and_then(|i| i.tcp);
        Ok(plain_answer(from.ip(), port.ok_or(ssrp::BadAnswer::Port)?))
    }
}

/// What a foreign SQL Browser's answer comes to: an ordinary TCP connection to the port at the address that was asked.
fn plain_answer(ip: IpAddr, port: u16) -> Answer {
    Answer {
        cluster_id: None,
        node: ip.to_string(),
        role: Role::Active,
        generation: 0,
        ttl: SSRP_TTL,
        endpoints: vec![Endpoint {
            transport: Transport::Plain,
            addr: SocketAddr::new(ip, port),
        }],
        authentic: false,
        from: None,
    }
}

/// The longest answer that is believed: SSRP's to `04`.
const MAX_ANSWER: usize = 3 + ssrp::MAX_INSTANCE_BYTES;
const _: () = assert!(MAX_ANSWER >= REQUEST_BYTES);
