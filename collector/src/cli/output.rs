//! The output folder: found to be writable before anything is recorded, filled afterwards.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Exit, Failure};
use crate::render;
use crate::report::Report;

/// A folder that files can be made in.
pub struct OutputFolder(PathBuf);

impl OutputFolder {
    /// Makes the folder if need be, and a file in it to know that it can be done.
    pub fn prepare(folder: &Path) -> Result<OutputFolder, Failure> {
        let prepared = || -> anyhow::Result<()> {
            fs::create_dir_all(folder)?;
            let probe = folder.join(".holdup-can-write");
            fs::File::create(&probe)?.write_all(b"holdup\n")?;
            fs::remove_file(&probe)?;
            Ok(())
        };
        prepared()
            .with_context(|| {
                format!(
                    "can't write to the output folder {}: choose another one with -o",
                    folder.display()
                )
            })
            .map_err(|error| Failure::new(Exit::Output, error))?;
        Ok(OutputFolder(folder.to_owned()))
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes the flamegraphs and the report. Returns their paths.
    pub fn write(&self, report: &Report) -> Result<Vec<PathBuf>, Failure> {
        let coverage = report.coverage.notes.join("\n");
        let drawn = |flame, what: &str| {
            let info = &report.capture;
            let title = format!(
                "{what} of {} (pid {}) on {}",
                info.process_name, info.pid, info.host
            );
            render::svg(flame, what, &title, &coverage)
                .map_err(|error| Failure::new(Exit::Other, error))
        };
        let files = [
            (
                "blocking.svg",
                drawn(&report.blocking, "runtime-blocking time")?,
            ),
            ("lockwait.svg", drawn(&report.lock_wait, "lock wait")?),
            ("report.json", render::json(report)),
        ];
        let mut written = Vec::new();
        for (name, bytes) in files {
            let path = self.join(name);
            fs::write(&path, bytes)
                .with_context(|| format!("can't write {}", path.display()))
                .map_err(|error| Failure::new(Exit::Output, error))?;
            written.push(path);
        }
        Ok(written)
    }
}
