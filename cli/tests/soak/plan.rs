//! What is to be done, from the environment.

use crate::random::Random;
use crate::report::Report;
use crate::round::{Engine, Round};
use std::path::PathBuf;
use std::time::Duration;

pub struct Plan {
    /// `VIANET_SOAK_FAILOVERS`: how many, over all labs.
    pub failovers: u64,
    /// `VIANET_SOAK_SECONDS`: no further failover after so long; two minutes where the number of failovers is not set either.
    pub limit: Option<Duration>,
    /// `VIANET_SOAK_SEED`: of everything that is drawn at random.
    pub seed: u64,
    /// `VIANET_SOAK_ENGINE`: `postgres` or `postgres-shared`; both where it is not set.
    pub engine: Option<Engine>,
    /// `VIANET_SOAK_EXTENSION`: `yes` or `no`; both where it is not set.
    pub extension: Option<bool>,
    /// `VIANET_SOAK_LOGIN`: `trust` or `scram`; both where it is not set.
    pub trust: Option<bool>,
    /// `VIANET_SOAK_CLIENTS`: `busy`, `calm` or `alone`; all where it is not set.
    pub clients: Option<Load>,
    /// `VIANET_SOAK_WARM`: `yes` or `no`, whether sessions wait on the standby (`postgres` only); in every other lab where it is
    /// not set.
    pub warm: Option<bool>,
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
        let failovers = number("FAILOVERS");
        let seconds = number("SECONDS").or(failovers.is_none().then_some(120));
        Self {
            failovers: failovers.unwrap_or(300),
            limit: seconds.map(Duration::from_secs),
            seed: number("SEED").unwrap_or_else(chance),
            engine: variable("ENGINE", Engine::parse),
            extension: variable("EXTENSION", |text| word(text, "yes", "no")),
            trust: variable("LOGIN", |text| word(text, "trust", "scram")),
            clients: variable("CLIENTS", |text| {
                Load::ALL.into_iter().find(|load| load.name() == text)
            }),
            warm: variable("WARM", |text| word(text, "yes", "no")),
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
        let wanted = |(engine, extension, trust, load): &(Engine, bool, bool, Load)| {
            self.engine.is_none_or(|it| it == *engine)
                && self.extension.is_none_or(|it| it == *extension)
                && self.trust.is_none_or(|it| it == *trust)
                && self.clients.is_none_or(|it| it == *load)
        };
        let all: Vec<_> = ROUNDS.iter().copied().filter(wanted).collect();
        assert!(!all.is_empty(), "no lab is like that");
        let (turn, at) = (
            report.rounds as usize / all.len(),
            report.rounds as usize % all.len(),
        );
        let (engine, extension, trust, load) = all[at];
        let warm = self.warm.unwrap_or((turn + at) % 2 == 1);
        // Where there is little time, all in turn.
        let most = match engine {
            Engine::Postgres if self.limit.is_some() => 3,
            Engine::Shared if self.limit.is_some() => 20,
            Engine::Postgres => 12,
            Engine::Shared => 60,
        };
        Some(Round {
            number: report.rounds,
            engine,
            extension,
            trust,
            load,
            warm: warm && engine == Engine::Postgres,
            failovers: left.min(most),
            seed: random.next() >> 32,
        })
    }
}

/// What the clients of a lab do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Many, who have much to do.
    Busy,
    /// Many, who have little to do.
    Calm,
    /// One, whose times are taken.
    Alone,
}

impl Load {
    pub const ALL: [Self; 3] = [Self::Alone, Self::Calm, Self::Busy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Calm => "calm",
            Self::Alone => "alone",
        }
    }

    /// Longest pause of a client between two things, in milliseconds.
    pub fn pause(self) -> u64 {
        match self {
            Self::Busy => 120,
            Self::Calm => 2_000,
            Self::Alone => 1_500,
        }
    }
}

/// Engine, with the extension, without passwords, clients. Of the real thing fewer failovers: it takes ten times as long.
const ROUNDS: [(Engine, bool, bool, Load); 12] = [
    (Engine::Shared, true, true, Load::Busy),
    (Engine::Postgres, true, false, Load::Busy),
    (Engine::Shared, true, false, Load::Busy),
    (Engine::Shared, false, false, Load::Busy),
    (Engine::Shared, true, false, Load::Alone),
    (Engine::Postgres, true, true, Load::Busy),
    (Engine::Postgres, true, false, Load::Alone),
    (Engine::Shared, true, false, Load::Calm),
    (Engine::Shared, false, true, Load::Calm),
    (Engine::Shared, true, true, Load::Alone),
    (Engine::Postgres, false, true, Load::Busy),
    (Engine::Shared, true, true, Load::Calm),
];

fn word(text: &str, yes: &str, no: &str) -> Option<bool> {
    (text == yes || text == no).then_some(text == yes)
}

fn now_ms() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_millis() as u64)
}
