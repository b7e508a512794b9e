//! The words of a text, and which words there were.

/// Longest identifier. Bytes.
pub(super) const LONGEST: usize = 63;
/// Longest character. Bytes.
const CHARACTER: usize = 4;
const BITS: usize = 32_768;

/// Part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A word, in lower case.
    Word {
        word: &'a [u8],
        /// What follows it.
        rest: &'a [u8],
        /// A statement may begin with it.
        begins: bool,
    },
    /// A semicolon.
    End,
}

/// What PostgreSQL takes for part of an identifier, and all that is not ASCII.
pub(super) fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

/// See the module's text. Literals and comments are texts as any other.
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    begins: bool,
    /// The line has become a comment, perhaps.
    line: bool,
    word: [u8; LONGEST],
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            begins: true,
            line: false,
            word: [0; LONGEST],
        }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<Token<'_>> {
        loop {
            let rest = &self.text[self.at..];
            let byte = *rest.first()?;
            let word = rest.iter().take_while(|byte| is_part(**byte)).count();
            if word > 0 {
                self.at += word;
                // A number or a quoting dollar before it is none of it.
                let glued = |byte: &&u8| byte.is_ascii_digit() || **byte == b'$';
                let before = rest[..word].iter().take_while(glued).count();
                if before == word {
                    self.begins = false;
                    continue;
                }
                let word = &rest[before..word.min(before + LONGEST)];
                let lower = &mut self.word[..word.len()];
                lower.copy_from_slice(word);
                lower.make_ascii_lowercase();
                let begins = std::mem::take(&mut self.begins);
                return Some(Token::Word {
                    word: &self.word[..word.len()],
                    rest: &self.text[self.at..],
                    begins,
                });
            }
            self.at += 1;
            match (byte, rest.get(1)) {
                (b';', _) => {
                    self.begins = true;
                    return Some(Token::End);
                }
                // A name of a statement or a portal has come to its end.
                (0, _) => self.begins = true,
                (b'-', Some(b'-')) => self.line = true,
                (b'\r' | b'\n', _) => self.begins |= std::mem::take(&mut self.line),
                (b'*', Some(b'/')) => {
                    self.at += 1;
                    self.begins = true;
                }
                (byte, _) if byte.is_ascii_whitespace() || byte == 0x0b => {}
                _ => self.begins = false,
            }
        }
    }
}

/// Words that there may have been: surely those that were.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(Option<Box<[u64; BITS / 64]>>);

impl Words {
    pub(super) fn insert(&mut self, word: &[u8]) {
        let bits = self.0.get_or_insert_with(|| Box::new([0; BITS / 64]));
        for at in places(word) {
            bits[at / 64] |= 1 << (at % 64);
        }
    }

    fn has(&self, word: &[u8]) -> bool {
        let Some(bits) = &self.0 else { return false };
        places(word).all(|at| bits[at / 64] >> (at % 64) & 1 == 1)
    }

    /// Whether a text may have named the function, whose schema goes before.
    pub(super) fn may_name(&self, name: &str) -> bool {
        let name = name.rsplit('.').next().unwrap_or_default();
        if name.len() + CHARACTER > LONGEST {
            // The server may have cut it off, and not where a word ends.
            return true;
        }
        let mut tokens = Tokens::new(name.as_bytes());
        while let Some(token) = tokens.next() {
            if let Token::Word { word, .. } = token
                && word.is_ascii()
                && !self.has(word)
            {
                return false;
            }
        }
        true
    }
}

/// Four of the filter's bits.
fn places(word: &[u8]) -> impl Iterator<Item = usize> + use<> {
    // FNV-1a, and a finish that spreads it.
    let hash = word.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..4).map(move |n| (hash >> (n * 16)) as usize % BITS)
}
