//! PostgreSQL's protocol, version 3: SCRAM-SHA-256 login of the role `app`, simple queries, cancel. Enough for psql.
//!
//! Transactions end as PostgreSQL's do: several statements in one query string are one transaction, an error aborts
//! the open one (savepoints included), and until ROLLBACK every statement is refused with 25P02.

mod rows;

use super::sqlite::{self, Access};
use super::{PASSWORD, ROLE, Serving, Session, split};
use rows::{SqlError, TEXT, put_columns, put_error, put_row, rows};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::time::Duration;
use vianet_node::pg::scram::ServerLogin;
use vianet_node::pg::wire::{self, Body, Outbox, Startup, put_text};

/// A login takes at most this long.
const LOGIN: Duration = Duration::from_secs(30);
/// The version that clients are told: psql chooses its catalogue queries by it.
const VERSION: &str = "15.0 (vianet lab, SQLite)";

/// Serves one client until it or the server ends.
pub fn serve(mut stream: TcpStream, serving: &Serving) -> io::Result<()> {
    stream.set_read_timeout(Some(LOGIN))?;
    let pairs = loop {
        match wire::read_startup(&mut stream)? {
            None => return Ok(()),
            Some(Startup::Encryption) => io::Write::write_all(&mut stream, b"N")?,
            Some(Startup::Cancel { pid, secret }) => {
                serving.cancel(pid, secret);
                return Ok(());
            }
            Some(Startup::Login(pairs)) => break pairs,
        }
    };
    let mut out = Outbox::default();
    let mut refuse = |state, text: String, stream: &mut TcpStream| {
        put_error(&mut out, "FATAL", &SqlError(state, text));
        out.flush(stream)
    };
    let value = |name| {
        pairs
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    let user = value("user").unwrap_or_default();
    if !log_in(&mut stream, user, serving)? {
        let text = format!("password authentication failed for user \"{user}\"");
        return refuse("28P01", text, &mut stream);
    }
    let database = value("database").unwrap_or(user);
    if database != ROLE {
        let text = format!("database \"{database}\" does not exist");
        return refuse("3D000", text, &mut stream);
    }
    let db = match sqlite::open(&serving.database, Access::Session) {
        Ok(db) => db,
        Err(e) => return refuse("58000", e.to_string(), &mut stream),
    };
    let Some(session) = serving.enter(&stream, &db) else {
        let text = "this node stands by: it does not serve".into();
        return refuse("57P03", text, &mut stream);
    };
    stream.set_read_timeout(None)?;
    let application = value("application_name").unwrap_or_default().to_owned();
    let mut client = Client {
        stream,
        out,
        db,
        failed: false,
        implicit: false,
        settings: BTreeMap::from([("application_name".into(), application)]),
    };
    client.greet(&session)?;
    client.serve()
}

/// The SASL exchange. An unknown role goes through it like a known one and fails at its end.
fn log_in(stream: &mut TcpStream, user: &str, serving: &Serving) -> io::Result<bool> {
    let mut out = Outbox::default();
    let mut say = |stream: &mut TcpStream, kind: i32, data: &[u8]| {
        out.message(b'R', |b| {
            b.extend(kind.to_be_bytes());
            b.extend(data);
        });
        out.flush(stream)
    };
    let hear = |stream: &mut TcpStream| match wire::read(stream)? {
        Some((b'p', body)) => Ok(body),
        _ => Err(wire::invalid("a password message was expected")),
    };
    say(stream, 10, b"SCRAM-SHA-256\0\0")?;
    let body = hear(stream)?;
    let mut body = Body::new(&body);
    if body.text()? != "SCRAM-SHA-256" {
        return Ok(false);
    }
    let len = usize::try_from(body.i32()?).map_err(|_| wire::invalid("no SASL response"))?;
    let first = String::from_utf8_lossy(body.bytes(len)?).into_owned();
    let Some((login, challenge)) = ServerLogin::challenge(&serving.verifier, &first) else {
        return Ok(false);
    };
    say(stream, 11, challenge.as_bytes())?;
    let proof = String::from_utf8_lossy(&hear(stream)?).into_owned();
    match login.finish(&proof) {
        Some(last) if user == ROLE => {
            say(stream, 12, last.as_bytes())?;
            say(stream, 0, b"")?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

struct Client {
    stream: TcpStream,
    out: Outbox,
    db: Connection,
    /// An error ended the open transaction; it waits for ROLLBACK.
    failed: bool,
    /// The open transaction was begun for a query string of several statements.
    implicit: bool,
    settings: BTreeMap<String, String>,
}

impl Client {
    fn greet(&mut self, session: &Session<'_>) -> io::Result<()> {
        let (pid, secret) = session.key();
        if let Err(e) = self.add_functions(pid) {
            put_error(&mut self.out, "FATAL", &e.into());
            return self.out.flush(&mut self.stream);
        }
        for (name, value) in [
            ("server_version", VERSION),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
            ("is_superuser", "off"),
            ("session_authorization", ROLE),
        ] {
            self.out.message(b'S', |b| {
                put_text(b, name);
                put_text(b, value);
            });
        }
        self.out.message(b'K', |b| {
            b.extend(pid.to_be_bytes());
            b.extend(secret.to_be_bytes());
        });
        self.ready()
    }

    fn add_functions(&self, pid: i32) -> rusqlite::Result<()> {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let db = &self.db;
        db.create_scalar_function("version", 0, flags, |_| Ok(format!("PostgreSQL {VERSION}")))?;
        db.create_scalar_function("current_database", 0, flags, |_| Ok(ROLE))?;
        db.create_scalar_function("pg_is_in_recovery", 0, flags, |_| Ok("f"))?;
        db.create_scalar_function("pg_backend_pid", 0, flags, move |_| Ok(pid))
    }

    fn serve(&mut self) -> io::Result<()> {
        // After an error in the extended protocol everything up to Sync is skipped.
        let mut skipping = false;
        while let Some((tag, body)) = wire::read(&mut self.stream)? {
            match tag {
                b'X' => return Ok(()),
                b'S' => {
                    skipping = false;
                    self.ready()?;
                }
                _ if skipping => {}
                b'Q' => {
                    let sql = Body::new(&body).text()?;
                    self.query(&sql)?;
                    self.ready()?;
                }
                b'P' | b'B' | b'D' | b'E' | b'C' | b'F' | b'H' => {
                    skipping = true;
                    let text = "the lab's SQL server understands simple queries only";
                    put_error(&mut self.out, "ERROR", &SqlError("0A000", text.into()));
                    self.out.flush(&mut self.stream)?;
                }
                // Left over from a COPY that was refused.
                b'd' | b'c' | b'f' => {}
                _ => {
                    let text = format!("invalid frontend message type {tag}");
                    put_error(&mut self.out, "FATAL", &SqlError("08P01", text));
                    return self.out.flush(&mut self.stream);
                }
            }
        }
        Ok(())
    }

    fn ready(&mut self) -> io::Result<()> {
        let status = match (self.failed, self.db.is_autocommit()) {
            (true, _) => b'E',
            (false, false) => b'T',
            (false, true) => b'I',
        };
        self.out.message(b'Z', |b| b.push(status));
        self.out.flush(&mut self.stream)
    }

    /// Runs a query string; errors of SQL are told to the client, errors of the connection end it.
    fn query(&mut self, sql: &str) -> io::Result<()> {
        let statements = split::statements(sql);
        if statements.is_empty() {
            self.out.message(b'I', |_| {});
            return Ok(());
        }
        let several = statements.len() > 1;
        for sql in statements {
            match self.statement(sql, several)? {
                Ok(tag) => self.out.message(b'C', |b| put_text(b, &tag)),
                Err(e) => {
                    put_error(&mut self.out, "ERROR", &e);
                    self.abort();
                    return Ok(());
                }
            }
        }
        if std::mem::take(&mut self.implicit)
            && let Err(e) = self.db.execute_batch("COMMIT")
        {
            put_error(&mut self.out, "ERROR", &e.into());
            self.abort();
        }
        Ok(())
    }

    /// An error ends the open transaction. One that the client began stays visible as failed.
    fn abort(&mut self) {
        let implicit = std::mem::take(&mut self.implicit);
        if !self.db.is_autocommit() {
            // Fails only if SQLite has rolled back by itself, which is the same.
            let _ = self.db.execute_batch("ROLLBACK");
            self.failed = !implicit;
        }
    }

    fn statement(&mut self, sql: &str, several: bool) -> io::Result<Result<String, SqlError>> {
        let words = split::words(sql, 3);
        let word = |i: usize| words.get(i).map_or("", String::as_str);
        let ends = matches!(word(0), "COMMIT" | "END" | "ROLLBACK" | "ABORT")
            && !words.iter().any(|w| w == "TO");
        if ends {
            return Ok(self.end(matches!(word(0), "COMMIT" | "END")));
        }
        if self.failed {
            let text =
                "current transaction is aborted, commands ignored until end of transaction block";
            return Ok(Err(SqlError("25P02", text.into())));
        }
        if matches!(word(0), "BEGIN" | "START") {
            return Ok(self.begin());
        }
        match word(0) {
            "SET" | "RESET" | "DISCARD" => return Ok(self.set(sql, &words)),
            "SHOW" => return Ok(self.show(word(1))),
            _ => {}
        }
        if several && self.db.is_autocommit() {
            if let Err(e) = self.db.execute_batch("BEGIN") {
                return Ok(Err(e.into()));
            }
            self.implicit = true;
        }
        rows(
            &self.db,
            &mut self.out,
            &mut self.stream,
            sql,
            word(0),
            word(1),
        )
    }

    fn begin(&mut self) -> Result<String, SqlError> {
        // Inside the transaction of a query string, BEGIN makes it the client's own.
        self.implicit = false;
        if self.db.is_autocommit() {
            self.db.execute_batch("BEGIN")?;
        }
        Ok("BEGIN".into())
    }

    fn end(&mut self, commit: bool) -> Result<String, SqlError> {
        self.implicit = false;
        if std::mem::take(&mut self.failed) {
            return Ok("ROLLBACK".into());
        }
        let sql = if commit { "COMMIT" } else { "ROLLBACK" };
        if !self.db.is_autocommit() {
            self.db.execute_batch(sql)?;
        }
        Ok(sql.into())
    }

    /// `SET name = value`: only what can be kept is taken; anything else is refused, never silently lost.
    fn set(&mut self, sql: &str, words: &[String]) -> Result<String, SqlError> {
        let rest = sql
            .split_once(char::is_whitespace)
            .map_or("", |(_, rest)| rest.trim());
        if words[0] != "SET" {
            let all = words.get(1).is_some_and(|w| w == "ALL");
            if all {
                self.settings.clear();
            } else {
                self.settings.remove(&rest.to_ascii_lowercase());
            }
            return Ok(if all && words[0] == "DISCARD" {
                "DISCARD ALL"
            } else {
                "RESET"
            }
            .into());
        }
        let rest = rest.strip_prefix("SESSION ").unwrap_or(rest);
        let pair = rest.split_once('=').or_else(|| {
            let at = rest.to_ascii_uppercase().find(" TO ")?;
            Some((&rest[..at], &rest[at + 4..]))
        });
        let (name, value) =
            pair.ok_or_else(|| SqlError("42601", "write SET name = value".into()))?;
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim().trim_matches('\'').to_owned();
        let taken = match name.as_str() {
            "client_encoding" => value.replace('-', "").eq_ignore_ascii_case("utf8"),
            "application_name" | "client_min_messages" | "extra_float_digits" => true,
            _ => name.contains('.'),
        };
        if !taken {
            let text = format!("the lab's SQL server cannot set \"{name}\" to \"{value}\"");
            return Err(SqlError("0A000", text));
        }
        self.settings.insert(name, value);
        Ok("SET".into())
    }

    fn show(&mut self, name: &str) -> Result<String, SqlError> {
        let name = name.to_ascii_lowercase();
        let value = match (self.settings.get(&name), name.as_str()) {
            (Some(value), _) => value.clone(),
            (None, "server_version") => VERSION.into(),
            (None, "client_encoding" | "server_encoding") => "UTF8".into(),
            (None, "transaction_read_only" | "in_hot_standby") => "off".into(),
            (None, "timezone") => "UTC".into(),
            _ => {
                let text = format!("unrecognized configuration parameter \"{name}\"");
                return Err(SqlError("42704", text));
            }
        };
        put_columns(&mut self.out, &[(name, TEXT)]);
        put_row(&mut self.out, &[Some(value)]);
        Ok("SHOW".into())
    }
}

/// What the role logs in with.
pub fn verifier() -> vianet_node::pg::scram::Verifier {
    vianet_node::pg::scram::Verifier::new(PASSWORD)
}
