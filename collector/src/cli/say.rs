//! What holdup says beside its result. Nobody may be listening any more: a closed or full stderr must not
//! cost a recording.

use std::io::Write as _;

use crate::render::shown;

/// A line on stderr, begun with the program's name. Names of the target's in it can't steer the terminal.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "holdup: {}", shown(line));
}
