//! A seccomp filter as containers have one, that lets everything through which this program uses.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// `Seccomp: 2` in /proc/PID/status from here on, in this thread and those it starts.
pub fn install() -> Result<(), Box<dyn std::error::Error>> {
    /// uselib, which no libc has called for decades.
    const UNUSED_SYSCALL: i64 = 134;
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(
        BTreeMap::from([(UNUSED_SYSCALL, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(38),
        arch,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}
