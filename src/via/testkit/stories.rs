//! The stories.

use super::*;

const MEGABYTES: u64 = 1 << 20;

/// A small exchange in both directions; both sides know what was agreed.
pub fn accepts_and_echoes(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let (app, bell) = AppBell::pair().unwrap();
    let request = node.request(Some(Arc::new(bell)));
    let (client, served) = node.connect(request, |incoming| {
        assert_eq!(incoming.server(), "sales");
        assert_eq!(incoming.min_generation(), 5);
        assert_eq!(incoming.resumes(), None);
        assert!(!incoming.peer().is_empty());
        Some(incoming.accept(accept(), None).unwrap())
    });
    let (client, served) = (client.unwrap(), served.unwrap());
    let said = Accept {
        authentic: setup.listen().signer.is_some(),
        ..accept()
    };
    assert_eq!(client.accept, said);
    assert_eq!(client.wire.transport(), setup.provider().transport());
    served.activate();
    client.activate();
    drop(app);
    assert_eq!(
        client.send(&[IoSlice::new(b"select "), IoSlice::new(b"1")], patient()),
        Ok(8)
    );
    let mut buffer = [0; 64];
    let mut got = 0;
    while got < 8 {
        match served.recv(&mut buffer[got..], patient()) {
            Ok(Received::Bytes(n)) => got += n,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(&buffer[..8], b"select 1");
    assert_eq!((served.consumed(), client.accepted()), (8, 8));
    send_stream(&served, 2, 0, 3000);
    receive_stream(&client, 2, 0, 3000);
    let _ = (client.drive(), served.drive());
    until("the client hears what was consumed", || {
        client.drive().unwrap();
        client.acked() == 8
    });
}

/// A word arrives in either direction, between bytes too; the last one counts, and 0 takes it back.
pub fn words_pass_the_stream(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let (client, served) = (&pair.client, &pair.node);
    assert_eq!((client.wire.told(), served.wire.told()), (0, 0));
    for (from, to) in [(client, served), (served, client)] {
        for word in [1, 0xff, 2, 0, 0x80] {
            let sent = from.accepted();
            send_stream(from, 3, sent, sent + 1000);
            from.wire.say(from, 7);
            from.wire.say(from, word);
            send_stream(from, 3, sent + 1000, sent + 2000);
            receive_stream(to, 3, sent, sent + 2000);
            until("the word arrives", || {
                let _ = (from.drive(), to.drive());
                to.wire.told() == word
            });
        }
    }
    assert_eq!((client.wire.told(), served.wire.told()), (0x80, 0x80));
    assert_eq!((client.broken(), served.broken()), (None, None));
}

/// Every reason for a reject arrives as what it is, and the listener goes on.
pub fn rejects_for_each_reason(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    for reason in (1..=10).filter_map(RejectReason::from_wire) {
        let mut incoming_reject = Some(reason);
        let request = node.request(None);
        let (client, _) = node.connect(request, |incoming| {
            incoming.reject(incoming_reject.take().unwrap());
            None
        });
        assert_eq!(client.err(), Some(ConnectError::Rejected(reason)));
    }
    let request = node.request(None);
    let (client, _) = node.connect(request, |incoming| {
        drop(incoming);
        None
    });
    assert!(matches!(client.err(), Some(ConnectError::Failed(_))));
    node.pair();
}

/// An accept in another name, or of too small a generation, is not authentic.
pub fn refuses_a_wrong_node(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    for wrong in [
        Accept {
            node: "node-b".into(),
            ..accept()
        },
        Accept {
            generation: 4,
            ..accept()
        },
    ] {
        let request = node.request(None);
        let (client, _) = node.connect(request, |incoming| {
            incoming.accept(wrong.clone(), None).ok()
        });
        assert!(matches!(client.err(), Some(ConnectError::NotAuthentic(_))));
    }
}

/// With a key, the accept is signed and checked; by another key it is refused.
pub fn signs_its_accepts(setup: &dyn Setup) {
    let key = Arc::new(SecretKey::generate().unwrap());
    let mut config = setup.listen();
    config.signer = Some(Arc::clone(&key));
    let provider = setup.provider();
    let listener = provider.listen(&config).expect("listens");
    let endpoint = setup.endpoint(&*listener);
    let mut node = Node {
        listener,
        provider,
        endpoint,
        config,
    };
    for (pinned, good) in [
        (key.public(), true),
        (SecretKey::generate().unwrap().public(), false),
    ] {
        let request = ConnectRequest {
            pinned: Some(pinned),
            ..node.request(None)
        };
        let (client, _) = node.connect(request, |incoming| incoming.accept(accept(), None).ok());
        match client {
            Ok(client) => assert!(good && client.accept.authentic),
            Err(e) => assert!(!good && matches!(e, ConnectError::NotAuthentic(_)), "{e:?}"),
        }
    }
}

/// 10 MB in each direction at once, random sizes, everybody waiting inside.
pub fn streams_blocking(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let total = 10 * MEGABYTES;
    std::thread::scope(|s| {
        s.spawn(|| send_stream(&pair.client, 1, 0, total));
        s.spawn(|| send_stream(&pair.node, 2, 0, total));
        s.spawn(|| receive_stream(&pair.node, 1, 0, total));
        s.spawn(|| receive_stream(&pair.client, 2, 0, total));
    });
    assert_eq!(pair.client.consumed(), total);
    assert_eq!(pair.node.consumed(), total);
}

/// The same with a client that never waits inside: raw polls of its descriptor, level and edge-triggered (until a short
/// count), mixed with waits inside.
pub fn streams_by_poll(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let total = 4 * MEGABYTES;
    let _reactor = Reactor::start(vec![Arc::clone(&pair.client)]);
    std::thread::scope(|s| {
        s.spawn(|| send_stream(&pair.node, 2, 0, total));
        s.spawn(|| receive_stream(&pair.node, 1, 0, total));
        s.spawn(|| send_by_poll(&pair, 1, total));
        s.spawn(|| receive_by_poll(&pair, 2, total));
    });
}

fn send_by_poll(pair: &Pair, seed: u64, total: u64) {
    let mut dice = Dice(77);
    let mut at = 0;
    while at < total {
        let n = (1 + dice.below(40_000)).min(total - at);
        let piece = bytes(seed, at, n as usize);
        let sent = pair.client.send(&[IoSlice::new(&piece)], Wait::No).unwrap();
        at += sent as u64;
        if sent < piece.len() {
            let seen = level(&pair.app, PollFlags::OUT, LIMIT.as_millis() as i64);
            assert!(
                seen.contains(PollFlags::OUT),
                "never writable again at {at}"
            );
        }
    }
}

fn receive_by_poll(pair: &Pair, seed: u64, total: u64) {
    let mut dice = Dice(78);
    let mut buffer = vec![0; 5000];
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    use rustix::event::epoll::{EventData, EventFlags};
    rustix::event::epoll::add(
        &epoll,
        &pair.app,
        EventData::new_u64(0),
        EventFlags::IN | EventFlags::ET,
    )
    .unwrap();
    let mut at = 0;
    while at < total {
        let way = dice.below(3);
        let n = match way {
            1 => buffer.len(),
            _ => 1 + dice.below(2000) as usize,
        };
        match way {
            0 => {
                let seen = level(&pair.app, PollFlags::IN, LIMIT.as_millis() as i64);
                assert!(seen.contains(PollFlags::IN), "never readable again at {at}");
            }
            1 => loop {
                let got = match pair.client.recv(&mut buffer, Wait::No).unwrap() {
                    Received::Bytes(got) => got,
                    Received::Empty => 0,
                    other => panic!("{other:?}"),
                };
                check(&buffer[..got], seed, at);
                at += got as u64;
                if at >= total {
                    return;
                }
                if got < buffer.len() {
                    let mut events = Vec::with_capacity(1);
                    rustix::event::epoll::wait(
                        &epoll,
                        rustix::buffer::spare_capacity(&mut events),
                        Some(&millis(LIMIT.as_millis() as i64)),
                    )
                    .unwrap();
                    assert_eq!(events.len(), 1, "no edge at {at}");
                    break;
                }
            },
            _ => {}
        }
        let wait = if way == 2 { patient() } else { Wait::No };
        match pair.client.recv(&mut buffer[..n], wait).unwrap() {
            Received::Bytes(got) => {
                check(&buffer[..got], seed, at);
                at += got as u64;
            }
            Received::Empty | Received::Interrupted if way != 2 => {}
            other => panic!("{other:?} by way {way} at {at}"),
        }
    }
}

/// A reader that does not read stops the writer, whose descriptor says so until there is room.
pub fn pushes_back(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let reactor = Reactor::start(vec![Arc::clone(&pair.client)]);
    assert_eq!(level(&pair.app, PollFlags::OUT, 0), PollFlags::OUT);
    let piece = vec![0; 10_000];
    let mut sent = 0_u64;
    let mut rounds = 0;
    loop {
        let n = pair.client.send(&[IoSlice::new(&piece)], Wait::No).unwrap();
        sent += n as u64;
        rounds += 1;
        assert!(rounds < 100_000, "no back-pressure after {sent} bytes");
        // What is on the way may make room once more.
        if n < piece.len() && level(&pair.app, PollFlags::OUT, 50).is_empty() {
            break;
        }
    }
    assert_eq!(pair.client.send(&[IoSlice::new(&piece)], Wait::No), Ok(0));
    let mut buffer = vec![0; 20_000];
    let mut received = 0;
    while received < sent {
        match pair.node.recv(&mut buffer, patient()).unwrap() {
            Received::Bytes(n) => received += n as u64,
            other => panic!("{other:?}"),
        }
    }
    pair.node.drive().unwrap();
    let seen = level(&pair.app, PollFlags::OUT, LIMIT.as_millis() as i64);
    assert_eq!(seen, PollFlags::OUT);
    until("everything is acknowledged", || {
        pair.node.drive().unwrap();
        pair.node.settle();
        pair.client.acked() == sent
    });
    drop(reactor);
}

/// A send that fits exactly leaves no room, and the descriptor says so until there is some.
pub fn an_exact_fit_is_not_writable(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let _reactor = Reactor::start(vec![Arc::clone(&pair.client)]);
    let size = pair.client.room();
    let send = |from: u64, len: usize, wait| {
        let piece = bytes(1, from, len);
        let sent = pair.client.send(&[IoSlice::new(&piece)], wait);
        assert_eq!(sent, Ok(len), "{from}");
    };
    let full_until_read = |at: u64| {
        assert_eq!(pair.client.room(), 0, "nothing was consumed");
        assert_eq!(level(&pair.app, PollFlags::OUT, 0), PollFlags::empty());
        assert_eq!(pair.client.send(&[IoSlice::new(b"x")], Wait::No), Ok(0));
        receive_stream(&pair.node, 1, at, at + size as u64);
        pair.node.settle();
        let seen = level(&pair.app, PollFlags::OUT, LIMIT.as_millis() as i64);
        assert_eq!(seen, PollFlags::OUT);
        until("the whole ring is free again", || {
            pair.node.settle();
            pair.client.room() == size
        });
    };
    send(0, size, Wait::No);
    full_until_read(0);

    let at = size as u64;
    send(at, size - 1, Wait::No);
    assert_eq!(level(&pair.app, PollFlags::OUT, 0), PollFlags::OUT);
    send(at + size as u64 - 1, 1, Wait::No);
    full_until_read(at);

    // By a sender who waits for the first part of it to be read.
    let at = 2 * size as u64;
    std::thread::scope(|s| {
        let sender = s.spawn(|| send(at, 2 * size, patient()));
        until("the ring is full", || {
            pair.node.drive().unwrap();
            pair.node.readable() == size
        });
        // At once: a sender who sleeps is not woken for little.
        let mut buffer = vec![0; size];
        let got = pair.node.recv(&mut buffer, Wait::No);
        assert_eq!(got, Ok(Received::Bytes(size)));
        check(&buffer, 1, at);
        until("all is accepted", || {
            pair.node.settle();
            sender.is_finished()
        });
    });
    full_until_read(at + size as u64);
}

/// Each direction ends by itself, after its last byte, and the descriptor says so for ever.
pub fn half_closes(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let _reactor = Reactor::start(vec![Arc::clone(&pair.client)]);
    send_stream(&pair.client, 1, 0, 5000);
    pair.client.shutdown_write().unwrap();
    receive_stream(&pair.node, 1, 0, 5000);
    let mut buffer = [0; 100];
    assert_eq!(pair.node.recv(&mut buffer, patient()), Ok(Received::End));
    assert_eq!(pair.node.recv(&mut buffer, Wait::No), Ok(Received::End));
    assert_eq!(
        level(&pair.app, PollFlags::IN | PollFlags::RDHUP, 0),
        PollFlags::empty()
    );

    send_stream(&pair.node, 2, 0, 5000);
    pair.node.shutdown_write().unwrap();
    receive_stream(&pair.client, 2, 0, 5000);
    let wanted = PollFlags::IN | PollFlags::RDHUP;
    until("the descriptor shows the end", || {
        level(&pair.app, wanted, 100) == wanted
    });
    for _ in 0..3 {
        assert_eq!(pair.client.recv(&mut buffer, patient()), Ok(Received::End));
        assert_eq!(level(&pair.app, wanted, 0), wanted);
    }
}

/// Every reason for an end arrives as what it is, after the last byte.
pub fn ends_for_each_reason(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    for reason in (1..=6).filter_map(EndReason::from_wire) {
        let pair = node.pair();
        send_stream(&pair.node, 2, 0, 1000);
        until("the bytes were handed over", || {
            let _ = pair.node.drive();
            let _ = pair.client.drive();
            pair.client.readable() == 1000
        });
        pair.node.end(reason);
        assert_eq!(pair.node.broken(), Some(Broken::Ended(reason)));
        receive_stream(&pair.client, 2, 0, 1000);
        let over = Err(Broken::Ended(reason));
        assert_eq!(pair.client.recv(&mut [0; 10], patient()), over);
        assert_eq!(pair.client.drive(), Err(Broken::Ended(reason)));
        assert_eq!(
            pair.client.send(&[IoSlice::new(b"late")], patient()),
            Err(Broken::Ended(reason))
        );
    }
}

/// An end without a word is a broken transport, for a reader that sleeps too.
pub fn reports_a_hang_up(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| pair.client.recv(&mut [0; 10], patient()));
        std::thread::sleep(Duration::from_millis(30));
        pair.node.wire.cut();
        let got = sleeper.join().unwrap();
        assert!(matches!(got, Err(Broken::Transport(_))), "{got:?}");
    });
}

/// What the client's send accepted reaches the node although the client is gone.
pub fn keeps_what_was_accepted(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    send_stream(&pair.client, 1, 0, 60_000);
    let Pair {
        client,
        node: served,
        app,
        bell,
    } = pair;
    drop((client, app, bell));
    receive_stream(&served, 1, 0, 60_000);
    let end = served.recv(&mut [0; 10], patient());
    assert!(matches!(end, Err(Broken::Transport(_))), "{end:?}");
}

/// The transport breaks under two streams, again and again; each time both go on with exactly the missing bytes.
pub fn resumes_in_mid_stream(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let total = 400_000;
    let mut dice = Dice(5);
    let Pair {
        mut client,
        node: mut served,
        app,
        bell,
    } = pair;
    // Sent and received so far, by direction.
    let (mut up, mut down) = ([0_u64; 2], [0_u64; 2]);
    let mut resumptions = 0;
    while up[1] < total || down[1] < total {
        for _ in 0..dice.below(20) {
            for (from, to, at, seed) in [
                (&client, &served, &mut up, 1),
                (&served, &client, &mut down, 2),
            ] {
                let n = dice.below(9000).min(total - at[0]) as usize;
                let piece = bytes(seed, at[0], n);
                at[0] += from.send(&[IoSlice::new(&piece)], Wait::No).unwrap() as u64;
                let mut buffer = vec![0; 1 + dice.below(12_000) as usize];
                if let Received::Bytes(n) = to.recv(&mut buffer, Wait::No).unwrap() {
                    check(&buffer[..n], seed, at[1]);
                    at[1] += n as u64;
                }
            }
        }
        let cut = if dice.below(2) == 0 { &client } else { &served };
        cut.wire.cut();
        until("both notice", || {
            client.drive().is_err() && served.drive().is_err()
        });
        client.retire();
        let request = ConnectRequest {
            resume: Some(Resume {
                channel_id: client.accept.channel_id,
                secret: client.accept.resume_secret,
                old: Arc::clone(&client),
            }),
            ..node.request(Some(Arc::clone(&bell)))
        };
        let (new_client, new_served) = node.connect(request, |incoming| {
            assert_eq!(incoming.resumes(), Some(99));
            assert!(!incoming.proves(&[9; 32]));
            assert!(incoming.proves(&accept().resume_secret));
            Some(incoming.accept(accept(), Some(&served)).unwrap())
        });
        client = Arc::new(new_client.unwrap());
        served = Arc::new(new_served.unwrap());
        served.activate();
        client.activate();
        assert_eq!((client.accepted(), served.accepted()), (up[0], down[0]));
        assert_eq!((served.consumed(), client.consumed()), (up[1], down[1]));
        resumptions += 1;
        assert!(resumptions < 1000, "no progress");
    }
    assert!(resumptions > 1);
    drop(app);
}

/// One peer has so many channels and no more, until one ends.
pub fn limits_channels_per_peer(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let most = node.config.channels_per_peer;
    let mut pairs = (0..most).map(|_| node.pair()).collect::<Vec<_>>();
    let request = node.request(None);
    let (client, _) = node.connect(request, |incoming| incoming.accept(accept(), None).ok());
    assert_eq!(
        client.err(),
        Some(ConnectError::Rejected(RejectReason::Busy))
    );
    pairs.pop();
    // What a channel holds may be held a moment longer, until all is delivered.
    until("there is room for one more", || {
        let request = node.request(None);
        let (client, _) = node.connect(request, |incoming| incoming.accept(accept(), None).ok());
        client.is_ok()
    });
}

/// A kick wakes whoever sleeps, and one that came just before is not lost.
pub fn kick_ends_a_wait(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let forever = Wait::Until {
        spin: Duration::ZERO,
        timeout: None,
    };
    let kicks = pair.client.kicks();
    pair.client.kick();
    assert_eq!(
        pair.client.recv_since(&mut [0; 4], forever, kicks),
        Ok(Received::Empty)
    );
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| pair.client.recv(&mut [0; 4], forever));
        std::thread::sleep(Duration::from_millis(20));
        until("the sleeper comes back", || {
            pair.client.kick();
            sleeper.is_finished()
        });
        assert_eq!(sleeper.join().unwrap(), Ok(Received::Empty));
    });
}

/// A limit is kept in both directions.
pub fn time_out_ends_a_wait(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let short = Wait::Until {
        spin: Duration::from_micros(10),
        timeout: Some(Duration::from_millis(30)),
    };
    assert_eq!(pair.client.recv(&mut [0; 4], short), Ok(Received::Empty));
    let piece = vec![0; 50_000];
    until("the stream is full", || {
        pair.client.send(&[IoSlice::new(&piece)], short).unwrap() == 0
    });
    assert_eq!(level(&pair.app, PollFlags::OUT, 0), PollFlags::empty());
}

/// Somebody who reads the descriptor itself reads the stream, byte for byte, and a reader of ours goes on behind it.
pub fn a_bypassing_reader_reads_true_bytes(setup: &dyn Setup) {
    let mut node = Node::start(setup);
    let pair = node.pair();
    let total = 20_000;
    send_stream(&pair.node, 2, 0, total);
    until("something is there", || {
        let _ = pair.node.drive();
        pair.client.drive().unwrap();
        level(&pair.app, PollFlags::IN, 10).contains(PollFlags::IN)
    });
    let mut at = 0;
    let mut buffer = [0; 300];
    while at < 9000 {
        if level(&pair.app, PollFlags::IN, 1).contains(PollFlags::IN) {
            let n = rustix::io::read(&pair.app, &mut buffer).unwrap();
            check(&buffer[..n], 2, at);
            at += n as u64;
        } else {
            let _ = (pair.node.drive(), pair.client.drive());
            pair.client.pump_bypassed();
        }
    }
    receive_stream(&pair.client, 2, at, total);
    assert_eq!(pair.client.consumed(), total);
}
