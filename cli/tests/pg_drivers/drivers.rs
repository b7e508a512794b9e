//! The drivers, and a program of each that is held open.

use crate::pg_lab::{LIMIT, Lab};
use crate::psql::Debug;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Psycopg2,
    Psycopg3,
    Odbc,
    Node,
    Jdbc,
}

/// Where Debian's packages are, whatever else is called python3.
const PYTHON: &str = "/usr/bin/python3";
const JAR: &str = "/usr/share/java/postgresql.jar";
/// Debian's packages, and npm's global ones.
const MODULES: &str = "/usr/share/nodejs:/usr/lib/node_modules:/usr/local/lib/node_modules";

impl Driver {
    const ALL: [Self; 5] = [
        Self::Psycopg2,
        Self::Psycopg3,
        Self::Odbc,
        Self::Node,
        Self::Jdbc,
    ];

    /// Those that are here; a line for each of the others.
    pub fn installed() -> Vec<Self> {
        let is_here = |it: &Self| {
            let here = it.is_here();
            if !here {
                eprintln!(
                    "SKIPPED: {it:?} is not installed (Debian: {})",
                    it.package()
                );
            }
            here
        };
        Self::ALL.into_iter().filter(is_here).collect()
    }

    fn package(self) -> &'static str {
        match self {
            Self::Psycopg2 => "python3-psycopg2",
            Self::Psycopg3 => "python3-psycopg",
            Self::Odbc => "odbc-postgresql, python3-pyodbc",
            Self::Node => "node-pg",
            Self::Jdbc => "libpostgresql-jdbc-java, openjdk-17-jdk-headless",
        }
    }

    fn is_here(self) -> bool {
        let works = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).env("NODE_PATH", MODULES);
            command.output().is_ok_and(|out| out.status.success())
        };
        match self {
            Self::Psycopg2 => works(PYTHON, &["-c", "import psycopg2"]),
            Self::Psycopg3 => works(PYTHON, &["-c", "import psycopg"]),
            Self::Odbc => works(
                PYTHON,
                &[
                    "-c",
                    "import pyodbc; exit('PostgreSQL Unicode' not in pyodbc.drivers())",
                ],
            ),
            Self::Node => works("node", &["-e", "require('pg')"]),
            // The compiler, for a program that is a source file, comes with the development kit only.
            Self::Jdbc => Path::new(JAR).exists() && works("javac", &["-version"]),
        }
    }

    /// What it says where this command hears of a transaction that was lost: the code, and whether it holds the session for open.
    pub fn lost(self, command: &str) -> &'static str {
        match self {
            // It sets a savepoint before the statement, and that is what fails.
            Self::Odbc if command != "commit" => "HY000 -",
            Self::Odbc => "08006 -",
            _ => "08006 open",
        }
    }

    /// What it says of a connection that ended while a statement ran.
    pub fn unknown(self) -> &'static str {
        match self {
            Self::Psycopg2 | Self::Psycopg3 => "None closed",
            Self::Odbc => "08S01 -",
            Self::Node => "ECONNRESET closed",
            Self::Jdbc => "08006 closed",
        }
    }

    fn command(self) -> Vec<PathBuf> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pg_drivers");
        let words: Vec<&str> = match self {
            // Without the folder of the file, in which psycopg2.py is.
            Self::Psycopg2 | Self::Psycopg3 | Self::Odbc => vec![PYTHON, "-I"],
            Self::Node => vec!["node"],
            // Little of the machine: there are several at a time.
            Self::Jdbc => vec![
                "java",
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-cp",
                JAR,
            ],
        };
        let file = match self {
            Self::Psycopg2 => "psycopg2.py",
            Self::Psycopg3 => "psycopg3.py",
            Self::Odbc => "odbc.py",
            Self::Node => "node.js",
            Self::Jdbc => "Jdbc.java",
        };
        let words = words.into_iter().map(PathBuf::from);
        words.chain([here.join(file)]).collect()
    }
}

pub struct Program<'a> {
    lab: &'a Lab,
    pub driver: Driver,
    pub transport: &'static str,
    child: Child,
    lines: Receiver<String>,
    pub debug: Debug,
    errors: PathBuf,
}

impl<'a> Program<'a> {
    pub fn start(lab: &'a Lab, driver: Driver, transport: &'static str) -> Self {
        let debug = Debug::new(lab.dir.path());
        let errors = debug.path.with_extension("errors");
        let mut child = Command::new(env!("CARGO_BIN_EXE_vianet"))
            .args(["run", "--strict", "--transports", transport, "--config"])
            .arg(lab.dir().join("client.toml"))
            .arg("--")
            .args(driver.command())
            .env("VIANET_DEBUG", &debug.path)
            .env("NODE_PATH", MODULES)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, lines) = channel();
        std::thread::spawn(move || out.map_while(Result::ok).try_for_each(|l| said.send(l)));
        Self {
            lab,
            driver,
            transport,
            child,
            lines,
            debug,
            errors,
        }
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    #[track_caller]
    fn hear(&self) -> String {
        let line = self.lines.recv_timeout(LIMIT);
        line.unwrap_or_else(|why| panic!("{why}: {}", self.about()))
    }

    /// What a command that was told has come to, as it should.
    #[track_caller]
    pub fn good(&self) -> String {
        let line = self.hear();
        let good = line.strip_prefix("ok ").map(str::to_owned);
        good.unwrap_or_else(|| panic!("{line}: {}", self.about()))
    }

    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.good()
    }

    /// The error that a command that was told has come to: its code, and whether the driver holds the session for open.
    #[track_caller]
    pub fn heard_failure(&self) -> String {
        let line = self.hear();
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["error", code, state, ..] => format!("{code} {state}"),
            _ => panic!("{line}: {}", self.about()),
        }
    }

    #[track_caller]
    pub fn failed(&mut self, command: &str) -> String {
        self.tell(command);
        self.heard_failure()
    }

    /// For the case that something goes wrong.
    pub fn about(&self) -> String {
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let (debug, nodes) = (self.debug.text(), self.lab.logs());
        let (driver, transport) = (self.driver, self.transport);
        format!("{driver:?} over {transport}: {errors}\n{debug}\n{nodes}")
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
