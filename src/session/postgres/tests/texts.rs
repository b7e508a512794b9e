//! What texts tell, and who stands in for a server.

use super::super::text::{Effect, effect, is_rollback, lasts, prepared_lasts, sets};
use super::*;

#[test]
fn what_may_commit_is_known_by_its_first_word() {
    for text in [
        "select 1",
        " insert into t values (1);",
        "UPDATE t SET a = 1 ; \n",
        "-- a comment\nselect 1",
        "/* a comment */ select 1",
        "savepoint a",
        "release a",
        "prepare p as select 1",
        "set x = 1",
        "Select 1\0",
    ] {
        assert_eq!(effect(text.as_bytes()), Effect::Stays, "{text}");
    }
    for text in ["rollback", "ROLLBACK to a", "abort;", "rollback and chain"] {
        assert_eq!(effect(text.as_bytes()), Effect::RollsBack, "{text}");
    }
    for text in [
        "commit",
        "COMMIT;",
        "end",
        "prepare transaction 'x'",
        "Prepare/**/Transaction 'x'",
        "call p()",
        "do $$ begin commit; end $$",
        "do 'x'",
        "select 1; commit",
        "select ';' || 1",
        "rollback; insert into t values (1)",
        "vacuum",
        "",
        ";",
        ";commit",
        "-- no end",
        "/* no end",
        "/* one /* in */ */ select 1",
        "(select 1)",
        "\u{e9}",
        "selectx",
        "--\u{0}\ncommit",
    ] {
        assert_eq!(effect(text.as_bytes()), Effect::MayCommit, "{text}");
    }
}

#[test]
fn what_lasts_is_found_in_the_words() {
    for text in [
        "select pg_advisory_lock(1)",
        "select PG_TRY_ADVISORY_LOCK_SHARED(1)",
        "select \"pg_advisory_lock\"(1)",
        "select U&\"\\0070g_advisory_lock\"(1)",
        "select pg_advisory_xact_lock(1), pg_advisory_lock(2)",
        "prepare a as select 1",
        "select 1; PREPARE a as select 1",
        "deallocate a",
        "do $$begin execute 'x'; end$$",
        "do $$execute$$",
        "load 'x'",
        "discard all",
        "create function f() returns int language sql as ''",
        "create extension x",
        "select query_to_xml('select 1', true, true, '')",
        "select ts_stat('x')",
        "select pg_create_physical_replication_slot('a', true, true)",
        "select pg_backup_start('x')",
        "select 1; execute q",
    ] {
        assert!(lasts(text.as_bytes()), "{text}");
    }
    for text in [
        "select pg_advisory_xact_lock(1)",
        "insert into prepared_meals values ('executed', 'loader')",
        "execute q(1)",
        "prepare transaction 'x'",
        "update t set preparer = 1",
    ] {
        assert!(!lasts(text.as_bytes()), "{text}");
    }
    assert!(!prepared_lasts(b"prepare q as select 1"));
    assert!(prepared_lasts(b"prepare q as select pg_advisory_lock(1)"));
    assert!(prepared_lasts(b"select pg_advisory_lock(1)"));
    assert!(sets(b"select set_config('a', 'b', false)"));
    assert!(!sets(b"update t set a = 1"));
    for text in [
        "rollback",
        " ROLLBACK ;",
        "abort work",
        "Rollback\n transaction;\0",
    ] {
        let one_space = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(is_rollback(one_space.as_bytes()), "{text}");
    }
    for text in [
        "rollback to a",
        "rollback; select 1",
        "rollback and chain",
        "commit",
        "",
    ] {
        assert!(!is_rollback(text.as_bytes()), "{text}");
    }
}

fn stand_in(status: u8, failed: bool) -> StandIn {
    StandIn::new(message(b'E', b"error"), status, failed)
}

/// What is said, as types; `.` where it is done, and how much was taken.
fn says(mut stand_in: StandIn, bytes: &[u8], piece: usize) -> (String, usize) {
    let (mut said, mut taken) = (String::new(), 0);
    while taken < bytes.len() {
        let end = bytes.len().min(taken + piece);
        let heard = stand_in.hear(&bytes[taken..end], false);
        taken += heard.taken;
        let mut rest = &heard.said[..];
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
            said.push(char::from(rest[0]));
            rest = &rest[length + 1..];
        }
        if !heard.passed.is_empty() {
            assert!(bytes[..taken].ends_with(&heard.passed));
            said.push('>');
        }
        if heard.done {
            said.push('.');
            break;
        }
    }
    (said, taken)
}

#[test]
fn a_request_is_answered_to_its_end_and_no_further() {
    let messages = |kinds: &str| {
        let all = kinds.bytes().map(|kind| message(kind, b"body"));
        all.collect::<Vec<_>>().concat()
    };
    let one = message(b'Q', b"body").len();
    for (kinds, failed, said, count) in [
        ("QQ", false, "EZ.", 1),
        ("FQ", false, "EZ.", 1),
        ("PBDESQ", false, "EZ.", 5),
        ("BES", false, "EZ.", 3),
        ("PHQdcSP", false, "EZ.", 6),
        ("HdcfQ", false, "EZ.", 5),
        ("SQ", false, "ZEZ.", 2),
        ("X", false, ".", 0),
        ("HX", false, ".", 1),
        ("PX", false, "E.", 1),
        // Its error was told.
        ("QQ", true, "Z.", 1),
        ("BESP", true, "Z.", 3),
        ("SP", true, "Z.", 1),
    ] {
        for piece in [1, 2, 7, 1000] {
            let (heard, taken) = says(stand_in(b'E', failed), &messages(kinds), piece);
            assert_eq!((&*heard, taken), (said, count * one), "{kinds} {piece}");
        }
    }
    let rollback = [message(b'Q', b"rollback;\0"), message(b'Q', b"x\0")].concat();
    for piece in [1, 3, 1000] {
        let length = rollback.len() - 7;
        assert_eq!(
            says(stand_in(b'E', false), &rollback, piece),
            (">.".into(), length)
        );
        // There is nothing to roll back.
        assert_eq!(
            says(stand_in(b'I', false), &rollback, piece),
            ("EZ.".into(), length)
        );
    }
    // A text that is longer than what is looked at.
    let long = message(b'Q', format!("rollback{}\0", " ".repeat(100)).as_bytes());
    assert_eq!(says(stand_in(b'E', false), &long, 9).0, "EZ.");
    // A length that is none.
    let broken = [&b"Q\0\0\0\0"[..], b"Q\xff\xff\xff\xff", b"more"].concat();
    says(stand_in(b'E', false), &broken, 1);
    says(stand_in(b'E', false), &broken[5..], 1);
}

#[test]
fn a_commit_of_a_lost_block_waits_for_its_rollback() {
    for (text, waits) in [
        ("commit", true),
        (" End Transaction ; ", true),
        ("COMMIT WORK", true),
        ("commit and chain", false),
        ("commit; select 1", false),
        ("commit prepared 'a'", false),
        ("select 1", false),
    ] {
        let bytes = message(b'Q', format!("{text}\0").as_bytes());
        let behind = [&bytes[..], b"more"].concat();
        for piece in [1, 3, 1000] {
            let mut one = stand_in(b'E', false);
            let (mut taken, mut commits) = (0, false);
            while taken < bytes.len() {
                let end = behind.len().min(taken + piece);
                let heard = one.hear(&behind[taken..end], true);
                taken += heard.taken;
                commits |= heard.commits;
                assert!(!heard.commits || heard.said.is_empty(), "{text}");
            }
            assert_eq!((taken, commits), (bytes.len(), waits), "{text} {piece}");
            assert_eq!(one.commits(), waits, "{text}");
            if waits {
                assert_eq!(one.hear(b"more", true), Heard::default());
                assert!(one.rolled_back(true).ends_with(b"Z\0\0\0\x05I"));
            }
        }
        // Who cannot wait stays in the aborted block; so does whose rollback came to nothing.
        let heard = stand_in(b'E', false).hear(&bytes, false);
        assert!(heard.said.ends_with(b"Z\0\0\0\x05E"), "{text}");
        let mut one = stand_in(b'E', false);
        one.hear(&bytes, true);
        assert!(!waits || one.rolled_back(false).ends_with(b"Z\0\0\0\x05E"));
        // There is no block.
        assert!(!stand_in(b'I', false).hear(&bytes, true).commits, "{text}");
    }
}
