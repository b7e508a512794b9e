//! Login tickets in the main loop: the keys' age and exchange, and the owners of channels who ask for theirs.

use crate::clock;
use crate::config::Node;
use crate::role::Now;
use crate::served::Served;
use crate::ticket::Tickets;
use crate::ticket::desk::{Desk, Step};
use crate::ticket::exchange::{Exchange, Parties};
use crate::ticket::seal::EpochKey;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;
use vianet::resolve::identity::{SecretKey, random_bytes};
use vianet::resolve::ticket::{Ask, Given, TYPE_ASK, TYPE_KEY_ASK, TYPE_KEYS_GIVEN, Why};
use vianet::resolve::wire::datagram_type;

/// How often what nobody asks for is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Whether datagrams of this type are for here.
pub(super) fn is_ours(kind: u8) -> bool {
    matches!(kind, TYPE_ASK | TYPE_KEY_ASK | TYPE_KEYS_GIVEN)
}

/// See the module's text.
pub(super) struct Desks {
    pub(super) shared: Arc<Tickets>,
    served: Vec<Arc<Served>>,
    key: Option<SecretKey>,
    /// With the other node, where there is one and tickets are on.
    exchange: Option<Exchange>,
    look: Duration,
}

impl Desks {
    pub(super) fn new(config: &Node, key: Option<&SecretKey>, served: &[Arc<Served>]) -> Self {
        let desks = served.iter().filter_map(|s| s.desk.as_ref());
        let redeems: Vec<_> = desks.map(Desk::digest).collect();
        let parties = |key: &SecretKey| {
            let peer = config.peers.first().filter(|_| !redeems.is_empty())?;
            Some(Parties {
                node: config.node.clone(),
                cluster: config.cluster_id_bytes(),
                key: key.clone(),
                peer: peer.node.clone(),
                addr: peer.query,
                redeems: redeems.clone(),
            })
        };
        Self {
            shared: Arc::new(Tickets::new(config.cluster_id_bytes())),
            served: served.to_vec(),
            exchange: key.and_then(parties).map(Exchange::new),
            key: key.cloned(),
            look: Duration::ZERO,
        }
    }

    /// The other node is lost.
    pub(super) fn peer_lost(&self) {
        self.shared.epochs.lock().lost();
    }

    /// Time passed: a datagram for the other node, now and then.
    pub(super) fn tick(&mut self, now: Now) -> Option<(SocketAddr, Vec<u8>)> {
        if now.at >= self.look {
            self.look = now.at + LOOK;
            let desks = self.served.iter().filter_map(|s| s.desk.as_ref());
            desks.for_each(|desk| desk.tick(now.at));
        }
        let exchange = self.exchange.as_mut()?;
        let mut epochs = self.shared.epochs.lock();
        if epochs.tick(now.at) {
            match (random_bytes(), random_bytes()) {
                (Ok(id), Ok(key)) => {
                    epochs.add(now.at, EpochKey::new(u64::from_ne_bytes(id), key));
                }
                _ => warn!(event = "tickets", "no random numbers: no new key"),
            }
        }
        if !exchange.is_due(now.at) {
            return None;
        }
        let random = random_bytes().ok()?;
        exchange.ask(now.at, now.wall_ms, &epochs, &random)
    }

    /// A datagram came; the answer, if any, goes back by the same socket. `allow`: whether its sender may have one now.
    pub(super) fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &[u8],
        allow: &mut dyn FnMut() -> bool,
    ) -> Option<Vec<u8>> {
        if datagram_type(datagram) != Some(TYPE_ASK) {
            let exchange = self.exchange.as_mut()?;
            let mut epochs = self.shared.epochs.lock();
            let random = random_bytes().ok()?;
            return exchange.receive((now.at, now.wall_ms), from, datagram, &mut epochs, &random);
        }
        // Before the signature, which takes time to check.
        let key = self.key.as_ref().filter(|_| allow())?;
        let ask = Ask::parse(datagram).ok()?;
        let served = self.served.iter().find(|s| s.name == ask.server)?;
        let step = Step {
            now: now.at,
            now_ms: clock::wall_ms(),
            random: random_bytes().ok()?,
        };
        let given = match &served.desk {
            Some(desk) => desk.answer(&self.shared, &ask, &step),
            None => Given::Not(Why::Off),
        };
        ask.answer(&given, key).ok()
    }
}
