//! `holdup report`.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::output::OutputFolder;
use super::{Exit, Failure};
use crate::capture::{self, EndReason};
use crate::classify::Rules;
use crate::render;
use crate::report::{self, Report};

/// From what, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// A capture that `holdup record` wrote
    capture: PathBuf,
    /// Folder for blocking.svg, lockwait.svg and report.json
    #[arg(long, short, value_name = "DIR", default_value = "holdup-out")]
    output: PathBuf,
    /// Rules (TOML) that class crates, in place of holdup's own
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let rules = load_rules(self.rules.as_deref())?;
        let capture =
            capture::read(&self.capture).map_err(|error| Failure::new(Exit::Capture, error))?;
        let output = OutputFolder::prepare(&self.output)?;
        let report = report::build(&capture, &rules);
        let written = output.write(&report)?;
        show(&report, std::io::stdout().is_terminal());
        for path in &written {
            eprintln!("holdup: wrote {}", path.display());
        }
        if capture.end.reason == EndReason::Truncated {
            eprintln!(
                "holdup: {} ends in the middle: the report holds what comes before",
                self.capture.display()
            );
            return Ok(Exit::CaptureTruncated);
        }
        Ok(Exit::Ok)
    }
}

/// The rules in `file`, or holdup's own.
pub fn load_rules(file: Option<&Path>) -> Result<Rules, Failure> {
    let Some(file) = file else {
        return Ok(Rules::embedded());
    };
    let rules = fs::read_to_string(file)
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(Rules::from_toml(&text)?))
        .with_context(|| format!("can't use the rules in {}", file.display()));
    rules.map_err(|error| Failure::new(Exit::Usage, error))
}

/// Prints the findings. A reader that went away (`| head`) is no error.
pub fn show(report: &Report, color: bool) {
    let text = render::terminal(report, color);
    let _ = std::io::stdout().write_all(text.as_bytes());
}
