//! Answers in the server's place what the application asked of the one that is lost: an error, and a ReadyForQuery wherever the
//! server would have sent one.

use super::text;

const HEAD: usize = 5;
/// Longest text that may be nothing but ROLLBACK or COMMIT.
const SHORT: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub struct StandIn {
    /// A whole ErrorResponse.
    error: Vec<u8>,
    /// What ReadyForQuery says.
    status: u8,
    /// What has come of a message, its head and as much of its body as is of use, and how much is missing.
    part: Vec<u8>,
    left: usize,
    /// The request that comes first was told its error.
    failed: bool,
    /// Everything is skipped up to the next Sync.
    skipping: bool,
    /// A rollback is waited for.
    commits: bool,
}

/// What came of bytes of the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// So many of them were taken.
    pub taken: usize,
    /// What the application is told.
    pub said: Vec<u8>,
    /// A message that the server is to answer itself.
    pub passed: Vec<u8>,
    /// A request was answered: everything else is the server's.
    pub done: bool,
    /// COMMIT of a lost block. It is answered when the block has been rolled back: [`StandIn::rolled_back`]. Nothing is
    /// taken before.
    pub commits: bool,
}

impl StandIn {
    /// Longest message that the server is to answer itself.
    pub const MOST_PASSED: usize = HEAD + SHORT;

    /// `error` is a whole message; `status` is what ReadyForQuery says. `failed`: the request that comes first was told its error.
    pub fn new(error: Vec<u8>, status: u8, failed: bool) -> Self {
        Self {
            error,
            status,
            part: Vec::new(),
            left: 0,
            failed,
            skipping: false,
            commits: false,
        }
    }

    /// A COMMIT waits for the block to be rolled back.
    pub fn commits(&self) -> bool {
        self.commits
    }

    /// The answer to COMMIT. As one that fails in PostgreSQL it ends the block: there are drivers that do not look, and would stay
    /// in an aborted one for good. Where that could not be done, it is the aborted one still.
    pub fn rolled_back(&mut self, well: bool) -> Vec<u8> {
        self.commits = false;
        let mut heard = Heard::default();
        heard.said.extend_from_slice(&self.error);
        if well {
            self.status = b'I';
        }
        self.ready(&mut heard);
        heard.said
    }

    /// Nothing is half done: neither a message nor a request.
    pub fn is_free(&self) -> bool {
        self.part.is_empty() && !self.skipping
    }

    /// Takes bytes, up to the end of a request at most. `waits`: what comes behind a COMMIT can wait until it is answered.
    pub fn hear(&mut self, bytes: &[u8], waits: bool) -> Heard {
        let mut heard = Heard::default();
        while heard.taken < bytes.len() && !heard.done && !self.commits {
            self.step(bytes, waits, &mut heard);
        }
        heard
    }

    fn step(&mut self, bytes: &[u8], waits: bool, heard: &mut Heard) {
        let rest = &bytes[heard.taken..];
        if self.part.is_empty() && rest[0] == b'X' {
            heard.done = true;
            return;
        }
        let have = self.part.len();
        if have < HEAD {
            let more = (HEAD - have).min(rest.len());
            self.part.extend_from_slice(&rest[..more]);
            heard.taken += more;
            if have + more < HEAD {
                return;
            }
            let length =
                u32::from_be_bytes([self.part[1], self.part[2], self.part[3], self.part[4]]);
            self.left = (length as usize).saturating_sub(4);
        }
        let rest = &bytes[heard.taken..];
        let take = self.left.min(rest.len());
        let keep = take.min((HEAD + SHORT).saturating_sub(self.part.len()));
        self.part.extend_from_slice(&rest[..keep]);
        self.left -= take;
        heard.taken += take;
        if self.left == 0 {
            self.message(waits, heard);
        }
    }

    /// A whole message.
    fn message(&mut self, waits: bool, heard: &mut Heard) {
        let part = std::mem::take(&mut self.part);
        let (kind, body) = (part[0], &part[HEAD..]);
        let asks = b"SQFPBDCE".contains(&kind);
        let failed = asks && std::mem::take(&mut self.failed);
        match kind {
            b'S' => {
                // Where nothing was asked before it, what comes next is.
                heard.done = std::mem::take(&mut self.skipping) || failed;
                self.ready(heard);
            }
            b'Q' | b'F' if self.skipping => {}
            b'Q' | b'F' if failed => {
                heard.done = true;
                self.ready(heard);
            }
            b'Q' if self.status == b'E' && body.len() < SHORT && text::is_rollback(body) => {
                heard.passed = part;
                heard.done = true;
            }
            b'Q' if waits && self.status == b'E' && body.len() < SHORT && text::is_commit(body) => {
                self.commits = true;
                heard.commits = true;
            }
            b'Q' | b'F' => {
                heard.said.extend_from_slice(&self.error);
                heard.done = true;
                self.ready(heard);
            }
            b'P' | b'B' | b'D' | b'C' | b'E' if !self.skipping => {
                if !failed {
                    heard.said.extend_from_slice(&self.error);
                }
                self.skipping = true;
            }
            _ => {}
        }
    }

    fn ready(&self, heard: &mut Heard) {
        heard
            .said
            .extend_from_slice(&[b'Z', 0, 0, 0, 5, self.status]);
    }
}
