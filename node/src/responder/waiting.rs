//! Clients that asked for a name before this node served it: they are told as soon as it does, and need not ask again first.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use vianet::resolve::query::{Query, REQUEST_BYTES};

/// A client's query ends after so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many are remembered, the newest; all others ask again by themselves.
const MOST: usize = 256;

/// A question that was answered "not yet".
#[derive(Clone, Debug)]
pub struct Question {
    /// What was asked.
    pub query: Query,
    /// Which address of ours was asked.
    pub local: SocketAddr,
    /// Who asked.
    pub from: SocketAddr,
    /// Bytes that a second answer may have, so that both are no longer than the request.
    pub room: usize,
    asked: Duration,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Waiting(VecDeque<Question>);

impl Waiting {
    /// Remembers a question whose answer had so many bytes; an earlier one of the same client is forgotten.
    pub fn add(
        &mut self,
        now: Duration,
        query: Query,
        local: SocketAddr,
        from: SocketAddr,
        answer: usize,
    ) {
        self.0
            .retain(|it| it.from != from && now < it.asked + PATIENCE);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(Question {
            query,
            local,
            from,
            room: REQUEST_BYTES.saturating_sub(answer),
            asked: now,
        });
    }

    /// Takes out what is asked for a name that `is_served`, while its clients still wait.
    pub fn take(&mut self, now: Duration, is_served: impl Fn(&str) -> bool) -> Vec<Question> {
        self.0.retain(|it| now < it.asked + PATIENCE);
        let (taken, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition::<VecDeque<_>, _>(|it| is_served(&it.query.server));
        self.0 = rest;
        taken.into()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
