//! Since when a lock belonged to who held it. What enters: the holds of the truth. What leaves: for each of them when it
//! began, the time included in which its holder had the lock and did not run yet.
//!
//! Between a release and the return of the call that acquired the lock then, it belongs to who acquires it: that
//! one has been woken and is not running yet, or tokio has given it the lock and its thread is busy with other tasks.

use std::collections::{BTreeMap, BTreeSet};

use crate::truth::{Hold, Truth};

/// When each lock was released.
pub struct Releases(BTreeMap<u64, BTreeSet<u64>>);

impl Releases {
    pub fn new(truth: &Truth) -> Self {
        let mut releases: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for hold in &truth.holds {
            let of_lock = releases.entry(hold.addr).or_default();
            of_lock.insert(hold.span.end_ns());
        }
        Self(releases)
    }

    /// Who had to wait for it has it since the last release before; everybody else since the call.
    pub fn owned_since_ns(&self, hold: &Hold) -> u64 {
        let acquired_ns = hold.span.start_ns;
        if !hold.contended {
            return acquired_ns;
        }
        let of_lock = self.0.get(&hold.addr);
        of_lock
            .and_then(|releases| releases.range(..=acquired_ns).next_back())
            .copied()
            .unwrap_or(acquired_ns)
    }
}
