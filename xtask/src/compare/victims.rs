//! Who paid. What enters: how long tasks waited that were woken, by their own clock. What leaves: whether the report charges
//! that to the long polls that they waited for.

use super::{Check, ratio};
use crate::reported::Reported;
use crate::truth::Truth;

/// How far what is charged to all long polls may differ.
const TOLERANCE: f64 = 0.1;

pub fn victims(truth: &Truth, report: &Reported) -> Vec<Check> {
    if truth.delays.is_empty() {
        return Vec::new();
    }
    let is_long = |ns: u64| ns >= report.threshold_ns;
    let long = truth
        .polls
        .iter()
        .filter(|poll| is_long(poll.span.ns) && poll.span.is_within(report.recorded));
    let waited: u64 = long
        .map(|poll| {
            let delays = truth
                .delays
                .iter()
                .filter(|delay| delay.is_within(report.recorded));
            delays.map(|delay| delay.overlap_ns(poll.span)).sum::<u64>()
        })
        .sum();
    let charged = report
        .long_polls
        .iter()
        .filter_map(|poll| poll.victims_ns)
        .sum::<u64>();
    vec![
        ratio(
            "tasks' delays for long polls, us",
            waited / 1000,
            charged / 1000,
            TOLERANCE,
        ),
        Check {
            what: "such delays".to_owned(),
            figure: format!("{} us", waited / 1000),
            allowed: "more than 0".to_owned(),
            holds: waited > 0,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::examples::{MS, report, span, truth, wrong};
    use super::*;

    fn checked(delays: &[(u64, u64)], charged: u64) -> Vec<String> {
        let poll = [(1, span(10, 20 * MS))];
        let mut happened = truth(&poll);
        happened.delays = delays.iter().map(|&(at, ms)| span(at, ms * MS)).collect();
        let mut said = report(&poll);
        said.long_polls[0].victims_ns = Some(charged * MS);
        let checks = victims(&happened, &said);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    /// What lies outside of the poll is not its fault.
    #[test]
    fn delays_count_as_far_as_the_poll_goes_on() {
        assert_eq!(checked(&[(12, 20), (5, 15), (40, 9)], 28), [""; 0]);
        assert_eq!(
            checked(&[(12, 20), (5, 15), (40, 9)], 32),
            ["tasks' delays for long polls, us"]
        );
    }

    #[test]
    fn nobody_waited() {
        assert_eq!(checked(&[(40, 9)], 0), ["such delays"]);
        assert_eq!(checked(&[], 0), [""; 0]);
    }
}
