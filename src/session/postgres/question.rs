//! What we ask a server in a session that is the application's: at a safe point, by a named statement and portal (a simple
//! query would destroy the unnamed ones), with qualified names and operators and in plain ASCII, so that no setting and no
//! object of the session changes what is meant. Each but [`Question::Rollback`] is one SELECT outside a transaction block, so that nothing can be left
//! behind, whatever comes of it, but the named statement, which the next one closes.

use super::derived::{self, BETWEEN, CATALOG, SETS, UPDATE};
use super::message::{Messages, Writer, error};
use super::texts::Suspect;
use super::{Identity, Snapshot};
use std::sync::Arc;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which server it is.
    Identity,
    /// What the session has become: as our extension tells it.
    State,
    /// The same out of the catalogs.
    Derived {
        /// Names of custom settings that it may have, one a line.
        custom: Vec<u8>,
        /// Its prepared statements, in order, where they are known.
        prepared: Vec<Box<[u8]>>,
    },
    /// What could set something that the catalogs do not tell.
    Catalog,
    /// None: the aborted block of a lost transaction is rolled back, since the application has said COMMIT.
    Rollback,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Identity`].
    Identity(Identity),
    /// To [`Question::State`] and [`Question::Derived`].
    State(Snapshot),
    /// To [`Question::Catalog`].
    Catalog(Arc<[Suspect]>),
    /// To [`Question::Rollback`].
    RolledBack,
}

/// By the control file, and by the name of the file that is being written: the control file learns of a new timeline with
/// the first checkpoint only. Functions in C are a superuser's: a schema that somebody else called `vianet` is not asked. (Nor
/// is its name resolved, which is an error for who may not look into it.)
const IDENTITY: &str = "SELECT c.system_identifier, \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
    ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END, \
    EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n \
    ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
    WHERE n.nspname OPERATOR(pg_catalog.=) 'vianet' AND p.proname OPERATOR(pg_catalog.=) 'session_state' \
    AND CAST(p.proargtypes AS pg_catalog.text) OPERATOR(pg_catalog.=) '16' \
    AND p.prolang OPERATOR(pg_catalog.=) CAST(13 AS pg_catalog.oid)) \
    FROM pg_catalog.pg_control_system() AS c";
const STATE: &str = "SELECT s.kind, s.name, s.value, s.source, s.parameter_types FROM vianet.session_state(true) AS s";

/// Describe reads a statement again, and waits for the locks of its tables: whoever holds one may be the same application, which
/// waits for this session.
const PATIENCE: &str = "SELECT pg_catalog.set_config('lock_timeout', '100', true)";

/// The name under which a question is asked; `seed` makes it one that the application has not.
pub(super) fn name(seed: u64) -> String {
    format!("vianet {seed:016x}")
}

impl Question {
    /// The messages, which one ReadyForQuery ends.
    pub fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(seed, &mut out);
        out.into_bytes()
    }

    pub(super) fn write(&self, seed: u64, out: &mut Writer) {
        let own = name(seed);
        let (text, parameters): (&str, &[&[u8]]) = match self {
            Self::Identity => (IDENTITY, &[]),
            Self::State => (STATE, &[]),
            Self::Derived { custom, .. } => (&derived::STATE, &[custom, own.as_bytes(), BETWEEN]),
            Self::Catalog => (&CATALOG, &[SETS, UPDATE]),
            Self::Rollback => ("ROLLBACK", &[]),
        };
        // What an error left there of the one before.
        out.close(own.as_bytes());
        out.run(&own, text.as_bytes(), parameters);
        if let Self::Derived { prepared, .. } = self
            && !prepared.is_empty()
        {
            // Up to the Sync; the state was read before.
            out.run(&own, PATIENCE.as_bytes(), &[]);
            prepared.iter().for_each(|name| out.describe(name));
        }
        out.sync();
    }

    /// Reads what came back, up to its ReadyForQuery. The error is for the log.
    pub fn read(&self, seed: u64, bytes: &[u8]) -> Result<Answer, String> {
        let mut rows = Vec::new();
        let mut described = Vec::new();
        let (mut end, mut told) = (None, None);
        let mut taken = 0;
        for (kind, body) in Messages(bytes) {
            taken += body.len() + 5;
            match kind {
                // Of the first of them; see PATIENCE.
                b'D' if told.is_some() => {}
                b'D' => rows.push(body),
                b'E' => {
                    let (code, text) = error(body);
                    return Err(format!("{code} {text}"));
                }
                b'C' => told = told.or(Some(body)),
                b'Z' => end = Some(body),
                b'T' => described.push(Some(body)),
                b'n' => described.push(None),
                b'1' | b'2' | b'3' | b't' | b'N' | b'A' | b'S' => {}
                kind => {
                    return Err(format!("a message {:?} came back", char::from(kind)));
                }
            }
        }
        let all = match self {
            Self::Rollback => "ROLLBACK\0".to_owned(),
            _ => format!("SELECT {}\0", rows.len()),
        };
        if end != Some(b"I") || told != Some(all.as_bytes()) || taken != bytes.len() {
            return Err("the answer is not whole".into());
        }
        let answer = match self {
            Self::Identity => Identity::read(&rows).map(Answer::Identity),
            Self::State | Self::Derived { .. } => Snapshot::read(&rows, &name(seed))
                .and_then(|mut state| state.describe(&described).map(|()| state))
                .map(Answer::State),
            Self::Catalog => derived::suspects(&rows).map(Answer::Catalog),
            Self::Rollback => Some(Answer::RolledBack),
        };
        answer.ok_or_else(|| "the answer is not understood".into())
    }
}
