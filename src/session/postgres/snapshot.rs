//! What a session has become, as the server extension tells it, or the catalogs do.

use super::message::columns;
use super::{Policy, Reason};

/// See the module's text. Texts are in the session's client encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) rows: Vec<Row>,
}

/// See [`Snapshot::written`].
pub type Written = (Box<[u8]>, Box<[u8]>);

/// One row of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) name: Box<[u8]>,
    pub(super) value: Option<Box<[u8]>>,
    pub(super) source: Box<[u8]>,
    pub(super) types: Box<[u32]>,
}

/// The kinds of rows that somebody asks for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Authenticated,
    Authorization,
    Role,
    Setting,
    Prepared,
    /// The columns that a prepared statement gives.
    Result,
    Listen,
    Library,
    /// How far the session has written, at most.
    Written,
    /// Fingerprints of what could set something unseen.
    Catalog,
    /// What cannot be made again, and why.
    Fixed(Reason),
}

/// Libraries that keep nothing in a session but settings: those are rows by themselves.
pub(super) const STATELESS: &[&[u8]] = &[
    b"vianet",
    b"plpgsql",
    b"llvmjit",
    b"_int",
    b"amcheck",
    b"auto_explain",
    b"autoinc",
    b"bloom",
    b"btree_gin",
    b"btree_gist",
    b"citext",
    b"cube",
    b"dict_int",
    b"dict_snowball",
    b"dict_xsyn",
    b"earthdistance",
    b"file_fdw",
    b"fuzzystrmatch",
    b"hstore",
    b"insert_username",
    b"lo",
    b"ltree",
    b"moddatetime",
    b"pageinspect",
    b"passwordcheck",
    b"pg_buffercache",
    b"pg_freespacemap",
    b"pg_prewarm",
    b"pg_stat_statements",
    b"pg_trgm",
    b"pg_visibility",
    b"pgcrypto",
    b"pgrowlocks",
    b"pgstattuple",
    b"pgxml",
    b"refint",
    b"seg",
    b"sslinfo",
    b"tablefunc",
    b"tcn",
    b"tsm_system_rows",
    b"tsm_system_time",
    b"unaccent",
    b"uuid-ossp",
    // Conversions between encodings; those from and to UTF-8 have names of one kind.
    b"cyrillic_and_mic",
    b"euc2004_sjis2004",
    b"euc_cn_and_mic",
    b"euc_jp_and_sjis",
    b"euc_kr_and_mic",
    b"euc_tw_and_big5",
    b"latin2_and_win1250",
    b"latin_and_mic",
];
const CONVERSION: &[u8] = b"utf8_and_";
/// The source of a result that the server has to be asked for.
const UNDESCRIBED: &[u8] = b"undescribed";

impl Policy {
    /// Whether a library keeps nothing in a session.
    pub(super) fn keeps_nothing(&self, library: &[u8]) -> bool {
        let name = library.strip_suffix(b".so").unwrap_or(library);
        STATELESS.contains(&name)
            || name.starts_with(CONVERSION)
            || self.libraries.iter().any(|known| known.as_bytes() == name)
    }

    /// Whether a function, with its schema, sets nothing that would be missed.
    pub(super) fn trusts(&self, function: &str) -> bool {
        self.trusted
            .iter()
            .any(|known| match known.strip_suffix('*') {
                Some(beginning) => function.starts_with(beginning),
                None => function == known,
            })
    }
}

impl Snapshot {
    /// Of DataRows; what is called `ours` among the prepared statements is not the session's. `None`: they are not
    /// understood.
    pub(super) fn read(rows: &[&[u8]], ours: &str) -> Option<Self> {
        let mut read = Vec::with_capacity(rows.len());
        for row in rows {
            let row = Row::read(row)?;
            let of_statement = matches!(row.kind, Kind::Prepared | Kind::Result);
            if !of_statement || *row.name != *ours.as_bytes() {
                read.push(row);
            }
        }
        let one = |kind| read.iter().filter(|row| row.kind == kind).count() == 1;
        // A session has each of them, whatever it is.
        let whole = one(Kind::Authenticated) && one(Kind::Authorization) && one(Kind::Role);
        whole.then_some(Self { rows: read })
    }

    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.kind == kind)
    }

    /// The value of the one row of this kind.
    pub(super) fn value(&self, kind: Kind) -> Option<&[u8]> {
        self.of(kind).next()?.value.as_deref()
    }

    /// The value of a setting.
    pub(super) fn setting(&self, name: &str) -> Option<&[u8]> {
        let mut settings = self.of(Kind::Setting);
        let found = settings.find(|row| *row.name == *name.as_bytes())?;
        found.value.as_deref()
    }

    /// How far the session has written: a timeline, and a position in it.
    pub fn written(&self) -> Option<Written> {
        let row = self.of(Kind::Written).next()?;
        Some((row.name.clone(), row.value.clone()?))
    }

    /// The columns of prepared statements, as Describe gave them: RowDescriptions in the order of the statements' names.
    pub(super) fn describe(&mut self, columns: &[Option<&[u8]>]) -> Option<()> {
        if columns.is_empty() {
            return Some(());
        }
        let names = self.prepared();
        for (name, columns) in names.iter().zip(columns) {
            let mut rows = self.rows.iter_mut();
            let row = rows.find(|row| row.kind == Kind::Result && row.name == *name)?;
            row.value = columns.map(Box::from);
            row.source = Box::default();
        }
        (names.len() == columns.len()).then_some(())
    }

    /// The server ends a session like this that does nothing.
    pub fn times_out(&self) -> bool {
        let limit = self.setting("idle_session_timeout");
        limit.is_some_and(|limit| limit != b"0")
    }

    /// The same of a session that listens to nothing.
    pub(super) fn without_listens(mut self) -> Self {
        self.rows.retain(|row| row.kind != Kind::Listen);
        self
    }

    /// The names of prepared statements, in order.
    pub(super) fn prepared(&self) -> Vec<Box<[u8]>> {
        let mut names: Vec<_> = self
            .of(Kind::Prepared)
            .map(|row| row.name.clone())
            .collect();
        names.sort();
        names
    }

    /// The columns of prepared statements are still to be asked for.
    pub(super) fn is_undescribed(&self) -> bool {
        self.of(Kind::Result).any(|row| *row.source == *UNDESCRIBED)
    }

    /// Statements are prepared.
    pub(super) fn has_prepared(&self) -> bool {
        self.of(Kind::Prepared).next().is_some()
    }

    /// Why a session like this cannot be made again elsewhere.
    pub fn obstacle(&self, policy: &Policy) -> Option<Reason> {
        let on = |name| self.setting(name) == Some(b"on");
        let serializable = self.setting("default_transaction_isolation") == Some(b"serializable");
        let waits = on("default_transaction_deferrable") && on("default_transaction_read_only");
        if serializable && waits {
            // Whatever we ask waits for other transactions, and the application behind us.
            return Some(Reason::Deferrable);
        }
        self.rows.iter().find_map(|row| row.obstacle(policy))
    }
}

impl Row {
    fn read(row: &[u8]) -> Option<Self> {
        let columns = columns(row)?;
        let [Some(kind), name, value, source, types] = columns[..] else {
            return None;
        };
        let kind = match kind {
            b"authenticated" => Kind::Authenticated,
            b"session_authorization" => Kind::Authorization,
            b"role" => Kind::Role,
            b"setting" => Kind::Setting,
            b"prepared" => Kind::Prepared,
            b"result" => Kind::Result,
            b"listen" => Kind::Listen,
            b"library" => Kind::Library,
            b"written" => Kind::Written,
            b"catalog" => Kind::Catalog,
            b"ambiguous" => Kind::Fixed(Reason::Ambiguous),
            b"temporary" => Kind::Fixed(Reason::Temporary),
            b"advisory" => Kind::Fixed(Reason::AdvisoryLock),
            b"cursor" => Kind::Fixed(Reason::HoldableCursor),
            b"replication_slot" | b"replication_origin" => Kind::Fixed(Reason::Replication),
            b"transaction" => Kind::Fixed(Reason::Transaction),
            // A backup, and whatever a later version knows.
            _ => Kind::Fixed(Reason::UnknownState),
        };
        let types = match types {
            None => Vec::new(),
            Some(list) => oids(list)?,
        };
        Some(Self {
            kind,
            name: name.unwrap_or_default().into(),
            value: value.map(Box::from),
            source: source.unwrap_or_default().into(),
            types: types.into(),
        })
    }

    fn obstacle(&self, policy: &Policy) -> Option<Reason> {
        match self.kind {
            Kind::Fixed(reason) => Some(reason),
            Kind::Listen if !policy.listening => Some(Reason::Listens),
            Kind::Library if !policy.keeps_nothing(&self.name) => Some(Reason::Library),
            Kind::Prepared if *self.source == *b"batch" => Some(Reason::PreparedInBatch),
            Kind::Authenticated | Kind::Authorization | Kind::Role | Kind::Setting
                if self.value.is_none() =>
            {
                Some(Reason::Unreadable)
            }
            Kind::Prepared if self.value.is_none() => Some(Reason::Unreadable),
            _ => None,
        }
    }

    /// A setting that a library has by itself, as soon as it is loaded. (RESET and ROLLBACK leave a custom setting with the same
    /// source, and empty, where a session that knows nothing of it raises an error.)
    pub(super) fn is_default_of_library(&self) -> bool {
        let empty = self.value.as_ref().is_none_or(|value| value.is_empty());
        *self.source == *b"default" && !empty
    }

    /// A fraction that the server has from elsewhere than the session, and shows six digits of: good enough to compare.
    pub(super) fn is_rounded(&self) -> bool {
        *self.source == *b"rounded"
    }

    /// Of a library: its name.
    pub(super) fn library(&self) -> &[u8] {
        self.name.strip_suffix(b".so").unwrap_or(&self.name)
    }
}

/// An array of oids as text.
fn oids(list: &[u8]) -> Option<Vec<u32>> {
    let list = std::str::from_utf8(list).ok()?;
    let list = list.strip_prefix('{')?.strip_suffix('}')?;
    let oids = list.split(',').filter(|oid| !oid.is_empty());
    oids.map(|oid| oid.parse().ok()).collect()
}
