//! A small PostgreSQL server: it logs everybody in, runs nothing, knows of transaction blocks, and answers questions about the session.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vianet::session::postgres::arrival::Arrival;
use vianet::via::channel::{Channel, Received, Wait};

/// What a test sees of it, and does to it.
pub struct Sql {
    /// Simple queries.
    pub ran: Mutex<Vec<String>>,
    /// Statements that were ignored in an aborted block.
    pub ignored: Mutex<Vec<String>>,
    /// Something in its database can do what a rollback does not undo.
    pub lasting: AtomicBool,
    /// Settings that were made by `set_config`.
    pub made: Mutex<Vec<String>>,
    /// Logins.
    pub logins: AtomicU32,
    /// Questions that it has got.
    pub asked: AtomicU32,
    /// So many bytes of what it answers to questions before it is lost.
    pub left: AtomicI64,
    /// So many bytes had its last answer to a question.
    pub said: AtomicU32,
    /// Then only its channels break.
    pub only_breaks: AtomicBool,
    /// It hears nothing any more.
    pub deaf: AtomicBool,
    /// It does not answer questions for now.
    pub held: AtomicBool,
    /// What comes between the first two messages of an answer.
    pub between: Mutex<Vec<u8>>,
    /// Keys by which sessions that have moved are known, as their node was told.
    pub known: Mutex<Vec<Vec<u8>>>,
    /// Keys of requests to cancel.
    pub canceled: Mutex<Vec<Vec<u8>>>,
    /// The key that it gives to everybody.
    pub key: Mutex<[u8; 8]>,
    /// Held by who sends.
    pub sending: Mutex<()>,
}

impl Default for Sql {
    fn default() -> Self {
        Self {
            ran: Mutex::default(),
            made: Mutex::default(),
            ignored: Mutex::default(),
            lasting: AtomicBool::new(false),
            logins: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            left: AtomicI64::new(i64::MAX),
            said: AtomicU32::new(0),
            only_breaks: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            held: AtomicBool::new(false),
            between: Mutex::default(),
            known: Mutex::default(),
            canceled: Mutex::default(),
            key: Mutex::new(KEY),
            sending: Mutex::default(),
        }
    }
}

impl Sql {
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn ran(&self) -> Vec<String> {
        self.ran.lock().unwrap().clone()
    }
}

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

/// What comes back from `select 1`.
pub fn answer() -> Vec<u8> {
    [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

/// The key that a server gives.
pub const KEY: [u8; 8] = [7; 8];

/// What comes back from a login.
pub fn welcome() -> Vec<u8> {
    welcome_with(&KEY)
}

fn welcome_with(key: &[u8; 8]) -> Vec<u8> {
    let told = [
        ("server_version", "15.1"),
        ("server_encoding", "UTF8"),
        ("integer_datetimes", "on"),
    ];
    let told = told.map(|(name, value)| message(b'S', format!("{name}\0{value}\0").as_bytes()));
    let begin = message(b'R', &[0; 4]);
    [
        begin,
        told.concat(),
        message(b'K', key),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn row(columns: &[Option<&str>]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        match column {
            None => body.extend_from_slice(&[0xff; 4]),
            Some(text) => {
                body.extend_from_slice(&(text.len() as u32).to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
        }
    }
    message(b'D', &body)
}

fn rows(rows: &[Vec<u8>]) -> Vec<u8> {
    let tag = format!("SELECT {}\0", rows.len());
    [rows.concat(), message(b'C', tag.as_bytes())].concat()
}

/// One session.
struct Session<'a> {
    sql: &'a Sql,
    settings: BTreeMap<String, String>,
    /// What it has said to a request that has not ended.
    out: Vec<Vec<u8>>,
    statements: BTreeMap<String, String>,
    /// The statement and the parameters that were bound last.
    text: String,
    bound: Vec<String>,
    /// As ReadyForQuery says it.
    block: u8,
    /// Everything is skipped to the next Sync.
    skipping: bool,
}

impl Session<'_> {
    fn hear(&mut self, kind: u8, body: &[u8]) -> Option<Vec<u8>> {
        if self.sql.deaf.load(Ordering::SeqCst) {
            return None;
        }
        let words = || body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        match kind {
            b'Q' => {
                let text = words().next().unwrap_or_default().into_owned();
                let said = self.statement(&text);
                self.skipping = false;
                return Some([said, message(b'Z', &[self.block])].concat());
            }
            b'S' => {
                self.skipping = false;
                self.out.push(message(b'Z', &[self.block]));
                let between = self.sql.between.lock().unwrap().clone();
                self.out.insert(1, between);
                return Some(std::mem::take(&mut self.out).concat());
            }
            _ if self.skipping => {}
            b'P' => {
                let (name, text) = (words().next()?, words().nth(1)?);
                if text.starts_with("vianet:") {
                    let said = self.fails("42601");
                    self.out.push(said);
                    return None;
                }
                let ends = ["commit", "rollback"].contains(&&*text);
                if self.block == b'E' && !ends {
                    self.sql.ignored.lock().unwrap().push(text.into_owned());
                    let said = self.fails("25P02");
                    self.out.push(said);
                    return None;
                }
                self.statements.insert(name.into_owned(), text.into_owned());
                self.out.push(message(b'1', b""));
            }
            b'D' => self.out.push(message(b'n', b"")),
            b'B' => {
                let name = words().nth(1)?.into_owned();
                self.text = self.statements.get(&name).cloned().unwrap_or_default();
                self.bound = parameters(body).unwrap_or_default();
                self.out.push(message(b'2', b""));
            }
            b'E' => {
                let said = self.run();
                self.out.push(said);
            }
            b'C' => self.out.push(message(b'3', b"")),
            _ => {}
        }
        None
    }

    /// A statement of the application's.
    fn statement(&mut self, text: &str) -> Vec<u8> {
        let tag = |tag: &str| message(b'C', format!("{tag}\0").as_bytes());
        if self.block == b'E' && !["commit", "rollback"].contains(&text) {
            self.sql.ignored.lock().unwrap().push(text.to_owned());
            return self.fails("25P02");
        }
        if let Some((name, value)) = text.strip_prefix("set ").and_then(|t| t.split_once('=')) {
            self.settings.insert(name.to_owned(), value.to_owned());
        }
        self.sql.ran.lock().unwrap().push(text.to_owned());
        let before = self.block;
        match text {
            "begin" => self.block = b'T',
            "commit" | "rollback" => self.block = b'I',
            _ => {}
        }
        match text {
            "fail" => self.fails("22012"),
            "begin" => tag("BEGIN"),
            "commit" if before == b'T' => tag("COMMIT"),
            "commit" | "rollback" => tag("ROLLBACK"),
            _ => tag("SELECT 1"),
        }
    }

    fn fails(&mut self, code: &str) -> Vec<u8> {
        self.skipping = true;
        if self.block == b'T' {
            self.block = b'E';
        }
        let body = format!("SERROR\0VERROR\0C{code}\0Mno\0\0");
        message(b'E', body.as_bytes())
    }

    fn run(&mut self) -> Vec<u8> {
        if self.text.contains("pg_control_system") {
            self.sql.asked.fetch_add(1, Ordering::SeqCst);
            return rows(&[row(&[Some("7"), Some("00000001"), Some("t")])]);
        }
        if self.text.contains("session_state") {
            self.sql.asked.fetch_add(1, Ordering::SeqCst);
            let named = |kind, value| row(&[Some(kind), None, Some(value), Some("default"), None]);
            let mut all = vec![
                named("authenticated", "app"),
                named("session_authorization", "app"),
                named("role", "none"),
            ];
            all.extend(self.settings.iter().map(|(name, value)| {
                let columns = [Some("setting"), Some(name.as_str()), Some(value.as_str())];
                row(&[&columns[..], &[Some("session"), None]].concat())
            }));
            return rows(&all);
        }
        if self.text.contains("pg_get_functiondef") {
            let lasting = self.sql.lasting.load(Ordering::SeqCst);
            return rows(&[row(&[Some(if lasting { "t" } else { "f" })])]);
        }
        if self.text == "BEGIN" {
            self.block = b'T';
            return message(b'C', b"BEGIN\0");
        }
        if let ([name, value], true) = (&self.bound[..], self.text.contains("set_config")) {
            let made = format!("{name}={value}");
            self.sql.made.lock().unwrap().push(made);
            self.settings.insert(name.clone(), value.clone());
        }
        if self.text.contains("set_config") {
            return rows(&[row(&[Some("it")])]);
        }
        let text = self.text.clone();
        self.statement(&text)
    }
}

/// Of a Bind, all in text format.
fn parameters(body: &[u8]) -> Option<Vec<String>> {
    let mut rest = body;
    for _ in 0..2 {
        let end = rest.iter().position(|byte| *byte == 0)?;
        rest = &rest[end + 1..];
    }
    let (count, mut rest) = rest.get(2..)?.split_first_chunk::<2>()?;
    let mut all = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        all.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    Some(all)
}

/// Serves a channel, and those that carry it on.
pub fn serve(
    mut channel: Arc<Channel>,
    sql: &Sql,
    park: impl Fn(&Arc<Channel>) -> Option<Arc<Channel>>,
    lost: impl Fn(bool),
) {
    let wait = Wait::Until {
        spin: Duration::ZERO,
        timeout: None,
    };
    let mut session = Session {
        sql,
        settings: BTreeMap::new(),
        out: Vec::new(),
        statements: BTreeMap::new(),
        text: String::new(),
        bound: Vec::new(),
        block: b'I',
        skipping: false,
    };
    let (mut come, mut begun) = (Vec::new(), false);
    let mut say = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        while channel.broken().is_none() && !say.is_empty() {
            let _one = sql.sending.lock().unwrap();
            if let Ok(n) = channel.send(&[IoSlice::new(&say)], wait) {
                say.drain(..n);
            }
        }
        let got = channel.recv(&mut buffer, wait);
        match got {
            Ok(Received::Bytes(n)) => come.extend_from_slice(&buffer[..n]),
            Ok(Received::End) => {
                let _ = channel.shutdown_write();
                while channel.broken().is_none() {
                    let _ = channel.drive();
                    std::thread::sleep(Duration::from_millis(5));
                }
                return;
            }
            Ok(_) => {}
            Err(_) => match park(&channel) {
                Some(fresh) => channel = fresh,
                None => return,
            },
        }
        loop {
            let head = usize::from(begun);
            let Some(length) = come.get(head..).and_then(<[u8]>::first_chunk::<4>) else {
                break;
            };
            let total = u32::from_be_bytes(*length) as usize + head;
            if come.len() < total {
                break;
            }
            let one: Vec<u8> = come.drain(..total).collect();
            if !begun && let Some(arrival) = Arrival::read(&one) {
                sql.known.lock().unwrap().push(arrival.key);
                continue;
            }
            if !begun && one[4..8] == [4, 210, 22, 46] {
                sql.canceled.lock().unwrap().push(one[8..].to_vec());
                continue;
            }
            if !std::mem::replace(&mut begun, true) {
                sql.logins.fetch_add(1, Ordering::SeqCst);
                let key = *sql.key.lock().unwrap();
                say.extend_from_slice(&welcome_with(&key));
                continue;
            }
            let Some(mut said) = session.hear(one[0], &one[5..]) else {
                continue;
            };
            if one[0] != b'S' {
                say.extend_from_slice(&said);
                continue;
            }
            while sql.held.load(Ordering::SeqCst) && channel.broken().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            sql.said.store(said.len() as u32, Ordering::SeqCst);
            let left = sql
                .left
                .fetch_sub(said.len() as i64, Ordering::SeqCst)
                .max(0);
            if said.len() as i64 <= left {
                say.extend_from_slice(&said);
                continue;
            }
            // What was said before is said; then it is over.
            said.truncate(left as usize);
            say.extend_from_slice(&said);
            let _ = channel.send(&[IoSlice::new(&say)], wait);
            let only_breaks = sql.only_breaks.load(Ordering::SeqCst);
            if only_breaks {
                sql.left.store(i64::MAX, Ordering::SeqCst);
            }
            lost(only_breaks);
            return;
        }
    }
}
