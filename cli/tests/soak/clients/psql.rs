//! A psql script without ON_ERROR_STOP: every line is written whatever came of the one before.

use super::{Client, Common, Running, Seen};
use crate::books::{Kind, Outcome};
use crate::pg_lab::LIMIT;
use crate::random::Random;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

const CANARY: &str = "concat_ws('|', current_setting('search_path'), current_setting('TimeZone'), \
     current_setting('app.tenant', true), current_setting('role'))";

pub fn start(common: &Common, id: u64) -> Client {
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
