//! Settings, of every origin.

use crate::server::{self, Row, server};
use crate::with_server;

fn some(value: &str, source: &str) -> Option<[String; 2]> {
    Some([value.into(), source.into()])
}

#[test]
fn custom_settings_however_they_were_set() {
    with_server!(server);
    let mut app = server.app();
    app.run("set app.tenant = 'a b''c'");
    assert_eq!(app.setting("app.tenant"), some("a b'c", "session"));
    app.run("select set_config('app.' || chr(120), 'computed', false)");
    assert_eq!(app.setting("app.x"), some("computed", "session"));
    app.run("do $$ begin perform set_config('app.d', 'in a block', false); end $$");
    assert_eq!(app.setting("app.d"), some("in a block", "session"));
    app.run(
        "select query_to_xml('select set_con' || 'fig(''app.q'', ''1'', false)', true, true, '')",
    );
    assert_eq!(app.setting("app.q"), some("1", "session"));
    app.run("create function pg_temp.f() returns void language sql as $$ select set_config('app.f', 'é', false) $$");
    app.run("select pg_temp.f()");
    assert_eq!(app.setting("app.f"), some("é", "session"));
    app.run("set \"App.Upper\" = 'x'");
    assert_eq!(app.setting("App.Upper"), some("x", "session"));
}

/// Where a fresh session raises 42704.
#[test]
fn custom_settings_that_are_empty() {
    with_server!(server);
    let mut app = server.app();
    let fresh = app.query("select current_setting('app.x')");
    assert!(fresh.unwrap_err().starts_with("42704"));
    for (name, makes) in [
        ("app.empty", &["set app.empty = ''"][..]),
        ("app.reset", &["set app.reset = 'x'", "reset app.reset"]),
        ("app.every", &["set app.every = 'x'", "reset all"]),
        ("app.back", &["begin", "set app.back = 'x'", "rollback"]),
        (
            "app.local",
            &["begin", "set local app.local = 'x'", "commit"],
        ),
        (
            "app.sub",
            &[
                "begin",
                "savepoint s",
                "set app.sub = 'x'",
                "rollback to s",
                "commit",
            ],
        ),
    ] {
        makes.iter().for_each(|sql| drop(app.run(sql)));
        let [value, _] = app.setting(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(value, "", "{name}");
        let read = app.run(&format!("select current_setting('{name}')"));
        assert_eq!(read[0][0].as_deref(), Some(""), "{name}");
    }
}

#[test]
fn what_a_transaction_sets_for_itself_is_gone_with_it() {
    with_server!(server);
    let mut app = server.app();
    app.run("set work_mem = '5MB'");
    app.run("begin; set local work_mem = '6MB'; set local statement_timeout = 77");
    assert_eq!(app.setting("work_mem"), some("6144", "session"));
    assert_eq!(app.setting("statement_timeout"), some("77", "session"));
    app.run("commit");
    assert_eq!(app.setting("work_mem"), some("5120", "session"));
    assert_eq!(app.setting("statement_timeout"), None);
    app.run("begin; set work_mem = '7MB'; rollback");
    assert_eq!(app.setting("work_mem"), some("5120", "session"));
    app.run("reset work_mem");
    // The transaction's own, which every one begins with anew.
    app.run("begin isolation level serializable read only deferrable");
    let kinds: Vec<Row> = app.state();
    assert_eq!(kinds.len(), 1, "{kinds:?}");
    app.run("commit");
    assert_eq!(app.state(), []);
}

#[test]
fn settings_say_where_they_come_from() {
    with_server!(server);
    let database = server.database();
    let mut root = server.session_in(&database, "postgres");
    root.run("create extension vianet");
    root.run("create role sources login");
    root.run("alter role sources set work_mem = '1MB'");
    root.run(&format!("alter database {database} set lock_timeout = 5"));
    root.run(&format!(
        "alter role sources in database {database} set db.role = 'both'"
    ));
    let options = [
        ("options", "-c client.x=1 -c statement_timeout=6s"),
        ("DateStyle", "German"),
        ("application_name", "a"),
        ("database", &*database),
    ];
    let mut session = server.session("sources", &options);
    for (name, value, source) in [
        ("work_mem", "1024", "user"),
        ("lock_timeout", "5", "database"),
        ("db.role", "both", "database user"),
        ("client.x", "1", "client"),
        ("statement_timeout", "6000", "client"),
        ("DateStyle", "German, DMY", "client"),
        ("application_name", "a", "client"),
        ("from.file", "the server's", "configuration file"),
    ] {
        assert_eq!(session.setting(name), some(value, source), "{name}");
    }
    session.run("set work_mem = '1MB'");
    assert_eq!(session.setting("work_mem"), some("1024", "session"));
    // What a later ALTER ROLE says is not this session's.
    root.run("alter role sources set work_mem = '2MB'");
    session.run("reset work_mem");
    assert_eq!(session.setting("work_mem"), some("1024", "user"));
    drop(session);
    root.run("drop owned by sources");
    root.run("drop role sources");
}

/// All that pg_settings shows and a session can have for itself, and no other; the values are those that it has.
#[test]
fn everything_is_what_pg_settings_shows() {
    with_server!(server);
    for mut session in [server.app(), server.superuser()] {
        session.run("set random_page_cost = 1.5; set app.x = 'not in pg_settings'");
        let shown = session.run(
            "select name, setting, source, vartype from pg_settings where context in ('user', 'superuser', 'backend', \
             'superuser-backend') and name not in ('transaction_isolation', 'transaction_read_only', \
             'transaction_deferrable') order by name collate \"C\"",
        );
        let mut rows = session.whole_state("true");
        rows.retain(|row| row.kind == "setting" && !["app.x", "from.file"].contains(&&*row.name));
        rows.sort();
        assert!(shown.len() > 150, "{}", shown.len());
        let names = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>();
        assert_eq!(
            names(&mut rows.iter().map(|r| r.name.clone())),
            names(&mut shown.iter().map(|r| r[0].clone().unwrap())),
        );
        for (row, shown) in rows.iter().zip(&shown) {
            let [_, value, source, kind] = shown.as_slice() else {
                panic!()
            };
            assert_eq!(Some(&row.source), source.as_ref(), "{}", row.name);
            let same = match kind.as_deref() {
                Some("real") => {
                    let number = |v: &Option<String>| v.as_ref().unwrap().parse::<f64>().unwrap();
                    (number(&row.value) - number(value)).abs() <= 1e-4 * number(value).abs()
                }
                _ => row.value == *value,
            };
            assert!(same, "{row:?} is shown as {value:?}");
        }
    }
}

/// What is given, given to `set_config` in another session, makes the same state.
#[test]
fn what_is_given_can_be_set_again() {
    with_server!(server);
    let mut app = server.app();
    for sql in [
        "set random_page_cost = 1.2345678901234567",
        "set seq_page_cost = 1e-300",
        "set search_path = \"a, b\", 'C', pg_catalog",
        "set time zone interval '+02:30' hour to minute",
        "set datestyle = 'SQL, DMY'",
        "set bytea_output = 'escape'",
        "set statement_timeout = '1min'",
        "set work_mem = '1GB'",
        "set default_transaction_isolation = 'repeatable read'",
        "set application_name = 'é \\ ''x'''",
        "set client_min_messages = 'error'",
        "set enable_seqscan = off",
        "set xmloption = document",
        "set intervalstyle = 'iso_8601'",
        "set temp_buffers = '1600kB'",
        "set default_text_search_config = 'simple'",
        "set session characteristics as transaction read only deferrable",
        "set app.list = 'a, b'",
        "set app.empty = ''",
    ] {
        app.run(sql);
    }
    let settings = |s: &mut server::Session| {
        let mut rows = s.whole_state("");
        rows.retain(|row| row.kind == "setting" && row.name != "from.file");
        rows.sort();
        rows
    };
    let before = settings(&mut app);
    assert!(before.len() > 18, "{before:?}");
    // SHOW rounds it.
    let exact = before.iter().find(|row| row.name == "random_page_cost");
    let exact: f64 = exact.unwrap().value.as_ref().unwrap().parse().unwrap();
    assert_eq!(exact.to_bits(), 1.2345678901234567_f64.to_bits());
    let mut again = server.app();
    for row in &before {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let value = quoted(row.value.as_ref().unwrap());
        let name = quoted(&row.name);
        again.run(&format!(
            "select pg_catalog.set_config({name}, {value}, false)"
        ));
    }
    assert_eq!(settings(&mut again), before);
    let zone = "select '2020-01-01 00:00+00'::timestamptz";
    assert_eq!(app.run(zone), again.run(zone));
}

/// What a role may not see is not shown; that the session has set it is.
#[test]
fn settings_of_superusers() {
    with_server!(server);
    let all = |s: &mut server::Session| s.whole_state("true");
    let secret = |rows: &[Row]| {
        let found = rows.iter().find(|row| row.name == "dynamic_library_path");
        found.map(|row| row.value.clone())
    };
    assert_eq!(secret(&all(&mut server.app())), None);
    let mut root = server.superuser();
    assert_eq!(secret(&all(&mut root)), Some(Some("$libdir".into())));
    root.run("set dynamic_library_path = '$libdir:/secret'");
    assert_eq!(
        secret(&all(&mut root)),
        Some(Some("$libdir:/secret".into()))
    );
    root.run("set role other");
    assert_eq!(secret(&all(&mut root)), Some(None));
    assert_eq!(
        root.setting("dynamic_library_path"),
        some("NULL", "session")
    );
}

/// The seed of random() can be set and not be read.
#[test]
fn a_setting_that_cannot_be_read_is_known_to_be_set() {
    with_server!(server);
    let mut app = server.app();
    app.run("set seed = 0.5");
    assert_eq!(app.setting("seed"), some("NULL", "session"));
}
