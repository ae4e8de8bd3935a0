//! holdup and console-subscriber, which is compiled into the workload, watch the same tasks and agree.
//!
//! ```text
//! console-subscriber, its reader  ├────────────────────────────────┤
//! holdup                             ├──────────────────────────┤
//! the workload's tasks                  ├───────────────────┤
//! ```

use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::holdup::{self, Recorded, Running};
use crate::workload::{Workload, program, signal};

/// For how long tasks are spawned and polled: some thousand polls.
const WORK: Duration = Duration::from_secs(8);

/// What the two say differs by no more than 2 %.
#[track_caller]
fn compare(args: &[&str]) {
    let folder = holdup::folder();
    let [socket, seen] = ["socket", "console.jsonl"].map(|name| folder.path().join(name));
    let mut command = Command::new(program("CONTENTION_CONSOLE"));
    command
        .args(["--seconds", "120", "--by-signal", "--console"])
        .arg(&socket)
        .args(args);
    let workload = Workload::spawn(&mut command);
    workload.wait_for("waiting");
    let reader = Workload::spawn(Command::new(program("CONSOLE_READER")).args([&socket, &seen]));
    reader.wait_for("reading");
    let dir = holdup::folder();
    let record = holdup::record_args(workload.pid, "100s", dir.path());
    let mut recording = Running::start(&mut holdup::command(record));
    recording.wait_until_attached();

    signal(workload.pid, Signal::USR1);
    thread::sleep(WORK);
    signal(workload.pid, Signal::USR1);
    workload.wait_for("finished");

    signal(recording.pid(), Signal::INT);
    let recorded = Recorded::read(recording.wait().expect_code(0), dir);
    reader.stop();
    workload.stop();
    let output = Command::new(program("XTASK"))
        .arg("compare-console")
        .args([&seen, recorded.dir()])
        .output()
        .expect("xtask can be started");
    println!(
        "{args:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "{args:?}: holdup and console-subscriber differ"
    );
}

/// All that the workload does by itself, but for `block-in-place` and `nested`, which call `block_in_place`: what follows in
/// that poll blocks nobody and is no part of it for holdup, while console-subscriber goes on counting, and keeps the task
/// open for as long as the worker runs that took over.
#[test]
#[ignore = "live: cargo xtask test"]
fn multi_thread_agrees_with_console_subscriber() {
    let scenarios = "mutex,rwlock,upgrade,timed,std-mutex,std-rwlock,tokio-mutex,tokio-rwlock,tokio-semaphore,\
                     condvar,crypto,sleep,mixed,short,spawn-blocking";
    compare(&["--runtime", "multi_thread", "--scenario", scenarios]);
}

/// All of it, with runtimes inside of jobs of the blocking pool.
#[test]
#[ignore = "live: cargo xtask test"]
fn current_thread_agrees_with_console_subscriber() {
    compare(&["--runtime", "current_thread"]);
}

/// The same as tasks of a `LocalSet`.
#[test]
#[ignore = "live: cargo xtask test"]
fn local_set_agrees_with_console_subscriber() {
    compare(&["--runtime", "local_set"]);
}
