//! Processor time of a process, in nanoseconds as the scheduler counts it.

use std::fs;
use std::time::Duration;

/// What all threads of `pid` have used so far.
pub fn of(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let used = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

/// What this process and `other` have used so far.
pub fn of_both(other: u32) -> Duration {
    of(std::process::id()) + of(other)
}
