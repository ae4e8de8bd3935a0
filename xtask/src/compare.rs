//! `cargo xtask compare TRUTH DIR`. What enters: a workload's truth, and the folder that holdup recorded
//! into meanwhile. What leaves: how far they differ, in figures, each beside what is allowed.
//!
//! Only what began and ended inside the recording is compared. The two clocks are one, but they are
//! read at different places: the probe a few microseconds outside of the workload, and more when the
//! thread is preempted in between.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::reported::Reported;
use crate::truth::{Span, Truth};

/// This close to the threshold, the two may disagree on which side a poll is.
const THRESHOLD_BAND_NS: u64 = 500_000;
/// Durations agree when they differ by no more.
const DURATION_TOLERANCE_NS: u64 = 300_000;
/// How many of the durations must agree.
const DURATIONS_WITHIN: f64 = 0.99;
/// Polls that are long only because the thread lost its CPU where the workload's clock does not look: between
/// the probes and the outermost future. So many in a hundred are believed.
const PREEMPTED: f64 = 0.01;
/// How far the summed durations may differ.
const POLL_TOTAL_TOLERANCE: f64 = 0.01;
/// Shorter lock waits are not compared: the probes' own time is a good part of them.
const LONG_WAIT_NS: u64 = 100_000;
/// How far the number of a lock's waits may differ.
const WAIT_COUNT_TOLERANCE: f64 = 0.01;
/// How far their summed duration may differ.
const WAIT_TOTAL_TOLERANCE: f64 = 0.02;
/// How far the flamegraph's total may be from the report's.
const FLAME_TOLERANCE: f64 = 0.001;

/// One figure and what it must be.
struct Check {
    what: String,
    figure: String,
    allowed: String,
    holds: bool,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            figure,
            allowed,
            holds,
        } = self;
        let verdict = if *holds { "ok" } else { "WRONG" };
        write!(f, "{verdict:<6} {what:<42} {figure:<44} allowed: {allowed}")
    }
}

/// Prints every figure; fails when one is out of bounds.
pub fn run(truth: &Path, dir: &Path) -> Result<ExitCode> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
    };
    let truth = Truth::parse(&read(truth)?)?;
    let report = Reported::parse(&read(&dir.join("report.json"))?)?;
    let flame_ns = total_of_flamegraph(&read(&dir.join("blocking.svg"))?)?;

    let mut checks = polls(&truth, &report);
    checks.extend(locks(&truth, &report));
    checks.push(flame(&report, flame_ns));
    for check in &checks {
        println!("{check}");
    }
    let wrong = checks.iter().filter(|check| !check.holds).count();
    println!("{} figures compared, {wrong} wrong", checks.len());
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn polls(truth: &Truth, report: &Reported) -> Vec<Check> {
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
            Some((index, span, _)) if is_long || poll.span.ns + THRESHOLD_BAND_NS >= threshold => {
                explained[index] = true;
                if !is_long {
                    near_threshold += 1;
                    continue;
                }
                differences.push(poll.distance_ns(span.ns));
                truth_total += poll.nearest_ns(span.ns);
                report_total += span.ns;
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
    let (mut extra, mut preempted) = (Vec::new(), 0usize);
    for (index, poll) in report.long_polls.iter().enumerate() {
        if explained[index] {
            continue;
        }
        if poll.span.ns < threshold + THRESHOLD_BAND_NS {
            near_threshold += 1;
        } else if poll.span.ns.saturating_sub(poll.run_queue_ns) < threshold {
            preempted += 1;
        } else {
            report_total += poll.span.ns;
            let at_ms = poll.span.start_ns.saturating_sub(report.recorded.start_ns) / 1_000_000;
            extra.push(format!(
                "{} us at {at_ms} ms, thread {}{}",
                poll.span.ns / 1000,
                poll.tid,
                truth_says[index]
            ));
        }
    }

    differences.sort_unstable();
    let close = differences
        .iter()
        .filter(|&&ns| ns <= DURATION_TOLERANCE_NS)
        .count();
    let share = close as f64 / differences.len().max(1) as f64;
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
            what: "long by a preemption outside of the clock".to_owned(),
            figure: preempted.to_string(),
            allowed: format!("{} %, or one", PREEMPTED * 100.0),
            holds: preempted as f64 <= (differences.len() as f64 * PREEMPTED).max(1.0),
        },
        Check {
            what: "durations within 0.3 ms".to_owned(),
            figure: format!(
                "{:.2} % (median {} us, 99 % {} us, worst {} us)",
                share * 100.0,
                quantile(&differences, 0.5) / 1000,
                quantile(&differences, 0.99) / 1000,
                quantile(&differences, 1.0) / 1000
            ),
            allowed: "99 %".to_owned(),
            holds: share >= DURATIONS_WITHIN,
        },
        ratio(
            "summed long polls, us",
            truth_total / 1000,
            report_total / 1000,
            POLL_TOTAL_TOLERANCE,
        ),
    ]
}

/// Sorted values; 0 for none.
fn quantile(sorted: &[u64], share: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).ceil() as usize)
        .copied()
        .unwrap_or(0)
}

fn locks(truth: &Truth, report: &Reported) -> Vec<Check> {
    let mut checks = Vec::new();
    for (&addr, name) in &truth.locks {
        let (mut count, mut total_ns, mut longest_ns) = (0u64, 0, 0);
        for wait in &truth.lock_waits {
            if wait.addr == addr
                && wait.span.ns >= LONG_WAIT_NS
                && wait.span.is_within(report.recorded)
            {
                count += 1;
                total_ns += wait.span.ns;
                longest_ns = longest_ns.max(wait.span.ns);
            }
        }
        let reported = report.locks.get(&addr).copied().unwrap_or_default();
        // One percent of fewer than a hundred waits is less than one wait, and there are two edges of the
        // recording to fall off.
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

fn flame(report: &Reported, flame_ns: u64) -> Check {
    let total_ns: u64 = report.long_polls.iter().map(|poll| poll.span.ns).sum();
    ratio(
        "total of blocking.svg, us",
        total_ns / 1000,
        flame_ns / 1000,
        FLAME_TOLERANCE,
    )
}

fn none_of(what: &str, found: &[String]) -> Check {
    let mut figure = found.len().to_string();
    if !found.is_empty() {
        figure.push_str(&format!(" ({})", found.join(", ")));
    }
    Check {
        what: what.to_owned(),
        figure,
        allowed: "0".to_owned(),
        holds: found.is_empty(),
    }
}

fn ratio(what: &str, truth: u64, report: u64, tolerance: f64) -> Check {
    let difference = report.abs_diff(truth) as f64 / truth.max(1) as f64;
    let sign = if report < truth { "-" } else { "+" };
    Check {
        what: what.to_owned(),
        figure: format!("{truth} -> {report} ({sign}{:.2} %)", difference * 100.0),
        allowed: format!("{} %", tolerance * 100.0),
        holds: difference <= tolerance,
    }
}

/// inferno notes the sum of all stacks, here nanoseconds, in the element that holds the frames.
fn total_of_flamegraph(svg: &str) -> Result<u64> {
    svg.split_once("total_samples=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .and_then(|(number, _)| number.parse().ok())
        .context("blocking.svg does not say its total")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reported::{LongPoll, LongWaits};
    use crate::truth::{LockWait, Poll};

    const MS: u64 = 1_000_000;

    fn span(start_ms: u64, ns: u64) -> Span {
        Span {
            start_ns: start_ms * MS,
            ns,
        }
    }

    fn report(polls: &[(u32, Span)]) -> Reported {
        Reported {
            threshold_ns: 5 * MS,
            recorded: span(0, 1_000 * MS),
            long_polls: polls
                .iter()
                .map(|&(tid, span)| LongPoll {
                    tid,
                    span,
                    run_queue_ns: 0,
                })
                .collect(),
            locks: BTreeMap::new(),
        }
    }

    fn truth(polls: &[(u32, Span)]) -> Truth {
        let polls = polls.iter().map(|&(tid, span)| Poll {
            name: "task".to_owned(),
            tid,
            span,
            at_least_ns: span.ns,
        });
        Truth {
            polls: polls.collect(),
            ..Truth::default()
        }
    }

    fn wrong(checks: &[Check]) -> Vec<&str> {
        checks
            .iter()
            .filter(|check| !check.holds)
            .map(|check| check.what.as_str())
            .collect()
    }

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

    /// A thread that loses its CPU behind the workload's clock has a long poll that the clock did not see. One may be.
    #[test]
    fn one_preemption_outside_of_the_clock_is_believed() {
        let long = (1, span(10, 8 * MS));
        let mut reported = report(&[long, (1, span(30, 9 * MS)), (1, span(50, 9 * MS))]);
        reported.long_polls[1].run_queue_ns = 6 * MS;
        reported.long_polls[2].run_queue_ns = 3 * MS;
        let checks = polls(&truth(&[long, (1, span(30, 2 * MS))]), &reported);
        assert_eq!(
            wrong(&checks),
            ["long polls that did not happen", "summed long polls, us"]
        );
        reported.long_polls[2].run_queue_ns = 6 * MS;
        let checks = polls(&truth(&[long, (1, span(30, 2 * MS))]), &reported);
        assert_eq!(
            wrong(&checks),
            ["long by a preemption outside of the clock"]
        );
        reported.long_polls.pop();
        let checks = polls(&truth(&[long, (1, span(30, 2 * MS))]), &reported);
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

    fn waits(count: u64, reported: u64) -> Vec<Check> {
        let mut truth = truth(&[]);
        truth.locks.insert(0x10, "accounts".to_owned());
        truth.lock_waits = (0..count)
            .map(|i| LockWait {
                addr: 0x10,
                span: span(i, MS),
            })
            .collect();
        let mut report = report(&[]);
        report.locks.insert(
            0x10,
            LongWaits {
                count: reported,
                total_ns: reported * MS,
                longest_ns: MS,
            },
        );
        locks(&truth, &report)
    }

    /// One percent, and one wait where there are few.
    #[test]
    fn lock_waits_may_differ_by_one_percent() {
        assert_eq!(wrong(&waits(200, 202)), [""; 0]);
        assert_eq!(
            wrong(&waits(200, 203)),
            ["accounts: waits of 100 us and more"]
        );
        assert_eq!(wrong(&waits(20, 19)), [""; 0]);
        assert_eq!(
            wrong(&waits(20, 18)),
            [
                "accounts: waits of 100 us and more",
                "accounts: their sum, us"
            ]
        );
    }

    /// The total stands in an attribute of the picture.
    #[test]
    fn the_flamegraph_says_its_total() {
        let svg = r#"<svg id="frames" x="10" width="1180" total_samples="12345">"#;
        assert_eq!(total_of_flamegraph(svg).ok(), Some(12345));
        assert!(total_of_flamegraph("<svg>").is_err());
    }
}
