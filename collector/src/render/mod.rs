//! The report goes in, bytes go out; nothing is computed here.
#![forbid(unsafe_code)]

mod svg;

pub use svg::{SvgError, svg};
