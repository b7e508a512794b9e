//! Programs of a lab: started detached, with the lab's mark in their environment and their output in a log file.

use super::account::Account;
use super::process::{Interrupt, MARK, Process};
use crate::failure::{Doing, Failure, Outcome};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program of the lab that is to run.
pub struct Program {
    command: Command,
    name: String,
}

impl Program {
    /// `program`, marked as the lab's `id`.
    pub fn new(program: &Path, id: &str) -> Self {
        let mut command = Command::new(program);
        command.env(MARK, id).stdin(Stdio::null());
        // SAFETY: two system calls, which may be done between fork and exec; no memory is touched.
        unsafe {
            command.pre_exec(|| {
                // Own session: a Ctrl-C in the terminal of `vianet lab` is not meant for it. Fails only for a
                // group's leader, which a child is not.
                let _ = rustix::process::setsid();
                // Descriptors that our caller forgot must not stay open in a program that goes on after us.
                libc::close_range(
                    3,
                    libc::c_uint::MAX,
                    libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
                );
                Ok(())
            });
        }
        Self {
            command,
            name: program
                .file_name()
                .unwrap_or(program.as_os_str())
                .display()
                .to_string(),
        }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets environment variables.
    pub fn env(mut self, variables: &BTreeMap<&str, String>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Runs as another user, where one is named.
    pub fn account(mut self, account: Option<&Account>) -> Self {
        if let Some(account) = account {
            self.command.uid(account.uid).gid(account.gid);
            self.command.env("HOME", "/").env("USER", &account.name);
        }
        self
    }

    /// The working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts it in the background, with its output appended to `log`, and remembers it in `pid_file`.
    pub fn start(mut self, log: &Path, pid_file: &Path) -> Outcome<Running> {
        let child = self.spawn(log)?;
        let process = Process::of(child.id() as i32);
        let mut running = Running {
            name: self.name,
            log: log.to_owned(),
            child,
        };
        match process {
            Some(process) => process.remember(pid_file)?,
            None => running.check()?,
        }
        Ok(running)
    }

    /// Runs it to its end, with `input` as its standard input; its output is appended to `log`.
    pub fn finish(
        mut self,
        input: Option<&Path>,
        log: &Path,
        limit: Duration,
        stop: &Interrupt,
    ) -> Outcome {
        if let Some(path) = input {
            let file = File::open(path).doing(|| path.display().to_string())?;
            self.command.stdin(file);
        }
        let mut child = self.spawn(log)?;
        let started = Instant::now();
        let result = loop {
            if let Some(status) = child.try_wait().doing(|| self.name.clone())? {
                if status.success() {
                    return Ok(());
                }
                let tail = last_lines(log, 5);
                let text = format!(
                    "{} ended with {status}; {}:\n{tail}",
                    self.name,
                    log.display()
                );
                return Err(Failure::failed(text));
            }
            if let Err(e) = stop.check() {
                break Err(e);
            }
            if started.elapsed() > limit {
                let text = format!(
                    "{} did not end within {limit:?}; see {}",
                    self.name,
                    log.display()
                );
                break Err(Failure::failed(text));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(process) = Process::of(child.id() as i32) {
            process.kill()?;
        }
        let _ = child.wait();
        result
    }

    fn spawn(&mut self, log: &Path) -> Outcome<Child> {
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let out = open(log).doing(|| log.display().to_string())?;
        let err = out.try_clone().doing(|| log.display().to_string())?;
        self.command.stdout(out).stderr(err);
        self.command
            .spawn()
            .doing(|| format!("starting {}", self.name))
    }
}

/// A program that was started in the background.
pub struct Running {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Running {
    /// Fails with its last words if it has ended.
    pub fn check(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Failure::failed(format!(
                "{} ended with {status}; {}:\n{}",
                self.name,
                self.log.display(),
                last_lines(&self.log, 5)
            ))),
            _ => Ok(()),
        }
    }
}

/// The last lines of a file, indented, for an error's text.
pub fn last_lines(path: &Path, n: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(n)..];
    let indented: Vec<String> = tail.iter().map(|line| format!("  {line}")).collect();
    indented.join("\n")
}
