use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000_000;

fn key() -> SecretKey {
    SecretKey::from_seed([5; 32])
}

fn ping() -> KeepAlive {
    KeepAlive {
        kind: Kind::Ping,
        cluster_id: [4; 16],
        from: "node-b".into(),
        to: "node-a".into(),
        incarnation: 77,
        sequence: 3,
        nonce: [1; 16],
        echo: [2; 16],
        servers: vec![
            ServerState {
                name: "sales".into(),
                role: Role::Passive,
                generation: NOW,
            },
            ServerState {
                name: "ledger".into(),
                role: Role::Active,
                generation: 1,
            },
        ],
    }
}

#[test]
fn every_kind_round_trips() {
    for kind in Kind::ALL {
        let sent = KeepAlive { kind, ..ping() };
        let bytes = sent.encode(&key()).unwrap();
        assert_eq!(wire::datagram_type(&bytes), Some(kind as u8));
        assert_eq!(KeepAlive::parse(&bytes, NOW, &key().public()), Ok(sent));
    }
    let none = KeepAlive {
        servers: Vec::new(),
        ..ping()
    };
    let bytes = none.encode(&key()).unwrap();
    assert_eq!(KeepAlive::parse(&bytes, NOW, &key().public()), Ok(none));
}

#[test]
fn not_one_bit_may_be_changed_or_missing() {
    let bytes = ping().encode(&key()).unwrap();
    let parse = |bytes: &[u8]| KeepAlive::parse(bytes, NOW, &key().public());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(parse(&changed).is_err(), "byte {at}");
        assert!(parse(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(parse(&[&bytes[..], &[0]].concat()), Err(Refused::Size));
    assert_eq!(parse(&vec![0; MAX_KEEPALIVE_BYTES + 1]), Err(Refused::Long));
    let other = SecretKey::from_seed([6; 32]).public();
    assert_eq!(
        KeepAlive::parse(&bytes, NOW, &other),
        Err(Refused::Signature)
    );
}

#[test]
fn a_signed_answer_to_a_client_is_no_keep_alive() {
    use crate::resolve::query::Query;
    let request = Query {
        nonce: [0; 16],
        server: "sales".into(),
        min_generation: 0,
    };
    let bytes = request.encode().unwrap();
    assert_eq!(
        KeepAlive::parse(&bytes, NOW, &key().public()),
        Err(Refused::Type)
    );
    // The same bytes signed for another purpose do not pass either.
    let mut w = Writer::new(Kind::Ping as u8);
    w.bytes(&ping().encode(&key()).unwrap()[wire::FRAME_BYTES..]);
    let bytes = w
        .finish(MAX_KEEPALIVE_BYTES, b"another purpose\0", Some(&key()))
        .unwrap();
    assert!(KeepAlive::parse(&bytes, NOW, &key().public()).is_err());
}

#[test]
fn limits() {
    let servers = |count: usize, len: usize| KeepAlive {
        servers: (0..count)
            .map(|n| ServerState {
                name: format!("{n:0len$}"),
                role: Role::Active,
                generation: NOW,
            })
            .collect(),
        ..ping()
    };
    assert!(servers(30, 20).encode(&key()).is_ok());
    assert_eq!(servers(60, 20).encode(&key()), Err(Refused::Long));
    assert_eq!(servers(70_000, 1).encode(&key()), Err(Refused::Long));
    assert_eq!(
        servers(1, 256).encode(&key()),
        Err(Refused::Field("server"))
    );
    for (from, to) in [("", "b"), ("a", ""), (&*"n".repeat(65), "b")] {
        let bad = KeepAlive {
            from: from.into(),
            to: to.into(),
            ..ping()
        };
        assert!(bad.encode(&key()).is_err());
    }
}

#[test]
fn a_generation_from_the_far_future_is_refused() {
    let bytes = ping().encode(&key()).unwrap();
    let parse = |now| KeepAlive::parse(&bytes, now, &key().public()).err();
    assert_eq!(parse(NOW - 3_600_000), None);
    assert_eq!(parse(NOW - 3_600_001), Some(Refused::FutureGeneration));
}

proptest! {
    #[test]
    fn nothing_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 2u8..8) {
        let _ = KeepAlive::parse(&bytes, NOW, &key().public());
        // Signed nonsense reaches the fields.
        let mut w = Writer::new(kind);
        w.bytes(&bytes);
        let signed = w.finish(MAX_KEEPALIVE_BYTES, CONTEXT, Some(&key())).unwrap();
        let _ = KeepAlive::parse(&signed, NOW, &key().public());
    }

    #[test]
    fn any_keep_alive_round_trips(
        incarnation in any::<u64>(),
        sequence in any::<u64>(),
        nonce in any::<[u8; 16]>(),
        names in prop::collection::vec("[a-z0-9]{1,20}", 0..20),
    ) {
        let role = Role::TakingOver;
        let servers = names.into_iter().map(|name| ServerState { name, role, generation: 1 });
        let sent = KeepAlive { incarnation, sequence, nonce, servers: servers.collect(), ..ping() };
        let bytes = sent.encode(&key()).unwrap();
        prop_assert_eq!(KeepAlive::parse(&bytes, NOW, &key().public()), Ok(sent));
    }
}
