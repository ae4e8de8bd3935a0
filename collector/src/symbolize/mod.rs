//! Addresses in, frames with inlines out.
#![forbid(unsafe_code)]

mod frame;

pub use frame::{Frame, SymbolTable, Unresolved};
