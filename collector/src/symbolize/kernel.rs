//! Code that the kernel brought: its own, and the vDSO that it maps into each process.
//!
//! Both are the running kernel's, so they are looked up there: its own symbols in
//! /proc/kallsyms, and the vDSO in holdup's own copy, for every process has the same one.

use std::fs;

use blazesym::{
    MaybeDefault, Pid,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Kernel, Process, Source},
    },
};

use super::{Frame, Unresolved};

/// Addresses from here on are the kernel's on every 64-bit Linux: the upper half.
const KERNEL_START: u64 = 1 << 63;

/// Whether the address is the kernel's.
pub(super) fn is_kernel(addr: u64) -> bool {
    addr >= KERNEL_START
}

/// The running kernel's symbols.
pub(super) struct KernelSymbols {
    symbolizer: Symbolizer,
    /// Where holdup's own vDSO is.
    own_vdso: Option<u64>,
}

impl KernelSymbols {
    pub(super) fn new() -> KernelSymbols {
        KernelSymbols {
            symbolizer: Symbolizer::new(),
            own_vdso: fs::read_to_string("/proc/self/maps")
                .ok()
                .as_deref()
                .and_then(vdso_start),
        }
    }

    /// Name of an address of the kernel. Without the right to see /proc/kallsyms it is a number.
    pub(super) fn frame(&self, addr: u64) -> Frame {
        let kernel = Kernel {
            // kallsyms is enough for a name; vmlinux, where there is one, takes hundreds of megabytes.
            vmlinux: MaybeDefault::None,
            ..Kernel::default()
        };
        let name = self.name(&Source::Kernel(kernel), addr);
        let unresolved = name.is_none().then_some(Unresolved::NoSymbol);
        Frame {
            function: name.unwrap_or_else(|| format!("[kernel]+{addr:#x}")),
            generics: None,
            file: None,
            line: None,
            module: "[kernel]".into(),
            inlined: false,
            unresolved,
        }
    }

    /// Name of the code at `offset` in the vDSO.
    pub(super) fn vdso_frame(&self, offset: u64) -> Option<Frame> {
        let mut own = Process::new(Pid::Slf);
        own.debug_syms = false;
        own.perf_map = false;
        own.map_files = false;
        let addr = self.own_vdso?.checked_add(offset)?;
        Some(Frame {
            function: self.name(&Source::Process(own), addr)?,
            generics: None,
            file: None,
            line: None,
            module: "[vdso]".into(),
            inlined: false,
            unresolved: None,
        })
    }

    fn name(&self, source: &Source<'_>, addr: u64) -> Option<String> {
        match self
            .symbolizer
            .symbolize_single(source, Input::AbsAddr(addr))
        {
            Ok(Symbolized::Sym(sym)) => Some(sym.name.into_owned()),
            Ok(Symbolized::Unknown(_)) | Err(_) => None,
        }
    }
}

/// Start of the vDSO in the text of /proc/PID/maps.
fn vdso_start(maps: &str) -> Option<u64> {
    let line = maps.lines().find(|line| line.ends_with(" [vdso]"))?;
    u64::from_str_radix(line.split('-').next()?, 16).ok()
}
