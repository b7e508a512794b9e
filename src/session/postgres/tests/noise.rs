//! Whatever comes: no panic, no dependence on how it is cut, bounded memory, and whole messages for the application.

use super::super::*;
use super::transcript::{From, all, feed};
use proptest::prelude::*;

/// Pieces that are nearly right.
fn piece() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let client = prop::sample::select(b"QFPBDCESHdcfXp?".to_vec());
    let server = prop::sample::select(b"RKvZTDCIGHWENSA123ntsVdc?".to_vec());
    let body = prop::collection::vec(prop::sample::select(b"ITE\0SVFATAL\x05".to_vec()), 0..20);
    prop_oneof![
        4 => (client, body.clone()).prop_map(|(k, b)| (true, super::message(k, &b))),
        8 => (server, body).prop_map(|(k, b)| (false, super::message(k, &b))),
        3 => Just((false, super::message(b'Z', b"I"))),
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)),
    ]
}

fn verdict(observer: &Observer) -> (Standing, Option<Reason>, bool) {
    (
        observer.standing(),
        observer.obstacle(),
        observer.at_boundary(),
    )
}

fn copy(from: &[u8], skip: usize, out: &mut [u8]) -> usize {
    let rest = from.get(skip..).unwrap_or(&[]);
    let n = rest.len().min(out.len());
    out[..n].copy_from_slice(&rest[..n]);
    n
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces(
        begin in prop::sample::select(vec![
            super::startup("user app  "),
            super::packet(super::SSL, b""),
            Vec::new(),
        ]),
        pieces in prop::collection::vec(piece(), 0..60),
        cut in 1..7_usize,
    ) {
        let (mut whole, mut cut_up) = (Observer::default(), Observer::default());
        let first = [(true, begin), (false, super::message(b'R', &[0; 4]))];
        let mut blind = None;
        for (client, bytes) in first.into_iter().chain(pieces) {
            let from = if client { From::Client } else { From::Server };
            feed(&mut whole, from, &bytes);
            for bytes in bytes.chunks(cut) {
                feed(&mut cut_up, from, bytes);
            }
            prop_assert_eq!(verdict(&whole), verdict(&cut_up));
            // Once blind, for ever, and for the first reason.
            if blind.is_some() {
                prop_assert_eq!(whole.obstacle(), blind);
            } else if whole.standing() == Standing::Blind {
                blind = whole.obstacle();
            }
        }
    }

    /// A reader with a buffer of some size, and bytes that come in pieces of some size.
    #[test]
    fn the_application_gets_whole_messages(
        sizes in prop::collection::vec(0..300_usize, 1..20),
        buffer in 1..200_usize,
        come in 1..100_usize,
        large in 1..300_usize,
    ) {
        let mut observer = super::session();
        let (mut stream, mut ends) = (Vec::new(), vec![0]);
        for size in &sizes {
            stream.extend(super::message(b'A', &vec![7; *size]));
            ends.push(stream.len());
        }
        let (mut at, mut available, mut needed) = (0, 0, 1);
        while at < stream.len() {
            let there = &stream[at..available];
            let ahead = |skip: usize, out: &mut [u8]| copy(there, skip, out);
            let release = observer.release(buffer, there.len(), large, ahead);
            let give = release.bytes;
            prop_assert!(give <= there.len().min(buffer));
            // What was said to be needed is needed; and enough, once a length was seen.
            prop_assert!(give == 0 || there.len() >= needed, "{:?} {}", release, needed);
            prop_assert!(give > 0 || there.len() < needed || needed <= 5);
            observer.released(&there[..give], &release);
            at += give;
            needed = release.next;
            // Whatever the reader holds can be completed from what has come, or is a part of a large message.
            let start = *ends.iter().rfind(|end| **end <= at).unwrap();
            let end = *ends.iter().find(|end| **end >= at).unwrap();
            prop_assert!(end <= available || end - start > large);
            prop_assert_eq!(observer.at_boundary(), ends.contains(&at));
            if give == 0 {
                available = (available + come).min(stream.len());
            }
        }
        prop_assert!(observer.at_safe_point());
    }
}

#[test]
fn recorded_sessions_are_released_to_their_end() {
    for (name, pieces) in all() {
        let (mut observer, mut held) = (Observer::default(), Vec::new());
        for (from, bytes) in pieces {
            if from == From::Client {
                assert_eq!(held, b"", "{name}");
                observer.sent(&bytes);
                continue;
            }
            held.extend(bytes);
            let ahead = |skip: usize, out: &mut [u8]| copy(&held, skip, out);
            let release = observer.release(held.len(), held.len(), LARGE, ahead);
            let rest = held.split_off(release.bytes);
            observer.released(&held, &release);
            assert!(observer.at_boundary(), "{name}");
            held = rest;
        }
        assert_eq!(held, b"", "{name}");
    }
}
