//! The output folder: found to be writable before anything is recorded, filled afterwards.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Exit, Failure};
use crate::render;
use crate::report::Report;

/// A folder that files can be made in, and that no other holdup writes to meanwhile.
pub struct OutputFolder {
    path: PathBuf,
    /// Holds the lock on the folder.
    _locked: File,
}

impl OutputFolder {
    /// Makes the folder if need be, and a file in it to know that it can be done.
    pub fn prepare(folder: &Path) -> Result<OutputFolder, Failure> {
        let prepared = || -> anyhow::Result<File> {
            fs::create_dir_all(folder)?;
            let locked = File::open(folder)?;
            // Any other failure is a file system without locks: two recordings at once are then the user's
            // business.
            if flock(&locked, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
                anyhow::bail!("another holdup is writing to it");
            }
            // An unguessable name that must not exist yet: root may be writing to a folder of somebody who
            // lays links in its way.
            tempfile::NamedTempFile::new_in(folder)?.write_all(b"holdup\n")?;
            Ok(locked)
        };
        let locked = prepared()
            .with_context(|| {
                format!(
                    "can't write to the output folder {}: choose another one with -o",
                    folder.display()
                )
            })
            .map_err(|error| Failure::new(Exit::Output, error))?;
        Ok(OutputFolder {
            path: folder.to_owned(),
            _locked: locked,
        })
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the flamegraphs and the report. Returns their paths.
    pub fn write(&self, report: &Report) -> Result<Vec<PathBuf>, Failure> {
        let coverage = report.coverage.notes.join("\n");
        let title = |what: &str| {
            let info = &report.capture;
            format!(
                "{what} of {} (pid {}) on {}",
                info.process_name, info.pid, info.host
            )
        };
        let drawn = |flame, what: &str| {
            render::svg(flame, what, &title(what), &coverage)
                .map_err(|error| Failure::new(Exit::Other, error))
        };
        let files = [
            (
                "blocking.svg",
                drawn(&report.blocking, "runtime-blocking time")?,
            ),
            ("lockwait.svg", drawn(&report.lock_wait, "lock wait")?),
            (
                "lockholder.svg",
                drawn(&report.lock_holder, "lock wait by holder")?,
            ),
            (
                "lockpairs.svg",
                drawn(&report.lock_pairs, "lock wait by holder and waiter")?,
            ),
            ("oncpu.svg", drawn(&report.on_cpu, "CPU time (estimated)")?),
            (
                "timeline.svg",
                render::timeline(report, &title("threads of the runtime"), &coverage),
            ),
            ("report.json", render::json(report)),
        ];
        let mut written = Vec::new();
        for (name, bytes) in files {
            written.push(self.replace(name, &bytes)?);
        }
        Ok(written)
    }

    /// Writes one file, in place of one that has its name. Returns its path.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.join(name);
        replace(&self.path, &path, bytes)
            .with_context(|| format!("can't write {}", path.display()))
            .map_err(|error| Failure::new(Exit::Output, error))?;
        Ok(path)
    }
}

/// Writes a file whole or not at all, in place of whatever has its name; a link is replaced, not followed.
fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
