//! The line protocol of `ledger`: one SQL statement a line in, one JSON object a line out, and nothing is kept from one
//! line to the next. So a stream that is quiet can go on at another node without anybody noticing.
//!
//! `{"ok":true,"columns":[..],"rows":[[..]],"changes":n}` or `{"ok":false,"error":"..","code":"SQLSTATE"}`.
//! What a statement changed is committed when its answer is sent.

use super::sqlite::{self, Access};
use super::{Serving, split};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Longest line.
const MAX_LINE: u64 = 1 << 20;

/// Serves one client until it or the server ends.
pub fn serve(stream: TcpStream, serving: &Serving) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let db = match sqlite::open(&serving.database, Access::Sessionless) {
        Ok(db) => db,
        Err(e) => return answer(&mut out, &failed(&e)),
    };
    let Some(_session) = serving.enter(&stream, &db) else {
        let text = "this node stands by: it does not serve";
        return answer(&mut out, &refused("57P03", text));
    };
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if n == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            if n as u64 == MAX_LINE {
                let text = format!("a line has at most {MAX_LINE} bytes");
                answer(&mut out, &refused("54000", &text))?;
            }
            // The last bytes before the end are no line: they are not run.
            return Ok(());
        }
        let reply = match std::str::from_utf8(&line) {
            Ok(sql) => run(&db, sql.trim()),
            Err(_) => refused("22021", "the line is not UTF-8"),
        };
        answer(&mut out, &reply)?;
    }
}

fn run(db: &Connection, line: &str) -> Value {
    let statements = split::statements(line);
    let [sql] = statements[..] else {
        return refused("42601", "write exactly one statement a line");
    };
    let first = split::words(sql, 1).pop().unwrap_or_default();
    let keeps_state = [
        "BEGIN",
        "START",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "SAVEPOINT",
        "RELEASE",
        "SET",
        "PREPARE",
        "LISTEN",
    ];
    if keeps_state.contains(&first.as_str()) {
        let text = format!("{first}: every line stands for itself here, there is no session");
        return refused("0A000", &text);
    }
    match query(db, sql) {
        Ok(reply) => reply,
        Err(e) => failed(&e),
    }
}

fn query(db: &Connection, sql: &str) -> rusqlite::Result<Value> {
    let mut statement = db.prepare(sql)?;
    let columns: Vec<String> = (0..statement.column_count())
        .map(|i| statement.column_name(i).map(Into::into))
        .collect::<rusqlite::Result<_>>()?;
    let reads = statement.readonly();
    let mut found = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|i| row.get_ref(i).map(json_value));
        found.push(values.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    drop(rows);
    let changes = if reads { 0 } else { db.changes() };
    Ok(json!({"ok": true, "columns": columns, "rows": found, "changes": changes}))
}

fn json_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(x) if x.is_finite() => x.into(),
        other => sqlite::text(other).into(),
    }
}

fn failed(err: &rusqlite::Error) -> Value {
    let (code, text) = sqlite::explain(err);
    refused(code, &text)
}

fn refused(code: &str, text: &str) -> Value {
    json!({"ok": false, "error": text, "code": code})
}

fn answer(out: &mut TcpStream, reply: &Value) -> io::Result<()> {
    out.write_all(format!("{reply}\n").as_bytes())
}
