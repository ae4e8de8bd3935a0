//! Locks that are held across an await. What enters: how often each one was, by the truth and by the report. What leaves:
//! whether the report found each lock that is, and none that is not.
//!
//! Of tokio's locks every acquisition and every release can be seen. Of parking_lot's and std's, what nobody waits for
//! meanwhile leaves no trace:
//!
//! ```text
//! polls of the holder   ├─────────┤               ├─────────┤
//! the hold                     ├───────────────────────┤
//! somebody waits                    ├─────────────────────┤    since before the poll that released it
//! ```
//!
//! So of tokio's all must be reported; of the others one where somebody waited, and no more than there were.

use super::{Check, LONG_WAIT_NS, none_of};
use crate::reported::Reported;
use crate::truth::{Family, Hold, Truth};

/// How far the number may be off, where every release can be seen.
const COUNT_TOLERANCE: f64 = 0.05;

pub fn across_await(truth: &Truth, report: &Reported) -> Vec<Check> {
    let Some(reported) = &report.across_await else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for (&addr, lock) in &truth.locks {
        let reported = reported.get(&addr).copied().unwrap_or(0);
        let ended_inside = || {
            truth.holds.iter().filter(move |hold| {
                let end_ns = hold.span.end_ns();
                hold.addr == addr
                    && end_ns >= report.recorded.start_ns
                    && end_ns <= report.recorded.end_ns()
            })
        };
        if ended_inside().next().is_none() && reported == 0 {
            continue;
        }
        let across = || ended_inside().filter(|hold| hold.across_await);
        let happened = across().count() as u64;
        let visible = across()
            .filter(|hold| hold.span.is_within(report.recorded))
            .filter(|hold| is_visible(hold, lock.family, truth))
            .count() as u64;
        let (least, most) = match lock.family {
            Family::Tokio => (fewer(visible), more(happened)),
            Family::Std | Family::ParkingLot => (visible.min(1), happened),
        };
        checks.push(Check {
            what: format!("{}: held across an await", lock.name),
            figure: format!("{happened}, {visible} of them to be seen -> {reported}"),
            allowed: if least == most {
                least.to_string()
            } else {
                format!("{least} to {most}")
            },
            holds: (least..=most).contains(&reported),
        });
    }
    let others: Vec<String> = reported
        .iter()
        .filter(|&(addr, &count)| count > 0 && !truth.locks.contains_key(addr))
        .map(|(addr, count)| format!("{count} of {addr:#x}"))
        .collect();
    checks.push(none_of("other locks held across an await", &others));
    checks
}

/// Five percent, or one where that is less.
fn fewer(count: u64) -> u64 {
    let slack = (count as f64 * COUNT_TOLERANCE) as u64;
    count.saturating_sub(slack.max(1))
}

/// The same to the other side; none of none.
fn more(count: u64) -> u64 {
    let slack = (count as f64 * COUNT_TOLERANCE) as u64;
    count + slack.max(1).min(count)
}

/// It is tokio's, or somebody waited for it when the poll began that released it.
fn is_visible(hold: &Hold, family: Family, truth: &Truth) -> bool {
    let Some(poll_start_ns) = hold.poll_start_ns else {
        return false;
    };
    let is_waited_for = truth.lock_waits.iter().any(|wait| {
        wait.addr == hold.addr
            && wait.span.start_ns + LONG_WAIT_NS <= poll_start_ns
            && wait.span.end_ns() > poll_start_ns
    });
    family == Family::Tokio || is_waited_for
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::examples::{LOCK, MS, hold, lock, report, span, truth, wrong};
    use super::*;
    use crate::truth::LockWait;

    /// So many holds of 8 ms across an await, each with a wait if they are waited for, against what the report says.
    fn compared(family: Family, count: u64, waited_for: bool, reported: u64) -> Vec<String> {
        let mut truth = truth(&[]);
        truth.locks.insert(LOCK, lock(family, true));
        for at_ms in (0..count).map(|i| 10 + 20 * i) {
            truth.holds.push(Hold {
                across_await: true,
                poll_start_ns: Some((at_ms + 7) * MS),
                ..hold(4, span(at_ms, 8 * MS))
            });
            if waited_for {
                truth.lock_waits.push(LockWait {
                    addr: LOCK,
                    span: span(at_ms + 2, 7 * MS),
                });
            }
        }
        // One that is over within a poll.
        truth.holds.push(hold(4, span(1, MS)));
        let mut report = report(&[]);
        report.across_await = Some(BTreeMap::from([(LOCK, reported)]));
        wrong(&across_await(&truth, &report))
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    const WRONG: [&str; 1] = ["accounts: held across an await"];

    /// Five percent of forty are two.
    #[test]
    fn tokios_are_counted() {
        assert_eq!(compared(Family::Tokio, 40, true, 40), [""; 0]);
        assert_eq!(compared(Family::Tokio, 40, true, 38), [""; 0]);
        assert_eq!(compared(Family::Tokio, 40, true, 42), [""; 0]);
        assert_eq!(compared(Family::Tokio, 40, true, 37), WRONG);
        assert_eq!(compared(Family::Tokio, 40, true, 43), WRONG);
    }

    /// Nobody waited: they may be seen or not, but for tokio's.
    #[test]
    fn what_nobody_waits_for_may_be_missing() {
        assert_eq!(compared(Family::Tokio, 40, false, 38), [""; 0]);
        assert_eq!(compared(Family::Tokio, 40, false, 37), WRONG);
        assert_eq!(compared(Family::Std, 40, false, 0), [""; 0]);
        assert_eq!(compared(Family::Std, 40, false, 41), WRONG);
    }

    /// Of the others one is enough, and more than there were are too many.
    #[test]
    fn others_are_found() {
        assert_eq!(compared(Family::Std, 40, true, 1), [""; 0]);
        assert_eq!(compared(Family::ParkingLot, 40, true, 40), [""; 0]);
        assert_eq!(compared(Family::ParkingLot, 40, true, 0), WRONG);
        assert_eq!(compared(Family::Std, 40, true, 41), WRONG);
    }

    /// A lock that never is held across an await is never said to be, nor is one that is not the workload's.
    #[test]
    fn none_is_none() {
        assert_eq!(compared(Family::Tokio, 0, false, 0), [""; 0]);
        assert_eq!(compared(Family::Tokio, 0, false, 1), WRONG);
        let mut report = report(&[]);
        report.across_await = Some(BTreeMap::from([(0x99, 1)]));
        assert_eq!(
            wrong(&across_await(&truth(&[]), &report)),
            ["other locks held across an await"]
        );
    }
}
