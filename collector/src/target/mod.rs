//! The process and its binaries: a pid, a name or a path goes in; an opened process, its opened
//! files and the plan of which probe goes where come out.
//!
//! Everything read here belongs to somebody else and may be hostile: no parser panics, and each
//! has a bound on what it allocates.

pub mod binary;
pub mod debuginfo;
pub mod doctor;
pub mod dwarf;
pub mod elf;
pub mod fast_paths;
pub mod handoff;
pub mod image;
pub mod insn;
pub mod maps;
pub mod mmap;
pub mod names;
pub mod process;
pub mod roots;
pub mod sites;
pub mod spawns;
pub mod split;
pub mod thread_local;
pub mod vtables;
pub mod worker_index;

pub use binary::Binary;
pub use debuginfo::{DebugSearch, DebugSources, Debuginfod};
pub use doctor::{Host, KernelVersion};
pub use elf::{Elf, ElfError};
pub use fast_paths::{FastPath, FastPaths};
pub use handoff::{Handoff, When};
pub use image::{Image, Whereabouts};
pub use insn::FirstInstruction;
pub use maps::{FileId, Mapping, Module, Modules};
pub use mmap::MappedFile;
pub use process::{Process, Seccomp, TargetError};
pub use sites::{Acquire, AttachPlan, Family, PollSite, ReturnPlace, Site, SlowPath, SlowUnlock};
