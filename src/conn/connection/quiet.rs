//! Whether the open stream may move to another server (DESIGN section 9).

use super::*;
use crate::config;
use crate::via::Tls;

impl Conn {
    /// Whether the open stream could move now. For the I/O thread while suspended, or for reports.
    pub fn movable(&self) -> Movable {
        let channel = self.channel();
        let mut observer = RawObserver::default();
        observer.sent(self.control.sent_here.load(Ordering::Acquire) as usize);
        let asked_at = self.control.asked_at.load(Ordering::Acquire);
        let read_to = channel.as_ref().map_or(0, |channel| channel.consumed());
        let answered = channel.as_ref().is_none_or(|channel| {
            let before = self.control.quiet_at.load(Ordering::Acquire);
            let exact = channel.wire.answered();
            exact.is_none_or(|to| to.max(before) >= channel.accepted())
        });
        observer.received((read_to > asked_at && answered).into());
        observer.movable(channel.map_or(0, |channel| channel.acked()))
    }

    /// Nothing is on its way in either direction, as far as is known here, and nothing is waited for.
    pub fn is_quiet(&self) -> bool {
        // Part of a message that is held back is not read.
        let come = self.channel().map_or(0, |channel| channel.come());
        self.readable() == 0 && come == 0 && self.movable() == Movable::Yes
    }

    /// What was sent has had no answer yet.
    pub fn is_waiting(&self) -> bool {
        self.movable() != Movable::Yes
    }

    /// The channel in use is about to be replaced: a wire knows only of answers that came over itself.
    pub(super) fn keep_quiet(&self, same_stream: bool) {
        let quiet = same_stream && self.movable() == Movable::Yes;
        let accepted = self.channel().map_or(0, |channel| channel.accepted());
        let at = if quiet { accepted } else { 0 };
        self.control.quiet_at.store(at, Ordering::Release);
    }

    /// The application is about to send: what has arrived before is no answer to it, whenever it is read. Returns what
    /// was noted at the send before. The caller holds the send direction's lock.
    pub(super) fn asks(&self, channel: &Channel) -> u64 {
        let arrived = channel.rx.tail().unwrap_or_else(|_| channel.rx.head());
        self.control.asked_at.swap(arrived, Ordering::Relaxed)
    }

    /// What to do with the open stream when its server is lost.
    pub fn raw_failover(&self) -> RawFailover {
        self.setting(|server| server.raw_failover, |cluster| cluster.raw_failover)
    }

    /// Whether what leaves the host is to be encrypted.
    pub fn tls(&self) -> Tls {
        self.setting(|_| None, |cluster| cluster.tls)
    }

    /// What the configuration says for this server name, or else for its cluster.
    pub(super) fn setting<T: Default>(
        &self,
        of_server: impl Fn(&config::Server) -> Option<T>,
        of_cluster: impl Fn(&config::Cluster) -> T,
    ) -> T {
        let Some(cluster) = self.name.cluster_config(&self.config) else {
            return T::default();
        };
        let server = cluster.server(&self.name.server);
        server
            .and_then(of_server)
            .unwrap_or_else(|| of_cluster(cluster))
    }
}
