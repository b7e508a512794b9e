use super::*;
use proptest::prelude::*;
use vianet::resolve::ticket::Why;

struct Node {
    exchange: Exchange,
    epochs: Epochs,
    addr: SocketAddr,
    steps: u8,
}

impl Node {
    fn new(n: u8, key: u8) -> Self {
        let name = |n: u8| format!("node-{n}");
        let addr = |n: u8| SocketAddr::from(([10, 0, 0, n], 1434));
        let who = Parties {
            node: name(n),
            cluster: [9; 16],
            key: SecretKey::from_seed([key; 32]),
            peer: name(3 - n),
            addr: addr(3 - n),
            redeems: vec![ServerDigest::of(&format!("Server-{n}"))],
        };
        let mut epochs = Epochs::default();
        epochs.add(Duration::ZERO, EpochKey::new(n.into(), [n; 32]));
        Self {
            exchange: Exchange::new(who),
            epochs,
            addr: addr(n),
            steps: 10 * n,
        }
    }

    fn random(&mut self) -> Random {
        self.steps += 1;
        [self.steps; 64]
    }

    fn ask(&mut self, ms: u64) -> Vec<u8> {
        let random = self.random();
        let now = Duration::from_millis(ms);
        let asked = self.exchange.ask(now, ms, &self.epochs, &random);
        asked.unwrap().1
    }

    fn hear(&mut self, ms: u64, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let random = self.random();
        let now = Duration::from_millis(ms);
        self.exchange
            .receive((now, ms), from, datagram, &mut self.epochs, &random)
    }

    /// For what the other node redeems.
    fn seals(&self, ms: u64) -> Option<u64> {
        let peers = if self.exchange.who.node == "node-1" {
            "server-2"
        } else {
            "server-1"
        };
        self.seals_for(ms, peers).ok()
    }

    fn seals_for(&self, ms: u64, server: &str) -> Result<u64, Why> {
        let now = Duration::from_millis(ms);
        let key = self.epochs.sealing(now, ServerDigest::of(server));
        key.map(|key| key.id)
    }
}

fn nodes() -> (Node, Node) {
    (Node::new(1, 7), Node::new(2, 7))
}

#[test]
fn keys_go_over_and_the_giver_learns_that_they_did() {
    let (mut a, mut b) = nodes();
    let ask = b.ask(1000);
    let given = a.hear(1001, b.addr, &ask).unwrap();
    assert!(!given.windows(32).any(|w| w == [1; 32]), "in clear");
    assert_eq!(a.seals(1001), None);
    assert_eq!(b.hear(1002, a.addr, &given), None);
    assert!(b.epochs.find(1).is_some_and(|k| *k.bytes() == [1; 32]));
    // At once it asks again, and says what it has.
    assert!(b.exchange.is_due(Duration::from_millis(1002)));
    let ask = b.ask(1002);
    assert_eq!(a.hear(1003, b.addr, &ask), None, "it has everything");
    assert_eq!(a.seals(1003), Some(1));
    assert_eq!(b.seals(1003), None, "a has not asked");
    assert_eq!(a.seals_for(1003, "server-1"), Err(Why::PeerOff));
}

#[test]
fn what_is_sent_again_says_nothing() {
    let (mut a, mut b) = nodes();
    let first = b.ask(1000);
    let given = a.hear(1000, b.addr, &first).unwrap();
    b.hear(1000, a.addr, &given);
    let second = b.ask(1001);
    a.hear(1001, b.addr, &second);
    assert_eq!(a.seals(1001), Some(1));
    // An old request does not take back what the other node has.
    assert_eq!(a.hear(1002, b.addr, &first), None);
    assert_eq!(a.seals(1002), Some(1));
    // Nor does its "I have it" bring it back: b was restarted and has nothing.
    let third = Node::new(2, 7).ask(1003);
    assert!(a.hear(1003, b.addr, &third).is_some());
    assert_eq!(a.hear(1004, b.addr, &second), None);
    assert_eq!(a.seals(1004), None);
    // An answer is for one request.
    assert_eq!(b.hear(1005, a.addr, &given), None);
    assert_eq!(Node::new(2, 7).hear(1005, a.addr, &given), None);
}

#[test]
fn strangers_get_and_give_nothing() {
    let (mut a, mut b) = nodes();
    let ask = b.ask(1000);
    let elsewhere = SocketAddr::from(([10, 0, 0, 9], 1434));
    assert_eq!(a.hear(1000, elsewhere, &ask), None);
    let forged = Node::new(2, 8).ask(1000);
    assert_eq!(a.hear(1000, b.addr, &forged), None);
    // One's own request, reflected.
    let own = a.ask(1000);
    assert_eq!(a.hear(1000, b.addr, &own), None);
    // A forged answer leaves the request open for the true one.
    let mut thief = Node::new(1, 8);
    let lie = thief.exchange.asked_by_peer(
        (Duration::from_secs(1), 1000),
        &ask,
        &mut thief.epochs,
        &[3; 64],
    );
    assert_eq!(lie, None);
    let given = a.hear(1000, b.addr, &ask).unwrap();
    for at in 0..given.len() {
        let mut changed = given.clone();
        changed[at] ^= 1;
        b.hear(1001, a.addr, &changed);
        assert!(b.epochs.find(1).is_none(), "byte {at}");
    }
    b.hear(1001, a.addr, &given);
    assert!(b.epochs.find(1).is_some());
}

#[test]
fn a_clock_that_is_hours_ahead_is_not_believed() {
    let (mut a, mut b) = nodes();
    let hours = 2 * AHEAD_MS;
    let early = b.ask(hours);
    assert_eq!(a.hear(1000, b.addr, &early), None);
    // It was set right, and the node restarted.
    let ask = Node::new(2, 7).ask(1001);
    assert!(a.hear(1001, b.addr, &ask).is_some());
}

#[test]
fn a_flood_of_requests_is_not_answered() {
    let (mut a, mut b) = nodes();
    let asks: Vec<_> = (0..20).map(|n| b.ask(1000 + n)).collect();
    let answered = asks
        .iter()
        .filter(|ask| a.hear(1000, b.addr, ask).is_some());
    assert_eq!(answered.count() as u32, MOST_ANSWERS);
}

#[test]
fn all_keys_of_a_long_life_fit() {
    let (mut a, mut b) = nodes();
    let names = ["a", "b"].map(|name| name.repeat(64));
    a.exchange.who.node = names[0].clone();
    a.exchange.who.peer = names[1].clone();
    b.exchange.who.node = names[1].clone();
    b.exchange.who.peer = names[0].clone();
    let back = (1000..1100).map(|n| (EpochKey::new(n, [1; 32]), Duration::from_secs(60)));
    a.epochs.learned(Duration::ZERO, back.collect());
    for n in 100..200 {
        a.epochs
            .add(Duration::ZERO, EpochKey::new(n, [n as u8; 32]));
    }
    let ask = b.ask(1000);
    let given = a.hear(1000, b.addr, &ask).expect("it fits a datagram");
    b.hear(1000, a.addr, &given);
    assert_eq!(b.epochs.newest_of_peer(), 199);
    assert!(b.epochs.find(1099).is_some() && b.epochs.find(1000).is_none());
}

#[test]
fn a_node_that_was_restarted_gets_its_keys_back() {
    let (mut a, mut b) = nodes();
    let ask = b.ask(1000);
    let given = a.hear(1000, b.addr, &ask).unwrap();
    b.hear(1000, a.addr, &given);
    let mut again = Node::new(1, 7);
    again.epochs = Epochs::default();
    let now = Duration::from_secs(2);
    again.epochs.add(now, EpochKey::new(100, [100; 32]));
    let ask = again.ask(2000);
    let given = b.hear(2000, a.addr, &ask).unwrap();
    again.hear(2000, b.addr, &given);
    let has = |id: u64, byte: u8| {
        let key = again.epochs.find(id);
        key.is_some_and(|key| *key.bytes() == [byte; 32])
    };
    assert!(has(1, 1) && has(2, 2) && has(100, 100));
    assert_eq!(again.epochs.newest_of_peer(), 2);
    // It seals by what it has made itself since.
    let ask = b.ask(2001);
    let given = again.hear(2001, b.addr, &ask).unwrap();
    b.hear(2001, a.addr, &given);
    let ask = b.ask(2002);
    assert_eq!(again.hear(2002, b.addr, &ask), None);
    assert_eq!(again.seals(2002), Some(100));
}

#[test]
fn a_key_that_makes_the_secret_guessable_is_refused() {
    let (secret, public) = pair(&[5; 64]).unwrap();
    assert!(shared(&secret, &[0; 32], b"", &public).is_none());
}

proptest! {
    #[test]
    fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 9_u8..11) {
        let (mut a, b) = nodes();
        a.ask(1000);
        a.hear(1000, b.addr, &bytes);
        let mut framed = b"VIA1\x01\x00\x00\x00".to_vec();
        framed.extend(&bytes);
        framed[5] = kind;
        let size = framed.len() as u16;
        framed[6..8].copy_from_slice(&size.to_le_bytes());
        a.hear(1000, b.addr, &framed);
        prop_assert_eq!(a.epochs.newest_of_peer(), 0);
    }
}

/// Whoever can send from the other node's address, but has not the cluster's key, does not keep the node from hearing it.
#[test]
fn forged_requests_do_not_use_up_the_peers_own() {
    let (mut a, mut b) = nodes();
    let (_, mut forger) = (Node::new(1, 8), Node::new(2, 8));
    let old = b.ask(900);
    assert!(a.hear(900, b.addr, &old).is_some());
    for _ in 0..100 {
        let forged = forger.ask(1000);
        assert_eq!(a.hear(1000, b.addr, &forged), None);
        assert_eq!(a.hear(1000, b.addr, &old), None);
    }
    let ask = b.ask(1000);
    assert!(a.hear(1000, b.addr, &ask).is_some());
}
