//! What holdup's exit codes mean. Matched on error variants, never on their text.

use std::process::ExitCode;

/// Why a command ended, as its exit code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// None of the others.
    Other = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// There is no such process.
    NoProcess = 3,
    /// Several processes fit.
    SeveralProcesses = 4,
    /// A privilege is missing.
    Permission = 5,
    /// The kernel can't.
    Kernel = 6,
    /// Nothing in the target can be probed.
    NothingToProbe = 7,
    /// The output folder can't be written.
    Output = 8,
    /// The file is no capture, or not one that this version reads.
    Capture = 9,
    /// The capture was cut off; the outputs hold what there was.
    CaptureTruncated = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
