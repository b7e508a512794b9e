//! `vianet`: run programs against clusters by server name, look at clusters, and play with one on this machine.
//!
//! One module per subcommand; each has its arguments (`Args`, a clap struct whose doc comments are the manual) and a
//! function `run`. Exit codes are the same everywhere, see [`failure`].

#[macro_use]
mod output;

mod bench;
mod control;
mod demo;
mod doctor;
mod failure;
mod keygen;
mod lab;
mod node;
mod resolve;
mod run;
mod status;
mod switchover;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// SQL connections by server name that follow the name to the second server.
///
/// A name is `cluster\server` (SQL Server's form), `server.cluster` (safe as a host name), or an alias from the
/// configuration file. The file is `$VIANET_CONFIG`, else `$XDG_CONFIG_HOME/vianet/client.toml` (`~/.config` where that is
/// not set), else `/etc/vianet/client.toml`.
#[derive(Parser)]
#[command(name = "vianet", version, arg_required_else_help = true, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  vianet demo                                    see a failover happen, no database needed
  vianet lab up --dir /tmp/lab --engine embedded a cluster of two nodes on this machine
  export VIANET_CONFIG=/tmp/lab/client.toml
  vianet doctor                                  what this machine can do, and why not more
  vianet resolve sales.lab                       who serves the name now
  vianet run -- psql 'host=sales.lab user=app dbname=app'
  vianet lab kill --dir /tmp/lab node-a          lose the active node
  vianet lab down --dir /tmp/lab

Exit status:
  0  done
  1  failed: the last line on standard error says what and what to do
  2  the command line was not understood
  3  refused: the thing is not in a state in which this can be done (no lab there, node fenced, ...)";

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Resolve(resolve::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Keygen(keygen::Args),
    Lab(lab::Args),
    #[command(name = "lab-server", hide = true)]
    LabServer(lab::server::Args),
    #[command(name = "lab-hook", hide = true)]
    LabHook(lab::hooks::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Node(node::Args),
    Switchover(switchover::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Resolve(args) => resolve::run(args),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Keygen(args) => keygen::run(args),
        Command::Lab(args) => lab::run(args),
        Command::LabServer(args) => lab::server::run(args),
        Command::LabHook(args) => lab::hooks::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Node(args) => node::run(args),
        Command::Switchover(args) => switchover::run(args),
    };
    match outcome.and_then(|()| output::check()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vianet: {failure}");
            failure.exit_code()
        }
    }
}
