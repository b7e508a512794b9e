//! What the text of a statement tells without being parsed: whether running it may commit, and whether it may do something that
//! a rollback does not undo. In doubt it does.

/// What the end of a transaction block would be by a statement that is run inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It stays, or fails.
    Stays,
    /// It is rolled back, and what follows is outside.
    RollsBack,
    /// That of what is executed.
    Executes,
    /// It may be committed.
    MayCommit,
}

/// Where the application takes itself to be behind a text, whatever became of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Where it was.
    Stays,
    /// Outside of a block.
    Outside,
    /// Outside, if it was.
    NotInside,
    /// Where what is executed leaves it.
    Executes,
    Unknown,
}

/// First words of single statements that end no block, wherever they are run.
const STAYS: [&str; 39] = [
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "with",
    "values",
    "table",
    "copy",
    "set",
    "reset",
    "show",
    "fetch",
    "move",
    "close",
    "declare",
    "lock",
    "savepoint",
    "release",
    "create",
    "alter",
    "drop",
    "truncate",
    "explain",
    "grant",
    "revoke",
    "comment",
    "analyze",
    "notify",
    "listen",
    "unlisten",
    "refresh",
    "reindex",
    "begin",
    "start",
    "cluster",
    "import",
    "security",
    "reassign",
];

/// See [`Effect`].
pub(super) fn effect(text: &[u8]) -> Effect {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    let Some(text) = without_comments(text) else {
        return Effect::MayCommit;
    };
    let mut statements = text.splitn(2, |byte| *byte == b';');
    let (first, rest) = (statements.next(), statements.next());
    if rest.is_some_and(|rest| rest.iter().any(|byte| !is_space(*byte))) {
        return Effect::MayCommit;
    }
    let first = first.unwrap_or_default();
    let mut words = first.split(|byte| !is_word(*byte));
    match words.next().unwrap_or_default() {
        // Or the name of a prepared statement, which is no matter: in doubt.
        word if is(word, "prepare") => match words.any(|word| is(word, "transaction")) {
            true => Effect::MayCommit,
            false => Effect::Stays,
        },
        word if STAYS.iter().any(|it| is(word, it)) => Effect::Stays,
        word if is(word, "execute") => Effect::Executes,
        word if is(word, "rollback") || is(word, "abort") => Effect::RollsBack,
        _ => Effect::MayCommit,
    }
}

/// See [`After`].
pub(super) fn after(text: &[u8]) -> After {
    let begins = |word| ["begin", "start", "chain"].iter().any(|it| is(word, it));
    // Its last statement, unless that is in a comment.
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    let is_one = |text: &&[u8]| !text.iter().all(|byte| is_space(*byte));
    let last = text.split(|byte| *byte == b';').rfind(is_one);
    let comments = text.windows(2).any(|two| two == b"--");
    if !comments
        && is_only(
            last.unwrap_or_default(),
            &["commit", "end", "rollback", "abort"],
        )
    {
        return After::Outside;
    }
    match effect(text) {
        _ if words(text).any(begins) => After::Unknown,
        Effect::Executes => After::Executes,
        Effect::Stays => After::Stays,
        Effect::RollsBack | Effect::MayCommit => After::NotInside,
    }
}

/// Whether it is nothing but ROLLBACK.
pub(super) fn is_rollback(text: &[u8]) -> bool {
    is_only(text, &["rollback", "abort"])
}

/// Whether it is nothing but COMMIT.
pub(super) fn is_commit(text: &[u8]) -> bool {
    is_only(text, &["commit", "end"])
}

/// Whether it is nothing but one of these, with or without WORK or TRANSACTION.
fn is_only(text: &[u8], which: &[&str]) -> bool {
    let text = text.strip_suffix(b"\0").unwrap_or(text).trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii();
    let words: Vec<_> = text.split(|byte| is_space(*byte)).collect();
    match words[..] {
        [one] => which.iter().any(|it| is(one, it)),
        [one, two] => {
            which.iter().any(|it| is(one, it)) && (is(two, "work") || is(two, "transaction"))
        }
        _ => false,
    }
}

/// Words of statements that prepare, load or run what is not seen here.
const WORDS: [&str; 7] = [
    "prepare",
    "deallocate",
    "execute",
    "load",
    "discard",
    "language",
    "extension",
];
/// Parts of names of functions that do, and of what keeps something in a session.
const PARTS: [&str; 7] = [
    "advisory",
    "_to_xml",
    "ts_stat",
    "ts_rewrite",
    "replication",
    "backup",
    "dblink",
];

/// Whether running it may leave something in the session that a rollback does not undo, as far as its own words say. (Those of
/// a prepared statement are looked at as well, where it is there before: EXECUTE as such does nothing.)
pub(super) fn lasts(text: &[u8]) -> bool {
    let mut words = words(text).peekable();
    let _ = words.next_if(|first| is(first, "execute"));
    last(words) || is_encoded(text)
}

/// The same of what a prepared statement runs.
pub(super) fn prepared_lasts(text: &[u8]) -> bool {
    let mut words = words(text).peekable();
    let _ = words.next_if(|first| is(first, "prepare"));
    last(words) || is_encoded(text)
}

/// An identifier, or a program, that is written in numbers.
fn is_encoded(text: &[u8]) -> bool {
    let numbers = || text.windows(2).any(|two| two.eq_ignore_ascii_case(b"u&"));
    numbers() || (text.contains(&b'\\') && words(text).any(|word| is(word, "do")))
}

fn last<'a>(mut words: std::iter::Peekable<impl Iterator<Item = &'a [u8]>>) -> bool {
    while let Some(word) = words.next() {
        let mut two_phase = || words.peek().is_some_and(|next| is(next, "transaction"));
        if is(word, "prepare") && two_phase() {
            continue;
        }
        if WORDS.iter().any(|it| is(word, it)) || PARTS.iter().any(|part| has(word, part)) {
            return true;
        }
    }
    false
}

/// Whether it may change a setting by a function, or make what is temporary: a COMMIT keeps both.
pub(super) fn sets(text: &[u8]) -> bool {
    words(text).any(|word| {
        let temporary = is(word, "temp") || is(word, "temporary") || has(word, "pg_temp");
        temporary || has(word, "set_config")
    })
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = text.split(|byte| !is_word(*byte));
    words.filter(|word| !word.is_empty())
}

fn is(word: &[u8], other: &str) -> bool {
    word.eq_ignore_ascii_case(other.as_bytes())
}

fn has(word: &[u8], part: &str) -> bool {
    let part = part.as_bytes();
    let mut places = word.windows(part.len()).enumerate();
    places.any(|(at, it)| {
        // Locks of the transaction are gone with it.
        let of_transaction = || {
            let rest = &word[at + part.len()..];
            part == b"advisory" && rest.get(..5).is_some_and(|it| is(it, "_xact"))
        };
        it.eq_ignore_ascii_case(part) && !of_transaction()
    })
}

fn is_word(byte: u8) -> bool {
    // What begins behind a dollar quote is a word of its own.
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// Without what comes before the first word. `None`: a comment has no end.
fn without_comments(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let space = text.iter().take_while(|byte| is_space(**byte)).count();
        text = &text[space..];
        if text.starts_with(b"--") {
            let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
            text = &text[end..];
        } else if text.starts_with(b"/*") {
            let end = text[2..].windows(2).position(|two| two == b"*/")? + 2;
            if text[2..end].windows(2).any(|two| two == b"/*") {
                return None; // one within another
            }
            text = &text[end + 2..];
        } else {
            return Some(text);
        }
    }
}
