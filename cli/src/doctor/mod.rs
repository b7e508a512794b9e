//! `vianet doctor`: what this machine can do, and why not more.
//!
//! Every check ends in a [`Finding`]; nothing that is missing is an error of the command. Modules: `client` (configuration,
//! kill switch, clusters), `transports`, `rdma` (devices and limits), `round_trip` (through the provider).

mod addresses;
mod client;
mod rdma;
mod round_trip;
mod transports;

pub use addresses::of_device;

use crate::failure::{Failure, Outcome};
use serde::Serialize;
use std::path::PathBuf;

/// Say what this machine can do: configuration, clusters, transports, and why not more.
///
/// Looks for the configuration, asks every node of every cluster, and says of each transport whether it can be used here,
/// and else why not and what to do. What is merely not there (no node daemon, no RDMA device, no libibverbs) is no fault:
/// connections use the next transport.
///
/// With --rdma also: devices, ports and limits, locked memory, and for every address of a device a round trip through the
/// provider, from this process to itself.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vianet doctor
  vianet doctor --rdma
  vianet doctor --json | jq '.findings[] | select(.state == \"wrong\")'

Exit status: 0 nothing is wrong (what is absent is not wrong), else 1.")]
pub struct Args {
    /// Look closely at RDMA: devices, ports, limits, a round trip over each.
    #[arg(long)]
    rdma: bool,
    /// The client's configuration; default: the usual places (see `vianet --help`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// Not there, which is normal on many machines.
    Absent,
    /// Configured or there, and does not work.
    Wrong,
}

/// What one check found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Under which heading.
    pub section: String,
    /// What was looked at.
    pub subject: String,
    /// How it ended.
    pub state: State,
    /// What was found; for [`State::Absent`] and [`State::Wrong`] the reason.
    pub says: String,
    /// What can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(section: &str, subject: &str, state: State, says: impl Into<String>) -> Self {
        Self {
            section: section.into(),
            subject: subject.into(),
            state,
            says: says.into(),
            remedy: None,
        }
    }

    fn good(section: &str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(section, subject, State::Good, says)
    }

    fn absent(section: &str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(section, subject, State::Absent, says)
    }

    fn wrong(section: &str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(section, subject, State::Wrong, says)
    }

    fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }
}

/// Everything that was found.
#[derive(Serialize)]
struct Report {
    /// No finding is wrong.
    well: bool,
    findings: Vec<Finding>,
    /// With --rdma.
    #[serde(skip_serializing_if = "Option::is_none")]
    rdma: Option<rdma::Details>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let (mut findings, config) = client::look(args.config);
    findings.extend(transports::look(config.as_ref()));
    let rdma = args.rdma.then(rdma::look);
    let rdma = rdma.map(|(found, details)| {
        findings.extend(found);
        details
    });
    let wrong = findings.iter().filter(|f| f.state == State::Wrong).count();
    let report = Report {
        well: wrong == 0,
        findings,
        rdma,
    };
    match args.json {
        true => println!(
            "{}",
            serde_json::to_string(&report).expect("numbers and texts only")
        ),
        false => print(&report.findings),
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::failed("1 thing is wrong, see above")),
        n => Err(Failure::failed(format!("{n} things are wrong, see above"))),
    }
}

fn print(findings: &[Finding]) {
    let mut section = "";
    for finding in findings {
        if finding.section != section {
            println!(
                "{}{}",
                if section.is_empty() { "" } else { "\n" },
                finding.section
            );
            section = &finding.section;
        }
        let mark = match finding.state {
            State::Good => ' ',
            State::Absent => '-',
            State::Wrong => '!',
        };
        println!("{mark} {:<18} {}", finding.subject, finding.says);
        if let Some(remedy) = &finding.remedy {
            println!("  {:<18} -> {remedy}", "");
        }
    }
}
