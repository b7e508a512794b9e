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
        tickets.epochs.lock().asked(NOW, 5);
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
        self.desk.looked_up(NOW, 7, Ok(verifier(&server)));
        self.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
    }
}

#[test]
fn the_owner_gets_a_ticket_whatever_comes_first() {
    for verifier_first in [true, false] {
        let case = Case::new();
        let server = ServerVerifier::new("secret");
        assert_eq!(case.ask(), Given::Not(Why::Unseen));
        case.begin(None);
        assert_eq!(case.ask(), Given::Not(Why::Pending));
        let look = || case.desk.looked_up(NOW, 7, Ok(verifier(&server)));
        let prove = || case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
        if verifier_first {
            look();
        } else {
            prove();
        }
        assert_eq!(case.ask(), Given::Not(Why::Pending));
        if verifier_first {
            prove();
        } else {
            look();
        }
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
    case.begin(Some(Why::Replication));
    assert_eq!(case.ask(), Given::Not(Why::Pending));
    case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
    assert_eq!(case.ask(), Given::Not(Why::Replication));

    case.begin(None);
    assert!(case.desk.is_coming(7));
    case.desk.looked_up(NOW, 7, Err(Why::NoVerifier));
    assert!(!case.desk.is_coming(7) && !case.desk.is_coming(8));
    // Who has not proven that he is that role does not learn whether there is such a one.
    assert_eq!(case.ask(), Given::Not(Why::Pending));
    case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
    assert_eq!(case.ask(), Given::Not(Why::NoVerifier));

    case.begin(None);
    case.desk.looked_up(NOW, 7, Ok(verifier(&server)));
    case.desk.proven(NOW, 7, Err(Why::Method));
    assert_eq!(case.ask(), Given::Not(Why::Method));

    // The password was changed between the two.
    case.begin(None);
    case.desk
        .looked_up(NOW, 7, Ok(verifier(&ServerVerifier::new("secret"))));
    case.desk.proven(NOW, 7, Ok(exchange("secret", &server)));
    assert_eq!(case.ask(), Given::Not(Why::Mismatch));
}

#[test]
fn without_the_other_node_there_is_none_yet() {
    let case = Case::new();
    case.tickets.epochs.lock().asked(NOW, 0);
    case.log_in();
    assert_eq!(case.ask(), Given::Not(Why::NoPeer));
    case.tickets.epochs.lock().asked(NOW, 5);
    assert!(matches!(case.ask(), Given::Ticket { .. }));
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
