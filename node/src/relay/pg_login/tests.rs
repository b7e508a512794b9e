use super::*;
use proptest::prelude::*;

fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0app\0database\0app\0\0";
    let mut out = (body.len() as u32 + 4).to_be_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn auth(code: u32, more: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), more].concat())
}

/// Feeds `stream` in pieces of `step`; the bytes passed and the verdict that ended it.
fn run(stream: &[u8], step: usize) -> (usize, Server) {
    let mut login = Login::default();
    let (mut passed, mut have) = (0, 0);
    loop {
        have = (have + step).min(stream.len());
        match login.server(&stream[passed..have]) {
            Server::Pass(n) => passed += n,
            verdict => return (passed, verdict),
        }
        if have == stream.len() {
            return (passed, Server::Pass(0));
        }
    }
}

#[test]
fn what_the_server_says_of_encryption() {
    let asked = || {
        let mut login = Login::default();
        login.asks();
        assert!(login.asking());
        assert_eq!(login.server(b""), Server::Pass(0));
        login
    };
    for yes in [b"S", b"G"] {
        assert_eq!(asked().server(yes), Server::Encrypts);
    }
    // The login goes on in clear, and is watched.
    let mut login = asked();
    assert_eq!(login.server(b"N"), Server::Pass(1));
    assert!(!login.asking());
    assert_eq!(login.client(&startup()), Client::Started);
    assert!(matches!(login.server(&auth(0, b"")), Server::Refuse(_)));
    // Old servers, and those that take nobody now, answer by a message.
    let error = message(b'E', b"SFATAL\0\0");
    let mut login = asked();
    assert_eq!(login.server(&error), Server::Pass(error.len()));
    assert!(!login.asking());
}

#[test]
fn the_clients_first_bytes() {
    let mut login = Login::default();
    for n in 0..startup().len() {
        let more = if n < 8 { 8 - n } else { startup().len() - n };
        assert_eq!(login.client(&startup()[..n]), Client::Wait(more));
    }
    let two = [startup(), b"Q\0\0\0\x05\0".to_vec()].concat();
    assert!(
        matches!(Login::default().client(&two), Client::Refuse(_)),
        "never more than one"
    );
    for code in [SSL_REQUEST, GSS_REQUEST] {
        let request = [8_u32.to_be_bytes(), code.to_be_bytes()].concat();
        assert_eq!(login.client(&request), Client::Encryption(8));
    }
    let ticket = |body: &[u8]| {
        let length = (body.len() as u32 + 8).to_be_bytes();
        [&length[..], &ticket::CODE.to_be_bytes(), body].concat()
    };
    let (one, mut with_ticket) = (ticket(b"sealed"), Login::default());
    assert_eq!(with_ticket.client(&one[..9]), Client::Wait(5));
    assert_eq!(with_ticket.client(&one), Client::Ticket(14));
    assert!(!with_ticket.started() && !with_ticket.challenged());
    assert!(
        matches!(with_ticket.client(&one), Client::Refuse(_)),
        "one is enough"
    );
    assert_eq!(with_ticket.client(&startup()), Client::Started);
    for bad in [ticket(b""), ticket(&[0; MAX_STARTUP])] {
        assert!(matches!(Login::default().client(&bad), Client::Refuse(_)));
    }
    for length in [8, 260] {
        let key = vec![7; length];
        let head = [16 + length as u32 - 8, CANCEL_REQUEST].map(u32::to_be_bytes);
        let cancel = [&head.concat(), &key[..]].concat();
        assert_eq!(login.client(&cancel[..9]), Client::Wait(length - 1));
        assert_eq!(login.client(&cancel), Client::Cancel);
        let arrival = arrival::Arrival {
            key,
            ..Default::default()
        };
        let arrival = arrival.packet();
        let mut moves = Login::default();
        assert_eq!(moves.client(&arrival[..8]), Client::Wait(arrival.len() - 8));
        assert_eq!(moves.client(&arrival), Client::Arrival(arrival.len()));
        assert!(
            matches!(moves.client(&arrival), Client::Refuse(_)),
            "one is enough"
        );
        assert_eq!(moves.client(&one), Client::Ticket(14));
        assert_eq!(moves.client(&startup()), Client::Started);
        assert!(
            matches!(with_ticket.client(&arrival), Client::Refuse(_)),
            "it comes first"
        );
    }
    assert!(!login.started());
    assert_eq!(login.client(&startup()), Client::Started);
    assert!(login.started());
    for bad in [
        &b"\x16\x03\x01\x02\0\x01\0\x01"[..],
        b"GET / HTTP/1.1",
        b"\0\0\0\x08\0\x02\0\0",
    ] {
        assert!(
            matches!(Login::default().client(bad), Client::Refuse(_)),
            "{bad:?}"
        );
    }
    let huge = [u32::MAX.to_be_bytes(), (3_u32 << 16).to_be_bytes()].concat();
    assert!(matches!(Login::default().client(&huge), Client::Refuse(_)));
}

#[test]
fn a_challenged_login_passes_and_an_unchallenged_one_does_not() {
    let scram = [
        auth(10, b"SCRAM-SHA-256\0\0"),
        auth(11, b"r=..."),
        auth(12, b"v=..."),
        auth(0, b""),
        message(b'S', b"server_version\0"),
    ]
    .concat();
    let md5 = [auth(5, b"salt"), auth(0, b"")].concat();
    let trust = [auth(0, b""), message(b'S', b"x\0y\0")].concat();
    let noticed = [message(b'N', b"hello\0"), trust.clone()].concat();
    for step in 1..40 {
        assert_eq!(run(&scram, step).1, Server::Proven);
        assert_eq!(run(&md5, step).1, Server::Proven);
        let (passed, verdict) = run(&trust, step);
        assert!(matches!(verdict, Server::Refuse(_)), "{step}");
        assert_eq!(passed, 0, "no byte of the success reaches the client");
        let (passed, verdict) = run(&noticed, step);
        assert!(
            matches!(verdict, Server::Refuse(_)) && passed <= 11,
            "{step}"
        );
    }
}

#[test]
fn an_error_of_the_server_passes() {
    let stream = message(b'E', b"SFATAL\0C28P01\0Mno\0\0");
    assert_eq!(run(&stream, 3), (stream.len(), Server::Pass(0)));
}

#[test]
fn the_refusal_is_an_error_response() {
    let bytes = refusal("why", "node-a");
    assert_eq!(bytes[0], b'E');
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    assert_eq!(length + 1, bytes.len());
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("C28000\0") && text.contains("allow_unauthenticated_upstream"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_pass_an_unchallenged_ok(
        stream in proptest::collection::vec(any::<u8>(), 0..200), step in 1..17_usize,
    ) {
        let (passed, _) = run(&stream, step);
        prop_assert!(passed <= stream.len());
        let _ = Login::default().client(&stream);
    }

    #[test]
    fn cuts_make_no_difference(step in 1..50_usize, challenges in 0..4_usize) {
        let mut stream = Vec::new();
        for _ in 0..challenges {
            stream.extend(auth(5, b"salt"));
        }
        stream.extend(auth(0, b""));
        let (_, verdict) = run(&stream, step);
        prop_assert_eq!(verdict == Server::Proven, challenges > 0);
    }
}

/// Feeds a client's stream in pieces to a server whose protocol is not known: `Ok`: all of it passed on.
fn guess(stream: &[u8], step: usize) -> Result<(), Client> {
    let mut login = Login::guess();
    let (mut passed, mut have) = (0, 0);
    loop {
        let more = match login.client(&stream[passed..have]) {
            Client::Unwatched => return Ok(()),
            Client::Wait(more) => more,
            verdict => return Err(verdict),
        };
        login.passed(&stream[passed..have]);
        passed = have;
        if have == stream.len() {
            return Ok(());
        }
        have = (have + step.min(more)).min(stream.len());
    }
}

#[test]
fn a_login_is_recognised_and_other_protocols_pass() {
    let cancel = [&[0, 0, 0, 16][..], &CANCEL_REQUEST.to_be_bytes(), &[0; 8]].concat();
    let version_2 = [&[0, 0, 1, 40][..], &[0, 2, 0, 0], &[0; 288]].concat();
    let request = |code: u32| [8, code].map(u32::to_be_bytes).concat();
    // The longest that PostgreSQL takes: its limit of 10,000 leaves out the length itself.
    let longest = [&[0, 0, 0x27, 0x14][..], &[0, 3, 0, 0], &[b'x'; 9996]].concat();
    assert_eq!(Login::default().client(&longest), Client::Started);
    let logins = [
        startup(),
        longest,
        cancel,
        version_2,
        request(SSL_REQUEST),
        request(GSS_REQUEST),
    ];
    for login in logins {
        assert_eq!(guess(&login, 8), Err(Client::Recognised), "{login:?}");
        for step in 1..8 {
            let verdict = guess(&login, step);
            assert!(
                matches!(verdict, Err(Client::Refuse(_))),
                "{step}: {login:?}"
            );
        }
    }
    let others: [&[u8]; 9] = [
        b"",
        b"\0",
        b"\0\0\0\0\0\0\0\0\0\0",
        b"SELECT 1\n",
        b"\x12\x01\0\x2f\0\0\x01\0",       // TDS
        b"\x16\x03\x01\0\xa5\x01\0\0\xa1", // TLS
        b"\x20\0\0\x01\x85\xa6\xff\x01",   // MariaDB
        b"\0\0\0\x07\0\x03\0\0",
        b"\0\0\x27\x15\0\x03\0\0", // one byte longer than PostgreSQL takes
    ];
    for other in others {
        for step in 1..9 {
            assert_eq!(guess(other, step), Ok(()), "{step}: {other:?}");
        }
    }
}

#[test]
fn a_ticket_that_is_refused_is_told_by_its_word() {
    for why in Why::ALL {
        let text = ticket_refusal(why);
        let (kind, length) = (
            text[0],
            u32::from_be_bytes(*text[1..].first_chunk().unwrap()),
        );
        assert_eq!((kind, length as usize), (b'E', text.len() - 1));
        let fields: Vec<_> = text[5..].split(|b| *b == 0).collect();
        assert!(fields.contains(&&b"SFATAL"[..]) && fields.contains(&&b"C28000"[..]));
        assert!(fields.contains(&[b"D", why.name().as_bytes()].concat().as_slice()));
    }
}

/// Where the SQL server may let in whom it likes, everything passes, and logins are followed as far as they are understood.
#[test]
fn a_lenient_login_refuses_nothing() {
    let ok = [&b"R\0\0\0\x08\0\0\0\0"[..], b"Z\0\0\0\x05I"].concat();
    for begun in [Login::default(), Login::guess()] {
        let mut login = begun.lenient();
        if login.guessing() {
            assert_eq!(login.client(&startup()[..8]), Client::Recognised);
        }
        assert_eq!(login.client(&startup()), Client::Started);
        assert!(login.started() && login.challenged());
        assert_eq!(login.server(&ok), Server::Proven);
    }
    let mut login = Login::default().lenient();
    assert_eq!(login.client(b"GET / HTTP/1.1"), Client::Unwatched);
    assert_eq!(login.server(b"HTTP/1.1 200 OK"), Server::Encrypts);
    login.asks();
    assert_eq!(login.server(b"S"), Server::Encrypts);
}
