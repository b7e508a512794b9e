//! The two processes of a carrier, as the measuring one sees them.

use super::end::{Done, Order};
use super::{Carrier, Work};
use crate::bench::tie;
use crate::failure::{Doing, Failure, Outcome};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A server and its caller, connected.
pub struct Ends {
    caller: Process,
    _server: Process,
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Ends {
    /// Starts both, on `address`, with the preload library.
    pub fn start(carrier: Carrier, address: IpAddr, preload: Option<&Path>) -> Outcome<Self> {
        let mut server = Process::start("serve", carrier, SocketAddr::new(address, 0), preload)?;
        let place = server.line()?;
        let place = place.parse().doing(|| format!("the server said {place}"))?;
        let mut caller = Process::start("call", carrier, place, preload)?;
        caller.line()?;
        // Both of these turn to TCP by themselves where they cannot do better.
        if carrier == Carrier::Rsockets && holds_tcp(caller.child.id())? {
            return Err(Failure::failed("it fell back to TCP"));
        }
        Ok(Self {
            caller,
            _server: server,
        })
    }

    /// One turn.
    pub fn turn(&mut self, work: Work, time: Duration) -> Outcome<Done> {
        let order = Order {
            work,
            ms: time.as_millis() as u64,
        };
        let order = serde_json::to_string(&order).doing(|| "an order")?;
        writeln!(self.caller.input, "{order}")
            .doing(|| format!("ordering {}", self.caller.name))?;
        let line = self.caller.line()?;
        serde_json::from_str(&line).doing(|| format!("{} said {line}", self.caller.name))
    }
}

impl Process {
    fn start(
        role: &str,
        carrier: Carrier,
        address: SocketAddr,
        preload: Option<&Path>,
    ) -> Outcome<Self> {
        let exe = std::env::current_exe().doing(|| "finding this program")?;
        let mut command = Command::new(exe);
        command
            .args([
                "bench",
                "--rdma-end",
                role,
                carrier.word(),
                &address.to_string(),
            ])
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(preload) = preload {
            command.env("LD_PRELOAD", preload);
        }
        let name = format!("{} {role}", carrier.name());
        let mut child = tie(&mut command)
            .spawn()
            .doing(|| format!("starting {name}"))?;
        Ok(Self {
            input: child.stdin.take().expect("was piped"),
            output: BufReader::new(child.stdout.take().expect("was piped")),
            child,
            name,
        })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        let n = self
            .output
            .read_line(&mut line)
            .doing(|| format!("hearing {}", self.name))?;
        match n {
            0 => Err(Failure::failed(format!("{} ended, see above", self.name))),
            _ => Ok(line.trim_end().into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process has a TCP socket.
fn holds_tcp(pid: u32) -> Outcome<bool> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).doing(|| "looking at a process")?;
    let sockets: Vec<String> = fds
        .flatten()
        .filter_map(|fd| {
            let link = fs::read_link(fd.path())
                .ok()?
                .to_string_lossy()
                .into_owned();
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let tables = ["tcp", "tcp6"].map(|t| fs::read_to_string(format!("/proc/{pid}/net/{t}")));
    let mut inodes = tables.iter().flatten().flat_map(|table| {
        let lines = table.lines().skip(1);
        lines.filter_map(|line| line.split_whitespace().nth(9))
    });
    Ok(inodes.any(|inode| sockets.iter().any(|s| s == inode)))
}
