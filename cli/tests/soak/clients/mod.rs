//! The programs below `vianet run` that work while servers are lost: who starts them, hears them, and ends them.

pub mod libpq;
pub mod pgbench;
pub mod psql;

use crate::books::{Books, Kind};
use crate::pg_lab::{LIMIT, Lab};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the soak looks at while a client works.
#[derive(Default)]
pub struct Seen {
    /// Sessions that are open.
    pub open: AtomicU64,
    /// What was done, whatever came of it.
    pub done: AtomicU64,
}

pub struct Client {
    pub kind: Kind,
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts `work` on a thread of its own; it ends soon after `stop` is set.
    fn start(kind: Kind, work: impl FnOnce(Arc<Seen>, Arc<AtomicBool>) + Send + 'static) -> Self {
        let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let (its_seen, its_stop) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || work(its_seen, its_stop));
        Self {
            kind,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a client's thread");
        }
    }
}

/// What all clients of a round have in common.
#[derive(Clone)]
pub struct Common {
    pub books: Arc<Books>,
    pub lab_dir: PathBuf,
    /// Where the library writes what it does.
    pub debug: PathBuf,
    pub seed: u64,
    /// Longest pause between what a client does, in milliseconds.
    pub pause: u64,
}

impl Common {
    /// A program that is none of the terminal's, whose Ctrl-C is for the soak.
    fn command(&self, program: &Path, client: u64) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
        command.args(["run", "--strict", "--config"]);
        command
            .arg(self.lab_dir.join("client.toml"))
            .arg("--")
            .arg(program);
        command.env("PGPASSWORD", "app").process_group(0);
        command.env(
            "VIANET_DEBUG",
            self.debug.join(format!("client-{client}.log")),
        );
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A running program and the lines that it writes, those of its standard error in the same order of arrival.
struct Running {
    child: Child,
    lines: Receiver<(bool, String)>,
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (said, lines) = channel();
        let errors = said.clone();
        let hear = |from: Box<dyn Read + Send>, to: std::sync::mpsc::Sender<_>, error| {
            std::thread::spawn(move || {
                for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if to.send((error, line)).is_err() {
                        return;
                    }
                }
            })
        };
        hear(Box::new(child.stdout.take().unwrap()), said, false);
        hear(Box::new(child.stderr.take().unwrap()), errors, true);
        Self { child, lines }
    }

    fn tell(&mut self, text: &str) {
        // A program that has ended says so by its last lines.
        let _ = self
            .child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes());
    }

    /// Waits until it has ended by itself, and reads the rest.
    fn finish(&mut self) -> (Option<i32>, Vec<(bool, String)>) {
        drop(self.child.stdin.take());
        let end = Instant::now() + LIMIT;
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                    let _ = self.child.kill();
                    return (None, rest);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until each client has done something more.
pub fn wait_for_all(clients: &[Client], lab: &Lab, books: &Books) {
    let before: Vec<u64> = clients
        .iter()
        .map(|c| c.seen.done.load(Ordering::Acquire))
        .collect();
    let end = Instant::now() + LIMIT;
    for (client, before) in clients.iter().zip(before) {
        if client.kind == Kind::Pgbench {
            continue;
        }
        // One that is under way may have been so before.
        while client.seen.done.load(Ordering::Acquire) < before + 2 {
            if Instant::now() > end {
                books.wrong(format!(
                    "a {} does nothing any more:\n{}",
                    client.kind.name(),
                    lab.logs()
                ));
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Refusals that a server, not the state of the session, is the reason of; from the library's logs.
pub fn refusals(logs: &Path) -> BTreeMap<String, u64> {
    let usual = [
        "in_flight",
        "transaction",
        "state_pending",
        "no_extension",
        "copy",
        "login_needs_password",
    ];
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines().filter(|line| line.contains(": Lost after ")) {
            let Some((_, why)) = line.split_once("the session is not movable: ") else {
                continue;
            };
            let word = why.split(' ').next().unwrap_or_default();
            if !usual.contains(&word) {
                *all.entry(why.to_owned()).or_default() += 1;
            }
        }
    }
    all
}
