//! Holds. What enters: those of the truth and those of the report. What leaves: how far the exact ones differ, and whether
//! the bounds are any.

use std::collections::BTreeMap;

use super::ownership::Releases;
use super::{Check, DURATION_TOLERANCE_NS, SAME_END_NS, none_of, quantile, share_of};
use crate::reported::{self, Reported};
use crate::truth::{Hold, Truth};

/// So many of the report's holds must be in the truth, and so many of the exact ones must agree.
const AGREEING: f64 = 0.995;
/// Of fewer exact holds, all must agree.
const ENOUGH_FOR_ONE_TO_DIFFER: usize = 10;

pub fn holds(truth: &Truth, report: &Reported) -> Vec<Check> {
    let Some(reported) = &report.holds else {
        return Vec::new();
    };
    let happened = ByThread::new(truth);
    let releases = Releases::new(truth);
    let (mut known, mut same) = (0, 0);
    let mut differences = Vec::new();
    let (mut too_long, mut too_short, mut not_across) = (Vec::new(), Vec::new(), Vec::new());
    for hold in reported {
        let Some(lock) = truth.locks.get(&hold.lock) else {
            continue;
        };
        known += 1;
        let Some(true_hold) = happened.same(hold) else {
            continue;
        };
        same += 1;
        let durations = durations_of(true_hold);
        let says = |bound_ns: u64| {
            let at_ms = hold.end_ns.saturating_sub(report.recorded.start_ns) / 1_000_000;
            format!(
                "{} for {} us, not {} us, until {at_ms} ms, thread {}",
                lock.name,
                true_hold.span.ns / 1000,
                bound_ns / 1000,
                hold.tid
            )
        };
        if hold.is_exact {
            differences.extend(durations.map(|ns| ns.abs_diff(hold.at_least_ns)).min());
        } else {
            let owned_ns = true_hold.span.end_ns() - releases.owned_since_ns(true_hold);
            let longest_ns = durations.fold(owned_ns, u64::max);
            if hold.at_least_ns > longest_ns + DURATION_TOLERANCE_NS {
                too_long.push(says(hold.at_least_ns));
            }
        }
        if let Some(at_most_ns) = hold.at_most_ns
            && at_most_ns + DURATION_TOLERANCE_NS < true_hold.span.ns
        {
            too_short.push(says(at_most_ns));
        }
        if hold.across_await && !true_hold.across_await {
            not_across.push(says(hold.at_least_ns));
        }
    }
    differences.sort_unstable();
    let close = differences
        .iter()
        .filter(|&&ns| ns <= DURATION_TOLERANCE_NS)
        .count();
    let mut exact = share_of(
        "exact holds within 0.3 ms",
        close,
        differences.len(),
        AGREEING,
    );
    // A thread that loses its CPU between a lock and the workload's clock is here what differs, and some scenarios have few.
    exact.holds |= differences.len() >= ENOUGH_FOR_ONE_TO_DIFFER && differences.len() - close == 1;
    exact.figure.push_str(&format!(
        " (99 % {} us, worst {} us)",
        quantile(&differences, 0.99) / 1000,
        quantile(&differences, 1.0) / 1000
    ));
    vec![
        share_of("holds that happened", same, known, AGREEING),
        exact,
        none_of("lower bounds above the truth", &too_long),
        none_of("upper bounds below the truth", &too_short),
        none_of("holds across an await that were not", &not_across),
    ]
}

/// An upgraded hold can be told to have begun with the read, or with the upgrade.
fn durations_of(hold: &Hold) -> impl Iterator<Item = u64> + Clone {
    let since_upgradable = hold
        .upgradable_since_ns
        .map(|start_ns| hold.span.end_ns().saturating_sub(start_ns));
    [Some(hold.span.ns), since_upgradable].into_iter().flatten()
}

/// The truth's holds of one lock that one thread released, by their ends.
struct ByThread<'a>(BTreeMap<(u64, u32, u64), &'a Hold>);

impl<'a> ByThread<'a> {
    fn new(truth: &'a Truth) -> Self {
        let holds = truth.holds.iter();
        Self(
            holds
                .map(|hold| ((hold.addr, hold.tid, hold.span.end_ns()), hold))
                .collect(),
        )
    }

    /// The last one that ended before the report says so: the workload reads its clock right before the release, and a thread
    /// that releases two permits one after the other reads it again between the two. Otherwise the next one.
    fn same(&self, hold: &reported::Hold) -> Option<&'a Hold> {
        let key = |end_ns| (hold.lock, hold.tid, end_ns);
        let before = key(hold.end_ns.saturating_sub(SAME_END_NS))..=key(hold.end_ns);
        let after = key(hold.end_ns)..=key(hold.end_ns + SAME_END_NS);
        let last_before = self.0.range(before).next_back();
        let same = last_before.or_else(|| self.0.range(after).next());
        same.map(|(_, &hold)| hold)
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{LOCK, MS, hold, lock, report, span, truth, wrong};
    use super::*;
    use crate::truth::{Family, Operation};

    /// Thread 4 held the lock from 10 ms on for 8 ms, and this is what the report says of it.
    fn reported(at_least_ns: u64, is_exact: bool) -> reported::Hold {
        reported::Hold {
            lock: LOCK,
            tid: 4,
            end_ns: 18 * MS,
            at_least_ns,
            at_most_ns: None,
            is_exact,
            across_await: false,
        }
    }

    fn wrong_ones(truth: &Truth, report: &Reported) -> Vec<String> {
        let checks = holds(truth, report);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    fn compared(happened: Hold, says: reported::Hold) -> Vec<String> {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Std, true));
        truth.holds = vec![happened];
        let mut report = report(&[]);
        report.holds = Some(vec![says]);
        wrong_ones(&truth, &report)
    }

    fn happened() -> Hold {
        hold(4, span(10, 8 * MS))
    }

    /// One of ten may differ, two of twenty may not.
    #[test]
    fn one_of_ten_may_differ() {
        let with_wrong = |wrong: usize, all: usize| {
            let mut truth = truth(&[]);
            truth.locks.insert(LOCK, lock(Family::Std, true));
            truth.holds = (0..all as u64)
                .map(|n| hold(4, span(20 * n, 8 * MS)))
                .collect();
            let says = truth
                .holds
                .iter()
                .enumerate()
                .map(|(n, hold)| reported::Hold {
                    end_ns: hold.span.end_ns(),
                    ..reported(if n < wrong { 9 * MS } else { 8 * MS }, true)
                });
            let mut report = report(&[]);
            report.holds = Some(says.collect());
            wrong_ones(&truth, &report)
        };
        assert_eq!(with_wrong(1, 10), [""; 0]);
        assert_eq!(with_wrong(1, 9), ["exact holds within 0.3 ms"]);
        assert_eq!(with_wrong(2, 20), ["exact holds within 0.3 ms"]);
    }

    /// A third of a millisecond is too much.
    #[test]
    fn exact_holds_agree() {
        let exact = |ns| compared(happened(), reported(ns, true));
        assert_eq!(exact(8 * MS + 300_000), [""; 0]);
        assert_eq!(exact(8 * MS - 300_000), [""; 0]);
        assert_eq!(exact(8 * MS + 300_001), ["exact holds within 0.3 ms"]);
        assert_eq!(exact(8 * MS - 300_001), ["exact holds within 0.3 ms"]);
    }

    /// A bound may be as far off as it likes on its own side.
    #[test]
    fn bounds_are_bounds() {
        let at_least = |ns| compared(happened(), reported(ns, false));
        assert_eq!(at_least(MS), [""; 0]);
        assert_eq!(at_least(8 * MS + 300_000), [""; 0]);
        assert_eq!(at_least(8 * MS + 300_001), ["lower bounds above the truth"]);
        let at_most = |ns| {
            let says = reported(MS, false);
            compared(
                happened(),
                reported::Hold {
                    at_most_ns: Some(ns),
                    ..says
                },
            )
        };
        assert_eq!(at_most(60 * MS), [""; 0]);
        assert_eq!(at_most(7_700_000), [""; 0]);
        assert_eq!(at_most(7_699_999), ["upper bounds below the truth"]);
    }

    /// Who had to wait may be said to hold the lock since he was woken, which was before he ran.
    #[test]
    fn a_lock_belongs_to_who_is_woken() {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Std, true));
        truth.holds = vec![hold(5, span(0, 7 * MS)), happened()];
        let mut report = report(&[]);
        report.holds = Some(vec![reported(11 * MS, false)]);
        assert_eq!(
            wrong(&holds(&truth, &report)),
            ["lower bounds above the truth"]
        );
        truth.holds[1].contended = true;
        assert_eq!(wrong(&holds(&truth, &report)), [""; 0]);
        report.holds = Some(vec![reported(11 * MS + 300_001, false)]);
        assert_eq!(
            wrong(&holds(&truth, &report)),
            ["lower bounds above the truth"]
        );
    }

    /// Another thread's hold, and one that ended at another time, are other holds.
    #[test]
    fn what_is_not_in_the_truth_did_not_happen() {
        let says = reported(8 * MS, true);
        assert_eq!(
            compared(happened(), reported::Hold { tid: 5, ..says }),
            ["holds that happened"]
        );
        let end_ns = 19 * MS + 1;
        assert_eq!(
            compared(happened(), reported::Hold { end_ns, ..says }),
            ["holds that happened"]
        );
        let end_ns = 19 * MS;
        assert_eq!(
            compared(happened(), reported::Hold { end_ns, ..says }),
            [""; 0]
        );
    }

    /// Two permits that one thread releases in the same breath.
    #[test]
    fn releases_of_one_thread_keep_their_order() {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Tokio, false));
        let mut first = hold(4, span(10, 8 * MS));
        first.span.ns -= 4_000;
        truth.holds = vec![first, hold(4, span(3, 15 * MS))];
        let mut report = report(&[]);
        report.holds = Some(vec![reported(15 * MS, true), {
            let says = reported(8 * MS, true);
            let end_ns = says.end_ns - 1_000;
            reported::Hold { end_ns, ..says }
        }]);
        assert_eq!(wrong(&holds(&truth, &report)), [""; 0]);
    }

    /// An upgraded hold has two beginnings.
    #[test]
    fn an_upgraded_hold_may_begin_with_the_read() {
        let upgraded = Hold {
            op: Operation::RwUpgrade,
            upgradable_since_ns: Some(5 * MS),
            ..happened()
        };
        assert_eq!(compared(upgraded, reported(8 * MS, true)), [""; 0]);
        assert_eq!(compared(upgraded, reported(13 * MS, true)), [""; 0]);
        assert_eq!(
            compared(upgraded, reported(10 * MS, true)),
            ["exact holds within 0.3 ms"]
        );
    }

    /// Only what was across an await is said to have been.
    #[test]
    fn across_an_await_is_no_guess() {
        let says = reported::Hold {
            across_await: true,
            ..reported(8 * MS, true)
        };
        assert_eq!(
            compared(happened(), says),
            ["holds across an await that were not"]
        );
        let across = Hold {
            across_await: true,
            ..happened()
        };
        assert_eq!(compared(across, says), [""; 0]);
    }
}
