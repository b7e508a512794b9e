//! As what the session would go on on another server, if its own were lost now; and whether what is in flight may commit.

use super::message::{Messages, total};
use super::snapshot::Kind;
use super::text::{self, Effect};
use super::{Observer, Reason, Snapshot, StandIn, Standing, Transaction, since};

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onward {
    /// As if nothing had happened, from where it was last at rest: of what was sent since then the server can have run nothing,
    /// and it is sent again.
    Same(Vec<u8>),
    /// In an aborted transaction block: the open one is lost.
    Aborted,
    /// From where it was last at rest. What became of the request in flight is not known, and the application is told so.
    Unknown,
}

impl Observer {
    /// As what it would go on, or why it would not. `state` is what it was when it was last at rest, as far as that is known;
    /// `tell_unknown`: it goes on also when the outcome of a request is unknown.
    pub fn onward(&self, state: Option<&Snapshot>, tell_unknown: bool) -> Result<Onward, Reason> {
        let Some(reason) = self.obstacle() else {
            return Ok(Onward::Same(Vec::new()));
        };
        let outside = self.transaction == Some(Transaction::Idle);
        let kept = self.since.kept().ok_or(reason)?;
        // Which of its Syncs a copy has passed over is not known here.
        let copies = Messages(kept).any(|(kind, _)| matches!(kind, b'd' | b'c' | b'f'));
        match reason {
            _ if !self.at_boundary() || copies || self.queue.has_copy() => Err(reason),
            Reason::Unanswered | Reason::Incomplete => match self.since.heard {
                false => Ok(Onward::Same(kept.to_vec())),
                true => Err(reason),
            },
            Reason::Transaction => self.rolled_back(state, Onward::Aborted),
            Reason::InFlight if !outside && !self.may_commit(state) => {
                self.rolled_back(state, Onward::Aborted)
            }
            Reason::InFlight if tell_unknown && outside => {
                match self.since.committed || self.since.lasting || self.leaves_rest() {
                    false => Ok(Onward::Unknown),
                    true => Err(reason),
                }
            }
            // What it has set is kept if it was committed.
            Reason::InFlight if tell_unknown && !self.since.settings && !self.leaves_rest() => {
                self.rolled_back(state, Onward::Unknown)
            }
            _ => Err(reason),
        }
    }

    /// It goes on so if a rollback to where it was last at rest undoes all that it has done since.
    fn rolled_back(&self, state: Option<&Snapshot>, onward: Onward) -> Result<Onward, Reason> {
        if !self.since.in_block() {
            return Err(Reason::Transaction);
        }
        let prepared = state.into_iter().flat_map(|state| state.of(Kind::Prepared));
        let mut texts = prepared.filter_map(|row| row.value.as_deref());
        let kept = self.since.kept().unwrap_or_default();
        match self.since.lasting || since::lasts(kept) || texts.any(text::prepared_lasts) {
            true => Err(Reason::Lasting),
            false => Ok(onward),
        }
    }

    /// A request is in flight, and it may commit.
    pub(super) fn may_commit(&self, state: Option<&Snapshot>) -> bool {
        let Some(kept) = self.since.kept() else {
            return true;
        };
        let texts = Texts {
            observer: self,
            state,
            statements: Vec::new(),
            portals: Vec::new(),
        };
        texts.may_commit(kept)
    }

    /// What is sent behind the requests in flight is not one of them.
    fn leaves_rest(&self) -> bool {
        let (mut behind, mut runs) = (false, false);
        for (kind, _) in Messages(self.since.kept().unwrap_or_default()) {
            match kind {
                b'Q' | b'F' | b'S' => (behind, runs) = (false, false),
                b'E' => runs = true,
                _ => behind = true,
            }
        }
        self.front.in_message() || (behind && !runs)
    }

    /// Answers what is in flight in the place of the server that is lost; the observer takes it as received. `error` is a whole
    /// ErrorResponse. What the application is told, and who answers what it sends next, where that is not the new server.
    pub fn stand_in(&mut self, onward: &Onward, error: Vec<u8>) -> (Vec<u8>, Option<StandIn>) {
        let status = match onward {
            Onward::Same(_) => return (Vec::new(), None),
            Onward::Aborted => b'E',
            Onward::Unknown => b'I',
        };
        let idle = self.standing() == Standing::Transaction;
        if idle && self.transaction == Some(Transaction::Failed) && self.since.is_empty() {
            // It knows already.
            return (Vec::new(), None);
        }
        let kept = self.since.kept().unwrap_or_default().to_vec();
        let (mut said, mut at, mut told) = (Vec::new(), 0, false);
        let mut failed = self.since.failed;
        loop {
            let mut one = StandIn::new(error.clone(), status, std::mem::take(&mut failed));
            let heard = one.hear(&kept[at..]);
            at += heard.taken;
            said.extend_from_slice(&heard.said);
            if !heard.passed.is_empty() {
                // In flight it is one that fails like others.
                said.extend_from_slice(&error);
                said.extend_from_slice(&[b'Z', 0, 0, 0, 5, status]);
            }
            told |= heard.done;
            if at < kept.len() && heard.taken > 0 {
                continue;
            }
            self.received(&said);
            let waits = !one.is_free() || !told;
            return (said, waits.then_some(one));
        }
    }
}

/// Which statements are run.
struct Texts<'a> {
    observer: &'a Observer,
    state: Option<&'a Snapshot>,
    statements: Vec<(&'a [u8], &'a [u8])>,
    portals: Vec<(&'a [u8], Effect)>,
}

impl<'a> Texts<'a> {
    fn may_commit(mut self, mut kept: &'a [u8]) -> bool {
        let mut outside = false;
        while let Some((message, rest)) = total(kept).and_then(|n| kept.split_at_checked(n)) {
            kept = rest;
            let (kind, body) = (message[0], &message[5..]);
            let effect = match kind {
                b'Q' => text::effect(body),
                b'E' => {
                    let portal = word(body).0;
                    let mut known = self.portals.iter().rev();
                    let known = known.find(|(name, _)| *name == portal);
                    known.map_or(Effect::MayCommit, |(_, effect)| *effect)
                }
                b'F' => Effect::Stays,
                b'P' => {
                    let (name, rest) = word(body);
                    self.statements.push((name, word(rest).0));
                    continue;
                }
                b'B' => {
                    let (portal, rest) = word(body);
                    let effect = self.effect_of(word(rest).0);
                    self.portals.push((portal, effect));
                    continue;
                }
                _ => continue,
            };
            match effect {
                Effect::MayCommit => return true,
                _ if outside => return true,
                Effect::RollsBack => outside = true,
                Effect::Stays => {}
            }
        }
        false
    }

    /// Of a prepared statement.
    fn effect_of(&self, name: &[u8]) -> Effect {
        let mut sent = self.statements.iter().rev();
        if let Some((_, text)) = sent.find(|(it, _)| *it == name) {
            return text::effect(text);
        }
        if name.is_empty() {
            let body = self.observer.record.unnamed.as_deref();
            let text = body.and_then(|body| body.strip_prefix(b"\0"));
            return text.map_or(Effect::MayCommit, |text| text::effect(word(text).0));
        }
        let mut prepared = self.state.into_iter().flat_map(|s| s.of(Kind::Prepared));
        let row = prepared.find(|row| *row.name == *name && *row.source == *b"protocol");
        let text = row.and_then(|row| row.value.as_deref());
        text.map_or(Effect::MayCommit, text::effect)
    }
}

/// A text and what comes behind its end.
fn word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let first = parts.next().unwrap_or_default();
    (first, parts.next().unwrap_or_default())
}
