//! Statements that SQLite runs, and their rows and errors as messages.

use crate::lab::server::sqlite;
use rusqlite::Connection;
use std::io;
use std::net::TcpStream;
use vianet_node::pg::wire::{Outbox, put_text};

/// Rows are sent when so many bytes wait.
const FLUSH: usize = 64 << 10;

/// A type's OID and size, as RowDescription tells them.
pub type Type = (i32, i16);
const INT8: Type = (20, 8);
const FLOAT8: Type = (701, 8);
/// The type of whatever is no number and no bytes.
pub const TEXT: Type = (25, -1);
const BYTEA: Type = (17, -1);

/// Why a statement did not run: SQLSTATE and text.
pub struct SqlError(pub &'static str, pub String);

impl From<rusqlite::Error> for SqlError {
    fn from(err: rusqlite::Error) -> Self {
        let (state, text) = sqlite::explain(&err);
        Self(state, text)
    }
}

/// Runs a statement of SQLite's and sends its rows; gives the command tag.
pub fn rows(
    db: &Connection,
    out: &mut Outbox,
    stream: &mut TcpStream,
    sql: &str,
    first: &str,
    second: &str,
) -> io::Result<Result<String, SqlError>> {
    let mut statement = match db.prepare(sql) {
        Ok(statement) => statement,
        Err(e) => return Ok(Err(e.into())),
    };
    let columns: Vec<(String, Option<Type>)> = statement
        .columns()
        .map(|c| (c.name().to_owned(), c.decl_type().map(declared)))
        .collect();
    let reads = statement.readonly();
    let mut count = 0u64;
    let mut rows = match statement.query([]) {
        Ok(rows) => rows,
        Err(e) => return Ok(Err(e.into())),
    };
    loop {
        let row = match rows.next() {
            Ok(row) => row,
            Err(e) => return Ok(Err(e.into())),
        };
        if count == 0 && !columns.is_empty() {
            // An expression has no declared type: the first row's value tells it.
            let typed: Vec<_> = (columns.iter().enumerate())
                .map(|(i, (name, declared))| {
                    let seen = || row.and_then(|r| r.get_ref(i).ok()).map(of_value);
                    (name.clone(), declared.or_else(seen).unwrap_or(TEXT))
                })
                .collect();
            put_columns(out, &typed);
        }
        let Some(row) = row else { break };
        count += 1;
        let values: Vec<_> = (0..columns.len())
            .map(|i| row.get_ref(i).ok().and_then(sqlite::text))
            .collect();
        put_row(out, &values);
        if out.waiting() > FLUSH {
            out.flush(stream)?;
        }
    }
    drop(rows);
    let changed = if reads { count } else { db.changes() };
    Ok(Ok(match first {
        "INSERT" | "REPLACE" => format!("INSERT 0 {changed}"),
        "UPDATE" | "DELETE" => format!("{first} {changed}"),
        "CREATE" | "DROP" | "ALTER" => format!("{first} {second}"),
        "SAVEPOINT" | "RELEASE" | "ROLLBACK" => first.into(),
        _ if !columns.is_empty() => format!("SELECT {count}"),
        _ if !reads => format!("UPDATE {changed}"),
        _ => first.into(),
    }))
}

/// SQLite's rules of type affinity (datatype3.html, 3.1), the other way round.
fn declared(name: &str) -> Type {
    let name = name.to_ascii_uppercase();
    if name.contains("INT") {
        INT8
    } else if ["REAL", "FLOA", "DOUB"].iter().any(|n| name.contains(n)) {
        FLOAT8
    } else if name.contains("BLOB") {
        BYTEA
    } else {
        TEXT
    }
}

fn of_value(value: rusqlite::types::ValueRef<'_>) -> Type {
    use rusqlite::types::ValueRef::*;
    match value {
        Integer(_) => INT8,
        Real(_) => FLOAT8,
        Blob(_) => BYTEA,
        Text(_) | Null => TEXT,
    }
}

/// RowDescription.
pub fn put_columns(out: &mut Outbox, columns: &[(String, Type)]) {
    out.message(b'T', |b| {
        b.extend((columns.len() as i16).to_be_bytes());
        for (name, (oid, size)) in columns {
            put_text(b, name);
            b.extend([0; 6]); // of no table's column
            b.extend(oid.to_be_bytes());
            b.extend(size.to_be_bytes());
            b.extend((-1i32).to_be_bytes()); // no type modifier
            b.extend(0i16.to_be_bytes()); // text format
        }
    });
}

/// DataRow.
pub fn put_row(out: &mut Outbox, values: &[Option<String>]) {
    out.message(b'D', |b| {
        b.extend((values.len() as i16).to_be_bytes());
        for value in values {
            match value {
                None => b.extend((-1i32).to_be_bytes()),
                Some(text) => {
                    b.extend((text.len() as i32).to_be_bytes());
                    b.extend(text.as_bytes());
                }
            }
        }
    });
}

/// ErrorResponse.
pub fn put_error(out: &mut Outbox, severity: &str, SqlError(state, text): &SqlError) {
    out.message(b'E', |b| {
        for (field, value) in [('S', severity), ('V', severity), ('C', state), ('M', text)] {
            b.push(field as u8);
            put_text(b, value);
        }
        b.push(0);
    });
}
