//! Stopping in good order: channels are told, the peer is told and takes over at once, hooks end; all within a limit.

use super::Daemon;
use crate::role::{Event, Now};
use std::time::Duration;
use tracing::{info, warn};

/// After so long the daemon ends whatever is still open.
const LIMIT: Duration = Duration::from_secs(5);
/// So long the peer can still ask us, and learn that we resigned, when it has not confirmed that it takes over.
const LINGER: Duration = Duration::from_millis(500);
/// So long at least: whoever asked on the control socket gets the answer.
const SHORTEST: Duration = Duration::from_millis(100);

pub(super) struct Stopping {
    since: Duration,
    was_active: bool,
}

impl Daemon {
    pub(super) fn terminate(&mut self, now: Now, by: &str) {
        if self.stopping.is_some() {
            return;
        }
        let was_active = self.units.iter().any(|u| u.machine.active().is_some());
        info!(
            event = "stopping",
            by, was_active, "resigning and ending channels"
        );
        self.stopping = Some(Stopping {
            since: now.at,
            was_active,
        });
        self.each(now, &Event::Stop);
    }

    pub(super) fn is_stopped(&self, now: Now) -> bool {
        let Some(stopping) = &self.stopping else {
            return false;
        };
        let passed = now.at.saturating_sub(stopping.since);
        if passed >= LIMIT {
            warn!(
                event = "stop-limit",
                "hooks or channels did not end in time"
            );
            return true;
        }
        let quiet = self.relay.is_idle() && self.units.iter().all(|u| !u.machine.hook_runs());
        let peer_knows = self.config.peers.is_empty()
            || !stopping.was_active
            || self.units.iter().all(|u| u.machine.peer_took_over())
            || passed >= LINGER;
        quiet && peer_knows && passed >= SHORTEST
    }
}
