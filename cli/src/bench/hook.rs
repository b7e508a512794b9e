//! What the preload library costs a program that has nothing to do with it: one cheap call, with and without.

use super::report::{Metric, Samples};
use crate::failure::{Doing, Failure, Outcome};
use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const CALLS: u32 = 200_000;
const BATCHES: u32 = 5;

/// `read` on a descriptor that is not ours: nanoseconds a call under the preload library against without it.
pub fn passthrough(preload: &Path, turns: u32) -> Outcome<Metric> {
    let (mut with, mut without) = (Samples::default(), Samples::default());
    for _ in 0..turns {
        measure(Some(preload), &mut with)?;
        measure(None, &mut without)?;
    }
    Ok(Metric::compare(
        "hook_passthrough_ns",
        "ns",
        "the same read(2) without the preload library",
        with,
        Some(without),
    ))
}

fn measure(preload: Option<&Path>, into: &mut Samples) -> Outcome {
    let exe = std::env::current_exe().doing(|| "finding this program")?;
    let mut command = Command::new(exe);
    command
        .args(["bench", "--hook-loop"])
        .env_remove("LD_PRELOAD")
        .env_remove("VIANET_DISABLE");
    if let Some(path) = preload {
        command.env("LD_PRELOAD", path);
    }
    let output = command.output().doing(|| "running the hook loop")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.is_empty() {
        return Err(Failure::failed("the hook loop gave no figures"));
    }
    for line in text.lines() {
        into.add(line.parse().doing(|| format!("reading {line:?}"))?);
    }
    Ok(())
}

/// The loop itself, in a process of its own: prints nanoseconds a call, a line per batch.
pub fn run_loop() -> Outcome {
    let file = File::open("/dev/null").doing(|| "opening /dev/null")?;
    let fd = file.as_raw_fd();
    let mut byte = 0_u8;
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: one byte of `byte` is writable and lives through the call; the libc symbol is meant, since that is
            // what the preload library takes the place of.
            black_box(unsafe { libc::read(black_box(fd), (&raw mut byte).cast(), 1) });
        }
        println!(
            "{:.2}",
            start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
        );
    }
    Ok(())
}
