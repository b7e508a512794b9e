//! Random histories.

use super::*;
use proptest::prelude::*;

fn any_event() -> impl Strategy<Value = Event> {
    let node = prop::sample::select(vec!["node-a", "node-b"]);
    let transports = prop::sample::subsequence(
        vec![
            Transport::Shm,
            Transport::Rdma,
            Transport::Tcp,
            Transport::Plain,
        ],
        0..4,
    );
    let role = prop::sample::select(vec![Role::Active, Role::Active, Role::Passive]);
    let resolved = (node.clone(), 0u64..6, transports, role, any::<bool>()).prop_map(
        |(node, generation, transports, role, cached)| Event::Resolved {
            answer: Answer {
                role,
                ..answer(node, generation, &transports)
            },
            cached,
        },
    );
    let fixed: Vec<Event> = events().into_iter().map(|(_, event)| event).collect();
    prop_oneof![
        3 => resolved,
        3 => (node, 0u64..6).prop_map(|(node, generation)| up(node, generation)),
        10 => prop::sample::select(fixed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_histories_keep_the_promises(
        history in prop::collection::vec((any_event(), 0u64..900), 1..80),
        seed in any::<u64>(),
    ) {
        let mut run = Run::new(Policy { deadline: ms(5_000), ..policy() });
        run.machine = Machine::new(Policy { deadline: ms(5_000), ..policy() }, seed);
        run.machine.handle(run.now, Event::Start).unwrap();
        let mut held_since = Some(run.now);
        let (mut floor, mut over, mut asking) = (0, false, false);
        // What was purged and not heard again from the wire since.
        let mut purged: Option<(String, Generation)> = None;
        let steps = history.into_iter().map(|(event, pause)| (Some(event), pause));
        for (event, pause) in steps.chain(std::iter::repeat_n((None, 600), 40)) {
            // The caller keeps the contract: time never jumps over a timeout.
            let target = run.now + ms(pause);
            while let Some(due) = run.machine.poll_timeout().filter(|due| *due <= target) {
                run.now = run.now.max(due);
                run.machine.handle_timeout(run.now);
                let late = held_since.is_some_and(|since| run.now >= since + ms(5_000));
                check(&mut run, &mut held_since, &mut floor, &mut over, &mut asking, &mut purged)?;
                prop_assert!(!late || run.machine.state() == State::Lost || held_since.is_none());
            }
            run.now = target;
            if let Some(event) = event {
                let event = fitted(event, &run.machine);
                if let Event::Resolved { answer, cached: false } = &event
                    && purged.as_ref().is_some_and(|(node, _)| *node == answer.node)
                {
                    purged = None;
                }
                let _ = run.machine.handle(run.now, event);
            }
            check(&mut run, &mut held_since, &mut floor, &mut over, &mut asking, &mut purged)?;
        }
        // All is told, 24 quiet seconds have passed: nobody waits any more.
        prop_assert!(held_since.is_none(), "{:?}", run.machine);
        prop_assert!(matches!(run.machine.state(), State::Established | State::Lost));
    }
}

type Purged = Option<(String, Generation)>;

/// Looks at the actions that came out, as an application and a cache would see them.
fn check(
    run: &mut Run,
    held_since: &mut Option<Duration>,
    floor: &mut Generation,
    over: &mut bool,
    asking: &mut bool,
    purged: &mut Purged,
) -> std::result::Result<(), TestCaseError> {
    let in_use = |run: &Run| run.machine.answer().map(|a| (a.node.clone(), a.generation));
    for action in run.drain() {
        prop_assert!(
            !*over || matches!(action, Action::Tell(_)),
            "{action:?} after the end"
        );
        match action {
            Action::Establish => {
                prop_assert!(held_since.take().is_some(), "established twice");
                prop_assert!(run.machine.generation() >= *floor, "a smaller generation");
                *floor = run.machine.generation();
                *purged = None;
            }
            Action::Suspend => {
                prop_assert!(held_since.replace(run.now).is_none(), "suspended twice");
            }
            Action::Lose(_) => {
                *held_since = None;
                *over = true;
            }
            Action::PurgeCache { generation } => {
                *asking = false;
                let node = run.machine.purged.as_ref().map(|(node, _)| node.clone());
                *purged = node.map(|node| (node, generation));
            }
            // Its application waits for it.
            Action::Tell(Notice::FailoverBegun) => {
                let _ = run.machine.handle(run.now, Event::Wanted);
            }
            Action::Query { min_generation } => {
                prop_assert!(min_generation >= *floor);
                *asking = true;
            }
            Action::Connect { min_generation, .. } => {
                prop_assert!(min_generation >= *floor);
                let used = in_use(run);
                let stale = purged
                    .as_ref()
                    .zip(used.as_ref())
                    .is_some_and(|((n, g), (un, ug))| n == un && ug <= g);
                prop_assert!(!stale, "connects to what was purged: {used:?}");
            }
            _ => {}
        }
    }
    Ok(())
}
