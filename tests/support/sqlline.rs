//! The client application `c-tests/sqlline.c`, held by a test: lines in, lines out.

use super::PATIENCE;
use super::c::{How, Program};
use super::programs::Background;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A running `sqlline`.
pub struct SqlLine {
    program: Background,
    _built: Program,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// `EVENT` lines so far, without the word.
    pub events: Vec<String>,
    /// Descriptors of the `CONNECTED` lines so far.
    pub connects: Vec<String>,
    /// The library's log, if it writes one.
    journal: Option<PathBuf>,
}

impl SqlLine {
    /// Starts it and waits for its connection.
    #[track_caller]
    pub fn start(how: How, config: &Path, args: &[&str]) -> Self {
        Self::start_with(how, config, args, &[])
    }

    /// The same with more environment.
    #[track_caller]
    pub fn start_with(how: How, config: &Path, args: &[&str], env: &[(&str, &Path)]) -> Self {
        let built = Program::build("sqlline", how);
        let mut command = built.command(config);
        command
            .args(args)
            .envs(env.iter().copied())
            .env("TEST_SECONDS", "600")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut program = Background::start(&mut command);
        let input = program.child().stdin.take();
        let output = program.child().stdout.take().expect("piped");
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut client = Self {
            program,
            _built: built,
            input,
            lines,
            events: Vec::new(),
            connects: Vec::new(),
            journal: (env.iter())
                .find(|(name, _)| *name == "VIANET_DEBUG")
                .map(|(_, path)| path.to_path_buf()),
        };
        while client.connects.is_empty() {
            let _ = client.next_line();
        }
        client
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Sends one line without waiting.
    #[track_caller]
    pub fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("not ended yet");
        writeln!(input, "{line}").expect("the client reads");
        input.flush().expect("the client reads");
    }

    /// The next line that is no event and no connect; both are kept.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        loop {
            if let Some(line) = self.next_line() {
                return line;
            }
        }
    }

    /// Sends a statement and returns the server's JSON answer, which must be a good one.
    #[track_caller]
    pub fn sql(&mut self, statement: &str) -> serde_json::Value {
        self.send(statement);
        let line = self.answer();
        let answer: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| {
            let journal = self
                .journal
                .as_ref()
                .and_then(|path| std::fs::read_to_string(path).ok());
            let journal = journal.unwrap_or_default();
            panic!("{statement}: {line}: {e}\n--- the library's log\n{journal}")
        });
        assert_eq!(answer["ok"], true, "{statement}: {line}");
        answer
    }

    /// A field of `\info`.
    #[track_caller]
    pub fn info(&mut self, field: &str) -> String {
        self.send("\\info");
        let line = self.answer();
        line.split(' ')
            .find_map(|pair| pair.strip_prefix(field)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {field} in {line}"))
            .to_owned()
    }

    /// Ends its input; it must end well.
    #[track_caller]
    pub fn end(mut self) {
        self.input = None;
        self.program.succeed_within(PATIENCE);
    }

    #[track_caller]
    fn next_line(&mut self) -> Option<String> {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .expect("the client said nothing more");
        if let Some(event) = line.strip_prefix("EVENT ") {
            self.events.push(event.to_owned());
        } else if let Some(fd) = line.strip_prefix("CONNECTED ") {
            self.connects.push(fd.to_owned());
        } else if !line.starts_with("VERSION ") {
            return Some(line);
        }
        None
    }
}
