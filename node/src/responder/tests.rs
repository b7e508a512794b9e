use super::*;
use crate::config::Node;

fn config() -> Node {
    let server = "name = \"Sales\"\nupstream = \"127.0.0.11:5432\"\nadvertise_tcp = \"127.0.0.11:5432\"\n\
         advertise_dac = [\"127.0.0.11:1434\", \"[::1]:1435\"]\n";
    let text = format!(
        "node = \"node-a\"\ncluster = \"lab\"\ncluster_id = \"00112233445566778899aabbccddeeff\"\nstate_dir = \"s\"\n\
         [listen]\nquery = [\"127.0.0.11:1434\"]\nvia_tcp = [\"127.0.0.11:7434\", \"[::1]:7434\"]\n\
         [limits]\nanswers_per_source = 4\n[[servers]]\n{server}"
    );
    toml::from_str(&text).unwrap()
}

fn standing(role: PeerRole, serving: bool) -> Vec<Standing> {
    vec![Standing {
        name: "sales".into(),
        role,
        generation: 7,
        serving,
    }]
}

fn responder() -> Responder {
    let config = config();
    config.check().unwrap();
    let endpoint = |&addr| Endpoint {
        transport: Transport::Tcp,
        addr,
    };
    let via = config.listen.via_tcp.iter().map(endpoint);
    let via = via.collect::<Vec<_>>();
    Responder::new(&config, Some(SecretKey::from_seed([3; 32])), &via)
}

const AT: Duration = Duration::from_secs(100);

fn local() -> SocketAddr {
    "127.0.0.11:1434".parse().unwrap()
}

fn from(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn query(server: &str) -> Query {
    Query {
        nonce: [9; 16],
        server: server.into(),
        min_generation: 0,
    }
}

#[test]
fn roles_as_clients_see_them() {
    let key = SecretKey::from_seed([3; 32]).public();
    // (role, within its lease, what a client is told)
    for (role, serving, told) in [
        (PeerRole::Active, true, Some(Role::Active)),
        (PeerRole::Active, false, None),
        (PeerRole::Passive, false, Some(Role::Passive)),
        (PeerRole::TakingOver, false, Some(Role::TakingOver)),
        (PeerRole::Starting, false, Some(Role::TakingOver)),
    ] {
        let q = query("sales");
        let answer = responder()
            .answer(
                AT,
                local(),
                from(4000),
                &q.encode().unwrap(),
                &standing(role, serving),
            )
            .map(|bytes| q.parse_answer(&bytes, 1_000_000, Some(&key)).unwrap());
        assert_eq!(answer.as_ref().map(|a| a.role), told, "{role:?} {serving}");
        if let Some(answer) = answer {
            assert!(answer.authentic);
            assert_eq!(answer.cluster_id, Some(config().cluster_id_bytes()));
            assert_eq!(answer.endpoints.is_empty(), answer.role != Role::Active);
        }
        let ssrp = responder().answer(
            AT,
            local(),
            from(4000),
            b"\x04sales",
            &standing(role, serving),
        );
        assert_eq!(ssrp.is_some(), serving, "SSRP: only who serves");
    }
    let q = query("nosuch");
    let bytes = responder()
        .answer(
            AT,
            local(),
            from(4000),
            &q.encode().unwrap(),
            &standing(PeerRole::Active, true),
        )
        .unwrap();
    assert_eq!(
        q.parse_answer(&bytes, 1_000_000, Some(&key)).unwrap().role,
        Role::Unknown
    );
}

#[test]
fn silence() {
    let active = standing(PeerRole::Active, true);
    let mut padded = query("sales").encode().unwrap();
    padded.push(0);
    let short = query("sales").encode().unwrap()[..600].to_vec();
    for datagram in [
        &b""[..],
        b"\x0a",
        b"\x05\x01\x00x",
        b"\x04nosuch",
        b"VIA1",
        &padded,
        &short,
    ] {
        assert_eq!(
            responder().answer(AT, local(), from(4000), datagram, &active),
            None
        );
    }
    for good in [b"\x03".to_vec(), query("sales").encode().unwrap()] {
        assert!(
            responder()
                .answer(AT, local(), from(4000), &good, &active)
                .is_some()
        );
        let port_1434 = responder().answer(AT, local(), from(1434), &good, &active);
        assert_eq!(
            port_1434, None,
            "two responders must not be made to talk to each other"
        );
        let mut limited = responder();
        let answers = (0..10)
            .filter(|_| {
                limited
                    .answer(AT, local(), from(4000), &good, &active)
                    .is_some()
            })
            .count();
        assert_eq!(answers, 4, "answers_per_source");
    }
}

#[test]
fn ssrp_tells_only_what_can_be_reached_where_it_was_asked() {
    let active = standing(PeerRole::Active, true);
    let text = |local: &str| {
        let local = local.parse().unwrap();
        let bytes = responder()
            .answer(AT, local, from(4000), b"\x04SALES\0", &active)
            .unwrap();
        String::from_utf8(bytes[3..].to_vec()).unwrap()
    };
    let head = "ServerName;node-a;InstanceName;Sales;IsClustered;Yes;Version;15.0;";
    assert_eq!(
        text("127.0.0.11:1434"),
        format!("{head}tcp;5432;via;node-a,0:7434;;")
    );
    assert_eq!(
        text("[::1]:1434"),
        format!("{head}via;node-a,0:7434;;"),
        "no IPv4 port over IPv6"
    );

    // A node that is asked at several addresses has a port at each.
    let mut dual = config();
    dual.servers[0].advertise_tcp = vec![
        "127.0.0.11:5432".parse().unwrap(),
        "[::1]:5433".parse().unwrap(),
    ];
    dual.check().unwrap();
    let mut responder = Responder::new(&dual, None, &[]);
    let mut ask = |local: &str, request: &[u8]| {
        let local = local.parse().unwrap();
        responder.answer(AT, local, from(4000), request, &active)
    };
    for (local, tcp, dac) in [
        ("127.0.0.11:1434", "5432", 1434_u16),
        ("[::1]:1434", "5433", 1435),
    ] {
        let bytes = ask(local, b"\x04sales\0").unwrap();
        let said = String::from_utf8(bytes[3..].to_vec()).unwrap();
        assert_eq!(said, format!("{head}tcp;{tcp};;"));
        let bytes = ask(local, b"\x0f\x01SALES\0").unwrap();
        assert_eq!(vianet::resolve::ssrp::parse_dac(&bytes), Ok(dac));
    }
    assert_eq!(ask("127.0.0.12:1434", b"\x0f\x01sales\0"), None);
}

/// Asks, and gives what is answered at once.
fn asks(responder: &mut Responder, at: Duration, port: u16, standing: &[Standing]) -> Option<Role> {
    let q = query("sales");
    let bytes = responder.answer(at, local(), from(port), &q.encode().unwrap(), standing)?;
    Some(q.parse_answer(&bytes, 1_000_000, None).unwrap().role)
}

#[test]
fn who_asked_before_is_told_when_the_name_is_served() {
    let mut responder = responder();
    let taking_over = standing(PeerRole::TakingOver, false);
    let active = standing(PeerRole::Active, true);
    for _ in 0..2 {
        // Twice by the same client.
        let told = asks(&mut responder, AT, 4000, &taking_over);
        assert_eq!(told, Some(Role::TakingOver));
    }
    let passive = standing(PeerRole::Passive, false);
    assert_eq!(
        asks(&mut responder, AT, 4001, &passive),
        Some(Role::Passive)
    );
    let soon = AT + Duration::from_millis(900);
    assert_eq!(responder.second_answers(soon, &taking_over), []);
    // Not before its lease has begun.
    let outside = standing(PeerRole::Active, false);
    assert_eq!(responder.second_answers(soon, &outside), []);
    let replies = responder.second_answers(soon, &active);
    let to: Vec<_> = replies.iter().map(|reply| reply.to).collect();
    assert_eq!(to, [from(4000), from(4001)]);
    let q = query("sales");
    let first = q.encode().unwrap();
    for reply in replies {
        assert_eq!(reply.local, local());
        assert!(reply.bytes.len() < first.len());
        let key = SecretKey::from_seed([3; 32]).public();
        let answer = q.parse_answer(&reply.bytes, 1_000_000, Some(&key)).unwrap();
        assert_eq!((answer.role, answer.generation), (Role::Active, 7));
    }
    assert_eq!(responder.second_answers(soon, &active), [], "once");
}

#[test]
fn who_does_not_wait_any_more_or_was_told_is_not_told_again() {
    let mut responder = responder();
    let taking_over = standing(PeerRole::TakingOver, false);
    let active = standing(PeerRole::Active, true);
    asks(&mut responder, AT, 4000, &taking_over);
    let late = AT + Duration::from_secs(1);
    assert_eq!(responder.second_answers(late, &active), []);
    assert_eq!(
        asks(&mut responder, late, 4001, &active),
        Some(Role::Active)
    );
    assert_eq!(responder.second_answers(late, &active), []);
}

#[test]
fn second_answers_have_the_rate_of_all_and_a_limit() {
    let mut responder = responder();
    let taking_over = standing(PeerRole::TakingOver, false);
    let active = standing(PeerRole::Active, true);
    // Four a second are allowed.
    for port in 4000..4003 {
        asks(&mut responder, AT, port, &taking_over);
    }
    assert_eq!(responder.second_answers(AT, &active).len(), 1);
    for port in 1..=2000u16 {
        let at = AT + Duration::from_secs(10) + Duration::from_millis(u64::from(port) / 10);
        let from = SocketAddr::from(([10, 0, (port >> 8) as u8, port as u8], 4000));
        let request = query("sales").encode().unwrap();
        responder.answer(at, local(), from, &request, &taking_over);
    }
    let at = AT + Duration::from_secs(10) + Duration::from_millis(200);
    assert_eq!(responder.second_answers(at, &active).len(), 256);
}

/// A passive node at which sessions may wait says where; but never so much that there is no room for its second answer.
#[test]
fn where_a_session_may_wait_is_told_if_both_answers_fit() {
    let key = SecretKey::from_seed([3; 32]);
    let told = |addresses: usize, warm: usize, protocol: Protocol| {
        let mut config = config();
        config.limits.warm_sessions = warm;
        config.servers[0].protocol = protocol;
        let endpoint = |n: usize| Endpoint {
            transport: Transport::Tcp,
            addr: SocketAddr::from(([127, 0, 0, 11], 7434 + n as u16)),
        };
        let via: Vec<_> = (0..addresses).map(endpoint).collect();
        let mut responder = Responder::new(&config, Some(key.clone()), &via);
        let q = query("sales");
        let passive = standing(PeerRole::Passive, false);
        let asked = q.encode().unwrap();
        let first = responder.answer(AT, local(), from(4000), &asked, &passive);
        let first = first.unwrap();
        let active = standing(PeerRole::Active, true);
        let second = responder.second_answers(AT, &active);
        assert_eq!(second.len(), 1, "{addresses} {warm}");
        assert!(first.len() + second[0].bytes.len() <= REQUEST_BYTES);
        let first = q.parse_answer(&first, 1_000_000, Some(&key.public()));
        first.unwrap().endpoints.len()
    };
    // Shared memory, and one of TCP; the SQL server's own address is told by who is active.
    assert_eq!(told(1, 1, Protocol::Postgres), 2);
    assert_eq!(told(1, 0, Protocol::Postgres), 0);
    assert_eq!(told(1, 1, Protocol::Raw), 0);
    for addresses in 2..10 {
        told(addresses, 1, Protocol::Postgres);
    }
}
