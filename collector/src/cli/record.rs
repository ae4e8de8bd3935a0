//! `holdup record`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::debug::DebugArgs;
use super::doctor::preflight;
use super::output::OutputFolder;
use super::report::{load_rules, show};
use super::select::{Select, duration, target_failure};
use super::signals::Interrupted;
use super::{Exit, Failure, say};
use crate::capture::{self, CaptureError, EndReason};
use crate::classify::Rules;
use crate::event::Nanos;
use crate::probe::{Config, ProbeError};
use crate::record::{self, News, Options, RecordError};
use crate::render;
use crate::report;
use crate::target::doctor::Host;
use crate::target::{Process, TargetError};

/// What to record, and where to.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["pid", "name", "exe"])))]
pub struct Args {
    #[command(flatten)]
    target: Select,
    #[command(flatten)]
    debug: DebugArgs,
    /// How long, e.g. 30s or 2m; without it until Ctrl-C, which writes everything too
    #[arg(long, short, value_parser = duration)]
    duration: Option<Duration>,
    /// Folder for the flamegraphs, timeline.svg, report.json and capture.holdup
    #[arg(long, short, value_name = "DIR", default_value = "holdup-out")]
    output: PathBuf,
    /// A poll of at least this long is a long poll
    #[arg(long, default_value = "5ms", value_parser = threshold)]
    threshold: Duration,
    /// CPU samples for each second and CPU, inside polls; about a hundred of them also elsewhere
    #[arg(long, default_value_t = Config::default().frequency_hz, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// See also locks that nobody waits for, and exactly how long each is held: a probe in every fast path of
    /// parking_lot's and std's locks that debug information tells of, at half a microsecond for each use of a lock
    #[arg(long)]
    uncontended: bool,
    /// Look at the delays of one of so many tasks (a power of two): a wake costs a microsecond, and two thirds of that if its
    /// task is not looked at. 0 for none: then wakes cost nothing, and nobody knows who had to wait
    #[arg(long, default_value_t = Config::default().one_task_of, value_parser = one_task_of)]
    one_task_of: u32,
    /// A thread that waits for one lock for so long is told of at once
    #[arg(long, default_value = "10s", value_parser = stuck_after)]
    stuck_after: Duration,
    /// Rules (TOML) that class crates, in place of holdup's own
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Room for events that were not read yet: a power of two. More if the coverage says that some were lost
    #[arg(long, default_value_t = Config::default().ring_buffer_bytes, value_parser = ring_buffer_bytes)]
    ring_buffer_bytes: u32,
    /// Attach one by one, as kernels before 6.6 need it
    #[arg(long, hide = true)]
    no_uprobe_multi: bool,
}

/// When a thread is told to be stuck where nobody says otherwise: the default of `--stuck-after`.
pub(super) const STUCK_AFTER: Nanos = Nanos(10_000_000_000);

/// Nothing that blocks a runtime for longer needs a tool.
const LONGEST_THRESHOLD: Duration = Duration::from_secs(3600);

/// Below this a "long" poll is an ordinary one, and each of them would be an event.
pub(super) const SHORTEST_THRESHOLD: Duration = Duration::from_micros(100);

pub(super) fn threshold(text: &str) -> Result<Duration, String> {
    let threshold = duration(text)?;
    if !(SHORTEST_THRESHOLD..=LONGEST_THRESHOLD).contains(&threshold) {
        return Err(format!(
            "a threshold is from {SHORTEST_THRESHOLD:?} to {LONGEST_THRESHOLD:?}"
        ));
    }
    Ok(threshold)
}

fn stuck_after(text: &str) -> Result<Duration, String> {
    let after = duration(text)?;
    if !(record::LOOK_FOR_STUCK_EVERY..=LONGEST_THRESHOLD).contains(&after) {
        return Err(format!(
            "from {:?} to {LONGEST_THRESHOLD:?}",
            record::LOOK_FOR_STUCK_EVERY
        ));
    }
    Ok(after)
}

fn one_task_of(text: &str) -> Result<u32, String> {
    let tasks: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if !(tasks == 0 || tasks.is_power_of_two()) || tasks > 1 << 16 {
        return Err("a power of two, from 1 to 65536, or 0".to_owned());
    }
    Ok(tasks)
}

fn ring_buffer_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if !bytes.is_power_of_two() || !(4096..=1 << 30).contains(&bytes) {
        return Err(
            "a ring buffer has a power of two of bytes, from 4096 to 1073741824".to_owned(),
        );
    }
    Ok(bytes)
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        // Whatever the person got wrong shows before the target is touched.
        let rules = load_rules(self.rules.as_deref())?;
        let Some(process) = self.target.open()? else {
            unreachable!("clap asks for one");
        };
        preflight(&Host::look())?;
        let output = OutputFolder::prepare(&self.output)?;
        let threshold = Nanos(self.threshold.as_nanos() as u64);
        let options = Options {
            duration: self.duration,
            capture: output.join("capture.holdup"),
            probes: Config {
                ring_buffer_bytes: self.ring_buffer_bytes,
                uprobe_multi: !self.no_uprobe_multi,
                one_task_of: self.one_task_of,
                ..Config::new(threshold, self.frequency)
            },
            debug_sources: self.debug.sources(),
            uncontended: self.uncontended,
            stuck_after: Nanos(self.stuck_after.as_nanos() as u64),
            from_first_instruction: false,
        };
        record_now(&process, &options, &rules)?;
        // The report is made from the file: what it says is what the file says, here and elsewhere.
        let capture =
            capture::read(&options.capture).map_err(|error| Failure::new(Exit::Capture, error))?;
        let report = report::build(&capture, &rules);
        // Printed also when the files can't be written: the disk may be full, and somebody is waiting.
        let written = output.write(&report);
        show(&report, std::io::stdout().is_terminal())?;
        say(&format!(
            "detached in {} ms",
            capture.end.detach.0 / 1_000_000
        ));
        for path in written?.iter().chain([&options.capture]) {
            say(&format!("wrote {}", path.display()));
        }
        if capture.end.reason == EndReason::Truncated {
            return Ok(Exit::CaptureTruncated);
        }
        Ok(Exit::Ok)
    }
}

/// Records, and says when that begins and what is stuck meanwhile.
pub(super) fn record_now(
    process: &Process,
    options: &Options,
    rules: &Rules,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start holdup's own event loop")
        .map_err(|error| Failure::new(Exit::Other, error))?;
    let interrupted = Interrupted::catch()
        .context("could not catch Ctrl-C")
        .map_err(|error| Failure::new(Exit::Other, error))?;
    let name = process.name();
    let pid = process.pid().0;
    runtime
        .block_on(record::record(
            process,
            options,
            interrupted.wait(),
            |news| {
                let started = match news {
                    News::Started(started) => started,
                    News::Stuck(news) => {
                        for group in report::stuck_now(&news, rules) {
                            render::stuck(&group).iter().for_each(|line| say(line));
                        }
                        return;
                    }
                };
                let until = match options.duration {
                    Some(duration) => format!("for {}", humantime::format_duration(duration)),
                    None => "until Ctrl-C".to_owned(),
                };
                say(&format!(
                    "attached to {name} (pid {pid}), {} poll sites, in {} ms; recording {until}",
                    started.poll_sites,
                    started.attach.0 / 1_000_000
                ));
            },
        ))
        .map_err(|error| record_failure(error, process))
}

pub(super) fn record_failure(error: RecordError, process: &Process) -> Failure {
    let exit = match error {
        // Whatever went wrong with it, it went wrong because it is gone.
        RecordError::Target(_) | RecordError::Probe(_) if process.has_exited() => {
            return target_failure(TargetError::Exited(process.pid().0));
        }
        RecordError::Target(error) => return target_failure(error),
        RecordError::NothingToProbe { .. } => Exit::NothingToProbe,
        RecordError::Probe(ProbeError::Permission { .. }) => Exit::Permission,
        RecordError::Probe(ProbeError::Kernel { .. } | ProbeError::Verifier { .. }) => Exit::Kernel,
        RecordError::Capture(CaptureError::Write { .. }) => Exit::Output,
        _ => Exit::Other,
    };
    Failure::new(exit, error)
}
