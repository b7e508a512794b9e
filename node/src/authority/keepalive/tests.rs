use super::*;

const MS: Duration = Duration::from_millis(1);

fn now(ms: u32) -> Now {
    Now {
        at: ms * MS,
        wall_ms: 1_700_000_000_000 + u64::from(ms),
    }
}

fn addr(name: &str) -> SocketAddr {
    if name == "a" {
        "127.0.0.11:1434"
    } else {
        "127.0.0.12:1434"
    }
    .parse()
    .unwrap()
}

fn node(me: &str, peer: &str, seed: u8) -> KeepAlives {
    let identity = Identity {
        node: me.into(),
        cluster_id: [7; 16],
        key: SecretKey::from_seed([seed; 32]),
        incarnation: u64::from(me.as_bytes()[0]),
    };
    let timing = Timing {
        interval: 250 * MS,
        lost_after: 4,
    };
    KeepAlives::new(identity, timing, vec![(peer.into(), addr(peer))])
}

fn told(role: PeerRole, generation: u64) -> Vec<Told> {
    vec![Told {
        name: "sales".into(),
        role,
        generation,
    }]
}

fn sent(node: &mut KeepAlives) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| node.poll_transmit().map(|(_, bytes)| bytes)).collect()
}

fn believed(words: &[Word]) -> Vec<(PeerRole, u64)> {
    let peer = |w: &Word| match w {
        Word::Peer {
            role, generation, ..
        } => Some((*role, *generation)),
        _ => None,
    };
    words.iter().filter_map(peer).collect()
}

/// One question of `a` and the answer of `b`.
fn exchange(a: &mut KeepAlives, b: &mut KeepAlives, at: u32) -> (Vec<u8>, Vec<u8>, Vec<Word>) {
    a.tick(now(at), false, &told(PeerRole::Passive, 5));
    let ask = sent(a).remove(0);
    let (_, reply) = b.receive(now(at), addr("a"), &ask, &told(PeerRole::Active, 5));
    let reply = reply.unwrap();
    let (words, none) = a.receive(now(at), addr("b"), &reply, &told(PeerRole::Passive, 5));
    assert!(none.is_none(), "an answer is not answered");
    (ask, reply, words)
}

#[test]
fn an_exchange_tells_the_role_once() {
    let (mut a, mut b) = (node("a", "b", 1), node("b", "a", 1));
    let (_, reply, words) = exchange(&mut a, &mut b, 1000);
    assert_eq!(believed(&words), [(PeerRole::Active, 5)]);
    let own = told(PeerRole::Passive, 5);
    let (again, _) = a.receive(now(1001), addr("b"), &reply, &own);
    assert!(believed(&again).is_empty(), "a repetition is not believed");
    let (late, _) = node("a", "b", 1).receive(now(9000), addr("b"), &reply, &own);
    assert!(
        believed(&late).is_empty(),
        "nor an answer to somebody else's question"
    );
}

#[test]
fn an_old_question_proves_nothing_but_is_answered() {
    let (mut a, mut b) = (node("a", "b", 1), node("b", "a", 1));
    let (ask, _, _) = exchange(&mut a, &mut b, 1000);
    let own = told(PeerRole::Active, 5);
    let (words, reply) = b.receive(now(90_000), addr("a"), &ask, &own);
    assert!(believed(&words).is_empty());
    assert!(reply.is_some());
}

#[test]
fn forged_ones_are_not_believed() {
    let own = told(PeerRole::Passive, 5);
    for (forger, from, what) in [
        (node("b", "a", 2), addr("b"), "another key"),
        (node("c", "a", 1), addr("b"), "another node"),
        (node("b", "x", 1), addr("b"), "for another node"),
    ] {
        let mut forger = forger;
        let mut a = node("a", "b", 1);
        forger.tick(now(1000), false, &told(PeerRole::Active, 9));
        let datagram = sent(&mut forger).remove(0);
        let (words, reply) = a.receive(now(1000), from, &datagram, &own);
        assert!(believed(&words).is_empty() && reply.is_none(), "{what}");
        assert!(
            words.iter().any(|w| matches!(w, Word::Refused(_))),
            "{what}"
        );
    }
    let (mut a, mut b) = (node("a", "b", 1), node("b", "a", 1));
    let (_, reply, _) = exchange(&mut a, &mut b, 1000);
    let stranger = "10.1.1.1:1434".parse().unwrap();
    let (words, none) = a.receive(now(1001), stranger, &reply, &own);
    assert!(matches!(&words[..], [Word::Refused(_)]) && none.is_none());
    for i in 0..reply.len() {
        let mut bad = reply.clone();
        bad[i] ^= 1;
        let (words, _) = a.receive(now(1002), addr("b"), &bad, &own);
        assert!(believed(&words).is_empty(), "byte {i}");
    }
}

#[test]
fn four_unanswered_in_a_row_are_a_lost_peer_and_a_gap_counts_for_nothing() {
    let (mut a, mut b) = (node("a", "b", 1), node("b", "a", 1));
    exchange(&mut a, &mut b, 1000);
    let own = told(PeerRole::Passive, 5);
    let lost_at = |a: &mut KeepAlives, from: u32, gap_at: u32| {
        (from..from + 20_000)
            .step_by(50)
            .find(|&ms| a.tick(now(ms), ms == gap_at, &own).contains(&Word::Lost))
    };
    let at = lost_at(&mut a, 1050, 0).unwrap();
    assert!((2000..2600).contains(&at), "{at}");
    exchange(&mut a, &mut b, 30_000);
    let at = lost_at(&mut a, 30_050, 30_900).unwrap();
    assert!(
        (31_900..32_300).contains(&at),
        "the four begin after the gap: {at}"
    );
}

#[test]
fn a_resignation_is_believed_at_once() {
    let (mut a, mut b) = (node("a", "b", 1), node("b", "a", 1));
    exchange(&mut a, &mut b, 1000);
    b.changed(now(1100), &told(PeerRole::Passive, 5));
    let resign = sent(&mut b).pop().unwrap();
    let own = told(PeerRole::Passive, 5);
    let (words, _) = a.receive(now(1100), addr("b"), &resign, &own);
    assert_eq!(believed(&words), [(PeerRole::Passive, 5)]);
    assert!(!sent(&mut a).is_empty(), "and it is asked for more at once");
    // Much later the same datagram is worth nothing.
    let mut a2 = node("a", "b", 1);
    assert!(believed(&a2.receive(now(50_000), addr("b"), &resign, &own).0).is_empty());
}

#[test]
fn many_servers_are_split() {
    let (mut a, mut b) = (node("a", "b", 1), node("b", "a", 1));
    let many = |role| -> Vec<Told> {
        (0..45)
            .map(|i| Told {
                name: format!("server-with-a-name-of-32-bytes-{i:02}"),
                role,
                generation: i,
            })
            .collect()
    };
    a.tick(now(1000), false, &many(PeerRole::Passive));
    let mut heard = 0;
    let asks = sent(&mut a);
    assert_eq!(asks.len(), 3);
    for ask in asks {
        let (_, reply) = b.receive(now(1000), addr("a"), &ask, &many(PeerRole::Active));
        let (words, _) = a.receive(
            now(1000),
            addr("b"),
            &reply.unwrap(),
            &many(PeerRole::Passive),
        );
        heard += believed(&words).len();
    }
    assert_eq!(heard, 45);
}
