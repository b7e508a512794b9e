//! How long the parts of a failover take.

use std::time::Duration;

/// The parts of a connection's failover, one after the other. What was tried in vain on the way counts to the part before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From the node's last sign of life (the break itself, where the channel broke) to the decision that it is lost.
    pub detection: Duration,
    /// Until a node said that it serves the name.
    pub takeover: Duration,
    /// Until that answer was settled, and in the cache.
    pub resolution: Duration,
    /// Until it was its turn: many may have lost the same node, and those move first whose application waits.
    pub turn: Duration,
    /// Until a channel to that node stood.
    pub connect: Duration,
    /// Until the session was logged in there; zero for a stream of bytes.
    pub login: Duration,
    /// Until it was the same session, and the calls went on.
    pub restore: Duration,
    /// The session waited there: there was no login, and the connect was one to hear that it may go on.
    pub warm: bool,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("detection", self.detection),
            ("takeover", self.takeover),
            ("resolution", self.resolution),
            ("turn", self.turn),
            ("connect", self.connect),
            ("login", self.login),
            ("restore", self.restore),
        ];
        for (i, (name, time)) in parts.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {:.2} ms", time.as_secs_f64() * 1000.0)?;
        }
        if self.warm {
            f.write_str(", warm")?;
        }
        Ok(())
    }
}

/// When the parts of the failover under way ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    sign: Option<Duration>,
    begun: Duration,
    found: Duration,
    resolved: Duration,
    /// `None`: it had not to wait.
    turn: Option<Duration>,
    connected: Duration,
    logged_in: Option<Duration>,
    warm: bool,
}

impl Clock {
    /// The node gave its last sign of life then; what is said first counts.
    pub(super) fn last_sign(&mut self, at: Duration) {
        self.sign.get_or_insert(at);
    }

    pub(super) fn begins(&mut self, now: Duration) {
        self.begun = now;
    }

    /// An answer that was heard at `found`.
    pub(super) fn resolves(&mut self, found: Option<Duration>, now: Duration) {
        (self.found, self.resolved, self.turn) = (found.unwrap_or(now), now, None);
    }

    pub(super) fn has_turn(&mut self, now: Duration) {
        self.turn = Some(now);
    }

    pub(super) fn connects(&mut self, now: Duration) {
        (self.connected, self.logged_in, self.warm) = (now, None, false);
    }

    /// On that channel the session has waited.
    pub(super) fn is_warm(&mut self) {
        self.warm = true;
    }

    pub(super) fn warm(&self) -> bool {
        self.warm
    }

    pub(super) fn logs_in(&mut self, now: Duration) {
        self.logged_in.get_or_insert(now);
    }

    /// Detection, takeover, resolution, turn and connect.
    pub(super) fn so_far(&self) -> [Duration; 5] {
        let mut all = *self;
        let times = all.end(self.connected);
        [
            times.detection,
            times.takeover,
            times.resolution,
            times.turn,
            times.connect,
        ]
    }

    /// The failover has ended; the next one begins anew.
    pub(super) fn end(&mut self, now: Duration) -> Times {
        let Self {
            sign,
            begun,
            found,
            resolved,
            turn,
            connected,
            logged_in,
            warm,
        } = std::mem::take(self);
        let logged_in = logged_in.unwrap_or(connected);
        let turn = turn.unwrap_or(resolved);
        Times {
            detection: begun.saturating_sub(sign.unwrap_or(begun)),
            takeover: found.saturating_sub(begun),
            resolution: resolved.saturating_sub(found),
            turn: turn.saturating_sub(resolved),
            connect: connected.saturating_sub(turn),
            login: logged_in.saturating_sub(connected),
            restore: now.saturating_sub(logged_in),
            warm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn parts_follow_each_other() {
        let mut clock = Clock::default();
        clock.last_sign(ms(100));
        clock.last_sign(ms(700));
        clock.begins(ms(850));
        clock.resolves(Some(ms(1000)), ms(1010));
        clock.has_turn(ms(1100));
        clock.connects(ms(1101));
        assert_eq!(clock.so_far(), [ms(750), ms(150), ms(10), ms(90), ms(1)]);
        clock.logs_in(ms(1104));
        clock.logs_in(ms(1105));
        let times = Times {
            detection: ms(750),
            takeover: ms(150),
            resolution: ms(10),
            turn: ms(90),
            connect: ms(1),
            login: ms(3),
            restore: ms(2),
            warm: false,
        };
        assert_eq!(clock.end(ms(1106)), times);
        let text = "detection 750.00 ms, takeover 150.00 ms, resolution 10.00 ms, turn 90.00 ms, connect 1.00 ms, login 3.00 ms, restore 2.00 ms";
        assert_eq!(times.to_string(), text);
    }

    #[test]
    fn an_attempt_in_vain_counts_to_the_part_before() {
        let mut clock = Clock::default();
        clock.begins(ms(10));
        clock.resolves(None, ms(20));
        clock.connects(ms(21));
        clock.logs_in(ms(22));
        clock.resolves(Some(ms(90)), ms(90));
        clock.connects(ms(95));
        let times = clock.end(ms(95));
        assert_eq!((times.detection, times.takeover), (ms(0), ms(80)));
        assert_eq!(
            (times.connect, times.login, times.restore),
            (ms(5), ms(0), ms(0))
        );
    }
}
