//! `cargo xtask compare TRUTH DIR`. What enters: a workload's truth, and the folder that holdup recorded
//! into meanwhile. What leaves: how far they differ, in figures, each beside what is allowed.
//!
//! Only what began and ended inside the recording is compared. The two clocks are one, but they are
//! read at different places: the probe a few microseconds outside of the workload, and more when the
//! thread is preempted in between.

mod across_await;
pub mod console;
#[cfg(test)]
mod examples;
mod holders;
mod holds;
mod ownership;
mod parts;
mod polls;
mod spawns;
mod victims;
mod visible;
mod waits;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::reported::Reported;
use crate::truth::Truth;

/// Durations agree when they differ by no more.
const DURATION_TOLERANCE_NS: u64 = 300_000;
/// The same thread's hold of the same lock is the same hold, if they ended so close to each other.
const SAME_END_NS: u64 = 1_000_000;
/// Shorter lock waits are not compared: the probes' own time is a good part of them.
const LONG_WAIT_NS: u64 = 100_000;
/// How far the flamegraph's total may be from the report's.
const FLAME_TOLERANCE: f64 = 0.001;

/// As many are named of those that differ.
const EXAMPLES: usize = 10;

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
pub fn run(truth: &Path, dir: &Path, overcommitted: bool) -> Result<ExitCode> {
    let truth = Truth::parse(&read(truth)?)?;
    let report = Reported::parse(&read(&dir.join("report.json"))?)?;
    let flame_ns = total_of_flamegraph(&read(&dir.join("blocking.svg"))?)?;

    let mut checks = polls::polls(&truth, &report);
    checks.extend(parts::parts(&truth, &report));
    checks.extend(holders::holders(&truth, &report, overcommitted));
    if !overcommitted {
        checks.extend(victims::victims(&truth, &report));
        checks.extend(waits::waits(&truth, &report));
        checks.extend(holds::holds(&truth, &report));
        checks.extend(visible::visible_holds(&truth, &report));
        checks.extend(across_await::across_await(&truth, &report));
        checks.extend(spawns::spawns(&truth, &report));
    }
    checks.push(flame(&report, flame_ns));
    for lacking in what_it_lacks(&report) {
        println!("not compared: {lacking}, which the report does not list");
    }
    Ok(verdict(&checks))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// Prints them; a failure if one is wrong.
fn verdict(checks: &[Check]) -> ExitCode {
    for check in checks {
        println!("{check}");
    }
    let wrong = checks.iter().filter(|check| !check.holds).count();
    println!("{} figures compared, {wrong} wrong", checks.len());
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// An older report says less.
fn what_it_lacks(report: &Reported) -> Vec<&'static str> {
    [
        (report.knows_families, "std's and tokio's locks"),
        (report.lock_waits.is_some(), "the holders of each wait"),
        (report.holds.is_some(), "holds"),
        (report.across_await.is_some(), "holds across an await"),
    ]
    .into_iter()
    .filter(|&(is_there, _)| !is_there)
    .map(|(_, what)| what)
    .collect()
}

/// Sorted values; 0 for none.
fn quantile(sorted: &[u64], share: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).ceil() as usize)
        .copied()
        .unwrap_or(0)
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
        let shown = &found[..found.len().min(EXAMPLES)];
        figure.push_str(&format!(" ({})", shown.join(", ")));
    }
    Check {
        what: what.to_owned(),
        figure,
        allowed: "0".to_owned(),
        holds: found.is_empty(),
    }
}

/// Of fewer, none may differ.
const ENOUGH_FOR_ONE_TO_DIFFER: usize = 50;

/// So many of all, of which at least a share must be; none of none is enough. A thread that loses its CPU between the
/// workload's clock and a probe makes one differ wherever that happens, so where one is already more than what the share
/// leaves out, it may be one.
fn share_of(what: &str, count: usize, all: usize, share: f64) -> Check {
    let percent = |part: f64| part * 100.0;
    let is_all_but_one = all >= ENOUGH_FOR_ONE_TO_DIFFER && all - count == 1;
    Check {
        what: what.to_owned(),
        figure: format!(
            "{count} of {all} ({:.2} %)",
            percent(count as f64 / all.max(1) as f64)
        ),
        allowed: format!("at least {} %, or all but one", percent(share)),
        holds: count as f64 >= all as f64 * share || is_all_but_one,
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

    /// The total stands in an attribute of the picture.
    #[test]
    fn the_flamegraph_says_its_total() {
        let svg = r#"<svg id="frames" x="10" width="1180" total_samples="12345">"#;
        assert_eq!(total_of_flamegraph(svg).ok(), Some(12345));
        assert!(total_of_flamegraph("<svg>").is_err());
    }
}
