//! `vianet bench`: measures this machine, ours beside the alternative in the same run and in turns.
//!
//! Figures are medians; p99 beside them. One absolute figure of a shared machine says little: read the ratios.

mod cpu;
mod daemon;
mod floors;
mod hook;
mod peer;
mod pipe;
mod rdma;
mod report;
mod transfer;
mod work;

use crate::failure::{Doing, Failure, Outcome};
use daemon::Loss;
use peer::Over;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use transfer::Effort;
use vianet::via::Transport;

/// The metrics, in the order in which they are measured.
pub const METRICS: [&str; 13] = [
    "rtt64_shm",
    "rtt64_tcp",
    "rtt64_tls",
    "stream64k_shm",
    "stream64k_tcp",
    "stream64k_tls",
    "hook_passthrough_ns",
    "detect_killed_ms",
    "detect_frozen_ms",
    "rtt64_relay_shm",
    "rtt64_relay_tcp",
    "idle100_cpu_ms_shm",
    "idle100_cpu_ms_tcp",
];

/// Measure round trips, streams and failure detection on this machine.
///
/// Everything runs on loopback, in processes that the command starts and stops itself. Each metric is measured in turns
/// with its alternative (kernel TCP over loopback, a plain TCP relay, the same program without the preload library) and
/// printed with median, ratio, 99th percentile and processor time. Streams: larger is better; everything else: smaller.
/// Where a metric has a floor, the report says whether it is reached. 100 idle connections are compared with one.
///
/// With --rdma, measures vianet over that RDMA device instead, beside rsockets (librspreload.so), TCP, AF_SMC, and the
/// device itself (perftest's ib_write_lat and ib_write_bw); processor time is then that of the whole machine.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line per metric.
    #[arg(long)]
    json: bool,
    /// Only these metrics (repeat the option); default all.
    #[arg(long, value_name = "METRIC", value_parser = clap::builder::PossibleValuesParser::new(METRICS))]
    only: Vec<String>,
    /// A tenth of the work: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Exit status 1 if a metric is below its floor.
    #[arg(long, conflicts_with = "rdma")]
    check: bool,
    /// Measure over this RDMA device, such as rxe0 (repeat the option).
    #[arg(long, value_name = "DEVICE", conflicts_with = "only")]
    rdma: Vec<String>,
    /// With --rdma: an address of this machine over which AF_SMC works.
    #[arg(long, value_name = "ADDRESS", requires = "rdma")]
    smc: Option<IpAddr>,
    #[arg(long, hide = true, num_args = 3, allow_hyphen_values = true)]
    rdma_end: Vec<String>,
    #[arg(long, hide = true)]
    peer_in: Option<PathBuf>,
    #[arg(long, hide = true)]
    hook_loop: bool,
    #[arg(long, hide = true, num_args = 2)]
    relay: Vec<SocketAddr>,
}

/// Runs the subcommand, or one of the processes that it consists of.
pub fn run(args: Args) -> Outcome {
    if let Some(dir) = &args.peer_in {
        return peer::run(dir);
    }
    if args.hook_loop {
        return hook::run_loop();
    }
    if let [listen, to] = args.relay[..] {
        return daemon::run_relay(listen, to);
    }
    if let [role, carrier, address] = &args.rdma_end[..] {
        return rdma::run_end(role, carrier, address);
    }
    if !args.rdma.is_empty() {
        return rdma::run(&args.rdma, args.smc, args.quick, args.json);
    }
    let dir = tempfile::Builder::new()
        .prefix("vianet-bench-")
        .tempdir()
        .doing(|| "making a directory")?;
    clean_up_on_signals(dir.path())?;
    let peer = peer::Peer::start(dir.path())?;
    let share = if args.quick { 10 } else { 1 };
    let effort = Effort {
        turns: if args.quick { 3 } else { 15 },
        trips: 10_000 / share,
        stream_bytes: (512 << 20) / u64::from(share),
    };
    if !args.json {
        report::heading();
    }
    let (mut failed, mut below) = (Vec::new(), Vec::new());
    for metric in METRICS
        .into_iter()
        .filter(|m| args.only.is_empty() || args.only.iter().any(|o| o == m))
    {
        match measure(metric, effort, dir.path(), &peer) {
            Ok(measured) => {
                measured.print(args.json);
                below.extend((measured.ok == Some(false)).then_some(metric));
            }
            Err(failure) => {
                eprintln!("vianet bench: {metric}: {failure}");
                failed.push(metric);
            }
        }
    }
    if !failed.is_empty() {
        let text = format!("not measured: {}", failed.join(", "));
        return Err(Failure::failed(text));
    }
    if args.check && !below.is_empty() {
        let text = format!("below the floor: {}", below.join(", "));
        return Err(Failure::failed(text));
    }
    Ok(())
}

fn measure(
    metric: &'static str,
    effort: Effort,
    dir: &std::path::Path,
    peer: &peer::Peer,
) -> Outcome<report::Metric> {
    let few = effort.turns.min(6);
    match metric {
        "rtt64_shm" => transfer::round_trip(metric, Over::Shm, effort, peer),
        "rtt64_tcp" => transfer::round_trip(metric, Over::Tcp, effort, peer),
        "rtt64_tls" => transfer::round_trip(metric, Over::Tls, effort, peer),
        "stream64k_shm" => transfer::stream(metric, Over::Shm, effort, peer),
        "stream64k_tcp" => transfer::stream(metric, Over::Tcp, effort, peer),
        "stream64k_tls" => transfer::stream(metric, Over::Tls, effort, peer),
        "hook_passthrough_ns" => hook::passthrough(&crate::run::library()?, effort.turns),
        "detect_killed_ms" => daemon::noticed(metric, Loss::Killed, few, dir, peer),
        "detect_frozen_ms" => daemon::noticed(metric, Loss::Frozen, few, dir, peer),
        "rtt64_relay_shm" => daemon::relayed(metric, Transport::Shm, effort, dir, peer),
        "rtt64_relay_tcp" => daemon::relayed(metric, Transport::Tcp, effort, dir, peer),
        "idle100_cpu_ms_shm" => daemon::idle(metric, Transport::Shm, dir, peer),
        "idle100_cpu_ms_tcp" => daemon::idle(metric, Transport::Tcp, dir, peer),
        _ => Err(Failure::failed(format!("no such metric: {metric}"))),
    }
}

/// Ctrl-C leaves no files behind. (The processes end with this one: [`tie`], and the peer at the end of its input.)
fn clean_up_on_signals(dir: &std::path::Path) -> Outcome {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).doing(|| "signals")?;
    let dir = dir.to_owned();
    let wait = move || {
        if signals.forever().next().is_some() {
            let _ = std::fs::remove_dir_all(dir);
            eprintln!("vianet: interrupted");
            std::process::exit(130);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(wait).map(drop).doing(|| "a thread")
}

/// The program ends when this one does, however that is: the kernel kills it, also if it is frozen.
fn tie(command: &mut Command) -> &mut Command {
    // SAFETY: a system call, which may be made between fork and exec; no memory is touched.
    unsafe {
        command.pre_exec(|| {
            let kill = Some(rustix::process::Signal::KILL);
            Ok(rustix::process::set_parent_process_death_signal(kill)?)
        })
    }
}

/// A program of ours in the same directory as this one.
fn sibling(name: &str) -> Outcome<PathBuf> {
    let path = std::env::current_exe()
        .doing(|| "finding this program")?
        .with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(Failure::failed(format!(
        "{} is missing: build the whole workspace",
        path.display()
    )))
}
