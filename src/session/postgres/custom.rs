//! Names of settings, as a text has them behind the words that set them.

use super::words::{LONGEST, is_part};
use std::borrow::Cow;

/// What stands behind such a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// This, of any kind of setting; or something that is no name.
    Is(Cow<'a, [u8]>),
    /// A parameter of the statement.
    Parameter,
    /// It cannot be told.
    Unclear,
}

/// Settings that no view tells, or not to everybody.
const HIDDEN: [&[u8]; 3] = [
    b"seed",
    b"dynamic_library_path",
    b"session_preload_libraries",
];

/// Whether it is a setting that no view tells, or not to everybody.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    HIDDEN.iter().any(|it| it.eq_ignore_ascii_case(name))
}

/// Whether the server takes it for the name of a custom setting.
pub(super) fn is_custom(name: &[u8]) -> bool {
    let is_name = |part: &[u8]| {
        let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'$';
        part.first().is_some_and(|first| !digit(first)) && part.iter().all(|byte| is_part(*byte))
    };
    name.contains(&b'.') && name.split(|byte| *byte == b'.').all(is_name)
}

/// What follows DO where that is no statement.
pub(super) fn is_clause(rest: &[u8]) -> bool {
    let (word, _) = word(skip(rest));
    let clauses: [&[u8]; 4] = [b"nothing", b"update", b"instead", b"also"];
    clauses.iter().any(|it| it.eq_ignore_ascii_case(word))
}

/// Behind SET or RESET. (Behind the SET of an UPDATE there is a name, too.)
pub(super) fn set(rest: &[u8]) -> Name<'_> {
    let mut rest = skip(rest);
    loop {
        let mut name = Vec::new();
        let whole = rest;
        loop {
            let (part, after) = match rest.first() {
                Some(b'"') => match quoted(&rest[1..]) {
                    Some(it) => it,
                    None => return Name::Unclear,
                },
                _ => word(rest),
            };
            if part.is_empty() {
                break;
            }
            if part.len() > LONGEST {
                // The server cuts it off.
                return Name::Unclear;
            }
            name.extend_from_slice(part);
            rest = skip(after);
            if rest.first() != Some(&b'.') {
                break;
            }
            name.push(b'.');
            rest = skip(&rest[1..]);
        }
        if rest.starts_with(b"--") || rest.starts_with(b"/*") {
            return Name::Unclear;
        }
        let scope = [&b"session"[..], b"local"];
        let unquoted = whole.first() != Some(&b'"');
        if unquoted && scope.iter().any(|it| it.eq_ignore_ascii_case(&name)) {
            continue;
        }
        return Name::Is(name.into());
    }
}

/// Behind a function whose first argument is a name.
pub(super) fn called(rest: &[u8]) -> Name<'_> {
    let Some(rest) = skip(rest).strip_prefix(b"(") else {
        return Name::Unclear;
    };
    let rest = skip(rest);
    let (name, rest) = match rest.first() {
        Some(b'\'') => {
            let end = rest[1..].iter().position(|byte| *byte == b'\'');
            let Some((name, rest)) = end.and_then(|end| rest[1..].split_at_checked(end)) else {
                return Name::Unclear;
            };
            let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
            if !name.iter().all(plain) {
                return Name::Unclear;
            }
            (Name::Is(name.into()), &rest[1..])
        }
        Some(b'$') => {
            let digits = rest[1..].iter().take_while(|byte| byte.is_ascii_digit());
            match digits.count() {
                0 => return Name::Unclear,
                digits => (Name::Parameter, &rest[1 + digits..]),
            }
        }
        _ => return Name::Unclear,
    };
    let mut rest = skip(rest);
    if let Some(cast) = rest.strip_prefix(b"::") {
        let (part, after) = word(skip(cast));
        if !part.eq_ignore_ascii_case(b"text") {
            return Name::Unclear;
        }
        rest = skip(after);
    }
    match rest.first() {
        Some(b',' | b')') => name,
        _ => Name::Unclear,
    }
}

fn skip(text: &[u8]) -> &[u8] {
    let blank = |byte: &&u8| byte.is_ascii_whitespace() || **byte == 0x0b;
    &text[text.iter().take_while(blank).count()..]
}

fn word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| is_part(**byte)).count())
}

/// Up to the quote; `None`: there is none, or two.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'"')?;
    let rest = &text[end + 1..];
    (rest.first() != Some(&b'"')).then_some((&text[..end], rest))
}
