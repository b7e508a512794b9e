//! A planned switchover of one server name, as the active node conducts it: what its clients are told, when the role is
//! handed over, and how it came out. Pure: [`Switchover::step`] is told what there is, and says what to do.
//!
//! ```text
//! checking    the hook `ready` says whether the other SQL server can take over
//! draining    clients say how their sessions stand (Order::Tell), and go on; until each was between two transactions
//! holding     the next request of each waits (Order::Hold), until all wait that can move; new connects wait too.
//!             A transaction that lasts may wait for a request that is held: back to draining, while there is time
//! handing-over, waiting    the role machine demotes, the peer takes over
//! ```
//!
//! What takes long is waited for while everybody else works; the hold is what applications see.

use crate::control::{SessionStatus, SwitchoverSession, SwitchoverStatus};
use std::collections::BTreeMap;
use std::time::Duration;
use vianet::session::postgres::Reason;
use vianet::via::switchover::{Order, Standing, Why};

#[cfg(test)]
mod tests;

/// Who does not say how it stands for so long is not waited for: a process that is stopped, or does not follow.
pub const SILENT: Duration = Duration::from_secs(1);
/// The last part of the drain time in which requests wait, whatever some transactions do.
const HOLD: Duration = Duration::from_secs(1);
/// After so long with neither node active, the operator is told so.
const LOST: Duration = Duration::from_secs(120);

/// The open sessions by their channels, with what each said last since the switchover began.
pub type Sessions = BTreeMap<u64, SessionStatus>;

fn said(session: &SessionStatus) -> Option<Standing> {
    Standing::from_wire(session.standing)
}

/// Whether all have said how they stand, as far as they will know at once.
pub fn have_said(sessions: &Sessions) -> bool {
    let pending = Some(Why::Session(Reason::StatePending));
    let mut all = sessions.values().map(said);
    all.all(|it| it.is_some_and(|it| it.why != pending))
}

/// Whether a session could move by what it has said, or why not: in one word, and in a sentence.
pub fn movable(session: &SessionStatus) -> (&'static str, &'static str) {
    match said(session) {
        None => ("unknown", "says nothing"),
        Some(Standing { why: None, .. }) => ("yes", ""),
        Some(Standing { why: Some(why), .. }) => (why.name(), why.text()),
    }
}

/// What the role machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// This node's role.
    pub own: &'static str,
    /// The peer's.
    pub peer: &'static str,
    /// [`crate::role::Machine::can_hand_over`].
    pub can_hand_over: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Wait,
    /// Tell every client, those that come too.
    Order(Order),
    /// Give the role to the peer.
    HandOver,
    /// It is over: nothing is ordered any more.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Checking,
    Draining,
    Holding,
    HandingOver,
    Waiting,
    Over,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Draining => "draining",
            Self::Holding => "holding",
            Self::HandingOver => "handing-over",
            Self::Waiting => "waiting",
            Self::Over => "over",
        }
    }
}

/// See the module's text.
pub struct Switchover {
    to: String,
    drain: Duration,
    dry_run: bool,
    phase: Phase,
    /// When the phase began.
    since: Duration,
    /// When draining began; until then, when the question whether the other SQL server is ready was asked.
    began: Duration,
    /// What clients had said, by channel, when a hold was given up: it is outdated.
    outdated: BTreeMap<u64, u8>,
    status: SwitchoverStatus,
}

impl Switchover {
    /// One that begins at `now` with the question whether the other SQL server is ready ([`Switchover::ready`]).
    pub fn new(
        now: Duration,
        server: &str,
        nodes: (&str, &str),
        drain: Duration,
        dry_run: bool,
    ) -> Self {
        let (from, to) = nodes;
        Self {
            to: to.into(),
            drain,
            dry_run,
            phase: Phase::Checking,
            since: now,
            began: now,
            outdated: BTreeMap::new(),
            status: SwitchoverStatus {
                server: server.into(),
                from: from.into(),
                to: to.into(),
                dry_run,
                ..SwitchoverStatus::default()
            },
        }
    }

    /// It has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// For the operator.
    pub fn status(&self) -> SwitchoverStatus {
        SwitchoverStatus {
            phase: self.phase.name().into(),
            over: self.is_over(),
            ..self.status.clone()
        }
    }

    /// New connects wait: they would be requests of sessions that nobody knows yet.
    pub fn closes(&self) -> bool {
        self.phase == Phase::Holding
    }

    /// The hook `ready` that was started at `asked` has ended; one that an earlier switchover left behind says nothing.
    pub fn ready(&mut self, now: Duration, asked: Duration, result: Result<(), String>) -> Step {
        if self.phase != Phase::Checking || asked != self.began {
            return Step::Wait;
        }
        match result {
            Err(why) => self.fail(format!(
                "the SQL server of {} cannot take over: {why}",
                self.to
            )),
            Ok(()) => {
                self.enter(now, Phase::Draining);
                self.began = now;
                Step::Order(Order::Tell)
            }
        }
    }

    /// Time passed, or something changed.
    pub fn step(&mut self, now: Duration, roles: Roles, sessions: &Sessions) -> Step {
        if matches!(
            self.phase,
            Phase::Checking | Phase::Draining | Phase::Holding
        ) {
            if roles.own != "active" {
                return self.fail(format!("{} is {} now", self.status.from, roles.own));
            }
            if roles.peer != "passive" || !roles.can_hand_over {
                return self.fail(format!("{} is {} now, not passive", self.to, roles.peer));
            }
        }
        match self.phase {
            Phase::Draining if self.dry_run => self.look(now, sessions),
            Phase::Draining => self.drained(now, sessions),
            Phase::Holding => self.held(now, sessions),
            Phase::HandingOver | Phase::Waiting => self.handed(now, roles),
            Phase::Checking | Phase::Over => Step::Wait,
        }
    }

    fn enter(&mut self, now: Duration, phase: Phase) {
        let took = now.saturating_sub(self.since).as_millis() as u64;
        match self.phase {
            Phase::Draining => self.status.drain_ms += took,
            Phase::Holding => self.status.hold_ms = took,
            Phase::HandingOver => self.status.demote_ms = took,
            Phase::Waiting => self.status.takeover_ms = took,
            Phase::Checking | Phase::Over => {}
        }
        self.phase = phase;
        self.since = now;
    }

    fn fail(&mut self, why: String) -> Step {
        self.status.error = Some(why);
        self.phase = Phase::Over;
        Step::Over
    }

    fn is_silent(&self, now: Duration) -> bool {
        now >= self.since + SILENT
    }

    /// Nothing is done: all have said how they stand, or do not in time.
    fn look(&mut self, now: Duration, sessions: &Sessions) -> Step {
        if !self.is_silent(now) && !have_said(sessions) {
            return Step::Wait;
        }
        self.note(sessions);
        self.enter(now, Phase::Over);
        Step::Over
    }

    fn drained(&mut self, now: Duration, sessions: &Sessions) -> Step {
        let silent = self.is_silent(now);
        let busy = |it: &SessionStatus| match said(it) {
            // (What can never move says the same again.)
            Some(it) if it.why.is_some_and(|why| !why.passes()) => !it.rested,
            Some(it) if !it.rested => true,
            Some(_) => !silent && self.outdated.get(&it.channel) == Some(&it.standing),
            None => !silent,
        };
        let most = self.drain.saturating_sub(HOLD.min(self.drain / 2));
        if now < self.began + most && sessions.values().any(busy) {
            return Step::Wait;
        }
        self.enter(now, Phase::Holding);
        Step::Order(Order::Hold)
    }

    fn held(&mut self, now: Duration, sessions: &Sessions) -> Step {
        let silent = self.is_silent(now);
        let waited_for = |it: &SessionStatus| match said(it) {
            Some(it) if it.held && it.why.is_none_or(|why| !why.passes()) => false,
            Some(it) => it.why.map_or(!silent, |why| match why.passes() {
                true => true,
                // It is held too, if its client is there.
                false => why == Why::NoTicket && !silent,
            }),
            None => !silent,
        };
        let end = self.began + self.drain;
        if now < end && sessions.values().any(waited_for) {
            let time = end.saturating_sub(self.since);
            if time <= 2 * HOLD || now < self.since + time / 2 {
                return Step::Wait;
            }
            let word = |it: &SessionStatus| (it.channel, it.standing);
            self.outdated = sessions.values().map(word).collect();
            self.enter(now, Phase::Draining);
            return Step::Order(Order::Tell);
        }
        self.note(sessions);
        self.enter(now, Phase::HandingOver);
        Step::HandOver
    }

    fn handed(&mut self, now: Duration, roles: Roles) -> Step {
        match (self.phase, roles.own) {
            (Phase::HandingOver, "passive") => self.enter(now, Phase::Waiting),
            (Phase::HandingOver, "taking-over" | "active") => {
                self.status.error = Some(format!(
                    "the SQL server of {} could not be demoted (its log says why)",
                    self.status.from
                ));
                self.enter(now, Phase::Waiting);
            }
            (Phase::Waiting, "taking-over") => {
                let (from, to) = (&self.status.from, &self.to);
                let text = || format!("{to} did not take over: {from} takes its role back");
                self.status.error.get_or_insert_with(text);
            }
            _ => {}
        }
        if self.phase == Phase::Waiting {
            if roles.own == "active" {
                let text = self.status.error.take().unwrap_or_default();
                self.enter(now, Phase::Over);
                return self.fail(format!("{text}; {} is active again", self.status.from));
            }
            if roles.peer == "active" {
                self.enter(now, Phase::Over);
                let status = &mut self.status;
                status.error = None;
                status.stall_ms = status.hold_ms + status.demote_ms + status.takeover_ms;
                return Step::Over;
            }
        }
        if now >= self.since + LOST {
            return self.fail("neither node is active yet: `vianet status`, and both logs".into());
        }
        Step::Wait
    }

    /// What becomes of each.
    fn note(&mut self, sessions: &Sessions) {
        let of = |seen: &SessionStatus| {
            let (movable, reason) = movable(seen);
            let outcome = match said(seen) {
                None => "moves if it is idle",
                Some(Standing { why: None, .. }) => "moves",
                Some(Standing { why: Some(why), .. }) => match (self.dry_run, why.passes()) {
                    (true, true) => "is waited for, and moves if it comes to rest in time",
                    _ => why.outcome(),
                },
            };
            SwitchoverSession {
                channel: seen.channel,
                peer: seen.peer.clone(),
                transport: seen.transport.clone(),
                movable: movable.into(),
                reason: reason.into(),
                outcome: outcome.into(),
            }
        };
        self.status.sessions = sessions.values().map(of).collect();
    }
}
