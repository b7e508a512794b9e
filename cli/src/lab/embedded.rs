//! The embedded engine: a [`super::server`] on each node, both on one database file.

use super::layout::{Lab, NodeName, Part};
use super::process::{Interrupt, Life};
use super::program::Program;
use super::server;
use crate::failure::{Doing, Failure, Outcome};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a server may take until it listens, and a word until it is obeyed.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts a node's server; it stands by unless it is to `serve` at once.
pub fn start(lab: &Lab, node: NodeName, serve: bool, stop: &Interrupt) -> Outcome {
    let program = std::env::current_exe().doing(|| "the path of this program")?;
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut args = vec![
        "lab-server".to_owned(),
        "--database".into(),
        path(lab.shared_dir().join("database.sqlite")),
        "--postgres".into(),
        lab.upstream(node, "sales").to_string(),
        "--lines".into(),
        lab.upstream(node, "ledger").to_string(),
        "--control".into(),
        path(control(lab, node)),
    ];
    if serve {
        args.push("--serve".into());
    }
    // A socket of a server that was killed would be taken for the new one's.
    let _ = std::fs::remove_file(control(lab, node));
    let log = lab.part_file(node, Part::Server, "log");
    let pid_file = lab.part_file(node, Part::Server, "pid");
    let mut running = Program::new(&program, &lab.meta.id)
        .args(args)
        .start(&log, &pid_file)?;
    let deadline = Instant::now() + LIMIT;
    while server::tell(&control(lab, node), "health", LIMIT).is_err() {
        running.check()?;
        stop.check()?;
        if Instant::now() > deadline {
            let text = format!(
                "the SQL server of {} does not answer: {}",
                node.name(),
                log.display()
            );
            return Err(Failure::failed(text));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Lets the node's server serve.
pub fn promote(lab: &Lab, node: NodeName) -> Outcome {
    expect(lab, node, "serve", "serving")
}

/// Ends the node's sessions and lets its server stand by; a dead one serves nobody either.
pub fn demote(lab: &Lab, node: NodeName) -> Outcome {
    match lab.life(node, Part::Server) {
        Life::Dead => Ok(()),
        _ => expect(lab, node, "stand-by", "standing by"),
    }
}

/// Whether the other node's server is there to be promoted.
pub fn ready(lab: &Lab, node: NodeName) -> Outcome {
    expect(lab, node.other(), "health", "standing by")
}

/// Whether the node's server serves.
pub fn health(lab: &Lab, node: NodeName) -> Outcome {
    expect(lab, node, "health", "serving")
}

fn expect(lab: &Lab, node: NodeName, word: &str, wanted: &str) -> Outcome {
    let what = || format!("the SQL server of {}", node.name());
    match server::tell(&control(lab, node), word, LIMIT).doing(what)? {
        answer if answer == wanted => Ok(()),
        answer => Err(Failure::failed(format!("{}: {answer}", what()))),
    }
}

fn control(lab: &Lab, node: NodeName) -> PathBuf {
    lab.node_dir(node).join("server.sock")
}
