//! `vianet status`: what the nodes of a cluster say of a name, or everything that one daemon knows.

mod sessions;

use crate::control;
use crate::failure::{Doing, Failure, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vianet::config::{Client, Cluster};
use vianet::conn::asker::Asker;
use vianet::resolve::name::ServerName;
use vianet::resolve::{Answer, Role};
use vianet_node::control::{ServerStatus, Status};

/// Show what the nodes say of a name, or everything that one node daemon knows.
///
/// With NAME, every node of its cluster is asked over the network: role and generation of each. Without NAME, this is
/// done for every alias of the configuration. With --control, the daemon on this machine that has this control socket
/// tells its names, roles, sessions, the last changes of role, and what it sees of its peers. With --sessions, the active
/// node's daemon lists its sessions: who, as which PostgreSQL role, whether each could move to the other node now or why
/// not, how often it has moved, and how long the parts of the last time took; to be run on that node's machine, as a user who
/// may open its control socket.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vianet status sales.lab
  vianet status sales.lab --sessions
  vianet status --control /run/vianet/node-a.ctl
  vianet status --control /run/vianet/node-a.ctl --json

Exit status: 0 every name shown has an active node (with --control: the daemon answers), else 1.")]
pub struct Args {
    /// The server name: `cluster\server`, `server.cluster`, or an alias.
    #[arg(conflicts_with = "control")]
    name: Option<String>,
    /// The control socket of a daemon on this machine: `<shm_dir>/<node>.ctl`.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// List the sessions that the node relays: those of NAME, or with --control all.
    #[arg(long)]
    sessions: bool,
    /// The client's configuration; default: the usual places (see `vianet --help`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON: one object a name, or the daemon's state as one object.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    if let Some(socket) = args.control.as_ref().filter(|_| args.sessions) {
        return sessions::show(socket, None, args.json);
    }
    if let Some(socket) = &args.control {
        let status = control::status(socket, Duration::from_secs(5))?;
        match args.json {
            true => println!(
                "{}",
                serde_json::to_string(&status).doing(|| "the daemon's state")?
            ),
            false => print_daemon(&status),
        }
        return Ok(());
    }
    let path = args.config.or_else(Client::find).ok_or_else(|| {
        Failure::refused("there is no client.toml: set VIANET_CONFIG, or use --config or --control")
    })?;
    let config = Client::load(&path)?;
    let names: Vec<String> = match args.name {
        Some(name) => vec![name],
        None => config.aliases.keys().cloned().collect(),
    };
    if names.is_empty() {
        let text = format!(
            "{} has no aliases: which name? `vianet status NAME`",
            path.display()
        );
        return Err(Failure::refused(text));
    }
    let mut orphans = Vec::new();
    for name in names {
        let parsed = ServerName::parse(&name, &config)?;
        let cluster = parsed.cluster_config(&config).ok_or_else(|| {
            Failure::refused(format!(
                "the cluster of {parsed} is not in the configuration"
            ))
        })?;
        let (answers, report) = ask(&parsed, cluster)?;
        if args.sessions {
            let socket = active_socket(&parsed, &config, &answers, &report)?;
            sessions::show(&socket, Some(&parsed.server), args.json)?;
            continue;
        }
        if !answers.iter().any(|a| a.role == Role::Active) {
            orphans.push(format!("nobody serves {name}: {report}"));
        }
        match args.json {
            true => println!("{}", json_line(&name, &answers, &report)),
            false => {
                print_name(&name, &answers);
                if answers.len() < cluster.nodes.len() {
                    println!("  not every node answers: {report}");
                }
            }
        }
    }
    match orphans.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(orphans.join("\n"))),
    }
}

/// One round of questions to every node; what they said, and what did not work in words.
pub fn ask(name: &ServerName, cluster: &Cluster) -> Outcome<(Vec<Answer>, String)> {
    let origin = Instant::now();
    let mut asker = Asker::start(name, cluster, 0, Duration::ZERO)?;
    while let Some(due) = asker.poll_timeout() {
        let left = due.saturating_sub(origin.elapsed());
        {
            let fds = asker.fds();
            let mut fds: Vec<_> = fds
                .iter()
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            let timeout = Timespec::try_from(left).doing(|| "poll")?;
            // An interrupted wait is repeated by the loop.
            let _ = poll(&mut fds, Some(&timeout));
        }
        let now = origin.elapsed();
        asker.on_readable(now);
        if asker.poll_timeout().is_some_and(|due| now >= due) {
            asker.on_timeout(now);
        }
    }
    Ok((asker.answers().cloned().collect(), asker.report()))
}

/// The control socket of the node that is active now.
pub fn active_socket(
    name: &ServerName,
    config: &Client,
    answers: &[Answer],
    report: &str,
) -> Outcome<PathBuf> {
    let active = answers.iter().filter(|a| a.role == Role::Active);
    let Some(active) = active.max_by_key(|a| a.generation) else {
        return Err(Failure::refused(format!("nobody serves {name}: {report}")));
    };
    let socket = config.shm_dir.join(format!("{}.ctl", active.node));
    match socket.exists() {
        true => Ok(socket),
        false => Err(Failure::refused(format!(
            "node {} is active for {name}, and its control socket is not {}: run this on its machine, or name the \
             socket with --control",
            active.node,
            socket.display()
        ))),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Active => "active",
        Role::Passive => "passive",
        Role::TakingOver => "taking-over",
        Role::Unknown => "unknown",
    }
}

fn json_line(name: &str, answers: &[Answer], report: &str) -> Value {
    let nodes = answers.iter().map(|a| {
        json!({
            "node": a.node,
            "role": role_name(a.role),
            "generation": a.generation,
            "authentic": a.authentic,
        })
    });
    json!({"name": name, "nodes": nodes.collect::<Vec<_>>(), "report": report})
}

fn print_name(name: &str, answers: &[Answer]) {
    println!("{name}");
    for a in answers {
        let authentic = if a.authentic {
            ""
        } else {
            ", not authenticated"
        };
        println!(
            "  {:16} {:12} generation {}{authentic}",
            a.node,
            role_name(a.role),
            a.generation
        );
    }
}

fn print_daemon(status: &Status) {
    println!(
        "{} of cluster {}: vianetd {}, pid {}, up {}",
        status.node,
        status.cluster,
        status.version,
        status.pid,
        ago(status.started_ms)
    );
    for peer in &status.peers {
        let heard = match peer.heard_ms_ago {
            Some(ms) => format!("heard {ms} ms ago"),
            None => "never heard".into(),
        };
        println!(
            "  peer {} ({}): {}, {heard}",
            peer.node, peer.addr, peer.state
        );
    }
    for server in &status.servers {
        print_server(server);
    }
}

fn print_server(server: &ServerStatus) {
    println!(
        "\n{}: {} for {}, generation {}",
        server.name,
        server.role,
        ago(server.since_ms),
        server.generation
    );
    if let Some(role) = &server.peer_role {
        println!("  the other node: {role}");
    }
    println!("  SQL server {}: {}", server.upstream, server.health);
    println!(
        "  {} sessions now, {} accepted, {} bytes in, {} bytes out",
        server.sessions.len(),
        server.accepted,
        server.bytes_in,
        server.bytes_out
    );
    for session in &server.sessions {
        println!(
            "    {} over {} from {}, for {}",
            session.channel,
            session.transport,
            session.peer,
            ago(session.since_ms)
        );
    }
    for change in &server.changes {
        let took = change
            .took_ms
            .map_or(String::new(), |ms| format!(", took {ms} ms"));
        println!(
            "  {} ago: {} -> {}, generation {}: {}{took}",
            ago(change.at_ms),
            change.from,
            change.to,
            change.generation,
            change.reason
        );
    }
}

/// How long ago a time since 1970 is, in words.
fn ago(at_ms: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let s = (now.as_millis() as u64).saturating_sub(at_ms) / 1000;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3600),
    }
}
