//! Many sessions lose their node at the same moment: those with work to do move first, the rest by and by, no login is refused for
//! want of room, and every one is accounted for. `VIANET_STORM=2000` says how many sessions (default 120; a lab with so many
//! needs some 3 MiB of memory for each).
//!
//! Prints logins per second beside what the same server takes from `pgbench -C`. Skipped, with a line that says so, where
//! PostgreSQL, its server headers or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_ext::Installation;
use pg_lab::{LIMIT, Lab, Libpq};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Sessions of one process.
const EACH: usize = 100;

/// A process with many sessions.
struct Storm {
    child: Child,
    lines: Receiver<String>,
    debug: PathBuf,
    sessions: usize,
}

impl Storm {
    fn start(lab: &Lab, program: &Path, sessions: usize) -> Self {
        let debug = tempfile::Builder::new().tempfile_in(lab.dir.path());
        let debug = debug.unwrap().into_temp_path().keep().unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_vianet"));
        run.args(["run", "--strict", "--config"])
            .arg(lab.dir().join("client.toml"))
            .arg("--")
            .arg(program)
            .arg("host=sales.lab user=app password=app dbname=app")
            .arg(sessions.to_string())
            .env("VIANET_DEBUG", &debug);
        let mut child = (run.stdin(Stdio::piped()).stdout(Stdio::piped()))
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, lines) = channel();
        std::thread::spawn(move || out.map_while(Result::ok).try_for_each(|l| said.send(l)));
        Self {
            child,
            lines,
            debug,
            sessions,
        }
    }

    /// All of its sessions have lost their channels: what is sent from now on is in no dead one, where nobody could say what
    /// became of it.
    fn wait_until_broken(&self) {
        let deadline = Instant::now() + LIMIT;
        let broke = |text: &str| text.matches(": channel broke: ").count();
        while broke(&std::fs::read_to_string(&self.debug).unwrap_or_default()) < self.sessions {
            assert!(Instant::now() < deadline, "the loss is not noticed");
            std::thread::sleep(Duration::from_millis(20));
        }
        // The calls are suspended in the same step.
        std::thread::sleep(Duration::from_millis(50));
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The line that begins so; the numbers behind it.
    fn hear(&self, lab: &Lab, word: &str) -> Vec<u64> {
        let mut failures = Vec::new();
        loop {
            let line = self.lines.recv_timeout(4 * LIMIT);
            let line = line.unwrap_or_else(|e| panic!("{word}: {e}: {failures:?}\n{}", lab.logs()));
            match line.strip_prefix(word) {
                Some(_) if !failures.is_empty() => {
                    panic!("{line}: {} failures: {:?}", failures.len(), failures[0])
                }
                Some(rest) => {
                    return rest
                        .split_whitespace()
                        .map(|n| n.parse().unwrap())
                        .collect();
                }
                None => failures.push(line),
            }
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sessions that a node has open.
fn open(lab: &Lab, node: &str) -> usize {
    let socket = lab.dir().join(format!("run/{node}.ctl"));
    let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
        .args(["status", "--json", "--control"])
        .arg(socket)
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let sessions = status["servers"][0]["sessions"].as_array();
    sessions.map_or(0, Vec::len)
}

/// Connects per second of `pgbench -C`, straight to the server.
fn server_limit(lab: &Lab, host: &str) -> Option<f64> {
    let program = "/usr/lib/postgresql/15/bin/pgbench";
    if !Path::new(program).exists() {
        return None;
    }
    let script = lab.dir.path().join("connect.sql");
    std::fs::write(&script, "select 1;\n").unwrap();
    let out = Command::new(program)
        .args(["-C", "-n", "-c", "8", "-j", "2", "-T", "5", "-f"])
        .arg(&script)
        .args(["-h", host, "-p", "7432", "-U", "app", "app"])
        .env("PGPASSWORD", "app")
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = said.lines().find_map(|l| l.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

#[test]
fn many_sessions_move_and_none_is_turned_away() {
    let sessions = std::env::var("VIANET_STORM").map_or(120, |n| n.parse::<usize>().unwrap());
    let Some(installation) = Installation::make() else {
        return;
    };
    let bin = installation.bin.to_str().unwrap().to_owned();
    // Beside the sessions there are the daemons, and the reserved ones: nothing is left over.
    let connections = (sessions + 30).to_string();
    let more = ["--pg-bin", &bin, "--connections", &connections];
    let Some(lab) = Lab::up_with("postgres-shared", 166, &more) else {
        return;
    };
    lab.wait_until_active("node-a");
    let config = lab.dir().join("client.toml");
    let file = std::fs::read_to_string(&config).unwrap();
    let settings = "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n";
    std::fs::write(&config, file + settings).unwrap();
    let program = Libpq::compile(lab.dir.path(), "storm");

    let began = Instant::now();
    let parts = (0..sessions)
        .step_by(EACH)
        .map(|at| EACH.min(sessions - at));
    let mut storms: Vec<Storm> = parts.map(|n| Storm::start(&lab, &program, n)).collect();
    for storm in &storms {
        storm.hear(&lab, "open");
    }
    assert_eq!(open(&lab, "node-a"), sessions);
    println!("{sessions} sessions opened in {:?}", began.elapsed());
    // What each has become is known, and each has its ticket.
    std::thread::sleep(Duration::from_secs(3));

    lab.good(&["kill", "node-a"]);
    let lost = Instant::now();
    storms.iter().for_each(Storm::wait_until_broken);
    let noticed = lost.elapsed();
    let working = |storm: &Storm| storm.sessions.div_ceil(10);
    for storm in &mut storms {
        let n = working(storm);
        storm.tell(&format!("work {n}"));
    }
    lab.wait_until_active("node-b");
    let active = lost.elapsed();
    let mut longest = 0;
    for storm in &storms {
        let heard = storm.hear(&lab, "worked");
        assert_eq!(heard[..3], [working(storm) as u64, 0, 0]);
        longest = longest.max(heard[3]);
    }
    let worked = lost.elapsed();
    let moved_then = open(&lab, "node-b");
    let deadline = Instant::now() + 4 * LIMIT;
    while open(&lab, "node-b") < sessions {
        assert!(Instant::now() < deadline, "{}", lab.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    let all = lost.elapsed();
    for storm in &mut storms {
        storm.tell("all");
    }
    for storm in &storms {
        assert_eq!(storm.hear(&lab, "asked"), [storm.sessions as u64, 0, 0]);
    }
    let refused = std::fs::read_to_string(lab.dir().join("shared/server.log")).unwrap_or_default();
    for word in [
        "too many clients",
        "too many connections",
        "remaining connection slots",
    ] {
        assert!(!refused.contains(word), "{refused}");
    }
    drop(storms);
    let per_second = sessions as f64 / (all - active).as_secs_f64();
    println!(
        "{sessions} sessions: loss noticed by all after {noticed:?}, node-b active after {active:?}; {} with work back after {worked:?} (longest wait {longest} ms, \
         {moved_then} had moved by then); all after {all:?}: {per_second:.0} logins/s",
        sessions.div_ceil(10)
    );
    let host = "127.0.166.10";
    let limit = server_limit(&lab, host);
    println!("the server itself takes {limit:?} connects/s of pgbench -C");
}
