//! `vianet lab kill`, `freeze`, `thaw` and `start`: what happens to a node. Each gives the sentence to print.

use super::hooks::Fenced;
use super::layout::{Engine, Lab, NodeName, Part};
use super::process::{Interrupt, Life, Process, kill_all};
use super::up;
use crate::failure::{Failure, Outcome};

/// Kills parts at once; what is dead already is no error.
pub fn kill(lab: &Lab, node: NodeName, parts: &[Part]) -> Outcome<String> {
    let targets = targets(lab, node, parts)?;
    let all: Vec<Process> = targets.iter().map(|(_, process)| *process).collect();
    kill_all(&all)?;
    if targets.is_empty() {
        return Ok(format!("{} was dead already", named(node, parts)));
    }
    Ok(sentence(node, &targets, "killed"))
}

/// Stops parts with everything below them.
pub fn freeze(lab: &Lab, node: NodeName, parts: &[Part]) -> Outcome<String> {
    let targets = targets(lab, node, parts)?;
    for (_, process) in &targets {
        process.freeze(true);
    }
    if targets.is_empty() {
        return Err(Failure::refused(format!(
            "{} does not run: nothing to freeze",
            named(node, parts)
        )));
    }
    Ok(sentence(node, &targets, "frozen"))
}

/// Lets frozen parts go on.
pub fn thaw(lab: &Lab, node: NodeName, parts: &[Part]) -> Outcome<String> {
    let targets = targets(lab, node, parts)?;
    let frozen: Vec<_> = (targets.into_iter())
        .filter(|(_, process)| process.tree().iter().any(|p| p.life() == Life::Frozen))
        .collect();
    for (_, process) in &frozen {
        process.freeze(false);
    }
    if let Some(fenced) = Fenced::of(lab, node)
        && parts.contains(&Fenced::part(lab))
    {
        let thawed = match frozen.is_empty() {
            true => String::new(),
            false => format!(" ({})", sentence(node, &frozen, "thawed")),
        };
        let (ago, by, name) = (fenced.seconds_ago(), &fenced.by, node.name());
        let (what, then) = match Fenced::part(lab) {
            Part::Server => (
                "killed its SQL server",
                format!("`vianet lab start {name}` brings it back"),
            ),
            Part::Daemon => {
                // Nothing is left to be started, so this says it once.
                let _ = std::fs::remove_file(lab.fenced_file(node));
                ("ended its SQL sessions", "It goes on as passive".into())
            }
        };
        return Err(Failure::refused(format!(
            "{name} was fenced {ago} s ago: {by} {what} when it took over{thawed}. {then}"
        )));
    }
    if frozen.is_empty() {
        let text = format!("{} is not frozen", named(node, parts));
        return Err(Failure::refused(text));
    }
    Ok(sentence(node, &frozen, "thawed"))
}

/// Starts what does not run.
pub fn start(lab: &Lab, node: NodeName, parts: &[Part]) -> Outcome<String> {
    if lab.meta.down {
        return Err(Failure::refused("the lab is down: only its files are left"));
    }
    let stop = Interrupt::install()?;
    start_parts(lab, node, parts, &stop).map_err(|failure| match stop.check() {
        Ok(()) => failure,
        Err(interrupted) => interrupted.and(&format!(
            ": of {0}, {1}; `vianet lab start {0}` goes on from here",
            node.name(),
            running(lab, node)
        )),
    })
}

/// What runs of a node: `the daemon runs, the server does not run`.
fn running(lab: &Lab, node: NodeName) -> String {
    let says = |part: Part| match lab.life(node, part) {
        Life::Dead => format!("the {} does not run", part.name()),
        _ => format!("the {} runs", part.name()),
    };
    Part::ALL.map(says).join(", ")
}

fn start_parts(lab: &Lab, node: NodeName, parts: &[Part], stop: &Interrupt) -> Outcome<String> {
    let mut started = Vec::new();
    // The server first: the daemon looks at its health.
    for part in [Part::Server, Part::Daemon] {
        if !parts.contains(&part) {
            continue;
        }
        // One that runs and is behind (a rebuild that was interrupted) is rebuilt all the same.
        let behind = part == Part::Server && lab.stale_file(node).exists();
        match lab.life(node, part) {
            Life::Running if behind => {}
            Life::Running => continue,
            Life::Frozen => {
                let text = format!(
                    "the {} of {1} is frozen: `vianet lab thaw {1}`",
                    part.name(),
                    node.name()
                );
                return Err(Failure::refused(text));
            }
            Life::Dead => {}
        }
        up::start_part(lab, node, part, stop)?;
        if part == Fenced::part(lab) {
            // It is there when the node was fenced.
            let _ = std::fs::remove_file(lab.fenced_file(node));
        }
        started.push(part.name());
    }
    if started.is_empty() {
        return Ok(format!("{} runs already", named(node, parts)));
    }
    if lab.life(node, Part::Daemon) == Life::Running {
        up::wait_for_role(lab, node, stop)?;
    }
    let died = parts
        .iter()
        .find(|part| lab.life(node, **part) == Life::Dead);
    if let Some(died) = died {
        // The other node was just taking over.
        return Err(Failure::failed(format!(
            "the {} of {1} was started and does not run any more (fenced by a takeover?): `vianet lab status`, then \
             `vianet lab start {1}`",
            died.name(),
            node.name()
        )));
    }
    Ok(format!(
        "{} started: {}",
        node.name(),
        started.join(" and ")
    ))
}

/// The processes that are meant, the dead ones left out.
fn targets(lab: &Lab, node: NodeName, parts: &[Part]) -> Outcome<Vec<(Part, Process)>> {
    let shared = lab.meta.engine == Engine::PostgresShared;
    if shared && parts == [Part::Server] {
        return Err(Failure::refused(
            "the SQL server of this lab stands behind both nodes: it belongs to neither",
        ));
    }
    let alive = |part: &Part| {
        let process = lab.process(node, *part)?;
        (process.life() != Life::Dead).then_some((*part, process))
    };
    let own = parts
        .iter()
        .filter(|part| !(shared && **part == Part::Server));
    Ok(own.filter_map(alive).collect())
}

/// What a command is about: `node-a`, or with `--only`, `the daemon of node-a`.
fn named(node: NodeName, parts: &[Part]) -> String {
    match parts {
        [part] => format!("the {} of {}", part.name(), node.name()),
        _ => node.name().into(),
    }
}

fn sentence(node: NodeName, targets: &[(Part, Process)], what: &str) -> String {
    let list: Vec<_> = (targets.iter())
        .map(|(part, process)| format!("{} (pid {})", part.name(), process.pid))
        .collect();
    format!("{} {what}: {}", node.name(), list.join(", "))
}
