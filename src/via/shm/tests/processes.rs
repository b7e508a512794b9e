//! Stories of two processes: the test binary runs itself again as the client.

use super::*;
use crate::via::bell::AppBell;
use crate::via::channel::{Received, Wait};
use crate::via::sync::{Ordering, fence};
use crate::via::testkit::*;
use crate::via::wake;
use rustix::event::{PollFlags, epoll};
use std::io::IoSlice;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

/// What the child is to do, and where.
const ROLE: &str = "VIANET_TEST_ROLE";
const DIR: &str = "VIANET_TEST_DIR";

/// This binary again, as a client that plays `role`.
fn child(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "via::shm::tests::processes::as_the_child",
            "--nocapture",
        ])
        .env(ROLE, role)
        .env(DIR, dir)
        .spawn()
        .unwrap()
}

/// Does nothing unless it was started by [`child`].
#[test]
fn as_the_child() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR)) else {
        return;
    };
    let (app, bell) = AppBell::pair().unwrap();
    let request = ConnectRequest {
        server: "sales".into(),
        node: "node-a".into(),
        endpoint: Endpoint {
            transport: Transport::Shm,
            addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        },
        min_generation: 5,
        patient: false,
        warm: false,
        pinned: None,
        tls: crate::via::Tls::Auto,
        shm_dir: dir.into(),
        ring_bytes: 4096,
        bell: Some(Arc::new(bell)),
        resume: None,
        nonce: None,
    };
    let mut connecting = Shm.connect(request).unwrap();
    let mut channel = None;
    until("accepted", || {
        if let std::task::Poll::Ready(result) = connecting.advance() {
            channel = Some(result.unwrap());
        }
        channel.is_some()
    });
    let channel = channel.unwrap();
    channel.activate();
    match role.as_str() {
        "consumer" => consume_in_every_way(&channel, &app),
        "sender" => {
            send_stream(&channel, 1, 0, 4000);
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .unwrap();
        }
        "sleeper" => {
            // Until killed.
            let _ = channel.recv(&mut [0; 10], patient());
        }
        other => panic!("no role {other}"),
    }
}

/// The node's side: starts the child and accepts it.
fn accept_child(role: &str, here: &Here) -> (Child, Channel) {
    let mut node = Node::start(here);
    let child = child(role, here.0.path());
    let mut channel = None;
    until("the child connects", || {
        if let Some(incoming) = node.listener.poll().unwrap() {
            channel = Some(incoming.accept(accept(), None).unwrap());
        }
        channel.is_some()
    });
    let channel = channel.unwrap();
    channel.activate();
    (child, channel)
}

const STRESS: u64 = 6 << 20;

/// The wake protocol between two processes: a publisher of irregular pace and a consumer that mixes raw polls,
/// edge-triggered waits until a short count, futex sleeps and partial reads, both of them preempted at random. A wake-up
/// that gets lost shows as a wait that never ends; every byte is compared.
#[test]
fn stress_of_the_wake_word() {
    let here = Here::new();
    let (mut child, channel) = accept_child("consumer", &here);
    let mut dice = Dice(7);
    let mut at = 0;
    while at < STRESS {
        let n = (1 + if dice.below(8) == 0 {
            dice.below(1500)
        } else {
            dice.below(40)
        })
        .min(STRESS - at);
        let piece = bytes(9, at, n as usize);
        assert_eq!(
            channel.send(&[IoSlice::new(&piece)], patient()),
            Ok(piece.len()),
            "at {at}"
        );
        at += n;
        match dice.below(64) {
            0 => std::thread::sleep(Duration::from_micros(dice.below(60))),
            1..8 => rustix::thread::sched_yield(),
            8..20 => (0..dice.below(2000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
    channel.shutdown_write().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(channel.acked(), STRESS);
}

fn consume_in_every_way(channel: &Channel, app: &OwnedFd) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, app, epoll::EventData::new_u64(0), flags).unwrap();
    let limit = LIMIT.as_millis() as i64;
    let mut dice = Dice(3);
    let mut buffer = [0; 2048];
    let mut at = 0;
    loop {
        let most = if dice.below(2) == 0 { 16 } else { 2000 };
        let mut n = 1 + dice.below(most) as usize;
        let mut wait = Wait::No;
        match dice.below(3) {
            0 => {
                let seen = level(app, PollFlags::IN, limit);
                assert!(seen.contains(PollFlags::IN), "lost wake-up in poll at {at}");
            }
            1 => wait = patient(),
            _ => n = buffer.len(),
        }
        loop {
            if dice.below(50) == 0 {
                rustix::thread::sched_yield();
            }
            let got = match channel.recv(&mut buffer[..n], wait).unwrap() {
                Received::Bytes(got) => got,
                Received::End => {
                    assert_eq!(at, STRESS);
                    return;
                }
                Received::Empty | Received::Interrupted => 0,
            };
            assert!(wait == Wait::No || got > 0, "lost wake-up in futex at {at}");
            check(&buffer[..got], 9, at);
            at += got as u64;
            if n < buffer.len() {
                break;
            }
            if got < n {
                let mut events = Vec::with_capacity(1);
                let room = rustix::buffer::spare_capacity(&mut events);
                epoll::wait(&epoll, room, Some(&millis(limit))).unwrap();
                assert_eq!(events.len(), 1, "lost edge at {at}");
                break;
            }
        }
    }
}

use rustix::fd::OwnedFd;

/// Killed right after its last send was accepted: the node drains the ring, then sees a broken transport; and the
/// listener goes on.
#[test]
fn what_a_killed_client_sent_arrives() {
    let here = Here::new();
    let (mut child, channel) = accept_child("sender", &here);
    child.wait().unwrap();
    receive_stream(&channel, 1, 0, 4000);
    let end = channel.recv(&mut [0; 10], patient());
    assert!(matches!(end, Err(Broken::Transport(_))), "{end:?}");
}

/// A client that is killed in its sleep is noticed by a node that sleeps too.
#[test]
fn a_killed_client_is_noticed() {
    let here = Here::new();
    let (mut child, channel) = accept_child("sleeper", &here);
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| channel.recv(&mut [0; 10], patient()));
        std::thread::sleep(Duration::from_millis(20));
        child.kill().unwrap();
        let end = sleeper.join().unwrap();
        assert!(matches!(end, Err(Broken::Transport(_))), "{end:?}");
    });
    child.wait().unwrap();
}

/// A publisher that dies between taking the word and sending the token: who waits for the token gives up, loses no
/// byte, and hears of the death by the control connection.
#[test]
fn a_publisher_killed_before_it_rings_is_survived() {
    let here = Here::new();
    let mut node = Node::start(&here);
    let pair = node.pair();
    // What the publisher's half does up to the fatal moment.
    pair.node.tx.push(b"last words").unwrap();
    fence(Ordering::SeqCst);
    let word = pair.node.tx.receive_word();
    word.compare_exchange(
        wake::ARMED,
        wake::RINGING,
        Ordering::SeqCst,
        Ordering::SeqCst,
    )
    .unwrap();
    drop(pair.node);
    assert_eq!(level(&pair.app, PollFlags::IN, 0), PollFlags::empty());
    let mut got = [0; 20];
    assert_eq!(
        pair.client.recv(&mut got, Wait::No),
        Ok(Received::Bytes(10))
    );
    assert_eq!(&got[..10], b"last words");
    let mut end = Ok(());
    // A child that other tests are just starting has copies of the descriptors until its exec.
    until("the break is noticed", || {
        end = pair.client.drive().map(|_| ());
        end.is_err()
    });
    assert!(matches!(end, Err(Broken::Transport(_))), "{end:?}");
    assert!(pair.client.recv(&mut got, Wait::No).is_err());
}
