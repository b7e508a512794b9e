//! A planned switchover between primary and standby: the primary ends in good order, and comes back as the standby of the
//! other, without being copied anew. Rule 4 beside those of the engine: **the primary hands over only to a standby that has
//! everything**, which is known for certain only after it has stopped.

use super::{Interrupt, LIMIT, Server, check_promotable};
use crate::failure::{Doing, Failure, Outcome};
use crate::lab::layout::{Lab, NodeName, Part};
use crate::lab::process::{Life, Process, write_atomically};
use crate::lab::program::Program;
use std::fs;

/// The ready hook: whether the other node's standby takes part in every commit.
pub fn ready(lab: &Lab, node: NodeName) -> Outcome {
    let (server, other) = (Server::new(lab, node)?, node.other());
    check_promotable(lab, other)?;
    let name = other.name();
    let sync = server.ask(&format!(
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming' \
         AND sync_state = 'sync'"
    ))?;
    match sync.as_str() {
        "1" => Ok(()),
        _ => Err(Failure::refused(format!(
            "the standby of {name} does not stream from {}, or commits do not wait for it",
            node.name()
        ))),
    }
}

/// The demote hook: stops the primary, and makes a standby of it that is started once the other node is the primary.
pub fn demote(lab: &Lab, node: NodeName) -> Outcome {
    ready(lab, node)?;
    let server = Server::new(lab, node)?;
    let stop = Interrupt::default();
    server.stop(&stop)?;
    if let Err(lacks) = server.was_received() {
        // Nobody else was promoted: it goes on as what it was.
        server.run(&stop)?;
        return Err(lacks);
    }
    server.write(&server.data().join("standby.signal"), "")?;
    let program = std::env::current_exe().doing(|| "the path of this program")?;
    let file = |ending: &str| lab.node_dir(node).join(format!("rejoin.{ending}"));
    let dir = lab.dir.to_string_lossy();
    let args = ["lab-hook", "rejoin", "--dir", &dir, "--node", node.name()];
    Program::new(&program, &lab.meta.id)
        .args(args)
        .start(&file("log"), &file("pid"))?;
    Ok(())
}

/// What the demote hook leaves behind: waits until the other node is the primary, and joins it. Ends without a word where this
/// node becomes the primary again.
pub fn rejoin(lab: &Lab, node: NodeName) -> Outcome {
    let stop = Interrupt::default();
    let (server, primary) = (Server::new(lab, node)?, Server::new(lab, node.other())?);
    let mut own = false;
    primary.until("to be promoted", &stop, |primary| {
        own = server.is_primary();
        Ok(own || primary.is_primary())
    })?;
    if own {
        return Ok(());
    }
    // What is killed before the end of this is copied anew by `lab start`, as any node that was lost.
    write_atomically(&lab.stale_file(node), "it is joining the new primary\n")?;
    if server.process().map_or(Life::Dead, |p| p.life()) == Life::Dead {
        server.run(&stop)?;
    }
    server.joins(&primary, &stop)
}

impl Server<'_> {
    /// Ends it in good order, which ends its sessions and waits until the standby has confirmed everything.
    fn stop(&self, stop: &Interrupt) -> Outcome {
        let log = self.lab.part_file(self.node, Part::Server, "log");
        let data = self.data();
        (self.program("pg_ctl"))
            .args(["stop", "-m", "fast", "-s", "-w", "-D"])
            .args([&data])
            .finish(None, &log, LIMIT, stop)?;
        // Its last words are on disk; the process is gone a moment later.
        match self.process().is_none_or(|process| process.wait(LIMIT)) {
            true => Ok(()),
            false => Err(Failure::failed(
                "the server has stopped, and its process stays",
            )),
        }
    }

    /// Whether the other node's standby has the last byte that this server has written.
    fn was_received(&self) -> Outcome {
        let what = || format!("the last checkpoint of {}", self.node.name());
        let out = std::process::Command::new(self.bin.join("pg_controldata"))
            .arg("-D")
            .arg(self.data())
            .env("LC_ALL", "C")
            .output()
            .doing(what)?;
        let text = String::from_utf8_lossy(&out.stdout);
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        let state = line("Database cluster state:");
        if state != "shut down" {
            return Err(Failure::failed(format!("{}: it is {state:?}", what())));
        }
        let last = line("Latest checkpoint location:");
        let other = Server::new(self.lab, self.node.other())?;
        // The record of the last checkpoint begins there.
        let has = other.ask(&format!(
            "SELECT pg_last_wal_receive_lsn() > '{last}'::pg_lsn"
        ))?;
        match has.as_str() {
            "t" => Ok(()),
            _ => Err(Failure::failed(format!(
                "the standby of {} has not all of {}'s log, which ends behind {last}",
                self.node.other().name(),
                self.node.name()
            ))),
        }
    }

    /// Takes part in the commits of `primary` as its standby, and is not stale any more once it has everything.
    pub(super) fn joins(&self, primary: &Self, stop: &Interrupt) -> Outcome {
        // The standby has everything once it has what was flushed when commits began to wait for it. That is when the
        // checkpointer, not a session, has read the new settings: a checkpoint that was asked for later is done.
        primary.wait_for(Some(self.node))?;
        primary.until("to wait for its standby", stop, |primary| {
            Ok(primary
                .ask("SHOW synchronous_standby_names")?
                .contains(self.node.name()))
        })?;
        primary.ask("SELECT public.settle()")?;
        let end = primary.ask("SELECT pg_current_wal_flush_lsn()")?;
        let name = self.node.name();
        let caught_up = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' \
             AND sync_state = 'sync' AND flush_lsn >= '{end}'"
        );
        primary.until("to be copied", stop, |primary| {
            Ok(primary.ask(&caught_up)? == "1")
        })?;
        let stale = self.lab.stale_file(self.node);
        fs::remove_file(&stale).doing(|| stale.display().to_string())
    }
}

/// Ends the process that [`demote`] has left behind, if it still waits: this node is the primary.
pub fn stop_rejoining(lab: &Lab, node: NodeName) -> Outcome {
    match Process::recall(&lab.node_dir(node).join("rejoin.pid")) {
        Some(process) => process.kill(),
        None => Ok(()),
    }
}
