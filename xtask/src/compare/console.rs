//! `cargo xtask compare-console FILE DIR`. What enters: what console-reader wrote of the contention workload, and the folder
//! that holdup recorded into meanwhile. What leaves: how far the two observers differ, in figures, each beside what is
//! allowed.
//!
//! Both have to have watched from before the first task until after the last one: see `--by-signal` of the workload. Then
//! all tasks and all polls are counted, however short. Times are those of the long polls alone:
//!
//! ```text
//! holdup's probes        ├──────────────────────────────┤
//! console-subscriber        ├────────────────────────┤
//! ```
//!
//! What is between the ends, its bookkeeping and the probes' own time, is a matter of microseconds: of a poll of less than a
//! millisecond that is too large a part.

use std::collections::BTreeSet;
use std::iter::{repeat, repeat_n};
use std::ops::AddAssign;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::{Check, ratio, read, verdict};
use crate::task_types::{self, TaskType, TaskTypes};

/// How far any two figures may differ.
const TOLERANCE: f64 = 0.02;
/// The durations of shorter polls are not compared.
const LONG_NS: u64 = 1_000_000;
/// A function whose long polls took less has no histogram of its own to compare, but its part in that of all: a thread that
/// loses its CPU between the one observer's clock and the other's makes a poll longer by some milliseconds for one of them.
const ENOUGH_NS: u64 = 1_000_000_000;
/// Neither has one whose tasks have fewer polls. What follows the end of a task's future, in its last poll, is behind
/// console-subscriber's clock: who waits for the task is woken, and takes the CPU. Beside two busy loops the blocking pool's
/// jobs were 2.03 % apart in one of 30 recordings, everybody else 1.45 % at most.
const ENOUGH_POLLS_OF_TASK: u64 = 10;

/// What a recording must have at least for its figures to prove anything.
const LEAST: [(&str, u64); 4] = [
    ("functions with tasks", 5),
    ("tasks", 10),
    ("polls", 500),
    ("long polls", 100),
];

/// Prints every figure; fails when one is out of bounds.
pub fn run(file: &Path, dir: &Path) -> Result<ExitCode> {
    let console = task_types::of_console(&read(file)?)?;
    let holdup = task_types::of_report(&read(&dir.join("report.json"))?)?;
    Ok(verdict(&compare(&console, &holdup)))
}

fn compare(console: &TaskTypes, holdup: &TaskTypes) -> Vec<Check> {
    let none = TaskType::default();
    let functions: BTreeSet<&String> = console.keys().chain(holdup.keys()).collect();
    let mut checks = Vec::new();
    let mut all = Beside::default();
    for function in functions {
        let [console, holdup] = [console, holdup].map(|types| types.get(function).unwrap_or(&none));
        let beside = Beside::of(console, holdup);
        let name = function.strip_prefix("contention::").unwrap_or(function);
        checks.extend(beside.counts(name));
        if beside.has_own_histogram() {
            checks.push(beside.histogram(name));
        }
        all += beside;
    }
    checks.extend(all.counts("all"));
    checks.push(all.time());
    checks.push(all.histogram("all"));
    let figures = [console.len() as u64, all.tasks[0], all.polls[0], all.long];
    checks.extend(LEAST.into_iter().zip(figures).map(at_least));
    checks
}

fn at_least(((what, least), figure): ((&str, u64), u64)) -> Check {
    Check {
        what: what.to_owned(),
        figure: figure.to_string(),
        allowed: format!("at least {least}"),
        holds: figure >= least,
    }
}

/// The polls of one function or of several: console-subscriber's numbers beside holdup's.
#[derive(Clone, Copy, Default)]
struct Beside {
    tasks: [u64; 2],
    polls: [u64; 2],
    /// Of functions whose polls are long on average, so that the short ones among them are no matter.
    time_ns: [u64; 2],
    /// How many polls were long, for how long, and by how much the two differ in these.
    long: u64,
    long_ns: u64,
    apart_ns: u64,
}

impl Beside {
    fn of(console: &TaskType, holdup: &TaskType) -> Self {
        let mut beside = Self {
            tasks: [console.tasks, holdup.tasks],
            polls: [console.polls, holdup.polls],
            ..Self::default()
        };
        if console.total_ns >= console.polls.max(1) * LONG_NS {
            beside.time_ns = [console.total_ns, holdup.total_ns];
        }
        // A poll that is long for holdup alone counts too; twice as long, because near the limit either may be on either side.
        let both = longest_first(console)
            .chain(repeat(0))
            .zip(longest_first(holdup).chain(repeat(0)));
        for (console, holdup) in
            both.take_while(|&(console, holdup)| console >= LONG_NS || holdup >= 2 * LONG_NS)
        {
            beside.long += 1;
            beside.long_ns += console;
            beside.apart_ns += console.abs_diff(holdup);
        }
        beside
    }

    /// Not the blocking pool's jobs, whose only poll is their last one.
    fn has_own_histogram(self) -> bool {
        let [[tasks, _], [polls, _]] = [self.tasks, self.polls];
        self.long_ns >= ENOUGH_NS && tasks > 0 && polls >= tasks * ENOUGH_POLLS_OF_TASK
    }

    /// The blocking pool's jobs are no tasks to either of both: nothing is said of none.
    fn counts(self, name: &str) -> impl Iterator<Item = Check> {
        [("tasks", self.tasks), ("polls", self.polls)]
            .into_iter()
            .filter(|&(_, both)| both != [0, 0])
            .map(move |(what, [console, holdup])| {
                ratio(&format!("{name}: {what}"), console, holdup, TOLERANCE)
            })
    }

    fn time(self) -> Check {
        let [console, holdup] = self.time_ns.map(|ns| ns / 1000);
        let what = "functions with long polls: time, us";
        ratio(what, console, holdup, TOLERANCE)
    }

    /// How far the histograms are apart: the longest poll of the one against the longest of the other, the second longest
    /// against the second longest, and so on, what they differ by as a share of what they last. One that is shifted,
    /// stretched or of another shape differs by just that, and it makes no difference where a bucket ends. That a duration
    /// is known by its bucket alone is a part of it: up to 1/64 for holdup's buckets, half of that on average.
    fn histogram(self, name: &str) -> Check {
        let share = self.apart_ns as f64 / self.long_ns.max(1) as f64;
        Check {
            what: format!("{name}: histogram"),
            figure: format!("{} polls, {:.2} % apart", self.long, share * 100.0),
            allowed: format!("{} %", TOLERANCE * 100.0),
            holds: share <= TOLERANCE,
        }
    }
}

impl AddAssign for Beside {
    fn add_assign(&mut self, other: Self) {
        let Self {
            tasks,
            polls,
            time_ns,
            long,
            long_ns,
            apart_ns,
        } = other;
        for (sum, more) in [
            (&mut self.tasks, tasks),
            (&mut self.polls, polls),
            (&mut self.time_ns, time_ns),
        ] {
            *sum = [sum[0] + more[0], sum[1] + more[1]];
        }
        self.long += long;
        self.long_ns += long_ns;
        self.apart_ns += apart_ns;
    }
}

fn longest_first(task_type: &TaskType) -> impl Iterator<Item = u64> {
    let buckets = task_type.durations.iter().rev();
    buckets.flat_map(|(&ns, &count)| repeat_n(ns, count as usize))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::examples::{MS, wrong};
    use super::*;

    /// Five functions, each with three tasks and so many polls of so many nanoseconds; the last one has short ones.
    fn seen(long_ns: u64, polls: u64) -> TaskTypes {
        (0..5)
            .map(|i| {
                let ns = if i == 4 { MS / 100 } else { long_ns };
                let task_type = TaskType {
                    tasks: 3,
                    polls,
                    total_ns: polls * ns,
                    durations: BTreeMap::from([(ns, polls)]),
                };
                (format!("contention::f{i}"), task_type)
            })
            .collect()
    }

    fn changed(
        mut types: TaskTypes,
        function: &str,
        change: impl FnOnce(&mut TaskType),
    ) -> TaskTypes {
        change(types.entry(format!("contention::{function}")).or_default());
        types
    }

    fn compared(console: &TaskTypes, holdup: &TaskTypes) -> Vec<String> {
        let checks = compare(console, holdup);
        wrong(&checks).into_iter().map(str::to_owned).collect()
    }

    /// Two percent and no more, of each figure.
    #[test]
    fn figures_may_differ_by_two_percent() {
        let console = seen(10 * MS, 100);
        assert_eq!(compared(&console, &seen(10 * MS, 100)), [""; 0]);
        assert_eq!(compared(&console, &seen(10_200_000, 100)), [""; 0]);
        assert_eq!(
            compared(&console, &seen(10_210_000, 100)),
            [
                "f0: histogram",
                "f1: histogram",
                "f2: histogram",
                "f3: histogram",
                "functions with long polls: time, us",
                "all: histogram"
            ]
        );
        assert_eq!(compared(&console, &seen(10 * MS, 102)), [""; 0]);
        let more = changed(console.clone(), "f4", |f4| {
            f4.polls = 103;
            f4.tasks = 4;
        });
        assert_eq!(
            compared(&console, &more),
            ["f4: tasks", "f4: polls", "all: tasks"]
        );
    }

    /// The same time in all, but otherwise distributed.
    #[test]
    fn a_histogram_of_another_shape_differs() {
        let console = seen(10 * MS, 100);
        let holdup = changed(console.clone(), "f0", |f0| {
            f0.durations = BTreeMap::from([(5 * MS, 50), (15 * MS, 50)]);
        });
        assert_eq!(
            compared(&console, &holdup),
            ["f0: histogram", "all: histogram"]
        );
    }

    /// A function with few long polls counts with the others; short polls don't count.
    #[test]
    fn few_long_polls_and_short_ones_may_differ_alone() {
        let console = changed(seen(10 * MS, 200), "f3", |f3| {
            f3.durations = BTreeMap::from([(2 * MS, 100), (MS / 2, 100)]);
        });
        let differs = |ns| {
            let holdup = changed(console.clone(), "f3", |f3| {
                f3.durations = BTreeMap::from([(ns, 100), (MS / 4, 100)]);
            });
            compared(&console, &holdup)
        };
        assert_eq!(differs(3 * MS), [""; 0]);
        assert_eq!(differs(4 * MS), ["all: histogram"]);
    }

    /// Tasks that end soon, and the blocking pool's jobs, which are none, count with the others.
    #[test]
    fn last_polls_may_differ_alone() {
        for tasks in [0, 100] {
            let console = changed(seen(10 * MS, 200), "f3", |f3| f3.tasks = tasks);
            let holdup = changed(console.clone(), "f3", |f3| {
                f3.durations = BTreeMap::from([(10_500_000, 200)]);
            });
            assert_eq!(compared(&console, &holdup), [""; 0]);
        }
    }

    /// What one of both has not seen at all is wrong, whichever it is.
    #[test]
    fn no_function_may_be_missing() {
        let whole = seen(10 * MS, 100);
        let mut less = whole.clone();
        less.remove("contention::f4");
        let missing = ["f4: tasks", "f4: polls", "all: tasks", "all: polls"];
        assert_eq!(compared(&whole, &less), missing);
        assert_eq!(compared(&less, &whole)[..4], missing);
    }

    /// Two that have seen nothing agree, which proves nothing.
    #[test]
    fn nothing_is_not_enough() {
        let nothing = TaskTypes::new();
        assert_eq!(compared(&nothing, &nothing), LEAST.map(|(what, _)| what));
    }
}
