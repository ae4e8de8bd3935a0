//! `holdup record-followed`: what `holdup run` starts for each process that it follows. The process is held before its
//! first instruction until a byte on stdout says that it is recorded.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::debug::DebugArgs;
use super::output::OutputFolder;
use super::record::{STUCK_AFTER, record_failure, threshold};
use super::report::load_rules;
use super::select::target_failure;
use super::signals::Interrupted;
use super::{Exit, Failure};
use crate::capture;
use crate::event::{Nanos, Pid};
use crate::follow::BEGUN;
use crate::probe::Config;
use crate::record::{self, Options};
use crate::report;
use crate::target::{Process, TargetError};

/// What to record, and where to.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    output: PathBuf,
    #[command(flatten)]
    debug: DebugArgs,
    #[arg(long, value_parser = threshold)]
    threshold: Duration,
    #[arg(long)]
    frequency: u32,
    #[arg(long)]
    uncontended: bool,
    #[arg(long)]
    rules: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let other = |error: anyhow::Error| Failure::new(Exit::Other, error);
        let interrupted = Interrupted::catch()
            .context("could not catch signals")
            .map_err(other)?;
        // Whoever started this waits for it until it ends; without it nobody reads what would be recorded.
        set_parent_process_death_signal(Some(Signal::INT))
            .context("could not ask to be told of the parent's end")
            .map_err(other)?;
        let rules = load_rules(self.rules.as_deref())?;
        let process = Process::open(Pid(self.pid)).map_err(unfit)?;
        let output = OutputFolder::prepare(&self.output)?;
        let threshold = Nanos(self.threshold.as_nanos() as u64);
        let options = Options {
            duration: None,
            capture: output.join("capture.holdup"),
            probes: Config::new(threshold, self.frequency),
            debug_sources: self.debug.sources(),
            uncontended: self.uncontended,
            stuck_after: STUCK_AFTER,
            from_first_instruction: true,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("could not start holdup's own event loop")
            .map_err(other)?;
        runtime
            .block_on(record::record(
                &process,
                &options,
                interrupted.wait(),
                |news| {
                    // What is stuck is in the report.
                    let record::News::Started(_) = news else {
                        return;
                    };
                    // Nobody reads it any more when holdup is gone, and then nobody holds the process.
                    let mut stdout = std::io::stdout();
                    let _ = stdout.write_all(&[BEGUN]).and_then(|()| stdout.flush());
                },
            ))
            .map_err(|error| match error {
                record::RecordError::Target(error) if !process.has_exited() => unfit(error),
                error => record_failure(error, &process),
            })?;
        let capture =
            capture::read(&options.capture).map_err(|error| Failure::new(Exit::Capture, error))?;
        output.write(&report::build(&capture, &rules))?;
        Ok(Exit::Ok)
    }
}

/// A program that holdup can't look into has nothing to probe, among the many that a command starts.
fn unfit(error: TargetError) -> Failure {
    match error {
        TargetError::ThirtyTwoBit(_)
        | TargetError::ForeignArchitecture { .. }
        | TargetError::NoProgram(_)
        | TargetError::Binary { .. } => Failure::new(Exit::NothingToProbe, error),
        error => target_failure(error),
    }
}
