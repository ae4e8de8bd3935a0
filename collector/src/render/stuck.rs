//! Threads that are stuck, for a terminal, while they wait: a line for what is the matter, and for each thread what
//! it wants, and the path to there through the user's own code.

use super::shown;
use crate::report::StuckGroup;

/// A group, line by line.
pub fn stuck(group: &StuckGroup) -> Vec<String> {
    let mut lines = vec![group.headline.clone()];
    for member in &group.members {
        lines.push(format!("  {}", member.what));
        let frames = member.own_frames.iter();
        lines.extend(frames.map(|frame| format!("      {}", frame.with_place())));
    }
    if group.more > 0 {
        lines.push(format!("  and {} more", group.more));
    }
    lines.extend(group.advice.map(|advice| format!("  {advice}")));
    lines.iter().map(|line| shown(line)).collect()
}
