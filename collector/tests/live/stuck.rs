//! Threads that wait for each other for ever are told of while they wait, also when they have since before holdup
//! attached: which threads, which locks, where, since when, and the circle where the locks leave a pointer.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::Value;

use crate::holdup::{self, Recorded, Running, command, record_args};
use crate::workload::{Workload, signal};

const STUCK_AFTER: &[&str] = &["--stuck-after", "2s"];

/// What a thread of the workload said before it got stuck.
#[derive(Debug, PartialEq, Eq)]
struct Truth {
    tid: u64,
    has: String,
    wants: String,
    /// `CLOCK_MONOTONIC`.
    since_ns: u64,
}

/// By the thread's name.
fn truth(lines: &[String]) -> BTreeMap<String, Truth> {
    let stuck = lines.iter().filter_map(|line| line.strip_prefix("stuck "));
    stuck
        .map(|line| {
            let fields: BTreeMap<&str, &str> = line
                .split(' ')
                .filter_map(|field| field.split_once('='))
                .collect();
            let number = |name: &str| fields[name].parse().expect("a number");
            let truth = Truth {
                tid: number("tid"),
                has: fields["has"].to_owned(),
                wants: fields["wants"].to_owned(),
                since_ns: number("since_ns"),
            };
            (fields["thread"].to_owned(), truth)
        })
        .collect()
}

/// A recording of a workload in which two threads get stuck.
struct Hang {
    recorded: Recorded,
    truth: BTreeMap<String, Truth>,
}

impl Hang {
    /// They are stuck when holdup attaches.
    fn before_attaching(scenario: &str) -> Hang {
        let workload = Workload::start(["--scenario", scenario]);
        workload.wait_for("stuck thread=deadlock-ab");
        workload.wait_for("stuck thread=deadlock-ba");
        std::thread::sleep(std::time::Duration::from_secs(3));
        Hang::record(workload, "3s")
    }

    /// They get stuck while holdup records.
    fn after_attaching(scenario: &str) -> Hang {
        let workload = Workload::start(["--scenario", scenario, "--deadlock-after", "5"]);
        Hang::record(workload, "9s")
    }

    fn record(workload: Workload, duration: &str) -> Hang {
        let recorded = holdup::record_with(workload.pid, duration, STUCK_AFTER);
        println!("{}\n{}", recorded.run.stdout, recorded.run.stderr);
        // It ends although two of its threads never do.
        let truth = truth(&workload.stop());
        assert_eq!(truth.len(), 2, "{truth:?}");
        Hang { recorded, truth }
    }

    /// The entries of the two threads, each with its truth.
    #[track_caller]
    fn entries(&self) -> Vec<(&Value, &Truth)> {
        let stuck = self.recorded.report.stuck();
        assert_eq!(stuck.len(), 2, "{stuck:#?}");
        let mut entries = Vec::new();
        for (name, truth) in &self.truth {
            let entry = stuck.iter().find(|entry| entry["thread"] == **name);
            entries.push((entry.expect("it is there"), truth));
        }
        entries
    }

    /// All that is the same for every kind of lock.
    #[track_caller]
    fn expect_threads_locks_and_stacks(&self, operation: &str, function: &str) {
        let report = &self.recorded.report;
        for (entry, truth) in self.entries() {
            assert_eq!(entry["tid"], truth.tid, "{entry:#}");
            assert_eq!(entry["lock"], truth.wants, "{entry:#}");
            assert_eq!(entry["operation"], operation, "{entry:#}");
            assert_eq!(entry["has_ended"], false, "{entry:#}");
            let site = &entry["call_site"]["frame"];
            let label = site["label"].as_str().expect("a name");
            assert!(label.contains(function), "{site:#}");
            let at = site["at"].as_str().expect("file and line");
            assert!(at.contains("deadlock.rs:"), "{site:#}");

            // Found once it had waited for the two seconds, at a look a second.
            let seen_ns = report.started_ns() + entry["last_seen_ns"].as_u64().expect("a number");
            let really_ns = seen_ns - truth.since_ns;
            let waited_ns = entry["waited_ns"].as_u64().expect("a number");
            assert_eq!(entry["certainty"], "estimate", "{entry:#}");
            let off_ms = waited_ns.abs_diff(really_ns) / 1_000_000;
            println!("waited {waited_ns} ns, really {really_ns} ns, off by {off_ms} ms");
            assert!(off_ms < 100, "off by {off_ms} ms: {entry:#}");

            // The whole stack, down to the thread's start.
            assert!(report.is_whole(&entry["stack"]), "{entry:#}");
            let names = report.functions(&entry["stack"]);
            let has = |part: &str| names.iter().any(|name| name.contains(part));
            assert!(has(function) && has("start_one"), "{names:#?}");
            assert!(
                names
                    .last()
                    .is_some_and(|name| name.contains("clone") || name.contains("thread")),
                "{names:#?}"
            );
        }
    }

    /// Each has what the other wants, as far as can be told.
    #[track_caller]
    fn expect_circle(&self) {
        let entries = self.entries();
        for (entry, _) in &entries {
            let holders = entry["holders"].as_array().expect("a list");
            let [holder] = &holders[..] else {
                panic!("{entry:#}");
            };
            let (_, other) = entries
                .iter()
                .find(|(other, _)| other["tid"] == holder["tid"])
                .expect("it is one of the two");
            assert_eq!(other.has, entry["lock"].as_str().expect("an address"));
            assert_eq!(holder["evidence"], "address_on_stack");
            assert_eq!(entry["circle"], 0, "{entry:#}");
        }
        let first = &self.recorded.report.findings()[0];
        assert_eq!(first["check"], "deadlock");
        let sentence = first["sentence"].as_str().expect("a sentence");
        assert!(sentence.starts_with("Likely a deadlock: "), "{sentence}");
        self.expect_said(&["Likely a deadlock: "]);
    }

    /// On stderr, before the recording was over.
    #[track_caller]
    fn expect_said(&self, more: &[&str]) {
        let during = self
            .recorded
            .run
            .stderr
            .split("detached in")
            .next()
            .unwrap_or_default();
        let locks = self.truth.values().map(|truth| truth.wants.as_str());
        let threads = self.truth.keys().map(String::as_str);
        for words in locks.chain(threads).chain(more.iter().copied()) {
            assert!(during.contains(words), "{words:?} was not said: {during}");
        }
    }
}

/// parking_lot's mutexes, of a hang that nothing but the stacks tells of.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_deadlock_from_before_holdup_attached() {
    let hang = Hang::before_attaching("deadlock");
    hang.expect_threads_locks_and_stacks("mutex", "mutexes::transfer");
    hang.expect_circle();
    for (entry, _) in hang.entries() {
        assert_eq!(entry["protects"], "u64", "{entry:#}");
    }
}

/// The same while return probes are on the slow paths, whose return addresses they replace.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_deadlock_while_holdup_records() {
    let hang = Hang::after_attaching("deadlock");
    hang.expect_threads_locks_and_stacks("mutex", "mutexes::transfer");
    hang.expect_circle();
    // What the deadlock says is not said again of each of its locks.
    assert_eq!(hang.recorded.report.findings().len(), 1);
}

/// std's mutexes, which have no probes.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_deadlock_of_stds_mutexes() {
    for hang in [
        Hang::before_attaching("std-deadlock"),
        Hang::after_attaching("std-deadlock"),
    ] {
        hang.expect_threads_locks_and_stacks("std_mutex", "std_mutexes::transfer");
        hang.expect_circle();
    }
}

/// Writers that wait for readers, and readers that wait for writers.
#[test]
#[ignore = "live: cargo xtask test"]
fn deadlocks_of_reader_writer_locks() {
    let hang = Hang::before_attaching("rw-deadlock");
    hang.expect_threads_locks_and_stacks("rw_exclusive", "rwlocks::transfer");
    hang.expect_circle();
    let hang = Hang::before_attaching("std-rw-deadlock");
    hang.expect_threads_locks_and_stacks("std_read", "std_rwlocks::transfer");
    hang.expect_circle();
}

/// Locks in statics leave no pointer: both threads and both locks are named, and nothing is guessed.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_deadlock_of_statics() {
    let hang = Hang::before_attaching("static-deadlock");
    hang.expect_threads_locks_and_stacks("mutex", "statics::");
    for (entry, _) in hang.entries() {
        assert_eq!(entry["holders"], Value::Array(Vec::new()), "{entry:#}");
        assert_eq!(entry.get("circle"), None, "{entry:#}");
    }
    let first = &hang.recorded.report.findings()[0];
    assert_eq!(first["check"], "stuck_threads");
    let words = "They are a deadlock if each has what the other wants.";
    let sentence = first["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains(words), "{sentence}");
    hang.expect_said(&[words]);
}

/// Who is stuck stays so when others get stuck later, and is not told of again.
#[test]
#[ignore = "live: cargo xtask test"]
fn one_deadlock_after_another() {
    let both = "deadlock,std-deadlock";
    let workload = Workload::start(["--scenario", both, "--deadlock-after", "4"]);
    let recorded = holdup::record_with(workload.pid, "12s", STUCK_AFTER);
    workload.stop();
    let stuck = recorded.report.stuck();
    assert_eq!(stuck.len(), 4, "{stuck:#?}");
    for entry in stuck {
        assert_eq!(entry["has_ended"], false, "{entry:#}");
        assert!(entry["circle"].is_number(), "{entry:#}");
    }
    let findings = recorded.report.findings().iter();
    let checks: Vec<&Value> = findings.map(|finding| &finding["check"]).collect();
    assert_eq!(checks, ["deadlock", "deadlock"]);
    let said = recorded.run.stderr.matches("Likely a deadlock: ").count();
    assert_eq!(said, 2, "{}", recorded.run.stderr);
}

/// It is said while they wait. Who then interrupts holdup, or kills the program that hangs, has the report all the
/// same, and nobody is said to have gone on.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_deadlock_is_said_at_once() {
    for kills_target in [false, true] {
        let workload = Workload::start(["--scenario", "deadlock"]);
        let dir = holdup::folder();
        let args = record_args(workload.pid, "60s", dir.path());
        let mut running = Running::start(command(args).args(STUCK_AFTER));
        running.wait_until_said("Likely a deadlock: ");
        running.wait_until_said("deadlock-ba");
        if kills_target {
            signal(workload.pid, Signal::KILL);
        } else {
            signal(running.pid(), Signal::INT);
        }
        let recorded = Recorded::read(running.wait().expect_code(0), dir);
        let first = &recorded.report.findings()[0];
        assert_eq!(first["check"], "deadlock");
        for entry in recorded.report.stuck() {
            assert_eq!(entry["has_ended"], false, "{entry:#}");
        }
    }
}

/// Threads that wait for each other's locks and get them, and workers and threads that idle for all of the recording.
#[test]
#[ignore = "live: cargo xtask test"]
fn nobody_is_stuck_who_goes_on() {
    for scenario in ["mutex", "condvar", "rwlock"] {
        let workload = Workload::start(["--scenario", scenario]);
        let recorded = holdup::record_with(workload.pid, "6s", STUCK_AFTER);
        workload.stop();
        let stuck = recorded.report.stuck();
        assert!(stuck.is_empty(), "{scenario}: {stuck:#?}");
        for word in ["Stuck", "eadlock"] {
            let said = recorded.run.said();
            assert!(!said.contains(word), "{scenario}: {said}");
        }
        assert_eq!(recorded.report.attached("stuck_threads"), 1);
    }
}
