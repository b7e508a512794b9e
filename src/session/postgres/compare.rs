//! Whether a session that was made again is the one that was.

use super::Snapshot;
use super::snapshot::{Kind, Row};

/// Libraries whose work begins when they are loaded, and not with a call of a function of theirs, which would load them again.
const HOOKS: [&[u8]; 3] = [b"auto_explain", b"passwordcheck", b"pg_stat_statements"];

/// The first difference that matters, for the log.
pub(super) fn difference(then: &Snapshot, now: &Snapshot) -> Option<String> {
    for kind in [Kind::Authenticated, Kind::Authorization, Kind::Role] {
        // Its number, too: another role may have got its name.
        let who = |snapshot: &Snapshot| {
            let row = snapshot.of(kind).next()?;
            Some((row.value.clone(), row.types.clone()))
        };
        if who(then) != who(now) {
            return Some(format!("{kind:?} is another"));
        }
    }
    for kind in [Kind::Prepared, Kind::Result, Kind::Listen] {
        if sorted(then, kind) != sorted(now, kind) {
            return Some(format!("{kind:?} is not the same"));
        }
    }
    let loaded = |name: &[u8]| now.of(Kind::Library).any(|row| row.library() == name);
    let mut libraries = then.of(Kind::Library).map(Row::library);
    if let Some(name) = libraries.find(|name| HOOKS.contains(name) && !loaded(name)) {
        let name = String::from_utf8_lossy(name);
        return Some(format!("the library {name} is not loaded"));
    }
    if let Some(row) = now
        .rows
        .iter()
        .find(|row| matches!(row.kind, Kind::Fixed(_)))
    {
        return Some(format!("{:?} is there from the beginning", row.kind));
    }
    setting(then, now)
}

/// The same of settings alone.
pub(super) fn setting(then: &Snapshot, now: &Snapshot) -> Option<String> {
    let missing = then.of(Kind::Setting).find(|row| !has(now, row));
    let more = now.of(Kind::Setting).find(|row| !knows(then, row));
    let name = |row: &Row| String::from_utf8_lossy(&row.name).into_owned();
    match (missing, more) {
        (Some(row), _) => Some(format!("the setting {} is another", name(row))),
        (None, Some(row)) => Some(format!("the setting {} is new", name(row))),
        (None, None) => None,
    }
}

fn sorted(snapshot: &Snapshot, kind: Kind) -> Vec<&Row> {
    let mut rows: Vec<_> = snapshot.of(kind).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn find<'a>(snapshot: &'a Snapshot, row: &Row) -> Option<&'a Row> {
    let mut settings = snapshot.of(Kind::Setting);
    settings.find(|other| other.name == row.name)
}

/// The default of a library that is not loaded (yet) is as good as there.
fn has(now: &Snapshot, row: &Row) -> bool {
    match find(now, row) {
        Some(other) => {
            let own = |row: &Row| *row.source == *b"session";
            other.value == row.value && (own(other) || !own(row))
        }
        None => row.is_default_of_library(),
    }
}

fn knows(then: &Snapshot, row: &Row) -> bool {
    find(then, row).is_some() || row.is_default_of_library()
}
