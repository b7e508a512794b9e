use super::super::seal::EpochKey;
use super::*;
use crate::pg::scram::{ClientLogin, ServerLogin, Verifier as ServerVerifier};

const NOW: Duration = Duration::from_secs(100);

fn exchange(password: &str, server: &ServerVerifier) -> Exchange {
    let mut client = ClientLogin::new(password);
    let first = client.first();
    let (_, challenge) = ServerLogin::challenge(server, &first).unwrap();
    let last = client.prove(&challenge).unwrap();
    Exchange::new(&first, &challenge, &last).unwrap()
}

fn verifier(server: &ServerVerifier) -> Verifier {
    Verifier::parse(&server.to_string()).unwrap()
}

struct Case {
    desk: Desk,
    tickets: Tickets,
    key: Key,
}

impl Case {
    fn new() -> Self {
        let tickets = Tickets::new([1; 16]);
        tickets.epochs.lock().add(NOW, EpochKey::new(5, [5; 32]));
        tickets
            .epochs
            .lock()
            .asked(NOW, 5, vec![ServerDigest::of("sales")]);
        Self {
            desk: Desk::new("Sales", Duration::from_secs(60)),
            tickets,
            key: Key::generate().unwrap(),
        }
    }

    fn begin(&self, why: Option<Why>) {
        let begun = Begun {
            channel: 7,
            commitment: self.key.commitment(),
            startup: b"startup",
            generation: 10,
            id: [8; 16],
        };
        self.desk.begin(&begun, why);
    }

    fn ask_as(&self, key: &Key, channel: u64) -> Given {
        let ask = Ask {
            nonce: [0; 16],
            server: "sales".into(),
            channel,
            public: key.public(),
        };
        let step = Step {
            now: NOW,
            now_ms: 1000,
            random: [9; 24],
        };
        self.desk.answer(&self.tickets, &ask, &step)
    }

    fn ask(&self) -> Given {
        self.ask_as(&self.key, 7)
    }

    fn log_in(&self) {
        let server = ServerVerifier::new("secret");
        self.begin(None);
        assert!(self.desk.proven(NOW, 7, Ok(exchange("secret", &server))));
        self.desk.looked_up(7, Ok(verifier(&server)));
    }
}

#[test]
fn the_owner_gets_a_ticket_once_the_login_is_proven_and_the_verifier_found() {
    let case = Case::new();
    let server = ServerVerifier::new("secret");
    assert_eq!(case.ask(), Given::Not(Why::Unseen));
    case.begin(None);
    assert_eq!(case.ask(), Given::Not(Why::Pending));
    // Nothing is looked up for whoever has proven nothing.
    assert!(!case.desk.is_wanted(7));
    case.desk.looked_up(7, Ok(verifier(&server)));
    assert!(case.desk.proven(NOW, 7, Ok(exchange("secret", &server))));
    assert!(case.desk.is_wanted(7));
    assert_eq!(case.ask(), Given::Not(Why::Pending));
    case.desk.looked_up(7, Ok(verifier(&server)));
    assert!(!case.desk.is_wanted(7));
    let Given::Ticket { ticket, seconds } = case.ask() else {
        panic!("no ticket");
    };
    assert_eq!(seconds, 60);
    let scope = Scope {
        cluster: [1; 16],
        server: "sales",
    };
    let epochs = case.tickets.epochs.lock();
    let opened = Contents::open(|id| epochs.find(id), scope, &ticket);
    let contents = opened.ok().unwrap();
    assert_eq!(contents.startup, startup_digest(b"startup"));
    assert_eq!((contents.channel, contents.generation), (7, 10));
    assert_eq!((contents.expires_ms, contents.id), (61_000, [8; 16]));
    assert!(contents.public == case.key.public());
}

#[test]
fn nobody_else_gets_it() {
    let case = Case::new();
    case.log_in();
    let thief = Key::generate().unwrap();
    assert_eq!(case.ask_as(&thief, 7), Given::Not(Why::NotOwner));
    assert_eq!(case.ask_as(&case.key, 8), Given::Not(Why::Unseen));
    // Before it is his either.
    case.begin(Some(Why::Method));
    assert_eq!(case.ask_as(&thief, 7), Given::Not(Why::NotOwner));
}

#[test]
fn reasons_stay() {
    let server = ServerVerifier::new("secret");
    let case = Case::new();
    let prove = || case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
    case.begin(Some(Why::Replication));
    // Who has not proven who he is does not learn it.
    assert_eq!(case.ask(), Given::Not(Why::Pending));
    assert!(!prove());
    assert_eq!(case.ask(), Given::Not(Why::Replication));

    case.begin(None);
    assert!(prove());
    case.desk.looked_up(7, Err(Why::NoVerifier));
    assert_eq!(case.ask(), Given::Not(Why::NoVerifier));

    case.begin(None);
    assert!(!case.desk.proven(NOW, 7, Err(Why::Method)));
    assert_eq!(case.ask(), Given::Not(Why::Method));
    case.desk.looked_up(7, Ok(verifier(&server)));
    assert_eq!(case.ask(), Given::Not(Why::Method));

    // The password was changed between the two.
    case.begin(None);
    assert!(prove());
    let other = verifier(&ServerVerifier::new("secret"));
    case.desk.looked_up(7, Ok(other));
    assert_eq!(case.ask(), Given::Not(Why::Mismatch));

    assert!(!case.desk.proven(NOW, 8, Ok(exchange("secret", &server))));
}

#[test]
fn without_the_other_node_there_is_none_yet() {
    let case = Case::new();
    case.tickets
        .epochs
        .lock()
        .asked(NOW, 0, vec![ServerDigest::of("sales")]);
    case.log_in();
    assert_eq!(case.ask(), Given::Not(Why::NoPeer));
    case.tickets
        .epochs
        .lock()
        .asked(NOW, 5, vec![ServerDigest::of("sales")]);
    assert!(matches!(case.ask(), Given::Ticket { .. }));
}

#[test]
fn there_is_none_that_the_other_node_would_not_redeem() {
    let case = Case::new();
    let other = ServerDigest::of("other");
    case.tickets.epochs.lock().asked(NOW, 5, vec![other]);
    case.log_in();
    assert_eq!(case.ask(), Given::Not(Why::PeerOff));
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let case = Case::new();
    case.log_in();
    case.desk.tick(NOW + UNASKED - Duration::from_millis(1));
    assert!(matches!(case.ask(), Given::Ticket { .. }));
    // Once asked for, it is there as long as the channel.
    case.desk.tick(NOW + 10 * UNASKED);
    assert!(matches!(case.ask(), Given::Ticket { .. }));
    case.desk.end(7);
    assert_eq!(case.ask(), Given::Not(Why::Unseen));

    case.log_in();
    case.desk.tick(NOW + UNASKED);
    assert_eq!(case.ask(), Given::Not(Why::Late));
}

/// The exchange is worth as much as what it gives.
#[test]
fn an_exchange_that_nobody_asks_about_does_not_wait_for_its_verifier() {
    let case = Case::new();
    let server = ServerVerifier::new("secret");
    for asked in [false, true] {
        case.begin(None);
        case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
        if asked {
            assert_eq!(case.ask(), Given::Not(Why::Pending));
        }
        case.desk.tick(NOW + UNASKED);
        assert_eq!(case.desk.is_wanted(7), asked);
    }
    case.desk.looked_up(7, Ok(verifier(&server)));
    assert!(matches!(case.ask(), Given::Ticket { .. }));
}

#[test]
fn a_lookup_that_is_tried_again_is_not_the_last_word() {
    let case = Case::new();
    let server = ServerVerifier::new("secret");
    case.begin(None);
    case.desk.not_looked_up(7);
    assert_eq!(case.ask(), Given::Not(Why::Pending), "not proven");
    case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
    assert_eq!(case.ask(), Given::Not(Why::Pending));
    case.desk.not_looked_up(7);
    assert!(case.desk.is_wanted(7) && Why::Lookup.may_pass());
    assert_eq!(case.ask(), Given::Not(Why::Lookup));
    case.desk.looked_up(7, Ok(verifier(&server)));
    assert!(matches!(case.ask(), Given::Ticket { .. }));
    case.desk.not_looked_up(7);
    assert!(matches!(case.ask(), Given::Ticket { .. }));
}
