//! Stacks and their frames, told apart. What enters: windows of one recording, in each of which so many stacks of so many
//! frames took so long. What leaves: the plane through them that errs least.
//!
//! ```text
//! ns = stacks * stack_ns + frames * frame_ns
//! ```
//!
//! Within one recording, because caches are another matter in every program: two programs give a line through their
//! caches.

/// What was done in a window, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub stacks: f64,
    pub frames: f64,
    pub ns: f64,
}

/// What each of them costs.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub stack_ns: f64,
    pub frame_ns: f64,
}

impl Line {
    /// By least squares; None where all windows have stacks of the same depth, which tell nothing.
    pub fn through(windows: &[Window]) -> Option<Self> {
        let sum = |of: fn(&Window) -> f64| windows.iter().map(of).sum::<f64>();
        let stacks_stacks = sum(|window| window.stacks * window.stacks);
        let stacks_frames = sum(|window| window.stacks * window.frames);
        let frames_frames = sum(|window| window.frames * window.frames);
        let stacks_ns = sum(|window| window.stacks * window.ns);
        let frames_ns = sum(|window| window.frames * window.ns);
        let determinant = stacks_stacks * frames_frames - stacks_frames * stacks_frames;
        // Relative, because the sums grow with the windows; of equal depths it is zero but for rounding.
        (determinant > 1e-9 * stacks_stacks * frames_frames).then(|| Self {
            stack_ns: (frames_frames * stacks_ns - stacks_frames * frames_ns) / determinant,
            frame_ns: (stacks_stacks * frames_ns - stacks_frames * stacks_ns) / determinant,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(stacks: f64, depth: f64, ns: f64) -> Window {
        Window {
            stacks,
            frames: stacks * depth,
            ns,
        }
    }

    /// Windows of different depth tell what a frame costs and what a stack.
    #[test]
    fn frames_are_told_from_stacks() {
        let windows = [(10.0, 20.0), (40.0, 30.0), (5.0, 200.0)]
            .map(|(stacks, depth)| window(stacks, depth, stacks * (2_000.0 + depth * 90.0)));
        let line = Line::through(&windows).expect("the depths differ");
        assert!((line.frame_ns - 90.0).abs() < 1e-6, "{line:?}");
        assert!((line.stack_ns - 2_000.0).abs() < 1e-3, "{line:?}");
    }

    /// Windows that err to both sides still give what is between.
    #[test]
    fn errors_to_both_sides_cancel() {
        let windows = [
            window(10.0, 10.0, 10.0 * 1_000.0 + 500.0),
            window(10.0, 10.0, 10.0 * 1_000.0 - 500.0),
            window(10.0, 50.0, 10.0 * 3_000.0 + 700.0),
            window(10.0, 50.0, 10.0 * 3_000.0 - 700.0),
        ];
        let line = Line::through(&windows).expect("the depths differ");
        assert!((line.frame_ns - 50.0).abs() < 1e-6, "{line:?}");
        assert!((line.stack_ns - 500.0).abs() < 1e-6, "{line:?}");
    }

    /// Stacks of one depth could be all frames or none.
    #[test]
    fn equal_depths_tell_nothing() {
        let windows = [window(10.0, 20.0, 10_000.0), window(30.0, 20.0, 31_000.0)];
        assert!(Line::through(&windows).is_none());
        assert!(Line::through(&[]).is_none());
    }
}
