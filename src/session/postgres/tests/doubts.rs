//! What may have been committed, or would not be undone, though the texts that were sent last do not say so.

use super::moving::snapshot;
use super::*;

fn simple(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// Binds and executes.
fn run(name: &str) -> Vec<u8> {
    let bind = message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes());
    [bind, message(b'E', &[0; 5])].concat()
}

fn done(observer: &mut Observer, tag: &str, status: u8) {
    observer.received(&message(b'C', format!("{tag}\0").as_bytes()));
    observer.received(&message(b'Z', &[status]));
}

/// A session in a transaction that was begun at rest.
fn in_block() -> Observer {
    let mut observer = session();
    begin(&mut observer);
    observer
}

fn begin(observer: &mut Observer) {
    observer.sent(&simple("begin"));
    done(observer, "BEGIN", b'T');
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// As what it goes on: by default, and where the application wants to be told.
fn onward(observer: &Observer, state: &str) -> [Result<Onward, Reason>; 2] {
    let state = snapshot(state);
    [false, true].map(|tell| observer.onward(Some(&state), tell))
}

/// What is said where it ends.
fn words(observer: &Observer, tell: bool) -> String {
    let lost = Lost {
        name: "sales.lab",
        node: "node-a",
        why: Reason::NoServer,
    };
    match observer.end(lost, tell) {
        End::Reset => "reset".into(),
        End::Words(words) => String::from_utf8_lossy(&words).into_owned(),
    }
}

const COMMIT: &str = "prepared|c|commit|protocol|{}";

#[test]
fn execute_may_run_a_commit_that_was_prepared_by_the_protocol() {
    for text in ["execute c", "EXECUTE c;", "/* */ execute c"] {
        let mut observer = in_block();
        observer.sent(&simple(text));
        assert_eq!(
            onward(&observer, COMMIT),
            [Err(Reason::InFlight), Err(Reason::InFlight)]
        );
        assert_eq!(words(&observer, false), "reset");
        let nested = format!("prepared|d|execute c|protocol|{{}}\n{COMMIT}");
        assert_eq!(onward(&observer, &nested)[0], Err(Reason::InFlight));
        // One that cannot.
        let harmless = "prepared|c|prepare c as select 1|sql|{}\nprepared|d|select 1|protocol|{}";
        assert_eq!(onward(&observer, harmless)[0], Ok(Onward::Aborted));
    }
}

#[test]
fn the_unnamed_statement_is_what_it_was_when_it_was_bound() {
    let mut observer = in_block();
    observer.sent(&[parse("", "commit"), sync()].concat());
    answer(&mut observer, "1z");
    let again = [parse("", "select 1"), run(""), sync()].concat();
    observer.sent(&[run(""), again].concat());
    assert_eq!(onward(&observer, "")[0], Err(Reason::InFlight));
    assert_eq!(words(&observer, false), "reset");
}

#[test]
fn what_was_prepared_before_and_lasts_is_not_undone() {
    // The unnamed one.
    for (text, is) in [
        ("select pg_advisory_lock(1)", Err(Reason::Lasting)),
        ("select 1", Ok(Onward::Aborted)),
    ] {
        for another in [false, true] {
            let mut observer = session();
            observer.sent(&[parse("", text), sync()].concat());
            answer(&mut observer, "1Z");
            observer.sent(&[run("b"), sync()].concat());
            answer(&mut observer, "2");
            done(&mut observer, "BEGIN", b'T');
            observer.sent(&[run(""), sync()].concat());
            answer(&mut observer, "2D");
            done(&mut observer, "SELECT 1", b'T');
            if another {
                // And is forgotten.
                observer.sent(&[run("b"), sync()].concat());
                answer(&mut observer, "E!");
            }
            let state = "prepared|b|begin|protocol|{}";
            assert_eq!(onward(&observer, state)[0], is, "{text} {another}");
        }
    }
    // One that prepares another.
    let observer = in_block();
    for (row, is) in [
        (
            "prepared|p|prepare x as select 1|protocol|{}",
            Err(Reason::Lasting),
        ),
        (
            "prepared|x|prepare x as select 1|sql|{}",
            Ok(Onward::Aborted),
        ),
    ] {
        assert_eq!(onward(&observer, row)[0], is, "{row}");
    }
}

#[test]
fn requests_before_the_end_of_the_login_are_not_forgotten() {
    let mut observer = Observer::default();
    observer.sent(&startup("user app  "));
    observer.sent(&[simple("begin"), simple("commit")].concat());
    answer(&mut observer, "R");
    observer.received(&message(b'K', &[0; 8]));
    answer(&mut observer, "Z");
    done(&mut observer, "BEGIN", b'T');
    assert_eq!(observer.standing(), Standing::InFlight);
    assert!(onward(&observer, "").iter().all(|it| it.is_err()));
    assert_eq!(words(&observer, false), "reset");
    // From the next rest on all is known.
    done(&mut observer, "COMMIT", b'I');
    assert!(observer.at_safe_point());
    begin(&mut observer);
    assert_eq!(onward(&observer, "")[0], Ok(Onward::Aborted));
}

#[test]
fn who_may_still_be_in_a_block_is_not_told_that_there_is_none() {
    for (request, told) in [
        (simple("commit"), true),
        (simple("END TRANSACTION;"), true),
        ([simple("insert into t"), simple("commit")].concat(), true),
        ([simple("rollback"), simple("insert into t")].concat(), true),
        // None of these need have ended it.
        (simple("call p()"), false),
        (simple("do $$commit$$"), false),
        (simple("select 1; select 2"), false),
        (simple("vacuum"), false),
        (run("unknown"), false),
        (simple("commit and chain"), false),
        ([simple("rollback to a"), simple("insert")].concat(), false),
        // And this begins another.
        ([simple("commit"), simple("begin")].concat(), false),
        (simple("commit; begin"), false),
        (simple("insert into t; commit;"), true),
        (simple("select 1 -- ; commit"), false),
        (simple("select 1; commit; select 2"), false),
        (simple("do $$begin insert into t; commit; end$$"), false),
    ] {
        let mut observer = in_block();
        observer.sent(&request);
        let text = String::from_utf8_lossy(&request).into_owned();
        let is = onward(&observer, "")[1].clone();
        assert_eq!(is == Ok(Onward::Unknown), told, "{text}: {is:?}");
    }
    // Nor who was about to begin one: the rest would run alone.
    for (request, told) in [
        (simple("insert into t"), true),
        (simple("call p()"), true),
        (simple("insert into t; insert into t"), true),
        (simple("begin"), false),
        (simple("Start Transaction"), false),
        (simple("insert into t; begin"), false),
        (simple("begin; insert into t; commit"), true),
        (simple("begin; insert into t -- ; commit"), false),
        ([simple("begin"), simple("insert into t")].concat(), false),
        (run("unknown"), false),
    ] {
        let mut observer = session();
        observer.sent(&request);
        let text = String::from_utf8_lossy(&request).into_owned();
        let is = onward(&observer, "")[1].clone();
        assert_eq!(is == Ok(Onward::Unknown), told, "{text}: {is:?}");
    }
}

#[test]
fn what_a_commit_may_have_kept_is_not_lost_in_silence() {
    for (text, tag, state) in [
        ("do $$begin set search_path = x; end$$", "DO", ""),
        ("create temp table t ()", "CREATE TABLE", ""),
        ("create table Pg_Temp.t ()", "CREATE TABLE", ""),
        ("select 1 into temporary t", "SELECT 1", ""),
        (
            "insert into t",
            "INSERT 0 1",
            "prepared|s|select set_config('a', $1, false)|protocol|{25}",
        ),
    ] {
        let mut observer = in_block();
        observer.sent(&simple(text));
        done(&mut observer, tag, b'T');
        assert_eq!(onward(&observer, state)[0], Ok(Onward::Aborted), "{text}");
        observer.sent(&simple("commit"));
        assert!(onward(&observer, state)[1].is_err(), "{text}");
    }
}

#[test]
fn what_is_written_in_escapes_is_not_read() {
    for text in [
        "do E'begin perform pg_adv\\x69sory_lock(1); end'",
        "DO language plpgsql 'begin\\n'",
    ] {
        let mut observer = in_block();
        observer.sent(&simple(text));
        done(&mut observer, "DO", b'T');
        assert_eq!(onward(&observer, "")[0], Err(Reason::Lasting), "{text}");
    }
}

#[test]
fn an_error_that_was_told_is_not_told_again() {
    let mut observer = in_block();
    let flush = message(b'H', b"");
    observer.sent(&[flush.clone(), parse("", "selec"), flush].concat());
    answer(&mut observer, "E");
    let aborted = onward(&observer, "")[0].clone().unwrap();
    let (said, stand_in) = observer.stand_in(&aborted, message(b'E', b"error"));
    assert!(said.is_empty(), "{said:?}");
    let heard = stand_in.unwrap().hear(&sync(), false);
    assert_eq!(heard.said, message(b'Z', b"E"));
    assert!(heard.done);
}

#[test]
fn at_rest_the_unnamed_statement_is_the_last_one() {
    let unnamed = |observer: &Observer| {
        assert_eq!(onward(observer, "")[0], Ok(Onward::Same(Vec::new())));
        let record = observer.record_at_rest(true);
        record.unnamed.as_deref().map(|body| body.to_vec())
    };
    let mut observer = session();
    for text in ["select 1", "select 2"] {
        observer.sent(&[parse("", text), sync()].concat());
        answer(&mut observer, "1Z");
        assert_eq!(unnamed(&observer).unwrap(), parse("", text)[5..], "{text}");
    }
    let long = "x".repeat(10_000);
    observer.sent(&[parse("", &long), sync()].concat());
    answer(&mut observer, "1Z");
    assert_eq!(observer.obstacle_at_rest(), Some(Reason::TooLarge));
    observer.sent(&simple("select 3"));
    done(&mut observer, "SELECT 1", b'I');
    assert_eq!(observer.obstacle_at_rest(), None);
    assert_eq!(unnamed(&observer), None);
}
