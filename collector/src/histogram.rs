//! Durations, counted log-linearly: buckets of the kernel side in, quantiles out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use holdup_probe_ebpf::wire;
use serde::{Deserialize, Serialize};

use crate::event::Nanos;

/// How many durations lie in which bucket of `wire::duration_bucket`. Those without any are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u16, u64>);

impl Histogram {
    /// From one count for each bucket.
    pub fn new(buckets: &[u64]) -> Histogram {
        let counts = (0..).zip(buckets.iter().copied());
        Histogram(counts.filter(|(_, count)| *count != 0).collect())
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Histogram) {
        for (bucket, count) in &other.0 {
            let sum = self.0.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Where each bucket begins, and how many are in it; shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = (Nanos, u64)> {
        let buckets = self.0.iter();
        buckets.map(|(bucket, count)| (Nanos(start(*bucket)), *count))
    }

    /// The duration that this share of all is at or below (the nearest rank), to within 1/64: the middle of its bucket.
    /// None if there are none.
    pub fn quantile(&self, share: f64) -> Option<Nanos> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0_u64;
        for (bucket, count) in &self.0 {
            below = below.saturating_add(*count);
            if below >= rank {
                let (from, to) = (start(*bucket), start(bucket.saturating_add(1)));
                return Some(Nanos(from + (to.saturating_sub(from)) / 2));
            }
        }
        None
    }
}

/// Adds a histogram with one entry for each power of two to a sum of such.
pub fn add_log2(sum: &mut Vec<u64>, histogram: &[u64]) {
    if sum.len() < histogram.len() {
        sum.resize(histogram.len(), 0);
    }
    for (sum, count) in sum.iter_mut().zip(histogram) {
        *sum = sum.saturating_add(*count);
    }
}

/// A capture file is untrusted input: buckets that there are not end where the last one begins.
fn start(bucket: u16) -> u64 {
    wire::duration_bucket_start(usize::from(bucket).min(wire::DURATION_BUCKETS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: &[u64]) -> Histogram {
        let mut buckets = [0; wire::DURATION_BUCKETS];
        for ns in durations {
            buckets[wire::duration_bucket(*ns, ns.ilog2())] += 1;
        }
        Histogram::new(&buckets)
    }

    #[test]
    fn quantiles_are_the_nearest_ranks() {
        let histogram = of(&[1_000, 2_000, 3_000, 4_000, 5_000_000]);
        let quantile = |share| histogram.quantile(share).expect("there are some").0;
        for (share, ns) in [
            (0.0, 1_000),
            (0.2, 1_000),
            (0.5, 3_000),
            (0.8, 4_000),
            (0.81, 5_000_000),
            (1.0, 5_000_000),
        ] {
            let found = quantile(share);
            assert!(
                found.abs_diff(ns) * 64 <= ns,
                "{share}: {found} is not {ns}"
            );
        }
        assert_eq!(histogram.count(), 5);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn sums_are_those_of_both() {
        let mut sum = of(&[1_000, 1_000]);
        sum.add(&of(&[1_000, 70_000]));
        let buckets: Vec<(Nanos, u64)> = sum.buckets().collect();
        assert_eq!(buckets, [(Nanos(992), 3), (Nanos(69_632), 1)]);
    }

    /// A file can hold any number as a bucket.
    #[test]
    fn buckets_that_there_are_not() {
        let wild: Histogram = serde_json::from_str(r#"{"65535": 18446744073709551615, "7": 1}"#)
            .expect("any number is a bucket");
        assert_eq!(wild.count(), u64::MAX);
        assert!(wild.quantile(1.0).is_some());
    }
}
