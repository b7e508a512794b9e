use super::*;
use crate::via::packet::{FLAG_SIGNED, packet};
use proptest::prelude::*;

const SECRET: [u8; 32] = [0x5e; 32];
const CHALLENGE: Nonce = [0xcc; 16];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn hello() -> ClientHello {
    ClientHello {
        server: "sales".into(),
        node: "node-a".into(),
        min_generation: 10,
        patient: false,
        warm: false,
        pinned: None,
        ring_bytes: 1 << 16,
        nonce: [0xaa; 16],
        boot_id: [0; 16],
        resume: None,
    }
}

fn resume_hello(secret: [u8; 32]) -> ClientHello {
    ClientHello {
        resume: Some(ClientResume {
            channel_id: 7,
            secret,
            offsets: Offsets {
                consumed: 100,
                received: 200,
            },
        }),
        ..hello()
    }
}

fn accept() -> Accept {
    Accept {
        node: "node-a".into(),
        generation: 12,
        cluster_id: [1; 16],
        channel_id: 7,
        resume_secret: SECRET,
        authentic: false,
    }
}

/// Moves bytes both ways in pieces of `step` until the node has a request.
fn until_request(
    client: &mut ClientHandshake,
    server: &mut ServerHandshake,
    step: usize,
) -> Request {
    for _ in 0..10_000 {
        let n = step.min(client.output().len()).min(server.want());
        if n > 0 {
            let bytes = client.output()[..n].to_vec();
            client.sent(n);
            if let Some(request) = server.feed(&bytes).expect("a valid request") {
                return request;
            }
        }
        let n = step.min(server.output().len()).min(client.want());
        if n > 0 {
            let bytes = server.output()[..n].to_vec();
            server.sent(n);
            assert_eq!(client.feed(&bytes), Ok(None));
        }
    }
    panic!("no request after 10,000 steps");
}

/// Feeds in pieces that the client wants; what is behind the packet stays.
fn give(
    client: &mut ClientHandshake,
    mut bytes: &[u8],
) -> Result<Option<Established>, ConnectError> {
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(client.want().min(bytes.len()));
        bytes = later;
        if let Some(established) = client.feed(now)? {
            return Ok(Some(established));
        }
    }
    Ok(None)
}

/// A handshake up to the node's answer.
fn asked(hello: ClientHello) -> (ClientHandshake, Request) {
    let mut client = ClientHandshake::new(hello);
    let request = until_request(
        &mut client,
        &mut ServerHandshake::new(CHALLENGE),
        usize::MAX,
    );
    (client, request)
}

fn not_authentic(result: Result<Option<Established>, ConnectError>) -> String {
    match result {
        Err(ConnectError::NotAuthentic(text)) => text,
        other => panic!("must be refused as not authentic: {other:?}"),
    }
}

fn failed(result: Result<Option<Established>, ConnectError>) -> String {
    match result {
        Err(ConnectError::Failed(text)) => text,
        other => panic!("must fail: {other:?}"),
    }
}

#[test]
fn a_new_channel_in_pieces_of_every_size() {
    for step in [1, 2, 31, 32, 33, 1000] {
        let mut client = ClientHandshake::new(hello());
        let request = until_request(&mut client, &mut ServerHandshake::new(CHALLENGE), step);
        assert_eq!(
            (request.server.as_str(), request.min_generation),
            ("sales", 10)
        );
        assert_eq!((request.ring_bytes, &request.resume), (1 << 16, &None));
        assert!(!request.proves(&SECRET));
        let answer = request.accept(&accept(), 1 << 14, Offsets::default(), None);
        let established = give(&mut client, &answer)
            .expect("accepted")
            .expect("complete");
        assert_eq!(established.accept, accept());
        assert_eq!(established.ring_bytes, 1 << 14);
        assert_eq!(established.peer, Offsets::default());
    }
}

#[test]
fn what_follows_the_accept_is_not_wanted() {
    let (mut client, request) = asked(hello());
    let mut answer = request.accept(&accept(), 1 << 16, Offsets::default(), None);
    let end = answer.len();
    answer.extend(packet(Header::new(Type::Ack), &[]));
    let mut at = 0;
    loop {
        let n = client.want();
        at += n;
        if client
            .feed(&answer[at - n..at])
            .expect("accepted")
            .is_some()
        {
            break;
        }
    }
    assert_eq!(at, end);
}

#[test]
fn every_reject_reason_arrives() {
    for reason in (1..=10).map(|n| RejectReason::from_wire(n).expect("a reason")) {
        let (mut client, _) = asked(hello());
        assert_eq!(
            give(&mut client, &packet::reject(reason, 3)),
            Err(ConnectError::Rejected(reason))
        );
    }
}

#[test]
fn a_pinned_key_demands_its_signature() {
    let pinned = || ClientHello {
        pinned: Some(key(1).public()),
        ..hello()
    };
    let (mut client, request) = asked(pinned());
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), Some(&key(1)));
    let established = give(&mut client, &answer)
        .expect("accepted")
        .expect("complete");
    assert!(established.accept.authentic);

    let (mut client, request) = asked(pinned());
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), None);
    assert!(not_authentic(give(&mut client, &answer)).contains("not signed"));

    let (mut client, request) = asked(pinned());
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), Some(&key(2)));
    assert!(not_authentic(give(&mut client, &answer)).contains("pinned key"));

    // Without a pinned key a signature is no proof of anything.
    let (mut client, request) = asked(hello());
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), Some(&key(1)));
    let established = give(&mut client, &answer)
        .expect("accepted")
        .expect("complete");
    assert!(!established.accept.authentic);
}

#[test]
fn every_byte_of_a_signed_accept_counts() {
    let pinned = || ClientHello {
        pinned: Some(key(1).public()),
        ..hello()
    };
    let (_, request) = asked(pinned());
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), Some(&key(1)));
    for at in 0..answer.len() {
        let mut forged = answer.clone();
        forged[at] ^= 1;
        let (mut client, _) = asked(pinned());
        let result = give(&mut client, &forged);
        assert!(
            !matches!(result, Ok(Some(_))),
            "byte {at} may not be changed"
        );
    }
}

#[test]
fn a_replayed_accept_is_refused() {
    let pinned = |nonce, server: &str| ClientHello {
        pinned: Some(key(1).public()),
        nonce,
        server: server.into(),
        ..hello()
    };
    let (_, request) = asked(pinned([1; 16], "sales"));
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), Some(&key(1)));
    let (mut client, _) = asked(pinned([2; 16], "sales"));
    not_authentic(give(&mut client, &answer));
    let (mut client, _) = asked(pinned([1; 16], "ledger"));
    not_authentic(give(&mut client, &answer));
    let (mut client, _) = asked(pinned([1; 16], "sales"));
    assert!(give(&mut client, &answer).is_ok());
}

#[test]
fn another_node_or_an_older_generation_is_refused() {
    let answer_with = |accept: Accept| {
        let (mut client, request) = asked(hello());
        let answer = request.accept(&accept, 1 << 16, Offsets::default(), None);
        not_authentic(give(&mut client, &answer))
    };
    let other = Accept {
        node: "node-b".into(),
        ..accept()
    };
    assert_eq!(
        answer_with(other),
        "node \"node-b\" accepts where \"node-a\" was expected"
    );
    let old = Accept {
        generation: 9,
        ..accept()
    };
    assert_eq!(
        answer_with(old),
        "generation 9 accepts where at least 10 was expected"
    );
}

#[test]
fn a_new_channel_has_no_past_and_no_larger_ring() {
    let (mut client, request) = asked(hello());
    let answer = request.accept(&accept(), 1 << 17, Offsets::default(), None);
    assert!(failed(give(&mut client, &answer)).contains("at most 2^16"));

    let (mut client, request) = asked(hello());
    let here = Offsets {
        consumed: 1,
        received: 1,
    };
    let answer = request.accept(&accept(), 1 << 16, here, None);
    assert!(failed(give(&mut client, &answer)).contains("must be 0"));
}

#[test]
fn a_resumption_in_pieces_of_every_size() {
    let here = Offsets {
        consumed: 5,
        received: 50,
    };
    for (step, signer) in [(1, None), (7, Some(key(1))), (1000, Some(key(1)))] {
        let mut client = ClientHandshake::new(ClientHello {
            pinned: signer.as_ref().map(SecretKey::public),
            ..resume_hello(SECRET)
        });
        let request = until_request(&mut client, &mut ServerHandshake::new(CHALLENGE), step);
        let resume = request.resume.as_ref().expect("a resumption");
        assert_eq!((resume.channel_id, resume.offsets.received), (7, 200));
        assert_eq!(resume.offsets.consumed, 100);
        assert!(request.proves(&SECRET));
        assert!(!request.proves(&[0; 32]));
        let answer = request.accept(&accept(), 1 << 16, here, signer.as_ref());
        assert!(
            !answer.windows(32).any(|w| w == SECRET),
            "the secret is not sent again"
        );
        let established = give(&mut client, &answer)
            .expect("accepted")
            .expect("complete");
        assert_eq!(established.peer, here);
        assert_eq!(established.accept.resume_secret, SECRET);
        assert_eq!(established.accept.authentic, signer.is_some());
    }
}

#[test]
fn a_forged_proof_proves_nothing() {
    let (_, request) = asked(resume_hello([9; 32]));
    assert!(!request.proves(&SECRET));
}

#[test]
fn a_replayed_resumption_proves_nothing() {
    // What an eavesdropper recorded: the client's two packets under one challenge.
    let mut client = ClientHandshake::new(resume_hello(SECRET));
    let mut server = ServerHandshake::new(CHALLENGE);
    let resume = client.output().to_vec();
    client.sent(resume.len());
    assert_eq!(server.feed(&resume), Ok(None));
    assert_eq!(client.feed(server.output()), Ok(None));
    let proof = client.output().to_vec();

    let mut again = ServerHandshake::new([0xdd; 16]);
    assert_eq!(again.feed(&resume), Ok(None));
    let request = again.feed(&proof).expect("well formed").expect("complete");
    assert!(!request.proves(&SECRET));

    // The same proof with other offsets.
    let mut other = resume_hello(SECRET);
    if let Some(resume) = &mut other.resume {
        resume.offsets.received = 150;
    }
    let mut again = ServerHandshake::new(CHALLENGE);
    assert_eq!(again.feed(ClientHandshake::new(other).output()), Ok(None));
    let request = again.feed(&proof).expect("well formed").expect("complete");
    assert!(!request.proves(&SECRET));
}

#[test]
fn a_node_that_does_not_know_the_secret_carries_nothing_on() {
    let (mut client, request) = asked(resume_hello(SECRET));
    let stranger = Accept {
        resume_secret: [0; 32],
        ..accept()
    };
    let answer = request.accept(&stranger, 1 << 16, Offsets::default(), None);
    assert!(not_authentic(give(&mut client, &answer)).contains("resume secret"));

    let (mut client, request) = asked(resume_hello(SECRET));
    let other = Accept {
        channel_id: 8,
        ..accept()
    };
    let answer = request.accept(&other, 1 << 16, Offsets::default(), None);
    assert!(not_authentic(give(&mut client, &answer)).contains("channel 8"));

    let (mut client, request) = asked(resume_hello(SECRET));
    let answer = request.accept(&accept(), 1 << 15, Offsets::default(), None);
    assert!(failed(give(&mut client, &answer)).contains("must be 2^16"));

    // An accept without a challenge before it: no proof was made, so none can be right.
    let mut client = ClientHandshake::new(resume_hello(SECRET));
    let (_, request) = asked(hello());
    let answer = request.accept(&accept(), 1 << 16, Offsets::default(), None);
    assert!(failed(give(&mut client, &answer)).contains("unexpected Accept"));
}

#[test]
fn packets_out_of_place_are_refused() {
    let proof = packet(Header::new(Type::Proof), &[0; 32]);
    let challenge = packet(Header::new(Type::Challenge), &[0; 16]);
    let connect = ClientHandshake::new(hello()).output().to_vec();
    let resume = ClientHandshake::new(resume_hello(SECRET)).output().to_vec();
    let server = || ServerHandshake::new(CHALLENGE);

    assert!(server().feed(&proof).is_err());
    assert!(server().feed(&challenge).is_err());
    assert!(
        server()
            .feed(&packet(Header::new(Type::Data), b"x"))
            .is_err()
    );
    for second in [&connect, &resume, &challenge] {
        let mut server = server();
        assert_eq!(server.feed(&resume), Ok(None));
        assert!(server.feed(second).is_err());
    }
    // A challenge to a client that resumes nothing, and a second challenge.
    let mut client = ClientHandshake::new(hello());
    assert!(failed(client.feed(&challenge)).contains("unexpected Challenge"));
    let mut client = ClientHandshake::new(resume_hello(SECRET));
    assert_eq!(client.feed(&challenge), Ok(None));
    assert!(failed(client.feed(&challenge)).contains("unexpected Challenge"));
    // Impossible offsets of a resumption.
    let mut backwards = resume_hello(SECRET);
    if let Some(resume) = &mut backwards.resume {
        resume.offsets.consumed = 201;
    }
    let error = server().feed(ClientHandshake::new(backwards).output());
    assert_eq!(
        error,
        Err(PacketError("201 bytes consumed of 200 received".into()))
    );
}

#[test]
fn oversized_input_is_refused_and_not_kept() {
    let mut server = ServerHandshake::new(CHALLENGE);
    assert!(server.feed(&[0; 4096]).is_err());
    // A length field of a gigabyte never makes the reader want that much.
    let header = Header {
        length: 1 << 29,
        ..Header::new(Type::Data)
    };
    assert!(server.feed(&header.encode()).is_err());
    let mut connect = ClientHandshake::new(hello()).output().to_vec();
    connect.push(0);
    assert!(ServerHandshake::new(CHALLENGE).feed(&connect).is_err());
}

#[test]
fn truncated_input_completes_nothing() {
    let connect = ClientHandshake::new(hello()).output().to_vec();
    for n in 0..connect.len() {
        let mut server = ServerHandshake::new(CHALLENGE);
        assert_eq!(server.feed(&connect[..n]), Ok(None));
        assert!(server.want() > 0 && server.want() <= connect.len() - n);
    }
}

proptest! {
    #[test]
    fn nonsense_completes_nothing_unsigned(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8),
        kind in 1u8..=10,
        length in 0u32..200,
        framed: bool,
    ) {
        let mut server = ServerHandshake::new(CHALLENGE);
        let mut client = ClientHandshake::new(ClientHello {
            pinned: Some(key(1).public()),
            ..resume_hello(SECRET)
        });
        if framed {
            let mut header = Header::new(Type::Connect).encode();
            header[0] = kind;
            header[1] = FLAG_SIGNED * u8::from(kind == 2);
            header[4..8].copy_from_slice(&length.to_le_bytes());
            let _ = server.feed(&header);
            let _ = client.feed(&header);
        }
        for chunk in chunks {
            let _ = server.feed(&chunk);
            prop_assert!(!matches!(client.feed(&chunk), Ok(Some(_))));
            prop_assert!(server.want() <= HEADER_BYTES + packet::CONTROL_MAX);
        }
    }
}
