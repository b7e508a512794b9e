//! `c/soak.c`: a libpq program that says what it knows of each thing that it does.

use super::{Client, Common, Running, Seen};
use crate::books::{Books, Kind, Outcome};
use crate::pg_lab::LIMIT;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

pub fn start(common: &Common, program: &Path, id: u64) -> Client {
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
