//! What is promised where a session is not at rest when its server is lost: what was not run runs on the other server, a lost
//! transaction is one that failed, and an unknown outcome is told where that is wanted.

use super::questions::{log_in, lose, movable, servers, servers_with};
use super::*;
use crate::sql::answer;
use std::sync::atomic::Ordering;

fn simple(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(name: &str) -> Vec<u8> {
    message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn execute() -> Vec<u8> {
    message(b'E', &[0; 5])
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn extended(text: &str) -> Vec<u8> {
    [parse("", text), bind(""), execute(), sync()].concat()
}

/// The next message.
fn next(fd: RawFd) -> (u8, Vec<u8>) {
    let head = recv_exactly(fd, 5);
    let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
    (head[0], recv_exactly(fd, length - 4))
}

/// Everything up to a ReadyForQuery: types, the code of an error, the tag of a command.
fn hear_all(fd: RawFd) -> String {
    let mut all = String::new();
    loop {
        let (kind, body) = next(fd);
        all.push(char::from(kind));
        let text = String::from_utf8_lossy(&body).into_owned();
        match kind {
            b'E' => {
                assert!(text.contains("VERROR\0"), "{text}");
                let code = text.split('\0').find(|field| field.starts_with('C'));
                all.push_str(&code.unwrap()[1..]);
            }
            b'C' => all.push_str(text.trim_end_matches('\0')),
            b'Z' => {
                all.push_str(&text);
                return all;
            }
            _ => {}
        }
        all.push(' ');
    }
}

fn told(fd: RawFd, request: &[u8]) -> String {
    send_all(fd, request);
    hear_all(fd)
}

const LOST: &str = "E08006 ZE";

#[test]
fn what_was_sent_in_part_runs_on_the_other_server_alone() {
    for (n, transport) in transports().into_iter().enumerate() {
        let request = extended("select it");
        // What is sent before the loss; the last byte of an Execute is too much.
        let most = request.len() - sync().len() - 1;
        for cut in (1..=most).step_by(super::questions::step(9)).chain([most]) {
            let bed = servers(40 + n as u8);
            let fd = log_in(&bed, transport);
            send_all(fd, &simple("set app.x=1"));
            assert_eq!(recv_exactly(fd, answer().len()), answer());
            movable(fd);
            send_all(fd, &request[..cut]);
            movable(fd);
            lose(&bed, fd);
            assert_eq!(told(fd, &request[cut..]), "1 2 CSELECT 1 ZI", "{cut}");
            assert_eq!(bed.a.sql().ran(), ["set app.x=1"]);
            assert_eq!(bed.b.sql().ran(), ["select it"], "{cut}");
            assert_eq!(*bed.b.sql().made.lock().unwrap(), ["app.x=1"]);
            movable(fd);
            conn::close(fd).unwrap();
        }
    }
}

#[test]
fn much_of_it_ends_the_session() {
    for (n, transport) in transports().into_iter().enumerate() {
        let request = simple(&"x".repeat(300_000));
        for (sent, moves) in [(262_144, true), (262_145, false)] {
            let bed = servers(42 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            send_all(fd, &request[..sent]);
            if moves {
                movable(fd);
                lose(&bed, fd);
                send_all(fd, &request[sent..]);
                assert_eq!(recv_exactly(fd, answer().len()), answer());
                assert_eq!(bed.b.sql().ran().len(), 1);
                conn::close(fd).unwrap();
            } else {
                assert_eq!(why(fd), Some("incomplete"));
                fatal(loses(&bed, fd), "57P01", "incomplete");
            }
        }
    }
}

#[test]
fn a_lost_transaction_is_one_that_failed() {
    for (n, transport) in transports().into_iter().enumerate() {
        for (next, said) in [
            (simple("insert second"), LOST),
            (extended("insert second"), LOST),
            // Nothing of it was committed, and who hears ROLLBACK may not have looked.
            (simple("commit"), LOST),
            (extended("commit"), LOST),
            (simple("rollback"), "CROLLBACK ZI"),
            // The server's own answer: this one knows it in small letters only.
            (simple(" ROLLBACK work; "), "E25P02 ZE"),
        ] {
            let bed = servers(44 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
            assert_eq!(told(fd, &simple("insert first")), "CSELECT 1 ZT");
            assert_eq!(why(fd), Some("transaction"));
            lose(&bed, fd);
            assert_eq!(told(fd, &next), said);
            if said.contains("25P02") {
                continue;
            }
            if said == LOST {
                assert_eq!(told(fd, &simple("insert third")), "E25P02 ZE");
                assert_eq!(told(fd, &extended("insert fourth")), "E25P02 ZE");
                assert_eq!(told(fd, &simple("commit")), "CROLLBACK ZI");
            }
            assert_eq!(told(fd, &simple("select after")), "CSELECT 1 ZI");
            let ran = bed.b.sql().ran();
            assert!(!ran.iter().any(|text| text.contains("insert")), "{ran:?}");
            movable(fd);
            conn::close(fd).unwrap();
        }
    }
}

/// In pieces of every size, by who polls.
#[test]
fn who_polls_is_woken_by_the_error() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(46 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
        lose(&bed, fd);
        nonblocking(fd, true);
        assert_eq!(poll_one(fd, libc::POLLIN, 20), 0);
        let request = extended("insert second");
        for byte in &request[..request.len() - 1] {
            send_all(fd, &[*byte]);
        }
        // The error comes at once, as a server's may.
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        send_all(fd, &request[request.len() - 1..]);
        nonblocking(fd, false);
        assert_eq!(hear_all(fd), LOST);
        nonblocking(fd, true);
        assert_eq!(poll_one(fd, libc::POLLIN, 20), 0);
        nonblocking(fd, false);
        // A reader that waits already.
        assert_eq!(told(fd, &simple("rollback")), "CROLLBACK ZI");
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_reader_that_waits_hears_the_error() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(48 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
        lose(&bed, fd);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| hear_all(fd));
            std::thread::sleep(Duration::from_millis(30));
            send_all(fd, &simple("insert second"));
            assert_eq!(reader.join().unwrap(), LOST);
        });
        conn::close(fd).unwrap();
    }
}

#[test]
fn the_error_comes_before_what_the_other_server_says() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(60 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
        lose(&bed, fd);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| [hear_all(fd), hear_all(fd)]);
            std::thread::sleep(Duration::from_millis(30));
            send_all(fd, &simple("insert second"));
            send_all(fd, &simple("insert third"));
            assert_eq!(reader.join().unwrap(), [LOST, "E25P02 ZE"]);
        });
        conn::close(fd).unwrap();
    }
}

/// Nobody can say what a server would make of it, and nobody must wait for that.
#[test]
fn what_is_not_understood_meanwhile_ends_the_session() {
    for (n, transport) in transports().into_iter().enumerate() {
        for garbage in [message(b'?', b""), b"Q\0\0\0\0".to_vec()] {
            let bed = servers(62 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
            lose(&bed, fd);
            nonblocking(fd, true);
            let request = simple("insert second");
            let conn = conn::find(fd).unwrap();
            wait_for("the end", || {
                let sent = conn.send(&[IoSlice::new(&[&garbage[..], &request].concat())], 0);
                sent.is_err_and(|error| error.errno() == libc::ECONNRESET)
            });
            assert_eq!(bed.b.sql().ran(), [""; 0]);
            conn::close(fd).unwrap();
        }
    }
}

#[test]
fn a_request_in_flight_in_a_transaction_fails_with_it() {
    for (n, transport) in transports().into_iter().enumerate() {
        for request in [
            simple("insert slowly"),
            extended("insert slowly"),
            [parse("", "insert slowly"), bind(""), execute()].concat(),
            [extended("insert slowly"), extended("insert more")].concat(),
            simple("insert slowly")[..9].to_vec(),
        ] {
            let bed = servers(50 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
            bed.a.sql().deaf.store(true, Ordering::SeqCst);
            send_all(fd, &request);
            lose(&bed, fd);
            if request.len() == 9 {
                send_all(fd, &simple("insert slowly")[9..]);
            } else if !request.ends_with(&sync()) && request[0] == b'P' {
                assert_eq!(next(fd).0, b'E');
                send_all(fd, &sync());
                assert_eq!(hear_all(fd), "ZE");
                assert_eq!(told(fd, &simple("rollback")), "CROLLBACK ZI");
                continue;
            }
            assert_eq!(hear_all(fd), LOST);
            if request == [extended("insert slowly"), extended("insert more")].concat() {
                assert_eq!(hear_all(fd), LOST);
            }
            assert_eq!(told(fd, &simple("insert more")), "E25P02 ZE");
            assert_eq!(told(fd, &simple("rollback")), "CROLLBACK ZI");
            assert_eq!(bed.b.sql().ran(), ["rollback"]);
            conn::close(fd).unwrap();
        }
    }
}

#[test]
fn what_may_commit_is_unknown() {
    for (n, transport) in transports().into_iter().enumerate() {
        for request in [
            simple("commit"),
            simple("end"),
            extended("commit"),
            [parse("", "commit"), bind(""), execute()].concat(),
            simple("insert it; commit"),
            // What follows these may be in the block still, and must not run outside of it.
            simple("prepare transaction 'x'"),
            simple("call it()"),
            [bind("unknown"), execute()].concat(),
            [simple("rollback"), simple("insert outside")].concat(),
        ] {
            for tell in [false, true] {
                let bed = servers_with(
                    52 + n as u8,
                    if tell { "on_unknown = \"error\"\n" } else { "" },
                );
                let fd = log_in(&bed, transport);
                movable(fd);
                assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
                bed.a.sql().deaf.store(true, Ordering::SeqCst);
                send_all(fd, &request);
                if !tell {
                    assert_eq!(loses(&bed, fd), (Vec::new(), libc::ECONNRESET));
                    continue;
                }
                let unclear = [&b"prepare"[..], b"call", b"unknown"];
                if unclear
                    .iter()
                    .any(|it| request.windows(it.len()).any(|w| w == *it))
                {
                    fatal(loses(&bed, fd), "08007", "unknown");
                    continue;
                }
                lose(&bed, fd);
                if !request.ends_with(&sync()) && request[0] != b'Q' {
                    assert_eq!(next(fd).0, b'E');
                    assert_eq!(told(fd, &sync()), "ZI");
                } else {
                    assert_eq!(hear_all(fd), "E08007 ZI");
                }
                if request.ends_with(&simple("insert outside")) {
                    assert_eq!(hear_all(fd), "E08007 ZI");
                }
                assert_eq!(told(fd, &simple("select after")), "CSELECT 1 ZI");
                assert_eq!(bed.b.sql().ran(), ["select after"]);
                conn::close(fd).unwrap();
            }
        }
    }
}

#[test]
fn what_a_rollback_does_not_undo_ends_the_session() {
    for (n, transport) in transports().into_iter().enumerate() {
        for (request, lasting) in [
            (simple("select pg_advisory_lock(1)"), false),
            (simple("prepare a as select 1"), false),
            ([parse("named", "select 1"), sync()].concat(), false),
            (simple("select f()"), true),
        ] {
            let bed = servers(54 + n as u8);
            bed.b.sql().lasting.store(lasting, Ordering::SeqCst);
            let fd = log_in(&bed, transport);
            movable(fd);
            assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
            told(fd, &request);
            fatal(loses(&bed, fd), "08006", "lasting");
        }
        // And one that is not known from its beginning.
        for begin in [
            [simple("set app.x=1"), simple("begin")].concat(),
            simple("set app.x=1; begin"),
        ] {
            let bed = servers_with(54 + n as u8, "");
            let fd = log_in(&bed, transport);
            movable(fd);
            send_all(fd, &begin);
            hear_all(fd);
            if begin.ends_with(b"begin\0") && begin.starts_with(&simple("set app.x=1")) {
                hear_all(fd);
                fatal(loses(&bed, fd), "08006", "nothing of the transaction");
            }
        }
    }
}

#[test]
fn a_transaction_that_is_lost_twice_is_told_once() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(56 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
        // The other server is lost in the middle of making the session again, and once more.
        bed.b.sql().only_breaks.store(true, Ordering::SeqCst);
        bed.b.sql().left.store(200, Ordering::SeqCst);
        lose(&bed, fd);
        assert_eq!(told(fd, &simple("insert second")), LOST);
        assert_eq!(told(fd, &simple("rollback")), "CROLLBACK ZI");
        assert_eq!(bed.b.sql().logins.load(Ordering::SeqCst), 2);
        conn::close(fd).unwrap();
    }
}

#[test]
fn who_ends_the_session_is_not_answered() {
    for (n, transport) in transports().into_iter().enumerate() {
        for end in [
            message(b'X', b""),
            Vec::new(),
            simple("insert")[..7].to_vec(),
        ] {
            let bed = servers(58 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            assert_eq!(told(fd, &simple("begin")), "CBEGIN ZT");
            lose(&bed, fd);
            send_all(fd, &end);
            conn::close(fd).unwrap();
            wait_for("the end", || bed.b.channels() == 0);
        }
    }
}
