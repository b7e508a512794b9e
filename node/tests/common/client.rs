//! A client of the VIA layer alone: one channel to one node.

use super::{Lab, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use vianet::resolve::Endpoint;
use vianet::via::bell::AppBell;
use vianet::via::channel::{Received, Wait};
use vianet::via::shm::Shm;
use vianet::via::tcp::TcpProvider;
use vianet::via::{
    Broken, Channel, ConnectError, ConnectRequest, Provider, RejectReason, Resume, Transport,
};

pub const PATIENT: Wait = Wait::Until {
    spin: Duration::ZERO,
    timeout: Some(Duration::from_secs(30)),
};

pub struct Client {
    pub channel: Arc<Channel>,
    _near: std::os::fd::OwnedFd,
}

pub fn request(lab: &Lab, node: usize, transport: Transport, server: &str) -> ConnectRequest {
    let config = &lab.nodes[node].config;
    ConnectRequest {
        server: server.into(),
        node: config.node.clone(),
        endpoint: Endpoint {
            transport,
            addr: match transport {
                Transport::Tcp => config.listen.via_tcp[0],
                _ => SocketAddr::from(([0, 0, 0, 0], 0)),
            },
        },
        min_generation: 0,
        patient: false,
        warm: false,
        pinned: Some(lab.key.public()),
        tls: vianet::via::Tls::Auto,
        shm_dir: config.shm_dir.clone(),
        ring_bytes: 65_536,
        bell: None,
        resume: None,
        nonce: None,
    }
}

pub fn connect(mut request: ConnectRequest) -> Result<Client, ConnectError> {
    let (near, bell) = AppBell::pair().unwrap();
    let bell = Arc::new(bell);
    request.bell = Some(bell);
    let provider: &dyn Provider = match request.endpoint.transport {
        Transport::Shm => &Shm,
        _ => &TcpProvider,
    };
    let deadline = Instant::now() + super::LONG;
    let mut connecting = provider.connect(request)?;
    loop {
        match connecting.advance() {
            Poll::Ready(channel) => {
                let channel = Arc::new(channel?);
                channel.activate();
                return Ok(Client {
                    channel,
                    _near: near,
                });
            }
            Poll::Pending => {
                assert!(Instant::now() < deadline, "no word of the node");
                let interest = connecting.interest();
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, interest.read);
                flags.set(PollFlags::OUT, interest.write);
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: 100_000_000,
                };
                let fd = connecting.wait_fd();
                let _ = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout));
            }
        }
    }
}

/// Connects as soon as the node accepts.
pub fn connect_when_active(lab: &Lab, node: usize, transport: Transport) -> Client {
    connect_as_soon(|| request(lab, node, transport, "sales"))
}

/// Connects as soon as the node accepts such a request.
pub fn connect_as_soon(request: impl Fn() -> ConnectRequest) -> Client {
    until("accepted", || match connect(request()) {
        Ok(client) => Some(client),
        Err(
            ConnectError::Rejected(RejectReason::NotActive | RejectReason::UpstreamRefused)
            | ConnectError::Failed(_)
            | ConnectError::Unavailable(_),
        ) => None,
        Err(e) => panic!("{e:?}"),
    })
}

pub fn resume(lab: &Lab, node: usize, old: &Client) -> Result<Client, ConnectError> {
    let mut request = request(lab, node, old.channel.wire.transport(), "sales");
    request.resume = Some(Resume {
        channel_id: old.channel.accept.channel_id,
        secret: old.channel.accept.resume_secret,
        old: Arc::clone(&old.channel),
    });
    connect(request)
}

impl Client {
    pub fn send(&self, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let n = self
                .channel
                .send(&[IoSlice::new(&bytes[done..])], PATIENT)
                .unwrap();
            assert!(n > 0, "no room in time");
            done += n;
        }
    }

    /// What comes next: bytes, the end, or the break.
    pub fn recv(&self) -> Result<Vec<u8>, Broken> {
        let mut buffer = vec![0; 65_536];
        let deadline = Instant::now() + super::LONG;
        loop {
            self.channel.settle();
            match self.channel.recv(&mut buffer, PATIENT)? {
                Received::Bytes(n) => {
                    buffer.truncate(n);
                    return Ok(buffer);
                }
                Received::End => return Ok(Vec::new()),
                _ => assert!(Instant::now() < deadline, "nothing came"),
            }
        }
    }

    pub fn expect(&self, bytes: &[u8]) {
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let more = self.recv().unwrap();
            assert!(!more.is_empty(), "ended after {} bytes", got.len());
            got.extend(more);
        }
        assert_eq!(got, bytes);
    }

    /// Waits until the SQL server has `n` bytes.
    pub fn until_acked(&self, n: u64) {
        until("acknowledged", || {
            let _ = self.channel.drive();
            (self.channel.acked() == n).then_some(())
        });
    }

    /// The reason why it ended.
    pub fn broken(&self) -> Broken {
        loop {
            match self.recv() {
                Ok(bytes) if bytes.is_empty() => {
                    // Nobody else drives this channel.
                    return until("broken", || {
                        self.channel.settle();
                        self.channel.drive().err()
                    });
                }
                Ok(_) => {}
                Err(broken) => return broken,
            }
        }
    }
}
