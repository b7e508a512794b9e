//! The mover against a server by hand: in pieces, with every answer wrong once, and lost at every byte.

use super::moving::{FRESH, row, rows, snapshot};
use super::*;

const SEED: u64 = 9;
const THEN: &str = "setting|app.tenant|42|session|-\nprepared|q|select $1|protocol|{23}";
const VERSION: &str = "15.18";

fn parameter(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn plan(unnamed: bool) -> Plan {
    let mut record = Record {
        packet: startup("user app  "),
        unnamed: unnamed.then(|| b"\0select 1\0\0\0".to_vec()),
        ..Record::default()
    };
    for (name, value) in REPORTED {
        record.told(b'S', &parameter(name, value)[5..], true);
    }
    Plan {
        record,
        identity: Identity {
            system: 7,
            timeline: Some(1),
            tells_state: true,
        },
        state: snapshot(THEN),
        written: None,
        custom: None,
        policy: Policy::default(),
        onward: Onward::Same(Vec::new()),
    }
}

const REPORTED: [(&str, &str); 4] = [
    ("server_version", VERSION),
    ("server_encoding", "UTF8"),
    ("integer_datetimes", "on"),
    ("TimeZone", "UTC"),
];

fn answer_rows(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [message(b'1', b""), message(b'2', b"")].concat();
    (rows.iter()).for_each(|row| out.extend_from_slice(&message(b'D', row)));
    out.extend(
        [
            message(b'C', format!("SELECT {}\0", rows.len()).as_bytes()),
            message(b'3', b""),
            message(b'3', b""),
        ]
        .concat(),
    );
    out.extend_from_slice(&ready());
    out
}

fn state(table: &str) -> Vec<u8> {
    answer_rows(&rows(table))
}

/// What a good server says at each step.
fn script(unnamed: bool) -> Vec<Vec<u8>> {
    let mut login = message(b'R', &[0; 4]);
    for (name, value) in REPORTED {
        login.extend_from_slice(&parameter(name, value));
    }
    login.extend_from_slice(&message(b'K', b"\0\0\0\x05abcd"));
    login.extend_from_slice(&ready());
    let restored = format!("{FRESH}\n{THEN}");
    let mut last = [message(b'1', b""), message(b'C', b"SELECT 1\0"), ready()].concat();
    if unnamed {
        last.extend([message(b'1', b""), ready()].concat());
    }
    last.extend_from_slice(&state(&restored));
    let identity = answer_rows(&[row(&["7", "00000001", "t"])]);
    vec![login, [identity, state(FRESH)].concat(), last]
}

/// Plays a script in pieces of so many bytes. How it ended, and what was sent before each step.
fn play(plan: Plan, script: &[Vec<u8>], piece: usize) -> (Progress, Vec<Vec<u8>>) {
    let mut mover = Mover::new(plan, startup("user app  "), SEED);
    let mut sent = Vec::new();
    for step in script {
        let out = mover.output().to_vec();
        mover.sent(out.len());
        sent.push(out);
        for bytes in step.chunks(piece) {
            match mover.received(bytes) {
                Progress::More => {}
                end => return (end, sent),
            }
        }
    }
    (Progress::More, sent)
}

#[test]
fn a_session_is_made_again_in_three_round_trips() {
    for unnamed in [false, true] {
        for piece in [1, 2, 7, 100_000] {
            let (end, sent) = play(plan(unnamed), &script(unnamed), piece);
            let Progress::Done(moved) = end else {
                panic!("{end:?}");
            };
            assert_eq!(moved.identity.timeline, Some(1));
            assert!(moved.news.is_empty(), "{:?}", moved.news);
            assert_eq!(sent[0], startup("user app  "));
            let text = String::from_utf8_lossy(&sent[2]).into_owned();
            let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
            assert!(at("app.tenant") < at("q\0select $1\0"));
            assert!(at("q\0select $1\0") < at("session_state"));
            assert_eq!(text.contains("\0select 1\0"), unnamed);
            let Answer::State(known) = Question::State.read(moved.state.0, &moved.state.1).unwrap()
            else {
                panic!("another answer");
            };
            assert_eq!(known.obstacle(&Policy::default()), None);
        }
    }
}

#[test]
fn who_was_told_that_there_is_no_encryption_is_told_again() {
    let asked = |answer: &[u8]| {
        let mut plan = plan(false);
        plan.record.asked_to_encrypt = true;
        let mut mover = Mover::new(plan, startup("user app  "), SEED);
        // Whatever the channel is: the node that says "no" must know that it did.
        assert_eq!(mover.output(), *b"\0\0\0\x08\x04\xd2\x16\x2f");
        mover.sent(8);
        assert_eq!(mover.received(b""), Progress::More);
        let progress = mover.received(answer);
        (progress, mover.output().to_vec())
    };
    assert_eq!(asked(b"N"), (Progress::More, startup("user app  ")));
    for yes in [b"S", b"G", b"x"] {
        let (end, sent) = asked(yes);
        assert!(matches!(end, Progress::Refused(Reason::Tls, _)), "{end:?}");
        assert!(sent.is_empty());
    }
    let refusal = message(b'E', b"SFATAL\0VFATAL\0C28000\0Mno\0\0");
    let (end, sent) = asked(&refusal);
    assert!(
        matches!(end, Progress::Refused(Reason::LoginRefused, _)),
        "{end:?}"
    );
    assert!(sent.is_empty());
    // An application that did not ask was told nothing.
    let unasked = Mover::new(plan(false), startup("user app  "), SEED);
    assert_eq!(unasked.output(), startup("user app  "));
}

#[test]
fn a_session_that_is_lost_at_any_byte_is_never_taken_for_one_that_moved() {
    let script = script(true);
    for (step, bytes) in script.iter().enumerate() {
        for cut in 0..bytes.len() {
            let mut lost = script[..=step].to_vec();
            lost[step].truncate(cut);
            assert_eq!(
                play(plan(true), &lost, 100_000).0,
                Progress::More,
                "{step} {cut}"
            );
        }
    }
}

#[test]
fn whatever_is_not_the_same_is_refused() {
    let error = |severity: &str, code: &str| {
        let body = format!("S{severity}\0V{severity}\0C{code}\0Mno\0\0");
        message(b'E', body.as_bytes())
    };
    let ok = message(b'R', &[0; 4]);
    let asks = |code: u8| message(b'R', &[0, 0, 0, code]);
    let with = |step: usize, bytes: Vec<u8>| {
        let mut script = script(false);
        script[step] = bytes;
        script
    };
    let good = script(false);
    let identity = |columns: &[&str]| {
        let bytes = [answer_rows(&[row(columns)]), state(FRESH)].concat();
        with(1, bytes)
    };
    let fresh = |table: String| {
        let identity = answer_rows(&[row(&["7", "00000001", "t"])]);
        with(1, [identity, state(&table)].concat())
    };
    let restored = |table: String| {
        let ran = [message(b'1', b""), ready()].concat();
        with(2, [ran, state(&table)].concat())
    };
    let refused = [
        (with(0, asks(3)), Reason::LoginNeedsPassword),
        (with(0, asks(5)), Reason::LoginNeedsPassword),
        (with(0, asks(10)), Reason::LoginNeedsPassword),
        (with(0, asks(7)), Reason::LoginNeedsPassword),
        (with(0, message(b'R', b"")), Reason::LoginNeedsPassword),
        (with(0, error("FATAL", "28000")), Reason::LoginRefused),
        (
            with(0, [ok.clone(), error("FATAL", "3D000")].concat()),
            Reason::LoginRefused,
        ),
        (with(0, [ok, ready()].concat()), Reason::OtherServer),
        (identity(&["8", "00000001", "t"]), Reason::OtherServer),
        (identity(&["7", "00000000", "t"]), Reason::OtherServer),
        (identity(&["7", "00000001", "f"]), Reason::NoExtension),
        (identity(&["7"]), Reason::UnknownState),
        (
            with(1, [error("ERROR", "42883"), ready()].concat()),
            Reason::UnknownState,
        ),
        (
            fresh("authenticated|-|app|-|-".into()),
            Reason::UnknownState,
        ),
        (
            fresh(format!("{FRESH}\nadvisory|1|x|session|-")),
            Reason::StateDiffers,
        ),
        (
            with(2, [error("ERROR", "42704"), ready()].concat()),
            Reason::RestoreFailed,
        ),
        (with(2, message(b'Z', b"E")), Reason::RestoreFailed),
        (restored(FRESH.into()), Reason::StateDiffers),
        (
            restored(format!("{FRESH}\n{THEN}\nsetting|app.x|1|user|-")),
            Reason::StateDiffers,
        ),
        (
            restored(format!("{FRESH}\n{THEN}").replace("4096", "4097")),
            Reason::StateDiffers,
        ),
    ];
    for (script, reason) in refused {
        let (end, _) = play(plan(false), &script, 100_000);
        assert!(
            matches!(end, Progress::Refused(why, _) if why == reason),
            "{reason:?}: {end:?}"
        );
    }
    let later = [
        with(0, error("FATAL", "57P03")),
        with(0, error("FATAL", "53300")),
        with(2, error("FATAL", "57P01")),
        identity(&["7", "-", "t"]),
    ];
    for script in later {
        let (end, _) = play(plan(false), &script, 100_000);
        assert!(matches!(end, Progress::Again(_)), "{end:?}");
    }
    assert!(matches!(
        play(plan(false), &good, 100_000).0,
        Progress::Done(_)
    ));
}

#[test]
fn the_application_hears_what_is_reported_otherwise() {
    let mut script = script(false);
    let told = parameter("server_version", VERSION);
    let at = script[0]
        .windows(told.len())
        .position(|bytes| bytes == told);
    let at = at.unwrap();
    let minor = parameter("server_version", "15.19");
    script[0].splice(at..at + told.len(), minor.clone());
    // Set and set back while the session was made again: that is no news.
    script[2] = [
        parameter("TimeZone", "Asia/Tokyo"),
        parameter("TimeZone", "UTC"),
        script[2].clone(),
    ]
    .concat();
    let (end, _) = play(plan(false), &script, 100_000);
    let Progress::Done(moved) = end else {
        panic!("{end:?}");
    };
    assert_eq!(moved.news, minor);
    // An unnamed statement that cannot be made is not there, and that is all.
    let mut failing = self::script(true);
    let no = message(b'E', b"SERROR\0VERROR\0C42P01\0Mno\0\0");
    let ran = [message(b'1', b""), ready()].concat();
    let made = state(&format!("{FRESH}\n{THEN}"));
    failing[2] = [ran, no, ready(), made].concat();
    assert!(matches!(
        play(plan(true), &failing, 100_000).0,
        Progress::Done(_)
    ));
}

#[test]
fn noise_is_no_session() {
    let mut word = 1_u64;
    let mut random = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (word >> 33) as usize
    };
    for _ in 0..2000 {
        let mut script = script(false);
        let step = random() % script.len();
        let at = random() % script[step].len();
        script[step][at] ^= 1 << (random() % 8);
        // Some bytes say nothing; none does harm.
        let _ = play(plan(false), &script, 1 + random() % 50);
    }
}

#[test]
fn a_server_that_lacks_a_commit_of_the_session_is_refused() {
    let plan = || Plan {
        written: Some((b"1"[..].into(), b"0/15D68A8"[..].into())),
        ..plan(false)
    };
    let error = [
        message(b'E', b"SERROR\0C42883\0Mno such function\0\0"),
        ready(),
    ]
    .concat();
    for (told, reason) in [
        (answer_rows(&[row(&["t"])]), None),
        (answer_rows(&[row(&["f"])]), Some(Reason::DataLoss)),
        (answer_rows(&[row(&["-"])]), Some(Reason::UnknownState)),
        (answer_rows(&[]), Some(Reason::UnknownState)),
        (error, Some(Reason::UnknownState)),
    ] {
        let mut script = script(false);
        let identity = answer_rows(&[row(&["7", "00000001", "t"])]);
        script[1] = [identity, told, state(FRESH)].concat();
        let (end, sent) = play(plan(), &script, 7);
        match (end, reason) {
            (Progress::Done(_), None) => {}
            (Progress::Refused(why, _), Some(reason)) => assert_eq!(why, reason),
            (end, reason) => panic!("{end:?} {reason:?}"),
        }
        let text = String::from_utf8_lossy(&sent[1]).into_owned();
        assert!(text.contains("vianet.holds") && text.contains("0/15D68A8"));
    }
    let written = snapshot("written|3|0/15D68A8|-|-").written();
    assert_eq!(written, Some((b"3"[..].into(), b"0/15D68A8"[..].into())));
    assert_eq!(snapshot("").written(), None);
}

/// Where the catalogs tell the state, prepared statements are described besides.
#[test]
fn a_session_is_made_again_as_the_catalogs_tell_it() {
    const ROWS: &str = "setting|app.tenant|42|session|-\nprepared|q|select $1|protocol|{23}\n\
        result|q|-|undescribed|{4711}\nprepared|a|select 1|protocol|{}\nresult|a|-|undescribed|{}\n\
        written|2|0/16|-|-\ncatalog|one|other|-|-";
    let fresh = || {
        state(&format!(
            "{FRESH}\nwritten|2|0/15|-|-\ncatalog|one|other|-|-"
        ))
    };
    let told = |columns: &[&[u8]]| {
        let mut answer = state(&format!("{FRESH}\n{ROWS}"));
        answer.truncate(answer.len() - ready().len());
        for columns in columns {
            answer.extend_from_slice(&message(b't', &[0; 2]));
            answer.extend_from_slice(columns);
        }
        answer.extend_from_slice(&ready());
        answer
    };
    let (rows, none) = (message(b'T', b"\0\x01a\0"), message(b'n', b""));
    let question = |prepared: &[&str]| Question::Derived {
        custom: b"app.tenant".to_vec(),
        prepared: prepared.iter().map(|name| name.as_bytes().into()).collect(),
    };
    let read = |answer: &[u8]| match question(&[]).read(SEED, answer) {
        Ok(Answer::State(state)) => state,
        other => panic!("{other:?}"),
    };
    let then = read(&told(&[&none, &rows]));
    assert!(!then.is_undescribed() && read(&told(&[])).is_undescribed());
    assert_eq!(then.prepared(), [b"a"[..].into(), b"q"[..].into()]);
    for odd in [&[&rows[..]][..], &[&rows, &rows, &rows]] {
        assert!(question(&[]).read(SEED, &told(odd)).is_err());
    }
    let mut observer = session();
    assert_eq!(
        observer.lacks(&read(&told(&[])), &Policy::default()),
        Some(Question::Catalog)
    );
    observer.suspects([].into());
    let next = observer.lacks(&read(&told(&[])), &Policy::default());
    assert!(matches!(next, Some(Question::Derived { prepared, .. }) if prepared.len() == 2));
    assert_eq!(observer.lacks(&then, &Policy::default()), None);
    assert_eq!(observer.learned(&then, &Policy::default()), None);

    let plan = || Plan {
        state: then.clone(),
        written: then.written(),
        custom: Some(b"app.tenant".to_vec()),
        ..plan(false)
    };
    let script = |columns: &[&[u8]]| {
        let identity = answer_rows(&[row(&["7", "00000001", "f"])]);
        let holds = answer_rows(&[row(&["t"])]);
        let ran = [message(b'1', b""), ready()].concat();
        vec![
            script(false).remove(0),
            [identity, holds, fresh()].concat(),
            [ran, told(columns)].concat(),
        ]
    };
    let mut plan = plan();
    plan.identity.tells_state = false;
    let (end, sent) = play(plan.clone(), &script(&[&none, &rows]), 7);
    let Progress::Done(moved) = end else {
        panic!("{end:?}");
    };
    assert_eq!(moved.written, then.written());
    let asked: Vec<_> = sent
        .iter()
        .map(|bytes| String::from_utf8_lossy(bytes))
        .collect();
    assert!(asked[1].contains("pg_last_wal_replay_lsn") && asked[1].contains("app.tenant"));
    assert!(!asked[1].contains("vianet.holds") && !asked[1].contains("session_state(true)"));
    let (a, q) = (
        asked[2].rfind("Sa\0").unwrap(),
        asked[2].rfind("Sq\0").unwrap(),
    );
    assert!(asked[2].rfind("app.tenant").unwrap() < a && a < q);
    let other = message(b'T', b"\0\x01b\0");
    for columns in [&[&none[..], &other][..], &[&rows, &rows], &[]] {
        let (end, _) = play(plan.clone(), &script(columns), 100_000);
        let differs = matches!(end, Progress::Refused(Reason::StateDiffers, _));
        assert!(differs, "{columns:?}: {end:?}");
    }
}

/// A fraction that is not the session's own is compared, and never set: the server shows six digits of it.
#[test]
fn what_is_rounded_is_not_restored() {
    let with = |value: &str| snapshot(&format!("setting|random_page_cost|{value}|rounded|-"));
    let steps = crate::session::postgres::restore::plan(&with("1.1"), &with("1.2"), false).len();
    assert_eq!(steps, 0);
    assert!(compare::difference(&with("1.1"), &with("1.2")).is_some());
    assert!(compare::difference(&with("1.1"), &with("1.1")).is_none());
}

/// What a good server says at each step where it goes on in an aborted block.
fn aborting() -> Vec<Vec<u8>> {
    let mut script = script(false);
    let failed = message(b'E', b"SERROR\0VERROR\0C42601\0Mno\0\0");
    let block = [
        answer_rows(&[row(&["f"])]),
        [message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat(),
        [failed, message(b'Z', b"E")].concat(),
    ];
    script.push(block.concat());
    script
}

fn lost(onward: Onward) -> Plan {
    Plan {
        onward,
        ..plan(false)
    }
}

#[test]
fn a_lost_block_is_made_one_that_failed_by_a_server_that_says_so() {
    for piece in [1, 3, 100_000] {
        let (end, sent) = play(lost(Onward::Aborted), &aborting(), piece);
        let Progress::Done(moved) = end else {
            panic!("{end:?}");
        };
        assert_eq!(moved.onward, Onward::Aborted);
        let text = String::from_utf8_lossy(&sent[3]).into_owned();
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(at("pg_get_functiondef") < at("BEGIN") && at("BEGIN") < at("vianet: the"));
        assert!(text.is_ascii());
        let Answer::State(known) = Question::State.read(moved.state.0, &moved.state.1).unwrap()
        else {
            panic!("another answer");
        };
        assert_eq!(known.obstacle(&Policy::default()), None);
    }
    // Nothing less than all of it will do.
    let script = aborting();
    for cut in 0..script[3].len() {
        let mut lost_at = script.clone();
        lost_at[3].truncate(cut);
        assert_eq!(
            play(lost(Onward::Aborted), &lost_at, 100_000).0,
            Progress::More
        );
    }
    // Nor another status.
    for (from, to) in [(b'T', b'I'), (b'T', b'E'), (b'E', b'T'), (b'E', b'I')] {
        let mut other = script.clone();
        let status = [b'Z', 0, 0, 0, 5, from];
        let at = other[3].windows(6).rposition(|it| it == status).unwrap();
        other[3][at + 5] = to;
        let (end, _) = play(lost(Onward::Aborted), &other, 100_000);
        assert!(
            matches!(end, Progress::Refused(Reason::RestoreFailed, _)),
            "{end:?}"
        );
    }
}

#[test]
fn what_a_rollback_does_not_undo_is_asked_for() {
    for onward in [Onward::Aborted, Onward::Unknown] {
        let mut script = aborting();
        if onward == Onward::Unknown {
            script[3] = answer_rows(&[row(&["f"])]);
            let (end, sent) = play(lost(Onward::Unknown), &script, 100_000);
            assert!(matches!(end, Progress::Done(_)), "{end:?}");
            let text = String::from_utf8_lossy(&sent[3]).into_owned();
            assert!(
                text.contains("set_config") && !text.contains("BEGIN"),
                "{text}"
            );
        }
        for (said, reason) in [
            (answer_rows(&[row(&["t"])]), Reason::Lasting),
            (answer_rows(&[row(&["-"])]), Reason::UnknownState),
            (answer_rows(&[]), Reason::UnknownState),
            (
                [message(b'E', b"SERROR\0C57014\0Mno\0\0"), ready()].concat(),
                Reason::UnknownState,
            ),
        ] {
            script[3] = said;
            match play(lost(onward.clone()), &script, 100_000).0 {
                Progress::Refused(why, _) => assert_eq!(why, reason),
                end => panic!("{end:?}"),
            }
        }
    }
}

/// A server may say something as soon as the session is made: one that listens hears of what was notified.
#[test]
fn what_comes_right_behind_the_last_answer_is_kept() {
    let told = message(b'A', b"\0\0\0\x07jobs\x001\0");
    for split in 0..=told.len() {
        let mut script = script(false);
        let (now, later) = told.split_at(split);
        script.last_mut().unwrap().extend_from_slice(now);
        if split > 0 && !later.is_empty() {
            script.push(later.to_vec());
        }
        let (end, _) = play(plan(false), &script, 100_000);
        let Progress::Done(moved) = end else {
            panic!("{split}: {end:?}");
        };
        assert!(split == 0 || moved.news == told, "{split}");
    }
}

#[test]
fn what_is_sent_again_is_sent_last() {
    let again = b"Q\0\0\0\x20select".to_vec();
    let plan = Plan {
        onward: Onward::Same(again.clone()),
        ..plan(false)
    };
    let mut mover = Mover::new(plan, startup("user app  "), SEED);
    for step in script(false) {
        assert!(!mover.only_sends());
        mover.sent(mover.output().len());
        assert_eq!(mover.received(&step), Progress::More);
    }
    assert!(mover.only_sends() && mover.finish().is_none());
    for byte in &again {
        assert_eq!(mover.output()[0], *byte);
        assert!(mover.finish().is_none());
        mover.sent(1);
    }
    assert_eq!(mover.finish().unwrap().onward, Onward::Same(again));
}

/// What a standby, or the server that it has become, says to the questions about a session.
fn asked(timeline: &str, table: &str) -> Vec<u8> {
    [answer_rows(&[row(&["7", timeline, "t"])]), state(table)].concat()
}

fn restored(table: &str) -> Vec<u8> {
    [message(b'1', b""), ready(), state(table)].concat()
}

/// Plays whole steps; what was sent before each.
fn play_on(mut mover: Mover, script: &[Vec<u8>]) -> (Progress, Vec<String>) {
    let mut sent = Vec::new();
    let mut end = Progress::More;
    for step in script {
        assert_eq!(end, Progress::More);
        sent.push(String::from_utf8_lossy(mover.output()).into_owned());
        mover.sent(mover.output().len());
        end = mover.received(step);
    }
    (end, sent)
}

fn made(end: Progress) -> Warm {
    match end {
        Progress::Done(made) => Warm::from(made),
        other => panic!("{other:?}"),
    }
}

fn made_beforehand() -> Warm {
    let mut login = script(false).remove(0);
    login.extend_from_slice(&parameter("in_hot_standby", "on"));
    let mover = Mover::beforehand(plan(true), startup("user app  "), None, SEED);
    let there = format!("{FRESH}\n{THEN}");
    let (end, sent) = play_on(mover, &[login, asked("-", FRESH), restored(&there)]);
    // What a standby refuses or would not keep is left for later.
    assert!(!sent[2].contains("\0select 1\0"), "{sent:?}");
    made(end)
}

#[test]
fn a_session_that_was_made_beforehand_is_asked_once() {
    let there = format!("{FRESH}\n{THEN}");
    let mut last = parameter("in_hot_standby", "off");
    last.extend_from_slice(&asked("00000002", &there));
    let mut plan = plan(false);
    let before = parameter("in_hot_standby", "off");
    plan.record.told(b'S', &before[5..], true);
    let mover = Mover::again(plan, made_beforehand(), SEED);
    assert!(mover.has_logged_in());
    let (end, sent) = play_on(mover, &[last]);
    let Progress::Done(moved) = end else {
        panic!("{end:?}");
    };
    assert!(!sent[0].contains("user app"), "{sent:?}");
    assert_eq!(moved.identity.timeline, Some(2));
    assert!(moved.news.is_empty(), "{:?}", moved.news);
}

#[test]
fn what_a_session_has_become_since_is_made_up_for() {
    let there = format!("{FRESH}\n{THEN}");
    let changed = there.replace("|42|", "|43|");
    let mut plan = plan(true);
    plan.state = snapshot(&THEN.replace("|42|", "|43|"));
    let mover = Mover::again(plan.clone(), made_beforehand(), SEED);
    let unnamed = [message(b'1', b""), ready()].concat();
    let mut last = [message(b'1', b""), ready()].concat();
    last.extend([unnamed, state(&changed)].concat());
    let (end, sent) = play_on(mover, &[asked("00000002", &there), last]);
    assert!(matches!(end, Progress::Done(_)), "{end:?}");
    for part in ["app.tenant", "43", "Sq\0", "q\0select $1\0", "\0select 1\0"] {
        assert!(sent[1].contains(part), "{part}: {sent:?}");
    }
    // It is not taken for what it was.
    let mover = Mover::again(plan, made_beforehand(), SEED);
    let mut last = [message(b'1', b""), ready(), message(b'1', b""), ready()].concat();
    last.extend_from_slice(&state(&there));
    let (end, _) = play_on(mover, &[asked("00000002", &there), last]);
    assert!(
        matches!(end, Progress::Refused(Reason::StateDiffers, _)),
        "{end:?}"
    );
}

#[test]
fn only_a_standby_is_made_ready_and_only_what_is_none_any_more_is_used() {
    let there = format!("{FRESH}\n{THEN}");
    let login = script(false).remove(0);
    let mover = Mover::beforehand(plan(false), startup("user app  "), None, SEED);
    let (end, _) = play_on(mover, &[login, asked("00000001", FRESH)]);
    assert!(
        matches!(end, Progress::Refused(Reason::OtherServer, _)),
        "{end:?}"
    );
    let again = |identity: &[&str]| {
        let mover = Mover::again(plan(false), made_beforehand(), SEED);
        let asked = [answer_rows(&[row(identity)]), state(&there)].concat();
        play_on(mover, &[asked]).0
    };
    assert!(matches!(again(&["7", "-", "t"]), Progress::Again(_)));
    for other in [["8", "00000002", "t"], ["7", "00000000", "t"]] {
        let end = again(&other);
        let refused = matches!(end, Progress::Refused(Reason::OtherServer, _));
        assert!(refused, "{end:?}");
    }
    assert!(matches!(again(&["7", "00000002", "t"]), Progress::Done(_)));
}

#[test]
fn what_was_prepared_is_prepared_again_if_settings_have_changed_on_both_sides() {
    let date = "\nsetting|DateStyle|German|configuration file|-";
    let mut plan = plan(false);
    plan.state = snapshot(&format!("{THEN}{date}"));
    let table = FRESH.replace("ISO, MDY", "German") + "\n" + THEN;
    let mover = Mover::again(plan, made_beforehand(), SEED);
    let last = restored(&table);
    let (end, sent) = play_on(mover, &[asked("00000002", &table), last]);
    assert!(matches!(end, Progress::Done(_)), "{end:?}");
    assert!(sent[1].contains("q\0select $1\0"), "{sent:?}");
}
