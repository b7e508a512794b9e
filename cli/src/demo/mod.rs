//! `vianet demo`: a failover as a user sees it, with a verdict.
//!
//! A lab is started in a temporary directory; a client connects by server name through the library and writes rows
//! without pause; the active node is killed; what the library does is shown as it happens. Then the rows are counted.

mod client;
mod story;
mod work;

use crate::failure::{Doing, Failure, Outcome};
use crate::lab::layout::{Engine, Lab, Subnet};
use crate::lab::process::Interrupt;
use crate::lab::{kill_node, remove, up};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use story::{Entry, Story};
use work::Work;

/// How long rows are written before the active node is killed.
const BEFORE: Duration = Duration::from_secs(2);
/// The demo ends by itself within this time after the lab stands.
const LIMIT: Duration = Duration::from_secs(40);

/// See a failover happen: rows are written by name, the active node is killed, nothing is lost.
///
/// Starts a cluster of two nodes on this machine, writes rows without pause over one name, kills the node that serves
/// it, and shows what was detected, asked, answered and connected, with times in milliseconds since the kill. Ends with
/// a verdict: how long no row was acknowledged, and how many acknowledged rows are lost or there twice. Everything is
/// stopped and removed at the end, on Ctrl-C too.
#[derive(clap::Args)]
#[command(after_help = "\
Exit status: 0 if nothing is lost and nothing there twice, else 1.

Examples:
  vianet demo
  vianet demo --engine postgres        needs PostgreSQL (Debian: postgresql)")]
pub struct Args {
    /// The SQL servers: `embedded` needs nothing installed; `postgres` is a primary with a synchronous standby.
    #[arg(long, value_enum, default_value = "embedded")]
    engine: Engine,
    /// Use 127.0.N.11 and 127.0.N.12; default: the first N whose ports are free.
    #[arg(long, value_name = "127.0.N")]
    subnet: Option<Subnet>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let stop = Interrupt::install()?;
    let dir = tempfile::Builder::new()
        .prefix("vianet-demo-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .doing(|| "a temporary directory")?;
    let subnet = match args.subnet {
        Some(subnet) => subnet,
        None => up::free_subnet(args.engine)?,
    };
    println!(
        "Starting a cluster of two nodes on this machine, engine {}.",
        args.engine.name()
    );
    let started = Instant::now();
    let lab = Started(up::up(
        dir.path(),
        up::Plan::new(args.engine, subnet),
        &stop,
    )?);
    println!("It stands after {} ms.\n", started.elapsed().as_millis());
    let verdict = perform(&lab.0, &stop).or_else(|failure| {
        stop.check()?;
        Err(failure)
    })?;
    print!("{verdict}");
    match verdict.good() {
        true => Ok(()),
        false => Err(Failure::failed("the verdict is bad")),
    }
}

/// The lab ends with the demo, however that ends.
struct Started(Lab);

impl Drop for Started {
    fn drop(&mut self) {
        if let Err(failure) = remove(&self.0, false) {
            eprintln!("vianet: {failure}");
        }
    }
}

/// Lets a client write, kills the node that it writes to, and tells what comes.
fn perform(lab: &Lab, stop: &Interrupt) -> Outcome<work::Verdict> {
    let (entries, inbox) = mpsc::channel();
    story::listen(&entries);
    let work = Work::new(lab, entries.clone());
    let worker = std::thread::spawn(move || {
        let result = work.run();
        let _ = entries.send(Entry::end(result));
    });
    let mut story = Story::default();
    let started = Instant::now();
    let mut killed = false;
    loop {
        match inbox.recv_timeout(Duration::from_millis(20)) {
            Ok(entry) => {
                if let Some(result) = story.tell(entry) {
                    // The thread has nothing left to do.
                    let _ = worker.join();
                    return result;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::failed("the demo's client ended without a word"));
            }
        }
        stop.check()?;
        if let (false, Some((node, since))) = (killed, story.connected())
            && since.elapsed() > BEFORE
        {
            killed = true;
            let at = Instant::now();
            let text = kill_node(lab, &node)?;
            story.kill(at, &text);
        }
        if started.elapsed() > LIMIT {
            let text = format!("the demo did not end within {} s", LIMIT.as_secs());
            return Err(Failure::failed(text));
        }
    }
}
