//! What a node orders for a planned switchover, as calls meet it.

use super::questions::{log_in, movable, servers};
use super::*;
use crate::processes::{assert_ends_well, in_child};
use crate::sql::answer;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use vianet::conn::Phase;
use vianet::via::switchover::Order;

fn run(fd: RawFd, text: &str) {
    send_all(fd, &message(b'Q', format!("{text}\0").as_bytes()));
    assert_eq!(recv_exactly(fd, answer().len()), answer());
}

fn hold(bed: &Bed, fd: RawFd) {
    bed.a.order(Order::Hold);
    wait_for("the session to be held", || {
        conn::find(fd).unwrap().info().phase == Phase::Suspended
    });
}

/// Wherever the sender is when the order comes and goes: nobody waits for an order that was taken back.
#[test]
fn an_order_that_is_taken_back_lets_everybody_go_on() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(180 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        let (ran, over) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    run(fd, "select 1");
                    ran.fetch_add(1, Ordering::SeqCst);
                }
            });
            for round in 0..rounds(400) as u64 {
                bed.a.order(if round % 3 == 0 {
                    Order::Tell
                } else {
                    Order::Hold
                });
                std::thread::sleep(Duration::from_micros(round * 37 % 1500));
                bed.a.order(Order::None);
                let before = ran.load(Ordering::SeqCst);
                let begun = std::time::Instant::now();
                while ran.load(Ordering::SeqCst) < before + 2 {
                    if begun.elapsed() > PATIENCE {
                        let info = conn::find(fd).unwrap().info();
                        eprintln!("{transport}: round {round}: stands still: {:?}", info.phase);
                        std::process::abort();
                    }
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        conn::close(fd).unwrap();
    }
}

#[test]
fn a_held_descriptor_is_not_writable_and_is_again() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(183 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        nonblocking(fd, true);
        hold(&bed, fd);
        wait_for("a descriptor that is not writable", || {
            poll_one(fd, libc::POLLOUT, 0) == 0
        });
        let query = message(b'Q', b"select 1\0");
        let sent = conn::find(fd).unwrap().send(&[IoSlice::new(&query)], 0);
        assert_eq!(sent.unwrap_err().errno(), libc::EAGAIN);
        bed.a.order(Order::None);
        assert_eq!(poll_one(fd, libc::POLLOUT, NEVER_MS), libc::POLLOUT);
        nonblocking(fd, false);
        run(fd, "select 2");
        assert_eq!(bed.a.sql().ran(), ["select 2"]);
        conn::close(fd).unwrap();
    }
}

/// Held, they may go on once more: another session was waited for in vain.
#[test]
fn a_held_request_goes_on_when_the_node_only_asks_again() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(189 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        for _ in 0..3 {
            hold(&bed, fd);
            std::thread::scope(|scope| {
                let sender = scope.spawn(|| run(fd, "select held"));
                std::thread::sleep(Duration::from_millis(20));
                assert!(!sender.is_finished());
                bed.a.order(Order::Tell);
                sender.join().unwrap();
            });
        }
        conn::close(fd).unwrap();
    }
}

/// The process that would have let it go on ends, and leaves it to another one.
#[test]
fn a_child_does_not_wait_for_a_parent_that_is_gone() {
    let shared = transports().into_iter().filter(|t| *t != Transport::Rdma);
    for (n, transport) in shared.enumerate() {
        let bed = servers(192 + n as u8);
        let parent = in_child(|| {
            let fd = log_in(&bed, transport);
            wait_for("the session to be held", || {
                conn::find(fd).unwrap().info().phase == Phase::Suspended
            });
            let parent = std::process::id();
            in_child(|| {
                // SAFETY: it must not stay if it hangs; plain system calls.
                unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
                // SAFETY: as above, of a process that is our parent or was.
                wait_for("the parent to be gone", || unsafe {
                    libc::kill(parent as i32, 0) != 0
                });
                run(fd, "select orphan");
                true
            });
            true
        });
        wait_for("the channel", || bed.a.channels() > 0);
        bed.a.order(Order::Hold);
        assert_ends_well(parent);
        bed.a.order(Order::None);
        wait_for("the child's request", || {
            *bed.a.sql().ran() == ["select orphan"]
        });
    }
}

#[test]
fn a_node_that_dies_while_it_holds_lets_nobody_wait() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = servers(186 + n as u8);
        let fd = log_in(&bed, transport);
        movable(fd);
        hold(&bed, fd);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| run(fd, "select held"));
            std::thread::sleep(Duration::from_millis(20));
            bed.b.set_role(Role::Active, 2000);
            bed.a.kill();
            sender.join().unwrap();
        });
        assert_eq!(bed.a.sql().ran(), [""; 0]);
        assert_eq!(bed.b.sql().ran(), ["select held"]);
        conn::close(fd).unwrap();
    }
}
