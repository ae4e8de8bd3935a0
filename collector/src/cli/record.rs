//! `holdup record`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::doctor::preflight;
use super::output::OutputFolder;
use super::report::{load_rules, show};
use super::select::{Select, target_failure};
use super::{Exit, Failure};
use crate::capture::{self, CaptureError};
use crate::event::Nanos;
use crate::probe::{Config, ProbeError};
use crate::record::{self, Options, RecordError};
use crate::report;
use crate::target::doctor::Host;

/// What to record, and where to.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["pid", "name", "exe"])))]
pub struct Args {
    #[command(flatten)]
    target: Select,
    /// How long, e.g. 30s or 2m; without it until Ctrl-C, which writes everything too
    #[arg(long, short, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Folder for blocking.svg, lockwait.svg, report.json and capture.holdup
    #[arg(long, short, value_name = "DIR", default_value = "holdup-out")]
    output: PathBuf,
    /// A poll of at least this long is a long poll
    #[arg(long, default_value = "5ms", value_parser = threshold)]
    threshold: Duration,
    /// CPU samples for each second; they cost nothing while no poll is long
    #[arg(long, default_value_t = Config::default().frequency_hz, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// Rules (TOML) that class crates, in place of holdup's own
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Room for events that were not read yet
    #[arg(long, hide = true, default_value_t = Config::default().ring_buffer_bytes)]
    ring_buffer_bytes: u32,
    /// Attach one by one, as kernels before 6.6 need it
    #[arg(long, hide = true)]
    no_uprobe_multi: bool,
}

/// Below this a "long" poll is an ordinary one, and each of them would be an event.
const SHORTEST_THRESHOLD: Duration = Duration::from_micros(100);

fn threshold(text: &str) -> Result<Duration, String> {
    let threshold = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if threshold < SHORTEST_THRESHOLD {
        return Err(format!("the shortest threshold is {SHORTEST_THRESHOLD:?}"));
    }
    Ok(threshold)
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
                threshold,
                sample_after: Nanos(threshold.0 / 4),
                frequency_hz: self.frequency,
                ring_buffer_bytes: self.ring_buffer_bytes,
                uprobe_multi: !self.no_uprobe_multi,
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("could not start holdup's own event loop")
            .map_err(|error| Failure::new(Exit::Other, error))?;
        let name = process.name().to_owned();
        let pid = process.pid().0;
        runtime
            .block_on(record::record(&process, &options, interrupted(), |started| {
                let until = match self.duration {
                    Some(duration) => format!("for {}", humantime::format_duration(duration)),
                    None => "until Ctrl-C".to_owned(),
                };
                eprintln!(
                    "holdup: attached to {name} (pid {pid}), {} poll sites, in {} ms; recording {until}",
                    started.poll_sites,
                    started.attach.0 / 1_000_000
                );
            }))
            .map_err(record_failure)?;
        // The report is made from the file: what it says is what the file says, here and elsewhere.
        let capture =
            capture::read(&options.capture).map_err(|error| Failure::new(Exit::Capture, error))?;
        let report = report::build(&capture, &rules);
        let written = output.write(&report)?;
        show(&report, std::io::stdout().is_terminal());
        eprintln!(
            "holdup: detached in {} ms",
            capture.end.detach.0 / 1_000_000
        );
        for path in written.iter().chain([&options.capture]) {
            eprintln!("holdup: wrote {}", path.display());
        }
        Ok(Exit::Ok)
    }
}

/// Ctrl-C or SIGTERM. Where neither can be caught the recording goes on until its time is over.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, terminate) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    match (interrupt, terminate) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => {
            tracing::warn!("can't catch Ctrl-C: it would end holdup without a report");
            std::future::pending::<()>().await;
        }
    }
}

fn record_failure(error: RecordError) -> Failure {
    let exit = match error {
        RecordError::Target(error) => return target_failure(error),
        RecordError::NothingToProbe { .. } => Exit::NothingToProbe,
        RecordError::Probe(ProbeError::Permission { .. }) => Exit::Permission,
        RecordError::Probe(ProbeError::Kernel { .. } | ProbeError::Verifier { .. }) => Exit::Kernel,
        RecordError::Capture(CaptureError::Write { .. }) => Exit::Output,
        _ => Exit::Other,
    };
    Failure::new(exit, error)
}
