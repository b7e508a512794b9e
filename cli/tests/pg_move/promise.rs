//! What is promised where a session is not idle when its server is lost: lost transactions, what was sent in part, and outcomes
//! that nobody knows.

use crate::pg_lab::{LIMIT, Lab, Libpq};
use crate::psql::{Debug, Movable, Psql, times};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// What psql says on its other output, without the details.
fn said(psql: &Psql) -> Vec<String> {
    let errors = psql.errors();
    let lines = errors.lines().filter(|line| line.starts_with("ERROR"));
    lines.map(str::to_owned).collect()
}

const LOST: &str = "ERROR:  the server was lost and the open transaction with it";
const ABORTED: &str =
    "ERROR:  current transaction is aborted, commands ignored until end of transaction block";

/// The script that must not run its second half alone: psql without ON_ERROR_STOP.
fn a_script(engine: &str, subnet: u8, first_after: &[&str], errors: &[&str]) {
    let Some(movable) = Movable::up(engine, subnet, &["--trust"]) else {
        return;
    };
    movable.lab.sql(
        "create table account (id int primary key, balance int); \
         insert into account values (1, 1000), (2, 1000); create table log (note text)",
    );
    for round in 0..times() {
        let mut psql = Psql::start(&movable.lab);
        for statement in [
            "set app.tenant = '42';",
            "set work_mem = '7MB';",
            "prepare q as select balance from account where id = 1;",
        ] {
            psql.ask(statement);
        }
        assert_eq!(psql.debug.movable(), "yes");
        // Whatever reading has written (pages that were pruned) is on the standby with a commit behind it.
        movable.lab.sql("insert into log values ('before')");
        for statement in [
            "begin;",
            "set work_mem = '9MB';",
            "update account set balance = balance - 100 where id = 1;",
        ] {
            psql.tell(&format!("{statement}\n\\echo done"));
            while psql.lines.recv_timeout(LIMIT).unwrap() != "done" {}
        }
        let lost = movable.lose();
        for statement in first_after {
            psql.tell(statement);
        }
        for statement in [
            "commit;",
            "insert into log values ('after');",
            "select current_setting('app.tenant'), current_setting('work_mem');",
            "execute q;",
            "\\echo end",
        ] {
            psql.tell(statement);
        }
        let mut rows = Vec::new();
        loop {
            match psql.lines.recv_timeout(LIMIT) {
                Ok(line) if line == "end" => break,
                Ok(line) => rows.push(line),
                Err(why) => panic!("{why}: {}{}", psql.errors(), psql.debug.text()),
            }
        }
        assert_eq!(said(&psql), errors, "{round}: {}", psql.errors());
        assert_eq!(rows.last().map(String::as_str), Some("1000"), "{rows:?}");
        assert!(rows.contains(&"42|7MB".to_owned()), "{rows:?}");
        let sum = movable.lab.sql("select sum(balance) from account");
        assert_eq!(sum, "2000", "{round}");
        let notes = movable
            .lab
            .sql("select count(*) from log where note = 'after'");
        assert_eq!(notes, (round + 1).to_string());
        assert_eq!(psql.end().0, Some(0));
        movable.bring_back(lost);
    }
}

#[test]
fn the_rest_of_a_script_does_not_run_outside_its_transaction() {
    let second = "update account set balance = balance + 100 where id = 2;";
    a_script("postgres", 180, &[second, second], &[LOST, ABORTED]);
}

#[test]
fn nor_at_the_other_node_of_a_shared_server() {
    let second = "update account set balance = balance + 100 where id = 2;";
    a_script("postgres-shared", 181, &[second], &[LOST]);
}

/// The statement in flight fails with its transaction, at once; whoever says COMMIT first hears that it did not happen.
#[test]
fn what_is_in_flight_in_a_transaction_fails_with_it() {
    let Some(movable) = Movable::up("postgres-shared", 182, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int)");
    let program = Libpq::build(lab.dir.path());
    for transport in ["shm", "tcp"] {
        for _ in 0..times() {
            for (request, next) in [
                (
                    "insert into t select 2 from pg_sleep(60)",
                    "insert into t values (3)",
                ),
                (
                    "\\params 2 insert into t select $1::int from pg_sleep(60)",
                    "commit",
                ),
                ("", "commit"),
                ("", "\\params 3 insert into t values ($1::int)"),
            ] {
                let mut debug = Debug::new(lab.dir.path());
                let environment = [("VIANET_DEBUG", &*debug.path)];
                let mut client = Libpq::start_with(lab, &program, transport, &environment);
                // It connects at the first one.
                client.value(lab, "select 1");
                debug.statement();
                client.value(lab, "set app.x = '1'");
                assert_eq!(debug.movable(), "yes");
                client.value(lab, "begin");
                client.value(lab, "insert into t values (1)");
                if !request.is_empty() {
                    client.tell(request);
                    let end = Instant::now() + LIMIT;
                    let running = "select count(*) from pg_stat_activity where state = 'active' \
                         and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()";
                    while lab.sql(running) == "0" {
                        assert!(Instant::now() < end, "it does not begin");
                    }
                }
                let lost = movable.lose();
                let told = match request {
                    "" => client.answer(lab, next),
                    request => client.hear(lab, request),
                };
                assert!(
                    told.starts_with("failed 08006 ") && told.contains("was lost"),
                    "{told}\n{}",
                    debug.text()
                );
                if !request.is_empty() {
                    let told = client.answer(lab, next);
                    let code = if next == "commit" {
                        "ok"
                    } else {
                        "failed 25P02"
                    };
                    assert!(told.starts_with(code), "{told}");
                }
                client.value(lab, "rollback");
                assert_eq!(client.value(lab, "show app.x"), "1");
                assert_eq!(client.value(lab, "select count(*) from t"), "0");
                movable.bring_back(lost);
            }
        }
    }
}

/// As a COMMIT that fails in PostgreSQL it ends the block where that is wanted, for drivers that do not look what became of it.
#[test]
fn a_commit_that_hears_of_the_loss_ends_the_block() {
    let Some(movable) = Movable::up("postgres-shared", 186, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int)");
    let program = Libpq::build(lab.dir.path());
    let config = lab.dir().join("client.toml");
    let by_default = std::fs::read_to_string(&config).unwrap();
    let ends = format!("{by_default}commit_ends_lost_block = true\n");
    for _ in 0..times() {
        // (In the extended protocol it is one like others.)
        for (settings, transport, commit, next) in [
            (&by_default, "shm", "commit", "failed 25P02"),
            (&ends, "shm", "commit", "ok 0"),
            (&ends, "tcp", "END TRANSACTION;", "ok 0"),
            (&ends, "shm", "commit and chain", "failed 25P02"),
            (&ends, "tcp", "\\params 0 commit", "failed 25P02"),
        ] {
            std::fs::write(&config, settings).unwrap();
            let mut debug = Debug::new(lab.dir.path());
            let environment = [("VIANET_DEBUG", &*debug.path)];
            let mut client = Libpq::start_with(lab, &program, transport, &environment);
            client.value(lab, "select 1");
            debug.statement();
            client.value(lab, "set app.x = '1'");
            assert_eq!(debug.movable(), "yes");
            client.value(lab, "begin");
            client.value(lab, "insert into t values (1)");
            let lost = movable.lose();
            let told = client.answer(lab, commit);
            assert!(told.starts_with("failed 08006 "), "{told}");
            let told = client.answer(lab, "select count(*) from t");
            assert!(told.starts_with(next), "{commit}: {told}");
            movable.bring_back(lost);
            if !next.starts_with("ok") {
                client.value(lab, "rollback");
            }
            // And it moves as ever.
            client.value(lab, "set app.y = '2'");
            movable.until_all(1, "no_ticket", &|| debug.text());
            let lost = movable.lose();
            assert_eq!(client.value(lab, "show app.x"), "1");
            assert_eq!(client.value(lab, "show app.y"), "2");
            movable.bring_back(lost);
        }
    }
}

#[test]
fn an_unknown_outcome_is_an_error_where_that_is_wanted() {
    let Some(movable) = Movable::up("postgres-shared", 183, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    let config = lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "on_unknown = \"error\"\n").unwrap();
    lab.sql("create table t (id int)");
    let program = Libpq::build(lab.dir.path());
    for _ in 0..times() {
        for request in [
            "insert into t select 2 from pg_sleep(60)",
            "\\params 2 insert into t select $1::int from pg_sleep(60)",
            "begin; insert into t select 2 from pg_sleep(60); commit",
        ] {
            let mut debug = Debug::new(lab.dir.path());
            let environment = [("VIANET_DEBUG", &*debug.path)];
            let mut client = Libpq::start_with(lab, &program, "shm", &environment);
            client.value(lab, "select 1");
            debug.statement();
            client.value(lab, "set app.x = '1'");
            assert_eq!(debug.movable(), "yes");
            client.tell(request);
            let end = Instant::now() + LIMIT;
            let running = "select count(*) from pg_stat_activity where state = 'active' \
                 and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()";
            while lab.sql(running) == "0" {
                assert!(Instant::now() < end, "it does not begin");
            }
            let lost = movable.lose();
            let told = client.hear(lab, request);
            assert!(
                told.starts_with("failed 08007 ") && told.contains("outcome is unknown"),
                "{told}\n{}",
                debug.text()
            );
            assert_eq!(client.value(lab, "show app.x"), "1");
            movable.bring_back(lost);
        }
    }
}

#[test]
fn what_a_rollback_would_not_undo_ends_the_session() {
    let Some(movable) = Movable::up("postgres-shared", 184, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int)");
    let clean = "drop function if exists hidden cascade; drop view if exists v";
    for _ in 0..times() {
        for (made, statement) in [
            ("", "select pg_advisory_lock(42);"),
            ("", "prepare a as select 1;"),
            (
                "create function hidden() returns void language sql as 'select pg_advisory_lock(42)'",
                "select hidden();",
            ),
            (
                "create function hidden() returns void language sql begin atomic select pg_advisory_lock(42); end",
                "select hidden();",
            ),
            (
                "create function hidden() returns void language plpgsql as \
                 $$ begin execute 'select pg_adv' || 'isory_lock(42)'; end $$",
                "select hidden();",
            ),
            (
                "create view v as select pg_try_advisory_lock(42)",
                "table v;",
            ),
        ] {
            if !made.is_empty() {
                lab.sql(made);
            }
            let mut psql = Psql::start(lab);
            psql.ask("set app.tenant = '42';");
            assert_eq!(psql.debug.movable(), "yes");
            for statement in ["begin;", statement] {
                psql.tell(&format!("{statement}\n\\echo done"));
                while psql.lines.recv_timeout(LIMIT).unwrap() != "done" {}
            }
            let lost = movable.lose();
            psql.tell("select 'it ran';");
            let (code, errors) = psql.end();
            assert_eq!(code, Some(2), "{errors}");
            for part in ["FATAL:  terminating connection", "lasting", "nothing of"] {
                assert!(errors.contains(part), "{statement}: {errors}");
            }
            movable.bring_back(lost);
            lab.sql(clean);
        }
        // What is no such thing.
        lab.sql(
            "create function hidden() returns void language plpgsql as \
             $$ begin perform pg_advisory_xact_lock(42); insert into t values (1); end $$",
        );
        let mut psql = Psql::start(lab);
        psql.ask("set app.tenant = '42';");
        assert_eq!(psql.debug.movable(), "yes");
        for statement in ["begin;", "select hidden();"] {
            psql.tell(&format!("{statement}\n\\echo done"));
            while psql.lines.recv_timeout(LIMIT).unwrap() != "done" {}
        }
        let lost = movable.lose();
        psql.tell("select 'it ran';\n\\echo done");
        assert_eq!(psql.lines.recv_timeout(LIMIT).unwrap(), "done");
        assert_eq!(said(&psql), [LOST], "{}", psql.errors());
        assert_eq!(psql.end().0, Some(0));
        movable.bring_back(lost);
        lab.sql(clean);
    }
}

/// Bytes, to be cut anywhere.
struct Raw {
    child: Child,
    lines: Receiver<String>,
    debug: Debug,
}

impl Raw {
    fn start(lab: &Lab, program: &Path) -> Self {
        let debug = Debug::new(lab.dir.path());
        let mut child = Command::new(env!("CARGO_BIN_EXE_vianet"))
            .args(["run", "--strict", "--config"])
            .arg(lab.dir().join("client.toml"))
            .arg("--")
            .arg(program)
            .args(["sales.lab", "app", "app"])
            .env("VIANET_DEBUG", &debug.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (told, lines) = channel();
        std::thread::spawn(move || out.map_while(Result::ok).try_for_each(|l| told.send(l)));
        let raw = Self {
            child,
            lines,
            debug,
        };
        assert!(raw.line().ends_with("ZI"));
        raw
    }

    #[track_caller]
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(LIMIT);
        line.unwrap_or_else(|why| panic!("{why}: {}", self.debug.text()))
    }

    fn send(&mut self, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.child.stdin.as_mut().unwrap(), "send {hex}").unwrap();
        assert_eq!(self.line(), "sent");
    }

    fn query(&mut self, text: &str) -> String {
        self.send(&message(b'Q', &[text.as_bytes(), b"\0"]));
        self.hear()
    }

    fn hear(&mut self) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "hear").unwrap();
        self.line()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], &body].concat()
}

/// A statement of the extended protocol; the Execute ends five bytes before its end.
fn extended(statement: &str) -> Vec<u8> {
    [
        message(b'P', &[b"\0", statement.as_bytes(), &[0; 3]]),
        message(b'B', &[&[0; 8]]),
        message(b'D', &[b"P\0"]),
        message(b'E', &[&[0; 5]]),
        message(b'S', &[]),
    ]
    .concat()
}

/// `VIANET_TEST_EVERY_BYTE`: the server is lost after every byte.
#[test]
fn a_request_that_is_cut_runs_once_or_not_at_all() {
    let Some(movable) = Movable::up("postgres-shared", 185, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int)");
    let program = Libpq::compile(lab.dir.path(), "raw");
    let step = match std::env::var_os("VIANET_TEST_EVERY_BYTE") {
        Some(_) => 1,
        None => 29,
    };
    let insert = "insert into t values (1) returning 7";
    let simple = message(b'Q', &[insert.as_bytes(), b"\0"]);
    for (request, runs) in [
        (simple.clone(), simple.len()),
        (extended(insert), extended(insert).len() - 5),
    ] {
        let cuts = (1..request.len()).step_by(step).chain([runs - 1, runs]);
        for (n, cut) in cuts.enumerate() {
            // In a transaction, too.
            for block in [false, true] {
                lab.sql("truncate t");
                let mut raw = Raw::start(lab, &program);
                raw.debug.statement();
                raw.query("set app.x = '1'");
                assert_eq!(raw.debug.movable(), "yes");
                if block {
                    assert_eq!(raw.query("begin"), "CBEGIN ZT");
                }
                raw.send(&request[..cut]);
                let lost = movable.lose();
                let in_flight = cut >= runs;
                let here = format!("{n}: {cut} of {}, {block}", request.len());
                if in_flight && !block {
                    // Default: without a word. What was said before the loss may have been heard.
                    let told = raw.hear();
                    assert!(
                        told.ends_with("end") || told.ends_with("ZI"),
                        "{here}: {told}"
                    );
                    assert!(!told.contains("ERROR"), "{here}: {told}");
                    let count = lab.sql("select count(*) from t");
                    assert!(count == "0" || count == "1", "{here}: {count}");
                    movable.bring_back(lost);
                    continue;
                }
                if cut < request.len() {
                    raw.send(&request[cut..]);
                }
                let told = raw.hear();
                if block {
                    assert!(
                        told.ends_with("ERROR 08006 ZE") || told.ends_with("ZT"),
                        "{here}: {told}"
                    );
                    raw.query("rollback");
                } else {
                    assert!(told.contains("D7 CINSERT 0 1 ZI"), "{here}: {told}");
                }
                assert_eq!(raw.query("show app.x"), "T D1 CSHOW ZI", "{here}");
                let count = lab.sql("select count(*) from t");
                assert_eq!(count, if block { "0" } else { "1" }, "{here}");
                movable.bring_back(lost);
            }
        }
    }
}
