//! The open stream moves to another server, or cannot; who is told.

use super::*;

impl Driver {
    /// A raw stream moves if it is quiet and may; nothing is sent again (DESIGN section 9).
    pub(super) fn restore(&mut self, todo: &mut Todo<'_>) {
        let Some(judged) = self.judge(todo) else {
            self.undecided = true;
            return;
        };
        if judged.is_ok() && self.conn.is_followed() {
            return self.restore_session(todo);
        }
        let event = match judged {
            Ok(()) => {
                self.restored = Some(());
                self.conn.control.failovers.fetch_add(1, Ordering::AcqRel);
                Event::Restored
            }
            Err(why) => {
                self.why = why;
                Event::NotMovable
            }
        };
        let _ = self.machine.handle(todo.now, event);
    }

    /// Whether the suspended stream can move to another server, or why not; `None`: a thread is stopped inside a send, and
    /// nobody knows what that has sent.
    fn judge(&self, todo: &Todo<'_>) -> Option<Result<(), String>> {
        let followed = self.conn.is_followed();
        if !followed && self.conn.raw_failover() == RawFailover::Reset {
            return Some(Err("raw_failover is \"reset\"".into()));
        }
        if let Some(old) = &self.current {
            // Acknowledgements that have arrived count.
            let _ = old.drive();
            todo.set.forget(old.wire.wait_fd());
        }
        if !self.conn.sends_are_settled() {
            return None;
        }
        if self.unused == Some(true) {
            // What the calls know of is the channel before; an answer may stand on this one in part.
            return Some(Err(
                "the open stream is not quiet: it was being carried on".into()
            ));
        }
        let half = match &self.current {
            _ if self.conn.control.write_shut.load(Ordering::Acquire) => Some("application"),
            Some(old) if old.rx.finished() => Some("server"),
            _ => None,
        };
        if let Some(who) = half {
            // Another server knows nothing of it.
            return Some(Err(format!(
                "the {who} has ended its direction of the open stream"
            )));
        }
        if followed {
            let judged = self.conn.judge_session()?;
            return Some(judged.map_err(|reason| reason.not_movable("")));
        }
        Some(match self.conn.movable() {
            Movable::Yes => Ok(()),
            why => Err(format!("the open stream is not quiet: {}", why.reason())),
        })
    }

    /// A second node was found: who moves there first is not decided here.
    pub(super) fn queue(&mut self, todo: &mut Todo<'_>) {
        self.queued = true;
        self.look_whether_wanted(todo);
        let wanted = self.is_wanted();
        let server = self.conn.name.to_string();
        todo.turnstile
            .enter(self.conn.id, &server, wanted, todo.now);
        if !wanted {
            // Whoever polls before it sends must come to send.
            self.owe_level(Level::Open);
        }
    }

    /// Whether the application waits for the failover under way, or will not come to say so.
    fn is_wanted(&self) -> bool {
        self.conn.control.wanted.load(Ordering::Acquire) || self.linger.is_some()
    }

    /// The application may have begun to wait.
    pub(super) fn look_whether_wanted(&mut self, todo: &mut Todo<'_>) {
        let moving = matches!(self.machine.state(), State::FailingOver | State::Restoring);
        if !moving {
            self.told_wanted = false;
        } else if !self.told_wanted && self.is_wanted() {
            self.told_wanted = true;
            todo.turnstile.want(self.conn.id, todo.now);
            self.owe_level(Level::Blocked);
            let _ = self.machine.handle(todo.now, Event::Wanted);
        }
    }

    /// Now it may move.
    pub fn turn(&mut self, todo: &mut Todo<'_>) {
        self.look_whether_wanted(todo);
        self.clock.has_turn(todo.now);
        self.event(todo, Event::Turn);
    }

    /// What was begun in its turn has ended, or there is nothing more to wait for.
    pub(super) fn give_turn_back(&mut self, todo: &mut Todo<'_>) {
        if !self.queued || self.machine.has_turn() {
            return;
        }
        match self.machine.state() {
            // It waits, or will again.
            State::FailingOver | State::Restoring => todo.turnstile.done(self.conn.id),
            _ => {
                self.queued = false;
                todo.turnstile.leave(self.conn.id);
            }
        }
    }

    pub(super) fn notice(&mut self, todo: &mut Todo<'_>, notice: Notice) {
        let since = self.failed_at.unwrap_or(todo.now);
        let event = events::Event {
            notice,
            fd: self.conn.number(),
            node: self.conn.slow.lock().node.clone(),
            generation: self.conn.control.generation.load(Ordering::Acquire),
            elapsed: todo.now.saturating_sub(since),
        };
        let (name, ms) = (&self.conn.name, event.elapsed.as_millis());
        crate::log!(
            log::Level::Info,
            "conn",
            "{name}: {notice:?} after {ms} ms, node {}: {}",
            event.node,
            self.why
        );
        events::tell(&event);
        match notice {
            // What cannot end well is said at once: the application will connect anew.
            Notice::FailoverBegun => {
                self.clock.begins(todo.now);
                // What becomes of the node that was left means nothing for the one that comes.
                todo.probes.remove(self.conn.id, todo.set);
                self.told_wanted = false;
                self.look_whether_wanted(todo);
                if let Some(Err(why)) = self.judge(todo) {
                    self.why = format!("{}; {why}", self.why);
                    let _ = self.machine.handle(todo.now, Event::NotMovable);
                }
            }
            Notice::FailoverEnded | Notice::Resumed => {
                let times = self.clock.end(todo.now);
                if notice == Notice::FailoverEnded {
                    crate::log!(log::Level::Info, "conn", "{name}: failover: {times}");
                    self.conn.slow.lock().last_failover = Some(times);
                }
                self.failed_at = None;
                self.why.clear();
            }
            _ => {}
        }
    }
}
