//! What the clients know of what they did, and what became of their sessions; held against the tables at the end of a round.

use crate::faults::Fault;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A program whose sessions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Libpq,
    Psql,
    Pgbench,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Pgbench, Self::Psql, Self::Libpq];

    pub fn name(self) -> &'static str {
        match self {
            Self::Libpq => "libpq program",
            Self::Psql => "psql script",
            Self::Pgbench => "pgbench",
        }
    }
}

/// What a client was told of a row, or of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acked,
    Refused,
    Unknown,
}

impl Outcome {
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "acked" => Some(Self::Acked),
            "refused" => Some(Self::Refused),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }

    /// Whether that is the truth about something of which this many copies are there.
    pub fn allows(self, copies: usize) -> bool {
        match self {
            Self::Acked => copies == 1,
            Self::Refused => copies == 0,
            Self::Unknown => copies <= 1,
        }
    }
}

/// How many sessions lost their server, and how many of these ended for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    pub exposed: u64,
    /// Told that nothing had run, or that the transaction is gone.
    pub refused: u64,
    /// Told that nobody knows.
    pub unknown: u64,
}

impl Cell {
    /// Sessions that lost their server: at least those that ended for it. (One that ends in the moment in which they are counted is not
    /// among `exposed`.)
    pub fn lost(&self) -> u64 {
        self.exposed.max(self.refused + self.unknown)
    }

    pub fn hidden(&self) -> u64 {
        self.exposed.saturating_sub(self.refused + self.unknown)
    }

    pub fn add(&mut self, other: &Self) {
        self.exposed += other.exposed;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}

/// What pgbench says of its transactions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pgbench {
    pub acked: u64,
    /// Clients that were aborted in one.
    pub unknown: u64,
    /// There may be more.
    pub uncounted: bool,
}

#[derive(Default)]
pub struct Books {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub struct Inner {
    pub ledger: HashMap<i64, Outcome>,
    pub transfers: HashMap<i64, Outcome>,
    /// Unknown rows, and how many of each its client found afterwards.
    pub looked: HashMap<i64, usize>,
    pub pgbench: Pgbench,
    pub cells: BTreeMap<(Kind, Fault), Cell>,
    /// Why sessions ended, and how often.
    pub reasons: BTreeMap<String, u64>,
    pub wrong: Vec<String>,
    /// The last fault, to which what ends now is put down, and when it was.
    fault: Option<Fault>,
    at: Option<Instant>,
}

impl Books {
    pub fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap())
    }

    pub fn wrong(&self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("WRONG: {text}");
        self.with(|inner| inner.wrong.push(text));
    }

    pub fn ledger(&self, id: i64, outcome: Outcome) {
        if self
            .with(|inner| inner.ledger.insert(id, outcome))
            .is_some()
        {
            self.wrong(format!("the soak itself: row {id} twice"));
        }
    }

    pub fn transfer(&self, id: i64, outcome: Outcome) {
        if self
            .with(|inner| inner.transfers.insert(id, outcome))
            .is_some()
        {
            self.wrong(format!("the soak itself: transfer {id} twice"));
        }
    }

    /// A fault begins, which so many sessions of a kind meet.
    pub fn exposes(&self, fault: Fault, sessions: &[(Kind, u64)]) {
        self.with(|inner| {
            (inner.fault, inner.at) = (Some(fault), Some(Instant::now()));
            for (kind, count) in sessions {
                inner.cells.entry((*kind, fault)).or_default().exposed += count;
            }
        });
    }

    /// What ends now ends by it.
    pub fn fault(&self) -> Option<Fault> {
        self.with(|inner| inner.fault)
    }

    /// Sessions have ended by themselves: of a loss that is younger than `since` they may not have seen anything.
    pub fn left(&self, kind: Kind, sessions: u64, since: Duration) {
        self.with(|inner| {
            let Some((fault, at)) = inner.fault.zip(inner.at) else {
                return;
            };
            if at.elapsed() < since {
                let cell = inner.cells.entry((kind, fault)).or_default();
                cell.exposed = cell.exposed.saturating_sub(sessions);
            }
        });
    }

    /// A session has ended with an error, because of a fault.
    pub fn broke(&self, kind: Kind, fault: Option<Fault>, code: &str, text: &str) {
        // The library's own words say why.
        let ours = text.contains("the server was lost");
        let refused = ours && matches!(code, "57P01" | "08006");
        let reason = match (ours, code) {
            (true, "57P01") => why(text).to_owned(),
            (true, _) => code.to_owned(),
            (false, "-") => "closed".to_owned(),
            (false, code) => format!("{code} of the server"),
        };
        let reason = format!("{}: {reason}", kind.name());
        self.with(|inner| {
            *inner.reasons.entry(reason).or_default() += 1;
            let Some(fault) = fault else { return };
            let cell = inner.cells.entry((kind, fault)).or_default();
            match refused {
                true => cell.refused += 1,
                false => cell.unknown += 1,
            }
        });
    }
}

/// The word for the reason, as the library's text has it.
fn why(text: &str) -> &str {
    let (_, rest) = text
        .split_once("moved to another server: ")
        .unwrap_or_default();
    rest.split([' ', '.']).next().unwrap_or_default()
}
