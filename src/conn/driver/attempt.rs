//! Channels that come: connects and resumptions under way, and the one that is put to use.

use super::*;

pub(super) struct Attempt {
    pub(super) connecting: Box<dyn Connecting>,
    pub(super) endpoint: Endpoint,
    pub(super) resume: bool,
}

impl Driver {
    /// A connect in progress is ready to go on.
    pub fn advance(&mut self, todo: &mut Todo<'_>) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        // It may go on with another descriptor: what is watched is brought up to date around the step.
        todo.set.forget(attempt.connecting.wait_fd());
        match attempt.connecting.advance() {
            Poll::Pending => {
                let (fd, interest) = (attempt.connecting.wait_fd(), attempt.connecting.interest());
                todo.set
                    .watch(fd, Token::Connecting(self.conn.id), interest, false);
            }
            Poll::Ready(outcome) => {
                let attempt = self.attempt.take().expect("looked at above");
                drop(attempt.connecting);
                self.connected(todo, attempt.endpoint.transport, attempt.resume, outcome);
            }
        }
    }

    fn connected(
        &mut self,
        todo: &mut Todo<'_>,
        transport: Transport,
        resume: bool,
        outcome: Result<Channel, ConnectError>,
    ) {
        let event = match outcome {
            Ok(channel) => {
                let (node, generation) = (channel.accept.node.clone(), channel.accept.generation);
                self.fresh = Some(Arc::new(channel));
                match resume {
                    true => Event::Resumed,
                    false => Event::ChannelUp { node, generation },
                }
            }
            Err(error) => {
                crate::log!(
                    log::Level::Debug,
                    "conn",
                    "{}: {transport}: {error:?}",
                    self.conn.name
                );
                self.failed(transport, error, resume)
            }
        };
        self.event(todo, event);
    }

    fn failed(&mut self, transport: Transport, error: ConnectError, resume: bool) -> Event {
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
        if resume {
            // Until the next attempt what has arrived can be read.
            self.conn.release_reads();
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
        resume: Option<Resume>,
    ) {
        let Some(answer) = self.machine.answer().cloned() else {
            return;
        };
        let conn = &self.conn;
        let resuming = resume.is_some();
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
            pinned: conn.pinned,
            shm_dir: conn.config.shm_dir.clone(),
            ring_bytes: conn.config.ring_bytes,
            bell: conn.bell.lock().clone(),
            resume,
        };
        let begun = match transports::provider(endpoint.transport) {
            Ok(provider) => provider.connect(request),
            Err(why) => Err(ConnectError::Unavailable(why)),
        };
        match begun {
            Ok(connecting) => {
                let (fd, interest) = (connecting.wait_fd(), connecting.interest());
                todo.set
                    .watch(fd, Token::Connecting(conn.id), interest, false);
                self.attempt = Some(Attempt {
                    connecting,
                    endpoint,
                    resume: resuming,
                });
                self.advance(todo);
            }
            Err(error) => self.connected(todo, endpoint.transport, resuming, Err(error)),
        }
    }

    pub(super) fn resume(&mut self, todo: &mut Todo<'_>, endpoint: Endpoint) {
        let Some(old) = self.current.clone() else {
            return;
        };
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
        self.connect(todo, endpoint, generation, Some(resume));
    }

    pub(super) fn abandon(&mut self, todo: &mut Todo<'_>) {
        todo.queries.leave(self.conn.id);
        self.resume_owed = None;
        if let Some(attempt) = self.attempt.take() {
            todo.set.forget(attempt.connecting.wait_fd());
        }
        if let Some(fresh) = self.fresh.take() {
            fresh.end(EndReason::Closed);
        }
        self.conn.release_reads();
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
            slow.why_not_better = self.why_not_better(transport);
        }
        if same_stream {
            self.conn.control.resumptions.fetch_add(1, Ordering::AcqRel);
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
        let (Some(same_stream), Some(fresh)) = (self.unused, &self.current) else {
            return;
        };
        // A channel that broke meanwhile is carried on instead.
        let stands = self.machine.state() == State::Established;
        if !stands || !self.conn.install(fresh, same_stream) {
            return;
        }
        let transport = fresh.wire.transport();
        self.unused = None;
        self.level_owed = None;
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
            "{name}: connected to {node} over {transport}"
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
