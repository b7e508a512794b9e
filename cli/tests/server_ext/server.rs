//! A PostgreSQL with the extension, for all tests of this file; sessions in it.

use crate::pg_ext::Installation;
use crate::wire::{self, Body, Outbox, put_text};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// "Never", not "how fast".
const LIMIT: Duration = Duration::from_secs(90);

pub struct Server {
    socket: PathBuf,
}

/// Starts it at the first call. It ends with this process, however that ends. `None` where it cannot be had.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(Server::start).as_ref()
}

impl Server {
    fn start() -> Option<Self> {
        let installation = Installation::make()?;
        let dir = installation.dir.path().to_owned();
        let (data, log) = (dir.join("data"), dir.join("log"));
        std::fs::create_dir(&data).unwrap();
        let mut initdb = Command::new(installation.bin.join("initdb"));
        let options = "-U postgres -A trust -E UTF8 --locale=C -N -D data";
        initdb.args(options.split(' ')).current_dir(&dir);
        let account = database_account();
        if let Some((uid, gid)) = account {
            std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
            initdb.uid(uid).gid(gid);
        }
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", crate::pg_ext::said(&made));
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 16MB\n\
             wal_level = logical\nfrom.file = 'the server''s'\n",
            data.display()
        );
        std::fs::write(data.join("postgresql.conf"), settings).unwrap();

        // Waits for the end of its standard input, which is that of this process; removes the files then.
        let script = "trap '' INT; \"$@\" -D data >log 2>&1 & read -r end; kill -QUIT $!; wait; exec rm -rf \"$PWD\"";
        let mut keeper = Command::new("sh");
        keeper.args(["-c", script, "sh"]);
        if let Some((uid, gid)) = account {
            // The shell stays who it is: the files are not the database's.
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
            keeper.arg("setpriv").args(ids).arg("--clear-groups");
        }
        keeper
            .arg(installation.bin.join("postgres"))
            .current_dir(&dir);
        let keeper = (keeper.stdin(Stdio::piped()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::mem::forget(keeper);
        let _ = installation.dir.keep();

        let server = Self {
            socket: data.join(".s.PGSQL.5432"),
        };
        let end = Instant::now() + LIMIT;
        let mut session = loop {
            match Session::begin(&server, "postgres", "postgres", &[]) {
                Ok(session) => break session,
                Err(why) => {
                    let log = std::fs::read_to_string(&log).unwrap_or_default();
                    assert!(Instant::now() < end, "{why}: {log}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        };
        for sql in [
            "create role app login",
            "create role other",
            "grant other to app",
            "create database app",
        ] {
            session.run(sql);
        }
        server.superuser().run("create extension vianet");
        Some(server)
    }

    /// A fresh session of the role `app`, which may do nothing special.
    pub fn app(&self) -> Session {
        self.session("app", &[])
    }

    pub fn superuser(&self) -> Session {
        self.session("postgres", &[])
    }

    pub fn session(&self, role: &str, options: &[(&str, &str)]) -> Session {
        Session::begin(self, role, "app", options).unwrap()
    }

    /// A database of its own, with the extension.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("d{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.superuser().run(&format!("create database {name}"));
        name
    }

    pub fn session_in(&self, database: &str, role: &str) -> Session {
        Session::begin(self, role, database, &[]).unwrap()
    }
}

/// Whom root lets a database run as.
fn database_account() -> Option<(u32, u32)> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users.lines().find(|l| l.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(|f| f.parse().unwrap_or(0));
        Some((fields.next()?, fields.next()?))
    };
    ["postgres", "nobody"].into_iter().find_map(find)
}

/// A row of `vianet.session_state`; what is NULL is empty, except the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub kind: String,
    pub name: String,
    pub value: Option<String>,
    pub source: String,
    pub types: String,
}

pub type Rows = Vec<Vec<Option<String>>>;

pub struct Session {
    stream: UnixStream,
    out: Outbox,
}

impl Session {
    fn begin(
        server: &Server,
        role: &str,
        database: &str,
        options: &[(&str, &str)],
    ) -> Result<Self, String> {
        let stream = UnixStream::connect(&server.socket).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut this = Self {
            stream,
            out: Outbox::default(),
        };
        this.out.sized(|b| {
            b.extend((3i32 << 16).to_be_bytes());
            for (name, value) in [("user", role), ("database", database)]
                .iter()
                .chain(options)
            {
                put_text(b, name);
                put_text(b, value);
            }
            b.push(0);
        });
        this.answer().map(|_| this)
    }

    /// A query string by the simple protocol; the rows of its last statement, or SQLSTATE and message.
    pub fn query(&mut self, sql: &str) -> Result<Rows, String> {
        self.out.message(b'Q', |b| put_text(b, sql));
        self.answer()
    }

    /// A statement that succeeds.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> Rows {
        self.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Prepares a statement by the protocol.
    #[track_caller]
    pub fn parse(&mut self, name: &str, sql: &str, types: &[i32]) {
        self.out.message(b'P', |b| {
            put_text(b, name);
            put_text(b, sql);
            b.extend((types.len() as i16).to_be_bytes());
            types.iter().for_each(|t| b.extend(t.to_be_bytes()));
        });
        self.out.message(b'S', |_| {});
        self.answer().unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn answer(&mut self) -> Result<Rows, String> {
        self.out.flush(&mut self.stream).unwrap();
        let (mut rows, mut failed) = (Rows::new(), None);
        loop {
            let message = wire::read(&mut self.stream).map_err(|e| e.to_string())?;
            let Some((kind, body)) = message else {
                return Err(failed.unwrap_or_else(|| "the end".into()));
            };
            let mut body = Body::new(&body);
            match kind {
                b'T' => rows.clear(),
                b'D' => rows.push(row(&mut body)),
                b'E' => failed = Some(error(&mut body)),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// What the extension says of this session, but for what every session has.
    pub fn state(&mut self) -> Vec<Row> {
        let fresh = [
            "authenticated",
            "role",
            "session_authorization",
            "library",
            "written",
        ];
        self.whole_state("")
            .into_iter()
            .filter(|row| !fresh.contains(&&*row.kind))
            .filter(|row| {
                !["from.file", "application_name", "client_encoding"].contains(&&*row.name)
            })
            .collect()
    }

    pub fn whole_state(&mut self, argument: &str) -> Vec<Row> {
        let sql = format!("SELECT * FROM vianet.session_state({argument})");
        let rows = self.run(&sql);
        rows.into_iter()
            .map(|row| {
                let [kind, name, value, source, types] = row.try_into().unwrap();
                Row {
                    kind: kind.unwrap(),
                    name: name.unwrap_or_default(),
                    value,
                    source: source.unwrap_or_default(),
                    types: types.unwrap_or_default(),
                }
            })
            .collect()
    }

    /// Of this kind: name, value, source.
    pub fn of_kind(&mut self, kind: &str) -> Vec<[String; 3]> {
        let mut rows: Vec<_> = (self.whole_state("").into_iter())
            .filter(|row| row.kind == kind)
            .map(|row| [row.name, row.value.unwrap_or("NULL".into()), row.source])
            .collect();
        rows.sort();
        rows
    }

    /// The setting's value and source.
    pub fn setting(&mut self, name: &str) -> Option<[String; 2]> {
        let rows = self.of_kind("setting");
        let mut found = rows.into_iter().filter(|row| row[0] == name);
        let first = found.next().map(|[_, value, source]| [value, source]);
        assert!(found.next().is_none(), "{name} twice");
        first
    }
}

fn row(body: &mut Body<'_>) -> Vec<Option<String>> {
    (0..body.i16().unwrap())
        .map(|_| {
            let length = usize::try_from(body.i32().unwrap()).ok()?;
            let text = body.bytes(length).unwrap().to_vec();
            Some(String::from_utf8(text).unwrap())
        })
        .collect()
}

fn error(body: &mut Body<'_>) -> String {
    let (mut state, mut text) = (String::new(), String::new());
    loop {
        match body.u8().unwrap() {
            0 => return format!("{state} {text}"),
            b'C' => state = body.text().unwrap(),
            b'M' => text = body.text().unwrap(),
            _ => drop(body.text().unwrap()),
        }
    }
}

/// Name, value and source, as [`Session::of_kind`] gives them.
pub fn three(name: &str, value: &str, source: &str) -> [String; 3] {
    [name.into(), value.into(), source.into()]
}
