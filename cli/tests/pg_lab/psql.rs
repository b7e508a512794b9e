//! psql held open below `vianet run`, in labs whose sessions are followed.

#![allow(dead_code)]

use crate::pg_ext::Installation;
use crate::pg_lab::{LIMIT, Lab};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A lab whose sessions are followed.
pub struct Movable {
    pub lab: Lab,
    _installation: Option<Installation>,
}

impl Movable {
    /// One whose servers have the extension.
    pub fn up(engine: &str, subnet: u8, more: &[&str]) -> Option<Self> {
        let installation = Installation::make()?;
        let bin = installation.bin.to_str().unwrap().to_owned();
        let lab = Lab::up_with(engine, subnet, &[&["--pg-bin", &*bin], more].concat())?;
        Some(Self::of(lab, Some(installation), ""))
    }

    /// One whose servers have no extension, and asks nobody for a password; with more in the cluster's configuration.
    pub fn without_extension(engine: &str, subnet: u8, cluster: &str) -> Option<Self> {
        let lab = Lab::up_with(engine, subnet, &["--trust", "--no-extension"])?;
        Some(Self::of(lab, None, cluster))
    }

    /// The same, whose sessions may wait on the standby.
    pub fn without_extension_warm(engine: &str, subnet: u8) -> Option<Self> {
        let more = ["--trust", "--no-extension", "--warm", "10"];
        let lab = Lab::up_with(engine, subnet, &more)?;
        Some(Self::of(lab, None, ""))
    }

    fn of(lab: Lab, installation: Option<Installation>, cluster: &str) -> Self {
        lab.wait_until_active("node-a");
        let config = lab.dir().join("client.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains("[clusters.lab]\n"), "{text}");
        let text = text.replace("[clusters.lab]\n", &format!("[clusters.lab]\n{cluster}\n"));
        let settings = "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n";
        std::fs::write(&config, text + settings).unwrap();
        Self {
            lab,
            _installation: installation,
        }
    }

    /// Loses the active node, and waits until the other one serves.
    pub fn lose(&self) -> &'static str {
        let [lost, other] = match self.lab.status()["active"]["sales"].as_str() {
            Some("node-a") => ["node-a", "node-b"],
            _ => ["node-b", "node-a"],
        };
        self.lab.good(&["kill", lost]);
        self.lab.wait_until_active(other);
        lost
    }

    /// Waits until so many sessions say `word` (`yes`; `no_ticket` in labs that trust) when a planned switchover asks, which also
    /// says that the other node can take over. `about` is for the case that they do not.
    pub fn until_all(&self, sessions: usize, word: &str, about: &dyn Fn() -> String) {
        let end = Instant::now() + LIMIT;
        loop {
            let active = self.lab.status()["active"]["sales"].clone();
            let other = if active == "node-a" {
                "node-b"
            } else {
                "node-a"
            };
            let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
                .args(["switchover", "lab\\sales", "--to", other])
                .args(["--dry-run", "--json"])
                .env("VIANET_CONFIG", self.lab.dir().join("client.toml"))
                .output()
                .unwrap();
            let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            let all = told["sessions"].as_array().map_or(&[][..], |all| all);
            if all.iter().filter(|it| it["movable"] == word).count() == sessions {
                return;
            }
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(Instant::now() < end, "{told}{said}{}", about());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The sessions as the active node's daemon shows them.
    #[track_caller]
    pub fn sessions(&self) -> Vec<serde_json::Value> {
        let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
            .args(["status", "sales.lab", "--sessions", "--json"])
            .env("VIANET_CONFIG", self.lab.dir().join("client.toml"))
            .output()
            .unwrap();
        let said = crate::pg_lab::text(&out);
        assert!(out.status.success(), "{said}{}", self.lab.logs());
        let mut told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(told["server"], "sales");
        told["sessions"].as_array_mut().map(std::mem::take).unwrap()
    }

    /// The one of psql.
    #[track_caller]
    pub fn session(&self) -> serde_json::Value {
        let mut sessions = self.sessions();
        sessions.retain(|session| session["program"] == "psql");
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions.remove(0)
    }

    pub fn bring_back(&self, lost: &str) {
        self.lab.good(&["start", lost]);
        self.lab.until("both nodes serve", |status| {
            let nodes = status["nodes"].as_array();
            nodes.is_some_and(|nodes| {
                let role = |node: &serde_json::Value| node["servers"]["sales"]["role"].clone();
                nodes.iter().all(|node| !role(node).is_null())
            })
        });
    }
}

pub fn times() -> u32 {
    std::env::var("VIANET_TEST_TIMES").map_or(1, |times| times.parse().unwrap())
}

/// What the library says in a program.
pub struct Debug {
    pub path: PathBuf,
    /// Bytes of it before the last statement.
    seen: usize,
}

impl Debug {
    pub fn new(dir: &Path) -> Self {
        let path = tempfile::Builder::new().tempfile_in(dir).unwrap();
        Self {
            path: path.into_temp_path().keep().unwrap(),
            seen: 0,
        }
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// A statement comes. What the one before has made of the session is known by then, and not taken for what this one does.
    #[track_caller]
    pub fn statement(&mut self) {
        self.movable();
        self.seen = self.text().len();
    }

    /// Whether the session is movable, once it has been idle and the server has answered.
    #[track_caller]
    pub fn movable(&self) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let text = self.text();
            let new = text.get(self.seen..).unwrap_or_default();
            let known = new
                .lines()
                .filter_map(|line| line.split_once(": movable: "));
            let known = known.map(|(_, word)| word.to_owned());
            let mut known = known.filter(|word| word != "state_pending");
            if let Some(word) = known.next_back() {
                return word;
            }
            assert!(Instant::now() < end, "{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Debug {
    /// The parts of the last failover, in milliseconds.
    #[track_caller]
    pub fn last_failover(&self) -> Vec<(String, f64)> {
        let text = self.text();
        let (_, parts) = text.rsplit_once(": failover: ").expect(&text);
        let parts = parts.lines().next().unwrap().split(", ");
        let part = |part: &str| {
            let words: Vec<&str> = part.split(' ').collect();
            (words[0].to_owned(), words[1].parse().unwrap())
        };
        parts.map(part).collect()
    }

    /// Waits for so many login tickets, of one channel each.
    #[track_caller]
    pub fn tickets(&self, count: usize) {
        let end = Instant::now() + LIMIT;
        while self.text().matches(": login: a ticket for ").count() < count {
            assert!(Instant::now() < end, "{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// psql in a terminal, so to speak: held open, a statement now and then.
pub struct Psql {
    child: Child,
    pub lines: Receiver<String>,
    errors: PathBuf,
    pub debug: Debug,
}

impl Psql {
    pub fn start(lab: &Lab) -> Self {
        let debug = Debug::new(lab.dir.path());
        let errors = debug.path.with_extension("errors");
        let mut child = Command::new(env!("CARGO_BIN_EXE_vianet"))
            .args([
                "run",
                "--strict",
                "--",
                "psql",
                "-h",
                "sales.lab",
                "-U",
                "app",
            ])
            .args(["-d", "app", "-X", "-At"])
            .env("VIANET_CONFIG", lab.dir().join("client.toml"))
            .env("VIANET_DEBUG", &debug.path)
            .env("PGPASSWORD", "app")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, lines) = channel();
        std::thread::spawn(move || out.map_while(Result::ok).try_for_each(|l| said.send(l)));
        Self {
            child,
            lines,
            errors,
            debug,
        }
    }

    /// Sends lines, with one statement at most.
    pub fn tell(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        let _ = writeln!(stdin, "{text}");
    }

    /// The rows that a statement gives.
    #[track_caller]
    pub fn ask(&mut self, text: &str) -> Vec<String> {
        self.debug.statement();
        self.ask_at_once(text)
    }

    /// The same, and what the one before has made of the session need not be known.
    #[track_caller]
    pub fn ask_at_once(&mut self, text: &str) -> Vec<String> {
        self.tell(&format!("{text}\n\\echo --"));
        let mut rows = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line == "--" => return rows,
                Ok(line) => rows.push(line),
                Err(why) => panic!("{text}: {why}\n{}{}", self.errors(), self.debug.text()),
            }
        }
    }

    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    pub fn end(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let end = Instant::now() + LIMIT;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "psql does not end: {}", self.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
        (self.child.wait().unwrap().code(), self.errors())
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
