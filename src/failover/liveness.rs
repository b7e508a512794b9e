//! Whether a node lives, as a pure function of probes, answers and of our own running (DESIGN section 6, "Liveness").
//!
//! A probe counts as unanswered only if this process ran without gap through the probe's whole window and had drained
//! its socket at the window's end: a process that was stopped (Ctrl-Z, a paused virtual machine) must not conclude that
//! others are dead. While a probe is unanswered the caller's loop therefore runs at every [`Liveness::poll_timeout`],
//! four times a window, and a longer time between two runs spoils all probes under way.
//!
//! Contract: on every turn of the loop first [`Liveness::ran`]; then read the sockets until they are empty and say
//! [`Liveness::heard`] for anything that came from the node; then [`Liveness::drained`]; then send a probe if
//! [`Liveness::due`] and say [`Liveness::sent`].

use std::collections::VecDeque;
use std::time::Duration;

/// Watches one node.
#[derive(Clone, Debug)]
pub struct Liveness {
    /// Time between probes, and each probe's window.
    interval: Duration,
    /// So many unanswered probes in a row are a lost node.
    lost_after: u32,
    /// When each unanswered probe's window ends, oldest first. A spoiled probe is not in here any more.
    windows: VecDeque<Duration>,
    unanswered: u32,
    last_ran: Duration,
    next_probe: Duration,
    /// In a hurry: time to the next of the extra probes, which do not count.
    hurry: Option<Duration>,
}

/// First pause between the extra probes of [`Liveness::hurry`]; doubles.
const HURRY: Duration = Duration::from_millis(3);

impl Liveness {
    /// A node that was heard of just now: the first probe is due one `interval` later. A `lost_after` of 0 counts as 1, an
    /// `interval` below 4 ms as 4 ms.
    pub fn new(interval: Duration, lost_after: u32, now: Duration) -> Self {
        let interval = interval.max(Duration::from_millis(4));
        Self {
            interval,
            lost_after: lost_after.max(1),
            windows: VecDeque::new(),
            unanswered: 0,
            last_ran: now,
            next_probe: now + interval,
            hurry: None,
        }
    }

    /// The caller's loop is running: the first call of every turn.
    pub fn ran(&mut self, now: Duration) {
        // Twice the promised tick: a busy machine may be late by as much without having stopped.
        if now.saturating_sub(self.last_ran) > self.interval / 2 {
            self.windows.clear();
        }
        self.last_ran = now;
    }

    /// An answer came from the node just now.
    pub fn heard(&mut self, now: Duration) {
        self.windows.clear();
        self.unanswered = 0;
        self.hurry = None;
        self.next_probe = now + self.interval;
    }

    /// Bytes came from the node at some time since the last turn. Nobody is asked while bytes arrive, but a node that
    /// stopped right after them must not be noticed a whole interval later for it. A hurry goes on: they may be older than
    /// what made for it.
    pub fn heard_bytes(&mut self, now: Duration) {
        self.windows.clear();
        self.unanswered = 0;
        if self.hurry.is_none() {
            self.next_probe = now + self.interval / 2;
        }
    }

    /// The node's sockets were read until they were empty: probes whose window is over are unanswered.
    pub fn drained(&mut self, now: Duration) {
        while self.windows.front().is_some_and(|end| now >= *end) {
            self.windows.pop_front();
            self.unanswered = self.unanswered.saturating_add(1);
        }
    }

    /// A probe is to be sent now.
    pub fn due(&self, now: Duration) -> bool {
        now >= self.next_probe
    }

    /// Something makes a probe worth sending at once: the node's channel broke. It is repeated at growing pauses, because
    /// a process that is just being killed may still own the socket in which the first one ends.
    pub fn hurry(&mut self, now: Duration) {
        self.next_probe = now;
        self.hurry = Some(HURRY);
    }

    /// A probe was sent, or could not be (`sent` false: no buffer, no route here), and then silence proves nothing.
    pub fn sent(&mut self, now: Duration, sent: bool) {
        self.ran(now);
        // An extra probe inside the last one's interval opens no window: silence is counted in whole intervals.
        let counts = self.windows.back().is_none_or(|end| now >= *end);
        if sent && counts {
            self.windows.push_back(now + self.interval);
        }
        let pause = self.hurry.unwrap_or(self.interval).min(self.interval);
        self.hurry = self
            .hurry
            .map(|pause| pause * 2)
            .filter(|pause| *pause < self.interval);
        self.next_probe = now + pause;
    }

    /// Unanswered probes in a row.
    pub fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// The node is lost: as many probes in a row as configured are unanswered.
    pub fn is_lost(&self) -> bool {
        self.unanswered >= self.lost_after
    }

    /// When the loop must run at the latest.
    pub fn poll_timeout(&self) -> Duration {
        match self.windows.front() {
            Some(end) => {
                let tick = self.last_ran + self.interval / 4;
                tick.min(*end).min(self.next_probe)
            }
            None => self.next_probe,
        }
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
