//! Programs of the operator: an argument vector without a shell, a time limit, captured output.
//!
//! No hook outlives its daemon. A promote hook that goes on alone could make a SQL server writable after the other node
//! has fenced it; and whatever a hook has half done is done again, from the fence on, by the node that takes over next.
//! Every hook leads a process group; a daemon that ends kills the groups ([`end_all`]), and where it has no chance to,
//! the kernel kills their leaders. For the same reason the hooks of a takeover end with it ([`Permit::revoke`]).

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Bytes of output that are kept; the rest is read and thrown away.
const MAX_OUTPUT: usize = 4096;

/// The process groups of the hooks that run now, by their leaders.
static RUNNING: Mutex<BTreeMap<i32, Permit>> = Mutex::new(BTreeMap::new());
/// The daemon ends: no hook is started any more.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Leave to run, until it is revoked.
#[derive(Clone, Debug, Default)]
pub struct Permit {
    revoked: Arc<AtomicBool>,
}

impl Permit {
    /// Kills the hooks that run by it, and lets none start.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
        kill_forbidden(&RUNNING.lock());
    }

    fn holds(&self) -> bool {
        !self.revoked.load(Ordering::SeqCst) && !ENDED.load(Ordering::SeqCst)
    }
}

/// Kills the process groups of all hooks that run, and lets none start any more. For the end of the daemon; also from a
/// panic hook, where it gives up soon if it would have to wait.
pub fn end_all() {
    ENDED.store(true, Ordering::SeqCst);
    if let Some(running) = RUNNING.try_lock_for(Duration::from_secs(1)) {
        kill_forbidden(&running);
    }
}

fn kill_forbidden(running: &BTreeMap<i32, Permit>) {
    for (&group, _) in running.iter().filter(|(_, permit)| !permit.holds()) {
        if let Some(group) = Pid::from_raw(group) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Starts it as the leader of a group. Whoever forbids it meanwhile finds it in the table, or it finds that it is
/// forbidden; the lock is not held while the program is loaded, which can take as long as its disk.
fn start(command: &mut Command, permit: &Permit) -> io::Result<Child> {
    if !permit.holds() {
        return Err(io::Error::other("it is not wanted any more"));
    }
    let child = command.spawn()?;
    let mut running = RUNNING.lock();
    running.insert(child.id() as i32, permit.clone());
    kill_forbidden(&running);
    Ok(child)
}

/// Before the leader is reaped: until then nobody else can have the group's id.
fn forget(child: &Child) {
    RUNNING.lock().remove(&(child.id() as i32));
}

/// Between fork and exec: the kernel kills the program when the thread that started it (and waits for it) is gone.
fn die_with(daemon: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    match rustix::process::getppid() {
        Some(parent) if parent == daemon => Ok(()),
        // It was gone before we asked.
        _ => Err(rustix::io::Errno::SRCH.into()),
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status 0 within the limit.
    pub ok: bool,
    /// `exit status 1`, `killed by signal 9`, `time limit of 1000 ms`, `cannot be started: ...`
    pub ended: String,
    /// The first of what it wrote to standard output and standard error.
    pub output: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs `argv` and waits for it, at most `limit` and while `permit` holds; then its whole process group is killed.
pub fn run(argv: &[String], env: &[(&str, String)], limit: Duration, permit: &Permit) -> Outcome {
    let began = Instant::now();
    let outcome = |ok, ended: String, output: &[u8]| Outcome {
        ok,
        ended,
        output: String::from_utf8_lossy(output).trim().to_owned(),
        took: began.elapsed(),
    };
    let Some((program, args)) = argv.split_first() else {
        return outcome(true, "not configured".into(), b"");
    };
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let daemon = rustix::process::getpid();
    // SAFETY: system calls only, which may be made between fork and exec; no lock is taken, no memory allocated.
    unsafe {
        command.pre_exec(move || die_with(daemon));
    }
    let mut child = match start(&mut command, permit) {
        Ok(child) => child,
        Err(e) => return outcome(false, format!("{program} cannot be started: {e}"), b""),
    };
    let mut output = Vec::new();
    let in_time = follow(&mut child, &mut output, began + limit);
    if !in_time {
        // The group has the id of its leader, which is not reaped yet: nobody else can have it.
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    forget(&child);
    let ended = child.wait();
    match ended {
        _ if !in_time => outcome(
            false,
            format!("time limit of {} ms", limit.as_millis()),
            &output,
        ),
        Ok(status) => {
            let text = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => "ended".into(),
            };
            outcome(status.success(), text, &output)
        }
        Err(e) => outcome(false, format!("cannot be waited for: {e}"), &output),
    }
}

/// Reads its output until it exits (true) or until `deadline` (false). What its own children hold open is not waited
/// for: a hook may start a server.
fn follow(child: &mut Child, output: &mut Vec<u8>, deadline: Instant) -> bool {
    let Some(pidfd) =
        Pid::from_raw(child.id() as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return false;
    };
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return false;
    };
    let mut open = [true, true];
    loop {
        let now = Instant::now();
        if now >= deadline {
            return false;
        }
        let left = deadline - now;
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let wanted = |open| {
            if open {
                PollFlags::IN
            } else {
                PollFlags::empty()
            }
        };
        let (exited, ready) = {
            let mut fds = [
                PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stdout.as_fd(), wanted(open[0])),
                PollFd::from_borrowed_fd(stderr.as_fd(), wanted(open[1])),
            ];
            // A closed pipe reports HUP whatever is asked for; leave it out then.
            let mut watched: Vec<_> = vec![0];
            watched.extend((0..2).filter(|&i| open[i]).map(|i| i + 1));
            let mut set: Vec<_> = watched.iter().map(|&i| fds[i].clone()).collect();
            match poll(&mut set, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
            for (slot, &i) in set.iter().zip(&watched) {
                fds[i] = slot.clone();
            }
            let events = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
            (
                watched.contains(&0) && set[0].revents().intersects(events),
                [1, 2].map(|i| watched.contains(&i) && fds[i].revents().intersects(events)),
            )
        };
        if ready[0] {
            open[0] = take(&mut stdout, output);
        }
        if ready[1] {
            open[1] = take(&mut stderr, output);
        }
        if exited && !(ready[0] && open[0]) && !(ready[1] && open[1]) {
            return true;
        }
        if exited && output.len() >= MAX_OUTPUT {
            return true;
        }
    }
}

/// Reads once from a pipe that is readable; false at its end.
fn take(pipe: &mut impl Read, output: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match pipe.read(&mut buffer) {
        Ok(0) => false,
        Ok(n) => {
            let keep = n.min(MAX_OUTPUT - output.len().min(MAX_OUTPUT));
            output.extend_from_slice(&buffer[..keep]);
            true
        }
        Err(e) => e.kind() == std::io::ErrorKind::Interrupted,
    }
}
