//! pgbench with a script of its own transaction, again and again for some seconds.

use super::{Client, Common, Running, Seen};
use crate::books::Kind;
use crate::pg_lab::LIMIT;
use crate::random::Random;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

pub fn start(common: &Common, id: u64) -> Client {
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
