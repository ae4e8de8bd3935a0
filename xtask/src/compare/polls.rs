//! Long polls. What enters: those of the truth and those of the report. What leaves: whether they are the same ones,
//! and how far their durations differ.

use std::collections::BTreeMap;

use super::{Check, DURATION_TOLERANCE_NS, none_of, quantile, ratio, share_of};
use crate::reported::Reported;
use crate::truth::{Span, Truth};

/// This close to the threshold, the two may disagree on which side a poll is.
const THRESHOLD_BAND_NS: u64 = 500_000;
/// How many of the durations must agree.
const DURATIONS_WITHIN: f64 = 0.99;
/// Polls that are long only by what happened where the workload's clock does not look: between the probes and the outermost
/// future. The thread was preempted there, or the kernel took long over an exception (of a probe, in a virtual machine). That
/// there was time for it is known, as the workload notes what the thread did before and behind each poll; so many in a hundred
/// are believed then.
const OUTSIDE_OF_CLOCK: f64 = 0.01;
/// The future that the workload gives to `block_on` and measures. It gives others to runtimes inside of threads, whose loops are
/// no part of any poll by its own clock, and are for holdup: with the price of its probes there, which on an instruction that
/// the kernel single-steps is mostly 10 µs, and was seen to be a millisecond in a virtual machine (the time went by in
/// `exc_debug_user`, with interrupts off).
const MEASURED_ROOT: &str = "serve";
/// So many long polls of such futures in a hundred are believed, or two.
const UNMEASURED_ROOTS: f64 = 0.01;
/// How far the summed durations may differ.
const POLL_TOTAL_TOLERANCE: f64 = 0.01;

pub fn polls(truth: &Truth, report: &Reported) -> Vec<Check> {
    let threshold = report.threshold_ns;
    let mut by_thread: BTreeMap<u32, Vec<(usize, Span)>> = BTreeMap::new();
    for (index, poll) in report.long_polls.iter().enumerate() {
        by_thread
            .entry(poll.tid)
            .or_default()
            .push((index, poll.span));
    }

    let mut differences = Vec::new();
    let (mut truth_total, mut report_total) = (0, 0);
    let (mut missing, mut near_threshold) = (Vec::new(), 0usize);
    let mut explained = vec![false; report.long_polls.len()];
    let mut truth_says = vec![String::new(); report.long_polls.len()];
    let mut outside_of_clock = 0usize;
    for poll in &truth.polls {
        let same = by_thread
            .get(&poll.tid)
            .into_iter()
            .flatten()
            .map(|&(index, span)| (index, span, span.overlap_ns(poll.span)))
            .max_by_key(|&(.., overlap)| overlap)
            // Two polls of one thread don't overlap, so the one that shares half of its time is the same.
            .filter(|&(_, span, overlap)| overlap * 2 > span.ns.min(poll.span.ns));
        let is_whole = poll.span.is_within(report.recorded);
        let is_long = poll.span.ns >= threshold;
        match same {
            // Began before the recording or ended after it: its duration is a bound, if it is known at all.
            Some((index, ..)) if !is_whole => explained[index] = true,
            Some((index, span, _)) if is_long => {
                explained[index] = true;
                differences.push(poll.distance_ns(span.ns));
                truth_total += poll.nearest_ns(span.ns);
                report_total += span.ns;
            }
            Some((index, span, _))
                if span.ns >= threshold + THRESHOLD_BAND_NS
                    && span.is_within(poll.surroundings) =>
            {
                explained[index] = true;
                outside_of_clock += 1;
            }
            Some((index, ..)) => {
                truth_says[index] = format!(": {} for {} us", poll.name, poll.span.ns / 1000);
            }
            // The workload reads its clock some microseconds behind holdup: what began at the recording's very start
            // by the one began before it by the other.
            None if poll.span.start_ns < report.recorded.start_ns + DURATION_TOLERANCE_NS => {}
            None if is_whole && is_long => {
                if poll.at_least_ns < threshold + THRESHOLD_BAND_NS {
                    near_threshold += 1;
                } else {
                    truth_total += poll.at_least_ns;
                    let at_ms = (poll.span.start_ns - report.recorded.start_ns) / 1_000_000;
                    missing.push(format!(
                        "{} for {} us at {at_ms} ms, thread {}",
                        poll.name,
                        poll.at_least_ns / 1000,
                        poll.tid
                    ));
                }
            }
            None => {}
        }
    }
    let measures_roots = truth.polls.iter().any(|poll| poll.name == MEASURED_ROOT);
    let (mut extra, mut roots) = (Vec::new(), 0usize);
    for (index, poll) in report.long_polls.iter().enumerate() {
        if explained[index] {
            continue;
        }
        if poll.span.ns < threshold + THRESHOLD_BAND_NS {
            near_threshold += 1;
        } else if poll.is_of_root && !measures_roots {
            roots += 1;
        } else {
            report_total += poll.span.ns;
            let at_ms = poll.span.start_ns.saturating_sub(report.recorded.start_ns) / 1_000_000;
            extra.push(format!(
                "{} us at {at_ms} ms, thread {}, on-CPU {} us, run queue {} us, stolen {} us{}",
                poll.span.ns / 1000,
                poll.tid,
                poll.on_cpu_ns / 1000,
                poll.run_queue_ns / 1000,
                poll.stolen_ns / 1000,
                truth_says[index]
            ));
        }
    }

    differences.sort_unstable();
    let close = differences
        .iter()
        .filter(|&&ns| ns <= DURATION_TOLERANCE_NS)
        .count();
    let mut durations = share_of(
        "durations within 0.3 ms",
        close,
        differences.len(),
        DURATIONS_WITHIN,
    );
    durations.figure.push_str(&format!(
        " (median {} us, 99 % {} us, worst {} us)",
        quantile(&differences, 0.5) / 1000,
        quantile(&differences, 0.99) / 1000,
        quantile(&differences, 1.0) / 1000
    ));
    vec![
        Check {
            what: "long polls in both".to_owned(),
            figure: format!(
                "{} ({near_threshold} others near the threshold)",
                differences.len()
            ),
            allowed: "at least 1".to_owned(),
            holds: !differences.is_empty(),
        },
        none_of("long polls that the report lacks", &missing),
        none_of("long polls that did not happen", &extra),
        Check {
            what: "long by what is outside of the clock".to_owned(),
            figure: outside_of_clock.to_string(),
            allowed: format!("{} %, or one", OUTSIDE_OF_CLOCK * 100.0),
            holds: outside_of_clock as f64
                <= (differences.len() as f64 * OUTSIDE_OF_CLOCK).max(1.0),
        },
        Check {
            what: "long polls of unmeasured root futures".to_owned(),
            figure: roots.to_string(),
            allowed: format!("{} %, or two", UNMEASURED_ROOTS * 100.0),
            holds: roots as f64 <= (differences.len() as f64 * UNMEASURED_ROOTS).max(2.0),
        },
        durations,
        ratio(
            "summed long polls, us",
            truth_total / 1000,
            report_total / 1000,
            POLL_TOTAL_TOLERANCE,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::examples::{MS, report, span, truth, wrong};
    use super::*;

    /// The probe sees a poll a little longer than the workload does.
    #[test]
    fn the_same_polls_agree() {
        let checks = polls(
            &truth(&[(1, span(10, 6 * MS))]),
            &report(&[(1, span(10, 6 * MS + 4_000))]),
        );
        assert_eq!(wrong(&checks), [""; 0]);
    }

    /// A poll that the report lacks is wrong, and so is the total without it.
    #[test]
    fn a_missing_poll_is_wrong() {
        let happened = [(1, span(10, 6 * MS)), (1, span(30, 7 * MS))];
        let checks = polls(&truth(&happened), &report(&happened[..1]));
        assert_eq!(
            wrong(&checks),
            ["long polls that the report lacks", "summed long polls, us"]
        );
    }

    /// A poll on another thread is not the same poll: one is missing, one did not happen.
    #[test]
    fn a_poll_of_another_thread_did_not_happen() {
        let checks = polls(
            &truth(&[(1, span(10, 6 * MS))]),
            &report(&[(2, span(10, 6 * MS))]),
        );
        assert!(wrong(&checks).contains(&"long polls that the report lacks"));
        assert!(wrong(&checks).contains(&"long polls that did not happen"));
    }

    /// Few long polls of root futures are believed where the workload measures none, and none where it does.
    #[test]
    fn root_futures_that_are_not_measured() {
        let happened = [(1, span(10, 8 * MS))];
        let with_roots = |count: u64| {
            let roots = (0..count).map(|n| (2, span(20 + 10 * n, 7 * MS)));
            let mut said = report(&happened.into_iter().chain(roots).collect::<Vec<_>>());
            for poll in &mut said.long_polls {
                poll.is_of_root = poll.tid == 2;
            }
            said
        };
        let mut truth = truth(&happened);
        assert_eq!(wrong(&polls(&truth, &with_roots(2))), [""; 0]);
        assert_eq!(
            wrong(&polls(&truth, &with_roots(3))),
            ["long polls of unmeasured root futures"]
        );
        truth.polls[0].name = MEASURED_ROOT.to_owned();
        let wrongs = polls(&truth, &with_roots(1));
        assert!(wrong(&wrongs).contains(&"long polls that did not happen"));
    }

    /// Half a millisecond around the threshold, either may be right; beyond it not.
    #[test]
    fn near_the_threshold_both_are_right() {
        let long = (1, span(10, 8 * MS));
        let checks = polls(
            &truth(&[long, (1, span(30, 5 * MS + MS / 4))]),
            &report(&[long]),
        );
        assert_eq!(wrong(&checks), [""; 0]);
        let checks = polls(
            &truth(&[long, (1, span(30, 5 * MS - MS / 4))]),
            &report(&[long, (1, span(30, 5 * MS))]),
        );
        assert_eq!(wrong(&checks), [""; 0]);
        let checks = polls(
            &truth(&[long, (1, span(30, 2 * MS))]),
            &report(&[long, (1, span(30, 6 * MS))]),
        );
        assert!(wrong(&checks).contains(&"long polls that did not happen"));
    }

    /// What happens behind the workload's clock makes a poll long that was short by it. One may be, if the thread did nothing
    /// else at that time.
    #[test]
    fn one_poll_is_believed_to_be_long_outside_of_the_clock() {
        let long = (1, span(10, 8 * MS));
        let mut reported = report(&[long, (1, span(30, 9 * MS)), (1, span(50, 9 * MS))]);
        let mut happened = truth(&[long, (1, span(32, 2 * MS)), (1, span(52, 2 * MS))]);
        for (poll, ns) in happened.polls[1..].iter_mut().zip([9 * MS, 9 * MS - 1]) {
            poll.surroundings = Span {
                start_ns: poll.span.start_ns - 2 * MS,
                ns,
            };
        }
        let checks = polls(&happened, &reported);
        assert_eq!(
            wrong(&checks),
            ["long polls that did not happen", "summed long polls, us"]
        );
        happened.polls[2].surroundings.ns += 1;
        let checks = polls(&happened, &reported);
        assert_eq!(wrong(&checks), ["long by what is outside of the clock"]);
        reported.long_polls.pop();
        let checks = polls(&happened, &reported);
        assert_eq!(wrong(&checks), [""; 0]);
    }

    /// A poll that the recording cut is not compared, in whatever length it is reported.
    #[test]
    fn polls_on_the_edge_are_left_out() {
        let inside = (1, span(10, 6 * MS));
        let checks = polls(
            &truth(&[inside, (1, span(990, 30 * MS))]),
            &report(&[inside, (1, span(990, 10 * MS))]),
        );
        assert_eq!(wrong(&checks), [""; 0]);
    }

    /// A poll that began with the recording may have begun before it; one that began later did not.
    #[test]
    fn polls_at_the_start_may_be_left_out() {
        let inside = (1, span(10, 6 * MS));
        let started = |ns| {
            let mut happened = truth(&[inside, (2, span(0, 9 * MS))]);
            happened.polls[1].span.start_ns = ns;
            wrong(&polls(&happened, &report(&[inside])))
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(started(50_000), [""; 0]);
        assert!(started(400_000).contains(&"long polls that the report lacks".to_owned()));
    }

    /// Where a worker is handed off between two clock readings, each duration between them is right.
    #[test]
    fn a_handed_off_poll_may_have_ended_earlier() {
        let mut happened = truth(&[(1, span(10, 9 * MS)), (1, span(30, 8 * MS))]);
        happened.polls[0].at_least_ns = 6 * MS;
        happened.polls[1].at_least_ns = 3 * MS;
        let checks = polls(&happened, &report(&[(1, span(10, 7 * MS))]));
        assert_eq!(wrong(&checks), [""; 0]);
        let checks = polls(&happened, &report(&[(1, span(10, 5 * MS))]));
        assert_eq!(
            wrong(&checks),
            ["durations within 0.3 ms", "summed long polls, us"]
        );
        let checks = polls(&happened, &report(&[]));
        assert!(wrong(&checks).contains(&"long polls that the report lacks"));
    }
}
