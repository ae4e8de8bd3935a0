//! The numbers are exact: the workload's own clock and the report agree.

use std::path::Path;
use std::process::Command;

use crate::holdup::{self, Recorded};
use crate::workload::{Workload, program};

fn compare(runtime: &str, scenarios: &[&str], duration: &str) {
    let mut args = vec!["--runtime", runtime];
    args.extend(scenarios);
    compare_program(&program("CONTENTION"), &args, duration);
}

/// Records the contention workload while it writes down the truth, and compares.
#[track_caller]
pub fn compare_program(contention: &Path, args: &[&str], duration: &str) -> Recorded {
    let folder = holdup::folder();
    let truth = folder.path().join("truth.jsonl");
    let mut command = Command::new(contention);
    command
        .args(["--seconds", "120", "--truth"])
        .arg(&truth)
        .args(args);
    let workload = Workload::spawn(&mut command);
    workload.wait_for("ready");
    let recorded = holdup::record(workload.pid, duration);
    workload.stop();

    let output = Command::new(program("XTASK"))
        .arg("compare")
        .args([&truth, recorded.dir()])
        .output()
        .expect("xtask can be started");
    let figures = String::from_utf8_lossy(&output.stdout);
    println!(
        "{args:?}:\n{figures}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{args:?}: report and truth differ");
    recorded
}

/// Everything that holdup knows of at once, on the scheduler that servers use.
#[test]
#[ignore = "live: cargo xtask test"]
fn multi_thread_agrees_with_the_truth() {
    compare("multi_thread", &[], "20s");
}

/// One thread runs the scheduler and all of its tasks.
#[test]
#[ignore = "live: cargo xtask test"]
fn current_thread_agrees_with_the_truth() {
    compare("current_thread", &[], "10s");
}

/// Tasks that cannot move between threads.
#[test]
#[ignore = "live: cargo xtask test"]
fn local_set_agrees_with_the_truth() {
    compare("local_set", &[], "10s");
}

/// A poll that calls block_in_place blocks its runtime until the worker was handed off, and no longer.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_handed_off_poll_ends_there() {
    compare("multi_thread", &["--scenario", "block-in-place"], "10s");
}

/// A runtime inside a blocking-pool task and inside block_in_place has polls of its own, and those block it.
#[test]
#[ignore = "live: cargo xtask test"]
fn nested_runtimes_count() {
    compare("multi_thread", &["--scenario", "nested"], "10s");
}
