//! What a measurement is and how it is printed.

use super::floors;
use serde::Serialize;
use std::time::Duration;

/// One metric, measured beside its alternative in the same run.
#[derive(Serialize)]
pub struct Metric {
    /// Its name; see [`super::METRICS`].
    pub metric: &'static str,
    /// Median of ours.
    pub ours: f64,
    /// Median of the alternative; `null` where there is none.
    pub reference: Option<f64>,
    /// `ours / reference`.
    pub ratio: Option<f64>,
    /// 99th percentile of ours.
    pub p99: f64,
    /// 99th percentile of the alternative.
    pub reference_p99: Option<f64>,
    /// Unit of the figures above.
    pub unit: &'static str,
    /// Processor time of both processes per operation, microseconds, ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// The same of the alternative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_cpu_us: Option<f64>,
    /// What it must come to, such as `ratio <= 0.6`; `null` where nothing is asked.
    pub floor: Option<String>,
    /// Whether it does.
    pub ok: Option<bool>,
    /// What the alternative is, and what an operation is.
    pub against: &'static str,
}

/// Figures of one side.
#[derive(Default)]
pub struct Samples {
    values: Vec<f64>,
    cpu: Duration,
    operations: u64,
}

impl Samples {
    /// Adds one figure.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds processor time spent on `operations`.
    pub fn add_cpu(&mut self, cpu: Duration, operations: u64) {
        self.cpu += cpu;
        self.operations += operations;
    }

    /// The figure that this share of them does not exceed.
    pub fn quantile(&mut self, q: f64) -> f64 {
        self.values.sort_by(f64::total_cmp);
        let last = self.values.len().saturating_sub(1);
        self.values
            .get((last as f64 * q).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// Processor time of an operation, microseconds.
    pub fn cpu_us(&self) -> Option<f64> {
        (self.operations > 0).then(|| self.cpu.as_secs_f64() * 1e6 / self.operations as f64)
    }
}

impl Metric {
    /// Compares two series. For a rate (larger is better) p99 is the figure that 99 of 100 samples reach.
    pub fn compare(
        metric: &'static str,
        unit: &'static str,
        against: &'static str,
        mut ours: Samples,
        reference: Option<Samples>,
    ) -> Self {
        let tail = if unit == "MiB/s" { 0.01 } else { 0.99 };
        let median = ours.quantile(0.5);
        let (mut other, mut other_p99, mut other_cpu) = (None, None, None);
        if let Some(mut samples) = reference {
            other = Some(samples.quantile(0.5));
            other_p99 = Some(samples.quantile(tail));
            other_cpu = samples.cpu_us();
        }
        let floor = floors::of(metric);
        Self {
            metric,
            floor: floor.map(|floor| floor.to_string()),
            ok: floor.map(|floor| floor.reached(median, other)),
            ours: round(median),
            reference: other.map(round),
            ratio: other.map(|r| round(median / r)),
            p99: round(ours.quantile(tail)),
            reference_p99: other_p99.map(round),
            unit,
            cpu_us: ours.cpu_us().map(round),
            reference_cpu_us: other_cpu.map(round),
            against,
        }
    }

    /// Prints it: one JSON object, or one line of a table.
    pub fn print(&self, json: bool) {
        if json {
            println!(
                "{}",
                serde_json::to_string(self).expect("numbers and texts only")
            );
            return;
        }
        let number = |n: Option<f64>| n.map_or("-".to_string(), |n| n.to_string());
        println!(
            "{:<20} {:>10} {:>10} {:>7} {:>10} {:>10} {:<6} {:>9} {:>9}  {:<26} {}",
            self.metric,
            self.ours,
            number(self.reference),
            number(self.ratio),
            self.p99,
            number(self.reference_p99),
            self.unit,
            number(self.cpu_us),
            number(self.reference_cpu_us),
            floors::verdict(self),
            self.against,
        );
    }
}

/// The heading of the table that [`Metric::print`] makes.
pub fn heading() {
    println!(
        "{:<20} {:>10} {:>10} {:>7} {:>10} {:>10} {:<6} {:>9} {:>9}  {:<26} reference is",
        "metric",
        "ours",
        "reference",
        "ratio",
        "p99",
        "ref p99",
        "unit",
        "cpu us",
        "ref cpu",
        "floor"
    );
}

/// Three significant decimals are more than these machines can say.
pub fn round(x: f64) -> f64 {
    let scale = if x.abs() >= 100.0 { 10.0 } else { 1000.0 };
    (x * scale).round() / scale
}
