//! The exit codes, as scripts match on them: written out again, so that a change shows.

pub const USAGE: i32 = 2;
pub const NO_SUCH_PROCESS: i32 = 3;
pub const SEVERAL_PROCESSES: i32 = 4;
pub const NO_PERMISSION: i32 = 5;
pub const NOTHING_TO_PROBE: i32 = 7;
pub const OUTPUT_NOT_WRITABLE: i32 = 8;
pub const CAPTURE_UNREADABLE: i32 = 9;
pub const CAPTURE_TRUNCATED: i32 = 10;
pub const LIMIT_BROKEN: i32 = 11;
