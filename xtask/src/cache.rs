//! The folder for what takes long to build and belongs to no checkout: the eBPF linker, the workloads.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// `$HOLDUP_CACHE`, else `$XDG_CACHE_HOME/holdup`, else `~/.cache/holdup`; made if it does not exist.
pub fn dir() -> Result<PathBuf> {
    let dir = env::var_os("HOLDUP_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("holdup")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache/holdup")))
        .context("no place for the cache: set HOLDUP_CACHE to a folder")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    dir.canonicalize()
        .with_context(|| format!("could not resolve {}", dir.display()))
}
