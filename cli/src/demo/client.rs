//! Connections by server name, and what the demo says over them: lines to `ledger`, PostgreSQL's protocol to `sales`.

use crate::lab::layout::Engine;
use crate::lab::server::{PASSWORD, ROLE};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::RawFd;
use std::path::Path;
use vianet::conn::{self, Info, Options};
use vianet_node::pg::client::{Client as Postgres, Error as PgError};

/// A connection of the library's.
pub struct Stream(RawFd);

impl Stream {
    fn connect(name: &str, config: &Path) -> Result<Self, vianet::Error> {
        let options = Options {
            cloexec: true,
            config: Some(config.to_owned()),
            ..Options::default()
        };
        conn::connect(name, &options).map(Self)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        conn::find(self.0)
            .and_then(|c| c.recv(buffer, 0))
            .map_err(io_error)
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let data = [IoSlice::new(data)];
        conn::find(self.0)
            .and_then(|c| c.send(&data, libc::MSG_NOSIGNAL))
            .map_err(io_error)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = conn::close(self.0);
    }
}

fn io_error(err: vianet::Error) -> io::Error {
    io::Error::new(
        io::Error::from_raw_os_error(err.errno()).kind(),
        err.to_string(),
    )
}

/// Why a statement was not answered.
#[derive(Debug)]
pub enum Failed {
    /// The connection is over: whether the statement ran is not known.
    Lost(String),
    /// The server refuses it: it did not run.
    Refused(String),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Lost(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

/// A client of the demo's.
pub struct Client {
    fd: RawFd,
    talk: Talk,
}

enum Talk {
    Lines(BufReader<Stream>),
    Postgres(Box<Postgres<Stream>>),
}

impl Client {
    /// The name that the demo uses with an engine.
    pub fn name(engine: Engine) -> &'static str {
        match engine {
            Engine::Embedded => "lab\\ledger",
            Engine::Postgres | Engine::PostgresShared => "lab\\sales",
        }
    }

    /// Connects by name, and logs in where the protocol has a login.
    pub fn connect(engine: Engine, config: &Path) -> Result<Self, Failed> {
        let stream = Stream::connect(Self::name(engine), config);
        let stream = stream.map_err(|e| Failed::Lost(e.to_string()))?;
        let fd = stream.0;
        let talk = match engine {
            Engine::Embedded => Talk::Lines(BufReader::new(stream)),
            Engine::Postgres | Engine::PostgresShared => {
                let client = Postgres::log_in(stream, ROLE, PASSWORD, ROLE).map_err(failed)?;
                Talk::Postgres(Box::new(client))
            }
        };
        Ok(Self { fd, talk })
    }

    /// Runs a statement and gives its rows.
    pub fn run(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Failed> {
        match &mut self.talk {
            Talk::Lines(stream) => run_line(stream, sql),
            Talk::Postgres(client) => {
                let rows = client.query(sql).map_err(failed)?.rows.into_iter();
                let text =
                    |row: Vec<Option<String>>| row.into_iter().map(Option::unwrap_or_default);
                Ok(rows.map(|row| text(row).collect()).collect())
            }
        }
    }

    /// What the library says of the connection.
    pub fn info(&self) -> Option<Info> {
        conn::find(self.fd).ok().map(|c| c.info())
    }
}

fn run_line(stream: &mut BufReader<Stream>, sql: &str) -> Result<Vec<Vec<String>>, Failed> {
    let lost = |e: io::Error| Failed::Lost(e.to_string());
    stream
        .get_mut()
        .write_all(format!("{sql}\n").as_bytes())
        .map_err(lost)?;
    let mut line = String::new();
    stream.read_line(&mut line).map_err(lost)?;
    if !line.ends_with('\n') {
        return Err(Failed::Lost("the connection ended".into()));
    }
    let answer: Value = serde_json::from_str(&line).map_err(|e| Failed::Lost(e.to_string()))?;
    if answer["ok"] != true {
        return Err(Failed::Refused(
            answer["error"].as_str().unwrap_or_default().into(),
        ));
    }
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), Into::into);
    let rows = answer["rows"].as_array().into_iter().flatten();
    Ok(rows
        .map(|row| row.as_array().into_iter().flatten().map(cell).collect())
        .collect())
}

fn failed(err: PgError) -> Failed {
    match err {
        PgError::Io(e) => Failed::Lost(e.to_string()),
        // 57P01..57P03: the server goes away, or is not there yet. What it had begun, it has rolled back.
        PgError::Sql(state, text) if state.starts_with("57P") || state.starts_with("08") => {
            Failed::Lost(text)
        }
        PgError::Sql(_, text) => Failed::Refused(text),
    }
}
