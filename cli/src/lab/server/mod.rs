//! The lab's own SQL server: SQLite behind PostgreSQL's protocol (`sales`) and behind lines (`ledger`).
//!
//! Both nodes run one, on one database file. A server *stands by* until its node's promote hook tells it to serve, and
//! then again when the demote hook says so: open connections end, with what they had not committed rolled back. It
//! is told so, and asked for its health, on a Unix socket in its node's directory, one word a connection.

mod lines;
mod postgres;
mod split;
mod sqlite;

use crate::control::reach;
use crate::failure::{Doing, Outcome};
use rusqlite::{Connection, InterruptHandle};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use vianet_node::pg::scram::{self, Verifier};

/// The role, and the database that it owns.
pub const ROLE: &str = "app";
/// The role's password.
pub const PASSWORD: &str = "app";
/// Most clients at a time.
const MAX_SESSIONS: usize = 1000;
/// How long a client that stands by waits for its clients' statements to end.
const DRAIN: Duration = Duration::from_secs(5);

/// The lab's SQL server (started by `vianet lab`, not by hand).
#[derive(clap::Args)]
pub struct Args {
    /// The database file.
    #[arg(long)]
    database: PathBuf,
    /// Where PostgreSQL's protocol is spoken.
    #[arg(long)]
    postgres: SocketAddr,
    /// Where lines are spoken.
    #[arg(long)]
    lines: SocketAddr,
    /// The Unix socket for serve, stand-by and health.
    #[arg(long)]
    control: PathBuf,
    /// Serve from the start.
    #[arg(long)]
    serve: bool,
}

/// Runs the server until it is killed.
pub fn run(args: Args) -> Outcome {
    let serving = Arc::new(Serving {
        database: args.database,
        verifier: postgres::verifier(),
        state: Mutex::new(State {
            serves: args.serve,
            ..State::default()
        }),
        left: Condvar::new(),
    });
    let listen =
        |addr: SocketAddr| TcpListener::bind(addr).doing(|| format!("listening on {addr}"));
    let postgres = listen(args.postgres)?;
    let lines = listen(args.lines)?;
    // A socket file left by a server that was killed.
    let _ = std::fs::remove_file(&args.control);
    let control = UnixListener::bind(&args.control)
        .doing(|| format!("listening on {}", args.control.display()))?;
    println!(
        "listening: postgres {}, lines {}",
        args.postgres, args.lines
    );
    accept(postgres, &serving, postgres::serve);
    accept(lines, &serving, lines::serve);
    for stream in control.incoming().flatten() {
        // A failure concerns only whoever asked.
        let _ = obey(stream, &serving);
    }
    Ok(())
}

/// Tells the server at `control` one word (`serve`, `stand-by`, `health`) and gives its answer.
pub fn tell(control: &Path, word: &str, limit: Duration) -> std::io::Result<String> {
    let mut stream = reach(control, limit)?;
    stream.write_all(format!("{word}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn accept(
    listener: TcpListener,
    serving: &Arc<Serving>,
    serve: fn(TcpStream, &Serving) -> std::io::Result<()>,
) {
    let serving = Arc::clone(serving);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors: others must end first.
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            let serving = Arc::clone(&serving);
            thread::spawn(move || {
                // Small answers must not wait for the client's acknowledgement of earlier ones.
                let _ = stream.set_nodelay(true);
                // A client that goes away is no news.
                let _ = serve(stream, &serving);
            });
        }
    });
}

fn obey(mut stream: UnixStream, serving: &Serving) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut word = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut word)?;
    let answer = match word.trim() {
        "serve" => {
            serving.lock().serves = true;
            println!("serving");
            "serving".into()
        }
        "stand-by" => {
            let drained = serving.stand_by();
            println!("standing by");
            if drained {
                "standing by"
            } else {
                "error: statements are still running"
            }
            .into()
        }
        "health" if !serving.lock().serves => "standing by".into(),
        "health" => match health(&serving.database) {
            Ok(()) => "serving".into(),
            Err(e) => format!("error: {e}"),
        },
        other => format!("error: unknown word {other:?}"),
    };
    stream.write_all(format!("{answer}\n").as_bytes())
}

/// The database can be opened and read. It is not written to: that would make every check wait for every writer.
fn health(database: &Path) -> rusqlite::Result<()> {
    let db = sqlite::open(database, sqlite::Access::Sessionless)?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// What all connections share.
pub struct Serving {
    database: PathBuf,
    verifier: Verifier,
    state: Mutex<State>,
    /// A session left.
    left: Condvar,
}

#[derive(Default)]
struct State {
    serves: bool,
    /// Grows with every session; PostgreSQL's process id.
    last: i32,
    sessions: BTreeMap<i32, Entry>,
}

struct Entry {
    secret: i32,
    stream: TcpStream,
    interrupt: InterruptHandle,
}

impl Serving {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic is done under the lock, and each change of the state is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session; `None` while standing by, or with too many.
    fn enter(&self, stream: &TcpStream, db: &Connection) -> Option<Session<'_>> {
        let entry = Entry {
            secret: i32::from_ne_bytes(scram::random()),
            stream: stream.try_clone().ok()?,
            interrupt: db.get_interrupt_handle(),
        };
        let mut state = self.lock();
        if !state.serves || state.sessions.len() >= MAX_SESSIONS {
            return None;
        }
        state.last += 1;
        let key = (state.last, entry.secret);
        state.sessions.insert(key.0, entry);
        Some(Session { serving: self, key })
    }

    /// Interrupts what a session runs now, if the secret is right.
    fn cancel(&self, pid: i32, secret: i32) {
        if let Some(entry) = self.lock().sessions.get(&pid)
            && entry.secret == secret
        {
            entry.interrupt.interrupt();
        }
    }

    /// Ends every session and takes no new ones; `false` if some statement does not end.
    fn stand_by(&self) -> bool {
        let mut state = self.lock();
        state.serves = false;
        for entry in state.sessions.values() {
            // Fails when the client is gone already.
            let _ = entry.stream.shutdown(Shutdown::Both);
            entry.interrupt.interrupt();
        }
        let (_state, timeout) = self
            .left
            .wait_timeout_while(state, DRAIN, |s| !s.sessions.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

/// A client that is logged in; it leaves when this is dropped.
pub struct Session<'a> {
    serving: &'a Serving,
    key: (i32, i32),
}

impl Session<'_> {
    /// Process id and secret of BackendKeyData.
    fn key(&self) -> (i32, i32) {
        self.key
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.serving.lock().sessions.remove(&self.key.0);
        self.serving.left.notify_all();
    }
}

#[cfg(test)]
mod tests;
