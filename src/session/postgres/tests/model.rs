//! A server that is played: it reads one message after the other and answers as PostgreSQL does, copies that fail at any
//! moment included. Whatever the observer calls settled must be settled there.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// What a client sends at once.
const REQUESTS: [&str; 16] = [
    "Q", "PBES", "PBDES", "BE", "S", "d", "c", "f", "H", "P", "F", "CS", "dcS", "dc", "ddcS", "PBE",
];

/// What happens next, and how whatever may go one way or another goes.
#[derive(Clone, Debug)]
enum Turn {
    Asks(&'static str),
    /// The server reads a message.
    Works(Vec<u8>),
    /// The application hears of it.
    Hears,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        prop::sample::select(&REQUESTS[..]).prop_map(Turn::Asks),
        prop::collection::vec(any::<u8>(), 8).prop_map(Turn::Works),
        Just(Turn::Hears),
    ]
}

/// How a statement goes on.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Simple,
    Extended,
}

#[derive(Default)]
struct Server {
    /// Messages and their places in the stream.
    asked: VecDeque<(u8, usize)>,
    said: VecDeque<(u8, usize)>,
    skipping: bool,
    copying: Option<Protocol>,
    /// Statements of the query that are still to be run.
    more: u8,
    /// Executes since the last Sync, whose deferred constraints may fail.
    dirty: bool,
    chances: Vec<u8>,
}

impl Server {
    /// True in one of `n` cases.
    fn chance(&mut self, n: u8) -> bool {
        self.chances.pop().unwrap_or(1).is_multiple_of(n)
    }

    fn say(&mut self, kind: u8) {
        self.said.push_back((kind, 0));
    }

    fn ready(&mut self, at: usize) {
        self.said.push_back((b'Z', at));
    }

    fn fails(&mut self, protocol: Protocol, at: usize) {
        self.say(b'E');
        self.more = 0;
        match protocol {
            Protocol::Extended => self.skipping = true,
            Protocol::Simple => self.ready(at),
        }
    }

    fn work(&mut self, chances: Vec<u8>) {
        let Some((kind, at)) = self.asked.pop_front() else {
            return;
        };
        self.chances = chances;
        if let Some(protocol) = self.copying {
            return self.copy(kind, at, protocol);
        }
        match kind {
            b'S' => {
                if !self.skipping && std::mem::take(&mut self.dirty) && self.chance(20) {
                    self.say(b'E');
                }
                self.skipping = false;
                self.ready(at);
            }
            _ if self.skipping => {}
            b'Q' => {
                self.more = self.chance(2).into();
                self.run(Protocol::Simple, at);
            }
            b'F' => {
                let kind = if self.chance(3) { b'E' } else { b'V' };
                self.say(kind);
                self.ready(at);
            }
            b'P' | b'B' | b'D' | b'C' if self.chance(8) => self.fails(Protocol::Extended, at),
            b'P' => self.say(b'1'),
            b'B' => self.say(b'2'),
            b'D' => self.say(b'n'),
            b'C' => self.say(b'3'),
            b'E' => {
                self.dirty = true;
                self.run(Protocol::Extended, at);
            }
            _ => {}
        }
    }

    fn run(&mut self, protocol: Protocol, at: usize) {
        match self.chances.pop().unwrap_or(5) % 6 {
            0 => return self.fails(protocol, at),
            1 | 2 => {
                self.say(b'G');
                // Before it has read a byte.
                match self.chance(4) {
                    true => self.fails(protocol, at),
                    false => self.copying = Some(protocol),
                }
                return;
            }
            3 => b"HdcC".iter().for_each(|kind| self.say(*kind)),
            4 => b"DC".iter().for_each(|kind| self.say(*kind)),
            _ => self.say(b'C'),
        }
        self.done(protocol, at);
    }

    fn done(&mut self, protocol: Protocol, at: usize) {
        match (protocol, self.more) {
            (Protocol::Extended, _) => {}
            (Protocol::Simple, 0) => self.ready(at),
            (Protocol::Simple, _) => {
                self.more -= 1;
                self.run(protocol, at);
            }
        }
    }

    fn copy(&mut self, kind: u8, at: usize, protocol: Protocol) {
        let fails = match kind {
            b'd' => self.chance(4),
            b'c' => self.chance(5),
            b'H' | b'S' => false,
            _ => true,
        };
        if fails {
            self.copying = None;
            self.fails(protocol, at);
        } else if kind == b'c' {
            self.copying = None;
            self.say(b'C');
            self.done(protocol, at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn what_is_called_settled_is_settled(turns in prop::collection::vec(turn(), 1..40)) {
        let (mut observer, mut server) = (session(), Server::default());
        let (mut asked, mut settled, mut story) = (Vec::new(), 0, String::new());
        for turn in turns {
            match turn {
                Turn::Asks(kinds) => {
                    for kind in kinds.bytes() {
                        asked.push(kind);
                        server.asked.push_back((kind, asked.len()));
                    }
                    story.push_str(kinds);
                    ask(&mut observer, kinds);
                }
                Turn::Works(chances) => server.work(chances),
                Turn::Hears => {
                    let Some((kind, at)) = server.said.pop_front() else { continue };
                    story.extend(['<', char::from(kind)]);
                    answer(&mut observer, std::str::from_utf8(&[kind]).unwrap());
                    if kind == b'Z' {
                        settled = at;
                    }
                }
            }
            match observer.standing() {
                Standing::Blind => break,
                Standing::Idle | Standing::Transaction => {
                    let open = asked[settled..].iter().any(|kind| b"QFE".contains(kind));
                    prop_assert!(!open, "{}", story);
                }
                _ => {}
            }
        }
    }
}
