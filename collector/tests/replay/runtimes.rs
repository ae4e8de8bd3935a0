//! Which worker of which runtime a thread is: in the report, and as a person reads it.

use holdup::capture::{ProbeFamily, RuntimeThread};
use holdup::event::{Tid, Timestamp};
use holdup::render;
use holdup::report::{Report, RuntimeFlavor, WorkerRole};
use holdup_probe_ebpf::wire;

use crate::{recording, reported};

/// Three threads that polled, and what was seen of them: thread, runtime, worker.
fn report_of(
    seen: &[(u32, u64, Option<u32>)],
    change: impl FnOnce(&mut Vec<RuntimeThread>),
) -> Report {
    let seen = seen.iter().map(|(tid, runtime, worker)| RuntimeThread {
        tid: Tid(*tid),
        runtime: *runtime,
        worker: *worker,
        last_seen: Timestamp(2),
        has_changed: false,
    });
    let mut seen: Vec<RuntimeThread> = seen.collect();
    change(&mut seen);
    let bytes = recording::with_workers([201, 202, 203], |rest| {
        rest.runtime_threads = seen;
        rest.counters[wire::COUNTER_HANDOFFS as usize] = 0;
        rest.probes.push(ProbeFamily {
            name: ProbeFamily::WORKER_INDEX.to_owned(),
            attached: 1,
            found: 1,
            missing: Vec::new(),
        });
    });
    reported(&bytes).expect("a capture").1
}

/// How the table of threads names them.
fn named(report: &Report) -> Vec<String> {
    let text = render::terminal(report, false);
    let rows = text
        .lines()
        .filter(|line| line.contains("tokio-rt-worker ("));
    rows.map(|row| row.rsplit("  -  ").next().unwrap_or(row).to_owned())
        .collect()
}

fn notes(report: &Report) -> String {
    report.coverage.notes.join("\n")
}

/// One runtime is a matter of course.
#[test]
fn workers_of_one_runtime() {
    let seen = [
        (201, 0x1000, Some(1)),
        (202, 0x1000, Some(0)),
        (203, 0x1000, Some(2)),
    ];
    let report = report_of(&seen, |_| {});
    assert_eq!(
        named(&report),
        [
            "worker 1  tokio-rt-worker (201)",
            "worker 0  tokio-rt-worker (202)",
            "worker 2  tokio-rt-worker (203)"
        ]
    );
    let json: serde_json::Value = serde_json::from_slice(&render::json(&report)).expect("JSON");
    let worker = &json["workers"][0];
    assert_eq!(worker["runtime"], 1);
    assert_eq!(worker["flavor"], "multi_thread");
    assert_eq!(worker["worker_index"], 1);
    assert_eq!(worker["role"], "worker");
    assert_eq!(worker.get("has_changed"), None);
    let poll = &json["long_polls"][0];
    assert_eq!(
        (&poll["tid"], &poll["worker_index"]),
        (&201.into(), &1.into())
    );
    assert!(!notes(&report).contains("worker"), "{}", notes(&report));
    let read: Report = serde_json::from_value(json).expect("a report");
    assert_eq!(read.workers, report.workers);
    assert_eq!(read.long_polls, report.long_polls);
}

/// Several are numbered by their threads; a current-thread runtime has no workers.
#[test]
fn workers_of_several_runtimes() {
    let seen = [
        (201, 0x9000, Some(0)),
        (202, 0x1000, Some(0)),
        (203, 0x5000, None),
    ];
    let report = report_of(&seen, |_| {});
    assert_eq!(
        named(&report),
        [
            "runtime 1 worker 0  tokio-rt-worker (201)",
            "runtime 2 worker 0  tokio-rt-worker (202)",
            "runtime 3  tokio-rt-worker (203)"
        ]
    );
    let alone = &report.workers[2];
    assert_eq!(alone.role, WorkerRole::Scheduler);
    let flavor = alone.runtime.map(|runtime| runtime.flavor);
    assert_eq!(flavor, Some(RuntimeFlavor::CurrentThread));
}

/// Long polls of a thread that was another worker before have none; a thread that was not seen is none. Both are said.
#[test]
fn workers_that_are_not_known() {
    let seen = [(201, 0x1000, Some(0)), (202, 0x1000, Some(1))];
    let report = report_of(&seen, |seen| seen[0].has_changed = true);
    assert_eq!(
        named(&report),
        [
            "last worker 0  tokio-rt-worker (201)",
            "worker 1  tokio-rt-worker (202)",
            "tokio-rt-worker (203)"
        ]
    );
    assert_eq!(report.long_polls[0].runtime, None);
    let notes = notes(&report);
    for wanted in [
        "Of 1 of 3 threads that polled it is not known",
        "1 of 3 threads that polled were different workers",
    ] {
        assert!(notes.contains(wanted), "{notes}");
    }
}
