//! The application's calls: who may receive and send now, on which channel, and how long a call waits.

use super::*;

/// Flags of recv(2) that mean something here or may be ignored.
const RECV_FLAGS: i32 = libc::MSG_DONTWAIT
    | libc::MSG_PEEK
    | libc::MSG_WAITALL
    | libc::MSG_NOSIGNAL
    | libc::MSG_CMSG_CLOEXEC;
/// Flags of send(2) that mean something here or may be ignored.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;

/// Longest wait for a direction that another thread sleeps in, before the call looks at everything again.
const NAP: Duration = Duration::from_millis(50);

/// What one attempt came to.
enum Step {
    Done(usize),
    /// Nothing to be had; wait on the channel the next time.
    Again,
    /// Not while the phase is this.
    While(Phase),
    Interrupted,
}

impl Conn {
    /// See [`ConnRef::recv`](crate::conn::ConnRef::recv).
    pub fn recv(&self, fd: RawFd, buffer: &mut [u8], flags: i32, here: Here<'_>) -> Result<usize> {
        check_flags(flags, RECV_FLAGS)?;
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut patience = Patience::new(fd, flags, Direction::Receive);
        let all = flags & (libc::MSG_WAITALL | libc::MSG_PEEK) == libc::MSG_WAITALL;
        let mut looks = patience.is_unasked();
        if looks && !self.look_first.worth_a_try() {
            patience.ask_first();
            looks = false;
        }
        let mut done = 0;
        loop {
            let peek = flags & libc::MSG_PEEK != 0;
            let step = self.recv_once(&mut buffer[done..], peek, &mut patience, here);
            if std::mem::take(&mut looks) {
                self.look_first.learn(!matches!(step, Ok(Step::Again)));
            }
            match self.settle(step, &mut patience, here) {
                Ok(None) => continue,
                Ok(Some(n)) => {
                    done += n;
                    if n == 0 || !all || done == buffer.len() {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    /// See [`ConnRef::send`](crate::conn::ConnRef::send).
    pub fn send(
        &self,
        fd: RawFd,
        data: &[IoSlice<'_>],
        flags: i32,
        here: Here<'_>,
    ) -> Result<usize> {
        check_flags(flags, SEND_FLAGS)?;
        let total: usize = data.iter().map(|piece| piece.len()).sum();
        let mut patience = Patience::new(fd, flags, Direction::Send);
        // No allocation for as many pieces as anybody sends (the preload library hands over at most so many).
        let mut few = [IoSlice::new(&[]); 32];
        let mut many = Vec::new();
        let mut rest = match few.get_mut(..data.len()) {
            Some(few) => {
                few.copy_from_slice(data);
                few
            }
            None => {
                many.extend_from_slice(data);
                &mut many[..]
            }
        };
        let mut done = 0;
        loop {
            let step = self.send_once(rest, &mut patience, here);
            match self.settle(step, &mut patience, here) {
                Ok(None) => {
                    // As a socket does: part of it went, and the rest would block.
                    if done > 0 && patience.is_over() {
                        return Ok(done);
                    }
                }
                Ok(Some(n)) => {
                    done += n;
                    IoSlice::advance_slices(&mut rest, n);
                    if done == total || !patience.may_wait() {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    fn settle(
        &self,
        step: Result<Step>,
        patience: &mut Patience,
        here: Here<'_>,
    ) -> Result<Option<usize>> {
        match step? {
            Step::Done(n) => Ok(Some(n)),
            Step::Again => patience.spend().map(|()| None),
            Step::Interrupted => Err(Error::new(Kind::Interrupted, "a signal handler ran")),
            Step::While(phase) => {
                patience.wait_while(&self.control, phase, here)?;
                Ok(None)
            }
        }
    }

    fn recv_once(
        &self,
        buffer: &mut [u8],
        peek: bool,
        patience: &mut Patience,
        here: Here<'_>,
    ) -> Result<Step> {
        here.check()?;
        if self.control.read_shut.load(Ordering::Acquire) {
            return Ok(Step::Done(0));
        }
        let phase = self.control.phase();
        if phase == Phase::Connecting {
            return Ok(Step::While(phase));
        }
        self.own();
        let Some(_lock) =
            self.lock_direction((&self.control.rx, &self.control.rx_asleep), patience)?
        else {
            return Ok(Step::Again);
        };
        if self.control.held.load(Ordering::Acquire) {
            return Ok(Step::While(Phase::Suspended));
        }
        // SAFETY: the direction's lock is held.
        let state = unsafe { &mut *self.rx.get() };
        self.hand_over(state);
        if !state.left.is_empty() {
            return Ok(Step::Done(self.take_left(state, buffer, peek)));
        }
        if !self.refresh(&mut state.channel) {
            return self.without_channel(phase, Direction::Receive);
        }
        let Some((_, channel)) = &state.channel else {
            return self.without_channel(phase, Direction::Receive);
        };
        let kicks = channel.kicks();
        // Looked at again after the count of kicks was taken: from here on a change cannot be missed.
        here.check()?;
        if self.control.read_shut.load(Ordering::Acquire) {
            return Ok(Step::Done(0));
        }
        let wait = match self.control.phase() == Phase::Established {
            true => patience.channel_wait(self.config.spin_us),
            false => crate::via::channel::Wait::No,
        };
        let asleep = wait != crate::via::channel::Wait::No;
        self.control.rx_asleep.store(asleep, Ordering::Release);
        let mut buffer = buffer;
        if peek && !self.ours().is_over() {
            self.sift();
            match self.ours().theirs() {
                // What stands there is not the application's, and is gone in a moment.
                Some(0) => {
                    (self.control).wait_while(self.control.phase(), Some(Duration::from_millis(1)));
                    return Ok(Step::Again);
                }
                most => {
                    let most = most.unwrap_or(usize::MAX).min(buffer.len());
                    buffer = &mut buffer[..most];
                }
            }
        }
        let got = match (peek, self.tap()) {
            (true, _) => channel.peek(buffer, wait),
            (false, None) => channel.recv_since(buffer, wait, kicks),
            (false, Some(tap)) => channel.recv_tapped(buffer, wait, kicks, tap),
        };
        self.control.rx_asleep.store(false, Ordering::Release);
        if self.takes_note() || self.has_order(channel) {
            // A handler that connects must not find this thread in the middle of it.
            crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
        }
        match got {
            Ok(Received::Bytes(n)) => {
                if !peek {
                    self.control.received.fetch_add(n as u64, Ordering::Relaxed);
                }
                Ok(Step::Done(n))
            }
            Ok(Received::End) => Ok(Step::Done(0)),
            Ok(Received::Interrupted) => Ok(Step::Interrupted),
            Ok(Received::Empty) => match self.control.phase() {
                Phase::Established => Ok(Step::Again),
                phase => self.without_channel(phase, Direction::Receive),
            },
            Err(broken) => self.broke(&broken, Direction::Receive),
        }
    }

    fn send_once(
        &self,
        data: &[IoSlice<'_>],
        patience: &mut Patience,
        here: Here<'_>,
    ) -> Result<Step> {
        here.check()?;
        self.check_write_shut()?;
        match self.control.phase() {
            Phase::Established => {}
            phase => return self.without_channel(phase, Direction::Send),
        }
        self.own();
        let Some(_lock) =
            self.lock_direction((&self.control.tx, &self.control.tx_asleep), patience)?
        else {
            return Ok(Step::Again);
        };
        // SAFETY: the direction's lock is held.
        let state = unsafe { &mut *self.tx.get() };
        if !self.refresh(&mut state.channel) {
            return self.without_channel(Phase::Lost, Direction::Send);
        }
        let Some((_, channel)) = &state.channel else {
            return self.without_channel(Phase::Lost, Direction::Send);
        };
        let kicks = channel.kicks();
        here.check()?;
        // Under the lock: the end of the stream is set under it too, and nothing may come behind that; and the I/O thread suspends first and then judges the stream under this lock.
        match self.control.phase() {
            Phase::Established => {}
            phase => return self.without_channel(phase, Direction::Send),
        }
        self.check_write_shut()?;
        if self.gate() != Gate::Open && self.waits_at_gate(data) {
            return Ok(Step::While(Phase::Suspended));
        }
        if self.followed.stands_in() {
            return Ok(self.send_to_stand_in(channel, data));
        }
        let asked_at = self.asks(channel);
        let at_once = data.iter().map(|piece| piece.len()).sum::<usize>() <= channel.room();
        let wait = patience.channel_wait(self.config.spin_us);
        let asleep = wait != crate::via::channel::Wait::No;
        self.control.tx_asleep.store(asleep, Ordering::Release);
        let sent = channel.send_tapped(data, wait, kicks, self.tap());
        self.control.tx_asleep.store(false, Ordering::Release);
        match sent {
            Ok(0) => {
                self.control.asked_at.store(asked_at, Ordering::Relaxed);
                match data.iter().all(|piece| piece.is_empty()) {
                    true => Ok(Step::Done(0)),
                    false => Ok(Step::Again),
                }
            }
            Ok(n) => {
                if !at_once {
                    // What came before the last of it was handed over is no answer to it.
                    self.asks(channel);
                }
                self.control.sent.fetch_add(n as u64, Ordering::Relaxed);
                self.control
                    .sent_here
                    .fetch_add(n as u64, Ordering::Relaxed);
                Ok(Step::Done(n))
            }
            Err(broken) => {
                // Nothing was asked.
                self.control.asked_at.store(asked_at, Ordering::Relaxed);
                self.broke(&broken, Direction::Send)
            }
        }
    }

    /// Sends to who stands in for the server.
    fn send_to_stand_in(&self, channel: &Channel, data: &[IoSlice<'_>]) -> Step {
        let n = self.answer_here(channel, data, true);
        self.control.sent.fetch_add(n as u64, Ordering::Relaxed);
        match n == 0 && data.iter().any(|piece| !piece.is_empty()) {
            true => {
                let moment = Some(Duration::from_millis(1));
                self.control.wait_while(Phase::Established, moment);
                Step::Again
            }
            false => Step::Done(n),
        }
    }

    fn check_write_shut(&self) -> Result<()> {
        match self.control.write_shut.load(Ordering::Acquire) {
            true => Err(Error::new(
                Kind::WriteShut,
                "the sending direction was shut down",
            )),
            false => Ok(()),
        }
    }

    /// Takes the direction's lock as the call's patience allows; `None`: not within it.
    fn lock_direction<'a>(
        &'a self,
        (lock, asleep): (&'a lock::RawLock, &AtomicBool),
        patience: &Patience,
    ) -> Result<Option<RawGuard<'a>>> {
        let mut limit = Duration::ZERO;
        loop {
            match lock.lock(Some(limit)) {
                Ok(guard) => return Ok(Some(guard)),
                Err(NotTaken::Own) => return Err(would_block()),
                Err(NotTaken::Busy) => {}
            }
            // A holder that sleeps has found that the call would block. One that does not is done in microseconds, and a
            // call that would not block must not say that it would.
            if !asleep.load(Ordering::Acquire) {
                limit = Duration::from_millis(1);
            } else if !patience.may_wait() {
                return Err(would_block());
            } else if limit >= NAP {
                return Ok(None);
            } else {
                limit = NAP;
            }
        }
    }

    /// Brings a direction's channel up to date. False: this process's channel is outdated (another process moved the
    /// connection after a fork).
    fn refresh(&self, held: &mut Option<(u32, Arc<Channel>)>) -> bool {
        let epoch = self.control.epoch.load(Ordering::Acquire);
        if held.as_ref().is_none_or(|(mine, _)| *mine != epoch) {
            *held = self.slow.lock().channel.clone();
        }
        held.as_ref().is_none_or(|(mine, _)| *mine == epoch)
    }

    fn without_channel(&self, phase: Phase, direction: Direction) -> Result<Step> {
        match phase {
            Phase::Connecting => Ok(Step::While(phase)),
            Phase::Suspended => {
                self.own_orphan();
                if direction == Direction::Send {
                    self.is_wanted();
                }
                Ok(Step::While(phase))
            }
            Phase::Established => Err(lost(libc::ECONNRESET)),
            Phase::Lost => {
                let told = self.control.so_error.swap(0, Ordering::AcqRel) == 0;
                match (self.control.error.load(Ordering::Acquire), direction) {
                    (0, Direction::Receive) => Ok(Step::Done(0)),
                    // The reason once, then as a socket whose connection is over. Not so for receivers: another thread may
                    // have been told, and 0 would mean that the stream ended where the server wanted it to.
                    (_, Direction::Send) if told => {
                        Err(Error::new(Kind::WriteShut, "the connection is over"))
                    }
                    (errno, _) => Err(self.slow.lock().lost.clone().unwrap_or_else(|| lost(errno))),
                }
            }
        }
    }

    /// The application has something to send, and no channel for it.
    fn is_wanted(&self) {
        self.control.wanted.store(true, Ordering::Release);
        // Each time: a word to the thread may get lost, and a call that waits comes here again.
        crate::signals::with_signals_blocked(|| reactor::look_at(self.id));
    }

    fn broke(&self, broken: &Broken, direction: Direction) -> Result<Step> {
        crate::log!(
            crate::log::Level::Debug,
            "conn",
            "{}: {broken:?}",
            self.name
        );
        match self.control.phase() {
            Phase::Established => {
                reactor::look_at(self.id);
                Ok(Step::While(Phase::Established))
            }
            phase => self.without_channel(phase, direction),
        }
    }

    fn take_left(&self, state: &mut Receiving, buffer: &mut [u8], peek: bool) -> usize {
        let n = buffer.len().min(state.left.len());
        buffer[..n].copy_from_slice(&state.left[..n]);
        if !peek {
            state.left.drain(..n);
            self.control.received.fetch_add(n as u64, Ordering::Relaxed);
            if state.left.is_empty() && std::mem::take(&mut state.rung) {
                let bell = self.bell.lock().clone();
                if let Some(bell) = bell {
                    bell.take_back(1, None);
                }
            }
        }
        n
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, fd: RawFd, how: How) -> Result<()> {
        match self.control.phase() {
            Phase::Established | Phase::Suspended => {}
            _ => {
                return Err(Error::new(
                    Kind::NotConnected,
                    "the connection does not stand",
                ));
            }
        }
        self.own();
        if how != How::Read && !self.control.write_shut.swap(true, Ordering::AcqRel) {
            self.kick();
            // Where a send is inside (this thread's own, below a signal handler), the I/O thread does it later.
            self.finish_writes();
        }
        if how != How::Write {
            self.control.read_shut.store(true, Ordering::Release);
            // SAFETY: the number is one of ours and `close` waits for this call.
            let near = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = rustix::net::shutdown(near, rustix::net::Shutdown::Read);
            self.kick();
        }
        reactor::look_at(self.id);
        Ok(())
    }
}

fn check_flags(flags: i32, known: i32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => {
            let text = format!("flags {unknown:#x} are not supported on a connection by name");
            Err(Error::new(Kind::BadArgument, text))
        }
    }
}
