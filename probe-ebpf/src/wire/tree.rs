//! Following a command and its descendants: what the kernel side says of the programs they start, and what user
//! space tells it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::EventHeader;

/// [`ProgramStarted`]. In a ring buffer of its own, far above the codes of a recording's.
pub const EVENT_PROGRAM_STARTED: u32 = 0x100;

/// A process of the tree runs a new program, and was stopped before the first instruction of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProgramStarted {
    /// `kind` is [`EVENT_PROGRAM_STARTED`].
    pub header: EventHeader,
    /// The process, in holdup's PID namespace.
    pub pid: u32,
    /// Always zero.
    pub zero: u32,
}

// Indices of the switches that user space sets.

/// Non-zero until the next child of holdup's own: that one is the command.
pub const SWITCH_LAUNCHING: u32 = 0;
/// Non-zero while somebody is there to continue what is stopped.
pub const SWITCH_STOPPING: u32 = 1;
/// How many switches there are.
pub const SWITCHES: u32 = 2;

// Indices of the tree's counters.

/// Programs that were stopped before their first instruction.
pub const TREE_STOPPED: u32 = 0;
/// Programs that ran unseen: there was no room to remember them, or they could not be stopped.
pub const TREE_NOT_STOPPED: u32 = 1;
/// Programs that ran unseen in another PID namespace, where they have no id that holdup knows.
pub const TREE_OTHER_NAMESPACE: u32 = 2;
/// Processes and threads that found no room in the tree: what they start runs unseen.
pub const TREE_NO_ROOM: u32 = 3;
/// Children of recorded processes that ended without having started a program: they ran their parent's, unseen.
pub const TREE_FORKS_OF_RECORDED: u32 = 4;
/// How many there are.
pub const TREE_COUNTERS: u32 = 5;
