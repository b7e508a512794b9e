//! The active node is lost.

use super::node::SENT;
use super::*;
use std::sync::Mutex;
use vianet::conn::events;
use vianet::failover::Notice;
use vianet::via::EndReason;

/// Tests that look at the process's event callback run one after the other.
static EVENTS: Mutex<()> = Mutex::new(());

fn node(fd: RawFd) -> String {
    conn::find(fd).unwrap().info().node
}

fn echo(fd: RawFd, text: &[u8]) {
    send_all(fd, text);
    assert_eq!(recv_exactly(fd, text.len()), text);
}

#[test]
fn a_quiet_stream_moves_and_the_descriptor_stays() {
    let _one = EVENTS.lock().unwrap();
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(50 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        let (tell, heard) = std::sync::mpsc::channel();
        events::set_callback(Some(Box::new(move |event| {
            let _ = tell.send(event.clone());
        })));
        echo(fd, b"on the first");
        assert!(conn::find(fd).unwrap().info().why_not_movable.is_none());
        bed.b.set_role(Role::Active, 2000);
        bed.a.kill();
        // What is sent before the loss is noticed is in flight, and such a stream does not move.
        wait_for("the second server", || node(fd) == "node-b");
        echo(fd, b"on the second");
        let info = conn::find(fd).unwrap().info();
        assert_eq!(
            (info.node.as_str(), info.generation, info.failovers),
            ("node-b", 2000, 1)
        );
        assert_eq!(bed.b.accepted(), 1);
        let mut notices = std::iter::from_fn(|| heard.recv_timeout(PATIENCE).ok())
            .filter(|event| event.fd == fd)
            .map(|event| event.notice);
        assert_eq!(notices.next(), Some(Notice::FailoverBegun));
        assert_eq!(notices.next(), Some(Notice::FailoverEnded));
        drop(notices);
        events::set_callback(None);
        wait_for("the usual readiness", || {
            poll_one(fd, libc::POLLIN | libc::POLLOUT, 0) == libc::POLLOUT
        });
        echo(fd, &[7; 100_000]);
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_node_that_resigns_is_left() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(54 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        echo(fd, b"x");
        bed.b.set_role(Role::Active, 2000);
        bed.a.set_role(Role::Passive, 2000);
        bed.a.end_channels(EndReason::NotActive);
        wait_for("the second server", || node(fd) == "node-b");
        echo(fd, b"y");
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_stream_with_an_answer_outstanding_is_reset() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(56 + n as u8, Behaviour::Deaf);
        let fd = bed.connect(transport);
        send_all(fd, b"never answered");
        assert_eq!(
            conn::find(fd).unwrap().info().why_not_movable,
            Some("not_acknowledged")
        );
        wait_for("the node to have it", || bed.a.channels() == 1);
        bed.b.set_role(Role::Active, 2000);
        bed.a.kill();
        is_reset(&bed, fd);
        let fd = bed.connect(transport);
        assert_eq!(conn::find(fd).unwrap().info().node, "node-b");
        conn::close(fd).unwrap();
    }
}

/// The client may have a channel before the node has begun to use it.
#[test]
fn a_node_that_dies_while_it_accepts_is_lost() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(66 + n as u8, Behaviour::Deaf);
        let fd = bed.connect(transport);
        send_all(fd, b"never answered");
        bed.b.set_role(Role::Active, 2000);
        bed.a.kill();
        is_reset(&bed, fd);
    }
}

/// A device takes what is sent although the process behind it is stopped: that is no life of the node's. So it is where the client
/// may send no message any more, and only feels the path.
#[test]
fn a_frozen_node_is_lost_though_its_device_lives() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(68 + n as u8, Behaviour::Deaf);
        bed.lost_after(3);
        let fd = bed.connect(transport);
        wait_for("the node to have it", || bed.a.channels() == 1);
        bed.b.set_role(Role::Active, 2000);
        bed.a.freeze();
        for _ in 0..1000 {
            let piece = [IoSlice::new(&[7; 8])];
            if conn::find(fd)
                .unwrap()
                .send(&piece, libc::MSG_DONTWAIT)
                .is_err()
            {
                break;
            }
        }
        is_reset(&bed, fd);
    }
}

/// An answer was outstanding, and the node is lost.
#[track_caller]
fn is_reset(bed: &Bed, fd: RawFd) {
    let error = conn::find(fd).unwrap().recv(&mut [0; 4], 0).err().unwrap();
    assert_eq!(error.errno(), libc::ECONNRESET, "{error}");
    wait_for("HUP", || {
        poll_one(fd, libc::POLLIN, 100) & libc::POLLHUP != 0
    });
    // Whoever comes later, or on another thread, must not take the loss for an end in good order.
    assert_eq!(
        conn::find(fd).unwrap().take_error(),
        0,
        "SO_ERROR is told once"
    );
    let again = conn::find(fd).unwrap().recv(&mut [0; 4], 0).unwrap_err();
    assert_eq!(again.errno(), libc::ECONNRESET);
    let send = conn::find(fd).unwrap().send(&[IoSlice::new(b"x")], 0);
    assert_eq!(send.unwrap_err().errno(), libc::EPIPE);
    assert_eq!(bed.b.accepted(), 0);
    conn::close(fd).unwrap();
}

#[test]
fn an_end_without_the_end_of_the_stream_is_a_reset() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(157 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        echo(fd, b"x");
        bed.a.end_channels(EndReason::Closed);
        let lost = conn::find(fd).unwrap().recv(&mut [0; 4], 0).unwrap_err();
        assert_eq!(lost.errno(), libc::ECONNRESET, "{transport}");
        conn::close(fd).unwrap();
    }
}

#[test]
fn unread_bytes_survive_the_move() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(58 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        send_all(fd, b"old bytes");
        wait_for("the answer", || conn::find(fd).unwrap().readable() == 9);
        assert_eq!(recv_exactly(fd, 1), b"o");
        bed.b.set_role(Role::Active, 2000);
        bed.a.kill();
        wait_for("the second server", || node(fd) == "node-b");
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        send_all(fd, b", new bytes");
        assert_eq!(recv_exactly(fd, 19), b"ld bytes, new bytes");
        assert_eq!(poll_one(fd, libc::POLLIN, 0), 0);
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_silent_node_whose_channels_work_is_kept() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(60 + n as u8, Behaviour::Echo);
        // Lost after three seconds if its channel were as silent; what it says there may be late by as much.
        bed.lost_after(12);
        let fd = bed.connect(transport);
        echo(fd, b"x");
        bed.a.mute(true);
        std::thread::sleep(Duration::from_millis(4500));
        let info = conn::find(fd).unwrap().info();
        assert_eq!(
            (info.failovers, info.phase),
            (0, conn::Phase::Established),
            "{transport}"
        );
        echo(fd, b"y");
        conn::close(fd).unwrap();
    }
}

#[test]
fn reset_is_the_default() {
    let bed = bed(62, Behaviour::Echo);
    let text = std::fs::read_to_string(&bed.config)
        .unwrap()
        .replace("raw_failover = \"continue\"\n", "");
    std::fs::write(&bed.config, text).unwrap();
    for transport in transports() {
        bed.a.set_role(Role::Active, 1000);
        let fd = bed.connect(transport);
        echo(fd, b"x");
        bed.a.end_channels(EndReason::NotActive);
        let error = conn::find(fd).unwrap().recv(&mut [0; 4], 0).err().unwrap();
        assert_eq!(error.errno(), libc::ECONNRESET);
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_broken_transport_is_resumed_with_exactly_the_missing_bytes() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(64 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        let data: Vec<u8> = (0..20_000_000_u32).map(|i| (i * 13 % 251) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| send_all(fd, &data));
            // Cut while bytes are on their way in both directions.
            for piece in data.chunks(data.len() / 20) {
                let got = recv_exactly(fd, piece.len());
                assert!(got == piece, "{transport}");
                bed.a.break_channels();
            }
        });
        wait_for("the connection to stand", || {
            conn::find(fd).unwrap().info().phase == conn::Phase::Established
        });
        let info = conn::find(fd).unwrap().info();
        assert_eq!(
            (info.node.as_str(), info.failovers),
            ("node-a", 0),
            "{transport}"
        );
        assert!(info.resumptions > 0, "{transport}: it was never cut");
        assert_eq!(bed.a.accepted(), 1);
        echo(fd, b"and on");
        conn::close(fd).unwrap();
    }
}

#[test]
fn an_answer_that_was_there_before_the_last_send_is_no_answer_to_it() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(231 + n as u8, Behaviour::EchoOnce);
        let fd = bed.connect(transport);
        send_all(fd, b"first");
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        send_all(fd, b"second");
        assert_eq!(recv_exactly(fd, 5), b"first");
        std::thread::sleep(Duration::from_millis(100));
        // Over tcp the acknowledgement may wait for data to go with.
        assert!(conn::find(fd).unwrap().info().why_not_movable.is_some());
        // So the stream ends with an error; moved, it would wait for the second answer for ever.
        bed.b.set_role(Role::Active, 2000);
        bed.a.kill();
        let lost = conn::find(fd).unwrap().recv(&mut [0; 9], 0).unwrap_err();
        assert_eq!(lost.errno(), libc::ECONNRESET);
        conn::close(fd).unwrap();
    }
}

#[test]
fn what_was_sent_before_a_close_survives_a_cut() {
    let data = vec![7; SENT as usize];
    for (n, transport) in transports().into_iter().enumerate() {
        for (m, noticed) in [false, true].into_iter().enumerate() {
            let bed = bed(150 + (2 * n + m) as u8, Behaviour::Held);
            let fd = bed.connect(transport);
            send_all(fd, &data);
            bed.a.mute(noticed);
            bed.a.break_channels();
            if noticed {
                wait_for("the cut to be noticed", || {
                    conn::find(fd).unwrap().info().phase == conn::Phase::Suspended
                });
            }
            conn::close(fd).unwrap();
            assert!(bed.a.taken().0 < SENT, "the cut came too late");
            bed.a.let_go();
            bed.a.mute(false);
            wait_for("all bytes and the end", || bed.a.taken() == (SENT, 1));
            assert_eq!(bed.a.accepted(), 1, "{transport}: another stream");
        }
    }
}

#[test]
fn a_closed_connection_whose_node_is_lost_just_ends() {
    let _one = EVENTS.lock().unwrap();
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(154 + n as u8, Behaviour::Deaf);
        bed.lost_after(3);
        // What its events are known by: a closed connection has no number, and other tests close theirs too.
        let generation = 154_000 + n as u64;
        bed.a.set_role(Role::Active, generation);
        let fd = bed.connect(transport);
        send_all(fd, &[7; 1000]);
        let (tell, heard) = std::sync::mpsc::channel();
        events::set_callback(Some(Box::new(move |event| {
            if event.generation == generation {
                let _ = tell.send(event.notice);
            }
        })));
        let (log, lines) = std::sync::mpsc::channel();
        let name = bed.name("echo");
        vianet::log::set_callback(
            vianet::log::Level::Warn,
            Box::new(move |_, _, text| {
                if text.contains(&name) {
                    let _ = log.send(text.to_owned());
                }
            }),
        );
        bed.b.set_role(Role::Active, 2 * generation);
        bed.a.freeze();
        conn::close(fd).unwrap();
        let line = lines.recv_timeout(PATIENCE).expect("a line in the log");
        assert!(line.contains("1000 bytes"), "{line}");
        events::set_callback(None);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [], "{transport}");
        assert_eq!(bed.b.accepted(), 0);
    }
}

#[test]
fn what_the_server_says_of_its_own_is_no_answer() {
    let bed = bed(161, Behaviour::Interrupts);
    // Over shm the rings do not tell.
    let fd = bed.connect(Transport::Tcp);
    for _ in 0..3 {
        send_all(fd, b"request");
        assert_eq!(recv_exactly(fd, 5), b"news\n");
        let why_not = || conn::find(fd).unwrap().info().why_not_movable;
        wait_for("the acknowledgement", || {
            why_not() != Some("not_acknowledged")
        });
        assert_eq!(why_not(), Some("answer_outstanding"));
    }
    conn::close(fd).unwrap();
}

#[test]
fn a_quiet_stream_stays_quiet_through_a_cut() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = bed(162 + n as u8, Behaviour::Echo);
        let fd = bed.connect(transport);
        echo(fd, b"before");
        wait_for("quiet", || {
            conn::find(fd).unwrap().info().why_not_movable.is_none()
        });
        bed.a.break_channels();
        wait_for("the resumption", || {
            conn::find(fd).unwrap().info().resumptions == 1
        });
        assert_eq!(conn::find(fd).unwrap().info().why_not_movable, None);
        echo(fd, b"after");
        conn::close(fd).unwrap();
    }
}

/// In a process of its own: it ends the connections of all tests.
#[test]
fn a_panic_on_the_io_thread_ends_connections_and_nothing_waits_for_it() {
    in_its_own_process("failover::in_its_own_process_the_io_thread_panics");
}

#[test]
#[ignore = "run by the test above"]
fn in_its_own_process_the_io_thread_panics() {
    let _one = EVENTS.lock().unwrap();
    let bed = bed(230, Behaviour::Echo);
    let fd = bed.connect(Transport::Tcp);
    echo(fd, b"x");
    let idle = bed.connect(Transport::Shm);
    let on = std::thread::spawn(move || {
        let got = conn::find(fd).unwrap().recv(&mut [0; 9], 0);
        got.map_err(|e| e.errno())
    });
    events::set_callback(Some(Box::new(move |event| {
        assert!(event.fd != fd, "a callback with a defect");
    })));
    bed.b.set_role(Role::Active, 2000);
    bed.a.kill();
    wait_for("the call to come back", || on.is_finished());
    events::set_callback(None);
    assert_eq!(on.join().unwrap(), Err(libc::EIO));
    // Who polls is woken too.
    let hung_up = poll_one(idle, libc::POLLIN, NEVER_MS);
    assert!(hung_up & libc::POLLHUP != 0, "{hung_up}");
    conn::close(idle).unwrap();
    conn::close(fd).unwrap();
    let next = bed.connect(Transport::Tcp);
    echo(next, b"the next one");
    conn::close(next).unwrap();
}

/// A channel that breaks while its node lives goes on over another path, and returns between two requests. In a process of
/// its own: other tests fork, and a channel that another process may have stays where it is.
#[test]
fn the_better_path_is_taken_again() {
    in_its_own_process("failover::in_its_own_process_the_better_path_is_taken_again");
}

#[test]
#[ignore = "run by the test above"]
fn in_its_own_process_the_better_path_is_taken_again() {
    if rdma_device().is_some() {
        return; // `tests/rdma` has it with real devices
    }
    let bed = bed(190, Behaviour::Echo);
    let options = Options {
        transports: vec![Transport::Shm, Transport::Tcp],
        ..bed.options(Transport::Tcp)
    };
    let fd = conn::connect(&bed.name("echo"), &options).expect("the node is there");
    let info = || conn::find(fd).unwrap().info();
    assert_eq!(info().transport, Some(Transport::Shm));
    echo(fd, b"over shared memory");
    bed.a.break_channels();
    echo(fd, &[1; 100_000]);
    assert_eq!(info().transport, Some(Transport::Tcp));
    assert!(
        info().why_not_better.starts_with("shm: broke"),
        "{}",
        info().why_not_better
    );
    wait_for("the return", || {
        echo(fd, &[2; 3000]);
        info().transport == Some(Transport::Shm)
    });
    echo(fd, &[3; 100_000]);
    assert_eq!((info().resumptions, info().failovers), (2, 0));
    assert_eq!((bed.a.accepted(), info().why_not_better.as_str()), (1, ""));
    conn::close(fd).unwrap();
}

/// The node refuses the return: the channel in use works on, and is taken back later.
#[test]
fn a_return_that_is_refused_leaves_the_channel_as_it_was() {
    in_its_own_process("failover::in_its_own_process_a_return_is_refused");
}

#[test]
#[ignore = "run by the test above"]
fn in_its_own_process_a_return_is_refused() {
    if rdma_device().is_some() {
        return;
    }
    let bed = bed(221, Behaviour::Echo);
    let options = Options {
        transports: vec![Transport::Shm, Transport::Tcp],
        ..bed.options(Transport::Tcp)
    };
    let fd = conn::connect(&bed.name("echo"), &options).expect("the node is there");
    let info = || conn::find(fd).unwrap().info();
    echo(fd, b"over shared memory");
    bed.a.break_channels();
    wait_for("the other path", || {
        echo(fd, &[1; 1000]);
        info().transport == Some(Transport::Tcp)
    });
    wait_for("a refusal", || bed.a.refuse(true) > 0);
    // In the middle of it and afterwards: sent, received, polled.
    for n in 0..20 {
        send_all(fd, &[n; 100_000]);
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        assert!(recv_exactly(fd, 100_000) == [n; 100_000]);
    }
    wait_for("writable", || {
        poll_one(fd, libc::POLLOUT, 100) == libc::POLLOUT
    });
    assert_eq!(info().transport, Some(Transport::Tcp));
    assert_eq!((info().resumptions, info().failovers), (1, 0));
    bed.a.refuse(false);
    wait_for("the return", || info().transport == Some(Transport::Shm));
    echo(fd, &[3; 100_000]);
    assert_eq!((info().resumptions, info().failovers), (2, 0));
    assert_eq!(bed.a.accepted(), 1);
    conn::close(fd).unwrap();
}
