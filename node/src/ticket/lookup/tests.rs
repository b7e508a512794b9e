use super::*;
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

/// A server that lets everybody in and answers every question by an error with this state. How many have connected.
fn failing(state: &'static str) -> (Tickets, Upstream, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (config, upstream) = config(&listener);
    let connects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connects);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = serve(&mut stream.unwrap(), state);
        }
    });
    (config, upstream, connects)
}

fn serve(stream: &mut TcpStream, state: &str) -> io::Result<()> {
    wire::read_startup(stream)?;
    let mut out = Outbox::default();
    out.message(b'R', |b| b.extend([0; 4]));
    out.message(b'Z', |b| b.push(b'I'));
    out.flush(stream)?;
    while let Some((kind, _)) = wire::read(stream)? {
        if kind == b'S' {
            out.message(b'E', |b| b.extend(format!("C{state}\0Mno\0\0").as_bytes()));
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
