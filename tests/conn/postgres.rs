//! PostgreSQL sessions on a connection by name: what the application gets, whole, and what it is told at the loss.

use super::*;

#[path = "postgres/others.rs"]
mod others;
#[path = "postgres/promise.rs"]
mod promise;
#[path = "postgres/questions.rs"]
mod questions;
#[path = "postgres/shared.rs"]
mod shared;
#[path = "postgres/switchover.rs"]
mod switchover;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

fn startup() -> Vec<u8> {
    [&b"\0\0\0\x12\0\x03\0\0"[..], b"user\0app\0\0"].concat()
}

fn ready(status: &[u8]) -> Vec<u8> {
    message(b'Z', status)
}

fn notice(bytes: usize) -> Vec<u8> {
    message(b'N', &vec![b'x'; bytes])
}

/// A server that says what the test says.
fn server(number: u8, more: &str) -> Bed {
    let bed = bed(number, Behaviour::Held);
    // It answers no questions.
    let text = std::fs::read_to_string(&bed.config).unwrap();
    let mut text = format!("snapshot_idle_ms = 60000\n{text}");
    if !more.contains("session") {
        text.push_str("session = \"auto\"\n");
    }
    text.push_str(more);
    std::fs::write(&bed.config, text).unwrap();
    bed
}

fn why(fd: RawFd) -> Option<&'static str> {
    conn::find(fd).unwrap().info().why_not_movable
}

fn hear(bed: &Bed, fd: RawFd, words: &[u8]) {
    bed.a.say(words);
    assert_eq!(recv_exactly(fd, words.len()), words);
}

/// A session after its login.
fn session(bed: &Bed, transport: Transport) -> RawFd {
    let fd = bed.connect(transport);
    send_all(fd, &startup());
    assert_eq!(why(fd), Some("login"));
    hear(bed, fd, &[message(b'R', &[0; 4]), ready(b"I")].concat());
    assert_eq!(why(fd), Some("state_pending"));
    fd
}

fn query(fd: RawFd) {
    send_all(fd, &message(b'Q', b"select 1\0"));
    assert_eq!(why(fd), Some("in_flight"));
}

/// Loses the server; everything that the application reads from then on, and how it ends.
fn loses(bed: &Bed, fd: RawFd) -> (Vec<u8>, i32) {
    // The client may know of it first; and one that the node does not know of does not break.
    wait_for("the channel", || bed.a.channels() > 0);
    bed.b.set_role(Role::Active, 2000);
    bed.a.kill();
    last_words(fd)
}

/// Everything that the application reads from now on, and how it ends.
fn last_words(fd: RawFd) -> (Vec<u8>, i32) {
    let (mut all, mut buffer) = (Vec::new(), [0; 50]);
    let end = loop {
        match conn::find(fd).unwrap().recv(&mut buffer, 0) {
            Ok(0) => break 0,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(error) => break error.errno(),
        }
    };
    wait_for("HUP", || {
        poll_one(fd, libc::POLLIN, 100) & libc::POLLHUP != 0
    });
    let send = conn::find(fd).unwrap().send(&[IoSlice::new(b"x")], 0);
    assert!(send.is_err());
    conn::close(fd).unwrap();
    (all, end)
}

#[track_caller]
fn fatal((words, end): (Vec<u8>, i32), code: &str, text: &str) {
    assert_eq!(words.first(), Some(&b'E'), "{words:?}");
    let said = String::from_utf8_lossy(&words);
    for part in [
        "VFATAL\0",
        &format!("\0C{code}\0"),
        "\0Mterminating connection",
        "node-a",
        text,
    ] {
        assert!(said.contains(part), "{part}: {said:?}");
    }
    // One message, and then the end as a server makes it.
    let length = u32::from_be_bytes(words[1..5].try_into().unwrap());
    assert_eq!((words.len(), end), (length as usize + 1, 0));
}

#[test]
fn an_idle_session_ends_with_a_word_that_says_why() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(170 + n as u8, "");
        let fd = session(&bed, transport);
        fatal(loses(&bed, fd), "57P01", "state_pending");
        let fd = bed.connect(transport);
        assert_eq!(conn::find(fd).unwrap().info().node, "node-b");
        conn::close(fd).unwrap();
    }
}

#[test]
fn who_polls_is_woken_by_the_word() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(172 + n as u8, "");
        let fd = session(&bed, transport);
        nonblocking(fd, true);
        assert_eq!(poll_one(fd, libc::POLLIN, 0), 0);
        let (bed, polls) = (&bed, std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            let poller = scope.spawn(|| {
                polls.wait();
                poll_one(fd, libc::POLLIN, NEVER_MS)
            });
            polls.wait();
            bed.b.set_role(Role::Active, 2000);
            bed.a.kill();
            assert_ne!(poller.join().unwrap() & libc::POLLIN, 0);
        });
        let mut buffer = [0; 2000];
        let n = conn::find(fd).unwrap().recv(&mut buffer, 0).unwrap();
        assert_eq!(buffer[0], b'E');
        assert_eq!(conn::find(fd).unwrap().recv(&mut buffer[n..], 0), Ok(0));
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_request_in_flight_ends_without_a_word_unless_one_is_wanted() {
    for (n, transport) in transports().into_iter().enumerate() {
        for (m, settings) in ["", "on_unknown = \"error\"\n"].iter().enumerate() {
            let bed = server(174 + (2 * n + m) as u8, settings);
            let fd = session(&bed, transport);
            query(fd);
            // Part of the answer changes nothing.
            hear(&bed, fd, &message(b'C', b"SELECT 1\0"));
            match m {
                0 => assert_eq!(loses(&bed, fd), (Vec::new(), libc::ECONNRESET)),
                _ => fatal(loses(&bed, fd), "08007", "unknown"),
            }
        }
    }
}

#[test]
fn an_answer_that_arrived_counts_though_nobody_has_read_it() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(178 + n as u8, "");
        let fd = session(&bed, transport);
        query(fd);
        let answer = [message(b'C', b"SELECT 1\0"), ready(b"I")].concat();
        bed.a.say(&answer);
        wait_for("the answer", || {
            conn::find(fd).unwrap().readable() == answer.len()
        });
        let (said, end) = loses(&bed, fd);
        let (heard, rest) = said.split_at(answer.len());
        assert_eq!(heard, answer);
        fatal((rest.to_vec(), end), "57P01", "idle");
    }
}

#[test]
fn a_lost_transaction_is_told() {
    for (n, transport) in transports().into_iter().enumerate() {
        for (m, status) in [b"T", b"E"].iter().enumerate() {
            let bed = server(180 + (2 * n + m) as u8, "");
            let fd = session(&bed, transport);
            query(fd);
            hear(
                &bed,
                fd,
                &[message(b'C', b"BEGIN\0"), ready(*status)].concat(),
            );
            assert_eq!(why(fd), Some("transaction"));
            // So is one whose next request misses a byte.
            send_all(fd, b"Q\0\0\0\x09sele");
            fatal(loses(&bed, fd), "08006", "nothing of the transaction");
        }
    }
}

#[test]
fn a_login_that_is_not_complete_is_told() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(184 + n as u8, "");
        let fd = bed.connect(transport);
        send_all(fd, &startup());
        fatal(loses(&bed, fd), "57P01", "login");
    }
}

#[test]
fn the_application_gets_whole_messages() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(186 + n as u8, "");
        let fd = session(&bed, transport);
        nonblocking(fd, true);
        let recv = |buffer: &mut [u8]| conn::find(fd).unwrap().recv(buffer, 0);
        let (first, second) = (notice(10), notice(1000));
        let all = [&first[..], &second].concat();
        for (n, piece) in all.chunks(50).enumerate() {
            bed.a.say(piece);
            if n == 0 {
                wait_for("the first", || {
                    poll_one(fd, libc::POLLIN, 0) == libc::POLLIN
                });
                // As much as there is room for; and what begins in it stays behind.
                assert_eq!(recv(&mut [0; 4]), Ok(4));
                let mut buffer = [7; 100];
                assert_eq!(recv(&mut buffer), Ok(first.len() - 4));
                assert_eq!(buffer[first.len() - 4..], [7; 100][first.len() - 4..]);
            }
            if piece.len() < 50 {
                break;
            }
            wait_for("nothing to read", || {
                recv(&mut [0; 100]).is_err_and(|e| e.errno() == libc::EAGAIN)
                    && poll_one(fd, libc::POLLIN, 0) == 0
            });
        }
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        let mut got = vec![0; 3000];
        assert_eq!(recv(&mut got), Ok(second.len()));
        assert_eq!(got[..second.len()], second);
        // Half of one is not delivered at the loss either.
        bed.a.say(&second[..500]);
        let mut buffer = [7; 100];
        wait_for("nothing to read", || {
            recv(&mut buffer).is_err_and(|e| e.errno() == libc::EAGAIN)
                && poll_one(fd, libc::POLLIN, 0) == 0
        });
        assert_eq!(buffer, [7; 100], "what is held back is nowhere");
        nonblocking(fd, false);
        fatal(loses(&bed, fd), "57P01", "idle");
    }
}

#[test]
fn a_message_that_is_large_comes_in_parts_and_is_cut() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(188 + n as u8, "");
        let fd = session(&bed, transport);
        let large = notice(100_000);
        hear(&bed, fd, &large[..5000]);
        bed.a.say(&large[5000..6000]);
        wait_for("more of it", || conn::find(fd).unwrap().readable() == 1000);
        let (said, end) = loses(&bed, fd);
        assert_eq!(
            (said.len(), end),
            (1000, libc::ECONNRESET),
            "no word of ours in the middle of it"
        );
    }
}

#[test]
fn a_blocking_receiver_waits_for_the_rest() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(190 + n as u8, "");
        let fd = session(&bed, transport);
        let whole = notice(3000);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut buffer = [0; 9000];
                let n = conn::find(fd).unwrap().recv(&mut buffer, 0).unwrap();
                buffer[..n].to_vec()
            });
            for piece in whole.chunks(700) {
                bed.a.say(piece);
                std::thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(reader.join().unwrap(), whole);
        });
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_session_is_followed_through_a_cut() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(192 + n as u8, "");
        let fd = session(&bed, transport);
        query(fd);
        bed.a.break_channels();
        wait_for("the resumption", || {
            conn::find(fd).unwrap().info().resumptions == 1
        });
        assert_eq!(why(fd), Some("in_flight"));
        hear(&bed, fd, &[message(b'C', b"BEGIN\0"), ready(b"T")].concat());
        assert_eq!(why(fd), Some("transaction"));
        fatal(loses(&bed, fd), "08006", "nothing of the transaction");
    }
}

#[test]
fn bytes_that_are_read_behind_our_back_end_the_following() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(194 + n as u8, "");
        let fd = session(&bed, transport);
        let words = notice(100);
        bed.a.say(&words);
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        let mut byte = [0; 1];
        // SAFETY: room for one byte.
        assert_eq!(unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) }, 1);
        assert_eq!(
            [&byte[..], &recv_exactly(fd, words.len() - 1)].concat(),
            words
        );
        assert_eq!(why(fd), Some("shared"));
        assert_eq!(loses(&bed, fd), (Vec::new(), libc::ECONNRESET));
    }
}

#[test]
fn other_streams_are_what_the_configuration_says() {
    for (n, (session, sent, reason)) in [
        ("", startup(), "answer_outstanding"),
        ("raw", startup(), "answer_outstanding"),
        ("auto", b"a line of text\n".to_vec(), "answer_outstanding"),
        ("postgres", b"a line of text\n".to_vec(), "not_postgres"),
    ]
    .into_iter()
    .enumerate()
    {
        let bed = server(
            196 + n as u8,
            &match session {
                "" => "# session\n".to_owned(),
                session => format!("session = \"{session}\"\n"),
            },
        );
        let fd = bed.connect(Transport::Shm);
        send_all(fd, &sent);
        wait_for("the reason", || why(fd) == Some(reason));
        assert_eq!(loses(&bed, fd), (Vec::new(), libc::ECONNRESET));
    }
}
