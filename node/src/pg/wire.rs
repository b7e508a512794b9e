//! Messages: a tag byte, a length that counts itself, a body (PostgreSQL 15 documentation, 55.2 and 55.7).

use std::io::{self, Read, Write};

/// Longest body that is taken from a peer.
pub const MAX_BODY: usize = 16 << 20;
/// Longest startup packet (PostgreSQL's own limit).
const MAX_STARTUP: usize = 10_000;

/// A start of a connection, which has no tag byte.
#[derive(Debug, PartialEq, Eq)]
pub enum Startup {
    /// The client asks for TLS (or GSSAPI encryption): answer `N`.
    Encryption,
    /// The client asks to interrupt what another connection runs.
    Cancel {
        /// Process id from BackendKeyData.
        pid: i32,
        /// Secret from BackendKeyData.
        secret: i32,
    },
    /// A login: name and value pairs (`user`, `database`, ...).
    Login(Vec<(String, String)>),
}

/// Reads the first packet of a connection; `None` at its end.
pub fn read_startup(from: &mut impl Read) -> io::Result<Option<Startup>> {
    let mut len = [0; 4];
    if !fill_or_end(from, &mut len)? {
        return Ok(None);
    }
    let len = u32::from_be_bytes(len) as usize;
    if !(8..=MAX_STARTUP).contains(&len) {
        return Err(invalid("startup packet of an impossible length"));
    }
    let mut body = vec![0; len - 4];
    from.read_exact(&mut body)?;
    let mut body = Body::new(&body);
    Ok(Some(match body.i32()? {
        80_877_103 | 80_877_104 => Startup::Encryption,
        80_877_102 => Startup::Cancel {
            pid: body.i32()?,
            secret: body.i32()?,
        },
        version if version >> 16 == 3 => {
            let mut pairs = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                pairs.push((name, body.text()?));
            }
            Startup::Login(pairs)
        }
        _ => return Err(invalid("not a protocol version 3 startup packet")),
    }))
}

/// Reads one message; `None` at the end of the stream between two messages.
pub fn read(from: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut tag = [0];
    if !fill_or_end(from, &mut tag)? {
        return Ok(None);
    }
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    if !(4..=MAX_BODY).contains(&len) {
        return Err(invalid("message of an impossible length"));
    }
    let mut body = vec![0; len - 4];
    from.read_exact(&mut body)?;
    Ok(Some((tag[0], body)))
}

fn fill_or_end(from: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    let mut at = 0;
    while at < buf.len() {
        match from.read(&mut buf[at..]) {
            Ok(0) if at == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// What a peer sent makes no sense.
pub fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads the fields of a body; every read checks what is left.
pub struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// The whole of `body` is still to be read.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| invalid("message is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A byte.
    pub fn u8(&mut self) -> io::Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    /// A 16-bit number.
    pub fn i16(&mut self) -> io::Result<i16> {
        let bytes = self.bytes(2)?.try_into().expect("two bytes");
        Ok(i16::from_be_bytes(bytes))
    }

    /// A 32-bit number.
    pub fn i32(&mut self) -> io::Result<i32> {
        let bytes = self.bytes(4)?.try_into().expect("four bytes");
        Ok(i32::from_be_bytes(bytes))
    }

    /// A zero-terminated string; bytes that are not UTF-8 are replaced.
    pub fn text(&mut self) -> io::Result<String> {
        let end = self.0.iter().position(|b| *b == 0);
        let end = end.ok_or_else(|| invalid("string without an end"))?;
        let text = String::from_utf8_lossy(self.bytes(end)?).into_owned();
        self.bytes(1)?;
        Ok(text)
    }
}

/// Collects messages and writes them at once.
#[derive(Default)]
pub struct Outbox(Vec<u8>);

impl Outbox {
    /// Appends a message whose body `fill` writes.
    pub fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(tag);
        self.sized(fill);
    }

    /// Appends a packet without a tag (startup, cancel).
    pub fn sized(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let at = self.0.len();
        self.0.extend([0; 4]);
        fill(&mut self.0);
        let len = u32::try_from(self.0.len() - at).expect("bodies stay below MAX_BODY");
        self.0[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Writes everything.
    pub fn flush(&mut self, to: &mut impl Write) -> io::Result<()> {
        let result = to.write_all(&self.0).and_then(|()| to.flush());
        self.0.clear();
        result
    }
}

/// Appends a zero-terminated string; zero bytes in it are dropped.
pub fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend(text.bytes().filter(|b| *b != 0));
    to.push(0);
}
