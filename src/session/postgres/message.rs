//! Messages of our own: how they are written, and how what comes back is read.

/// The oid of the type text.
const TEXT: u32 = 25;

/// Messages of the client.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn message(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(kind);
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        body(&mut self.0);
        let length = (self.0.len() - at) as u32;
        self.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// A prepared statement that stays.
    pub(super) fn parse(&mut self, name: &[u8], text: &[u8], types: &[u32]) {
        self.message(b'P', |out| {
            for word in [name, text] {
                out.extend_from_slice(word);
                out.push(0);
            }
            out.extend_from_slice(&(types.len() as u16).to_be_bytes());
            (types.iter()).for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
        });
    }

    /// Runs a statement with parameters of type text, under a name that nobody else uses, and leaves nothing behind.
    pub(super) fn run(&mut self, name: &str, text: &[u8], parameters: &[&[u8]]) {
        let name = name.as_bytes();
        self.parse(name, text, &vec![TEXT; parameters.len()]);
        self.message(b'B', |out| {
            for word in [name, name] {
                out.extend_from_slice(word);
                out.push(0);
            }
            // All in text format.
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
            for value in parameters {
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value);
            }
            out.extend_from_slice(&[0; 2]);
        });
        self.message(b'E', |out| {
            out.extend_from_slice(name);
            out.extend_from_slice(&[0; 5]);
        });
        self.close_one(b'P', name);
        self.close_one(b'S', name);
    }

    /// A prepared statement, if it is there.
    pub(super) fn close(&mut self, name: &[u8]) {
        self.close_one(b'S', name);
    }

    /// Asks for the columns of a prepared statement.
    pub(super) fn describe(&mut self, name: &[u8]) {
        self.names(b'D', b'S', name);
    }

    fn close_one(&mut self, what: u8, name: &[u8]) {
        self.names(b'C', what, name);
    }

    fn names(&mut self, kind: u8, what: u8, name: &[u8]) {
        self.message(kind, |out| {
            out.push(what);
            out.extend_from_slice(name);
            out.push(0);
        });
    }

    /// One whose body is there already.
    pub(super) fn raw(&mut self, kind: u8, body: &[u8]) {
        self.message(kind, |out| out.extend_from_slice(body));
    }

    pub(super) fn sync(&mut self) {
        self.message(b'S', |_| {});
    }
}

/// Whole messages of the server, one after the other; ends at the first that is not.
#[derive(Clone, Copy)]
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let total = total(self.0)?;
        let (message, rest) = self.0.split_at_checked(total)?;
        self.0 = rest;
        Some((message[0], &message[5..]))
    }
}

/// Bytes of the message that begins here, as its head says. `None`: the head is not whole, or is none.
pub(super) fn total(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    ((4..=i32::MAX as u32).contains(&length)).then_some(length as usize + 1)
}

/// A message of the server's kind.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

/// The columns of a DataRow.
pub(super) fn columns(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        columns.push(match u32::from_be_bytes(*length) {
            u32::MAX => None,
            length => {
                let (value, after) = rest.split_at_checked(length as usize)?;
                rest = after;
                Some(value)
            }
        });
    }
    rest.is_empty().then_some(columns)
}

/// The values of a Bind message that are not NULL.
pub(super) fn bound(body: &[u8]) -> Option<Vec<&[u8]>> {
    let text = |body: &mut &[u8]| {
        let end = body.iter().position(|byte| *byte == 0)?;
        *body = &body[end + 1..];
        Some(())
    };
    let count = |body: &mut &[u8]| {
        let (count, rest) = body.split_first_chunk::<2>()?;
        *body = rest;
        Some(u16::from_be_bytes(*count))
    };
    let mut body = body;
    // Portal, statement, formats.
    text(&mut body)?;
    text(&mut body)?;
    let formats = usize::from(count(&mut body)?);
    body = body.get(2 * formats..)?;
    let mut values = Vec::new();
    for _ in 0..count(&mut body)? {
        let (length, rest) = body.split_first_chunk::<4>()?;
        body = rest;
        let length = u32::from_be_bytes(*length);
        if length != u32::MAX {
            let (value, rest) = body.split_at_checked(length as usize)?;
            values.push(value);
            body = rest;
        }
    }
    Some(values)
}

/// Two texts, each with its end.
pub(super) fn pair(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut words = body.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    let pair = (words.next()?, words.next()?);
    words.next().is_none().then_some(pair)
}

/// An ErrorResponse for the log: its code and its text.
pub(super) fn error(body: &[u8]) -> (String, String) {
    let field = |wanted: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&wanted));
        String::from_utf8_lossy(found.map_or(b"", |field| &field[1..])).into_owned()
    };
    (field(b'C'), field(b'M'))
}
