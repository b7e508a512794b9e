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

use pg_lab::{LIMIT, Lab, Libpq, text};
use psql::{Debug, Movable, Psql, times};
use std::process::Command;
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

/// What it was when it began to wait is not what it goes on with.
#[test]
fn what_a_session_has_set_since_is_not_lost() {
    let Some(movable) = Movable::up("postgres", 202, &["--warm", "10", "--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    let mut psql = Psql::start(lab);
    psql.ask("set app.tenant = '0';");
    psql.ask("prepare p as select date '1/2/2003';");
    for round in 0..times() as usize {
        let node = passive(lab);
        until_said(&psql.debug, ": warm: yes", round + 1);
        let waits = backends(lab, node);
        let tenant = format!("{}", round + 1);
        // All of it at once: the same name and text, read by another setting than before.
        let style = ["German", "US"][round % 2];
        psql.ask(&format!(
            "deallocate p\\; set datestyle = '{style}'\\; set app.tenant = '{tenant}'\\; reset work_mem;"
        ));
        psql.ask("prepare p as select date '1/2/2003';");
        let date = psql.ask("execute p;");
        assert_eq!(psql.debug.movable(), "yes");
        let lost = movable.lose();
        let state = "select current_setting('app.tenant'), current_setting('datestyle');";
        let after = psql.ask(state);
        assert!(after[0].starts_with(&format!("{tenant}|")), "{after:?}");
        assert_eq!(psql.ask("execute p;"), date, "{}", psql.debug.text());
        // It is made up for.
        assert_eq!(psql.ask("select pg_backend_pid();"), waits);
        movable.bring_back(lost);
    }
    // Whatever became of it, when nobody knows what it is it is not taken for what it was.
    let node = passive(lab);
    until_said(&psql.debug, ": warm: yes", times() as usize + 1);
    let _ = node;
    psql.ask_at_once("set app.tenant = 'last';");
    movable.lose();
    psql.tell("select current_setting('app.tenant');\n\\echo --");
    match psql.lines.recv_timeout(LIMIT) {
        Ok(tenant) => assert_eq!(tenant, "last"),
        Err(_) => assert!(psql.errors().contains("state_pending"), "{}", psql.errors()),
    }
}

#[test]
fn no_more_sessions_wait_than_the_node_allows() {
    let Some(movable) = Movable::up("postgres", 203, &["--warm", "1"]) else {
        return;
    };
    let lab = &movable.lab;
    let mut first = Psql::start(lab);
    first.ask("set app.tenant = '1';");
    until_said(&first.debug, ": warm: yes", 1);
    let mut second = Psql::start(lab);
    second.ask("set app.tenant = '2';");
    until_said(&second.debug, ": warm: no (busy)", 1);
    assert_eq!(backends(lab, "node-b").len(), 1);
    // Its place is for the next one.
    first.end();
    until_said(&second.debug, ": warm: yes", 1);
    let waits = backends(lab, "node-b");
    assert_eq!(waits.len(), 1, "{waits:?}");
    let mut third = Psql::start(lab);
    third.ask("set app.tenant = '3';");
    until_said(&third.debug, ": warm: no (busy)", 1);
    third.debug.tickets(1);
    movable.lose();
    // One goes on with what waits, the other one as ever.
    assert_eq!(second.ask("select pg_backend_pid();"), waits);
    assert_eq!(third.ask("select current_setting('app.tenant');"), ["3"]);
    assert_eq!(second.ask("select current_setting('app.tenant');"), ["2"]);
    assert!(!third.debug.text().contains(", warm"));
}

#[test]
fn a_node_lets_nobody_wait_unless_it_is_told_to() {
    let Some(movable) = Movable::up("postgres", 204, &[]) else {
        return;
    };
    let lab = &movable.lab;
    let config = lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap() + "warm_sessions = true\n";
    std::fs::write(&config, text).unwrap();
    let mut psql = Psql::start(lab);
    psql.ask("set app.tenant = '1';");
    until_said(&psql.debug, ": warm: no (no_standby)", 1);
    assert_eq!(backends(lab, "node-b"), [""; 0]);
    psql.debug.tickets(1);
    movable.lose();
    assert_eq!(psql.ask("select current_setting('app.tenant');"), ["1"]);
}

/// With the ticket that the login there has earned: the session's own was honoured already.
#[test]
fn one_that_is_lost_while_it_waits_is_made_again() {
    let Some(movable) = Movable::up("postgres", 205, &["--warm", "10"]) else {
        return;
    };
    let lab = &movable.lab;
    let program = Libpq::build(lab.dir.path());
    for (n, transport) in ["shm", "tcp"].into_iter().enumerate() {
        let debug = Debug::new(lab.dir.path());
        let environment = [("VIANET_DEBUG", &*debug.path)];
        let mut client = Libpq::start_with(lab, &program, transport, &environment);
        client.value(lab, "set app.tenant = '42'");
        for round in 1..4 {
            until_said(&debug, ": warm: yes", round);
            until_said(&debug, ": warm: a ticket", round);
            let end =
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'";
            lab.superuser(passive(lab), end);
            until_said(&debug, ": warm: no (lost)", round);
        }
        until_said(&debug, ": warm: yes", 4);
        let waits = backends(lab, passive(lab));
        let lost = movable.lose();
        assert_eq!(
            client.value(lab, "select current_setting('app.tenant')"),
            "42"
        );
        assert_eq!([client.value(lab, "select pg_backend_pid()")], *waits);
        // It goes on from there as ever: the ticket of that channel is good.
        movable.bring_back(lost);
        until_said(&debug, ": warm: yes", 5);
        movable.lose();
        assert_eq!(
            client.value(lab, "select current_setting('app.tenant')"),
            "42"
        );
        until_said(&debug, ", warm", 2);
        drop(client);
        if n == 0 {
            movable.bring_back(passive(lab));
        }
    }
}

#[test]
fn a_session_that_listens_or_has_an_unnamed_statement_is_made_up_for() {
    let Some(movable) = Movable::up("postgres", 206, &["--warm", "10", "--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    let config = lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap() + "move_listening = true\n";
    std::fs::write(&config, text).unwrap();
    let program = Libpq::build(lab.dir.path());
    let mut debug = Debug::new(lab.dir.path());
    let environment = [("VIANET_DEBUG", &*debug.path)];
    let mut client = Libpq::start_with(lab, &program, "shm", &environment);
    client.value(lab, "listen channel");
    debug.statement();
    client.value(lab, "\\prepare - select $1::int + 1");
    assert_eq!(debug.movable(), "yes");
    until_said(&debug, ": warm: yes", 1);
    let waits = backends(lab, "node-b");
    movable.lose();
    assert_eq!(client.value(lab, "\\execute - 41"), "42");
    assert_eq!(
        client.value(lab, "select * from pg_listening_channels()"),
        "channel"
    );
    assert_eq!([client.value(lab, "select pg_backend_pid()")], *waits);
}

/// The standby's daemon is stopped, or lost, and what waited with it.
#[test]
fn the_node_on_which_a_session_waits_may_go() {
    let Some(movable) = Movable::up("postgres", 207, &["--warm", "10"]) else {
        return;
    };
    let lab = &movable.lab;
    let mut psql = Psql::start(lab);
    psql.ask("set app.tenant = '42';");
    until_said(&psql.debug, ": warm: yes", 1);
    lab.good(&["kill", "node-b"]);
    until_said(&psql.debug, ": warm: no (lost)", 1);
    assert_eq!(psql.ask("select current_setting('app.tenant');"), ["42"]);
    movable.bring_back("node-b");
    until_said(&psql.debug, ": warm: yes", 2);
    let waits = backends(lab, "node-b");
    assert_eq!(psql.debug.movable(), "yes");
    movable.lose();
    assert_eq!(psql.ask("select pg_backend_pid();"), waits);
    assert_eq!(psql.end(), (Some(0), String::new()));
}

/// There and back, without an error and without a login of the session's.
#[test]
fn a_planned_switchover_leads_to_what_waits() {
    let Some(movable) = Movable::up("postgres", 208, &["--warm", "10"]) else {
        return;
    };
    let lab = &movable.lab;
    let mut psql = Psql::start(lab);
    psql.ask("set app.tenant = '42';");
    for (round, to) in ["node-b", "node-a"].into_iter().enumerate() {
        until_said(&psql.debug, ": warm: yes", round + 1);
        let waits = backends(lab, to);
        assert_eq!(psql.debug.movable(), "yes");
        let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
            .args(["switchover", "sales.lab", "--to", to])
            .env("VIANET_CONFIG", lab.dir().join("client.toml"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}{}", text(&out), lab.logs());
        let pid = psql.ask_at_once("select pg_backend_pid();");
        assert_eq!(pid, waits, "{}{}", psql.debug.text(), lab.logs());
        assert_eq!(psql.ask("select current_setting('app.tenant');"), ["42"]);
    }
    assert_eq!(psql.end(), (Some(0), String::new()));
}
