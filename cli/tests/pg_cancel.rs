//! Requests to cancel. psql's Ctrl-C: libpq connects, sends, receives and closes inside a signal handler, which interrupts whatever
//! call of the same program is under way. And another process, which was told the key of a session that has moved since.
//!
//! Skipped, with a line that says so, where PostgreSQL, its server headers or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;
#[path = "pg_lab/psql.rs"]
mod psql;

use pg_lab::{LIMIT, Lab, Libpq, text};
use psql::{Debug, Movable, times};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_thousand_cancels_out_of_a_signal_handler() {
    // Nothing is to be lost, however busy the machine is.
    let Some(lab) = Lab::up_with("postgres-shared", 139, &["--keepalive-ms", "1000"]) else {
        return;
    };
    lab.wait_until_active("node-a");
    let program = Libpq::compile(lab.dir.path(), "cancel");
    let config = std::fs::read_to_string(lab.dir().join("client.toml")).unwrap();
    let config = format!("probes_lost = 100\n{config}");
    for session in ["raw", "postgres"] {
        let file = lab.dir.path().join("client.toml");
        let more = format!("\n[clusters.lab.servers.sales]\nsession = \"{session}\"\n");
        std::fs::write(&file, config.clone() + &more).unwrap();
        for transport in ["shm", "tcp"] {
            let out = Command::new("timeout")
                .args(["120", env!("CARGO_BIN_EXE_vianet"), "run", "--strict"])
                .args(["--transports", transport, "--config"])
                .args([&file])
                .arg("--")
                .arg(&program)
                .args(["host=sales.lab user=app password=app dbname=app", "250"])
                .output()
                .unwrap();
            let said = text(&out);
            let what = format!("{session} over {transport}: {said}{}", lab.logs());
            assert!(out.status.success(), "{what}");
            let words: Vec<u32> = (said.lines())
                .find_map(|l| l.strip_prefix("done "))
                .unwrap_or_default()
                .split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let [sent, answers, canceled, refused] = words[..] else {
                panic!("{what}")
            };
            assert_eq!((sent >= 250, refused), (true, 0), "{what}");
            assert!(answers > 0 && canceled > 0, "{what}");
        }
    }
}

/// Asks to cancel as another process, which knows the session's key.
#[track_caller]
fn cancel(lab: &Lab, program: &Path, transport: &str, key: &str) {
    let out = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_vianet"), "run", "--strict"])
        .args(["--transports", transport, "--config"])
        .arg(lab.dir().join("client.toml"))
        .arg("--")
        .arg(program)
        .arg("sales.lab")
        .args(key.split(' '))
        .output()
        .unwrap();
    assert!(out.status.success(), "{key}: {}{}", text(&out), lab.logs());
}

/// Whether the session runs such a statement at the server that node `dir` has.
fn wait_until_it_runs(lab: &Lab, dir: &str, statement: &str) {
    let count = format!(
        "select count(*) from pg_stat_activity where usename = 'app' and state = 'active' and query like '{statement}%'"
    );
    let end = Instant::now() + LIMIT;
    while lab.superuser(dir, &count) != "1" {
        assert!(Instant::now() < end, "{statement} does not run");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// There, back, and there again: the key of the login is the one that others know.
fn another_process_cancels(engine: &str, subnet: u8, more: &[&str]) {
    let Some(movable) = Movable::up(engine, subnet, more) else {
        return;
    };
    let lab = &movable.lab;
    let program = Libpq::compile(lab.dir.path(), "keys");
    let warm = more.contains(&"--warm");
    for transport in ["shm", "tcp"] {
        let mut debug = Debug::new(lab.dir.path());
        let environment = [("VIANET_DEBUG", &*debug.path)];
        let mut client = Libpq::start_with(lab, &program, transport, &environment);
        let said = client.hear(lab, "the login");
        let key = said
            .strip_prefix("key ")
            .unwrap_or_else(|| panic!("{said}"));
        for round in 0..=2 * times() {
            if round > 0 {
                if more.is_empty() {
                    debug.tickets(round as usize);
                }
                debug.statement();
                client.value(lab, "select 1");
                assert_eq!(debug.movable(), "yes");
                let until_said = |what: &str| {
                    let end = Instant::now() + LIMIT;
                    while warm && debug.text().matches(what).count() < round as usize {
                        assert!(Instant::now() < end, "{what}: {}", debug.text());
                        std::thread::sleep(Duration::from_millis(10));
                    }
                };
                until_said(": warm: yes");
                let lost = movable.lose();
                client.value(lab, "select 2");
                until_said(", warm");
                debug.statement();
                movable.bring_back(lost);
            }
            let serves = lab.status()["active"]["sales"].as_str().unwrap().to_owned();
            let dir = if engine == "postgres-shared" {
                "shared"
            } else {
                &*serves
            };
            debug.statement();
            client.tell("select pg_sleep(600)");
            wait_until_it_runs(lab, dir, "select pg_sleep");
            // Who does not know the secret reaches nobody.
            let (pid, secret) = key.split_once(' ').unwrap();
            let other = secret.parse::<i32>().unwrap() ^ 1;
            cancel(lab, &program, transport, &format!("{pid} {other}"));
            cancel(lab, &program, transport, key);
            let answer = client.hear(lab, "pg_sleep");
            assert!(
                answer.starts_with("failed 57014 "),
                "{round}: {answer}{}",
                lab.logs()
            );
        }
    }
    assert!(lab.logs().contains("cancel-dropped"), "{}", lab.logs());
}

#[test]
fn another_process_cancels_where_the_session_is_now() {
    another_process_cancels("postgres", 156, &[]);
}

#[test]
fn another_process_cancels_where_nobody_is_asked_for_a_password() {
    another_process_cancels("postgres-shared", 157, &["--trust"]);
}

#[test]
fn another_process_cancels_where_the_session_waited() {
    another_process_cancels("postgres", 158, &["--warm", "10", "--trust"]);
}
