//! The table of a device, and its goals.

use super::end::Done;
use super::floor::Floor;
use super::{Carrier, Work};
use crate::bench::report::{Samples, round};
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;

/// A round trip takes at most so much of rsockets'.
const GOAL_TRIP: f64 = 0.9;
/// A stream carries at least so much of rsockets'.
const GOAL_STREAM: f64 = 1.1;

/// One carrier at one kind of work.
pub struct Row {
    carrier: Carrier,
    work: Work,
    samples: Samples,
}

impl Row {
    /// Without figures.
    pub fn new(carrier: Carrier, work: Work) -> Self {
        let samples = Samples::default();
        Self {
            carrier,
            work,
            samples,
        }
    }

    /// Adds one turn, and the processor time of the machine in it.
    pub fn add(&mut self, done: Done, cpu: Duration) {
        self.samples.add_cpu(cpu, done.messages);
        for sample in done.samples {
            self.samples.add(sample);
        }
    }
}

/// A line of the table.
struct Line {
    work: Work,
    name: &'static str,
    median: f64,
    p99: Option<f64>,
    cpu_us: Option<f64>,
    /// vianet's median by this one.
    ratio: Option<f64>,
}

/// What is to be reached, beside rsockets.
pub struct Goal {
    /// Device and work.
    what: String,
    /// vianet's median by that of rsockets.
    ratio: Option<f64>,
    bound: String,
    /// `None`: not measured.
    pub met: Option<bool>,
}

impl Goal {
    /// For people.
    pub fn print(&self) {
        let ratio = self.ratio.map_or("-".into(), |r| round(r).to_string());
        let verdict = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        println!(
            "{:<26} {ratio:>8} of rsockets, goal {:<12} {verdict}",
            self.what, self.bound
        );
    }

    /// One object a line.
    pub fn print_json(&self) {
        let ratio = self.ratio.map(round);
        println!(
            "{}",
            json!({"goal": self.what, "ratio": ratio, "bound": self.bound, "met": self.met})
        );
    }
}

/// Everything of one device.
pub struct Table {
    device: String,
    address: IpAddr,
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Table {
    /// Without figures.
    pub fn new(device: &str, address: IpAddr) -> Self {
        Self {
            device: device.into(),
            address,
            lines: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Says why something is not in it.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The rows of one kind of work, vianet's first.
    pub fn add(&mut self, rows: Vec<Row>) {
        let mut ours = None;
        for mut row in rows {
            let median = row.samples.quantile(0.5);
            let ours = *ours.get_or_insert(median);
            self.lines.push(Line {
                work: row.work,
                name: row.carrier.name(),
                median,
                p99: Some(row.samples.quantile(tail(row.work))),
                cpu_us: row.samples.cpu_us(),
                ratio: (row.carrier != Carrier::Vianet).then_some(ours / median),
            });
        }
    }

    /// What the device itself does.
    pub fn floor(&mut self, work: Work, floor: Floor) {
        let (name, median) = match work {
            Work::Trips(_) => ("ib_write_lat", floor.typical),
            Work::Stream(_) => ("ib_write_bw", floor.typical),
        };
        let of_work = self.lines.iter().filter(|line| line.work == work);
        let ours = of_work.clone().next().map(|line| line.median);
        let after = self.lines.iter().rposition(|line| line.work == work);
        let line = Line {
            work,
            name,
            median,
            p99: floor.p99,
            cpu_us: None,
            ratio: ours.map(|ours| ours / median),
        };
        self.lines.insert(after.map_or(0, |n| n + 1), line);
    }

    /// The goals: a round trip and a stream beside those of rsockets.
    pub fn goals(&self) -> Vec<Goal> {
        let goal = |work: &Work| {
            let rsockets = |l: &&Line| l.work == *work && l.name == Carrier::Rsockets.name();
            let ratio = self.lines.iter().find(rsockets).and_then(|l| l.ratio);
            let (met, bound) = match work {
                Work::Trips(_) => (
                    ratio.map(|r| r <= GOAL_TRIP),
                    format!("at most {GOAL_TRIP}"),
                ),
                Work::Stream(_) => (
                    ratio.map(|r| r >= GOAL_STREAM),
                    format!("at least {GOAL_STREAM}"),
                ),
            };
            Goal {
                what: format!("{} {}", self.device, title(*work)),
                ratio,
                bound,
                met,
            }
        };
        super::WORKS.iter().map(goal).collect()
    }

    /// For people.
    pub fn print(&self) {
        println!("{} ({})", self.device, self.address);
        println!(
            "{:<22} {:<14} {:>10} {:>10} {:>10} {:>14}",
            "", "", "median", "p99", "cpu us", "vianet / this"
        );
        let number = |n: Option<f64>| n.map_or("-".to_string(), |n| round(n).to_string());
        let mut work = None;
        for line in &self.lines {
            let heading = match work.replace(line.work) == Some(line.work) {
                true => String::new(),
                false => format!("{}, {}", title(line.work), unit(line.work)),
            };
            println!(
                "{heading:<22} {:<14} {:>10} {:>10} {:>10} {:>14}",
                line.name,
                round(line.median),
                number(line.p99),
                number(line.cpu_us),
                number(line.ratio)
            );
        }
        for note in &self.notes {
            println!("  {note}");
        }
        println!();
    }

    /// One object a line.
    pub fn print_json(&self) {
        for line in &self.lines {
            let object = json!({
                "device": self.device,
                "metric": title(line.work),
                "unit": unit(line.work),
                "carrier": line.name,
                "median": round(line.median),
                "p99": line.p99.map(round),
                "cpu_us": line.cpu_us.map(round),
                "ratio": line.ratio.map(round),
            });
            println!("{object}");
        }
        for note in &self.notes {
            println!("{}", json!({"device": self.device, "note": note}));
        }
    }
}

fn tail(work: Work) -> f64 {
    match work {
        Work::Trips(_) => 0.99,
        // Larger is better: what 99 of 100 reach.
        Work::Stream(_) => 0.01,
    }
}

fn title(work: Work) -> String {
    match work {
        Work::Trips(size) if size < 1024 => format!("rtt {size} B"),
        Work::Trips(size) => format!("rtt {} KiB", size / 1024),
        Work::Stream(size) => format!("stream {} KiB", size / 1024),
    }
}

fn unit(work: Work) -> &'static str {
    match work {
        Work::Trips(_) => "us",
        Work::Stream(_) => "MiB/s",
    }
}
