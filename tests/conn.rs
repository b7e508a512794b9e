//! Connections by name as a program sees them: through `vianet::conn` and through the kernel.

#[path = "conn/calls.rs"]
mod calls;
#[path = "conn/failover.rs"]
mod failover;
#[path = "conn/in_place.rs"]
mod in_place;
#[path = "conn/node.rs"]
mod node;
#[path = "conn/plain.rs"]
mod plain;
#[path = "conn/postgres.rs"]
mod postgres;
#[path = "conn/processes.rs"]
mod processes;
#[path = "conn/readiness.rs"]
mod readiness;
#[path = "conn/sql.rs"]
mod sql;
#[path = "conn/threads.rs"]
mod threads;

use node::{Behaviour, Node, client_toml};
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;
use vianet::conn::{self, Options};
use vianet::resolve::Role;
use vianet::via::Transport;

/// See [`rounds`].
const FEWER: usize = 4;

/// "Never", not "how fast".
const PATIENCE: Duration = Duration::from_secs(30);

/// [`PATIENCE`] for `poll`.
const NEVER_MS: i32 = 30_000;

struct Bed {
    _dir: tempfile::TempDir,
    config: PathBuf,
    cluster: String,
    a: Node,
    b: Node,
    /// Last: given back when the nodes are gone.
    _alone: parking_lot::ReentrantMutexGuard<'static, ()>,
}

/// A cluster of its own, `t<number>`: the cache of names is the process's. The first node is active.
fn bed(number: u8, behaviour: Behaviour) -> Bed {
    // One test at a time: they fork this process, close numbers behind the library's back, and look at what the whole
    // process has open.
    static ALONE: parking_lot::ReentrantMutex<()> = parking_lot::ReentrantMutex::new(());
    let alone = ALONE.lock();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let a = Node::start("node-a", dir.path(), Role::Active, behaviour);
    let b = Node::start("node-b", dir.path(), Role::Passive, behaviour);
    Bed {
        _alone: alone,
        cluster: format!("t{number}"),
        config: client_toml(dir.path(), number, [&a, &b]),
        _dir: dir,
        a,
        b,
    }
}

impl Bed {
    fn name(&self, server: &str) -> String {
        format!("{}\\{server}", self.cluster)
    }

    fn options(&self, transport: Transport) -> Options {
        Options {
            config: Some(self.config.clone()),
            transports: match transport {
                // A forked child has no RDMA.
                Transport::Rdma => vec![Transport::Rdma, Transport::Tcp],
                transport => vec![transport],
            },
            ..Options::default()
        }
    }

    /// So many unanswered probes of the connections that are made from now on are a lost node.
    fn lost_after(&self, probes: u32) {
        let text = std::fs::read_to_string(&self.config).expect("the test's own file");
        let text = text.replace("probes_lost = 100", &format!("probes_lost = {probes}"));
        std::fs::write(&self.config, text).expect("the test's own file");
    }

    #[track_caller]
    fn connect(&self, transport: Transport) -> RawFd {
        let options = self.options(transport);
        let channels = || self.a.channels() + self.b.channels();
        let others = channels();
        let mut fd = conn::connect(&self.name("echo"), &options).expect("the node is there");
        let mut info = conn::find(fd).expect("ours").info();
        for _ in 0..5 {
            // An emulated processor may take longer than a connect waits for one transport.
            if transport != Transport::Rdma || !info.why_not_better.contains("in time") {
                break;
            }
            // The nodes know of both steps a moment later; what they say next must not go to the one that is closed.
            wait_for("the node to have it", || channels() > others);
            conn::close(fd).expect("ours");
            wait_for("the node to hear of its end", || channels() <= others);
            fd = conn::connect(&self.name("echo"), &options).expect("the node is there");
            info = conn::find(fd).expect("ours").info();
        }
        assert_eq!(info.transport, Some(transport), "{}", info.why_not_better);
        let encrypted = transport == Transport::Tcp && node::key().is_some();
        assert_eq!(info.why_not_encrypted.is_none(), encrypted);
        fd
    }
}

fn send_all(fd: RawFd, data: &[u8]) {
    let mut done = 0;
    while done < data.len() {
        let conn = conn::find(fd).expect("ours");
        done += conn
            .send(&[IoSlice::new(&data[done..])], 0)
            .expect("it stands");
    }
}

fn recv_exactly(fd: RawFd, n: usize) -> Vec<u8> {
    let mut data = vec![0; n];
    let mut done = 0;
    while done < n {
        let conn = conn::find(fd).expect("ours");
        let got = conn.recv(&mut data[done..], 0).expect("it stands");
        assert!(got > 0, "ended after {done} of {n}");
        done += got;
    }
    data
}

/// Runs a test that is ignored otherwise.
fn in_its_own_process(test: &str) {
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
}

fn nonblocking(fd: RawFd, on: bool) {
    let mut on = libc::c_int::from(on);
    // SAFETY: FIONBIO reads one int.
    assert_eq!(unsafe { libc::ioctl(fd, libc::FIONBIO, &raw mut on) }, 0);
}

/// Waits until `is_so`.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            std::time::Instant::now() < end,
            "waited in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn poll_one(fd: RawFd, events: i16, ms: i32) -> i16 {
    let mut p = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut p, 1, ms) };
    p.revents
}

/// What every test is run over. On a device that alone: an emulated processor is slow, and the others were tested outside.
fn transports() -> Vec<Transport> {
    match rdma_device() {
        Some(_) => vec![Transport::Rdma],
        None => vec![Transport::Shm, Transport::Tcp],
    }
}

/// So many rounds of what goes wrong seldom: a quarter of them on a device, for the same reason.
fn rounds(usual: usize) -> usize {
    match rdma_device() {
        Some(_) => usual.div_ceil(FEWER),
        None => usual,
    }
}

/// The address of an RDMA device, in `make test-rdma`.
fn rdma_device() -> Option<std::net::IpAddr> {
    let addr = std::env::var("VIANET_TEST_RDMA").ok()?;
    Some(addr.parse().expect("an address"))
}
