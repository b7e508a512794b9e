//! Measurements through a real node daemon: loss noticed, round trip through the relay, idle connections.

use super::cpu;
use super::peer::Peer;
use super::pipe::{Pipe, Tcp, Via};
use super::report::{Metric, Samples};
use super::transfer::{Effort, in_turns, trips};
use super::work::Work;
use crate::failure::{Doing, Failure, Outcome};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use vianet::conn::events;
use vianet::failover::Notice;
use vianet::via::Transport;
use vianet_node::config;

const NODE: &str = "bench-node";
const NAME: &str = "bench\\relayed";
const PATIENCE: Duration = Duration::from_secs(10);

/// A running `vianetd` whose one server is relayed to the peer's plain listener; killed when dropped.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    query: SocketAddr,
}

impl Daemon {
    /// Starts one with its files in `dir`.
    pub fn start(dir: &Path, upstream: SocketAddr) -> Outcome<Self> {
        std::fs::create_dir_all(dir).doing(|| format!("creating {}", dir.display()))?;
        let (query, via_tcp) = (free_udp()?, free_tcp()?);
        let file = dir.join("node.toml");
        let text = format!(
            "node = \"{NODE}\"\ncluster = \"bench\"\ncluster_id = \"{}\"\nstate_dir = {dir:?}\nshm_dir = {dir:?}\n\
             [listen]\nquery = [\"{query}\"]\nvia_tcp = [\"{via_tcp}\"]\n\
             [[servers]]\nname = \"relayed\"\ninitial_active = true\nupstream = \"{upstream}\"\n",
            "be".repeat(16),
        );
        let node: config::Node = toml::from_str(&text).doing(|| "the bench's node.toml")?;
        drop(node);
        std::fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
        let log =
            std::fs::File::create(dir.join("vianetd.log")).doing(|| "creating the daemon's log")?;
        let child = super::tie(&mut Command::new(super::sibling("vianetd")?))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .doing(|| "starting vianetd")?;
        Ok(Self {
            child,
            dir: dir.into(),
            query,
        })
    }

    /// Connects to it by name over `transport` and tells the peer behind it what to do.
    pub fn connect(&self, transport: Transport) -> Outcome<Via> {
        let config = self.dir.join(format!("client-{transport}.toml"));
        let text = format!(
            "deadline_ms = 5000\nshm_dir = {:?}\n[clusters.bench]\nnodes = [\"{}\"]\ntransports = [\"{transport}\"]\n",
            self.dir, self.query
        );
        std::fs::write(&config, text).doing(|| format!("writing {}", config.display()))?;
        let mut pipe = Via::connect(NAME, &config)?;
        pipe.put(&[Work::Echo as u8])?;
        let mut byte = [1];
        pipe.put(&byte)?;
        pipe.get(&mut byte)?;
        Ok(pipe)
    }

    /// Processor time of this process and the daemon while nothing is sent, milliseconds a second.
    fn cpu_while_idle(&self) -> Samples {
        thread::sleep(Duration::from_millis(500));
        let mut samples = Samples::default();
        for _ in 0..5 {
            let (before, start) = (cpu::of_both(self.child.id()), Instant::now());
            thread::sleep(Duration::from_secs(1));
            let used = cpu::of_both(self.child.id()).saturating_sub(before);
            samples.add(used.as_secs_f64() * 1e3 / start.elapsed().as_secs_f64());
        }
        samples
    }

    fn signal(&self, signal: rustix::process::Signal) -> Outcome {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).doing(|| "signalling vianetd")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the node is lost.
#[derive(Clone, Copy)]
pub enum Loss {
    /// kill -9.
    Killed,
    /// SIGSTOP.
    Frozen,
}

/// Time from the loss of a node until the library knows (over shm and tcp by turns). A killed one is compared with
/// the end of file of a plain TCP connection; plain TCP never notices a frozen one.
pub fn noticed(
    metric: &'static str,
    loss: Loss,
    turns: u32,
    dir: &Path,
    peer: &Peer,
) -> Outcome<Metric> {
    let (mut ours, mut plain) = (Samples::default(), Samples::default());
    for turn in 0..turns {
        let transport = if turn % 2 == 0 {
            Transport::Shm
        } else {
            Transport::Tcp
        };
        let daemon = Daemon::start(&dir.join(format!("{metric}-{turn}")), peer.places.plain)?;
        let connection = daemon.connect(transport)?;
        let (tell, told) = mpsc::channel();
        events::set_callback(Some(Box::new(move |event| {
            if matches!(event.notice, Notice::FailoverBegun | Notice::Lost) {
                let _ = tell.send(Instant::now());
            }
        })));
        let start = Instant::now();
        daemon.signal(match loss {
            Loss::Killed => rustix::process::Signal::KILL,
            Loss::Frozen => rustix::process::Signal::STOP,
        })?;
        let noticed = told.recv_timeout(PATIENCE);
        events::set_callback(None);
        let noticed =
            noticed.map_err(|_| Failure::failed(format!("{metric}: not noticed within 10 s")))?;
        ours.add((noticed - start).as_secs_f64() * 1e3);
        drop(connection);
        if matches!(loss, Loss::Killed) {
            plain.add(plain_end_of_file(
                &dir.join(format!("{metric}-plain-{turn}")),
            )?);
        }
    }
    Ok(match loss {
        Loss::Killed => Metric::compare(
            metric,
            "ms",
            "end of file of a plain TCP connection",
            ours,
            Some(plain),
        ),
        Loss::Frozen => Metric::compare(metric, "ms", "plain TCP never notices", ours, None),
    })
}

fn plain_end_of_file(dir: &Path) -> Outcome<f64> {
    std::fs::create_dir_all(dir).doing(|| format!("creating {}", dir.display()))?;
    let peer = Peer::start(dir)?;
    let mut tcp = Tcp::connect(peer.places.plain, Work::Echo)?;
    let (mut byte, start) = ([0], Instant::now());
    tcp.put(&byte)?;
    tcp.get(&mut byte)?;
    let begun = start.elapsed();
    drop(peer);
    let _ = tcp.get(&mut byte);
    Ok((start.elapsed() - begun).as_secs_f64() * 1e3)
}

/// 64-byte round trip through the daemon's relay to an echo server, against the same through a plain TCP relay.
pub fn relayed(
    metric: &'static str,
    transport: Transport,
    effort: Effort,
    dir: &Path,
    peer: &Peer,
) -> Outcome<Metric> {
    let daemon = Daemon::start(&dir.join(metric), peer.places.plain)?;
    let mut ours = daemon.connect(transport)?;
    let relay = PlainRelay::start(peer.places.plain)?;
    let mut plain = Tcp::connect_bare(relay.addr)?;
    plain.put(&[Work::Echo as u8])?;
    let (a, b) = in_turns(effort, &mut ours, &mut plain, |pipe, into| {
        trips(pipe, effort, peer.pid(), into)
    })?;
    Ok(Metric::compare(
        metric,
        "us",
        "a plain TCP relay to the same echo server",
        a,
        Some(b),
    ))
}

/// Processor time that 100 idle connections cost this process and the daemon, milliseconds a second, beside that of one:
/// the probes ask about the node and not about each connection, so both cost the same.
pub fn idle(
    metric: &'static str,
    transport: Transport,
    dir: &Path,
    peer: &Peer,
) -> Outcome<Metric> {
    let daemon = Daemon::start(&dir.join(metric), peer.places.plain)?;
    let mut connections = vec![daemon.connect(transport)?];
    let one = daemon.cpu_while_idle();
    for _ in 1..100 {
        connections.push(daemon.connect(transport)?);
    }
    let all = daemon.cpu_while_idle();
    drop(connections);
    let against = "one idle connection: the probes of one node, 4 a second";
    Ok(Metric::compare(metric, "ms/s", against, all, Some(one)))
}

/// A relay that copies bytes between two TCP connections, in a process of its own.
struct PlainRelay {
    child: Child,
    addr: SocketAddr,
}

impl PlainRelay {
    fn start(to: SocketAddr) -> Outcome<Self> {
        let exe = std::env::current_exe().doing(|| "finding this program")?;
        let addr = free_tcp()?;
        let child = super::tie(&mut Command::new(exe))
            .args(["bench", "--relay", &addr.to_string(), &to.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .doing(|| "starting the plain relay")?;
        let relay = Self { child, addr };
        let start = Instant::now();
        while TcpStream::connect(addr).is_err() {
            if start.elapsed() > PATIENCE {
                return Err(Failure::failed("the plain relay does not listen"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(relay)
    }
}

impl Drop for PlainRelay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The relay's process: until killed.
pub fn run_relay(listen: SocketAddr, to: SocketAddr) -> Outcome {
    let listener = TcpListener::bind(listen).doing(|| format!("listening on {listen}"))?;
    for client in listener.incoming().flatten() {
        let server = TcpStream::connect(to).doing(|| format!("connecting to {to}"))?;
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (client2, server2) = (client.try_clone(), server.try_clone());
        if let (Ok(client2), Ok(server2)) = (client2, server2) {
            thread::spawn(move || copy(client, server));
            thread::spawn(move || copy(server2, client2));
        }
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; super::work::CHUNK];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.shutdown(std::net::Shutdown::Write),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

fn free_udp() -> Outcome<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "finding a free UDP port")?;
    socket.local_addr().doing(|| "finding a free UDP port")
}

fn free_tcp() -> Outcome<SocketAddr> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "finding a free TCP port")?;
    socket.local_addr().doing(|| "finding a free TCP port")
}
