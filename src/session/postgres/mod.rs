//! The observer for PostgreSQL's protocol, version 3: what is true of a session at every byte of its two streams.
//!
//! Pure: bytes in, verdicts out. It follows headers and the few bodies it needs (startup packet, authentication code,
//! severity of an error, transaction status); what the application has sent since the session was last at rest is kept, up to a
//! limit, as far as it is not settled. So its memory is bounded whatever comes. What it does not understand it does not guess at: from then on it is *blind*, and says why.
//!
//! Contract: [`Observer::sent`] before the bytes can have an effect (an answer to a request must not be seen before the
//! request), [`Observer::received`] in the order in which the application gets them. [`Observer::release`] says how many
//! bytes may be given to the application, so that it has whole messages only.

pub mod arrival;
mod backend;
mod compare;
mod custom;
mod derived;
mod frontend;
mod identity;
mod last_words;
mod lasting;
mod login;
mod message;
mod mover;
mod onward;
mod ours;
mod parsing;
mod question;
mod queue;
mod reason;
mod record;
mod restore;
mod since;
mod snapshot;
mod stand_in;
mod text;
mod texts;
mod words;

pub use backend::{LARGE, Release};
pub use identity::{Identity, Way};
pub use last_words::{End, Lost};
pub use mover::{Moved, Mover, Plan, Policy, Progress, Warm};
pub use onward::Onward;
pub use ours::{Ours, Step};
pub use question::{Answer, Question};
pub use reason::Reason;
pub use record::Record;
pub use snapshot::{Snapshot, Written};
pub use stand_in::{Heard, StandIn};
pub use texts::{Fingerprint, Suspect};

use backend::Backend;
use frontend::{Frontend, Packet};
use queue::{CopyIn, Queue};
use since::Since;
use std::sync::Arc;

/// What the last ReadyForQuery said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// `I`: none.
    Idle,
    /// `T`: a transaction block is open.
    Open,
    /// `E`: an aborted block is open.
    Failed,
}

/// What the loss of the server would mean now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The login is not complete; nothing was run.
    Login,
    /// No transaction, and nothing that the server can have begun to run.
    Idle,
    /// A transaction block is open and nothing is in flight.
    Transaction,
    /// The server may run something, or may have run it, and the application has not been told.
    InFlight,
    /// The application has ended the session, or the server has told it that it did; or it never was one (cancel).
    Over,
    /// Not known.
    Blind,
}

/// Which kind of stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// Too few bytes to tell.
    NotYet,
    /// PostgreSQL, version 3.
    Yes,
    /// Something else.
    No,
}

/// Whether the server's next bytes begin with nothing but notices and notifications, whole ones, and at most part of a message
/// behind them.
pub fn is_idle_talk(bytes: &[u8]) -> bool {
    message::Messages(bytes).all(|(kind, _)| matches!(kind, b'N' | b'A'))
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    front: Frontend,
    back: Backend,
    queue: Queue,
    recognised: bool,
    transaction: Option<Transaction>,
    blind: Option<Reason>,
    /// Not blind, and not movable all the same.
    fixed: Option<Reason>,
    record: Record,
    since: Since,
    /// So many bytes of the application were seen.
    position: u32,
    over: bool,
    /// The server has said so.
    told: bool,
}

impl Observer {
    /// Whether the stream is PostgreSQL's; the client's first packet tells, and the type of the server's first message.
    pub fn recognised(&self) -> Recognised {
        match (self.recognised, self.blind) {
            (true, _) => Recognised::Yes,
            (false, Some(_)) => Recognised::No,
            (false, None) => Recognised::NotYet,
        }
    }

    /// These bytes of the application are about to enter the channel.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        if self.transaction.is_some() && self.blind.is_none() && !self.over {
            if self.begins() {
                self.since.begin(self.position);
            }
            self.since.keep(bytes);
        }
        while !bytes.is_empty() && self.blind.is_none() {
            if self.over {
                // Nobody reads what follows Terminate.
                return;
            }
            if self.back.awaits_answer() {
                // Bytes behind a request for encryption and before its answer are one protocol or another.
                return self.lose_sight(Reason::NotUnderstood);
            }
            let before = bytes.len();
            let packet = self.front.step(&mut bytes, &mut self.record.texts);
            self.position = (self.position).wrapping_add((before - bytes.len()) as u32);
            match packet {
                Packet::Incomplete => {}
                Packet::Broken(reason) => return self.lose_sight(reason),
                Packet::Encryption => {
                    self.recognised = true;
                    // If the answer is yes, nothing is seen any more.
                    self.record.asked_to_encrypt = true;
                    self.back.expect_answer();
                }
                Packet::Cancel => {
                    self.recognised = true;
                    self.fixed = Some(Reason::Cancel);
                    self.over = true;
                }
                Packet::Startup { packet, fixed } => {
                    self.recognised = true;
                    self.fixed = fixed;
                    self.record.texts.startup(&packet);
                    self.record.packet = packet;
                    self.push_startup();
                }
                Packet::Message { kind, body, whole } => {
                    let was = (self.record.unnamed.take(), self.record.lacks_unnamed);
                    // A rollback does not undo what happens to statements that have a name.
                    self.since.lasting |= match (kind, &body[..]) {
                        (b'P', [name, ..]) | (b'C', [b'S', name, ..]) => *name != 0,
                        _ => false,
                    };
                    match self.record.asked(kind, &body, whole) {
                        true => _ = self.since.unnamed.get_or_insert(was),
                        false => self.record.unnamed = was.0,
                    }
                    self.asked(kind);
                }
            }
        }
    }

    /// How many of the server's next bytes may be given to the application, and how many must have come before any can.
    /// The application has room for `room`, `available` is how many have come that were not yet received, and `ahead` copies
    /// bytes from so far behind the first of them and says how many there were. A message of more than `large` bytes need
    /// not be whole.
    pub fn release(
        &self,
        room: usize,
        available: usize,
        large: usize,
        ahead: impl Fn(usize, &mut [u8]) -> usize,
    ) -> Release {
        // Nothing is held back of a stream that may be another protocol's.
        match self.recognised && self.blind.is_none() {
            true => self.back.release(room, available, large, ahead),
            false => Release::all(room.min(available)),
        }
    }

    /// These bytes of the server were given to the application, as `release` has allowed.
    pub fn released(&mut self, bytes: &[u8], release: &Release) {
        self.received(bytes);
        self.back.clear(release);
    }

    /// These bytes of the server were given to the application.
    pub fn received(&mut self, mut bytes: &[u8]) {
        if !self.recognised && self.blind.is_none() && !bytes.is_empty() {
            // A server of this protocol is silent until the client has spoken.
            self.lose_sight(Reason::NotPostgres);
        }
        while !bytes.is_empty() && self.blind.is_none() {
            match self.back.step(&mut bytes) {
                backend::Step::Incomplete => {}
                backend::Step::Foreign => {
                    self.recognised = false;
                    return self.lose_sight(Reason::NotPostgres);
                }
                backend::Step::Broken => return self.lose_sight(Reason::NotUnderstood),
                backend::Step::Answer(answer) => self.answered_encryption(answer),
                backend::Step::Message(kind) => {
                    if let Err(reason) = self.said(kind) {
                        return self.lose_sight(reason);
                    }
                }
            }
        }
    }

    /// From now on nothing is known.
    pub fn lose_sight(&mut self, reason: Reason) {
        self.blind.get_or_insert(reason);
        // What was kept for the matching is of no use any more.
        self.queue = Queue::default();
        self.since = Since::default();
    }

    /// Whether the session is at rest, and what is sent next is the first that is not settled.
    pub fn begins(&self) -> bool {
        self.transaction == Some(Transaction::Idle)
            && self.since.is_empty()
            && self.queue.is_empty()
            && !self.front.in_message()
            && self.back.at_boundary()
    }

    /// What the loss of the server would mean now.
    pub fn standing(&self) -> Standing {
        if self.blind.is_some() {
            return Standing::Blind;
        }
        if self.over {
            return Standing::Over;
        }
        match self.transaction {
            _ if self.queue.runs() => Standing::InFlight,
            None => Standing::Login,
            Some(Transaction::Idle) => Standing::Idle,
            Some(_) => Standing::Transaction,
        }
    }

    /// What the last ReadyForQuery said; `None` before the first one.
    pub fn transaction(&self) -> Option<Transaction> {
        self.transaction
    }

    /// Whether the application has whole messages only, so that one of ours may follow.
    pub fn at_boundary(&self) -> bool {
        self.blind.is_none() && self.back.at_boundary()
    }

    /// Whether every request was answered and nothing is on its way in either direction.
    pub fn at_safe_point(&self) -> bool {
        self.obstacle().is_none()
    }

    /// What keeps the session from moving as long as it lasts.
    pub fn lasting_obstacle(&self) -> Option<Reason> {
        self.blind.or(self.fixed).filter(|_| !self.over)
    }

    /// Why the session could not move to another server now; `None`: nothing in the protocol is in the way.
    pub fn obstacle(&self) -> Option<Reason> {
        if let Some(reason) = self.blind.or(self.fixed) {
            return Some(reason);
        }
        match self.standing() {
            Standing::Over => Some(Reason::Ended),
            Standing::Login => Some(Reason::Login),
            Standing::InFlight if self.queue.copying() => Some(Reason::Copy),
            Standing::InFlight => Some(Reason::InFlight),
            Standing::Transaction => Some(Reason::Transaction),
            Standing::Idle if !self.queue.is_empty() => Some(Reason::Unanswered),
            Standing::Idle if self.front.in_message() => Some(Reason::Incomplete),
            Standing::Idle if !self.back.at_boundary() => Some(Reason::Incomplete),
            Standing::Idle | Standing::Blind => None,
        }
    }

    /// What the session was begun with and has been told.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The session has become this, and nothing was sent since that was asked; why it cannot be made again, for what came before.
    pub fn learned(&mut self, state: &Snapshot, policy: &Policy) -> Option<Reason> {
        let otherwise = self.record.parsing.seen(state);
        self.record.texts.seen(state, policy).or(otherwise)
    }

    /// What else has to be asked before that counts.
    pub fn lacks(&mut self, state: &Snapshot, policy: &Policy) -> Option<Question> {
        if self.record.texts.lacks_suspects(state) {
            return Some(Question::Catalog);
        }
        state.is_undescribed().then(|| Question::Derived {
            custom: self.record.custom(policy),
            prepared: state.prepared(),
        })
    }

    /// The server's answer to [`Question::Catalog`].
    pub fn suspects(&mut self, suspects: Arc<[Suspect]>) {
        self.record.texts.suspects(suspects);
    }

    /// What the same answer is to in another session.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.record.texts.fingerprint()
    }

    /// The server is this one: how it is found out what the session has become; `None`: not at all.
    pub fn way(&mut self, identity: &Identity) -> Option<Way> {
        let way = identity.way();
        match way {
            Way::Exact => self.record.texts.stop(),
            Way::Derived if !identity::is_derivable(&self.record) => return None,
            Way::Derived => {}
        }
        Some(way)
    }

    /// Why that could not be begun again.
    pub fn obstacle_at_rest(&self) -> Option<Reason> {
        match &self.since.unnamed {
            None => self.record.obstacle(),
            Some(_) if self.record.too_large => Some(Reason::TooLarge),
            Some((_, lacks)) => lacks.then_some(Reason::TooLarge),
        }
    }

    /// What it was begun with, as the session was when it was last at rest; `same`: it goes on from there.
    pub fn record_at_rest(&self, same: bool) -> Record {
        let mut record = self.record.clone();
        match (&self.since.unnamed, same) {
            (_, false) => (record.unnamed, record.lacks_unnamed) = (None, false),
            (Some(unnamed), true) => (record.unnamed, record.lacks_unnamed) = unnamed.clone(),
            (None, true) => {}
        }
        record
    }

    /// The session goes on on another server, which has told this.
    pub fn moved(&mut self, moved: &Moved) {
        self.record.parameters = moved.parameters.clone();
        if !matches!(moved.onward, Onward::Same(_)) {
            self.record.failed();
        }
    }

    /// What the server says may make the unnamed statement be forgotten.
    fn keep_unnamed(&mut self) {
        if !self.begins() {
            let record = &self.record;
            let was = || (record.unnamed.clone(), record.lacks_unnamed);
            self.since.unnamed.get_or_insert_with(was);
        }
    }

    fn note(&mut self, kind: u8) {
        let (body, whole) = self.back.told();
        self.record.told(kind, body, whole);
    }

    fn push_startup(&mut self) {
        if !self.queue.push(queue::Entry::Startup) {
            self.lose_sight(Reason::Pipeline);
        }
    }

    /// A whole message of the client.
    fn asked(&mut self, kind: u8) {
        let copying = self.queue.copy_in();
        if copying == CopyIn::Data && !matches!(kind, b'd' | b'c' | b'f' | b'H' | b'X') {
            // Which Sync the server reads as one depends on where the copy fails.
            return self.lose_sight(Reason::NotUnderstood);
        }
        let only_sync = copying == CopyIn::Begun || self.queue.is_unsure();
        if only_sync && !matches!(kind, b'd' | b'c' | b'f' | b'H' | b'X' | b'S') {
            return self.lose_sight(Reason::NotUnderstood);
        }
        let end = self.position;
        let kept = match kind {
            b'Q' => self.queue.runs_alone(queue::Entry::Query { end }),
            b'F' => self.queue.runs_alone(queue::Entry::Function { end }),
            b'P' | b'B' | b'D' | b'C' => self.queue.extend(false),
            b'E' => self.queue.extend(true),
            b'S' => self.queue.sync(end),
            b'd' => self.queue.copy_data(),
            b'c' | b'f' => self.queue.copy_end(),
            b'H' => true,
            b'p' if self.transaction.is_none() => true,
            b'X' => {
                self.over = true;
                true
            }
            _ => return self.lose_sight(Reason::NotUnderstood),
        };
        if !kept {
            self.lose_sight(Reason::Pipeline);
        }
    }

    /// A whole message of the server.
    fn said(&mut self, kind: u8) -> Result<(), Reason> {
        let login = self.transaction.is_none();
        match kind {
            // They come at any time.
            b'S' => {
                // In a transaction it goes with that.
                self.since.heard |= self.transaction == Some(Transaction::Idle);
                self.keep_unnamed();
                self.note(kind);
            }
            b'N' | b'A' => {}
            b'E' if self.back.is_fatal() => (self.over, self.told) = (true, true),
            b'E' if login => return Err(Reason::NotUnderstood),
            b'E' => {
                self.keep_unnamed();
                self.record.failed();
                (self.since.heard, self.since.failed) = (true, true);
                self.queue.error().ok_or(Reason::NotUnderstood)?;
            }
            b'K' if login => self.note(kind),
            b'R' | b'v' if login => {}
            b'Z' => {
                let status = match self.back.body() {
                    b"I" => Transaction::Idle,
                    b"T" => Transaction::Open,
                    b"E" => Transaction::Failed,
                    _ => return Err(Reason::NotUnderstood),
                };
                let end = self.queue.ready().ok_or(Reason::NotUnderstood)?;
                self.transaction = Some(status);
                let rest = self.queue.is_empty() && !self.front.in_message();
                if login && !rest {
                    // Nothing was kept before.
                    self.since.miss();
                }
                if !login {
                    self.since.heard = true;
                    let inside = status != Transaction::Idle;
                    self.since.settle(end, inside, rest);
                }
            }
            b'W' => return Err(Reason::Replication),
            kind => {
                self.since.heard = true;
                match kind {
                    b'C' => {
                        self.since.tag(self.back.body());
                        self.ran();
                    }
                    b's' | b'V' => self.since.did_something(),
                    _ => {}
                }
                self.queue.reply(kind).ok_or(Reason::NotUnderstood)?;
            }
        }
        Ok(())
    }

    /// A CommandComplete.
    fn ran(&mut self) {
        match self.back.body() {
            b"PREPARE\0" => self.record.parsing.prepares(),
            b"DO\0" => self.record.texts.doubts(Reason::DoBlock, ""),
            b"LOAD\0" => self.record.texts.doubts(Reason::Load, ""),
            _ => {}
        }
    }

    fn answered_encryption(&mut self, answer: u8) {
        match answer {
            b'N' => {}
            b'S' => self.lose_sight(Reason::Tls),
            b'G' => self.lose_sight(Reason::Gss),
            _ => self.lose_sight(Reason::NotUnderstood),
        }
    }
}

#[cfg(test)]
mod tests;
