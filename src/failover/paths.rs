//! The paths of one connection to its node: which one broke, which one is better than the one in use, and when a return to
//! it may be tried. A path is an endpoint of the answer.

use super::Policy;
use crate::resolve::Endpoint;
use std::time::Duration;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    /// Better than the one in use, and left because it broke.
    pub(super) left: Option<Endpoint>,
    /// Those that broke and were not used again since, in that order: tried after all others.
    broken: Vec<Endpoint>,
    /// Returns that were tried, or came to nothing.
    pub(super) tries: u32,
    /// When the path in use began to carry the channel.
    since: Duration,
}

impl Paths {
    /// `endpoint` carries the channel now; `order` has all, best first.
    pub(super) fn stands(&mut self, now: Duration, endpoint: Option<Endpoint>, order: &[Endpoint]) {
        let rank = |path: Option<Endpoint>| order.iter().position(|e| Some(*e) == path);
        if rank(endpoint) <= rank(self.left) {
            self.left = None;
        }
        self.broken.retain(|broken| Some(*broken) != endpoint);
        self.since = now;
    }

    /// The channel over `endpoint` broke.
    pub(super) fn broke(&mut self, now: Duration, endpoint: Option<Endpoint>, policy: &Policy) {
        if now.saturating_sub(self.since) >= policy.return_max {
            self.tries = 0;
        }
        self.broken.extend(endpoint);
        // One that was left before is better still.
        self.left = self.left.or(endpoint);
    }

    /// Puts the endpoints, which are in the order of preference, in that in which the channel is carried on: what broke would
    /// most probably take its time again, so it comes last.
    pub(super) fn sort(&self, endpoints: &mut [Endpoint]) {
        // `None`, of what did not break, is less than any place.
        endpoints.sort_by_key(|endpoint| self.broken.iter().position(|broken| broken == endpoint));
    }

    /// How long to stay before the next return.
    pub(super) fn pause(&self, policy: &Policy) -> Duration {
        let doubled = policy.return_first.saturating_mul(1 << self.tries.min(16));
        doubled.min(policy.return_max)
    }
}
