//! What the figures must come to. They hold for an optimised build; a busy machine may miss one now and then.

use super::report::Metric;
use std::fmt;

/// What of a metric is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// `ours / reference`.
    Ratio,
    /// `ours - reference`.
    Difference,
    /// `ours`.
    Ours,
}

/// The least that a metric must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    of: Of,
    /// For a rate, where larger is better, the figure must be at least `bound`; else at most.
    rate: bool,
    bound: f64,
}

/// The floor of a metric; `None` where the figure is for the reader alone.
pub fn of(metric: &str) -> Option<Floor> {
    let (of, rate, bound) = match metric {
        "rtt64_shm" => (Of::Ratio, false, 0.6),
        "rtt64_tcp" => (Of::Ratio, false, 1.25),
        "stream64k_shm" => (Of::Ratio, true, 2.0),
        "stream64k_tcp" => (Of::Ratio, true, 0.9),
        "hook_passthrough_ns" => (Of::Difference, false, 50.0),
        "detect_killed_ms" => (Of::Ours, false, 20.0),
        "detect_frozen_ms" => (Of::Ours, false, 1200.0),
        _ => return None,
    };
    Some(Floor { of, rate, bound })
}

impl Floor {
    /// Whether the figures reach it. One that could not be measured does not.
    pub fn reached(&self, ours: f64, reference: Option<f64>) -> bool {
        let figure = match (self.of, reference) {
            (Of::Ours, _) => ours,
            (Of::Ratio, Some(reference)) => ours / reference,
            (Of::Difference, Some(reference)) => ours - reference,
            (_, None) => return false,
        };
        match self.rate {
            true => figure >= self.bound,
            false => figure <= self.bound,
        }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.of {
            Of::Ratio => "ratio",
            Of::Difference => "ours - reference",
            Of::Ours => "ours",
        };
        let sign = if self.rate { ">=" } else { "<=" };
        write!(f, "{of} {sign} {}", self.bound)
    }
}

/// What a report says of a floor: `ok` or `below`, and what it is.
pub fn verdict(metric: &Metric) -> String {
    match (&metric.floor, metric.ok) {
        (Some(floor), Some(true)) => format!("ok: {floor}"),
        (Some(floor), _) => format!("below: {floor}"),
        (None, _) => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_compared_as_it_says() {
        let reached = |metric, ours, reference| of(metric).unwrap().reached(ours, reference);
        assert!(reached("rtt64_shm", 6.0, Some(10.0)));
        assert!(!reached("rtt64_shm", 6.1, Some(10.0)));
        assert!(!reached("rtt64_shm", 6.0, None), "nothing to compare with");
        assert!(reached("stream64k_shm", 20.0, Some(10.0)));
        assert!(!reached("stream64k_shm", 19.9, Some(10.0)));
        assert!(reached("hook_passthrough_ns", 250.0, Some(200.0)));
        assert!(!reached("hook_passthrough_ns", 251.0, Some(200.0)));
        assert!(reached("detect_frozen_ms", 1200.0, None));
        assert!(!reached("detect_frozen_ms", f64::NAN, None));
        assert_eq!(of("rtt64_relay_shm"), None);
    }

    #[test]
    fn every_floor_is_that_of_a_metric() {
        let with: Vec<_> = super::super::METRICS
            .into_iter()
            .filter_map(|m| Some((m, of(m)?.to_string())))
            .collect();
        assert_eq!(with.len(), 7, "{with:?}");
        assert_eq!(with[0], ("rtt64_shm", "ratio <= 0.6".into()));
        assert_eq!(with[4].1, "ours - reference <= 50");
    }
}
