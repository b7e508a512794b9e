//! PostgreSQL sessions that go on on the second server, with psql and a libpq program on the real thing; and those that do not,
//! and why. `VIANET_TEST_TIMES` says how many failovers each test makes.
//!
//! Skipped, with a line that says so, where PostgreSQL, its server headers or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;
#[path = "pg_move/promise.rs"]
mod promise;
#[path = "pg_lab/psql.rs"]
mod psql;

use pg_lab::Libpq;
use psql::{Debug, Movable, Psql, times};

const STATE: &str = "select current_setting('search_path'), current_setting('TimeZone'), \
     current_setting('app.tenant'), current_setting('app.empty'), current_setting('role'), \
     current_setting('work_mem'), current_setting('statement_timeout');";

fn psql_goes_on(engine: &str, subnet: u8, more: &[&str]) {
    let Some(movable) = Movable::up(engine, subnet, more) else {
        return;
    };
    movable.lab.sql("create table t (id int, note text)");
    let mut psql = Psql::start(&movable.lab);
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
    for round in 0..times() {
        assert_eq!(psql.debug.movable(), "yes");
        if more.is_empty() {
            // One for each channel, so for each server that the session was on.
            psql.debug.tickets(round as usize + 1);
        }
        let shown = movable.session();
        for (key, value) in [("user", "app"), ("database", "app"), ("transport", "shm")] {
            assert_eq!(shown[key], value, "{shown}");
        }
        // Where nobody is asked for a password, it moves all the same.
        let word = if more.is_empty() { "yes" } else { "no_ticket" };
        assert_eq!(
            (&shown["movable"], &shown["moves"]),
            (&word.into(), &round.into())
        );
        let lost = movable.lose();
        let after = psql.ask(STATE);
        assert_eq!(before, after, "round {round}\n{}", psql.errors());
        let shown = movable.session();
        assert_eq!(shown["moves"], round + 1);
        for (n, (part, ms)) in psql.debug.last_failover().into_iter().enumerate() {
            // The last two are measured at both ends.
            let told = shown["last_failover"][format!("{part}_ms")].as_f64();
            let same = told.is_some_and(|told| (told - ms).abs() < 0.02);
            assert!(same || (n >= 5 && told > Some(0.0)), "{part} {ms}: {shown}");
        }
        assert_eq!(psql.ask("execute q (1);"), ["before"], "{}", psql.errors());
        let id = round + 2;
        psql.ask(&format!("insert into t values ({id}, 'after');"));
        assert_eq!(psql.ask(&format!("execute q ({id});")), ["after"]);
        movable.bring_back(lost);
    }
    let rows = movable
        .lab
        .sql("select count(*), count(distinct id) from t");
    assert_eq!(rows, format!("{0}|{0}", times() + 1));
    assert_eq!(psql.end(), (Some(0), String::new()));
}

#[test]
fn psql_goes_on_on_the_standby_as_if_nothing_had_happened() {
    psql_goes_on("postgres", 140, &[]);
}

#[test]
fn psql_goes_on_at_the_other_node_of_a_shared_server() {
    psql_goes_on("postgres-shared", 141, &[]);
}

#[test]
fn psql_goes_on_where_nobody_is_asked_for_a_password() {
    psql_goes_on("postgres-shared", 147, &["--trust"]);
}

#[test]
fn what_a_libpq_program_has_prepared_goes_on() {
    let Some(movable) = Movable::up("postgres-shared", 142, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text); insert into t values (1, 'one'), (2, 'two')");
    let program = Libpq::build(lab.dir.path());
    let value = |client: &mut Libpq, debug: &mut Debug, statement: &str| {
        debug.statement();
        client.value(lab, statement)
    };
    for transport in ["shm", "tcp"] {
        let mut debug = Debug::new(lab.dir.path());
        let environment = [("VIANET_DEBUG", &*debug.path)];
        let mut client = Libpq::start_with(lab, &program, transport, &environment);
        // It connects at the first one.
        client.value(lab, "set application_name = 'moves'");
        value(
            &mut client,
            &mut debug,
            "\\prepare q select note from t where id = $1",
        );
        value(
            &mut client,
            &mut debug,
            "\\prepare - select note || '!' from t where id = $1",
        );
        for _ in 0..times() {
            assert_eq!(value(&mut client, &mut debug, "\\execute q 1"), "one");
            assert_eq!(value(&mut client, &mut debug, "\\execute - 2"), "two!");
            assert_eq!(debug.movable(), "yes");
            let lost = movable.lose();
            // The unnamed one first: another statement would take its place.
            assert_eq!(value(&mut client, &mut debug, "\\execute - 1"), "one!");
            assert_eq!(value(&mut client, &mut debug, "\\execute q 2"), "two");
            assert_eq!(value(&mut client, &mut debug, "\\execute q 1"), "one");
            movable.bring_back(lost);
        }
        assert_eq!(
            value(&mut client, &mut debug, "\\params 2 select $1::int + 1"),
            "3"
        );
        assert_eq!(
            value(&mut client, &mut debug, "show application_name"),
            "moves"
        );
        // One whose columns the program was told comes out with the same.
        value(&mut client, &mut debug, "\\describe q");
        assert_eq!(debug.movable(), "yes");
        let lost = movable.lose();
        assert_eq!(value(&mut client, &mut debug, "\\execute q 1"), "one");
        movable.bring_back(lost);
    }
}

#[test]
fn a_session_that_cannot_be_made_again_is_told_why() {
    let Some(movable) = Movable::up("postgres-shared", 143, &["--trust"]) else {
        return;
    };
    for round in 0..times() {
        for (statement, reason) in [
            ("create temporary table mine (id int);", "temporary"),
            ("select pg_advisory_lock(42);", "advisory_lock"),
            (
                "declare c cursor with hold for select 1;",
                "holdable_cursor",
            ),
            ("listen channel;", "listens"),
            ("prepare a as select 1\\; select 2;", "prepared_in_batch"),
        ] {
            let mut psql = Psql::start(&movable.lab);
            psql.ask(statement);
            assert_eq!(psql.debug.movable(), reason, "{}", psql.errors());
            // It is shown, and logged once, however often the state is asked for.
            assert_eq!(psql.ask("select 1;"), ["1"]);
            assert_eq!(psql.debug.movable(), reason);
            assert_eq!(movable.session()["movable"], reason);
            let log = psql.debug.text();
            let line = format!("the session is not movable: {reason} (");
            assert_eq!(log.matches(&line).count(), 1, "{log}");
            let lost = movable.lose();
            psql.tell("select 'it ran';");
            let (code, errors) = psql.end();
            assert_eq!(code, Some(2), "{errors}");
            for part in [
                "FATAL:  terminating connection: the server was lost",
                reason,
            ] {
                assert!(errors.contains(part), "{round} {reason}: {errors}");
            }
            movable.bring_back(lost);
        }
    }
}

#[test]
fn a_login_that_needs_a_password_is_refused_by_name() {
    let Some(movable) = Movable::up("postgres-shared", 144, &[]) else {
        return;
    };
    // Who pins no key has no tickets.
    let config = movable.lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("public_key"));
    std::fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
    for _ in 0..times() {
        let mut psql = Psql::start(&movable.lab);
        psql.ask("set app.tenant = '42';");
        assert_eq!(psql.debug.movable(), "yes");
        let lost = movable.lose();
        psql.tell("select 'it ran';");
        let (code, errors) = psql.end();
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains("login_needs_password"), "{errors}");
        movable.bring_back(lost);
    }
}

/// Whatever of ours is run in such a session means what it says.
#[test]
fn settings_that_change_what_statements_mean_are_carried_over() {
    let Some(movable) = Movable::up("postgres", 145, &["--trust"]) else {
        return;
    };
    let mut psql = Psql::start(&movable.lab);
    for statement in [
        "create schema evil",
        "create function evil.no(oid, oid) returns bool language sql as 'select false'",
        "create operator evil.= (leftarg = oid, rightarg = oid, function = evil.no)",
        "create function evil.set_config(text, text, bool) returns text language sql as 'select null'",
        "create function evil.substr(text, int, int) returns text language sql as 'select null'",
        "create table evil.pg_proc (oid oid, prolang oid)",
        "set search_path = evil, pg_catalog, public",
        "set client_encoding = 'LATIN1'",
        "set app.name = 'Z\u{fc}rich ''in quotes'' \\ \"and\" more'",
        "set standard_conforming_strings = off",
        "set backslash_quote = off",
        "set quote_all_identifiers = on",
        "set datestyle = 'German'",
        "set intervalstyle = 'sql_standard'",
        "set extra_float_digits = -3",
        "set cursor_tuple_fraction = 0.123456789",
        "set bytea_output = 'escape'",
        "set transform_null_equals = on",
        "set default_transaction_isolation = 'serializable'",
        "set default_transaction_read_only = on",
    ] {
        psql.ask(&format!("{statement};"));
    }
    let all = "select pg_catalog.string_agg(s, '|' order by s) from (select name || '=' || setting \
               from pg_catalog.pg_settings where source = 'session' union all \
               select 'app.name=' || current_setting('app.name')) as all_of_them(s);";
    let before = psql.ask(all);
    assert!(
        before[0].contains("in quotes") && before[0].contains("German"),
        "{before:?}"
    );
    for round in 0..times() {
        assert_eq!(psql.debug.movable(), "yes", "{}", psql.errors());
        let lost = movable.lose();
        assert_eq!(psql.ask(all), before, "round {round}: {}", psql.errors());
        movable.bring_back(lost);
    }
    let (code, errors) = psql.end();
    assert_eq!((code, &*errors), (Some(0), ""));
}

#[test]
fn a_session_that_listens_goes_on_where_that_is_wanted() {
    let Some(movable) = Movable::up("postgres-shared", 146, &["--trust"]) else {
        return;
    };
    let config = movable.lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap() + "move_listening = true\n";
    std::fs::write(&config, text).unwrap();
    let mut psql = Psql::start(&movable.lab);
    psql.ask("listen \"A \"\"channel\";");
    for _ in 0..times() {
        assert_eq!(psql.debug.movable(), "yes");
        let lost = movable.lose();
        let said = psql.ask("notify \"A \"\"channel\", 'here';");
        let heard = "Asynchronous notification \"A \"channel\" with payload \"here\" received";
        assert!(said.iter().any(|line| line.starts_with(heard)), "{said:?}");
        movable.bring_back(lost);
    }
    assert_eq!(psql.end(), (Some(0), String::new()));
}

/// What a prepared statement means was settled when it was prepared.
#[test]
fn a_statement_that_would_mean_something_else_is_not_prepared_again() {
    let Some(movable) = Movable::up("postgres-shared", 148, &["--trust"]) else {
        return;
    };
    for (before, statement, after, meant) in [
        (
            "set standard_conforming_strings = off",
            r"select 'a\\b'",
            "set standard_conforming_strings = on",
            r"a\b",
        ),
        (
            "set datestyle = 'ISO, MDY'",
            "select date '01/02/2020'",
            "set datestyle = 'ISO, DMY'",
            "2020-01-02",
        ),
        (
            "set array_nulls = off",
            "select (array_append('{null}'::text[], null))[1] is null",
            "reset array_nulls",
            "f",
        ),
    ] {
        let mut psql = Psql::start(&movable.lab);
        psql.ask("set escape_string_warning = off;");
        psql.ask(&format!("{before};"));
        psql.ask(&format!("prepare q as {statement};"));
        psql.ask(&format!("{after};"));
        assert_eq!(psql.ask("execute q;"), [meant], "{}", psql.errors());
        let known = psql.debug.movable();
        let lost = movable.lose();
        if known == "yes" {
            assert_eq!(psql.ask("execute q;"), [meant], "{}", psql.errors());
        } else {
            assert_eq!(known, "prepared_otherwise");
        }
        movable.bring_back(lost);
    }
    // Made again under what it was made under.
    let mut psql = Psql::start(&movable.lab);
    psql.ask("set datestyle = 'ISO, DMY';");
    psql.ask("prepare q as select date '01/02/2020';");
    assert_eq!(psql.debug.movable(), "yes");
    let lost = movable.lose();
    assert_eq!(psql.ask("execute q;"), ["2020-02-01"], "{}", psql.errors());
    movable.bring_back(lost);
}

#[test]
fn columns_that_another_session_changed_are_found_out() {
    let Some(movable) = Movable::up("postgres-shared", 149, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text); insert into t values (1, '7')");
    let program = Libpq::build(lab.dir.path());
    let mut debug = Debug::new(lab.dir.path());
    let environment = [("VIANET_DEBUG", &*debug.path)];
    let mut client = Libpq::start_with(lab, &program, "shm", &environment);
    client.value(lab, "select 1");
    for statement in [
        "\\prepare q select note from t where id = $1",
        "\\execute q 1",
    ] {
        debug.statement();
        client.value(lab, statement);
    }
    assert_eq!(debug.movable(), "yes");
    lab.sql("alter table t alter column note type int using note::int");
    movable.lose();
    let told = client.answer(lab, "\\execute q 1");
    assert!(
        told.starts_with("lost 57P01 ") && told.contains("state_differs"),
        "{told}"
    );
}

/// A table that is made later, and comes first in the search_path, is not the one that a statement was prepared for.
#[test]
fn a_statement_is_not_prepared_again_for_another_table() {
    let Some(movable) = Movable::up("postgres-shared", 153, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table public.t (id int); insert into public.t values (1)");
    let mut psql = Psql::start(lab);
    psql.ask("prepare q as select id from t;");
    psql.ask("prepare i (int) as insert into t values ($1);");
    assert_eq!(psql.debug.movable(), "yes");
    let lost = movable.lose();
    assert_eq!(psql.ask("execute q;"), ["1"], "{}", psql.errors());
    assert_eq!(psql.debug.movable(), "yes");
    movable.bring_back(lost);
    lab.sql("create schema app; create function public.f() returns int language sql as 'select 1'");
    let mut other = Psql::start(lab);
    other.ask("prepare f as select f();");
    assert_eq!(other.debug.movable(), "yes");
    lab.sql(
        "create table app.t (id int); create function app.f() returns int language sql as 'select 2'",
    );
    movable.lose();
    for (mut psql, execute) in [(psql, "execute q;"), (other, "execute f;")] {
        psql.tell(execute);
        let (code, errors) = psql.end();
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains("state_differs"), "{errors}");
    }
}

#[test]
fn what_a_library_keeps_by_itself_is_not_lost() {
    let Some(movable) = Movable::up("postgres-shared", 150, &["--trust"]) else {
        return;
    };
    movable.lab.sql("create extension isn");
    let mut psql = Psql::start(&movable.lab);
    assert_eq!(psql.ask("select isn_weak(true);"), ["t"]);
    assert_eq!(psql.debug.movable(), "library");
}

#[test]
fn a_question_that_fails_leaves_nothing_in_the_session() {
    let Some(movable) = Movable::up("postgres-shared", 151, &["--trust"]) else {
        return;
    };
    let mut psql = Psql::start(&movable.lab);
    psql.ask("set app.x = '\u{2603}';");
    // It cannot be told in this encoding.
    psql.ask("set client_encoding = 'LATIN1';");
    assert_eq!(psql.debug.movable(), "unknown_state");
    psql.ask("set client_encoding = 'UTF8';");
    assert_eq!(psql.debug.movable(), "yes");
    let left = "select count(*) from pg_prepared_statements;";
    assert_eq!(psql.ask(left), ["0"]);
    assert_eq!(psql.debug.movable(), "yes");
    let lost = movable.lose();
    assert_eq!(psql.ask(left), ["0"]);
    assert_eq!(psql.ask("show app.x;"), ["\u{2603}"]);
    movable.bring_back(lost);
}

/// What was acknowledged before the standby had it is lost with its server, and a session that has committed it says so.
#[test]
fn a_session_does_not_move_to_a_server_that_lacks_its_commits() {
    let Some(movable) = Movable::up("postgres", 152, &["--trust"]) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text)");
    let (mut writes, mut reads) = (Psql::start(lab), Psql::start(lab));
    assert_eq!(reads.ask("select 'reads';"), ["reads"]);
    writes.ask("set synchronous_commit = local;");
    lab.good(&["freeze", "node-b", "--only", "server"]);
    // More than what is on the way to the standby already.
    writes.ask("insert into t select i, repeat('x', 1000) from generate_series(1, 50000) i;");
    assert_eq!(writes.ask("select count(*) from t;"), ["50000"]);
    assert_eq!(writes.debug.movable(), "yes");
    lab.good(&["kill", "node-a"]);
    lab.good(&["thaw", "node-b", "--only", "server"]);
    lab.wait_until_active("node-b");
    assert_eq!(
        reads.ask("select count(*) from t;"),
        ["0"],
        "{}",
        reads.errors()
    );
    writes.tell("select 'it ran';");
    let (code, errors) = writes.end();
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("data_loss"), "{errors}");
}
