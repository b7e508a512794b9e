//! A question of ours in the application's stream: cut at every byte, received in every way, lost at every byte.

use super::moving::{FRESH, rows};
use super::*;

const SEED: u64 = 1;

/// The answer to a question, and what comes between for the application.
fn answer_with(between: &[(usize, Vec<u8>)]) -> (Vec<u8>, Vec<u8>) {
    let mut messages = vec![message(b'1', b""), message(b'2', b"")];
    messages.extend(rows(FRESH).iter().map(|row| message(b'D', row)));
    let tag = format!("SELECT {}\0", rows(FRESH).len());
    messages.extend([message(b'C', tag.as_bytes()), message(b'3', b"")]);
    messages.push(message(b'Z', b"I"));
    let mut stream = Vec::new();
    let mut theirs = Vec::new();
    for (at, ours) in messages.iter().enumerate() {
        for (_, other) in between.iter().filter(|(place, _)| *place == at) {
            stream.extend_from_slice(other);
            theirs.extend_from_slice(other);
        }
        stream.extend_from_slice(ours);
    }
    (stream, theirs)
}

/// Receives `stream` as it arrives in `pieces`, by a receiver with so much room. What it got, and what was taken.
fn receive(stream: &[u8], pieces: &[usize], room: usize, large: usize) -> (Vec<u8>, Vec<u8>, Ours) {
    let mut ours = Ours::asked(1);
    let (mut theirs, mut taken) = (Vec::new(), Vec::new());
    let (mut at, mut come) = (0, 0);
    for piece in pieces {
        come += piece;
        loop {
            // It is one word between two calls.
            ours = Ours::from_word(ours.word());
            let rest = &stream[at..come];
            let copy = |out: &mut [u8]| {
                let n = out.len().min(rest.len());
                out[..n].copy_from_slice(&rest[..n]);
                n
            };
            match ours.step(rest.len(), large, copy) {
                Step::Take(n) => {
                    taken.extend_from_slice(&rest[..n]);
                    at += n;
                }
                Step::Pass(n) => {
                    let n = n.min(room);
                    theirs.extend_from_slice(&rest[..n]);
                    ours.passed(n);
                    at += n;
                }
                Step::Wait(n) => {
                    assert!(n > rest.len() && n <= large.max(6), "{n}");
                    break;
                }
                Step::Over => {
                    theirs.extend_from_slice(rest);
                    at = come;
                    break;
                }
            }
        }
    }
    (theirs, taken, ours)
}

fn notification() -> Vec<u8> {
    message(b'A', b"\0\0\0\x01channel\0payload\0")
}

fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0")
}

#[test]
fn the_application_gets_its_own_and_nothing_of_ours_wherever_the_bytes_are_cut() {
    let parameter = message(b'S', b"TimeZone\0UTC\0");
    let places = [
        vec![],
        vec![(0, notification())],
        vec![(1, notice()), (3, parameter), (4, notification())],
        vec![(14, notification()), (14, notice())],
    ];
    let reply = [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    for between in places {
        let (ours, theirs) = answer_with(&between);
        let stream = [&ours[..], &reply].concat();
        let expected = [&theirs[..], &reply].concat();
        for cut in 0..=stream.len() {
            for (room, large) in [(8192, 65_536), (1, 65_536), (7, 16)] {
                let pieces = [cut, stream.len() - cut];
                let (got, taken, state) = receive(&stream, &pieces, room, large);
                assert_eq!(got, expected, "{cut}");
                assert!(state.is_over());
                assert!(matches!(
                    Question::State.read(SEED, &taken),
                    Ok(Answer::State(_))
                ));
            }
        }
        let bytes = vec![1; stream.len()];
        assert_eq!(receive(&stream, &bytes, 3, 16).0, expected);
    }
}

#[test]
fn a_question_lost_at_any_byte_leaves_nothing_of_it_and_is_not_answered() {
    let (stream, theirs) = answer_with(&[(1, notice()), (5, notification())]);
    for lost in 0..stream.len() {
        for read in 0..=lost {
            let (mut got, taken, mut state) = receive(&stream, &[read], 8192, 65_536);
            let at = got.len() + taken.len();
            let mut unread = stream[at..lost].to_vec();
            state.remove_from(&mut unread);
            got.extend_from_slice(&unread);
            assert!(theirs.starts_with(&got), "{read} {lost}");
            assert!(Question::State.read(SEED, &taken).is_err(), "{read} {lost}");
        }
    }
}

#[test]
fn a_fatal_error_is_for_the_application_and_ends_what_is_ours() {
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0");
    let (stream, _) = answer_with(&[]);
    let at = stream.len() - 6;
    let stream = [&stream[..at], &fatal].concat();
    for cut in 0..=stream.len() {
        let (got, _, state) = receive(&stream, &[cut, stream.len() - cut], 8192, 65_536);
        assert_eq!(got, fatal, "{cut}");
        assert!(state.is_over());
    }
    // Any other error is ours.
    let error = message(b'E', b"SERROR\0VERROR\0C42883\0Mno such function\0\0");
    let stream = [&error[..], &message(b'Z', b"I")].concat();
    let (got, taken, state) = receive(&stream, &[stream.len()], 8192, 65_536);
    assert!(got.is_empty() && state.is_over());
    let why = Question::State.read(SEED, &taken).unwrap_err();
    assert_eq!(why, "42883 no such function");
}

#[test]
fn an_answer_that_is_not_whole_or_not_idle_is_none() {
    let (stream, _) = answer_with(&[]);
    assert!(Question::State.read(SEED, &stream).is_ok());
    for cut in 0..stream.len() {
        assert!(Question::State.read(SEED, &stream[..cut]).is_err(), "{cut}");
        // A row that another process took.
        if stream[cut] == b'D' && cut > 10 {
            let rest = &stream[cut + 1..];
            assert!(
                Question::State
                    .read(SEED, &[&stream[..cut], rest].concat())
                    .is_err()
            );
        }
    }
    let open = [&stream[..stream.len() - 1], b"T"].concat();
    assert!(Question::State.read(SEED, &open).is_err());
    assert!(Question::Identity.read(SEED, &stream).is_err());
}

#[test]
fn a_question_is_plain_and_qualified() {
    for question in [Question::Identity, Question::State] {
        let bytes = question.bytes(SEED);
        // Never an unnamed statement or portal, never a simple query.
        let mut rest = &bytes[..];
        let mut kinds = Vec::new();
        while let Some((&kind, after)) = rest.split_first() {
            let length = u32::from_be_bytes(*after.first_chunk().unwrap()) as usize;
            let body = &after[4..length];
            if matches!(kind, b'P' | b'B' | b'E') {
                assert!(body.starts_with(b"vianet 0000000000000001\0"));
            }
            assert!(kind != b'P' || body.is_ascii());
            kinds.push(kind);
            rest = &after[length..];
        }
        assert_eq!(kinds, b"CPBECCS");
    }
}
