//! What a stack costs in the kernel, frame by frame. What enters: a program with shallow stacks and one in which they are
//! of many depths. What leaves: nanoseconds for each frame and for each stack.
//!
//! The kernel's statistics give the time of holdup's programs, but no time of its parts. So:
//!
//! ```text
//! stack = (time of all runs - runs without a stack * what such a run takes) / stacks
//! ```
//!
//! What a run without a stack takes is measured where there is no other: the CPU clock's program with a threshold that no
//! poll reaches, the scheduler's with a target that never polls. The statistics' own cost, two looks at the
//! clock, is in all of them, and goes out with what is subtracted.
//!
//! For frames, the recordings of the second program are cut into windows. Of each the kernel says how long its runs
//! took, and the report how many stacks were taken and how deep: those of the polls that were under way, in equal
//! parts over each poll. A poll at the window's edge is so taken a little wrongly, which errs to both sides.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::bpf_stats::{Cost, Enabled, Loaded, Programs};
use super::interrupted::Interrupted;
use super::line::{Line, Window};
use super::observer::{Kind, Observer, Paths};
use super::recorded::{Poll, Recorded, Tables, mean_depth};
use super::spread::Spread;
use crate::demo::Target;

/// The program that the CPU clock runs.
const ON_CPU: &str = "cpu_sample";
/// The program that runs at each context switch.
const OFF_CPU: &str = "sched_switch";

/// Some polls long, and short enough for their depths to differ from one to the next.
const SLICE: Duration = Duration::from_millis(100);

/// Scenarios of the workload: polls that burn crypto, which takes the caches too, and polls of many depths, up to hundreds
/// of frames.
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

/// A part of a recording, as the CPU clock's program saw it.
#[derive(Clone, Copy, Debug)]
struct Slice {
    cost: Cost,
    /// Not whole numbers: a poll may be in several slices.
    stacks: f64,
    frames: f64,
}

impl Slice {
    fn window(&self, without_stack_ns: f64) -> Window {
        let others = (self.cost.runs as f64 - self.stacks).max(0.0);
        Window {
            stacks: self.stacks,
            frames: self.frames,
            ns: self.cost.ns as f64 - others * without_stack_ns,
        }
    }
}

/// The statistics at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// By CLOCK_MONOTONIC.
    at_ns: u64,
    cost: Cost,
}

impl Look {
    fn at(program: &Loaded) -> Result<Self> {
        let cost = program.cost()?;
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).context("the clock runs from zero")?;
        Ok(Self {
            at_ns: seconds * 1_000_000_000 + u64::try_from(now.tv_nsec)?,
            cost,
        })
    }
}

/// Shares the stacks of polls out over what lies between two looks each.
fn slices(looks: &[Look], polls: &[Poll]) -> Vec<Slice> {
    let slice = |pair: &[Look]| {
        let &[from, to] = pair else { return None };
        let (mut stacks, mut frames) = (0.0, 0.0);
        for poll in polls {
            let start_ns = poll.start_ns.max(from.at_ns);
            let end_ns = (poll.start_ns + poll.duration_ns).min(to.at_ns);
            let part = end_ns.saturating_sub(start_ns) as f64 / poll.duration_ns as f64;
            if part > 0.0 {
                for stack in &poll.sampled {
                    stacks += part * stack.times as f64;
                    frames += part * (stack.times * stack.depth()) as f64;
                }
            }
        }
        Some(Slice {
            cost: Cost {
                runs: to.cost.runs - from.cost.runs,
                ns: to.cost.ns - from.cost.ns,
            },
            stacks,
            frames,
        })
    };
    looks.windows(2).filter_map(slice).collect()
}

/// What both programs did during one recording, and what it was recorded with.
struct Recording {
    on_cpu: Activity,
    off_cpu: Activity,
    /// Of the CPU clock's program.
    slices: Vec<Slice>,
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

    let lines: Vec<Line> = deeps
        .iter()
        .filter_map(|recording| {
            let windows: Vec<Window> = recording
                .slices
                .iter()
                .map(|slice| slice.window(on_cpu_idle_ns[1]))
                .collect();
            Line::through(&windows)
        })
        .collect();
    println!(
        "\nof {ON_CPU} in {DEEP}, by least squares over windows of {} ms, median (range) of {} recordings: each frame {:.0} ns, \
         and each stack beside its frames {:.0} ns (registers, cold caches, interning, the event)",
        SLICE.as_millis(),
        lines.len(),
        Spread::of(lines.iter().map(|line| line.frame_ns)),
        Spread::of(lines.iter().map(|line| line.stack_ns)),
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
        let pid = observer.pid().context("holdup has a pid")?;
        let program = Loaded::find(pid, ON_CPU)?;
        let mut looks = vec![Look::at(&program)?];
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while Instant::now() < end {
            self.interrupted.sleep(SLICE)?;
            looks.push(Look::at(&program)?);
        }
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
            slices: slices(&looks, &recorded.polls()?),
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
    use crate::bench::recorded::{Frame, Stack};

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

    /// A poll of four samples that lies by three quarters in the second slice; another that is in neither.
    #[test]
    fn polls_are_shared_out_over_slices() {
        let look = |at_ns, runs| Look {
            at_ns,
            cost: Cost {
                runs,
                ns: runs * 100,
            },
        };
        let frame = |function: &str, inlined| Frame {
            function: function.to_owned(),
            inlined,
        };
        let poll = |start_ns, duration_ns| Poll {
            start_ns,
            duration_ns,
            sampled: vec![Stack {
                frames: vec![
                    frame("add", true),
                    frame("sum", false),
                    frame("main", false),
                ],
                times: 4,
            }],
        };
        let looks = [look(1_000, 10), look(2_000, 20), look(3_000, 50)];
        let slices = slices(&looks, &[poll(1_900, 400), poll(3_000, 10)]);
        assert_eq!(slices.len(), 2);
        assert_eq!((slices[0].stacks, slices[0].frames), (1.0, 2.0));
        assert_eq!((slices[1].stacks, slices[1].frames), (3.0, 6.0));
        let runs = |slice: &Slice| (slice.cost.runs, slice.cost.ns);
        assert_eq!(
            (runs(&slices[0]), runs(&slices[1])),
            ((10, 1_000), (30, 3_000))
        );
        // 27 runs without a stack.
        assert!((slices[1].window(10.0).ns - 2_730.0).abs() < 1e-9);
    }
}
