//! Since when a lock belonged to who held it. What enters: the holds of the truth. What leaves: for each of them when it
//! began, the time included in which its holder had the lock and did not run yet.
//!
//! Between a release and the return of the call that acquired the lock then, it belongs to who acquires it: that
//! one has been woken and is not running yet, or tokio has given it the lock and its thread is busy with other tasks.

use std::collections::{BTreeMap, BTreeSet};

use crate::truth::{Hold, Truth};

/// When each lock was released: by anybody, and by somebody who had kept all others out.
pub struct Releases(BTreeMap<u64, [BTreeSet<u64>; 2]>);

impl Releases {
    pub fn new(truth: &Truth) -> Self {
        let mut releases: BTreeMap<u64, [BTreeSet<u64>; 2]> = BTreeMap::new();
        for hold in &truth.holds {
            let [by_anybody, by_writers] = releases.entry(hold.addr).or_default();
            by_anybody.insert(hold.span.end_ns());
            if hold.op.keeps_readers_out() {
                by_writers.insert(hold.span.end_ns());
            }
        }
        Self(releases)
    }

    /// Who had to wait for it may have it since the last release before; everybody else since the call. A writer can give the lock
    /// to all readers that wait, and to one that reads upgradably, and one of them can have released it before another one runs.
    pub fn owned_since_ns(&self, hold: &Hold) -> u64 {
        let acquired_ns = hold.span.start_ns;
        if !hold.contended {
            return acquired_ns;
        }
        let of_lock = self.0.get(&hold.addr);
        of_lock
            .map(|[by_anybody, by_writers]| {
                if hold.op.is_beside_readers() {
                    by_writers
                } else {
                    by_anybody
                }
            })
            .and_then(|releases| releases.range(..=acquired_ns).next_back())
            .copied()
            .unwrap_or(acquired_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{MS, hold, span, truth};
    use super::*;
    use crate::truth::Operation;

    /// Two readers waited for a writer, and the first one is through before the second one runs.
    #[test]
    fn a_writer_can_give_the_lock_to_all_readers() {
        let by = |tid, op, span| Hold {
            op,
            contended: tid != 1,
            ..hold(tid, span)
        };
        let mut happened = truth(&[]);
        happened.holds = vec![
            by(1, Operation::RwExclusive, span(0, 10 * MS)),
            by(2, Operation::RwShared, span(11, 2 * MS)),
            by(3, Operation::RwShared, span(14, 2 * MS)),
            by(4, Operation::RwExclusive, span(17, 2 * MS)),
        ];
        let releases = Releases::new(&happened);
        let since: Vec<u64> = happened
            .holds
            .iter()
            .map(|hold| releases.owned_since_ns(hold) / MS)
            .collect();
        assert_eq!(since, [0, 10, 10, 16]);
    }
}
