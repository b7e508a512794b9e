use super::super::desk::Begun;
use super::super::scram::Exchange;
use super::*;
use crate::pg::scram::{ClientLogin, ServerLogin, Verifier as ServerVerifier};
use crate::pg::wire::{self, Outbox};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

fn config(upstream: &TcpListener) -> (Tickets, Upstream) {
    let config = Tickets {
        role: "vianet".into(),
        database: "app".into(),
        connect: None,
        password_file: None,
        lifetime_s: 60,
    };
    (config, Upstream::Tcp(upstream.local_addr().unwrap()))
}

/// What the server says to the question with this number.
type Says = Box<dyn Fn(usize) -> Result<String, &'static str> + Send>;

/// A server that lets everybody in and answers every question by an error with this state. How many have connected.
fn failing(state: &'static str) -> (Tickets, Upstream, Arc<AtomicUsize>) {
    saying(Box::new(move |_| Err(state)))
}

/// One that answers each question by a text, or by an error with this state.
fn saying(says: Says) -> (Tickets, Upstream, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (config, upstream) = config(&listener);
    let connects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connects);
    std::thread::spawn(move || {
        let mut questions = 0;
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = serve(&mut stream.unwrap(), &says, &mut questions);
        }
    });
    (config, upstream, connects)
}

fn serve(stream: &mut TcpStream, says: &Says, questions: &mut usize) -> io::Result<()> {
    wire::read_startup(stream)?;
    let mut out = Outbox::default();
    out.message(b'R', |b| b.extend([0; 4]));
    out.message(b'Z', |b| b.push(b'I'));
    out.flush(stream)?;
    while let Some((kind, _)) = wire::read(stream)? {
        if kind == b'S' {
            *questions += 1;
            match says(*questions) {
                Ok(text) => out.message(b'D', |b| {
                    b.extend(1_i16.to_be_bytes());
                    b.extend((text.len() as i32).to_be_bytes());
                    b.extend(text.as_bytes());
                }),
                Err(state) => out.message(b'E', |b| {
                    b.extend(format!("C{state}\0Mno\0\0").as_bytes());
                }),
            }
            out.message(b'Z', |b| b.push(b'I'));
            out.flush(stream)?;
        }
    }
    Ok(())
}

/// Any client may send a name that the database's encoding does not have; the lookups of others must not suffer from it.
#[test]
fn a_role_that_no_role_can_be_has_no_verifier() {
    let (config, upstream, connects) = failing("22P05");
    let mut connection = None;
    for _ in 0..3 {
        let found = look_up(&mut connection, &config, &upstream, "\u{1f600}");
        assert!(found.unwrap().is_none());
        assert!(connection.is_some());
    }
    assert_eq!(connects.load(Ordering::SeqCst), 1);
}

#[test]
fn what_the_daemon_may_not_ask_is_an_error() {
    let (config, upstream, connects) = failing("42501");
    let mut connection = None;
    let why = look_up(&mut connection, &config, &upstream, "app").err();
    assert!(why.unwrap().contains("42501"));
    assert_eq!(connects.load(Ordering::SeqCst), 1);
}

/// A login with "secret".
fn exchange(server: &ServerVerifier) -> Exchange {
    let mut client = ClientLogin::new("secret");
    let first = client.first();
    let (_, challenge) = ServerLogin::challenge(server, &first).unwrap();
    let last = client.prove(&challenge).unwrap();
    Exchange::new(&first, &challenge, &last).unwrap()
}

/// A channel that has logged in by this; its question.
fn proven(desk: &Desk, exchange: &Exchange, channel: u64) -> Job {
    let begun = Begun {
        channel,
        commitment: [0; 16],
        startup: b"startup",
        generation: 1,
        id: [0; 16],
    };
    desk.begin(&begun, None);
    assert!(desk.proven(clock::now(), channel, Ok(exchange.clone())));
    let role = "app".into();
    Job { channel, role }
}

#[test]
fn a_lookup_that_failed_is_tried_again_and_so_are_those_behind_it() {
    let server = ServerVerifier::new("secret");
    let (exchange, verifier) = (exchange(&server), server.to_string());
    let (config, upstream, _) = saying(Box::new(move |n| match n {
        1 => Err("57014"),
        _ => Ok(verifier.clone()),
    }));
    let desk = Desk::new("sales", Duration::from_secs(60));
    let (sender, jobs) = bounded(QUEUE);
    for channel in 1..=3 {
        sender.send(proven(&desk, &exchange, channel)).unwrap();
    }
    // Over before anybody has looked.
    desk.end(2);
    std::thread::scope(|scope| {
        scope.spawn(|| Asker::new(&desk, "sales", &config, &upstream).run(&jobs));
        let end = clock::now() + Duration::from_secs(60);
        while desk.is_wanted(1) || desk.is_wanted(3) {
            assert!(clock::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(sender);
    });
}

/// Somebody who can ask for ever is not kept for ever.
#[test]
fn only_so_many_are_tried_again() {
    let exchange = exchange(&ServerVerifier::new("secret"));
    let (config, upstream, _) = failing("42501");
    let desk = Desk::new("sales", Duration::from_secs(60));
    let mut asker = Asker::new(&desk, "sales", &config, &upstream);
    for channel in 0..=QUEUE as u64 {
        asker.put_off(proven(&desk, &exchange, channel));
    }
    assert_eq!(asker.again.len(), QUEUE);
    assert!(desk.is_wanted(0) && !desk.is_wanted(QUEUE as u64));
    // Those that are over make room.
    desk.end(5);
    asker.put_off(proven(&desk, &exchange, 9999));
    assert!(desk.is_wanted(9999));
}

#[test]
fn the_password_is_the_files_first_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for text in ["secret", "secret\n", "secret\r\n", "secret\nof 2026\n"] {
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(*password(Some(file.path())).unwrap(), "secret", "{text:?}");
    }
    assert_eq!(*password(None).unwrap(), "");
    std::fs::write(file.path(), "\nsecret").unwrap();
    assert!(
        password(Some(file.path()))
            .unwrap_err()
            .contains("first line")
    );
    let missing = password(Some("/nowhere/at/all".as_ref())).unwrap_err();
    assert!(missing.contains("password_file"), "{missing}");
}
