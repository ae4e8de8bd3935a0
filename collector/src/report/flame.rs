//! The model of a flamegraph: stacks with exact times. Built by the report, drawn by `render`, and
//! separate from both so that drawing needs no knowledge of polls or locks.

use serde::{Deserialize, Serialize};

use crate::{classify::Origin, event::Nanos};

/// A flamegraph: every stack with the time spent under it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flame {
    /// The stacks, in any order; the same one may come more than once.
    pub stacks: Vec<FlameStack>,
    /// Exact sum of the stacks' values.
    pub total: Nanos,
}

impl Flame {
    /// Adds a stack with its time; none of no time.
    pub(super) fn add(&mut self, frames: Vec<FlameFrame>, value: Nanos) {
        if value != Nanos::ZERO {
            self.total += value;
            self.stacks.push(FlameStack { frames, value });
        }
    }
}

impl FlameFrame {
    /// A frame that is no code.
    pub(super) fn tag(kind: FrameKind, label: String) -> FlameFrame {
        FlameFrame {
            label,
            origin: Origin::Unknown,
            kind,
        }
    }
}

/// One stack and the time that belongs to it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlameStack {
    /// Outermost first.
    pub frames: Vec<FlameFrame>,
    /// Time spent in exactly this stack.
    pub value: Nanos,
}

/// One box of a flamegraph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlameFrame {
    /// What the box says: a function with `file:line` where that is known, a task's name, or what
    /// the thread was doing (`[run queue]`).
    pub label: String,
    /// Whose code it is: its colour. A frame that is not code has [`Origin::Unknown`].
    pub origin: Origin,
    /// What sort of frame it is.
    pub kind: FrameKind,
}

/// What a frame of a flamegraph stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// A function.
    Code,
    /// A function that the compiler inlined into the frame below it.
    Inlined,
    /// The task or future at the root.
    Root,
    /// Leaf: it was running.
    OnCpu,
    /// Leaf: it waited for a lock, which the label names.
    LockWait,
    /// Leaf: it was runnable, but not running.
    RunQueue,
    /// Leaf: it was off-CPU for another reason (sleep, I/O, page fault).
    Sleep,
    /// Time that no stack could be attributed to.
    NoStack,
}
