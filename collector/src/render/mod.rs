//! The report goes in, bytes go out; nothing is computed here.
#![forbid(unsafe_code)]

mod json;
mod svg;
mod terminal;

pub use json::json;
pub use svg::{SvgError, svg};
pub use terminal::{shown, terminal};
