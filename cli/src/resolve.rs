//! `vianet resolve`: who serves a name now.

mod browse;

use crate::failure::Outcome;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use vianet::conn::{self, Options, Resolved};
use vianet::via::Transport;

/// Ask a cluster who serves a name now.
///
/// All nodes of the cluster are asked in parallel over UDP; the best answer is the highest generation whose node is
/// active. NAME is `cluster\server`, `server.cluster`, or an alias from the configuration.
///
/// With --list, --dac or --broadcast it asks as any SQL Server client does, by SSRP (UDP port 1434), and needs no
/// configuration: a SQL Browser answers too. Nothing in such an answer is authenticated.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vianet resolve sales.lab
  vianet resolve --json 'lab\\sales'
  vianet resolve --list 192.0.2.11
  vianet resolve --dac '192.0.2.11\\sales'
  vianet resolve --broadcast 192.0.2.255

Exit status: 0 somebody serves it, 1 nobody does within the deadline.")]
pub struct Args {
    /// The server name; with --list, --dac or --broadcast what they say.
    name: String,
    #[command(flatten)]
    browse: browse::How,
    /// The client's configuration; default: the usual places (see `vianet --help`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long to wait for an active node.
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    deadline_ms: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let deadline = Duration::from_millis(args.deadline_ms);
    if args.browse.is_wanted() {
        return browse::run(&args.browse, &args.name, deadline, args.json);
    }
    let options = Options {
        config: args.config,
        deadline: Some(deadline),
        ..Options::default()
    };
    let resolved = conn::resolve(&args.name, &options)?;
    match args.json {
        true => println!("{}", json(&args.name, &resolved)),
        false => print(&args.name, &resolved),
    }
    Ok(())
}

/// One object: the name, the node, and where it is reached.
fn json(name: &str, Resolved { answer, .. }: &Resolved) -> serde_json::Value {
    let endpoints = answer.endpoints.iter().map(|e| {
        json!({"transport": e.transport.name(), "address": address(e.transport, &e.addr.to_string())})
    });
    json!({
        "name": name,
        "node": answer.node,
        "role": format!("{:?}", answer.role).to_lowercase(),
        "generation": answer.generation,
        "authentic": answer.authentic,
        "ttl_ms": answer.ttl.as_millis() as u64,
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn print(name: &str, Resolved { answer, .. }: &Resolved) {
    println!(
        "{name} is served by {}, generation {}",
        answer.node, answer.generation
    );
    for endpoint in &answer.endpoints {
        let transport = endpoint.transport;
        let address = address(transport, &endpoint.addr.to_string());
        println!(
            "  {:6} {}",
            transport.name(),
            address.unwrap_or_else(|| "on this host".into())
        );
    }
    match answer.authentic {
        true => println!("  signed with the cluster's key"),
        false => println!("  not authenticated: pin the cluster's public_key in client.toml"),
    }
}

/// Shared memory has no address: its socket is found by the node's name.
fn address(transport: Transport, text: &str) -> Option<String> {
    (transport != Transport::Shm).then(|| text.to_owned())
}
