//! `vianet lab` with its embedded engine, as a user's script sees it: real processes, exit codes, JSON.
//!
//! Each test has its own addresses (127.0.112 and up), so that they run beside each other.

use serde_json::Value;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a machine that does many other things.
const LIMIT: Duration = Duration::from_secs(60);

/// A lab in a temporary directory; whatever happens, it is down at the end.
struct Lab {
    dir: tempfile::TempDir,
    subnet: String,
}

impl Lab {
    fn new(n: u8) -> Self {
        let vianetd = Path::new(env!("CARGO_BIN_EXE_vianet")).with_file_name("vianetd");
        assert!(
            vianetd.exists(),
            "{} is missing: cargo build --workspace",
            vianetd.display()
        );
        // Below /tmp whatever TMPDIR says: sockets need short paths.
        let dir = tempfile::Builder::new()
            .prefix("vianet-lab-")
            .tempdir_in("/tmp")
            .unwrap();
        Self {
            dir,
            subnet: format!("127.0.{n}"),
        }
    }

    fn up(n: u8) -> Self {
        let lab = Self::new(n);
        let out = lab.try_up(&[]);
        assert!(out.status.success(), "{}", text(&out));
        lab
    }

    fn try_up(&self, more: &[&str]) -> Output {
        let up = ["up", "--engine", "embedded", "--subnet", &self.subnet];
        self.run(&[&up, more].concat())
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
        command.arg("lab").args(args).arg("--dir").arg(self.dir());
        command
            .env_remove("VIANET_CONFIG")
            .env_remove("VIANET_LAB_DIR");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed.
    fn good(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", text(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a command that must be refused, and gives what it says.
    fn refused(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(3), "{args:?}: {}", text(&out));
        String::from_utf8(out.stderr).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.run(&["status", "--json"]).stdout).unwrap()
    }

    /// The state of a part: `running`, `frozen`, `dead`.
    fn state(&self, node: usize, part: &str) -> String {
        self.status()["nodes"][node][part]["state"]
            .as_str()
            .unwrap()
            .into()
    }

    fn wait_until_active(&self, node: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let active = self.status()["active"].clone();
            if active["sales"] == node && active["ledger"] == node {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{node} does not take over: {active}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Processes that have the lab's directory in their command line, but for `vianet lab` itself.
    fn processes(&self) -> Vec<String> {
        let dir = self.dir();
        let dir = dir.to_str().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(dir))
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Fails where there is no lab any more, as it should be.
        let _ = self.run(&["down"]);
    }
}

fn text(out: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        out.status.code(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn a_node_is_killed_and_comes_back() {
    let lab = Lab::up(112);
    lab.wait_until_active("node-a");
    assert!(lab.dir().join("client.toml").exists());
    assert!(lab.good(&["status"]).contains("node-a"));
    lab.good(&["kill", "node-a"]);
    assert_eq!(
        (lab.state(0, "daemon"), lab.state(0, "server")),
        ("dead".into(), "dead".into())
    );
    lab.wait_until_active("node-b");
    assert!(lab.good(&["kill", "node-a"]).contains("was dead already"));
    lab.good(&["start", "node-a"]);
    assert_eq!(
        (lab.state(0, "daemon"), lab.state(0, "server")),
        ("running".into(), "running".into())
    );
    assert_eq!(
        lab.status()["nodes"][0]["servers"]["sales"]["role"],
        "passive"
    );
    assert!(lab.good(&["start", "node-a"]).contains("runs already"));
    // And back again.
    lab.good(&["kill", "node-b", "--only", "daemon"]);
    assert_eq!(lab.state(1, "daemon"), "dead");
    lab.wait_until_active("node-a");
    assert_eq!(lab.state(1, "server"), "dead", "fenced");
    lab.good(&["down"]);
    assert!(!lab.dir().exists(), "lab up made it, lab down removes it");
    assert_eq!(lab.processes(), [""; 0]);
    assert!(lab.refused(&["down"]).contains("there is no lab in"));
}

#[test]
fn a_frozen_node_is_fenced_and_thaw_says_so() {
    let lab = Lab::up(113);
    lab.wait_until_active("node-a");
    lab.good(&["freeze", "node-b"]);
    assert_eq!(
        (lab.state(1, "daemon"), lab.state(1, "server")),
        ("frozen".into(), "frozen".into())
    );
    assert!(lab.refused(&["start", "node-b"]).contains("is frozen"));
    lab.good(&["thaw", "node-b"]);
    assert_eq!(
        (lab.state(1, "daemon"), lab.state(1, "server")),
        ("running".into(), "running".into())
    );
    assert!(lab.refused(&["thaw", "node-b"]).contains("is not frozen"));
    // The active one: it is fenced before the other serves.
    lab.good(&["freeze", "node-a"]);
    lab.wait_until_active("node-b");
    assert_eq!(lab.status()["nodes"][0]["fenced"]["by"], "node-b");
    let said = lab.refused(&["thaw", "node-a"]);
    assert!(
        said.contains("was fenced") && said.contains("vianet lab start node-a"),
        "{said}"
    );
    assert_eq!(
        lab.state(0, "daemon"),
        "running",
        "the daemon must see that it was replaced"
    );
    lab.good(&["start", "node-a"]);
    assert_eq!(lab.state(0, "server"), "running");
    assert_eq!(lab.status()["nodes"][0]["fenced"], Value::Null);
    // Still one active node: the thawed one knows that it is not.
    lab.wait_until_active("node-b");
    lab.good(&["kill", "node-a", "--only", "server"]);
    let daemon = lab.good(&["start", "node-a", "--only", "daemon"]);
    assert!(
        daemon.starts_with("the daemon of node-a runs already"),
        "not the whole node: {daemon}"
    );
    let server = lab.good(&["kill", "node-a", "--only", "server"]);
    assert!(
        server.starts_with("the server of node-a was dead"),
        "{server}"
    );
    assert!(
        lab.refused(&["freeze", "node-a", "--only", "server"])
            .contains("does not run")
    );
}

#[test]
fn up_refuses_what_is_in_the_way_and_leaves_nothing() {
    let lab = Lab::up(114);
    let out = lab.try_up(&[]);
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out).contains("a lab is in"), "{}", text(&out));
    assert_eq!(lab.status()["up"], true, "the first one goes on");
    // The same addresses in another directory: every port is named.
    let mut second = Lab::new(115);
    second.subnet = lab.subnet.clone();
    let out = second.try_up(&[]);
    assert_eq!(out.status.code(), Some(3));
    for port in [
        "UDP 127.0.114.11:1434",
        "TCP 127.0.114.12:7432",
        "TCP 127.0.114.11:7434",
    ] {
        assert!(text(&out).contains(port), "{port}: {}", text(&out));
    }
    assert!(!second.dir().exists());
    // One port only, and of somebody else.
    second.subnet = "127.0.115".into();
    let taken = UdpSocket::bind("127.0.115.12:1434").unwrap();
    let out = second.try_up(&[]);
    assert_eq!(out.status.code(), Some(3));
    assert!(
        text(&out).contains("UDP 127.0.115.12:1434") && !text(&out).contains("TCP"),
        "{}",
        text(&out)
    );
    assert!(!second.dir().exists());
    drop(taken);
    // A directory with something in it that would be overwritten.
    std::fs::create_dir_all(second.dir().join("node-a")).unwrap();
    let out = second.try_up(&[]);
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out).contains("in the way"), "{}", text(&out));
    assert!(second.dir().join("node-a").exists());
    // Too long for the sockets in it: the directory that was made for it goes away again.
    let long = second.dir.path().join("x".repeat(100));
    let mut up = Command::new(env!("CARGO_BIN_EXE_vianet"));
    up.args(["lab", "up", "--subnet", &second.subnet, "--dir"]);
    let out = up.arg(&long).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out).contains("too long"), "{}", text(&out));
    assert!(!long.exists());
    for wrong in ["127.0.0.1", "127.0.251", "10.0.0", "127.0.x"] {
        let out = second.run(&["up", "--subnet", wrong]);
        assert_eq!(out.status.code(), Some(2), "{wrong}");
    }
    for wrong in [
        "192.0.2.1",
        "192.0.2.1,192.0.2.1",
        "127.0.0.1,127.0.0.2",
        "0.0.0.0,x",
    ] {
        let out = second.run(&["up", "--rdma", wrong]);
        assert_eq!(out.status.code(), Some(2), "{wrong}");
    }
}

/// Nodes do without RDMA where there is none; who asked the lab for it is told, and nothing is left.
#[test]
fn rdma_that_cannot_be_had_is_said() {
    let lab = Lab::new(124);
    // Addresses for documentation: no device has them.
    let out = lab.try_up(&["--rdma", "192.0.2.1,192.0.2.2"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    for word in ["node-a has no RDMA", "vianet doctor --rdma"] {
        assert!(text(&out).contains(word), "{}", text(&out));
    }
    assert!(!lab.dir().exists());
    assert_eq!(lab.processes(), [""; 0]);
}

/// `vianet lab up` is killed at any moment: `lab down` finds everything that it had started.
#[test]
fn a_lab_whose_start_was_killed_is_brought_down() {
    for (n, wait_ms) in [20, 60, 120, 250].into_iter().enumerate() {
        let lab = Lab::new(116 + n as u8);
        let mut up = lab
            .command(&["up", "--subnet", &lab.subnet])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        up.kill().unwrap();
        up.wait().unwrap();
        if lab.dir().join("lab.json").exists() {
            lab.good(&["down"]);
            assert!(!lab.dir().join("lab.json").exists());
        }
        assert_eq!(lab.processes(), [""; 0], "after {wait_ms} ms");
    }
}

/// Ctrl-C during `vianet lab up` leaves nothing behind.
#[test]
fn an_interrupted_start_leaves_nothing() {
    let lab = Lab::new(120);
    let mut up = lab
        .command(&["up", "--subnet", &lab.subnet])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while !lab.dir().join("lab.json").exists() {
        assert!(Instant::now() < deadline, "no start");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_raw(up.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let code = up.wait().unwrap().code();
    // It may have been done already: then it is a lab like any other.
    if code == Some(0) {
        lab.good(&["down"]);
    } else {
        assert_eq!(code, Some(130));
    }
    assert!(!lab.dir().exists());
    assert_eq!(lab.processes(), [""; 0]);
}

/// Ctrl-C during `vianet lab start` says what runs, and the next one goes on.
#[test]
fn an_interrupted_start_of_a_node_says_what_runs() {
    let lab = Lab::up(123);
    lab.good(&["kill", "node-a"]);
    lab.good(&["kill", "node-b"]);
    // Alone, its daemon asks for a while who is active before it decides.
    let start = lab
        .command(&["start", "node-a"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while lab.state(0, "daemon") != "running" {
        assert!(Instant::now() < deadline, "no start");
    }
    let pid = rustix::process::Pid::from_raw(start.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = start.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() {
        return; // It was done already.
    }
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(!said.contains("stopped"), "{said}");
    assert!(
        said.contains("the daemon runs") && said.contains("the server runs"),
        "{said}"
    );
    assert_eq!(lab.state(0, "daemon"), "running");
    assert!(lab.good(&["start", "node-a"]).contains("runs already"));
    lab.good(&["down"]);
}

/// A process that has got the id of a dead one is not touched.
#[test]
fn a_reused_process_id_is_left_alone() {
    let lab = Lab::up(121);
    lab.good(&["kill", "node-b", "--only", "server"]);
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    // As if the id had been given to the stranger after the server had died.
    std::fs::write(
        lab.dir().join("node-b/server.pid"),
        format!("{} 1\n", stranger.id()),
    )
    .unwrap();
    assert_eq!(lab.state(1, "server"), "dead");
    lab.good(&["kill", "node-b"]);
    lab.good(&["down"]);
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "the stranger was killed"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn the_files_can_be_kept() {
    let lab = Lab::up(122);
    lab.good(&["down", "--keep"]);
    assert!(lab.dir().join("node-a/daemon.log").exists());
    assert_eq!(lab.processes(), [""; 0]);
    assert!(
        lab.refused(&["start", "node-a"])
            .contains("the lab is down")
    );
    let out = lab.try_up(&[]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    lab.good(&["down"]);
    assert!(!lab.dir().exists());
}
