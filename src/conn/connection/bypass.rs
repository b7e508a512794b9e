//! Programs that use the descriptor without the library (an exec'd child, a stream of the C library).

use super::*;
use crate::session::postgres::StandIn;

/// Most bytes of a writer without the library that are moved at once.
const ABSORB: usize = 4096;

impl Conn {
    /// Gives bytes to somebody who reads the descriptor without the library (an exec'd child). Says whether there was one.
    pub fn pump(&self) -> bool {
        let Ok(_rx) = self.control.rx.lock(Some(Duration::ZERO)) else {
            return false; // a receiver is inside: nobody needs a pump
        };
        if self.control.held.load(Ordering::Acquire) {
            return false; // a resumption copies what it would consume
        }
        if !self.ours().is_over() {
            return false; // what stands there is not the application's
        }
        let mut pumped = false;
        if let Some(channel) = self.channel() {
            // A fast reader is served on; the bound leaves the thread to the other connections.
            for _ in 0..16 {
                if !channel.pump_bypassed() {
                    break;
                }
                pumped = true;
            }
        }
        pumped
    }

    /// Sends what somebody wrote to the descriptor without the library (an exec'd child, a stream of the C library). Says
    /// whether there was anything.
    pub fn absorb(&self) -> bool {
        let Ok(_tx) = self.control.tx.lock(Some(Duration::ZERO)) else {
            return false; // a sender is inside: later
        };
        let bell = self.bell.lock().clone();
        let (Some(bell), Some(channel)) = (bell, self.channel()) else {
            return false;
        };
        let mut buffer = [0; ABSORB];
        let mut any = false;
        while self.control.phase() == Phase::Established {
            let room = channel.room().min(buffer.len());
            let takes = || room >= StandIn::MOST_PASSED && !self.waits_to_commit();
            if self.followed.stands_in() && !takes() {
                break; // it might not take them
            }
            let n = bell.take_written(&mut buffer[..room]);
            if n == 0 {
                break;
            }
            any = true;
            let mut written = &buffer[..n];
            while self.followed.stands_in() && !written.is_empty() {
                match self.answer_here(&channel, &[IoSlice::new(written)], false) {
                    0 => break,
                    n => written = &written[n..],
                }
            }
            self.asks(&channel);
            // There is room: all of it is accepted, or the channel is broken, which its own way tells.
            let written = [IoSlice::new(written)];
            let (wait, tap) = (crate::via::channel::Wait::No, self.tap());
            let _ = channel.send_tapped(&written, wait, channel.kicks(), tap);
            self.control.sent.fetch_add(n as u64, Ordering::Relaxed);
            self.control
                .sent_here
                .fetch_add(n as u64, Ordering::Relaxed);
        }
        if any && channel.is_open() {
            // A filler that was behind these bytes when it should have gone.
            bell.open_writes();
        }
        any
    }
}
