//! `vianet switchover`: an operator's planned move of the active role to the other node.

use crate::control;
use crate::failure::{Doing, Failure, Outcome};
use crate::status;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vianet::config::Client;
use vianet::resolve::Role;
use vianet::resolve::name::ServerName;
use vianet_node::control::{Reply, Request, SwitchoverSession, SwitchoverStatus};

/// Longest wait for one answer of the daemon.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions how it goes.
const LOOK: Duration = Duration::from_millis(50);

/// Move the active role of a name to the other node, without errors for sessions that can move.
///
/// Run it on the machine of the active node, as a user who may open its control socket. Sessions that are in a transaction or in
/// a request are waited for, at most for the drain time, while the others go on. Then every next request waits, the active
/// node's SQL server is demoted in good order, the other node takes over, and the sessions go on there. What cannot move is
/// listed with the reason and what becomes of it. If the other node does not take over, this one takes its role back.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vianet switchover 'lab\\sales' --to node-b --dry-run       which sessions would move
  vianet switchover 'lab\\sales' --to node-b --drain 30
  vianet switchover sales.lab --to node-a --json

Exit status: 0 done; 1 it came to nothing, and the text says who is active; 3 refused, nothing was changed.")]
pub struct Args {
    /// The server name: `cluster\\server`, `server.cluster`, or an alias.
    name: String,
    /// The node that is to be active.
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Longest wait for sessions that are in a transaction or in a request.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86_400))]
    drain: u64,
    /// Change nothing: say what would become of each session.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: one object.
    #[arg(long)]
    json: bool,
    /// The active node's control socket; default: `<shm_dir>/<node>.ctl`, by the client's configuration.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// The client's configuration; default: the usual places (see `vianet --help`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let path = args.config.clone().or_else(Client::find).ok_or_else(|| {
        Failure::refused("there is no client.toml: set VIANET_CONFIG, or use --config")
    })?;
    let config = Client::load(&path)?;
    let name = ServerName::parse(&args.name, &config)?;
    let socket = match &args.control {
        Some(socket) => socket.clone(),
        None => find(&name, &config, &args.to)?,
    };
    reachable(&socket)?;
    let begin = Request::Switchover {
        server: name.server.clone(),
        to: args.to.clone(),
        drain_ms: args.drain * 1000,
        dry_run: args.dry_run,
    };
    // What the daemon does not begin changes nothing.
    let mut status = switchover(&socket, &begin).map_err(|e| Failure::refused(e.to_string()))?;
    let look = Request::Switchovers {
        server: name.server.clone(),
    };
    while !status.over {
        std::thread::sleep(LOOK);
        status = switchover(&socket, &look)?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string(&status).doing(|| "the answer")?),
        false => print(&args.name, &status),
    }
    match status.error {
        None => Ok(()),
        Some(why) if status.demote_ms == 0 && status.takeover_ms == 0 => {
            Err(Failure::refused(format!("{why}; nothing was changed")))
        }
        Some(why) => Err(Failure::failed(why)),
    }
}

fn switchover(socket: &Path, request: &Request) -> Outcome<SwitchoverStatus> {
    match control::ask(socket, request, LIMIT)? {
        Reply::Switchover(status) => Ok(status),
        _ => Err(Failure::failed(format!(
            "the node daemon at {} gave another answer than asked for",
            socket.display()
        ))),
    }
}

/// The control socket of the node that is active now.
fn find(name: &ServerName, config: &Client, to: &str) -> Outcome<PathBuf> {
    let cluster = name.cluster_config(config).ok_or_else(|| {
        Failure::refused(format!("the cluster of {name} is not in the configuration"))
    })?;
    let (answers, report) = status::ask(name, cluster)?;
    let socket = status::active_socket(name, config, &answers, &report)?;
    if answers
        .iter()
        .any(|a| a.node == to && a.role == Role::Active)
    {
        return Err(Failure::refused(format!(
            "node {to} is active for {name} already"
        )));
    }
    if !answers.iter().any(|a| a.node == to) {
        let known: Vec<&str> = answers.iter().map(|a| a.node.as_str()).collect();
        return Err(Failure::refused(format!(
            "no node {to:?} answers for {name}; those that do: {}{}",
            known.join(", "),
            match answers.len() < cluster.nodes.len() {
                true => format!(" ({report})"),
                false => String::new(),
            }
        )));
    }
    Ok(socket)
}

/// Who may open the socket may command the daemon; nobody else.
fn reachable(socket: &Path) -> Outcome {
    match control::reach(socket, LIMIT) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(Failure::refused(format!(
            "{}: only the daemon's user and root may command it",
            socket.display()
        ))),
        Err(e) => Err(Failure::refused(format!(
            "the node daemon at {} does not answer: {e}",
            socket.display()
        ))),
        Ok(_) => Ok(()),
    }
}

fn print(name: &str, status: &SwitchoverStatus) {
    let (from, to) = (&status.from, &status.to);
    match (status.dry_run, &status.error) {
        (_, Some(_)) => println!("{name}: from {from} to {to}: it came to nothing"),
        (true, None) => println!("{name}: from {from} to {to}, dry run: nothing was changed"),
        (false, None) => println!("{name}: from {from} to {to}: done"),
    }
    let mut groups: BTreeMap<(&str, &str), Vec<&SwitchoverSession>> = BTreeMap::new();
    for session in &status.sessions {
        let key = (&*session.outcome, &*session.movable);
        groups.entry(key).or_default().push(session);
    }
    println!("  {} sessions", status.sessions.len());
    for ((outcome, word), sessions) in groups {
        if word == "yes" {
            println!("  {} {outcome}", sessions.len());
            continue;
        }
        for session in sessions {
            println!(
                "  {} over {} from {}: {word} ({}): {outcome}",
                session.channel, session.transport, session.peer, session.reason
            );
        }
    }
    if !status.dry_run && status.error.is_none() {
        println!(
            "  stall {} ms: hold {} ms, demote {} ms, takeover {} ms; busy sessions were waited for {} ms before that",
            status.stall_ms, status.hold_ms, status.demote_ms, status.takeover_ms, status.drain_ms
        );
    }
}
