//! Findings and the report model: what a person is told, before anything is drawn.
//!
//! A [`Capture`] and [`Rules`] go in, a [`Report`] comes out. Pure: the same capture and rules give the same
//! report, byte for byte, on any machine.
#![forbid(unsafe_code)]

mod flame;
mod model;

pub use flame::{Flame, FlameFrame, FlameStack, FrameKind};
pub use model::*;

use crate::capture::Capture;
use crate::classify::Rules;

/// Makes the report of a capture.
pub fn build(_capture: &Capture, _rules: &Rules) -> Report {
    todo!("built from the capture")
}
