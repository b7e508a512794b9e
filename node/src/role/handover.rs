//! A planned switchover: the SQL server is demoted in good order before the peer may begin.
//!
//! Until the demote hook has ended the peer is told that this node is active, though it serves nobody: it takes over only if
//! this daemon is lost, and fences then as ever. If the hook fails, or there is no peer to begin, this node takes its role
//! back as it takes over any: by its hooks, and at a new generation. Not from a peer that may have begun meanwhile.

use super::*;

/// Why the role ended, for the hook, the log and the status.
const WHY: &str = "switchover";

impl Machine {
    /// Whether the role can be handed to the peer now.
    pub fn can_hand_over(&self) -> bool {
        self.active().is_some()
            && self.peer == Peer::Up(PeerRole::Passive)
            && self.hook_running.is_none()
    }

    pub(super) fn hand_over(&mut self) {
        let State::Active { generation } = self.state else {
            return;
        };
        if !self.can_hand_over() {
            return;
        }
        self.serve_until = Duration::ZERO;
        self.nobody_since = None;
        self.actions
            .push_back(Action::EndChannels(EndReason::NotActive));
        self.enter(State::HandingOver { generation }, WHY);
        self.run(Hook::Demote, WHY);
    }

    /// The demote hook of a switchover has ended.
    pub(super) fn demoted(&mut self, now: Now, ok: bool) {
        // After a gap nobody knows; a peer that has lost us may be at it. Its next word decides, or its silence.
        let may_serve = matches!(
            self.peer,
            Peer::Unknown | Peer::Up(PeerRole::Active | PeerRole::TakingOver)
        );
        if !may_serve && (!ok || self.peer != Peer::Up(PeerRole::Passive)) {
            // As at a start: a peer that says that it is passive needs no fence.
            let fence = self.peer != Peer::Up(PeerRole::Passive);
            return self.take_over(now, Cause::HandoverFailed, fence);
        }
        self.not_before = now.at + self.rules.retry;
        self.nobody_since = None;
        self.handed_over = true;
        self.enter(State::Passive, WHY);
    }
}
