//! Planned switchovers, step by step.

use super::*;

/// An active node whose peer is passive.
fn pair() -> (Node, u64) {
    let mut n = Node::active(rules());
    let generation = n.m.active().unwrap();
    n.peer(PeerRole::Passive, generation);
    assert!(n.m.can_hand_over() && n.serves());
    (n, generation)
}

fn roles(actions: &[Action]) -> Vec<(&str, &str)> {
    let role = |a: &Action| match a {
        Action::Changed { to, why, .. } => Some((*to, *why)),
        _ => None,
    };
    actions.iter().filter_map(role).collect()
}

#[test]
fn the_peer_may_begin_only_after_the_demote_hook() {
    let (mut n, generation) = pair();
    let actions = n.on(Event::HandOver);
    assert_eq!(actions[0], Action::EndChannels(EndReason::NotActive));
    assert_eq!(roles(&actions), [("handing-over", "switchover")]);
    assert_eq!(runs(&actions), [Hook::Demote]);
    assert!(!n.serves() && n.m.active().is_none());
    // It serves nobody, and the peer is told that it is active.
    assert_eq!(n.m.told(), (PeerRole::Active, generation));
    n.peer(PeerRole::Passive, generation);
    n.pass(20_000);
    assert_eq!(n.m.told(), (PeerRole::Active, generation));
    assert!(!n.serves());
    let actions = n.done(Hook::Demote, true);
    assert_eq!(roles(&actions), [("passive", "switchover")]);
    assert_eq!(n.m.told(), (PeerRole::Passive, generation));
    n.peer(PeerRole::TakingOver, generation);
    n.pass(60_000);
    n.peer(PeerRole::Active, generation + 1);
    n.pass(60_000);
    assert_eq!(n.m.role_name(), "passive");
    assert_eq!(n.m.generations().0, generation + 1);
}

#[test]
fn the_heir_takes_over_at_once() {
    let mut n = Node::passive(rules(), 7);
    let actions = n.peer(PeerRole::Passive, 7);
    assert_eq!(roles(&actions), [("taking-over", "peer-resigned")]);
    assert_eq!(runs(&actions), [Hook::Fence]);
}

#[test]
fn who_has_just_handed_over_takes_back_at_once() {
    let (mut n, generation) = pair();
    n.on(Event::HandOver);
    n.done(Hook::Demote, true);
    n.peer(PeerRole::Active, generation + 1);
    n.pass(10);
    let actions = n.peer(PeerRole::Passive, generation + 1);
    assert_eq!(roles(&actions), [("taking-over", "peer-resigned")]);
}

#[test]
fn what_cannot_be_demoted_is_taken_back() {
    let (mut n, generation) = pair();
    n.on(Event::HandOver);
    let actions = n.done(Hook::Demote, false);
    assert_eq!(roles(&actions), [("taking-over", "handover-failed")]);
    assert_eq!(runs(&actions), [Hook::Promote]);
    n.finish();
    assert!(n.m.active().unwrap() > generation);
}

#[test]
fn a_role_without_an_heir_is_taken_back() {
    let (mut n, generation) = pair();
    n.on(Event::HandOver);
    n.on(Event::PeerLost);
    let actions = n.done(Hook::Demote, true);
    assert_eq!(roles(&actions), [("taking-over", "handover-failed")]);
    assert_eq!(runs(&actions), [Hook::Fence]);
    n.finish();
    assert!(n.m.active().unwrap() > generation);
}

#[test]
fn an_heir_that_fails_or_does_not_begin_gives_it_back() {
    // It tried.
    let (mut n, generation) = pair();
    n.on(Event::HandOver);
    n.done(Hook::Demote, true);
    n.peer(PeerRole::TakingOver, generation);
    n.pass(100);
    let actions = n.peer(PeerRole::Passive, generation);
    assert_eq!(roles(&actions), [("taking-over", "peer-resigned")]);
    // It did not.
    let (mut n, generation) = pair();
    n.on(Event::HandOver);
    n.done(Hook::Demote, true);
    for _ in 0..8 {
        n.peer(PeerRole::Passive, generation);
        assert_eq!(n.m.role_name(), "passive");
        n.pass(500);
    }
    n.pass(2_000);
    assert_eq!(n.m.role_name(), "taking-over");
}

#[test]
fn a_peer_that_took_over_meanwhile_keeps_it() {
    let (mut n, generation) = pair();
    n.on(Event::HandOver);
    let actions = n.peer(PeerRole::Active, generation + 5);
    assert_eq!(roles(&actions), [("passive", "higher-generation")]);
    assert_eq!(n.done(Hook::Demote, false), []);
    n.pass(60_000);
    assert_eq!(n.m.role_name(), "passive");
}

#[test]
fn a_peer_that_may_serve_is_not_fenced() {
    // This process stood still while the hook ran, and the hook's end is heard of before any word of the peer, which has
    // been active since.
    for ok in [true, false] {
        let (mut n, generation) = pair();
        n.on(Event::HandOver);
        n.at += 5_000 * MS;
        n.on(Event::Gap);
        assert_eq!(runs(&n.done(Hook::Demote, ok)), []);
        assert_eq!(n.m.role_name(), "passive");
        n.peer(PeerRole::Active, generation + 5);
        n.pass(60_000);
        assert_eq!(n.m.role_name(), "passive");
    }
    // The peer has lost us, and is at it.
    for ok in [true, false] {
        let (mut n, generation) = pair();
        n.on(Event::HandOver);
        n.peer(PeerRole::TakingOver, generation);
        assert_eq!(runs(&n.done(Hook::Demote, ok)), []);
        assert_eq!(n.m.role_name(), "passive");
        // It comes to nothing.
        let actions = n.peer(PeerRole::Passive, generation);
        assert_eq!(roles(&actions), [("taking-over", "peer-resigned")]);
    }
    // Nobody answers after a gap.
    let (mut n, _) = pair();
    n.on(Event::HandOver);
    n.on(Event::Gap);
    n.done(Hook::Demote, false);
    n.on(Event::PeerLost);
    n.pass(6_000);
    assert_eq!(n.m.role_name(), "taking-over");
}

#[test]
fn nothing_is_handed_to_who_cannot_take_it() {
    for role in [PeerRole::Starting, PeerRole::TakingOver] {
        let mut n = Node::active(rules());
        n.peer(role, 0);
        assert_eq!(n.on(Event::HandOver), []);
        assert_eq!(n.m.role_name(), "active");
    }
    let (mut n, _) = pair();
    n.on(Event::PeerLost);
    assert!(!n.m.can_hand_over());
    assert_eq!(n.on(Event::HandOver), []);
    let mut n = Node::passive(rules(), 7);
    assert_eq!(n.on(Event::HandOver), []);
}
