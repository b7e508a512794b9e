//! Channels that come: connects and resumptions under way, and the one that is put to use.

use super::*;
use crate::resolve::ticket::Why;
use crate::via::Tls;

pub(super) struct Attempt {
    connecting: Box<dyn Connecting>,
    endpoint: Endpoint,
    kind: Kind,
}

/// What a connect is for.
pub(super) enum Purpose {
    Connect,
    Resume(Resume),
    Scout,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Resume,
    Scout,
}

impl Attempt {
    pub(super) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.connecting.wait_fd()
    }
}

/// Begins a connect, by whatever transport.
pub(super) fn begin(request: ConnectRequest) -> Result<Box<dyn Connecting>, ConnectError> {
    let transport = request.endpoint.transport;
    let in_clear = matches!(transport, Transport::Rdma | Transport::Plain);
    match transports::provider(transport) {
        Ok(_) if in_clear && request.tls == Tls::Require => Err(ConnectError::Unavailable(
            "not encrypted, and tls = \"require\"".into(),
        )),
        Ok(provider) => provider.connect(request),
        Err(why) => Err(ConnectError::Unavailable(why)),
    }
}

impl Driver {
    /// A connect in progress is ready to go on.
    pub fn advance(&mut self, todo: &mut Todo<'_>) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        // It may go on with another descriptor: what is watched is brought up to date around the step.
        todo.set.forget(attempt.wait_fd());
        let outcome = match attempt.kind {
            Kind::Scout => attempt
                .connecting
                .scout()
                .map(|stands| stands.map(|()| None)),
            _ => attempt.connecting.advance().map(|made| made.map(Some)),
        };
        match outcome {
            Poll::Pending => {
                let (fd, interest) = (attempt.wait_fd(), attempt.connecting.interest());
                todo.set
                    .watch(fd, Token::Connecting(self.conn.id), interest, false);
            }
            Poll::Ready(outcome) => {
                let attempt = self.attempt.take().expect("looked at above");
                drop(attempt.connecting);
                self.connected(todo, attempt.endpoint.transport, attempt.kind, outcome);
            }
        }
    }

    fn connected(
        &mut self,
        todo: &mut Todo<'_>,
        transport: Transport,
        kind: Kind,
        outcome: Result<Option<Channel>, ConnectError>,
    ) {
        let event = match outcome {
            Ok(Some(channel)) => {
                let (node, generation) = (channel.accept.node.clone(), channel.accept.generation);
                self.fresh = Some(Arc::new(channel));
                if let (Kind::Resume, Some(old)) = (kind, &self.current) {
                    // If it works: it was left for a better path, and from here on nobody uses it.
                    old.fail(Broken::Transport("left for a better path".into()));
                }
                match kind {
                    Kind::Resume => Event::Resumed,
                    _ => Event::ChannelUp { node, generation },
                }
            }
            Ok(None) => Event::PathStands {
                quiet: self.may_return(),
            },
            Err(error) => {
                crate::log!(
                    log::Level::Debug,
                    "conn",
                    "{}: {transport}: {error:?}",
                    self.conn.name
                );
                self.failed(transport, error, kind)
            }
        };
        self.event(todo, event);
    }

    fn failed(&mut self, transport: Transport, error: ConnectError, kind: Kind) -> Event {
        let resume = kind == Kind::Resume;
        let (event, why) = match error {
            ConnectError::Rejected(reason) => {
                let unknown = reason == crate::via::RejectReason::UnknownChannel;
                let event = match resume && unknown {
                    true => Event::ResumeRefused,
                    false => Event::Rejected(reason),
                };
                (event, format!("rejected: {reason:?}"))
            }
            ConnectError::Unavailable(why) => (Event::ConnectFailed { refused: false }, why),
            ConnectError::Failed(why) => {
                let refused = why.contains("refused");
                (Event::ConnectFailed { refused }, why)
            }
            ConnectError::NotAuthentic(why) => (Event::VerifyFailed, why),
        };
        if kind == Kind::Scout {
            // The channel in use is none the worse for it.
            return event;
        }
        if resume {
            // Until the next attempt what has arrived can be read.
            self.release_reads();
        }
        self.tried.retain(|(t, _)| *t != transport);
        self.tried.push((transport, why.clone()));
        self.why = format!("{transport}: {why}");
        event
    }

    pub(super) fn connect(
        &mut self,
        todo: &mut Todo<'_>,
        endpoint: Endpoint,
        min_generation: Generation,
        purpose: Purpose,
    ) {
        let Some(answer) = self.machine.answer().cloned() else {
            return;
        };
        if matches!(purpose, Purpose::Connect) && self.call_warm(todo, endpoint, min_generation) {
            return;
        }
        let nonce = match purpose {
            Purpose::Connect => self.new_ticket_key(endpoint.transport),
            _ => None,
        };
        let conn = &self.conn;
        let (kind, resume) = match purpose {
            Purpose::Connect => (Kind::Connect, None),
            Purpose::Resume(resume) => (Kind::Resume, Some(resume)),
            Purpose::Scout => (Kind::Scout, None),
        };
        // Nobody accepts a plain connection: it has the generation of the answer that led to it.
        let min_generation = match endpoint.transport {
            Transport::Plain => min_generation.max(answer.generation),
            _ => min_generation,
        };
        let request = ConnectRequest {
            server: conn.name.server.clone(),
            node: answer.node.clone(),
            endpoint,
            min_generation,
            patient: self.queued && !self.told_wanted,
            warm: false,
            pinned: conn.pinned,
            tls: conn.tls(),
            shm_dir: conn.config.shm_dir.clone(),
            ring_bytes: conn.config.ring_bytes,
            bell: conn.bell.lock().clone(),
            resume,
            nonce,
        };
        match begin(request) {
            Ok(connecting) => {
                let (fd, interest) = (connecting.wait_fd(), connecting.interest());
                todo.set
                    .watch(fd, Token::Connecting(conn.id), interest, false);
                self.attempt = Some(Attempt {
                    connecting,
                    endpoint,
                    kind,
                });
                self.advance(todo);
            }
            Err(error) => self.connected(todo, endpoint.transport, kind, Err(error)),
        }
    }

    pub(super) fn resume(&mut self, todo: &mut Todo<'_>, endpoint: Endpoint) {
        let Some(old) = self.current.clone() else {
            return;
        };
        self.reads_owed = false;
        if !self.conn.hold_calls() {
            // Later, within the time that the machine gives this endpoint.
            self.resume_owed = Some(endpoint);
            return;
        }
        let resume = Resume {
            channel_id: old.accept.channel_id,
            secret: old.accept.resume_secret,
            old,
        };
        let generation = self.machine.generation();
        self.connect(todo, endpoint, generation, Purpose::Resume(resume));
    }

    /// Whether the path that the channel left stands again; only where that could be made use of.
    pub(super) fn scout(&mut self, todo: &mut Todo<'_>, endpoint: Endpoint) {
        if !self.may_return() {
            let _ = self.machine.handle(todo.now, Event::NotQuiet);
            return;
        }
        let generation = self.machine.generation();
        self.connect(todo, endpoint, generation, Purpose::Scout);
    }

    /// Whether the channel in use, which works, may be left for a better path now. Not where a forked process may have it: that
    /// one could not follow.
    fn may_return(&self) -> bool {
        let shared = self.conn.control.forked.load(Ordering::Acquire);
        self.unused.is_none() && !self.back_owed && !shared && self.conn.is_quiet()
    }

    /// The better path could not be had: the calls go on with the channel in use, once no thread is inside.
    pub(super) fn go_back(&mut self, todo: &mut Todo<'_>) {
        self.back_owed = true;
        self.come_back(todo);
    }

    pub(super) fn come_back(&mut self, todo: &mut Todo<'_>) {
        let Some(channel) = self.current.clone() else {
            return;
        };
        if !self.back_owed || !self.conn.reopen(&channel) {
            return;
        }
        self.back_owed = false;
        self.reads_owed = false;
        self.level_owed = None;
        self.tried.clear();
        self.why.clear();
        self.watch_wire(todo, &channel);
        self.watch_session_again(todo);
        // What happened while nobody watched; and it is watched again.
        self.wire_ready(todo);
        if self.linger.is_some() {
            self.linger = Some(todo.now + LINGER);
            self.say_goodbye(todo);
        }
    }

    pub(super) fn abandon(&mut self, todo: &mut Todo<'_>) {
        todo.queries.leave(self.conn.id);
        self.resume_owed = None;
        self.drop_mover();
        self.abandon_warm(todo.set);
        if let Some(attempt) = self.attempt.take() {
            todo.set.forget(attempt.wait_fd());
            if attempt.kind != Kind::Scout {
                let why = format!("no answer of {} in time", attempt.endpoint.addr);
                self.tried.push((attempt.endpoint.transport, why));
            }
        }
        if let Some(fresh) = self.fresh.take() {
            fresh.end(EndReason::Closed);
        }
        self.release_reads();
    }

    /// Ends what [`Driver::resume`] began, now or when it can. Not where the channel that the calls know was carried on
    /// already: what they would read there comes again.
    pub(super) fn release_reads(&mut self) {
        self.reads_owed = self.unused != Some(true) && !self.conn.release_reads();
    }

    pub(super) fn establish(&mut self, todo: &mut Todo<'_>) {
        let Some(fresh) = self.fresh.take() else {
            return;
        };
        let mut same_stream = self.machine.state() == State::Established
            && self.current.is_some()
            && self.restored.take().is_none();
        if let Some(before) = self.unused.take() {
            // What the calls know is the channel before that.
            same_stream &= before;
        }
        if let Some(old) = self.current.take() {
            todo.set.forget(old.wire.wait_fd());
        }
        let transport = fresh.wire.transport();
        {
            let mut slow = self.conn.slow.lock();
            slow.node = fresh.accept.node.clone();
            slow.answer = self.machine.answer().cloned();
            slow.endpoint = self.machine.endpoint();
            slow.why_not_better = self.why_not_better(transport);
        }
        if same_stream {
            self.conn.control.resumptions.fetch_add(1, Ordering::AcqRel);
        }
        // A node that shares memory sees that the process is gone for good.
        if matches!(transport, Transport::Rdma | Transport::Tcp) {
            leaving::watch(&self.conn);
        }
        self.watch_wire(todo, &fresh);
        self.current = Some(fresh);
        self.unused = Some(same_stream);
        // Those of the node before.
        todo.probes.remove(self.conn.id, todo.set);
        self.put_to_use(todo);
    }

    /// Lets the calls use the channel that was established, once no thread is inside.
    pub(super) fn put_to_use(&mut self, todo: &mut Todo<'_>) {
        let (Some(same_stream), Some(fresh)) = (self.unused, self.current.clone()) else {
            return;
        };
        // A channel that broke meanwhile is carried on instead.
        let stands = self.machine.state() == State::Established;
        if !same_stream {
            // Before anybody can look at the new one.
            self.conn.set_login(Some(Why::Pending));
        }
        self.forget_switchover();
        let moved = &mut self.session.moved;
        let has_moved = moved.is_some();
        if !stands || !self.conn.install(&fresh, same_stream, moved) {
            return;
        }
        if has_moved {
            fresh.wire.say(&fresh, crate::via::switchover::GOES_ON);
        }
        let transport = fresh.wire.transport();
        let how = match (transport, fresh.wire.is_private()) {
            (Transport::Tcp, true) => ", encrypted",
            (Transport::Tcp, false) => ", in clear",
            _ => "",
        };
        self.unused = None;
        self.level_owed = None;
        if !same_stream {
            self.own_ticket(todo.now);
            self.begin_warm(todo);
        }
        self.watch_session_again(todo);
        todo.probes.add(
            self.conn.id,
            &self.conn,
            self.machine.answer(),
            todo.now,
            todo.set,
        );
        let (name, node) = (&self.conn.name, self.conn.slow.lock().node.clone());
        crate::log!(
            log::Level::Info,
            "conn",
            "{name}: connected to {node} over {transport}{how}"
        );
        self.tried.clear();
        if self.failed_at.is_none() {
            self.why.clear();
        }
        // The application may have shut its end before there was a channel.
        self.look(todo);
        if self.linger.is_some() {
            self.linger = Some(todo.now + LINGER);
            self.say_goodbye(todo);
        }
    }

    /// Why no transport before `used` in the order of preference is in use.
    fn why_not_better(&self, used: Transport) -> String {
        let better = self.conn.wanted.iter().take_while(|t| **t != used);
        let reasons: Vec<String> = better.filter_map(|t| self.why_not(*t)).collect();
        reasons.join("; ")
    }

    /// Why none of the transports that are wanted could be used.
    pub(super) fn why_none(&self) -> String {
        let wanted = self.conn.wanted.iter();
        let reasons: Vec<String> = wanted.filter_map(|t| self.why_not(*t)).collect();
        reasons.join("; ")
    }

    /// Why this transport is not in use; `None` if that is not known: the node was lost before it was tried.
    fn why_not(&self, transport: Transport) -> Option<String> {
        let tried = self.tried.iter().find(|(tried, _)| *tried == transport);
        let answer = self.machine.answer();
        let offers = |a: &Answer| a.endpoints.iter().any(|e| e.transport == transport);
        let why = match tried {
            Some((_, why)) => why,
            None if !self.conn.transports.contains(&transport) => "not allowed by the options",
            None if answer.is_some_and(|a| !offers(a)) => "not offered by the node",
            None => return None,
        };
        Some(format!("{transport}: {why}"))
    }
}
