//! The consumer's side of a channel: enter, copy, wait, leave.

use super::drive::{Pilot, Slept};
use super::{Channel, Come, Direct, Received, Tap, Wait};
use crate::via::bell::Late;
use crate::via::ring::Corrupt;
use crate::via::sync::Ordering;
use crate::via::wait::{Deadline, Spun};
use crate::via::{Broken, wake};

/// Most tokens in the bell while somebody reads it behind our back.
const PUMP: usize = 4096;

/// What becomes of the bytes that are copied out.
#[derive(Clone, Copy)]
enum Take<'a> {
    /// They stay.
    Nothing,
    /// They are consumed.
    All,
    /// Those that the tap allows are consumed, and no others copied out.
    Tapped(&'a dyn Tap),
}

impl Channel {
    /// Receives into `dst`: the whole consumer side of the wake protocol (enter, copy, leave) and the waiting. What the peer
    /// delivered before the channel broke is received first.
    ///
    /// `Ok(Received::Empty)` when nothing came within `wait`, or when [`Channel::kick`] woke the caller: the caller looks
    /// at its own state and calls again.
    pub fn recv(&self, dst: &mut [u8], wait: Wait) -> Result<Received, Broken> {
        self.recv_since(dst, wait, self.kicks())
    }

    /// As [`Channel::recv`], and returns at once when kicked since `kicks` was taken.
    pub fn recv_since(&self, dst: &mut [u8], wait: Wait, kicks: u32) -> Result<Received, Broken> {
        self.receive(dst, wait, kicks, Take::All)
    }

    /// As [`Channel::recv_since`], and `tap` says how much of what has come may be taken.
    pub fn recv_tapped(
        &self,
        dst: &mut [u8],
        wait: Wait,
        kicks: u32,
        tap: &dyn Tap,
    ) -> Result<Received, Broken> {
        self.receive(dst, wait, kicks, Take::Tapped(tap))
    }

    /// As [`Channel::recv`] and leaves the bytes unread (MSG_PEEK). With one byte it is a wait for readability.
    pub fn peek(&self, dst: &mut [u8], wait: Wait) -> Result<Received, Broken> {
        self.receive(dst, wait, self.kicks(), Take::Nothing)
    }

    /// A reader consumed the tokens behind our back (an exec'd child, a raw system call): the bell is empty while the
    /// word is RUNG. Advances the head past them, puts the next bytes into the bell, and returns true if that was so. The
    /// caller holds the receive direction's lock; the I/O thread calls it on its tick, or often once a descriptor was
    /// announced as shared.
    pub fn pump_bypassed(&self) -> bool {
        let word = self.rx.receive_word();
        let lot = self.rx.lot();
        if word.load(Ordering::Acquire) != wake::RUNG || lot == 0 || !self.bell.is_taken() {
            return false;
        }
        // Everything that was rung is gone, so there is nothing to take back, and perhaps no number of ours to do it by: the
        // reader may be another process that has the only copy.
        wake::enter(word);
        if self.was_read(lot).is_err() {
            return false;
        }
        self.leave_rx_with(&mut [0; PUMP]);
        true
    }

    /// Empties the bell and stays inside, so that nobody rings: from here on what was read out of it counts as consumed, and
    /// nothing can be read that is not. Until [`Channel::open_reads`]; may be repeated. The caller holds the receive
    /// direction's lock.
    pub fn hold_reads(&self) {
        let word = self.rx.receive_word();
        let lot = self.rx.lot();
        let rung = word.load(Ordering::Acquire) == wake::RUNG && lot > 0;
        // An impossible index is found again by whoever reads on.
        let _ = if rung && self.bell.is_taken() {
            wake::enter(word);
            self.was_read(lot)
        } else {
            self.enter_rx()
        };
    }

    /// Ends [`Channel::hold_reads`]: the level is right again. Under the same lock.
    pub fn open_reads(&self) {
        self.hold_reads();
        self.leave_rx();
    }

    fn receive(
        &self,
        dst: &mut [u8],
        wait: Wait,
        kicks: u32,
        take: Take<'_>,
    ) -> Result<Received, Broken> {
        if dst.is_empty() {
            return Ok(Received::Bytes(0));
        }
        self.enter_rx()?;
        let received = self.fetch(dst, wait, kicks, take);
        match take {
            Take::Tapped(tap) if self.stays_quiet(tap) => {}
            _ => self.leave_rx(),
        }
        received
    }

    fn stays_quiet(&self, tap: &dyn Tap) -> bool {
        tap.is_quiet() && !self.rx.finished()
    }

    /// Lets `tap` take out what is not for the receiver. True: all of it has come, and the level is right again. The caller
    /// holds the receive direction's lock.
    pub fn sift(&self, tap: &dyn Tap) -> bool {
        if self.enter_rx().is_err() {
            return true; // found again by whoever reads on
        }
        // An impossible index likewise.
        let _ = self.pop_tapped(&mut [], self.rx.finished(), tap);
        let quiet = self.stays_quiet(tap);
        if !quiet {
            self.leave_rx();
        }
        !quiet
    }

    fn fetch(
        &self,
        dst: &mut [u8],
        wait: Wait,
        kicks: u32,
        take: Take<'_>,
    ) -> Result<Received, Broken> {
        let mut deadline = None;
        // What is only looked at, or judged first, must be in the ring. And who does not wait may ask `poll` next: what a full
        // room leaves behind in the wire shows there only when somebody drives.
        let open = matches!(take, Take::All)
            && wait != Wait::No
            && !self.reads_shut.load(Ordering::Acquire);
        let mut pilot = Pilot::with(self, Direct::of(dst, open));
        loop {
            if let Some(received) = self.look(&mut pilot.direct, take)? {
                return Ok(received);
            }
            if self.driven() && (wait == Wait::No || self.receive_habit.worth_a_try()) {
                let moved = match wait {
                    Wait::No => self.drive_rx_as(&mut pilot),
                    Wait::Until { .. } => self.look_rx_as(&mut pilot),
                };
                self.receive_habit.learn(moved);
                if moved {
                    continue;
                }
            }
            if let Some(why) = self.broken() {
                // Once more: it may have delivered its last bytes before it broke.
                return self.look(&mut pilot.direct, take)?.ok_or(why);
            }
            let Wait::Until { spin, timeout } = wait else {
                return Ok(Received::Empty);
            };
            if self.kicks() != kicks {
                return Ok(Received::Empty);
            }
            let deadline = deadline.get_or_insert_with(|| Deadline::after(timeout));
            pilot.take();
            let spun = self.receive_spin.run(spin, || {
                self.spin_rx(&mut pilot) || self.pending() || self.kicks() != kicks
            });
            if spun == Spun::Hit {
                continue;
            }
            let Some(time) = deadline.left(self.longest_sleep()) else {
                if self.driven() {
                    self.drive_rx_as(&mut pilot);
                }
                let received = self.look(&mut pilot.direct, take)?;
                return Ok(received.unwrap_or(Received::Empty));
            };
            let pending = || self.pending() || self.broken.get().is_some() || self.kicks() != kicks;
            let slept = self.sleep(self.rx.receive_word(), &mut pilot, time, pending);
            if slept == Slept::Interrupted {
                let received = self.look(&mut pilot.direct, take)?;
                return Ok(received.unwrap_or(Received::Interrupted));
            }
        }
    }

    /// What a drive has put into the room, and what is in the ring now.
    fn look(&self, room: &mut Direct<'_>, take: Take<'_>) -> Result<Option<Received>, Broken> {
        // In this order: the end is set after the last byte.
        let finished = self.rx.finished();
        let passed = room.filled();
        let dst = room.rest();
        let n = match take {
            // Whatever stands behind them is found by the next call.
            _ if passed > 0 => Ok(passed + self.pop_all(dst).unwrap_or(0)),
            _ if self.reads_shut.load(Ordering::Acquire) => Ok(0),
            Take::All => self.pop_all(dst),
            Take::Nothing if !self.deliverable() => Ok(0),
            Take::Nothing => self.rx.peek(0, dst),
            Take::Tapped(tap) => self.pop_tapped(dst, finished, tap),
        };
        match n {
            // A tap may leave bytes of a stream that has ended for later, never for good.
            Ok(0) if finished => Ok(Some(Received::End)),
            Ok(0) => Ok(None),
            Ok(n) => {
                if !matches!(take, Take::Nothing) {
                    self.consumed_some();
                }
                Ok(Some(Received::Bytes(n)))
            }
            Err(corrupt) => Err(self.corrupted(corrupt)),
        }
    }

    /// Copies out and consumes what the tap allows.
    fn pop_tapped(&self, dst: &mut [u8], last: bool, tap: &dyn Tap) -> Result<usize, Corrupt> {
        let available = self.rx.available()?;
        if available == 0 {
            return Ok(0);
        }
        let head = self.rx.head();
        let mut come = Come {
            room: dst,
            available,
            last,
            ring: self.rx.size(),
            ahead: &|skip, out| self.rx.peek(skip, out).unwrap_or(0),
        };
        let taken = tap.receives(head, &mut come);
        let gone = taken.skipped + taken.bytes;
        let next = head.wrapping_add((gone + taken.next) as u64);
        self.wanted.store(next, Ordering::Relaxed);
        self.rx.consume(gone);
        if taken.skipped > 0 {
            self.consumed_some();
        }
        Ok(taken.bytes)
    }

    fn pop_all(&self, dst: &mut [u8]) -> Result<usize, Corrupt> {
        let n = self.rx.pop(dst);
        if self.low_water() > 1 {
            self.want_all();
        }
        n
    }

    /// Bytes, the end, or an index that must be reported.
    pub(super) fn pending(&self) -> bool {
        self.deliverable() || self.rx.tail().is_err()
    }

    /// Comes in: the bell is empty afterwards, and bytes that somebody read out of it count as consumed. The caller holds
    /// the receive direction's lock.
    pub fn enter_rx(&self) -> Result<(), Broken> {
        let entered = wake::enter(self.rx.receive_word());
        if self.driven() {
            self.rx.skip_passed();
        }
        let lot = match entered {
            wake::Entered::Quiet => 0,
            _ => self.rx.lot(),
        };
        let vouched;
        let late: Late<'_> = match entered {
            wake::Entered::Late(ringing) => {
                vouched = move || self.rx.voucher().load(Ordering::Acquire) == ringing;
                Some((&vouched, wake::who_rings(ringing)))
            }
            _ => None,
        };
        let back = self.bell.take_back(lot, late);
        match lot.saturating_sub(back) {
            0 => Ok(()),
            missing => self.was_read(missing),
        }
    }

    /// So many bytes were read out of the bell by somebody without the library.
    fn was_read(&self, tokens: usize) -> Result<(), Broken> {
        let there = self.rx.available().map_err(|c| self.corrupted(c))?;
        self.rx.consume(tokens.min(there));
        self.want_all();
        self.consumed_some();
        Ok(())
    }

    /// Leaves with the level right: a token in the bell if anything is unread, else ARMED.
    pub(super) fn leave_rx(&self) {
        self.leave_rx_with(&mut [0]);
    }

    /// As [`Channel::leave_rx`] with as many tokens as `tokens` has room for.
    fn leave_rx_with(&self, tokens: &mut [u8]) {
        let word = self.rx.receive_word();
        loop {
            let finished = self.rx.finished();
            match self.rx.peek(0, tokens) {
                Ok(0) if finished => {
                    self.rx.set_lot(0);
                    self.bell.finish();
                    return wake::leave_rung(word);
                }
                Ok(n) if n > 0 && (self.low_water() == 1 || self.deliverable()) => {
                    self.rx.set_lot(n);
                    self.bell.ring(&tokens[..n]);
                    return wake::leave_rung(word);
                }
                _ => {}
            }
            self.rx.set_lot(1);
            let again = || self.deliverable();
            if self.retired.load(Ordering::Acquire) != 0 || wake::leave_armed(word, again) {
                return;
            }
        }
    }

    pub(super) fn corrupted(&self, corrupt: crate::via::ring::Corrupt) -> Broken {
        let why = Broken::from(corrupt);
        self.fail(why.clone());
        why
    }
}
