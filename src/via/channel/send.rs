//! The producer's side of a channel: copy, wait for room, and leave the level right.

use super::drive::{Pilot, Slept};
use super::{Channel, Tap, Wait, worth_waking};
use crate::via::ring::Corrupt;
use crate::via::sync::Ordering;
use crate::via::wait::{Deadline, Spun};
use crate::via::{Broken, wake};
use std::io::IoSlice;

impl Channel {
    /// Accepts bytes of `src`. With [`Wait::Until`] it returns when everything was accepted, or (with what was accepted so
    /// far, perhaps 0) when the time is up, a signal handler ran, or [`Channel::kick`] was called. After a short count, or
    /// one that leaves no room, the bell is asserted "not writable" until there is room again.
    pub fn send(&self, src: &[IoSlice<'_>], wait: Wait) -> Result<usize, Broken> {
        self.send_since(src, wait, self.kicks())
    }

    /// As [`Channel::send`], and returns at once when kicked since `kicks` was taken.
    pub fn send_since(&self, src: &[IoSlice<'_>], wait: Wait, kicks: u32) -> Result<usize, Broken> {
        self.send_tapped(src, wait, kicks, None)
    }

    /// As [`Channel::send_since`], and `tap` sees what is accepted just before it is published.
    pub fn send_tapped(
        &self,
        src: &[IoSlice<'_>],
        wait: Wait,
        kicks: u32,
        tap: Option<&dyn Tap>,
    ) -> Result<usize, Broken> {
        if let Some(why) = self.broken() {
            return Err(why);
        }
        let total = src.iter().map(|s| s.len()).sum::<usize>();
        let done = self.push_from(src, 0, tap)?;
        if self.driven() {
            self.came_back();
        }
        if done == total {
            if done > 0 && self.is_full() && !self.soon_room(wait) {
                // Exactly full: writable would not be true.
                let blocked = wake::enter_space(self.tx.space_word());
                self.leave_full(blocked);
            }
            return Ok(done);
        }
        let word = self.tx.space_word();
        let blocked = wake::enter_space(word);
        let sent = self.push_rest(src, done, total, (wait, kicks), tap);
        match sent {
            Ok(n) if n == total && !self.is_full() => {
                if blocked {
                    self.bell.open_writes();
                }
                wake::leave_open(word);
            }
            _ => self.leave_full(blocked),
        }
        sent
    }

    /// Whether room has come that nobody has looked for yet, or comes within the learned spin of a call that may wait: for
    /// a stream that keeps the ring full that is cheaper than the bell's way to "not writable" and back at every turn.
    fn soon_room(&self, wait: Wait) -> bool {
        let mut pilot = Pilot::none(self);
        if self.driven() && self.drive_rx_as(&mut pilot) && self.room() > 0 {
            return true;
        }
        let Wait::Until { spin, .. } = wait else {
            return false;
        };
        pilot.take();
        let spun = self
            .send_spin
            .run(spin, || self.spin_rx(&mut pilot) || self.room() > 0);
        spun == Spun::Hit && self.room() > 0
    }

    /// Bytes that [`Channel::send`] would accept now. The caller holds the send direction's lock, so it can only grow.
    pub fn room(&self) -> usize {
        self.tx.room().unwrap_or(0)
    }

    /// Whether a send would have to wait. (An impossible index of the peer is reported by whoever copies next.)
    fn is_full(&self) -> bool {
        self.tx.is_full().unwrap_or(false)
    }

    /// Whether the bell is meant to be writable. The caller holds the send direction's lock.
    pub fn is_open(&self) -> bool {
        self.tx.space_word().load(Ordering::Acquire) == wake::OPEN
    }

    /// Ends our direction in good order after everything accepted (half-close). On a channel that is broken the end is
    /// kept with the bytes that wait, for the channel that carries it on.
    pub fn shutdown_write(&self) -> Result<(), Broken> {
        self.tx.finish();
        if let Some(why) = self.broken() {
            return Err(why);
        }
        self.produced();
        Ok(())
    }

    /// Leaves with the bell blocked, unless room has come meanwhile. `blocked`: it is already.
    pub(super) fn leave_full(&self, blocked: bool) {
        if !blocked {
            self.bell.block_writes();
        }
        let enough = || worth_waking(self.tx.room().unwrap_or(0), self.tx.size());
        if wake::leave_full(self.tx.space_word(), enough) {
            self.bell.open_writes();
        }
    }

    fn push_rest(
        &self,
        src: &[IoSlice<'_>],
        mut done: usize,
        total: usize,
        (wait, kicks): (Wait, u32),
        tap: Option<&dyn Tap>,
    ) -> Result<usize, Broken> {
        let mut deadline = None;
        let mut pilot = Pilot::none(self);
        loop {
            if self.driven() {
                self.drive_rx_as(&mut pilot);
                self.drive_tx();
            }
            done += self.push_from(src, done, tap)?;
            if done == total {
                return Ok(done);
            }
            let over = |done: usize| {
                if done > 0 {
                    Ok(done)
                } else {
                    self.broken().map_or(Ok(0), Err)
                }
            };
            let Wait::Until { spin, timeout } = wait else {
                return over(done);
            };
            if self.kicks() != kicks || self.broken.get().is_some() {
                return over(done);
            }
            let deadline = deadline.get_or_insert_with(|| Deadline::after(timeout));
            pilot.take();
            let room = || self.tx.room().map_or(true, |n| n > 0);
            let ready = || room() || self.kicks() != kicks;
            let spun = self
                .send_spin
                .run(spin, || self.spin_rx(&mut pilot) || ready());
            if spun == Spun::Hit {
                continue;
            }
            let Some(time) = deadline.left(self.longest_sleep()) else {
                return over(done);
            };
            let pending = || ready() || self.broken.get().is_some();
            if self.sleep(self.tx.space_word(), &mut pilot, time, pending) == Slept::Interrupted {
                done += self.push_from(src, done, tap)?;
                return over(done);
            }
        }
    }

    /// Copies in what there is room for after the first `skip` bytes of `src`, and publishes it.
    fn push_from(
        &self,
        src: &[IoSlice<'_>],
        mut skip: usize,
        tap: Option<&dyn Tap>,
    ) -> Result<usize, Broken> {
        let portion_bytes = self.wire.portion();
        let (mut done, mut gone) = (0, 0);
        'all: for piece in src {
            let piece = match piece.get(skip..) {
                Some(rest) => rest,
                None => {
                    skip -= piece.len();
                    continue;
                }
            };
            skip = 0;
            for portion in piece.chunks(portion_bytes) {
                if done - gone >= portion_bytes {
                    gone = done;
                    self.produced();
                }
                let n = match tap {
                    None => self.tx.push(portion),
                    Some(tap) => self.push_tapped(portion, tap),
                };
                let n = n.map_err(|c| self.corrupted(c))?;
                done += n;
                if n < portion.len() {
                    break 'all;
                }
            }
        }
        if done > 0 {
            self.produced();
        }
        Ok(done)
    }

    fn push_tapped(&self, piece: &[u8], tap: &dyn Tap) -> Result<usize, Corrupt> {
        // Only we make it less.
        let room = self.tx.room()?.min(piece.len());
        tap.sends(self.tx.tail(), &piece[..room]);
        self.tx.push(&piece[..room])
    }
}
