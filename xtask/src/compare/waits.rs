//! Lock waits, by lock. What enters: those of the truth and those of the report. What leaves: how far their numbers and
//! their sums differ.

use super::{Check, LONG_WAIT_NS, ratio};
use crate::reported::Reported;
use crate::truth::{Family, Truth};

/// The workload reads its clock before it calls and after it was called, and the probes' own time is in between: it has
/// waits as longer than the probes do. Of 5,143 waits of eight recordings half were longer by up to 15 µs, 95 % by up to
/// 30 µs and 99 % by up to 50 to 84 µs. Those that are no longer than this over the limit may be counted or not.
const LIMIT_BAND_NS: u64 = 50_000;
/// How far the number of a lock's waits may differ.
const WAIT_COUNT_TOLERANCE: f64 = 0.01;
/// How far their summed duration may differ.
const WAIT_TOTAL_TOLERANCE: f64 = 0.02;

pub fn waits(truth: &Truth, report: &Reported) -> Vec<Check> {
    let mut checks = Vec::new();
    for (&addr, lock) in &truth.locks {
        if lock.family != Family::ParkingLot && !report.knows_families {
            continue;
        }
        let name = &lock.name;
        let (mut count, mut near_limit) = (0u64, 0);
        let (mut total_ns, mut longest_ns) = (0, 0);
        for wait in &truth.lock_waits {
            if wait.addr == addr
                && wait.span.ns >= LONG_WAIT_NS
                && wait.span.is_within(report.recorded)
            {
                count += 1;
                near_limit += u64::from(wait.span.ns < LONG_WAIT_NS + LIMIT_BAND_NS);
                total_ns += wait.span.ns;
                longest_ns = longest_ns.max(wait.span.ns);
            }
        }
        let reported = report.locks.get(&addr).copied().unwrap_or_default();
        // A lock of a scenario that did not run.
        if reported.count == 0 && !truth.holds.iter().any(|hold| hold.addr == addr) {
            continue;
        }
        // One percent of fewer than a hundred waits is less than one wait, and there are two edges of the
        // recording to fall off.
        let count = reported.count.clamp(count - near_limit, count);
        let off_by_one = count < 100 && count.abs_diff(reported.count) == 1;
        let mut counts = ratio(
            &format!("{name}: waits of 100 us and more"),
            count,
            reported.count,
            WAIT_COUNT_TOLERANCE,
        );
        let mut totals = ratio(
            &format!("{name}: their sum, us"),
            total_ns / 1000,
            reported.total_ns / 1000,
            WAIT_TOTAL_TOLERANCE,
        );
        if off_by_one {
            counts.allowed.push_str(" or one wait");
            counts.holds = true;
            totals.allowed.push_str(" and one wait");
            let slack =
                total_ns as f64 * WAIT_TOTAL_TOLERANCE + longest_ns.max(reported.longest_ns) as f64;
            totals.holds = total_ns.abs_diff(reported.total_ns) as f64 <= slack;
        }
        checks.extend([counts, totals]);
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::examples::{LOCK, MS, hold, lock, report, span, truth, wrong};
    use super::*;
    use crate::reported::LongWaits;
    use crate::truth::LockWait;

    fn compared(count: u64, reported: u64) -> Vec<Check> {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::ParkingLot, true));
        truth.holds = vec![hold(4, span(0, MS))];
        truth.lock_waits = (0..count)
            .map(|i| LockWait {
                addr: LOCK,
                span: span(i, MS),
            })
            .collect();
        let mut report = report(&[]);
        report.locks.insert(
            LOCK,
            LongWaits {
                count: reported,
                total_ns: reported * MS,
                longest_ns: MS,
            },
        );
        waits(&truth, &report)
    }

    /// Nothing is said of a lock that nobody used, unless the report says something of it.
    #[test]
    fn unused_locks_are_left_out() {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(Family::Tokio, true));
        let mut report = report(&[]);
        assert!(waits(&truth, &report).is_empty());
        let long_waits = LongWaits {
            count: 2,
            total_ns: 2 * MS,
            longest_ns: MS,
        };
        report.locks.insert(LOCK, long_waits);
        assert_eq!(
            wrong(&waits(&truth, &report)),
            [
                "accounts: waits of 100 us and more",
                "accounts: their sum, us"
            ]
        );
        report.knows_families = false;
        assert!(waits(&truth, &report).is_empty());
    }

    /// Of a thousand waits, thirty that last a hundred microseconds and a few more are long or not; longer ones are.
    #[test]
    fn waits_at_the_limit_may_be_long() {
        let with_short_ones = |ns, reported| {
            let mut truth = truth(&[]);
            truth.locks.insert(LOCK, lock(Family::Std, true));
            truth.holds = vec![hold(4, span(0, MS))];
            truth.lock_waits = (0..1000)
                .map(|i| LockWait {
                    addr: LOCK,
                    span: span(i, if i < 30 { ns } else { MS }),
                })
                .collect();
            let mut report = report(&[]);
            report.recorded = span(0, 2_000 * MS);
            let long_waits = LongWaits {
                count: reported,
                total_ns: 970 * MS,
                longest_ns: MS,
            };
            report.locks.insert(LOCK, long_waits);
            wrong(&waits(&truth, &report)).len()
        };
        assert_eq!(with_short_ones(149_999, 970), 0);
        assert_eq!(with_short_ones(149_999, 1000), 0);
        assert_eq!(with_short_ones(149_999, 960), 1);
        assert_eq!(with_short_ones(150_000, 970), 1);
    }

    /// One percent, and one wait where there are few.
    #[test]
    fn lock_waits_may_differ_by_one_percent() {
        assert_eq!(wrong(&compared(200, 202)), [""; 0]);
        assert_eq!(
            wrong(&compared(200, 203)),
            ["accounts: waits of 100 us and more"]
        );
        assert_eq!(wrong(&compared(20, 19)), [""; 0]);
        assert_eq!(
            wrong(&compared(20, 18)),
            [
                "accounts: waits of 100 us and more",
                "accounts: their sum, us"
            ]
        );
    }
}
