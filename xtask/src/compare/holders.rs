//! Who had the lock that somebody waited for. What enters: the waits of the report with the holders that it names,
//! and the holds of the truth. What leaves: how many of the waits have a holder, how many of those the right one, and how
//! often one is charged with more than it had.
//!
//! A holder is to blame if at least half of the wait is said to be its. The right one is the thread that had the lock for most of
//! the wait:
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

use super::ownership::Releases;
use super::{Check, DURATION_TOLERANCE_NS, LONG_WAIT_NS, share_of};
use crate::reported::{LockWait, Reported};
use crate::truth::{Family, Lock, Span, Truth};

/// So many of the holders must be the right ones.
const RIGHT: f64 = 0.99;
/// So many of the charges must be true. The workload reads its clock before it calls the unlock, whose probe takes a stack
/// before the lock's word changes: who loses its CPU in these microseconds has the lock for longer than it writes down.
const TRUE: f64 = 0.995;
/// The same on an overcommitted machine, where that happens to three of a thousand.
const TRUE_OVERCOMMITTED: f64 = 0.98;
/// Of so many it may happen to one.
const ENOUGH_FOR_ONE: usize = 20;
/// So much of the waits must be charged to somebody.
const CHARGED: f64 = 0.5;
/// So many of the wrong ones are shown.
const EXAMPLES: usize = 5;
/// How much of the time a thread must have had a lock that it shares with others.
const SHARED: f64 = 0.9;

/// How many of the waits have a holder, and whether it is the right one. On an overcommitted machine it is not asked how
/// many have one: threads that spin for as long as others keep their CPU see no release, and one that waits alone next to none.
pub fn holders(truth: &Truth, report: &Reported, overcommitted: bool) -> Vec<Check> {
    let owned = owned(truth);
    let mut tally = Tally::default();
    for wait in report.lock_waits.iter().flatten() {
        let Some(lock) = truth.locks.get(&wait.lock) else {
            continue;
        };
        let is_long = wait.span.ns >= LONG_WAIT_NS && wait.span.is_within(report.recorded);
        if is_long && wait.acquired && !wait.is_condvar {
            let of_lock = owned.get(&wait.lock).map_or(&[][..], Vec::as_slice);
            tally.add(wait, lock, of_lock, report);
        }
    }
    if tally.waits == 0 {
        return Vec::new();
    }
    tally.checks(overcommitted)
}

/// What was found of the waits so far.
#[derive(Default)]
struct Tally {
    waits: usize,
    waited_ns: u64,
    /// Waits that have a holder.
    named: usize,
    charged_ns: u64,
    /// Those of which the truth tells who it was.
    told: usize,
    wrong: Vec<String>,
    /// Shares of waits that are said to be somebody's, but for those too short to be wrong.
    charges: usize,
    excessive: Vec<String>,
}

impl Tally {
    /// `of_lock` is who had the lock when.
    fn add(&mut self, wait: &LockWait, lock: &Lock, of_lock: &[Owned], report: &Reported) {
        self.waits += 1;
        self.waited_ns += wait.span.ns;
        let claims = claims(wait);
        let claimed_ns: u64 = claims.values().sum();
        if claimed_ns == 0 {
            return;
        }
        self.named += 1;
        self.charged_ns += claimed_ns;
        let had = had_during(wait, lock, of_lock, |owned| owned.span);
        if let Some(is_right) = names_the_right_one(wait, lock, &claims, &had) {
            self.told += 1;
            if !is_right {
                self.wrong.push(described(wait, lock, &had, report));
            }
        }
        let held = had_during(wait, lock, of_lock, |owned| owned.held);
        for (tid, ns) in claims {
            if ns <= DURATION_TOLERANCE_NS {
                continue;
            }
            self.charges += 1;
            if ns > held.get(&tid).copied().unwrap_or(0) + DURATION_TOLERANCE_NS {
                self.excessive.push(described(wait, lock, &held, report));
            }
        }
    }

    fn checks(self, overcommitted: bool) -> Vec<Check> {
        let with_holder = Check {
            allowed: "more than half".to_owned(),
            holds: self.named * 2 > self.waits,
            ..share_of("waits with a holder", self.named, self.waits, 0.5)
        };
        let charged = share_of(
            "time of waits with a holder, us",
            self.charged_ns as usize / 1000,
            self.waited_ns as usize / 1000,
            CHARGED,
        );
        let is_but_one = self.excessive.len() == 1 && self.charges >= ENOUGH_FOR_ONE;
        let share = if overcommitted {
            TRUE_OVERCOMMITTED
        } else {
            TRUE
        };
        let name = "holders who had it so long";
        let mut so_long = all_but(name, self.charges, self.excessive, share);
        so_long.holds |= is_but_one;
        let right = all_but("waits with the right holder", self.told, self.wrong, RIGHT);
        if overcommitted {
            vec![right, so_long]
        } else {
            vec![with_holder, charged, right, so_long]
        }
    }
}

/// How many of them are right, with some of those that are not.
fn all_but(name: &str, all: usize, mut wrong: Vec<String>, at_least: f64) -> Check {
    let mut check = share_of(name, all - wrong.len(), all, at_least);
    if !wrong.is_empty() {
        wrong.truncate(EXAMPLES);
        check
            .figure
            .push_str(&format!(", not {}", wrong.join(", ")));
    }
    check
}

/// How much of a wait is said to be whose.
fn claims(wait: &LockWait) -> BTreeMap<u32, u64> {
    let mut claims: BTreeMap<u32, u64> = BTreeMap::new();
    for holder in &wait.holders {
        *claims.entry(holder.tid).or_default() += holder.held_ns;
    }
    claims
}

/// A thread had the lock in that time.
struct Owned {
    tid: u32,
    span: Span,
    /// Without the time in which it was to have the lock and did not run yet.
    held: Span,
    /// When the call returned that acquired it.
    acquired_ns: u64,
}

/// Who had each lock when.
fn owned(truth: &Truth) -> BTreeMap<u64, Vec<Owned>> {
    let releases = Releases::new(truth);
    let mut owned: BTreeMap<u64, Vec<Owned>> = BTreeMap::new();
    for hold in &truth.holds {
        let start_ns = releases.owned_since_ns(hold);
        let held_ns = hold.upgradable_since_ns.unwrap_or(hold.span.start_ns);
        let since = |start_ns| Span {
            start_ns,
            ns: hold.span.end_ns() - start_ns,
        };
        let of_lock = owned.entry(hold.addr).or_default();
        of_lock.push(Owned {
            tid: hold.tid,
            span: since(start_ns),
            held: since(held_ns),
            acquired_ns: hold.span.start_ns,
        });
    }
    owned
}

/// A wait whose holder is another one, for who looks for the reason.
fn described(wait: &LockWait, lock: &Lock, had: &BTreeMap<u32, u64>, report: &Reported) -> String {
    let us = |(tid, ns): (u32, u64)| format!("{tid}: {} us", ns / 1000);
    let named: Vec<String> = wait
        .holders
        .iter()
        .map(|it| us((it.tid, it.held_ns)))
        .collect();
    let had: Vec<String> = had.iter().map(|(&tid, &ns)| us((tid, ns))).collect();
    format!(
        "{} for {} us at {} ms by {} (named: {}; had it: {})",
        lock.name,
        wait.span.ns / 1000,
        (wait.span.start_ns - report.recorded.start_ns) / 1_000_000,
        wait.tid,
        named.join(", "),
        had.join(", ")
    )
}

/// For how much of a wait each thread had the lock.
fn had_during(
    wait: &LockWait,
    lock: &Lock,
    owned: &[Owned],
    when: impl Fn(&Owned) -> Span,
) -> BTreeMap<u32, u64> {
    let mut had: BTreeMap<u32, u64> = BTreeMap::new();
    for owned in owned {
        // A thread doesn't wait for itself, but when it upgrades: then it had the lock all the while. A task may wait
        // for another one of its thread, but what was acquired when the wait was over is what was waited for.
        let is_another = owned.tid != wait.tid || lock.family == Family::Tokio;
        if is_another && owned.acquired_ns < wait.span.end_ns() {
            *had.entry(owned.tid).or_default() += when(owned).overlap_ns(wait.span);
        }
    }
    had
}

/// None where nobody is to blame, or had the lock for long enough to be written down.
fn names_the_right_one(
    wait: &LockWait,
    lock: &Lock,
    claims: &BTreeMap<u32, u64>,
    had: &BTreeMap<u32, u64>,
) -> Option<bool> {
    let longest_ns = had.values().copied().max().filter(|&ns| ns > 0)?;
    let (&named, &claimed_ns) = claims.iter().max_by_key(|&(_, &ns)| ns)?;
    if claimed_ns * 2 < wait.span.ns {
        return None;
    }
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
    use crate::truth::Hold;

    /// A wrong holder is charged with what it did not have.
    const BOTH: [&str; 2] = ["waits with the right holder", "holders who had it so long"];

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
    fn wrong_of(is_mutex: bool, held: &[(u32, u64, u64)], waits: Vec<LockWait>) -> Vec<String> {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Std, is_mutex));
        truth.holds = held
            .iter()
            .map(|&(tid, start_ms, ms)| hold(tid, span(start_ms, ms * MS)))
            .collect();
        let mut report = report(&[]);
        report.lock_waits = Some(waits);
        let checks = holders(&truth, &report, false);
        assert_eq!(checks.len(), 4);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    /// Of two that had it one after the other, the one that had it longer.
    #[test]
    fn the_longest_of_the_wait_is_named() {
        let held = [(4, 0, 13), (5, 13, 7), (4, 30, 60)];
        assert_eq!(
            wrong_of(true, &held, vec![wait(&[(4, 3), (5, 7)])]),
            [""; 0]
        );
        assert_eq!(wrong_of(true, &held, vec![wait(&[(4, 7), (5, 3)])]), BOTH);
        assert_eq!(wrong_of(true, &held, vec![wait(&[(6, 10)])]), BOTH);
    }

    /// Who took less than half of the wait, as far as that was seen, is not to blame; but what it is charged with it must have had.
    #[test]
    fn a_part_of_the_wait() {
        let held = [(4, 0, 17), (5, 17, 3)];
        let waits = |ms| vec![wait(&[(5, ms)]), wait(&[(4, 7)]), wait(&[(4, 7)])];
        assert_eq!(wrong_of(true, &held, waits(3)), [""; 0]);
        assert_eq!(wrong_of(true, &held, waits(4)), BOTH[1..]);
        assert_eq!(wrong_of(true, &held, waits(5)), BOTH);
    }

    /// Holders that took hardly anything of the waits are as good as none.
    #[test]
    fn half_of_the_time_has_a_holder() {
        let held = [(4, 0, 20)];
        assert_eq!(wrong_of(true, &held, vec![wait(&[(4, 5)])]), [""; 0]);
        assert_eq!(
            wrong_of(true, &held, vec![wait(&[(4, 4)])]),
            ["time of waits with a holder, us"]
        );
        assert_eq!(
            wrong_of(true, &held, vec![wait(&[(4, 0)])]),
            ["waits with a holder", "time of waits with a holder, us"]
        );
    }

    /// A thread that had it twice had it for as long as both times together.
    #[test]
    fn the_same_thread_counts_once() {
        let held = [(4, 10, 3), (5, 13, 4), (4, 17, 3)];
        assert_eq!(
            wrong_of(true, &held, vec![wait(&[(4, 3), (5, 4), (4, 3)])]),
            [""; 0]
        );
    }

    /// Who waited for the lock has it from its release on, whether he is running already or not.
    #[test]
    fn who_was_woken_has_it() {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Tokio, true));
        truth.holds = vec![hold(4, span(0, 14 * MS)), hold(5, span(18, 2 * MS))];
        let mut report = report(&[]);
        report.lock_waits = Some(vec![wait(&[(4, 4), (5, 6)])]);
        assert_eq!(wrong(&holders(&truth, &report, false)), BOTH);
        truth.holds[1].contended = true;
        // But to be charged with it he must run.
        assert_eq!(wrong(&holders(&truth, &report, false)), BOTH[1..]);
        report.lock_waits = Some(vec![wait(&[(4, 4), (5, 2)])]);
        assert_eq!(wrong(&holders(&truth, &report, false)), [""; 0]);
        // Who waited itself does not.
        let own = Hold {
            contended: true,
            ..hold(9, span(20, 2 * MS))
        };
        truth.holds = vec![hold(4, span(0, 16 * MS)), own];
        report.lock_waits = Some(vec![wait(&[(4, 6)])]);
        assert_eq!(wrong(&holders(&truth, &report, false)), [""; 0]);
    }

    /// Of two that had it at the same time, either; one that had it for less only as far as it is said so.
    #[test]
    fn readers_share_a_wait() {
        let held = [(4, 0, 20), (5, 0, 19), (6, 10, 6)];
        assert_eq!(wrong_of(false, &held, vec![wait(&[(4, 10)])]), [""; 0]);
        assert_eq!(wrong_of(false, &held, vec![wait(&[(5, 9)])]), [""; 0]);
        assert_eq!(
            wrong_of(false, &held, vec![wait(&[(6, 6), (4, 4)])]),
            [""; 0]
        );
        assert_eq!(wrong_of(false, &held, vec![wait(&[(6, 10)])]), BOTH);
        assert_eq!(wrong_of(false, &held, vec![wait(&[(7, 10)])]), BOTH);
    }

    /// One wrong one of a hundred, and no more; of fifty at least it may be one.
    #[test]
    fn one_in_a_hundred_may_be_wrong() {
        let held = [(4, 0, 20)];
        let with_wrong = |wrong, all| {
            let mut waits = vec![wait(&[(4, 10)]); all];
            waits[..wrong].fill(wait(&[(5, 10)]));
            wrong_of(true, &held, waits)
        };
        // Of two hundred charges one may be wrong.
        assert_eq!(with_wrong(2, 400), [""; 0]);
        assert_eq!(with_wrong(2, 200), BOTH[1..]);
        assert_eq!(with_wrong(2, 199), BOTH);
        assert_eq!(with_wrong(1, 50), [""; 0]);
        assert_eq!(with_wrong(1, 49), BOTH[..1]);
        assert_eq!(with_wrong(1, 20), BOTH[..1]);
        assert_eq!(with_wrong(1, 19), BOTH);
    }

    /// Most waits have a holder; what is no wait for a lock does not count.
    #[test]
    fn most_waits_have_holders() {
        let held = [(4, 0, 20)];
        let (with, without) = (wait(&[(4, 10)]), wait(&[]));
        let two_of_three = vec![with.clone(), with.clone(), without.clone()];
        assert_eq!(wrong_of(true, &held, two_of_three), [""; 0]);
        assert_eq!(
            wrong_of(true, &held, vec![with.clone(), without.clone()]),
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
            wrong_of(true, &held, vec![with, timed_out, condvar]),
            [""; 0]
        );
    }
}
