use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const WALL: u64 = 1_700_000_000_000;

fn rules() -> Rules {
    Rules {
        initial_active: false,
        has_peer: true,
        yields: false,
        lost: 1000 * MS,
        lease: 750 * MS,
        start_wait: 3000 * MS,
        retry: 5000 * MS,
        promote_wait: 10_000 * MS,
        health_failures: 3,
    }
}

/// A machine and its clock.
struct Node {
    m: Machine,
    at: Duration,
}

impl Node {
    fn new(rules: Rules, seen: u64, claim: u64) -> Self {
        let at = 10_000 * MS;
        let m = Machine::new(rules, now(at), seen, claim);
        Self { m, at }
    }

    /// Brought to active at once.
    fn active(rules: Rules) -> Self {
        let mut n = Self::new(
            Rules {
                initial_active: true,
                ..rules
            },
            0,
            0,
        );
        n.peer(PeerRole::Starting, 0);
        n.finish();
        assert_eq!(n.m.role_name(), "active");
        n
    }

    /// Brought to passive behind an active peer of generation `g`.
    fn passive(rules: Rules, g: u64) -> Self {
        let mut n = Self::new(rules, 0, 0);
        n.peer(PeerRole::Active, g);
        assert_eq!(n.m.role_name(), "passive");
        n.drain();
        n
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.m.handle(now(self.at), event);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.m.poll_action()).collect()
    }

    fn pass(&mut self, ms: u32) -> Vec<Action> {
        self.at += ms * MS;
        self.on(Event::Tick)
    }

    fn peer(&mut self, role: PeerRole, generation: u64) -> Vec<Action> {
        let asked_at = self.at;
        self.on(Event::Peer {
            role,
            generation,
            asked_at,
        })
    }

    fn done(&mut self, hook: Hook, ok: bool) -> Vec<Action> {
        self.on(Event::HookDone { hook, ok })
    }

    /// Every step of a takeover succeeds.
    fn finish(&mut self) {
        for event in [
            Event::HookDone {
                hook: Hook::Fence,
                ok: true,
            },
            Event::HookDone {
                hook: Hook::Promote,
                ok: true,
            },
            Event::Health(true),
            Event::Persisted { ok: true },
        ] {
            self.on(event);
        }
    }

    fn serves(&self) -> bool {
        self.at < self.m.serve_until()
    }
}

fn now(at: Duration) -> Now {
    Now {
        at,
        wall_ms: WALL + at.as_millis() as u64,
    }
}

fn runs(actions: &[Action]) -> Vec<Hook> {
    let hook = |a: &Action| match a {
        Action::Run { hook, .. } => Some(*hook),
        _ => None,
    };
    actions.iter().filter_map(hook).collect()
}

#[test]
fn who_begins_at_the_start() {
    use PeerRole::*;
    // (initial, own seen, own claim, what the peer says, its generation, becomes)
    let table = [
        (true, 0, 0, Starting, 0, "taking-over"),
        (false, 0, 0, Starting, 0, "starting"),
        (false, 5, 5, Starting, 4, "taking-over"),
        (true, 5, 4, Starting, 5, "passive"),
        (true, 0, 0, Passive, 0, "taking-over"),
        (false, 0, 0, Passive, 0, "passive"),
        (false, 7, 7, Passive, 7, "taking-over"),
        (true, 7, 7, Passive, 8, "passive"),
        (true, 7, 3, Passive, 7, "passive"),
        (true, 7, 7, Active, 8, "passive"),
        (true, 7, 7, TakingOver, 7, "passive"),
    ];
    for (initial_active, seen, claim, role, generation, becomes) in table {
        let rules = Rules {
            initial_active,
            ..rules()
        };
        let mut n = Node::new(rules, seen, claim);
        let actions = n.peer(role, generation);
        let row = (initial_active, seen, claim, role, generation);
        assert_eq!(n.m.role_name(), becomes, "{row:?}");
        assert!(
            !runs(&actions).contains(&Hook::Fence),
            "the peer lives and serves nobody: {row:?}"
        );
    }
}

#[test]
fn alone_at_the_start_the_last_active_or_the_initial_one_begins_and_fences() {
    // (initial, own seen, own claim, becomes)
    for (initial_active, seen, claim, becomes) in [
        (true, 0, 0, "taking-over"),
        (false, 0, 0, "passive"),
        (false, 9, 9, "taking-over"),
        (true, 9, 8, "passive"),
    ] {
        let rules = Rules {
            initial_active,
            ..rules()
        };
        let mut n = Node::new(rules, seen, claim);
        assert!(n.pass(2900).is_empty());
        let actions = n.pass(200);
        assert_eq!(n.m.role_name(), becomes, "{initial_active} {seen} {claim}");
        assert_eq!(
            runs(&actions).contains(&Hook::Fence),
            becomes == "taking-over"
        );
    }
}

#[test]
fn a_node_without_peers_begins_at_once() {
    let mut n = Node::new(
        Rules {
            has_peer: false,
            ..rules()
        },
        0,
        0,
    );
    assert_eq!(runs(&n.pass(0)), [Hook::Promote]);
    n.finish();
    assert_eq!(n.m.role_name(), "active");
    assert!(n.serves());
}

#[test]
fn a_takeover_in_its_order() {
    let g = WALL + 100;
    let mut n = Node::passive(rules(), g);
    n.m.answered_peer(now(n.at));
    n.at += 100 * MS;
    // The answer just given lets the peer serve until 750 ms after it.
    assert!(runs(&n.on(Event::PeerLost)).is_empty());
    assert_eq!(n.m.told().0, PeerRole::TakingOver);
    assert!(runs(&n.pass(600)).is_empty());
    assert_eq!(runs(&n.pass(100)), [Hook::Fence]);
    assert_eq!(runs(&n.done(Hook::Fence, true)), [Hook::Promote]);
    assert!(n.done(Hook::Promote, true).contains(&Action::CheckHealth));
    assert!(n.on(Event::Health(false)).is_empty());
    let Some(Action::Persist(generation)) = n.on(Event::Health(true)).pop() else {
        panic!("not persisted")
    };
    assert!(generation > g);
    assert_eq!(n.m.active(), None, "not before it is on disk");
    n.on(Event::Persisted { ok: true });
    assert_eq!(n.m.active(), Some(generation));
    assert!(n.serves());
}

#[test]
fn what_fails_leaves_the_node_passive_for_a_while() {
    let fence_failed = |n: &mut Node| _ = n.done(Hook::Fence, false);
    let promote_failed = |n: &mut Node| {
        n.done(Hook::Fence, true);
        n.done(Hook::Promote, false);
    };
    let never_writable = |n: &mut Node| {
        n.done(Hook::Fence, true);
        n.done(Hook::Promote, true);
        n.pass(10_001);
    };
    let full_disk = |n: &mut Node| {
        n.done(Hook::Fence, true);
        n.done(Hook::Promote, true);
        n.on(Event::Health(true));
        n.on(Event::Persisted { ok: false });
    };
    let cases: [&dyn Fn(&mut Node); 4] =
        [&fence_failed, &promote_failed, &never_writable, &full_disk];
    for (i, case) in cases.into_iter().enumerate() {
        let mut n = Node::passive(rules(), WALL);
        n.on(Event::PeerLost);
        case(&mut n);
        assert_eq!(n.m.role_name(), "passive", "case {i}");
        assert!(n.pass(4000).is_empty(), "case {i}");
        assert_eq!(runs(&n.pass(1100)), [Hook::Fence], "case {i}: tries again");
    }
}

#[test]
fn a_higher_generation_ends_an_active() {
    for role in [PeerRole::Active, PeerRole::Passive, PeerRole::TakingOver] {
        let mut n = Node::active(rules());
        let own = n.m.active().unwrap();
        let actions = n.peer(role, own + 1);
        assert_eq!(n.m.role_name(), "passive", "{role:?}");
        assert!(actions.contains(&Action::EndChannels(EndReason::NotActive)));
        assert_eq!(runs(&actions), [Hook::Demote]);
        assert!(!n.serves());
        let mut n = Node::active(rules());
        n.peer(role, n.m.active().unwrap() - 1);
        assert_eq!(
            n.m.role_name(),
            "active",
            "a smaller one does not: {role:?}"
        );
    }
    // Equal: one of the two gives way.
    for yields in [false, true] {
        let mut n = Node::active(Rules { yields, ..rules() });
        n.peer(PeerRole::Active, n.m.active().unwrap());
        assert_eq!(n.m.role_name() == "passive", yields);
    }
}

#[test]
fn who_gave_way_to_a_higher_generation_takes_over_as_any_passive_node() {
    let mut n = Node::active(rules());
    n.peer(PeerRole::Active, n.m.active().unwrap() + 1);
    n.done(Hook::Demote, true);
    n.at += 10 * MS;
    assert_eq!(runs(&n.on(Event::PeerLost)), [Hook::Fence]);
}

#[test]
fn the_lease() {
    let mut n = Node::active(rules());
    assert!(n.serves());
    n.pass(800);
    assert!(!n.serves(), "without an exchange it runs out");
    n.peer(PeerRole::Passive, 0);
    assert!(n.serves());
    n.at += 700 * MS;
    n.peer(PeerRole::TakingOver, 0);
    n.pass(100);
    assert!(!n.serves(), "a peer that takes over renews nothing");
    n.on(Event::PeerLost);
    assert!(n.serves(), "alone, while our loop runs");
    n.pass(2000);
    assert!(n.serves());
    n.on(Event::Gap);
    assert!(!n.serves(), "after a gap nothing moves");
    n.pass(10);
    assert!(!n.serves(), "until the peer was asked");
    n.peer(PeerRole::Passive, 0);
    assert!(n.serves());
}

#[test]
fn the_first_lease_needs_to_know_that_the_peer_does_not_serve() {
    // (what the peer says while the takeover runs, serves at once)
    let table = [
        (None, true),
        (Some(PeerRole::Passive), true),
        (Some(PeerRole::Starting), true),
        (Some(PeerRole::TakingOver), false),
        (Some(PeerRole::Active), false),
    ];
    for (role, serves) in table {
        let mut n = Node::passive(rules(), 5);
        n.on(Event::PeerLost);
        if let Some(role) = role {
            n.peer(role, 5);
        }
        n.finish();
        assert_eq!(n.m.role_name(), "active", "{role:?}");
        assert_eq!(n.serves(), serves, "{role:?}");
        n.peer(PeerRole::Passive, 5);
        assert!(n.serves(), "its next word decides: {role:?}");
    }
    let mut n = Node::passive(rules(), 5);
    n.on(Event::Force);
    n.on(Event::Gap);
    n.finish();
    assert!(!n.serves(), "after a gap nothing is known of the peer");
    n.on(Event::PeerLost);
    assert!(n.serves());
}

#[test]
fn a_generation_is_drawn_again_after_a_gap() {
    let mut n = Node::passive(rules(), 5);
    n.on(Event::PeerLost);
    n.done(Hook::Fence, true);
    n.done(Hook::Promote, true);
    let drawn = |actions: Vec<Action>| match actions[..] {
        [Action::Persist(generation)] => generation,
        _ => panic!("{actions:?}"),
    };
    let first = drawn(n.on(Event::Health(true)));
    n.at += 5000 * MS;
    n.on(Event::Gap);
    let second = drawn(n.on(Event::Persisted { ok: true }));
    assert!(second >= first + 5000, "{first} {second}");
    n.on(Event::Persisted { ok: true });
    assert_eq!(n.m.active(), Some(second));
}

#[test]
fn alone_after_a_long_gap_only_a_new_generation_will_do() {
    let mut n = Node::active(rules());
    let old = n.m.active().unwrap();
    n.at += 5000 * MS;
    n.on(Event::Gap);
    let actions = n.on(Event::PeerLost);
    assert!(actions.contains(&Action::EndChannels(EndReason::NotActive)));
    assert_eq!(runs(&actions), [Hook::Demote]);
    n.done(Hook::Demote, true);
    assert_eq!(runs(&n.pass(10)), [Hook::Fence]);
    n.finish();
    assert!(n.m.active().unwrap() > old);
}

#[test]
fn failing_health_resigns_and_the_peer_takes_over_at_once() {
    let mut a = Node::active(rules());
    a.on(Event::Health(false));
    a.on(Event::Health(false));
    a.on(Event::Health(true));
    a.on(Event::Health(false));
    a.on(Event::Health(false));
    assert_eq!(a.m.role_name(), "active", "in a row, it says");
    let actions = a.on(Event::Health(false));
    assert!(actions.contains(&Action::EndChannels(EndReason::UpstreamLost)));
    let (role, generation) = a.m.told();
    let mut b = Node::passive(rules(), generation);
    assert_eq!(runs(&b.peer(role, generation)), [Hook::Fence]);
}

#[test]
fn two_passives_do_not_stay_so_and_do_not_both_begin() {
    let mut first = Node::passive(rules(), WALL);
    let mut second = Node::passive(
        Rules {
            yields: true,
            ..rules()
        },
        WALL,
    );
    for n in [&mut first, &mut second] {
        n.peer(PeerRole::Starting, 0);
        n.pass(1100);
    }
    assert_eq!(
        (first.m.role_name(), second.m.role_name()),
        ("taking-over", "passive")
    );
}

#[test]
fn who_never_knew_an_active_one_waits_for_it_or_for_the_operator() {
    let mut n = Node::new(rules(), 0, 0);
    n.pass(4000);
    n.on(Event::PeerLost);
    n.pass(60_000);
    assert_eq!(n.m.role_name(), "passive");
    assert_eq!(runs(&n.on(Event::Force)), [Hook::Fence]);
}

#[test]
fn a_peer_that_dies_while_it_begins_is_taken_over() {
    let mut n = Node::new(rules(), 0, 0);
    n.peer(PeerRole::TakingOver, 0);
    assert_eq!(runs(&n.on(Event::PeerLost)), [Hook::Fence]);
}

#[test]
fn the_far_future_is_refused_and_the_operator_overrides() {
    let far = WALL * 2;
    let mut n = Node::new(
        Rules {
            initial_active: true,
            ..rules()
        },
        far,
        far,
    );
    n.peer(PeerRole::Starting, 0);
    n.pass(10_000);
    n.on(Event::PeerLost);
    n.pass(10_000);
    assert_eq!(n.m.role_name(), "passive");
    n.on(Event::Force);
    n.finish();
    assert_eq!(n.m.active(), Some(now(n.at).wall_ms));
    n.peer(PeerRole::Active, far);
    assert_eq!(n.m.role_name(), "active", "nor is it believed of a peer");
}

#[test]
fn stopping_says_so_and_nothing_begins_again() {
    let mut n = Node::active(rules());
    let actions = n.on(Event::Stop);
    assert!(actions.contains(&Action::EndChannels(EndReason::Stopping)));
    assert_eq!(n.m.told().0, PeerRole::Passive);
    n.done(Hook::Demote, true);
    n.on(Event::PeerLost);
    n.on(Event::Force);
    n.pass(60_000);
    assert_eq!(n.m.role_name(), "stopping");
}

#[path = "handover_tests.rs"]
mod handover;

fn event() -> impl Strategy<Value = (u32, Event)> {
    let role = prop_oneof![
        Just(PeerRole::Starting),
        Just(PeerRole::Passive),
        Just(PeerRole::TakingOver),
        Just(PeerRole::Active)
    ];
    let hook = prop_oneof![Just(Hook::Fence), Just(Hook::Promote), Just(Hook::Demote)];
    let event = prop_oneof![
        4 => Just(Event::Tick),
        1 => Just(Event::Gap),
        4 => (role, 0..WALL + 100_000).prop_map(|(role, generation)| Event::Peer {
            role,
            generation,
            asked_at: Duration::from_secs(10),
        }),
        2 => Just(Event::PeerLost),
        3 => any::<bool>().prop_map(Event::Health),
        4 => (hook, prop::bool::weighted(0.8))
            .prop_map(|(hook, ok)| Event::HookDone { hook, ok }),
        2 => prop::bool::weighted(0.8).prop_map(|ok| Event::Persisted { ok }),
        1 => Just(Event::Force),
        1 => Just(Event::Resign),
        1 => Just(Event::HandOver),
    ];
    (0..2000_u32, event)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens in whatever order: generations only grow, every one is on disk before it is announced, a node
    /// that is not active serves nothing, and one that leaves the active role ends its channels.
    #[test]
    fn any_history(events in proptest::collection::vec(event(), 1..200), initial: bool) {
        let mut n = Node::new(Rules { initial_active: initial, ..rules() }, 0, 0);
        let (mut last, mut on_disk) = (0, 0);
        for (ms, event) in events {
            n.at += ms * MS;
            let was = n.m.active();
            let persisted = event == Event::Persisted { ok: true };
            let actions = n.on(event);
            for a in &actions {
                if let Action::Persist(g) = a {
                    prop_assert!(*g > last);
                    on_disk = *g;
                }
            }
            match (was, n.m.active()) {
                (None, Some(g)) => {
                    prop_assert!(persisted && g == on_disk && g > last);
                    last = g;
                }
                (Some(_), None) => {
                    prop_assert!(actions.iter().any(|a| matches!(a, Action::EndChannels(_))));
                }
                (Some(a), Some(b)) => prop_assert_eq!(a, b),
                (None, None) => {}
            }
            if n.m.active().is_none() {
                prop_assert_eq!(n.m.serve_until(), Duration::ZERO);
            }
            prop_assert!(n.m.serve_until() <= n.at + rules().lease);
        }
    }
}
