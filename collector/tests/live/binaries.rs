//! Binaries as they are found in the field: stripped, without parking_lot, replaced on disk, in a container.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::holdup::{self, command, run};
use crate::workload::{Workload, program};
use crate::{accounting, exit_code};

pub fn copy_of_contention(dir: &Path) -> std::path::PathBuf {
    let copy = dir.join("app");
    fs::copy(program("CONTENTION"), &copy).expect("the workload can be copied");
    copy
}

pub fn strip(binary: &Path, how: &str) {
    let status = Command::new("strip")
        .arg(how)
        .arg(binary)
        .status()
        .expect("strip is installed by the test command");
    assert!(status.success());
}

pub fn start(binary: &Path, args: &[&str]) -> Workload {
    let workload = Workload::spawn(Command::new(binary).args(args));
    workload.wait_for("ready");
    workload
}

/// Without any symbol there is nothing to attach to; what to provide is said.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_stripped_binary() {
    let dir = holdup::folder();
    let app = copy_of_contention(dir.path());
    strip(&app, "--strip-all");
    let workload = start(&app, &["--quiet"]);
    run(&mut command(holdup::record_args(
        workload.pid,
        "1s",
        dir.path(),
    )))
    .expect_code(exit_code::NOTHING_TO_PROBE)
    .expect_error(&["stripped", "debug"]);
    // The person asks why.
    let doctor = run(&mut command(["doctor", "--pid", &workload.pid.to_string()]));
    assert!(
        doctor.said().to_lowercase().contains("stripped"),
        "{}",
        doctor.said()
    );
}

/// With its symbols and without debug info, everything is measured and functions are named; files and
/// lines are not, and the coverage says why.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_binary_without_debug_info() {
    let dir = holdup::folder();
    let app = copy_of_contention(dir.path());
    strip(&app, "--strip-debug");
    // Blocking-pool tasks are told by their return address now.
    let args = ["--scenario", "crypto,mutex,spawn-blocking,block-in-place"];
    let recorded = accounting::compare_program(&app, &args, "10s");
    assert!(
        recorded.report.coverage().contains("debug = 1"),
        "{}",
        recorded.report.coverage()
    );
    assert!(recorded.svg("blocking.svg").contains("derive_session_key"));
}

/// A Tokio program without parking_lot, which is this test itself: the missing families are named, the rest works.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_binary_without_parking_lot() {
    let stop = Arc::new(AtomicBool::new(false));
    let server = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(async {
                while !stop.load(Ordering::Relaxed) {
                    tokio::spawn(async { thread::sleep(Duration::from_millis(10)) })
                        .await
                        .expect("it does not panic");
                }
            });
        }
    });
    let recorded = holdup::record(std::process::id(), "2s");
    stop.store(true, Ordering::Relaxed);
    server.join().expect("it does not panic");
    assert!(
        recorded.report.coverage().contains("parking_lot"),
        "{}",
        recorded.report.coverage()
    );
    assert!(
        recorded.run.said().contains("parking_lot"),
        "{}",
        recorded.run.said()
    );
    assert!(
        recorded.report.long_polls().len() > 100,
        "{} long polls",
        recorded.report.long_polls().len()
    );
}

/// A deployment has replaced the file that the process runs: the running image is the one that counts.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_binary_replaced_on_disk() {
    let dir = holdup::folder();
    let app = copy_of_contention(dir.path());
    let workload = start(&app, &["--scenario", "crypto"]);
    let newer = dir.path().join("newer");
    fs::copy("/bin/sleep", &newer).expect("every system has sleep");
    fs::rename(&newer, &app).expect("the folder is ours");
    let recorded = holdup::record(workload.pid, "5s");
    workload.stop();
    let svg = recorded.svg("blocking.svg");
    assert!(
        svg.contains("derive_session_key") && svg.contains("handshake.rs:"),
        "the old file is not read any more"
    );
}

/// The process that a container's first process is, seen from outside.
fn child_of(pid: u32) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if let Some(child) = children
            .split_whitespace()
            .next()
            .and_then(|child| child.parse().ok())
        {
            return child;
        }
        assert!(Instant::now() < deadline, "{pid} has no child");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A target in mount and PID namespaces of its own, from a file that nobody outside can open by its path.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_target_in_a_container() {
    let dir = holdup::folder();
    let script = r#"mount -t tmpfs container "$1" && cp "$2" "$1/app" && exec "$1/app" --scenario crypto,mutex"#;
    let container = Workload::spawn(
        Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(dir.path())
            .arg(program("CONTENTION")),
    );
    container.wait_for("ready pid=1");
    assert!(
        !dir.path().join("app").exists(),
        "the file is visible outside of the container"
    );
    let recorded = holdup::record(child_of(container.pid), "5s");
    let svg = recorded.svg("blocking.svg");
    assert!(
        svg.contains("derive_session_key") && svg.contains("handshake.rs:"),
        "the container's file is not read"
    );
    assert!(recorded.report.lock_waits() > 0);
}
