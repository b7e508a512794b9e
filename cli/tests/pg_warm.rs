//! Sessions that wait on the standby, with psql and a libpq program on the real thing: they go on there without a login, with the
//! state that they have and not the one that they had. `VIANET_TEST_TIMES` says how many failovers each test makes.
//!
//! Skipped, with a line that says so, where PostgreSQL, its server headers or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;
#[path = "pg_lab/psql.rs"]
mod psql;

use pg_lab::{LIMIT, Lab, Libpq};
use psql::{Debug, Movable, Psql, times};
use std::time::{Duration, Instant};

const STATE: &str = "select current_setting('search_path'), current_setting('TimeZone'), \
     current_setting('app.tenant'), current_setting('app.empty'), current_setting('role'), \
     current_setting('work_mem'), current_setting('statement_timeout');";

/// Waits until the library has said this so often.
#[track_caller]
fn until_said(debug: &Debug, what: &str, times: usize) {
    let end = Instant::now() + LIMIT;
    while debug.text().matches(what).count() < times {
        assert!(Instant::now() < end, "{what}: {}", debug.text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn passive(lab: &Lab) -> &'static str {
    match lab.status()["active"]["sales"].as_str() {
        Some("node-a") => "node-b",
        _ => "node-a",
    }
}

/// The backends of the role `app` on a node's server.
fn backends(lab: &Lab, node: &str) -> Vec<String> {
    let sql = "select pid from pg_stat_activity where usename = 'app' order by pid";
    let pids = lab.superuser(node, sql);
    pids.lines().map(str::to_owned).collect()
}

fn psql_goes_on(movable: &Movable) {
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text)");
    let mut psql = Psql::start(lab);
    for statement in [
        "set search_path = public, pg_catalog",
        "set timezone = 'Asia/Kathmandu'",
        "set app.tenant = '42'",
        "begin\\; set app.empty = 'x'\\; rollback",
        "set role app",
        "set work_mem = '7MB'",
        "set statement_timeout = '77s'",
        "prepare q (int) as select note from t where id = $1",
        "insert into t values (1, 'before')",
    ] {
        psql.ask(&format!("{statement};"));
    }
    let before = psql.ask(STATE);
    assert_eq!(
        before,
        ["public, pg_catalog|Asia/Kathmandu|42||app|7MB|77s"]
    );
    for round in 0..times() as usize {
        let node = passive(lab);
        until_said(&psql.debug, ": warm: yes", round + 1);
        let waits = backends(lab, node);
        assert_eq!(waits.len(), 1, "{}", lab.logs());
        assert_eq!(psql.debug.movable(), "yes");
        let lost = movable.lose();
        let pid = psql.ask_at_once("select pg_backend_pid();");
        assert_eq!(pid, waits, "{}{}", psql.debug.text(), lab.logs());
        assert_eq!(backends(lab, node), waits);
        assert_eq!(psql.ask(STATE), before, "{}", psql.errors());
        assert_eq!(psql.ask("execute q (1);"), ["before"], "{}", psql.errors());
        let id = round + 2;
        psql.ask(&format!("insert into t values ({id}, 'after');"));
        assert_eq!(psql.ask(&format!("execute q ({id});")), ["after"]);
        until_said(&psql.debug, "login 0.00 ms", round + 1);
        let said = psql.debug.text();
        let failovers: Vec<_> = said
            .lines()
            .filter(|it| it.contains(": failover: "))
            .collect();
        assert!(failovers[round].ends_with(", warm"), "{failovers:?}");
        movable.bring_back(lost);
    }
    assert_eq!(psql.end(), (Some(0), String::new()));
}

#[test]
fn psql_goes_on_with_the_session_that_has_waited() {
    if let Some(movable) = Movable::up("postgres", 200, &["--warm", "10"]) {
        psql_goes_on(&movable);
    }
}

#[test]
fn psql_goes_on_so_without_the_extension_and_without_passwords() {
    if let Some(movable) = Movable::without_extension_warm("postgres", 201) {
        psql_goes_on(&movable);
    }
}
