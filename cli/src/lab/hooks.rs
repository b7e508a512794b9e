//! `vianet lab-hook`: what the lab's node daemons run as their hooks.

use super::layout::{Engine, Lab, NodeName, Part};
use super::process::{Life, write_atomically};
use super::{embedded, postgres};
use crate::failure::Outcome;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// A hook of the lab's node daemons (not run by hand).
#[derive(clap::Args)]
pub struct Args {
    /// Which.
    #[arg(value_enum)]
    hook: Hook,
    /// The lab.
    #[arg(long)]
    dir: PathBuf,
    /// On which node.
    #[arg(long, value_enum)]
    node: NodeName,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Hook {
    Fence,
    Promote,
    Demote,
    Ready,
    Health,
    Rejoin,
}

/// Runs the hook.
pub fn run(args: Args) -> Outcome {
    let lab = Lab::open(&args.dir)?;
    let node = args.node;
    match (args.hook, lab.meta.engine) {
        (Hook::Fence, Engine::PostgresShared) => fence_sessions(&lab, node),
        (Hook::Fence, _) => fence(&lab, node),
        (Hook::Promote, Engine::Embedded) => embedded::promote(&lab, node),
        (Hook::Promote, Engine::Postgres) => postgres::promote(&lab, node),
        (Hook::Demote, Engine::Embedded) => embedded::demote(&lab, node),
        // For any other reason the other node's fence hook ends it at once.
        (Hook::Demote, Engine::Postgres) if is_switchover() => postgres::demote(&lab, node),
        (Hook::Ready, Engine::Embedded) => embedded::ready(&lab, node),
        (Hook::Ready, Engine::Postgres) => postgres::ready(&lab, node),
        (Hook::Rejoin, Engine::Postgres) => postgres::rejoin(&lab, node),
        (Hook::Health, Engine::Embedded) => embedded::health(&lab, node),
        (Hook::Health, Engine::Postgres) => postgres::health(&lab, node),
        // The fence has done it already, where it ran.
        (Hook::Promote, Engine::PostgresShared) if began_by_start() => postgres::end_sessions(&lab),
        // A shared server goes on.
        (Hook::Demote | Hook::Promote | Hook::Ready | Hook::Rejoin | Hook::Health, _) => Ok(()),
    }
}

fn is_switchover() -> bool {
    std::env::var("VIANET_REASON").is_ok_and(|reason| reason == "switchover")
}

/// The peer has left its role by itself, and is no node that stands still.
fn peer_resigned() -> bool {
    std::env::var("VIANET_REASON").is_ok_and(|reason| reason == "peer-resigned")
}

/// Kills the SQL server of the other node: running, frozen or halfway through a write, it writes no more.
fn fence(lab: &Lab, node: NodeName) -> Outcome {
    let other = node.other();
    if lab.meta.engine == Engine::Postgres {
        postgres::check_promotable(lab, node)?;
    }
    if lab.meta.engine == Engine::Embedded
        && peer_resigned()
        && embedded::demote(lab, other).is_ok()
    {
        println!("{} stands by", other.name());
        return Ok(());
    }
    let Some(process) = lab.process(other, Part::Server) else {
        return Ok(());
    };
    let life = process.life();
    process.kill()?;
    if life != Life::Dead {
        Fenced::write(lab, node)?;
    }
    println!("fenced {}: its SQL server was {life:?}", other.name());
    Ok(())
}

/// Whether the daemon has just been started.
fn began_by_start() -> bool {
    std::env::var_os("VIANET_REASON").is_some_and(|reason| reason == "start")
}

/// Ends what the relays have open at the shared SQL server. A node that runs, or is dead, needs no word about it: the first
/// knows, the second begins anew.
fn fence_sessions(lab: &Lab, node: NodeName) -> Outcome {
    let other = node.other();
    postgres::end_sessions(lab)?;
    if lab.life(other, Part::Daemon) == Life::Frozen {
        Fenced::write(lab, node)?;
    }
    Ok(())
}

/// Who fenced a node, and when.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fenced {
    /// The node that took over.
    pub by: String,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

impl Fenced {
    /// The note about `node`, where it was fenced and not started since.
    pub fn of(lab: &Lab, node: NodeName) -> Option<Self> {
        let text = std::fs::read(lab.fenced_file(node)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes that `by` fenced the other node now.
    fn write(lab: &Lab, by: NodeName) -> Outcome {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let note = Self {
            by: by.name().into(),
            at_ms: now.as_millis() as u64,
        };
        let text = serde_json::to_string(&note).expect("strings and numbers have a JSON form");
        write_atomically(&lab.fenced_file(by.other()), &text)
    }

    /// What of a node is fenced: what the other one's hook has hit.
    pub fn part(lab: &Lab) -> Part {
        match lab.meta.engine {
            Engine::PostgresShared => Part::Daemon,
            Engine::Embedded | Engine::Postgres => Part::Server,
        }
    }

    /// How long ago.
    pub fn seconds_ago(&self) -> u64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        (now.as_millis() as u64).saturating_sub(self.at_ms) / 1000
    }
}
