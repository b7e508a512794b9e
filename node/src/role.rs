//! What this node is for one server name, as a pure function of events (DESIGN section 8, claims 27 to 29).
//!
//! Contract: call [`Machine::handle`], then drain [`Machine::poll_action`] and carry the actions out in order. Time is
//! an argument; nothing here does I/O. `Tick` is given at least once per keep-alive interval.
//!
//! Safety rests on three rules. An active node that hears of a larger generation is not active any more. A node
//! relays only within its *lease*, which it renews only by a keep-alive exchange, or while the peer is down and its
//! own loop runs without gap. A takeover waits until the lease that its last answer may have renewed has run out,
//! then fences, and announces itself only after the new generation is on disk; it relays from then on if the peer is
//! down or said that it does not serve, else from the moment at which it does.

use std::collections::VecDeque;
use std::time::Duration;
use vianet::resolve::Generation;
use vianet::resolve::wire::MAX_FUTURE_MS as FAR_FUTURE_MS;
use vianet::via::EndReason;

mod handover;
mod types;

pub use types::{Action, Cause, Event, Hook, Now, PeerRole, Rules};

#[cfg(test)]
mod tests;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    LeaseWait { until: Duration },
    Fencing,
    Promoting,
    WaitingHealthy { until: Duration },
    Persisting { generation: Generation },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting {
        until: Duration,
    },
    Passive,
    TakingOver {
        step: Step,
        cause: Cause,
    },
    Active {
        generation: Generation,
    },
    /// Serves nobody any more, and its SQL server is being demoted; the peer must not begin before that is done.
    HandingOver {
        generation: Generation,
    },
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Unknown,
    Down,
    Up(PeerRole),
}

/// See the module's text.
#[derive(Debug)]
pub struct Machine {
    rules: Rules,
    state: State,
    /// The largest generation known.
    seen: Generation,
    /// The last generation at which this node was active itself.
    claim: Generation,
    peer: Peer,
    /// The peer was heard to be active, or becoming so.
    knew_active: bool,
    /// Both nodes answer and none is active, since then.
    nobody_since: Option<Duration>,
    /// No takeover of our own accord before.
    not_before: Duration,
    /// When we last told the peer that it may serve.
    last_allowed: Option<Duration>,
    /// When the last question left to which the peer answered that it does not serve.
    last_idle: Option<Duration>,
    serve_until: Duration,
    /// The end of the last lease, whether or not it was withdrawn.
    lease_end: Duration,
    /// This process stood still beyond its lease: the peer may have been active meanwhile, and may be dead by now.
    stale: bool,
    health_failed: u32,
    /// The role was left to the peer in good order, and it has not been active since.
    handed_over: bool,
    /// A hook is running: nothing that needs another one begins.
    hook_running: Option<Hook>,
    /// `seen` and `claim` came from the far future: only the operator can make this node active.
    distrusted: bool,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine that starts at `now` with what was on disk: the largest generation `seen` and the last own one.
    pub fn new(rules: Rules, now: Now, seen: Generation, claim: Generation) -> Self {
        let distrusted = seen.max(claim) > now.wall_ms.saturating_add(FAR_FUTURE_MS);
        let until = now.at + rules.start_wait;
        Self {
            state: State::Starting { until },
            seen: if distrusted { 0 } else { seen.max(claim) },
            claim: if distrusted { 0 } else { claim },
            peer: Peer::Unknown,
            knew_active: false,
            nobody_since: None,
            not_before: Duration::ZERO,
            last_allowed: None,
            last_idle: None,
            serve_until: Duration::ZERO,
            lease_end: Duration::ZERO,
            stale: false,
            health_failed: 0,
            handed_over: false,
            hook_running: None,
            distrusted,
            actions: VecDeque::new(),
            rules,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The role's name in log and status.
    pub fn role_name(&self) -> &'static str {
        match self.state {
            State::Starting { .. } => "starting",
            State::Passive => "passive",
            State::TakingOver { .. } => "taking-over",
            State::Active { .. } => "active",
            State::HandingOver { .. } => "handing-over",
            State::Stopped => "stopping",
        }
    }

    /// The peer's role as it told it, for the status; `None`: there is no peer.
    pub fn peer_role(&self) -> Option<&'static str> {
        self.rules.has_peer.then_some(match self.peer {
            Peer::Unknown => "unknown",
            Peer::Down => "down",
            Peer::Up(PeerRole::Starting) => "starting",
            Peer::Up(PeerRole::Passive) => "passive",
            Peer::Up(PeerRole::TakingOver) => "taking-over",
            Peer::Up(PeerRole::Active) => "active",
        })
    }

    /// What the peer is told.
    pub fn told(&self) -> (PeerRole, Generation) {
        match self.state {
            State::Starting { .. } => (PeerRole::Starting, self.claim),
            State::Passive | State::Stopped => (PeerRole::Passive, self.seen),
            State::TakingOver { .. } => (PeerRole::TakingOver, self.seen),
            State::Active { generation } | State::HandingOver { generation } => {
                (PeerRole::Active, generation)
            }
        }
    }

    /// The generation at which this node is active.
    pub fn active(&self) -> Option<Generation> {
        match self.state {
            State::Active { generation } => Some(generation),
            _ => None,
        }
    }

    /// The largest generation known, and the last own one.
    pub fn generations(&self) -> (Generation, Generation) {
        (self.seen, self.claim)
    }

    /// Nothing may be relayed from this time on.
    pub fn serve_until(&self) -> Duration {
        match self.state {
            State::Active { .. } => self.serve_until,
            _ => Duration::ZERO,
        }
    }

    /// Whether health checks are wanted.
    pub fn wants_health(&self) -> bool {
        matches!(
            self.state,
            State::Active { .. }
                | State::TakingOver {
                    step: Step::WaitingHealthy { .. },
                    ..
                }
        )
    }

    /// A hook is running.
    pub fn hook_runs(&self) -> bool {
        self.hook_running.is_some()
    }

    /// The peer said that it is active, or becoming so.
    pub fn peer_took_over(&self) -> bool {
        matches!(self.peer, Peer::Up(PeerRole::Active | PeerRole::TakingOver))
    }

    /// The peer was just told our role by an answer; if that word lets it go on serving, a takeover must outwait it.
    pub fn answered_peer(&mut self, now: Now) {
        if matches!(self.state, State::Starting { .. } | State::Passive) {
            self.last_allowed = Some(now.at);
        }
    }

    /// Whether a word of the peer with this generation is to be refused as coming from the far future.
    pub fn far_future(now: Now, generation: Generation) -> bool {
        generation > now.wall_ms.saturating_add(FAR_FUTURE_MS)
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Tick => self.tick(now),
            Event::Gap => {
                self.peer = Peer::Unknown;
                self.nobody_since = None;
                self.last_idle = None;
                self.serve_until = Duration::ZERO;
                self.stale |= now.at >= self.lease_end;
                if let State::Starting { until } = &mut self.state {
                    *until = now.at + self.rules.start_wait;
                }
            }
            Event::Peer {
                role,
                generation,
                asked_at,
            } => {
                if !Self::far_future(now, generation) {
                    self.peer_says(now, role, generation, asked_at);
                }
            }
            Event::PeerLost => {
                self.peer = Peer::Down;
                self.nobody_since = None;
                if self.stale && self.active().is_some() {
                    // Nobody can say whether there was a newer generation: only one of our own is safe.
                    self.leave_active("alone-after-gap", EndReason::NotActive);
                }
                self.tick(now);
            }
            Event::Health(ok) => self.health(now, ok),
            Event::HookDone { hook, ok } => self.hook_done(now, hook, ok),
            Event::Persisted { ok } => self.persisted(now, ok),
            Event::Force => self.force(now),
            Event::Resign => match self.state {
                State::Active { .. } => self.resign(now, "operator", EndReason::NotActive),
                State::TakingOver { .. } => self.give_up(now, "operator"),
                _ => {}
            },
            Event::HandOver => self.hand_over(),
            Event::Stop => {
                if let State::Active { .. } = self.state {
                    self.leave_active("stopping", EndReason::Stopping);
                }
                self.enter(State::Stopped, "stopping");
            }
        }
    }

    fn tick(&mut self, now: Now) {
        match self.state {
            State::Starting { until } => {
                if !self.rules.has_peer {
                    if !self.distrusted {
                        self.take_over(now, Cause::Start, false);
                    }
                } else if now.at >= until {
                    self.decide_alone(now);
                }
            }
            State::Passive => self.consider(now),
            State::TakingOver { step, cause } => match step {
                Step::LeaseWait { until } if now.at >= until => {
                    self.step(Step::Fencing, cause);
                    self.run(Hook::Fence, cause.name());
                }
                Step::WaitingHealthy { until } if now.at >= until => {
                    self.give_up(now, "server-not-writable");
                }
                _ => {}
            },
            State::Active { .. } => {
                if !self.rules.has_peer || self.peer == Peer::Down {
                    self.grant(now.at);
                }
            }
            State::HandingOver { .. } | State::Stopped => {}
        }
    }

    /// The start's time is over and no peer has answered.
    fn decide_alone(&mut self, now: Now) {
        let was_last = self.claim >= self.seen && (self.rules.initial_active || self.claim > 0);
        if was_last && !self.distrusted {
            self.take_over(now, Cause::Start, true);
        } else {
            self.enter(State::Passive, "start");
        }
    }

    /// Passive: is it time to take over?
    fn consider(&mut self, now: Now) {
        // A node that never knew an active one has nothing to take over; the initial one, or the operator, begins.
        let may = (self.seen > 0
            || self.knew_active
            || self.rules.initial_active
            || !self.rules.has_peer)
            && !self.distrusted
            && self.hook_running.is_none()
            && now.at >= self.not_before;
        if !may {
            return;
        }
        if !self.rules.has_peer {
            self.take_over(now, Cause::NobodyActive, false);
        } else if self.peer == Peer::Down {
            self.take_over(now, Cause::PeerLost, true);
        } else if let Some(since) = self.nobody_since {
            let patience = self.rules.lost * if self.rules.yields { 3 } else { 1 };
            if now.at >= since + patience {
                self.take_over(now, Cause::NobodyActive, true);
            }
        }
    }

    fn peer_says(&mut self, now: Now, role: PeerRole, generation: Generation, asked_at: Duration) {
        let before = std::mem::replace(&mut self.peer, Peer::Up(role));
        self.last_idle = matches!(role, PeerRole::Starting | PeerRole::Passive).then_some(asked_at);
        self.knew_active |= matches!(role, PeerRole::Active | PeerRole::TakingOver);
        if role == PeerRole::Active && std::mem::take(&mut self.handed_over) {
            // It got the time to take the role, and took it.
            self.not_before = Duration::ZERO;
        }
        if let State::Starting { .. } = self.state {
            self.peer_says_at_start(now, role, generation);
            self.seen = self.seen.max(generation);
            return;
        }
        let newer = generation > self.seen;
        self.seen = self.seen.max(generation);
        match self.state {
            State::Active { generation: own } => {
                let tie = role == PeerRole::Active && generation == own && self.rules.yields;
                if newer || tie {
                    self.leave_active("higher-generation", EndReason::NotActive);
                } else if matches!(role, PeerRole::Starting | PeerRole::Passive) {
                    self.stale = false;
                    self.grant(asked_at);
                }
            }
            State::Passive => {
                if matches!(role, PeerRole::Active | PeerRole::TakingOver) {
                    self.nobody_since = None;
                } else {
                    let resigned = role == PeerRole::Passive
                        && matches!(before, Peer::Up(PeerRole::Active | PeerRole::TakingOver));
                    self.nobody_since.get_or_insert(now.at);
                    let may = now.at >= self.not_before || self.handed_over;
                    if resigned && may && self.hook_running.is_none() {
                        self.take_over(now, Cause::PeerResigned, true);
                    }
                }
            }
            State::HandingOver { .. } if newer => {
                self.enter(State::Passive, "higher-generation");
            }
            State::TakingOver {
                step: Step::LeaseWait { .. },
                cause,
            } if cause != Cause::Forced => {
                let other_first =
                    role == PeerRole::Active || (role == PeerRole::TakingOver && self.rules.yields);
                if other_first {
                    self.enter(State::Passive, "peer-is-active");
                }
            }
            // After the fence there is no way back: the generation decides, and ours will be the larger.
            _ => {}
        }
    }

    /// Both ask, both answer: the last to be active begins, else the one that the configuration names.
    fn peer_says_at_start(&mut self, now: Now, role: PeerRole, generation: Generation) {
        let initial = self.rules.initial_active;
        let begin = match role {
            PeerRole::Active | PeerRole::TakingOver => false,
            PeerRole::Passive => {
                self.claim >= generation.max(self.seen) && (self.claim > 0 || initial)
            }
            PeerRole::Starting if self.claim == generation => {
                if !initial {
                    // Neither knows more than the other: the peer's configuration, or the time, decides.
                    return;
                }
                true
            }
            PeerRole::Starting => self.claim > generation,
        };
        if begin && !self.distrusted {
            self.take_over(now, Cause::Start, false);
        } else {
            self.enter(State::Passive, "start");
        }
    }

    fn take_over(&mut self, now: Now, cause: Cause, fence: bool) {
        let lease_out = match self.last_allowed {
            Some(at) if matches!(cause, Cause::PeerLost | Cause::Forced) => at + self.rules.lease,
            _ => now.at,
        };
        self.nobody_since = None;
        self.handed_over = false;
        self.health_failed = 0;
        let step = if fence {
            Step::LeaseWait { until: lease_out }
        } else {
            Step::Promoting
        };
        self.enter(State::TakingOver { step, cause }, cause.name());
        if fence {
            self.tick(now);
        } else {
            self.run(Hook::Promote, cause.name());
        }
    }

    fn force(&mut self, now: Now) {
        if matches!(self.state, State::Starting { .. } | State::Passive)
            && self.hook_running.is_none()
        {
            self.distrusted = false;
            self.not_before = Duration::ZERO;
            self.take_over(now, Cause::Forced, self.rules.has_peer);
        }
    }

    fn hook_done(&mut self, now: Now, hook: Hook, ok: bool) {
        if self.hook_running == Some(hook) {
            self.hook_running = None;
        }
        if let (State::HandingOver { .. }, Hook::Demote) = (self.state, hook) {
            return self.demoted(now, ok);
        }
        let State::TakingOver { step, cause } = self.state else {
            return;
        };
        match (hook, step, ok) {
            (Hook::Fence, Step::Fencing, true) => {
                self.step(Step::Promoting, cause);
                self.run(Hook::Promote, cause.name());
            }
            (Hook::Promote, Step::Promoting, true) => {
                let until = now.at + self.rules.promote_wait;
                self.step(Step::WaitingHealthy { until }, cause);
                self.actions.push_back(Action::CheckHealth);
            }
            (Hook::Fence, Step::Fencing, false) => self.give_up(now, "fence-failed"),
            (Hook::Promote, Step::Promoting, false) => self.give_up(now, "promote-failed"),
            _ => {}
        }
    }

    fn health(&mut self, now: Now, ok: bool) {
        match self.state {
            State::TakingOver {
                step: Step::WaitingHealthy { .. },
                cause,
            } if ok => self.persist(now, cause),
            State::Active { .. } if ok => self.health_failed = 0,
            State::Active { .. } => {
                self.health_failed += 1;
                if self.health_failed >= self.rules.health_failures {
                    self.resign(now, "server-failed", EndReason::UpstreamLost);
                }
            }
            _ => {}
        }
    }

    fn persist(&mut self, now: Now, cause: Cause) {
        let generation = (self.seen + 1).max(now.wall_ms);
        self.stale = false;
        self.step(Step::Persisting { generation }, cause);
        self.actions.push_back(Action::Persist(generation));
    }

    fn persisted(&mut self, now: Now, ok: bool) {
        let State::TakingOver {
            step: Step::Persisting { generation },
            cause,
        } = self.state
        else {
            return;
        };
        if !ok {
            self.give_up(now, "state-not-written");
        } else if self.seen >= generation || self.stale {
            // A newer one was heard of, or may have come and gone while this process stood still.
            self.persist(now, cause);
        } else {
            self.seen = generation;
            self.claim = generation;
            self.health_failed = 0;
            self.enter(State::Active { generation }, cause.name());
            self.first_lease(now);
        }
    }

    /// A takeover ends with a lease only if the peer is known not to serve: it may have begun one of its own at the same
    /// moment, or while this process stood still. Otherwise its next word decides.
    fn first_lease(&mut self, now: Now) {
        if !self.rules.has_peer || self.peer == Peer::Down {
            self.grant(now.at);
        } else if let Some(asked_at) = self.last_idle {
            self.grant(asked_at);
        }
    }

    fn grant(&mut self, from: Duration) {
        self.serve_until = self.serve_until.max(from + self.rules.lease);
        self.lease_end = self.lease_end.max(self.serve_until);
    }

    fn give_up(&mut self, now: Now, why: &'static str) {
        self.not_before = now.at + self.rules.retry;
        self.enter(State::Passive, why);
    }

    /// Leaves the name to the peer, which gets the time to take it.
    fn resign(&mut self, now: Now, why: &'static str, end: EndReason) {
        if self.rules.has_peer {
            self.not_before = now.at + self.rules.retry;
        }
        self.leave_active(why, end);
    }

    fn leave_active(&mut self, why: &'static str, end: EndReason) {
        self.serve_until = Duration::ZERO;
        self.nobody_since = None;
        self.actions.push_back(Action::EndChannels(end));
        self.enter(State::Passive, why);
        self.run(Hook::Demote, why);
    }

    fn run(&mut self, hook: Hook, cause: &'static str) {
        self.hook_running = Some(hook);
        self.actions.push_back(Action::Run { hook, cause });
    }

    fn step(&mut self, step: Step, cause: Cause) {
        self.state = State::TakingOver { step, cause };
    }

    fn enter(&mut self, state: State, why: &'static str) {
        let from = self.role_name();
        self.state = state;
        let to = self.role_name();
        if from != to {
            let (_, generation) = self.told();
            self.actions.push_back(Action::Changed {
                from,
                to,
                generation,
                why,
            });
        }
    }
}
