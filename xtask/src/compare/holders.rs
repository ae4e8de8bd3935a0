//! Who had the lock that somebody waited for. What enters: the waits of the report with the holders that it names,
//! and the holds of the truth. What leaves: how many of the waits have a holder, and how many of those the right one.
//!
//! The right one is the thread that had the lock for most of the wait:
//!
//! ```text
//! the wait          ├──────────────────┤
//! holds of 4    ├───────┤
//! holds of 5               ├───────────┤     thread 5
//! ```
//!
//! Several can have a reader-writer lock or a semaphore at the same time, all of them for the whole wait, and of readers
//! the last one's release alone can be seen. So there the thread that is named must have had the lock for nine tenths of the
//! time that is said to be its share, or for nine tenths of the longest that anybody had it.

use std::collections::BTreeMap;

use super::{Check, LONG_WAIT_NS, share_of};
use crate::reported::{LockWait, Reported};
use crate::truth::{Family, Hold, Lock, Truth};

/// So many of the holders must be the right ones.
const RIGHT: f64 = 0.99;
/// How much of the time a thread must have had a lock that it shares with others.
const SHARED: f64 = 0.9;

pub fn holders(truth: &Truth, report: &Reported) -> Vec<Check> {
    let mut holds: BTreeMap<u64, Vec<&Hold>> = BTreeMap::new();
    for hold in &truth.holds {
        holds.entry(hold.addr).or_default().push(hold);
    }
    let (mut waits, mut named, mut told, mut right) = (0, 0, 0, 0);
    for wait in report.lock_waits.iter().flatten() {
        let Some(lock) = truth.locks.get(&wait.lock) else {
            continue;
        };
        let is_long = wait.span.ns >= LONG_WAIT_NS && wait.span.is_within(report.recorded);
        if !is_long || !wait.acquired || wait.is_condvar {
            continue;
        }
        waits += 1;
        if wait.holders.is_empty() {
            continue;
        }
        named += 1;
        let of_lock = holds.get(&wait.lock).map_or(&[][..], Vec::as_slice);
        if let Some(is_right) = names_the_right_one(wait, lock, of_lock) {
            told += 1;
            right += usize::from(is_right);
        }
    }
    if waits == 0 {
        return Vec::new();
    }
    vec![
        Check {
            allowed: "more than half".to_owned(),
            holds: named * 2 > waits,
            ..share_of("waits with a holder", named, waits, 0.5)
        },
        share_of("waits with the right holder", right, told, RIGHT),
    ]
}

/// None where nobody had the lock for long enough to be written down.
fn names_the_right_one(wait: &LockWait, lock: &Lock, holds: &[&Hold]) -> Option<bool> {
    let mut had: BTreeMap<u32, u64> = BTreeMap::new();
    for hold in holds {
        // A thread doesn't wait for itself, but when it upgrades: then it had the lock all the while. A task may wait
        // for another one of its thread.
        if hold.tid != wait.tid || lock.family == Family::Tokio {
            *had.entry(hold.tid).or_default() += hold.span.overlap_ns(wait.span);
        }
    }
    let longest_ns = had.values().copied().max().filter(|&ns| ns > 0)?;

    let mut claims: BTreeMap<u32, u64> = BTreeMap::new();
    for holder in &wait.holders {
        *claims.entry(holder.tid).or_default() += holder.held_ns;
    }
    let (named, claimed_ns) = claims.into_iter().max_by_key(|&(_, ns)| ns)?;
    let had_ns = had.get(&named).copied().unwrap_or(0);
    Some(if lock.is_mutex {
        had_ns == longest_ns
    } else {
        had_ns > 0 && had_ns as f64 >= longest_ns.min(claimed_ns) as f64 * SHARED
    })
}

#[cfg(test)]
mod tests {
    use super::super::examples::{LOCK, MS, hold, lock, report, span, truth, wrong};
    use super::*;
    use crate::reported::Holder;

    /// A wait of thread 9 from 10 ms on for 10 ms, with these holders: thread and milliseconds.
    fn wait(holders: &[(u32, u64)]) -> LockWait {
        LockWait {
            lock: LOCK,
            tid: 9,
            span: span(10, 10 * MS),
            acquired: true,
            is_condvar: false,
            holders: holders
                .iter()
                .map(|&(tid, ms)| Holder {
                    tid,
                    held_ns: ms * MS,
                })
                .collect(),
        }
    }

    /// What is wrong with waits for a mutex or another lock, which these held: thread, first millisecond, duration.
    fn compared(is_mutex: bool, held: &[(u32, u64, u64)], waits: Vec<LockWait>) -> Vec<String> {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Std, is_mutex));
        truth.holds = held
            .iter()
            .map(|&(tid, start_ms, ms)| hold(tid, span(start_ms, ms * MS)))
            .collect();
        let mut report = report(&[]);
        report.lock_waits = Some(waits);
        let checks = holders(&truth, &report);
        assert_eq!(checks.len(), 2);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    /// Of two that had it one after the other, the one that had it longer.
    #[test]
    fn the_longest_of_the_wait_is_named() {
        let held = [(4, 0, 13), (5, 13, 7), (4, 30, 60)];
        assert_eq!(
            compared(true, &held, vec![wait(&[(4, 3), (5, 7)])]),
            [""; 0]
        );
        assert_eq!(
            compared(true, &held, vec![wait(&[(4, 7), (5, 3)])]),
            ["waits with the right holder"]
        );
        assert_eq!(
            compared(true, &held, vec![wait(&[(6, 10)])]),
            ["waits with the right holder"]
        );
    }

    /// A thread that had it twice had it for as long as both times together.
    #[test]
    fn the_same_thread_counts_once() {
        let held = [(4, 10, 3), (5, 13, 4), (4, 17, 3)];
        assert_eq!(
            compared(true, &held, vec![wait(&[(4, 3), (5, 4), (4, 3)])]),
            [""; 0]
        );
    }

    /// Of two that had it at the same time, either; one that had it for less only as far as it is said so.
    #[test]
    fn readers_share_a_wait() {
        let held = [(4, 0, 20), (5, 0, 19), (6, 10, 6)];
        assert_eq!(compared(false, &held, vec![wait(&[(4, 10)])]), [""; 0]);
        assert_eq!(compared(false, &held, vec![wait(&[(5, 10)])]), [""; 0]);
        assert_eq!(
            compared(false, &held, vec![wait(&[(6, 6), (4, 4)])]),
            [""; 0]
        );
        assert_eq!(
            compared(false, &held, vec![wait(&[(6, 10)])]),
            ["waits with the right holder"]
        );
        assert_eq!(
            compared(false, &held, vec![wait(&[(7, 10)])]),
            ["waits with the right holder"]
        );
    }

    /// One wrong one of a hundred, and no more.
    #[test]
    fn one_in_a_hundred_may_be_wrong() {
        let held = [(4, 0, 20)];
        let mut waits = vec![wait(&[(4, 10)]); 99];
        waits.push(wait(&[(5, 10)]));
        assert_eq!(compared(true, &held, waits.clone()), [""; 0]);
        waits.pop();
        waits[0] = wait(&[(5, 10)]);
        assert_eq!(
            compared(true, &held, waits),
            ["waits with the right holder"]
        );
    }

    /// Most waits have a holder; what is no wait for a lock does not count.
    #[test]
    fn most_waits_have_holders() {
        let held = [(4, 0, 20)];
        let (with, without) = (wait(&[(4, 10)]), wait(&[]));
        let two_of_three = vec![with.clone(), with.clone(), without.clone()];
        assert_eq!(compared(true, &held, two_of_three), [""; 0]);
        assert_eq!(
            compared(true, &held, vec![with.clone(), without.clone()]),
            ["waits with a holder"]
        );
        let timed_out = LockWait {
            acquired: false,
            ..without.clone()
        };
        let condvar = LockWait {
            is_condvar: true,
            ..without
        };
        assert_eq!(
            compared(true, &held, vec![with, timed_out, condvar]),
            [""; 0]
        );
    }
}
