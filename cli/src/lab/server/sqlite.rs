//! The database below both protocols: one SQLite file that the servers of both nodes open, as the nodes of a
//! shared-disk cluster do.
//!
//! Write-ahead log with `synchronous = FULL`: a commit is on disk before it is answered, and a server that is killed
//! in the middle of one leaves a database that the other opens without loss. SQLite's locks keep two writers apart;
//! a *frozen* writer would keep its lock for ever, which is what the fence hook is for.

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::path::Path;
use std::time::Duration;

/// How long a statement waits for another writer.
const BUSY: Duration = Duration::from_secs(5);

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A session: transactions, temporary tables, settings.
    Session,
    /// Statements that stand for themselves, so that nothing is lost when the next one runs on another node.
    Sessionless,
}

/// Opens the database for one client.
pub fn open(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.authorizer(Some(move |context: AuthContext<'_>| {
        match allowed(&context.action, access) {
            true => Authorization::Allow,
            false => Authorization::Deny,
        }
    }))?;
    Ok(db)
}

fn allowed(action: &AuthAction<'_>, access: Access) -> bool {
    use AuthAction::*;
    match action {
        // Other files of this machine, and switches that would undo `open`.
        Attach { .. } | Detach { .. } | Pragma { .. } | Unknown { .. } => false,
        Transaction { .. } | Savepoint { .. } => access == Access::Session,
        CreateTempTable { .. } | CreateTempIndex { .. } | CreateTempView { .. } => {
            access == Access::Session
        }
        CreateTempTrigger { .. } => access == Access::Session,
        Function { function_name } => {
            access == Access::Session
                || !["last_insert_rowid", "changes", "total_changes"]
                    .contains(&function_name.to_ascii_lowercase().as_str())
        }
        _ => true,
    }
}

/// A value as text, in PostgreSQL's form; `None` is NULL.
pub fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) if x.is_infinite() => {
            Some(if x > 0.0 { "Infinity" } else { "-Infinity" }.into())
        }
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        ValueRef::Blob(bytes) => {
            let hex = bytes.iter().map(|b| format!("{b:02x}"));
            Some(format!("\\x{}", hex.collect::<String>()))
        }
    }
}

/// SQLSTATE and message of an error.
pub fn explain(err: &rusqlite::Error) -> (&'static str, String) {
    let (code, text) = match err {
        rusqlite::Error::SqliteFailure(code, Some(text)) => (*code, text.clone()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (*error, msg.clone()),
        other => return ("XX000", other.to_string()),
    };
    let state = match (code.code, code.extended_code) {
        (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => "23505",
        (_, ffi::SQLITE_CONSTRAINT_NOTNULL) => "23502",
        (_, ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => "23503",
        (_, ffi::SQLITE_CONSTRAINT_CHECK) => "23514",
        (ErrorCode::ConstraintViolation, _) => "23000",
        // The transaction read a state that others have changed since: run it again from its beginning.
        (_, ffi::SQLITE_BUSY_SNAPSHOT) => "40001",
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => "55P03",
        (ErrorCode::OperationInterrupted, _) => "57014",
        (ErrorCode::ReadOnly, _) => "25006",
        (ErrorCode::DiskFull, _) => "53100",
        (ErrorCode::OutOfMemory, _) => "53200",
        (ErrorCode::AuthorizationForStatementDenied, _) => "42501",
        _ if text.starts_with("not authorized") => "42501",
        _ if text.contains("syntax error") || text.contains("incomplete input") => "42601",
        _ if text.starts_with("no such table") => "42P01",
        _ if text.starts_with("no such column") => "42703",
        _ if text.starts_with("no such function") => "42883",
        _ if text.contains("already exists") => "42P07",
        _ => "XX000",
    };
    (state, text)
}
