//! Two stacks of one place, from two unwinders and two readers of debug information.

use std::fmt::Write as _;

/// A frame on the stack, with what was inlined into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Physical {
    /// Innermost first; the last is the function itself. None for one that may have any name.
    pub names: Vec<Option<String>>,
}

impl Physical {
    /// Its function, without what was inlined into it.
    pub fn function(&self) -> &str {
        self.names.last().and_then(Option::as_deref).unwrap_or("?")
    }
}

/// A whole stack, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    pub frames: Vec<Physical>,
}

/// The function of std's that a thread begins with. Outside of it are only the C library's `start_thread` and
/// `clone3`: what they are called depends on the symbols that a distribution leaves in, and one unwinder counts
/// the frame that has no caller, another one does not.
const THREAD_START: &str = "thread_start";

impl Stack {
    /// Of source-level frames: the name and whether it was inlined into the next one.
    pub fn new(source_level: impl Iterator<Item = (Option<String>, bool)>) -> Self {
        let mut frames = Vec::new();
        let mut names = Vec::new();
        for (name, inlined) in source_level {
            names.push(name);
            if !inlined {
                frames.push(Physical {
                    names: std::mem::take(&mut names),
                });
            }
        }
        if !names.is_empty() {
            frames.push(Physical { names });
        }
        Self { frames }
    }

    /// The frames below the innermost call of a function: from its caller outward.
    pub fn outside_of(&self, function: &str) -> Option<&[Physical]> {
        let at = self
            .frames
            .iter()
            .position(|frame| frame.function() == function)?;
        Some(&self.frames[at + 1..])
    }
}

/// Up to where std begins a thread. A stack that does not get there stays whole, and differs from one that does.
fn up_to_thread_start(frames: &[Physical]) -> &[Physical] {
    let end = frames
        .iter()
        .position(|frame| frame.function().ends_with(THREAD_START));
    &frames[..end.map_or(frames.len(), |end| end + 1)]
}

/// Fails, with both side by side, unless the stack is one of those that are known.
pub fn with_any(stack: &[Physical], known: &[Stack]) -> Result<(), String> {
    compare(stack, known, |same, stack, known| {
        same == stack && same == known
    })
}

/// The same for a stack whose outermost frames are missing, and known to be missing.
pub fn as_far_as_it_goes(stack: &[Physical], known: &[Stack]) -> Result<(), String> {
    compare(stack, known, |same, stack, _| same == stack)
}

/// `agrees` is asked with the number of frames that are the same, and that both have.
fn compare(
    stack: &[Physical],
    known: &[Stack],
    agrees: impl Fn(usize, usize, usize) -> bool,
) -> Result<(), String> {
    let stack = up_to_thread_start(stack);
    let nearest = known
        .iter()
        .map(|known| {
            let known = up_to_thread_start(&known.frames);
            let same = stack.iter().zip(known).take_while(|(a, b)| agree(a, b));
            (same.count(), known)
        })
        .max_by_key(|(count, _)| *count);
    let Some((count, nearest)) = nearest else {
        return Err("no backtrace is known".to_owned());
    };
    if agrees(count, stack.len(), nearest.len()) {
        return Ok(());
    }
    Err(format!(
        "differs at frame {count} outside of the marker\n{}",
        side_by_side(stack, nearest)
    ))
}

fn agree(frame: &Physical, known: &Physical) -> bool {
    match known.names.as_slice() {
        [None] => true,
        names => names == frame.names,
    }
}

fn side_by_side(stack: &[Physical], known: &[Physical]) -> String {
    const WIDTH: usize = 78;
    let mut text = format!("     {:<WIDTH$} | the workload\n", "holdup");
    for at in 0..stack.len().max(known.len()) {
        let (left, right) = (lines(stack.get(at)), lines(known.get(at)));
        let same = matches!((stack.get(at), known.get(at)), (Some(a), Some(b)) if agree(a, b));
        for line in 0..left.len().max(right.len()) {
            let of = |lines: &[String]| lines.get(line).cloned().unwrap_or_default();
            let mark = if same { ' ' } else { '!' };
            let _ = writeln!(text, "{at:>3} {mark}{:<WIDTH$} | {}", of(&left), of(&right));
        }
    }
    text
}

fn lines(frame: Option<&Physical>) -> Vec<String> {
    let Some(frame) = frame else {
        return Vec::new();
    };
    let outermost = frame.names.len() - 1;
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "(any name)".to_owned());
    frame
        .names
        .iter()
        .enumerate()
        .map(|(at, it)| {
            if at < outermost {
                format!("(inlined) {}", name(it))
            } else {
                name(it)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Stack {
        Stack::new(functions.iter().map(|name| {
            let inlined = name.starts_with("inlined ");
            let name = name.trim_start_matches("inlined ");
            ((name != "?").then(|| name.to_owned()), inlined)
        }))
    }

    /// A frame too few or too many, another function, inlining lost or swapped: each is noticed.
    #[test]
    fn every_difference_is_noticed() {
        let known = [
            stack(&["other", "new::thread_start", "?"]),
            stack(&[
                "a",
                "inlined b",
                "inlined c",
                "d",
                "?",
                "new::thread_start",
                "?",
            ]),
        ];
        let check = |functions: &[&str]| with_any(&stack(functions).frames, &known);
        for same in [
            ["a", "inlined b", "inlined c", "d", "x", "new::thread_start"],
            ["a", "inlined b", "inlined c", "d", "y", "new::thread_start"],
        ] {
            assert_eq!(check(&same), Ok(()));
        }
        for different in [
            &["a", "inlined b", "inlined c", "d", "new::thread_start"][..],
            &[
                "a",
                "a",
                "inlined b",
                "inlined c",
                "d",
                "x",
                "new::thread_start",
            ],
            &["a", "inlined c", "inlined b", "d", "x", "new::thread_start"],
            &["a", "inlined b", "d", "x", "new::thread_start"],
            &["a", "b", "c", "d", "x", "new::thread_start"],
            &["a", "inlined b", "inlined c", "d", "x"],
            &["inlined b", "inlined c", "d", "x", "new::thread_start"],
            &[],
        ] {
            let said = check(different).expect_err("it differs");
            assert!(said.contains('!'), "{said}");
        }
        assert!(with_any(&[], &[]).is_err());
        let cut = |functions: &[&str]| as_far_as_it_goes(&stack(functions).frames, &known);
        assert_eq!(cut(&["a", "inlined b", "inlined c", "d"]), Ok(()));
        assert_eq!(cut(&[]), Ok(()));
        assert!(cut(&["a", "d"]).is_err());
    }
}
