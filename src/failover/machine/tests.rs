//! What the tests of the machine share: a machine with a clock, every step with a history that leads there, every event.

mod histories;
mod stories;
mod transitions;

use super::*;
use crate::via::RejectReason;

const NODE: &str = "node-a";

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn policy() -> Policy {
    Policy {
        deadline: ms(30_000),
        transports: vec![Transport::Shm, Transport::Tcp, Transport::Plain],
        strict: false,
        attempt: ms(3_000),
        unknown_grace: ms(500),
        retry_first: ms(20),
        retry_max: ms(500),
        suspect: ms(1_000),
        return_first: ms(4_000),
        return_max: ms(120_000),
        return_again: ms(1_000),
    }
}

fn endpoint(transport: Transport) -> Endpoint {
    Endpoint {
        transport,
        addr: ([127, 0, 0, 11], 7434).into(),
    }
}

fn answer(node: &str, generation: Generation, transports: &[Transport]) -> Answer {
    Answer {
        cluster_id: Some([1; 16]),
        node: node.into(),
        role: Role::Active,
        generation,
        ttl: ms(5_000),
        endpoints: transports.iter().map(|t| endpoint(*t)).collect(),
        authentic: true,
        from: None,
    }
}

fn resolved(node: &str, generation: Generation) -> Event {
    Event::Resolved {
        answer: answer(node, generation, &[Transport::Tcp, Transport::Shm]),
        cached: false,
    }
}

fn up(node: &str, generation: Generation) -> Event {
    Event::ChannelUp {
        node: node.into(),
        generation,
    }
}

fn refused() -> Event {
    Event::ConnectFailed { refused: true }
}

/// A machine with a clock.
struct Run {
    machine: Machine,
    now: Duration,
}

impl Run {
    fn new(policy: Policy) -> Self {
        Self {
            machine: Machine::new(policy, 1),
            now: Duration::ZERO,
        }
    }

    fn drain(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }

    /// What comes of an event, where nobody else is about to move.
    fn on(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(self.now, event).unwrap();
        let mut actions = self.drain();
        self.pass_queue(&mut actions);
        actions
    }

    fn pass_queue(&mut self, actions: &mut Vec<Action>) {
        if actions.pop_if(|last| *last == Action::Queue).is_some() {
            actions.extend(self.on(Event::Turn));
        }
    }

    /// Lets time pass until the machine wants something.
    fn wait(&mut self) -> Vec<Action> {
        self.now = self
            .machine
            .poll_timeout()
            .expect("something is waited for")
            .max(self.now);
        self.machine.handle_timeout(self.now);
        let mut actions = self.drain();
        self.pass_queue(&mut actions);
        actions
    }

    fn established() -> Self {
        let mut run = Self::new(policy());
        for event in [
            Event::Start,
            Event::NotResolved(NotResolved::NotCached),
            resolved(NODE, 5),
            up(NODE, 5),
        ] {
            run.on(event);
        }
        assert_eq!(run.machine.state(), State::Established);
        run
    }
}

/// Every step of the table with a history that leads there.
fn steps() -> Vec<(&'static str, Run)> {
    fn after(mut run: Run, events: &[Event]) -> Run {
        for event in events {
            run.on(event.clone());
        }
        run
    }
    let fresh = || Run::new(policy());
    let miss = Event::NotResolved(NotResolved::NotCached);
    let nobody = Event::NotResolved(NotResolved::Nobody);
    let asking = [Event::Start, miss.clone()];
    let leaving = [Event::Leaving];
    let broken = || after(Run::established(), &[Event::ChannelBroken]);
    let resuming = || after(broken(), &[Event::NodeAlive]);
    let elsewhere = || after(resuming(), &[Event::Resumed]);
    let scouting = || {
        let mut run = elsewhere();
        run.wait();
        run
    };
    let returning = || after(scouting(), &[Event::PathStands { quiet: true }]);
    let lost = || after(Run::established(), &[Event::NodeLost]);
    let queued = || {
        let mut run = lost();
        run.machine.handle(run.now, resolved("node-b", 6)).unwrap();
        run.drain();
        run
    };
    vec![
        ("Idle", fresh()),
        ("Resolving/reading", after(fresh(), &[Event::Start])),
        ("Resolving/asking", after(fresh(), &asking)),
        (
            "Resolving/waiting",
            after(after(fresh(), &asking), std::slice::from_ref(&nobody)),
        ),
        (
            "Connecting",
            after(after(fresh(), &asking), &[resolved(NODE, 5)]),
        ),
        ("Established", Run::established()),
        ("Suspect", broken()),
        (
            "Suspect/pausing",
            after(resuming(), &[refused(), refused()]),
        ),
        ("Resuming", resuming()),
        ("Established, elsewhere", elsewhere()),
        ("Established/scouting", scouting()),
        ("Resuming/returning", returning()),
        ("FailingOver/asking", lost()),
        ("FailingOver/waiting", after(lost(), &[nobody])),
        ("FailingOver/queued", queued()),
        (
            "FailingOver/connecting",
            after(lost(), &[resolved("node-b", 6)]),
        ),
        (
            "Restoring",
            after(lost(), &[resolved("node-b", 6), up("node-b", 6)]),
        ),
        ("Lost", after(fresh(), &[Event::Closed])),
        ("Established, leaving", after(Run::established(), &leaving)),
        ("Suspect, leaving", after(broken(), &leaving)),
        (
            "Suspect/pausing, leaving",
            after(resuming(), &[refused(), refused(), Event::Leaving]),
        ),
        ("Resuming, leaving", after(resuming(), &leaving)),
        ("Established/scouting, leaving", after(scouting(), &leaving)),
        ("Resuming/returning, leaving", after(returning(), &leaving)),
    ]
}

fn events() -> Vec<(String, Event)> {
    let mut all = vec![("Start".into(), Event::Start)];
    let mut add = |text: &str, event: Event| all.push((text.into(), event));
    add("Resolved (usable)", resolved("node-b", 7));
    let mut passive = answer("node-b", 7, &[Transport::Tcp]);
    passive.role = Role::Passive;
    for (text, answer) in [
        ("Resolved (not active)", passive),
        (
            "Resolved (old generation)",
            answer("node-b", 4, &[Transport::Tcp]),
        ),
        (
            "Resolved (no transport)",
            answer("node-b", 7, &[Transport::Rdma]),
        ),
    ] {
        add(
            text,
            Event::Resolved {
                answer,
                cached: false,
            },
        );
    }
    let cached = answer(NODE, 5, &[Transport::Tcp]);
    add(
        "Resolved (cached, generation 5)",
        Event::Resolved {
            answer: cached,
            cached: true,
        },
    );
    for why in [
        NotResolved::NotCached,
        NotResolved::Nobody,
        NotResolved::NobodyActive,
        NotResolved::UnknownName,
        NotResolved::NotAuthentic,
    ] {
        add(&format!("NotResolved ({why:?})"), Event::NotResolved(why));
    }
    add("ChannelUp (fits)", up("?", 0));
    add("ChannelUp (other node)", up("node-x", 9));
    add("ChannelUp (old generation)", up("?", u64::MAX));
    for n in 1..=10 {
        let reason = RejectReason::from_wire(n).unwrap();
        add(&format!("Rejected ({reason:?})"), Event::Rejected(reason));
    }
    add("ConnectFailed", Event::ConnectFailed { refused: false });
    add("ConnectFailed (refused)", refused());
    for event in [
        Event::VerifyFailed,
        Event::ChannelBroken,
        Event::NodeResigned,
        Event::NodeLost,
        Event::NodeAlive,
        Event::Resumed,
        Event::PathStands { quiet: true },
        Event::PathStands { quiet: false },
        Event::NotQuiet,
        Event::ResumeRefused,
        Event::Restored,
        Event::NotMovable,
        Event::Turn,
        Event::Wanted,
        Event::Leaving,
        Event::Closed,
    ] {
        let name = match event {
            Event::PathStands { quiet: false } => "PathStands (not quiet)",
            _ => event.name(),
        };
        add(name, event);
    }
    all
}

/// "Fits" and "old" depend on the answer in use.
fn fitted(event: Event, machine: &Machine) -> Event {
    match event {
        Event::ChannelUp { node, generation } if node == "?" => {
            let answer = machine
                .answer()
                .cloned()
                .unwrap_or_else(|| answer(NODE, 5, &[]));
            let old = answer.generation.saturating_sub(1);
            up(
                &answer.node,
                if generation == 0 {
                    answer.generation
                } else {
                    old
                },
            )
        }
        event => event,
    }
}
