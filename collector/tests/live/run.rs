//! `holdup run`: a command, its descendants, and limits that they may not break.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::exit_code;
use crate::holdup::{self, OUTPUTS, Run, Running, command};
use crate::kernel::Loaded;
use crate::report::Report;
use crate::workload::{program, signal};

/// A run that has ended.
struct Ran {
    run: Run,
    dir: TempDir,
}

impl Ran {
    fn of<I: IntoIterator<Item: AsRef<OsStr>>>(options: &[&str], what: I) -> Ran {
        let dir = holdup::folder();
        let mut command = command(["run", "-o"]);
        command.arg(dir.path()).args(options).arg("--").args(what);
        let run = holdup::run(&mut command);
        Ran { run, dir }
    }

    fn summary(&self) -> Value {
        let text = fs::read(self.dir.path().join("summary.json")).expect("there is a summary");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    /// The folders of what was recorded, by name. Each has all outputs.
    fn recorded(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path()).expect("it was written");
        let mut folders: Vec<PathBuf> = entries
            .map(|entry| entry.expect("it can be read").path())
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        for folder in &folders {
            for output in OUTPUTS {
                assert!(
                    folder.join(output).exists(),
                    "{output} is missing in {}",
                    folder.display()
                );
            }
        }
        folders
    }

    fn breaches(&self) -> Vec<Value> {
        let summary = self.summary();
        summary["breaches"].as_array().expect("a list").clone()
    }
}

fn contention(arguments: &[&str]) -> Vec<String> {
    let path = program("CONTENTION");
    let path = path.to_str().expect("UTF-8");
    std::iter::once(path)
        .chain(arguments.iter().copied())
        .map(str::to_owned)
        .collect()
}

fn shell(script: &str) -> [String; 3] {
    ["sh", "-c", script].map(str::to_owned)
}

/// Nothing is wrong: the command's own words and its own code, and nothing left in the kernel.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_quiet_command_passes() {
    let before = Loaded::now();
    let limits = ["--fail-on", "poll>50ms", "--fail-on", "wait>50ms"];
    let ran = Ran::of(&limits, contention(&["--quiet", "--seconds", "2"]));
    let run = ran.run.expect_code(0);
    assert!(run.stdout.starts_with("ready pid="), "{}", run.stdout);
    assert!(
        run.stdout.ends_with("ended reason=seconds\n"),
        "holdup wrote into the command's stdout: {}",
        run.stdout
    );
    assert!(run.stderr.contains("no limit broken"), "{}", run.stderr);
    before.expect_nothing_new();
}

/// A broken limit is told with what happened, where, and in which process, and ends with a code of its own.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_limit_is_broken() {
    let what = contention(&["--scenario", "crypto", "--seconds", "3"]);
    let ran = Ran::of(&["--fail-on", "poll>5ms"], what);
    let breaches = ran.breaches();
    let folders = ran.recorded();
    let run = ran.run.expect_code(exit_code::LIMIT_BROKEN).expect_error(&[
        "LIMIT BROKEN poll>5ms",
        "handshake.rs:",
        "contention (pid ",
    ]);
    assert_eq!(folders.len(), 1, "{}", run.stderr);
    // Nearly all: on a shared machine a hypervisor can take the CPU away anywhere.
    let polls_at = |is_there: &dyn Fn(&str) -> bool| -> u64 {
        let there = breaches
            .iter()
            .filter(|breach| is_there(breach["place"].as_str().unwrap_or("")));
        there.filter_map(|breach| breach["count"].as_u64()).sum()
    };
    let crypto = polls_at(&|place| place.contains("contention::handshake::"));
    let all = polls_at(&|_| true);
    assert!(crypto >= 10 && crypto * 10 >= all * 9, "{breaches:#?}");
    for breach in &breaches {
        assert!(breach["longest_ns"].as_u64() > Some(5_000_000));
    }
    // The first instruction was not missed: the polls of the first tenth of a second are there.
    let report = Report::read(&folders[0].join("report.json"));
    let first = report
        .long_polls()
        .iter()
        .filter_map(|poll| poll["start_ns"].as_u64())
        .min();
    assert!(first < Some(100_000_000), "the first poll is at {first:?}");
}

/// What was seen of holds breaks limits too: one that is long, and one across an await, of Tokio's locks only if
/// asked for.
#[test]
#[ignore = "live: cargo xtask test"]
fn locks_held_too_long_or_across_an_await() {
    let scenario = |names: &str| contention(&["--scenario", names, "--seconds", "4"]);
    let limits = ["--fail-on", "held-across-await", "--fail-on", "hold>5ms"];
    let ran = Ran::of(
        &limits,
        scenario("parking-lot-across-await,std-across-await"),
    );
    let breaches = ran.breaches();
    ran.run.expect_code(exit_code::LIMIT_BROKEN);
    let of = |limit: &str, family: &str| {
        let breaks = |breach: &&Value| {
            let sentence = breach["sentence"].as_str().expect("a sentence");
            breach["limit"] == limit && sentence.contains(family)
        };
        breaches.iter().filter(breaks).count()
    };
    for limit in ["held-across-await", "hold>5ms"] {
        for family in ["(parking_lot)", "(std)"] {
            assert!(of(limit, family) > 0, "{limit} {family}: {breaches:#?}");
        }
    }

    let what = scenario("tokio-across-await");
    Ran::of(&limits[..2], &what).run.expect_code(0);
    Ran::of(&["--fail-on", "held-across-await=any"], &what)
        .run
        .expect_code(exit_code::LIMIT_BROKEN)
        .expect_error(&["across an await", "(tokio)"]);
}

/// Time in the run queue is the machine's: polls that computed for less than the limit pass, however long they waited
/// for a CPU among others.
#[test]
#[ignore = "live: cargo xtask test"]
fn the_run_queue_breaks_no_limit() {
    let burner = "while :; do :; done";
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8; do timeout 6 sh -c '{burner}' & done; {}",
        contention(&["--quiet", "--seconds", "3"]).join(" ")
    );
    let ran = Ran::of(
        &["--fail-on", "poll>20ms", "--threshold", "1ms"],
        shell(&script),
    );
    ran.run.expect_code(0);
}

/// A shell script runs programs one after the other and side by side: all are recorded, also the one that the shell
/// itself becomes; the script's own code is kept.
#[test]
#[ignore = "live: cargo xtask test"]
fn descendants_are_recorded() {
    let one = contention(&["--quiet", "--seconds", "1"]).join(" ");
    let script = format!("{one}; {one} & {one} & wait; sh -c 'exec {one}'; exit 3");
    let ran = Ran::of(&[], shell(&script));
    let folders = ran.recorded();
    let summary = ran.summary();
    ran.run.expect_code(3);
    assert_eq!(folders.len(), 4, "{summary:#}");
    assert_eq!(summary["exit_code"], 3);
    assert_eq!(summary["processes"].as_array().map(Vec::len), Some(4));
}

/// A program that becomes itself again is recorded twice.
#[test]
#[ignore = "live: cargo xtask test"]
fn exec_of_a_recorded_program() {
    let what = contention(&["--exec-after", "1", "--seconds", "2"]);
    let ran = Ran::of(&[], what);
    let folders = ran.recorded();
    ran.run.expect_code(0);
    assert_eq!(folders.len(), 2);
    let name = |path: &Path| path.file_name().map(|name| name.to_owned());
    let second = name(&folders[1]).expect("a name");
    assert!(second.to_string_lossy().ends_with("-2"), "{second:?}");
}

/// A command that a signal ended has the code that a shell gives it; one that is not there, too.
#[test]
#[ignore = "live: cargo xtask test"]
fn codes_of_a_shell() {
    Ran::of(&[], shell("kill -9 $$")).run.expect_code(128 + 9);
    Ran::of(&[], ["/no/such/program"]).run.expect_code(127);
}

/// What is no limit is said before anything runs.
#[test]
#[ignore = "live: cargo xtask test"]
fn unknown_limits_are_bad_usage() {
    let dir = holdup::folder();
    let trace = dir.path().join("it-ran");
    for limit in ["polls>5ms", "poll>5", "stuck>1s", "poll>10us"] {
        let what = ["touch", trace.to_str().expect("UTF-8")];
        let ran = Ran::of(&["--fail-on", limit], what);
        ran.run.expect_code(exit_code::USAGE);
        assert!(!trace.exists(), "the command ran in spite of {limit}");
    }
}

/// A gate that saw nothing lets nothing pass.
#[test]
#[ignore = "live: cargo xtask test"]
fn nothing_to_probe() {
    Ran::of(&["--fail-on", "poll>5ms"], ["true"])
        .run
        .expect_code(exit_code::NOTHING_TO_PROBE)
        .expect_error(&["nothing"]);
    Ran::of(&[], ["true"]).run.expect_code(0);
}

/// A command that does not end is ended, and what it did when its time was over is in the report.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_command_that_does_not_end() {
    let one = contention(&["--quiet", "--seconds", "60"]).join(" ");
    // It is not the command itself that hangs. What it prints is read until nobody is left who could print.
    let began = Instant::now();
    let ran = Ran::of(&["--timeout", "3s"], shell(&format!("{one} & wait; true")));
    let folders = ran.recorded();
    let summary = ran.summary();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(summary["timed_out"], true);
    let report = Report::read(&folders[0].join("report.json"));
    assert_eq!(report.end_reason(), "interrupted");
}

/// A hang is found while it lasts, and breaks a limit once the time for the command is over.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_command_that_hangs() {
    let what = contention(&["--scenario", "deadlock", "--seconds", "60"]);
    let ran = Ran::of(&["--fail-on", "stuck", "--timeout", "16s"], what);
    let breaches = ran.breaches();
    ran.run
        .expect_code(exit_code::LIMIT_BROKEN)
        .expect_error(&["did not end in time", "wait for each other"]);
    assert!(
        breaches
            .iter()
            .all(|breach| breach["longest_ns"].as_u64() > Some(9_000_000_000)),
        "{breaches:#?}"
    );
}

/// Ctrl-C goes to the command, as the terminal sends it; the report is made all the same.
#[test]
#[ignore = "live: cargo xtask test"]
fn ctrl_c() {
    let dir = holdup::folder();
    let mut command = command(["run", "-o"]);
    command
        .arg(dir.path())
        .arg("--")
        .args(contention(&["--seconds", "60"]));
    let running = Running::start(&mut command);
    running.wait_until_printed("ready");
    let pid = running.pid();
    let child = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .expect("it runs")
        .split_whitespace()
        .filter_map(|pid| pid.parse::<u32>().ok())
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "contention\n")
        })
        .expect("the command is a child of holdup's");
    for pid in [pid, child] {
        signal(pid, Signal::INT);
    }
    let ran = Ran {
        run: running.wait(),
        dir,
    };
    assert_eq!(ran.recorded().len(), 1);
    ran.run.expect_code(0);
}

/// holdup is killed in the middle of everything: the command goes on to its end, nothing of it stays held, and no
/// probe stays.
#[test]
#[ignore = "live: cargo xtask test"]
fn kill_9_leaves_nothing_held() {
    let before = Loaded::now();
    for after_ms in [300, 700, 1100] {
        let dir = holdup::folder();
        let one = contention(&["--quiet", "--seconds", "1"]).join(" ");
        let script = format!(
            "n=0; while [ $n -lt 1500 ]; do /bin/true; n=$((n+1)); done & {one} & {one} & wait; echo all ended"
        );
        let mut command = command(["run", "-o"]);
        command.arg(dir.path()).arg("--").args(shell(&script));
        let running = Running::start(&mut command);
        thread::sleep(Duration::from_millis(after_ms));
        signal(running.pid(), Signal::KILL);
        let run = running.wait();
        assert_eq!(run.code, None);
        // Waited for until the pipe's last writer was gone.
        assert!(run.stdout.ends_with("all ended\n"), "{}", run.stdout);
    }
    thread::sleep(Duration::from_secs(1));
    before.expect_nothing_new();
}
