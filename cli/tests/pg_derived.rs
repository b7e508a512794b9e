//! PostgreSQL sessions on servers that lack our extension: what they have become is derived from the catalogs, and those that may have
//! set something unseen stay. `VIANET_TEST_TIMES` says how many failovers each test makes.
//!
//! Skipped, with a line that says so, where PostgreSQL or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;
#[path = "pg_lab/psql.rs"]
mod psql;

use pg_lab::Libpq;
use psql::{Debug, Movable, Psql, times};

const STATE: &str = "select current_setting('search_path'), current_setting('TimeZone'), \
     current_setting('app.tenant'), current_setting('app.empty'), current_setting('role'), \
     current_setting('work_mem'), current_setting('statement_timeout');";

fn psql_goes_on(engine: &str, subnet: u8) {
    let Some(movable) = Movable::without_extension(engine, subnet, "") else {
        return;
    };
    movable.lab.sql(
        "create table t (id int, note text, tenant text default current_setting('app.tenant')); \
         alter table t enable row level security; alter table t force row level security; \
         create policy p on t using (tenant = current_setting('app.tenant')); \
         create function twice(i int) returns int language sql as 'select 2 * i'",
    );
    let mut psql = Psql::start(&movable.lab);
    for statement in [
        "set search_path = public, pg_catalog",
        "set timezone = 'Asia/Kathmandu'",
        "select set_config('app.tenant', '42', false)",
        "begin\\; set app.empty = 'x'\\; rollback",
        "set role app",
        "set work_mem = '7MB'",
        "set statement_timeout = '77s'",
        "prepare q (int) as select note from t where id = $1",
        "insert into t values (1, 'before')",
        "select twice(2)",
    ] {
        psql.ask(&format!("{statement};"));
    }
    let before = psql.ask(STATE);
    assert_eq!(
        before,
        ["public, pg_catalog|Asia/Kathmandu|42||app|7MB|77s"]
    );
    for round in 0..times() {
        assert_eq!(psql.debug.movable(), "yes", "{}", psql.debug.text());
        assert!(psql.debug.text().contains(": state: derived"));
        let lost = movable.lose();
        let after = psql.ask(STATE);
        assert_eq!(before, after, "round {round}\n{}", psql.errors());
        assert_eq!(psql.ask("execute q (1);"), ["before"], "{}", psql.errors());
        let id = round + 2;
        psql.ask(&format!("insert into t values ({id}, 'after');"));
        assert_eq!(psql.ask(&format!("execute q ({id});")), ["after"]);
        // The last to be asked is the state again, as it is after a move.
        assert_eq!(psql.ask(STATE), before);
        movable.bring_back(lost);
    }
    let rows = psql.ask("select count(*), count(distinct id) from t;");
    assert_eq!(rows, [format!("{0}|{0}", times() + 1)]);
    assert_eq!(psql.end(), (Some(0), String::new()));
}

#[test]
fn psql_goes_on_on_the_standby_as_if_nothing_had_happened() {
    psql_goes_on("postgres", 160);
}

#[test]
fn psql_goes_on_at_the_other_node_of_a_shared_server() {
    psql_goes_on("postgres-shared", 161);
}

#[test]
fn what_a_libpq_program_has_prepared_goes_on() {
    let Some(movable) = Movable::without_extension("postgres-shared", 162, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text); insert into t values (1, 'one'), (2, 'two')");
    let program = Libpq::build(lab.dir.path());
    for transport in ["shm", "tcp"] {
        let mut debug = Debug::new(lab.dir.path());
        let environment = [("VIANET_DEBUG", &*debug.path)];
        let mut client = Libpq::start_with(lab, &program, transport, &environment);
        client.value(lab, "set application_name = 'moves'");
        let mut value = |debug: &mut Debug, statement: &str| {
            debug.statement();
            client.value(lab, statement)
        };
        for statement in [
            "\\prepare q select note from t where id = $1",
            "\\prepare - select note || '!' from t where id = $1",
        ] {
            value(&mut debug, statement);
        }
        // The name of a setting is a parameter here.
        value(
            &mut debug,
            "\\params app.tenant select set_config($1, '42', false)",
        );
        value(
            &mut debug,
            "\\prepare - select note || '!' from t where id = $1",
        );
        for _ in 0..times() {
            assert_eq!(value(&mut debug, "\\execute - 2"), "two!");
            assert_eq!(debug.movable(), "yes", "{}", debug.text());
            let lost = movable.lose();
            // The unnamed one first: another statement would take its place.
            assert_eq!(value(&mut debug, "\\execute - 1"), "one!");
            assert_eq!(value(&mut debug, "\\execute q 2"), "two");
            assert_eq!(value(&mut debug, "show app.tenant"), "42");
            assert_eq!(value(&mut debug, "show application_name"), "moves");
            value(
                &mut debug,
                "\\prepare - select note || '!' from t where id = $1",
            );
            movable.bring_back(lost);
        }
    }
}

#[test]
fn a_session_that_may_have_set_something_unseen_is_told_why() {
    let Some(movable) = Movable::without_extension("postgres-shared", 163, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql(
        "create function hidden() returns void language plpgsql as \
         $$ begin perform set_config('app.' || 'x', '1', false); end $$; \
         create function calls() returns void language plpgsql as 'begin perform now(); end'; \
         create table t (id int, note text)",
    );
    for round in 0..times() {
        for (statement, reason, about) in [
            ("create temporary table mine (id int);", "temporary", ""),
            ("select pg_advisory_lock(42);", "advisory_lock", ""),
            (
                "declare c cursor with hold for select 1;",
                "holdable_cursor",
                "",
            ),
            ("listen channel;", "listens", ""),
            (
                "prepare a as select 1\\; select 2;",
                "prepared_in_batch",
                "",
            ),
            ("set cursor_tuple_fraction = 0.123456789;", "unreadable", ""),
            ("set tcp_keepalives_idle = 77;", "unreadable", ""),
            ("do $$ begin set app.x = '1'; end $$;", "do_block", ""),
            // It fails, and leaves an empty one.
            (
                "do $$ begin perform set_config('app.' || 'y', '1', false); perform 1 / 0; end $$;",
                "do_block",
                "",
            ),
            (
                "select set_config('app.' || 'x', '1', false);",
                "dynamic_sql",
                "the name of a setting",
            ),
            (
                "select query_to_xml('select set_' || 'config(''app.x'', ''1'', false)', true, false, '');",
                "dynamic_sql",
                "query_to_xml",
            ),
            ("select hidden();", "function", "public.hidden"),
            (
                "create view v as select 1;\ndrop view v;",
                "objects_changed",
                "view",
            ),
            (
                "prepare s as select note from t;\nset random_page_cost = 2;",
                "unreadable",
                "",
            ),
        ] {
            let mut psql = Psql::start(lab);
            for statement in statement.lines() {
                psql.ask(statement);
            }
            assert_eq!(
                psql.debug.movable(),
                reason,
                "{statement}: {}",
                psql.errors()
            );
            assert!(psql.debug.text().contains(about), "{about}");
            if round > 0 || !["do_block", "function", "dynamic_sql"].contains(&reason) {
                continue;
            }
            let lost = movable.lose();
            psql.tell("select 'it ran';");
            let (code, errors) = psql.end();
            assert_eq!(code, Some(2), "{errors}");
            for part in [
                "FATAL:  terminating connection: the server was lost",
                reason,
                about,
            ] {
                assert!(errors.contains(part), "{round} {reason}: {errors}");
            }
            movable.bring_back(lost);
        }
        // What nobody calls is in nobody's way.
        let mut psql = Psql::start(lab);
        psql.ask("select calls();");
        assert_eq!(psql.debug.movable(), "yes", "{}", psql.debug.text());
    }
    // What a function was when it was called is not known once it is changed; to a session that ran nothing it is all the same.
    let (mut idle, mut busy) = (Psql::start(lab), Psql::start(lab));
    for psql in [&mut idle, &mut busy] {
        psql.ask("prepare q as select calls();");
        assert_eq!(psql.debug.movable(), "yes");
    }
    busy.ask("execute q;");
    assert_eq!(busy.debug.movable(), "yes");
    lab.sql("create or replace function calls() returns void language plpgsql as 'begin end'");
    busy.ask("execute q;");
    assert_eq!(busy.debug.movable(), "objects_changed");
    let lost = movable.lose();
    assert_eq!(idle.ask("execute q;"), [""], "{}", idle.errors());
    movable.bring_back(lost);
    // Where something else than a text may call it, it is.
    lab.sql("alter table t add column x text default hidden()::text");
    let mut psql = Psql::start(lab);
    psql.ask("select 1;");
    assert_eq!(psql.debug.movable(), "function");
}

/// Each sets `app.x` where no text of the session says so.
const HIDDEN: &[(&str, &str)] = &[
    (
        "create function s.f() returns text language sql as $$ select set_config('app.x', '1', false) $$",
        "select s.f();",
    ),
    (
        "create function s.f() returns text begin atomic select set_config('app.x', '1', false); end",
        "select s.f();",
    ),
    (
        "create function s.f() returns int language plpgsql as $$ begin set app.x = '1'; return 1; end $$",
        "select s.f();",
    ),
    (
        "create table s.t (id int); insert into s.t values (1); \
         create function s.f() returns int language plpgsql as $$ declare r record; begin \
         for r in select * from s.t for update nowait loop set app.x = '1'; end loop; return 1; end $$",
        "select s.f();",
    ),
    (
        "create function s.f() returns int language plpgsql as $$ begin \
         -- update\n /* t */ set app.x = '1'; return 1; end $$",
        "select s.f();",
    ),
    (
        "create function s.f() returns int language plpgsql as $$ begin \
         perform 1 as \"x update \"; set app.x = '1'; perform 2 as \" set y\"; return 1; end $$",
        "select s.f();",
    ),
    (
        "create function s.f() returns int language plpgsql as $$ begin \
         execute 's' || 'et app.x = 1'; return 1; end $$",
        "select s.f();",
    ),
    (
        "create function s.g() returns text language sql as $$ select set_config('app.x', '1', false) $$; \
         create function s.f() returns text language plpgsql as $$ begin return s.\"g\"(); end $$",
        "select s.f();",
    ),
    (
        "create function s.f(a int, b int) returns text language sql as $$ select set_config('app.x', '1', false) $$; \
         create operator s.%% (leftarg = int, rightarg = int, function = s.f)",
        "select 1 operator(s.%%) 2;",
    ),
    (
        "create function s.f(a text, b text) returns text language sql as $$ select set_config('app.x', '1', false) $$; \
         create aggregate s.a (text) (sfunc = s.f, stype = text)",
        "select s.a('x');",
    ),
    (
        "create aggregate s.a (text, bool) (sfunc = set_config, stype = text, initcond = 'app.x')",
        "select s.a('1', false);",
    ),
    (
        "create function s.f() returns trigger language plpgsql as \
         $$ begin perform set_config('app.x', '1', false); return new; end $$; create table s.t (id int); \
         create trigger g before insert on s.t for each row execute function s.f()",
        "insert into s.t values (1);",
    ),
    (
        "create table s.t (id int, x text default set_config('app.x', '1', false))",
        "insert into s.t values (1);",
    ),
    (
        "create view s.v as select set_config('app.x', '1', false)",
        "select * from s.v;",
    ),
    (
        "create table s.t (id int); \
         create rule r as on insert to s.t do also select set_config('app.x', '1', false)",
        "insert into s.t values (1);",
    ),
    (
        "create table s.t (id int); insert into s.t values (1); alter table s.t enable row level security; \
         alter table s.t force row level security; \
         create policy p on s.t using (set_config('app.x', '1', false) is not null)",
        "select * from s.t;",
    ),
    (
        "create domain s.d as int check (set_config('app.x', '1', false) is not null)",
        "select 1::s.d;",
    ),
    (
        "create view s.v as select * from pg_settings",
        "update s.v set setting = '100' where name = 'work_mem';",
    ),
    (
        "create procedure s.p() language plpgsql as $$ begin perform set_config('app.x', '1', false); commit; end $$",
        "call s.p();",
    ),
    (
        "create function s.\"odd \"\"name\"() returns text language sql as $$ select set_config('app.x', '1', false) $$; \
         create function s.f() returns text language sql as 'select s.\"odd \"\"name\"()'",
        "select s.f();",
    ),
    (
        "create function s.\"Gro\u{df}\"() returns text language sql as $$ select set_config('app.x', '1', false) $$",
        "select s.\"Gro\u{df}\"();",
    ),
    (
        "create operator s.~> (leftarg = tsquery, rightarg = text, function = ts_rewrite)",
        "select 'a'::tsquery operator(s.~>) \
         ('select ''a''::tsquery, plainto_tsquery(set_con' || 'fig(''app.x'', ''1'', false))');",
    ),
];

#[test]
fn whatever_sets_something_behind_a_statement_is_found_out() {
    let Some(movable) = Movable::without_extension("postgres-shared", 169, "") else {
        return;
    };
    let lab = &movable.lab;
    for (setup, statement) in HIDDEN {
        lab.sql(&format!("create schema s; {setup}"));
        let mut psql = Psql::start(lab);
        psql.ask(statement);
        assert_eq!(psql.errors(), "", "{statement}");
        assert_eq!(
            psql.debug.movable(),
            "function",
            "{setup}: {}",
            psql.debug.text()
        );
        lab.sql("drop schema s cascade");
    }
    // It was there.
    let mut psql = Psql::start(lab);
    psql.ask("select 1;");
    assert_eq!(psql.debug.movable(), "yes");
}

#[test]
fn functions_that_are_trusted_and_names_that_are_configured_are_known() {
    let settings = "trusted_functions = [\"public.settles\"]\ncustom_settings = [\"app.hidden\"]";
    let Some(movable) = Movable::without_extension("postgres-shared", 164, settings) else {
        return;
    };
    let lab = &movable.lab;
    lab.sql(
        "create function settles(value text) returns void language plpgsql as \
         $$ begin perform set_config('app.' || 'hidden', value, false); end $$; \
         create function other() returns void language plpgsql as $$ begin execute 'select 1'; end $$",
    );
    for _ in 0..times() {
        let mut psql = Psql::start(lab);
        psql.ask("select settles('42');");
        assert_eq!(psql.debug.movable(), "yes", "{}", psql.debug.text());
        let lost = movable.lose();
        assert_eq!(
            psql.ask("select current_setting('app.hidden');"),
            ["42"],
            "{}",
            psql.errors()
        );
        movable.bring_back(lost);
        psql.ask("select other();");
        assert_eq!(psql.debug.movable(), "function");
        psql.ask("select 1;");
        assert_eq!(psql.debug.movable(), "function");
    }
}

/// Whatever of ours is run in such a session means what it says.
#[test]
fn settings_that_change_what_statements_mean_are_carried_over() {
    let Some(movable) = Movable::without_extension("postgres", 165, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql(
        "create schema evil; \
         create function evil.no(oid, oid) returns bool language sql as 'select false'; \
         create function evil.no(text, text) returns bool language sql as 'select false'; \
         create operator evil.= (leftarg = oid, rightarg = oid, function = evil.no); \
         create operator evil.= (leftarg = text, rightarg = text, function = evil.no); \
         create function evil.set_config(text, text, bool) returns text language sql as 'select null'; \
         create function evil.concat(text, text) returns text language sql as 'select null'; \
         create table evil.pg_proc (oid oid, prolang oid); create table evil.pg_prepared_statements (id int)",
    );
    let mut psql = Psql::start(lab);
    for statement in [
        "set search_path = evil, pg_catalog, public",
        "set client_encoding = 'LATIN1'",
        "set app.name = 'Z\u{fc}rich ''in quotes'' \\ \"and\" more'",
        "set standard_conforming_strings = off",
        "set backslash_quote = off",
        "set quote_all_identifiers = on",
        "set datestyle = 'German'",
        "set intervalstyle = 'sql_standard'",
        "set extra_float_digits = -3",
        "set array_nulls = off",
        "set bytea_output = 'escape'",
        "set default_transaction_read_only = on",
        "set default_transaction_isolation = 'serializable'",
        "set row_security = off",
        "set lc_messages = 'C'",
        "set default_transaction_read_only = off",
        "set session characteristics as transaction deferrable",
        "set transform_null_equals = on",
    ] {
        psql.ask(&format!("{statement};"));
    }
    let all = "select name, setting, source from pg_catalog.pg_settings where context in ('user', 'superuser') \
               and name !~ '^transaction|tcp' order by 1;";
    let before = (psql.ask(all), psql.ask("show app.name;"));
    for round in 0..times() {
        assert_eq!(psql.debug.movable(), "yes", "{}", psql.debug.text());
        let lost = movable.lose();
        let after = (psql.ask(all), psql.ask("show app.name;"));
        let differ: Vec<_> = before
            .0
            .iter()
            .zip(&after.0)
            .filter(|(a, b)| a != b)
            .collect();
        assert_eq!(before, after, "{round}: {differ:?} {}", psql.errors());
        movable.bring_back(lost);
    }
}

#[test]
fn a_statement_is_not_prepared_again_for_another_table_or_other_columns() {
    let Some(movable) = Movable::without_extension("postgres-shared", 166, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table public.t (id int, note text); insert into public.t values (1, '7'); create schema app");
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
    assert_eq!(debug.movable(), "yes", "{}", debug.text());
    let (mut other, mut third) = (Psql::start(lab), Psql::start(lab));
    other.ask("prepare i (int) as insert into t values ($1);");
    assert_eq!(other.debug.movable(), "yes");
    third.ask("prepare q as select count(*) from t;");
    assert_eq!(third.debug.movable(), "yes");
    lab.sql(
        "alter table t alter column note type int using note::int; \
         create table app.t (id int, note int)",
    );
    // That one looks again, and finds two.
    third.ask("select 1;");
    assert_eq!(third.debug.movable(), "ambiguous");
    movable.lose();
    let told = client.answer(lab, "\\execute q 1");
    assert!(
        told.starts_with("lost 57P01 ") && told.contains("state_differs"),
        "{told}"
    );
    other.tell("execute i (1);");
    let (code, errors) = other.end();
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("state_differs"), "{errors}");
}

/// A server that knows columns to be others than the application was told says so itself.
#[test]
fn columns_that_were_changed_before_are_found_out() {
    let Some(movable) = Movable::without_extension("postgres-shared", 167, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text)");
    let mut psql = Psql::start(lab);
    psql.ask("prepare q as select note from t;");
    assert_eq!(psql.debug.movable(), "yes");
    lab.sql("alter table t alter column note type int using note::int");
    psql.ask("select 1;");
    assert_eq!(
        psql.debug.movable(),
        "unknown_state",
        "{}",
        psql.debug.text()
    );
}

/// What was acknowledged before the standby had it is lost with its server, and a session that has committed it says so.
#[test]
fn a_session_does_not_move_to_a_server_that_lacks_its_commits() {
    let Some(movable) = Movable::without_extension("postgres", 168, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int, note text)");
    let (mut writes, mut reads) = (Psql::start(lab), Psql::start(lab));
    assert_eq!(reads.ask("select 'reads';"), ["reads"]);
    writes.ask("set synchronous_commit = local;");
    assert_eq!(reads.debug.movable(), "yes");
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

/// What a session has from the defaults of its role it has on, whatever becomes of them.
#[test]
fn a_custom_setting_outlives_the_default_that_it_came_from() {
    let Some(movable) = Movable::without_extension("postgres-shared", 175, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.superuser("shared", "alter role app set app.tenant = '42'");
    // Somebody else's, into which the session may not look.
    lab.superuser("shared", "create role other");
    lab.superuser("shared", "create schema vianet authorization other");
    let mut psql = Psql::start(lab);
    psql.ask("select 1;");
    assert_eq!(psql.debug.movable(), "yes");
    lab.superuser("shared", "alter role app reset app.tenant");
    psql.ask("select 1;");
    assert_eq!(psql.debug.movable(), "yes");
    movable.lose();
    let told = psql.ask("select current_setting('app.tenant', true);");
    assert_eq!(told, ["42"], "{}", psql.errors());
}

/// Who waits for the lock of a table waits for whoever holds it: no question of ours does, for that may be the same application.
#[test]
fn a_question_waits_for_no_lock_on_a_table() {
    let Some(movable) = Movable::without_extension("postgres-shared", 176, "") else {
        return;
    };
    let lab = &movable.lab;
    lab.sql("create table t (id int); insert into t values (1)");
    let (mut psql, mut locks) = (Psql::start(lab), Psql::start(lab));
    psql.ask("prepare q as select id from t;");
    assert_eq!(psql.debug.movable(), "yes");
    locks.ask("begin;");
    locks.ask_at_once("lock table t;");
    psql.ask("select 1;");
    assert_eq!(psql.debug.movable(), "unknown_state");
    assert_eq!(psql.ask_at_once("select 2;"), ["2"]);
    locks.ask_at_once("commit;");
    assert_eq!(psql.ask("show lock_timeout;"), ["0"]);
    assert_eq!(psql.debug.movable(), "yes", "{}", psql.debug.text());
    movable.lose();
    assert_eq!(psql.ask("execute q;"), ["1"], "{}", psql.errors());
}
