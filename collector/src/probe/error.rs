//! What can go wrong between holdup and the kernel.

use std::io;

use thiserror::Error;

/// Why a program could not be loaded, attached or read.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The kernel refused for lack of privilege.
    #[error(
        "the kernel does not let this process {attempted}: it takes CAP_BPF and CAP_PERFMON (or \
         CAP_SYS_ADMIN); run holdup with sudo"
    )]
    Permission {
        /// What was refused.
        attempted: String,
    },
    /// The kernel can't.
    #[error(
        "this kernel can't {attempted}: {source}; holdup needs Linux 5.18 or newer with BPF and uprobes"
    )]
    Kernel {
        /// What it can't.
        attempted: String,
        /// What it said.
        source: io::Error,
    },
    /// The verifier rejected a program, which is a defect of holdup on this kernel.
    #[error(
        "the kernel's verifier rejected {program}: please report this with the kernel's version. {log}"
    )]
    Verifier {
        /// The program.
        program: String,
        /// The end of its log.
        log: String,
    },
    /// The object that holdup carries is broken.
    #[error("holdup's own eBPF object is unusable: {0}")]
    Object(String),
    /// A map could not be read or written.
    #[error("could not {attempted} map {map}: {reason}")]
    Map {
        /// Read, write ...
        attempted: &'static str,
        /// The map.
        map: &'static str,
        /// Why not.
        reason: String,
    },
}

impl ProbeError {
    /// Sorts a failed system call by what a person can do about it.
    pub(super) fn from_io(attempted: impl Into<String>, source: io::Error) -> ProbeError {
        let attempted = attempted.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ProbeError::Permission { attempted },
            _ => ProbeError::Kernel { attempted, source },
        }
    }

    /// The same for an error of aya's, whose causes hold the system call's.
    pub(super) fn from_aya(
        attempted: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> ProbeError {
        let attempted = attempted.into();
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(aya::programs::ProgramError::LoadError {
                io_error,
                verifier_log,
            }) = error.downcast_ref()
                && !matches!(io_error.raw_os_error(), Some(libc::EPERM))
            {
                return ProbeError::Verifier {
                    program: attempted,
                    log: tail(&verifier_log.to_string()),
                };
            }
            if let Some(io_error) = error.downcast_ref::<io::Error>() {
                let copy = io_error.raw_os_error().map_or_else(
                    || io::Error::other(io_error.to_string()),
                    io::Error::from_raw_os_error,
                );
                return ProbeError::from_io(attempted, copy);
            }
            cause = error.source();
        }
        ProbeError::Kernel {
            attempted,
            source: io::Error::other(error.to_string()),
        }
    }
}

/// The end of a verifier log is where the reason stands.
pub(super) fn tail(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
