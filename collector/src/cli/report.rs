//! `holdup report`.

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::output::OutputFolder;
use super::{Exit, Failure, say};
use crate::capture::{self, EndReason};
use crate::classify::Rules;
use crate::render;
use crate::report::{self, Report};

/// holdup's own rules have 6 KiB.
const MOST_RULES_BYTES: u64 = 1 << 20;

/// From what, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// A capture that `holdup record` wrote
    capture: PathBuf,
    /// Folder for the flamegraphs, timeline.svg and report.json
    #[arg(long, short, value_name = "DIR", default_value = "holdup-out")]
    output: PathBuf,
    /// Rules (TOML) that class crates, in place of holdup's own
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let rules = load_rules(self.rules.as_deref())?;
        regular_file(&self.capture)
            .with_context(|| format!("can't read {}", self.capture.display()))
            .map_err(|error| Failure::new(Exit::Capture, error))?;
        let capture =
            capture::read(&self.capture).map_err(|error| Failure::new(Exit::Capture, error))?;
        let output = OutputFolder::prepare(&self.output)?;
        let report = report::build(&capture, &rules);
        let written = output.write(&report);
        show(&report, std::io::stdout().is_terminal())?;
        for path in &written? {
            say(&format!("wrote {}", path.display()));
        }
        if capture.end.reason == EndReason::Truncated {
            say(&format!(
                "{} ends in the middle: the report holds what comes before",
                self.capture.display()
            ));
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
    let rules = read_text(file, MOST_RULES_BYTES)
        .and_then(|text| Ok(Rules::from_toml(&text)?))
        .with_context(|| format!("can't use the rules in {}", file.display()));
    rules.map_err(|error| Failure::new(Exit::Usage, error))
}

/// The text of a file that a person wrote.
pub fn read_text(path: &Path, most_bytes: u64) -> anyhow::Result<String> {
    let mut text = String::new();
    regular_file(path)?
        .take(most_bytes)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a file and nothing else: a device never ends, and a pipe may never begin.
fn regular_file(path: &Path) -> anyhow::Result<File> {
    if !fs::metadata(path)?.is_file() {
        anyhow::bail!("it is not a regular file");
    }
    Ok(File::open(path)?)
}

/// Prints the findings. A reader that went away (`| head`) is no error.
pub fn show(report: &Report, color: bool) -> Result<(), Failure> {
    print(&render::terminal(report, color))
}

/// Prints to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Output,
            anyhow::Error::from(error).context("can't print the findings"),
        )),
        _ => Ok(()),
    }
}
