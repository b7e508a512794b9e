//! The other process of a comparison: the same work behind plain TCP and behind VIA listeners.
//!
//! It answers the cluster query for the names of [`Work`], accepts through the providers' `listen`, and serves each
//! channel by a thread in a blocking `recv` with default settings.

use super::work::Work;
use crate::failure::{Doing, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vianet::config::Client;
use vianet::resolve::identity::{SecretKey, random_bytes};
use vianet::resolve::query::{Query, REQUEST_BYTES};
use vianet::resolve::{Answer, Endpoint, Role};
use vianet::via::channel::{Received, Wait};
use vianet::via::{
    self, Accept, Broken, Channel, ListenConfig, Listener, Provider, RejectReason, Tls, Transport,
};

const NODE: &str = "bench-peer";
const CLUSTER_ID: [u8; 16] = *b"vianet benchmark";
const GENERATION: u64 = 1;

/// What carries a channel to the peer.
#[derive(Clone, Copy)]
pub enum Over {
    Shm,
    Tcp,
    /// tcp, encrypted.
    Tls,
}

impl Over {
    pub fn transport(self) -> Transport {
        match self {
            Self::Shm => Transport::Shm,
            Self::Tcp | Self::Tls => Transport::Tcp,
        }
    }
}

/// Known to everybody: the peer is reached on loopback, by the bench, for a minute.
fn key() -> SecretKey {
    SecretKey::from_seed([0xbe; 32])
}

/// Where the peer listens; its first line on standard output.
#[derive(Clone, Serialize, Deserialize)]
pub struct Places {
    /// Cluster query.
    pub query: SocketAddr,
    /// Plain TCP.
    pub plain: SocketAddr,
}

/// A running peer process; it ends when this is dropped.
pub struct Peer {
    /// Where it listens.
    pub places: Places,
    child: Child,
    _stdin: ChildStdin,
    shm_dir: PathBuf,
}

impl Peer {
    /// Starts one with its shared-memory socket in `shm_dir`.
    pub fn start(shm_dir: &Path) -> Outcome<Self> {
        let exe = std::env::current_exe().doing(|| "finding this program")?;
        let mut child = Command::new(exe)
            .args(["bench", "--peer-in"])
            .arg(shm_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing(|| "starting the bench's peer")?;
        let stdin = child.stdin.take().expect("was piped");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("was piped"))
            .read_line(&mut line)
            .doing(|| "hearing from the bench's peer")?;
        let places = serde_json::from_str(&line).doing(|| "understanding the bench's peer")?;
        Ok(Self {
            places,
            child,
            _stdin: stdin,
            shm_dir: shm_dir.into(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a client configuration for it that allows one transport.
    pub fn client_file(&self, over: Over) -> Outcome<PathBuf> {
        let transport = over.transport();
        let (name, pinned) = match over {
            Over::Tls => ("tls", format!("public_key = \"{}\"\n", key().public())),
            Over::Shm | Over::Tcp => (transport.name(), String::new()),
        };
        let path = self.shm_dir.join(format!("client-{name}.toml"));
        let text = format!(
            "shm_dir = {:?}\n[clusters.bench]\nnodes = [\"{}\"]\ntransports = [\"{transport}\"]\nstrict = true\n{pinned}",
            self.shm_dir, self.places.query
        );
        std::fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the peer until its standard input ends.
pub fn run(shm_dir: &Path) -> Outcome {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ListenConfig {
        addrs: vec![any],
        shm_dir: shm_dir.into(),
        node: NODE.into(),
        signer: Some(Arc::new(key())),
        tls: Tls::Auto,
        channels_per_peer: 64,
        max_ring_bytes: 1 << 24,
    };
    let shm = via::shm::Shm.listen(&config).doing(|| "listening on shm")?;
    let tcp = via::tcp::TcpProvider
        .listen(&config)
        .doing(|| "listening on tcp")?;
    let via_tcp = *tcp
        .local_addrs()
        .first()
        .ok_or_else(|| Failure::failed("tcp listens nowhere"))?;
    let plain = TcpListener::bind(any).doing(|| "listening on plain TCP")?;
    let query = UdpSocket::bind(any).doing(|| "opening the query socket")?;
    let places = Places {
        query: query.local_addr().doing(|| "query address")?,
        plain: plain.local_addr().doing(|| "plain address")?,
    };
    let endpoint = |transport, addr| Endpoint { transport, addr };
    let endpoints = [
        endpoint(Transport::Shm, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        endpoint(Transport::Tcp, via_tcp),
    ];
    thread::spawn(move || answer_query(&query, NODE, &endpoints, Some(&key())));
    thread::spawn(move || serve_plain(&plain));
    thread::spawn(move || serve_via(shm));
    thread::spawn(move || serve_via(tcp));
    println!(
        "{}",
        serde_json::to_string(&places).expect("addresses only")
    );
    let _ = io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// Answers the cluster query for the names of [`Work`] as `node`, which listens at `endpoints`.
pub fn answer_query(
    socket: &UdpSocket,
    node: &str,
    endpoints: &[Endpoint],
    signer: Option<&SecretKey>,
) {
    let mut buffer = [0; REQUEST_BYTES + 1];
    while let Ok((n, from)) = socket.recv_from(&mut buffer) {
        let Ok(query) = Query::parse(&buffer[..n]) else {
            continue;
        };
        let answer = Answer {
            cluster_id: Some(CLUSTER_ID),
            node: node.into(),
            role: Work::from_server(&query.server).map_or(Role::Unknown, |_| Role::Active),
            generation: GENERATION,
            ttl: Duration::from_secs(30),
            endpoints: endpoints.to_vec(),
            authentic: false,
            from: None,
        };
        if let Ok(bytes) = query.answer(&answer, signer) {
            let _ = socket.send_to(&bytes, from);
        }
    }
}

fn serve_plain(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut greeting = [0];
            let _ = stream.set_nodelay(true);
            let mut reader = &stream;
            if reader.read_exact(&mut greeting).is_ok()
                && let Some(work) = Work::from_greeting(greeting[0])
            {
                let _ = work.serve(|b| (&stream).read(b), |b| (&stream).write_all(b));
            }
        });
    }
}

fn serve_via(mut listener: Box<dyn Listener>) {
    loop {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            listener.wait_fd(),
            rustix::event::PollFlags::IN,
        )];
        let _ = rustix::event::poll(&mut fds, None);
        while let Ok(Some(incoming)) = listener.poll() {
            let Some(work) = Work::from_server(incoming.server()) else {
                incoming.reject(RejectReason::UnknownName);
                continue;
            };
            if let Ok(channel) = incoming.accept(accept_as(NODE), None) {
                thread::spawn(move || serve_channel(&channel, work));
            }
        }
    }
}

/// What `node` says when it accepts.
pub fn accept_as(node: &str) -> Accept {
    Accept {
        node: node.into(),
        generation: GENERATION,
        cluster_id: CLUSTER_ID,
        channel_id: u64::from_le_bytes(random_bytes().unwrap_or_default()),
        resume_secret: random_bytes().unwrap_or_default(),
        authentic: false,
    }
}

/// How a blocking call waits by default.
pub fn patience() -> Wait {
    Wait::Until {
        spin: Duration::from_micros(Client::default().spin_us),
        timeout: None,
    }
}

fn serve_channel(channel: &Channel, work: Work) {
    let wait = patience();
    channel.activate();
    let broken = |b: Broken| io::Error::other(format!("{b:?}"));
    let receive = |buffer: &mut [u8]| loop {
        match channel.recv(buffer, wait).map_err(broken)? {
            Received::Bytes(n) => return Ok(n),
            Received::End => return Ok(0),
            Received::Empty | Received::Interrupted => {}
        }
    };
    let send = |mut bytes: &[u8]| {
        while !bytes.is_empty() {
            let n = channel.send(&[IoSlice::new(bytes)], wait).map_err(broken)?;
            bytes = &bytes[n..];
        }
        Ok(())
    };
    let _ = work.serve(receive, send);
    let _ = channel.shutdown_write();
}
