//! Debug information that is not in the binary: what is told about a stripped program, and that with the separate
//! file everything is as if it had never been stripped.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::{copy_of_contention, start, strip};
use crate::exit_code;
use crate::holdup::{self, Recorded, command, record_args, record_with, run};
use crate::workload::Workload;

fn objcopy(arguments: &[&str], files: &[&Path]) {
    let status = Command::new("objcopy")
        .args(arguments)
        .args(files)
        .status()
        .expect("objcopy is installed by the test command");
    assert!(status.success(), "objcopy {arguments:?}");
}

/// A copy of the contention workload in `dir`, stripped, and its debug file in `debug_dir`.
fn stripped_contention(dir: &Path, debug_dir: &Path) -> (PathBuf, PathBuf) {
    let app = copy_of_contention(dir);
    let debug = debug_dir.join("app.debug");
    objcopy(&["--only-keep-debug"], &[&app, &debug]);
    strip(&app, "--strip-all");
    (app, debug)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder's name is UTF-8")
}

fn build_id(path: &Path) -> String {
    let output = Command::new("readelf")
        .arg("-n")
        .arg(path)
        .output()
        .expect("readelf is installed by the test command");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = said.split("Build ID: ").nth(1).expect("it has a build-id");
    id.split_whitespace().next().expect("an id").to_owned()
}

/// Records a program that runs, and expects all that its debug information tells.
#[track_caller]
fn expect_everything(app: &Path, more: &[&str]) -> Recorded {
    let workload = start(app, &["--scenario", "crypto,mutex"]);
    let recorded = record_with(workload.pid, "4s", more);
    workload.stop();
    let svg = recorded.svg("blocking.svg");
    for wanted in ["derive_session_key", "handshake.rs:", "async "] {
        assert!(svg.contains(wanted), "{wanted} is missing");
    }
    let coverage = recorded.report.coverage();
    assert!(!coverage.contains("stripped"), "{coverage}");
    // The attach plan has read it, too: poll instances have their futures' names.
    let said = recorded.run.said();
    assert!(said.contains("Mutex<"), "no lock has its type: {said}");
    recorded
}

/// The debug link leads to the file beside the binary; compressed either way it is the same.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_debug_file_beside_the_binary() {
    for how in ["none", "zlib", "zstd"] {
        let dir = holdup::folder();
        let (app, debug) = stripped_contention(dir.path(), dir.path());
        objcopy(&[&format!("--compress-debug-sections={how}")], &[&debug]);
        let link = format!("--add-gnu-debuglink={}", text(&debug));
        objcopy(&[&link], &[&app]);
        expect_everything(&app, &[]);
    }
}

/// A folder that the person names; without it nothing can be probed, and one sentence says what to provide.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_debug_dir() {
    let (dir, debug_dir) = (holdup::folder(), holdup::folder());
    let (app, _) = stripped_contention(dir.path(), debug_dir.path());
    let id = build_id(&app);
    let workload = start(&app, &["--quiet"]);
    let failed = run(&mut command(record_args(workload.pid, "1s", dir.path())))
        .expect_code(exit_code::NOTHING_TO_PROBE)
        .expect_error(&["stripped", &id, "--debug-dir"]);
    assert_eq!(failed.stderr.matches("is stripped").count(), 1);
    drop(workload);
    expect_everything(&app, &["--debug-dir", text(debug_dir.path())]);
}

/// The debug file of another build is refused with both build-ids.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_debug_file_of_another_build() {
    let (dir, debug_dir) = (holdup::folder(), holdup::folder());
    let app = copy_of_contention(dir.path());
    strip(&app, "--strip-all");
    let other = debug_dir.path().join("app.debug");
    objcopy(&["--only-keep-debug"], &[Path::new(holdup::BINARY), &other]);
    let ids = [build_id(&app), build_id(&other)];
    let workload: Workload = start(&app, &["--quiet"]);
    let debug_dir = ["--debug-dir", text(debug_dir.path())];
    let words = [text(&other), &ids[0], &ids[1]];
    let record = record_args(workload.pid, "1s", dir.path());
    run(command(record).args(debug_dir))
        .expect_code(exit_code::NOTHING_TO_PROBE)
        .expect_error(&words);
    let pid = workload.pid.to_string();
    let doctor = run(command(["doctor", "--pid", &pid]).args(debug_dir));
    for word in words {
        assert!(doctor.said().contains(word), "{}", doctor.said());
    }
}
