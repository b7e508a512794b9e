//! Cuts a query string into its statements, as `psql -c` and line clients send several in one.

/// The statements of `sql`, without their semicolons; empty ones and pure comments are left out.
///
/// A trigger's body has semicolons of its own: it ends at `; END ;`, as for SQLite's own shell.
pub fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    // Words seen in this statement: the first few, and the last two tokens, to know a trigger and its end.
    let mut head: Vec<String> = Vec::new();
    let mut last = [Token::Other, Token::Other];
    for (token, at, end) in Tokens(sql, 0) {
        if token == Token::Semicolon {
            let body = is_trigger(&head) && last != [Token::Semicolon, Token::End];
            if !body {
                if !head.is_empty() {
                    found.push(sql[start..at].trim());
                }
                start = end;
                head.clear();
                last = [Token::Other, Token::Other];
                continue;
            }
        } else if head.len() < 3 {
            head.push(sql[at..end].to_ascii_uppercase());
        }
        last = [last[1], token];
    }
    if !head.is_empty() {
        found.push(sql[start..].trim());
    }
    found
}

/// The first `n` words of a statement in upper case, comments skipped.
pub fn words(sql: &str, n: usize) -> Vec<String> {
    let tokens = Tokens(sql, 0).take(n);
    tokens
        .map(|(_, at, end)| sql[at..end].to_ascii_uppercase())
        .collect()
}

fn is_trigger(head: &[String]) -> bool {
    let mut head = head.iter().map(String::as_str);
    head.next() == Some("CREATE")
        && match head.next() {
            Some("TEMP" | "TEMPORARY") => head.next() == Some("TRIGGER"),
            word => word == Some("TRIGGER"),
        }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Semicolon,
    End,
    Other,
}

/// Tokens with their place; only as fine as splitting needs. Cuts only at ASCII bytes, so slices stay UTF-8.
struct Tokens<'a>(&'a str, usize);

impl Iterator for Tokens<'_> {
    type Item = (Token, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0.as_bytes();
        let find = |from: usize, what: &str| {
            let tail = bytes.get(from..).unwrap_or_default();
            let at = tail.windows(what.len()).position(|w| w == what.as_bytes());
            at.map_or(bytes.len(), |at| from + at + what.len())
        };
        loop {
            let at = self.1;
            let first = *bytes.get(at)?;
            let (token, end) = match first {
                b if b.is_ascii_whitespace() => {
                    self.1 += 1;
                    continue;
                }
                b'-' if bytes[at..].starts_with(b"--") => {
                    self.1 = find(at, "\n");
                    continue;
                }
                b'/' if bytes[at..].starts_with(b"/*") => {
                    self.1 = find(at + 2, "*/");
                    continue;
                }
                b';' => (Token::Semicolon, at + 1),
                // A doubled quote inside ends one token and begins the next: harmless here.
                b'\'' => (Token::Other, find(at + 1, "'")),
                b'"' => (Token::Other, find(at + 1, "\"")),
                b'`' => (Token::Other, find(at + 1, "`")),
                b'[' => (Token::Other, find(at + 1, "]")),
                b if is_word(b) => {
                    let len = bytes[at..].iter().take_while(|b| is_word(**b)).count();
                    let end = at + len;
                    match self.0[at..end].eq_ignore_ascii_case("end") {
                        true => (Token::End, end),
                        false => (Token::Other, end),
                    }
                }
                _ => (Token::Other, at + 1),
            };
            self.1 = end;
            return Some((token, at, end));
        }
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || !b.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::{statements, words};

    #[test]
    fn cuts_where_statements_end() {
        assert_eq!(statements("select 1"), ["select 1"]);
        assert_eq!(
            statements(" select 1 ; ;select 2;"),
            ["select 1", "select 2"]
        );
        assert_eq!(statements(" ; -- nothing; at all\n /* ; */ ;"), [""; 0]);
        assert_eq!(
            statements("select 'a;b''c;', \";\" -- x;\n; b"),
            ["select 'a;b''c;', \";\" -- x;", "b"]
        );
        assert_eq!(statements("select 'open; end"), ["select 'open; end"]);
        assert_eq!(statements("select 'ü;';x"), ["select 'ü;'", "x"]);
        let trigger = "create trigger t after insert on a begin update a set x = case when 1 then 2 end; \
                       delete from b; end";
        assert_eq!(
            statements(&format!("{trigger}; select 1")),
            [trigger, "select 1"]
        );
        assert_eq!(statements("/* unended"), [""; 0]);
        assert_eq!(statements("[a;b"), ["[a;b"]);
    }

    #[test]
    fn words_skip_comments() {
        assert_eq!(words("/* x */ begin -- y\n work", 2), ["BEGIN", "WORK"]);
        assert_eq!(words("show all", 1), ["SHOW"]);
        assert_eq!(words("", 1), [""; 0]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_loses_nothing_but_separators(sql in "[a-zü'\"`;/*\\[\\]\n -]{0,60}") {
            for statement in statements(&sql) {
                proptest::prop_assert!(sql.contains(statement) && !statement.is_empty());
            }
        }
    }
}
