//! A session whose protocol is followed: its state is asked for while it is idle, and it is made again on another server.

use super::*;
use crate::conn::connection::Rest;
use crate::session::postgres::arrival::Arrival;
use crate::session::postgres::{Moved, Mover, Progress, Question, Reason};

/// How often it is looked whether an answer has come: shared memory tells nobody, since the application's own wake word does.
const LOOK: Duration = Duration::from_millis(1);
/// The same while a session is being made again: its application waits, and there are few questions, each for the answer before.
const MOVING_LOOK: Duration = Duration::from_micros(250);
/// The same where the server takes longer than this.
const SLOW_LOOK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(50);
/// Most bytes that are taken from a channel at once.
const PIECE: usize = 65_536;

/// What the driver does for a session.
#[derive(Default)]
pub(super) struct Session {
    /// When to look whether it is idle, and the offsets at which it was when looked at last.
    idle: Option<(Duration, Option<(u64, u64)>)>,
    /// Since when an answer is waited for.
    asking: Option<Duration>,
    /// When to look at what was asked, or is being restored.
    look: Option<Duration>,
    mover: Option<Mover>,
    /// Why the session was not moved.
    pub(super) refused: Option<Reason>,
    /// Of which server's channel, until the calls have it.
    pub(super) moved: Option<Box<Moved>>,
}

impl Driver {
    /// When [`Driver::see_to_session`] wants to be called.
    pub(super) fn session_due(&self) -> Option<Duration> {
        if self.ended {
            return None;
        }
        let session = &self.session;
        let idle = session.idle.map(|(due, _)| due);
        [idle, session.look].into_iter().flatten().min()
    }

    /// The session has come to rest, perhaps.
    pub(super) fn watch_session(&mut self, todo: &Todo<'_>) {
        if self.session.idle.is_none() && self.conn.is_watched() {
            self.session.idle = Some((todo.now + self.conn.config.snapshot_idle(), None));
        }
    }

    /// A channel was put in: what was to be asked on the one before has to be asked again.
    pub(super) fn watch_session_again(&mut self, todo: &Todo<'_>) {
        if self.conn.is_followed() {
            self.session.idle = Some((todo.now + self.conn.config.snapshot_idle(), None));
            self.session.look.get_or_insert(todo.now + LOOK);
        }
    }

    /// What is due.
    pub(super) fn see_to_session(&mut self, todo: &mut Todo<'_>) {
        if self.session.look.is_some_and(|due| due <= todo.now) {
            self.look_at_answer(todo);
        }
        let Some((_, last)) = self.session.idle.filter(|(due, _)| *due <= todo.now) else {
            return;
        };
        self.session.idle = None;
        if self.machine.state() != State::Established || self.ended || self.linger.is_some() {
            // It is looked at again with the next channel, if one comes.
            return;
        }
        let later = todo.now + self.conn.config.snapshot_idle();
        match self.conn.rest(last) {
            Rest::Off => {}
            Rest::Later(at) => self.session.idle = Some((later, Some(at))),
            Rest::Ask(question) => self.ask_session(todo, question, later),
        }
    }

    pub(super) fn ask_session(&mut self, todo: &Todo<'_>, question: Question, later: Duration) {
        // Always the same: a question closes what the one before may have left.
        if self.conn.ask(question, self.conn.id) {
            self.session.asking = Some(todo.now);
            self.session.look = Some(todo.now + LOOK);
        } else {
            self.session.idle = Some((later, None));
        }
    }

    fn look_at_answer(&mut self, todo: &mut Todo<'_>) {
        self.session.look = None;
        if self.session.mover.is_some() {
            return self.move_on(todo);
        }
        if self.machine.state() != State::Established || self.ended {
            return;
        }
        if let Some(channel) = &self.current
            && channel.drive().is_err()
        {
            return self.look(todo);
        }
        if self.conn.collect() {
            // The next question, if there is one: nothing has moved but ours.
            if self.session.asking.take().is_some() {
                let at = match self.conn.rest(None) {
                    Rest::Later(at) => Some(at),
                    _ => return,
                };
                self.session.idle = Some((todo.now, at));
            }
            return;
        }
        let since = *self.session.asking.get_or_insert(todo.now);
        let slow = todo.now.saturating_sub(since) > SLOW;
        let pause = if slow { SLOW_LOOK } else { LOOK };
        self.session.look = Some(todo.now + pause);
    }

    /// Begins to make the session again on the channel that stands.
    pub(super) fn restore_session(&mut self, todo: &mut Todo<'_>) {
        let mut plan = match self.conn.plan() {
            None => {
                self.undecided = true;
                return;
            }
            Some(Err(reason)) => return self.stay_behind(todo, reason, ""),
            Some(Ok(plan)) => plan,
        };
        if let Some(moved) = self.session.moved.take() {
            // It was restored already, on a server that was lost before the calls had it.
            plan.identity = moved.identity;
        }
        if let Some(warm) = self.warm.used.take() {
            self.clock.is_warm();
            self.session.mover = Some(Mover::again(plan, warm, self.conn.id));
            return self.move_on(todo);
        }
        let packet = &plan.record.packet;
        let redemption = (self.fresh.as_ref())
            .and_then(|fresh| self.redemption(todo.now, &fresh.accept, packet).ok());
        // Without a ticket the server is asked as any client asks, and may let the session in.
        let mut first = redemption.unwrap_or_else(|| packet.clone());
        let arrival = Arrival {
            moves: self.conn.control.failovers.load(Ordering::Acquire) as u32 + 1,
            parts: self.clock.so_far(),
            key: plan.record.key.clone(),
        };
        first.splice(..0, arrival.packet());
        self.session.mover = Some(Mover::new(plan, first, self.conn.id));
        self.move_on(todo);
    }

    /// Carries bytes between the mover and the channel.
    fn move_on(&mut self, todo: &mut Todo<'_>) {
        if self.machine.state() != State::Restoring {
            self.session.mover = None;
            return;
        }
        let (Some(mover), Some(fresh)) = (&mut self.session.mover, &self.fresh) else {
            return;
        };
        let progress = loop {
            match carry(mover, fresh) {
                Ok((Progress::More, true)) => {}
                Ok((progress, _)) => break progress,
                Err(broken) => break Progress::Again(format!("{broken:?}")),
            }
        };
        if mover.has_logged_in() {
            self.clock.logs_in(todo.now);
        }
        match progress {
            Progress::More => self.session.look = Some(todo.now + MOVING_LOOK),
            Progress::Again(why) => {
                self.session.mover = None;
                self.why = why;
                self.event(todo, Event::ChannelBroken);
            }
            // What was made beforehand is of no use: it is made anew, or refused, as ever.
            Progress::Refused(reason, why) if self.clock.warm() => {
                self.session.mover = None;
                self.why = format!("warm: not used: {reason:?}: {why}");
                crate::log!(log::Level::Info, "conn", "{}: {}", self.conn.name, self.why);
                self.event(todo, Event::ChannelBroken);
            }
            Progress::Refused(reason, why) => {
                self.stay_behind(todo, reason, &why);
                self.act(todo);
            }
            Progress::Done(moved) => {
                self.session.mover = None;
                self.session.moved = Some(moved);
                self.restored = Some(());
                self.conn.control.failovers.fetch_add(1, Ordering::AcqRel);
                self.event(todo, Event::Restored);
            }
        }
    }

    /// The session ends with its server.
    fn stay_behind(&mut self, todo: &Todo<'_>, reason: Reason, why: &str) {
        self.session.mover = None;
        self.session.refused = Some(reason);
        self.why = reason.not_movable(why);
        let _ = self.machine.handle(todo.now, Event::NotMovable);
    }

    /// What was begun on a channel that is dropped.
    pub(super) fn drop_mover(&mut self) {
        self.session.mover = None;
    }
}

/// One step; whether anything moved.
pub(super) fn carry(mover: &mut Mover, fresh: &Channel) -> Result<(Progress, bool), Broken> {
    let out = mover.output();
    let sent = fresh.put(out)?;
    mover.sent(sent);
    if mover.only_sends() {
        let _ = fresh.drive();
        return Ok(match (mover.finish(), fresh.broken()) {
            (_, Some(broken)) => return Err(broken),
            (Some(moved), None) => (Progress::Done(moved), true),
            (None, None) => (Progress::More, sent > 0),
        });
    }
    let come = fresh.get(PIECE)?;
    match come.is_empty() {
        true => Ok((Progress::More, sent > 0)),
        false => Ok((mover.received(&come), true)),
    }
}
