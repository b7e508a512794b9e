//! The server extension `vianet` in a real PostgreSQL: each kind of state that a session can have is seen, and what it has not is
//! not.
//!
//! Skipped, with a line that says so, where PostgreSQL or its server headers are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;
#[path = "server_ext/server.rs"]
mod server;
#[path = "server_ext/settings.rs"]
mod settings;

use server::{Row, server, three};
use vianet_node::pg::wire;

/// Runs a test with the server, where there is one.
macro_rules! with_server {
    ($server:ident) => {
        let Some($server) = server() else {
            return;
        };
    };
}
use with_server;

#[test]
fn a_fresh_session_has_nothing() {
    with_server!(server);
    let mut app = server.app();
    assert_eq!(app.state(), []);
    assert_eq!(app.of_kind("authenticated"), [three("", "app", "")]);
    assert_eq!(app.of_kind("role"), [three("", "none", "default")]);
    assert_eq!(
        app.of_kind("session_authorization"),
        [three("", "app", "override")]
    );
}

#[test]
fn role_and_session_authorization() {
    with_server!(server);
    let mut app = server.app();
    app.run("set role other");
    assert_eq!(app.of_kind("role"), [three("", "other", "session")]);
    app.run("begin; set local role none");
    app.run("rollback");
    assert_eq!(app.of_kind("role"), [three("", "other", "session")]);
    app.run("select pg_catalog.set_config('ro' || 'le', 'none', false)");
    assert_eq!(app.of_kind("role")[0][1], "none");

    let mut root = server.superuser();
    root.run("create role \"re named\"");
    root.run("set session authorization app");
    root.run("set role other");
    assert_eq!(root.of_kind("authenticated"), [three("", "postgres", "")]);
    assert_eq!(
        root.of_kind("session_authorization"),
        [three("", "app", "session")]
    );
    assert_eq!(root.of_kind("role"), [three("", "other", "session")]);
    root.run("reset session authorization");
    assert_eq!(root.of_kind("session_authorization")[0][1], "postgres");
    // The present name counts.
    root.run("set role \"re named\"");
    let number = |root: &mut server::Session| {
        let role = root
            .whole_state("")
            .into_iter()
            .find(|row| row.kind == "role");
        role.map(|row| row.types)
    };
    let before = number(&mut root);
    assert_ne!(before.as_deref(), Some("{0}"));
    server
        .superuser()
        .run("alter role \"re named\" rename to \"again é\"");
    assert_eq!(root.of_kind("role")[0][1], "again é");
    assert_eq!(number(&mut root), before);
    root.run("reset role");
    root.run("drop role \"again é\"");
}

fn prepared(rows: Vec<Row>) -> Vec<[String; 4]> {
    let mut rows: Vec<_> = rows
        .into_iter()
        .filter(|row| row.kind == "prepared")
        .map(|row| {
            [
                row.name,
                row.value.unwrap_or("NULL".into()),
                row.source,
                row.types,
            ]
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn prepared_statements() {
    with_server!(server);
    let mut app = server.app();
    app.run("prepare alone (int, text) as select $1, $2");
    app.parse("by protocol", " select $1 + 1, $2::text ; ", &[20, 0]);
    app.parse("empty", "-- nothing", &[]);
    // The unnamed one is not in the server's list.
    app.parse("", "select 1", &[]);
    let long = format!("select '{}'", "é".repeat(50_000));
    app.parse("long", &long, &[]);
    let alone = "prepare alone (int, text) as select $1, $2";
    assert_eq!(
        prepared(app.state()),
        [
            ["alone", alone, "sql", "{23,25}"],
            [
                "by protocol",
                "select $1 + 1, $2::text ",
                "protocol",
                "{20,25}"
            ],
            ["empty", "-- nothing", "protocol", "{}"],
            ["long", &long, "protocol", "{}"],
        ]
    );
    assert_eq!(
        app.of_kind("result")[..2],
        [
            three("alone", "\"?column?\" 23 -1, \"?column?\" 25 -1", ""),
            three("by protocol", "\"?column?\" 20 -1, text 25 -1", ""),
        ]
    );
    app.run("deallocate all");
    assert_eq!(prepared(app.state()), [[""; 4]; 0]);
}

/// What the server keeps is the whole query string; to run that again would insert again.
#[test]
fn a_statement_prepared_in_a_batch_is_given_alone() {
    with_server!(server);
    let mut app = server.app();
    app.run("create temp table t (i int)");
    app.run(
        "insert into t values (length('é;')); /* ; */ prepare a as select 'é;' ; \
         prepare b as insert into t values (1);;\nselect 3",
    );
    app.run("do $$ begin execute 'prepare c as select 1; select 2'; end $$");
    app.run("do $$ begin execute ' prepare d as select 1 ;'; end $$");
    app.run(" ; ; prepare e as select 5");
    let expected = [
        ["a", "/* ; */ prepare a as select 'é;' ", "batch", "{}"],
        ["b", "prepare b as insert into t values (1)", "batch", "{}"],
        ["c", "prepare c as select 1", "batch", "{}"],
        ["d", "prepare d as select 1 ", "sql", "{}"],
        ["e", "prepare e as select 5", "sql", "{}"],
    ];
    let rows = app.state();
    assert_eq!(prepared(rows.clone()), expected);
    // Each can be prepared again from what is given.
    app.run("deallocate all");
    for row in &rows {
        if row.kind == "prepared" {
            app.run(row.value.as_ref().unwrap());
        }
    }
    assert_eq!(prepared(app.state()).len(), expected.len());
    assert_eq!(
        app.run("select count(*) from t")[0][0].as_deref(),
        Some("1")
    );
}

#[test]
fn channels() {
    with_server!(server);
    let mut app = server.app();
    app.run("listen news");
    app.run("do $$ begin execute 'listen \"Ne ws\"'; end $$");
    app.run("begin; listen never");
    app.run("rollback");
    assert_eq!(
        app.of_kind("listen"),
        [three("Ne ws", "NULL", ""), three("news", "NULL", "")]
    );
    app.run("unlisten news");
    assert_eq!(app.of_kind("listen").len(), 1);
    app.run("unlisten *");
    assert_eq!(app.state(), []);
}

#[test]
fn temporary_objects_of_every_kind() {
    with_server!(server);
    let mut app = server.app();
    let cases = [
        ("create temp table t (i int primary key)", "table", "t"),
        ("create temp view v as select 1", "view", "v"),
        ("create temp sequence s", "sequence", "s"),
        ("create type pg_temp.y as enum ('a')", "type", "y"),
        ("create type pg_temp.c as (i int)", "type", "c"),
        (
            "create function pg_temp.f() returns int language sql return 1",
            "function",
            "f()",
        ),
        (
            "create operator pg_temp.@+ (leftarg = int, rightarg = int, function = pg_catalog.int4pl)",
            "operator",
            "@+(integer,integer)",
        ),
        ("create temp table pg_class (i int)", "table", "pg_class"),
    ];
    for (sql, kind, name) in cases {
        app.run(sql);
        let mut rows = app.of_kind("temporary");
        // Some are named by the schema's own name, `pg_temp_N`.
        let (schema, rest) = rows[0][0].split_once('.').unwrap();
        assert!(schema.starts_with("pg_temp"), "{sql}: {rows:?}");
        rows[0][0] = rest.to_owned();
        assert_eq!(rows, [three(name, kind, "")], "{sql}");
        app.run("discard temp");
        assert_eq!(app.of_kind("temporary"), [[""; 3]; 0], "{sql}");
    }
    // Gone with its transaction, and not there after a rollback.
    app.run("begin; create temp table t (i int) on commit drop; commit");
    app.run("begin; create temp table u (i int); rollback");
    assert_eq!(app.state(), []);
}

#[test]
fn another_sessions_temporary_objects_and_locks_are_not_ours() {
    with_server!(server);
    let (mut app, mut other) = (server.app(), server.app());
    other.run("create temp table t (i int)");
    other.run("select pg_advisory_lock(77)");
    other.run("listen x; prepare p as select 1");
    other.run("declare c cursor with hold for select 1");
    other.run("set app.x = 'y'");
    assert_eq!(app.state(), []);
}

#[test]
fn advisory_locks() {
    with_server!(server);
    let mut app = server.app();
    app.run("begin; select pg_advisory_xact_lock(5)");
    assert_eq!(
        app.of_kind("advisory"),
        [three("5", "ExclusiveLock", "")],
        "whose it is cannot be told here"
    );
    assert_eq!(app.of_kind("transaction").len(), 1);
    app.run("commit");
    assert_eq!(app.state(), []);
    app.run("select pg_advisory_lock(-6000000000)");
    app.run("select pg_advisory_lock_shared(-7, 8), pg_advisory_lock_shared(-7, 8)");
    app.run("select pg_try_advisory_lock(-7, 8)");
    assert_eq!(
        app.of_kind("advisory"),
        [
            three("-6000000000", "ExclusiveLock", "session"),
            three("-7,8", "ExclusiveLock", "session"),
            three("-7,8", "ShareLock", "session"),
        ]
    );
    app.run("select pg_advisory_unlock_all()");
    assert_eq!(app.state(), []);
    // So many that every partition of the lock table has some.
    app.run("select count(pg_advisory_lock(i)) from generate_series(1, 200) i");
    assert_eq!(app.of_kind("advisory").len(), 200);
}

#[test]
fn holdable_cursors() {
    with_server!(server);
    let mut app = server.app();
    app.run("begin; declare ends cursor for select 1");
    assert_eq!(app.of_kind("cursor"), [[""; 3]; 0]);
    app.run("declare \"st ays\" cursor with hold for select 2; commit");
    app.run("begin; declare never cursor with hold for select 3; rollback");
    let rows = app.of_kind("cursor");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0][0], "st ays");
    assert!(rows[0][1].contains("select 2"), "{rows:?}");
    app.run("close all");
    assert_eq!(app.state(), []);
}

#[test]
fn libraries_slots_origins_backups() {
    with_server!(server);
    let mut root = server.superuser();
    let libraries = |s: &mut server::Session| {
        let rows = s.of_kind("library");
        rows.into_iter().map(|[name, ..]| name).collect::<Vec<_>>()
    };
    assert_eq!(libraries(&mut root), ["vianet.so"]);
    root.run("do $$ begin end $$");
    assert_eq!(libraries(&mut root), ["plpgsql.so", "vianet.so"]);
    root.run("load 'auto_explain'");
    assert!(libraries(&mut root).contains(&"auto_explain.so".into()));

    root.run("select pg_create_physical_replication_slot('lasts')");
    assert_eq!(root.state(), []);
    root.run("select pg_create_logical_replication_slot('passes', 'pgoutput', true)");
    assert_eq!(
        root.of_kind("replication_slot"),
        [three("passes", "NULL", "")]
    );
    assert_eq!(server.app().state(), [], "another one's");
    root.run("select pg_drop_replication_slot(s) from unnest(array['lasts', 'passes']) s");

    root.run("select pg_replication_origin_create('o')");
    root.run("select pg_replication_origin_session_setup('o')");
    assert_eq!(root.of_kind("replication_origin").len(), 1);
    root.run("select pg_replication_origin_session_reset()");
    root.run("select pg_replication_origin_drop('o')");

    let begin = match root.query("select pg_backup_start('b', true)") {
        Ok(_) => true,
        Err(_) => root
            .query("select pg_start_backup('b', true, false)")
            .is_ok(),
    };
    assert!(begin);
    assert_eq!(root.of_kind("backup").len(), 1);
    if root.query("select pg_backup_stop(false)").is_err() {
        root.run("select pg_stop_backup(false, false)");
    }
    assert_eq!(root.state(), []);
}

/// Whatever a session puts before the server's own names.
#[test]
fn nothing_of_the_sessions_answers_in_the_servers_place() {
    with_server!(server);
    let database = server.database();
    let mut root = server.session_in(&database, "postgres");
    root.run("create extension vianet");
    root.run("create schema evil; grant usage on schema evil to public");
    for name in [
        "pg_listening_channels",
        "pg_prepared_statement",
        "pg_cursor",
        "pg_show_all_settings",
        "session_state",
    ] {
        root.run(&format!(
            "create function evil.{name}() returns setof text language sql as 'select ''evil''::text where false'"
        ));
    }
    root.run("create function evil.no(oid, oid) returns bool language sql as 'select false'");
    root.run("create operator evil.= (leftarg = oid, rightarg = oid, function = evil.no)");
    root.run("create table evil.pg_depend (i int)");
    let mut app = server.session_in(&database, "app");
    app.run("create temp table pg_settings (name text, setting text)");
    app.run("create temp table pg_depend (i int)");
    app.run("create temp view pg_locks as select 1 where false");
    app.run("listen l; prepare p as select 1");
    app.run("declare c cursor with hold for select 1");
    app.run("select pg_advisory_lock(1)");
    app.run("set app.x to ''");
    app.run("set search_path to pg_temp, evil, pg_catalog");
    let kinds: Vec<String> = app.state().into_iter().map(|row| row.kind).collect();
    for (kind, count) in [
        ("temporary", 3),
        ("listen", 1),
        ("prepared", 1),
        ("cursor", 1),
        ("advisory", 1),
        ("setting", 2),
    ] {
        let found = kinds.iter().filter(|k| *k == kind).count();
        assert_eq!(found, count, "{kind}: {kinds:?}");
    }
}

#[test]
fn it_works_under_every_default_of_transactions() {
    with_server!(server);
    let mut writer = server.app();
    for defaults in [
        "set default_transaction_isolation = 'serializable'",
        "set default_transaction_isolation = 'repeatable read'",
        "set default_transaction_read_only = on",
        "set default_transaction_isolation = 'serializable'; set default_transaction_read_only = on; \
         set default_transaction_deferrable = on",
    ] {
        let mut app = server.app();
        app.run("listen x");
        app.run(defaults);
        assert_eq!(app.of_kind("listen").len(), 1, "{defaults}");
        // With deferrable every SELECT waits for the serializable writers there are, unless the transaction says otherwise.
        writer.run("begin isolation level serializable; create temp table if not exists w (i int)");
        app.run("begin isolation level read committed read only not deferrable");
        assert_eq!(app.of_kind("listen").len(), 1, "{defaults}");
        app.run("commit");
        writer.run("rollback");
    }
    // Its answer is the same in a transaction's every place, except after an error.
    let mut app = server.app();
    app.run("begin");
    assert_eq!(app.of_kind("transaction").len(), 1);
    app.query("select 1/0").unwrap_err();
    let refused = app.query("select * from vianet.session_state()");
    assert!(refused.unwrap_err().starts_with("25P02"));
}

#[test]
fn everybody_may_call_it_and_nobody_can_put_another_in_its_place() {
    with_server!(server);
    let database = server.database();
    let mut root = server.session_in(&database, "postgres");
    root.run("alter default privileges revoke execute on functions from public");
    root.run("create extension vianet");
    let mut app = server.session_in(&database, "app");
    assert_eq!(app.state(), []);
    let refused =
        app.query("create function vianet.session_state() returns int language sql return 1");
    assert!(refused.unwrap_err().starts_with("42501"));
    root.run("drop extension vianet");
    assert!(app.query("select vianet.session_state()").is_err());
    // A schema of that name which is somebody's is not taken over.
    root.run("create schema vianet authorization app");
    let refused = root.query("create extension vianet");
    assert!(refused.unwrap_err().starts_with("42P06"));
    root.run("drop schema vianet");
    root.run("create extension vianet");
}

/// A query that uses it in ways that it was not made for.
#[test]
fn unusual_calls() {
    with_server!(server);
    let mut app = server.app();
    app.run("listen x");
    let count = |app: &mut server::Session, sql: &str| app.run(sql)[0][0].clone().unwrap();
    let sql = "select count(*) from (select (vianet.session_state()).*) s where kind = 'listen'";
    assert_eq!(count(&mut app, sql), "1");
    let sql = "select count(*) from vianet.session_state() a, vianet.session_state(true) b \
               where a.kind = 'listen' and b.kind = 'listen'";
    assert_eq!(count(&mut app, sql), "1");
    let sql = "select count(*) from vianet.session_state(null)";
    assert_eq!(count(&mut app, sql), "0");
    app.run("set force_parallel_mode = on");
    let sql = "select count(*) from vianet.session_state() where kind = 'listen'";
    assert_eq!(count(&mut app, sql), "1");
    app.run("set work_mem = '64kB'");
    app.run("prepare long as select 1 -- ".to_owned().as_str());
    for i in 0..200 {
        app.run(&format!("prepare p{i} as select '{}'", "x".repeat(2000)));
    }
    let sql = "select sum(length(value)) from vianet.session_state() where name like 'p%' and kind = 'prepared'";
    let length: u32 = count(&mut app, sql).parse().unwrap();
    assert!(length > 400_000, "{length}");
}

/// Who may ask for verifiers, and whose.
#[test]
fn verifiers_are_for_the_daemon_alone() {
    with_server!(server);
    let database = server.database();
    let mut root = server.session_in(&database, "postgres");
    for sql in [
        "create extension vianet",
        "create role daemon login",
        "create role anybody login in role pg_read_all_data, pg_monitor",
        "grant execute on function vianet.scram_verifier(text) to daemon",
        "set password_encryption = 'scram-sha-256'",
        "create role \"with ' and é\" login password 'secret'",
        "create role late login password 'secret' valid until '2001-01-01'",
        "create role timely login password 'secret' valid until 'infinity'",
        "create role barred nologin password 'secret'",
        "create role super login superuser password 'secret'",
        "create role copier login replication password 'secret'",
        "create role bare login",
        "set password_encryption = 'md5'",
        "create role old login password 'secret'",
    ] {
        root.run(sql);
    }
    let mut daemon = server.session_in(&database, "daemon");
    // Neither a path nor operators of the caller's get into it.
    for sql in [
        "create temporary table pg_authid (rolname name, rolpassword text)",
        "create function pg_temp.starts_with(text, text) returns boolean language sql as 'select true'",
        "set search_path = pg_temp, pg_catalog",
        "set standard_conforming_strings = off",
    ] {
        daemon.run(sql);
    }
    let mut verifier = |role: &str| {
        let rows = daemon.run(&format!("select vianet.scram_verifier('{role}')"));
        rows[0][0].clone()
    };
    for role in ["with '' and é", "timely"] {
        let text = verifier(role).unwrap_or_else(|| panic!("{role}"));
        assert!(text.starts_with("SCRAM-SHA-256$4096:"), "{text}");
    }
    let long = "x".repeat(100);
    let none = [
        "late", "barred", "super", "copier", "bare", "old", "nobody", "postgres",
    ];
    for role in none.into_iter().chain(["", &long]) {
        assert_eq!(verifier(role), None, "{role}");
    }
    let rows = daemon.run("select vianet.scram_verifier(null)");
    assert_eq!(rows[0][0], None);
    assert!(
        daemon
            .query("select rolpassword from pg_catalog.pg_authid")
            .is_err()
    );
    for role in ["anybody", "app"] {
        let mut other = server.session_in(&database, role);
        let denied = other.query("select vianet.scram_verifier('timely')");
        assert!(
            denied.as_ref().is_err_and(|e| e.starts_with("42501")),
            "{denied:?}"
        );
        // Who asks for more than the daemon may.
        assert!(
            other
                .query("grant execute on function vianet.scram_verifier(text) to app")
                .is_err()
                || other
                    .query("select vianet.scram_verifier('timely')")
                    .is_err()
        );
    }
}

/// What an administrator gives away by default, of whatever superusers create, is not given away here.
#[test]
fn default_privileges_give_no_verifiers() {
    with_server!(server);
    let database = server.database();
    let mut root = server.session_in(&database, "postgres");
    for sql in [
        "create role \"re ader\" login",
        "create role granter login",
        "alter default privileges grant execute on functions to public, \"re ader\"",
        "alter default privileges grant execute on functions to granter with grant option",
        "alter default privileges grant all on schemas to public, \"re ader\", granter",
        "create extension vianet",
        "create function public.other() returns int language sql as 'select 1'",
    ] {
        root.run(sql);
    }
    for role in ["re ader", "granter", "app"] {
        let mut session = server.session_in(&database, role);
        session.run("select public.other()");
        session.run("select 1 from vianet.session_state()");
        let denied = session.query("select vianet.scram_verifier('app')");
        assert!(
            denied.as_ref().is_err_and(|e| e.starts_with("42501")),
            "{role}: {denied:?}"
        );
        let beside =
            "create function vianet.session_state() returns int language sql as 'select 1'";
        assert!(session.query(beside).is_err(), "{role}");
    }
}

/// Who can become a superuser counts as one.
#[test]
fn verifiers_of_roles_that_can_become_superusers_are_not_told() {
    with_server!(server);
    let database = server.database();
    let mut root = server.session_in(&database, "postgres");
    for sql in [
        "create extension vianet",
        "set password_encryption = 'scram-sha-256'",
        "create role boss superuser",
        "create role mirror replication",
        "create role group_of_bosses in role boss",
        "create role direct login password 'secret' in role boss",
        "create role indirect login noinherit password 'secret' in role group_of_bosses",
        "create role mirrors login password 'secret' in role mirror",
        "create role runs login password 'secret' in role pg_execute_server_program",
        "create role reads login password 'secret' in role pg_read_server_files",
        "create role writes login password 'secret' in role pg_write_server_files",
        "create role common login password 'secret' in role pg_monitor",
    ] {
        root.run(sql);
    }
    let mut verifier = |role: &str| {
        let rows = root.run(&format!("select vianet.scram_verifier('{role}')"));
        rows[0][0].clone()
    };
    for role in ["direct", "indirect", "mirrors", "runs", "reads", "writes"] {
        assert_eq!(verifier(role), None, "{role}");
    }
    assert!(verifier("common").is_some());
}

/// On both nodes, the hot standby and the promoted one included.
#[test]
fn a_lab_has_it_where_the_server_has_it() {
    let Some(installation) = pg_ext::Installation::make() else {
        return;
    };
    let bin = installation.bin.to_str().unwrap();
    let Some(lab) = pg_lab::Lab::up_with("postgres", 137, &["--pg-bin", bin]) else {
        return;
    };
    lab.wait_until_active("node-a");
    assert_eq!(lab.status()["pg_extension"], "0.1");
    let text = pg_lab::text(&lab.run(&["status"]));
    assert!(text.contains("with the extension vianet 0.1"), "{text}");
    let set = "set app.tenant = 'x'; select pg_advisory_lock(3); prepare p as select 1;";
    let ask = "select string_agg(kind || ':' || name || ':' || coalesce(value, ''), ' ' order by kind, name) \
               from vianet.session_state() where kind in ('advisory', 'prepared') \
               or kind = 'setting' and source = 'session'";
    let whole = "advisory:3:ExclusiveLock prepared:p:prepare p as select 1 setting:app.tenant:x";
    let last = |out: std::process::Output| {
        let said = String::from_utf8(out.stdout.clone()).unwrap();
        (said.lines().last()).map_or_else(|| pg_lab::text(&out), str::to_owned)
    };
    let in_two =
        |lab: &pg_lab::Lab, last: u8| lab.direct(last, "app", &format!("{set} commit; {ask}"));
    assert_eq!(last(in_two(&lab, 11)), whole);
    assert_eq!(last(in_two(&lab, 12)), whole, "a hot standby");
    lab.good(&["kill", "node-a"]);
    lab.wait_until_active("node-b");
    assert_eq!(last(lab.psql(&format!("{set} commit; {ask}"))), whole);
}

#[test]
fn a_lab_without_it_says_so() {
    // The system's own has it where somebody installed it.
    let system = std::path::Path::new("/usr/share/postgresql");
    let has = |dir: std::fs::DirEntry| dir.path().join("extension/vianet.control").exists();
    if (std::fs::read_dir(system).into_iter().flatten().flatten()).any(has) {
        eprintln!(
            "SKIPPED: the extension is installed below {}",
            system.display()
        );
        return;
    }
    let Some(lab) = pg_lab::Lab::up("postgres-shared", 138) else {
        return;
    };
    assert!(lab.status()["pg_extension"].is_null());
    let text = pg_lab::text(&lab.run(&["status"]));
    assert!(text.contains("without the extension vianet"), "{text}");
    assert_eq!(
        lab.sql("select count(*) from pg_namespace where nspname = 'vianet'"),
        "0"
    );
}

#[test]
fn how_far_a_session_has_written() {
    with_server!(server);
    let mut app = server.superuser();
    app.run("create table written (i int)");
    let [timeline, first, _] = app.of_kind("written")[0].clone();
    assert_eq!(timeline, "1");
    let holds = |app: &mut server::Session, timeline: &str, position: &str| {
        app.run(&format!(
            "do $$ begin assert vianet.holds({timeline}, '{position}'); end $$"
        ))
    };
    holds(&mut app, "1", &first);
    app.run("select 1");
    assert_eq!(app.of_kind("written")[0][1], first);
    app.run("insert into written values (1)");
    let second = app.of_kind("written")[0][1].clone();
    assert_ne!(second, first);
    holds(&mut app, "1", &second);
    app.run("begin; insert into written values (2)");
    app.run("rollback");
    assert_eq!(app.of_kind("written")[0][1], second);
    for (timeline, position) in [
        ("2", &*first),
        ("0", &first),
        ("1", "0/0"),
        ("1", "FFFFFFFF/0"),
        ("4294967297", &first),
    ] {
        app.run(&format!(
            "do $$ begin assert not vianet.holds({timeline}, '{position}'); end $$"
        ));
    }
    app.run("drop table written");
}
