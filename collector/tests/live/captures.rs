//! A capture is enough: the report can be made again from it alone, by anybody, anywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::exit_code;
use crate::holdup::{self, BINARY, command_as_nobody, record, run};
use crate::workload::{Workload, program};

/// The same bytes come out, without root, without the process and without its binary.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_report_from_the_capture_is_the_same() {
    let place = holdup::folder();
    let app = place.path().join("app");
    fs::copy(program("CONTENTION"), &app).expect("the workload can be copied");
    let workload = Workload::spawn(Command::new(&app).args(["--scenario", "crypto,mutex,sleep"]));
    workload.wait_for("ready");
    let recorded = record(workload.pid, "5s");
    workload.stop();
    fs::remove_file(&app).expect("it is ours");

    let capture = place.path().join("last-night.holdup");
    fs::copy(recorded.output("capture.holdup"), &capture).expect("holdup wrote it");
    fs::set_permissions(&capture, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let again = place.path().join("again");
    let args = [
        "report".as_ref(),
        capture.as_os_str(),
        "-o".as_ref(),
        again.as_os_str(),
    ];
    let run = run(&mut command_as_nobody(place.path(), args)).expect_code(0);
    for output in ["report.json", "blocking.svg", "lockwait.svg"] {
        let (first, second) = (
            fs::read(recorded.output(output)),
            fs::read(again.join(output)),
        );
        assert!(
            first.expect("holdup wrote it") == second.expect("holdup wrote it again"),
            "{output} differs"
        );
    }
    // The terminal gets the first ten, wrapped, so only their beginning is looked for.
    for sentence in recorded.report.sentences().into_iter().take(10) {
        let beginning: String = sentence.chars().take(30).collect();
        assert!(
            run.stdout.contains(&beginning),
            "{beginning:?} is missing in:\n{}",
            run.stdout
        );
    }
}

/// A capture that was cut gives what is in front of the cut; what is none gives a sentence.
#[test]
#[ignore = "live: cargo xtask test"]
fn truncated_and_foreign_captures() {
    let workload = Workload::start(["--scenario", "crypto"]);
    let recorded = record(workload.pid, "4s");
    workload.stop();
    let whole = fs::read(recorded.output("capture.holdup")).expect("holdup wrote it");
    let place = holdup::folder();
    let report = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        fs::write(&path, bytes).expect("the folder is ours");
        let out = place.path().join(format!("{name}.out"));
        let args = [
            "report".as_ref(),
            path.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ];
        (run(holdup::command(args).env_remove("RUST_BACKTRACE")), out)
    };

    for share in [2, 3, 10] {
        let (run, out) = report("truncated", &whole[..whole.len() / share]);
        run.expect_code(exit_code::CAPTURE_TRUNCATED)
            .expect_error(&["ends in the middle"]);
        assert!(out.join("report.json").exists() && out.join("blocking.svg").exists());
    }
    let elf = fs::read(BINARY).expect("it is there");
    let foreign: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("text", b"these are no events\n"),
        ("program", &elf[..4096]),
        ("zeros", &[0; 4096]),
    ];
    for (name, bytes) in foreign {
        let (run, out) = report(name, bytes);
        run.expect_code(exit_code::CAPTURE_UNREADABLE)
            .expect_error(&[name]);
        assert!(
            !out.join("report.json").exists(),
            "a report was made of {name}"
        );
    }
}
