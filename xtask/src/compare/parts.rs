//! What long polls are made of. What enters: the parts that the truth knows of some polls. What leaves: for each kind of
//! part, in how many polls the report says the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, share_of};
use crate::reported::{LongPoll, Reported};
use crate::truth::{Part, Truth};

/// A part agrees if it differs by no more than this share of it ...
const TOLERANCE: f64 = 0.05;
/// ... or no more than this.
const TOLERANCE_NS: u64 = 500_000;
/// How many of the parts must agree.
const AGREE: f64 = 0.99;
/// The report does not know what this share of all sleep was for.
const UNKNOWN: f64 = 0.01;

pub fn parts(truth: &Truth, report: &Reported) -> Vec<Check> {
    let mut by_poll: BTreeMap<(u32, u64), BTreeMap<&str, u64>> = BTreeMap::new();
    for Part {
        tid,
        poll_start_ns,
        part,
        ns,
    } in &truth.parts
    {
        let parts = by_poll.entry((*tid, *poll_start_ns)).or_default();
        *parts.entry(part).or_default() += ns;
    }
    let mut pairs = Vec::new();
    for ((tid, start_ns), parts) in &by_poll {
        let reported = report.long_polls.iter().find(|poll| {
            let span = poll.span;
            poll.tid == *tid && span.start_ns <= *start_ns && *start_ns < span.end_ns()
        });
        // Polls that the recording cut are not compared, and those that the report lacks are missed elsewhere.
        if let Some(poll) = reported
            && poll.span.end_ns() < report.recorded.end_ns()
        {
            pairs.push((parts, poll));
        }
    }
    if by_poll.is_empty() {
        return Vec::new();
    }
    let kinds: BTreeSet<&str> = pairs
        .iter()
        .flat_map(|(parts, _)| parts.keys().copied())
        .collect();
    let mut checks: Vec<Check> = kinds
        .into_iter()
        .map(|kind| {
            let (mut both, mut disagree, mut differ) = (0, 0, String::new());
            for (parts, poll) in &pairs {
                let (Some(&truth), Some(said)) = (parts.get(kind), said_of(kind, poll)) else {
                    continue;
                };
                both += 1;
                if !agrees(truth, said) {
                    let at_ms =
                        poll.span.start_ns.saturating_sub(report.recorded.start_ns) / 1_000_000;
                    let (truth_us, said_us) = (truth / 1000, said / 1000);
                    differ.push_str(&format!(", {truth_us} -> {said_us} us at {at_ms} ms"));
                    disagree += 1;
                }
            }
            let mut check = share_of(
                &format!("parts of polls: {kind}"),
                both - disagree,
                both,
                AGREE,
            );
            check.figure.push_str(&differ);
            // None of none is no agreement.
            check.holds &= both > 0;
            check
        })
        .collect();
    checks.push(Check {
        what: "polls with parts in both".to_owned(),
        figure: format!("{} of {}", pairs.len(), by_poll.len()),
        allowed: "at least 1".to_owned(),
        holds: !pairs.is_empty(),
    });
    let sum = |of: &dyn Fn(&LongPoll) -> u64| pairs.iter().map(|(_, poll)| of(poll)).sum::<u64>();
    let slept = sum(&|poll| poll.asleep.iter().flat_map(BTreeMap::values).sum());
    let unknown = sum(&|poll| {
        let kinds = poll.asleep.as_ref();
        kinds
            .and_then(|kinds| kinds.get("unknown"))
            .copied()
            .unwrap_or(0)
    });
    checks.push(Check {
        what: "sleep for an unknown reason".to_owned(),
        figure: format!("{} of {} us", unknown / 1000, slept / 1000),
        allowed: format!("{} %", UNKNOWN * 100.0),
        holds: unknown as f64 <= slept as f64 * UNKNOWN,
    });
    checks
}

/// None where the report does not say.
fn said_of(kind: &str, poll: &LongPoll) -> Option<u64> {
    match kind {
        "on_cpu" => Some(poll.on_cpu_ns),
        "run_queue" => Some(poll.run_queue_ns),
        "lock_wait" => Some(poll.lock_wait_ns),
        kind => Some(poll.asleep.as_ref()?.get(kind).copied().unwrap_or(0)),
    }
}

fn agrees(truth: u64, said: u64) -> bool {
    let difference = truth.abs_diff(said);
    difference <= TOLERANCE_NS || difference as f64 <= truth as f64 * TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::super::examples::{MS, report, span, truth, wrong};
    use super::*;

    fn part(part: &str, ns: u64) -> Part {
        Part {
            tid: 1,
            poll_start_ns: 10 * MS + 2_000,
            part: part.to_owned(),
            ns,
        }
    }

    fn checked(slept: &[(&str, u64)], parts: Vec<Part>) -> Vec<String> {
        let poll = [(1, span(10, 30 * MS))];
        let mut happened = truth(&poll);
        happened.parts = parts;
        let mut said = report(&poll);
        let asleep = slept.iter().map(|(kind, ns)| ((*kind).to_owned(), *ns));
        said.long_polls[0].asleep = Some(asleep.collect());
        said.long_polls[0].on_cpu_ns = 10 * MS;
        let checks = super::parts(&happened, &said);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    /// Half a millisecond of a short part, or a twentieth of a long one.
    #[test]
    fn parts_agree_within_bounds() {
        let said = [("io", 20 * MS), ("timer", 3 * MS)];
        let same = vec![
            part("io", 19 * MS + MS / 5),
            part("timer", 3 * MS + MS / 2),
            part("on_cpu", 10 * MS),
        ];
        assert_eq!(checked(&said, same), [""; 0]);
        let other = vec![
            part("io", 21 * MS + MS / 2),
            part("timer", 4 * MS),
            part("on_cpu", 9 * MS),
        ];
        assert_eq!(
            checked(&said, other),
            [
                "parts of polls: io",
                "parts of polls: on_cpu",
                "parts of polls: timer"
            ]
        );
    }

    /// What the truth has and the report has not is wrong, and so is sleep without a reason.
    #[test]
    fn a_part_without_a_name_is_wrong() {
        assert_eq!(
            checked(&[("unknown", 5 * MS)], vec![part("io", 5 * MS)]),
            ["parts of polls: io", "sleep for an unknown reason"]
        );
    }

    /// A truth without parts asks nothing.
    #[test]
    fn nothing_to_compare() {
        assert_eq!(checked(&[], Vec::new()), [""; 0]);
    }
}
