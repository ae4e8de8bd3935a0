//! Addresses in, frames with inlines out.
//!
//! The files are mapped when the symbolizer is made, so
//! that names are right also when the binary was replaced on disk, lies in another mount namespace,
//! or the target is long gone when its addresses are looked up. They are parsed in a child process, because
//! they may have been made to break their parser.
#![forbid(unsafe_code)]

mod file;
mod frame;
mod generics;
mod kernel;
mod process;
mod symbols;
#[cfg(test)]
mod tests;

pub use frame::{Frame, SymbolTable, Unresolved};
pub use process::{MappedModule, ProcessSymbolizer};
