//! What a stack costs in the kernel, frame by frame. What enters: a program with shallow stacks and one with deep ones.
//! What leaves: nanoseconds for each frame and for each stack.
//!
//! The kernel's statistics give the time of holdup's programs, but no time of its parts. So:
//!
//! ```text
//! stack = (time of all runs - runs without a stack * what such a run takes) / stacks
//! frame = (stack of the deep program - stack of the shallow one) / (frames of the deep - frames of the shallow)
//! base  = stack of the shallow program - its frames * frame
//! ```
//!
//! What a run without a stack takes is measured where there is no other: the CPU clock's program with a threshold that no
//! poll reaches, the scheduler's with a target that never polls. The statistics' own cost, two looks at the
//! clock, is in all of them, and goes out with what is subtracted.
//!
//! Where the line errs: the deep program is deep by recursion, whose rows of the tables are in the caches after the first
//! turn. So a frame of a function that was not met before costs more than the line says, and that is in the
//! base. Whole stacks divided by their frames stand beside it: the truth is between the two.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::bpf_stats::{Cost, Enabled, Programs};
use super::interrupted::Interrupted;
use super::observer::{Kind, Observer, Paths};
use super::recorded::{Recorded, Tables, mean_depth};
use super::spread::Spread;
use crate::demo::Target;

/// The program that the CPU clock runs.
const ON_CPU: &str = "cpu_sample";
/// The program that runs at each context switch.
const OFF_CPU: &str = "sched_switch";

/// Scenarios of the workload: polls that burn crypto, and polls that are in many ways deep, some of 200 frames.
const SHALLOW: &str = "crypto";
const DEEP: &str = "stacks";

/// Enough old polls; the workload's burn for some milliseconds each.
const SAMPLING: Kind = Kind::Holdup("1ms");

/// How to measure.
pub struct Experiment<'a> {
    pub rounds: u32,
    /// How long each recording is.
    pub seconds: u64,
    pub holdup: &'a Path,
    /// The contention workload.
    pub contention: PathBuf,
    /// For what holdup writes.
    pub dir: &'a Path,
    pub interrupted: &'a Interrupted,
}

/// What one program did during a recording.
#[derive(Clone, Copy, Debug)]
struct Activity {
    cost: Cost,
    stacks: u64,
    /// Mean frames of a stack.
    depth: f64,
}

impl Activity {
    /// Of each stack, without the runs that took none.
    fn ns_per_stack(&self, without_stack_ns: f64) -> f64 {
        let others = self.cost.runs.saturating_sub(self.stacks) as f64;
        (self.cost.ns as f64 - others * without_stack_ns) / self.stacks as f64
    }
}

/// The cost of a stack as a line over its depth.
#[derive(Clone, Copy, Debug)]
struct Line {
    frame_ns: f64,
    base_ns: f64,
}

impl Line {
    /// Through two points of depth and nanoseconds.
    fn through(shallow: (f64, f64), deep: (f64, f64)) -> Self {
        let frame_ns = (deep.1 - shallow.1) / (deep.0 - shallow.0);
        Self {
            frame_ns,
            base_ns: shallow.1 - shallow.0 * frame_ns,
        }
    }
}

/// What both programs did during one recording, and what it was recorded with.
struct Recording {
    on_cpu: Activity,
    off_cpu: Activity,
    tables: Tables,
}

/// Measures, prints the figures, and gives back the tables that the workload's stacks were walked with.
pub fn run(experiment: &Experiment<'_>) -> Result<Tables> {
    let without_polls = experiment.record(Kind::HOLDUP, "condvar")?;
    let off_cpu_idle_ns = per_run(without_polls.off_cpu)?;
    let on_cpu_idle_ns = [SHALLOW, DEEP]
        .into_iter()
        .map(|scenario| per_run(experiment.record(Kind::HOLDUP_NO_POLL, scenario)?.on_cpu))
        .collect::<Result<Vec<_>>>()?;
    let (mut shallows, mut deeps) = (Vec::new(), Vec::new());
    for _ in 0..experiment.rounds {
        shallows.push(experiment.record(SAMPLING, SHALLOW)?);
        deeps.push(experiment.record(SAMPLING, DEEP)?);
    }

    println!(
        "| program | workload | ns of a run without a stack | stacks | frames each | ns each stack: median (range) | that by frames, ns |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (workload, recordings, idle_ns) in [
        (SHALLOW, &shallows, on_cpu_idle_ns[0]),
        (DEEP, &deeps, on_cpu_idle_ns[1]),
    ] {
        let on_cpu = recordings.iter().map(|recording| recording.on_cpu);
        row(ON_CPU, workload, on_cpu, idle_ns);
        let off_cpu = recordings.iter().map(|recording| recording.off_cpu);
        row(OFF_CPU, workload, off_cpu, off_cpu_idle_ns);
    }

    let lines: Vec<Line> = shallows
        .iter()
        .zip(&deeps)
        .map(|(shallow, deep)| {
            let point =
                |of: &Activity, idle: usize| (of.depth, of.ns_per_stack(on_cpu_idle_ns[idle]));
            Line::through(point(&shallow.on_cpu, 0), point(&deep.on_cpu, 1))
        })
        .collect();
    println!(
        "\nof {ON_CPU}, a line through both workloads in each round, median (range): each frame {:.0} ns, \
         and each stack beside its frames {:.0} ns (registers, cold caches, interning, the event)",
        Spread::of(lines.iter().map(|line| line.frame_ns)),
        Spread::of(lines.iter().map(|line| line.base_ns)),
    );
    deeps
        .last()
        .map(|recording| recording.tables)
        .context("nothing is measured in no rounds")
}

impl Experiment<'_> {
    /// Records a scenario of the workload, which runs for that alone: two at a time take each other's caches.
    ///
    /// The statistics are read a moment before the recording ends, and count the warm-up too: a percent of
    /// the runs, nearly all without a stack.
    fn record(&self, kind: Kind, scenario: &str) -> Result<Recording> {
        // It is ended with its handle, and ends by itself if nobody does that.
        let target = Target::start(Command::new(&self.contention).args([
            "--scenario",
            scenario,
            "--seconds",
            "600",
        ]))?;
        let paths = Paths {
            target: &self.contention,
            holdup: self.holdup,
            dir: self.dir,
        };
        let statistics = Enabled::new()?;
        let before = Programs::now()?;
        let observer = Observer::attach(kind, target.pid(), &paths)?;
        self.interrupted.sleep(Duration::from_secs(self.seconds))?;
        let owned = observer.owned()?;
        let programs = Programs::now()?;
        observer.detach()?;
        drop(statistics);

        let recorded = Recorded::read(self.dir)?;
        let activity = |program, kind, activities: &[&str]| -> Result<Activity> {
            let cost = programs.cost_of(program, &before, &owned);
            let stacks = recorded.walks(kind)?;
            ensure!(cost.runs > 0, "{program} did not run");
            Ok(Activity {
                cost,
                stacks: stacks.min(cost.runs),
                depth: mean_depth(&recorded.stacks(activities)),
            })
        };
        Ok(Recording {
            on_cpu: activity(ON_CPU, "sample", &["on_cpu"])?,
            off_cpu: activity(OFF_CPU, "off_cpu", &["run_queue", "sleep"])?,
            tables: recorded.tables()?,
        })
    }
}

/// Nanoseconds of each run, in a recording that is to have no stack.
fn per_run(Activity { cost, stacks, .. }: Activity) -> Result<f64> {
    ensure!(
        stacks * 1000 <= cost.runs,
        "{stacks} stacks in {} runs that should have taken none",
        cost.runs
    );
    Ok(cost.ns as f64 / cost.runs as f64)
}

fn row(
    program: &str,
    workload: &str,
    rounds: impl Iterator<Item = Activity> + Clone,
    without_stack_ns: f64,
) {
    let stacks: u64 = rounds.clone().map(|activity| activity.stacks).sum();
    let depth = Spread::of(rounds.clone().map(|activity| activity.depth));
    let ns = Spread::of(rounds.map(|activity| activity.ns_per_stack(without_stack_ns)));
    println!(
        "| {program} | {workload} | {without_stack_ns:.0} | {stacks} | {:.1} | {ns:.0} | {:.0} |",
        depth.median,
        ns.median / depth.median
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten runs, four with a stack: the other six cost what runs without a stack do.
    #[test]
    fn runs_without_a_stack_are_taken_out() {
        let activity = Activity {
            cost: Cost {
                runs: 10,
                ns: 6 * 100 + 4 * 5_000,
            },
            stacks: 4,
            depth: 20.0,
        };
        assert!((activity.ns_per_stack(100.0) - 5_000.0).abs() < 1e-9);
    }

    /// What does not grow with the depth is the stack's own.
    #[test]
    fn a_line_tells_frames_from_the_stack() {
        let line = Line::through((20.0, 2_000.0 + 20.0 * 90.0), (50.0, 2_000.0 + 50.0 * 90.0));
        assert!((line.frame_ns - 90.0).abs() < 1e-9);
        assert!((line.base_ns - 2_000.0).abs() < 1e-9);
    }
}
