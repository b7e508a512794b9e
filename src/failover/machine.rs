//! The machine itself: carries out the reactions of the table and keeps the timers.

use super::jitter::Jitter;
use super::paths::Paths;
use super::table::{Reaction, Step, reaction};
use super::{Action, Event, IllegalEvent, Loss, NotResolved, Notice, Policy, State};
use crate::resolve::{Answer, Endpoint, Generation, Role};
use crate::via::Transport;
use std::collections::VecDeque;
use std::time::Duration;

/// The failover machine of one connection. Not thread-safe: the connection's lock holds it.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    step: Step,
    failing_over: bool,
    actions: VecDeque<Action>,
    jitter: Jitter,
    /// End of the connect or failover under way; `None` while nothing is owed to the application.
    deadline: Option<Duration>,
    /// When the step ends by itself.
    timer: Option<Duration>,
    /// The answer in use, and whether it came from the cache.
    answer: Option<(Answer, bool)>,
    /// Endpoints of the answer not tried yet, best first.
    untried: VecDeque<Endpoint>,
    /// What is being connected, or carries the channel.
    endpoint: Option<Endpoint>,
    /// The largest generation of a channel that stood.
    floor: Generation,
    /// Node and generation that were purged last: never to be taken from the cache again.
    purged: Option<(String, Generation)>,
    /// Pauses since something worked.
    attempts: u32,
    /// After the pause: try the same node (`Busy`), instead of asking.
    retry_node: bool,
    /// Since when "unknown name" is all that is heard.
    unknown_since: Option<Duration>,
    /// What the deadline will say.
    loss: Loss,
    paths: Paths,
    failovers: u32,
    was_established: bool,
    /// Somebody waits for the failover under way.
    wanted: bool,
    /// The application closed; see [`Event::Leaving`].
    leaving: bool,
}

impl Machine {
    /// A machine in [`State::Idle`]. `seed` makes the jitter differ between connections.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            step: Step::Idle,
            failing_over: false,
            actions: VecDeque::new(),
            jitter: Jitter::new(seed),
            deadline: None,
            timer: None,
            answer: None,
            untried: VecDeque::new(),
            endpoint: None,
            floor: 0,
            purged: None,
            attempts: 0,
            retry_node: false,
            unknown_since: None,
            loss: Loss::NobodyAnswered,
            paths: Paths::default(),
            failovers: 0,
            was_established: false,
            wanted: false,
            leaving: false,
        }
    }

    /// What is true now.
    pub fn state(&self) -> State {
        self.step.state(self.failing_over)
    }

    /// The largest generation that this connection was established on; 0 when none.
    pub fn generation(&self) -> Generation {
        self.floor
    }

    /// Failovers that ended on a server so far.
    pub fn failovers(&self) -> u32 {
        self.failovers
    }

    /// The answer in use.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref().map(|(answer, _)| answer)
    }

    /// Whether the turn that [`Event::Turn`] gave is still made use of.
    pub fn has_turn(&self) -> bool {
        self.failing_over
            && matches!(
                self.step,
                Step::Connecting | Step::Verifying | Step::Restoring
            )
    }

    /// What is being connected, or carries the channel.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint
    }

    /// Something happened. An event after the deadline ends the connection instead of being heard.
    pub fn handle(&mut self, now: Duration, event: Event) -> Result<(), IllegalEvent> {
        let end = matches!(event, Event::Leaving | Event::Closed);
        if self.deadline.is_some_and(|deadline| now >= deadline) && !end {
            // The query ended at the same moment, or this process stood still over both: what it found out is why.
            if let (Step::Asking, Event::NotResolved(why)) = (self.step, &event)
                && *why != NotResolved::Nobody
            {
                self.loss = (*why).into();
            }
            self.lose(self.loss);
            return Ok(());
        }
        let Some(reaction) = reaction(self.step, self.failing_over, &event) else {
            return Err(IllegalEvent {
                state: self.state(),
                event: event.name(),
            });
        };
        match (reaction, event) {
            (Reaction::TakeAnswer, Event::Resolved { answer, cached }) => {
                self.take_answer(now, answer, cached);
            }
            (Reaction::Verify, Event::ChannelUp { node, generation }) => {
                self.verify(now, &node, generation);
            }
            (Reaction::NextEndpoint, event) => {
                let refused = matches!(event, Event::ConnectFailed { refused: true });
                self.next_endpoint(now, refused);
            }
            (reaction, _) => self.react(now, reaction),
        }
        Ok(())
    }

    /// Time passed: call when [`Machine::poll_timeout`] is due; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return self.lose(self.loss);
        }
        let Some(due) = self.timer.take_if(|due| now >= *due) else {
            return;
        };
        match self.step {
            Step::Waiting if self.retry_node => self.connect_or_queue(now),
            Step::Waiting => self.ask(),
            Step::Connecting | Step::Resuming => {
                self.push(Action::Abandon);
                self.next_endpoint(now, false);
            }
            Step::Returning => {
                self.push(Action::Abandon);
                self.go_back(now);
            }
            Step::Pausing => self.probe(now),
            Step::Established => self.scout(now),
            Step::Scouting => {
                self.push(Action::Abandon);
                self.stay(now);
            }
            // Late by a whole window: this process was stopped, so the silence proves nothing about the node.
            Step::Suspect if now - due >= self.policy.suspect => self.probe(now),
            Step::Suspect => self.fail_over(now),
            _ => debug_assert!(false, "no timer is set in {:?}", self.step),
        }
    }

    /// The next thing to do, in order; `None` when there is nothing more.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Machine::handle_timeout`] must be called at the latest; `None` while nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Duration> {
        [self.timer, self.deadline].into_iter().flatten().min()
    }

    fn react(&mut self, now: Duration, reaction: Reaction) {
        match reaction {
            Reaction::Begin => {
                self.deadline = Some(now + self.policy.deadline);
                self.step = Step::Reading;
                self.push(Action::ReadCache);
            }
            Reaction::Ask => self.ask(),
            Reaction::NoAnswer(why) => self.no_answer(now, why),
            Reaction::PurgeAndAsk(loss) => {
                self.push(Action::Abandon);
                self.purge_and_ask(now, loss, false);
            }
            Reaction::RetryNode => {
                self.loss = Loss::Unreachable;
                self.retry_node = true;
                let step = match self.step {
                    Step::Resuming => Step::Pausing,
                    _ => Step::Waiting,
                };
                self.pause(now, step);
            }
            Reaction::Suspect if self.is_plain() => self.lose_plain(),
            Reaction::Suspect => {
                self.abandon_scout();
                self.paths.broke(now, self.endpoint, &self.policy);
                self.hold(now);
                self.probe(now);
            }
            Reaction::Resume => self.connect_all(now),
            Reaction::Return => self.go_over(now),
            Reaction::GoBack => self.go_back(now),
            Reaction::Stay => self.stay(now),
            Reaction::LookAgain => {
                self.step = Step::Established;
                self.timer = Some(now + self.policy.return_again);
            }
            Reaction::CarryOn => {
                if self.step == Step::Returning {
                    self.endpoint = self.paths.left;
                    self.paths.tries = self.paths.tries.saturating_add(1);
                }
                self.settle(now);
                self.wait_to_return(now);
                self.push(Action::Establish);
                if !self.leaving {
                    self.push(Action::Tell(Notice::Resumed));
                }
            }
            Reaction::FailOver => self.fail_over(now),
            Reaction::TakeTurn => {
                // Of one that nobody waits for it counts from here.
                self.deadline.get_or_insert(now + self.policy.deadline);
                self.connect_all(now);
            }
            Reaction::Want => {
                self.wanted = true;
                self.deadline.get_or_insert(now + self.policy.deadline);
            }
            Reaction::Restored => {
                self.settle(now);
                self.failovers += 1;
                self.push(Action::Establish);
                self.push(Action::Tell(Notice::FailoverEnded));
            }
            Reaction::Leave => {
                self.leaving = true;
                self.abandon_scout();
                if self.step == Step::Established {
                    self.timer = None;
                }
            }
            Reaction::Lose(loss) => self.lose(loss),
            Reaction::Ignore => {}
            Reaction::TakeAnswer | Reaction::Verify | Reaction::NextEndpoint => {
                debug_assert!(false, "handled with their events");
            }
        }
    }

    // Finding a node.

    fn ask(&mut self) {
        self.step = Step::Asking;
        self.timer = None;
        self.push(Action::Query {
            min_generation: self.floor,
        });
    }

    fn take_answer(&mut self, now: Duration, answer: Answer, cached: bool) {
        let purged = |(node, generation): &(String, Generation)| {
            cached && *node == answer.node && *generation >= answer.generation
        };
        let stale = self.purged.as_ref().is_some_and(purged);
        let useless = answer.role != Role::Active || answer.generation < self.floor;
        if stale || useless {
            return match self.step {
                // The pause goes on as if nothing had been said.
                Step::Waiting => {}
                Step::Reading => self.ask(),
                _ => self.no_answer(now, NotResolved::NobodyActive),
            };
        }
        self.unknown_since = None;
        self.answer = Some((answer, cached));
        self.connect_or_queue(now);
    }

    /// Thousands may have lost the same node at the same moment: who moves waits for its turn.
    fn connect_or_queue(&mut self, now: Duration) {
        if !self.failing_over {
            return self.connect_all(now);
        }
        self.step = Step::Queued;
        self.timer = None;
        self.loss = Loss::Unreachable;
        if !self.wanted {
            self.deadline = None;
        }
        self.push(Action::Queue);
    }

    fn no_answer(&mut self, now: Duration, why: NotResolved) {
        self.loss = why.into();
        self.ask_later(now);
    }

    /// Waits before the next question; "unknown name" is final once it was all that is heard for the time of grace.
    fn ask_later(&mut self, now: Duration) {
        if self.loss == Loss::UnknownName {
            let since = *self.unknown_since.get_or_insert(now);
            if now.saturating_sub(since) >= self.policy.unknown_grace {
                return self.lose(Loss::UnknownName);
            }
        } else {
            self.unknown_since = None;
        }
        self.retry_node = false;
        self.pause(now, Step::Waiting);
    }

    /// What is known of the node in use is wrong. `at_once` skips the pause, once; so does an answer that was only cached.
    fn purge_and_ask(&mut self, now: Duration, loss: Loss, at_once: bool) {
        self.loss = loss;
        self.endpoint = None;
        self.failing_over = self.was_established;
        let was_cached = self.purge();
        if (at_once || was_cached) && self.attempts == 0 {
            self.attempts = 1;
            return self.ask();
        }
        self.ask_later(now);
    }

    /// Purges the answer in use from the cache (claim 24) and says whether it had come from there.
    fn purge(&mut self) -> bool {
        let Some((answer, cached)) = self.answer.take() else {
            return false;
        };
        // The accept may have been newer than the answer.
        let generation = answer.generation.max(self.floor);
        self.push(Action::PurgeCache { generation });
        self.purged = Some((answer.node, generation));
        cached
    }

    fn offered(&self) -> &[Endpoint] {
        let answer = self.answer.as_ref();
        answer.map_or(&[], |(answer, _)| &answer.endpoints)
    }

    /// The endpoints of the answer that may be used, best first.
    fn usable(&self, resuming: bool) -> Vec<Endpoint> {
        let allowed = |t: Transport| t != Transport::Plain || !(self.policy.strict || resuming);
        let wanted = self.policy.transports.iter().filter(|t| allowed(**t));
        let of = |t: Transport| self.offered().iter().filter(move |e| e.transport == t);
        wanted.flat_map(|t| of(*t)).copied().collect()
    }

    /// Starts with the best endpoint of the answer: to connect, or to resume when the node of a broken channel lives.
    fn connect_all(&mut self, now: Duration) {
        let resuming = self.step == Step::Suspect;
        self.retry_node = false;
        self.step = if resuming {
            Step::Resuming
        } else {
            Step::Connecting
        };
        self.untried = self.usable(resuming).into();
        if resuming {
            self.paths.sort(self.untried.make_contiguous());
        }
        if self.untried.is_empty() && !resuming {
            let plain = self
                .offered()
                .iter()
                .any(|endpoint| endpoint.transport == Transport::Plain);
            return self.lose(match plain && self.policy.strict {
                true => Loss::StrictRefused,
                false => Loss::Unreachable,
            });
        }
        self.next_endpoint(now, false);
    }

    fn next_endpoint(&mut self, now: Duration, refused: bool) {
        self.endpoint = self.untried.pop_front();
        let Some(endpoint) = self.endpoint else {
            if self.step == Step::Resuming {
                self.loss = Loss::Unreachable;
                return self.pause(now, Step::Pausing);
            }
            return self.purge_and_ask(now, Loss::Unreachable, refused);
        };
        self.timer = Some(now + self.policy.attempt);
        self.push(match self.step {
            Step::Resuming => Action::Resume { endpoint },
            _ => Action::Connect {
                endpoint,
                min_generation: self.floor,
            },
        });
    }

    /// Compares what the accept says with the answer (claims 22 and 23).
    fn verify(&mut self, now: Duration, node: &str, generation: Generation) {
        self.step = Step::Verifying;
        let fits = self.answer.as_ref().is_some_and(|(answer, _)| {
            answer.node == node && generation >= answer.generation.max(self.floor)
        });
        if !fits {
            self.push(Action::Abandon);
            return self.purge_and_ask(now, Loss::NotAuthentic, false);
        }
        self.floor = generation;
        if self.failing_over {
            self.step = Step::Restoring;
            self.timer = None;
            self.push(Action::Restore);
        } else {
            self.settle(now);
            self.push(Action::Establish);
        }
    }

    // A channel stands, or stood.

    fn settle(&mut self, now: Duration) {
        let same_stream = matches!(self.step, Step::Resuming | Step::Returning);
        if !same_stream {
            self.paths = Paths::default();
        }
        let order = self.usable(same_stream);
        self.paths.stands(now, self.endpoint, &order);
        self.step = Step::Established;
        self.failing_over = false;
        self.was_established = true;
        self.wanted = false;
        self.deadline = None;
        self.timer = None;
        self.attempts = 0;
        self.unknown_since = None;
        self.purged = None;
        self.loss = Loss::NobodyAnswered;
    }

    /// The application's calls wait, and not for ever.
    fn hold(&mut self, now: Duration) {
        self.deadline = Some(now + self.policy.deadline);
        self.loss = Loss::NobodyAnswered;
        self.push(Action::Suspend);
    }

    // A better path was left.

    fn wait_to_return(&mut self, now: Duration) {
        self.timer = match (self.paths.left, self.leaving) {
            (Some(_), false) => {
                let pause = self.paths.pause(&self.policy);
                Some(now + self.jitter.spread(pause))
            }
            _ => None,
        };
    }

    fn scout(&mut self, now: Duration) {
        let Some(endpoint) = self.paths.left else {
            return;
        };
        self.step = Step::Scouting;
        self.timer = Some(now + self.policy.attempt);
        self.push(Action::Scout { endpoint });
    }

    /// The channel in use works: what the better path takes its time for costs it nothing but that.
    fn go_over(&mut self, now: Duration) {
        let Some(endpoint) = self.paths.left else {
            return self.stay(now);
        };
        self.step = Step::Returning;
        self.timer = Some(now + self.policy.attempt);
        self.push(Action::Suspend);
        self.push(Action::Resume { endpoint });
    }

    fn go_back(&mut self, now: Duration) {
        self.push(Action::GoBack);
        self.stay(now);
    }

    fn stay(&mut self, now: Duration) {
        self.step = Step::Established;
        self.paths.tries = self.paths.tries.saturating_add(1);
        self.wait_to_return(now);
    }

    fn abandon_scout(&mut self) {
        if self.step == Step::Scouting {
            self.push(Action::Abandon);
            self.step = Step::Established;
        }
    }

    fn probe(&mut self, now: Duration) {
        self.step = Step::Suspect;
        self.timer = Some(now + self.policy.suspect);
        self.push(Action::Probe);
    }

    fn fail_over(&mut self, now: Duration) {
        self.abandon_scout();
        match self.step {
            Step::Established if self.is_plain() => return self.lose_plain(),
            // Bytes never move to another server, and there is nobody who would go on there.
            _ if self.leaving => {
                self.purge();
                return self.lose(Loss::Closed);
            }
            Step::Established => self.push(Action::Suspend),
            Step::Resuming | Step::Returning => self.push(Action::Abandon),
            _ => {}
        }
        self.deadline.get_or_insert(now + self.policy.deadline);
        self.failing_over = true;
        self.endpoint = None;
        self.attempts = 0;
        self.loss = Loss::NobodyAnswered;
        self.push(Action::Tell(Notice::FailoverBegun));
        self.purge();
        self.ask();
    }

    fn is_plain(&self) -> bool {
        self.endpoint
            .is_some_and(|endpoint| endpoint.transport == Transport::Plain)
    }

    /// An ordinary TCP connection has no acknowledged offsets and nothing behind it to resume: it ends. The next connect
    /// must not find its node in the cache.
    fn lose_plain(&mut self) {
        self.purge();
        self.lose(Loss::NotMovable);
    }

    // Both.

    fn pause(&mut self, now: Duration, step: Step) {
        let factor = 1 << self.attempts.min(16);
        let doubled = self.policy.retry_first.saturating_mul(factor);
        self.attempts = self.attempts.saturating_add(1);
        let pause = self.jitter.spread(doubled.min(self.policy.retry_max));
        self.timer = Some(now + pause);
        self.step = step;
    }

    fn lose(&mut self, loss: Loss) {
        if matches!(
            self.step,
            Step::Asking
                | Step::Queued
                | Step::Connecting
                | Step::Scouting
                | Step::Returning
                | Step::Resuming
                | Step::Restoring
        ) {
            self.push(Action::Abandon);
        }
        let loss = if self.leaving { Loss::Closed } else { loss };
        self.step = Step::Lost;
        self.failing_over = false;
        self.deadline = None;
        self.timer = None;
        self.push(Action::Lose(loss));
        if self.was_established && loss != Loss::Closed {
            self.push(Action::Tell(Notice::Lost));
        }
    }

    fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}

#[cfg(test)]
mod tests;
