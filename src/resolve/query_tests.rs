use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000_000;

fn query() -> Query {
    Query {
        nonce: [9; 16],
        server: "sales".into(),
        min_generation: 3,
    }
}

fn full() -> Answer {
    let endpoint = |transport, addr: &str| Endpoint {
        transport,
        addr: addr.parse().unwrap(),
    };
    Answer {
        cluster_id: Some([4; 16]),
        node: "node-a".into(),
        role: Role::Active,
        generation: NOW,
        ttl: Duration::from_millis(2500),
        endpoints: vec![
            endpoint(Transport::Shm, "0.0.0.0:0"),
            endpoint(Transport::Tcp, "127.0.0.11:7434"),
            endpoint(Transport::Tcp, "[::1]:7434"),
            endpoint(Transport::Plain, "127.0.0.11:5432"),
        ],
        authentic: false,
        from: None,
    }
}

/// Where fields of an answer to "sales" from "node-a" stand: docs/protocol.md.
mod at {
    pub const VERSION: usize = 4;
    pub const TYPE: usize = 5;
    pub const SIZE: usize = 6;
    pub const NONCE: usize = 8;
    pub const ROLE: usize = 52;
    pub const FLAGS: usize = 53;
    pub const SERVER: usize = 55;
    pub const NODE: usize = 61;
    pub const COUNT: usize = 67;
}

#[test]
fn requests_have_one_size_and_round_trip() {
    let bytes = query().encode().unwrap();
    assert_eq!(bytes.len(), REQUEST_BYTES);
    assert_eq!(&bytes[..8], b"VIA1\x01\x01\x26\x00");
    assert_eq!(Query::parse(&bytes), Ok(query()));
    let shouted = Query {
        server: "SALES".into(),
        ..query()
    };
    assert_eq!(
        Query::parse(&shouted.encode().unwrap()).unwrap().server,
        "sales"
    );
}

#[test]
fn bad_requests_are_refused() {
    let good = query().encode().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Query::parse(&bytes)
    };
    for cut in 0..good.len() {
        assert_eq!(
            Query::parse(&good[..cut]),
            Err(Refused::Short),
            "cut at {cut}"
        );
    }
    assert_eq!(
        Query::parse(&[&good[..], &[0]].concat()),
        Err(Refused::Long)
    );
    assert_eq!(with(0, b'v'), Err(Refused::Magic));
    assert_eq!(with(at::VERSION, 2), Err(Refused::Version));
    assert_eq!(with(at::TYPE, 2), Err(Refused::Type));
    assert_eq!(with(7, 0xff), Err(Refused::Size));
    assert_eq!(with(at::SIZE, 0), Err(Refused::Size));
    assert_eq!(with(REQUEST_BYTES - 1, 1), Err(Refused::Padding));
    assert_eq!(with(32, 0), Err(Refused::Field("server")), "an empty name");
    assert_eq!(
        with(32, 200),
        Err(Refused::Short),
        "a name longer than the datagram says"
    );
    assert_eq!(with(33, 0xff), Err(Refused::Field("server")), "not UTF-8");
    assert_eq!(
        with(33, 7),
        Err(Refused::Field("server")),
        "a control character"
    );
    for server in [
        String::new(),
        "x".repeat(256),
        "x".repeat(10_000),
        "a\nb".into(),
    ] {
        let query = Query { server, ..query() };
        assert_eq!(query.encode(), Err(Refused::Field("server")));
    }
}

#[test]
fn answers_round_trip_signed_and_not() {
    let key = SecretKey::generate().unwrap();
    let (public, other) = (key.public(), SecretKey::generate().unwrap().public());
    let unsigned = query().answer(&full(), None).unwrap();
    let signed = query().answer(&full(), Some(&key)).unwrap();
    assert_eq!(signed.len(), unsigned.len() + 64);
    assert_eq!(query().parse_answer(&unsigned, NOW, None), Ok(full()));
    assert_eq!(
        query().parse_answer(&signed, NOW, None),
        Ok(full()),
        "no key: not looked at"
    );
    let authentic = Answer {
        authentic: true,
        ..full()
    };
    assert_eq!(
        query().parse_answer(&signed, NOW, Some(&public)),
        Ok(authentic)
    );
    let parse = |bytes: &[u8], key| query().parse_answer(bytes, NOW, Some(key));
    assert_eq!(parse(&unsigned, &public), Err(Refused::Unsigned));
    assert_eq!(parse(&signed, &other), Err(Refused::Signature));
    // Not one bit may be changed.
    for at in 0..signed.len() {
        let mut bytes = signed.clone();
        bytes[at] ^= 1;
        assert!(parse(&bytes, &public).is_err(), "byte {at}");
    }
    // An answer of the same node to the same nonce about another name is not an answer.
    let about_other = Query {
        server: "ledger".into(),
        ..query()
    };
    let bytes = about_other.answer(&full(), Some(&key)).unwrap();
    assert_eq!(parse(&bytes, &public), Err(Refused::Name));
}

#[test]
fn an_answer_is_never_larger_than_its_request() {
    let key = SecretKey::generate().unwrap();
    let query = Query {
        server: "s".repeat(255),
        ..query()
    };
    let largest = Answer {
        node: "n".repeat(64),
        endpoints: vec![full().endpoints[2]; MAX_ENDPOINTS],
        ..full()
    };
    let bytes = query.answer(&largest, Some(&key)).unwrap();
    assert!(bytes.len() <= REQUEST_BYTES, "{}", bytes.len());
    assert!(query.parse_answer(&bytes, NOW, Some(&key.public())).is_ok());
    let more = Answer {
        endpoints: vec![full().endpoints[2]; MAX_ENDPOINTS + 1],
        ..full()
    };
    assert_eq!(query.answer(&more, None), Err(Refused::Field("endpoints")));
    let named = Answer {
        node: "n".repeat(65),
        ..full()
    };
    assert_eq!(query.answer(&named, None), Err(Refused::Field("node")));
}

#[test]
fn bad_answers_are_refused() {
    let good = query().answer(&full(), None).unwrap();
    let parse = |bytes: &[u8]| query().parse_answer(bytes, NOW, None);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        parse(&bytes)
    };
    for cut in 0..good.len() {
        assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert_eq!(parse(&[&good[..], &[0]].concat()), Err(Refused::Size));
    assert_eq!(parse(&vec![0; REQUEST_BYTES + 1]), Err(Refused::Long));
    assert_eq!(with(at::TYPE, 1), Err(Refused::Type));
    assert_eq!(with(at::SIZE, good[at::SIZE] + 1), Err(Refused::Size));
    assert_eq!(with(at::NONCE, 0), Err(Refused::Nonce));
    assert_eq!(with(at::ROLE, 0), Err(Refused::Field("role")));
    assert_eq!(with(at::FLAGS, 0x80), Err(Refused::Field("flags")));
    assert_eq!(with(at::SERVER, b'x'), Err(Refused::Name));
    assert_eq!(
        with(at::NODE, b'.'),
        Err(Refused::Field("node")),
        "it names a socket file"
    );
    assert_eq!(with(at::NODE + 1, b'/'), Err(Refused::Field("node")));
    assert_eq!(with(at::COUNT, 9), Err(Refused::Field("endpoints")));
    assert_eq!(with(at::COUNT, 5), Err(Refused::Short));
    assert_eq!(with(at::COUNT, 3), Err(Refused::Long));
    assert_eq!(
        with(at::COUNT + 2, 5),
        Err(Refused::Field("endpoint.address")),
        "family"
    );
    // A transport of a later version is skipped.
    assert_eq!(
        with(at::COUNT + 1, 77).unwrap().endpoints,
        full().endpoints[1..]
    );
    for addr in [
        "0.0.0.0:1",
        "127.0.0.1:0",
        "224.0.0.1:1",
        "[ff05::1]:1",
        "255.255.255.255:1",
    ] {
        let endpoints = vec![Endpoint {
            transport: Transport::Tcp,
            addr: addr.parse().unwrap(),
        }];
        let bytes = query()
            .answer(
                &Answer {
                    endpoints,
                    ..full()
                },
                None,
            )
            .unwrap();
        assert_eq!(
            parse(&bytes),
            Err(Refused::Field("endpoint.address")),
            "{addr}"
        );
    }
}

#[test]
fn a_generation_from_the_far_future_is_refused() {
    let at = |generation| {
        let bytes = query()
            .answer(
                &Answer {
                    generation,
                    ..full()
                },
                None,
            )
            .unwrap();
        query()
            .parse_answer(&bytes, NOW, None)
            .map(|a| a.generation)
    };
    assert_eq!(at(NOW + 3_600_000), Ok(NOW + 3_600_000));
    assert_eq!(at(NOW + 3_600_001), Err(Refused::FutureGeneration));
    assert_eq!(at(u64::MAX), Err(Refused::FutureGeneration));
}

#[test]
fn the_address_of_shared_memory_never_comes_from_the_wire() {
    let endpoints = vec![Endpoint {
        transport: Transport::Shm,
        addr: "10.1.2.3:99".parse().unwrap(),
    }];
    let bytes = query()
        .answer(
            &Answer {
                endpoints,
                ..full()
            },
            None,
        )
        .unwrap();
    let read = query().parse_answer(&bytes, NOW, None).unwrap();
    assert_eq!(read.endpoints, full().endpoints[..1]);
}

proptest! {
    #[test]
    fn nothing_makes_a_parser_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..700),
        head in any::<bool>(),
        kind in 0u8..8,
    ) {
        let mut bytes = bytes;
        if head && bytes.len() >= 24 {
            let size = (bytes.len() as u16).to_le_bytes();
            bytes[..8].copy_from_slice(&[b'V', b'I', b'A', b'1', 1, kind, size[0], size[1]]);
            bytes[8..24].copy_from_slice(&[9; 16]);
        }
        let _ = Query::parse(&bytes);
        let _ = query().parse_answer(&bytes, NOW, None);
        let _ = query().parse_answer(&bytes, NOW, Some(&PublicKey([3; 32])));
        bytes.resize(REQUEST_BYTES, 0);
        let _ = Query::parse(&bytes);
    }

    #[test]
    fn changed_answers_never_panic(flips in prop::collection::vec((0usize..260, any::<u8>()), 1..6)) {
        let mut bytes = query().answer(&full(), None).unwrap();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = query().parse_answer(&bytes, NOW, None);
    }

    #[test]
    fn any_request_round_trips(nonce in any::<[u8; 16]>(), server in "[a-z0-9_.$-]{1,255}", min_generation in any::<u64>()) {
        let query = Query { nonce, server, min_generation };
        prop_assert_eq!(Query::parse(&query.encode().unwrap()), Ok(query));
    }
}
