//! The thread rules: any thread may call anything.

use super::*;
use std::sync::mpsc::channel;
use vianet::conn::How;

#[test]
fn many_threads_each_with_a_connection() {
    let bed = bed(20, Behaviour::Echo);
    for transport in transports() {
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let bed = &bed;
                scope.spawn(move || {
                    let fd = bed.connect(transport);
                    for round in 0..200_u32 {
                        let data = [n ^ round as u8; 97];
                        send_all(fd, &data);
                        assert_eq!(recv_exactly(fd, 97), data);
                    }
                    conn::close(fd).unwrap();
                });
            }
        });
    }
}

#[test]
fn one_thread_sends_while_another_receives() {
    let bed = bed(21, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        let data: Vec<u8> = (0..4_000_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| send_all(fd, &data));
            assert!(recv_exactly(fd, data.len()) == data, "{transport}");
        });
        conn::close(fd).unwrap();
    }
}

#[test]
fn two_receivers_take_turns() {
    let bed = bed(22, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        let total = 200_000;
        let (tell, counts) = channel();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let tell = tell.clone();
                scope.spawn(move || {
                    let mut buffer = [0; 512];
                    loop {
                        match conn::find(fd).unwrap().recv(&mut buffer, 0).unwrap() {
                            0 => return,
                            n => tell.send(n).unwrap(),
                        }
                    }
                });
            }
            send_all(fd, &vec![1; total]);
            let mut sum = 0;
            while sum < total {
                sum += counts.recv_timeout(PATIENCE).expect("all bytes come");
            }
            assert_eq!(sum, total);
            conn::find(fd).unwrap().shutdown(How::Both).unwrap();
        });
        conn::close(fd).unwrap();
    }
}

#[test]
fn close_and_shutdown_wake_a_thread_that_waits() {
    let bed = bed(23, Behaviour::Echo);
    for transport in transports() {
        for close in [true, false] {
            let fd = bed.connect(transport);
            std::thread::scope(|scope| {
                let (ready, found) = channel();
                let waiter = scope.spawn(move || {
                    let conn = conn::find(fd).unwrap();
                    ready.send(()).unwrap();
                    conn.recv(&mut [0; 4], 0)
                });
                found.recv_timeout(PATIENCE).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                if close {
                    conn::close(fd).unwrap();
                    let errno = waiter.join().unwrap().err().map(|e| e.errno());
                    assert_eq!(errno, Some(libc::EBADF));
                } else {
                    conn::find(fd).unwrap().shutdown(How::Both).unwrap();
                    assert_eq!(waiter.join().unwrap().unwrap(), 0);
                    conn::close(fd).unwrap();
                }
            });
        }
    }
}

#[test]
fn numbers_are_opened_and_closed_by_many_at_once() {
    let bed = bed(24, Behaviour::Echo);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..rounds(30) {
                    let of = transports();
                    let fd = bed.connect(of[n % of.len()]);
                    send_all(fd, b"q");
                    assert_eq!(recv_exactly(fd, 1), b"q");
                    conn::close(fd).unwrap();
                }
            });
        }
        // Others' numbers are looked up meanwhile.
        for fd in 0..20_000 {
            let _ = conn::lookup(fd % 40).map(|c| c.readable());
        }
    });
    wait_for("the node's channels to end", || bed.a.channels() == 0);
}
