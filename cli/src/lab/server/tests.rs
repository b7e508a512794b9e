//! The server over real sockets, both protocols.

use super::*;
use serde_json::{Value, json};
use std::io::Read;
use std::process::Command;
use std::time::Instant;
use vianet_node::pg::client::{Client, Error};
use vianet_node::pg::wire::{self, Outbox, put_text};

const LIMIT: Duration = Duration::from_secs(20);

/// A server on an address of its own; it lives as long as the test program.
struct Lab {
    dir: Arc<tempfile::TempDir>,
    host: String,
}

impl Lab {
    fn new(host: &str, serve: bool) -> Self {
        Self::beside(Arc::new(tempfile::tempdir().unwrap()), host, serve)
    }

    /// Another server on the same database.
    fn beside(dir: Arc<tempfile::TempDir>, host: &str, serve: bool) -> Self {
        let lab = Self {
            dir,
            host: host.into(),
        };
        let args = Args {
            database: lab.dir.path().join("database"),
            postgres: format!("{host}:7432").parse().unwrap(),
            lines: format!("{host}:7433").parse().unwrap(),
            control: lab.control(),
            serve,
        };
        thread::spawn(move || run(args).unwrap());
        let deadline = Instant::now() + LIMIT;
        while tell(&lab.control(), "health", LIMIT).is_err() {
            assert!(Instant::now() < deadline, "the server does not come");
            thread::sleep(Duration::from_millis(5));
        }
        lab
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join(&self.host)
    }

    fn tell(&self, word: &str) -> String {
        tell(&self.control(), word, LIMIT).unwrap()
    }

    fn stream(&self, port: u16) -> TcpStream {
        let stream = TcpStream::connect((self.host.as_str(), port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn log_in(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client<TcpStream>, Error> {
        Client::log_in(self.stream(7432), user, password, database)
    }

    fn client(&self) -> Client<TcpStream> {
        self.log_in(ROLE, PASSWORD, ROLE).unwrap()
    }

    fn lines(&self) -> Lines {
        let stream = self.stream(7433);
        Lines(BufReader::new(stream))
    }
}

struct Lines(BufReader<TcpStream>);

impl Lines {
    fn say(&mut self, line: &str) -> Value {
        self.0
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
        self.hear().expect("an answer")
    }

    fn hear(&mut self) -> Option<Value> {
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        (!answer.is_empty()).then(|| serde_json::from_str(&answer).unwrap())
    }
}

fn state(result: Result<vianet_node::pg::client::Answer, Error>) -> String {
    match result {
        Err(Error::Sql(state, _)) => state,
        other => panic!("an SQL error was expected: {other:?}"),
    }
}

fn cells(client: &mut Client<TcpStream>, sql: &str) -> Vec<Vec<Option<String>>> {
    client.query(sql).unwrap().rows
}

fn some(text: &str) -> Option<String> {
    Some(text.into())
}

#[test]
fn only_the_role_with_its_password_comes_in() {
    let lab = Lab::new("127.0.110.1", true);
    lab.client();
    for (user, password, database, expected) in [
        ("app", "wrong", "app", "28P01"),
        ("app", "", "app", "28P01"),
        ("postgres", "app", "app", "28P01"),
        ("app", "app", "postgres", "3D000"),
    ] {
        match lab.log_in(user, password, database) {
            Err(Error::Sql(state, _)) => assert_eq!(state, expected, "{user} {password}"),
            other => panic!("{user} {password} {database}: {}", other.is_ok()),
        }
    }
}

#[test]
fn statements_and_transactions_end_as_in_postgresql() {
    let lab = Lab::new("127.0.110.2", true);
    let mut c = lab.client();
    let answer = c
        .query("create table t (id integer primary key, x text); insert into t values (1, 'a'), (2, null)")
        .unwrap();
    assert_eq!(answer.tag, "INSERT 0 2");
    assert_eq!(
        cells(&mut c, "select id, x, 1.5, x'00ff' from t order by id"),
        [
            [some("1"), some("a"), some("1.5"), some("\\x00ff")],
            [some("2"), None, some("1.5"), some("\\x00ff")],
        ]
    );
    // One query string is one transaction: its error takes the first statement back.
    assert_eq!(
        state(c.query("insert into t values (3, 'c'); insert into t values (3, 'd')")),
        "23505"
    );
    assert_eq!(cells(&mut c, "select count(*) from t"), [[some("2")]]);
    // An open transaction is aborted by an error, refuses everything, and COMMIT ends it as ROLLBACK.
    c.query("begin; insert into t values (4, 'd')").unwrap();
    assert_eq!(state(c.query("select * from nowhere")), "42P01");
    assert_eq!(state(c.query("select 1")), "25P02");
    assert_eq!(c.query("commit").unwrap().tag, "ROLLBACK");
    assert_eq!(cells(&mut c, "select count(*) from t"), [[some("2")]]);
    // Committed is what another connection sees.
    c.query("start transaction; delete from t where id = 1")
        .unwrap();
    let mut other = lab.client();
    assert_eq!(cells(&mut other, "select count(*) from t"), [[some("2")]]);
    assert_eq!(c.query("end").unwrap().tag, "COMMIT");
    assert_eq!(cells(&mut other, "select count(*) from t"), [[some("1")]]);
    assert_eq!(c.query("update t set x = 'z'").unwrap().tag, "UPDATE 1");
    assert_eq!(c.query("").unwrap().tag, "");
    // What cannot be kept is refused, and nothing reaches other files.
    assert_eq!(state(c.query("set search_path to x")), "0A000");
    assert_eq!(state(c.query("attach '/tmp/x' as y")), "42501");
    assert_eq!(state(c.query("pragma synchronous = off")), "42501");
    c.query("set application_name = 'here'").unwrap();
    assert_eq!(cells(&mut c, "show application_name"), [[some("here")]]);
}

#[test]
fn malformed_packets_end_only_their_own_connection() {
    let lab = Lab::new("127.0.110.3", true);
    let mut good = lab.client();
    for bytes in [
        &b"\0\0\0\0"[..],
        b"\0\0\0\x08\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\x0a\0\x03\0\0ab",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\0\0\0\x09\0\x03\0\0\0p\0\0\0\x05x",
    ] {
        let mut stream = lab.stream(7432);
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // Reset or end, now or after we ended: all are right.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut rest);
    }
    assert_eq!(cells(&mut good, "select 7"), [[some("7")]]);
}

#[test]
fn encryption_is_declined_and_the_extended_protocol_refused_until_sync() {
    let lab = Lab::new("127.0.110.4", true);
    let mut stream = lab.stream(7432);
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    let mut raw = stream.try_clone().unwrap();
    let mut client = Client::log_in(stream, ROLE, PASSWORD, ROLE).unwrap();
    let mut out = Outbox::default();
    out.message(b'P', |b| {
        put_text(b, "");
        put_text(b, "select 1");
        b.extend([0, 0]);
    });
    out.message(b'S', |_| {});
    out.flush(&mut raw).unwrap();
    let tags: Vec<u8> = (0..2)
        .map(|_| wire::read(&mut raw).unwrap().unwrap().0)
        .collect();
    assert_eq!(tags, b"EZ");
    assert_eq!(cells(&mut client, "select 1"), [[some("1")]]);
}

#[test]
fn lines_stand_for_themselves() {
    let lab = Lab::new("127.0.110.5", true);
    let mut l = lab.lines();
    assert_eq!(
        l.say("create table t (id integer primary key, x)"),
        json!({"ok": true, "columns": [], "rows": [], "changes": 0})
    );
    assert_eq!(
        l.say("insert into t values (1, 'a'), (2, 2.5);")["changes"],
        2
    );
    assert_eq!(
        l.say("select id, x, null as n from t -- all"),
        json!({"ok": true, "columns": ["id", "x", "n"], "rows": [[1, "a", null], [2, 2.5, null]], "changes": 0})
    );
    for (line, code) in [
        ("insert into t values (1, 'b')", "23505"),
        ("begin", "0A000"),
        ("select 1; select 2", "42601"),
        ("", "42601"),
        ("create temp table u (x)", "42501"),
        ("select last_insert_rowid()", "42501"),
        ("attach '/tmp/x' as y", "42501"),
        ("select * from nowhere", "42P01"),
    ] {
        let answer = l.say(line);
        assert_eq!(
            (&answer["ok"], &answer["code"]),
            (&json!(false), &json!(code)),
            "{line}"
        );
    }
    // Half a line is no line.
    let stream = l.0.get_mut();
    stream.write_all(b"delete from t").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(l.hear(), None);
    assert_eq!(
        lab.lines().say("select count(*) from t")["rows"],
        json!([[2]])
    );
    let mut long = lab.lines();
    long.0.get_mut().write_all(&vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(long.hear().unwrap()["code"], "54000");
    assert_eq!(long.hear(), None);
}

#[test]
fn a_server_that_stands_by_takes_nobody_and_what_was_open_is_rolled_back() {
    let a = Lab::new("127.0.110.6", true);
    let b = Lab::beside(Arc::clone(&a.dir), "127.0.110.7", false);
    assert_eq!(
        (a.tell("health"), b.tell("health")),
        ("serving".into(), "standing by".into())
    );
    match b.log_in(ROLE, PASSWORD, ROLE) {
        Err(Error::Sql(state, _)) => assert_eq!(state, "57P03"),
        other => panic!("{}", other.is_ok()),
    }
    assert_eq!(b.lines().hear().unwrap()["code"], "57P03");
    let mut c = a.client();
    c.query("create table t (x)").unwrap();
    c.query("begin; insert into t values (1)").unwrap();
    let mut l = a.lines();
    assert_eq!(l.say("select 1")["ok"], true);
    assert_eq!(a.tell("stand-by"), "standing by");
    assert_eq!(b.tell("serve"), "serving");
    assert!(matches!(c.query("commit"), Err(Error::Io(_))));
    assert_eq!(l.hear(), None);
    // The write lock is free again and the row is not there.
    let mut c = b.client();
    assert_eq!(
        c.query("insert into t values (2)").unwrap().tag,
        "INSERT 0 1"
    );
    assert_eq!(cells(&mut c, "select x from t"), [[some("2")]]);
    assert_eq!(b.tell("nonsense"), "error: unknown word \"nonsense\"");
}

/// A stream that remembers what came, so that a test sees BackendKeyData.
struct Tee(TcpStream, Arc<Mutex<Vec<u8>>>);

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.lock().unwrap().extend(&buffer[..n]);
        Ok(n)
    }
}

impl Write for Tee {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_statement_is_cancelled_by_who_knows_the_secret() {
    let lab = Lab::new("127.0.110.8", true);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let stream = Tee(lab.stream(7432), Arc::clone(&heard));
    let mut c = Client::log_in(stream, ROLE, PASSWORD, ROLE).unwrap();
    let heard = heard.lock().unwrap().clone();
    let mut messages = &heard[..];
    let key = loop {
        match wire::read(&mut messages).unwrap() {
            Some((b'K', body)) => break body,
            other => assert!(other.is_some(), "no BackendKeyData"),
        }
    };
    let endless = thread::spawn(move || {
        c.query("with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n")
    });
    let cancel = |key: &[u8]| {
        let mut out = Outbox::default();
        out.sized(|b| {
            b.extend(80_877_102i32.to_be_bytes());
            b.extend(key);
        });
        let mut stream = lab.stream(7432);
        out.flush(&mut stream).unwrap();
        // The server closes once it has dealt with it.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    };
    let mut wrong = key.clone();
    wrong[7] ^= 1;
    cancel(&wrong);
    thread::sleep(Duration::from_millis(100));
    assert!(!endless.is_finished(), "cancelled with a wrong secret");
    let deadline = Instant::now() + LIMIT;
    // A cancel that comes before the statement begins does nothing, as in PostgreSQL.
    while !endless.is_finished() {
        assert!(Instant::now() < deadline, "not cancelled");
        cancel(&key);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(state(endless.join().unwrap()), "57014");
}

#[test]
fn psql_is_content() {
    let lab = Lab::new("127.0.110.9", true);
    let psql = |args: &[&str]| {
        Command::new("psql")
            .args([
                "-X", "-h", &lab.host, "-p", "7432", "-U", "app", "-d", "app", "-At",
            ])
            .args(args)
            .env("PGPASSWORD", "app")
            .output()
    };
    let Ok(out) = psql(&[
        "-c",
        "create table t (x int); insert into t values (1), (null)",
        "-c",
        "select * from t",
    ]) else {
        eprintln!("skipped: psql is not installed (Debian: postgresql-client)");
        return;
    };
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "CREATE TABLE\nINSERT 0 2\n1\n\n"
    );
    let out = psql(&["-v", "ON_ERROR_STOP=1", "-c", "select nonsense"]).unwrap();
    assert_eq!(out.status.code(), Some(1));
}
