//! What the I/O thread does to a connection: puts channels in, holds the calls back, ends it.
//!
//! A direction's lock may be held by a thread that was stopped, or by a process that was: the I/O thread serves all
//! connections and never waits for one of them. What needs a lock is tried for a moment; where it says false, the driver
//! comes back to it.

use super::*;
use crate::session::postgres::Moved;

/// How often, and each time how long, the I/O thread tries to take a lock whose holder was woken.
const TRIES: u32 = 4;
const TRY: Duration = Duration::from_millis(1);

impl Conn {
    /// Puts `fresh` in the place of the channel in use, as a *different* stream (another server) or the *same* one
    /// (resumed), and lets the calls go on. Bytes that the old channel delivered and nobody has read stay readable. False:
    /// not now. `moved` is taken where it is what a session needs to go on on the other server.
    pub fn install(
        &self,
        fresh: &Arc<Channel>,
        same_stream: bool,
        moved: &mut Option<Box<Moved>>,
    ) -> bool {
        let Some(_rx) = self.try_hold(&self.control.rx) else {
            return false;
        };
        let Some(_tx) = self.try_hold(&self.control.tx) else {
            return false;
        };
        // SAFETY: both directions' locks are held.
        let (rx, tx) = unsafe { (&mut *self.rx.get(), &mut *self.tx.get()) };
        let old = self.channel();
        self.keep_quiet(same_stream);
        if let Some(old) = &old {
            // First: what somebody read out of the bell is not unread.
            old.hold_reads();
            self.hand_over(rx);
            let unread = drain(old);
            match moved.take().filter(|_| !same_stream) {
                // What was to be read was put aside with its plan.
                Some(moved) => self.move_session(old, fresh, *moved, &mut rx.left),
                None if !same_stream => rx.left.extend_from_slice(&unread),
                None => {} // the resumption has carried them into the new ring
            }
            old.retire();
        }
        self.control.held.store(false, Ordering::Release);
        self.control.wanted.store(false, Ordering::Release);
        if !same_stream {
            // What made the session again was answered.
            self.control
                .sent_here
                .store(fresh.accepted(), Ordering::Relaxed);
            self.control.asked_at.store(0, Ordering::Relaxed);
        }
        let epoch = self.control.epoch.load(Ordering::Relaxed).wrapping_add(1);
        {
            // Under this lock, which fork takes: a child knows either the channel before or that it is not the only one.
            let mut slow = self.slow.lock();
            slow.channel = Some((epoch, Arc::clone(fresh)));
            self.control.forked.store(false, Ordering::Release);
        }
        rx.channel = Some((epoch, Arc::clone(fresh)));
        tx.channel = Some((epoch, Arc::clone(fresh)));
        self.control
            .generation
            .store(fresh.accept.generation, Ordering::Release);
        self.control.epoch.store(epoch, Ordering::Release);
        // The phase before the bell: who is woken by the bell must find the calls open.
        self.control.set_phase(Phase::Established);
        fresh.activate();
        self.stay_quiet(fresh);
        self.ring_for(rx);
        if same_stream && self.control.write_shut.load(Ordering::Acquire) {
            let _ = fresh.shutdown_write();
        }
        true
    }

    /// Lets the calls go on with the channel in use, after [`Conn::suspend`] or [`Conn::hold_calls`]. False: not now.
    pub fn reopen(&self, channel: &Channel) -> bool {
        let (Some(_rx), Some(_tx)) = (
            self.try_hold(&self.control.rx),
            self.try_hold(&self.control.tx),
        ) else {
            return false;
        };
        channel.hold();
        self.control.held.store(false, Ordering::Release);
        self.control.wanted.store(false, Ordering::Release);
        // The phase before the bell, as above.
        self.control.set_phase(Phase::Established);
        channel.activate();
        self.stay_quiet(channel);
        true
    }

    /// What comes next is not the application's: nobody is told.
    fn stay_quiet(&self, channel: &Channel) {
        if !self.ours().is_over() {
            channel.hold_reads();
        }
    }

    /// Makes bytes of an earlier channel readable.
    pub(super) fn ring_for(&self, rx: &mut Receiving) {
        if let (false, false, Some(bell)) = (rx.left.is_empty(), rx.rung, &*self.bell.lock()) {
            bell.ring(&rx.left[..1]);
            rx.rung = true;
        }
    }

    /// Takes a direction's lock. Who holds it is woken and finds the phase closed.
    pub(super) fn try_hold<'a>(&self, lock: &'a lock::RawLock) -> Option<RawGuard<'a>> {
        for _ in 0..TRIES {
            match lock.lock(Some(TRY)) {
                Ok(guard) => return Some(guard),
                Err(_) => self.kick(),
            }
        }
        None
    }

    /// Keeps receivers off the old channel while a resumption copies its rings (senders are kept off by the phase), those
    /// too that read the descriptor without the library; `install` or `release_reads` ends it. False: somebody is inside
    /// still.
    pub fn hold_calls(&self) -> bool {
        self.control.held.store(true, Ordering::Release);
        let Some(_rx) = self.try_hold(&self.control.rx) else {
            return false;
        };
        if let Some(channel) = self.channel() {
            channel.hold_reads();
        }
        self.sends_are_settled()
    }

    /// See [`Conn::hold_calls`]. False: not now.
    pub fn release_reads(&self) -> bool {
        if !self.control.held.load(Ordering::Acquire) {
            return true;
        }
        let Some(_rx) = self.try_hold(&self.control.rx) else {
            return false;
        };
        self.control.held.store(false, Ordering::Release);
        if let Some(channel) = self.channel().filter(|_| self.ours().is_over()) {
            channel.open_reads();
        }
        self.kick();
        true
    }

    /// Makes calls wait; bytes that arrived stay readable. [`Conn::block_writes`] goes with it.
    pub fn suspend(&self) {
        self.control.set_phase(Phase::Suspended);
        self.kick();
    }

    /// Makes a suspended connection not writable. False: not now.
    pub fn block_writes(&self) -> bool {
        self.set_level(|bell| bell.block_writes())
    }

    /// Makes a connection that is over writable: filler left behind would hide that a send does not block any more.
    /// False: not now.
    pub fn clear_writes(&self) -> bool {
        self.set_level(|bell| bell.clear_writes())
    }

    fn set_level(&self, set: impl FnOnce(&AppBell)) -> bool {
        let Some(_tx) = self.try_hold(&self.control.tx) else {
            return false;
        };
        let bell = self.bell.lock().clone();
        if let Some(bell) = bell {
            set(&bell);
        }
        true
    }

    /// Ends the sending direction of a connection that was shut for writing, behind every byte that a send has accepted.
    /// False: not now.
    pub fn finish_writes(&self) -> bool {
        let Some(_tx) = self.try_hold(&self.control.tx) else {
            return false;
        };
        if let Some(channel) = self.channel() {
            let _ = channel.shutdown_write();
        }
        true
    }

    /// No send is between its look at the phase and its end.
    pub fn sends_are_settled(&self) -> bool {
        self.try_hold(&self.control.tx).is_some()
    }

    /// Waits until no send, and no turn of the I/O thread, is inside. For threads of the application.
    pub fn settle_sends(&self) {
        while !self.sends_are_settled() {}
    }

    /// The connection is over: calls get `error` (`None`: it ended in good order) once they have read what arrived.
    /// [`Conn::clear_writes`] goes with it.
    pub fn lose(&self, error: Option<Error>) {
        let errno = error.as_ref().map_or(0, Error::errno);
        let was = self.control.phase();
        if was == Phase::Lost {
            return;
        }
        self.slow.lock().lost = error;
        self.control.error.store(errno, Ordering::Release);
        self.control.so_error.store(errno, Ordering::Release);
        self.control.set_phase(Phase::Lost);
        self.kick();
        if was == Phase::Connecting {
            // The filler stays unread and the only far end is closed by this: OUT|ERR|HUP, as TCP refuses.
            drop(self.bell.lock().take());
        }
    }

    /// Nothing is left to be read. False also where that cannot be told now.
    pub fn is_drained(&self) -> bool {
        let Some(_rx) = self.try_hold(&self.control.rx) else {
            return false;
        };
        // SAFETY: the direction's lock is held.
        let left = unsafe { !(*self.rx.get()).left.is_empty() };
        if !self.ours().is_over() {
            // What is not the application's is not waited for.
            self.sift();
        }
        !left && self.channel().is_none_or(|channel| channel.readable() == 0)
    }

    /// Everything was read: the descriptor is hung up.
    pub fn hang_up(&self) {
        if let Some(bell) = self.bell.lock().take() {
            let _ = rustix::net::shutdown(&bell.far, rustix::net::Shutdown::Both);
        }
    }
}

/// What `old` delivered and nobody has read.
pub(super) fn drain(old: &Channel) -> Vec<u8> {
    let mut unread = vec![0; old.come()];
    let mut done = 0;
    while done < unread.len() {
        match old.rx.pop(&mut unread[done..]) {
            Ok(n) if n > 0 => done += n,
            _ => break,
        }
    }
    unread.truncate(done);
    unread
}
