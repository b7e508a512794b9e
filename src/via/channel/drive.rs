//! Driving a channel: who moves bytes between the rings and the wire, who sleeps where, and when the watcher is told.
//!
//! A wire that must be driven has one descriptor. Two never wait for it: the thread that waits inside is the *pilot*
//! and polls it; where nobody waits inside, the watcher does. A thread that comes second sleeps on its wake word, which
//! the pilot's drives serve, and becomes the pilot when the first one leaves.

use super::{Awaited, Channel, Direct, Watcher, ring, worth_waking};
use crate::via::sync::{AtomicU32, Ordering, fence};
use crate::via::{Broken, Interest, wake};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longest sleep without a look at whether the peer is still there, for callers whose channel nobody watches.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// The same where somebody watches and will wake the sleeper.
const SLEEP: Duration = Duration::from_secs(30);
/// A call with less time than this polls at once, so that it is not late.
const SHORTEST_FOR_A_NAP: Duration = Duration::from_millis(20);

/// Whether the watcher watches a driven wire's descriptor.
#[derive(Default)]
pub(super) struct Watch {
    watcher: OnceLock<Arc<dyn Watcher>>,
    state: AtomicU32,
    /// 1: the application waits inside our calls; arm by tick.
    lazy: AtomicU32,
    /// Calls that came back from the wire, to tell a tick whether somebody was inside since the last one.
    returns: AtomicU32,
    returns_at_tick: AtomicU32,
    /// 1: somebody has read the wire since the last tick.
    read: AtomicU32,
    /// The same, to tell a drive whether a stream goes out.
    returns_at_drive: AtomicU32,
    /// Spins before a poll that hit, to tell a drive whether it was one too many.
    polls: AtomicU32,
    polls_at_drive: AtomicU32,
}

/// So many calls since the watcher was woken last: a stream.
const STREAMING: u32 = 4;

// In this order: each watches for more than the one before.
/// Nobody watches.
const WATCH_OFF: u32 = 0;
/// The watcher is to be told by the next tick.
const WATCH_LATER: u32 = 1;
/// The watcher was told.
const WATCH_ARMED: u32 = 2;
/// The watcher was told to watch for room too.
const WATCH_ROOM: u32 = 3;

/// Held by the thread that waits for a driven wire's descriptor, from before it spins until it leaves.
pub(super) struct Pilot<'a> {
    channel: &'a Channel,
    pub(super) held: bool,
    /// Where a receiver's drives may put bytes past the ring; a sender's have no room.
    pub(super) direct: Direct<'a>,
    /// [`Wire::await_rx`](super::Wire::await_rx) was tried: only the first sleep of a call is likely to be a short
    /// one.
    napped: bool,
}

impl<'a> Pilot<'a> {
    pub(super) fn none(channel: &'a Channel) -> Self {
        Self::with(channel, Direct::none())
    }

    /// One of a thread that receives.
    pub(super) fn with(channel: &'a Channel, direct: Direct<'a>) -> Self {
        Self {
            channel,
            held: false,
            direct,
            napped: false,
        }
    }

    /// Becomes the pilot if the wire must be driven and nobody is.
    pub(super) fn take(&mut self) {
        self.held = self.held || (self.channel.driven() && self.channel.pilot.take());
    }
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        if self.held {
            self.channel.pilot.give_back();
            // Somebody else must see to the descriptor now.
            wake::nudge(self.channel.rx.receive_word());
            wake::nudge(self.channel.tx.space_word());
            self.channel.watch_on();
        }
    }
}

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slept {
    /// Look again.
    Awake,
    /// A signal handler ran.
    Interrupted,
}

impl Channel {
    /// Called by whoever watches [`Wire::wait_fd`](super::Wire::wait_fd) (the client's I/O thread, the node's relay)
    /// when it is ready: drives if nobody inside does, publishes by the wake word, and says whether the channel broke.
    pub fn drive(&self) -> Result<(), Broken> {
        self.watch.state.store(WATCH_OFF, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.driven() && self.watch.watcher.get().is_some() && !self.pilot.is_free() {
            // The pilot is woken by the same event; from now on it is left alone.
            self.watch.lazy.store(1, Ordering::Release);
            self.watch_for_room();
            return self.broken().map_or(Ok(()), Err);
        }
        self.drive_both();
        self.moderate();
        self.watch_on();
        self.broken().map_or(Ok(()), Err)
    }

    /// A watcher that is woken for every acknowledgement of a stream that goes out takes the core from the sender and from
    /// the peer; a sender that finds the ring full reads them itself. So while calls come in and much is on its way, it is
    /// armed again by tick. The same where the application finds its bytes by itself, spinning before each poll.
    fn moderate(&self) {
        let watch = &self.watch;
        let polls = watch.polls.load(Ordering::Acquire);
        if watch.polls_at_drive.swap(polls, Ordering::AcqRel) != polls {
            watch.lazy.store(1, Ordering::Release);
        }
        let returns = watch.returns.load(Ordering::Acquire);
        let calls = returns.wrapping_sub(watch.returns_at_drive.swap(returns, Ordering::AcqRel));
        let under_way = self.accepted().wrapping_sub(self.acked());
        if calls >= STREAMING && under_way >= self.tx.size() as u64 / 4 && self.readable() == 0 {
            watch.lazy.store(1, Ordering::Release);
        }
    }

    /// Tells the channel who watches its wire's descriptor, once, and arms it. (The node's relay watches level-triggered
    /// and needs none. A wire that need not be driven is watched always and never armed; its sleepers then rely on being
    /// woken when the peer dies.)
    pub fn set_watcher(&self, watcher: Arc<dyn Watcher>) {
        if self.watch.watcher.set(watcher).is_ok() {
            self.watch_on();
        }
    }

    /// Whether [`Channel::tick`] must be called about every millisecond. Asked by the watcher after each `drive` and
    /// `tick`.
    pub fn wants_tick(&self) -> bool {
        (self.watch.lazy.load(Ordering::Acquire) != 0 || self.wire.owes())
            && self.broken.get().is_none()
    }

    /// While the application always waits inside our calls, the watcher is not woken for each message: instead of
    /// arming it at every return, the channel asks for ticks, and a tick that finds nobody inside since the last one
    /// arms the watcher.
    pub fn tick(&self) {
        let returns = self.watch.returns.load(Ordering::Acquire);
        let quiet = self.watch.returns_at_tick.swap(returns, Ordering::AcqRel) == returns;
        if quiet && self.pilot.is_free() {
            self.watch.lazy.store(0, Ordering::Release);
            fence(Ordering::SeqCst);
            self.watch_on();
        }
        if quiet {
            self.settle();
        } else if self.watch.lazy.load(Ordering::Acquire) != 0
            && self.watch.read.swap(0, Ordering::Relaxed) == 0
        {
            // Calls come in and nobody watches: a sender that never finds the ring full does not read.
            self.drive_rx();
            // This was no reading of theirs: the next tick reads as well.
            self.watch.read.store(0, Ordering::Relaxed);
        }
    }

    /// Longest sleep of a thread inside.
    pub(super) fn longest_sleep(&self) -> Duration {
        match self.watch.watcher.get() {
            Some(_) => SLEEP,
            None => LOOK_AROUND,
        }
    }

    /// Everything that the wire can move now.
    pub(super) fn drive_both(&self) {
        self.drive_rx();
        if self.driven() {
            self.drive_tx();
        }
    }

    /// Unless another thread is the pilot: what is read from under its poll would not wake it, though it may be just what
    /// it waits for.
    fn drive_rx(&self) -> bool {
        self.drive_rx_as(&mut Pilot::none(self))
    }

    /// As [`Channel::drive_rx`], by a thread inside, which may be the pilot.
    pub(super) fn drive_rx_as(&self, pilot: &mut Pilot<'_>) -> bool {
        self.drive_rx_by(pilot, false)
    }

    /// The same where the caller looks again before it sleeps.
    pub(super) fn look_rx_as(&self, pilot: &mut Pilot<'_>) -> bool {
        self.drive_rx_by(pilot, true)
    }

    fn drive_rx_by(&self, pilot: &mut Pilot<'_>, again: bool) -> bool {
        let as_pilot = pilot.held;
        let (mut any, mut driven) = (false, false);
        let moved = self.driving_rx.run(|| {
            // The counterpart is in `fly`: of a pilot that goes to sleep and a driver that begins, one sees the other.
            fence(Ordering::SeqCst);
            if !as_pilot && !self.pilot.is_free() {
                return Ok(any);
            }
            driven = true;
            self.watch.read.store(1, Ordering::Relaxed);
            // Run once more for another thread, it must not forget what the first run moved.
            any |= match again {
                true => self.wire.look_rx(self, &mut pilot.direct)?,
                false => self.wire.drive_rx_into(self, &mut pilot.direct)?,
            };
            Ok(any)
        });
        let any = self.driven_to(moved);
        if driven && !as_pilot {
            // An answer of the wire's own may not have fitted.
            self.watch_for_room();
        }
        any
    }

    /// A look at a driven wire by a thread that spins.
    pub(super) fn spin_rx(&self, pilot: &mut Pilot<'_>) -> bool {
        if !self.driven() {
            return false;
        }
        for _ in 0..self.wire.ease() {
            std::hint::spin_loop();
        }
        self.look_rx_as(pilot)
    }

    /// For the pilot, who looks at [`Wire::interest`](super::Wire::interest) before it polls and when it leaves; others
    /// use [`Channel::drive_tx`].
    fn push_tx(&self) {
        let moved = self.driving_tx.run(|| self.wire.drive_tx(self));
        self.driven_to(moved);
    }

    pub(super) fn drive_tx(&self) {
        self.push_tx();
        self.watch_for_room();
    }

    /// After whatever may have filled the wire: whoever waits for the descriptor does not know yet that it must be
    /// writable. The thread that filled it says so, and not the one whose bytes they were: that one may have left them
    /// to a driver, and be gone.
    pub(super) fn watch_for_room(&self) {
        if !self.driven() || !self.wire.interest().write {
            return;
        }
        // The counterparts are in `fly` and `arm`.
        fence(Ordering::SeqCst);
        self.end_poll();
        let told = self.watch.state.compare_exchange(
            WATCH_ARMED,
            WATCH_ROOM,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if told.is_ok() {
            self.arm();
        }
    }

    /// Tells the local side what a drive did.
    fn driven_to(&self, moved: Option<Result<bool, Broken>>) -> bool {
        match moved {
            Some(Ok(true)) if self.driven() => {
                self.tell_local();
                true
            }
            Some(Ok(moved)) => moved,
            Some(Err(why)) => {
                if self.driven() {
                    // Bytes may have come just before the break.
                    self.tell_local();
                }
                if self.broken.get().is_none() {
                    self.fail(why);
                }
                false
            }
            None => false,
        }
    }

    /// The wire put bytes into `rx` or freed room in `tx`.
    fn tell_local(&self) {
        wake::publish(
            self.rx.receive_word(),
            self.rx.voucher(),
            || self.deliverable(),
            |force| {
                // The receiver may have been here since, and have use only for more now.
                let next = self.rx.next_unread().filter(|_| self.deliverable());
                ring(&*self.bell, next, self.rx.finished(), force)
            },
        );
        wake::freed(
            self.tx.space_word(),
            || worth_waking(self.tx.room().unwrap_or(0), self.tx.size()),
            || self.bell.open_writes(),
        );
    }

    /// Sleeps until something may have happened: as `pilot` in a poll of the wire's descriptor, else on `word`, which the
    /// peer writes, or another thread of ours that is the pilot.
    pub(super) fn sleep(
        &self,
        word: &AtomicU32,
        pilot: &mut Pilot<'_>,
        time: Duration,
        pending: impl Fn() -> bool,
    ) -> Slept {
        if pilot.held {
            return self.fly(pilot, time, &pending);
        }
        let wake_me = || pending() || (self.driven() && self.pilot.is_free());
        if !wake::lie_down(word, wake_me) {
            return Slept::Awake;
        }
        let woken = crate::via::sync::futex_wait(word, wake::FUTEX, time);
        wake::wake_up(word);
        match woken {
            crate::via::sync::Woken::Interrupted => return Slept::Interrupted,
            // Nobody may be watching the control connection for us.
            crate::via::sync::Woken::TimedOut if !self.driven() => {
                self.drive_rx_as(pilot);
            }
            _ => {}
        }
        Slept::Awake
    }

    /// The pilot's poll: the only one of this descriptor by a thread that waits inside.
    fn fly(&self, pilot: &mut Pilot<'_>, time: Duration, pending: &impl Fn() -> bool) -> Slept {
        let Some(kick) = &self.kick_event else {
            return Slept::Awake;
        };
        let interest = self.wire.interest();
        // After the interest was taken: whoever changes it or kicks from now on ends the poll. A thread that drives since
        // before we became the pilot may have in hand what we wait for.
        fence(Ordering::SeqCst);
        if !self.driving_rx.is_free() || pending() {
            return Slept::Awake;
        }
        if !interest.write
            && time >= SHORTEST_FOR_A_NAP
            && !std::mem::replace(&mut pilot.napped, true)
        {
            return self.nap(pilot);
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.read);
        flags.set(PollFlags::OUT, interest.write);
        let mut fds = [
            PollFd::from_borrowed_fd(self.wire.wait_fd(), flags),
            PollFd::new(kick, PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => return Slept::Interrupted,
            Ok(1..) => {
                if !fds[1].revents().is_empty() {
                    let _ = rustix::io::read(kick, &mut [0; 8]);
                }
                self.drive_rx_as(pilot);
                self.push_tx();
            }
            _ => {}
        }
        Slept::Awake
    }

    /// The pilot's first sleep.
    fn nap(&self, pilot: &mut Pilot<'_>) -> Slept {
        let mut any = false;
        let mut slept = None;
        let moved = self.driving_rx.run(|| {
            match slept {
                None => {
                    let awaited = self.wire.await_rx(self, &mut pilot.direct)?;
                    any |= awaited == Awaited::Moved;
                    slept = Some(match awaited {
                        Awaited::Interrupted => Slept::Interrupted,
                        _ => Slept::Awake,
                    });
                }
                // Once more, for another thread.
                Some(_) => any |= self.wire.drive_rx_into(self, &mut pilot.direct)?,
            }
            Ok(any)
        });
        self.driven_to(moved);
        self.push_tx();
        slept.unwrap_or(Slept::Awake)
    }

    /// Makes the pilot look at everything again.
    pub(super) fn end_poll(&self) {
        if let Some(kick) = &self.kick_event
            && !self.pilot.is_free()
        {
            let _ = rustix::io::write(kick, &1_u64.to_ne_bytes());
        }
    }

    /// A call came back from the wire.
    pub(super) fn came_back(&self) {
        self.watch.returns.fetch_add(1, Ordering::AcqRel);
    }

    /// A thread that spins before it polls the bell has found its bytes without the watcher.
    pub(super) fn found_by_spin(&self) {
        self.watch.polls.fetch_add(1, Ordering::AcqRel);
        self.came_back();
    }

    /// Sees to it that the watcher watches now: a thread goes to sleep in a poll of the bell, where only the watcher
    /// wakes it.
    pub(super) fn watch_now(&self) {
        let polls = self.watch.polls.load(Ordering::Acquire);
        self.watch.polls_at_drive.store(polls, Ordering::Release);
        self.watch.lazy.store(0, Ordering::Release);
        fence(Ordering::SeqCst);
        let watched = self.watch.watcher.get().is_some() && self.broken.get().is_none();
        if watched && self.watch.state.fetch_max(WATCH_ARMED, Ordering::AcqRel) < WATCH_ARMED {
            self.arm();
        }
    }

    /// Sees to it that the watcher watches, now or by the next tick.
    pub(super) fn watch_on(&self) {
        let watched = self.driven() && self.watch.watcher.get().is_some();
        if !watched || self.broken.get().is_some() {
            return;
        }
        self.came_back();
        if self.watch.lazy.load(Ordering::Acquire) != 0 {
            let _ = self.watch.state.compare_exchange(
                WATCH_OFF,
                WATCH_LATER,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        } else if self.watch.state.fetch_max(WATCH_ARMED, Ordering::AcqRel) < WATCH_ARMED {
            self.arm();
        }
        // It may have been armed before the pilot that leaves now filled the wire.
        self.watch_for_room();
    }

    fn arm(&self) {
        let Some(watcher) = self.watch.watcher.get() else {
            return;
        };
        loop {
            let room = self.watch.state.load(Ordering::Acquire) == WATCH_ROOM;
            let interest = self.wire.interest();
            watcher.arm(Interest {
                write: room || interest.write,
                ..interest
            });
            // Another thread may have told it to watch for room just before, and ours, which knew less, came last.
            fence(Ordering::SeqCst);
            if room || self.watch.state.load(Ordering::Acquire) != WATCH_ROOM {
                return;
            }
        }
    }
}
