//! Samples in hand-written assembly without unwind information. What enters: a program that runs some. What leaves: how
//! many of them have their callers, by holdup and by perf.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::observer::FREQUENCY_HZ;
use super::perf::{self, is_lost};
use super::recorded::Recorded;
use crate::command;
use crate::demo::Target;

/// Samples in one kind of function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    samples: u64,
    /// Those of whose stack nothing but the innermost function is known.
    lost: u64,
    /// Those that reach the thread's start.
    complete: u64,
}

/// Samples the contention workload with both, one after the other for so many seconds each, and prints a table. `dir`
/// is for what they write.
pub fn run(contention: &Path, holdup: &Path, seconds: u64, dir: &Path) -> Result<()> {
    let target = Target::start(Command::new(contention).args([
        "--scenario",
        "stacks",
        "--seconds",
        &(2 * seconds + 60).to_string(),
    ]))?;
    let by_perf = perf::record(
        &perf::Options {
            pid: target.pid(),
            seconds,
            frequency_hz: FREQUENCY_HZ,
        },
        dir,
    )?;
    command::output(
        Command::new(holdup)
            .args(["record", "--pid", &target.pid().to_string()])
            .args(["-d", &format!("{seconds}s"), "-o"])
            .arg(dir),
    )?;
    let by_holdup = Recorded::read(dir)?;
    drop(target);

    println!("| sampled by | samples | callers lost | reach the thread's start |");
    println!("| --- | --- | --- | --- |");
    for (tool, tally) in [
        ("perf record --call-graph dwarf", of_perf(&by_perf)),
        ("holdup record", of_holdup(&by_holdup)),
    ] {
        let share = |part: u64| match tally.samples {
            0 => "none".to_owned(),
            all => format!("{part} ({:.1} %)", part as f64 / all as f64 * 100.0),
        };
        println!(
            "| {tool} | {} | {} | {} |",
            tally.samples,
            share(tally.lost),
            share(tally.complete)
        );
    }
    Ok(())
}

/// By its symbol: `blake3_hash_many_avx2` and the like, which C and Rust alike don't mangle.
fn is_assembly(function: &str) -> bool {
    function.trim_start_matches('_').starts_with("blake3_")
}

/// Where std begins a thread; the C library's frames below it have no symbols everywhere.
fn is_thread_start(function: &str) -> bool {
    function.ends_with("thread_start")
}

fn of_perf(stacks: &[perf::Stack]) -> Tally {
    let mut tally = Tally::default();
    for stack in stacks {
        if stack
            .first()
            .and_then(Option::as_deref)
            .is_some_and(is_assembly)
        {
            tally.samples += 1;
            tally.lost += u64::from(is_lost(stack));
            let complete = stack.iter().flatten().any(|name| is_thread_start(name));
            tally.complete += u64::from(complete);
        }
    }
    tally
}

fn of_holdup(report: &Recorded) -> Tally {
    let mut tally = Tally::default();
    for stack in report.stacks(&["on_cpu"]) {
        let innermost = stack.frames.first();
        if innermost.is_none_or(|frame| !is_assembly(&frame.function)) {
            continue;
        }
        // An address that belongs to nothing has no name, but itself.
        let named = stack
            .frames
            .iter()
            .filter(|frame| !frame.inlined && !frame.function.starts_with("0x"));
        let complete = stack
            .frames
            .iter()
            .any(|frame| is_thread_start(&frame.function));
        tally.samples += stack.times;
        tally.lost += if named.count() <= 1 { stack.times } else { 0 };
        tally.complete += if complete { stack.times } else { 0 };
    }
    tally
}
