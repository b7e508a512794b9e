//! Every recorded session is cut after every byte. What must be true there is found by a second way: the server is played
//! over the whole session, with hindsight, and each request of the client is given the ReadyForQuery that settled it.

use super::super::*;
use super::transcript::{From, Pieces, all, feed};

/// A message and where it ends, in bytes of both directions together.
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
    pub(super) end: usize,
    /// Client: where the server's word is that it is done with it; `None`: never, or there is nothing to say of it.
    pub(super) settled: Option<usize>,
    /// Client: the server ignored it.
    pub(super) ignored: bool,
    /// Server: the client had sent whole messages only.
    pub(super) whole_client: bool,
}

impl Message {
    pub(super) fn is(&self, kind: u8, body: &[u8]) -> bool {
        self.kind == kind && self.body[5..] == *body
    }

    pub(super) fn has(&self, text: &str) -> bool {
        let text = text.as_bytes();
        self.body.windows(text.len()).any(|it| it == text)
    }

    /// One of the texts that its body begins with.
    pub(super) fn word(&self, at: usize) -> String {
        let mut words = self.body[5..].split(|byte| *byte == 0);
        let word = words.nth(at).unwrap_or_default();
        String::from_utf8_lossy(word).into_owned()
    }
}

/// First packets have no type; they get one here.
const FIRST: u8 = 0;
const ANSWER: u8 = 1;

pub(super) struct Session {
    pub(super) client: Vec<Message>,
    pub(super) server: Vec<Message>,
}

/// With what the server was done with when.
pub(super) fn split_and_settle(pieces: &Pieces) -> Session {
    let mut session = split(pieces);
    let said = session.server.iter();
    let said = said
        .filter(|m| !matches!(m.kind, b'N' | b'A' | b'S'))
        .collect();
    Server {
        client: &mut session.client,
        said,
        at: 0,
    }
    .play();
    session
}

fn split(pieces: &Pieces) -> Session {
    let (mut client, mut server) = (Vec::new(), Vec::new());
    let mut open = [Vec::new(), Vec::new()];
    let (mut at, mut first) = (0, true);
    for (from, bytes) in pieces {
        for byte in bytes {
            at += 1;
            let open_client_is_empty = open[0].is_empty();
            let open = &mut open[usize::from(*from == From::Server)];
            open.push(*byte);
            let length = |at: usize| {
                let four = open.get(at..at + 4)?;
                Some(u32::from_be_bytes(four.try_into().unwrap()) as usize + at)
            };
            let asked = client.last().is_some_and(|m: &Message| is_encryption(m));
            let (kind, whole) = match from {
                From::Client if first => (FIRST, length(0)),
                From::Server if asked && (server.is_empty() || open == b"N") => (ANSWER, Some(1)),
                _ => (open[0], length(1)),
            };
            if whole == Some(open.len()) {
                let body = std::mem::take(open);

                let message = Message {
                    kind,
                    body,
                    end: at,
                    settled: None,
                    ignored: false,
                    whole_client: open_client_is_empty,
                };
                match from {
                    From::Client => {
                        first = first && is_encryption(&message);
                        client.push(message);
                    }
                    From::Server => server.push(message),
                }
            }
        }
    }
    Session { client, server }
}

fn is_encryption(message: &Message) -> bool {
    message.kind == FIRST && message.body.len() == 8
}

/// The server, played over the client's messages.
struct Server<'a> {
    client: &'a mut [Message],
    said: Vec<&'a Message>,
    at: usize,
}

impl<'a> Server<'a> {
    /// Its next word that answers something.
    fn say(&mut self) -> Option<&'a Message> {
        let word = self.said.first().copied();
        if word.is_some() {
            self.said.remove(0);
        }
        word
    }

    fn peek(&self) -> u8 {
        self.said.first().map_or(0, |word| word.kind)
    }

    fn play(&mut self) {
        let (mut skip, mut unsettled) = (false, Vec::new());
        self.at = 0;
        while self.at < self.client.len() {
            let kind = self.client[self.at].kind;
            unsettled.push(self.at);
            self.at += 1;
            let mut ready = false;
            match kind {
                FIRST if is_encryption(&self.client[self.at - 1]) => {
                    assert_eq!(self.say().unwrap().kind, ANSWER);
                    unsettled.clear();
                }
                FIRST | b'p' => {
                    while matches!(self.peek(), b'R' | b'K') {
                        let word = self.say().unwrap();
                        // A challenge waits for the client, unless it is the last part of one, or the end.
                        if word.kind == b'R' && !matches!(word.body[8], 0 | 12) {
                            break;
                        }
                    }
                    ready = self.peek() == b'Z';
                }
                b'S' => {
                    skip = false;
                    ready = true;
                    if self.peek() == b'E' {
                        self.say();
                    }
                }
                _ if skip => {}
                b'Q' => {
                    self.work(b"Z", &mut unsettled);
                    ready = true;
                }
                b'F' => {
                    self.work(b"Z", &mut unsettled);
                    ready = true;
                }
                b'P' => skip = self.work(b"1", &mut unsettled),
                b'B' => skip = self.work(b"2", &mut unsettled),
                b'D' => skip = self.work(b"nT", &mut unsettled),
                b'C' => skip = self.work(b"3", &mut unsettled),
                b'E' => skip = self.work(b"CIs", &mut unsettled),
                b'd' | b'c' | b'f' | b'H' | b'X' => {
                    self.client[self.at - 1].ignored = true;
                    unsettled.pop();
                }
                other => panic!("the client sends {other}"),
            }
            if ready {
                let Some(word) = self.say() else { return };
                assert_eq!(word.kind, b'Z');
                for at in unsettled.drain(..) {
                    self.client[at].settled = Some(word.end);
                }
            }
        }
    }

    /// Says what there is to say up to one of `last` (left to be said if it is ReadyForQuery); true: an error.
    fn work(&mut self, last: &[u8], unsettled: &mut Vec<usize>) -> bool {
        loop {
            let kind = self.peek();
            if kind == b'Z' || kind == 0 {
                return false;
            }
            let word = self.say().unwrap();
            match kind {
                b'E' if last == b"Z" => {}
                b'E' => return true,
                b'G' => self.read_copy(word.end, unsettled),
                kind if last.contains(&kind) => return false,
                _ => {}
            }
        }
    }

    /// Reads the data of a copy, which began to be asked for at `asked`.
    fn read_copy(&mut self, asked: usize, unsettled: &mut Vec<usize>) {
        let fails = self.peek() == b'E';
        while let Some(message) = self.client.get(self.at) {
            match message.kind {
                // Passed over.
                b'S' if message.end < asked => {}
                b'd' | b'c' | b'f' => {}
                _ => return,
            }
            unsettled.push(self.at);
            self.at += 1;
            let done = matches!(self.client[self.at - 1].kind, b'c' | b'f');
            // One that fails has not read all of it, and what it has not read is ignored: no difference.
            if done || (fails && self.client[self.at - 1].kind == b'd') {
                return;
            }
        }
    }
}

/// What is true when the first `cut` bytes have passed.
fn truth(session: &Session, cut: usize) -> (Standing, bool, bool) {
    let past = |messages: &'_ [Message]| messages.iter().take_while(|m| m.end <= cut).count();
    let (client, server) = (past(&session.client), past(&session.server));
    let (client, server) = (&session.client[..client], &session.server[..server]);
    let fatal = server
        .iter()
        .any(|m| m.kind == b'E' && m.body.windows(6).any(|w| w == b"VFATAL"));
    let cancel = client
        .iter()
        .any(|m| m.kind == FIRST && m.body.len() == 16 && m.body[4..8] == [4, 210, 22, 46]);
    let over = fatal || cancel || client.iter().any(|m| m.kind == b'X');
    let open = |m: &&Message| !m.ignored && m.settled.is_none_or(|settled| settled > cut);
    let flying = client
        .iter()
        .filter(open)
        .any(|m| matches!(m.kind, b'Q' | b'F' | b'E' | b'c'));
    let status = server.iter().rfind(|m| m.kind == b'Z').map(|m| m.body[5]);
    let standing = match status {
        _ if over => Standing::Over,
        _ if flying => Standing::InFlight,
        None => Standing::Login,
        Some(b'I') => Standing::Idle,
        Some(_) => Standing::Transaction,
    };
    let encrypting = client.last().is_some_and(is_encryption)
        && server.last().is_none_or(|m| m.kind != ANSWER)
        && !over;
    let quiet = client.iter().filter(open).all(is_encryption);
    (standing, encrypting, standing == Standing::Idle && quiet)
}

#[test]
fn at_every_byte_of_every_recorded_session_the_verdict_is_the_truth() {
    let mut cuts = 0;
    for (name, pieces) in all() {
        let session = split_and_settle(&pieces);
        let ends = |messages: &[Message]| messages.iter().map(|m| m.end).collect::<Vec<_>>();
        let (client_ends, server_ends) = (ends(&session.client), ends(&session.server));
        let mut observer = Observer::default();
        let (mut at, mut client_at, mut server_at) = (0, 0, 0);
        for (from, bytes) in &pieces {
            for byte in bytes {
                feed(&mut observer, *from, &[*byte]);
                at += 1;
                cuts += 1;
                match from {
                    From::Client => client_at = at,
                    From::Server => server_at = at,
                }
                let (standing, encrypting, quiet) = truth(&session, at);
                let here = format!("{name}, {at} bytes: {observer:?}");
                assert_eq!(observer.standing(), standing, "{here}");
                let whole = |ends: &[usize], at| at == 0 || ends.contains(&at);
                let server_whole = whole(&server_ends, server_at);
                assert_eq!(
                    observer.at_boundary(),
                    server_whole && !encrypting,
                    "{here}"
                );
                let safe = quiet && server_whole && whole(&client_ends, client_at);
                let stays = name == "replication";
                assert_eq!(observer.at_safe_point(), safe && !stays, "{here}");
            }
        }
        // In pieces of any size it comes to the same.
        let mut whole = Observer::default();
        for (from, bytes) in &pieces {
            feed(&mut whole, *from, bytes);
        }
        assert_eq!(format!("{whole:?}"), format!("{observer:?}"), "{name}");
    }
    assert!(cuts > 20_000, "{cuts}");
}
