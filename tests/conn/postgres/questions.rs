//! Questions of ours in the application's session, and sessions that go on on the other node.

use super::*;
use crate::processes::{assert_ends_well, in_child};
use crate::sql::{KEY, answer, welcome};
use std::sync::atomic::{AtomicU32, Ordering};

/// Two nodes with servers that answer.
pub fn servers(number: u8) -> Bed {
    servers_with(number, "")
}

/// With more settings of the cluster.
pub fn servers_with(number: u8, more: &str) -> Bed {
    static BEDS: AtomicU32 = AtomicU32::new(0);
    let mut bed = bed(number, Behaviour::Sql);
    // What is known of a cluster's name stays known to the process.
    let text = std::fs::read_to_string(&bed.config).unwrap();
    let cluster = format!("{}x{}", bed.cluster, BEDS.fetch_add(1, Ordering::SeqCst));
    let text = text.replace(
        &format!("[clusters.{}]", bed.cluster),
        &format!("[clusters.{cluster}]"),
    );
    bed.cluster = cluster;
    let settings = format!("session = \"postgres\"\n{more}");
    std::fs::write(
        &bed.config,
        format!("snapshot_idle_ms = 2\n{text}{settings}"),
    )
    .unwrap();
    bed
}

pub fn log_in(bed: &Bed, transport: Transport) -> RawFd {
    let fd = bed.connect(transport);
    send_all(fd, &startup());
    assert_eq!(recv_exactly(fd, welcome().len()), welcome());
    fd
}

#[track_caller]
pub fn movable(fd: RawFd) {
    wait_for("a session that moves", || why(fd).is_none());
}

fn run(fd: RawFd, text: &str) {
    send_all(fd, &message(b'Q', format!("{text}\0").as_bytes()));
    assert_eq!(recv_exactly(fd, answer().len()), answer());
}

/// Loses the node, and waits until the session is on the other one: what is sent before the loss is known is in flight.
pub fn lose(bed: &Bed, fd: RawFd) {
    // The client may know of it first; and one that the node does not know of does not break.
    wait_for("the channel", || bed.a.channels() > 0);
    bed.b.set_role(Role::Active, 2000);
    bed.a.kill();
    wait_for("the move", || {
        let info = conn::find(fd).unwrap().info();
        assert_ne!(info.phase, conn::Phase::Lost, "{:?}", info.why_not_movable);
        info.failovers == 1 && info.phase == conn::Phase::Established
    });
}

/// A question has been asked and is not answered.
fn wait_for_question(bed: &Bed, before: u32) {
    wait_for("the question", || bed.a.sql().asked() > before);
}

#[test]
fn a_session_goes_on_on_the_same_descriptor() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(220 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        run(fd, "set app.x=1");
        movable(fd);
        // Nothing has moved: nothing is asked.
        let asked = bed.a.sql().asked();
        nonblocking(fd, true);
        assert_eq!(poll_one(fd, libc::POLLIN, 100), 0);
        assert_eq!(bed.a.sql().asked(), asked);
        nonblocking(fd, false);

        lose(&bed, fd);
        run(fd, "select after");
        let info = conn::find(fd).unwrap().info();
        assert_eq!((&*info.node, info.failovers), ("node-b", 1));
        assert_eq!(bed.a.sql().ran(), ["set app.x=1"]);
        assert_eq!(bed.b.sql().ran(), ["select after"]);
        assert_eq!(*bed.b.sql().made.lock().unwrap(), ["app.x=1"]);
        movable(fd);
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_request_that_waits_while_its_session_moves_runs_once() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(222 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        bed.a.kill();
        wait_for("the loss", || {
            conn::find(fd).unwrap().info().phase == conn::Phase::Suspended
        });
        let bed = &bed;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| run(fd, "select waiting"));
            std::thread::sleep(Duration::from_millis(20));
            bed.b.set_role(Role::Active, 2000);
            sender.join().unwrap();
        });
        assert_eq!(bed.b.sql().ran(), ["select waiting"]);
        conn::close(fd).unwrap();
    }
}

/// Every so many bytes, in as many fewer rounds on a device as [`rounds`]; with VIANET_TEST_EVERY_BYTE set, which takes minutes,
/// every one.
pub fn step(usual: usize) -> usize {
    match std::env::var_os("VIANET_TEST_EVERY_BYTE") {
        Some(_) => 1,
        None if rdma_device().is_some() => usual * FEWER,
        None => usual,
    }
}

/// The question's answer is cut after so many bytes.
#[test]
fn a_session_whose_question_is_cut_is_not_moved_and_hears_nothing_of_it() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(224 + n as u8);
        let fd = log_in(&bed, transport);
        run(fd, "set app.x=1");
        movable(fd);
        let whole = bed.a.sql().said.load(Ordering::SeqCst).into();
        conn::close(fd).unwrap();
        for cut in (0..whole).step_by(step(7)) {
            let bed = servers(224 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            wait_for("the channel", || bed.a.channels() > 0);
            bed.b.set_role(Role::Active, 2000);
            bed.a.sql().left.store(cut, Ordering::SeqCst);
            run(fd, "set app.x=1");
            fatal(last_words(fd), "57P01", "state_pending");
            assert_eq!(bed.b.sql().logins.load(Ordering::SeqCst), 0);
        }
    }
}

/// The other server's answers are cut after so many bytes, once.
#[test]
fn a_move_that_is_cut_is_made_again() {
    for (n, transport) in transports().into_iter().enumerate() {
        for cut in (0..500).step_by(step(31)) {
            let bed = servers(226 + n as u8);
            let fd = log_in(&bed, transport);
            run(fd, "set app.x=1");
            movable(fd);
            bed.b.sql().only_breaks.store(true, Ordering::SeqCst);
            bed.b.sql().left.store(cut, Ordering::SeqCst);
            lose(&bed, fd);
            run(fd, "select after");
            assert_eq!(bed.b.sql().ran(), ["select after"], "{cut}");
            assert_eq!(bed.b.sql().logins.load(Ordering::SeqCst), 2, "{cut}");
            conn::close(fd).unwrap();
        }
    }
}

#[test]
fn what_is_sent_while_a_question_waits_is_answered_after_it() {
    for (n, transport) in transports().into_iter().enumerate() {
        for between in [Vec::new(), notice(20), notice(3000)] {
            let bed = servers(228 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            nonblocking(fd, true);
            let recv = |buffer: &mut [u8], flags| conn::find(fd).unwrap().recv(buffer, flags);
            let nothing = |flags| recv(&mut [0; 10], flags).unwrap_err().errno() == libc::EAGAIN;
            let asked = bed.a.sql().asked();
            *bed.a.sql().between.lock().unwrap() = between.clone();
            bed.a.sql().held.store(true, Ordering::SeqCst);
            send_all(fd, &message(b'Q', b"select 1\0"));
            assert_ne!(poll_one(fd, libc::POLLIN, NEVER_MS), 0);
            assert_eq!(recv_exactly(fd, answer().len()), answer());
            wait_for_question(&bed, asked);
            assert_eq!(why(fd), Some("state_pending"));
            send_all(fd, &message(b'Q', b"select 2\0"));
            for flags in [0, libc::MSG_PEEK] {
                assert!(nothing(flags));
                assert_eq!(poll_one(fd, libc::POLLIN, 5), 0);
            }
            bed.a.sql().held.store(false, Ordering::SeqCst);
            let expected = [&between[..], &answer()].concat();
            let (mut got, mut peeked) = (Vec::new(), 0);
            while got.len() < expected.len() {
                assert_ne!(poll_one(fd, libc::POLLIN, NEVER_MS), 0);
                let mut buffer = [0; 700];
                match recv(&mut buffer, libc::MSG_PEEK) {
                    Ok(n) => {
                        assert!(expected[got.len()..].starts_with(&buffer[..n]));
                        peeked += n;
                    }
                    Err(error) => assert_eq!(error.errno(), libc::EAGAIN),
                }
                if let Ok(n) = recv(&mut buffer, 0) {
                    got.extend_from_slice(&buffer[..n]);
                }
            }
            assert_eq!(got, expected);
            assert!(peeked >= got.len() - answer().len(), "{peeked}");
            bed.a.sql().between.lock().unwrap().clear();
            movable(fd);
            assert!(nothing(0));
            assert_eq!(poll_one(fd, libc::POLLIN, 0), 0);
            conn::close(fd).unwrap();
        }
    }
}

#[test]
fn a_blocking_receiver_never_sees_a_question() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(230 + n as u8);
        let fd = log_in(&bed, transport);
        let words = notice(50);
        let (bed, mut asked) = (&bed, 0);
        for _ in 0..20 {
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| recv_exactly(fd, words.len()));
                // The reader sleeps while a question is asked and answered.
                let end = std::time::Instant::now() + PATIENCE;
                while bed.a.sql().asked() == asked && std::time::Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // What moves from here on is a reason for the next one.
                movable(fd);
                asked = bed.a.sql().asked();
                bed.a.say(&words);
                assert_eq!(reader.join().unwrap(), words);
            });
        }
        assert!(asked >= 20, "{asked}");
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_question_survives_a_cut() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(232 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        for round in 1..=5 {
            let asked = bed.a.sql().asked();
            bed.a.sql().held.store(true, Ordering::SeqCst);
            run(fd, "select 1");
            wait_for_question(&bed, asked);
            bed.a.break_channels();
            wait_for("the resumption", || {
                conn::find(fd).unwrap().info().resumptions == round
            });
            bed.a.sql().held.store(false, Ordering::SeqCst);
            movable(fd);
        }
        run(fd, "select 2");
        movable(fd);
        lose(&bed, fd);
        run(fd, "select 3");
        assert_eq!(bed.b.sql().ran(), ["select 3"]);
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_child_goes_on_where_its_parent_asked() {
    // A child has no RDMA.
    let shared = transports().into_iter().filter(|t| *t != Transport::Rdma);
    for (n, transport) in shared.enumerate() {
        for _ in 0..10 {
            let bed = servers(234 + n as u8);
            let fd = log_in(&bed, transport);
            movable(fd);
            let asked = bed.a.sql().asked();
            bed.a.sql().held.store(true, Ordering::SeqCst);
            run(fd, "select 1");
            wait_for_question(&bed, asked);
            let bed = &bed;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(3));
                    bed.a.sql().held.store(false, Ordering::SeqCst);
                });
                assert_ends_well(in_child(|| {
                    run(fd, "select 2");
                    run(fd, "select 3");
                    true
                }));
            });
            assert_eq!(bed.a.sql().ran(), ["select 1", "select 2", "select 3"]);
            assert_ne!(why(fd), None);
            conn::close(fd).unwrap();
        }
    }
}

#[test]
fn a_session_that_is_closed_while_it_is_asked_is_over() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(236 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        let asked = bed.a.sql().asked();
        bed.a.sql().held.store(true, Ordering::SeqCst);
        run(fd, "select 1");
        wait_for_question(&bed, asked);
        conn::close(fd).unwrap();
        bed.a.sql().held.store(false, Ordering::SeqCst);
        wait_for("the end", || bed.a.channels() == 0);
    }
}

/// Requests to cancel name the key of the login, whatever key the session has got meanwhile: its node is told.
#[test]
fn the_node_is_told_by_which_key_a_session_that_moves_is_known() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(238 + n as u8);
        *bed.b.sql().key.lock().unwrap() = [8; 8];
        let fd = log_in(&bed, transport);
        movable(fd);
        assert_eq!(*bed.a.sql().known.lock().unwrap(), Vec::<Vec<u8>>::new());
        lose(&bed, fd);
        run(fd, "select 1");
        assert_eq!(*bed.b.sql().known.lock().unwrap(), [KEY]);
        // What is sent is left alone.
        let request = [&[0, 0, 0, 16, 4, 210, 22, 46][..], &KEY].concat();
        let cancel = bed.connect(transport);
        send_all(cancel, &request);
        conn::close(cancel).unwrap();
        wait_for("the request", || {
            *bed.b.sql().canceled.lock().unwrap() == [KEY]
        });
        conn::close(fd).unwrap();
    }
}
