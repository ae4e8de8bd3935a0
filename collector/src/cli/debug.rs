//! Where debug information is.

use std::path::PathBuf;

use crate::target::{DebugSources, Debuginfod};

/// For every command that looks at a binary.
#[derive(clap::Args)]
pub struct DebugArgs {
    /// Folder with debug files of the target: NAME.debug, the file that its debug link names, its unstripped twin
    /// NAME, NAME.dwp, or .build-id/ab/cdef.debug. Can be given several times
    #[arg(long = "debug-dir", value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

impl DebugArgs {
    /// These.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// These, and the servers that the environment names.
    pub fn sources(&self) -> DebugSources {
        DebugSources {
            dirs: self.dirs.clone(),
            debuginfod: Debuginfod::from_env(),
        }
    }
}
