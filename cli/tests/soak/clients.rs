//! The programs below `vianet run` that work while servers are lost: who starts them, hears them, and ends them.

use crate::books::{Books, Kind, Outcome};
use crate::pg_lab::{LIMIT, Lab};
use crate::random::Random;
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

/// `c/soak.c`.
pub fn libpq(common: &Common, program: &Path, id: u64) -> Client {
    let (common, program) = (common.clone(), program.to_owned());
    Client::start(Kind::Libpq, move |seen, stop| {
        let mut command = common.command(&program, id);
        command.arg("host=sales.lab user=app dbname=app");
        command.args([id, common.seed, common.pause].map(|n| n.to_string()));
        let mut running = Running::spawn(command);
        let mut last = Instant::now();
        loop {
            match running.lines.recv_timeout(Duration::from_millis(50)) {
                Ok((false, line)) => {
                    last = Instant::now();
                    take_libpq_line(&common.books, &seen, &line);
                }
                Ok((true, line)) => common.books.wrong(format!("libpq {id}: {line}")),
                Err(RecvTimeoutError::Disconnected) => {
                    return common
                        .books
                        .wrong(format!("libpq {id} has ended by itself"));
                }
                Err(RecvTimeoutError::Timeout) if last.elapsed() > 2 * LIMIT => {
                    return common
                        .books
                        .wrong(format!("libpq {id} says nothing any more"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if stop.load(Ordering::Acquire) {
                break;
            }
        }
        let (code, rest) = running.finish();
        for (_, line) in rest {
            take_libpq_line(&common.books, &seen, &line);
        }
        if code != Some(0) {
            common.books.wrong(format!("libpq {id} ends with {code:?}"));
        }
    })
}

fn take_libpq_line(books: &Books, seen: &Seen, line: &str) {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (what, second, rest) = (word(), word(), word());
    let outcome = (second.parse().ok()).zip(Outcome::parse(rest.trim()));
    match (what, outcome) {
        ("ledger", Some((id, outcome))) => books.ledger(id, outcome),
        ("transfer", Some((id, outcome))) => books.transfer(id, outcome),
        ("looked", _) => match second.parse().ok().zip(rest.parse().ok()) {
            Some((id, count)) => {
                books.with(|inner| inner.looked.insert(id, count));
            }
            None => books.wrong(line),
        },
        ("session", _) => seen.open.store(1, Ordering::Release),
        ("broke", _) => {
            if seen.open.swap(0, Ordering::AcqRel) == 1 {
                books.broke(Kind::Libpq, books.fault(), second, rest);
            }
        }
        ("refused" | "failed", _) => {}
        _ => books.wrong(rest),
    }
    seen.done.fetch_add(1, Ordering::AcqRel);
}

const CANARY: &str = "concat_ws('|', current_setting('search_path'), current_setting('TimeZone'), \
     current_setting('app.tenant', true), current_setting('role'))";

/// A psql script without ON_ERROR_STOP: every line is written whatever came of the one before.
pub fn psql(common: &Common, id: u64) -> Client {
    let common = common.clone();
    Client::start(Kind::Psql, move |seen, stop| {
        let mut script = Script {
            random: Random::new(common.seed ^ (id << 32)),
            next: id as i64 * 1_000_000_000,
            id,
            common,
            seen,
        };
        while !stop.load(Ordering::Acquire) {
            script.run(&stop);
        }
    })
}

struct Script {
    common: Common,
    seen: Arc<Seen>,
    random: Random,
    next: i64,
    id: u64,
}

/// What a psql has said of a unit.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
    errors: String,
    /// It has reached the end of the unit; otherwise psql has ended.
    whole: bool,
}

impl Script {
    /// One psql, until it ends.
    fn run(&mut self, stop: &AtomicBool) {
        let mut command = self.common.command(Path::new("psql"), self.id);
        command.args([
            "-h",
            "sales.lab",
            "-U",
            "app",
            "-d",
            "app",
            "-X",
            "-At",
            "-v",
            "VERBOSITY=verbose",
        ]);
        let mut psql = Running::spawn(command);
        let id = self.id;
        let settings = format!(
            "set search_path = public, s{id};\nset timezone = 'Asia/Tokyo';\nset app.tenant = '{id}';\nset role app;\n"
        );
        let said = self.unit(&mut psql, &[&settings]);
        if said.whole && !said.errors.is_empty() {
            self.common
                .books
                .wrong(format!("psql {id}: {}", said.errors));
        }
        self.seen.open.store(said.whole.into(), Ordering::Release);
        let mut whole = said.whole;
        while whole && !stop.load(Ordering::Acquire) {
            whole = match self.random.below(2) {
                0 => self.insert(&mut psql),
                _ => self.transfer(&mut psql),
            };
            self.seen.done.fetch_add(1, Ordering::AcqRel);
            let pause = self.random.below(self.common.pause);
            std::thread::sleep(Duration::from_millis(pause));
        }
        self.seen.open.store(0, Ordering::Release);
        psql.finish();
        self.seen.done.fetch_add(1, Ordering::AcqRel);
    }

    /// Writes lines, with pauses between them, and hears what comes of all.
    fn unit(&mut self, psql: &mut Running, lines: &[&str]) -> Said {
        for line in lines {
            psql.tell(line);
            if self.random.below(4) == 0 {
                std::thread::sleep(Duration::from_millis(self.random.below(20)));
            }
        }
        psql.tell("\\echo -- end\n");
        let mut said = Said::default();
        let end = Instant::now() + LIMIT;
        loop {
            match psql.lines.recv_timeout(Duration::from_millis(100)) {
                Ok((false, line)) if line == "-- end" => {
                    said.whole = true;
                    // Errors have a pipe of their own.
                    while let Ok((error, line)) = psql.lines.recv_timeout(Duration::from_millis(1))
                    {
                        said.take(error, line);
                    }
                    return said;
                }
                Ok((error, line)) => said.take(error, line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                    let text = format!("psql {} says nothing any more", self.id);
                    self.common.books.wrong(text);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if self.seen.open.swap(0, Ordering::AcqRel) == 0 {
            return said;
        }
        let code = ["57P01", "08006", "08007"];
        let code = code
            .into_iter()
            .find(|code| said.errors.contains(&format!("FATAL:  {code}")));
        let books = &self.common.books;
        books.broke(Kind::Psql, books.fault(), code.unwrap_or("-"), &said.errors);
        said
    }

    fn insert(&mut self, psql: &mut Running) -> bool {
        self.next += 1;
        let row = self.next;
        let said = self.unit(
            psql,
            &[&format!(
                "insert into public.ledger values ({row}) returning {CANARY};\n"
            )],
        );
        let expected = format!("public, s{0}|Asia/Tokyo|{0}|app", self.id);
        let outcome = match said.lines.iter().find(|line| line.contains('|')) {
            Some(canary) if *canary == expected => Outcome::Acked,
            Some(canary) => {
                let text = format!(
                    "psql {}: settings: expected {expected}, found {canary}",
                    self.id
                );
                self.common.books.wrong(text);
                Outcome::Acked
            }
            None => said.outcome(),
        };
        self.common.books.ledger(row, outcome);
        said.whole
    }

    fn transfer(&mut self, psql: &mut Running) -> bool {
        self.next += 1;
        let transfer = self.next;
        let mut account = || self.random.below(20) + 1;
        let (from, to) = (account(), account());
        let amount = self.random.below(100) + 1;
        let lines = [
            "begin;\n".to_owned(),
            format!("update public.accounts set balance = balance - {amount} where id = {from};\n"),
            format!("insert into public.legs values ({transfer}, {from}, -{amount});\n"),
            format!("update public.accounts set balance = balance + {amount} where id = {to};\n"),
            format!("insert into public.legs values ({transfer}, {to}, {amount});\n"),
            "commit;\n".to_owned(),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let said = self.unit(psql, &lines);
        let has = |tag: &str| said.lines.iter().any(|line| line == tag);
        let outcome = match () {
            () if has("COMMIT") => Outcome::Acked,
            () if has("ROLLBACK") => Outcome::Refused,
            // The session was over before COMMIT was sent: psql has answers to all that was.
            () if !said.whole && said.lines.len() < 5 => Outcome::Refused,
            () => said.outcome(),
        };
        self.common.books.transfer(transfer, outcome);
        said.whole
    }
}

impl Said {
    fn take(&mut self, error: bool, line: String) {
        match error {
            true => self.errors += &(line + "\n"),
            false => self.lines.push(line),
        }
    }

    /// Of what was not acknowledged.
    fn outcome(&self) -> Outcome {
        let ours = self.errors.contains("the server was lost");
        let told = |code: &str| self.errors.contains(code);
        match self.whole {
            _ if told("08007") => Outcome::Unknown,
            true if !self.errors.is_empty() => Outcome::Refused,
            false if ours && (told("57P01") || told("08006")) => Outcome::Refused,
            _ => Outcome::Unknown,
        }
    }
}

/// pgbench, again and again for some seconds, with four clients.
pub fn pgbench(common: &Common, id: u64) -> Client {
    let common = common.clone();
    Client::start(Kind::Pgbench, move |seen, stop| {
        let mut random = Random::new(common.seed ^ (id << 32));
        while !stop.load(Ordering::Acquire) {
            run_pgbench(&common, &seen, &mut random, id);
        }
    })
}

/// Sessions of one pgbench, and how long it goes on.
const SESSIONS: u64 = 4;
const SECONDS: u64 = 5;

fn run_pgbench(common: &Common, seen: &Seen, random: &mut Random, id: u64) {
    let script = common.debug.join("pgbench.sql");
    if !script.exists() {
        std::fs::write(&script, pgbench_script(common.pause)).unwrap();
    }
    let mut command = common.command(Path::new("pgbench"), id);
    command
        .args(["-h", "sales.lab", "-U", "app", "-n", "-c"])
        .arg(SESSIONS.to_string());
    command.args(["-M", random.pick(&["simple", "extended", "prepared"])]);
    command.args([
        "-T",
        &SECONDS.to_string(),
        "--random-seed",
        &random.below(1 << 31).to_string(),
        "-f",
    ]);
    command.arg(&script).arg("app");
    command.env(
        "PGOPTIONS",
        "-c search_path=pgb,public -c timezone=Asia/Tokyo -c app.tenant=pgbench",
    );
    let mut pgbench = Running::spawn(command);
    let begun = Instant::now();
    let (mut aborted, mut processed, mut open) = (0, None, false);
    let (mut errors, mut faults) = (String::new(), Vec::new());
    loop {
        match pgbench.lines.recv_timeout(Duration::from_millis(20)) {
            Ok((false, line)) => {
                let count = line.strip_prefix("number of transactions actually processed: ");
                let count = count
                    .and_then(|n| n.split('/').next())
                    .and_then(|n| n.parse::<u64>().ok());
                processed = processed.or(count);
            }
            Ok((true, line)) => {
                errors += &(line.clone() + "\n");
                if line.contains("division by zero") {
                    common
                        .books
                        .wrong(format!("pgbench {id}: settings: {errors}"));
                }
                if line.contains("aborted in command") {
                    aborted += 1;
                    faults.push(common.books.fault());
                    let _ = seen
                        .open
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
                }
                seen.done.fetch_add(1, Ordering::AcqRel);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout)
                if begun.elapsed() > LIMIT + Duration::from_secs(SECONDS) =>
            {
                common
                    .books
                    .wrong(format!("pgbench {id} does not end: {errors}"));
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !open && begun.elapsed() > Duration::from_millis(300) {
            // It says nothing when it has connected.
            open = true;
            seen.open
                .store(SESSIONS - aborted.min(SESSIONS), Ordering::Release);
        }
    }
    let left = seen.open.swap(0, Ordering::AcqRel);
    let since = Duration::from_millis(common.pause) + Duration::from_secs(2);
    common.books.left(Kind::Pgbench, left, since);
    pgbench.finish();
    for (part, fault) in errors.split("aborted in command").skip(1).zip(faults) {
        let code = match (
            part.contains("the server was lost"),
            part.contains("open transaction"),
        ) {
            (true, true) => "08006",
            (true, false) => "57P01",
            _ => "-",
        };
        common.books.broke(Kind::Pgbench, fault, code, part);
    }
    common.books.with(|books| {
        books.pgbench.acked += processed.unwrap_or(0);
        books.pgbench.unknown += aborted;
        // One that says nothing in the end is not held against anybody.
        books.pgbench.uncounted |= processed.is_none() && open;
    });
    seen.done.fetch_add(1, Ordering::AcqRel);
}

/// pgbench's own transaction, its settings checked first, and a pause.
fn pgbench_script(pause: u64) -> String {
    format!(
        "\\set aid random(1, 100000)\n\\set bid 1\n\\set tid random(1, 10)\n\\set delta random(-5000, 5000)\n\
         \\set ms random(0, {pause})\n\
         SELECT 1 / (current_setting('app.tenant') = 'pgbench' AND current_setting('search_path') = 'pgb,public' \
         AND current_setting('timezone') = 'Asia/Tokyo')::int;\n\
         BEGIN;\n\
         UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
         SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
         UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;\n\
         UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;\n\
         INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);\n\
         END;\n\
         \\sleep :ms ms\n"
    )
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
