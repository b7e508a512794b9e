//! From a connect request to a session: the SQL server is connected first, then the client is accepted; and a broken
//! channel is carried on by its client's next one.

use super::super::session::{Session, Ticketing};
use super::super::upstream;
use super::{BELL, CONNECT_LIMIT, Looper, Slot, UPSTREAM, WIRE};
use crate::clock;
use crate::control::SessionStatus;
use crate::daemon::Message;
use crate::served::Served;
use rustix::event::epoll;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{info, warn};
use vianet::resolve::identity::random_bytes;
use vianet::via::{Accept, Channel, Incoming, RejectReason};

impl Looper {
    pub(super) fn begin(&mut self, incoming: Box<dyn Incoming>, index: usize) {
        let served = &self.shared.served[index];
        let id = self.next;
        self.next += 1;
        let begun = upstream::begin(&served.config).and_then(|socket| {
            use epoll::EventFlags as F;
            let flags = F::IN | F::OUT | F::RDHUP | F::ET;
            let data = epoll::EventData::new_u64(id << 2 | UPSTREAM);
            epoll::add(&self.epoll, &socket, data, flags).map_err(|e| format!("epoll: {e}"))?;
            Ok(socket)
        });
        match begun {
            Ok(upstream) => {
                let until = clock::now() + CONNECT_LIMIT;
                let slot = Slot::Connecting {
                    incoming,
                    index,
                    upstream,
                    until,
                };
                self.slots.insert(id, slot);
                self.count_login(id, index);
                // So that its time limit is seen.
                self.soon.insert(id);
            }
            Err(why) => self.refuse(incoming, index, &why),
        }
    }

    fn refuse(&self, incoming: Box<dyn Incoming>, index: usize, why: &str) {
        let served = &self.shared.served[index];
        let (server, peer, upstream) = (&served.name, incoming.peer(), &served.config.upstream);
        warn!(event = "upstream-refused", server, %peer, %upstream, why, "no connection to the SQL server");
        incoming.reject(RejectReason::UpstreamRefused);
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        self.shared
            .mail
            .send(Message::CheckHealth { server: index });
    }

    pub(super) fn connecting(
        &mut self,
        id: u64,
        incoming: Box<dyn Incoming>,
        index: usize,
        upstream: OwnedFd,
        until: Duration,
        now: Duration,
    ) {
        if rustix::net::getpeername(&upstream).is_err() {
            let failed = match upstream::finish(&upstream) {
                Err(why) => Some(why),
                Ok(()) if now >= until => Some("connect: no answer in time".into()),
                Ok(()) => None,
            };
            match failed {
                Some(why) => {
                    self.logins.ended(id);
                    self.refuse(incoming, index, &why);
                }
                None => {
                    let slot = Slot::Connecting {
                        incoming,
                        index,
                        upstream,
                        until,
                    };
                    self.slots.insert(id, slot);
                    self.soon.insert(id);
                }
            }
            return;
        }
        let served = Arc::clone(&self.shared.served[index]);
        let admitted = self.admits(&*incoming, index, served.may_serve(now));
        let (generation, waiting) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.logins.ended(id);
                incoming.reject(reason);
                self.shared.open.fetch_sub(1, Ordering::AcqRel);
                return;
            }
        };
        let peer = incoming.peer();
        let ticketing = (self.shared.lookups[index].as_ref())
            .map(|lookup| Ticketing::new(&self.shared.tickets, lookup, incoming.nonce()));
        let accepted = self.new_accept(generation).and_then(|accept| {
            let channel_id = accept.channel_id;
            // Before the client hears of it: its connection may be cut and carried on before we are back here. What it asks
            // then waits for us.
            let index = self.shared_index();
            self.shared.loops.lock().insert(channel_id, index);
            let made = incoming.accept(accept, None).and_then(|channel| {
                self.watch_channel(id, &channel)?;
                Ok(channel)
            });
            if made.is_err() {
                self.shared.loops.lock().remove(&channel_id);
            }
            made
        });
        let channel = match accepted {
            Ok(channel) => channel,
            Err(e) => {
                self.logins.ended(id);
                self.shared.open.fetch_sub(1, Ordering::AcqRel);
                warn!(event = "accept-failed", server = served.name, peer, error = %e, "no channel");
                return;
            }
        };
        let (channel_id, transport) = (channel.accept.channel_id, channel.wire.transport());
        info!(
            event = "channel-open",
            server = served.name,
            channel = channel_id,
            %transport,
            peer,
            generation,
            warm = waiting.is_some(),
            "accepted"
        );
        served.accepted.fetch_add(1, Ordering::Relaxed);
        let status = SessionStatus {
            channel: channel_id,
            transport: transport.to_string(),
            peer: peer.clone(),
            since_ms: clock::wall_ms(),
            warm: waiting.is_some(),
            program: program(&peer),
            ..SessionStatus::default()
        };
        served.sessions.lock().insert(channel_id, status);
        channel.activate();
        say_order(&served, &channel);
        let session = Session::new(
            served,
            index,
            channel,
            upstream,
            peer,
            Arc::clone(&self.shared.node),
            self.shared.resume,
        )
        .with_tickets(ticketing)
        .waiting(waiting);
        self.slots.insert(id, Slot::Open(Box::new(session)));
        self.ready.insert(id);
    }

    fn shared_index(&self) -> usize {
        self.shared.index_of(&self.wake)
    }

    fn new_accept(&self, generation: u64) -> std::io::Result<Accept> {
        let id: [u8; 8] = random_bytes().map_err(std::io::Error::other)?;
        Ok(Accept {
            node: self.shared.node.to_string(),
            generation,
            cluster_id: self.shared.cluster_id,
            channel_id: u64::from_ne_bytes(id),
            resume_secret: random_bytes().map_err(std::io::Error::other)?,
            authentic: false,
        })
    }

    fn watch_channel(&mut self, id: u64, channel: &Channel) -> std::io::Result<()> {
        let data = |kind| epoll::EventData::new_u64(id << 2 | kind);
        let add = |fd: BorrowedFd<'_>, kind, flags| epoll::add(&self.epoll, fd, data(kind), flags);
        if let Some(bell) = channel.bell.fd() {
            add(bell, BELL, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        }
        self.add_wire(id, channel)
    }

    fn add_wire(&mut self, id: u64, channel: &Channel) -> std::io::Result<()> {
        let data = epoll::EventData::new_u64(id << 2 | WIRE);
        let fd = channel.wire.wait_fd();
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?;
        self.writing.remove(&id);
        Ok(())
    }

    /// Carries a broken channel on; also one whose break we have not noticed yet.
    pub(super) fn resume(&mut self, incoming: Box<dyn Incoming>, channel_id: u64) {
        let found = self.slots.iter().find_map(|(&id, slot)| match slot {
            Slot::Open(session) if session.channel.accept.channel_id == channel_id => Some(id),
            _ => None,
        });
        let Some((id, Slot::Open(mut session))) =
            found.and_then(|id| Some((id, self.slots.remove(&id)?)))
        else {
            return incoming.reject(RejectReason::UnknownChannel);
        };
        let served = Arc::clone(&session.served);
        let (server, peer) = (&served.name, incoming.peer());
        let accept = session.channel.accept.clone();
        let refused = if !incoming.proves(&accept.resume_secret) {
            Some(RejectReason::NotAuthorised)
        } else if !session.may_go_on(incoming.is_private()) {
            Some(RejectReason::NotEncrypted)
        } else if !session.resumable() {
            Some(RejectReason::UnknownChannel)
        } else if served.active() != Some(accept.generation) {
            Some(RejectReason::NotActive)
        } else if !served.may_serve(clock::now()) {
            // Its lease is renewed soon, or it will be told that it is not active any more: then it says so.
            Some(RejectReason::Busy)
        } else {
            None
        };
        if let Some(reason) = refused {
            warn!(
                event = "resume-refused",
                server,
                channel = channel_id,
                peer,
                ?reason,
                "not resumed"
            );
            self.slots.insert(id, Slot::Open(session));
            return incoming.reject(reason);
        }
        let _ = epoll::delete(&self.epoll, session.channel.wire.wait_fd());
        let fresh = incoming
            .accept(accept, Some(&session.channel))
            .and_then(|channel| {
                self.watch_channel(id, &channel)?;
                Ok(channel)
            });
        match fresh {
            Ok(channel) => {
                channel.activate();
                say_order(&served, &channel);
                session.resumed(channel);
                info!(
                    event = "channel-resumed",
                    server,
                    channel = channel_id,
                    peer,
                    "goes on"
                );
            }
            Err(e) => {
                warn!(event = "resume-refused", server, channel = channel_id, peer, error = %e, "not resumed");
                // A client whose channel works goes back to it.
                let works = session.channel.broken().is_none();
                if !(works && self.add_wire(id, &session.channel).is_ok()) {
                    session
                        .parked_until
                        .get_or_insert(clock::now() + session.resume);
                }
            }
        }
        self.slots.insert(id, Slot::Open(session));
        self.ready.insert(id);
    }
}

/// The name of the program of a client on this machine. (Another process may have its number by now: it is only shown.)
fn program(peer: &str) -> Option<String> {
    let (_, pid) = peer.split_once(" pid ")?;
    let pid: u32 = pid.parse().ok()?;
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// A client that comes in the middle of a switchover hears of it.
fn say_order(served: &Served, channel: &Channel) {
    match served.order() {
        0 => {}
        word => channel.wire.say(channel, word),
    }
}
