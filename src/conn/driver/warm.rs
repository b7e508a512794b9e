//! The session beforehand (`warm_sessions`): while it is at rest, it is made on the standby of the passive node too, and waits there.
//! When its server is lost and that node has become active, the connection goes on with it in the place of a new login.
//!
//! Nothing is concluded from its being there: the node says on its channel that it is active now, and the session is asked for,
//! compared and made up for as one that has just logged in ([`Mover::again`]). Whatever is not as it should be, it is dropped, and
//! the session moves as ever.

use super::attempt::begin;
use super::session_move::carry;
use super::ticket::Renewal;
use super::*;
use crate::resolve::ticket::{Held, Key, Place, Why};
use crate::session::postgres::arrival::Arrival;
use crate::session::postgres::{Mover, Progress, Warm as Made};
use crate::via::bell::AppBell;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// How often answers are looked for while it is made, while nodes are asked, and while there is nothing to do it with.
const LOOK: Duration = Duration::from_millis(1);
const ASKING_LOOK: Duration = Duration::from_millis(10);
const IDLE_LOOK: Duration = Duration::from_millis(250);
/// How often one that waits is looked after; no oftener is it made what the session has become.
const WAITING_LOOK: Duration = Duration::from_secs(1);
/// How long each attempt to connect, and the making, may take.
const CONNECT: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(10);
/// The pause after one that came to nothing: at first, and ever longer up to this.
const SOON: Duration = Duration::from_millis(500);
const LATER: Duration = Duration::from_secs(30);
/// At a failover: how often it is looked whether the node has said that it is active, and for how long.
const CALLED_LOOK: Duration = Duration::from_micros(250);
const CALLED: Duration = Duration::from_millis(250);
/// Where no session is.
const NOWHERE: (u64, u64) = (0, 0);

/// See the module's text.
#[derive(Default)]
pub(super) struct Warm {
    stage: Stage,
    due: Option<Duration>,
    /// The last pause.
    pause: Duration,
    /// By which another one logs in: a ticket is honoured once in a generation, and the session's own was.
    ticket: Option<Held>,
    /// What was made beforehand on the channel that stands now.
    pub(super) used: Option<Made>,
}

#[derive(Default)]
enum Stage {
    #[default]
    None,
    Connecting(Coming),
    /// `None`: once the session is at rest.
    Making(Box<Seat>, Option<Box<Mover>>, Duration),
    Waiting(Box<Seat>),
    /// The failover leads there: whether the node is active is waited for.
    Called(Box<Seat>, Call),
}

struct Coming {
    connecting: Box<dyn Connecting>,
    endpoint: Endpoint,
    until: Duration,
    key: Option<Arc<Key>>,
    bell: Option<Arc<AppBell>>,
    to: Passive,
}

/// A passive node.
struct Passive {
    node: String,
    from: SocketAddr,
    untried: VecDeque<Endpoint>,
    why: String,
}

/// A channel to a passive node.
struct Seat {
    channel: Channel,
    endpoint: Endpoint,
    key: Option<Arc<Key>>,
    bell: Option<Arc<AppBell>>,
    from: SocketAddr,
    /// What it logs in by.
    by: Option<Held>,
    made: Option<Made>,
    /// Where the session was when it was looked whether that is the same.
    at: (u64, u64),
    renewal: Renewal,
}

struct Call {
    min_generation: Generation,
    generation: Generation,
    until: Duration,
}

impl Driver {
    /// When [`Driver::see_to_warm`] wants to be called.
    pub(super) fn warm_due(&self) -> Option<Duration> {
        self.warm.due.filter(|_| !self.ended)
    }

    /// Another server carries the session: what was made beforehand for the loss of the one before is of no use.
    pub(super) fn begin_warm(&mut self, todo: &mut Todo<'_>) {
        self.drop_warm(todo.set);
        todo.standbys.leave(self.conn.id);
        let wanted = self.conn.wants_warm();
        self.conn.set_warm(if wanted { "pending" } else { "off" });
        self.warm = Warm {
            due: wanted.then_some(todo.now + IDLE_LOOK),
            ..Warm::default()
        };
    }

    /// Ends what there is.
    pub(super) fn drop_warm(&mut self, set: Set<'_>) {
        match std::mem::take(&mut self.warm.stage) {
            Stage::None => {}
            Stage::Connecting(coming) => set.forget(coming.connecting.wait_fd()),
            Stage::Making(mut seat, ..) | Stage::Waiting(mut seat) | Stage::Called(mut seat, _) => {
                let next = seat.renewal.held.take().or(seat.by.take());
                self.warm.ticket = next.or(self.warm.ticket.take());
                seat.channel.end(EndReason::Closed);
            }
        }
    }

    /// What is due.
    pub(super) fn see_to_warm(&mut self, todo: &mut Todo<'_>) {
        if self.warm.due.is_none_or(|due| todo.now < due) {
            return;
        }
        self.warm.due = None;
        if let Stage::Called(..) = self.warm.stage {
            return self.look_whether_active(todo);
        }
        let stands = self.machine.state() == State::Established && self.unused.is_none();
        // A forked process would keep the channel open.
        let alone = !self.conn.control.forked.load(Ordering::Acquire) && self.linger.is_none();
        if !stands || !alone {
            let waits = matches!(self.warm.stage, Stage::Waiting(_));
            if !(waits && alone) {
                self.drop_warm(todo.set);
                self.conn.set_warm("pending");
            }
            self.warm.due = Some(todo.now + WAITING_LOOK);
            return;
        }
        match std::mem::take(&mut self.warm.stage) {
            Stage::None => self.look_for_standby(todo),
            Stage::Connecting(coming) if todo.now < coming.until => {
                self.warm.due = Some(coming.until);
                self.warm.stage = Stage::Connecting(coming);
            }
            Stage::Connecting(coming) => {
                todo.set.forget(coming.connecting.wait_fd());
                self.connect_warm(todo, coming.to);
            }
            Stage::Making(seat, mover, until) => self.make(todo, seat, mover, until),
            Stage::Waiting(seat) => self.look_after(todo, seat),
            Stage::Called(..) => {}
        }
    }

    /// Nothing came of it; the word is for `vianet_info`, the text for the log.
    fn stay_cold(&mut self, todo: &mut Todo<'_>, word: &'static str, why: &str) {
        self.drop_warm(todo.set);
        if self.conn.set_warm(word) {
            let name = &self.conn.name;
            crate::log!(log::Level::Info, "conn", "{name}: warm: no ({word}): {why}");
        }
        todo.standbys.leave(self.conn.id);
        let most = match word {
            // That costs one question for all.
            "no_standby" => WAITING_LOOK,
            _ => LATER,
        };
        let pause = (self.warm.pause * 2).clamp(SOON, most);
        self.warm.pause = pause;
        // Not all connections of a process at the same moment.
        self.warm.due = Some(todo.now + pause + pause * (self.conn.id % 8) as u32 / 16);
    }

    fn look_for_standby(&mut self, todo: &mut Todo<'_>) {
        self.warm.due = Some(todo.now + IDLE_LOOK);
        let pending = self.conn.login() == Some(Why::Pending);
        let plan = self.conn.plan_at_rest(NOWHERE).filter(|_| !pending);
        let Some((plan, _)) = plan else {
            return;
        };
        if plan.state.times_out() {
            return self.stay_cold(
                todo,
                "idle_session_timeout",
                "the server ends idle sessions",
            );
        }
        let (name, config) = (&self.conn.name, &self.conn.config);
        let Some(cluster) = name.cluster_config(config) else {
            return;
        };
        let id = self.machine.answer().and_then(|answer| answer.cluster_id);
        let seen = self.machine.generation();
        match (todo.standbys).find(name, (cluster, id), seen, todo.now) {
            Poll::Pending => self.warm.due = Some(todo.now + ASKING_LOOK),
            Poll::Ready(Err(report)) => self.stay_cold(todo, "no_standby", &report),
            Poll::Ready(Ok(answer)) => self.meet(todo, answer),
        }
    }

    fn meet(&mut self, todo: &mut Todo<'_>, answer: Answer) {
        let until = todo.now + CONNECT + LONGEST;
        if !todo.standbys.enter(self.conn.id, todo.now, until) {
            // Its turn comes.
            return;
        }
        let Some(from) = answer.from else {
            return;
        };
        let of = |t: Transport| answer.endpoints.iter().filter(move |e| e.transport == t);
        let usable = (self.conn.transports.iter()).filter(|t| **t != Transport::Plain);
        let untried = usable.flat_map(|t| of(*t)).copied().collect();
        let to = Passive {
            node: answer.node,
            from,
            untried,
            why: "offers no transport that is allowed".into(),
        };
        self.connect_warm(todo, to);
    }

    fn connect_warm(&mut self, todo: &mut Todo<'_>, mut to: Passive) {
        let Some(endpoint) = to.untried.pop_front() else {
            let why = format!("{}: {}", to.node, to.why);
            return self.stay_cold(todo, "unreachable", &why);
        };
        let key = match self.conn.pinned {
            Some(_) => Key::generate().ok().map(Arc::new),
            None => None,
        };
        let bell = self.conn.bell.lock().clone();
        let begun = begin(ConnectRequest {
            server: self.conn.name.server.clone(),
            node: to.node.clone(),
            endpoint,
            min_generation: self.machine.generation(),
            patient: true,
            warm: true,
            pinned: self.conn.pinned,
            tls: self.conn.tls(),
            shm_dir: self.conn.config.shm_dir.clone(),
            ring_bytes: self.conn.config.ring_bytes,
            bell: bell.clone(),
            resume: None,
            nonce: key.as_ref().map(|key| key.commitment()),
        });
        match begun {
            Ok(connecting) => {
                let until = todo.now + CONNECT;
                self.warm.stage = Stage::Connecting(Coming {
                    connecting,
                    endpoint,
                    until,
                    key,
                    bell,
                    to,
                });
                self.warm.due = Some(until);
                self.advance_warm(todo);
            }
            Err(error) => self.not_connected(todo, to, error),
        }
    }

    fn not_connected(&mut self, todo: &mut Todo<'_>, mut to: Passive, error: ConnectError) {
        let (name, node) = (&self.conn.name, &to.node);
        crate::log!(log::Level::Debug, "conn", "{name}: warm: {node}: {error:?}");
        match error {
            ConnectError::Rejected(crate::via::RejectReason::Busy) => {
                let why = format!("{} lets no more sessions wait", to.node);
                self.stay_cold(todo, "busy", &why);
            }
            ConnectError::Rejected(reason) => {
                let why = format!("{}: {reason:?}", to.node);
                self.stay_cold(todo, "rejected", &why);
            }
            other => {
                to.why = format!("{other:?}");
                self.connect_warm(todo, to);
            }
        }
    }

    /// Its connect is ready to go on.
    pub fn advance_warm(&mut self, todo: &mut Todo<'_>) {
        let Stage::Connecting(mut coming) = std::mem::take(&mut self.warm.stage) else {
            return;
        };
        todo.set.forget(coming.connecting.wait_fd());
        let channel = match coming.connecting.advance() {
            Poll::Pending => {
                let (fd, interest) = (coming.connecting.wait_fd(), coming.connecting.interest());
                todo.set
                    .watch(fd, Token::Warm(self.conn.id), interest, false);
                self.warm.stage = Stage::Connecting(coming);
                return;
            }
            Poll::Ready(Err(error)) => return self.not_connected(todo, coming.to, error),
            Poll::Ready(Ok(channel)) => channel,
        };
        if self.machine.state() != State::Established {
            channel.end(EndReason::Closed);
            return;
        }
        let seat = Box::new(Seat {
            channel,
            endpoint: coming.endpoint,
            key: coming.key,
            bell: coming.bell,
            from: coming.to.from,
            by: None,
            made: None,
            at: (0, 0),
            renewal: Renewal::default(),
        });
        self.make(todo, seat, None, todo.now + LONGEST);
    }

    /// Makes the session there, or makes it what it has become.
    fn make(
        &mut self,
        todo: &mut Todo<'_>,
        mut seat: Box<Seat>,
        mover: Option<Box<Mover>>,
        until: Duration,
    ) {
        if todo.now >= until {
            self.warm.stage = Stage::Making(seat, None, until);
            return self.stay_cold(todo, "slow", "it takes too long");
        }
        let Some(mut mover) = mover.or_else(|| self.begin_to_make(todo.now, &mut seat)) else {
            self.warm.stage = Stage::Making(seat, None, until);
            self.warm.due = Some(todo.now + ASKING_LOOK);
            return;
        };
        let progress = loop {
            match carry(&mut mover, &seat.channel) {
                Ok((Progress::More, true)) => {}
                Ok((progress, _)) => break progress,
                Err(broken) => break Progress::Again(format!("{broken:?}")),
            }
        };
        match progress {
            Progress::More => {
                self.warm.stage = Stage::Making(seat, Some(mover), until);
                self.warm.due = Some(todo.now + LOOK);
            }
            Progress::Done(made) => {
                if self.conn.set_warm("") {
                    let (name, node) = (&self.conn.name, &seat.channel.accept.node);
                    crate::log!(log::Level::Info, "conn", "{name}: warm: yes, on {node}");
                }
                todo.standbys.leave(self.conn.id);
                seat.made = Some(made.into());
                seat.by = None;
                seat.renewal.begin(todo.now);
                self.warm.pause = Duration::ZERO;
                self.warm.stage = Stage::Waiting(seat);
                self.warm.due = Some(todo.now + LOOK);
            }
            Progress::Again(why) => {
                self.warm.stage = Stage::Making(seat, None, until);
                self.stay_cold(todo, "lost", &why);
            }
            Progress::Refused(reason, why) => {
                let made_before = seat.renewal.has_begun();
                // It is not honoured.
                seat.by = None;
                self.warm.stage = Stage::Making(seat, None, until);
                self.stay_cold(todo, reason.name(), &why);
                if made_before {
                    // It has become something that only a new one can be.
                    self.warm.pause = Duration::ZERO;
                    self.warm.due = Some(todo.now + SOON);
                }
            }
        }
    }

    fn begin_to_make(&mut self, now: Duration, seat: &mut Seat) -> Option<Box<Mover>> {
        let (plan, at) = self.conn.plan_at_rest(NOWHERE)?;
        seat.at = at;
        let packet = &plan.record.packet;
        let made = seat.made.take();
        if made.is_none() {
            seat.by = self.warm.ticket.take();
        }
        let mut first = match &seat.by {
            Some(held) => {
                let place = Place::new(&seat.channel.accept, &self.conn.name.server);
                held.redemption(&place, packet)
            }
            // Without a ticket the server is asked as any client asks, and may let the session in.
            None => {
                let redemption = self.redemption(now, &seat.channel.accept, packet);
                redemption.unwrap_or_else(|_| packet.clone())
            }
        };
        // Requests to cancel must reach it. How it gets there nobody knows yet.
        let arrival = Arrival {
            moves: self.conn.control.failovers.load(Ordering::Acquire) as u32 + 1,
            parts: Default::default(),
            key: plan.record.key.clone(),
        };
        first.splice(..0, arrival.packet());
        Some(Box::new(Mover::beforehand(plan, first, made, self.conn.id)))
    }

    /// One that waits: whether it is still there, is still the same, and could log in again.
    fn look_after(&mut self, todo: &mut Todo<'_>, mut seat: Box<Seat>) {
        let _ = seat.channel.drive();
        let end = match seat.channel.broken() {
            None => (seat.channel.rx.finished()).then(|| "the server has ended it".to_owned()),
            Some(broken) => Some(format!("{broken:?}")),
        };
        if let Some(why) = end {
            self.warm.stage = Stage::Waiting(seat);
            return self.stay_cold(todo, "lost", &why);
        }
        let channel = seat.channel.accept.channel_id;
        let next = match (&seat.key, &self.conn.pinned) {
            (Some(key), Some(pinned)) => {
                let server = &self.conn.name.server;
                (seat.renewal).look(todo.now, pinned, key, (server, channel, seat.from))
            }
            _ => None,
        };
        let later = todo.now + WAITING_LOOK;
        self.warm.due = Some(next.map_or(later, |next| next.min(later)));
        if let Some((plan, at)) = self.conn.plan_at_rest(seat.at) {
            seat.at = at;
            let fits = seat.made.as_ref().is_some_and(|made| made.fits(&plan));
            if !fits {
                return self.make(todo, seat, None, todo.now + LONGEST);
            }
        }
        self.warm.stage = Stage::Waiting(seat);
    }

    /// The failover leads to this endpoint: whether what waits there is to be used. If not, it is connected as ever.
    pub(super) fn call_warm(
        &mut self,
        todo: &mut Todo<'_>,
        endpoint: Endpoint,
        min_generation: Generation,
    ) -> bool {
        // A forked process has a copy of what waits.
        let forked = self.conn.control.forked.load(Ordering::Acquire);
        if forked || self.machine.state() != State::FailingOver {
            return false;
        }
        let Some(answer) = self.machine.answer() else {
            return false;
        };
        let bell = self.conn.bell.lock().clone();
        let fits = |seat: &Seat| {
            let accept = &seat.channel.accept;
            let same_bell = match (&seat.bell, &bell) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            };
            seat.endpoint == endpoint
                && accept.node == answer.node
                && answer.cluster_id == Some(accept.cluster_id)
                && answer.generation > accept.generation
                && same_bell
                && seat.made.is_some()
        };
        let call = Call {
            min_generation,
            generation: answer.generation,
            until: todo.now + CALLED,
        };
        match std::mem::take(&mut self.warm.stage) {
            Stage::Waiting(seat) if fits(&seat) => {
                self.warm.stage = Stage::Called(seat, call);
                self.look_whether_active(todo);
                true
            }
            other => {
                self.warm.stage = other;
                false
            }
        }
    }

    fn look_whether_active(&mut self, todo: &mut Todo<'_>) {
        let Stage::Called(seat, call) = std::mem::take(&mut self.warm.stage) else {
            return;
        };
        let _ = seat.channel.drive();
        let broken = seat.channel.broken();
        if broken.is_none() && seat.channel.wire.told() != 0 {
            let mut seat = *seat;
            let node = seat.channel.accept.node.clone();
            // It was passive until this one began, and ends all channels when that does.
            seat.channel.accept.generation = call.generation;
            self.owns(seat.key);
            self.warm.used = seat.made;
            self.fresh = Some(Arc::new(seat.channel));
            let generation = call.generation;
            return self.event(todo, Event::ChannelUp { node, generation });
        }
        if broken.is_none() && todo.now < call.until {
            self.warm.stage = Stage::Called(seat, call);
            self.warm.due = Some(todo.now + CALLED_LOOK);
            return;
        }
        let why = broken.map_or("the node has not called it".into(), |b| format!("{b:?}"));
        let (name, endpoint) = (&self.conn.name, seat.endpoint);
        crate::log!(log::Level::Info, "conn", "{name}: warm: not used: {why}");
        seat.channel.end(EndReason::Closed);
        self.connect(todo, endpoint, call.min_generation, Purpose::Connect);
    }

    /// What was called is not waited for any more.
    pub(super) fn abandon_warm(&mut self, set: Set<'_>) {
        self.warm.used = None;
        if let Stage::Called(..) = self.warm.stage {
            self.drop_warm(set);
        }
    }
}
