//! The session above the bytes: a protocol that is understood is followed, and has the last word when its server is lost.

use super::*;
use crate::config::{OnUnknown, Session};
use crate::session::postgres::{self, End, Lost, Observer, Reason, Recognised, Standing};
use crate::via::channel::{Come, Taken, Tap};

/// What is known of the protocol of a connection.
pub struct Followed {
    /// Nothing is followed (any more) while this is false, and the calls pay nothing for it.
    on: AtomicBool,
    /// A stream that is not PostgreSQL's stays all the same.
    certain: bool,
    state: Lock<State>,
}

/// Process-local: what another process does with the connection after a fork shows in the offsets.
#[derive(Default)]
struct State {
    observer: Observer,
    /// Stream offsets up to which the observer has seen the two directions.
    sent: u64,
    received: u64,
}

impl Followed {
    /// As the configuration has it.
    pub fn new(session: Session) -> Self {
        Self {
            on: AtomicBool::new(session != Session::Raw),
            certain: session == Session::Postgres,
            state: Lock::default(),
        }
    }

    /// For the calls: what follows the bytes, if anything does.
    pub fn tap(&self) -> Option<&dyn Tap> {
        self.on.load(Ordering::Relaxed).then_some(self as &dyn Tap)
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
        let Some(state) = self.state.try_lock() else {
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

    /// Why the session would not move; `None`: its protocol is not known, and the stream is one of bytes.
    pub fn reason(&self, channel: Option<&Channel>) -> Option<Reason> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.try_lock()?;
        if let Some(channel) = channel {
            // The observer sees bytes before they move.
            let ahead = |offset: u64, seen: u64| offset.wrapping_sub(seen) as i64 > 0;
            if ahead(channel.accepted(), state.sent) || ahead(channel.consumed(), state.received) {
                state.observer.lose_sight(Reason::Shared);
            }
        }
        match state.observer.recognised() {
            Recognised::NotYet if !self.certain => None,
            _ => Some(state.observer.obstacle().unwrap_or(Reason::Unsupported)),
        }
    }

    /// An answer that is not this protocol's ends the following where it was a guess.
    fn settle(&self, state: &State) {
        if state.observer.recognised() == Recognised::No && !self.certain {
            self.on.store(false, Ordering::Relaxed);
        }
    }
}

impl Tap for Followed {
    fn sends(&self, at: u64, bytes: &[u8]) {
        // A signal handler that came between is found out by the offset.
        let Some(mut state) = self.state.try_lock() else {
            return;
        };
        if state.sent != at {
            state.observer.lose_sight(Reason::Shared);
        }
        state.observer.sent(bytes);
        state.sent = at.wrapping_add(bytes.len() as u64);
        self.settle(&state);
    }

    fn receives(&self, at: u64, come: &mut Come<'_>) -> Taken {
        let Some(mut state) = self.state.try_lock() else {
            return everything(come);
        };
        if state.received != at {
            state.observer.lose_sight(Reason::Shared);
        }
        // One that the ring does not hold with another could never be whole.
        let large = postgres::LARGE.min(come.ring / 2);
        let (room, available) = (come.room.len(), come.available);
        let release = state.observer.release(room, available, large, come.ahead);
        let mut taken = match come.last {
            true => everything(come),
            false => Taken {
                bytes: come.take(release.bytes).len(),
                next: release.next,
            },
        };
        let seen = &come.room[..taken.bytes];
        match come.last {
            true => state.observer.received(seen),
            false => state.observer.released(seen, &release),
        }
        if state.observer.standing() == Standing::Blind {
            taken.next = 1;
        }
        state.received = at.wrapping_add(taken.bytes as u64);
        self.settle(&state);
        taken
    }
}

fn everything(come: &mut Come<'_>) -> Taken {
    Taken {
        bytes: come.take(come.available).len(),
        next: 1,
    }
}

impl Conn {
    /// Whether the protocol of the stream is followed: then [`Conn::last_words`] ends it.
    pub fn is_followed(&self) -> bool {
        self.followed.reason(self.channel().as_deref()).is_some()
    }

    /// Ends a session whose server is lost: what arrived whole can still be read, then comes what its protocol has to say.
    /// The error that remains for the calls, `None` where the stream ends in good order; for the log, what the session was
    /// doing. For the I/O thread, while the calls are suspended. Gives the error back where that is not possible now.
    pub fn last_words(
        &self,
        error: Error,
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
        let ring = channel.as_ref().map_or(0, |channel| channel.rx.size());
        let large = postgres::LARGE.min(ring / 2);
        let all = |skip: usize, out: &mut [u8]| {
            let rest = unread.get(skip..).unwrap_or_default();
            let n = rest.len().min(out.len());
            out[..n].copy_from_slice(&rest[..n]);
            n
        };
        // Part of a message that the application has nothing of is dropped.
        let release = state
            .observer
            .release(unread.len(), unread.len(), large, all);
        unread.truncate(release.bytes);
        state.observer.released(&unread, &release);
        let standing = state.observer.standing();
        let lost = Lost {
            name: &self.name.to_string(),
            node: &node,
        };
        let tell = self.on_unknown() == OnUnknown::Error;
        let error = match state.observer.end(lost, tell) {
            End::Reset => Some(error),
            End::Words(words) => {
                unread.extend_from_slice(&words);
                None
            }
        };
        drop(state);
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

    fn on_unknown(&self) -> OnUnknown {
        self.setting(|server| server.on_unknown, |cluster| cluster.on_unknown)
    }
}
