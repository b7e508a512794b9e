use super::*;

/// A server that has said this already.
struct Said(&'static [u8], Vec<u8>);

impl Read for Said {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const REFUSED: &[u8] = b"E\0\0\0\x0eC28000\0M!\0\0";

#[track_caller]
fn answer(said: &'static [u8]) -> io::Result<Option<Found>> {
    let mut server = Said(said, Vec::new());
    let found = ask(
        &mut server,
        "somebody",
        &["somebody", "database", "postgres"],
    );
    let startup = b"\0\0\0\x29\0\x03\0\0user\0somebody\0database\0postgres\0\0";
    assert_eq!(server.1, startup);
    found
}

#[test]
fn who_is_asked_or_turned_away_is_not_let_in() {
    for said in [
        b"R\0\0\0\x0c\0\0\0\x05salt".as_slice(),
        b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0",
        REFUSED,
        b"N\0\0\0\x05\0R\0\0\0\x08\0\0\0\x03",
    ] {
        assert_eq!(answer(said).unwrap(), None, "{said:?}");
    }
}

/// PostgreSQL says that somebody may come in before it says that there is nobody of that name.
#[test]
fn who_is_not_asked_is() {
    let open = Some(Found::LetsIn("somebody"));
    assert_eq!(answer(b"R\0\0\0\x08\0\0\0\0").unwrap(), open);
    assert_eq!(
        answer(b"R\0\0\0\x08\0\0\0\0E\0\0\0\x0eC28000\0M!\0\0").unwrap(),
        open
    );
    assert_eq!(answer(b"N\0\0\0\x05\0R\0\0\0\x08\0\0\0\0").unwrap(), open);
}

#[test]
fn anything_else_is_no_answer() {
    assert!(matches!(
        answer(b"Z\0\0\0\x05I").unwrap(),
        Some(Found::Unknown(_))
    ));
    for said in [
        b"".as_slice(),
        b"R\0\0",
        b"R\0\0\0\x01",
        b"R\xff\xff\xff\xff",
    ] {
        assert!(answer(said).is_err(), "{said:?}");
    }
}

/// Where no thread can be had nothing is found out, and nobody waits for it for ever.
#[test]
fn no_thread_no_answer() {
    let config = "name = \"sales\"\nupstream = \"127.0.0.1:5432\"";
    let (server, (said, heard)) = (toml::from_str(config).unwrap(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let door = Door::default();
        let none = |_| Err(io::Error::other("no thread"));
        let first = door.found_by(&server, none);
        said.send((first, door.found(&server))).unwrap();
    });
    let known = heard.recv_timeout(Duration::from_secs(60));
    let unknown = Some(Found::Unknown("no thread".into()));
    assert_eq!(known, Ok((None, unknown)));
}
