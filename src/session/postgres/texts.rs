//! What the statements of a session may have done to it that its server does not list: names of custom settings that may be set, and
//! whether something else may be. Only where the server lacks our extension; values are never taken from here.
//!
//! Nothing is parsed: words are found wherever they stand, in literals and comments too, and whatever may mean more than it seems to is
//! a *doubt*, for good. Memory is bounded: a filter of the words, some names, and one text at a time.

use super::custom::{self, Name};
use super::message::bound;
use super::parsing::Parsing;
use super::snapshot::{Kind, Row};
use super::words::{Token, Tokens, Words};
use super::{Policy, Reason, Snapshot};
use std::sync::Arc;

/// Longest text that is read. Bytes.
const LONGEST: usize = 262_144;
/// Most names, and bytes of them.
const NAMES: usize = 256;
const NAME_BYTES: usize = 16_384;
/// What runs a text as a statement, or keeps something in a session that no catalog tells.
const DYNAMIC: [&[u8]; 8] = [
    b"query_to_xml",
    b"query_to_xmlschema",
    b"query_to_xml_and_xmlschema",
    b"ts_stat",
    b"ts_rewrite",
    b"pg_backup_start",
    b"pg_start_backup",
    b"pg_replication_origin_session_setup",
];
/// What may call a function, or is one: where a statement changes one of them, nobody can tell any more what it was.
const OBJECTS: [&[u8]; 12] = [
    b"function",
    b"procedure",
    b"routine",
    b"aggregate",
    b"operator",
    b"cast",
    b"view",
    b"rule",
    b"policy",
    b"extension",
    b"language",
    b"owned",
];
/// Libraries that keep nothing, and run a text as a statement.
const RUNS: [&[u8]; 2] = [b"tablefunc", b"pgxml"];
/// Functions that libpq calls by number: those of large objects, whose descriptors end with the transaction.
const CALLED: [u32; 13] = [
    715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172,
];

/// A function, or what calls one by itself, that may set something unseen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// With its schema.
    pub name: String,
    /// Of one in C.
    pub library: Option<Vec<u8>>,
    /// Something else than a statement's text may call it.
    pub used: bool,
}

/// Stands for all of them that a database has: of what may set something, and of what may call it.
pub type Fingerprint = [Box<[u8]>; 2];

/// Why nobody knows what was set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Doubt {
    reason: Reason,
    /// What did it.
    what: String,
}

/// What a database has of them, as of two fingerprints.
#[derive(Clone, Debug, Default)]
struct Catalog {
    objects: Box<[u8]>,
    users: Box<[u8]>,
    /// `None`: it is to be asked for.
    suspects: Option<Arc<[Suspect]>>,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    /// The server tells everything by itself.
    off: bool,
    words: Words,
    names: Vec<Box<[u8]>>,
    doubt: Option<Doubt>,
    /// The name of what `set_config` sets is a parameter.
    by_parameter: bool,
    /// Something was run, perhaps, ever, and since the last answer.
    any: bool,
    since: bool,
    /// Something by which statements are read was set since the last answer.
    reads_otherwise: bool,
    /// The part of a message that has come.
    part: Vec<u8>,
    too_long: bool,
    catalog: Option<Catalog>,
}

impl Texts {
    /// The server tells by itself what a session has become.
    pub(super) fn stop(&mut self) {
        *self = Self {
            off: true,
            ..Self::default()
        };
    }

    /// Part of the body of a client's message; `last`: its end.
    pub(super) fn body(&mut self, kind: u8, bytes: &[u8], last: bool) {
        let reads = matches!(kind, b'Q' | b'P' | b'F') || (kind == b'B' && self.by_parameter);
        let runs = matches!(kind, b'Q' | b'P' | b'B' | b'E' | b'F');
        self.any |= runs;
        self.since |= runs;
        if self.off || !reads {
            return;
        }
        if last && self.part.is_empty() && !self.too_long {
            return self.asked(kind, bytes);
        }
        self.too_long |= self.part.len() + bytes.len() > LONGEST;
        if !self.too_long {
            self.part.extend_from_slice(bytes);
        }
        if last {
            let part = std::mem::take(&mut self.part);
            match std::mem::take(&mut self.too_long) {
                true => self.doubts(Reason::TooLarge, "a statement"),
                false => self.asked(kind, &part),
            }
        }
    }

    fn asked(&mut self, kind: u8, body: &[u8]) {
        match kind {
            b'B' => self.bound(body),
            b'F' => {
                let oid = body.first_chunk().map(|oid| u32::from_be_bytes(*oid));
                if oid.is_none_or(|oid| !CALLED.contains(&oid)) {
                    self.doubts(Reason::FunctionCall, "");
                }
            }
            // Its name is one more word, or two.
            _ => self.text(body),
        }
    }

    /// The startup packet's parameters, which may be settings.
    pub(super) fn startup(&mut self, packet: &[u8]) {
        let words = packet.split(|byte| *byte == 0 || byte.is_ascii_whitespace());
        for word in words {
            let name = word.split(|byte| *byte == b'=').next().unwrap_or_default();
            let name = name.strip_prefix(b"--").unwrap_or(name);
            let dashed: Vec<_> = name
                .iter()
                .map(|byte| if *byte == b'-' { b'_' } else { *byte })
                .collect();
            self.names(&dashed);
            if let Some(name) = name.strip_prefix(b"-c") {
                self.names(name);
            }
        }
    }

    /// A text of SQL.
    fn text(&mut self, text: &[u8]) {
        let mut tokens = Tokens::new(text);
        let (mut changes, mut plain) = (Changes::No, None);
        let (mut settings, mut updates) = (false, false);
        while let Some(token) = tokens.next() {
            let Token::Word { word, rest, begins } = token else {
                if token == Token::End && *plain.get_or_insert_with(|| is_plain(text)) {
                    changes = Changes::No;
                }
                continue;
            };
            self.words.insert(word);
            match word {
                b"set" | b"reset" => self.takes(custom::set(rest)),
                b"set_config" => self.takes(custom::called(rest)),
                b"current_setting" => {
                    if let Name::Is(name) = custom::called(rest) {
                        self.names(&name);
                    }
                }
                b"u" if rest.starts_with(b"&\"") => self.doubts(Reason::DynamicSql, "U&"),
                b"do" if begins && !custom::is_clause(rest) => self.doubts(Reason::DoBlock, ""),
                b"load" if begins => self.doubts(Reason::Load, ""),
                b"execute" if self.by_parameter => {
                    self.doubts(Reason::DynamicSql, "EXECUTE of set_config");
                }
                b"create" | b"alter" if begins => changes = Changes::Some,
                b"drop" if begins || changes == Changes::Some => changes = Changes::Drops,
                b"pg_settings" => settings = true,
                b"update" => updates = true,
                b"cascade" if changes == Changes::Drops => self.changed("CASCADE"),
                word if changes != Changes::No && OBJECTS.contains(&word) => {
                    self.changed(&String::from_utf8_lossy(word));
                }
                word if DYNAMIC.contains(&word) => {
                    self.doubts(Reason::DynamicSql, &String::from_utf8_lossy(word));
                }
                _ => {}
            }
        }
        if settings && updates {
            self.doubts(Reason::DynamicSql, "UPDATE of pg_settings");
        }
    }

    fn changed(&mut self, what: &str) {
        self.doubts(Reason::ObjectsChanged, what);
    }

    fn takes(&mut self, name: Name<'_>) {
        match name {
            Name::Is(name) => self.named(&name),
            Name::Parameter => self.by_parameter = true,
            Name::Unclear => self.doubts(Reason::DynamicSql, "the name of a setting"),
        }
    }

    /// Parameters: one may be the name of a setting.
    fn bound(&mut self, body: &[u8]) {
        let Some(values) = bound(body) else {
            return self.doubts(Reason::NotUnderstood, "Bind");
        };
        for value in values {
            // Blanks at the end of a character(n) are none of the text.
            self.named(value.trim_ascii_end());
        }
    }

    /// A setting that is set, perhaps.
    fn named(&mut self, name: &[u8]) {
        self.reads_otherwise |= Parsing::is_read_silently_by(name);
        match custom::is_hidden(name) {
            true => self.doubts(Reason::Unreadable, &String::from_utf8_lossy(name)),
            false => self.names(name),
        }
    }

    /// A name of a setting: kept if it is a custom one's.
    fn names(&mut self, name: &[u8]) {
        let mut known = self.names.iter();
        if !custom::is_custom(name) || known.any(|it| it.eq_ignore_ascii_case(name)) {
            return;
        }
        if !name.is_ascii() {
            // It is another one's in another client encoding, and some servers change its case.
            return self.doubts(Reason::Unreadable, &String::from_utf8_lossy(name));
        }
        let bytes: usize = self.names.iter().map(|name| name.len()).sum();
        if self.names.len() == NAMES || bytes + name.len() > NAME_BYTES {
            return self.doubts(Reason::TooLarge, "names of settings");
        }
        self.names.push(name.into());
    }

    /// Something unseen may have been set, for good.
    pub(super) fn doubts(&mut self, reason: Reason, what: &str) {
        let what = what.to_owned();
        self.doubt.get_or_insert(Doubt { reason, what });
    }

    /// Names of custom settings that the session may have, one a line.
    pub(super) fn custom(&self, policy: &Policy) -> Vec<u8> {
        let configured = policy.custom.iter().map(|name| name.as_bytes());
        let seen = self.names.iter().map(|name| &**name);
        seen.chain(configured).collect::<Vec<_>>().join(&b'\n')
    }

    /// The fingerprints of what is to be asked for, or was.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        let catalog = self.catalog.as_ref()?;
        Some([catalog.objects.clone(), catalog.users.clone()])
    }

    /// What was asked for.
    pub(super) fn suspects(&mut self, suspects: Arc<[Suspect]>) {
        if let Some(catalog) = &mut self.catalog {
            catalog.suspects = Some(suspects);
        }
    }

    /// The session is this, and nothing was sent since it was asked. Whether the functions of its database have to be asked for first.
    pub(super) fn lacks_suspects(&mut self, state: &Snapshot) -> bool {
        let Some(row) = state.of(Kind::Catalog).next() else {
            return false;
        };
        let (objects, users) = (&row.name, row.value.as_deref().unwrap_or_default());
        if let Some(known) = &self.catalog {
            if known.objects == *objects && *known.users == *users {
                return known.suspects.is_none();
            }
            if known.objects != *objects && self.since {
                // What they were when they were called is not known.
                self.changed("by another session");
            }
        }
        self.catalog = Some(Catalog {
            objects: objects.clone(),
            users: users.into(),
            suspects: None,
        });
        true
    }

    /// The session is this, nothing was sent since it was asked, and no functions have to be asked for. Why it may have set something
    /// unseen.
    pub(super) fn seen(&mut self, state: &Snapshot, policy: &Policy) -> Option<Reason> {
        if self.off || state.of(Kind::Catalog).next().is_none() {
            return None;
        }
        self.since = false;
        // One that was a role's or the database's default is the session's, whatever becomes of the default.
        let own = |row: &&Row| *row.source == *b"session";
        let settings = state.of(Kind::Setting).filter(own);
        settings.for_each(|row| self.names(&row.name));
        if std::mem::take(&mut self.reads_otherwise) && state.has_prepared() {
            self.doubts(Reason::PreparedOtherwise, "");
        }
        let suspects = self.catalog.as_ref().and_then(|it| it.suspects.as_deref());
        let mut suspects = suspects.unwrap_or_default().iter();
        let guilty = suspects.find(|it| {
            let library = it.library.as_deref();
            let harmless =
                library.is_some_and(|it| policy.keeps_nothing(it) && !RUNS.contains(&it));
            !harmless && !policy.trusts(&it.name) && (it.used || self.words.may_name(&it.name))
        });
        if let Some(guilty) = guilty.filter(|_| self.any) {
            let name = guilty.name.clone();
            self.doubts(Reason::Function, &name);
        }
        self.doubt.as_ref().map(|doubt| doubt.reason)
    }

    /// What a doubt is about.
    pub(super) fn about(&self, reason: Reason) -> &str {
        let doubt = self.doubt.as_ref().filter(|it| it.reason == reason);
        doubt.map_or("", |doubt| &doubt.what)
    }
}

/// Whether a semicolon in it is one: neither in quotes nor in a comment.
fn is_plain(text: &[u8]) -> bool {
    let quotes = |byte: &u8| matches!(byte, b'"' | b'\'' | b'$');
    let comments = |two: &[u8]| matches!(two, b"--" | b"/*");
    !text.iter().any(quotes) && !text.windows(2).any(comments)
}

/// Whether a statement changes what the database has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    No,
    Some,
    Drops,
}

#[cfg(test)]
mod tests;
