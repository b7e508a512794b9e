//! A client for simple queries over any byte stream. Everything as text.

use super::scram::ClientLogin;
use super::wire::{self, Body, Outbox, put_text};
use std::io::{self, Read, Write};

/// A logged-in connection.
pub struct Client<S> {
    stream: S,
    out: Outbox,
}

/// What a query gave: the last statement's rows and tag.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Rows of text; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// The command tag, as `INSERT 0 1`.
    pub tag: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// The server refuses: SQLSTATE and message. The connection goes on unless it was fatal.
    Sql(String, String),
    /// The connection is over; whether the server ran the query is not known.
    Io(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sql(state, text) => write!(f, "{text} (SQLSTATE {state})"),
            Self::Io(e) => e.fmt(f),
        }
    }
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

impl<S: Read + Write> Client<S> {
    /// Logs in over `stream`; the password is used only if the server asks for it.
    pub fn log_in(stream: S, user: &str, password: &str, database: &str) -> Result<Self, Error> {
        let mut this = Self {
            stream,
            out: Outbox::default(),
        };
        this.out.sized(|b| {
            b.extend((3i32 << 16).to_be_bytes());
            for text in ["user", user, "database", database] {
                put_text(b, text);
            }
            for text in ["client_encoding", "UTF8", ""] {
                put_text(b, text);
            }
        });
        this.out.flush(&mut this.stream)?;
        let mut login = ClientLogin::new(password);
        loop {
            let (tag, body) = this.read()?;
            let mut body = Body::new(&body);
            match tag {
                b'Z' => return Ok(this),
                b'R' => this.authenticate(&mut login, &mut body)?,
                _ => {}
            }
        }
    }

    fn authenticate(&mut self, login: &mut ClientLogin, body: &mut Body<'_>) -> Result<(), Error> {
        let refuse = |text| Err(Error::Io(wire::invalid(text)));
        let text = |body: &mut Body<'_>| String::from_utf8_lossy(body.rest()).into_owned();
        match body.i32()? {
            0 => return Ok(()),
            10 if text(body).split('\0').any(|m| m == "SCRAM-SHA-256") => {
                let first = login.first();
                self.out.message(b'p', |b| {
                    put_text(b, "SCRAM-SHA-256");
                    b.extend((first.len() as i32).to_be_bytes());
                    b.extend(first.as_bytes());
                });
            }
            11 => match login.prove(&text(body)) {
                Some(proof) => self.out.message(b'p', |b| b.extend(proof.as_bytes())),
                None => return refuse("the server's challenge is malformed"),
            },
            12 if login.verify(&text(body)) => {}
            12 => return refuse("the server does not know the password"),
            _ => return refuse("the server asks for a login other than SCRAM-SHA-256"),
        }
        Ok(self.out.flush(&mut self.stream)?)
    }

    /// Runs a query string and waits for its end.
    pub fn query(&mut self, sql: &str) -> Result<Answer, Error> {
        self.out.message(b'Q', |b| put_text(b, sql));
        self.answer()
    }

    /// Runs one statement with `$1` and waits for its end. What stands in the parameter is never read as SQL.
    pub fn query_with(&mut self, sql: &str, parameter: &str) -> Result<Answer, Error> {
        self.out.message(b'P', |b| {
            put_text(b, "");
            put_text(b, sql);
            b.extend(0i16.to_be_bytes());
        });
        self.out.message(b'B', |b| {
            b.extend([0, 0]); // portal and statement
            b.extend(0i16.to_be_bytes()); // all as text
            b.extend(1i16.to_be_bytes());
            b.extend((parameter.len() as i32).to_be_bytes());
            b.extend(parameter.as_bytes());
            b.extend(0i16.to_be_bytes());
        });
        self.out.message(b'E', |b| b.extend([0; 5]));
        self.out.message(b'S', |_| {});
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Error> {
        self.out.flush(&mut self.stream)?;
        let mut answer = Answer::default();
        let mut failed = None;
        loop {
            let (tag, body) = match self.read() {
                Err(Error::Sql(state, text)) => {
                    failed = Some((state, text));
                    continue;
                }
                // A fatal error is followed by the end of the stream.
                Err(Error::Io(e)) => {
                    return Err(match failed {
                        Some((state, text)) => Error::Sql(state, text),
                        None => Error::Io(e),
                    });
                }
                Ok(message) => message,
            };
            let mut body = Body::new(&body);
            match tag {
                b'T' => answer.rows.clear(),
                b'D' => answer.rows.push(row(&mut body)?),
                b'C' => answer.tag = body.text()?,
                b'Z' => {
                    return match failed {
                        Some((state, text)) => Err(Error::Sql(state, text)),
                        None => Ok(answer),
                    };
                }
                _ => {}
            }
        }
    }

    /// The next message; an ErrorResponse is an error.
    fn read(&mut self) -> Result<(u8, Vec<u8>), Error> {
        let (tag, body) = wire::read(&mut self.stream)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if tag != b'E' {
            return Ok((tag, body));
        }
        let mut body = Body::new(&body);
        let (mut state, mut text) = (String::new(), String::new());
        loop {
            match body.u8()? {
                0 => return Err(Error::Sql(state, text)),
                b'C' => state = body.text()?,
                b'M' => text = body.text()?,
                _ => drop(body.text()?),
            }
        }
    }
}

fn row(body: &mut Body<'_>) -> io::Result<Vec<Option<String>>> {
    let columns = body.i16()?.max(0);
    let mut row = Vec::new();
    for _ in 0..columns {
        let len = body.i32()?;
        row.push(match usize::try_from(len) {
            Ok(len) => Some(String::from_utf8_lossy(body.bytes(len)?).into_owned()),
            Err(_) => None,
        });
    }
    Ok(row)
}
