//! Recordings that do not end as planned: what there is, is written, and the target is left as it was.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::exit_code;
use crate::holdup::{self, OUTPUTS, Recorded, Running, command, record_args, run};
use crate::kernel::Loaded;
use crate::workload::{Workload, signal};

/// Records a target for far longer than it lives.
#[track_caller]
fn record_to_the_end_of(workload: &Workload) -> Recorded {
    let dir = holdup::folder();
    let run = run(&mut command(record_args(workload.pid, "60s", dir.path()))).expect_code(0);
    assert!(
        run.took < Duration::from_secs(20),
        "it went on for {:?} after the target's end",
        run.took
    );
    Recorded::read(run, dir)
}

/// The target ends: so does the recording, with what there is.
#[test]
#[ignore = "live: cargo xtask test"]
fn the_target_exits() {
    let before = Loaded::now();
    let workload = Workload::start(["--exit-after", "3"]);
    let recorded = record_to_the_end_of(&workload);
    assert_eq!(recorded.report.end_reason(), "target_exited");
    assert!(
        recorded.run.said().contains("exit"),
        "{}",
        recorded.run.said()
    );
    assert!(!recorded.report.long_polls().is_empty());
    // Its files are gone with it, and were read in time.
    assert!(recorded.svg("blocking.svg").contains("handshake.rs:"));
    before.expect_nothing_new();
}

/// The target becomes another program: what was seen until then is reported, and nothing after it.
#[test]
#[ignore = "live: cargo xtask test"]
fn the_target_execs() {
    let workload = Workload::start(["--exec-after", "3"]);
    let recorded = record_to_the_end_of(&workload);
    assert_eq!(recorded.report.end_reason(), "target_execed");
    assert!(
        recorded.run.said().contains("exec"),
        "{}",
        recorded.run.said()
    );
    assert!(!recorded.report.long_polls().is_empty());
    workload.wait_for("exec");
}

/// Ctrl-C ends the recording early, and everything is written.
#[test]
#[ignore = "live: cargo xtask test"]
fn ctrl_c_writes_everything() {
    let before = Loaded::now();
    for reason in [Signal::INT, Signal::TERM] {
        let mut workload = Workload::start(["--scenario", "crypto,mutex"]);
        let dir = holdup::folder();
        let mut running =
            Running::start(&mut command(record_args(workload.pid, "60s", dir.path())));
        running.wait_until_attached();
        thread::sleep(Duration::from_secs(2));
        signal(running.pid(), reason);
        let recorded = Recorded::read(running.wait().expect_code(0), dir);
        assert_eq!(recorded.report.end_reason(), "interrupted");
        assert!(!recorded.report.findings().is_empty());
        assert!(workload.is_running());
        workload.stop();
    }
    before.expect_nothing_new();
}

/// The worst end: nothing of holdup's runs any more. The kernel removes the probes, the target does not
/// notice, and what was captured can still be reported.
#[test]
#[ignore = "live: cargo xtask test"]
fn kill_9_leaves_no_probe() {
    let before = Loaded::now();
    let mut workload = Workload::start(["--scenario", "crypto,mutex"]);
    let dir = holdup::folder();
    let mut running = Running::start(&mut command(record_args(workload.pid, "60s", dir.path())));
    running.wait_until_attached();
    assert_ne!(
        before,
        Loaded::now(),
        "nothing was attached: this test would prove nothing"
    );
    thread::sleep(Duration::from_secs(3));
    signal(running.pid(), Signal::KILL);
    assert_eq!(running.wait().code, None);
    before.expect_nothing_new();
    thread::sleep(Duration::from_secs(1));
    assert!(workload.is_running(), "the target died with holdup");
    workload.stop();

    let capture = dir.path().join("capture.holdup");
    let again = holdup::folder();
    let run = run(&mut command([
        "report".as_ref(),
        capture.as_os_str(),
        "-o".as_ref(),
        again.path().as_os_str(),
    ]))
    .expect_code(exit_code::CAPTURE_TRUNCATED);
    assert!(run.said().contains("ends in the middle"), "{}", run.said());
    for output in OUTPUTS.iter().filter(|output| **output != "capture.holdup") {
        assert!(again.path().join(output).exists(), "{output} is missing");
    }
}

/// More events than the ring buffer takes, because holdup is kept from reading it: they are counted and the
/// counts are printed, the recording goes on, and the target does not wait for anybody.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_ring_buffer_that_overflows() {
    let mut workload = Workload::start([""; 0]);
    let dir = holdup::folder();
    let mut command = command(record_args(workload.pid, "5s", dir.path()));
    // The least that the kernel allows, and every poll of 0.1 ms is an event.
    command.args(["--ring-buffer-bytes", "4096", "--threshold", "100us"]);
    let mut running = Running::start(&mut command);
    running.wait_until_attached();
    signal(running.pid(), Signal::STOP);
    thread::sleep(Duration::from_secs(2));
    signal(running.pid(), Signal::CONT);
    let recorded = Recorded::read(running.wait().expect_code(0), dir);
    assert!(workload.is_running());
    workload.stop();
    let report = &recorded.report;
    assert!(
        report.counter("lost_long_polls") > 0,
        "nothing was lost: {}",
        report.coverage()
    );
    assert!(
        !report.long_polls().is_empty(),
        "all was lost: {}",
        report.coverage()
    );
    assert!(
        recorded.run.stdout.contains("lost"),
        "{}",
        recorded.run.stdout
    );
}

/// Found out before the recording, not after it.
#[test]
#[ignore = "live: cargo xtask test"]
fn an_output_folder_that_cannot_be_written() {
    let workload = Workload::start(["--quiet"]);
    let dir = holdup::folder();
    let file = dir.path().join("a-file");
    fs::write(&file, "no folder").expect("the folder is ours");
    for place in [file.join("out"), file.clone(), "/proc/holdup".into()] {
        let run = run(&mut command(record_args(workload.pid, "20s", &place)))
            .expect_code(exit_code::OUTPUT_NOT_WRITABLE)
            .expect_error(&[place.to_str().expect("UTF-8")]);
        assert!(
            run.took < Duration::from_secs(5),
            "it was found out after {:?}",
            run.took
        );
    }
}
