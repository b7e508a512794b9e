//! Planned switchovers in the main loop: an operator's word begins one, and what it decides is done. And the question how the
//! sessions stand, without one.

use super::Daemon;
use super::unit::Unit;
use super::work::Context;
use crate::clock;
use crate::control::Reply;
use crate::relay::Relay;
use crate::role::{Event, Now};
use crate::switchover::{Roles, SILENT, Step, Switchover, have_said, movable};
use std::time::Duration;
use tracing::{info, warn};
use vianet::via::switchover::Order;

impl Daemon {
    pub(super) fn switch_over(
        &mut self,
        now: Now,
        server: &str,
        to: &str,
        drain: Duration,
        dry_run: bool,
    ) -> Reply {
        let refuse = |text: String| Reply::Error { text };
        let (node, name) = (self.config.node.clone(), server.to_ascii_lowercase());
        let peer = self.config.peers.first().map(|p| p.node.clone());
        let Some(index) = self.units.iter().position(|u| u.served.name == name) else {
            return refuse(format!(
                "server {server:?} is not configured on node {node}"
            ));
        };
        let unit = &mut self.units[index];
        let role = unit.machine.role_name();
        if self.stopping.is_some() {
            return refuse(format!("node {node} is being stopped"));
        }
        if unit.switchover.as_ref().is_some_and(|s| !s.is_over()) {
            return refuse(format!("a switchover of {name} is under way already"));
        }
        if to == node {
            return refuse(match role {
                "active" => format!("node {node} is active for {name} already"),
                _ => format!("node {node} is {role} for {name}: ask the active node"),
            });
        }
        let Some(peer) = peer.filter(|peer| peer == to) else {
            let peers: Vec<&str> = self.config.peers.iter().map(|p| p.node.as_str()).collect();
            return refuse(format!(
                "there is no node {to:?} beside {node}: {}",
                match peers.is_empty() {
                    true => "it has no peer".into(),
                    false => peers.join(", "),
                }
            ));
        };
        if role != "active" {
            return refuse(format!(
                "node {node} is {role} for {name}: ask the active node"
            ));
        }
        let peer_role = unit.machine.peer_role().unwrap_or("unknown");
        if peer_role != "passive" {
            return refuse(format!(
                "node {to} is {peer_role} for {name}, and must be passive: start it, and wait until `vianet status` shows it so"
            ));
        }
        if !unit.machine.can_hand_over() || !unit.served.may_serve(now.at) {
            return refuse(format!(
                "node {node} has just begun to be active for {name}, or lost touch with {to}: try again"
            ));
        }
        let drain_ms = drain.as_millis() as u64;
        warn!(
            event = "switchover",
            server = name,
            to,
            drain_ms,
            dry_run,
            "begins"
        );
        let switchover = Switchover::new(now.at, &name, (&node, to), drain, dry_run);
        let status = switchover.status();
        unit.switchover = Some(switchover);
        unit.end_look(&self.relay);
        let context = Context {
            index,
            node: &node,
            peer: &peer,
            mail: self.mailbox.sender(),
        };
        let (seen, _) = unit.machine.generations();
        context.run_ready(&unit.served.config, seen, now.at);
        Reply::Switchover(status)
    }

    pub(super) fn switchover(&self, server: &str) -> Reply {
        let name = server.to_ascii_lowercase();
        let unit = self.units.iter().find(|u| u.served.name == name);
        match unit.and_then(|unit| unit.switchover.as_ref()) {
            Some(switchover) => Reply::Switchover(switchover.status()),
            None => Reply::Error {
                text: format!(
                    "there was no switchover of {server:?} on node {}",
                    self.config.node
                ),
            },
        }
    }
}

impl Daemon {
    /// Asks the sessions of `server` whether they could move.
    pub(super) fn look(&mut self, now: Now, server: &str) -> Reply {
        let name = server.to_ascii_lowercase();
        let Some(unit) = self.units.iter_mut().find(|u| u.served.name == name) else {
            let node = &self.config.node;
            return Reply::Error {
                text: format!("server {server:?} is not configured on node {node}"),
            };
        };
        unit.looking = Some(now.at + SILENT);
        if !unit.switches_over() {
            unit.order(Order::Tell, false, &self.relay);
        }
        unit.see_to_look(now, &self.relay);
        Reply::Done
    }
}

impl Unit {
    fn switches_over(&self) -> bool {
        self.switchover.as_ref().is_some_and(|it| !it.is_over())
    }

    fn order(&self, order: Order, closed: bool, relay: &Relay) {
        self.served.set_order(order, closed);
        relay.tell_order(self.index);
    }

    /// Notes what the sessions have said, once all have, or time is up.
    fn see_to_look(&mut self, now: Now, relay: &Relay) {
        let Some(until) = self.looking else { return };
        if now.at >= until || have_said(&self.served.sessions.lock()) {
            self.end_look(relay);
        }
    }

    fn end_look(&mut self, relay: &Relay) {
        if self.looking.take().is_none() {
            return;
        }
        for session in self.served.sessions.lock().values_mut() {
            let (word, text) = movable(session);
            (session.movable, session.reason) = (word.into(), text.into());
        }
        if !self.switches_over() {
            self.order(Order::None, false, relay);
        }
    }

    /// The hook has ended.
    pub(super) fn ready(
        &mut self,
        now: Now,
        asked: Duration,
        result: Result<(), String>,
        relay: &Relay,
    ) {
        if let Some(switchover) = &mut self.switchover {
            let step = switchover.ready(now.at, asked, result);
            self.take_step(step, now, relay);
        }
    }

    /// What is due in a switchover that is under way.
    pub(super) fn see_to_switchover(&mut self, now: Now, relay: &Relay) {
        self.see_to_look(now, relay);
        let Some(switchover) = self.switchover.as_mut().filter(|s| !s.is_over()) else {
            return;
        };
        let roles = Roles {
            own: self.machine.role_name(),
            peer: self.machine.peer_role().unwrap_or("unknown"),
            can_hand_over: self.machine.can_hand_over(),
        };
        let step = switchover.step(now.at, roles, &self.served.sessions.lock());
        self.take_step(step, now, relay);
    }

    fn take_step(&mut self, step: Step, now: Now, relay: &Relay) {
        let order = match step {
            Step::Wait => return,
            Step::Order(order) => order,
            Step::HandOver => {
                self.machine.handle(now, Event::HandOver);
                return;
            }
            Step::Over => Order::None,
        };
        let Some(switchover) = &self.switchover else {
            return;
        };
        self.order(order, switchover.closes(), relay);
        let status = switchover.status();
        let (server, phase) = (&status.server, &status.phase);
        match &status.error {
            Some(why) => warn!(event = "switchover", server, %why, "came to nothing"),
            None => info!(
                event = "switchover",
                server,
                phase,
                sessions = status.sessions.len(),
                stall_ms = status.stall_ms,
                at = clock::wall_ms(),
                "goes on"
            ),
        }
    }
}
