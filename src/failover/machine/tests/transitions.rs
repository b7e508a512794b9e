//! The table as text, and the walk over every step and event.

use super::*;
use std::fmt::Write;

fn shown(actions: &[Action]) -> String {
    let one = |action: &Action| match action {
        Action::Connect {
            endpoint,
            min_generation,
        } => format!("Connect({} min {min_generation})", endpoint.transport),
        Action::Scout { endpoint } => format!("Scout({})", endpoint.transport),
        Action::Resume { endpoint } => format!("Resume({})", endpoint.transport),
        Action::Query { min_generation } => format!("Query(min {min_generation})"),
        Action::PurgeCache { generation } => format!("PurgeCache({generation})"),
        other => format!("{other:?}"),
    };
    actions.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn line(text: &mut String, event: &str, to: State, actions: &[Action]) {
    let arrow = format!("  {event:<33} -> {to:?}: {}", shown(actions));
    let arrow = arrow.trim_end().trim_end_matches(':');
    writeln!(text, "{arrow}").unwrap();
}

/// Regenerates the committed text. Verifying has no section: the machine passes through it within "ChannelUp".
fn transitions() -> String {
    let mut text = String::from(
        "# What the failover machine does, by state and event; events that are not listed are refused.\n\
         # ChannelUp passes through the state Verifying within the call.\n\
         # Generated: UPDATE=1 cargo test -p vianet --lib transitions\n",
    );
    for (step, _) in steps() {
        writeln!(text, "\n{step}").unwrap();
        let fresh = || {
            steps()
                .into_iter()
                .find(|(name, _)| *name == step)
                .unwrap()
                .1
        };
        for (name, event) in events() {
            let mut run = fresh();
            let event = fitted(event, &run.machine);
            if run.machine.handle(run.now, event).is_ok() {
                let actions = run.drain();
                line(&mut text, &name, run.machine.state(), &actions);
            }
        }
        let mut run = fresh();
        if let Some(due) = run.machine.poll_timeout() {
            let deadline = run.machine.deadline;
            if Some(due) != deadline {
                let actions = run.wait();
                line(
                    &mut text,
                    "(the step's time is over)",
                    run.machine.state(),
                    &actions,
                );
            }
            let Some(deadline) = deadline else { continue };
            let mut run = fresh();
            run.now = deadline;
            run.machine.handle_timeout(run.now);
            let actions = run.drain();
            line(
                &mut text,
                "(the deadline passes)",
                run.machine.state(),
                &actions,
            );
        }
    }
    text
}

#[test]
fn transitions_are_as_committed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/failover/transitions.txt");
    let text = transitions();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "src/failover/transitions.txt is stale: look at what changed after \
         `UPDATE=1 cargo test -p vianet --lib transitions`"
    );
}

/// Every event in every step: no panic; a refused event changes nothing.
#[test]
fn every_state_meets_every_event() {
    for (step, _) in steps() {
        for (name, event) in events() {
            let mut run = steps().into_iter().find(|(s, _)| *s == step).unwrap().1;
            let event = fitted(event, &run.machine);
            let before = format!("{:?}", run.machine);
            match run.machine.handle(run.now, event.clone()) {
                Ok(()) => assert!(step != "Lost", "Lost is final, and {name} was taken"),
                Err(refusal) => {
                    assert_eq!(
                        (refusal.state, refusal.event),
                        (run.machine.state(), event.name())
                    );
                    assert_eq!(
                        format!("{:?}", run.machine),
                        before,
                        "{step} refuses {name}"
                    );
                }
            }
        }
    }
}
