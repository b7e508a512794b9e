//! Token buckets: how many answers a second one source, and all together, may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Sources that are remembered; beyond that the idle ones are forgotten.
const MAX_SOURCES: usize = 8192;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn take(&mut self, now: Duration, rate: f64) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * rate).min(rate);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// One bucket per source address and one for all; each holds one second's worth.
#[derive(Debug)]
pub struct Buckets {
    per_source: f64,
    total: f64,
    all: Bucket,
    sources: HashMap<IpAddr, Bucket>,
}

impl Buckets {
    /// So many a second.
    pub fn new(per_source: u32, total: u32) -> Self {
        Self {
            per_source: per_source.into(),
            total: total.into(),
            all: Bucket {
                tokens: total.into(),
                at: Duration::ZERO,
            },
            sources: HashMap::new(),
        }
    }

    /// Whether `source` may have an answer now.
    pub fn allow(&mut self, now: Duration, source: IpAddr) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            let full_again = Duration::from_secs(1);
            self.sources.retain(|_, b| now < b.at + full_again);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let fresh = Bucket {
            tokens: self.per_source,
            at: now,
        };
        let bucket = self.sources.entry(source).or_insert(fresh);
        bucket.take(now, self.per_source) && self.all.take(now, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_rate_and_no_more() {
        let mut b = Buckets::new(10, 15);
        let (a, c) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let at = Duration::from_secs(5);
        assert_eq!((0..100).filter(|_| b.allow(at, a)).count(), 10);
        assert_eq!(
            (0..100).filter(|_| b.allow(at, c)).count(),
            5,
            "the total is used up"
        );
        assert!(b.allow(at + Duration::from_millis(200), a));
    }

    #[test]
    fn many_forged_sources_do_not_grow_it_without_bound() {
        let mut b = Buckets::new(1, 1_000_000);
        for n in 0..50_000_u32 {
            b.allow(Duration::from_secs(1), IpAddr::from(n.to_be_bytes()));
        }
        assert!(b.sources.len() <= MAX_SOURCES);
        assert!(b.allow(Duration::from_secs(3), IpAddr::from([1, 2, 3, 4])));
    }
}
