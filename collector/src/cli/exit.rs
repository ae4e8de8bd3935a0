//! What holdup's exit codes mean. Matched on error variants, never on their text.

use std::process::ExitCode;

/// Why a command ended, as its exit code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// None of the others.
    Other,
    /// The command line is wrong (clap's own code).
    Usage,
    /// There is no such process.
    NoProcess,
    /// Several processes fit.
    SeveralProcesses,
    /// A privilege is missing.
    Permission,
    /// The kernel can't.
    Kernel,
    /// Nothing in the target can be probed.
    NothingToProbe,
    /// The output folder can't be written.
    Output,
    /// The file is no capture, or not one that this version reads.
    Capture,
    /// The capture was cut off; the outputs hold what there was.
    CaptureTruncated,
    /// A limit of `--fail-on` is broken.
    LimitBroken,
    /// The command that was run ended with this code of its own.
    Command(u8),
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Other => 1,
            Exit::Usage => 2,
            Exit::NoProcess => 3,
            Exit::SeveralProcesses => 4,
            Exit::Permission => 5,
            Exit::Kernel => 6,
            Exit::NothingToProbe => 7,
            Exit::Output => 8,
            Exit::Capture => 9,
            Exit::CaptureTruncated => 10,
            Exit::LimitBroken => 11,
            Exit::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
