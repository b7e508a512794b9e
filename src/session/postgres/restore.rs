//! What makes a fresh session the one that was, or one that was made beforehand what it has become: statements in an order in which
//! each works and none disturbs another.

use super::Snapshot;
use super::message::Writer;
use super::snapshot::{Kind, Row};

const SET: &[u8] = b"SELECT pg_catalog.set_config($1, $2, false)";
/// The first: values are in this encoding.
const ENCODING: &[u8] = b"client_encoding";
/// The last: they may end what follows.
const LIMITS: [&[u8]; 6] = [
    b"lock_timeout",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
    b"log_min_duration_statement",
    b"transaction_timeout",
    b"statement_timeout",
];

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Set(&'a [u8], &'a [u8]),
    /// By its text.
    Run(&'a [u8]),
    Parse(&'a Row),
    /// Of a prepared statement.
    Close(&'a [u8]),
    Listen(&'a [u8]),
}

/// The steps from `now` to `then`. What is prepared there already is prepared `again` if settings have changed since.
pub(super) fn plan<'a>(then: &'a Snapshot, now: &'a Snapshot, again: bool) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let mut settings: Vec<_> = then
        .of(Kind::Setting)
        .filter(|row| differs(row, now))
        .filter_map(|row| Some((&*row.name, row.value.as_deref()?)))
        .collect();
    settings.sort_by_key(|(name, _)| order(name));
    let first = settings.partition_point(|(name, _)| order(name) < LAST);
    let (settings, limits) = settings.split_at(first);
    let set = |(name, value): &(&'a [u8], &'a [u8])| Step::Set(name, value);
    steps.extend(settings.iter().map(set));
    // As the user of the login, who may set what the session's last role may not; the role goes with the authorization.
    for (kind, name) in [
        (Kind::Authorization, &b"session_authorization"[..]),
        (Kind::Role, b"role"),
    ] {
        if let Some(value) = then.value(kind)
            && now.value(kind) != Some(value)
        {
            steps.push(Step::Set(name, value));
        }
    }
    // What a statement's text means is settled when it is prepared, by the settings of that moment.
    let again = again || !steps.is_empty() || !limits.is_empty();
    let is_there = |rows: &Snapshot, row: &Row| !again && rows.of(row.kind).any(|it| it == row);
    let over = (now.of(Kind::Prepared)).filter(|row| !is_there(then, row));
    steps.extend(over.map(|row| Step::Close(&row.name)));
    let listens = (then.of(Kind::Listen)).filter(|row| !now.of(Kind::Listen).any(|it| it == *row));
    steps.extend(listens.map(|row| Step::Listen(&row.name)));
    let prepared = (then.of(Kind::Prepared)).filter(|row| !is_there(now, row));
    steps.extend(prepared.filter_map(|row| {
        Some(match &*row.source {
            b"sql" => Step::Run(row.value.as_deref()?),
            _ => Step::Parse(row),
        })
    }));
    steps.extend(limits.iter().map(set));
    steps
}

/// Whether a setting has to be made. One that the session has set is made even where the value is there by itself: it must
/// not follow the server's configuration.
fn differs(row: &Row, now: &Snapshot) -> bool {
    let mut settings = now.of(Kind::Setting);
    match settings.find(|other| other.name == row.name) {
        Some(_) if row.is_rounded() => false,
        Some(other) => {
            other.value != row.value || (*row.source == *b"session" && other.source != row.source)
        }
        None => !row.is_default_of_library(),
    }
}

const LAST: usize = 2;

fn order(name: &[u8]) -> usize {
    let limit = LIMITS.iter().position(|limit| *limit == name);
    match limit {
        Some(at) => LAST + at,
        None => usize::from(name != ENCODING),
    }
}

/// The steps as messages, all of which fail together.
pub(super) fn write(steps: &[Step<'_>], own: &str, out: &mut Writer) {
    for step in steps {
        match step {
            Step::Set(name, value) => out.run(own, SET, &[name, value]),
            Step::Run(text) => out.run(own, text, &[]),
            Step::Parse(row) => {
                let text = row.value.as_deref().unwrap_or_default();
                out.parse(&row.name, text, &row.types);
            }
            Step::Close(name) => out.close(name),
            Step::Listen(channel) => {
                out.run(own, &[b"LISTEN ", &quoted(channel)[..]].concat(), &[]);
            }
        }
    }
    out.sync();
}

/// An identifier as SQL has it. (No encoding of PostgreSQL's has a quote among the later bytes of a character.)
fn quoted(name: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in name {
        out.push(*byte);
        if *byte == b'"' {
            out.push(b'"');
        }
    }
    out.push(b'"');
    out
}
