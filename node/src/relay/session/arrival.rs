//! The part of a session in which it comes to this node and is let in by the SQL server: its key, its times, what is shown of it.

use super::super::welcome::{Found, Welcome};
use super::{Session, UpstreamEnd};
use crate::clock;
use crate::control::{FailoverTimes, SessionStatus};
use crate::pg::wire::{Startup, read_startup};
use rustix::io::Errno;
use std::time::Duration;

/// Longest name of a role or database that is shown, as PostgreSQL cuts them.
const LONGEST_NAME: usize = 63;

impl Session {
    /// The startup packet, whole in `login_in`, goes to the server: its answer is looked at.
    pub(super) fn expect_welcome(&mut self) {
        self.welcome = Some(Welcome::default());
        let (user, database) = names(&self.login_in);
        self.show(|status| (status.user, status.database) = (user, database));
    }

    /// One read of the server's bytes, into those that were not passed on yet. Whether the key is among them is known before the
    /// client has it.
    pub(super) fn read_held(&mut self, now: Duration) {
        let mut buffer = [0; 4096];
        let n = match rustix::io::read(&self.upstream, &mut buffer) {
            Ok(0) => return self.hold(now, false),
            Ok(n) => n,
            Err(Errno::AGAIN) => return self.up_in = false,
            Err(Errno::INTR) => return,
            Err(_) => return self.hold(now, true),
        };
        let mut bytes = &buffer[..n];
        self.login_held.extend_from_slice(bytes);
        while let Some(welcome) = &mut self.welcome {
            match welcome.look(&mut bytes) {
                Found::NotYet => break,
                Found::Key(key) => self.key_came(&key),
                Found::Ready => {
                    self.welcome = None;
                    self.ready = Some(clock::now());
                }
                Found::None => self.welcome = None,
            }
        }
    }

    /// What the server says between the proof and the end of its login.
    pub(super) fn move_out_until_ready(&mut self, now: Duration) -> usize {
        let mut moved = 0;
        while self.welcome.is_some()
            && self.up_in
            && self.end == UpstreamEnd::Open
            && self.login_held.is_empty()
            && self.may_serve()
        {
            self.read_held(now);
            moved += self.flush_login();
        }
        moved
    }

    /// The client says that its session is the same one here.
    pub(super) fn goes_on(&mut self) {
        let (Some(arrival), Some(ready)) = (self.arrival.take(), self.ready) else {
            return;
        };
        if self.was_warm {
            // It came here long before the loss, and knew nothing of that.
            tracing::info!(
                event = "session-moved",
                server = self.served.name,
                channel = self.channel.accept.channel_id,
                peer = self.peer,
                moves = arrival.moves,
                warm = true,
                "goes on here"
            );
            return self.show(|status| status.moves = arrival.moves);
        }
        let ms = |part: Duration| part.as_micros() as f64 / 1000.0;
        let [detection, takeover, resolution, turn, connect] = arrival.parts.map(ms);
        let times = FailoverTimes {
            detection_ms: detection,
            takeover_ms: takeover,
            resolution_ms: resolution,
            turn_ms: turn,
            connect_ms: connect,
            login_ms: ms(ready.saturating_sub(self.accepted)),
            restore_ms: ms(clock::now().saturating_sub(ready)),
        };
        tracing::info!(
            event = "session-moved",
            server = self.served.name,
            channel = self.channel.accept.channel_id,
            peer = self.peer,
            moves = arrival.moves,
            detection_ms = times.detection_ms,
            takeover_ms = times.takeover_ms,
            resolution_ms = times.resolution_ms,
            turn_ms = times.turn_ms,
            connect_ms = times.connect_ms,
            login_ms = times.login_ms,
            restore_ms = times.restore_ms,
            "goes on here"
        );
        self.show(|status| {
            status.moves = arrival.moves;
            status.last_failover = Some(times);
        });
    }

    fn show(&self, change: impl FnOnce(&mut SessionStatus)) {
        let id = self.channel.accept.channel_id;
        if let Some(status) = self.served.sessions.lock().get_mut(&id) {
            change(status);
        }
    }
}

/// Role and database that a startup packet names.
fn names(startup: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(Some(Startup::Login(pairs))) = read_startup(&mut &startup[..]) else {
        return (None, None);
    };
    let find = |name: &str| {
        let value = pairs.iter().find(|(known, _)| known == name);
        value.map(|(_, value)| value.chars().take(LONGEST_NAME).collect::<String>())
    };
    let user = find("user");
    // The server's own default.
    let database = find("database").or_else(|| user.clone());
    (user, database)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(pairs: &[u8]) -> Vec<u8> {
        let length = (pairs.len() as u32 + 9).to_be_bytes();
        [&length[..], &[0, 3, 0, 0], pairs, b"\0"].concat()
    }

    #[test]
    fn names_are_those_of_the_startup_packet() {
        let some = |text: &str| Some(text.to_owned());
        let both = startup(b"user\0app\0database\0sales\0");
        assert_eq!(names(&both), (some("app"), some("sales")));
        let default = startup(b"user\0app\0");
        assert_eq!(names(&default), (some("app"), some("app")));
        let long = startup(&[b"user\0", &[b'x'; 5000][..], b"\0"].concat());
        assert_eq!(names(&long).0, some(&"x".repeat(LONGEST_NAME)));
        for bad in [&b""[..], b"\0\0\0\x08", &startup(b"user")] {
            assert_eq!(names(bad), (None, None));
        }
    }
}
