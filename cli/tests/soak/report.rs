//! What came of it, for people and for programs.

use crate::audit;
use crate::books::{Cell, Kind};
use crate::faults::Fault;
use crate::plan::{Load, Plan};
use crate::round::{Engine, Round, RoundResult};
use crate::times::{self, PARTS, Sample};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Whether a fault is one of a row's.
type Matters = fn(Fault) -> bool;

/// Engine, with the extension, without passwords, clients.
type Setting = (Engine, bool, bool, Load);

pub struct Report {
    seed: u64,
    path: PathBuf,
    pub rounds: u64,
    took: Duration,
    losses: BTreeMap<Setting, u64>,
    faults: BTreeMap<Fault, u64>,
    cells: BTreeMap<(Setting, Kind, Fault), Cell>,
    tally: BTreeMap<&'static str, [u64; 3]>,
    reasons: BTreeMap<(bool, String), u64>,
    refusals: BTreeMap<String, u64>,
    /// Those of sessions that had waited on the standby apart.
    times: BTreeMap<(Engine, Load, bool), Vec<Sample>>,
    pub wrong: Vec<String>,
}

impl Report {
    pub fn new(plan: &Plan) -> Self {
        Self {
            seed: plan.seed,
            path: plan.report.clone(),
            rounds: 0,
            took: Duration::ZERO,
            losses: BTreeMap::new(),
            faults: BTreeMap::new(),
            cells: BTreeMap::new(),
            tally: BTreeMap::new(),
            reasons: BTreeMap::new(),
            refusals: BTreeMap::new(),
            times: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    pub fn failovers(&self) -> u64 {
        self.losses.values().sum()
    }

    pub fn add(&mut self, round: &Round, result: RoundResult) {
        let setting = (round.engine, round.extension, round.trust, round.load);
        self.rounds += 1;
        self.took += result.took;
        *self.losses.entry(setting).or_default() += result.losses;
        for (fault, count) in result.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        for (why, count) in result.refusals {
            *self.refusals.entry(why).or_default() += count;
        }
        for sample in result.times {
            let key = (round.engine, round.load, sample.warm);
            self.times.entry(key).or_default().push(sample);
        }
        result.books.with(|books| {
            for ((kind, fault), cell) in &books.cells {
                self.cells
                    .entry((setting, *kind, *fault))
                    .or_default()
                    .add(cell);
            }
            for (what, counts) in audit::tally(books) {
                let sums = self.tally.entry(what).or_default();
                sums.iter_mut()
                    .zip(counts)
                    .for_each(|(sum, count)| *sum += count);
            }
            for (reason, count) in &books.reasons {
                *self
                    .reasons
                    .entry((round.extension, reason.clone()))
                    .or_default() += count;
            }
            let title = round.title();
            self.wrong
                .extend(books.wrong.iter().map(|text| format!("{title}: {text}")));
        });
    }

    /// Of one kind of program; the loss of the SQL server itself apart.
    fn cell(
        &self,
        kind: Kind,
        extension: bool,
        load: Load,
        matters: impl Fn(Fault) -> bool,
    ) -> Cell {
        let mut sum = Cell::default();
        for (((_, with, _, clients), of, fault), cell) in &self.cells {
            let same = *with == extension && *clients == load && *of == kind;
            if same && matters(*fault) {
                sum.add(cell);
            }
        }
        sum
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let minutes = self.took.as_secs_f64() / 60.0;
        let _ = writeln!(
            out,
            "# Soak\n\nMade by `make soak FAILOVERS=...`, which leaves it in target/soak/report.md (and as JSON in report.json).\n\nSeed {}: {} failovers in {} labs, {minutes:.1} minutes. Wrong outcomes: {}.\n",
            self.seed,
            self.failovers(),
            self.rounds,
            self.wrong.len()
        );
        let _ = writeln!(out, "| lab | failovers |\n| --- | --- |");
        for ((engine, extension, trust, load), count) in &self.losses {
            let _ = writeln!(
                out,
                "| {}, {}, {} | {count} |",
                engine.name(),
                setting(*extension, *trust),
                load.name()
            );
        }
        let _ = writeln!(out, "\n| fault | times |\n| --- | --- |");
        for (fault, count) in &self.faults {
            let _ = writeln!(out, "| {} | {count} |", fault.name());
        }
        let _ = writeln!(
            out,
            "\n| of these | acknowledged | refused | unknown |\n| --- | --- | --- | --- |"
        );
        for (what, [acked, refused, unknown]) in &self.tally {
            let _ = writeln!(out, "| {what} | {acked} | {refused} | {unknown} |");
        }
        self.write_coverage(&mut out);
        self.write_times(&mut out);
        let _ = writeln!(
            out,
            "\n| why a session ended | with the extension | without |\n| --- | --- | --- |"
        );
        let all: std::collections::BTreeSet<_> =
            self.reasons.keys().map(|(_, reason)| reason).collect();
        for reason in all {
            let of = |with| {
                self.reasons
                    .get(&(with, reason.clone()))
                    .copied()
                    .unwrap_or(0)
            };
            let _ = writeln!(out, "| {reason} | {} | {} |", of(true), of(false));
        }
        if !self.refusals.is_empty() {
            let _ = writeln!(
                out,
                "\n| refused on the second server | times |\n| --- | --- |"
            );
        }
        for (why, count) in &self.refusals {
            let _ = writeln!(out, "| {why} | {count} |");
        }
        for wrong in &self.wrong {
            let _ = writeln!(out, "\nWRONG: {wrong}");
        }
        out
    }

    fn write_times(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n### Times\n\nOf sessions that moved, median / 99th percentile in milliseconds. *Added*: from the moment at which the second \
             server could be written to (its node's last hook has done its work; or the loss was decided upon, if that came later) \
             until the session went on, without the wait for its turn: what vianet itself adds. *Turn*: a session that nobody waits for goes after a \
             pause, of up to a quarter of a second and more where there are many. *Alone*: one session, nothing else on the machine. \
             *Warm*: a session that had waited on the standby (`warm_sessions`), without a login.\n"
        );
        let _ = writeln!(out, "| lab | moves | {} | added |", PARTS.join(" | "));
        let _ = writeln!(out, "| --- | --- |{} --- |", " --- |".repeat(PARTS.len()));
        for ((engine, load, warm), samples) in &self.times {
            let cell = |numbers: Vec<f64>| match times::of(numbers) {
                Some([median, p99, _]) => format!("{median:.1} / {p99:.1}"),
                None => "".into(),
            };
            let part = |i: usize| cell(samples.iter().map(|sample| sample.parts[i]).collect());
            let parts: Vec<_> = (0..PARTS.len()).map(part).collect();
            let added = cell(samples.iter().filter_map(|sample| sample.added).collect());
            let warm = if *warm { ", warm" } else { "" };
            let name = format!("{}, {}{warm}", engine.name(), load.name());
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {added} |",
                samples.len(),
                parts.join(" | ")
            );
        }
    }

    fn times_json(&self) -> Vec<Value> {
        let rows = self.times.iter().map(|((engine, load, warm), samples)| {
            let of = |numbers: Vec<f64>| {
                let all = times::of(numbers);
                json!(all.map(|[median, p99, most]| json!({"median": median, "p99": p99, "max": most})))
            };
            let parts = PARTS.iter().enumerate();
            let parts = parts.map(|(i, name)| {
                let numbers = samples.iter().map(|sample| sample.parts[i]);
                ((*name).to_owned(), of(numbers.collect()))
            });
            json!({
                "engine": engine.name(), "clients": load.name(), "warm": warm, "moves": samples.len(), "ms": Value::Object(parts.collect()),
                "added_ms": of(samples.iter().filter_map(|sample| sample.added).collect()),
            })
        });
        rows.collect()
    }

    fn write_coverage(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n### Coverage\n\nOpen sessions whose node was lost. *Busy* clients pause up to {} ms between two things, *calm* ones up to \
             2 s. A frozen node is noticed after some time, in which a busy client sends its next request.\n\n\
             | program | extension | lost by | sessions | hidden | truthfully refused | truthfully unknown | wrong |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |",
            Load::Busy.pause()
        );
        let lost_by: [(&str, Matters); 3] = [
            ("freeze", |fault| fault == Fault::Freeze),
            ("death of the node", |fault| {
                fault != Fault::Freeze && !fault.takes_server_alone()
            }),
            ("death of the SQL server alone", Fault::takes_server_alone),
        ];
        for kind in Kind::ALL {
            for (extension, load) in [
                (true, Load::Calm),
                (true, Load::Busy),
                (false, Load::Calm),
                (false, Load::Busy),
            ] {
                for (by, matters) in lost_by {
                    let cell = self.cell(kind, extension, load, matters);
                    let share =
                        |n: u64| format!("{:.1} %", n as f64 * 100.0 / cell.lost().max(1) as f64);
                    if cell.lost() == 0 {
                        continue;
                    }
                    let _ = writeln!(
                        out,
                        "| {}, {} | {} | {by} | {} | {} | {} | {} | {} |",
                        kind.name(),
                        load.name(),
                        if extension { "yes" } else { "no" },
                        cell.lost(),
                        share(cell.hidden()),
                        share(cell.refused),
                        share(cell.unknown),
                        self.wrong.len()
                    );
                }
            }
        }
    }

    fn json(&self) -> Value {
        let cells = self.cells.iter().map(
            |(((engine, extension, trust, load), kind, fault), cell)| {
                json!({
                    "engine": engine.name(), "extension": extension, "trust": trust, "clients": load.name(),
                    "program": kind.name(), "fault": fault.name(), "sessions": cell.lost(),
                    "hidden": cell.hidden(), "refused": cell.refused, "unknown": cell.unknown,
                })
            },
        );
        let faults = self
            .faults
            .iter()
            .map(|(fault, count)| (fault.name().to_owned(), json!(count)));
        let reasons = self.reasons.iter();
        let reasons = reasons.map(|((extension, reason), count)| json!({"extension": extension, "reason": reason, "count": count}));
        json!({
            "seed": self.seed,
            "failovers": self.failovers(),
            "labs": self.rounds,
            "seconds": self.took.as_secs(),
            "faults": Value::Object(faults.collect()),
            "outcomes": self.tally,
            "coverage": cells.collect::<Vec<_>>(),
            "times": self.times_json(),
            "reasons": reasons.collect::<Vec<_>>(),
            "refusals": self.refusals,
            "wrong": self.wrong,
        })
    }

    /// As it is now.
    pub fn write(&self) {
        std::fs::create_dir_all(&self.path).unwrap();
        std::fs::write(self.path.join("report.md"), self.text()).unwrap();
        let json = serde_json::to_string_pretty(&self.json()).unwrap();
        std::fs::write(self.path.join("report.json"), json + "\n").unwrap();
    }
}

fn setting(extension: bool, trust: bool) -> &'static str {
    match (extension, trust) {
        (true, true) => "extension, trust",
        (true, false) => "extension, SCRAM",
        (false, true) => "no extension, trust",
        (false, false) => "no extension, SCRAM",
    }
}
