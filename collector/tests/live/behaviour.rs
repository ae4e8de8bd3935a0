//! Attached or not, the target behaves the same.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::holdup::{self, Recorded, record};
use crate::kernel;
use crate::workload::Workload;

/// The program says what it does before, while and after holdup is attached; gives back all of it, and
/// how many lines there were before and at the end of the recording.
fn lines_around_a_recording(args: &[&str], beginning: &str) -> (Vec<String>, [usize; 2], Recorded) {
    let workload = Workload::start(args);
    let count = || {
        workload
            .lines()
            .iter()
            .filter(|line| line.starts_with(beginning))
            .count()
    };
    thread::sleep(Duration::from_secs(2));
    let before = count();
    let recorded = record(workload.pid, "4s");
    let after = count();
    thread::sleep(Duration::from_secs(2));
    let lines: Vec<String> = workload
        .stop()
        .into_iter()
        .filter(|line| line.starts_with(beginning))
        .collect();
    assert!(
        before >= 3 && after >= before + 5 && lines.len() >= after + 3,
        "too few lines to tell: {lines:?}"
    );
    (lines, [before, after], recorded)
}

/// A panic in a task is caught by Tokio as ever: short poll or long, before, while and after.
#[test]
#[ignore = "live: cargo xtask test"]
fn panics_are_caught() {
    let (lines, ..) =
        lines_around_a_recording(&["--panic", "--scenario", "mutex,crypto"], "panic ");
    for line in lines {
        assert!(line.ends_with("is_panic=true"), "{line}");
    }
}

/// A backtrace that a poll takes of itself has as many lines as ever, down to the thread's start.
#[test]
#[ignore = "live: cargo xtask test"]
fn backtraces_reach_the_threads_start() {
    let dir = holdup::folder();
    let last: &Path = &dir.path().join("backtrace");
    let last = last.to_str().expect("UTF-8");
    // Also in threads that wait for locks, where return probes are.
    let args = ["--backtrace", last, "--scenario", "mutex,rwlock,crypto"];
    let (lines, [before, after], _) = lines_around_a_recording(&args, "backtrace ");
    println!(
        "{before} before, {} while attached, {} after",
        after - before,
        lines.len() - after
    );
    for line in &lines {
        assert!(line.ends_with("reaches_thread_start=true"), "{line}");
    }
    // A worker's and a main thread's differ, so the set of what is seen is compared.
    let kinds = |lines: &[String]| {
        lines
            .iter()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    let attached = kinds(&lines[before..after]);
    let detached: std::collections::BTreeSet<_> = kinds(&lines[..before])
        .union(&kinds(&lines[after..]))
        .cloned()
        .collect();
    assert!(
        attached.is_subset(&detached),
        "attached: {attached:?}, else: {detached:?}"
    );
}

/// A seccomp filter kills a thread that returns through a uretprobe, on kernels that make this a system call which
/// the filter sees. There none is placed, and the coverage says so; elsewhere lock waits are seen as ever.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_target_under_a_seccomp_filter() {
    let mut workload = Workload::start(["--seccomp", "--scenario", "mutex,crypto"]);
    let recorded = record(workload.pid, "4s");
    assert!(workload.is_running(), "the filter killed the target");
    workload.stop();
    assert!(!recorded.report.long_polls().is_empty());
    // The system call came with 6.11; seccomp lets it through since 6.14.
    let version = kernel::version();
    if ((6, 11)..(6, 14)).contains(&version) {
        assert!(
            recorded.report.coverage().contains("seccomp"),
            "{}",
            recorded.report.coverage()
        );
        assert_eq!(recorded.report.lock_waits(), 0);
    } else {
        assert!(
            recorded.report.lock_waits() > 0,
            "{}",
            recorded.report.coverage()
        );
    }
}
