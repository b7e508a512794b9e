//! A connection that stands already, taken over after a fork: the machine is led to where it is.

use super::*;
use crate::resolve::ticket::Why;

impl Driver {
    /// Takes over a connection that stands: the machine is led to where it is.
    pub fn adopt(&mut self, todo: &mut Todo<'_>) {
        let (answer, used, channel) = {
            let slow = self.conn.slow.lock();
            (
                slow.answer.clone(),
                slow.endpoint,
                slow.channel.as_ref().map(|(_, c)| Arc::clone(c)),
            )
        };
        let (Some(answer), Some(used), Some(channel)) = (answer, used, channel) else {
            self.over = true;
            return;
        };
        // The key to its ticket stays with the process that made the channel.
        self.conn.set_login(Some(Why::NotOwner));
        let (node, generation) = (channel.accept.node.clone(), channel.accept.generation);
        let mut story = vec![
            Event::Start,
            Event::Resolved {
                answer,
                cached: true,
            },
        ];
        loop {
            for event in story.drain(..) {
                let _ = self.machine.handle(todo.now, event);
            }
            // The endpoints before the one that was taken failed.
            let mut wanted = None;
            while let Some(action) = self.machine.poll_action() {
                if let Action::Connect { endpoint, .. } = action {
                    wanted = Some(endpoint);
                }
            }
            match wanted {
                Some(endpoint) if endpoint == used => story.push(Event::ChannelUp {
                    node: node.clone(),
                    generation,
                }),
                Some(_) => story.push(Event::ConnectFailed { refused: false }),
                None => break,
            }
        }
        if self.machine.state() != State::Established {
            crate::log!(
                log::Level::Error,
                "conn",
                "{}: cannot be taken over",
                self.conn.name
            );
            self.over = true;
            return;
        }
        self.watch_far(todo);
        self.watch_wire(todo, &channel);
        todo.probes.add(
            self.conn.id,
            &self.conn,
            self.machine.answer(),
            todo.now,
            todo.set,
        );
        self.current = Some(channel);
        self.watch_session_again(todo);
        // What happened while nobody watched.
        self.wire_ready(todo);
    }
}
