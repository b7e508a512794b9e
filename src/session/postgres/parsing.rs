//! Settings that the server goes by when it reads a statement: what a prepared one means was settled under those of its time, and
//! made again it would be read under those of now.

use super::snapshot::Kind;
use super::{Reason, Snapshot};

/// The server reports when one changes.
const REPORTED: [&[u8]; 4] = [
    b"DateStyle",
    b"IntervalStyle",
    b"TimeZone",
    b"standard_conforming_strings",
];
/// The server does not: they are compared from one answer to the next.
const UNREPORTED: [&str; 5] = [
    "array_nulls",
    "lc_monetary",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

type Values = [Option<Box<[u8]>>; UNREPORTED.len()];

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Parsing {
    /// A statement was prepared, as far as the messages tell.
    prepared: bool,
    /// A reported one has changed; the same after a statement was prepared.
    changed: bool,
    otherwise: bool,
    /// The others at the last answer.
    unreported: Option<Values>,
}

impl Parsing {
    /// Whether what a statement means may depend on it.
    pub(super) fn is_read_by(name: &[u8]) -> bool {
        REPORTED.contains(&name)
    }

    /// The same of one of which the server does not report.
    pub(super) fn is_read_silently_by(name: &[u8]) -> bool {
        let same = |it: &&str| it.as_bytes().eq_ignore_ascii_case(name);
        // SET XML OPTION.
        UNREPORTED.iter().any(same) || name.eq_ignore_ascii_case(b"xml")
    }

    /// A statement is being prepared.
    pub(super) fn prepares(&mut self) {
        self.prepared = true;
    }

    /// A reported one of them has changed.
    pub(super) fn changes(&mut self) {
        self.changed = true;
        self.otherwise |= self.prepared;
    }

    /// The session is this, and nothing was sent since it was asked. Whether statements of it may mean something else if they are
    /// made again.
    pub(super) fn seen(&mut self, state: &Snapshot) -> Option<Reason> {
        let values = UNREPORTED.map(|name| state.setting(name).map(Box::from));
        let differ = match self.unreported.replace(values) {
            Some(before) => self.unreported.as_ref() != Some(&before),
            None => state.of(Kind::Setting).any(|row| {
                *row.source == *b"session"
                    && UNREPORTED.iter().any(|it| *row.name == *it.as_bytes())
            }),
        };
        if !state.has_prepared() {
            (self.prepared, self.changed, self.otherwise) = (false, false, false);
            return None;
        }
        // One that a function has prepared shows here only.
        let hidden = !std::mem::replace(&mut self.prepared, true);
        self.otherwise |= differ || (hidden && self.changed);
        self.otherwise.then_some(Reason::PreparedOtherwise)
    }
}
