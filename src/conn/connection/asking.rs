//! Questions of ours in the application's session: when they are asked, and how their answers are kept from it.
//!
//! The I/O thread asks, at a safe point of a session that has been idle for a while. The bytes go into the channel as a send of
//! the application would; its own queue behind them. The answer is taken out of the stream by whoever receives: a call of
//! the application that is inside, or the I/O thread, which looks every millisecond. Until it has come whole the
//! descriptor is not readable, since the consumer's wake word stays INSIDE. Which bytes are meant is one word on the control
//! page ([`Ours`]), so that a forked process goes on where another left.

use super::session::{Asked, Known, State, Theirs};
use super::*;
use crate::conn::suspects;
use crate::log;
use crate::session::postgres::{Answer, Ours, Question, Reason, Snapshot, StandIn, Step, Way};
use crate::via::channel::Come;
use crate::via::switchover::Why;

/// So many answers in a row that were of no use are enough.
const FAILURES: u32 = 3;
/// Longest answer. Bytes.
const LONGEST: usize = 262_144;

/// What the I/O thread is to do about a session's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, until it is told again.
    Off,
    /// Look again later, and say then that it looked at these offsets.
    Later((u64, u64)),
    /// Ask.
    Ask(Question),
}

impl Conn {
    /// Whether the I/O thread waits for the session to be idle, or is to begin with it.
    pub fn is_watched(&self) -> bool {
        // Where that cannot be said now, it is said later.
        let watched = || (self.followed.state.lock_if_free()).is_none_or(|state| state.watched);
        self.followed.is_on() && watched()
    }

    /// Whether the I/O thread is to be told of [`Conn::is_watched`]. Says so once.
    pub(super) fn takes_note(&self) -> bool {
        let resting = &self.followed.resting;
        resting.load(Ordering::Relaxed) && resting.swap(false, Ordering::AcqRel)
    }

    /// A safe point was reached, perhaps. One call of the I/O thread for many of those.
    pub(super) fn note_rest(&self, state: &mut State) {
        let rests = state.has_question() && state.observer.at_safe_point();
        if !state.watched && (rests || state.has_unsaid()) {
            state.watched = true;
            self.followed.resting.store(true, Ordering::Release);
        }
    }

    /// How it is found out what the session has become; `None`: not (yet).
    pub(super) fn state_way(&self) -> Option<&'static str> {
        if !self.followed.is_on() {
            return None;
        }
        let state = self.followed.state.try_lock()?;
        let identity = state.identity.as_ref()?;
        (state.given_up != Some(Reason::NoExtension)).then(|| identity.way().name())
    }

    /// What to do about the session's state, which was looked at `last` as it was at these offsets.
    pub fn rest(&self, last: Option<(u64, u64)>) -> Rest {
        let usable = |channel: &Arc<Channel>| {
            channel.wire.transport() != Transport::Plain && channel.broken().is_none()
        };
        let usable = self.channel().as_ref().is_some_and(usable);
        let Some(mut state) = self.followed.state.lock_if_free() else {
            return Rest::Later((0, 0));
        };
        let at = (state.sent, state.received);
        let question = state.question(&self.followed.policy);
        match question {
            Some(question) if usable && state.may_ask(&question) => {
                match last == Some(at) || question == Question::Rollback {
                    true => Rest::Ask(question),
                    false => Rest::Later(at),
                }
            }
            // Who waits for it must read something first.
            Some(Question::Rollback) if usable => Rest::Later(at),
            _ => {
                state.watched = false;
                self.say_movable(&mut state);
                Rest::Off
            }
        }
    }

    /// Asks, if it can be done now.
    pub fn ask(&self, question: Question, seed: u64) -> bool {
        let bytes = question.bytes(seed);
        let (Some(_rx), Some(_tx)) = (
            self.try_hold(&self.control.rx),
            self.try_hold(&self.control.tx),
        ) else {
            return false;
        };
        let words = &self.control;
        let shut = [&words.read_shut, &words.write_shut, &words.held];
        if !(words.phase() == Phase::Established || self.is_held())
            || shut.iter().any(|word| word.load(Ordering::Acquire))
        {
            return false;
        }
        let Some(channel) = self.channel() else {
            return false;
        };
        // SAFETY: the receive direction's lock is held.
        if unsafe { !(*self.rx.get()).left.is_empty() } {
            return false;
        }
        let Some(mut state) = self.followed.state.lock_if_free() else {
            return false;
        };
        let seen = (state.sent, state.received);
        let quiet = || {
            seen == (channel.accepted(), channel.consumed())
                && channel.come() == 0
                && !channel.rx.finished()
                && channel.room() > bytes.len()
                && self.ours().is_over()
        };
        if !state.may_ask(&question) || !quiet() {
            return false;
        }
        // What somebody reads out of the bell from here on is not ours.
        channel.hold_reads();
        if !quiet() {
            channel.open_reads();
            return false;
        }
        words.ours.store(Ours::asked(1).word(), Ordering::Release);
        words.ours_taken.store(0, Ordering::Release);
        self.asks(&channel);
        let wait = crate::via::channel::Wait::No;
        // There is room. A channel that breaks now has taken all of it or nothing, and is found to be broken by others.
        let sent = channel.send(&[IoSlice::new(&bytes)], wait).unwrap_or(0);
        if sent == 0 {
            words.ours.store(0, Ordering::Release);
            channel.open_reads();
            return false;
        }
        words.sent_here.fetch_add(sent as u64, Ordering::Relaxed);
        state.sent = channel.accepted();
        state.asked = Some(Asked {
            question,
            seed,
            sent: state.sent,
            answer: Vec::new(),
            outdated: false,
        });
        true
    }

    /// Takes what has come of the answer, if nobody else does. True: all of it has come, or never will.
    pub fn collect(&self) -> bool {
        if self.ours().is_over() {
            return true;
        }
        let Ok(_rx) = self.control.rx.lock(Some(Duration::ZERO)) else {
            return false; // a receiver is inside: it does the same
        };
        if self.control.held.load(Ordering::Acquire) {
            return false; // a resumption copies what it would take
        }
        self.sift()
    }

    /// The same by the holder of the receive direction's lock.
    pub(super) fn sift(&self) -> bool {
        match self.channel() {
            Some(channel) => channel.sift(self) && !self.ours().passes(),
            None => true,
        }
    }

    /// Takes off the front of what has come what answers a question of ours. For the holder of the receive direction's lock.
    pub(super) fn take_ours(
        &self,
        at: u64,
        come: &Come<'_>,
        large: usize,
        mut state: Option<&mut State>,
    ) -> Theirs {
        if let Some(state) = &mut state
            && state.received != at
        {
            state.observer.lose_sight(Reason::Shared);
        }
        let mut ours = self.ours();
        if ours.is_over() {
            return Theirs::Some {
                skip: 0,
                most: usize::MAX,
            };
        }
        let mut skip = 0;
        let theirs = loop {
            let available = come.available - skip;
            match ours.step(available, large, |out| (come.ahead)(skip, out)) {
                Step::Take(n) => {
                    let asked = state.as_mut().and_then(|state| state.asked.as_mut());
                    if let Some(asked) = asked.filter(|asked| asked.answer.len() + n <= LONGEST) {
                        let from = asked.answer.len();
                        asked.answer.resize(from + n, 0);
                        (come.ahead)(skip, &mut asked.answer[from..]);
                    }
                    skip += n;
                }
                // Nothing follows: whosever it was, it will never be whole.
                Step::Wait(_) if come.last => {
                    skip = come.available;
                    ours = Ours::default();
                    break Theirs::Nothing { skip, next: 1 };
                }
                Step::Wait(next) => break Theirs::Nothing { skip, next },
                Step::Pass(most) => {
                    let mut kind = [0; 1];
                    (come.ahead)(skip, &mut kind);
                    let asked = state.as_mut().and_then(|state| state.asked.as_mut());
                    if let (Some(asked), b'S') = (asked, kind[0]) {
                        asked.outdated = true;
                    }
                    break Theirs::Some { skip, most };
                }
                Step::Over => {
                    break Theirs::Some {
                        skip,
                        most: usize::MAX,
                    };
                }
            }
        };
        let taken = skip as u64 + self.control.ours_taken.load(Ordering::Relaxed);
        self.control.ours_taken.store(taken, Ordering::Relaxed);
        self.control.ours.store(ours.word(), Ordering::Release);
        if let Some(state) = state {
            state.received = at.wrapping_add(skip as u64);
            if ours.is_over() {
                self.answered(state, taken);
            }
        }
        theirs
    }

    /// So many bytes went to the application of a message that came between ours, of which there were `most`.
    pub(super) fn gave(&self, bytes: usize, most: usize) {
        if most < usize::MAX && bytes > 0 {
            let mut ours = self.ours();
            ours.passed(bytes);
            self.control.ours.store(ours.word(), Ordering::Release);
        }
    }

    /// The channel is over: nothing that comes is ours any more. What was, up to now.
    pub(super) fn take_back_ours(&self) -> Ours {
        Ours::from_word(self.control.ours.swap(0, Ordering::AcqRel))
    }

    /// The answer has come, `taken` bytes of it by all processes.
    fn answered(&self, state: &mut State, taken: u64) {
        let Some(asked) = state.asked.take() else {
            return;
        };
        let at = (asked.sent, state.received);
        let whole = asked.answer.len() as u64 == taken;
        let answer = match (whole, taken > LONGEST as u64) {
            (true, _) => (asked.question).read(asked.seed, &asked.answer),
            (false, true) => {
                state.given_up = Some(Reason::TooLarge);
                Err("the answer is too long".into())
            }
            (false, false) => Err("another process took part of the answer".into()),
        };
        let name = &self.name;
        if let Err(why) = &answer {
            let what = &asked.question;
            crate::log!(log::Level::Info, "conn", "{name}: {what:?}: {why}");
        }
        let failed = answer.is_err();
        if asked.question == Question::Rollback {
            return self.rolled_back(state, !failed);
        }
        state.failures = if failed { state.failures + 1 } else { 0 };
        let unknown = Known {
            at,
            state: Err(Reason::UnknownState),
        };
        state.known = match answer {
            Ok(Answer::Identity(identity)) => {
                match state.observer.way(&identity) {
                    Some(way) => {
                        crate::log!(log::Level::Info, "conn", "{name}: state: {}", way.name());
                    }
                    None => state.given_up = Some(Reason::NoExtension),
                }
                state.identity = Some(identity);
                None
            }
            Ok(Answer::Catalog(suspects)) => {
                let fingerprint = state.observer.fingerprint();
                state.told = fingerprint.map(|it| (it, Arc::clone(&suspects)));
                state.observer.suspects(suspects);
                None
            }
            Ok(Answer::State(_)) if asked.outdated => None,
            // What was sent since runs after it, and makes it outdated.
            Ok(Answer::State(snapshot))
                if asked.sent == state.sent
                    && state.lacks(&snapshot, name, &self.followed.policy) =>
            {
                None
            }
            Ok(Answer::State(snapshot)) => {
                if let Some(written) = snapshot.written() {
                    state.written = Some(written);
                }
                let last = asked.sent == state.sent;
                let policy = &self.followed.policy;
                let earlier = last.then(|| state.observer.learned(&snapshot, policy));
                let earlier = earlier.flatten();
                let obstacle = snapshot.obstacle(policy).or(earlier);
                if obstacle == Some(Reason::Deferrable) {
                    state.given_up = obstacle;
                }
                let bytes = (asked.seed, asked.answer.into_boxed_slice());
                let state = obstacle.map_or(Ok(bytes), Err);
                Some(Known { at, state })
            }
            Ok(Answer::RolledBack) | Err(_) => Some(unknown),
        };
        if state.failures >= FAILURES {
            state.given_up.get_or_insert(Reason::UnknownState);
        }
        let obstacle = state.obstacle();
        let suspect = obstacle.map_or("", |reason| state.observer.record().suspect(reason));
        if !suspect.is_empty() {
            crate::log!(
                log::Level::Info,
                "conn",
                "{name}: may set something unseen: {suspect}"
            );
        }
        let movable = obstacle.map_or("yes", Reason::name);
        crate::log!(log::Level::Debug, "conn", "{name}: movable: {movable}");
        self.say_movable(state);
    }

    /// Whether the session can move, for the log: when that has changed, and not for what passes by itself with a request.
    pub(super) fn say_movable(&self, state: &mut State) {
        let obstacle = state.obstacle();
        let is_over = matches!(obstacle, Some(Reason::Ended | Reason::Cancel));
        if is_over
            || obstacle.is_some_and(|reason| Why::Session(reason).passes())
            || state.said_obstacle.replace(obstacle) == Some(obstacle)
        {
            return;
        }
        let name = &self.name;
        match obstacle {
            None => crate::log!(log::Level::Info, "conn", "{name}: the session is movable"),
            Some(reason) => {
                let why = reason.not_movable("");
                crate::log!(log::Level::Info, "conn", "{name}: {why}");
            }
        }
    }
}

impl State {
    /// What is to be asked, at the next safe point at which the session rests.
    fn question(&self, policy: &Policy) -> Option<Question> {
        if self.commits() && self.asked.is_none() {
            return Some(Question::Rollback);
        }
        if !self.has_question() {
            return None;
        }
        let at = (self.sent, self.received);
        let next = self.next.as_ref().filter(|(then, _)| *then == at);
        Some(match (&self.identity, next) {
            (None, _) => Question::Identity,
            (Some(identity), _) if identity.way() == Way::Exact => Question::State,
            (_, Some((_, next))) => next.clone(),
            (_, None) => Question::Derived {
                custom: self.observer.record().custom(policy),
                prepared: Vec::new(),
            },
        })
    }

    /// COMMIT of a lost block waits until that is rolled back.
    pub(super) fn commits(&self) -> bool {
        self.stand_in.as_ref().is_some_and(StandIn::commits)
    }

    /// Whether it can be asked now.
    fn may_ask(&self, question: &Question) -> bool {
        match question {
            Question::Rollback => self.commits() && self.observer.at_boundary(),
            _ => self.observer.at_safe_point(),
        }
    }

    /// Whether something keeps the session from moving for good, which the log does not say yet.
    fn has_unsaid(&self) -> bool {
        let lasting = self.observer.lasting_obstacle();
        lasting.is_some() && self.said_obstacle != Some(lasting)
    }

    fn has_question(&self) -> bool {
        self.given_up.is_none() && self.asked.is_none() && self.current().is_none()
    }

    /// Whether something else has to be asked first, at this very point.
    fn lacks(&mut self, snapshot: &Snapshot, name: &ServerName, policy: &Policy) -> bool {
        let mut next = self.observer.lacks(snapshot, policy);
        // It is the answer to this fingerprint only if that is still the same behind it.
        if let (Some((it, suspects)), Some(identity)) = (self.told.take(), &self.identity)
            && self.observer.fingerprint().as_ref() == Some(&it)
        {
            suspects::learned(identity.system, name, it, &suspects);
        }
        if next == Some(Question::Catalog)
            && let (Some(identity), Some(it)) = (&self.identity, self.observer.fingerprint())
            && let Some(known) = suspects::known(identity.system, name, &it)
        {
            self.observer.suspects(known);
            next = self.observer.lacks(snapshot, policy);
        }
        self.next = next.map(|next| ((self.sent, self.received), next));
        self.next.is_some()
    }
}
