//! When a completion queue is armed: an armed queue gives one event, with the next completion that comes.
//!
//! Whoever finds the queue empty goes to sleep, and must be woken by the next completion. So an event is taken only by
//! who then arms the queue and looks at it once more: what came in between gives no event of its own.

use super::verbs::{Completion, QueuePair};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is armed.
pub trait Queue {
    /// Takes finished work; how much.
    fn poll(&self, out: &mut [Completion; 16]) -> io::Result<usize>;
    /// Takes the event. False: there is none yet.
    fn take_event(&self) -> bool;
    /// The next completion gives an event.
    fn arm(&self) -> io::Result<()>;
}

/// See the module's text. One thread at a time polls.
#[derive(Default)]
pub struct Alarm {
    /// Since the queue was armed a completion was taken, whose event is there or will be.
    fired: AtomicU32,
    /// Looks that found nothing.
    idle: AtomicU32,
}

impl Alarm {
    /// Takes finished work; with none, the descriptor tells of the next.
    pub fn poll(&self, queue: &impl Queue, out: &mut [Completion; 16]) -> io::Result<usize> {
        loop {
            let n = queue.poll(out)?;
            if n > 0 {
                self.fired.store(1, Ordering::Relaxed);
                return Ok(n);
            }
            if !self.expects_event() || !queue.take_event() {
                // An event that is not there yet will wake whoever sleeps.
                return Ok(0);
            }
            self.fired.store(0, Ordering::Relaxed);
            queue.arm()?;
        }
    }

    /// Takes finished work and leaves the alarm as it is, which saves two system calls for each message: for a thread that
    /// looks again. An event that nobody took keeps the descriptor readable, so nobody sleeps through what comes.
    pub fn look(&self, queue: &impl Queue, out: &mut [Completion; 16]) -> io::Result<usize> {
        let n = queue.poll(out)?;
        if n > 0 {
            self.fired.store(1, Ordering::Relaxed);
        }
        Ok(n)
    }

    /// To look for one costs a system call. A device may give one for nothing, so now and then it is worth it.
    fn expects_event(&self) -> bool {
        self.fired.load(Ordering::Relaxed) != 0
            || self.idle.fetch_add(1, Ordering::Relaxed).is_multiple_of(16)
    }
}

impl Queue for QueuePair {
    fn poll(&self, out: &mut [Completion; 16]) -> io::Result<usize> {
        Self::poll(self, out)
    }

    fn take_event(&self) -> bool {
        Self::take_event(self)
    }

    fn arm(&self) -> io::Result<()> {
        Self::arm(self)
    }
}

#[cfg(test)]
mod tests;
