//! Locks of one type together: a program has thousands of session locks and one line that takes them. Where no type is
//! known the place where they are acquired stands for it.

use std::collections::BTreeMap;

use super::holders::HolderSum;
use super::stacks::SiteKey;
use super::{
    HoldTotalsEntry, Holders, LockEntry, LockFamily, LockShape, LockTypeEntry, StillWaiting,
    WaitTotals,
};
use crate::event::Nanos;

/// What locks are grouped by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    family: LockFamily,
    kind: LockShape,
    protects: Option<String>,
    place: Option<SiteKey>,
}

impl Key {
    fn of(lock: &LockEntry) -> Key {
        let place = lock.acquired_at.as_ref().map(SiteKey::new);
        Key {
            family: lock.family,
            kind: lock.kind,
            protects: lock.protects.clone(),
            place: place.filter(|_| lock.protects.is_none()),
        }
    }
}

/// Groups locks; they come most waited for first, and so do their groups.
pub fn group(locks: &[LockEntry]) -> Vec<LockTypeEntry> {
    let mut groups: BTreeMap<Key, Vec<&LockEntry>> = BTreeMap::new();
    for lock in locks {
        groups.entry(Key::of(lock)).or_default().push(lock);
    }
    let mut groups: Vec<LockTypeEntry> =
        groups.into_values().filter_map(|it| summed(&it)).collect();
    groups.sort_by_key(|group| {
        std::cmp::Reverse((
            group.totals.total_ns + group.still_waiting.at_least_ns,
            group.holds.longest_ns,
        ))
    });
    groups
}

/// None of none.
fn summed(locks: &[&LockEntry]) -> Option<LockTypeEntry> {
    let first = locks.first()?;
    let mut group = LockTypeEntry {
        name: first.name.clone(),
        family: first.family,
        kind: first.kind,
        protects: first.protects.clone(),
        acquired_at: first.acquired_at.clone(),
        totals: WaitTotals::default(),
        still_waiting: StillWaiting::default(),
        holders: Holders::default(),
        holds: HoldTotalsEntry::default(),
        across_await: HoldTotalsEntry::default(),
        locked_at_poll_end: 0,
        instances: Vec::new(),
    };
    let mut holders = HolderSum::default();
    for lock in locks {
        group.totals.add(&lock.totals);
        group.still_waiting.waits += lock.still_waiting.waits;
        group.still_waiting.at_least_ns += lock.still_waiting.at_least_ns;
        holders.merge(&lock.holders);
        group.holds.merge(&lock.holds);
        group.across_await.merge(&lock.across_await);
        let locked = group
            .locked_at_poll_end
            .saturating_add(lock.locked_at_poll_end);
        group.locked_at_poll_end = locked;
        group.instances.push(lock.address.clone());
    }
    group.holders = holders.finish();
    Some(group)
}

impl WaitTotals {
    /// Adds those of another lock.
    pub(crate) fn add(&mut self, other: &WaitTotals) {
        let WaitTotals {
            waits,
            total_ns,
            max_ns,
            long_waits,
            long_total_ns,
            timed_out,
        } = other;
        self.waits = self.waits.saturating_add(*waits);
        self.total_ns += *total_ns;
        self.max_ns = Nanos::max(self.max_ns, *max_ns);
        self.long_waits = self.long_waits.saturating_add(*long_waits);
        self.long_total_ns += *long_total_ns;
        self.timed_out = self.timed_out.saturating_add(*timed_out);
    }
}
