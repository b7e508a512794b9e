//! A lab with a PostgreSQL engine, psql and a libpq program against it.

#![allow(dead_code)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for a machine that does many other things.
pub const LIMIT: Duration = Duration::from_secs(90);

pub struct Lab {
    pub dir: tempfile::TempDir,
    subnet: u8,
}

impl Lab {
    /// A lab, or `None` where PostgreSQL is not installed.
    pub fn up(engine: &str, subnet: u8) -> Option<Self> {
        Self::up_with(engine, subnet, &[])
    }

    pub fn up_with(engine: &str, subnet: u8, more: &[&str]) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Command::new("psql").arg("--version").output().is_err() {
            eprintln!("skipped: psql is not installed (Debian: postgresql-client)");
            return None;
        }
        // Root's PostgreSQL runs as another user, who must come in.
        let dir = tempfile::Builder::new()
            .prefix("vianet-lab-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let lab = Self { dir, subnet };
        let address = format!("127.0.{subnet}");
        let up = ["up", "--engine", engine, "--subnet", &address];
        let out = lab.run(&[&up, more].concat());
        let said = text(&out);
        if out.status.code() == Some(3) && said.contains("PostgreSQL is not installed") {
            eprintln!("skipped: {said}");
            return None;
        }
        assert!(out.status.success(), "{said}");
        Some(lab)
    }

    /// Stops everything, and leaves the files to be read.
    pub fn keep(self) -> PathBuf {
        self.good(&["down", "--keep"]);
        let dir = self.dir.path().to_owned();
        // Its end would remove them.
        std::mem::forget(self);
        dir
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    /// In the lab's own network.
    pub fn address(&self, last: u8, port: u16) -> std::net::SocketAddr {
        ([127, 0, self.subnet, last], port).into()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
        command.arg("lab").args(args).arg("--dir").arg(self.dir());
        // A terminal's Ctrl-C is for the test.
        command.process_group(0).output().unwrap()
    }

    pub fn good(&self, args: &[&str]) {
        let out = self.run(args);
        assert_eq!(
            out.status.code(),
            Some(0),
            "{args:?}: {}{}",
            text(&out),
            self.logs()
        );
    }

    pub fn refused(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(3), "{args:?}: {}", text(&out));
        text(&out)
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.run(&["status", "--json"]).stdout).unwrap()
    }

    pub fn logs(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.dir().join(file)).unwrap_or_default();
        ["node-a/daemon.log", "node-b/daemon.log"]
            .map(read)
            .join("\n---\n")
    }

    pub fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if reached(&status) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {status}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_until_active(&self, node: &str) {
        self.until(node, |status| status["active"]["sales"] == node);
    }

    /// psql by server name, unchanged, below `vianet run`.
    pub fn psql(&self, sql: &str) -> Output {
        self.timed(
            Command::new("timeout")
                .args(["60", env!("CARGO_BIN_EXE_vianet"), "run", "--", "psql"])
                .args(["-h", "sales.lab", "-U", "app"])
                .env("VIANET_CONFIG", self.dir().join("client.toml")),
            sql,
        )
    }

    /// psql straight to a node's server.
    pub fn direct(&self, last: u8, user: &str, sql: &str) -> Output {
        let host = format!("127.0.{}.{last}", self.subnet);
        self.timed(
            Command::new("timeout").args(["60", "psql", "-h", &host, "-p", "7432", "-U", user]),
            sql,
        )
    }

    pub fn timed(&self, command: &mut Command, sql: &str) -> Output {
        command
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", "app", "-c", sql])
            .env("PGPASSWORD", "app")
            .output()
            .unwrap()
    }

    /// psql as the superuser, over the socket of the server in `dir`; what it prints, bare.
    pub fn superuser(&self, dir: &str, sql: &str) -> String {
        let meta = std::fs::read_to_string(self.dir().join("lab.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
        let mut psql = match meta["database_user"].as_str() {
            Some(user) => {
                let mut psql = Command::new("setpriv");
                psql.args(["--reuid", user, "--clear-groups", "psql"]);
                psql
            }
            None => Command::new("psql"),
        };
        psql.args(["-h", self.dir().join(dir).join("socket").to_str().unwrap()])
            .args([
                "-p", "7432", "-U", "postgres", "-d", "app", "-X", "-q", "-A", "-t",
            ])
            .args(["-v", "ON_ERROR_STOP=1", "-c", sql])
            .current_dir("/");
        let out = psql.output().unwrap();
        assert!(out.status.success(), "{sql}: {}", text(&out));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub fn sql(&self, sql: &str) -> String {
        let out = self.psql(sql);
        assert!(out.status.success(), "{sql}: {}{}", text(&out), self.logs());
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Fails where it is down already, as it should be.
        let _ = self.run(&["down"]);
    }
}

/// A program of libpq's below `vianet run`: one process that runs statements as long as the test likes.
pub struct Libpq {
    child: Child,
    answers: Receiver<String>,
}

impl Libpq {
    pub fn build(dir: &Path) -> PathBuf {
        Self::compile(dir, "libpq")
    }

    /// Compiles `c/NAME.c` into `dir`. libpq comes with psql; only its header would need one more package.
    pub fn compile(dir: &Path, name: &str) -> PathBuf {
        let program = dir.join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"));
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&program, &source])
            .args(["-l:libpq.so.5", "-pthread"]);
        let out = cc.output().expect("a C compiler: run `make tools`");
        assert!(out.status.success(), "{}", text(&out));
        program
    }

    pub fn start(lab: &Lab, program: &Path, transport: &str) -> Self {
        Self::start_with(lab, program, transport, &[])
    }

    /// With more in its environment.
    pub fn start_with(
        lab: &Lab,
        program: &Path,
        transport: &str,
        environment: &[(&str, &Path)],
    ) -> Self {
        let mut run = Command::new(env!("CARGO_BIN_EXE_vianet"));
        run.args(["run", "--strict", "--transports", transport, "--config"])
            .arg(lab.dir().join("client.toml"))
            .arg("--")
            .arg(program)
            .arg("host=sales.lab user=app password=app dbname=app");
        run.envs(environment.iter().copied());
        let mut child = (run.stdin(Stdio::piped()).stdout(Stdio::piped()))
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, answers) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| said.send(l)));
        Self { child, answers }
    }

    pub fn answer(&mut self, lab: &Lab, statement: &str) -> String {
        self.tell(statement);
        self.hear(lab, statement)
    }

    /// Sends a line without waiting for what comes of it.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// What came of it.
    pub fn hear(&mut self, lab: &Lab, statement: &str) -> String {
        (self.answers.recv_timeout(LIMIT))
            .unwrap_or_else(|e| panic!("{statement}: {e}\n{}", lab.logs()))
    }

    pub fn value(&mut self, lab: &Lab, statement: &str) -> String {
        let answer = self.answer(lab, statement);
        match answer.strip_prefix("ok ") {
            Some(value) => value.to_owned(),
            None => panic!("{statement}: {answer}\n{}", lab.logs()),
        }
    }
}

impl Drop for Libpq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn text(out: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        out.status.code(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}
