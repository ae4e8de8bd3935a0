//! The numbers are exact: the workload's own clock and the report agree.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::holdup::{self, Recorded};
use crate::workload::{Workload, program};

fn compare(runtime: &str, scenarios: &[&str], duration: &str) {
    let mut args = vec!["--runtime", runtime];
    args.extend(scenarios);
    compare_program(&program("CONTENTION"), &args, duration);
}

/// One scenario, recorded so that waits and holds of milliseconds have events of their own, with nothing left out of the
/// comparison.
#[track_caller]
fn compare_closely(runtime: &str, scenario: &str) {
    let args = ["--runtime", runtime, "--scenario", scenario];
    let more = ["--threshold", "100us"];
    let compared = compare_recording(&program("CONTENTION"), &args, "10s", &more);
    assert!(
        !compared.figures.contains("not compared"),
        "{scenario}: the report lacks what is to be compared"
    );
}

/// The same with a probe in every fast path, of a build of the workload.
#[track_caller]
fn compare_uncontended(build: &str, scenarios: &str) {
    let args = ["--scenario", scenarios];
    let more = ["--threshold", "100us", "--uncontended"];
    let compared = compare_recording(&program(build), &args, "8s", &more);
    let holds = compared.recorded.report.holds();
    let exact = holds
        .iter()
        .filter(|hold| hold["certainty"] == "exact")
        .count();
    // Both ends of nearly all are seen.
    assert!(
        exact * 100 >= holds.len() * 98 && exact > 500,
        "{exact} of {} holds are exact",
        holds.len()
    );
}

/// Records the contention workload while it writes down the truth, and compares.
#[track_caller]
pub fn compare_program(contention: &Path, args: &[&str], duration: &str) -> Recorded {
    compare_recording(contention, args, duration, &[]).recorded
}

/// A recording that agrees with the truth.
struct Compared {
    recorded: Recorded,
    /// What `xtask compare` printed.
    figures: String,
}

/// The same with more arguments for the recording.
#[track_caller]
fn compare_recording(contention: &Path, args: &[&str], duration: &str, more: &[&str]) -> Compared {
    compare_by(contention, args, duration, more, &[])
}

/// The same with more arguments for the comparison.
#[track_caller]
fn compare_by(
    contention: &Path,
    args: &[&str],
    duration: &str,
    more: &[&str],
    how: &[&str],
) -> Compared {
    let folder = holdup::folder();
    let truth = folder.path().join("truth.jsonl");
    let mut command = Command::new(contention);
    command
        .args(["--seconds", "120", "--truth"])
        .arg(&truth)
        .args(args);
    let workload = Workload::spawn(&mut command);
    workload.wait_for("ready");
    let recorded = holdup::record_with(workload.pid, duration, more);
    workload.stop();

    let output = Command::new(program("XTASK"))
        .arg("compare")
        .args(how)
        .args([&truth, recorded.dir()])
        .output()
        .expect("xtask can be started");
    let figures = String::from_utf8_lossy(&output.stdout).into_owned();
    println!(
        "{args:?}:\n{figures}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{args:?}: report and truth differ");
    Compared { recorded, figures }
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

/// What each poll is made of: the workload measures the parts, and the kernel's own account of the thread the rest.
#[test]
#[ignore = "live: cargo xtask test"]
fn anatomy_agrees_with_the_truth() {
    compare("multi_thread", &["--scenario", "anatomy"], "15s");
}

/// The same with twice as many busy threads as CPUs beside it.
#[track_caller]
fn compare_overcommitted(scenarios: &str, duration: &str, more: &[&str]) -> Compared {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let _busy: Vec<Workload> = (0..2 * cpus)
        .map(|_| {
            let mut spins = Command::new("sh");
            // Should nobody end it, its CPU time does.
            spins.args(["-c", "ulimit -t 60; while :; do :; done"]);
            Workload::spawn(&mut spins)
        })
        .collect();
    let args = ["--runtime", "multi_thread", "--scenario", scenarios];
    let contention = program("CONTENTION");
    compare_by(&contention, &args, duration, more, &["--overcommitted"])
}

/// Threads that wait spin through other threads' time there, and the lock changes hands unseen meanwhile: nobody is charged with
/// what another one had. With a probe in each fast path there is a holder for all but the time between a release and the
/// next acquisition.
#[test]
#[ignore = "live: cargo xtask test"]
fn holders_on_an_overcommitted_machine() {
    let all = "mutex,rwlock,upgrade,std-mutex,std-rwlock";
    let compared = compare_overcommitted(all, "8s", &["--threshold", "100us"]);
    let (waited, unseen, handover) = holders_of(&compared.recorded);
    // A third of it has a holder, usually.
    assert!(
        (unseen + handover) * 10 <= waited * 9 && waited > 1_000_000_000,
        "of {waited} ns nobody was seen to hold the lock for {unseen}, and {handover} lie behind a release"
    );

    let probed = "mutex,rwlock,std-mutex,std-rwlock";
    let more = ["--threshold", "100us", "--uncontended"];
    let compared = compare_overcommitted(probed, "8s", &more);
    let (waited, unseen, handover) = holders_of(&compared.recorded);
    assert!(
        unseen * 50 <= waited && (unseen + handover) * 2 <= waited && waited > 1_000_000_000,
        "of {waited} ns nobody was seen to hold the lock for {unseen}, and {handover} lie behind a release"
    );
}

/// How long was waited for locks, and how much of that was nobody's: before the first holder, and behind one.
fn holders_of(recorded: &Recorded) -> (u64, u64, u64) {
    let mut sums = (0, 0, 0);
    for lock in recorded.report.locks() {
        let ns = |pointer| lock.pointer(pointer).and_then(Value::as_u64);
        sums.0 += ns("/total_ns").expect("it is a number");
        sums.1 += ns("/holders/unseen_ns").expect("it is a number");
        sums.2 += ns("/holders/handover_ns").expect("it is a number");
    }
    sums
}

/// More to do than CPUs: what the machine takes is told apart from what the code does.
#[test]
#[ignore = "live: cargo xtask test"]
fn anatomy_on_an_overcommitted_machine() {
    let compared = compare_overcommitted("anatomy", "30s", &[]);
    let polls = compared.recorded.report.long_polls();
    let run_queue = |poll: &&Value| poll["anatomy"]["run_queue_ns"].as_u64();
    let waited = polls
        .iter()
        .filter(|poll| run_queue(poll) > Some(1_000_000))
        .count();
    assert!(waited > 10, "{waited} polls waited for a CPU");
}

/// What `block_on` was given blocks the tasks of a current-thread runtime, of itself or of a `LocalSet`, and nobody where
/// workers have them.
#[test]
#[ignore = "live: cargo xtask test"]
fn root_futures_agree_with_the_truth() {
    for build in ["CONTENTION", "CONTENTION_SHIPPED"] {
        for runtime in ["current_thread", "local_set", "multi_thread"] {
            let args = ["--runtime", runtime, "--scenario", "root,crypto"];
            let recorded = compare_program(&program(build), &args, "6s");
            let of_roots = recorded.report.task_types().iter();
            let of_roots = of_roots.filter(|entry| entry["class"] == "block_on");
            let of_root: u64 = of_roots
                .filter_map(|entry| entry["long_polls"].as_u64())
                .sum();
            if runtime == "multi_thread" {
                assert_eq!(of_root, 0);
            } else {
                assert!(of_root > 100, "{build}, {runtime}: {of_root}");
            }
        }
    }
}

/// What is dropped in a poll, and a waker that does the work itself, are part of it.
#[test]
#[ignore = "live: cargo xtask test"]
fn callbacks_of_a_poll_agree_with_the_truth() {
    for runtime in ["current_thread", "multi_thread"] {
        compare(runtime, &["--scenario", "callbacks"], "6s");
    }
}

/// Who had to wait for a long poll, and how long, where nobody else could take it ...
#[test]
#[ignore = "live: cargo xtask test"]
fn victims_agree_with_the_truth() {
    compare("current_thread", &["--scenario", "queue"], "10s");
}

/// ... and where another worker may steal it.
#[test]
#[ignore = "live: cargo xtask test"]
fn victims_of_several_workers_agree_with_the_truth() {
    compare("multi_thread", &["--scenario", "queue"], "10s");
}

/// Tasks that were spawned into a queue wait as those do that were woken.
#[test]
#[ignore = "live: cargo xtask test"]
fn victims_that_are_new_agree_with_the_truth() {
    for runtime in ["current_thread", "multi_thread"] {
        compare(runtime, &["--scenario", "newcomers"], "8s");
    }
}

/// One of std's mutexes, between threads and tasks.
#[test]
#[ignore = "live: cargo xtask test"]
fn std_mutex_agrees_with_the_truth() {
    compare_closely("multi_thread", "std-mutex");
}

/// One of std's reader-writer locks, between threads and tasks.
#[test]
#[ignore = "live: cargo xtask test"]
fn std_rwlock_agrees_with_the_truth() {
    compare_closely("multi_thread", "std-rwlock");
}

/// Tasks that wait for tokio's mutexes, and go on on other threads.
#[test]
#[ignore = "live: cargo xtask test"]
fn tokio_mutex_agrees_with_the_truth() {
    compare_closely("multi_thread", "tokio-mutex");
}

/// Tasks that wait for tokio's reader-writer locks.
#[test]
#[ignore = "live: cargo xtask test"]
fn tokio_rwlock_agrees_with_the_truth() {
    compare_closely("multi_thread", "tokio-rwlock");
}

/// Tasks that wait for permits, of which several have one at the same time.
#[test]
#[ignore = "live: cargo xtask test"]
fn tokio_semaphore_agrees_with_the_truth() {
    compare_closely("multi_thread", "tokio-semaphore");
}

/// A lock of tokio's that is held across an await is told from one that is not.
#[test]
#[ignore = "live: cargo xtask test"]
fn tokio_across_an_await_agrees_with_the_truth() {
    for runtime in ["multi_thread", "current_thread"] {
        compare_closely(runtime, "tokio-across-await");
    }
}

/// parking_lot's locks that are held across an await are told from one that is not.
#[test]
#[ignore = "live: cargo xtask test"]
fn parking_lot_across_an_await_agrees_with_the_truth() {
    for runtime in ["multi_thread", "current_thread"] {
        compare_closely(runtime, "parking-lot-across-await");
    }
}

/// std's locks that are held across an await are told from one that is not.
#[test]
#[ignore = "live: cargo xtask test"]
fn std_across_an_await_agrees_with_the_truth() {
    for runtime in ["multi_thread", "current_thread"] {
        compare_closely(runtime, "std-across-await");
    }
}

/// Locks that nobody waits for are seen, and every hold exactly.
#[test]
#[ignore = "live: cargo xtask test"]
fn uncontended_locks_agree_with_the_truth() {
    compare_uncontended("CONTENTION", "mutex,rwlock,std-mutex,std-rwlock");
    compare_uncontended("CONTENTION", "parking-lot-across-await,std-across-await");
}

/// The same where the compiler has inlined all that it could, and the debug information is in another file.
#[test]
#[ignore = "live: cargo xtask test"]
fn uncontended_locks_of_a_shipped_program() {
    compare_uncontended(
        "CONTENTION_SHIPPED",
        "mutex,std-mutex,parking-lot-across-await",
    );
}

/// Tokio's locks where everything is inlined that can be.
#[test]
#[ignore = "live: cargo xtask test"]
fn tokio_locks_of_a_shipped_program() {
    let args = ["--scenario", "tokio-mutex,tokio-rwlock"];
    let more = ["--threshold", "100us"];
    compare_recording(&program("CONTENTION_SHIPPED"), &args, "8s", &more);
}
