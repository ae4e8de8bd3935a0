//! Which worker of which runtime a thread is, against what Tokio itself says in the same thread
//! (`tokio::runtime::worker_index`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::binaries::copy_of_contention;
use crate::holdup::{self, Recorded};
use crate::workload::{Workload, program};

/// A worker as Tokio knows it: the runtime's id, and its index.
type Worker = (String, u64);

/// What each thread was in its polls.
type Truth = BTreeMap<u64, BTreeSet<Worker>>;

fn read(file: &Path) -> Truth {
    let text = std::fs::read_to_string(file).expect("the workload wrote its truth");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("the truth is JSON lines"));
    let mut truth = Truth::new();
    for line in lines.filter(|line| line["kind"] == "worker") {
        let runtime = line["runtime"].as_str().expect("it is a word").to_owned();
        let number = |name: &str| line[name].as_u64().expect("it is a number");
        let worker = (runtime, number("index"));
        truth.entry(number("tid")).or_default().insert(worker);
    }
    truth
}

/// Records a program while it writes down the truth.
fn record(contention: &Path, args: &[&str]) -> (Recorded, Truth) {
    let folder = holdup::folder();
    let truth = folder.path().join("truth.jsonl");
    let mut command = Command::new(contention);
    let command = command.args(["--seconds", "120", "--truth"]).arg(&truth);
    let workload = Workload::spawn(command.args(args));
    workload.wait_for("ready");
    let recorded = holdup::record(workload.pid, "4s");
    // Who became a worker at the last moment polls at last.
    std::thread::sleep(std::time::Duration::from_secs(1));
    workload.stop();
    (recorded, read(&truth))
}

fn tid(entry: &Value) -> u64 {
    entry["tid"].as_u64().expect("it is a number")
}

/// Threads that holdup says the worker of, with Tokio's number of the runtime that holdup's stands for: each for one.
#[track_caller]
fn check(recorded: &Recorded, truth: &Truth) -> usize {
    let mut runtimes: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let told = recorded.report.workers().iter();
    let told = told.filter_map(|entry| Some((entry, entry.get("worker_index")?.as_u64()?)));
    let mut count = 0;
    for (entry, index) in told {
        let polled = &truth[&tid(entry)];
        let of_index = polled.iter().filter(|(_, it)| *it == index);
        let its: BTreeSet<&str> = of_index.map(|(runtime, _)| runtime.as_str()).collect();
        assert!(!its.is_empty(), "{entry} polled as {polled:?}");
        assert_eq!(entry["flavor"], "multi_thread", "{entry}");
        assert_eq!(entry["role"], "worker", "{entry}");
        let runtime = entry["runtime"].as_u64().expect("it is a number");
        runtimes.entry(runtime).or_default().extend(its);
        count += 1;
    }
    let different: BTreeSet<&BTreeSet<&str>> = runtimes.values().collect();
    assert_eq!(different.len(), runtimes.len(), "{runtimes:?}");
    assert!(runtimes.values().all(|it| it.len() == 1), "{runtimes:?}");
    count
}

/// Without hand-offs every thread is one worker, and so is each of its long polls.
#[track_caller]
fn all_are_told(build: &str, more: &[&str]) -> Recorded {
    let mut args = vec!["--scenario", "crypto,mutex,short"];
    args.extend(more);
    let (recorded, truth) = record(&program(build), &args);
    assert_eq!(check(&recorded, &truth), truth.len(), "{truth:?}");
    let polls = recorded.report.long_polls();
    assert!(polls.len() > 10, "{} long polls", polls.len());
    for poll in polls {
        let index = poll["worker_index"].as_u64();
        let index = index.unwrap_or_else(|| panic!("{} has none", tid(poll)));
        let polled = &truth[&tid(poll)];
        assert!(polled.iter().all(|(_, it)| *it == index), "{polled:?}");
    }
    recorded
}

/// However the program was compiled, and with its symbols in another file.
#[test]
#[ignore = "live: cargo xtask test"]
fn each_worker_has_its_index() {
    for build in ["CONTENTION", "CONTENTION_FAT_LTO", "CONTENTION_SHIPPED"] {
        let recorded = all_are_told(build, &[]);
        assert_eq!(recorded.report.attached("worker_index"), 1);
        let said = recorded.run.said();
        for index in 0..4 {
            let row = format!("  worker {index}  tokio-rt-worker (");
            assert!(said.contains(&row), "{build}: {said}");
        }
    }
}

/// Two runtimes have workers of the same numbers.
#[test]
#[ignore = "live: cargo xtask test"]
fn two_runtimes_are_told_apart() {
    for build in ["CONTENTION", "CONTENTION_SHIPPED"] {
        let recorded = all_are_told(build, &["--second-runtime"]);
        let said = recorded.run.said();
        for row in [
            "runtime 1 worker 3  tokio-rt-worker (",
            "runtime 2 worker 1  second-runtime (",
        ] {
            assert!(said.contains(row), "{build}: {row} is missing: {said}");
        }
    }
}

/// `block_in_place` hands workers over all the time, to threads that may run another runtime inside: what is told was true
/// of that thread, and of its long polls only what did not change.
#[test]
#[ignore = "live: cargo xtask test"]
fn workers_that_are_handed_over() {
    let args = ["--scenario", "block-in-place,nested,short,spawn-blocking"];
    let (recorded, truth) = record(&program("CONTENTION"), &args);
    let told = check(&recorded, &truth);
    assert!(told >= 4, "{told} workers of {truth:?}");
    // Between two looks a thread can have been any: no poll is told to be a certain worker's.
    let polls = recorded.report.long_polls();
    assert!(polls.len() > 10, "{} long polls", polls.len());
    for poll in polls {
        assert_eq!(poll.get("worker_index"), None, "{poll}");
    }
}

/// A current-thread runtime has no workers, and is told to be one.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_current_thread_runtime_has_no_workers() {
    let args = ["--runtime", "current_thread", "--scenario", "crypto,short"];
    let (recorded, _) = record(&program("CONTENTION"), &args);
    let mut polled = recorded.report.workers().iter();
    let main = polled.find(|worker| tid(worker) == recorded.report.pid());
    let main = main.expect("the main thread polls");
    assert_eq!(main["flavor"], "current_thread", "{main}");
    assert_eq!(main.get("worker_index"), None);
}

/// Without the symbol nothing is told, and why not is.
#[test]
#[ignore = "live: cargo xtask test"]
fn without_the_symbol_nothing_is_guessed() {
    let folder = holdup::folder();
    let app = copy_of_contention(folder.path());
    let status = Command::new("objcopy")
        .args(["--wildcard", "--strip-symbol=*tokio*context*CONTEXT*VAL*"])
        .arg(&app)
        .status()
        .expect("objcopy is installed by the test command");
    assert!(status.success());
    let (recorded, truth) = record(&app, &["--scenario", "crypto,short"]);
    assert!(truth.len() >= 2, "{truth:?}");
    assert_eq!(recorded.report.attached("worker_index"), 0);
    assert_eq!(check(&recorded, &truth), 0);
    let coverage = recorded.report.coverage();
    assert!(coverage.contains("thread-local `CONTEXT`"), "{coverage}");
}
