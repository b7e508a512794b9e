//! Moving a session, without a network: what is read of its state, what is done about it, and who is believed.

use super::super::restore::{self, Step as Do};
use super::super::{compare, snapshot::Kind};
use super::*;

/// Rows as the server sends them, one a line: `kind|name|value|source|types`, `-` for NULL.
pub(super) fn rows(table: &str) -> Vec<Vec<u8>> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let columns: Vec<_> = line.split('|').collect();
            assert_eq!(columns.len(), 5, "{line}");
            row(&columns)
        })
        .collect()
}

pub(super) fn row(columns: &[&str]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        match *column {
            "-" => body.extend_from_slice(&u32::MAX.to_be_bytes()),
            text => {
                body.extend_from_slice(&(text.len() as u32).to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
        }
    }
    body
}

/// What a fresh session of the role `app` is like.
pub(super) const FRESH: &str = "
    authenticated|-|app|-|-
    session_authorization|-|app|default|-
    role|-|none|default|-
    library|vianet.so|-|-|-
    setting|DateStyle|ISO, MDY|configuration file|-
    setting|TimeZone|UTC|configuration file|-
    setting|client_encoding|UTF8|client|-
    setting|search_path|\"$user\", public|default|-
    setting|statement_timeout|0|default|-
    setting|work_mem|4096|default|-
";

pub(in crate::session::postgres) fn snapshot(more: &str) -> Snapshot {
    try_snapshot(&with(more)).expect(more)
}

/// `FRESH` with other rows in the place of those of the same kind and name.
fn with(more: &str) -> String {
    let key = |line: &str| {
        line.trim()
            .splitn(3, '|')
            .take(2)
            .collect::<Vec<_>>()
            .join("|")
    };
    let replaced: Vec<_> = more.lines().map(key).collect();
    let kept = FRESH.lines().filter(|line| !replaced.contains(&key(line)));
    kept.chain(more.lines()).collect::<Vec<_>>().join("\n")
}

fn try_snapshot(table: &str) -> Option<Snapshot> {
    let rows = rows(table);
    let rows: Vec<_> = rows.iter().map(|row| &row[..]).collect();
    Snapshot::read(&rows, "vianet 1")
}

#[test]
fn a_state_is_read_or_not_understood() {
    let state = snapshot(
        "prepared|q|select $1|protocol|{23,25}\n result|q|a 23 -1|-|-\n\
         prepared|vianet 1|SELECT|protocol|{}\n result|vianet 1|b 23 -1|-|-",
    );
    assert_eq!(state.of(Kind::Result).count(), 1);
    assert_eq!(state.value(Kind::Authenticated), Some(&b"app"[..]));
    assert_eq!(state.setting("work_mem"), Some(&b"4096"[..]));
    // That of the question itself is not the session's.
    let prepared: Vec<_> = state.of(Kind::Prepared).collect();
    assert_eq!(prepared.len(), 1);
    assert_eq!(&*prepared[0].types, [23, 25]);
    for broken in [
        "",
        "authenticated|-|app|-|-",
        &format!("{FRESH}\nauthenticated|-|app|-|-"),
        &format!("{FRESH}\nprepared|q|select|protocol|{{x}}"),
        &format!("{FRESH}\nprepared|q|select|protocol|23"),
        &format!("{FRESH}\n-|q|select|protocol|-"),
    ] {
        assert_eq!(try_snapshot(broken), None, "{broken}");
    }
    let whole = rows(FRESH);
    for cut in 0..whole[0].len() {
        let rows: Vec<_> = whole.iter().map(|row| &row[..]).collect();
        let mut rows = rows.clone();
        rows[0] = &whole[0][..cut];
        assert_eq!(Snapshot::read(&rows, "vianet 1"), None, "{cut}");
    }
}

#[test]
fn what_cannot_be_made_again_is_in_the_way() {
    assert_eq!(snapshot("").obstacle(&Policy::default()), None);
    for (row, reason) in [
        ("temporary|pg_temp.t|table|-|-", Reason::Temporary),
        ("advisory|42|ExclusiveLock|session|-", Reason::AdvisoryLock),
        ("cursor|c|select 1|-|-", Reason::HoldableCursor),
        ("replication_slot|s|-|-|-", Reason::Replication),
        ("replication_origin|1|-|-|-", Reason::Replication),
        ("backup|-|-|-|-", Reason::UnknownState),
        ("transaction|-|-|-|-", Reason::Transaction),
        ("something new|-|-|-|-", Reason::UnknownState),
        ("listen|c|-|-|-", Reason::Listens),
        ("library|plpython3.so|-|-|-", Reason::Library),
        ("library|dblink.so|-|-|-", Reason::Library),
        // Whether weak numbers are taken is a variable of it.
        ("library|isn.so|-|-|-", Reason::Library),
        ("prepared|q|select 1|batch|{}", Reason::PreparedInBatch),
        ("prepared|q|-|protocol|{}", Reason::Unreadable),
        ("setting|seed|-|session|-", Reason::Unreadable),
        ("role|-|-|session|-", Reason::Unreadable),
        ("session_authorization|-|-|session|-", Reason::Unreadable),
        (
            "setting|default_transaction_isolation|serializable|session|-\n\
             setting|default_transaction_read_only|on|session|-\n\
             setting|default_transaction_deferrable|on|session|-",
            Reason::Deferrable,
        ),
    ] {
        assert_eq!(
            snapshot(row).obstacle(&Policy::default()),
            Some(reason),
            "{row}"
        );
    }
    for row in [
        "setting|app.tenant|42|session|-",
        "setting|app.tenant||default|-",
        "prepared|q|prepare q as select 1|sql|{}",
        "library|plpgsql.so|-|-|-",
        "library|utf8_and_iso8859_1.so|-|-|-",
        "setting|default_transaction_deferrable|on|session|-",
    ] {
        assert_eq!(snapshot(row).obstacle(&Policy::default()), None, "{row}");
    }
    let policy = Policy {
        listening: true,
        libraries: vec!["postgis-3".into()],
        ..Policy::default()
    };
    for row in ["listen|c|-|-|-", "library|postgis-3.so|-|-|-"] {
        assert_eq!(snapshot(row).obstacle(&policy), None, "{row}");
        assert_ne!(snapshot(row).obstacle(&Policy::default()), None, "{row}");
    }
}

fn steps(then: &str, now: &str) -> Vec<String> {
    let (then, now) = (snapshot(then), snapshot(now));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let steps = restore::plan(&then, &now, false);
    let steps = steps.iter().map(|step| match step {
        Do::Set(name, value) => format!("{}={}", text(name), text(value)),
        Do::Run(sql) => text(sql),
        Do::Listen(channel) => format!("listen {}", text(channel)),
        Do::Parse(row) => format!("parse {} {:?}", text(&row.name), row.types),
        Do::Close(name) => format!("close {}", text(name)),
    });
    steps.collect()
}

#[test]
fn what_differs_is_made_again_in_an_order_that_works() {
    let none: &[&str] = &[];
    assert_eq!(steps("", ""), none);
    // What the session has set is set again, also where the server has it by itself.
    assert_eq!(
        steps("setting|work_mem|4096|session|-", ""),
        ["work_mem=4096"]
    );
    // What it got from elsewhere and would get otherwise now.
    assert_eq!(steps("", "setting|work_mem|9999|user|-"), ["work_mem=4096"]);
    // A custom setting, also an empty one; not what a library brings along.
    assert_eq!(steps("setting|app.a|1|user|-", ""), ["app.a=1"]);
    assert_eq!(steps("setting|app.a||default|-", ""), ["app.a="]);
    assert_eq!(steps("setting|plpgsql.x|none|default|-", ""), none);
    assert_eq!(
        steps(
            "setting|statement_timeout|77|session|-
             setting|app.a|x|session|-
             setting|client_encoding|LATIN1|session|-
             setting|lock_timeout|5|session|-
             prepared|p|select $1|protocol|{23}
             prepared|s|prepare s as select 1|sql|{}
             listen|Some \"channel|-|-|-
             role|-|reader|session|-
             session_authorization|-|other|session|-",
            ""
        ),
        [
            "client_encoding=LATIN1",
            "app.a=x",
            "session_authorization=other",
            "role=reader",
            "listen Some \"channel",
            "parse p [23]",
            "prepare s as select 1",
            "lock_timeout=5",
            "statement_timeout=77",
        ]
    );
    // Changing who the session is takes the role away.
    assert_eq!(
        steps(
            "session_authorization|-|other|session|-",
            "role|-|reader|user|-"
        ),
        ["session_authorization=other", "role=none"]
    );
}

#[test]
fn every_difference_is_found() {
    let same = |then: &str, now: &str| compare::difference(&snapshot(then), &snapshot(now));
    for (then, now) in [
        ("", ""),
        ("setting|app.a|1|user|-", "setting|app.a|1|session|-"),
        ("setting|app.a||default|-", "setting|app.a||session|-"),
        ("setting|plpgsql.x|none|default|-", ""),
        ("", "setting|plpgsql.x|none|default|-"),
        ("library|plpgsql.so|-|-|-", ""),
        (
            "library|auto_explain.so|-|-|-",
            "library|auto_explain|-|-|-",
        ),
        (
            "listen|a|-|-|-\nlisten|b|-|-|-",
            "listen|b|-|-|-\nlisten|a|-|-|-",
        ),
        (
            "prepared|q|select 1|protocol|{23}",
            "prepared|q|select 1|protocol|{23}",
        ),
    ] {
        assert_eq!(same(then, now), None, "{then} {now}");
    }
    for (then, now) in [
        ("library|auto_explain.so|-|-|-", ""),
        ("result|q|a 23 -1|-|-", "result|q|a 25 -1|-|-"),
        ("result|q|a 23 -1|-|-", ""),
        ("setting|work_mem|1|session|-", ""),
        (
            "setting|work_mem|4096|session|-",
            "setting|work_mem|4096|user|-",
        ),
        ("setting|app.a|1|session|-", ""),
        ("setting|app.a||default|-", ""),
        ("", "setting|app.a|1|user|-"),
        ("", "setting|app.a||session|-"),
        ("", "setting|work_mem|1|user|-"),
        ("role|-|reader|session|-", ""),
        ("role|-|reader|session|{9}", "role|-|reader|session|{10}"),
        ("", "role|-|reader|user|-"),
        ("session_authorization|-|x|session|-", ""),
        ("authenticated|-|x|-|-", ""),
        ("listen|a|-|-|-", ""),
        ("", "listen|a|-|-|-"),
        ("prepared|q|select 1|protocol|{}", ""),
        ("", "prepared|q|select 1|protocol|{}"),
        (
            "prepared|q|select 1|protocol|{}",
            "prepared|q|select 1|sql|{}",
        ),
        (
            "prepared|q|select 1|protocol|{}",
            "prepared|q|select 2|protocol|{}",
        ),
        (
            "prepared|q|select $1|protocol|{23}",
            "prepared|q|select $1|protocol|{25}",
        ),
        ("", "temporary|t|table|-|-"),
    ] {
        assert!(same(then, now).is_some(), "{then} {now}");
    }
}

fn record(parameters: &[(&str, &str)]) -> Record {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let parameters = parameters.iter().map(|(n, v)| (bytes(n), bytes(v)));
    Record {
        parameters: parameters.collect(),
        ..Record::default()
    }
}

#[test]
fn only_the_same_database_cluster_may_follow() {
    let server = [
        ("server_version", "15.18 (Debian)"),
        ("server_encoding", "UTF8"),
        ("integer_datetimes", "on"),
    ];
    let before = record(&server);
    let one = Identity {
        system: 7,
        timeline: Some(3),
        tells_state: true,
    };
    let may = |other: &Identity, after: &[(&str, &str)]| {
        let reason = one.may_follow(other, &before, &record(after));
        reason.map_err(|(reason, _)| reason)
    };
    assert_eq!(may(&one, &server), Ok(()));
    let later = Identity {
        timeline: Some(4),
        ..one.clone()
    };
    assert_eq!(may(&later, &server), Ok(()));
    let mut minor = server;
    minor[0].1 = "15.2";
    assert_eq!(may(&one, &minor), Ok(()));
    let other = Err(Reason::OtherServer);
    assert_eq!(
        may(
            &Identity {
                system: 8,
                ..one.clone()
            },
            &server
        ),
        other
    );
    assert_eq!(
        may(
            &Identity {
                timeline: Some(2),
                ..one.clone()
            },
            &server
        ),
        other
    );
    assert_eq!(
        may(
            &Identity {
                timeline: None,
                ..one.clone()
            },
            &server
        ),
        other
    );
    for (at, value) in [(0, "16.1"), (0, "1"), (0, ""), (1, "LATIN1"), (2, "off")] {
        let mut differs = server;
        differs[at].1 = value;
        assert_eq!(may(&one, &differs), other, "{value}");
    }
    assert_eq!(may(&one, &server[1..]), other);
    let silent = Identity {
        tells_state: false,
        ..one.clone()
    };
    assert_eq!(may(&silent, &server), Err(Reason::NoExtension));
    let read = |columns: &[&str]| Identity::read(&[&row(columns)]);
    assert_eq!(
        read(&["-1", "0000000A", "t"]),
        Some(Identity {
            system: u64::MAX,
            timeline: Some(10),
            tells_state: true
        })
    );
    assert_eq!(read(&["1", "-", "f"]).unwrap().timeline, None);
    assert_eq!(read(&["x", "-", "f"]), None);
    assert_eq!(read(&["1", "G", "f"]), None);
    assert_eq!(read(&["1"]), None);
    assert_eq!(Identity::read(&[]), None);
}

/// What is known of the session besides its state.
#[test]
fn what_was_said_at_the_beginning_is_kept() {
    let mut observer = session();
    assert_eq!(observer.record().packet, startup("user app  "));
    assert_eq!(observer.record().key, [0; 8]);
    observer.received(&message(b'S', b"TimeZone\0UTC\0"));
    observer.received(&message(b'S', b"TimeZone\0Asia/Tokyo\0"));
    assert_eq!(
        observer.record().parameter("TimeZone"),
        Some(&b"Asia/Tokyo"[..])
    );

    // The unnamed statement: the last that is known to be there.
    let parse = |name: &str, text: &str| message(b'P', format!("{name}\0{text}\0\0\0").as_bytes());
    let run = |observer: &mut Observer, bytes: &[u8], replies: &str| {
        observer.sent(bytes);
        ask(observer, "S");
        answer(observer, replies);
        assert!(observer.at_safe_point());
        observer.record().unnamed.clone()
    };
    let body = |text: &str| Some(format!("\0{text}\0\0\0").into_bytes());
    assert_eq!(
        run(&mut observer, &parse("", "select 1"), "1Z"),
        body("select 1")
    );
    assert_eq!(
        run(&mut observer, &parse("q", "select 2"), "1Z"),
        body("select 1")
    );
    assert_eq!(
        run(&mut observer, &parse("", "select 3"), "1Z"),
        body("select 3")
    );
    // Its columns were told.
    let described = [parse("", "select 4"), message(b'D', b"S\0")].concat();
    assert_eq!(run(&mut observer, &described, "1tTZ"), None);
    assert_eq!(
        run(&mut observer, &parse("", "select 5"), "1Z"),
        body("select 5")
    );
    // Those of a portal are told each time.
    let portal = [message(b'B', b""), message(b'D', b"P\0")].concat();
    assert_eq!(run(&mut observer, &portal, "2TZ"), body("select 5"));
    // Which one it is after an error is not known.
    assert_eq!(run(&mut observer, &parse("", "select 6"), "EZ"), None);
    assert_eq!(
        run(&mut observer, &parse("", "select 7"), "1Z"),
        body("select 7")
    );
    assert_eq!(run(&mut observer, &message(b'C', b"S\0"), "3Z"), None);
    assert_eq!(
        run(&mut observer, &parse("", "select 8"), "1Z"),
        body("select 8")
    );
    // A simple query destroys it; another encoding would read it otherwise.
    observer.sent(&message(b'Q', b"select 1\0"));
    answer(&mut observer, "TDCZ");
    assert_eq!(observer.record().unnamed, None);
    observer.received(&message(b'S', b"client_encoding\0UTF8\0"));
    assert_eq!(
        run(&mut observer, &parse("", "select 9"), "1Z"),
        body("select 9")
    );
    observer.received(&message(b'S', b"client_encoding\0UTF8\0"));
    assert_eq!(observer.record().unnamed, body("select 9"));
    observer.received(&message(b'S', b"client_encoding\0LATIN1\0"));
    assert_eq!(observer.record().unnamed, None);

    assert_eq!(observer.record().obstacle(), None);
    let long = "x".repeat(10_000);
    assert_eq!(run(&mut observer, &parse("", &long), "1Z"), None);
    assert_eq!(observer.record().obstacle(), Some(Reason::TooLarge));
    run(&mut observer, &parse("", "select 10"), "1Z");
    assert_eq!(observer.record().obstacle(), None);
    observer.received(&message(b'S', format!("search_path\0{long}\0").as_bytes()));
    assert_eq!(observer.record().obstacle(), Some(Reason::TooLarge));
}

/// What changed, was prepared, and was found between two looks.
#[test]
fn a_statement_that_was_read_under_other_settings_stays() {
    let nothing = snapshot("");
    let prepared = snapshot("prepared|q|select 1|protocol|{}");
    let other = |row: &str| snapshot(&format!("prepared|q|select 1|protocol|{{}}\n{row}"));
    let [off, on] = ["off", "on"].map(|it| other(&format!("setting|array_nulls|{it}|session|-")));
    let datestyle = message(b'S', b"DateStyle\0German\0");
    let logged_in = || {
        let mut observer = session();
        observer.received(&message(b'S', b"DateStyle\0ISO\0"));
        observer
    };
    let parse = |observer: &mut Observer| {
        let parse = [message(b'P', b"q\0select 1\0\0\0"), message(b'S', b"")].concat();
        observer.sent(&parse);
        answer(observer, "1Z");
    };
    let prepare = |observer: &mut Observer| {
        observer.sent(&message(b'Q', b"/**/ prepare q as select 1\0"));
        let done = [message(b'C', b"PREPARE\0"), message(b'Z', b"I")].concat();
        observer.received(&done);
    };
    let refused = Some(Reason::PreparedOtherwise);
    for prepare in [&parse as &dyn Fn(&mut Observer), &prepare] {
        // Before, and after.
        let mut observer = logged_in();
        observer.received(&datestyle);
        prepare(&mut observer);
        assert_eq!(observer.learned(&prepared, &Policy::default()), None);
        observer.received(&message(b'S', b"DateStyle\0German\0"));
        assert_eq!(observer.learned(&prepared, &Policy::default()), None);
        observer.received(&message(b'S', b"DateStyle\0ISO\0"));
        assert_eq!(observer.learned(&prepared, &Policy::default()), refused);
        assert_eq!(observer.learned(&prepared, &Policy::default()), refused);
        // It is gone, and with it the obstacle.
        assert_eq!(observer.learned(&nothing, &Policy::default()), None);
        observer.received(&datestyle);
        prepare(&mut observer);
        assert_eq!(observer.learned(&prepared, &Policy::default()), None);
    }
    // By a function: whether before or after is not known.
    let mut observer = logged_in();
    assert_eq!(observer.learned(&prepared, &Policy::default()), None);
    let mut observer = logged_in();
    observer.received(&datestyle);
    assert_eq!(observer.learned(&prepared, &Policy::default()), refused);
    // What the server does not report.
    let mut observer = logged_in();
    assert_eq!(observer.learned(&on, &Policy::default()), refused);
    let mut observer = logged_in();
    assert_eq!(
        observer.learned(
            &snapshot("setting|array_nulls|off|session|-"),
            &Policy::default()
        ),
        None
    );
    assert_eq!(observer.learned(&off, &Policy::default()), None);
    assert_eq!(observer.learned(&on, &Policy::default()), refused);
    // By which '12:00 EST' is read.
    let abbreviations = other("setting|timezone_abbreviations|Australia|session|-");
    let mut observer = logged_in();
    assert_eq!(
        observer.learned(&abbreviations, &Policy::default()),
        refused
    );
}

#[test]
fn what_was_made_beforehand_becomes_what_the_session_has() {
    let none: &[&str] = &[];
    let (q, other) = (
        "prepared|q|select $1|protocol|{23}",
        "prepared|q|select $1|protocol|{25}",
    );
    assert_eq!(steps(q, q), none);
    assert_eq!(steps("", q), ["close q"]);
    assert_eq!(steps(other, q), ["close q", "parse q [25]"]);
    assert_eq!(steps("listen|a|-|-|-", "listen|a|-|-|-"), none);
    // A text is read by the settings of the moment: by those that are left, it may mean something else.
    let date = "setting|DateStyle|German|session|-";
    assert_eq!(
        steps(&format!("{q}\n{date}"), q),
        ["DateStyle=German", "close q", "parse q [23]"]
    );
    assert_eq!(
        steps(q, &format!("{q}\n{date}")),
        ["DateStyle=ISO, MDY", "close q", "parse q [23]"]
    );
    let again = |state: &str| {
        let (then, now) = (snapshot(state), snapshot(state));
        restore::plan(&then, &now, true).len()
    };
    assert_eq!((again(q), again("")), (2, 0));
}
