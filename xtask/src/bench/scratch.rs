//! A folder for what a measurement writes and nobody keeps: captures, perf's copies of stacks. What enters: nothing. What
//! leaves: a folder that is gone with its handle.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub struct Scratch(PathBuf);

impl Scratch {
    /// It must not be there yet: everybody can make a link of that name.
    pub fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("holdup-bench-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("could not make {}", dir.display()))?;
        Ok(Self(dir))
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}
