//! The observer against messages by hand, recorded sessions, every cut of those, and noise.

mod cuts;
mod doubts;
mod model;
mod moves;
pub(super) mod moving;
mod noise;
mod ours;
mod outcomes;
mod texts;
mod transcript;

use super::*;

/// One message with a type byte.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

/// A packet without one.
pub(super) fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 8).to_be_bytes();
    [&length[..], &code.to_be_bytes(), body].concat()
}

pub(super) const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;
const V3: u32 = 196_608;

fn startup(parameters: &str) -> Vec<u8> {
    packet(V3, parameters.replace(' ', "\0").as_bytes())
}

/// A session after its login.
fn session() -> Observer {
    let mut observer = Observer::default();
    observer.sent(&startup("user app  "));
    assert_eq!(observer.standing(), Standing::Login);
    answer(&mut observer, "R");
    observer.received(&message(b'K', &[0; 8]));
    answer(&mut observer, "Z");
    assert!(observer.at_safe_point());
    observer
}

/// Messages of the client by their types, with bodies that nobody looks at.
fn ask(observer: &mut Observer, kinds: &str) {
    for kind in kinds.bytes() {
        observer.sent(&message(kind, b"body"));
    }
}

/// Messages of the server by their types: `Z` is idle, `z` in a transaction, `!` one that failed, `F` a fatal error.
fn answer(observer: &mut Observer, kinds: &str) {
    for kind in kinds.bytes() {
        observer.received(&match kind {
            b'Z' => message(b'Z', b"I"),
            b'z' => message(b'Z', b"T"),
            b'!' => message(b'Z', b"E"),
            b'E' => message(b'E', b"SERROR\0VERROR\0C42601\0Mno\0\0"),
            b'F' => message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mno\0\0"),
            b'R' => message(b'R', &[0; 4]),
            kind => message(kind, b""),
        });
    }
}

#[test]
fn a_query_is_in_flight_from_its_last_byte_to_its_answer() {
    let mut observer = session();
    let query = message(b'Q', b"select 1\0");
    observer.sent(&query[..query.len() - 1]);
    assert_eq!(observer.standing(), Standing::Idle);
    assert_eq!(observer.obstacle(), Some(Reason::Incomplete));
    observer.sent(&query[query.len() - 1..]);
    assert_eq!(observer.standing(), Standing::InFlight);
    answer(&mut observer, "TDDC");
    assert_eq!(observer.obstacle(), Some(Reason::InFlight));
    answer(&mut observer, "z");
    assert_eq!(observer.obstacle(), Some(Reason::Transaction));
    ask(&mut observer, "Q");
    answer(&mut observer, "E!");
    assert_eq!(observer.transaction(), Some(Transaction::Failed));
    assert_eq!(observer.standing(), Standing::Transaction);
    ask(&mut observer, "Q");
    answer(&mut observer, "CZ");
    assert!(observer.at_safe_point());
}

#[test]
fn an_execute_is_in_flight_until_the_answer_to_its_sync() {
    let mut observer = session();
    ask(&mut observer, "PBD");
    assert_eq!(
        (observer.standing(), observer.obstacle()),
        (Standing::Idle, Some(Reason::Unanswered))
    );
    ask(&mut observer, "E");
    assert_eq!(observer.standing(), Standing::InFlight);
    answer(&mut observer, "12nC");
    assert_eq!(observer.standing(), Standing::InFlight);
    ask(&mut observer, "S");
    answer(&mut observer, "Z");
    assert!(observer.at_safe_point());
    // Without an Execute there is nothing to lose.
    ask(&mut observer, "PDS");
    answer(&mut observer, "1tT");
    assert_eq!(observer.standing(), Standing::Idle);
    answer(&mut observer, "Z");
    assert!(observer.at_safe_point());
}

#[test]
fn after_an_error_everything_is_skipped_to_the_next_sync() {
    // Known before the rest is sent.
    let mut observer = session();
    ask(&mut observer, "P");
    answer(&mut observer, "E");
    ask(&mut observer, "QBEdcF");
    assert_eq!(observer.standing(), Standing::InFlight);
    ask(&mut observer, "S");
    answer(&mut observer, "Z");
    assert!(observer.at_safe_point());
    // And after it.
    ask(&mut observer, "PBEQPBESPBES");
    answer(&mut observer, "1EZ");
    assert_eq!(observer.standing(), Standing::InFlight);
    answer(&mut observer, "12CZ");
    assert!(observer.at_safe_point());
    // The error of a Sync (a deferred constraint) skips nothing.
    ask(&mut observer, "BESQ");
    answer(&mut observer, "2CEZ");
    assert_eq!(observer.standing(), Standing::InFlight);
    answer(&mut observer, "CZ");
    assert!(observer.at_safe_point());
}

#[test]
fn a_copy_passes_over_the_sync_before_its_data() {
    let mut observer = session();
    ask(&mut observer, "PBES");
    answer(&mut observer, "12G");
    assert_eq!(observer.obstacle(), Some(Reason::Copy));
    ask(&mut observer, "ddcS");
    answer(&mut observer, "CZ");
    assert!(observer.at_safe_point());
    // All at once, without waiting to be asked for it.
    ask(&mut observer, "BESddcS");
    answer(&mut observer, "2GCZ");
    assert!(observer.at_safe_point());
    // A Sync among the data is one or none, as the copy may fail: that is not followed.
    ask(&mut observer, "BE");
    answer(&mut observer, "2G");
    ask(&mut observer, "dS");
    assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood));
}

#[test]
fn a_copy_that_failed_may_not_have_read_the_sync() {
    // Into a view, say: the server asks for data, and fails before it reads. The Sync ends the skipping, and what follows
    // it is run; had the copy read the Sync, it would be skipped.
    for (first, said, then) in [("PBDES", "12nG", "dcS"), ("PBDESdcSQ", "12nG", "")] {
        let mut observer = session();
        ask(&mut observer, first);
        answer(&mut observer, said);
        ask(&mut observer, then);
        answer(&mut observer, "EZ");
        ask(&mut observer, "Q");
        answer(&mut observer, "Z");
        assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood), "{first}");
    }
    // Nor is it known whether a request behind it is run.
    let mut observer = session();
    ask(&mut observer, "BES");
    answer(&mut observer, "2GE");
    assert_eq!(observer.standing(), Standing::InFlight);
    ask(&mut observer, "Q");
    assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood));
}

#[test]
fn a_query_is_not_done_before_it_is_answered() {
    for (asked, answers) in [("Q", ["C", "I", "E"]), ("F", ["V", "E", "V"])] {
        let mut observer = session();
        ask(&mut observer, asked);
        answer(&mut observer, "Z");
        assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood));
        for said in answers {
            let mut observer = session();
            ask(&mut observer, asked);
            answer(&mut observer, said);
            answer(&mut observer, "Z");
            assert!(observer.at_safe_point(), "{asked} {said}");
        }
    }
}

#[test]
fn data_that_come_late_for_a_copy_that_failed_are_nothing() {
    let mut observer = session();
    ask(&mut observer, "Q");
    answer(&mut observer, "G");
    ask(&mut observer, "d");
    answer(&mut observer, "E");
    ask(&mut observer, "dc");
    answer(&mut observer, "Z");
    ask(&mut observer, "dc");
    assert!(observer.at_safe_point());
    ask(&mut observer, "Q");
    answer(&mut observer, "HddcCZ");
    assert!(observer.at_safe_point());
}

#[test]
fn what_the_server_says_of_its_own_changes_nothing() {
    let mut observer = session();
    answer(&mut observer, "NAS");
    assert!(observer.at_safe_point());
    ask(&mut observer, "BES");
    answer(&mut observer, "N2SCAZ");
    assert!(observer.at_safe_point());
}

#[test]
fn a_request_for_encryption_is_answered_with_one_byte() {
    let mut observer = Observer::default();
    for code in [GSS, SSL] {
        observer.sent(&packet(code, b""));
        assert_eq!(observer.recognised(), Recognised::Yes);
        assert!(!observer.at_boundary());
        observer.received(b"N");
        assert!(observer.at_boundary());
    }
    observer.sent(&startup("user app  "));
    answer(&mut observer, "RSSZ");
    assert!(observer.at_safe_point());
    for (code, answer, reason) in [
        (SSL, b'S', Reason::Tls),
        (GSS, b'G', Reason::Gss),
        (SSL, b'?', Reason::NotUnderstood),
    ] {
        let mut observer = Observer::default();
        observer.sent(&packet(code, b""));
        observer.received(&[answer]);
        assert_eq!(observer.obstacle(), Some(reason));
        // Whatever follows.
        observer.received(&[0; 100]);
        observer.sent(&[0; 100]);
        assert_eq!(
            (observer.standing(), observer.obstacle()),
            (Standing::Blind, Some(reason))
        );
    }
    // A server that does not know it.
    let mut observer = Observer::default();
    observer.sent(&packet(SSL, b""));
    answer(&mut observer, "F");
    assert_eq!(observer.standing(), Standing::Over);
}

#[test]
fn sessions_that_stay_say_why() {
    for (parameters, reason) in [
        ("user app replication database  ", Reason::Replication),
        ("user app replication true  ", Reason::Replication),
        ("_pq_.wish 1 user app  ", Reason::ProtocolOption),
    ] {
        let mut observer = Observer::default();
        observer.sent(&startup(parameters));
        answer(&mut observer, "RvZ");
        assert_eq!(observer.obstacle(), Some(reason), "{parameters}");
        assert_eq!(observer.standing(), Standing::Idle);
    }
    let mut observer = Observer::default();
    observer.sent(&startup("user replication replication false  "));
    answer(&mut observer, "RZ");
    assert!(observer.at_safe_point());
    let mut observer = Observer::default();
    observer.sent(&packet(CANCEL, &[1; 8]));
    assert_eq!(
        (observer.standing(), observer.obstacle()),
        (Standing::Over, Some(Reason::Cancel))
    );
    for end in ["X", ""] {
        let mut observer = session();
        ask(&mut observer, end);
        if end.is_empty() {
            ask(&mut observer, "Q");
            answer(&mut observer, "F");
        }
        assert_eq!(observer.obstacle(), Some(Reason::Ended));
    }
}

#[test]
fn a_session_ends_in_good_order_only_where_nothing_was_lost() {
    let end = |asked: &str, said: &[u8]| {
        let mut observer = session();
        ask(&mut observer, asked);
        observer.received(said);
        observer.end(
            Lost {
                why: Reason::NoServer,
                name: "sales",
                node: "node-a",
            },
            true,
        )
    };
    let good = End::Words(Vec::new());
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mno\0\0");
    assert_eq!(end("X", b""), good);
    assert_eq!(end("PDX", b""), good, "nothing runs");
    assert_eq!(end("", &fatal), good);
    assert_eq!(end("Q", &fatal), good, "the server has said so");
    assert_eq!(end("QX", &fatal), good);
    // Whether it ran is not known.
    assert_eq!(end("QX", b""), End::Reset);
    let done = [message(b'C', b""), message(b'Z', b"I")].concat();
    assert_eq!(end("QX", &done), good);
    assert_eq!(end("QX", &done[..done.len() - 1]), End::Reset);
    // In the middle of a message.
    assert_eq!(end("X", b"N\0\0"), End::Reset);
    assert_eq!(end("", &[&fatal[..], b"N"].concat()), End::Reset);
}

#[test]
fn other_protocols_are_seen_at_once_and_pieces_waited_for() {
    let mut observer = Observer::default();
    observer.sent(&[0, 0]);
    assert_eq!(observer.recognised(), Recognised::NotYet);
    for (sent, received) in [
        (&b"SELECT 1\n"[..], &b""[..]),
        (b"\x12\x01\x00\x2f\x00\x00\x00\x00", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", b""),
        (b"\0\0\0\x08\x04\xd2\x16\x2e", b""),
        (b"\0\0\0\x09\x00\x02\x00\x00", b""),
        (b"", b"\x4a\x00\x00\x00\x0a8.0"),
    ] {
        let mut observer = Observer::default();
        observer.sent(sent);
        observer.received(received);
        assert_eq!(observer.recognised(), Recognised::No, "{sent:?}");
        assert_eq!(observer.obstacle(), Some(Reason::NotPostgres));
    }
}

#[test]
fn nothing_is_held_back_of_what_may_be_another_protocol() {
    let release = |observer: &Observer, bytes: &[u8]| {
        let ahead = |skip: usize, out: &mut [u8]| {
            let rest = &bytes[skip.min(bytes.len())..];
            let n = rest.len().min(out.len());
            out[..n].copy_from_slice(&rest[..n]);
            n
        };
        let release = observer.release(bytes.len(), bytes.len(), LARGE, ahead);
        (release.bytes, release.next)
    };
    // Before anything was sent, and behind a few bytes of what may become a startup packet.
    for sent in [&b""[..], b"\0", b"\0\0\0\x12\0\x03\0"] {
        let mut observer = Observer::default();
        observer.sent(sent);
        for bytes in [&b"\0"[..], b"R", b"R\0\0\0", b"R\0\0\0\x09R"] {
            assert_eq!(release(&observer, bytes), (bytes.len(), 1));
        }
        observer.received(b"R");
        assert_eq!(observer.recognised(), Recognised::No);
    }
    // Nor of Kafka's, whose first packet (Metadata, version 1, of a client "c") has the head of one.
    let mut observer = Observer::default();
    let metadata = b"\0\0\0\x0f\0\x03\0\x01\0\0\0\x01\0\x01c\xff\xff\xff\xff";
    observer.sent(metadata);
    let response = [&b"\0\0\0\x50\0\0\0\x01"[..], &[7; 0x4c]].concat();
    assert_eq!(observer.recognised(), Recognised::No);
    assert_eq!(release(&observer, &response), (response.len(), 1));
    // Parameters are pairs, one of them the user, and an end.
    for parameters in [
        "user app",
        "user app ",
        "database app  ",
        "user app x  ",
        "user app    ",
    ] {
        let mut observer = Observer::default();
        observer.sent(&startup(parameters));
        assert_eq!(observer.recognised(), Recognised::No, "{parameters:?}");
    }
    // A server that answers as none does.
    let mut observer = Observer::default();
    observer.sent(&startup("user app  "));
    assert_eq!(release(&observer, &response), (response.len(), 1));
    observer.received(&response[..1]);
    assert_eq!(
        (observer.recognised(), observer.obstacle()),
        (Recognised::No, Some(Reason::NotPostgres))
    );
    // Behind a whole one it is.
    let mut observer = Observer::default();
    observer.sent(&startup("user app  "));
    assert_eq!(release(&observer, b"R\0\0\0\x09R"), (0, 10));
}

#[test]
fn what_is_not_understood_ends_the_understanding() {
    let said: [(&str, &str); 9] = [
        ("", "C"),
        ("", "E"),
        ("", "Z"),
        ("", "?"),
        ("Q", "1"),
        ("PS", "Z"),
        ("Q", "d"),
        ("F", "D"),
        ("Q", "K"),
    ];
    for (asked, said) in said {
        let mut observer = session();
        ask(&mut observer, asked);
        answer(&mut observer, said);
        assert_eq!(observer.standing(), Standing::Blind, "{asked} {said}");
        answer(&mut observer, "Z");
        ask(&mut observer, "Q");
        assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood));
        assert!(!observer.at_boundary());
    }
    for asked in ["p", "?", "\0"] {
        let mut observer = session();
        ask(&mut observer, asked);
        assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood));
    }
    let mut observer = session();
    observer.sent(&[b'Q', 0, 0, 0, 3]);
    assert_eq!(observer.obstacle(), Some(Reason::NotUnderstood));
    let mut observer = session();
    ask(&mut observer, "Q");
    answer(&mut observer, "W");
    assert_eq!(observer.obstacle(), Some(Reason::Replication));
}

#[test]
fn a_pipeline_without_end_is_not_counted_without_end() {
    let mut observer = session();
    let query = message(b'Q', b"select 1\0");
    for _ in 0..16_384 {
        observer.sent(&query);
    }
    assert_eq!(observer.standing(), Standing::InFlight);
    observer.sent(&query);
    assert_eq!(observer.obstacle(), Some(Reason::Pipeline));
}

#[test]
fn reasons_have_names_of_their_own_that_fit() {
    let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    // `vianet_info` has 64 bytes for it.
    assert!(names.iter().all(|name| name.len() < 64));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
}

#[test]
fn the_table_of_reasons_is_that_of_the_documentation() {
    let docs = include_str!("../../../docs/protocol.md");
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.text());
        assert!(docs.contains(&row), "docs/protocol.md lacks\n{row}");
    }
}
