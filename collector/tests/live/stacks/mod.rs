//! Stacks are right, and not only whole. What enters: the backtraces that the workload took of itself, with the C
//! runtime's unwinder, at places where holdup takes stacks. What leaves: for each place whether holdup's stacks have
//! the same functions in the same order, inlined ones included.

mod compare;
mod names;
mod return_probe;
mod truth;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::holdup::{self, Recorded};
use crate::report::Report;
use crate::workload::{Workload, program};

use compare::{Physical, Stack};
use names::normal;
use return_probe::ReturnProbe;
use truth::Truth;

/// What holdup has to have taken stacks of in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A wait for a lock: by a uprobe.
    Waiter,
    /// An unlock that a wait ended with: by a uprobe.
    Holder,
    /// On-CPU time: by a sample.
    Sample,
    /// Sleep: at the switch to another thread.
    OffCpu,
}

/// The workload's places.
const POINTS: [(&str, Kind); 12] = [
    ("lock", Kind::Waiter),
    ("unlock", Kind::Holder),
    ("burn", Kind::Sample),
    ("sleep", Kind::OffCpu),
    ("return-probe", Kind::OffCpu),
    ("deep", Kind::Sample),
    ("blake3", Kind::Sample),
    ("signal-burn", Kind::Sample),
    ("signal-sleep", Kind::OffCpu),
    ("plugin", Kind::Sample),
    ("large-frame", Kind::Sample),
    ("realigned", Kind::Sample),
];

/// Built as `cargo build --release` does it: without frame pointers.
#[test]
#[ignore = "live: cargo xtask test"]
fn of_a_release_build() {
    agree_with_the_truth(&program("CONTENTION"));
}

/// One codegen unit: what can be inlined is.
#[test]
#[ignore = "live: cargo xtask test"]
fn of_a_fat_lto_build() {
    agree_with_the_truth(&program("CONTENTION_FAT_LTO"));
}

/// Stripped, with its debug file beside it.
#[test]
#[ignore = "live: cargo xtask test"]
fn of_a_shipped_build() {
    agree_with_the_truth(&program("CONTENTION_SHIPPED"));
}

#[track_caller]
fn agree_with_the_truth(contention: &Path) {
    let folder = holdup::folder();
    let file = folder.path().join("truth.jsonl");
    let mut command = Command::new(contention);
    // The library is loaded when holdup is attached.
    command
        .args(["--scenario", "stacks", "--plugin-after", "6"])
        .args(["--seconds", "120", "--truth"])
        .arg(&file);
    let workload = Workload::spawn(&mut command);
    workload.wait_for("ready");
    let return_probe = ReturnProbe::on(&workload);
    let recorded = holdup::record(workload.pid, "16s");
    let return_probe_hits = return_probe.hits();
    drop(return_probe);
    workload.stop();

    println!("{}", recorded.run.stdout);
    let truth = Truth::read(&file);
    let mut wrong = Vec::new();
    for (point, kind) in POINTS {
        if let Err(why) = check(&recorded, &truth, point, kind) {
            wrong.push(format!("== {point}: {why}"));
        }
    }
    if return_probe_hits == 0 {
        wrong.push("== return-probe: nobody passed through it".to_owned());
    }
    wrong.extend(incomplete(&recorded.report));
    wrong.extend(begin_elsewhere(&recorded.report));
    assert!(
        wrong.is_empty(),
        "{}:\n{}",
        contention.display(),
        wrong.join("\n")
    );
}

/// Compares every stack in the report that passes through a place's marker.
fn check(recorded: &Recorded, truth: &Truth, point: &str, kind: Kind) -> Result<(), String> {
    let known = truth.stacks(point)?;
    let marker = truth.marker(point)?;
    let stacks: Vec<(&str, Stack)> = recorded
        .report
        .stacks()
        .into_iter()
        .map(|(id, frames)| (id, named(&frames)))
        .collect();
    for (_, stack) in &stacks {
        not_around_the_marker(stack, &marker, known)?;
    }
    let passing: Vec<(&str, &Stack)> = stacks
        .iter()
        .filter(|(_, stack)| stack.outside_of(&marker).is_some())
        .map(|(id, stack)| (*id, stack))
        .collect();
    let expected = ids_of(&recorded.report, kind);
    let (mut whole, mut cut) = (0, Vec::new());
    for (id, stack) in &passing {
        let outside: &[Physical] = stack.outside_of(&marker).unwrap_or_default();
        match recorded.report.why_cut(id) {
            // A library has no table in the moment after it was loaded. What is there has to be right all the same;
            // how many are cut is judged over all stacks.
            Some(why) => {
                compare::as_far_as_it_goes(outside, known)?;
                cut.push(why);
            }
            None => {
                compare::with_any(outside, known)?;
                whole += usize::from(expected.iter().any(|expected| expected == id));
            }
        }
        if point == "blake3" {
            below_assembly(stack)?;
        }
    }
    println!(
        "{point}: {} stacks agree, {whole} of them whole and of kind {kind:?}; cut: {cut:?}; {} known",
        passing.len(),
        known.len()
    );
    if whole == 0 {
        return Err(format!("no whole {kind:?} stack passes through {marker}"));
    }
    Ok(())
}

/// A stack of the report.
fn named(frames: &[&Value]) -> Stack {
    Stack::new(frames.iter().map(|frame| {
        let function = frame["function"].as_str().expect("it is a word");
        (Some(normal(function)), frame["inlined"] == true)
    }))
}

/// The marker's caller calls, beside the marker, only what notes the backtrace and what manages memory: a stack with
/// another function there has lost the marker itself.
fn not_around_the_marker(stack: &Stack, marker: &str, known: &[Stack]) -> Result<(), String> {
    let caller = known
        .first()
        .and_then(|known| known.frames.first())
        .map_or("", Physical::function);
    let Some(at) = stack
        .frames
        .iter()
        .position(|frame| frame.function() == caller)
    else {
        return Ok(());
    };
    let Some(called) = at
        .checked_sub(1)
        .map(|inner| stack.frames[inner].function())
    else {
        return Ok(());
    };
    let manages_memory = ["alloc", "dealloc", "free", "mem", "libc.so.6+"]
        .iter()
        .any(|word| called.contains(word));
    if called == marker || called.ends_with("stacks::note") || manages_memory {
        return Ok(());
    }
    Err(format!("{caller} calls {marker}, not {called}"))
}

/// Whoever is in blake3's assembly was called by blake3.
fn below_assembly(stack: &Stack) -> Result<(), String> {
    let assembly = stack.frames.first().filter(|frame| {
        let name = frame.function();
        name.starts_with("blake3_") || name.starts_with("_blake3_")
    });
    let caller = stack.frames.get(1).map_or("nobody", Physical::function);
    if assembly.is_some() && !caller.contains("blake3::") {
        return Err(format!("blake3's assembly was called by {caller}"));
    }
    Ok(())
}

/// The stacks that a report gives for time of one kind.
fn ids_of(report: &Report, kind: Kind) -> Vec<String> {
    let activity = match kind {
        Kind::Holder => return report.holder_stacks(),
        Kind::Waiter => "lock_wait",
        Kind::Sample => "on_cpu",
        Kind::OffCpu => "sleep",
    };
    report
        .long_polls()
        .iter()
        .flat_map(|poll| poll["shares"].as_array().into_iter().flatten())
        .filter(|share| share["activity"] == activity)
        .filter_map(|share| share["stack"].as_str().map(str::to_owned))
        .collect()
}

/// Where a thread begins.
const THREAD_STARTS: [&str; 4] = ["clone3", "__clone3", "clone", "_start"];

/// Says which stacks that count as complete do not begin where a thread does.
fn begin_elsewhere(report: &Report) -> Vec<String> {
    let stacks = report.stacks().into_iter();
    stacks
        .filter(|(id, _)| report.why_cut(id).is_none())
        .filter_map(|(id, frames)| {
            let outermost = frames.last()?["function"].as_str()?;
            (!THREAD_STARTS.contains(&outermost))
                .then(|| format!("== stack {id} is called complete and begins in {outermost}"))
        })
        .collect()
}

/// Says of which kind of stacks fewer than 99.5 % reached their thread's start.
pub fn incomplete(report: &Report) -> Vec<String> {
    ["uprobe", "sample", "off_cpu"]
        .iter()
        .filter_map(|kind| {
            let Some(unwinding) = report.unwinding(kind) else {
                return Some(format!("== {kind}: the coverage has nothing about it"));
            };
            let number = |name: &str| unwinding[name].as_u64().unwrap_or(0);
            let (taken, complete) = (number("taken"), number("complete"));
            println!("{kind}: {complete} of {taken} stacks complete");
            let enough = taken > 0 && complete.saturating_mul(1000) >= taken.saturating_mul(995);
            (!enough).then(|| {
                format!(
                    "== {kind}: {complete} of {taken} stacks are complete: {}",
                    unwinding.get("outcomes").unwrap_or(&Value::Null)
                )
            })
        })
        .collect()
}
