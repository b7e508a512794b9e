//! Two nodes in simulated time, with the real role machine and the real keep-alives: freezes, restarts, lost datagrams
//! and failing hooks in random order.
//!
//! What must hold: while the network between the nodes works, no two nodes serve at the same moment, whatever is frozen,
//! killed or restarted; generations of activities never repeat or sink; and when everything is well again, exactly one
//! node serves.

use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;
use vianet::resolve::identity::SecretKey;
use vianet_node::authority::keepalive::{Identity, KeepAlives, Timing};
use vianet_node::authority::{Authority, Told, Word};
use vianet_node::role::{Action, Event, Machine, Now, Rules};

const STEP: u64 = 10;
const GAP: u64 = 250;
const WALL: u64 = 1_700_000_000_000;

struct Node {
    name: &'static str,
    machine: Machine,
    authority: KeepAlives,
    /// On disk: largest known, last own.
    disk: (u64, u64),
    frozen_until: u64,
    dead_until: Option<u64>,
    last_pass: u64,
    mail: Vec<(u64, Event)>,
    inbox: Vec<Vec<u8>>,
    hook_fails: bool,
    hook_takes: u64,
    persist_takes: u64,
}

fn addr(name: &str) -> SocketAddr {
    if name == "a" {
        "127.0.0.11:1434"
    } else {
        "127.0.0.12:1434"
    }
    .parse()
    .unwrap()
}

fn now(ms: u64) -> Now {
    Now {
        at: Duration::from_millis(ms),
        wall_ms: WALL + ms,
    }
}

impl Node {
    fn new(name: &'static str, disk: (u64, u64), ms: u64) -> Self {
        let ms250 = Duration::from_millis(250);
        let rules = Rules {
            initial_active: name == "a",
            has_peer: true,
            yields: name == "b",
            lost: ms250 * 4,
            lease: ms250 * 3,
            start_wait: Duration::from_secs(3),
            retry: Duration::from_secs(5),
            promote_wait: Duration::from_secs(10),
            health_failures: 3,
        };
        let peer = if name == "a" { "b" } else { "a" };
        let me = Identity {
            node: name.into(),
            cluster_id: [7; 16],
            key: SecretKey::from_seed([1; 32]),
            incarnation: ms + 1,
        };
        let timing = Timing {
            interval: ms250,
            lost_after: 4,
        };
        Self {
            name,
            machine: Machine::new(rules, now(ms), disk.0, disk.1),
            authority: KeepAlives::new(me, timing, vec![(peer.into(), addr(peer))]),
            disk,
            frozen_until: 0,
            dead_until: None,
            last_pass: ms,
            mail: Vec::new(),
            inbox: Vec::new(),
            hook_fails: false,
            hook_takes: 50,
            persist_takes: 20,
        }
    }

    fn runs(&self, ms: u64) -> bool {
        self.dead_until.is_none() && ms >= self.frozen_until
    }

    fn serves(&self, ms: u64) -> bool {
        self.runs(ms) && now(ms).at < self.machine.serve_until()
    }

    fn told(&self) -> Vec<Told> {
        let (role, generation) = self.machine.told();
        vec![Told {
            name: "sales".into(),
            role,
            generation,
        }]
    }

    /// One pass of the daemon's loop; what it sends.
    fn pass(&mut self, ms: u64) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let gap = ms - self.last_pass > GAP;
        if gap {
            self.machine.handle(now(ms), Event::Gap);
        }
        self.last_pass = ms;
        let peer = addr(if self.name == "a" { "b" } else { "a" });
        for datagram in std::mem::take(&mut self.inbox) {
            let own = self.told();
            let (words, reply) = self.authority.receive(now(ms), peer, &datagram, &own);
            self.hear(ms, words);
            out.extend(reply);
        }
        let mail = std::mem::take(&mut self.mail);
        let (due, later): (Vec<_>, Vec<_>) = mail.into_iter().partition(|(at, _)| *at <= ms);
        self.mail = later;
        for (_, event) in due {
            self.machine.handle(now(ms), event);
            self.carry_out(ms);
        }
        let own = self.told();
        let words = self.authority.tick(now(ms), gap, &own);
        self.hear(ms, words);
        self.machine.handle(now(ms), Event::Tick);
        self.carry_out(ms);
        out.extend(std::iter::from_fn(|| {
            self.authority.poll_transmit().map(|(_, b)| b)
        }));
        out
    }

    fn hear(&mut self, ms: u64, words: Vec<Word>) {
        for word in words {
            match word {
                Word::Peer {
                    role,
                    generation,
                    asked_at,
                    ..
                } => {
                    let event = Event::Peer {
                        role,
                        generation,
                        asked_at,
                    };
                    self.machine.handle(now(ms), event);
                }
                Word::Lost => self.machine.handle(now(ms), Event::PeerLost),
                Word::Answered => self.machine.answered_peer(now(ms)),
                Word::Heard | Word::Refused(_) => {}
            }
        }
        self.carry_out(ms);
    }

    fn carry_out(&mut self, ms: u64) {
        let mut changed = false;
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Run { hook, .. } => {
                    let ok = !self.hook_fails;
                    self.mail
                        .push((ms + self.hook_takes, Event::HookDone { hook, ok }));
                }
                Action::Persist(generation) => {
                    assert!(
                        generation > self.disk.1,
                        "generations of {} only grow",
                        self.name
                    );
                    self.disk = (self.disk.0.max(generation), generation);
                    self.mail
                        .push((ms + self.persist_takes, Event::Persisted { ok: true }));
                }
                Action::CheckHealth => self.mail.push((ms + 30, Event::Health(true))),
                Action::EndChannels(_) => {}
                Action::Changed { .. } => changed = true,
            }
        }
        self.disk.0 = self.disk.0.max(self.machine.generations().0);
        if changed {
            let own = self.told();
            self.authority.changed(now(ms), &own);
        }
    }
}

/// What goes wrong, and for how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Freeze(usize, u64),
    Kill(usize, u64),
    Hooks(usize, u64),
    /// From now on, hooks and the disk of a node take so long.
    Slow(usize, u64, u64),
    Loss(u64),
    Operator(usize, bool),
    Switchover(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    let node = 0..2_usize;
    prop_oneof![
        4 => (node.clone(), 20..6000_u64).prop_map(|(n, ms)| Fault::Freeze(n, ms)),
        3 => (node.clone(), 20..6000_u64).prop_map(|(n, ms)| Fault::Kill(n, ms)),
        1 => (node.clone(), 20..3000_u64).prop_map(|(n, ms)| Fault::Hooks(n, ms)),
        2 => (node.clone(), 0..2000_u64, 0..1500_u64).prop_map(|(n, hook, disk)| Fault::Slow(n, hook, disk)),
        2 => (10..200_u64).prop_map(Fault::Loss),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, force)| Fault::Operator(n, force)),
        2 => node.prop_map(Fault::Switchover),
    ]
}

fn simulate(faults: &[(u64, Fault)]) {
    let mut nodes = [Node::new("a", (0, 0), 0), Node::new("b", (0, 0), 0)];
    let mut queue: Vec<(u64, Fault)> = Vec::new();
    let mut at = 5000;
    for &(pause, fault) in faults {
        at += pause;
        queue.push((at, fault));
    }
    let calm = at + 6000;
    let end = calm + 40_000;
    let (mut loss_until, mut hooks_until) = (0, [0; 2]);
    let mut last_active = (0, 0);
    let mut ms = 0;
    while ms < end {
        ms += STEP;
        while queue.first().is_some_and(|(at, _)| *at <= ms) {
            match queue.remove(0).1 {
                Fault::Freeze(n, time) => nodes[n].frozen_until = ms + time,
                Fault::Kill(n, time) => nodes[n].dead_until = Some(ms + time),
                Fault::Hooks(n, time) => hooks_until[n] = ms + time,
                Fault::Slow(n, hook, disk) => {
                    (nodes[n].hook_takes, nodes[n].persist_takes) = (hook, disk);
                }
                Fault::Loss(time) => loss_until = ms + time,
                Fault::Operator(n, force) if nodes[n].runs(ms) => {
                    let event = if force { Event::Force } else { Event::Resign };
                    nodes[n].machine.handle(now(ms), event);
                }
                Fault::Switchover(n) if nodes[n].runs(ms) => {
                    nodes[n].machine.handle(now(ms), Event::HandOver);
                }
                Fault::Operator(..) | Fault::Switchover(_) => {}
            }
        }
        for n in 0..2 {
            if nodes[n].dead_until.is_some_and(|until| ms >= until) {
                nodes[n] = Node::new(nodes[n].name, nodes[n].disk, ms);
            }
            nodes[n].hook_fails = ms < hooks_until[n];
            if !nodes[n].runs(ms) {
                continue;
            }
            // A node that was frozen may relay before its loop has run: that is what the lease is for.
            check(&nodes, ms);
            let sent = nodes[n].pass(ms);
            let other = &mut nodes[1 - n];
            if ms >= loss_until && other.dead_until.is_none() {
                other.inbox.extend(sent);
            }
            check(&nodes, ms);
            if let Some(generation) = nodes[n].machine.active()
                && generation != last_active.0
                && nodes[n].serves(ms)
            {
                assert!(
                    generation > last_active.0,
                    "{generation} after {last_active:?}"
                );
                last_active = (generation, n);
            }
        }
    }
    let serving = nodes.iter().filter(|n| n.serves(ms)).count();
    let roles = nodes.each_ref().map(|n| n.machine.role_name());
    assert_eq!(serving, 1, "when all is well: {roles:?}");
}

fn check(nodes: &[Node; 2], ms: u64) {
    assert!(
        !(nodes[0].serves(ms) && nodes[1].serves(ms)),
        "both serve at {ms} ms"
    );
}

#[test]
fn a_long_freeze_and_a_return() {
    simulate(&[(0, Fault::Freeze(0, 5000)), (9000, Fault::Freeze(1, 5000))]);
}

#[test]
fn kills_of_both() {
    simulate(&[
        (0, Fault::Kill(0, 100)),
        (50, Fault::Kill(1, 3000)),
        (9000, Fault::Kill(1, 10)),
    ]);
}

/// The second takeover begins while the first one stands still.
#[test]
fn two_takeovers_at_once() {
    simulate(&[
        (0, Fault::Freeze(0, 2111)),
        (2121, Fault::Kill(1, 2451)),
        (2480, Fault::Freeze(1, 2511)),
    ]);
}

#[test]
fn switchovers_there_and_back() {
    simulate(&[(0, Fault::Switchover(0)), (3000, Fault::Switchover(1))]);
}

/// The demote hook fails; then the node that hands over dies in the middle of it; then the other.
#[test]
fn switchovers_that_come_to_nothing() {
    simulate(&[(0, Fault::Hooks(0, 1000)), (10, Fault::Switchover(0))]);
    let slow = Fault::Slow(0, 2000, 0);
    simulate(&[
        (0, slow),
        (0, Fault::Switchover(0)),
        (500, Fault::Kill(0, 4000)),
    ]);
    simulate(&[
        (0, slow),
        (0, Fault::Switchover(0)),
        (500, Fault::Kill(1, 9000)),
    ]);
    simulate(&[(0, Fault::Hooks(1, 3000)), (10, Fault::Switchover(0))]);
}

/// The other node believes this one to be down, and serves without asking.
#[test]
fn forced_as_soon_as_it_runs_again() {
    simulate(&[
        (0, Fault::Freeze(1, 1501)),
        (1505, Fault::Operator(1, true)),
    ]);
}

/// `VIANET_SIMULATIONS=500` runs more of them.
fn cases() -> u32 {
    std::env::var("VIANET_SIMULATIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(16)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases())
    })]

    #[test]
    fn anything_may_go_wrong(
        faults in proptest::collection::vec((0..5000_u64, fault()), 1..12),
    ) {
        simulate(&faults);
    }
}
