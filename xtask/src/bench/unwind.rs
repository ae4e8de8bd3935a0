//! `cargo xtask bench unwind`. What enters: for how long. What leaves: of the samples in hand-written assembly without
//! unwind information, how many have their callers, by holdup and by perf.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::perf::{self, is_lost};
use crate::demo::Target;
use crate::workloads::{self, Flavour, Workload};
use crate::{command, packages, workspace};

/// What `cargo xtask bench unwind` was asked for.
pub struct Options {
    pub seconds: u64,
}

/// What holdup samples with, so that perf does too.
const FREQUENCY_HZ: u32 = 997;

/// Samples in one kind of function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    samples: u64,
    /// Those of whose stack nothing but the innermost function is known.
    lost: u64,
    /// Those that reach the thread's start.
    complete: u64,
}

/// Samples the contention workload with both, one after the other, and prints a table.
pub fn run(options: &Options) -> Result<()> {
    ensure!(packages::is_root(), "attaching to the kernel needs root");
    let holdup = workspace::build_holdup()?;
    let built = workloads::build_one(Workload::Contention, Flavour::Release)?;
    let dir = workspace::target_dir().join("bench-unwind");
    fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    let target = Target::start(Command::new(built.binary("contention")).args([
        "--scenario",
        "stacks",
        "--seconds",
        &(2 * options.seconds + 60).to_string(),
    ]))?;

    let by_perf = perf::record(
        &perf::Options {
            pid: target.pid(),
            seconds: options.seconds,
            frequency_hz: FREQUENCY_HZ,
        },
        &dir,
    )?;
    command::output(
        Command::new(holdup)
            .args(["record", "--pid", &target.pid().to_string()])
            .args(["-d", &format!("{}s", options.seconds), "-o"])
            .arg(&dir),
    )?;
    drop(target);

    println!("samples in blake3's assembly, which has no unwind information:");
    println!(
        "{:<36} {:>8} {:>16} {:>22}",
        "", "samples", "callers lost", "reach thread's start"
    );
    for (tool, tally) in [
        ("perf record --call-graph dwarf", of_perf(&by_perf)),
        ("holdup record", of_holdup(&dir.join("report.json"))?),
    ] {
        let share = |part: u64| match tally.samples {
            0 => "none".to_owned(),
            all => format!("{part} ({:.1} %)", part as f64 / all as f64 * 100.0),
        };
        println!(
            "{tool:<36} {:>8} {:>16} {:>22}",
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

fn of_holdup(report: &Path) -> Result<Tally> {
    let text = fs::read(report).with_context(|| format!("could not read {}", report.display()))?;
    let report: Value = serde_json::from_slice(&text).context("report.json is no JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let frames = list(&report["frames"]);
    let functions = |id: &str| -> Vec<(String, bool)> {
        list(&report["stacks"][id])
            .iter()
            .filter_map(|index| frames.get(usize::try_from(index.as_u64()?).ok()?))
            .map(|frame| {
                let function = frame["function"].as_str().unwrap_or_default().to_owned();
                (function, frame["inlined"] == true)
            })
            .collect()
    };
    let mut tally = Tally::default();
    let polls = list(&report["long_polls"]);
    let shares = polls.iter().flat_map(|poll| list(&poll["shares"]));
    for share in shares.filter(|share| share["activity"] == "on_cpu") {
        let Some(id) = share["stack"].as_str() else {
            continue;
        };
        let stack = functions(id);
        if stack.first().is_some_and(|(name, _)| is_assembly(name)) {
            let events = share["events"].as_u64().unwrap_or(0);
            // An address that belongs to nothing has no name, but itself.
            let named = |(name, inlined): &&(String, bool)| !inlined && !name.starts_with("0x");
            let complete = stack.iter().any(|(name, _)| is_thread_start(name));
            tally.samples += events;
            tally.lost += if stack.iter().filter(named).count() <= 1 {
                events
            } else {
                0
            };
            tally.complete += if complete { events } else { 0 };
        }
    }
    Ok(tally)
}
