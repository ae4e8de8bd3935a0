//! Which process is meant, and whether it can be looked at: found out before anything is attached, and
//! said with an exit code of its own.

use std::process::Command;

use crate::exit_code;
use crate::holdup::{self, OUTPUTS, command, command_as_nobody, run};
use crate::workload::{Workload, contention};

fn record_named(flag: &str, value: &str, dir: &str) -> std::process::Command {
    command(["record", flag, value, "-d", "1s", "-o", dir])
}

/// Contradictory arguments are not guessed at.
#[test]
#[ignore = "live: cargo xtask test"]
fn bad_usage() {
    run(&mut command(["record", "-d", "1s"])).expect_code(exit_code::USAGE);
    run(&mut command(["record", "--pid", "1", "-d", "soon"])).expect_code(exit_code::USAGE);
    run(&mut command(["record", "--pid", "1", "--name", "init"])).expect_code(exit_code::USAGE);
}

/// No pid is that high, no process has that name, none runs that file.
#[test]
#[ignore = "live: cargo xtask test"]
fn no_such_process() {
    let dir = holdup::folder();
    let out = dir.path().to_str().expect("UTF-8");
    let absent = [
        ("--pid", "2147483600"),
        ("--name", "no-such-name"),
        ("--exe", "/no/such/program"),
    ];
    for (flag, value) in absent {
        run(&mut record_named(flag, value, out))
            .expect_code(exit_code::NO_SUCH_PROCESS)
            .expect_error(&[value]);
    }
    for output in OUTPUTS {
        assert!(
            !dir.path().join(output).exists(),
            "{output} was written about no process"
        );
    }
}

/// Of several processes each is listed, so that the next call can name one.
#[test]
#[ignore = "live: cargo xtask test"]
fn several_processes_of_one_name() {
    let (one, other) = (Workload::start(["--quiet"]), Workload::start(["--quiet"]));
    let dir = holdup::folder();
    let out = dir.path().to_str().expect("UTF-8");
    let pids = [one.pid.to_string(), other.pid.to_string()];
    run(&mut record_named("--name", "contention", out))
        .expect_code(exit_code::SEVERAL_PROCESSES)
        .expect_error(&[&pids[0], &pids[1], "--pid"]);
}

/// A process can be named, or its program.
#[test]
#[ignore = "live: cargo xtask test"]
fn found_by_name_and_by_program() {
    let workload = Workload::start(["--quiet"]);
    let dir = holdup::folder();
    let out = dir.path().to_str().expect("UTF-8");
    run(&mut record_named("--name", "contention", out)).expect_code(0);
    let program = contention([""; 0]).get_program().to_owned();
    run(&mut record_named(
        "--exe",
        program.to_str().expect("UTF-8"),
        out,
    ))
    .expect_code(0);
    workload.stop();
}

/// The missing right is named, not just "permission denied".
#[test]
#[ignore = "live: cargo xtask test"]
fn no_permission() {
    let workload = Workload::start(["--quiet"]);
    let dir = holdup::folder();
    run(&mut command_as_nobody(
        dir.path(),
        holdup::record_args(workload.pid, "1s", dir.path()),
    ))
    .expect_code(exit_code::NO_PERMISSION)
    .expect_error(&["CAP_", "root"]);
}

/// A program without Tokio and without parking_lot has nothing that holdup knows.
#[test]
#[ignore = "live: cargo xtask test"]
fn not_a_tokio_process() {
    let sleep = Workload::spawn(Command::new("sleep").arg("60"));
    let dir = holdup::folder();
    run(&mut command(holdup::record_args(
        sleep.pid,
        "1s",
        dir.path(),
    )))
    .expect_code(exit_code::NOTHING_TO_PROBE)
    .expect_error(&["tokio", "parking_lot"]);
}
