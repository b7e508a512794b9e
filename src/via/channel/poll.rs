//! Before a poll of the bell alone (DESIGN section 4, "Waiting"): a spin that leaves everything as it is.
//!
//! The application polls the kernel object, and the kernel's answer is the one that counts. All that is done here is to
//! let some time pass in a spin in place of a sleep, where that was seen to pay: the word stays ARMED, whoever delivers
//! rings as ever, and nothing is held once it is over (a thread may be cancelled in the poll).

use super::Channel;
use super::drive::Pilot;
use crate::via::sync::Ordering;
use crate::via::wait::Spun;
use crate::via::wake;
use std::time::Duration;

/// Looks for the token of bytes that were seen: who published them is about to ring.
const TOKEN_LOOKS: u32 = 2000;

impl Channel {
    /// Spins for at most the learned part of `limit` until a poll of the bell for readable would return at once. The caller
    /// polls then in any case. Async-signal-safe, any number of threads; a handler that runs meanwhile must come back, since
    /// a wire may be in the middle of being driven.
    pub fn spin_for_poll(&self, limit: Duration) {
        let word = self.rx.receive_word();
        let resting = || word.load(Ordering::Acquire) == wake::ARMED;
        if !resting() {
            return; // readable, or another thread is inside and takes what comes
        }
        let kicks = self.kicks();
        let spun = self.receive_spin.run(limit, || {
            // What it moves may be an acknowledgement only: that makes nothing readable.
            self.spin_rx(&mut Pilot::none(self));
            self.pending() || !resting() || self.kicks() != kicks
        });
        if spun == Spun::Hit {
            // A poll that comes before the token sleeps.
            for _ in 0..TOKEN_LOOKS {
                let now = word.load(Ordering::Acquire);
                if now != wake::ARMED && !wake::is_ringing(now) {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        if self.driven() {
            match resting() {
                true => self.watch_now(),
                false => self.found_by_spin(),
            }
        }
    }
}
