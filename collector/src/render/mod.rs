//! The report goes in, bytes go out; nothing is computed here.
#![forbid(unsafe_code)]

mod json;
mod stuck;
mod svg;
mod terminal;
mod timeline;

pub use json::json;
pub use stuck::stuck;
pub use svg::{SvgError, svg};
pub use terminal::{shown, terminal};
pub use timeline::timeline;
