//! The channel in use: its wire is driven, its end is told to the machine.

use super::*;

impl Driver {
    pub(super) fn watch_wire(&self, todo: &Todo<'_>, channel: &Arc<Channel>) {
        let fd = channel.wire.wait_fd();
        channel.set_watcher(Arc::new(WireWatcher::new(fd, self.conn.id)));
        // A wire that need not be driven has no use for the watcher; its hang-up is watched always. The other kind is
        // armed by the channel, one-shot.
        if channel.wire.peer_bell().is_some() {
            let interest = channel.wire.interest();
            todo.set
                .watch(fd, Token::Wire(self.conn.id), interest, false);
        }
    }

    /// The wire's descriptor is ready, or the peer is gone.
    pub fn wire_ready(&mut self, todo: &mut Todo<'_>) {
        let Some(channel) = &self.current else { return };
        if !self.owned() {
            return;
        }
        if let Err(broken) = channel.drive() {
            self.broke(todo, &broken);
        } else if self.linger.is_some() {
            self.linger_on(todo);
        } else {
            self.heed(todo);
        }
    }

    /// Something changed: the channel may be broken, the application may have shut a direction.
    pub fn look(&mut self, todo: &mut Todo<'_>) {
        self.conn.hand_over_answers();
        self.watch_session(todo);
        self.look_whether_wanted(todo);
        if let Some(broken) = self.current.as_ref().and_then(|channel| channel.broken()) {
            self.broke(todo, &broken);
        }
        self.heed(todo);
    }

    /// Ticks of a channel whose application waits inside.
    pub fn tick(&mut self, todo: &mut Todo<'_>) {
        // Nothing may move on a channel that is being left.
        let held = self.conn.control.held.load(Ordering::Acquire);
        if let Some(channel) = self.current.as_ref().filter(|_| !held) {
            channel.tick();
        }
        // A thread that spins may have found the break, and sleeps in a poll of the descriptor now.
        self.look(todo);
    }

    /// Whether it wants them.
    pub fn wants_tick(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|channel| channel.wants_tick())
    }

    pub(super) fn broke(&mut self, todo: &mut Todo<'_>, broken: &Broken) {
        if self.linger.is_some() && self.all_delivered() {
            return self.lose(todo, None);
        }
        if self.machine.state() != State::Established {
            return; // it is known, and something is being done about it
        }
        crate::log!(
            log::Level::Info,
            "conn",
            "{}: channel broke: {broken:?}",
            self.conn.name
        );
        let server_ended = (self.current.as_ref()).is_some_and(|channel| channel.rx.finished());
        let we_ended = self.conn.control.write_shut.load(Ordering::Acquire);
        match broken {
            _ if server_ended && we_ended && self.all_delivered() => {
                self.event(todo, Event::Closed)
            }
            Broken::Ended(EndReason::Closed) if server_ended => self.event(todo, Event::Closed),
            Broken::Ended(reason) if reason.moves_name() => {
                self.failed_at = Some(todo.now);
                self.why = format!("the node ends the channel: {reason:?}");
                self.event(todo, Event::NodeResigned);
            }
            Broken::Ended(reason) => {
                // The server itself reset the connection, or the node left off in the middle: that is no failover.
                self.lose(
                    todo,
                    Some(Error::new(
                        Kind::ConnectionLost,
                        format!("{}: the connection was reset ({reason:?})", self.conn.name),
                    )),
                );
                self.event(todo, Event::Closed);
            }
            Broken::Corrupt(text) => {
                self.lose(
                    todo,
                    Some(Error::new(
                        Kind::BrokenPeer,
                        format!("{}: the node broke the protocol: {text}", self.conn.name),
                    )),
                );
                self.event(todo, Event::Closed);
            }
            Broken::Transport(text) => {
                self.failed_at = Some(todo.now);
                self.why = text.clone();
                if let Some(channel) = &self.current {
                    self.tried
                        .push((channel.wire.transport(), format!("broke: {text}")));
                }
                self.event(todo, Event::ChannelBroken);
            }
        }
    }
}
