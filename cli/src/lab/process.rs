//! Processes of a lab: started detached, remembered by id *and* start time, so that a process that got a reused id is
//! never touched.
//!
//! Every process also carries the lab's id in its environment: what was started and not yet written down when
//! `vianet lab` itself was killed is found by it.

use crate::failure::{Doing, Failure, Outcome};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The environment variable with the lab's id.
pub const MARK: &str = "VIANET_LAB_ID";

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    start: u64,
}

/// What a process does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs, or could.
    Running,
    /// It was stopped by a signal.
    Frozen,
    /// It is no more.
    Dead,
}

impl Process {
    /// The process that has this id now.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).filter(Stat::alive).map(|s| s.process)
    }

    /// Reads what [`Process::remember`] wrote.
    pub fn recall(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }

    /// Writes id and start time to `path`.
    pub fn remember(&self, path: &Path) -> Outcome {
        write_atomically(path, &format!("{} {}\n", self.pid, self.start))
    }

    /// What it does now.
    pub fn life(&self) -> Life {
        match Stat::read(self.pid).filter(|s| s.process == *self) {
            Some(stat) if matches!(stat.state, 'T' | 't') => Life::Frozen,
            Some(stat) if stat.alive() => Life::Running,
            _ => Life::Dead,
        }
    }

    /// Sends a signal, unless it is dead.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // The descriptor keeps the id from being reused between the look at the start time and the signal.
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if self.life() != Life::Dead {
            // Fails only if it has just ended.
            let _ = pidfd_send_signal(fd, signal);
        }
    }

    /// The process and everything below it.
    pub fn tree(&self) -> Vec<Self> {
        let mut tree = vec![*self];
        if self.life() == Life::Dead {
            return tree;
        }
        let all: Vec<Stat> = every_pid().filter_map(Stat::read).collect();
        let mut at = 0;
        while let Some(parent) = tree.get(at).map(|p| p.pid) {
            tree.extend(all.iter().filter(|s| s.parent == parent).map(|s| s.process));
            at += 1;
        }
        tree
    }

    /// Kills it and everything below it, and waits until all are dead.
    pub fn kill(&self) -> Outcome {
        kill_all(&[*self])
    }

    /// Asks it to end with `signal`; kills it if it has not after `limit`, or if it is frozen.
    pub fn end(&self, signal: Signal, limit: Duration) -> Outcome {
        if self.life() == Life::Running {
            self.signal(signal);
            if self.wait(limit) {
                return Ok(());
            }
        }
        self.kill()
    }

    /// Whether it is dead within `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        self.wait_until(limit, |life| life == Life::Dead)
    }

    /// Stops it with everything below it, or lets all of that go on; the signal takes effect after a moment.
    pub fn freeze(&self, freeze: bool) {
        let (signal, other) = match freeze {
            true => (Signal::STOP, Life::Running),
            false => (Signal::CONT, Life::Frozen),
        };
        // What is to be stopped is stopped before its children are counted.
        self.signal(signal);
        for process in self.tree() {
            process.signal(signal);
            // One that takes longer is seen by whoever looks next.
            let _ = process.wait_until(Duration::from_secs(5), |life| life != other);
        }
    }

    fn wait_until(&self, limit: Duration, reached: impl Fn(Life) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while !reached(self.life()) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// Kills all of them with everything below them, at once as a loss of power does, and waits until all are dead.
pub fn kill_all(processes: &[Process]) -> Outcome {
    // Stopped first, so that none starts anything, or acts on another's death, while their children are counted.
    for process in processes {
        process.signal(Signal::STOP);
    }
    let all: Vec<Process> = processes.iter().flat_map(Process::tree).collect();
    for process in &all {
        process.signal(Signal::KILL);
    }
    for process in &all {
        if !process.wait(Duration::from_secs(10)) {
            let text = format!("process {} does not end after SIGKILL", process.pid);
            return Err(Failure::failed(text));
        }
    }
    Ok(())
}

/// Every process of the lab with this id, this one excepted.
pub fn marked(id: &str) -> Vec<Process> {
    let own = std::process::id() as i32;
    let mark = format!("{MARK}={id}");
    let has_mark = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == mark.as_bytes())
    };
    every_pid()
        .filter(|pid| *pid != own && has_mark(pid))
        .filter_map(Process::of)
        .collect()
}

/// Whether the user asked to stop (Ctrl-C, SIGTERM, SIGHUP).
#[derive(Clone, Default)]
pub struct Interrupt(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Interrupt {
    /// From now on those signals only set this flag.
    pub fn install() -> Outcome<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let this = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, this.0.clone()).doing(|| "signal handler")?;
        }
        Ok(this)
    }

    /// Fails once one came.
    pub fn check(&self) -> Outcome {
        match self.0.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(Failure::with_code(130, "interrupted")),
            false => Ok(()),
        }
    }
}

/// Writes a file so that a reader sees the old or the new one.
pub fn write_atomically(path: &Path, text: &str) -> Outcome {
    let fresh = path.with_extension(format!("new{}", std::process::id()));
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .doing(|| format!("writing {}", path.display()))
}

struct Stat {
    process: Process,
    parent: i32,
    state: char,
    threads: u32,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        // The second field is the program's name in parentheses and may contain anything.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(Self {
            process: Process {
                pid,
                start: fields.get(19)?.parse().ok()?,
            },
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            threads: fields.get(17)?.parse().ok()?,
        })
    }

    fn alive(&self) -> bool {
        // The state is that of the first thread. While another one is there, so are the descriptors.
        !matches!(self.state, 'Z' | 'X' | 'x') || self.threads > 1
    }
}

fn every_pid() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
