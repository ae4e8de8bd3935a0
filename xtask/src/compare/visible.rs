//! Holds that the report must not lack. What enters: holds and waits of the truth, and the holds of the report. What
//! leaves: how many of those that show from outside are reported.
//!
//! From when somebody sleeps until the release that wakes him a lock has one holder: if that alone is as long as the
//! threshold, the hold is to be in the report. Who acquired it had waited before, and went through the slow path too. Of
//! readers it cannot be asked: all but the last leave by the fast path.

use std::collections::BTreeSet;

use super::{Check, DURATION_TOLERANCE_NS, LONG_WAIT_NS, SAME_END_NS, share_of};
use crate::reported::{self, Reported};
use crate::truth::{Hold, Operation, Truth};

/// So many of std's and tokio's must be in the report.
const SEEN: f64 = 0.99;
/// The same of parking_lot's. Its threads yield before they sleep, on a busy machine for ten milliseconds: for as long
/// nothing shows that somebody waits, and the unlock takes the fast path. The truth cannot tell.
const SEEN_OF_PARKING_LOT: f64 = 0.5;

pub fn visible_holds(truth: &Truth, report: &Reported) -> Vec<Check> {
    let Some(reported) = &report.holds else {
        return Vec::new();
    };
    let (mut of_parking_lot, mut of_others) = (Found::default(), Found::default());
    let waits = LongWaits::new(truth);
    for hold in &truth.holds {
        let found = match hold.op {
            Operation::Mutex | Operation::RwExclusive => &mut of_parking_lot,
            Operation::StdMutex | Operation::StdWrite | Operation::TokioAcquire => &mut of_others,
            Operation::RwShared
            | Operation::RwUpgradable
            | Operation::RwUpgrade
            | Operation::StdRead => continue,
        };
        if hold.span.is_within(report.recorded) && waits.show(hold, report.threshold_ns) {
            found.visible += 1;
            found.reported += usize::from(reported.iter().any(|it| is_same(it, hold)));
        }
    }
    let mut others = share_of(
        "others' holds seen from both ends",
        of_others.reported,
        of_others.visible,
        SEEN,
    );
    // However few they are.
    others.holds |= of_others.visible - of_others.reported == 1;
    vec![
        share_of(
            "parking_lot's holds seen from both ends",
            of_parking_lot.reported,
            of_parking_lot.visible,
            SEEN_OF_PARKING_LOT,
        ),
        others,
    ]
}

#[derive(Default)]
struct Found {
    visible: usize,
    reported: usize,
}

fn is_same(reported: &reported::Hold, hold: &Hold) -> bool {
    reported.lock == hold.addr
        && reported.tid == hold.tid
        && reported.end_ns.abs_diff(hold.span.end_ns()) <= SAME_END_NS
}

/// The truth's waits that went through a slow path for certain.
struct LongWaits<'a> {
    truth: &'a Truth,
    /// Lock and end of each.
    ends: BTreeSet<(u64, u64)>,
}

impl<'a> LongWaits<'a> {
    fn new(truth: &'a Truth) -> Self {
        let waits = truth.lock_waits.iter();
        let long = waits.filter(|wait| wait.span.ns >= LONG_WAIT_NS);
        Self {
            truth,
            ends: long.map(|wait| (wait.addr, wait.span.end_ns())).collect(),
        }
    }

    /// Whether the hold began with a wait's end, and somebody waited for its end for as long as the threshold.
    fn show(&self, hold: &Hold, threshold_ns: u64) -> bool {
        let end_ns = hold.span.end_ns();
        self.ends.contains(&(hold.addr, hold.span.start_ns))
            && self.truth.lock_waits.iter().any(|wait| {
                let asleep_ns = hold.span.start_ns.max(wait.span.start_ns + LONG_WAIT_NS);
                wait.addr == hold.addr
                    && asleep_ns + threshold_ns + DURATION_TOLERANCE_NS <= end_ns
                    && wait.span.end_ns() > end_ns
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{LOCK, MS, hold, report, span, truth, wrong};
    use super::*;
    use crate::truth::LockWait;

    /// A wait from this millisecond on, for so many of them.
    fn wait(start_ms: u64, ms: u64) -> LockWait {
        LockWait {
            addr: LOCK,
            span: span(start_ms, ms * MS),
        }
    }

    /// What is wrong if two holds of 8 ms happened, from 10 ms and from 40 ms on, and the report has so many of them.
    fn compared(op: Operation, waits: &[LockWait], reported: usize) -> Vec<String> {
        let mut truth = truth(&[]);
        truth.lock_waits = waits.to_vec();
        let holds = [10, 40].map(|start_ms| Hold {
            op,
            ..hold(4, span(start_ms, 8 * MS))
        });
        truth.holds = holds.to_vec();
        let mut report = report(&[]);
        let reported = holds[..reported].iter().map(|hold| reported::Hold {
            lock: LOCK,
            tid: 4,
            end_ns: hold.span.end_ns(),
            at_least_ns: hold.span.ns,
            at_most_ns: None,
            is_exact: true,
            across_await: false,
        });
        report.holds = Some(reported.collect());
        let checks = visible_holds(&truth, &report);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    /// Somebody waited for both ends of both.
    const WAITS: [(u64, u64); 4] = [(5, 5), (12, 8), (35, 5), (42, 8)];

    /// One may be missing, not both.
    #[test]
    fn holds_that_show_are_reported() {
        let waits = WAITS.map(|(start_ms, ms)| wait(start_ms, ms));
        assert_eq!(compared(Operation::StdMutex, &waits, 2), [""; 0]);
        assert_eq!(compared(Operation::StdMutex, &waits, 1), [""; 0]);
        assert_eq!(
            compared(Operation::StdMutex, &waits, 0),
            ["others' holds seen from both ends"]
        );
        assert_eq!(compared(Operation::Mutex, &waits, 1), [""; 0]);
        assert_eq!(
            compared(Operation::Mutex, &waits, 0),
            ["parking_lot's holds seen from both ends"]
        );
    }

    /// What nobody waited for at one end, or not for long, does not show, nor does a reader's.
    #[test]
    fn other_holds_may_be_missing() {
        let waits = WAITS.map(|(start_ms, ms)| wait(start_ms, ms));
        assert_eq!(compared(Operation::StdRead, &waits, 0), [""; 0]);
        assert_eq!(compared(Operation::StdMutex, &waits[..3], 0), [""; 0]);
        let [first, second, third, _] = waits;
        let late = wait(43, 8);
        assert_eq!(
            compared(Operation::StdMutex, &[first, second, third, late], 0),
            [""; 0]
        );
    }
}
