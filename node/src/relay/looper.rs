//! One relay thread: an epoll loop over many sessions.
//!
//! The upstream socket and the channel's event descriptor are watched edge-triggered, the wire's descriptor
//! level-triggered (its driver stops after a bounded number of reads). A loop with nothing to do sleeps without a
//! time limit.

mod admit;
mod logins;
mod warm;

use super::session::{Session, Turn};
use super::{Command, Shared};
use crate::clock;
use crate::daemon::Message;
use crossbeam_channel::Receiver;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::info;
use vianet::via::{EndReason, Incoming, RejectReason};

/// How often sessions that wait for something without a descriptor are looked at.
const SOON: Duration = Duration::from_millis(5);
/// How long an acknowledgement waits for data that take it along.
const SETTLE: Duration = Duration::from_millis(3);
/// How long the SQL server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const UPSTREAM: u64 = 0;
const BELL: u64 = 1;
const WIRE: u64 = 2;
const WAKE: u64 = u64::MAX;

enum Slot {
    /// The SQL server is being connected; the client waits for our word.
    Connecting {
        incoming: Box<dyn Incoming>,
        index: usize,
        upstream: OwnedFd,
        until: Duration,
    },
    Open(Box<Session>),
}

pub(super) struct Looper {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    slots: HashMap<u64, Slot>,
    next: u64,
    /// Slots to be served in this pass.
    ready: BTreeSet<u64>,
    /// Slots to be looked at again after [`SOON`].
    soon: BTreeSet<u64>,
    /// Sessions whose acknowledgements are owed since.
    owing: HashMap<u64, Duration>,
    /// Whether the wire's descriptor is watched for writing.
    writing: BTreeSet<u64>,
    /// Logins under way, and those that wait.
    logins: logins::Logins,
}

impl Looper {
    pub(super) fn new(
        wake: Arc<OwnedFd>,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &*wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            epoll,
            wake,
            commands,
            shared,
            slots: HashMap::new(),
            next: 0,
            ready: BTreeSet::new(),
            soon: BTreeSet::new(),
            owing: HashMap::new(),
            writing: BTreeSet::new(),
            logins: logins::Logins::default(),
        })
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Its sessions would hang on a node that answers.
                Err(e) => panic!("epoll_wait of a relay thread: {e}"),
            }
            let mut woken = false;
            for event in &events {
                let data = event.data.u64();
                if data == WAKE {
                    woken = true;
                } else {
                    self.event(data, event.flags);
                }
            }
            if woken {
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
                while let Ok(command) = self.commands.try_recv() {
                    if !self.command(command) {
                        return;
                    }
                }
            }
            self.ready.append(&mut self.soon);
            let now = clock::now();
            for id in std::mem::take(&mut self.ready) {
                self.serve(id, now);
            }
            self.settle(now);
            self.let_logins_in(now);
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let wait = if !self.ready.is_empty() {
            Duration::ZERO
        } else if !self.owing.is_empty() {
            SETTLE
        } else if !self.soon.is_empty() || !self.logins.is_idle() {
            SOON
        } else {
            return None;
        };
        Some(Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    fn event(&mut self, data: u64, flags: epoll::EventFlags) {
        use epoll::EventFlags as F;
        let id = data >> 2;
        if let Some(Slot::Open(session)) = self.slots.get_mut(&id) {
            match data & 3 {
                UPSTREAM => {
                    session.up_in |= flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR);
                    session.up_out |= flags.intersects(F::OUT | F::HUP | F::ERR);
                }
                WIRE => session.wire_event = true,
                _ => {}
            }
        }
        self.ready.insert(id);
    }

    /// False: stop.
    fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Open { incoming, index } => self.open(incoming, index),
            Command::Resume { incoming, channel } => self.resume(incoming, channel),
            Command::Order { index } => self.tell_order(index),
            Command::Role { index } => self.hear_role(index),
            Command::End { index, reason } => self.end(index, reason),
            Command::Stop => return false,
        }
        true
    }

    fn tell_order(&self, index: usize) {
        let word = self.shared.served[index].order();
        for slot in self.slots.values() {
            if let Slot::Open(session) = slot
                && session.index == index
            {
                let said = session.word(word);
                session.channel.wire.say(&session.channel, said);
            }
        }
    }

    fn end(&mut self, index: usize, reason: EndReason) {
        let of = |slot: &Slot| match slot {
            Slot::Connecting { index, .. } => *index,
            Slot::Open(session) => session.index,
        };
        let ids: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, s)| of(s) == index)
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            match self.slots.remove(&id) {
                Some(Slot::Connecting { incoming, .. }) => {
                    self.logins.ended(id);
                    incoming.reject(RejectReason::NotActive);
                    self.shared.open.fetch_sub(1, Ordering::AcqRel);
                }
                Some(Slot::Open(session)) => {
                    session.channel.end(reason);
                    let why = match reason {
                        EndReason::NotActive => "not-active",
                        EndReason::UpstreamLost => "upstream-lost",
                        EndReason::Stopping => "stopping",
                        _ => "ended",
                    };
                    self.forget(id, *session, why);
                }
                None => {}
            }
        }
    }

    fn serve(&mut self, id: u64, now: Duration) {
        match self.slots.remove(&id) {
            None => {}
            Some(Slot::Connecting {
                incoming,
                index,
                upstream,
                until,
            }) => self.connecting(id, incoming, index, upstream, until, now),
            Some(Slot::Open(mut session)) => {
                let parked = session.parked_until.is_some();
                let held = session.is_held();
                let turn = session.turn(now);
                if !parked && session.parked_until.is_some() {
                    // A broken socket is readable for ever.
                    let _ = epoll::delete(&self.epoll, session.channel.wire.wait_fd());
                    self.writing.remove(&id);
                    let (server, channel) =
                        (&session.served.name, session.channel.accept.channel_id);
                    info!(
                        event = "channel-parked",
                        server, channel, "its transport broke; it may be resumed"
                    );
                }
                if session.has_new_standing() && session.served.tells_standings() {
                    let server = session.index;
                    self.shared.mail.send(Message::Standing { server });
                }
                if !held && session.is_held() {
                    self.shared.mail.send(Message::CheckHealth {
                        server: session.index,
                    });
                }
                if self.logins.counts(id) && session.has_logged_in() {
                    self.logins.ended(id);
                }
                match turn {
                    Turn::Over(why) => return self.forget(id, *session, why),
                    Turn::Again => _ = self.ready.insert(id),
                    Turn::Soon => _ = self.soon.insert(id),
                    Turn::Idle => {}
                }
                self.watch_wire(id, &session);
                if session.channel.wire.owes() {
                    self.owing.entry(id).or_insert(now);
                }
                self.slots.insert(id, Slot::Open(session));
            }
        }
    }

    fn watch_wire(&mut self, id: u64, session: &Session) {
        if session.parked_until.is_some() {
            return;
        }
        let write = session.channel.wire.interest().write;
        if write == self.writing.contains(&id) {
            return;
        }
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, write);
        let data = epoll::EventData::new_u64(id << 2 | WIRE);
        let _ = epoll::modify(&self.epoll, session.channel.wire.wait_fd(), data, flags);
        if write {
            self.writing.insert(id);
        } else {
            self.writing.remove(&id);
        }
    }

    fn settle(&mut self, now: Duration) {
        let due: Vec<u64> = self
            .owing
            .iter()
            .filter(|(_, at)| now >= **at + SETTLE)
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.owing.remove(&id);
            if let Some(Slot::Open(session)) = self.slots.get(&id) {
                session.channel.settle();
            }
        }
    }

    fn forget(&mut self, id: u64, session: Session, why: &str) {
        let channel = &session.channel;
        let channel_id = channel.accept.channel_id;
        info!(
            event = "channel-closed",
            server = session.served.name,
            channel = channel_id,
            peer = session.peer,
            reason = why,
            from_client = channel.consumed(),
            to_client = channel.accepted(),
            "over"
        );
        session.served.sessions.lock().remove(&channel_id);
        session.served.cancels.ended(channel_id);
        if let Some(desk) = &session.served.desk {
            desk.end(channel_id);
        }
        self.shared.loops.lock().remove(&channel_id);
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        self.logins.ended(id);
        self.owing.remove(&id);
        self.writing.remove(&id);
        let fds = [session.upstream.as_fd(), channel.wire.wait_fd()];
        for fd in fds.into_iter().chain(channel.bell.fd()) {
            let _ = epoll::delete(&self.epoll, fd);
        }
        session.hang_up();
    }
}
