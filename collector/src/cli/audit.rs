//! `holdup audit`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::debug::DebugArgs;
use super::doctor::preflight;
use super::output::OutputFolder;
use super::record::{STUCK_AFTER, record_now};
use super::report::{load_rules, print, read_text};
use super::select::{Select, duration};
use super::{Exit, Failure, say};
use crate::audit::{Inventory, Names, TOO_LONG, inventory_of, markdown, measure};
use crate::capture::{self, Capture, EndReason};
use crate::probe::Config;
use crate::record::Options;
use crate::report;
use crate::target::doctor::Host;
use crate::target::{Image, Process, Whereabouts};

/// Of an inventory that somebody wrote: holdup's own has 9 KiB.
const MOST_INVENTORY_BYTES: u64 = 1 << 20;

/// What to measure, and by which inventory.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["pid", "name", "exe", "capture"])))]
pub struct Args {
    #[command(flatten)]
    target: Select,
    /// A capture that `holdup audit` recorded, in place of a process. One of `holdup record` has samples of long polls alone,
    /// so that of the sites only those are met
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    #[command(flatten)]
    debug: DebugArgs,
    /// How long, e.g. 60s or 5m; without it until Ctrl-C
    #[arg(long, short, value_parser = duration, conflicts_with = "capture")]
    duration: Option<Duration>,
    /// The inventory (TOML); by default the one that holdup has of Citadel-Protocol, for its binaries
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Write an inventory of what is seen into this new file, as a start for your own
    #[arg(long, value_name = "FILE", conflicts_with = "inventory")]
    init: Option<PathBuf>,
    /// Folder for audit.md and audit.json, and for what `holdup record` writes
    #[arg(long, short, value_name = "DIR", default_value = "holdup-out")]
    output: PathBuf,
    /// CPU samples for each second; what is shorter than the time between two can be missed
    #[arg(long, default_value_t = Config::default().frequency_hz, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// See only locks that somebody waits for, and Tokio's. Otherwise a probe is in every fast path of parking_lot's and std's
    /// locks that debug information tells of, at half a microsecond for each use of a lock
    #[arg(long, conflicts_with = "capture")]
    contended_only: bool,
    /// Rules (TOML) that class crates, in place of holdup's own
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        // Whatever the person got wrong shows before the target is touched.
        let rules = load_rules(self.rules.as_deref())?;
        let given = self.inventory.as_deref().map(load_inventory).transpose()?;
        let new_file = self.init.as_deref().map(create_new).transpose()?;
        let (symbols, capture, output) = match &self.capture {
            Some(file) => {
                let capture = capture::read(file).map_err(unreadable)?;
                let output = OutputFolder::prepare(&self.output)?;
                (Symbols::Capture(functions(&capture)), capture, output)
            }
            None => {
                let Some(process) = self.target.open()? else {
                    unreachable!("clap asks for one");
                };
                preflight(&Host::look())?;
                let symbols = Symbols::of(&process, &self.debug)?;
                if new_file.is_none() && given.is_none() {
                    fitting(&symbols)?;
                }
                let output = OutputFolder::prepare(&self.output)?;
                let options = self.options(output.join("capture.holdup"));
                record_now(&process, &options, &rules)?;
                let capture = capture::read(&options.capture).map_err(unreadable)?;
                (symbols, capture, output)
            }
        };
        let report = report::build(&capture, &rules);
        let mut written = output.write(&report)?;
        if let Some((path, mut file)) = new_file {
            inventory_of(&report)
                .to_toml()
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(file.write_all(text.as_bytes())?))
                .with_context(|| format!("can't write {}", path.display()))
                .map_err(|error| Failure::new(Exit::Output, error))?;
            written.push(path);
        } else {
            let inventory = match given {
                Some(inventory) => inventory,
                None => fitting(&symbols)?,
            };
            let audit = measure(&inventory, &capture, &report, &symbols);
            let tables = markdown(&audit);
            let json = serde_json::to_vec_pretty(&audit)
                .context("can't write the audit")
                .map_err(|error| Failure::new(Exit::Other, error))?;
            print(&tables)?;
            written.push(output.replace("audit.md", tables.as_bytes())?);
            written.push(output.replace("audit.json", &json)?);
        }
        for path in &written {
            say(&format!("wrote {}", path.display()));
        }
        if capture.end.reason == EndReason::Truncated {
            return Ok(Exit::CaptureTruncated);
        }
        Ok(Exit::Ok)
    }

    fn options(&self, capture: PathBuf) -> Options {
        Options {
            duration: self.duration,
            capture,
            probes: Config {
                sample_everything: true,
                ..Config::new(TOO_LONG, self.frequency)
            },
            debug_sources: self.debug.sources(),
            uncontended: !self.contended_only,
            stuck_after: STUCK_AFTER,
            from_first_instruction: false,
        }
    }
}

fn unreadable(error: capture::CaptureError) -> Failure {
    Failure::new(Exit::Capture, error)
}

fn load_inventory(path: &Path) -> Result<Inventory, Failure> {
    read_text(path, MOST_INVENTORY_BYTES)
        .and_then(|text| Ok(Inventory::from_toml(&text)?))
        .with_context(|| format!("can't use the inventory in {}", path.display()))
        .map_err(|error| Failure::new(Exit::Usage, error))
}

/// A file that is not there yet: somebody may have worked on the one that is.
fn create_new(path: &Path) -> Result<(PathBuf, File), Failure> {
    File::create_new(path)
        .map(|file| (path.to_owned(), file))
        .with_context(|| format!("can't make the new file {}", path.display()))
        .map_err(|error| Failure::new(Exit::Output, error))
}

/// holdup's own inventory, if it is about this binary.
fn fitting(symbols: &Symbols) -> Result<Inventory, Failure> {
    let inventory = Inventory::citadel();
    let symbol = inventory.symbol.as_deref().unwrap_or_default();
    if symbols.any(symbol) {
        return Ok(inventory);
    }
    let error = anyhow::anyhow!(
        "holdup has an inventory of Citadel-Protocol alone, and nothing in this binary names `{symbol}`: give one with \
         --inventory, or begin one with --init FILE"
    );
    Err(Failure::new(Exit::Usage, error))
}

/// Names of functions.
enum Symbols {
    /// All of the binary's; None when it has none.
    Binary(Option<Box<Image>>),
    /// Those that were on a stack.
    Capture(Vec<String>),
}

impl Symbols {
    fn of(process: &Process, debug: &DebugArgs) -> Result<Symbols, Failure> {
        let sources = debug.sources();
        let search = crate::target::DebugSearch::new(process, &sources);
        let image = Image::new(process.exe(), &process.exe_link().path, &search)
            .with_context(|| format!("can't read the executable of process {}", process.pid().0))
            .map_err(|error| Failure::new(Exit::Other, error))?;
        let has_symbols = image.symbols() != Whereabouts::Missing;
        Ok(Symbols::Binary(has_symbols.then(|| Box::new(image))))
    }

    fn any(&self, part: &str) -> bool {
        match self {
            Symbols::Binary(Some(image)) => image
                .named()
                .is_ok_and(|elf| elf.symbols().any(|symbol| symbol.mangled.contains(part))),
            Symbols::Binary(None) => false,
            Symbols::Capture(names) => names.iter().any(|name| name.contains(part)),
        }
    }
}

impl Names for Symbols {
    fn contain(&self, part: &str) -> Option<bool> {
        match self {
            Symbols::Binary(Some(_)) => Some(self.any(part)),
            Symbols::Binary(None) => None,
            // That one was on no stack says nothing.
            Symbols::Capture(_) => self.any(part).then_some(true),
        }
    }
}

fn functions(capture: &Capture) -> Vec<String> {
    let frames = capture.symbols.frames.values().flatten();
    frames.map(|frame| frame.function.clone()).collect()
}
