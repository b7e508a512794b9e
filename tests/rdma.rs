//! Real daemons and programs on RDMA devices that break (`make test-rdma`, in the virtual machine with both of them: these tests
//! take devices down, and know which one carries what).

#[path = "rdma/faults.rs"]
mod faults;
#[path = "rdma/paths.rs"]
mod paths;
mod support;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::c::{How, Program};
use support::cluster::{Cluster, Plan};
use support::echo::EchoServer;
use support::programs::run_well;
use support::{rdma, wait_for};
use vianet::conn::{self, Options};
use vianet::via::Transport;

/// Never reached by what works.
const LIMIT: Duration = Duration::from_secs(300);

fn run(line: &str) {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    run_well(Duration::from_secs(60), command.args(words));
}

/// A path that can be broken: over a device of the tests' own, which is made when it is first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Soft-RoCE, with this number. Once down it is of no use any more: a request that finds no way out stops the device's
    /// own queue pair for requests, for good.
    Rxe(u8),
    /// Soft-iWARP.
    Siw,
}

impl Path {
    fn addr(self) -> IpAddr {
        static MADE: std::sync::Mutex<Vec<Path>> = std::sync::Mutex::new(Vec::new());
        let interface = self.interface();
        let (kind, addr) = match self {
            Self::Rxe(n) => ("rxe", [10, 77, n, 1].into()),
            Self::Siw => ("siw", [10, 77, 7, 1].into()),
        };
        let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
        if !made.contains(&self) {
            run(&format!("ip link add {interface} type dummy"));
            run(&format!("ip link set {interface} mtu 4200 up"));
            run(&format!("ip addr add {addr}/24 dev {interface}"));
            let device = self.device();
            run(&format!(
                "rdma link add {device} type {kind} netdev {interface}"
            ));
            made.push(self);
        }
        addr
    }

    fn device(self) -> String {
        match self {
            Self::Rxe(n) => format!("rxe{n}"),
            Self::Siw => "siw7".into(),
        }
    }

    fn interface(self) -> String {
        match self {
            Self::Rxe(n) => format!("viarxe{n}"),
            Self::Siw => "viasiw".into(),
        }
    }

    /// Breaks what is connected over it, as soon as something is sent.
    fn take_down(self) {
        run(&format!("ip link set {} down", self.interface()));
        if self == Self::Siw {
            // Its TCP connections stay on this machine and need no link, only the address.
            run("ip addr flush dev viasiw");
        }
    }

    /// The device itself goes, for good. The kernel waits with that until nobody has it open.
    fn remove(self) -> std::process::Child {
        let device = self.device();
        let del = Command::new("rdma").args(["link", "del", &device]).spawn();
        del.expect("rdma is there")
    }

    fn bring_up(self) {
        run(&format!("ip link set {} up", self.interface()));
        if self == Self::Siw {
            run("ip addr replace 10.77.7.1/24 dev viasiw");
        }
    }
}

/// Both nodes at each of `paths`.
struct Bed {
    server: EchoServer,
    cluster: Cluster,
    config: PathBuf,
    paths: Vec<Path>,
}

fn bed(subnet: u8, paths: &[Path], transports: &str) -> Bed {
    let server = EchoServer::start("127.0.0.1:0", "");
    let mut plan = Plan::new(subnet, server.addr());
    plan.rdma = paths.iter().map(|path| path.addr()).collect();
    let cluster = Cluster::start(plan);
    let inside = format!("transports = [{transports}]");
    let config = cluster.client_toml("paths.toml", "", &inside);
    Bed {
        server,
        cluster,
        config,
        paths: paths.to_vec(),
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Also where a test failed: the next one needs it.
        if self.paths.contains(&Path::Siw) {
            Path::Siw.bring_up();
        }
    }
}

impl Bed {
    #[track_caller]
    fn connect(&self) -> RawFd {
        let options = Options {
            config: Some(self.config.clone()),
            ..Options::default()
        };
        let fd = conn::connect("echo.test", &options).expect("the node is there");
        assert_eq!(transport(fd), Some(Transport::Rdma), "{}", why(fd));
        patiently(fd);
        fd
    }
}

/// No call waits for ever.
fn patiently(fd: RawFd) {
    // SAFETY: the descriptor is the caller's, and open.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    for which in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(fd, which, Some(LIMIT)).expect("a socket");
    }
}

fn transport(fd: RawFd) -> Option<Transport> {
    conn::find(fd).expect("ours").info().transport
}

fn why(fd: RawFd) -> String {
    conn::find(fd).expect("ours").info().why_not_better
}

fn resumptions(fd: RawFd) -> u64 {
    conn::find(fd).expect("ours").info().resumptions
}

/// The device that carries this process's connection.
fn carrier() -> Option<String> {
    let pairs = rdma::queue_pairs_of(std::process::id());
    let first = pairs.first().map(|pair| pair.device.clone());
    first.filter(|device| pairs.iter().all(|pair| pair.device == *device))
}

#[track_caller]
fn echo(fd: RawFd, text: &[u8]) {
    let conn = conn::find(fd).expect("ours");
    let mut done = 0;
    while done < text.len() {
        let sent = conn.send(&[IoSlice::new(&text[done..])], 0);
        done += sent.expect("the application notices nothing");
    }
    let mut back = vec![0; text.len()];
    let mut got = 0;
    while got < back.len() {
        let n = conn.recv(&mut back[got..], 0);
        let n = n.expect("the application notices nothing");
        assert!(n > 0, "ended after {got} of {}", back.len());
        got += n;
    }
    assert!(back == text, "other bytes came back");
}
