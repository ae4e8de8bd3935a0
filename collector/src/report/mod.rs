//! Findings and the report model: what a person is told, before anything is drawn.
#![forbid(unsafe_code)]

mod flame;

pub use flame::{Flame, FlameFrame, FlameStack, FrameKind};
