use super::*;
use crate::resolve::identity::SecretKey;
use crate::resolve::wire::{MAX_NODE_BYTES, Refused};
use crate::via::Accept;
use proptest::prelude::*;
use std::sync::Arc;

fn cluster() -> SecretKey {
    SecretKey::from_seed([1; 32])
}

fn ask(key: &Key) -> Ask {
    Ask {
        nonce: [2; 16],
        server: "sales".into(),
        channel: 3,
        public: key.public(),
    }
}

fn accept() -> Accept {
    Accept {
        node: "node-b".into(),
        generation: 7,
        cluster_id: [8; 16],
        channel_id: 9,
        resume_secret: [10; 32],
        authentic: true,
    }
}

#[test]
fn the_owner_asks_and_is_answered() {
    let key = Key::from_seed([4; 32]);
    let mut ask = ask(&key);
    ask.server = "s".repeat(255);
    let bytes = ask.encode(&key).unwrap();
    assert_eq!(Ask::parse(&bytes), Ok(ask.clone()));
    let given = [
        Given::Ticket {
            ticket: vec![6; MAX_TICKET_BYTES],
            seconds: 3600,
        },
        Given::Not(Why::NoPeer),
    ];
    for given in given {
        let answer = ask.answer(&given, &cluster()).unwrap();
        assert!(answer.len() <= ask.encode(&key).unwrap().len());
        let read = ask.parse_answer(&answer, &cluster().public());
        assert_eq!(read, Ok(given));
    }
}

#[test]
fn somebody_elses_request_is_refused() {
    let (key, thief) = (Key::from_seed([4; 32]), Key::from_seed([5; 32]));
    // He has seen the public key, and signs by his own.
    let forged = ask(&key).encode(&thief).unwrap();
    assert_eq!(Ask::parse(&forged), Err(Refused::Signature));
    let bytes = ask(&key).encode(&key).unwrap();
    assert_eq!(Ask::parse(&bytes[..639]), Err(Refused::Short));
    assert_eq!(Ask::parse(&[&bytes[..], &[0]].concat()), Err(Refused::Long));
    for at in 8..130 {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Ask::parse(&changed).is_err(), "byte {at}");
    }
    assert_ne!(key.commitment(), thief.commitment());
}

#[test]
fn answers_are_believed_from_the_cluster_for_this_question_only() {
    let key = Key::from_seed([4; 32]);
    let ask = ask(&key);
    let given = Given::Ticket {
        ticket: vec![6; 200],
        seconds: 1,
    };
    let public = cluster().public();
    let forged = ask.answer(&given, &SecretKey::from_seed([9; 32])).unwrap();
    assert_eq!(ask.parse_answer(&forged, &public), Err(Refused::Signature));
    let other = Ask {
        nonce: [3; 16],
        ..ask.clone()
    };
    let answer = other.answer(&given, &cluster()).unwrap();
    assert_eq!(ask.parse_answer(&answer, &public), Err(Refused::Nonce));
    let other = Ask {
        channel: 4,
        ..ask.clone()
    };
    let answer = other.answer(&given, &cluster()).unwrap();
    assert!(ask.parse_answer(&answer, &public).is_err());
}

#[test]
fn a_redemption_is_good_at_its_place_for_its_startup_packet_only() {
    let key = Arc::new(Key::from_seed([4; 32]));
    let held = Held::new(Arc::clone(&key), vec![6; 200]);
    let place = Place::new(&accept(), "Sales");
    let bytes = held.redemption(&place, b"startup");
    let (packet, startup) = bytes.split_at(bytes.len() - 7);
    assert_eq!(startup, b"startup");
    let read = Redemption::parse(packet).unwrap();
    assert_eq!(read.ticket, held.ticket());
    assert!(read.is_signed(&key.public(), &place, startup));

    assert!(!read.is_signed(&key.public(), &place, b"another"));
    assert!(!read.is_signed(&Key::from_seed([5; 32]).public(), &place, startup));
    let changes: [fn(&mut Accept); 4] = [
        |a| a.generation += 1,
        |a| a.cluster_id[0] ^= 1,
        |a| a.channel_id += 1,
        |a| a.resume_secret[0] ^= 1,
    ];
    for change in changes {
        let mut other = accept();
        change(&mut other);
        let other = Place::new(&other, "sales");
        assert!(!read.is_signed(&key.public(), &other, startup));
    }
    let other = Place::new(&accept(), "sale");
    assert!(!read.is_signed(&key.public(), &other, startup));
}

#[test]
fn the_nodes_names_for_servers_fit_and_are_told_apart() {
    let names = (0..MAX_TICKET_SERVERS).map(|n| ServerDigest::of(&format!("server-{n}")));
    let mut ask = KeyAsk {
        cluster_id: [1; 16],
        nonce: [2; 16],
        at_ms: 3,
        have: 4,
        public: [5; 32],
        from: "a".repeat(MAX_NODE_BYTES),
        to: "b".repeat(MAX_NODE_BYTES),
        redeems: names.collect(),
    };
    let unique: std::collections::HashSet<_> = ask.redeems.iter().collect();
    assert_eq!(unique.len(), MAX_TICKET_SERVERS);
    assert_eq!(ServerDigest::of("Server-1"), ask.redeems[1]);
    let bytes = ask.encode(&cluster()).unwrap();
    assert_eq!(KeyAsk::parse(&bytes, &cluster().public()), Ok(ask.clone()));
    ask.redeems.push(ServerDigest([0; 8]));
    assert!(ask.encode(&cluster()).is_err());
    ask.redeems.clear();
    let bytes = ask.encode(&cluster()).unwrap();
    assert_eq!(KeyAsk::parse(&bytes, &cluster().public()), Ok(ask));
}

#[test]
fn words_are_distinct_and_found_by_their_number() {
    for (i, why) in Why::ALL.into_iter().enumerate() {
        assert_eq!(why as usize, i + 1);
        assert_eq!(Why::from_wire(why as u8), Some(why));
        let twice = Why::ALL.iter().filter(|w| w.name() == why.name()).count();
        assert_eq!(twice, 1, "{why}");
    }
    assert_eq!(Why::from_wire(0), None);
    assert_eq!(Why::from_wire(23), None);
}

proptest! {
    #[test]
    fn no_bytes_upset_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let key = Key::from_seed([4; 32]);
        let _ = Ask::parse(&bytes);
        let _ = ask(&key).parse_answer(&bytes, &cluster().public());
        let _ = Redemption::parse(&bytes);
    }

    #[test]
    fn a_changed_redemption_is_not_signed(at in 0_usize..281, bit in 0_u8..8) {
        let key = Arc::new(Key::from_seed([4; 32]));
        let held = Held::new(Arc::clone(&key), vec![6; 200]);
        let place = Place::new(&accept(), "sales");
        let mut bytes = held.redemption(&place, b"");
        prop_assert_eq!(bytes.len(), 281);
        bytes[at] ^= 1 << bit;
        let believed = Redemption::parse(&bytes).is_ok_and(|r| r.is_signed(&key.public(), &place, b""));
        prop_assert!(!believed);
    }
}
