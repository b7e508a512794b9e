//! Single stories, told event by event.

use super::*;

#[test]
fn a_connect_reads_the_cache_first_and_a_wrong_entry_costs_no_pause() {
    let mut run = Run::new(policy());
    assert_eq!(run.on(Event::Start), [Action::ReadCache]);
    let answer = answer(NODE, 5, &[Transport::Tcp]);
    run.on(Event::Resolved {
        answer,
        cached: true,
    });
    let actions = run.on(Event::Rejected(RejectReason::NotActive));
    let purge = Action::PurgeCache { generation: 5 };
    assert_eq!(
        actions,
        [Action::Abandon, purge, Action::Query { min_generation: 0 }]
    );
}

#[test]
fn a_failover_purges_before_it_asks_and_ends_on_the_second_node() {
    let mut run = Run::established();
    assert_eq!(
        run.on(Event::NodeLost),
        [
            Action::Suspend,
            Action::Tell(Notice::FailoverBegun),
            Action::PurgeCache { generation: 5 },
            Action::Query { min_generation: 5 },
        ]
    );
    assert_eq!(run.machine.state(), State::FailingOver);
    let tcp = endpoint(Transport::Tcp);
    let shm = endpoint(Transport::Shm);
    let connect = |endpoint| Action::Connect {
        endpoint,
        min_generation: 5,
    };
    assert_eq!(
        run.on(resolved("node-b", 6)),
        [connect(shm)],
        "the best transport first"
    );
    assert_eq!(
        run.on(Event::ConnectFailed { refused: false }),
        [connect(tcp)]
    );
    assert_eq!(run.on(up("node-b", 6)), [Action::Restore]);
    let ended = [Action::Establish, Action::Tell(Notice::FailoverEnded)];
    assert_eq!(run.on(Event::Restored), ended);
    assert_eq!((run.machine.generation(), run.machine.failovers()), (6, 1));
    assert_eq!(
        run.machine.poll_timeout(),
        None,
        "nothing runs while the bytes travel"
    );
}

#[test]
fn a_broken_link_to_a_living_node_is_no_failover() {
    let mut run = Run::established();
    assert_eq!(
        run.on(Event::ChannelBroken),
        [Action::Suspend, Action::Probe]
    );
    let resume = |t| {
        [Action::Resume {
            endpoint: endpoint(t),
        }]
    };
    // Another path first: the one that broke is likely to take its time again.
    assert_eq!(run.on(Event::NodeAlive), resume(Transport::Tcp));
    assert_eq!(
        run.on(Event::ConnectFailed { refused: false }),
        resume(Transport::Shm)
    );
    let carried = [Action::Establish, Action::Tell(Notice::Resumed)];
    assert_eq!(run.on(Event::Resumed), carried);
    assert_eq!(run.machine.failovers(), 0);
}

#[test]
fn a_link_that_cannot_be_resumed_yet_is_tried_again_while_the_node_lives() {
    let mut run = Run::established();
    run.on(Event::ChannelBroken);
    for _ in 0..5 {
        run.on(Event::NodeAlive);
        run.on(refused());
        assert_eq!(run.on(refused()), []);
        assert_eq!(run.wait(), [Action::Probe], "after a pause");
        assert_eq!(run.machine.state(), State::Suspect);
    }
}

#[test]
fn silence_of_a_suspect_is_a_loss_only_if_we_were_running() {
    let mut run = Run::established();
    run.on(Event::ChannelBroken);
    run.now += ms(5_000);
    run.machine.handle_timeout(run.now);
    assert_eq!(
        run.drain(),
        [Action::Probe],
        "this process was stopped: ask again"
    );
    let actions = run.wait();
    assert_eq!(actions[0], Action::Tell(Notice::FailoverBegun));
    assert_eq!(run.machine.state(), State::FailingOver);
}

#[test]
fn an_accept_that_does_not_fit_is_purged_and_asked_again() {
    for event in [up("node-x", 6), up("node-b", 4), Event::VerifyFailed] {
        let mut run = Run::established();
        run.on(Event::NodeLost);
        run.on(resolved("node-b", 6));
        let actions = run.on(event);
        assert_eq!(
            actions,
            [Action::Abandon, Action::PurgeCache { generation: 6 }]
        );
        assert_eq!(run.wait(), [Action::Query { min_generation: 5 }]);
    }
}

#[test]
fn pauses_double_up_to_the_limit_and_differ_between_connections() {
    let mut run = Run::new(policy());
    run.on(Event::Start);
    run.on(Event::NotResolved(NotResolved::NotCached));
    for full in [20, 40, 80, 160, 320, 500, 500] {
        let before = run.now;
        assert_eq!(run.on(Event::NotResolved(NotResolved::NobodyActive)), []);
        assert_eq!(run.wait(), [Action::Query { min_generation: 0 }]);
        let pause = run.now - before;
        assert!(
            pause >= ms(full) / 2 && pause <= ms(full),
            "{pause:?} of {full} ms"
        );
    }
    let first_pause = |seed| {
        let mut machine = Machine::new(policy(), seed);
        machine.handle(ms(0), Event::Start).unwrap();
        machine
            .handle(ms(0), Event::NotResolved(NotResolved::NotCached))
            .unwrap();
        machine
            .handle(ms(0), Event::NotResolved(NotResolved::Nobody))
            .unwrap();
        machine.poll_timeout()
    };
    assert_ne!(first_pause(1), first_pause(2));
}

#[test]
fn an_unknown_name_is_final_after_the_time_of_grace() {
    let mut run = Run::new(policy());
    run.on(Event::Start);
    run.on(Event::NotResolved(NotResolved::NotCached));
    let mut rounds = 0;
    while run.machine.state() != State::Lost {
        rounds += 1;
        let actions = run.on(Event::NotResolved(NotResolved::UnknownName));
        if run.machine.state() == State::Lost {
            assert!(actions.contains(&Action::Lose(Loss::UnknownName)));
            break;
        }
        run.wait();
    }
    assert!(
        rounds > 2 && run.now >= ms(500) && run.now < ms(1_500),
        "{rounds} in {:?}",
        run.now
    );
}

#[test]
fn the_deadline_says_what_was_last_in_the_way() {
    for (event, loss) in [
        (
            Event::NotResolved(NotResolved::Nobody),
            Loss::NobodyAnswered,
        ),
        (
            Event::NotResolved(NotResolved::NobodyActive),
            Loss::NobodyActive,
        ),
    ] {
        let mut run = Run::new(policy());
        run.on(Event::Start);
        run.on(Event::NotResolved(NotResolved::NotCached));
        let mut last = Vec::new();
        while run.machine.state() != State::Lost {
            run.on(event.clone());
            last = run.wait();
        }
        assert_eq!(last, [Action::Lose(loss)]);
        assert_eq!(run.now, ms(30_000));
    }
    let mut run = Run::new(policy());
    run.on(Event::Start);
    run.on(resolved(NODE, 5));
    while run.machine.state() == State::Connecting {
        run.on(Event::Rejected(RejectReason::Busy));
        run.wait();
    }
    assert_eq!(run.machine.state(), State::Lost);
}

#[test]
fn strict_and_plain() {
    let strict = Policy {
        strict: true,
        ..policy()
    };
    let plain = || Event::Resolved {
        answer: answer("10.0.0.1", 0, &[Transport::Plain]),
        cached: false,
    };
    let mut run = Run::new(strict);
    run.on(Event::Start);
    assert!(run.on(plain()).contains(&Action::Lose(Loss::StrictRefused)));

    // A plain connection that breaks has nothing to be resumed or moved; the cache forgets its node.
    for event in [Event::ChannelBroken, Event::NodeLost] {
        let mut run = Run::new(policy());
        run.on(Event::Start);
        run.on(plain());
        run.on(up("10.0.0.1", 0));
        let lost = [
            Action::PurgeCache { generation: 0 },
            Action::Lose(Loss::NotMovable),
            Action::Tell(Notice::Lost),
        ];
        assert_eq!(run.on(event), lost);
    }
}

#[test]
fn a_hanging_endpoint_is_given_up_for_the_next() {
    let mut run = Run::new(policy());
    run.on(Event::Start);
    run.on(resolved(NODE, 5));
    let next = Action::Connect {
        endpoint: endpoint(Transport::Tcp),
        min_generation: 0,
    };
    assert_eq!(run.wait(), [Action::Abandon, next]);
}

#[test]
fn who_leaves_is_waited_for_and_never_fails_over() {
    // A broken link is carried on for what was sent, without a word to anybody.
    let mut run = Run::established();
    assert_eq!(run.on(Event::Leaving), []);
    run.on(Event::ChannelBroken);
    run.on(Event::NodeAlive);
    assert_eq!(run.on(Event::Resumed), [Action::Establish]);
    assert_eq!(run.machine.state(), State::Established);
    // A lost node is the end.
    let end = [
        Action::PurgeCache { generation: 5 },
        Action::Lose(Loss::Closed),
    ];
    assert_eq!(run.on(Event::NodeLost), end);
    // So it is while the link is being mended, and when the time is over.
    let mut run = Run::established();
    run.on(Event::ChannelBroken);
    run.on(Event::Leaving);
    run.on(Event::NodeAlive);
    let mut given_up = vec![Action::PurgeCache { generation: 5 }, Action::Abandon];
    given_up.push(Action::Lose(Loss::Closed));
    assert_eq!(run.on(Event::ResumeRefused), given_up);
    let mut run = Run::established();
    run.on(Event::ChannelBroken);
    run.on(Event::Leaving);
    run.now = ms(30_000);
    run.machine.handle_timeout(run.now);
    assert_eq!(run.drain(), [Action::Lose(Loss::Closed)]);
    // A stream that would have to move has nothing that could be delivered.
    let mut run = Run::established();
    run.on(Event::NodeLost);
    assert_eq!(
        run.on(Event::Leaving),
        [Action::Abandon, Action::Lose(Loss::Closed)]
    );
}

/// The end of the query and the deadline may be noticed by the same wakeup.
#[test]
fn what_a_query_found_out_is_the_reason_also_when_the_deadline_is_over() {
    for (why, loss) in [
        (NotResolved::NotAuthentic, Loss::NotAuthentic),
        (NotResolved::NobodyActive, Loss::NobodyActive),
        (NotResolved::UnknownName, Loss::UnknownName),
    ] {
        let asking = || {
            let mut run = Run::new(policy());
            run.on(Event::Start);
            run.on(Event::NotResolved(NotResolved::NotCached));
            run
        };
        let mut run = asking();
        run.now = ms(30_000);
        let actions = run.on(Event::NotResolved(why));
        assert_eq!(actions, [Action::Abandon, Action::Lose(loss)]);
        // Silence says less than what was heard before.
        let mut run = asking();
        run.on(Event::NotResolved(why));
        run.wait();
        run.now = ms(30_000);
        let actions = run.on(Event::NotResolved(NotResolved::Nobody));
        assert_eq!(actions, [Action::Abandon, Action::Lose(loss)]);
    }
}

/// A machine whose channel left `shm` for `tcp`, since nothing.
fn elsewhere() -> Run {
    let mut run = Run::established();
    run.on(Event::ChannelBroken);
    run.on(Event::NodeAlive);
    run.on(Event::Resumed);
    run
}

#[test]
fn the_better_path_is_taken_again_at_a_quiet_moment() {
    let mut run = elsewhere();
    let scout = Action::Scout {
        endpoint: endpoint(Transport::Shm),
    };
    let left = run.now;
    assert_eq!(run.wait(), std::slice::from_ref(&scout));
    assert!(run.now - left >= ms(2_000), "not at once");
    assert_eq!(run.machine.state(), State::Established, "bytes travel on");
    // Not a quiet moment: soon again.
    assert_eq!(run.on(Event::NotQuiet), []);
    let looked = run.now;
    assert_eq!(run.wait(), std::slice::from_ref(&scout));
    assert_eq!(run.now - looked, ms(1_000));
    let resume = Action::Resume {
        endpoint: endpoint(Transport::Shm),
    };
    assert_eq!(
        run.on(Event::PathStands { quiet: true }),
        [Action::Suspend, resume]
    );
    let carried = [Action::Establish, Action::Tell(Notice::Resumed)];
    assert_eq!(run.on(Event::Resumed), carried);
    assert_eq!(run.machine.endpoint(), Some(endpoint(Transport::Shm)));
    assert_eq!(run.machine.poll_timeout(), None, "nothing more to be done");
}

#[test]
fn a_return_that_fails_leaves_the_channel_where_it_is_for_longer_each_time() {
    let mut run = elsewhere();
    let mut stayed = Vec::new();
    for round in 0..8 {
        let since = run.now;
        assert_eq!(run.wait().len(), 1, "a scout");
        stayed.push(run.now - since);
        if round % 2 == 0 {
            assert_eq!(run.on(Event::ConnectFailed { refused: false }), []);
        } else {
            assert_eq!(run.wait(), [Action::Abandon], "it hangs");
        }
        assert_eq!(run.machine.state(), State::Established);
    }
    // The jitter takes up to half.
    assert!(stayed[2] > stayed[0] && stayed[4] > stayed[2], "{stayed:?}");
    assert!(stayed.iter().all(|pause| *pause <= ms(120_000)));
}

/// A path that breaks again and again is not taken again and again.
#[test]
fn a_path_that_breaks_after_each_return_is_left_for_longer_each_time() {
    let mut run = elsewhere();
    let mut stayed = Vec::new();
    for _ in 0..5 {
        let since = run.now;
        run.wait();
        stayed.push(run.now - since);
        run.on(Event::PathStands { quiet: true });
        run.on(Event::Resumed);
        run.now += ms(500);
        run.on(Event::ChannelBroken);
        run.on(Event::NodeAlive);
        run.on(Event::Resumed);
        assert_eq!(run.machine.endpoint(), Some(endpoint(Transport::Tcp)));
    }
    assert!(stayed[2] > stayed[0] && stayed[4] > stayed[2], "{stayed:?}");
    // One that stood for long is as good as new.
    run.wait();
    run.on(Event::PathStands { quiet: true });
    run.on(Event::Resumed);
    run.now += ms(120_000);
    run.on(Event::ChannelBroken);
    run.on(Event::NodeAlive);
    run.on(Event::Resumed);
    let since = run.now;
    run.wait();
    assert!(run.now - since <= ms(4_000));
}

/// What the scout saw standing cannot be had after all, whatever the reason: the channel in use works.
#[test]
fn a_return_that_is_refused_goes_back() {
    let rejected = (1..=10).filter_map(RejectReason::from_wire);
    let refusals = rejected.map(Event::Rejected).chain([
        refused(),
        Event::ConnectFailed { refused: false },
        Event::ResumeRefused,
        Event::VerifyFailed,
    ]);
    for refusal in refusals {
        let mut run = elsewhere();
        let mut stayed = Vec::new();
        for _ in 0..5 {
            let since = run.now;
            run.wait();
            stayed.push(run.now - since);
            run.on(Event::PathStands { quiet: true });
            assert_eq!(run.on(refusal.clone()), [Action::GoBack], "{refusal:?}");
            assert_eq!(run.machine.state(), State::Established);
            assert_eq!(run.machine.endpoint(), Some(endpoint(Transport::Tcp)));
        }
        assert!(stayed[2] > stayed[0] && stayed[4] > stayed[2], "{stayed:?}");
        // As good as any: what breaks is carried on.
        assert_eq!(
            run.on(Event::ChannelBroken),
            [Action::Suspend, Action::Probe]
        );
    }
}

/// Nobody answers on the better path, for longer than the application would wait for a broken channel.
#[test]
fn a_return_that_hangs_goes_back() {
    let mut run = elsewhere();
    run.wait();
    run.on(Event::PathStands { quiet: true });
    run.now += ms(3_600_000);
    run.machine.handle_timeout(run.now);
    assert_eq!(run.drain(), [Action::Abandon, Action::GoBack]);
    assert_eq!(run.machine.state(), State::Established);
}

/// A stream that is never quiet when a scout comes back is scouted for more and more seldom.
#[test]
fn a_stream_that_is_busy_after_each_scout_is_left_for_longer_each_time() {
    let mut run = elsewhere();
    let mut stayed = Vec::new();
    for _ in 0..5 {
        let since = run.now;
        assert_eq!(run.wait().len(), 1, "a scout");
        stayed.push(run.now - since);
        assert_eq!(run.on(Event::PathStands { quiet: false }), []);
    }
    assert!(stayed[2] > stayed[0] && stayed[4] > stayed[2], "{stayed:?}");
}

/// Of several paths the best that is left is found, and a worse one is none to return to.
#[test]
fn only_a_better_path_is_returned_to() {
    let second = Endpoint {
        transport: Transport::Rdma,
        addr: ([10, 0, 0, 2], 7435).into(),
    };
    let policy = Policy {
        transports: vec![Transport::Rdma, Transport::Tcp],
        ..policy()
    };
    let mut run = Run::new(policy);
    run.on(Event::Start);
    let mut found = answer(NODE, 5, &[Transport::Rdma, Transport::Tcp]);
    found.endpoints.push(second);
    let found = Event::Resolved {
        answer: found,
        cached: false,
    };
    run.on(found);
    run.on(up(NODE, 5));
    run.on(Event::ChannelBroken);
    let resume = |endpoint| [Action::Resume { endpoint }];
    assert_eq!(
        run.on(Event::NodeAlive),
        resume(second),
        "the second address first"
    );
    assert_eq!(run.on(refused()), resume(endpoint(Transport::Tcp)));
    run.on(Event::Resumed);
    // That breaks too, and the second address works now: tcp is nothing to return to, the first address is.
    run.on(Event::ChannelBroken);
    assert_eq!(run.on(Event::NodeAlive), resume(second));
    run.on(Event::Resumed);
    let scout = Action::Scout {
        endpoint: endpoint(Transport::Rdma),
    };
    assert_eq!(run.wait(), [scout]);
}

#[test]
fn what_happens_while_a_path_is_scouted_ends_the_scouting() {
    let scouting = || {
        let mut run = elsewhere();
        run.wait();
        run
    };
    let broken = [Action::Abandon, Action::Suspend, Action::Probe];
    assert_eq!(scouting().on(Event::ChannelBroken), broken);
    let lost = scouting().on(Event::NodeLost);
    assert_eq!(lost[..2], [Action::Abandon, Action::Suspend]);
    let mut run = scouting();
    assert_eq!(run.on(Event::Leaving), [Action::Abandon]);
    assert_eq!(
        run.machine.poll_timeout(),
        None,
        "who leaves does not return"
    );
    let closed = scouting().on(Event::Closed);
    assert_eq!(closed, [Action::Abandon, Action::Lose(Loss::Closed)]);
}

/// A second node was found, and others move there first.
fn queued() -> Run {
    let mut run = Run::established();
    run.on(Event::NodeLost);
    run.machine.handle(run.now, resolved("node-b", 6)).unwrap();
    assert_eq!(run.drain(), [Action::Queue]);
    run
}

#[test]
fn who_is_not_waited_for_has_no_deadline_before_its_turn() {
    let mut run = queued();
    assert_eq!(run.machine.poll_timeout(), None);
    run.now += ms(3_600_000);
    run.machine.handle(run.now, Event::Turn).unwrap();
    assert!(matches!(run.drain()[..], [Action::Connect { .. }]));
    assert_eq!(run.machine.deadline, Some(run.now + ms(30_000)));
    // The server cannot take it now: it queues again.
    run.machine
        .handle(run.now, Event::Rejected(RejectReason::Busy))
        .unwrap();
    assert!(!run.machine.has_turn());
    run.now = run.machine.poll_timeout().unwrap();
    run.machine.handle_timeout(run.now);
    assert_eq!(run.drain(), [Action::Queue]);
    assert_eq!(run.machine.poll_timeout(), None);
}

#[test]
fn who_is_waited_for_has_one_deadline_whatever_comes() {
    let mut run = Run::established();
    run.on(Event::NodeLost);
    run.on(Event::Wanted);
    let deadline = run.machine.deadline.unwrap();
    run.now += ms(10_000);
    run.on(resolved("node-b", 6));
    run.on(up("node-b", 6));
    assert!(run.machine.has_turn());
    run.on(Event::ChannelBroken);
    run.wait();
    run.now += ms(5_000);
    run.machine.handle(run.now, resolved("node-b", 6)).unwrap();
    assert_eq!(run.drain(), [Action::Queue]);
    assert_eq!(run.machine.poll_timeout(), Some(deadline));
    let actions = run.wait();
    assert!(
        actions.contains(&Action::Lose(Loss::Unreachable)),
        "{actions:?}"
    );

    let mut run = queued();
    run.now += ms(3_600_000);
    run.on(Event::Wanted);
    assert_eq!(run.machine.poll_timeout(), Some(run.now + ms(30_000)));
}
