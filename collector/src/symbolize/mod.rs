//! Addresses in, frames with inlines out.
//!
//! The files are opened when the symbolizer is made and read through the descriptors it keeps, so
//! that names are right also when the binary was replaced on disk, lies in another mount namespace,
//! or the target is long gone when its addresses are looked up.
#![forbid(unsafe_code)]

mod file;
mod frame;
mod kernel;
mod process;
#[cfg(test)]
mod tests;

pub use frame::{Frame, SymbolTable, Unresolved};
pub use process::{MappedModule, ProcessSymbolizer};
