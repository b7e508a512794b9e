//! A very small node inside the test: a responder on UDP and both providers' listeners; every channel echoes.

use super::sql::Sql;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use vianet::resolve::identity::SecretKey;
use vianet::resolve::query::Query;
use vianet::resolve::{Answer, Endpoint, Role};
use vianet::via::channel::{Channel, Received, Wait};
use vianet::via::rdma::Rdma;
use vianet::via::shm::Shm;
use vianet::via::switchover::Order;
use vianet::via::tcp::TcpProvider;
use vianet::via::{
    Accept, Broken, EndReason, Incoming, ListenConfig, Listener, Provider, RejectReason, Tls,
    Transport,
};

/// What a node does with a channel's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends them back.
    Echo,
    /// Reads nothing.
    Deaf,
    /// Sends what came first back, and reads the rest.
    EchoOnce,
    /// Sends one line and ends its direction.
    Greet,
    /// Reads without the last [`HELD`] bytes of [`SENT`] until it is let go, and says nothing.
    Held,
    /// See [`super::sql`].
    Sql,
    /// Says something of its own before it reads what was sent, and answers nothing.
    Interrupts,
}

/// What is sent to [`Behaviour::Held`].
pub const SENT: u64 = 1 << 20;
/// Less than a ring.
const HELD: u64 = 128 << 10;

const SECRET: [u8; 32] = [1; 32];

pub struct Node {
    /// Where it is asked.
    pub query: SocketAddr,
    shared: Arc<Shared>,
}

/// A channel whose transport broke, and who waits for the one that carries it on.
type Parked = (Arc<Channel>, mpsc::Sender<Arc<Channel>>);

struct Shared {
    generation: AtomicU64,
    role: AtomicU32,
    stop: AtomicBool,
    /// No channel stands: one that was being accepted breaks as well.
    killed: AtomicBool,
    /// UDP stays silent.
    mute: AtomicBool,
    /// Resumptions are refused, and so many were.
    refuses: AtomicBool,
    refused: AtomicU32,
    accepted: AtomicU32,
    /// See [`Behaviour::Held`].
    held: AtomicBool,
    /// Bytes that were read and not sent back.
    taken: AtomicU64,
    /// Streams that ended in good order.
    ended: AtomicU32,
    channels: Mutex<Vec<Arc<Channel>>>,
    /// Broken channels that may be carried on, and who waits for that.
    parked: Mutex<HashMap<u64, Parked>>,
    behaviour: Behaviour,
    sql: Sql,
}

impl Node {
    /// A node that listens on free ports and in `shm_dir`.
    pub fn start(name: &str, shm_dir: &Path, role: Role, behaviour: Behaviour) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(1000),
            role: AtomicU32::new(role as u32),
            stop: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            refused: AtomicU32::new(0),
            accepted: AtomicU32::new(0),
            held: AtomicBool::new(behaviour == Behaviour::Held),
            taken: AtomicU64::new(0),
            ended: AtomicU32::new(0),
            channels: Mutex::default(),
            parked: Mutex::default(),
            behaviour,
            sql: Sql::default(),
        });
        let config = ListenConfig {
            addrs: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            shm_dir: shm_dir.to_owned(),
            node: name.to_owned(),
            signer: key().map(Arc::new),
            tls: Tls::Auto,
            channels_per_peer: 1000,
            max_ring_bytes: 1 << 22,
        };
        let tcp = TcpProvider.listen(&config).expect("a free port");
        let shm = Shm.listen(&config).expect("the directory is ours");
        let mut endpoints = vec![
            Endpoint {
                transport: Transport::Shm,
                addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            },
            Endpoint {
                transport: Transport::Tcp,
                addr: tcp.local_addrs()[0],
            },
        ];
        let mut listeners = vec![tcp, shm];
        if let Some(addr) = super::rdma_device() {
            let config = ListenConfig {
                addrs: vec![SocketAddr::new(addr, 0)],
                ..config.clone()
            };
            let rdma = Rdma.listen(&config).expect("the device is there");
            endpoints.push(Endpoint {
                transport: Transport::Rdma,
                addr: rdma.local_addrs()[0],
            });
            listeners.push(rdma);
        }
        for listener in listeners {
            let (shared, name) = (Arc::clone(&shared), name.to_owned());
            std::thread::spawn(move || listen(listener, &shared, &name));
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let query = socket.local_addr().expect("bound");
        let (responder, node) = (Arc::clone(&shared), name.to_owned());
        std::thread::spawn(move || respond(&socket, &responder, &node, &endpoints));
        // A relay watches the wires; this node looks at them often.
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || {
            while !watched.stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
                let channels = watched.channels.lock().unwrap().clone();
                for channel in channels {
                    let _ = channel.drive();
                }
            }
        });
        Self { query, shared }
    }

    /// Takes the name over, or gives it up.
    pub fn set_role(&self, role: Role, generation: u64) {
        self.shared.generation.store(generation, Ordering::SeqCst);
        self.shared.role.store(role as u32, Ordering::SeqCst);
    }

    /// As kill -9: every channel breaks without a word, nobody answers any more.
    pub fn kill(&self) {
        self.shared.kill();
    }

    /// The transport of every channel breaks, the node lives.
    pub fn break_channels(&self) {
        self.shared.break_channels();
    }

    /// Ends every channel with a reason.
    pub fn end_channels(&self, reason: EndReason) {
        for channel in self.shared.channels.lock().unwrap().drain(..) {
            channel.end(reason);
        }
    }

    /// As SIGSTOP, for as long as it lives: nothing breaks, nobody answers.
    pub fn freeze(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }

    /// Sends this over the channel that was accepted last.
    pub fn say(&self, bytes: &[u8]) {
        // The client may know of it first.
        let mut channel = None;
        super::wait_for("a channel", || {
            let channels = self.shared.channels.lock().unwrap();
            let mut alive = channels.iter().filter(|c| c.broken().is_none());
            channel = alive.next_back().cloned();
            channel.is_some()
        });
        let wait = Wait::Until {
            spin: Duration::ZERO,
            timeout: Some(super::PATIENCE),
        };
        let _one = self.shared.sql.sending.lock().unwrap();
        let sent = channel
            .expect("a channel")
            .send(&[IoSlice::new(bytes)], wait);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// Gives an order over every channel.
    pub fn order(&self, order: Order) {
        for channel in &*self.shared.channels.lock().unwrap() {
            channel.wire.say(channel, order as u8);
        }
    }

    /// Answers on UDP no more, or again.
    pub fn mute(&self, silent: bool) {
        self.shared.mute.store(silent, Ordering::SeqCst);
    }

    /// Refuses every resumption, or none any more; returns how many it has refused.
    pub fn refuse(&self, resumptions: bool) -> u32 {
        self.shared.refuses.store(resumptions, Ordering::SeqCst);
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Lets [`Behaviour::Held`] read the rest.
    pub fn let_go(&self) {
        self.shared.held.store(false, Ordering::SeqCst);
    }

    /// Bytes read and not sent back, and streams that ended in good order.
    pub fn taken(&self) -> (u64, u32) {
        let shared = &self.shared;
        (
            shared.taken.load(Ordering::SeqCst),
            shared.ended.load(Ordering::SeqCst),
        )
    }

    /// Its server, with [`Behaviour::Sql`].
    pub fn sql(&self) -> &Sql {
        &self.shared.sql
    }

    pub fn accepted(&self) -> u32 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    pub fn channels(&self) -> usize {
        self.shared
            .channels
            .lock()
            .unwrap()
            .iter()
            .filter(|c| c.broken().is_none())
            .count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn respond(socket: &UdpSocket, shared: &Shared, node: &str, endpoints: &[Endpoint]) {
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a fresh socket");
    let mut buffer = [0; 2048];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((n, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Ok(query) = Query::parse(&buffer[..n]) else {
            continue;
        };
        if shared.mute.load(Ordering::SeqCst) {
            continue;
        }
        let role = match query.server == "echo" {
            true => Role::from_wire(shared.role.load(Ordering::SeqCst) as u8).unwrap(),
            false => Role::Unknown,
        };
        let answer = Answer {
            cluster_id: Some([7; 16]),
            node: node.to_owned(),
            role,
            generation: shared.generation.load(Ordering::SeqCst),
            ttl: Duration::from_secs(5),
            endpoints: endpoints.to_vec(),
            authentic: false,
            from: None,
        };
        let bytes = query.answer(&answer, key().as_ref()).expect("short names");
        let _ = socket.send_to(&bytes, from);
    }
}

fn listen(mut listener: Box<dyn Listener>, shared: &Arc<Shared>, node: &str) {
    while !shared.stop.load(Ordering::SeqCst) {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let _ = poll(
            &mut [PollFd::from_borrowed_fd(listener.wait_fd(), PollFlags::IN)],
            Some(&limit),
        );
        while let Ok(Some(incoming)) = listener.poll() {
            if let Some(id) = incoming.resumes() {
                if shared.refuses.load(Ordering::SeqCst) {
                    shared.refused.fetch_add(1, Ordering::SeqCst);
                    incoming.reject(RejectReason::NotActive);
                    continue;
                }
                resume(incoming, id, shared, node);
                continue;
            }
            let known = incoming.server() == "echo";
            let active = shared.role.load(Ordering::SeqCst) == Role::Active as u32;
            if !known || !active {
                incoming.reject(match known {
                    true => RejectReason::NotActive,
                    false => RejectReason::UnknownName,
                });
                continue;
            }
            let id = shared.accepted.fetch_add(1, Ordering::SeqCst).into();
            if let Ok(channel) = incoming.accept(shared.accept(node, id), None) {
                let channel = shared.keep(channel);
                let shared = Arc::clone(shared);
                std::thread::spawn(move || serve(channel, &shared));
            }
        }
    }
}

/// Carries a broken channel on, once its thread has let go of it.
fn resume(incoming: Box<dyn Incoming>, id: u64, shared: &Arc<Shared>, node: &str) {
    let mut parked = None;
    let channels = shared.channels.lock().unwrap().clone();
    for live in channels.iter().filter(|c| c.accept.channel_id == id) {
        // Its client knows better, also where no break has been noticed here.
        live.fail(Broken::Transport("carried on elsewhere".into()));
    }
    let end = Instant::now() + super::PATIENCE;
    while Instant::now() < end {
        parked = shared.parked.lock().unwrap().remove(&id);
        if parked.is_some() || shared.stop.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    match parked {
        Some((old, go_on)) if incoming.proves(&SECRET) => {
            let fresh = incoming.accept(shared.accept(node, id), Some(&old));
            let _ = go_on.send(shared.keep(fresh.expect("the offsets fit")));
        }
        _ => incoming.reject(RejectReason::UnknownChannel),
    }
}

impl Shared {
    fn kill(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.killed.store(true, Ordering::SeqCst);
        self.break_channels();
    }

    fn break_channels(&self) {
        for channel in self.channels.lock().unwrap().drain(..) {
            channel.fail(Broken::Transport("cut by the test".into()));
            channel.wire.cut();
        }
    }

    fn accept(&self, node: &str, channel_id: u64) -> Accept {
        Accept {
            node: node.to_owned(),
            generation: self.generation.load(Ordering::SeqCst),
            cluster_id: [7; 16],
            channel_id,
            resume_secret: SECRET,
            authentic: false,
        }
    }

    fn keep(&self, channel: Channel) -> Arc<Channel> {
        let channel = Arc::new(channel);
        channel.activate();
        self.channels.lock().unwrap().push(Arc::clone(&channel));
        if self.killed.load(Ordering::SeqCst) {
            self.break_channels();
        }
        channel
    }

    /// Gives the channel up and waits for the one that carries it on.
    fn park(&self, channel: &Arc<Channel>) -> Option<Arc<Channel>> {
        if !matches!(channel.broken(), Some(Broken::Transport(_))) {
            return None;
        }
        let (go_on, fresh) = mpsc::channel();
        let id = channel.accept.channel_id;
        self.parked
            .lock()
            .unwrap()
            .insert(id, (Arc::clone(channel), go_on));
        fresh.recv_timeout(super::PATIENCE).ok()
    }
}

fn serve(mut channel: Arc<Channel>, shared: &Shared) {
    let wait = Wait::Until {
        spin: Duration::ZERO,
        timeout: None,
    };
    match shared.behaviour {
        Behaviour::Echo | Behaviour::EchoOnce | Behaviour::Held => {}
        Behaviour::Deaf => return,
        Behaviour::Sql => {
            let lost = |only_breaks: bool| match only_breaks {
                true => shared.break_channels(),
                false => shared.kill(),
            };
            return super::sql::serve(channel, &shared.sql, |it| shared.park(it), lost);
        }
        Behaviour::Interrupts => {
            while let Ok(got) = channel.peek(&mut [0], wait) {
                if let Received::Bytes(_) = got {
                    let _ = channel.send(&[IoSlice::new(b"news\n")], wait);
                    let _ = channel.recv(&mut [0; 1000], wait);
                    channel.settle();
                }
            }
            return;
        }
        Behaviour::Greet => {
            let _ = channel.send(&[IoSlice::new(b"hello\n")], wait);
            let _ = channel.shutdown_write();
        }
    }
    let held =
        || shared.held.load(Ordering::SeqCst) && shared.taken.load(Ordering::SeqCst) >= SENT - HELD;
    let mut buffer = vec![0; 65536];
    let mut pending = 0..0;
    let mut answers = match shared.behaviour {
        Behaviour::Echo => usize::MAX,
        Behaviour::EchoOnce => 1,
        _ => 0,
    };
    loop {
        while held() && channel.broken().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let failed = if held() {
            true
        } else if pending.is_empty() {
            match channel.recv(&mut buffer, wait) {
                Ok(Received::Bytes(n)) if answers > 0 => {
                    answers -= 1;
                    pending = 0..n;
                    false
                }
                Ok(Received::Bytes(n)) => {
                    shared.taken.fetch_add(n as u64, Ordering::SeqCst);
                    false
                }
                Ok(Received::End) => {
                    shared.ended.fetch_add(1, Ordering::SeqCst);
                    let _ = channel.shutdown_write();
                    // The client goes first.
                    while channel.broken().is_none() {
                        let _ = channel.drive();
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    true
                }
                Ok(_) => false,
                Err(_) => true,
            }
        } else {
            match channel.send(&[IoSlice::new(&buffer[pending.clone()])], wait) {
                Ok(n) => {
                    pending.start += n;
                    false
                }
                Err(_) => true,
            }
        };
        if failed {
            match shared.park(&channel) {
                Some(fresh) => channel = fresh,
                None => return,
            }
        }
    }
}

/// Writes a client's configuration for nodes at these addresses. Silence alone is no loss there for a long time: a machine
/// that is busy elsewhere can keep a node's threads from running while the client's run on. See [`super::Bed::lost_after`].
/// With `VIANET_TEST_TLS` all of these tests run with a key, which clients pin: over tcp by TLS.
pub fn key() -> Option<SecretKey> {
    std::env::var_os("VIANET_TEST_TLS").map(|_| SecretKey::from_seed([7; 32]))
}

pub fn client_toml(dir: &Path, cluster: u8, nodes: [&Node; 2]) -> PathBuf {
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("\"{}\"", node.query))
        .collect();
    let text = format!(
        "shm_dir = {:?}\ndeadline_ms = 20000\nprobes_lost = 100\n[clusters.t{cluster}]\nnodes = [{}]\nraw_failover = \"continue\"\n",
        dir,
        list.join(", ")
    );
    let text = match key() {
        Some(key) => format!("{text}public_key = \"{}\"\n", key.public()),
        None => text,
    };
    let path = dir.join("client.toml");
    std::fs::write(&path, text).expect("the test's own directory");
    path
}
