//! One server name in the main loop: its role machine and what carries out the machine's actions.

use super::work::{Context, Writer};
use crate::authority::Told;
use crate::clock;
use crate::control::{RoleChange, ServerStatus};
use crate::hooks::Permit;
use crate::relay::Relay;
use crate::responder::Standing;
use crate::role::{Action, Event, Hook, Machine, Now, PeerRole};
use crate::served::Served;
use crate::state::Saved;
use crate::switchover::Switchover;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{info, warn};
use vianet::via::EndReason;

/// Changes of role that the status shows.
const MAX_CHANGES: usize = 16;

pub(super) struct Unit {
    /// In the configuration.
    pub(super) index: usize,
    pub(super) served: Arc<Served>,
    pub(super) machine: Machine,
    /// What is on disk, or on its way there.
    pub(super) saved: Saved,
    writer: Writer,
    changes: VecDeque<RoleChange>,
    since_ms: u64,
    takeovers: u64,
    takeover_began: Option<Duration>,
    /// For the hooks of the present takeover.
    permit: Permit,
    /// The check that runs, by the time it began.
    checking: Option<Duration>,
    next_check: Duration,
    healthy: Option<bool>,
    /// The last one, or the one under way.
    pub(super) switchover: Option<Switchover>,
    /// Until when sessions are waited for that are being asked whether they can move.
    pub(super) looking: Option<Duration>,
}

impl Unit {
    pub(super) fn new(
        index: usize,
        served: Arc<Served>,
        machine: Machine,
        saved: Saved,
        writer: Writer,
    ) -> Self {
        Self {
            index,
            served,
            machine,
            saved,
            writer,
            changes: VecDeque::new(),
            since_ms: clock::wall_ms(),
            takeovers: 0,
            takeover_began: None,
            permit: Permit::default(),
            checking: None,
            next_check: Duration::ZERO,
            healthy: None,
            switchover: None,
            looking: None,
        }
    }

    pub(super) fn told(&self) -> Told {
        let (role, generation) = self.machine.told();
        Told {
            name: self.served.name.clone(),
            role,
            generation,
        }
    }

    pub(super) fn standing(&self, now: Now) -> Standing {
        let (mut role, generation) = self.machine.told();
        let hands_over = role == PeerRole::Active && self.machine.active().is_none();
        if hands_over {
            // The peer is to wait; clients are to ask on.
            role = PeerRole::TakingOver;
        }
        Standing {
            name: self.served.name.clone(),
            role,
            generation,
            serving: role == PeerRole::Active && now.at < self.machine.serve_until(),
        }
    }

    pub(super) fn publish(&self) {
        let passive = self.machine.role_name() == "passive";
        let seen = passive.then(|| self.machine.generations().0);
        if seen.is_none() {
            self.served.publish_standby(None);
        }
        self.served
            .publish(self.machine.active(), self.machine.serve_until());
        if seen.is_some() {
            self.served.publish_standby(seen);
        }
    }

    /// True if the role changed.
    pub(super) fn carry_out(
        &mut self,
        now: Now,
        action: Action,
        context: &Context<'_>,
        relay: &Relay,
    ) -> bool {
        let server = &self.served.name;
        match action {
            Action::Run { hook, cause } => {
                let (seen, _) = self.machine.generations();
                let permit = match hook {
                    Hook::Fence | Hook::Promote => self.permit.clone(),
                    Hook::Demote => Permit::default(),
                };
                context.run_hook(&self.served.config, hook, seen, cause, permit);
            }
            Action::Persist(generation) => {
                self.saved.seen = generation;
                self.saved.own = generation;
                self.writer
                    .save(server, context.index, generation, generation, true);
            }
            Action::CheckHealth => self.want_check(),
            Action::EndChannels(reason) => relay.end_channels(context.index, reason),
            Action::Changed {
                from,
                to,
                generation,
                why,
            } => {
                self.takeovers += u64::from(to == "active");
                if to == "taking-over" {
                    self.takeover_began = Some(now.at);
                    self.permit = Permit::default();
                }
                if from == "taking-over" && to != "active" {
                    // Before the peer learns that it may take over.
                    self.permit.revoke();
                }
                let took = match to {
                    "active" => self
                        .takeover_began
                        .take()
                        .map(|at| now.at.saturating_sub(at)),
                    _ => None,
                };
                let took_ms = took.map(|d| d.as_millis() as u64);
                info!(
                    event = "role",
                    server,
                    from,
                    to,
                    generation,
                    reason = why,
                    took_ms,
                    "changed"
                );
                match to {
                    "stopping" => relay.end_channels(context.index, EndReason::Stopping),
                    _ => relay.tell_role(context.index),
                }
                self.since_ms = now.wall_ms;
                self.changes.push_front(RoleChange {
                    at_ms: now.wall_ms,
                    from: from.into(),
                    to: to.into(),
                    generation,
                    reason: why.into(),
                    took_ms,
                });
                self.changes.truncate(MAX_CHANGES);
                return true;
            }
        }
        false
    }

    /// The next check begins as soon as none is running.
    pub(super) fn want_check(&mut self) {
        self.next_check = Duration::ZERO;
    }

    pub(super) fn check_health(&mut self, now: Now, context: &Context<'_>) {
        let limit = Duration::from_millis(self.served.config.hooks.health_timeout_ms);
        if let Some(begun) = self.checking {
            // Its own limit did not end it: it hangs in the kernel. That is a failure too.
            if now.at > begun + limit + Duration::from_secs(1) {
                self.checked(now, begun, Err("the check itself hangs".into()));
            }
            return;
        }
        if !self.machine.wants_health() {
            self.healthy = None;
            return;
        }
        if now.at >= self.next_check {
            let interval = Duration::from_millis(self.served.config.health_interval_ms);
            self.next_check = now.at + interval;
            self.checking = Some(now.at);
            let (seen, _) = self.machine.generations();
            context.run_check(&self.served.config, seen, now.at);
        }
    }

    pub(super) fn checked(&mut self, now: Now, check: Duration, result: Result<(), String>) {
        if self.checking != Some(check) {
            return;
        }
        self.checking = None;
        let ok = result.is_ok();
        let server = &self.served.name;
        match (&result, self.healthy) {
            (Ok(()), Some(true)) | (Err(_), Some(false)) => {}
            (Ok(()), _) => info!(event = "healthy", server, "the SQL server passes its check"),
            (Err(why), _) => {
                warn!(event = "unhealthy", server, %why, "the SQL server fails its check")
            }
        }
        self.healthy = Some(ok);
        self.served.set_health(ok, check);
        self.machine.handle(now, Event::Health(ok));
    }

    /// Generations learned from the peer go to disk too, so that a restart does not forget them.
    pub(super) fn save_learned(&mut self) {
        let (seen, own) = self.machine.generations();
        if seen > self.saved.seen {
            self.saved.seen = seen;
            self.writer
                .save(&self.served.name, usize::MAX, seen, own, false);
        }
    }

    /// Whether an operator's command makes sense now.
    pub(super) fn accepts(&self, event: &Event) -> Result<(), String> {
        let role = self.machine.role_name();
        let fits = match event {
            Event::Force => matches!(role, "passive" | "starting"),
            Event::Resign => matches!(role, "active" | "taking-over"),
            Event::HandOver => role == "active",
            _ => true,
        };
        if fits {
            Ok(())
        } else {
            Err(format!("this node is {role} for {}", self.served.name))
        }
    }

    pub(super) fn status(&self) -> ServerStatus {
        let served = &self.served;
        let (seen, _) = self.machine.generations();
        ServerStatus {
            name: served.config.name.clone(),
            role: self.machine.role_name().into(),
            peer_role: self.machine.peer_role().map(Into::into),
            generation: seen,
            since_ms: self.since_ms,
            health: match self.healthy {
                Some(true) => "healthy",
                Some(false) => "failing",
                None => "unknown",
            }
            .into(),
            upstream: served.config.upstream.to_string(),
            looking: self.looking.is_some(),
            sessions: served.sessions.lock().values().cloned().collect(),
            accepted: served.accepted.load(Ordering::Relaxed),
            bytes_in: served.bytes_in.load(Ordering::Relaxed),
            bytes_out: served.bytes_out.load(Ordering::Relaxed),
            takeovers: self.takeovers,
            changes: self.changes.iter().cloned().collect(),
        }
    }
}
