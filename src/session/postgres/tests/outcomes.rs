//! Every recorded session loses its server after every byte: what the application is told, what the other server gets and what
//! it never gets, checked against the table of what is promised. What is true at the cut is found in the recording, with hindsight
//! (`cuts`), and not by the observer.

use super::super::*;
use super::cuts::{Message, Session, split_and_settle};
use super::moving::snapshot;
use super::transcript::{From, Pieces, all};

/// What the table has for a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// As if nothing had happened; what was sent since the server was last done is sent again.
    Same,
    /// ERROR 08006, and an aborted block.
    Aborted,
    /// ERROR 08007, and no block.
    Told,
    /// FATAL of this code, and the end.
    Fatal(&'static str),
    /// The end, in good order.
    End,
    /// The end, without a word.
    Reset,
}

/// The recording up to a cut. Client messages that the server ignored are left out.
struct Past<'a> {
    client: Vec<&'a Message>,
    server: Vec<&'a Message>,
    /// The client has begun another message.
    partial: bool,
    cut: usize,
}

impl<'a> Past<'a> {
    fn new(session: &'a Session, cut: usize, partial: bool) -> Self {
        let past = |messages: &'a [Message]| messages.iter().filter(move |m| m.end <= cut);
        Self {
            client: past(&session.client).collect(),
            server: past(&session.server).collect(),
            partial,
            cut,
        }
    }

    fn open(&self, at: usize) -> Vec<&'a Message> {
        let sent = self.client.iter().filter(|m| m.end <= at && !m.ignored);
        let open = sent.filter(|m| m.kind != 0 && m.settled.is_none_or(|s| s > at));
        open.copied().collect()
    }

    /// Where everything was last answered, and no block was open.
    fn rest(&self) -> usize {
        let idle = self.server.iter().filter(|m| m.is(b'Z', b"I"));
        let rest = idle.filter(|m| self.open(m.end).is_empty() && m.whole_client);
        rest.map(|m| m.end).max().unwrap_or(0)
    }

    fn said_since(&self, at: usize) -> impl Iterator<Item = &&'a Message> {
        self.server.iter().filter(move |m| m.end > at)
    }

    /// The statements that these messages run; a copy's end runs none.
    fn statements(&self, messages: &[&Message]) -> Vec<String> {
        let runs = messages
            .iter()
            .filter(|m| matches!(m.kind, b'Q' | b'E' | b'F'));
        runs.map(|m| match m.kind {
            b'Q' => m.word(0),
            b'F' => String::new(),
            _ => {
                let before = || self.client.iter().rev().filter(|b| b.end < m.end);
                let portal = m.word(0);
                let bind = before().find(|b| b.kind == b'B' && b.word(0) == portal);
                let name = bind.unwrap().word(1);
                let parse = before().find(|b| b.kind == b'P' && b.word(0) == name);
                parse.unwrap().word(1)
            }
        })
        .collect()
    }

    /// The statements with names that were there then, as rows of the state.
    fn prepared(&self) -> String {
        let rest = self.rest();
        let named = self
            .client
            .iter()
            .filter(|m| m.kind == b'P' && m.end <= rest);
        let mut rows: Vec<_> = named
            .filter(|m| !m.word(0).is_empty())
            .map(|m| format!("prepared|{}|{}|protocol|{{}}", m.word(0), m.word(1)))
            .collect();
        rows.sort();
        rows.dedup();
        rows.join("\n")
    }

    fn outcome(&self, tell: bool) -> Outcome {
        let fatal = self.server.iter().any(|m| m.has("VFATAL"));
        let flying: Vec<_> = self
            .open(self.cut)
            .into_iter()
            .filter(|m| matches!(m.kind, b'Q' | b'F' | b'E' | b'c'))
            .collect();
        let terminated = self.client.iter().any(|m| m.kind == b'X');
        if terminated || fatal {
            return match flying.is_empty() || fatal {
                true => Outcome::End,
                false => Outcome::Reset,
            };
        }
        if self.client.len() == 1 && self.client[0].body.len() == 8 && self.server.is_empty() {
            // The answer is one byte, and no message.
            return Outcome::Reset;
        }
        let Some(last) = self.server.iter().rfind(|m| m.kind == b'Z') else {
            return Outcome::Fatal("57P01");
        };
        let (rest, block) = (self.rest(), !last.is(b'Z', b"I"));
        let open = self.open(self.cut);
        let copies = {
            let said = self.said_since(last.end);
            let asked = said.fold(false, |asked, m| match m.kind {
                b'G' | b'H' => true,
                b'C' | b'E' => false,
                _ => asked,
            });
            asked || open.iter().any(|m| matches!(m.kind, b'd' | b'c' | b'f'))
        };
        if flying.is_empty() && !block {
            let heard = self
                .said_since(rest)
                .any(|m| !matches!(m.kind, b'N' | b'A'));
            return match heard && (!open.is_empty() || self.partial) {
                true => Outcome::Fatal("57P01"),
                false => Outcome::Same,
            };
        }
        let statements = self.statements(&flying);
        let commits = |text: &String| {
            ["commit", "end", "call", "prepare t"]
                .iter()
                .any(|it| text.starts_with(it))
                || text.trim_end_matches(';').contains(';')
        };
        let leaves =
            |at: usize| statements[at].starts_with("rollback") && at + 1 < statements.len();
        let may_commit = statements.iter().any(commits) || (0..statements.len()).any(leaves);
        // Who is told that there is no block must not be in one, whatever became of the requests.
        let outside = statements.iter().try_fold(!block, |outside, text| {
            let text = text.trim_end_matches(';');
            let last = text.rsplit(';').next().unwrap().trim();
            let ends = ["commit", "end", "rollback"].contains(&last);
            let mut signs = ["begin", "start", "chain"].iter();
            let unclear = signs.any(|it| text.contains(it)) || (text.contains(';') && !outside);
            match (ends, unclear) {
                (true, _) => Some(true),
                (_, true) => None,
                _ if !outside && (commits(&text.into()) || text.starts_with("rollback")) => None,
                _ => Some(outside),
            }
        });
        let outside = outside == Some(true);
        // The block was begun at rest, by what was run first.
        let mut tags = self
            .said_since(rest)
            .filter(|m| m.kind == b'C')
            .map(|m| m.word(0));
        let begins = |tag: &String| tag == "BEGIN" || tag == "START TRANSACTION";
        let begun = tags.next().is_some_and(|tag| begins(&tag));
        let more = tags.any(|tag| begins(&tag) || tag == "COMMIT")
            || self.said_since(rest).any(|m| m.is(b'Z', b"I"));
        let since = self.client.iter().filter(|m| m.end > rest);
        let lasts = since.clone().any(|m| match m.kind {
            b'P' if !m.word(0).is_empty() => true,
            b'P' | b'Q' => ["prepare inside", "advisory", "do E'"]
                .iter()
                .any(|it| m.has(it)),
            b'F' => block,
            _ => false,
        });
        let sets = self
            .said_since(rest)
            .filter(|m| m.kind == b'C')
            .any(|m| ["SET", "DO"].contains(&&*m.word(0)) || m.word(0).starts_with("DECLARE"));
        let begun = begun && !more && !lasts && !copies;
        let behind = open
            .iter()
            .rposition(|m| matches!(m.kind, b'Q' | b'F' | b'S'));
        let behind = &open[behind.map_or(0, |at| at + 1)..];
        let left_over =
            self.partial || (!behind.is_empty() && !behind.iter().any(|m| m.kind == b'E'));
        match (block, flying.is_empty() || !may_commit) {
            (true, true) if begun => Outcome::Aborted,
            (true, true) => Outcome::Fatal("08006"),
            _ if !tell => Outcome::Reset,
            (true, false) if begun && !sets && !left_over && outside => Outcome::Told,
            (false, _) if !more && !lasts && !copies && !left_over && outside => Outcome::Told,
            _ => Outcome::Fatal("08007"),
        }
    }
}

/// What the application has and gets: types and a part of what they say.
fn hears(bytes: &[u8]) -> Vec<(u8, String)> {
    let (mut all, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize + 1;
        let body = String::from_utf8_lossy(&rest[5..length]).into_owned();
        all.push((rest[0], body));
        rest = &rest[length..];
    }
    all
}

const LOST: Lost<'static> = Lost {
    name: "sales.lab",
    node: "node-a",
    why: Reason::NoServer,
};

struct Check<'a> {
    past: Past<'a>,
    observer: Observer,
    /// All of the client's bytes, and how many of them were sent.
    client: &'a [u8],
    sent: usize,
    here: String,
}

impl Check<'_> {
    fn run(mut self, tell: bool) -> Outcome {
        let expected = self.past.outcome(tell);
        let here = format!("{} {tell} {expected:?}", self.here);
        let state = snapshot(&self.past.prepared());
        match self.observer.onward(Some(&state), tell) {
            Ok(onward) => {
                let is = match &onward {
                    Onward::Same(_) => Outcome::Same,
                    Onward::Aborted => Outcome::Aborted,
                    Onward::Unknown => Outcome::Told,
                };
                assert_eq!(is, expected, "{here}");
                match &onward {
                    Onward::Same(again) => self.sent_again(again, &here),
                    _ => self.answers(&onward, &here),
                }
            }
            Err(_) => {
                let is = match self.observer.end(LOST, tell) {
                    End::Reset => Outcome::Reset,
                    End::Words(words) if words.is_empty() => Outcome::End,
                    End::Words(words) => {
                        let [(b'E', said)] = &hears(&words)[..] else {
                            panic!("{here}");
                        };
                        assert!(said.contains("VFATAL\0"), "{here}");
                        let codes = ["57P01", "08006", "08007"];
                        let code = codes
                            .into_iter()
                            .find(|c| said.contains(&format!("\0C{c}\0")));
                        Outcome::Fatal(code.unwrap())
                    }
                };
                assert_eq!(is, expected, "{here}");
            }
        }
        expected
    }

    /// The other server gets what the one before had not been done with, and can have run nothing of it.
    fn sent_again(&self, again: &[u8], here: &str) {
        let rest = self.past.rest();
        let settled = self.past.client.iter().filter(|m| m.end <= rest);
        let settled: usize = settled.map(|m| m.body.len()).sum();
        let ignored = again.is_empty();
        assert!(
            ignored || again == &self.client[settled..self.sent],
            "{here}"
        );
        assert!(
            !ignored || self.past.open(self.past.cut).is_empty() && !self.past.partial,
            "{here}"
        );
        let mut at = 0;
        while let Some(five) = again.get(at..at + 5) {
            at += u32::from_be_bytes(five[1..].try_into().unwrap()) as usize + 1;
            assert!(at > again.len() || !b"QFEc".contains(&five[0]), "{here}");
        }
    }

    /// One ReadyForQuery for each request, none of which says another thing; errors where none was told; and what is asked
    /// next gets one as well.
    fn answers(&mut self, onward: &Onward, here: &str) {
        let (code, status) = match onward {
            Onward::Aborted => ("C08006\0", "E"),
            _ => ("C08007\0", "I"),
        };
        let error = LOST.told(onward, "node-b");
        let open = self.past.open(self.past.cut);
        let due = open
            .iter()
            .filter(|m| matches!(m.kind, b'Q' | b'F' | b'S'))
            .count();
        let (said, stand_in) = self.observer.stand_in(onward, error);
        let heard = hears(&said);
        let readies = |heard: &[(u8, String)]| {
            heard
                .iter()
                .filter(|(kind, said)| *kind == b'Z' && said == status)
                .count()
        };
        assert_eq!(readies(&heard), due, "{here}");
        let right = |heard: &[(u8, String)]| {
            heard.iter().all(|(kind, said)| match kind {
                b'Z' => said == status,
                b'E' => said.contains(code) && said.contains("VERROR\0"),
                _ => false,
            })
        };
        assert!(right(&heard), "{here}: {heard:?}");
        let failed = self.past.said_since(
            self.past
                .server
                .iter()
                .rfind(|m| m.kind == b'Z')
                .unwrap()
                .end,
        );
        let failed = failed.into_iter().any(|m| m.kind == b'E');
        let knows = failed || self.observer.transaction() == Some(Transaction::Failed);
        let errors = heard.iter().filter(|(kind, _)| *kind == b'E').count();
        assert!(errors > 0 || knows || open.is_empty(), "{here}: {heard:?}");
        assert!(self.observer.at_boundary(), "{here}");
        let expected = match onward {
            Onward::Aborted => Standing::Transaction,
            _ => Standing::Idle,
        };
        let standing = self.observer.standing();
        let skips = stand_in.is_some() && standing == Standing::InFlight;
        assert!(standing == expected || skips, "{here}: {standing:?}");
        let Some(mut stand_in) = stand_in else {
            return;
        };
        // In pieces of three bytes.
        let mut told = Vec::new();
        for piece in self.client[self.sent..].chunks(3) {
            let heard = stand_in.hear(piece, true);
            self.observer.sent(&piece[..heard.taken]);
            self.observer.received(&heard.said);
            told.extend_from_slice(&heard.said);
            if heard.commits {
                // As one that fails: the error, and no block any more.
                assert!(told.is_empty(), "{here}");
                let said = stand_in.rolled_back(true);
                self.observer.received(&said);
                let said = hears(&said);
                assert!(said[0].1.contains(code), "{here}: {said:?}");
                assert_eq!(said[1], (b'Z', "I".to_owned()), "{here}");
                assert_eq!(said.len(), 2, "{here}");
                assert_eq!(self.observer.standing(), Standing::Idle, "{here}");
                return;
            }
            if heard.done {
                if !heard.passed.is_empty() {
                    let text = String::from_utf8_lossy(&heard.passed[5..]).to_lowercase();
                    assert!(text.starts_with("rollback"), "{here}");
                    assert!(told.is_empty(), "{here}");
                    return;
                }
                break;
            }
        }
        let told = hears(&told);
        assert!(right(&told), "{here}: {told:?}");
        let ends = told.is_empty() && self.observer.standing() != Standing::InFlight;
        assert!(ends || told.last().unwrap().0 == b'Z', "{here}: {told:?}");
        let standing = self.observer.standing();
        assert!(
            [expected, Standing::Over].contains(&standing),
            "{here}: {standing:?}"
        );
    }
}

fn sweep(name: &str, pieces: &Pieces, found: &mut Vec<Outcome>) -> usize {
    let session = split_and_settle(pieces);
    let client: Vec<u8> = (pieces.iter())
        .filter(|(from, _)| *from == From::Client)
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    let ends: Vec<_> = session.client.iter().map(|m| m.end).collect();
    let (mut observer, mut come) = (Observer::default(), Vec::new());
    let (mut at, mut sent, mut client_at) = (0, 0, 0);
    for (from, bytes) in pieces {
        for byte in bytes {
            at += 1;
            match from {
                From::Client => {
                    observer.sent(&[*byte]);
                    sent += 1;
                    client_at = at;
                }
                From::Server => {
                    // The application gets whole messages.
                    come.push(*byte);
                    let ahead = |skip: usize, out: &mut [u8]| {
                        let rest = come.get(skip..).unwrap_or_default();
                        let n = rest.len().min(out.len());
                        out[..n].copy_from_slice(&rest[..n]);
                        n
                    };
                    let release = observer.release(usize::MAX, come.len(), LARGE, ahead);
                    let given: Vec<u8> = come.drain(..release.bytes).collect();
                    observer.released(&given, &release);
                }
            }
            if observer.standing() == Standing::Blind || name == "replication" || name == "cancel.2"
            {
                continue;
            }
            let partial = client_at > 0 && !ends.contains(&client_at);
            for tell in [false, true] {
                let check = Check {
                    past: Past::new(&session, at, partial),
                    observer: observer.clone(),
                    client: &client,
                    sent,
                    here: format!("{name}, {at} bytes"),
                };
                found.push(check.run(tell));
            }
        }
    }
    at
}

#[test]
fn after_every_byte_of_every_recorded_session_the_outcome_is_that_of_the_table() {
    let (mut cuts, mut found) = (0, Vec::new());
    for (name, pieces) in all() {
        cuts += sweep(name, &pieces, &mut found);
    }
    assert!(cuts > 25_000, "{cuts}");
    for (outcome, most) in [
        (Outcome::Same, 1000),
        (Outcome::Aborted, 500),
        (Outcome::Told, 500),
        (Outcome::Fatal("57P01"), 500),
        (Outcome::Fatal("08006"), 100),
        (Outcome::Fatal("08007"), 100),
        (Outcome::End, 10),
        (Outcome::Reset, 1000),
    ] {
        let count = found.iter().filter(|it| **it == outcome).count();
        assert!(count >= most, "{outcome:?}: {count}");
    }
}
