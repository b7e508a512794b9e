//! `vianet lab up`, and the starting of a node's parts, which `vianet lab start` shares.

use super::account::Account;
use super::layout::{
    Engine, HTTP_PORT, LEDGER_PORT, Lab, Meta, NodeName, Part, QUERY_PORT, RdmaPath, SALES_PORT,
    Subnet, VIA_PORT, node_host, shared_host,
};
use super::process::Interrupt;
use super::program::{Program, last_lines};
use super::{config, down, embedded, postgres};
use crate::control;
use crate::failure::{Doing, Failure, Outcome};
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vianet_node::pg::scram;

/// How long the nodes may take to agree on who is active.
const AGREE: Duration = Duration::from_secs(120);

/// What kind of lab is wanted.
pub struct Plan {
    /// The SQL servers.
    pub engine: Engine,
    /// Where on the loopback network.
    pub subnet: Subnet,
    /// How often the nodes ask each other; `None`: as the engine wants it.
    pub keepalive_ms: Option<u64>,
    /// And where on RDMA devices, best first.
    pub rdma: Vec<RdmaPath>,
    /// Intervals and time limits so many times as long as usual.
    pub patience: u32,
    /// Where PostgreSQL's programs are; `None`: the newest that is installed.
    pub pg_bin: Option<PathBuf>,
    /// Sessions that a SQL server takes at a time.
    pub connections: u32,
    /// PostgreSQL lets the nodes' relays in without a password.
    pub trust: bool,
    /// PostgreSQL gets no extension, even where it is installed.
    pub no_extension: bool,
    /// Sessions that may wait on the standby.
    pub warm: u32,
}

impl Plan {
    /// The usual one.
    pub fn new(engine: Engine, subnet: Subnet) -> Self {
        Self {
            engine,
            subnet,
            keepalive_ms: None,
            rdma: Vec::new(),
            patience: 1,
            pg_bin: None,
            connections: 300,
            trust: false,
            no_extension: false,
            warm: 0,
        }
    }
}

/// Starts a lab in `dir`. On failure and on Ctrl-C everything is stopped and removed again.
pub fn up(dir: &Path, plan: Plan, stop: &Interrupt) -> Outcome<Lab> {
    let Plan { engine, subnet, .. } = plan;
    let daemon = daemon_program()?;
    let database_user = match engine {
        Engine::Embedded => None,
        Engine::Postgres | Engine::PostgresShared => {
            postgres::find_binaries(plan.pg_bin.as_deref())?;
            Account::for_database()?.map(|a| a.name)
        }
    };
    let (dir, made_dir) = Lab::claim(dir)?;
    let _lock = Lab::lock(&dir)?;
    let id = scram::random::<16>();
    let mut lab = Lab {
        dir,
        meta: Meta {
            version: 1,
            id: id.iter().map(|b| format!("{b:02x}")).collect(),
            engine,
            subnet,
            keepalive_ms: plan.keepalive_ms,
            rdma: plan.rdma,
            patience: plan.patience,
            pg_bin: plan.pg_bin,
            connections: plan.connections,
            trust: plan.trust,
            no_extension: plan.no_extension,
            warm: plan.warm,
            pg_extension: None,
            up: false,
            down: false,
            made_dir,
            database_user,
        },
    };
    let result = check_ports(engine, subnet).and_then(|()| {
        // From here on `lab down` finds everything, even if this process is killed.
        lab.save()?;
        lab.meta.pg_extension = make(&lab, &daemon, stop)?;
        stop.check()?;
        lab.meta.up = true;
        lab.save()
    });
    match result {
        Ok(()) => Ok(lab),
        Err(failure) => {
            let failure = match stop.check() {
                Ok(()) => explain(&lab, failure),
                Err(interrupted) => interrupted.and(": everything was stopped again"),
            };
            down::remove(&lab, false).map_err(|e| {
                let dir = lab.dir.display();
                e.and(&format!(
                    "; not everything is stopped: `vianet lab down --dir {dir}` tries again"
                ))
            })?;
            Err(failure)
        }
    }
}

/// Starts what `only` names of a node, or both parts; what runs already is left alone.
pub fn start_part(lab: &Lab, node: NodeName, part: Part, stop: &Interrupt) -> Outcome {
    match (part, lab.meta.engine) {
        (Part::Daemon, _) => start_daemon(lab, node, &daemon_program()?),
        (Part::Server, Engine::Embedded) => embedded::start(lab, node, false, stop),
        (Part::Server, _) => postgres::start(lab, node, stop),
    }
}

/// Gives the version of the PostgreSQL extension, where there is one.
fn make(lab: &Lab, daemon: &Path, stop: &Interrupt) -> Outcome<Option<String>> {
    for node in NodeName::ALL {
        let dir = lab.node_dir(node).join("state");
        fs::create_dir_all(&dir).doing(|| dir.display().to_string())?;
    }
    for (dir, mode) in [(lab.shared_dir(), 0o755), (lab.run_dir(), 0o755)] {
        fs::create_dir(&dir)
            .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)))
            .doing(|| dir.display().to_string())?;
    }
    let extension = match lab.meta.engine {
        Engine::Embedded => {
            for node in NodeName::ALL {
                embedded::start(lab, node, node == NodeName::NodeA, stop)?;
            }
            None
        }
        Engine::Postgres | Engine::PostgresShared => {
            check_reachable(lab)?;
            config::write_replication_password(lab)?;
            postgres::create(lab, stop)?
        }
    };
    config::write(lab, extension.is_some())?;
    for node in NodeName::ALL {
        start_daemon(lab, node, daemon)?;
    }
    wait_until_agreed(lab, stop)?;
    check_rdma(lab)?;
    Ok(extension)
}

/// A daemon that cannot have RDMA does without; somebody who asked for it wants to know.
fn check_rdma(lab: &Lab) -> Outcome {
    for node in NodeName::ALL {
        let path = lab.part_file(node, Part::Daemon, "log");
        let log = fs::read_to_string(&path).doing(|| path.display().to_string())?;
        if let Some(line) = log.lines().find(|l| l.contains("rdma-unavailable")) {
            return Err(Failure::failed(format!(
                "{} has no RDMA; `vianet doctor --rdma` looks for the cause: {}",
                node.name(),
                line.trim()
            )));
        }
    }
    Ok(())
}

/// Every server name has an active node, and the other node is passive.
fn wait_until_agreed(lab: &Lab, stop: &Interrupt) -> Outcome {
    let deadline = Instant::now() + AGREE;
    loop {
        let mut roles = Vec::new();
        for node in NodeName::ALL {
            check_daemon(lab, node)?;
            match control::status(&lab.daemon_control(node), Duration::from_secs(2)) {
                Ok(status) => roles.extend(status.servers.into_iter().map(|s| s.role)),
                Err(_) => roles.push("does not answer".into()),
            }
        }
        let servers = lab.meta.engine.servers().len();
        let count = |role| roles.iter().filter(|r| *r == role).count();
        if count("active") == servers && count("passive") == servers {
            return Ok(());
        }
        stop.check()?;
        if Instant::now() > deadline {
            let text = format!("the nodes do not agree on who is active: {roles:?}");
            return Err(Failure::failed(text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the node's daemon has found its role for every name.
pub fn wait_for_role(lab: &Lab, node: NodeName, stop: &Interrupt) -> Outcome {
    let deadline = Instant::now() + AGREE;
    loop {
        check_daemon(lab, node)?;
        let status = control::status(&lab.daemon_control(node), Duration::from_secs(2));
        let settled = |role: &str| role == "active" || role == "passive";
        if status.is_ok_and(|s| s.servers.iter().all(|s| settled(&s.role))) {
            return Ok(());
        }
        stop.check()?;
        if Instant::now() > deadline {
            let log = lab.part_file(node, Part::Daemon, "log");
            let text = format!(
                "{} does not find its role: see {}",
                node.name(),
                log.display()
            );
            return Err(Failure::failed(text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start_daemon(lab: &Lab, node: NodeName, daemon: &Path) -> Outcome {
    let config = lab.node_dir(node).join("node.toml");
    let log = lab.part_file(node, Part::Daemon, "log");
    let pid_file = lab.part_file(node, Part::Daemon, "pid");
    Program::new(daemon, &lab.meta.id)
        .args(["--config".as_ref(), config.as_os_str()])
        .start(&log, &pid_file)?;
    Ok(())
}

fn check_daemon(lab: &Lab, node: NodeName) -> Outcome {
    if lab.life(node, Part::Daemon) != super::process::Life::Dead {
        return Ok(());
    }
    let log = lab.part_file(node, Part::Daemon, "log");
    Err(Failure::failed(format!(
        "the daemon of {} has ended; {}:\n{}",
        node.name(),
        log.display(),
        last_lines(&log, 5)
    )))
}

/// `vianetd`: beside this program, else in PATH.
fn daemon_program() -> Outcome<PathBuf> {
    let own = std::env::current_exe().doing(|| "the path of this program")?;
    let beside = own.parent().map(|dir| dir.join("vianetd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path).map(|dir| dir.join("vianetd")))
        .find(|p| p.is_file())
        .ok_or_else(|| {
            Failure::failed(
                "vianetd is neither beside this program nor in PATH: install it, or `cargo build`",
            )
        })
}

/// The first subnet on which every port is free.
pub fn free_subnet(engine: Engine) -> Outcome<Subnet> {
    let all = std::iter::once(Subnet::DEFAULT).chain((200..=250).map(Subnet::new));
    let mut last = Ok(());
    for subnet in all {
        last = check_ports(engine, subnet);
        if last.is_ok() {
            return Ok(subnet);
        }
    }
    last.map(|()| Subnet::DEFAULT)
}

/// Names every port that somebody else has.
fn check_ports(engine: Engine, subnet: Subnet) -> Outcome {
    let mut taken = Vec::new();
    let mut tcp = Vec::new();
    for node in NodeName::ALL {
        let host = node_host(subnet, node);
        let query = SocketAddr::new(host, QUERY_PORT);
        if let Err(e) = UdpSocket::bind(query) {
            taken.push(format!("UDP {query} ({e})"));
        }
        tcp.extend([VIA_PORT, HTTP_PORT].map(|port| SocketAddr::new(host, port)));
        if engine == Engine::Embedded {
            tcp.push(SocketAddr::new(host, LEDGER_PORT));
        }
        if engine != Engine::PostgresShared {
            tcp.push(SocketAddr::new(host, SALES_PORT));
        }
    }
    if engine == Engine::PostgresShared {
        tcp.push(SocketAddr::new(shared_host(subnet), SALES_PORT));
    }
    for addr in tcp {
        if let Err(e) = TcpListener::bind(addr) {
            taken.push(format!("TCP {addr} ({e})"));
        }
    }
    match taken.is_empty() {
        true => Ok(()),
        false => Err(Failure::refused(format!(
            "cannot listen on {}. If another lab runs, --subnet 127.0.N with another N keeps them apart",
            taken.join(", ")
        ))),
    }
}

/// PostgreSQL's user must be able to come to its directory.
fn check_reachable(lab: &Lab) -> Outcome {
    let Some(account) = lab.database_account()? else {
        return Ok(());
    };
    Program::new(Path::new("/bin/true"), &lab.meta.id)
        .account(Some(&account))
        .dir(&lab.shared_dir())
        .finish(
            None,
            &lab.dir.join("lab.log"),
            Duration::from_secs(10),
            &Interrupt::default(),
        )
        .map_err(|_| {
            Failure::refused(format!(
                "PostgreSQL does not run as root but as {}, and that user cannot enter {}: choose a directory that it \
                 can, for example below /tmp",
                account.name,
                lab.dir.display()
            ))
        })
}

/// Adds the daemons' last words, whose files are about to go.
fn explain(lab: &Lab, failure: Failure) -> Failure {
    let mut text = String::new();
    for node in NodeName::ALL {
        let tail = last_lines(&lab.part_file(node, Part::Daemon, "log"), 3);
        if !tail.is_empty() {
            text += &format!("\n{} wrote last:\n{tail}", node.name());
        }
    }
    failure.and(&text)
}
