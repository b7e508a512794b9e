//! A cluster made by `vianet lab`, in a subnet of its own.

use super::programs::{self, built, command, run_well, run_within};
use super::rdma;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Long: an engine may have to make its database first.
const LIMIT: Duration = Duration::from_secs(120);

/// A running lab; taken down when dropped.
pub struct Lab {
    dir: PathBuf,
    subnet: u8,
}

impl Lab {
    /// `vianet lab up` on 127.0.{subnet}.11 and .12, and on the RDMA device under test where there is one.
    #[track_caller]
    pub fn up(engine: &str, subnet: u8) -> Self {
        // `.ci/leftovers` looks for this name.
        let dir = programs::scratch().join(format!("lab-{subnet}"));
        if dir.exists() {
            let _ = run_within(
                LIMIT,
                &mut vianet(&["lab", "down", "--dir", &dir.to_string_lossy()]),
            );
            let _ = std::fs::remove_dir_all(&dir);
        }
        let lab = Self { dir, subnet };
        let mut up = lab.command("up");
        up.args(["--engine", engine, "--subnet", &format!("127.0.{subnet}")]);
        // A busy machine keeps a daemon from running for a while, which is not what these stories are about.
        up.args(["--keepalive-ms", "1000"]);
        if let Some([a, b]) = rdma::addresses() {
            // An emulated one.
            up.args(["--rdma", &format!("{a},{b}"), "--patience", "6"]);
        }
        run_well(LIMIT, &mut up);
        lab
    }

    /// `DIR`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `DIR/client.toml`.
    pub fn client_toml(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    /// Address of the first (`11`) or second (`12`) node, without a port.
    pub fn node(&self, last: u8) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(127, 0, self.subnet, last)
    }

    /// A client's configuration beside the lab's own: the lab's with `change` applied. Silence alone is a loss late.
    pub fn client_toml_with(&self, name: &str, change: impl FnOnce(String) -> String) -> PathBuf {
        let text = std::fs::read_to_string(self.client_toml()).expect("the lab wrote it");
        let text = format!("probes_lost = 40\n{}", change(text));
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("the lab's directory can be written");
        path
    }

    /// `vianet lab VERB --dir DIR`, to be completed.
    pub fn command(&self, verb: &str) -> Command {
        vianet(&["lab", verb, "--dir", &self.dir.to_string_lossy()])
    }

    /// `vianet lab VERB NODE`, which must succeed.
    #[track_caller]
    pub fn tell(&self, verb: &str, node: &str) {
        run_well(LIMIT, self.command(verb).arg(node));
    }

    /// The same with more arguments, whatever comes out.
    #[track_caller]
    pub fn try_tell(&self, verb: &str, args: &[&str]) -> Output {
        run_within(LIMIT, self.command(verb).args(args))
    }

    /// A node's daemon.
    #[track_caller]
    pub fn daemon_pid(&self, node: &str) -> u32 {
        let path = self.dir.join(node).join("daemon.pid");
        let text = std::fs::read_to_string(&path).expect("a lab has one");
        let word = text.split_whitespace().next();
        word.and_then(|pid| pid.parse().ok()).expect("a process id")
    }

    /// What a node's daemon logged.
    pub fn daemon_log(&self, node: &str) -> String {
        std::fs::read_to_string(self.dir.join(node).join("daemon.log")).unwrap_or_default()
    }

    /// `vianet lab status --json`; it fails while one of the names has no active node, which need not be the test's.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let output = run_within(LIMIT, self.command("status").arg("--json"));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("lab status --json: {e}\n{}", programs::both(&output)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut down = self.command("down");
        if std::thread::panicking() {
            // What the daemons and servers said is what one wants to read now.
            let _ = down.arg("--keep").output();
            for node in ["node-a", "node-b"] {
                for log in ["daemon.log", "server.log"] {
                    let path = self.dir.join(node).join(log);
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    eprintln!("--- {node}: {log}\n{text}");
                }
            }
        } else {
            let _ = down.output();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn vianet(args: &[&str]) -> Command {
    let mut command = command(built("vianet"));
    command.args(args);
    command
}
