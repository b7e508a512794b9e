//! The session above the bytes: a protocol that is understood is followed, moves to another server where it can (`asking`
//! finds that out, `moved` does it), and has the last word when its server is lost.

use super::*;
use crate::config::{OnUnknown, Session};
use crate::session::postgres::{
    self, Answer, End, Fingerprint, Identity, Lost, Observer, Ours, Policy, Question, Reason,
    Recognised, Snapshot, StandIn, Standing, Suspect, Written,
};
use crate::via::channel::{Come, Taken, Tap};

/// What is known of the protocol of a connection.
pub struct Followed {
    /// Nothing is followed (any more) while this is false, and the calls pay nothing for it.
    on: AtomicBool,
    /// A stream that is not PostgreSQL's stays all the same.
    certain: bool,
    /// What the stream is has been seen.
    seen: AtomicBool,
    pub(super) policy: Policy,
    /// What the application sends is answered here; see `standing_in`.
    pub(super) stands_in: AtomicBool,
    /// It was, and the answer is not where a receiver looks for it.
    pub(super) owes: AtomicBool,
    /// The I/O thread is to be told that it waits until the session is idle; see [`Conn::rest`].
    pub(super) resting: AtomicBool,
    pub(super) state: Lock<State>,
}

/// Process-local: what another process does with the connection after a fork shows in the offsets.
#[derive(Default)]
pub(super) struct State {
    pub(super) observer: Observer,
    /// Stream offsets up to which the observer has seen the two directions, questions of ours and their answers included.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The same when the session was last at rest.
    pub(super) rested: (u64, u64),
    /// Who answers what the application sends next.
    pub(super) stand_in: Option<StandIn>,
    /// What it has said.
    pub(super) said: Vec<u8>,
    /// The question under way.
    pub(super) asked: Option<Asked>,
    pub(super) identity: Option<Identity>,
    pub(super) known: Option<Known>,
    /// What is to be asked next, as long as nothing moves.
    pub(super) next: Option<((u64, u64), Question)>,
    /// What was answered to [`Question::Catalog`], and the fingerprint from before it was asked.
    pub(super) told: Option<(Fingerprint, Arc<[Suspect]>)>,
    /// How far the session has written, on whatever server.
    pub(super) written: Option<Written>,
    /// Nothing more is asked on this connection, and the session does not move.
    pub(super) given_up: Option<Reason>,
    /// Answers in a row that were of no use.
    pub(super) failures: u32,
    /// The I/O thread waits for the session to be idle.
    pub(super) watched: bool,
    /// What the log says of its movability; `None` inside: that it can move.
    pub(super) said_obstacle: Option<Option<Reason>>,
}

/// A question of ours.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) seed: u64,
    /// Stream offset behind it.
    pub(super) sent: u64,
    /// What came back, unless that is too much.
    pub(super) answer: Vec<u8>,
    /// A parameter changed meanwhile.
    pub(super) outdated: bool,
}

/// What the session has become, as of a moment.
pub(super) struct Known {
    /// Stream offsets of the two directions then: as long as nothing moves, nothing changes.
    pub(super) at: (u64, u64),
    /// The answer, where the session could move.
    pub(super) state: std::result::Result<(u64, Box<[u8]>), Reason>,
}

/// What may become of the stream when its server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its protocol is not known: it is one of bytes.
    Bytes,
    /// It is a session that does not move.
    Stays(Reason),
    /// It is a session that moves.
    Moves,
}

impl Followed {
    /// As the configuration has it.
    pub fn new(session: Session, policy: Policy) -> Self {
        Self {
            on: AtomicBool::new(session != Session::Raw),
            certain: session == Session::Postgres,
            seen: AtomicBool::new(false),
            policy,
            stands_in: AtomicBool::new(false),
            owes: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            state: Lock::default(),
        }
    }

    /// The lock, for `fork`.
    pub fn lock(&self) -> &lock::RawLock {
        self.state.raw()
    }

    /// Whether anything is followed.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Whether the application has logged in; `None`: the stream is none in which one does.
    pub fn has_logged_in(&self) -> Option<bool> {
        if !self.is_on() {
            return None;
        }
        // For the I/O thread, which waits for nobody here.
        let Some(state) = self.state.lock_if_free() else {
            return Some(false);
        };
        match state.observer.standing() {
            Standing::Blind | Standing::Over => None,
            Standing::Login => Some(false),
            _ => Some(true),
        }
    }

    /// Another process has put a channel of its own in: what passes there is not seen here.
    pub fn goes_on_elsewhere(&self) {
        if self.is_on()
            && let Some(mut state) = self.state.try_lock()
        {
            state.observer.lose_sight(Reason::Shared);
        }
    }

    /// An answer that is not this protocol's ends the following where it was a guess.
    fn settle(&self, state: &State) {
        match state.observer.recognised() {
            Recognised::NotYet => {}
            Recognised::No if !self.certain => self.on.store(false, Ordering::Relaxed),
            _ => self.seen.store(true, Ordering::Release),
        }
    }
}

impl State {
    /// Bytes that moved past the observer make it blind.
    pub(super) fn check(&mut self, channel: &Channel) {
        // It sees bytes before they move.
        let ahead = |offset: u64, seen: u64| offset.wrapping_sub(seen) as i64 > 0;
        if ahead(channel.accepted(), self.sent) || ahead(channel.consumed(), self.received) {
            self.observer.lose_sight(Reason::Shared);
        }
    }

    /// Why the session would not go on as if nothing had happened, as far as is known of it.
    pub(super) fn obstacle(&self) -> Option<Reason> {
        match self.observer.obstacle() {
            Some(Reason::Unanswered | Reason::Incomplete) => {
                self.observer.onward(None, false).err()
            }
            other => other,
        }
        .or_else(|| self.obstacle_at_rest())
    }

    /// Why it could not be made again as it was when it was last at rest.
    pub(super) fn obstacle_at_rest(&self) -> Option<Reason> {
        (self.observer.obstacle_at_rest())
            .or(self.given_up)
            .or_else(|| match self.known_then() {
                None => Some(Reason::StatePending),
                Some(known) => known.state.as_ref().err().copied(),
            })
    }

    /// What it was then.
    pub(super) fn snapshot_at_rest(&self) -> Option<Snapshot> {
        let (seed, bytes) = self.known_then()?.state.as_ref().ok()?;
        match Question::State.read(*seed, bytes) {
            Ok(Answer::State(snapshot)) => Some(snapshot),
            _ => None,
        }
    }

    fn known_then(&self) -> Option<&Known> {
        let at = match self.observer.at_safe_point() {
            true => (self.sent, self.received),
            false => self.rested,
        };
        let known = self.known.as_ref()?;
        (self.asked.is_none() && known.at == at).then_some(known)
    }

    /// What is known of it, if nothing has moved since.
    pub(super) fn current(&self) -> Option<&Known> {
        let known = self.known.as_ref()?;
        (self.asked.is_none() && known.at == (self.sent, self.received)).then_some(known)
    }
}

impl Conn {
    /// For the calls: what follows the bytes, if anything does.
    pub(super) fn tap(&self) -> Option<&dyn Tap> {
        self.followed.is_on().then_some(self as &dyn Tap)
    }

    /// What may become of the stream now.
    pub fn verdict(&self) -> Verdict {
        if !self.followed.is_on() {
            return Verdict::Bytes;
        }
        let channel = self.channel();
        let Some(mut state) = self.followed.state.try_lock() else {
            return Verdict::Bytes;
        };
        if let Some(channel) = channel {
            state.check(&channel);
        }
        match state.observer.recognised() {
            Recognised::NotYet if !self.followed.certain => Verdict::Bytes,
            _ => state.obstacle().map_or(Verdict::Moves, Verdict::Stays),
        }
    }
}

impl Tap for Conn {
    fn sends(&self, at: u64, bytes: &[u8]) {
        // A signal handler that came between is found out by the offset.
        let Some(mut state) = self.followed.state.try_lock() else {
            return;
        };
        if state.sent != at {
            state.observer.lose_sight(Reason::Shared);
        }
        if state.observer.begins() {
            state.rested = (state.sent, state.received);
        }
        state.observer.sent(bytes);
        state.sent = at.wrapping_add(bytes.len() as u64);
        self.followed.settle(&state);
    }

    fn receives(&self, at: u64, come: &mut Come<'_>) -> Taken {
        // The I/O thread, which has no room, waits for nobody: see `is_followed`.
        let mut guard = match come.room.is_empty() {
            true => self.followed.state.lock_if_free(),
            false => self.followed.state.try_lock(),
        };
        if come.room.is_empty() && guard.is_none() {
            return Taken {
                skipped: 0,
                bytes: 0,
                next: 1,
            };
        }
        let state = guard.as_deref_mut();
        // One that the ring does not hold with another could never be whole.
        let large = postgres::LARGE.min(come.ring / 2);
        let ours = self.take_ours(at, come, large, state);
        let (skip, most) = match ours {
            Theirs::Nothing { skip, next } => {
                return Taken {
                    skipped: skip,
                    bytes: 0,
                    next,
                };
            }
            Theirs::Some { skip, most } => (skip, most),
        };
        let rest = come.available - skip;
        let (available, last) = (rest.min(most), come.last && rest <= most);
        let Some(state) = guard.as_deref_mut() else {
            let bytes = come.take(skip, available).len();
            self.gave(bytes, most);
            return Taken {
                skipped: skip,
                bytes,
                next: 1,
            };
        };
        let ahead = |further: usize, out: &mut [u8]| {
            let most = available.saturating_sub(further).min(out.len());
            (come.ahead)(skip + further, &mut out[..most])
        };
        let release = (state.observer).release(come.room.len(), available, large, ahead);
        let mut taken = match last {
            true => (come.take(skip, available).len(), 1),
            false => (come.take(skip, release.bytes).len(), release.next),
        };
        let seen = &come.room[..taken.0];
        match last {
            true => state.observer.received(seen),
            false => state.observer.released(seen, &release),
        }
        if state.observer.standing() == Standing::Blind {
            taken.1 = 1;
        }
        self.gave(taken.0, most);
        state.received = at.wrapping_add((skip + taken.0) as u64);
        self.followed.settle(state);
        self.note_rest(state);
        Taken {
            skipped: skip,
            bytes: taken.0,
            next: taken.1,
        }
    }

    fn is_quiet(&self) -> bool {
        let ours = self.ours();
        !ours.is_over() && !ours.passes()
    }
}

/// What of the next bytes is the application's, behind `skip` that are not.
pub(super) enum Theirs {
    /// Nothing, before so many more have come.
    Nothing { skip: usize, next: usize },
    /// At most so many.
    Some { skip: usize, most: usize },
}

impl Conn {
    /// Whether the protocol of the stream is followed: then [`Conn::last_words`] ends it. Takes no lock: who holds it may be
    /// below a signal handler that waits for the I/O thread.
    pub fn is_followed(&self) -> bool {
        let followed = &self.followed;
        followed.is_on() && (followed.certain || followed.seen.load(Ordering::Acquire))
    }

    /// Ends a session whose server is lost: what arrived whole can still be read, then comes what its protocol has to say.
    /// The error that remains for the calls, `None` where the stream ends in good order; for the log, what the session was
    /// doing. `refused` is why it was not moved, where that was tried. For the I/O thread, while the calls are suspended. Gives the error back where that is not possible now.
    pub fn last_words(
        &self,
        error: Error,
        refused: Option<Reason>,
    ) -> std::result::Result<(Option<Error>, Standing), Error> {
        let (Some(_rx), Some(_tx)) = (
            self.try_hold(&self.control.rx),
            self.try_hold(&self.control.tx),
        ) else {
            return Err(error);
        };
        // SAFETY: the receive direction's lock is held.
        let rx = unsafe { &mut *self.rx.get() };
        let channel = self.channel();
        if let Some(channel) = &channel {
            // First: what somebody read out of the bell is not unread.
            channel.hold_reads();
        }
        let sent = channel.as_ref().map_or(0, |channel| channel.accepted());
        let received = channel.as_ref().map_or(0, |channel| channel.consumed());
        let mut unread = channel.as_deref().map(turns::drain).unwrap_or_default();
        let node = self.slow.lock().node.clone();
        let mut state = self.followed.state.lock();
        if (state.sent, state.received) != (sent, received) {
            state.observer.lose_sight(Reason::Shared);
        }
        let ours = self.take_back_ours();
        keep_theirs(&mut state.observer, ours, &mut unread, channel.as_deref());
        let standing = state.observer.standing();
        let tell = self.on_unknown() == OnUnknown::Error;
        let why = refused.or_else(|| {
            let state_then = state.snapshot_at_rest();
            let onward = state.observer.onward(state_then.as_ref(), tell);
            onward.err().or_else(|| state.obstacle_at_rest())
        });
        let lost = Lost {
            name: &self.name.to_string(),
            node: &node,
            why: why.unwrap_or(Reason::NoServer),
        };
        let error = match state.observer.end(lost, tell) {
            End::Reset => Some(error),
            End::Words(words) => {
                unread.extend_from_slice(&words);
                None
            }
        };
        drop(state);
        self.hand_over(rx);
        rx.left.extend_from_slice(&unread);
        if let Some(channel) = &channel {
            channel.shut_reads();
            channel.retire();
        }
        // Before the bell: who is woken by it must find the end behind the words.
        self.lose(error.clone());
        self.ring_for(rx);
        Ok((error, standing))
    }

    pub(super) fn on_unknown(&self) -> OnUnknown {
        self.setting(|server| server.on_unknown, |cluster| cluster.on_unknown)
    }

    /// What of the next bytes is ours.
    pub(super) fn ours(&self) -> Ours {
        Ours::from_word(self.control.ours.load(Ordering::Acquire))
    }
}

/// Of the last bytes of a channel, keeps what the application may have: whole messages that answer nothing of ours. The observer
/// takes them as received.
pub(super) fn keep_theirs(
    observer: &mut Observer,
    mut ours: Ours,
    unread: &mut Vec<u8>,
    channel: Option<&Channel>,
) {
    ours.remove_from(unread);
    let ring = channel.map_or(0, |channel| channel.rx.size());
    let large = postgres::LARGE.min(ring / 2);
    let all = |skip: usize, out: &mut [u8]| {
        let rest = unread.get(skip..).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        n
    };
    // Part of a message that the application has nothing of is dropped.
    let release = observer.release(unread.len(), unread.len(), large, all);
    unread.truncate(release.bytes);
    observer.released(unread, &release);
}
