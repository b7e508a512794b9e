//! Looks roles' verifiers up in the SQL server, as the daemon's own database role: a thread with one connection for each
//! server name. The only part of tickets that does I/O; the relay never waits for it.

use super::desk::Desk;
use super::scram::Verifier;
use crate::clock;
use crate::config::{Tickets, Upstream};
use crate::pg::client::{Client, Error};
use crate::served::Served;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};
use vianet::resolve::ticket::Why;
use zeroize::Zeroizing;

/// Longest wait for one step of the server's.
const LIMIT: Duration = Duration::from_secs(5);
/// So many may wait, and so many more to be tried again; the others go without.
const QUEUE: usize = 4096;
/// After a failure nothing is asked for so long: at first, and twice as long after each further one, up to this.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

const QUESTION: &str = "SELECT vianet.scram_verifier($1)";

/// Which role has logged in on which channel.
struct Job {
    channel: u64,
    role: String,
}

/// Where the relay puts its questions.
pub struct Lookup(Sender<Job>);

impl Lookup {
    /// Starts the thread; `served` has a desk, where the answers go.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(served: Arc<Served>, config: Tickets) -> io::Result<Self> {
        let (sender, jobs) = bounded(QUEUE);
        let thread = std::thread::Builder::new().name("tickets".into());
        thread.spawn(move || {
            if let Some(desk) = &served.desk {
                let upstream = config.connect.as_ref().unwrap_or(&served.config.upstream);
                Asker::new(desk, &served.name, &config, upstream).run(&jobs);
            }
        })?;
        Ok(Self(sender))
    }

    /// Never blocks. False: too many wait already.
    pub fn ask(&self, channel: u64, role: String) -> bool {
        self.0.try_send(Job { channel, role }).is_ok()
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}
type Connection = Client<Box<dyn Stream>>;

/// The questions of one server name, and what became of them.
struct Asker<'a> {
    desk: &'a Desk,
    server: &'a str,
    config: &'a Tickets,
    upstream: &'a Upstream,
    connection: Option<Connection>,
    /// Those whose lookup has failed, and those that came in the pause after that.
    again: VecDeque<Job>,
    pause: Duration,
    paused_until: Duration,
    /// What the log has said last.
    works: Option<bool>,
}

impl<'a> Asker<'a> {
    fn new(desk: &'a Desk, server: &'a str, config: &'a Tickets, upstream: &'a Upstream) -> Self {
        Self {
            desk,
            server,
            config,
            upstream,
            connection: None,
            again: VecDeque::new(),
            pause: Duration::ZERO,
            paused_until: Duration::ZERO,
            works: None,
        }
    }

    /// Until nobody can ask any more.
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let left = self.paused_until.saturating_sub(clock::now());
            if !left.is_zero() {
                match jobs.recv_timeout(left) {
                    Ok(job) => self.put_off(job),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                continue;
            }
            let job = match self.again.pop_front() {
                Some(job) => job,
                None => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                },
            };
            if self.desk.is_wanted(job.channel) {
                self.see_to(job);
            }
        }
    }

    fn see_to(&mut self, job: Job) {
        let found = look_up(&mut self.connection, self.config, self.upstream, &job.role);
        let news = self.works.replace(found.is_ok()) != Some(found.is_ok());
        let (server, role) = (self.server, &self.config.role);
        match found {
            Ok(found) => {
                if news {
                    info!(
                        event = "tickets",
                        server, role, "verifiers can be looked up"
                    );
                }
                self.pause = Duration::ZERO;
                let found = found.ok_or(Why::NoVerifier);
                self.desk.looked_up(job.channel, found);
            }
            Err(why) => {
                if news {
                    warn!(event = "tickets", server, role, %why, "no verifier can be looked up: sessions get no login \
                          tickets until one can");
                }
                self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
                self.paused_until = clock::now() + self.pause;
                self.put_off(job);
            }
        }
    }

    fn put_off(&mut self, job: Job) {
        if self.again.len() >= QUEUE {
            self.again.retain(|job| self.desk.is_wanted(job.channel));
        }
        if self.again.len() >= QUEUE {
            self.desk.looked_up(job.channel, Err(Why::Lookup));
            return;
        }
        self.desk.not_looked_up(job.channel);
        // The last in the line: whatever is wrong with this one does not stop the others.
        self.again.push_back(job);
    }
}

/// An idle connection may have been lost meanwhile: then a new one is asked.
fn look_up(
    connection: &mut Option<Connection>,
    config: &Tickets,
    upstream: &Upstream,
    role: &str,
) -> Result<Option<Verifier>, String> {
    if let Some(old) = connection {
        match ask(old, role) {
            Ok(found) => return Ok(found),
            Err(Error::Sql(..)) | Err(Error::Io(_)) => *connection = None,
        }
    }
    let mut fresh = connect(config, upstream)?;
    let found = ask(&mut fresh, role).map_err(|e| format!("{QUESTION}: {e}"))?;
    *connection = Some(fresh);
    Ok(found)
}

fn ask(connection: &mut Connection, role: &str) -> Result<Option<Verifier>, Error> {
    let answer = match connection.query_with(QUESTION, role) {
        // Data exception: a name that the database's encoding does not have. Anybody may send one, and no role has it.
        Err(Error::Sql(state, _)) if state.starts_with("22") => return Ok(None),
        answer => answer?,
    };
    let first = answer.rows.into_iter().next();
    let text = first.and_then(|row| row.into_iter().next().flatten());
    let text = text.map(Zeroizing::new);
    Ok(text.and_then(|text| Verifier::parse(&text)))
}

fn connect(config: &Tickets, upstream: &Upstream) -> Result<Connection, String> {
    let password = password(config.password_file.as_deref())?;
    let failed = |e: io::Error| format!("connect to {upstream}: {e}");
    let stream: Box<dyn Stream> = match upstream {
        Upstream::Tcp(addr) => {
            let stream = TcpStream::connect_timeout(addr, LIMIT).map_err(failed)?;
            stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
            stream.set_write_timeout(Some(LIMIT)).map_err(failed)?;
            let _ = stream.set_nodelay(true);
            Box::new(stream)
        }
        Upstream::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(failed)?;
            stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
            stream.set_write_timeout(Some(LIMIT)).map_err(failed)?;
            Box::new(stream)
        }
    };
    Client::log_in(stream, &config.role, &password, &config.database)
        .map_err(|e| format!("login as {}: {e}", config.role))
}

/// The first line of the file.
fn password(file: Option<&Path>) -> Result<Zeroizing<String>, String> {
    let Some(file) = file else {
        return Ok(Zeroizing::default());
    };
    let failed = |why: &dyn Display| format!("password_file = {}: {why}", file.display());
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|e| failed(&e))?);
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(failed(&"there is no password in its first line")),
    }
}

#[cfg(test)]
mod tests;
