//! Which process: by pid, name or executable.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Exit, Failure};
use crate::event::Pid;
use crate::target::{Process, TargetError};

/// One of these, or none.
#[derive(Args)]
#[group(multiple = false)]
pub struct Select {
    /// The process with this id
    #[arg(long, short)]
    pid: Option<u32>,
    /// The one process with this name, as `ps` shows it
    #[arg(long)]
    name: Option<String>,
    /// The one process that runs this file
    #[arg(long, value_name = "PATH")]
    exe: Option<PathBuf>,
}

impl Select {
    /// Opens it, if one was named.
    pub fn open(&self) -> Result<Option<Process>, Failure> {
        let opened = match (self.pid, &self.name, &self.exe) {
            (Some(pid), _, _) => Process::open(Pid(pid)),
            (None, Some(name), _) => Process::find_by_name(name),
            (None, None, Some(path)) => Process::find_by_exe(path),
            (None, None, None) => return Ok(None),
        };
        opened.map(Some).map_err(target_failure)
    }
}

/// How an error about the target ends the command.
pub fn target_failure(error: TargetError) -> Failure {
    let exit = match &error {
        TargetError::NoSuchProcess(_)
        | TargetError::NoneFound { .. }
        | TargetError::NoSuchFile { .. }
        | TargetError::Exited(_) => Exit::NoProcess,
        TargetError::Several(_) => Exit::SeveralProcesses,
        TargetError::Permission { .. } => Exit::Permission,
        _ => Exit::Other,
    };
    Failure::new(exit, error)
}

/// `30s`, `2m`, `500ms`; a bare number is seconds, because that is what people type under stress.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}
