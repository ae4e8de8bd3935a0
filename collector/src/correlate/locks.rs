//! Which waits and holds belong to which lock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{
    Event, HoldTotals, LockAddr, LockOperation, LockOutcome, LockWait, LockWaitTotals, Nanos,
    PairTotals,
};
use crate::histogram::add_log2;

/// What sort of lock. Memory is used again: the same address can be several one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKind {
    /// parking_lot `Mutex`.
    Mutex,
    /// parking_lot `RwLock`.
    RwLock,
    /// parking_lot `Condvar`: waiting there is idling or signalling, never contention.
    Condvar,
    /// std `Mutex`.
    StdMutex,
    /// std `RwLock`.
    StdRwLock,
    /// Tokio's `batch_semaphore`: which of its locks it is the stacks tell.
    TokioSemaphore,
}

impl From<LockOperation> for LockKind {
    fn from(operation: LockOperation) -> LockKind {
        match operation {
            LockOperation::Mutex => LockKind::Mutex,
            LockOperation::RwShared
            | LockOperation::RwExclusive
            | LockOperation::RwUpgradable
            | LockOperation::RwUpgrade => LockKind::RwLock,
            LockOperation::Condvar => LockKind::Condvar,
            LockOperation::StdMutex => LockKind::StdMutex,
            LockOperation::StdRead | LockOperation::StdWrite => LockKind::StdRwLock,
            LockOperation::TokioAcquire => LockKind::TokioSemaphore,
        }
    }
}

/// Waits that ended, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitSum {
    /// How many.
    pub count: u64,
    /// Their summed duration.
    pub total: Nanos,
    /// The longest.
    pub max: Nanos,
    /// Of these, the waits of at least `wire::LONG_WAIT_NS`.
    pub long_count: u64,
    /// Their summed duration.
    pub long_total: Nanos,
    /// Of `count`, those that ended without the lock.
    pub timed_out: u64,
}

impl WaitSum {
    /// Adds one entry of the aggregation.
    pub fn add(&mut self, totals: &LockWaitTotals) {
        self.count = self.count.saturating_add(totals.count);
        self.total += totals.total;
        self.max = self.max.max(totals.max);
        self.long_count = self.long_count.saturating_add(totals.long_count);
        self.long_total += totals.long_total;
        if totals.outcome == LockOutcome::TimedOut {
            self.timed_out = self.timed_out.saturating_add(totals.count);
        }
    }
}

/// All that is known of one lock.
#[derive(Clone, Debug, Default)]
pub struct LockWaits<'a> {
    /// The waits that ended.
    pub sum: WaitSum,
    /// The same, by operation.
    pub operations: BTreeMap<LockOperation, WaitSum>,
    /// Entry i counts waits of 2^i up to (excluding) 2^(i+1) ns.
    pub log2_histogram: Vec<u64>,
    /// The waits that ended, by operation, outcome and stack.
    pub ended: Vec<&'a LockWaitTotals>,
    /// The waits that had not ended when the recording did.
    pub still_waiting: Vec<&'a LockWait>,
    /// Who was waited for, by operation and stacks.
    pub pairs: Vec<&'a PairTotals>,
    /// Holds that ended, by operation, stacks and evidence.
    pub holds: Vec<&'a HoldTotals>,
}

/// What the kernel side summed up about locks.
#[derive(Clone, Copy, Debug, Default)]
pub struct LockSums<'a> {
    /// Waits.
    pub waits: &'a [LockWaitTotals],
    /// Who waited for whom.
    pub pairs: &'a [PairTotals],
    /// Holds.
    pub holds: &'a [HoldTotals],
}

/// Sorts all waits and holds by lock.
pub fn by_lock<'a>(
    sums: LockSums<'a>,
    events: &'a [Event],
) -> BTreeMap<(LockAddr, LockKind), LockWaits<'a>> {
    let mut locks: BTreeMap<_, LockWaits<'a>> = BTreeMap::new();
    for pair in sums.pairs {
        let key = (pair.lock, pair.operation.into());
        locks.entry(key).or_default().pairs.push(pair);
    }
    for holds in sums.holds {
        let key = (holds.lock, holds.operation.into());
        locks.entry(key).or_default().holds.push(holds);
    }
    for entry in sums.waits {
        let lock = locks
            .entry((entry.lock, entry.operation.into()))
            .or_default();
        lock.sum.add(entry);
        lock.operations
            .entry(entry.operation)
            .or_default()
            .add(entry);
        add_log2(&mut lock.log2_histogram, &entry.log2_histogram);
        lock.ended.push(entry);
    }
    for event in events {
        if let Event::LockWait(wait) = event
            && wait.outcome == LockOutcome::StillWaiting
        {
            let key = (wait.lock, wait.operation.into());
            locks.entry(key).or_default().still_waiting.push(wait);
        }
    }
    locks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{StackId, Tid, Timestamp};

    fn totals(operation: LockOperation, outcome: LockOutcome, count: u64) -> LockWaitTotals {
        LockWaitTotals {
            lock: LockAddr(0xa),
            operation,
            outcome,
            waiter_stack: Some(StackId(1)),
            count,
            total: Nanos(count * 200_000),
            max: Nanos(200_000 + count),
            long_count: count,
            long_total: Nanos(count * 200_000),
            joined: 0,
            handover: Nanos::ZERO,
            log2_histogram: vec![0, count],
        }
    }

    /// The operations of one lock add up; a condvar at the same address is another lock.
    #[test]
    fn operations_add_up() {
        let entries = [
            totals(LockOperation::RwShared, LockOutcome::Acquired, 2),
            totals(LockOperation::RwExclusive, LockOutcome::Acquired, 3),
            totals(LockOperation::RwExclusive, LockOutcome::TimedOut, 4),
            totals(LockOperation::Condvar, LockOutcome::Acquired, 100),
        ];
        let sums = LockSums {
            waits: &entries,
            ..LockSums::default()
        };
        let locks = by_lock(sums, &[]);
        let lock = &locks[&(LockAddr(0xa), LockKind::RwLock)];
        assert_eq!(lock.sum.count, 9);
        assert_eq!(lock.sum.timed_out, 4);
        assert_eq!(lock.sum.total, Nanos(1_800_000));
        assert_eq!(lock.sum.max, Nanos(200_004));
        assert_eq!(lock.log2_histogram, [0, 9]);
        assert_eq!(lock.operations[&LockOperation::RwExclusive].count, 7);
        assert_eq!(locks[&(LockAddr(0xa), LockKind::Condvar)].sum.count, 100);
    }

    /// A wait that never ended is not among those that did, but is known.
    #[test]
    fn a_wait_under_way() {
        let wait = Event::LockWait(LockWait {
            tid: Tid(1),
            start: Timestamp(1),
            end: Timestamp(9),
            lock: LockAddr(0xb),
            operation: LockOperation::Mutex,
            outcome: LockOutcome::StillWaiting,
            poll_start: None,
            waiter_stack: None,
            task: None,
            releases: 0,
            holders: [None; 4],
            others: Nanos::ZERO,
            handover: Nanos::ZERO,
        });
        let events = [wait];
        let locks = by_lock(LockSums::default(), &events);
        let lock = &locks[&(LockAddr(0xb), LockKind::Mutex)];
        assert_eq!(lock.sum.count, 0);
        assert_eq!(lock.still_waiting.len(), 1);
    }
}
