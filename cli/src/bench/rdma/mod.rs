//! `vianet bench --rdma DEVICE`: vianet over an RDMA device beside rsockets, AF_SMC, TCP, and the device itself.
//!
//! Each carrier has two processes of this program, which do the same work by the same calls: vianet by name, the others by
//! the C library's sockets, for rsockets with librspreload.so. The processes take turns, and only ratios mean anything.

mod end;
mod floor;
mod pipes;
mod process;
mod report;

pub use end::run as run_end;

use crate::doctor::of_device;
use crate::failure::{Doing, Failure, Outcome};
use process::Ends;
use report::{Row, Table};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// This library, over its rdma provider.
    Vianet,
    /// librdmacm's sockets, by its preload library.
    Rsockets,
    /// The kernel's SMC-R.
    Smc,
    /// The kernel's TCP.
    Tcp,
}

impl Carrier {
    /// On the command line of a process.
    fn word(self) -> &'static str {
        match self {
            Self::Vianet => "vianet",
            Self::Rsockets => "rsockets",
            Self::Smc => "smc",
            Self::Tcp => "tcp",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Vianet => "vianet",
            Self::Rsockets => "rsockets",
            Self::Smc => "AF_SMC",
            Self::Tcp => "TCP",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Messages of so many bytes there and back.
    Trips(usize),
    /// Messages of so many bytes, one after the other.
    Stream(usize),
}

/// In the order in which they are measured.
const WORKS: [Work; 4] = [
    Work::Trips(64),
    Work::Trips(4096),
    Work::Trips(65536),
    Work::Stream(65536),
];

/// Measures over each of `devices`; AF_SMC over the address `smc`, if there is one.
pub fn run(devices: &[String], smc: Option<IpAddr>, quick: bool, json: bool) -> Outcome {
    let turns = if quick { 2 } else { 6 };
    let turn = Duration::from_millis(if quick { 300 } else { 1500 });
    let mut goals = Vec::new();
    for device in devices {
        let address = of_device(device)?;
        let table = measure(device, address, smc, turns, turn)?;
        match json {
            true => table.print_json(),
            false => table.print(),
        }
        goals.extend(table.goals());
    }
    for goal in &goals {
        match json {
            true => goal.print_json(),
            false => goal.print(),
        }
    }
    Ok(())
}

fn measure(
    device: &str,
    address: IpAddr,
    smc: Option<IpAddr>,
    turns: u32,
    turn: Duration,
) -> Outcome<Table> {
    let mut table = Table::new(device, address);
    let mut ends = vec![(
        Carrier::Vianet,
        Ends::start(Carrier::Vianet, address, None)?,
    )];
    let mut alternative =
        |carrier, address: Option<IpAddr>, preload: Result<Option<&Path>, String>| {
            let started = match (address, preload) {
                (None, _) => Err("no address was given: --smc".into()),
                (_, Err(why)) => Err(why),
                (Some(address), Ok(preload)) => start(carrier, address, preload),
            };
            match started {
                Ok(started) => ends.push((carrier, started)),
                Err(why) => table.note(format!("{} is not measured: {why}", carrier.name())),
            }
        };
    let rsockets = rspreload();
    alternative(
        Carrier::Rsockets,
        Some(address),
        rsockets
            .as_deref()
            .map(Some)
            .ok_or("librspreload.so is not installed".into()),
    );
    alternative(Carrier::Smc, smc, Ok(None));
    alternative(Carrier::Tcp, Some(address), Ok(None));
    for work in WORKS {
        let mut rows: Vec<_> = ends
            .iter()
            .map(|(carrier, _)| Row::new(*carrier, work))
            .collect();
        // One turn that does not count.
        for (_, end) in &mut ends {
            end.turn(work, turn / 3)?;
        }
        for _ in 0..turns {
            for ((_, end), row) in ends.iter_mut().zip(&mut rows) {
                let before = busy()?;
                let done = end.turn(work, turn)?;
                row.add(done, busy()?.saturating_sub(before));
            }
        }
        table.add(rows);
    }
    drop(ends);
    for work in WORKS {
        match floor::measure(device, address, work) {
            Ok(floor) => table.floor(work, floor),
            Err(why) => {
                table.note(format!("the device itself is not measured: {why}"));
                break;
            }
        }
    }
    Ok(table)
}

/// Starts an alternative's processes. Its first connection may fail: rsockets over iWARP now and then ends one as it begins.
fn start(carrier: Carrier, address: IpAddr, preload: Option<&Path>) -> Result<Ends, String> {
    let mut why = String::new();
    for _ in 0..5 {
        match Ends::start(carrier, address, preload) {
            Ok(ends) => return Ok(ends),
            Err(failure) => why = failure.to_string(),
        }
    }
    Err(why)
}

/// Processor time that the whole machine has used: software devices work in the kernel's own threads.
fn busy() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/stat").doing(|| "/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .flat_map(str::parse)
        .collect();
    // user nice system idle iowait irq softirq
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        return Err(Failure::failed("/proc/stat is not understood"));
    };
    Ok(Duration::from_millis(
        (user + nice + system + irq + softirq) * 1000 / rustix::param::clock_ticks_per_second(),
    ))
}

/// Where the package of librdmacm puts it.
fn rspreload() -> Option<PathBuf> {
    let dirs = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
    let inside = dirs.iter().flat_map(fs::read_dir).flatten().flatten();
    let inside = inside.map(|entry| entry.path());
    let all = dirs.iter().map(PathBuf::from).chain(inside);
    all.map(|dir| dir.join("rsocket/librspreload.so"))
        .find(|file| file.is_file())
}
