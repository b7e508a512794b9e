//! Texts by hand, those that change a session in every disguise, and noise.

use super::*;
use crate::session::postgres::tests::moving::snapshot;
use proptest::prelude::*;

fn query(text: &str) -> Texts {
    queries(&[text])
}

fn queries(all: &[&str]) -> Texts {
    let mut texts = Texts::default();
    for text in all {
        texts.body(b'Q', format!("{text}\0").as_bytes(), true);
    }
    texts
}

fn parse(texts: &mut Texts, text: &str) {
    texts.body(b'P', format!("s1\0{text}\0\0\0").as_bytes(), true);
}

fn bind(texts: &mut Texts, values: &[&[u8]]) {
    let mut body = b"\0s1\0\0\0".to_vec();
    body.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for value in values {
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value);
    }
    body.extend_from_slice(&[0; 2]);
    texts.body(b'B', &body, true);
}

fn names(texts: &Texts) -> String {
    String::from_utf8(texts.custom(&Policy::default())).unwrap()
}

fn doubt(texts: &Texts) -> Option<Reason> {
    texts.doubt.as_ref().map(|doubt| doubt.reason)
}

#[test]
fn names_of_custom_settings_are_found() {
    for (text, found) in [
        ("SET app.tenant = '42'", "app.tenant"),
        ("set session app.tenant to 42", "app.tenant"),
        ("begin; SET LOCAL App.Tenant TO '1'; rollback", "App.Tenant"),
        ("set app.a = 1;set app.b=2", "app.a\napp.b"),
        ("set \"app\".\"tenant\" = 1", "app.tenant"),
        ("set app . tenant = 1", "app.tenant"),
        ("set session.x = 1", "session.x"),
        ("reset app.tenant", "app.tenant"),
        ("set a.b.c = 1", "a.b.c"),
        ("select set_config('app.tenant', '42', false)", "app.tenant"),
        (
            "select pg_catalog.set_config ( 'app.tenant'::text , $1, true)",
            "app.tenant",
        ),
        ("select current_setting('app.tenant', true)", "app.tenant"),
        ("select 'it is said: set app.x here'", "app.x"),
        ("update t set id = 1 where t.note = 'a.b'", ""),
        ("set search_path = app.tenant", ""),
        ("select t.id from t", ""),
        ("set timezone to 'x'", ""),
        ("set role app", ""),
        ("set session authorization app", ""),
    ] {
        let texts = query(text);
        assert_eq!(
            (names(&texts), doubt(&texts)),
            (found.to_owned(), None),
            "{text}"
        );
    }
    let mut texts = Texts::default();
    texts.startup(b"\0\0\0\0\0\x03\0\0user\0app\0app.one\x001\0options\0-c app.two=2 --app.three-x=3 -capp.four=4\0\0");
    let all = names(&texts);
    for name in ["app.one", "app.two", "app.three_x", "app.four"] {
        assert!(all.split('\n').any(|known| known == name), "{name}: {all}");
    }
    let policy = Policy {
        custom: vec!["app.more".into()],
        ..Policy::default()
    };
    assert_eq!(query("set app.x = 1").custom(&policy), b"app.x\napp.more");
}

#[test]
fn a_name_that_is_a_parameter_is_found_in_bind() {
    let mut texts = Texts::default();
    bind(&mut texts, &[b"app.before"]);
    parse(&mut texts, "select set_config($1, $2, false)");
    bind(
        &mut texts,
        &[
            b"app.tenant",
            b"42",
            b"no.name: it has blanks",
            b"app.padded  ",
            b"\0\x01.\xff",
        ],
    );
    assert_eq!(
        (names(&texts), doubt(&texts)),
        ("app.tenant\napp.padded".into(), None)
    );
    let mut other = texts.clone();
    bind(&mut texts, &[b"SEED", b"1"]);
    assert_eq!(doubt(&texts), Some(Reason::Unreadable));
    bind(&mut other, &["app.gr\u{f6}\u{df}e".as_bytes(), b"1"]);
    assert_eq!(doubt(&other), Some(Reason::Unreadable));
    let mut texts = query("prepare q as select set_config($1, 'x', false)");
    assert_eq!(doubt(&texts), None);
    texts.body(b'Q', b"execute q('app.' || 'x')\0", true);
    assert_eq!(doubt(&texts), Some(Reason::DynamicSql));
    let mut texts = query("select set_config($1, 'x', false)");
    texts.body(b'B', b"\0\0\0\x01", true);
    assert_eq!(doubt(&texts), Some(Reason::NotUnderstood));
}

/// Statements that set something whose name is not told, or may.
const UNSEEN: &[(&str, Reason)] = &[
    (
        "do $$ begin perform set_config('a.b', 'c', false); end $$",
        Reason::DoBlock,
    ),
    (
        "DO LANGUAGE plpgsql 'begin execute ''x''; end'",
        Reason::DoBlock,
    ),
    ("do 'begin end'", Reason::DoBlock),
    ("load 'x'", Reason::Load),
    (
        "select set_config('app.' || 'x', 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select set_config(E'app.x', 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select set_config('app.'\n'x', 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select set_config($$app.x$$, 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select set_config/**/('app.x', 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select \"set_config\"('app.x', 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select set_config(is_local => false, new_value => 'x', setting_name => 'a.b')",
        Reason::DynamicSql,
    ),
    (
        "select set_config(name, 'x', false) from t",
        Reason::DynamicSql,
    ),
    (
        "select U&\"set\\005fconfig\"('app.x', 'y', false)",
        Reason::DynamicSql,
    ),
    (
        "select query_to_xml('select set_' || 'config(...)', true, false, '')",
        Reason::DynamicSql,
    ),
    ("select * from ts_stat('select ' || x)", Reason::DynamicSql),
    ("select ts_rewrite(a, 'select ' || x)", Reason::DynamicSql),
    (
        "update pg_settings set setting = '1' where name = 'x'",
        Reason::DynamicSql,
    ),
    (
        "update pg_catalog.pg_settings s set setting = '1'",
        Reason::DynamicSql,
    ),
    ("set /* */ app.x = 1", Reason::DynamicSql),
    ("set app./* */x = 1", Reason::DynamicSql),
    ("set app -- \n . x = 1", Reason::DynamicSql),
    ("set \"a\"\"b\".x = 1", Reason::DynamicSql),
    // The server takes 63 bytes of it.
    (
        "set app.a123456789a123456789a123456789a123456789a123456789a123456789abcd = 1",
        Reason::DynamicSql,
    ),
    (
        "set \"app.a123456789a123456789a123456789a123456789a123456789a123456789\" = 1",
        Reason::DynamicSql,
    ),
    // In another client encoding it is another.
    ("set app.gr\u{f6}\u{df}e = 1", Reason::Unreadable),
    ("reset \"app.gr\u{f6}\u{df}e\"", Reason::Unreadable),
    ("set seed = 0.5", Reason::Unreadable),
    ("set dynamic_library_path = 'x'", Reason::Unreadable),
    (
        "select set_config('Seed', '0.5', false)",
        Reason::Unreadable,
    ),
    (
        "create function f() returns int language sql as 'select 1'",
        Reason::ObjectsChanged,
    ),
    (
        "create or replace procedure f() as ''",
        Reason::ObjectsChanged,
    ),
    ("drop function f", Reason::ObjectsChanged),
    ("drop table t cascade", Reason::ObjectsChanged),
    ("drop schema \"a;b\" cascade", Reason::ObjectsChanged),
    ("drop schema s /* ; */ cascade", Reason::ObjectsChanged),
    (
        "alter table t drop column x cascade",
        Reason::ObjectsChanged,
    ),
    ("create extension isn", Reason::ObjectsChanged),
    (
        "create materialized view v as select 1",
        Reason::ObjectsChanged,
    ),
    (
        "select pg_replication_origin_session_setup('x')",
        Reason::DynamicSql,
    ),
    ("select pg_backup_start('x')", Reason::DynamicSql),
];

/// What may stand before a statement.
const BEFORE: &[&str] = &[
    "",
    " \t\r\n\u{c}",
    "select 1;",
    "select ';' as x; ",
    "-- a comment\n",
    "-- a comment\r",
    "/* a comment */",
    "/* a /* nested */ one */ ",
    "begin;\n--\n\n",
    "insert into t values ('it''s; -- /* ') ;",
    "/* -- */",
    "select 1 -- ; \n;",
];

#[test]
fn statements_that_may_set_something_unseen_are_found_out() {
    for (statement, reason) in UNSEEN {
        for before in BEFORE {
            let text = format!("{before}{statement}");
            assert_eq!(doubt(&query(&text)), Some(*reason), "{text}");
            let mut texts = Texts::default();
            parse(&mut texts, &text);
            assert_eq!(doubt(&texts), Some(*reason), "{text}");
        }
    }
    let mut called = Texts::default();
    called.body(b'F', &2078_u32.to_be_bytes(), true);
    assert_eq!(doubt(&called), Some(Reason::FunctionCall));
}

#[test]
fn ordinary_statements_are_harmless() {
    let texts = queries(&[
        "select 1",
        "insert into t values (1, 'do it; or load it') on conflict (id) do update set note = excluded.note",
        "insert into t values (1) on conflict do nothing",
        "update t set note = 'set -' /* route: /do/load */",
        "select count(*) from pg_settings",
        "create table t (id int primary key, other int references o on delete set null)",
        "create temporary table x (id int)",
        "create index on t (id)",
        "drop table t",
        "prepare q as select $1; execute q(1)",
        "begin; savepoint a; rollback to a; commit",
        "copy t from stdin",
        "set search_path = a, b",
        "listen x",
        "call p(1)",
        "select 'you create a view of it'",
    ]);
    assert_eq!((doubt(&texts), texts.about(Reason::DoBlock)), (None, ""));
    let mut large = Texts::default();
    large.body(b'F', &952_u32.to_be_bytes(), true);
    assert_eq!(doubt(&large), None);
}

#[test]
fn memory_is_bounded() {
    let mut texts = Texts::default();
    let piece = [b'x'; 1024];
    for _ in 0..10_000 {
        texts.body(b'Q', &piece, false);
        assert!(texts.part.len() <= LONGEST);
    }
    texts.body(b'Q', b"\0", true);
    assert_eq!(doubt(&texts), Some(Reason::TooLarge));
    // The next one is read as any other.
    texts.body(b'Q', b"set app.x = 1\0", true);
    assert_eq!(names(&texts), "app.x");
    let mut texts = Texts::default();
    for n in 0..=NAMES {
        assert_eq!(doubt(&texts), None, "{n}");
        texts.body(b'Q', format!("set app.n{n} = 1\0").as_bytes(), true);
        // One that is known is no more.
        texts.body(b'Q', b"set APP.N0 = 1\0", true);
    }
    assert_eq!(doubt(&texts), Some(Reason::TooLarge));
    let mut off = query("do $$ $$");
    off.stop();
    off.body(b'Q', b"do $$ $$\0", true);
    off.doubts(Reason::Load, "");
    assert_eq!(
        off.seen(&snapshot("catalog|a|b|-|-"), &Policy::default()),
        None
    );
}

/// What becomes of functions, as of the rows of an answer.
fn seen(
    texts: &mut Texts,
    state: &Snapshot,
    suspects: &[Suspect],
    policy: &Policy,
) -> Option<Reason> {
    if texts.lacks_suspects(state) {
        texts.suspects(suspects.into());
        assert!(!texts.lacks_suspects(state));
    }
    texts.seen(state, policy)
}

fn suspect(name: &str, library: Option<&str>, used: bool) -> Suspect {
    Suspect {
        name: name.into(),
        library: library.map(|library| library.as_bytes().to_vec()),
        used,
    }
}

#[test]
fn functions_that_may_set_something_are_in_the_way_where_they_may_be_called() {
    let state = snapshot("catalog|a|b|-|-");
    let none = Policy::default();
    let trusting = |name: &str| Policy {
        trusted: vec![name.to_owned()],
        ..Policy::default()
    };
    let calls = "select Public.\"Setter\"(1)";
    let direct = [suspect("public.Setter", None, false)];
    for (text, suspects, policy, reason) in [
        (calls, &direct[..], &none, Some(Reason::Function)),
        ("select 1", &direct, &none, None),
        (calls, &direct, &trusting("public.Setter"), None),
        (calls, &direct, &trusting("public.*"), None),
        (
            calls,
            &direct,
            &trusting("public.Sette"),
            Some(Reason::Function),
        ),
        (
            "select 1",
            &[suspect("a.b", None, true)],
            &none,
            Some(Reason::Function),
        ),
        (
            "select x",
            &[suspect("a.x", Some("hstore"), true)],
            &none,
            None,
        ),
        (
            "select x",
            &[suspect("a.x", Some("hstore.so"), true)],
            &none,
            None,
        ),
        (
            "select x",
            &[suspect("a.x", Some("isn"), false)],
            &none,
            Some(Reason::Function),
        ),
        (
            "select crosstab",
            &[suspect("a.y", Some("tablefunc"), true)],
            &none,
            Some(Reason::Function),
        ),
        (
            "select 1",
            &[suspect("a.\u{fc}", None, false)],
            &none,
            Some(Reason::Function),
        ),
        (
            "select \"a b\"()",
            &[suspect("a.a b", None, false)],
            &none,
            Some(Reason::Function),
        ),
    ] {
        let mut texts = query(text);
        assert_eq!(
            seen(&mut texts, &state, suspects, policy),
            reason,
            "{text} {suspects:?}"
        );
        // For good, whatever becomes of the function.
        let later = snapshot("catalog|a|c|-|-");
        assert_eq!(seen(&mut texts, &later, &[], policy), reason, "{text}");
        assert_eq!(texts.about(Reason::Function).is_empty(), reason.is_none());
    }
    // Nothing was run.
    let used = [suspect("a.b", None, true)];
    assert_eq!(seen(&mut Texts::default(), &state, &used, &none), None);
    // The answer of our extension has no fingerprints.
    assert_eq!(query("do $$ $$").seen(&snapshot(""), &none), None);
}

#[test]
fn a_name_that_a_role_had_a_default_of_is_asked_for_when_it_has_none() {
    let mut texts = query("select 1");
    let state =
        snapshot("catalog|a|b|-|-\nsetting|app.tenant|42|session|-\nsetting|work_mem|64|session|-");
    assert_eq!(seen(&mut texts, &state, &[], &Policy::default()), None);
    assert_eq!(names(&texts), "app.tenant");
}

/// Between two answers: what it was when the statement was prepared is not known.
#[test]
fn what_statements_are_read_by_is_not_changed_for_a_moment() {
    let state = snapshot("catalog|a|b|-|-");
    let prepared = snapshot("catalog|a|b|-|-\nprepared|q|select 1|protocol|{}");
    let refused = Some(Reason::PreparedOtherwise);
    for text in [
        "set array_nulls = off",
        "begin; set local Timezone_Abbreviations = 'x'",
        "set xml option document",
        "select set_config('xmloption', 'document', true)",
    ] {
        for (state, reason) in [(&state, None), (&prepared, refused)] {
            let mut texts = query(text);
            let none = Policy::default();
            assert_eq!(seen(&mut texts, state, &[], &none), reason, "{text}");
            // It was there before, perhaps.
            assert_eq!(seen(&mut texts, &prepared, &[], &none), reason, "{text}");
        }
    }
}

/// Quoted, so that words of it are not what is cut off.
#[test]
fn a_function_whose_name_may_have_been_cut_off_may_have_been_called() {
    let called = "a1234567890123456789 b1234567890123456789 c12345678901234567890123456789";
    let texts = query(&format!("select \"{called}\"()"));
    assert!(texts.words.may_name(&format!("public.{}", &called[..63])));
    assert!(!query("select 1").words.may_name("public.setter"));
}

#[test]
fn functions_that_are_changed_meanwhile_are_in_the_way() {
    let (one, other) = (snapshot("catalog|a|b|-|-"), snapshot("catalog|x|b|-|-"));
    let none = Policy::default();
    let mut texts = query("select f()");
    assert_eq!(seen(&mut texts, &one, &[], &none), None);
    // Nothing was run between.
    assert_eq!(seen(&mut texts, &other, &[], &none), None);
    assert_eq!(seen(&mut texts, &other, &[], &none), None);
    // What was prepared before is run.
    texts.body(b'E', b"\0\0\0\0\0", true);
    assert_eq!(
        seen(&mut texts, &one, &[], &none),
        Some(Reason::ObjectsChanged)
    );
    assert_eq!(
        seen(&mut texts, &one, &[], &none),
        Some(Reason::ObjectsChanged)
    );
}

fn letters() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "set",
        "do",
        " ",
        ";",
        "'",
        "\"",
        "$$",
        "--",
        "/*",
        "*/",
        "\n",
        "app.x",
        "set_config",
        "(",
        ",",
        "$1",
        "::",
        "text",
        ".",
        "create",
        "view",
        "drop",
        "u&",
        "session",
        "\u{e9}",
        "1",
        "x",
        "\0",
    ]);
    let any = prop::collection::vec(any::<u8>(), 0..4);
    let piece = prop_oneof![words.prop_map(|word| word.as_bytes().to_vec()), any];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever comes, in whatever pieces, nothing panics, and pieces make no difference.
    #[test]
    fn noise_is_read_to_its_end(body in letters(), kind in prop::sample::select(b"QPBF".to_vec()), piece in 1_usize..50) {
        let mut whole = query("select set_config($1, 'x', false)");
        let mut pieces = whole.clone();
        whole.body(kind, &body, true);
        for chunk in body.chunks(piece) {
            pieces.body(kind, chunk, false);
        }
        pieces.body(kind, b"", true);
        prop_assert_eq!(names(&whole), names(&pieces));
        prop_assert_eq!(&whole.doubt, &pieces.doubt);
        whole.startup(&body);
    }

    /// Whatever stands before and behind a statement that may set something unseen, it is found out.
    #[test]
    fn nothing_hides_a_statement(
        before in letters(), at in 0..UNSEEN.len(), behind in letters(), upper in any::<bool>()
    ) {
        let statement = UNSEEN[at].0;
        let statement = if upper { statement.to_ascii_uppercase() } else { statement.to_owned() };
        let text = [&before, &b"\n;"[..], statement.as_bytes(), b" ;", &behind, b"\0"].concat();
        let mut texts = Texts::default();
        texts.body(b'Q', &text, true);
        prop_assert!(texts.doubt.is_some(), "{:?}", String::from_utf8_lossy(&text));
    }

    /// A function whose name was in a text may have been called.
    #[test]
    fn words_that_were_there_are_known(names in prop::collection::vec("[a-zA-Z_][a-zA-Z0-9_ ]{0,20}", 1..200)) {
        let mut texts = Texts::default();
        for name in &names {
            texts.body(b'Q', format!("select \"{name}\"()\0").as_bytes(), true);
        }
        for name in &names {
            let known = texts.words.may_name(&format!("public.{name}"));
            prop_assert!(known);
        }
    }
}

#[test]
fn words_that_were_not_there_are_seldom_taken_for_known() {
    let mut texts = Texts::default();
    for n in 0..2000 {
        texts.body(b'Q', format!("select column_{n}\0").as_bytes(), true);
    }
    let wrong = (0..10_000).filter(|n| texts.words.may_name(&format!("public.other_{n}")));
    assert!(wrong.count() < 200);
}
