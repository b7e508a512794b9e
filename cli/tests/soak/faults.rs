//! What happens to the lab: how a node, or its server, is lost, and how everything comes back.

use crate::pg_lab::{LIMIT, Lab};
use crate::random::Random;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The machine of the active node loses power.
    Kill,
    /// It hangs, and goes on later.
    Freeze,
    /// Its daemon is lost alone.
    Daemon,
    /// The same, and it is started again at once, before anybody could take over.
    Restart,
    /// The SQL server is lost alone.
    Server,
    /// The SQL server is shut down at once, with its sessions.
    Immediate,
    /// The second node is lost while sessions are being made again on it.
    DuringRestore,
    /// And back, as soon as the first one can.
    ThereAndBack,
    /// Both are lost, and the one that was active first comes back first.
    OldAlone,
}

pub const ALL: [Fault; 9] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::Daemon,
    Fault::Restart,
    Fault::Server,
    Fault::Immediate,
    Fault::DuringRestore,
    Fault::ThereAndBack,
    Fault::OldAlone,
];

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Daemon => "daemon only",
            Self::Restart => "daemon restarted",
            Self::Server => "server only",
            Self::Immediate => "immediate shutdown",
            Self::DuringRestore => "during restore",
            Self::ThereAndBack => "there and back",
            Self::OldAlone => "old active alone",
        }
    }

    /// Whether the SQL server that the sessions are on is lost by itself: then they end with it, whoever serves the name.
    pub fn takes_server_alone(self) -> bool {
        matches!(self, Self::Server | Self::Immediate)
    }
}

/// The two nodes.
pub struct Nodes<'a> {
    pub lab: &'a Lab,
    pub shared: bool,
}

impl Nodes<'_> {
    /// The node that is active now, and the other one.
    pub fn roles(&self) -> [&'static str; 2] {
        match self.lab.status()["active"]["sales"].as_str() {
            Some("node-b") => ["node-b", "node-a"],
            _ => ["node-a", "node-b"],
        }
    }

    /// One is active, and the other would take over.
    pub fn wait_until_ready(&self) {
        self.lab.until("one is active, one passive", |status| {
            let nodes = status["nodes"].as_array();
            let roles = nodes.into_iter().flatten();
            let mut roles: Vec<_> = roles
                .map(|n| n["servers"]["sales"]["role"].as_str())
                .collect();
            roles.sort();
            roles == [Some("active"), Some("passive")]
        });
    }

    /// Does it, and brings everything back; `loses` is called before each loss of what serves the sessions.
    pub fn suffer(
        &self,
        fault: Fault,
        random: &mut Random,
        mut loses: impl FnMut(),
    ) -> Result<(), String> {
        let [a, b] = self.roles();
        loses();
        match fault {
            Fault::Kill => {
                self.lab.good(&["kill", a]);
                self.becomes_active(b)?;
                self.lab.good(&["start", a]);
            }
            Fault::Freeze => {
                self.lab.good(&["freeze", a]);
                self.becomes_active(b)?;
                self.lab.refused(&["thaw", a]);
                // With a server of its own that is dead.
                self.lab.good(&["start", a]);
            }
            Fault::Daemon => {
                self.lab.good(&["kill", a, "--only", "daemon"]);
                self.becomes_active(b)?;
                self.lab.good(&["start", a]);
            }
            Fault::Restart => {
                self.lab.good(&["kill", a, "--only", "daemon"]);
                self.lab.good(&["start", a, "--only", "daemon"]);
                self.any_active()?;
                // With a server of its own it may have been fenced all the same.
                self.lab.good(&["start", a]);
            }
            Fault::Server | Fault::Immediate => {
                self.lose_server(a, fault)?;
                if self.shared {
                    pause(random, 400);
                    self.lab.good(&["start", a, "--only", "server"]);
                } else {
                    self.becomes_active(b)?;
                    self.lab.good(&["start", a]);
                }
            }
            Fault::DuringRestore => {
                self.lab.good(&["kill", a]);
                if self.shared {
                    self.lab.good(&["start", a, "--only", "daemon"]);
                }
                // Either may have it, where the first one is back so soon.
                let second = if self.shared {
                    self.any_active()?
                } else {
                    self.becomes_active(b)?
                };
                pause(random, 15);
                loses();
                self.lab.good(&["kill", second]);
                self.lab.good(&["start", second]);
                self.any_active()?;
                self.lab.good(&["start", a]);
            }
            Fault::ThereAndBack => {
                self.lab.good(&["kill", a]);
                self.becomes_active(b)?;
                self.lab.good(&["start", a]);
                self.wait_until_ready();
                loses();
                self.lab.good(&["kill", b]);
                self.becomes_active(a)?;
                self.lab.good(&["start", b]);
            }
            Fault::OldAlone => {
                self.lab.good(&["kill", a]);
                self.becomes_active(b)?;
                loses();
                self.lab.good(&["kill", b]);
                if self.shared {
                    self.lab.good(&["start", a]);
                    self.lab.good(&["start", b]);
                } else {
                    // It lacks commits.
                    self.lab.refused(&["start", a]);
                    self.lab.good(&["start", b]);
                    self.becomes_active(b)?;
                    self.lab.good(&["start", a]);
                }
            }
        }
        self.wait_until_ready();
        Ok(())
    }

    fn becomes_active<'n>(&self, node: &'n str) -> Result<&'n str, String> {
        let end = Instant::now() + LIMIT;
        while self.role(node).as_deref() != Some("active") {
            if Instant::now() > end {
                return Err(format!(
                    "{node} does not become active:\n{}",
                    self.lab.logs()
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(node)
    }

    fn any_active(&self) -> Result<&'static str, String> {
        let end = Instant::now() + LIMIT;
        loop {
            for node in ["node-a", "node-b"] {
                if self.role(node).as_deref() == Some("active") {
                    return Ok(node);
                }
            }
            if Instant::now() > end {
                return Err(format!("nobody becomes active:\n{}", self.lab.logs()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What a node says of itself, if it says anything: quicker than `vianet lab status`.
    fn role(&self, node: &str) -> Option<String> {
        let path = self.lab.dir().join(format!("run/{node}.ctl"));
        let mut stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"{\"do\":\"status\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let status: serde_json::Value = serde_json::from_str(&line).ok()?;
        status["servers"][0]["role"].as_str().map(str::to_owned)
    }

    fn lose_server(&self, node: &str, fault: Fault) -> Result<(), String> {
        let dir = if self.shared { "shared" } else { node };
        let postmaster = self.lab.dir().join(dir).join("server.pid");
        match (fault, self.shared) {
            (Fault::Server, false) => {
                self.lab.good(&["kill", node, "--only", "server"]);
                Ok(())
            }
            (Fault::Server, true) => kill_tree(&postmaster),
            _ => {
                let pid = read_pid(&postmaster)?;
                signal(pid, Signal::QUIT);
                gone(pid)
            }
        }
    }
}

fn pause(random: &mut Random, below_ms: u64) {
    std::thread::sleep(Duration::from_micros(random.below(below_ms * 1000)));
}

fn read_pid(path: &PathBuf) -> Result<i32, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let pid = text.split(' ').next().and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| format!("{}: {text}", path.display()))
}

/// A postmaster with all its backends, as when the machine is lost; none may be left when another one is started.
fn kill_tree(postmaster: &PathBuf) -> Result<(), String> {
    let pid = read_pid(postmaster)?;
    // It starts no other meanwhile.
    signal(pid, Signal::STOP);
    let mut all = vec![pid];
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.map_err(|e| format!("the children of {pid}: {e}"))?;
    all.extend(
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse::<i32>().ok()),
    );
    all.iter().for_each(|pid| signal(*pid, Signal::KILL));
    all.into_iter().try_for_each(gone)
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Fails where it has ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Until a process has ended; one that nobody has waited for has.
fn gone(pid: i32) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .chars()
            .next();
        if matches!(state, None | Some('Z' | 'X')) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("process {pid} does not end"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
