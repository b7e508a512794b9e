//! `vianet lab`: a cluster of two nodes on this machine, to play with, for the demo, and for tests.

mod account;
mod config;
mod down;
mod embedded;
pub mod hooks;
pub mod layout;
mod nodes;
mod postgres;
pub mod process;
mod program;
pub mod server;
mod status;
pub mod up;

use crate::failure::{Failure, Outcome};
use clap::Subcommand;
use layout::{Engine, Lab, NodeName, Part, RdmaPath, Subnet};
use process::Interrupt;
use std::path::PathBuf;
use up::Plan;

pub use down::remove;

/// A cluster to play with on this machine.
///
/// Two nodes, node-a (127.0.0.11) and node-b (127.0.0.12), each a node daemon with a SQL server. The cluster is called
/// `lab`, the server name is `sales`; log in as role `app` with password `app` to database `app`. The embedded engine
/// has a second name, `ledger`: one SQL statement a line in, one JSON answer a line out.
#[derive(clap::Args)]
#[command(after_long_help = "\
NODE is node-a or node-b: its daemon together with its SQL server; --only narrows it to one of them.

Where --dir is not given: $VIANET_LAB_DIR, else the directory of $VIANET_CONFIG, else the current directory.

Examples:
  vianet lab up --dir /tmp/lab --engine embedded
  export VIANET_CONFIG=/tmp/lab/client.toml PGPASSWORD=app
  vianet run -- psql -h sales.lab -U app
  vianet lab kill node-a            node-b takes over
  vianet lab status
  vianet lab start node-a           node-a is back as the passive node
  vianet lab down")]
pub struct Args {
    /// The lab's directory.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object; a failure is one too, with `"ok": false`, and is still told on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a lab and write DIR/client.toml.
    ///
    /// Everything that is started is stopped by `vianet lab down`, also after a crash; Ctrl-C leaves nothing behind.
    /// A second lab at the same time needs another --dir and another --subnet.
    Up {
        /// The SQL servers: `embedded` needs nothing installed; `postgres` is a PostgreSQL primary with a synchronous
        /// standby; `postgres-shared` is one PostgreSQL behind both nodes, for quick takeovers.
        #[arg(long, value_enum, default_value = "embedded")]
        engine: Engine,
        /// Addresses 127.0.N.11 and 127.0.N.12 in place of 127.0.0.11 and 127.0.0.12.
        #[arg(long, default_value = "127.0.0", value_name = "127.0.N")]
        subnet: Subnet,
        /// How often the nodes ask each other, in milliseconds. More on a machine that is busy: a node that stands still
        /// for as long trusts itself no more.
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=10_000))]
        keepalive_ms: Option<u64>,
        /// Addresses of an RDMA device, on which node-a and node-b listen too; again for one more path, best first. Two of
        /// one device will do: `ip addr add` gives its interface a second one.
        #[arg(long, value_name = "ADDR_A,ADDR_B")]
        rdma: Vec<RdmaPath>,
        /// Intervals and time limits N times as long, for a machine that is too slow or busy: an emulated one, say.
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
        patience: u32,
        /// Where PostgreSQL's programs are, in place of the newest that is installed.
        #[arg(long, value_name = "DIR")]
        pg_bin: Option<PathBuf>,
        /// Sessions that a SQL server takes at a time (PostgreSQL), and a node of one user.
        #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=20_000))]
        connections: u32,
        /// PostgreSQL asks nobody who comes through a node for a password. Only on a machine that is yours alone.
        #[arg(long)]
        trust: bool,
        /// PostgreSQL gets no extension `vianet`, even where it is installed.
        #[arg(long)]
        no_extension: bool,
        /// So many sessions may wait on the standby (PostgreSQL), and clients ask for it: moving them takes no login.
        #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20_000))]
        warm: u32,
    },
    /// Show what runs, what is fenced, and who is active. Exit status 1 if a server name has no active node.
    Status,
    /// Kill a node at once (SIGKILL), as when its machine loses power.
    Kill(Target),
    /// Freeze a node (SIGSTOP), as when its machine hangs.
    Freeze(Target),
    /// Let a frozen node go on. If it was fenced meanwhile, says so, with exit status 3.
    Thaw(Target),
    /// Start what does not run of a node. A PostgreSQL that was lost is rebuilt from the other node's.
    Start(Target),
    /// Stop everything and remove what `lab up` made.
    Down {
        /// Leave the files (logs, data) to be read.
        #[arg(long)]
        keep: bool,
    },
}

/// A node, or one part of it.
#[derive(clap::Args)]
struct Target {
    /// Which node.
    #[arg(value_enum, value_name = "NODE")]
    node: NodeName,
    /// Only its daemon, or only its SQL server.
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
}

impl Target {
    fn parts(&self) -> Vec<Part> {
        self.only.map_or(Part::ALL.to_vec(), |part| vec![part])
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    // The status is printed whether or not it is a failure.
    let json = args.json && !matches!(args.command, Command::Status);
    let outcome = carry_out(args);
    if let (Err(failure), true) = (&outcome, json) {
        let text = failure.to_string();
        println!("{}", serde_json::json!({"ok": false, "text": text}));
    }
    outcome
}

fn carry_out(args: Args) -> Outcome {
    if let Command::Up {
        engine,
        subnet,
        keepalive_ms,
        rdma,
        patience,
        pg_bin,
        connections,
        trust,
        no_extension,
        warm,
    } = args.command
    {
        let dir = args.dir.ok_or_else(|| {
            Failure::refused("where? `vianet lab up --dir DIR`, for example --dir /tmp/lab")
        })?;
        let plan = Plan {
            engine,
            subnet,
            keepalive_ms,
            rdma,
            patience,
            pg_bin,
            connections,
            trust,
            no_extension,
            warm,
        };
        let lab = up::up(&dir, plan, &Interrupt::install()?)?;
        status::print_up(&lab, args.json);
        return Ok(());
    }
    let lab = Lab::open(&directory(args.dir))?;
    if let Command::Status = args.command {
        return status::run(&lab, args.json);
    }
    let _lock = Lab::lock(&lab.dir)?;
    let done = match args.command {
        Command::Kill(target) => nodes::kill(&lab, target.node, &target.parts()),
        Command::Freeze(target) => nodes::freeze(&lab, target.node, &target.parts()),
        Command::Thaw(target) => nodes::thaw(&lab, target.node, &target.parts()),
        Command::Start(target) => nodes::start(&lab, target.node, &target.parts()),
        Command::Down { keep } => {
            down::remove(&lab, keep)?;
            Ok(format!("the lab in {} is stopped", lab.dir.display()))
        }
        Command::Up { .. } | Command::Status => unreachable!("handled above"),
    }?;
    match args.json {
        true => println!("{}", serde_json::json!({"ok": true, "text": done})),
        false => println!("{done}"),
    }
    Ok(())
}

/// Kills a node by name: its daemon and its SQL server. Gives the sentence to print.
pub fn kill_node(lab: &Lab, node: &str) -> Outcome<String> {
    let node = NodeName::ALL.into_iter().find(|n| n.name() == node);
    let node = node.ok_or_else(|| Failure::failed("the active node is none of the lab's"))?;
    nodes::kill(lab, node, &Part::ALL)
}

/// The lab that is meant where none is named.
fn directory(given: Option<PathBuf>) -> PathBuf {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    let beside_config = || {
        let dir = set("VIANET_CONFIG")?.parent()?.to_owned();
        dir.join("lab.json").exists().then_some(dir)
    };
    given
        .or_else(|| set("VIANET_LAB_DIR"))
        .or_else(beside_config)
        .unwrap_or_else(|| PathBuf::from("."))
}
