//! Pauses that differ.

use std::time::Duration;

/// A small generator (SplitMix64), so that a thousand connections do not ask in step. Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between half and all of `full`, and at least one microsecond so that no loop is without a pause.
    pub(super) fn spread(&mut self, full: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = ((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64;
        full.mul_f64(0.5 + part / 2.0).max(Duration::from_micros(1))
    }
}
