//! What came of it, for people and for programs.

use crate::audit;
use crate::books::{Cell, Kind};
use crate::faults::Fault;
use crate::plan::Plan;
use crate::round::{Engine, Round, RoundResult};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Engine, with the extension, without passwords.
type Setting = (Engine, bool, bool);

pub struct Report {
    seed: u64,
    path: PathBuf,
    pub rounds: u64,
    took: Duration,
    takeovers: BTreeMap<Setting, u64>,
    faults: BTreeMap<Fault, u64>,
    cells: BTreeMap<(Setting, Kind, Fault), Cell>,
    tally: BTreeMap<&'static str, [u64; 3]>,
    reasons: BTreeMap<(bool, String), u64>,
    pub wrong: Vec<String>,
}

impl Report {
    pub fn new(plan: &Plan) -> Self {
        Self {
            seed: plan.seed,
            path: plan.report.clone(),
            rounds: 0,
            took: Duration::ZERO,
            takeovers: BTreeMap::new(),
            faults: BTreeMap::new(),
            cells: BTreeMap::new(),
            tally: BTreeMap::new(),
            reasons: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    pub fn failovers(&self) -> u64 {
        self.takeovers.values().sum()
    }

    pub fn add(&mut self, round: &Round, result: RoundResult) {
        let setting = (round.engine, round.extension, round.trust);
        self.rounds += 1;
        self.took += result.took;
        *self.takeovers.entry(setting).or_default() += result.takeovers;
        for (fault, count) in result.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        result.books.with(|books| {
            for ((kind, fault), cell) in &books.cells {
                self.cells.entry((setting, *kind, *fault)).or_default().add(cell);
            }
            for (what, counts) in audit::tally(books) {
                let sums = self.tally.entry(what).or_default();
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
            for (reason, count) in &books.reasons {
                *self.reasons.entry((round.extension, reason.clone())).or_default() += count;
            }
            let title = round.title();
            self.wrong.extend(books.wrong.iter().map(|text| format!("{title}: {text}")));
        });
    }

    /// Of one kind of program; the loss of the SQL server itself apart.
    fn cell(&self, kind: Kind, extension: bool, trust: bool, server: bool) -> Cell {
        let mut sum = Cell::default();
        for (((_, with, without_password), of, fault), cell) in &self.cells {
            let same = *with == extension && *without_password == trust && *of == kind;
            if same && fault.takes_server_alone() == server {
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
            "\n## Soak\n\nSeed {}: {} failovers in {} labs, {minutes:.1} minutes. Wrong outcomes: {}.\n",
            self.seed,
            self.failovers(),
            self.rounds,
            self.wrong.len()
        );
        let _ = writeln!(out, "| lab | failovers |\n| --- | --- |");
        for ((engine, extension, trust), count) in &self.takeovers {
            let _ = writeln!(out, "| {}, {} | {count} |", engine.name(), setting(*extension, *trust));
        }
        let _ = writeln!(out, "\n| fault | times |\n| --- | --- |");
        for (fault, count) in &self.faults {
            let _ = writeln!(out, "| {} | {count} |", fault.name());
        }
        let _ = writeln!(out, "\n| of these | acknowledged | refused | unknown |\n| --- | --- | --- | --- |");
        for (what, [acked, refused, unknown]) in &self.tally {
            let _ = writeln!(out, "| {what} | {acked} | {refused} | {unknown} |");
        }
        let _ = writeln!(
            out,
            "\n### Coverage\n\nOpen sessions whose node was lost.\n\n\
             | program | lab | sessions | hidden | truthfully refused | outcome unknown | wrong |\n\
             | --- | --- | --- | --- | --- | --- | --- |"
        );
        let both = [true, false];
        for (kind, extension, trust) in
            (Kind::ALL.into_iter()).flat_map(|k| both.iter().flat_map(move |e| both.map(|t| (k, *e, t))))
        {
            let cell = self.cell(kind, extension, trust, false);
            if cell.exposed > 0 {
                let share = |n: u64| format!("{:.1} %", n as f64 * 100.0 / cell.exposed as f64);
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    kind.name(),
                    setting(extension, trust),
                    cell.exposed,
                    share(cell.hidden()),
                    share(cell.refused),
                    share(cell.unknown),
                    self.wrong.len()
                );
            }
        }
        let _ = writeln!(out, "\n| why a session ended | with the extension | without |\n| --- | --- | --- |");
        let all: std::collections::BTreeSet<_> = self.reasons.keys().map(|(_, reason)| reason).collect();
        for reason in all {
            let of = |with| self.reasons.get(&(with, reason.clone())).copied().unwrap_or(0);
            let _ = writeln!(out, "| {reason} | {} | {} |", of(true), of(false));
        }
        for wrong in &self.wrong {
            let _ = writeln!(out, "\nWRONG: {wrong}");
        }
        out
    }

    fn json(&self) -> Value {
        let cells = self.cells.iter().map(|(((engine, extension, trust), kind, fault), cell)| {
            json!({
                "engine": engine.name(), "extension": extension, "trust": trust,
                "program": kind.name(), "fault": fault.name(), "sessions": cell.exposed,
                "hidden": cell.hidden(), "refused": cell.refused, "unknown": cell.unknown,
            })
        });
        let faults = self.faults.iter().map(|(fault, count)| (fault.name().to_owned(), json!(count)));
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
            "reasons": reasons.collect::<Vec<_>>(),
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
