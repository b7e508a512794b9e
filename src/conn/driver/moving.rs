//! The open stream moves to another server, or cannot; who is told.

use super::session_move::not_movable;
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
            let plan = self.conn.plan()?;
            return Some(plan.map(drop).map_err(|reason| not_movable(reason, "")));
        }
        Some(match self.conn.movable() {
            Movable::Yes => Ok(()),
            why => Err(format!("the open stream is not quiet: {}", why.reason())),
        })
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
