//! One connection on the I/O thread: carries out what its failover machine decides, and tells the machine what happens
//! to its descriptor (`ending`), its channel (`wire`), its connects (`attempt`) and queries; `moving` is what a failover
//! asks of the open stream.

mod adoption;
mod attempt;
mod ending;
mod moving;
mod session_move;
mod switchover;
mod ticket;
mod times;
mod warm;
mod wire;

pub use ending::give_up;
pub use times::Times;

use super::connection::Conn;
use super::probes::Probes;
use super::queries::Queries;
use super::reactor::{Set, Token, WireWatcher};
use super::standbys::Standbys;
use super::turnstile::Turnstile;
use super::{Phase, events, fork, leaving, losses, transports};
use crate::config::RawFailover;
use crate::error::{Error, Kind};
use crate::failover::{Action, Event, Loss, Machine, Notice, Policy, State};
use crate::log;
use crate::resolve::{Answer, Endpoint, Generation};
use crate::session::raw::Movable;
use crate::via::channel::Channel;
use crate::via::{
    Broken, ConnectError, ConnectRequest, Connecting, EndReason, Interest, Resume, Transport,
};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use attempt::{Attempt, Purpose};
use ending::LINGER;

/// How often a channel is looked at whose end is near: it lingers, or the application ended its direction.
const ENDING_TICK: Duration = Duration::from_millis(25);
/// How often what a thread inside a call is in the way of is tried again. A try takes a few milliseconds at most.
const OWED_TICK: Duration = Duration::from_millis(20);

/// What a driver may use during one step.
pub struct Todo<'a> {
    /// The time of this step.
    pub now: Duration,
    /// The epoll set.
    pub set: Set<'a>,
    /// Queries under way.
    pub queries: &'a mut Queries,
    /// Probes of nodes in use.
    pub probes: &'a mut Probes,
    /// Who moves when.
    pub turnstile: &'a mut Turnstile,
    /// Where sessions may wait.
    pub standbys: &'a mut Standbys,
}

/// Whether the descriptor is writable.
enum Level {
    Blocked,
    Open,
}

/// See the module's text.
pub struct Driver {
    conn: Arc<Conn>,
    machine: Machine,
    /// When the reactor calls again; kept by the reactor.
    pub due: Option<Duration>,
    attempt: Option<Attempt>,
    /// Stands, and is not in use yet.
    fresh: Option<Arc<Channel>>,
    current: Option<Arc<Channel>>,
    /// What was tried in vain, and why.
    tried: Vec<(Transport, String)>,
    /// The text that belongs to the last failure.
    why: String,
    /// What the query had heard when it was given up.
    heard: Option<(Loss, String)>,
    failed_at: Option<Duration>,
    /// Of the failover under way.
    clock: times::Clock,
    /// The application closed; until when its bytes are still delivered over a channel that stands. One that broke is
    /// carried on within the machine's deadline, and the time begins anew.
    linger: Option<Duration>,
    far_watched: bool,
    /// What another login takes.
    tickets: ticket::Tickets,
    /// What is done for the session above the bytes.
    session: session_move::Session,
    /// The session on the other node's standby.
    warm: warm::Warm,
    /// What is done for a switchover that the node has announced.
    switchover: switchover::Heeded,
    /// The channel that comes is another stream: the session was restored on another server.
    restored: Option<()>,
    /// `current` is not known to the calls yet: a thread was inside. Whether it carries the stream that they know.
    unused: Option<bool>,
    /// It is in the turnstile, or its turn.
    queued: bool,
    /// The machine knows that the application waits.
    told_wanted: bool,
    /// The descriptor is not as it should be yet, for the same reason.
    level_owed: Option<Level>,
    /// Nor is it known whether the stream may move.
    undecided: bool,
    /// Nor could the session's protocol have its last word; what the calls are told otherwise.
    last_words: Option<Error>,
    /// Nor has the resumption over this endpoint begun.
    resume_owed: Option<Endpoint>,
    /// Nor may the calls receive again after one that came to nothing.
    reads_owed: bool,
    /// Nor do they go on with the channel in use after a return that came to nothing.
    back_owed: bool,
    /// The application's side has ended; its bytes may still be read.
    ended: bool,
    over: bool,
}

impl Driver {
    /// A driver that does nothing yet.
    pub fn new(conn: Arc<Conn>) -> Self {
        let cluster = conn.name.cluster_config(&conn.config);
        let mut policy = match cluster {
            Some(cluster) => Policy::new(&conn.config, cluster),
            // The name was parsed against this configuration.
            None => unreachable!("a name has a configured cluster"),
        };
        policy.transports = conn.transports.clone();
        policy.deadline = conn.deadline;
        let machine = Machine::new(policy, conn.id ^ fork::process_token() << 20);
        Self {
            conn,
            machine,
            due: None,
            attempt: None,
            fresh: None,
            current: None,
            tried: Vec::new(),
            why: String::new(),
            heard: None,
            failed_at: None,
            clock: times::Clock::default(),
            linger: None,
            far_watched: false,
            tickets: ticket::Tickets::default(),
            session: session_move::Session::default(),
            warm: warm::Warm::default(),
            switchover: switchover::Heeded::default(),
            restored: None,
            unused: None,
            queued: false,
            told_wanted: false,
            level_owed: None,
            undecided: false,
            last_words: None,
            resume_owed: None,
            reads_owed: false,
            back_owed: false,
            ended: false,
            over: false,
        }
    }

    /// Begins a connect.
    pub fn start(&mut self, todo: &mut Todo<'_>) {
        self.watch_far(todo);
        self.event(todo, Event::Start);
    }

    fn watch_far(&mut self, todo: &Todo<'_>) {
        if let Some(bell) = &*self.conn.bell.lock() {
            let far = rustix::fd::AsFd::as_fd(&bell.far);
            todo.set
                .watch(far, Token::Far(self.conn.id), Interest::default(), false);
            self.far_watched = true;
        }
    }

    fn unwatch_far(&mut self, todo: &Todo<'_>) {
        if std::mem::take(&mut self.far_watched)
            && let Some(bell) = &*self.conn.bell.lock()
        {
            todo.set.forget(rustix::fd::AsFd::as_fd(&bell.far));
        }
    }

    fn owned(&self) -> bool {
        self.conn.control.owner.load(Ordering::Acquire) == fork::process_token()
    }

    /// Looks at what no event tells: a process that shares the connection died, or was stopped, in the
    /// middle of something.
    pub fn look_around(&self) {
        if let Some(channel) = self.current.as_ref().filter(|_| self.owned()) {
            channel.wire.look_around();
        }
    }

    /// Whether somebody uses the descriptor without the library; see [`Conn::pump`] and [`Conn::absorb`].
    pub fn pump(&self) -> bool {
        self.far_watched && self.owned() && (self.conn.pump() | self.conn.absorb())
    }

    /// A query has ended; `report` is what each node said, `found` when the one that counts said it.
    pub fn answered(
        &mut self,
        todo: &mut Todo<'_>,
        event: Event,
        report: String,
        found: Option<Duration>,
    ) {
        self.clock.resolves(found, todo.now);
        // During a failover the reason for it is of more interest.
        if matches!(event, Event::NotResolved(_)) && self.failed_at.is_none() {
            self.why = report;
        }
        self.tell(todo, event);
    }

    /// A probe has found something out.
    pub fn tell(&mut self, todo: &mut Todo<'_>, event: Event) {
        if self.owned() && !self.ended {
            self.event(todo, event);
        }
    }

    /// Time.
    pub fn on_timeout(&mut self, todo: &mut Todo<'_>) {
        if self.owned() {
            self.catch_up(todo);
        }
        if self.ended || !self.owned() {
            return;
        }
        self.see_to_ticket(todo.now);
        self.see_to_session(todo);
        self.see_to_warm(todo);
        self.heed(todo);
        if self.linger.is_some() && self.machine.state() == State::Established {
            return self.linger_on(todo);
        }
        if self.may_end() && self.has_ended() {
            return self.event(todo, Event::Closed);
        }
        let due = self.machine.poll_timeout();
        if due.is_some_and(|due| due <= todo.now) {
            self.machine.handle_timeout(todo.now);
        }
    }

    /// When [`Driver::on_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let machine = self.machine.poll_timeout();
        let near_end = self.ended || self.linger.is_some() || self.may_end();
        let ending = near_end.then(|| super::now() + ENDING_TICK);
        let owed = self.unused.is_some()
            || self.level_owed.is_some()
            || self.undecided
            || self.last_words.is_some()
            || self.resume_owed.is_some()
            || self.reads_owed
            || self.back_owed
            || self.conn.followed.owes();
        let owed = owed.then(|| super::now() + OWED_TICK);
        let ticket = self.ticket_due();
        let session = self.session_due();
        let switchover = self.switchover_due();
        let warm = self.warm_due();
        let all = [machine, ending, owed, ticket, session, switchover, warm];
        all.into_iter().flatten().min()
    }

    fn event(&mut self, todo: &mut Todo<'_>, event: Event) {
        let word = match event {
            Event::NodeLost => "the node does not answer",
            Event::NodeResigned => "the node is not active any more",
            _ => "",
        };
        match event {
            Event::NodeLost => {
                let heard = todo.probes.heard(self.conn.id);
                self.clock.last_sign(heard.unwrap_or(todo.now));
            }
            Event::NodeResigned | Event::ChannelBroken => self.clock.last_sign(todo.now),
            Event::ChannelUp { .. } => self.clock.connects(todo.now),
            _ => {}
        }
        if !word.is_empty() {
            self.failed_at.get_or_insert(todo.now);
            if self.why.is_empty() {
                self.why = word.into();
            }
        }
        crate::log!(log::Level::Debug, "conn", "{}: {event:?}", self.conn.name);
        if let Err(illegal) = self.machine.handle(todo.now, event) {
            crate::log!(log::Level::Debug, "conn", "{}: {illegal}", self.conn.name);
        }
        self.act(todo);
    }

    /// Carries out what the machine has decided.
    pub fn act(&mut self, todo: &mut Todo<'_>) {
        while let Some(action) = self.machine.poll_action() {
            crate::log!(log::Level::Debug, "conn", "{}: {action:?}", self.conn.name);
            match action {
                Action::ReadCache => {
                    let event = todo.queries.read_cache(&self.conn.name, todo.now);
                    let _ = self.machine.handle(todo.now, event);
                }
                Action::PurgeCache { generation } => {
                    todo.queries.purge(&self.conn.name, generation, todo.now);
                }
                Action::Query { min_generation } => {
                    let conn = &self.conn;
                    let asked = todo
                        .queries
                        .ask(conn.id, conn, min_generation, todo.now, todo.set);
                    if let Err(error) = asked {
                        self.lose(todo, Some(error));
                        let _ = self.machine.handle(todo.now, Event::Closed);
                    }
                }
                Action::Connect {
                    endpoint,
                    min_generation,
                } => self.connect(todo, endpoint, min_generation, Purpose::Connect),
                Action::Queue => self.queue(todo),
                Action::Resume { endpoint } => self.resume(todo, endpoint),
                Action::Scout { endpoint } => self.scout(todo, endpoint),
                Action::Abandon => {
                    self.heard = todo.queries.heard(self.conn.id);
                    self.abandon(todo);
                }
                Action::Probe => todo.probes.probe_now(self.conn.id, todo.now),
                Action::Establish => self.establish(todo),
                Action::Suspend => {
                    if let Some(channel) = &self.current {
                        todo.set.forget(channel.wire.wait_fd());
                    }
                    self.back_owed = false;
                    self.conn.suspend();
                    self.owe_level(Level::Blocked);
                }
                Action::GoBack => self.go_back(todo),
                Action::Restore => self.restore(todo),
                Action::Lose(loss) => {
                    let loss = match (loss, self.heard.take()) {
                        (Loss::NobodyAnswered, Some((better, report))) => {
                            self.why = report;
                            better
                        }
                        (loss, _) => loss,
                    };
                    let stood = self.conn.control.phase() != Phase::Connecting;
                    if loss == Loss::Unreachable && !stood {
                        self.why = self.why_none();
                    }
                    let error = losses::error(loss, stood, &self.conn.name, &self.why);
                    match error {
                        Some(error) if stood => self.lose_session(todo, error),
                        error => self.lose(todo, error),
                    }
                }
                Action::Tell(notice) => self.notice(todo, notice),
            }
        }
        self.give_turn_back(todo);
    }

    /// Whether the reactor may forget it.
    pub fn is_over(&self) -> bool {
        self.over
    }
}
