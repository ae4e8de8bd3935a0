//! One file for each subcommand: clap's types become a plain configuration, then one call.

mod audit;
mod debug;
mod doctor;
mod exit;
mod followed;
mod output;
mod record;
mod report;
mod run;
mod say;
mod select;
mod signals;
mod user;

pub use exit::Exit;
pub use say::say;

use clap::{Parser, Subcommand};

/// Says which lock, which task and which line of code holds up a live Tokio process.
#[derive(Parser)]
#[command(name = "holdup", version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record one capture of a running process, and report on it
    Record(record::Args),
    /// Measure a locking audit: its own table, with what was seen of each lock beside what it says
    Audit(audit::Args),
    /// Run a command, record every process of it that has something to probe, and fail if a limit is broken
    Run(run::Args),
    /// Record one process of a command
    #[command(hide = true)]
    RecordFollowed(followed::Args),
    /// Report on a capture again, anywhere: without root, without the binary
    Report(report::Args),
    /// Say what this kernel and this binary allow, probe family by probe family
    Doctor(doctor::Args),
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> Result<Exit, Failure> {
        match self.command {
            Command::Record(args) => args.run(),
            Command::Audit(args) => args.run(),
            Command::Run(args) => args.run(),
            Command::RecordFollowed(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Doctor(args) => args.run(),
        }
    }
}

/// A command that failed: what to say, and how to end.
#[derive(Debug)]
pub struct Failure {
    /// For the person.
    pub error: anyhow::Error,
    /// For the script.
    pub exit: Exit,
}

impl Failure {
    /// Both.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure {
            error: error.into(),
            exit,
        }
    }
}
