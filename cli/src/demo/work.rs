//! The demo's application: writes numbered rows, one after the other, and never writes one twice without looking.

use super::client::{Client, Failed};
use super::story::{Entry, Kind};
use crate::failure::{Failure, Outcome};
use crate::lab::layout::{Engine, Lab};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How long rows are written after the failover.
const AFTER: Duration = Duration::from_secs(2);
/// How long the application tries to get on by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the number of rows is told.
const TELL: Duration = Duration::from_millis(500);

/// The application.
pub struct Work {
    engine: Engine,
    config: PathBuf,
    story: Sender<Entry>,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Longest time between two acknowledged rows.
    gap: Duration,
    acknowledged: usize,
    /// Acknowledged and not there.
    lost: usize,
    /// There more than once.
    twice: usize,
    /// The quiet connection went on: same descriptor, other node. `None`: there was none.
    quiet: Option<bool>,
}

impl Verdict {
    /// Nothing lost, nothing twice, and a failover survived.
    pub fn good(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.acknowledged > 0 && self.quiet != Some(false)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quiet = match self.quiet {
            None => String::new(),
            Some(true) => "  quiet connection       went on, on the same descriptor\n".into(),
            Some(false) => "  quiet connection       DID NOT GO ON\n".into(),
        };
        write!(
            f,
            "\nVerdict: {}\n  gap                    {} ms without an acknowledged row\n{quiet}  \
             rows acknowledged      {}\n  rows lost              {}\n  rows twice             {}\n",
            if self.good() { "good" } else { "BAD" },
            self.gap.as_millis(),
            self.acknowledged,
            self.lost,
            self.twice
        )
    }
}

impl Work {
    /// To be run on a lab.
    pub fn new(lab: &Lab, story: Sender<Entry>) -> Self {
        Self {
            engine: lab.meta.engine,
            config: lab.dir.join("client.toml"),
            story,
        }
    }

    /// Writes until some time after the failover, then counts.
    pub fn run(self) -> Outcome<Verdict> {
        let mut client = self.connect()?;
        self.must(&mut client, "CREATE TABLE demo (id integer NOT NULL)")?;
        // A second connection that asks once and is quiet then: the library can move it.
        let mut quiet = match self.engine {
            Engine::Embedded => Some(self.connect()?),
            Engine::Postgres | Engine::PostgresShared => None,
        };
        if let Some(quiet) = &mut quiet {
            self.must(quiet, "SELECT count(*) FROM demo")?;
        }
        let first_node = node_of(&client);
        self.tell(Kind::Connected, &first_node);
        let mut verdict = Verdict::default();
        let mut last = Instant::now();
        let mut told = last;
        let mut moved_at: Option<Instant> = None;
        let mut id = 0u64;
        while moved_at.is_none_or(|at| at.elapsed() < AFTER) {
            id += 1;
            self.write(&mut client, id)?;
            verdict.acknowledged += 1;
            verdict.gap = verdict.gap.max(last.elapsed());
            last = Instant::now();
            if moved_at.is_none() && node_of(&client) != first_node {
                moved_at = Some(last);
                let text = format!("row {id} is acknowledged by {}", node_of(&client));
                self.tell(Kind::GoesOn, &text);
            }
            if told.elapsed() > TELL {
                told = last;
                let text = format!("{id} rows, all acknowledged by {}", node_of(&client));
                self.tell(Kind::Written, &text);
            }
        }
        if let Some(quiet) = &mut quiet {
            let same = self.must(quiet, "SELECT count(*) FROM demo").is_ok();
            let moved = quiet.info().is_some_and(|info| info.failovers > 0);
            verdict.quiet = Some(same && moved);
        }
        self.count(&mut client, id, &mut verdict)?;
        Ok(verdict)
    }

    /// Writes a row. Where the connection is lost in the middle, the row is in doubt: connect again by the same name,
    /// look, and write only if it is not there.
    fn write(&self, client: &mut Client, id: u64) -> Outcome {
        let sql = format!("INSERT INTO demo VALUES ({id})");
        match client.run(&sql) {
            Ok(_) => return Ok(()),
            Err(Failed::Refused(text)) => {
                self.tell(Kind::Refused, &format!("row {id}: {text}"));
            }
            Err(Failed::Lost(text)) => {
                self.tell(Kind::Lost, &format!("row {id} is in doubt: {text}"));
                *client = self.connect()?;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let there = client.run(&format!("SELECT count(*) FROM demo WHERE id = {id}"));
            let outcome = match there {
                Ok(rows) if first(&rows) == "0" => {
                    self.tell(
                        Kind::InDoubt,
                        &format!("row {id} is not there: it is written now"),
                    );
                    client.run(&sql).map(|_| ())
                }
                Ok(_) => {
                    self.tell(
                        Kind::InDoubt,
                        &format!("row {id} is there: it is not written again"),
                    );
                    Ok(())
                }
                Err(e) => Err(e),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(failed) if Instant::now() > deadline => {
                    return Err(Failure::failed(format!("row {id}: {failed}")));
                }
                Err(Failed::Refused(_)) => std::thread::sleep(Duration::from_millis(20)),
                Err(Failed::Lost(_)) => *client = self.connect()?,
            }
        }
    }

    /// Connects by name. The library waits while no node serves the name; a connect that fails is tried again.
    fn connect(&self) -> Outcome<Client> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Client::connect(self.engine, &self.config) {
                Ok(client) => return Ok(client),
                Err(failed) if Instant::now() > deadline => {
                    return Err(Failure::failed(format!("connecting: {failed}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Compares what is there with what was acknowledged: 1 to `last`.
    fn count(&self, client: &mut Client, last: u64, verdict: &mut Verdict) -> Outcome {
        let rows = self.must(client, "SELECT id, count(*) FROM demo GROUP BY id")?;
        let number = |text: &String| text.parse::<u64>().unwrap_or_default();
        let found: BTreeMap<u64, u64> = (rows.iter())
            .filter_map(|row| Some((number(row.first()?), number(row.get(1)?))))
            .collect();
        verdict.lost = (1..=last).filter(|id| !found.contains_key(id)).count();
        verdict.twice = found.values().filter(|n| **n > 1).count();
        Ok(())
    }

    fn must(&self, client: &mut Client, sql: &str) -> Outcome<Vec<Vec<String>>> {
        client
            .run(sql)
            .map_err(|e| Failure::failed(format!("{sql}: {e}")))
    }

    fn tell(&self, kind: Kind, text: &str) {
        // Nobody listens any more when the demo was interrupted.
        let _ = self.story.send(Entry::now(kind, text));
    }
}

fn node_of(client: &Client) -> String {
    client.info().map_or_else(String::new, |info| info.node)
}

fn first(rows: &[Vec<String>]) -> &str {
    rows.first()
        .and_then(|row| row.first())
        .map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_row_or_one_twice_or_none_at_all_is_a_bad_verdict() {
        let good = || Verdict {
            acknowledged: 7,
            quiet: Some(true),
            ..Verdict::default()
        };
        assert!(good().good() && good().to_string().contains("Verdict: good"));
        for bad in [
            Verdict { lost: 1, ..good() },
            Verdict { twice: 1, ..good() },
            Verdict {
                acknowledged: 0,
                ..good()
            },
            Verdict {
                quiet: Some(false),
                ..good()
            },
        ] {
            assert!(!bad.good() && bad.to_string().contains("Verdict: BAD"));
        }
    }
}
