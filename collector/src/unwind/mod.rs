//! Tables for the unwinder in the kernel: a process's mapped binaries go in, what the kernel side needs to walk
//! its stacks comes out.
//!
//! ```text
//!   .eh_frame -> Table (rows by address, rules by number)    table.rs, rule.rs
//!   Tables    -> chunks, shared between processes            registry.rs
//!   Modules   -> ranges of each process's address space      layout.rs
//!   all three -> a stack that is walked in user space        kept.rs, walk.rs
//! ```
//!
//! The binaries are untrusted: a table is bounded, and what can't be understood becomes a row that says so, which
//! the kernel side counts when a stack meets it.
#![forbid(unsafe_code)]

#[cfg(test)]
mod binaries;
mod kept;
mod layout;
mod registry;
mod rule;
mod table;
mod walk;

pub use kept::{Kept, KeptBeside};
pub use registry::{FileTable, Kernel, NoKernel, Tables};
pub use rule::{Architecture, RuleSet};
pub use table::{Frames, Table, TableError};
pub use walk::{Thread, Walked, WalkedFrame, walk};
