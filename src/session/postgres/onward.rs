//! As what the session would go on on another server, if its own were lost now; and whether what is in flight may commit.

use super::message::Messages;
use super::snapshot::Kind;
use super::text::{self, After, Effect};
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
            Reason::InFlight if !tell_unknown || self.leaves_rest() => Err(reason),
            // It goes on without a block: not who may be in one, whose rest would run alone.
            Reason::InFlight if !self.ends_outside(state, kept) => Err(reason),
            Reason::InFlight if outside => match self.since.committed || self.since.lasting {
                false => Ok(Onward::Unknown),
                true => Err(reason),
            },
            // What it has set is kept if it was committed.
            Reason::InFlight if self.may_have_set(state, kept) => Err(reason),
            Reason::InFlight => self.rolled_back(state, Onward::Unknown),
            _ => Err(reason),
        }
    }

    /// It goes on so if a rollback to where it was last at rest undoes all that it has done since.
    fn rolled_back(&self, state: Option<&Snapshot>, onward: Onward) -> Result<Onward, Reason> {
        if !self.since.in_block() {
            return Err(Reason::Transaction);
        }
        let kept = self.since.kept().unwrap_or_default();
        let mut prepared = prepared(state);
        let lasts = self.since.lasting
            || since::lasts(kept)
            || prepared.any(|(text, by_sql)| match by_sql {
                true => text::prepared_lasts(text),
                false => text::lasts(text),
            })
            || self.unnamed_at_rest().is_some_and(text::lasts);
        match lasts {
            true => Err(Reason::Lasting),
            false => Ok(onward),
        }
    }

    /// What may be run without its text being sent since it was last at rest, besides what has a name.
    fn unnamed_at_rest(&self) -> Option<&[u8]> {
        let now = &self.record.unnamed;
        let then = self.since.unnamed.as_ref();
        text_of(then.map_or(now, |(then, _)| then).as_deref()?)
    }

    /// It may have set what a COMMIT keeps.
    fn may_have_set(&self, state: Option<&Snapshot>, kept: &[u8]) -> bool {
        self.since.settings
            || since::sets(kept)
            || prepared(state).any(|(text, _)| text::sets(text))
            || self.unnamed_at_rest().is_some_and(text::sets)
    }

    /// A request is in flight, and it may commit.
    pub(super) fn may_commit(&self, state: Option<&Snapshot>) -> bool {
        let Some(kept) = self.since.kept() else {
            return true;
        };
        self.texts(state, kept).may_commit(kept)
    }

    /// Whatever becomes of the requests in flight, the application is not in a block behind them.
    fn ends_outside(&self, state: Option<&Snapshot>, kept: &[u8]) -> bool {
        let mut inside = self.transaction != Some(Transaction::Idle);
        for run in self.texts(state, kept).runs(kept) {
            match run {
                Run::Function => {}
                Run::Text(text) => match text::after(text) {
                    After::Stays => {}
                    After::Outside => inside = false,
                    After::NotInside if !inside => {}
                    After::Executes if executes(state, |it| text::after(it) == After::Stays) => {}
                    After::NotInside | After::Executes | After::Unknown => return false,
                },
                Run::Unknown => return false,
            }
        }
        !inside
    }

    fn texts<'a>(&'a self, state: Option<&'a Snapshot>, kept: &'a [u8]) -> Texts<'a> {
        // Which one was bound before is not known any more.
        let parses = |(kind, body): (u8, &[u8])| kind == b'P' && body.first() == Some(&0);
        let unnamed = match Messages(kept).any(parses) {
            false => self.record.unnamed.as_deref().and_then(text_of),
            true => None,
        };
        Texts {
            state,
            unnamed,
            statements: Vec::new(),
            portals: Vec::new(),
        }
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
            let heard = one.hear(&kept[at..], false);
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

/// What is run.
#[derive(Clone, Copy)]
enum Run<'a> {
    Text(&'a [u8]),
    Function,
    Unknown,
}

/// Which statements are run.
struct Texts<'a> {
    state: Option<&'a Snapshot>,
    /// The unnamed statement, before anything.
    unnamed: Option<&'a [u8]>,
    statements: Vec<(&'a [u8], &'a [u8])>,
    portals: Vec<(&'a [u8], Run<'a>)>,
}

impl<'a> Texts<'a> {
    fn may_commit(self, kept: &'a [u8]) -> bool {
        let state = self.state;
        let mut outside = false;
        for run in self.runs(kept) {
            let effect = match run {
                Run::Text(text) => text::effect(text),
                Run::Function => Effect::Stays,
                Run::Unknown => Effect::MayCommit,
            };
            match effect {
                Effect::MayCommit => return true,
                _ if outside => return true,
                Effect::RollsBack => outside = true,
                Effect::Executes if executes(state, |it| text::effect(it) == Effect::Stays) => {}
                Effect::Executes => return true,
                Effect::Stays => {}
            }
        }
        false
    }

    fn runs(mut self, kept: &'a [u8]) -> impl Iterator<Item = Run<'a>> {
        Messages(kept).filter_map(move |(kind, body)| match kind {
            b'Q' => Some(Run::Text(body)),
            b'F' => Some(Run::Function),
            b'E' => {
                let portal = word(body).0;
                let mut known = self.portals.iter().rev();
                let known = known.find(|(name, _)| *name == portal);
                Some(known.map_or(Run::Unknown, |(_, run)| *run))
            }
            b'P' => {
                let (name, rest) = word(body);
                self.statements.push((name, word(rest).0));
                None
            }
            b'B' => {
                let (portal, rest) = word(body);
                let text = self.text(word(rest).0);
                self.portals
                    .push((portal, text.map_or(Run::Unknown, Run::Text)));
                None
            }
            _ => None,
        })
    }

    /// Of a prepared statement.
    fn text(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut sent = self.statements.iter().rev();
        if let Some((_, text)) = sent.find(|(it, _)| *it == name) {
            return Some(text);
        }
        if name.is_empty() {
            return self.unnamed;
        }
        let mut prepared = self.state.into_iter().flat_map(|s| s.of(Kind::Prepared));
        let row = prepared.find(|row| *row.name == *name && *row.source == *b"protocol");
        row?.value.as_deref()
    }
}

/// The texts of prepared statements, and whether it is a PREPARE.
fn prepared(state: Option<&Snapshot>) -> impl Iterator<Item = (&[u8], bool)> {
    let rows = state.into_iter().flat_map(|state| state.of(Kind::Prepared));
    rows.filter_map(|row| Some((row.value.as_deref()?, *row.source != *b"protocol")))
}

/// EXECUTE also runs what the protocol has prepared, a COMMIT too: whether all of that is so.
fn executes(state: Option<&Snapshot>, so: impl Fn(&[u8]) -> bool) -> bool {
    state.is_some() && prepared(state).all(|(text, by_sql)| by_sql || so(text))
}

/// That of a Parse without a name.
fn text_of(body: &[u8]) -> Option<&[u8]> {
    Some(word(body.strip_prefix(b"\0")?).0)
}

/// A text and what comes behind its end.
fn word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let first = parts.next().unwrap_or_default();
    (first, parts.next().unwrap_or_default())
}
