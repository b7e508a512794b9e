//! What is to be done, from the environment.

use crate::random::Random;
use crate::report::Report;
use crate::round::{Engine, Round};
use std::path::PathBuf;

/// Failovers of one lab: then everything is counted, and another one is made.
const ROUND: u64 = 60;
/// The same where each one takes seconds.
const SLOW_ROUND: u64 = 12;

/// Longest pause of a client, in milliseconds: of one that has much to do, and of one that has little.
pub const BUSY: u64 = 120;
const CALM: u64 = 2_000;

pub struct Plan {
    /// `VIANET_SOAK_FAILOVERS`: how many, over all labs.
    pub failovers: u64,
    /// `VIANET_SOAK_SEED`: of everything that is drawn at random.
    pub seed: u64,
    /// `VIANET_SOAK_ENGINE`: `postgres` or `postgres-shared`; both where it is not set.
    pub engine: Option<Engine>,
    /// `VIANET_SOAK_EXTENSION`: `yes` or `no`; both where it is not set.
    pub extension: Option<bool>,
    /// `VIANET_SOAK_LOGIN`: `trust` or `scram`; both where it is not set.
    pub trust: Option<bool>,
    /// `VIANET_SOAK_PAUSE`: longest pause of a client between two things, in milliseconds; short and long ones where it is not set.
    pub pause: Option<u64>,
    /// `VIANET_SOAK_LOAD`: threads that only take time.
    pub load: u64,
    /// `VIANET_SOAK_KEEP`: set, labs leave their files, as they do where something was wrong.
    pub keep: bool,
    /// `VIANET_SOAK_SUBNET`: the first of the labs' networks, 127.0.N.
    pub subnet: u8,
    /// `VIANET_SOAK_REPORT`: where report.md and report.json go.
    pub report: PathBuf,
}

fn variable<T>(name: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let value = std::env::var(format!("VIANET_SOAK_{name}")).ok()?;
    if value.is_empty() {
        return None;
    }
    let read = read(&value);
    assert!(read.is_some(), "VIANET_SOAK_{name}={value}");
    read
}

impl Plan {
    pub fn from_environment() -> Self {
        let number = |name| variable(name, |text| text.parse::<u64>().ok());
        let chance = || u64::from(std::process::id()) ^ now_ms();
        let below = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/soak");
        Self {
            failovers: number("FAILOVERS").unwrap_or(60),
            seed: number("SEED").unwrap_or_else(chance),
            engine: variable("ENGINE", Engine::parse),
            extension: variable("EXTENSION", |text| word(text, "yes", "no")),
            trust: variable("LOGIN", |text| word(text, "trust", "scram")),
            pause: number("PAUSE"),
            load: number("LOAD").unwrap_or(0),
            keep: variable("KEEP", |_| Some(())).is_some(),
            subnet: number("SUBNET").unwrap_or(160) as u8,
            report: variable("REPORT", |text| Some(text.into())).unwrap_or(below),
        }
    }

    /// The next lab, while there are failovers to be made.
    pub fn next(&self, report: &Report, random: &mut Random) -> Option<Round> {
        let left = self.failovers.saturating_sub(report.failovers());
        if left == 0 {
            return None;
        }
        let number = report.rounds;
        // The real thing now and then: it takes ten times as long.
        let engine = self.engine.unwrap_or(match number % 4 {
            1 => Engine::Postgres,
            _ => Engine::Shared,
        });
        let most = match engine {
            Engine::Postgres => SLOW_ROUND,
            Engine::Shared => ROUND,
        };
        Some(Round {
            number,
            engine,
            extension: self.extension.unwrap_or(number % 4 != 2),
            trust: self.trust.unwrap_or(number % 2 == 0),
            pause: self
                .pause
                .unwrap_or(if number % 5 == 4 { CALM } else { BUSY }),
            failovers: left.min(most),
            seed: random.next() >> 32,
        })
    }
}

fn word(text: &str, yes: &str, no: &str) -> Option<bool> {
    (text == yes || text == no).then_some(text == yes)
}

fn now_ms() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_millis() as u64)
}
