//! The PostgreSQL engines. `postgres`: a primary and a synchronous standby; `postgres-shared`: one server.
//!
//! **No acknowledged commit is lost**, by three rules that hold together:
//! 1. While both servers live, the primary acknowledges a commit only when the standby has it on disk
//!    (`synchronous_standby_names` in `sync.conf`).
//! 2. Who goes on alone (a promoted standby, or a primary whose standby is *dead*) first marks the other node `stale`,
//!    then empties `sync.conf`, so that commits do not wait for ever.
//! 3. A stale node is never promoted. `lab start` rebuilds it, waits until it has everything, and only then takes the
//!    mark away.
//!
//! A standby that is frozen and not dead makes commits wait: that is what synchronous replication means.

mod cluster;
mod switchover;

use super::account::Account;
use super::layout::{Engine, Lab, NodeName, Part, SALES_PORT};
use super::process::{Interrupt, Life, Process, write_atomically};
use super::program::Program;
use crate::control::reach;
use crate::failure::{Doing, Failure, Outcome};
use rustix::process::Signal;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vianet_node::pg::client::Client;

pub use cluster::{create, find_binaries, forget_shared_memory, start};
pub use switchover::{demote, ready, rejoin};

/// Longest wait for a server to start, to stop, to be copied, to be promoted.
const LIMIT: Duration = Duration::from_secs(60);

/// One PostgreSQL server of the lab.
struct Server<'a> {
    lab: &'a Lab,
    /// Of which node; the shared one counts as node-a's.
    node: NodeName,
    bin: PathBuf,
    account: Option<Account>,
}

fn dir(lab: &Lab, node: NodeName) -> PathBuf {
    match lab.meta.engine {
        Engine::PostgresShared => lab.shared_dir(),
        _ => lab.node_dir(node),
    }
}

/// The Unix socket of the node's server.
pub fn socket(lab: &Lab, node: NodeName) -> PathBuf {
    dir(lab, node).join(format!("socket/.s.PGSQL.{SALES_PORT}"))
}

impl<'a> Server<'a> {
    fn new(lab: &'a Lab, node: NodeName) -> Outcome<Self> {
        Ok(Self {
            lab,
            node,
            bin: find_binaries(lab.meta.pg_bin.as_deref())?,
            account: lab.database_account()?,
        })
    }

    fn dir(&self) -> PathBuf {
        dir(self.lab, self.node)
    }

    fn data(&self) -> PathBuf {
        self.dir().join("pg")
    }

    fn socket_dir(&self) -> PathBuf {
        self.dir().join("socket")
    }

    fn socket(&self) -> PathBuf {
        socket(self.lab, self.node)
    }

    fn host(&self) -> IpAddr {
        self.lab.upstream(self.node, "sales").ip()
    }

    fn process(&self) -> Option<Process> {
        self.lab.process(self.node, Part::Server)
    }

    /// A program of PostgreSQL's, as the database's user.
    fn program(&self, name: &str) -> Program {
        Program::new(&self.bin.join(name), &self.lab.meta.id)
            .account(self.account.as_ref())
            .dir(&self.dir())
    }

    /// Starts it and waits until it takes connections.
    fn run(&self, stop: &Interrupt) -> Outcome {
        let log = self.lab.part_file(self.node, Part::Server, "log");
        let pid_file = self.lab.part_file(self.node, Part::Server, "pid");
        let data = self.data();
        if self.process().is_some_and(|p| p.life() == Life::Dead) {
            forget_shared_memory(&data);
            // A dead postmaster that nobody has waited for (no init in a container) would count as running.
            let _ = fs::remove_file(data.join("postmaster.pid"));
            let _ = fs::remove_file(self.socket().with_extension(format!("{SALES_PORT}.lock")));
        }
        let mut running = (self.program("postgres"))
            .args(["-D".as_ref(), data.as_os_str()])
            .start(&log, &pid_file)?;
        self.until("to take connections", stop, |_| {
            running.check()?;
            // Its last line says what the server is doing.
            let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            Ok(text
                .lines()
                .nth(7)
                .is_some_and(|state| state.trim() == "ready"))
        })
    }

    /// Waits until `reached`, asking every few milliseconds.
    fn until(
        &self,
        what: &str,
        stop: &Interrupt,
        mut reached: impl FnMut(&Self) -> Outcome<bool>,
    ) -> Outcome {
        let deadline = Instant::now() + LIMIT;
        while !reached(self)? {
            stop.check()?;
            if Instant::now() > deadline {
                let log = self.lab.part_file(self.node, Part::Server, "log");
                return Err(Failure::failed(format!(
                    "waited {} s for the PostgreSQL of {} {what}: see {}",
                    LIMIT.as_secs(),
                    self.node.name(),
                    log.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs a query as the role `monitor`, which may look and end sessions, over the server's own Unix socket. Gives
    /// the first value of the first row.
    fn ask(&self, sql: &str) -> Outcome<String> {
        let path = self.socket();
        let what = || format!("asking the PostgreSQL of {}", self.node.name());
        let stream = reach(&path, Duration::from_secs(10)).doing(what)?;
        let mut client = Client::log_in(stream, "monitor", "", "postgres").doing(what)?;
        let answer = client.query(sql).doing(what)?;
        Ok(answer
            .rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten())
            .unwrap_or_default())
    }

    /// Ends what the relays of `nodes` have open, and waits until it has ended. None of them serves now: what an earlier term, or
    /// an earlier run of the daemon, has left may still be at work, and commit after its client has looked for it.
    fn end_sessions_of(&self, nodes: &[NodeName]) -> Outcome {
        let sources = nodes.iter().map(|node| self.lab.relay_source(*node));
        let sources: Vec<_> = sources.map(|ip| format!("'{ip}'")).collect();
        let theirs = format!(
            "FROM pg_stat_activity WHERE client_addr IN ({})",
            sources.join(", ")
        );
        self.ask(&format!(
            "SELECT count(pg_terminate_backend(pid, 5000)) {theirs}"
        ))?;
        // Asked again: the answer of the first is the same for one that does not end and one that ended by itself meanwhile.
        let left = self.ask(&format!("SELECT count(*) {theirs}"))?;
        match left.as_str() {
            "0" => Ok(()),
            n => Err(Failure::failed(format!("{n} sessions do not end"))),
        }
    }

    /// Whether it runs and is the primary.
    fn is_primary(&self) -> bool {
        let life = self.process().map_or(Life::Dead, |p| p.life());
        life == Life::Running
            && self
                .ask("SELECT pg_is_in_recovery()")
                .is_ok_and(|v| v == "f")
    }

    /// From now on commits wait for `standby`, or for nobody.
    fn wait_for(&self, standby: Option<NodeName>) -> Outcome {
        let name = standby.map_or(String::new(), |n| format!("\"{}\"", n.name()));
        let text = format!("# Written by the lab's hooks.\nsynchronous_standby_names = '{name}'\n");
        write_atomically(&self.dir().join("sync.conf"), &text)?;
        if let Some(process) = self.process() {
            process.signal(Signal::HUP);
        }
        Ok(())
    }

    fn waits_for_standby(&self) -> bool {
        let text = fs::read_to_string(self.dir().join("sync.conf")).unwrap_or_default();
        text.contains("node-")
    }

    /// Goes on without the other node, whose data are behind from now on. Rule 2.
    fn go_alone(&self, why: &str) -> Outcome {
        let other = self.node.other();
        write_atomically(&self.lab.stale_file(other), &format!("{why}\n"))?;
        self.wait_for(None)
    }
}

/// Refuses for a node that must not become the primary (rule 3). Its fence hook asks too: who cannot serve must not
/// stop the one that can.
pub fn check_promotable(lab: &Lab, node: NodeName) -> Outcome {
    match fs::read_to_string(lab.stale_file(node)) {
        Err(_) => Ok(()),
        Ok(why) => Err(Failure::refused(format!(
            "{} is not promoted, it may lack commits: {}. Start the other node, then this one: `vianet lab start`",
            node.name(),
            why.trim()
        ))),
    }
}

/// The promote hook: the node's standby becomes the primary.
pub fn promote(lab: &Lab, node: NodeName) -> Outcome {
    let server = Server::new(lab, node)?;
    check_promotable(lab, node)?;
    switchover::stop_rejoining(lab, node)?;
    let life = server.process().map_or(Life::Dead, |p| p.life());
    if life == Life::Dead {
        // It was demoted, and the other node did not take over.
        server.run(&Interrupt::default())?;
    }
    if server.is_primary() {
        return server.end_sessions_of(&[node]);
    }
    server.go_alone(&format!("{} was promoted", node.name()))?;
    let log = lab.part_file(node, Part::Server, "log");
    let data = server.data();
    (server.program("pg_ctl"))
        .args([
            "promote".as_ref(),
            "-W".as_ref(),
            "-s".as_ref(),
            "-D".as_ref(),
            data.as_os_str(),
        ])
        .finish(None, &log, LIMIT, &Interrupt::default())?;
    server.until("to be promoted", &Interrupt::default(), |server| {
        Ok(server.is_primary())
    })
}

/// The health hook: whether the node's server can be written to.
pub fn health(lab: &Lab, node: NodeName) -> Outcome {
    let server = Server::new(lab, node)?;
    if server.ask("SELECT pg_is_in_recovery()")? != "f" {
        let text = format!("the PostgreSQL of {} is a standby", node.name());
        return Err(Failure::failed(text));
    }
    // A dead standby will never confirm anything. Both nodes are on this machine, so dead is a fact and not a guess.
    if server.waits_for_standby() && lab.life(node.other(), Part::Server) == Life::Dead {
        server.go_alone(&format!("{} went on alone", node.name()))?;
    }
    Ok(())
}

/// The hooks of the shared engine: ends what both nodes' relays have left open, and waits until it has ended.
pub fn end_sessions(lab: &Lab) -> Outcome {
    let server = Server::new(lab, NodeName::NodeA)?;
    match server.process().map_or(Life::Dead, |p| p.life()) {
        Life::Dead => Ok(()),
        _ => server.end_sessions_of(&NodeName::ALL),
    }
}
