//! `vianet node`: an operator's commands to one node daemon, over its control socket.

use crate::control;
use crate::failure::Outcome;
use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;
use vianet_node::control::Request;

/// Command a node daemon on this machine.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vianet node --control /run/vianet/node-b.ctl resign sales          to the other node, at once
  vianet node --control /run/vianet/node-b.ctl force-active sales    whatever the other node says")]
pub struct Args {
    /// The daemon's control socket: `<shm_dir>/<node>.ctl`.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Become active for a name now, whatever the peer says: fence, promote, a generation above every one seen.
    ///
    /// The way out when a partition, or a generation from the far future, blocks the cluster. Where the other node is
    /// alive and the fence hook does not stop its SQL server, two servers accept writes: look first.
    ForceActive {
        /// The server name.
        server: String,
    },
    /// Stop being active for a name: the peer takes over at once, whatever the sessions do (see `vianet switchover`).
    Resign {
        /// The server name.
        server: String,
    },
    /// Stop the daemon in good order.
    Stop,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let request = match args.command {
        Command::ForceActive { server } => Request::ForceActive { server },
        Command::Resign { server } => Request::Resign { server },
        Command::Stop => Request::Stop,
    };
    control::ask(&args.control, &request, Duration::from_secs(5))?;
    println!(
        "taken; `vianet status --control {}` shows the effect",
        args.control.display()
    );
    Ok(())
}
