//! What is wrong is found and named, and nothing is found where nothing is wrong.

use crate::holdup;
use crate::workload::Workload;

fn record_scenario(args: &[&str], duration: &str) -> holdup::Recorded {
    let workload = Workload::start(args);
    let recorded = holdup::record(workload.pid, duration);
    workload.stop();
    println!("{}", recorded.run.stdout);
    recorded
}

/// A busy machine can keep a poll from running for milliseconds, which is long and nobody's fault.
#[track_caller]
fn expect_nothing_found(recorded: &holdup::Recorded) {
    let report = &recorded.report;
    assert!(report.findings().is_empty(), "{:?}", report.sentences());
    for poll in report.long_polls() {
        let [waited_for_cpu, duration] = [&poll["anatomy"]["run_queue_ns"], &poll["duration_ns"]]
            .map(|ns| ns.as_u64().expect("a number"));
        assert!(waited_for_cpu * 2 > duration, "{poll}");
    }
}

/// Fails unless this check made a finding that says all of these.
#[track_caller]
fn expect_finding(recorded: &holdup::Recorded, check: &str, words: &[&str]) {
    let found = recorded.report.findings().iter().any(|finding| {
        let sentence = finding["sentence"].as_str().unwrap_or_default();
        finding["check"] == check && words.iter().all(|word| sentence.contains(word))
    });
    let sentences = recorded.report.sentences();
    assert!(
        found,
        "no finding of {check} says {words:?}, but: {sentences:#?}"
    );
}

/// Short polls, and locks that nobody waits for.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_quiet_program_has_no_finding() {
    for runtime in ["multi_thread", "current_thread", "local_set"] {
        expect_nothing_found(&record_scenario(&["--quiet", "--runtime", runtime], "4s"));
    }
}

/// A blocking-pool task passes through the same poll function as any other, and may take its time.
#[test]
#[ignore = "live: cargo xtask test"]
fn spawn_blocking_is_no_finding() {
    for runtime in ["multi_thread", "current_thread"] {
        expect_nothing_found(&record_scenario(
            &["--scenario", "spawn-blocking", "--runtime", runtime],
            "4s",
        ));
    }
}

/// What `block_in_place` runs blocks nobody: the workload sleeps in there and nowhere else, so no long poll
/// may have slept.
#[test]
#[ignore = "live: cargo xtask test"]
fn block_in_place_is_no_finding() {
    let recorded = record_scenario(&["--scenario", "block-in-place"], "6s");
    // The crypto in front of it is long enough to be found.
    assert!(!recorded.report.long_polls().is_empty());
    let slept_ns = recorded.report.anatomy_ns("sleep_ns");
    assert!(slept_ns < 1_000_000, "{slept_ns} ns of sleep");
    for sentence in recorded.report.sentences() {
        assert!(!sentence.contains("write_export"), "{sentence}");
    }
}

/// Crypto on a worker is named: the crypto function, and the user's line that called it.
#[test]
#[ignore = "live: cargo xtask test"]
fn crypto_is_named_with_its_call_site() {
    for runtime in ["multi_thread", "current_thread", "local_set"] {
        let recorded = record_scenario(&["--scenario", "crypto", "--runtime", runtime], "6s");
        expect_finding(
            &recorded,
            "crypto_on_worker",
            &["handshake.rs:", "called from"],
        );
        let svg = recorded.svg("blocking.svg");
        for name in ["handshake.rs:", "blake3", "argon2", "[on-CPU]"] {
            assert!(
                svg.contains(name),
                "{runtime}: {name} is not in blocking.svg"
            );
        }
    }
}

/// A lock wait in a poll is named: who waited, and who held the lock.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_lock_is_named_with_waiter_and_holder() {
    let recorded = record_scenario(&["--scenario", "mutex"], "8s");
    expect_finding(
        &recorded,
        "lock_wait_on_worker",
        &["accounts.rs:", "held by"],
    );
    let all = recorded
        .report
        .findings()
        .iter()
        .map(ToString::to_string)
        .collect::<String>();
    // The waiting task's function, and the thread's that sleeps with the lock in its hands.
    assert!(all.contains("book") && all.contains("audit"), "{all}");
    let svg = recorded.svg("lockwait.svg");
    assert!(
        svg.contains("accounts.rs:"),
        "lockwait.svg names no call site"
    );
}

/// Sleeping in a poll is named by the function that did it. What such a poll does not sleep, it waits for a CPU
/// after it woke.
#[test]
#[ignore = "live: cargo xtask test"]
fn sleep_is_named() {
    let recorded = record_scenario(&["--scenario", "sleep"], "6s");
    expect_finding(&recorded, "sleep_on_worker", &["scenarios.rs:"]);
    let [on_cpu, lock_wait, run_queue, sleep] =
        ["on_cpu_ns", "lock_wait_ns", "run_queue_ns", "sleep_ns"]
            .map(|part| recorded.report.anatomy_ns(part));
    let total = on_cpu + lock_wait + run_queue + sleep;
    assert!(
        (sleep + run_queue) * 10 > total * 9 && sleep * 2 > total,
        "{sleep} ns of {total} ns slept"
    );
    assert_eq!(lock_wait, 0);
    assert!(recorded.svg("blocking.svg").contains("wait_for_disk"));
}

/// Threads that wait for a condition are idle, not contended.
#[test]
#[ignore = "live: cargo xtask test"]
fn waiting_for_a_condition_is_no_finding() {
    expect_nothing_found(&record_scenario(&["--scenario", "condvar"], "5s"));
}

/// `doctor` says what could be seen, family by family, and attaches nothing.
#[test]
#[ignore = "live: cargo xtask test"]
fn doctor_counts_the_sites_of_each_family() {
    let workload = Workload::start(["--quiet"]);
    let pid = workload.pid.to_string();
    let run = holdup::run(&mut holdup::command(["doctor", "--pid", &pid])).expect_code(0);
    println!("{}", run.stdout);
    for family in ["polls", "mutex", "rwlock", "condvar", "cpu", "scheduler"] {
        assert!(
            run.stdout.contains(family),
            "{family} is missing in:\n{}",
            run.stdout
        );
    }
    holdup::run(&mut holdup::command(["doctor"])).expect_code(0);
}
