//! `vianet lab down`: ends everything that was started, recorded or not, and removes the files.

use super::layout::{Engine, Lab, NodeName, Part};
use super::postgres;
use super::process::{Process, marked};
use crate::failure::{Doing, Outcome};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long a daemon may take to end in good order, and a PostgreSQL server.
const DAEMON: Duration = Duration::from_secs(3);
const SERVER: Duration = Duration::from_secs(10);

/// Ends everything; with `keep` the files stay to be read.
pub fn remove(lab: &Lab, keep: bool) -> Outcome {
    // Daemons first, so that none takes over from another that ends.
    let daemons: Vec<Process> = processes(lab, Part::Daemon);
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
    }
    for daemon in &daemons {
        daemon.end(Signal::TERM, DAEMON)?;
    }
    for server in processes(lab, Part::Server) {
        match lab.meta.engine {
            // "Fast shutdown": ends sessions and writes a checkpoint, so that the data can be read.
            Engine::Postgres | Engine::PostgresShared if keep => server.end(Signal::INT, SERVER)?,
            _ => server.kill()?,
        }
    }
    // What a `vianet lab` that was killed had started and not written down, and hooks on their way.
    for process in marked(&lab.meta.id) {
        process.kill()?;
    }
    for dir in [
        lab.node_dir(NodeName::NodeA),
        lab.node_dir(NodeName::NodeB),
        lab.shared_dir(),
    ] {
        postgres::forget_shared_memory(&dir.join("pg"));
    }
    if keep {
        let mut meta = lab.meta.clone();
        meta.down = true;
        return Lab {
            dir: lab.dir.clone(),
            meta,
        }
        .save();
    }
    for name in ["node-a", "node-b", "shared", "run"] {
        gone(fs::remove_dir_all(lab.dir.join(name)), &lab.dir.join(name))?;
    }
    // lab.json last: until then a second `lab down` can finish the work.
    for name in [
        "client.toml",
        "cluster.key",
        "lab.log",
        "lab.lock",
        "lab.json",
    ] {
        gone(fs::remove_file(lab.dir.join(name)), &lab.dir.join(name))?;
    }
    if lab.meta.made_dir {
        // Something of the user's may be in it by now: then it stays.
        let _ = fs::remove_dir(&lab.dir);
    }
    Ok(())
}

fn processes(lab: &Lab, part: Part) -> Vec<Process> {
    let mut found: Vec<Process> = (NodeName::ALL.iter())
        .filter_map(|node| lab.process(*node, part))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn gone(result: std::io::Result<()>, path: &Path) -> Outcome {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("removing {}", path.display())),
    }
}
