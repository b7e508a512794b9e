//! Recorded sessions: `transcripts/record.py` has made them with real clients and a real server.

use super::super::*;

/// Who sent a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// The pieces of a session in the order in which they passed.
pub type Pieces = Vec<(From, Vec<u8>)>;

macro_rules! transcripts {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../transcripts/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = transcripts![
    "blocks",
    "blocks_extended",
    "cancel",
    "cancel.2",
    "copy",
    "copy_extended",
    "copy_fail",
    "errors",
    "function",
    "killed",
    "large",
    "md5",
    "no_sync",
    "password",
    "pipeline",
    "prepared",
    "refused",
    "replication",
    "scram",
    "simple",
];

/// All of them by name.
pub fn all() -> Vec<(&'static str, Pieces)> {
    let mut all: Vec<(&str, Pieces)> = FILES.iter().map(|(n, text)| (*n, parse(text))).collect();
    // Over TCP libpq asks for encryption first.
    let mut asked = vec![
        (From::Client, super::packet(super::SSL, b"")),
        (From::Server, b"N".to_vec()),
    ];
    asked.extend(parse(FILES.iter().find(|(n, _)| *n == "scram").unwrap().1));
    all.push(("scram after SSLRequest", asked));
    all
}

fn parse(text: &str) -> Pieces {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.lines()
        .map(|line| {
            let (mark, hex) = line.split_at(1);
            let from = match mark {
                ">" => From::Client,
                "<" => From::Server,
                _ => panic!("{line}"),
            };
            (from, hex.as_bytes().chunks(2).map(byte).collect())
        })
        .collect()
}

pub fn feed(observer: &mut Observer, from: From, bytes: &[u8]) {
    match from {
        From::Client => observer.sent(bytes),
        From::Server => observer.received(bytes),
    }
}

#[test]
fn every_recorded_session_is_understood_to_its_end() {
    for (name, pieces) in all() {
        let mut observer = Observer::default();
        let mut before_end = None;
        for (from, bytes) in &pieces {
            let end = *from == From::Client && bytes.ends_with(&[b'X', 0, 0, 0, 4]);
            if end {
                // The last request may share a piece with it.
                feed(&mut observer, *from, &bytes[..bytes.len() - 5]);
                before_end = observer.obstacle();
                assert_eq!(observer.standing(), Standing::Idle, "{name}");
                feed(&mut observer, *from, &bytes[bytes.len() - 5..]);
            } else {
                feed(&mut observer, *from, bytes);
            }
        }
        let fixed = match name {
            "replication" => Some(Reason::Replication),
            _ => None,
        };
        assert_eq!(before_end, fixed, "{name}");
        assert_eq!(observer.standing(), Standing::Over, "{name}");
    }
}
