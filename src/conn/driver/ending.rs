//! Ends: the application has closed and its last bytes are delivered, the connection is lost, a defect of ours.

use super::*;

/// Longest time for which bytes that the application sent before it closed are still delivered.
pub(super) const LINGER: Duration = Duration::from_secs(10);

impl Driver {
    /// The application closed its last copy of the descriptor (or shut both directions of it).
    pub fn hung_up(&mut self, todo: &mut Todo<'_>) {
        self.unwatch_far(todo);
        self.conn.forget_numbers();
        if self.ended || self.linger.is_some() {
            return;
        }
        self.linger = Some(todo.now + LINGER);
        self.event(todo, Event::Leaving);
        self.say_goodbye(todo);
    }

    /// The application has closed: its last bytes, and the end behind them, go into the channel, once it stands.
    pub(super) fn say_goodbye(&mut self, todo: &mut Todo<'_>) {
        if self.ended || self.unused.is_some() || self.machine.state() != State::Established {
            return;
        }
        if let Some(channel) = &self.current {
            self.conn.absorb();
            let _ = channel.shutdown_write();
        }
        self.linger_on(todo);
    }

    pub(super) fn linger_on(&mut self, todo: &mut Todo<'_>) {
        let Some(channel) = &self.current else {
            return self.lose(todo, None);
        };
        if self.all_delivered() || self.linger.is_some_and(|end| todo.now >= end) {
            self.lose(todo, None);
        } else if let Err(broken) = channel.drive() {
            self.broke(todo, &broken);
        }
    }

    /// Everything that the application sent was written to the SQL server.
    pub(super) fn all_delivered(&self) -> bool {
        let all = |channel: &Arc<Channel>| channel.acked() == channel.accepted();
        self.current.as_ref().is_none_or(all)
    }

    /// The application ended its direction: when the peer has ended its own as well, it is over.
    pub(super) fn may_end(&self) -> bool {
        self.machine.state() == State::Established
            && self.unused.is_none()
            && self.conn.control.write_shut.load(Ordering::Acquire)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|channel| channel.rx.finished() && channel.acked() == channel.accepted())
    }

    /// The server of a connection that stood is lost. Where its protocol is followed, that has the last word.
    pub(super) fn lose_session(&mut self, todo: &mut Todo<'_>, error: Error) {
        // A server that had ended its direction has said its own; nobody hears what follows a close.
        let ends = |channel: &Arc<Channel>| channel.rx.finished();
        let silent = self.ended || self.linger.is_some() || self.current.as_ref().is_some_and(ends);
        if silent || !self.conn.is_followed() {
            return self.lose(todo, Some(error));
        }
        if let Some(channel) = &self.current {
            // What arrived counts.
            let _ = channel.drive();
            todo.set.forget(channel.wire.wait_fd());
        }
        self.conn.suspend();
        self.last_words = Some(error);
        self.speak(todo);
    }

    fn speak(&mut self, todo: &mut Todo<'_>) {
        let Some(error) = self.last_words.take() else {
            return;
        };
        match self.conn.last_words(error, self.session.refused) {
            Ok((error, standing)) => {
                crate::log!(
                    log::Level::Info,
                    "conn",
                    "{}: the session ends, lost while {standing:?}: {}",
                    self.conn.name,
                    match &error {
                        Some(_) => "it is reset",
                        None => "its protocol says so",
                    }
                );
                self.lose(todo, error);
            }
            Err(error) => self.last_words = Some(error),
        }
    }

    /// Ends the application's side. Bytes that arrived can still be read; [`Driver::settle`] does the rest.
    pub(super) fn lose(&mut self, todo: &mut Todo<'_>, error: Option<Error>) {
        if self.conn.control.phase() == Phase::Connecting {
            // The far end is about to be closed.
            self.abandon(todo);
            self.unwatch_far(todo);
        }
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let unread = self.unused.take().is_some() && self.linger.is_none();
        let error = error.or_else(|| {
            // The last bytes came on a channel that nobody could read: that is no end in good order.
            let text = format!("{}: the connection was lost", self.conn.name);
            unread.then(|| Error::new(Kind::ConnectionLost, text))
        });
        self.conn.lose(error);
        self.owe_level(Level::Open);
    }

    /// The descriptor becomes so, now or when it can.
    pub(super) fn owe_level(&mut self, level: Level) {
        self.level_owed = Some(level);
        self.pay_level();
    }

    fn pay_level(&mut self) {
        let paid = match self.level_owed {
            None => return,
            Some(Level::Blocked) => self.conn.block_writes(),
            Some(Level::Open) => self.conn.clear_writes(),
        };
        if paid {
            self.level_owed = None;
        }
    }

    /// What the connection's calls were in the way of.
    pub(super) fn catch_up(&mut self, todo: &mut Todo<'_>) {
        self.pay_level();
        self.conn.hand_over_answers();
        if std::mem::take(&mut self.reads_owed) {
            self.release_reads();
        }
        if self.ended {
            return;
        }
        self.speak(todo);
        let open = |channel: &Arc<Channel>| !channel.tx.finished();
        if self.may_end() && self.current.as_ref().is_some_and(open) {
            self.conn.finish_writes();
        }
        if std::mem::take(&mut self.undecided) && self.machine.state() == State::Restoring {
            self.restore(todo);
            self.act(todo);
        }
        if let Some(endpoint) = self.resume_owed.take()
            && self.machine.state() == State::Resuming
        {
            self.resume(todo, endpoint);
        }
        self.come_back(todo);
        self.put_to_use(todo);
    }

    /// After every step: ends the channel of a connection that is over, and hangs the descriptor up once nobody can read
    /// anything more from it.
    pub fn settle(&mut self, todo: &mut Todo<'_>) {
        if !self.owned() {
            // Another process goes on with it.
            self.over = true;
        }
        if self.over || !self.ended {
            return self.forget(todo);
        }
        self.abandon(todo);
        self.drop_warm(todo.set);
        todo.probes.remove(self.conn.id, todo.set);
        if let Some(channel) = self.current.take() {
            todo.set.forget(channel.wire.wait_fd());
            let left = channel.accepted().wrapping_sub(channel.acked());
            if left > 0 && self.linger.is_some() {
                crate::log!(
                    log::Level::Warn,
                    "conn",
                    "{}: closed, and {left} bytes that were sent before did not reach the server; node {}: {}",
                    self.conn.name,
                    channel.accept.node,
                    match self.why.as_str() {
                        "" => "it did not take them in time",
                        why => why,
                    }
                );
            }
            channel.end(match left {
                0 => EndReason::Closed,
                _ => EndReason::Reset,
            });
        }
        // Nobody reads what the application has closed.
        if self.far_watched {
            self.conn.pump();
        }
        if !self.far_watched || self.conn.is_drained() {
            self.unwatch_far(todo);
            self.conn.hang_up();
            self.over = true;
        }
    }

    /// Watches nothing any more, once it is over.
    pub(super) fn forget(&mut self, todo: &mut Todo<'_>) {
        if self.over {
            self.drop_warm(todo.set);
            todo.standbys.leave(self.conn.id);
            todo.turnstile.leave(self.conn.id);
            todo.probes.remove(self.conn.id, todo.set);
            self.unwatch_far(todo);
            todo.queries.leave(self.conn.id);
            if let Some(attempt) = self.attempt.take() {
                todo.set.forget(attempt.wait_fd());
            }
            if let Some(channel) = self.current.take() {
                todo.set.forget(channel.wire.wait_fd());
            }
        }
    }

    /// The I/O thread ran into a defect of its own and starts afresh: the connection is over, nobody waits for it.
    pub fn give_up(&mut self, set: Set<'_>) {
        if let Some(bell) = &*self.conn.bell.lock() {
            set.forget(rustix::fd::AsFd::as_fd(&bell.far));
        }
        if let Some(attempt) = self.attempt.take() {
            set.forget(attempt.wait_fd());
        }
        self.drop_warm(set);
        let current = self.current.take();
        if let Some(channel) = &current {
            set.forget(channel.wire.wait_fd());
        }
        if !self.owned() {
            return;
        }
        give_up(&self.conn);
        // Nobody is left to do it once everything was read.
        self.conn.hang_up();
        for channel in self.fresh.take().into_iter().chain(current) {
            channel.end(EndReason::Reset);
        }
    }
}

/// Ends the application's side of a connection because of a defect of ours.
pub fn give_up(conn: &Conn) {
    conn.release_reads();
    if conn.control.phase() != Phase::Lost {
        let text = "a defect inside vianet ended this connection; please report it";
        let text = format!("{}: {text}", conn.name);
        conn.lose(Some(Error::new(Kind::System(libc::EIO), text)));
        conn.clear_writes();
    }
}
