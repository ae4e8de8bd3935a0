//! What holdup said of a recording, as far as it is measured here. What enters: the folder of the recording. What leaves:
//! counts, stacks, and what the tables were made of.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// `report.json`.
pub struct Recorded(Value);

/// A frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub function: String,
    /// Not one of its own, but part of the next that is not inlined.
    pub inlined: bool,
}

/// A stack of which there may be several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// How many times it was taken.
    pub times: u64,
}

impl Stack {
    /// Frames that the kernel side walked.
    pub fn depth(&self) -> u64 {
        self.frames.iter().filter(|frame| !frame.inlined).count() as u64
    }
}

/// A long poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// By CLOCK_MONOTONIC.
    pub start_ns: u64,
    pub duration_ns: u64,
    pub sampled: Vec<Stack>,
}

/// What stacks were walked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    pub files: u64,
    pub rows: u64,
    pub rules: u64,
    /// Kernel memory of the rows.
    pub bytes: u64,
    /// Of call frame information, in all files that the process maps.
    pub source_bytes: u64,
    /// Time that making them took.
    pub took: Duration,
}

impl Recorded {
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("report.json");
        let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        Self::parse(&text)
    }

    pub fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text)
            .map(Self)
            .context("report.json is no JSON")
    }

    /// A counter of the programs in the kernel.
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.number(&format!("/counters/{name}"))
    }

    /// How many stacks of a kind (`sample`, `off_cpu`, `uprobe`) were walked.
    pub fn walks(&self, kind: &str) -> Result<u64> {
        list(&self.0["coverage"]["unwinding"])
            .find(|unwinding| unwinding["kind"] == kind)
            .and_then(|unwinding| unwinding["taken"].as_u64())
            .with_context(|| format!("report.json does not say how many {kind} stacks there are"))
    }

    pub fn tables(&self) -> Result<Tables> {
        let number = |name: &str| self.number(&format!("/coverage/unwind_tables/{name}"));
        Ok(Tables {
            files: number("files")?,
            rows: number("rows")?,
            rules: number("rules")?,
            bytes: number("bytes")?,
            source_bytes: number("source_bytes")?,
            took: Duration::from_nanos(number("took")?),
        })
    }

    /// The stacks of what long polls did, where what they did is one of these.
    pub fn stacks(&self, activities: &[&str]) -> Vec<Stack> {
        let frames = self.frames();
        list(&self.0["long_polls"])
            .flat_map(|poll| self.stacks_of(poll, activities, &frames))
            .collect()
    }

    /// The long polls, with the stacks that were sampled in them.
    pub fn polls(&self) -> Result<Vec<Poll>> {
        let recording_start_ns = self.number("/capture/started_monotonic_ns")?;
        let frames = self.frames();
        list(&self.0["long_polls"])
            .map(|poll| {
                let number = |name: &str| {
                    poll[name]
                        .as_u64()
                        .with_context(|| format!("a long poll has no {name}"))
                };
                Ok(Poll {
                    start_ns: recording_start_ns + number("start_ns")?,
                    duration_ns: number("duration_ns")?,
                    sampled: self.stacks_of(poll, &["on_cpu"], &frames),
                })
            })
            .collect()
    }

    fn frames(&self) -> Vec<Frame> {
        list(&self.0["frames"])
            .map(|frame| Frame {
                function: frame["function"].as_str().unwrap_or_default().to_owned(),
                inlined: frame["inlined"] == true,
            })
            .collect()
    }

    fn stacks_of(&self, poll: &Value, activities: &[&str], frames: &[Frame]) -> Vec<Stack> {
        let frames_of = |id: &str| {
            list(&self.0["stacks"][id])
                .filter_map(|index| frames.get(usize::try_from(index.as_u64()?).ok()?).cloned())
                .collect()
        };
        list(&poll["shares"])
            .filter(|share| {
                let activity = share["activity"].as_str();
                activity.is_some_and(|activity| activities.contains(&activity))
            })
            .filter_map(|share| {
                Some(Stack {
                    frames: frames_of(share["stack"].as_str()?),
                    times: share["events"].as_u64()?,
                })
            })
            .collect()
    }

    fn number(&self, pointer: &str) -> Result<u64> {
        self.0
            .pointer(pointer)
            .and_then(Value::as_u64)
            .with_context(|| format!("report.json has no number at {pointer}"))
    }
}

/// Frames that the kernel side walked for each stack, in the mean; not a number without a stack.
pub fn mean_depth(stacks: &[Stack]) -> f64 {
    let (mut frames, mut times) = (0, 0);
    for stack in stacks {
        frames += stack.depth() * stack.times;
        times += stack.times;
    }
    frames as f64 / times as f64
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &[u8] = br#"{
        "capture": {"started_monotonic_ns": 1000},
        "counters": {"samples": 5},
        "coverage": {
            "unwinding": [{"kind": "uprobe", "taken": 1}, {"kind": "sample", "taken": 4}],
            "unwind_tables": {"files": 6, "rows": 50, "rules": 4, "bytes": 400, "source_bytes": 200, "took": 1000}
        },
        "frames": [{"function": "add", "inlined": true}, {"function": "sum", "inlined": false},
            {"function": "main", "inlined": false}],
        "stacks": {"0x1": [0, 1, 2], "0x2": [2]},
        "long_polls": [{"start_ns": 20, "duration_ns": 30, "shares": [
            {"activity": "on_cpu", "stack": "0x1", "events": 3},
            {"activity": "on_cpu", "events": 1},
            {"activity": "sleep", "stack": "0x2", "events": 9},
            {"activity": "on_cpu", "stack": "0x2", "events": 1}]}]}"#;

    /// Inlined frames are no frames to the kernel side, and frequent stacks weigh more.
    #[test]
    fn depth_is_of_frames_that_are_walked() -> Result<()> {
        let stacks = Recorded::parse(REPORT)?.stacks(&["on_cpu"]);
        assert_eq!(stacks.len(), 2);
        assert_eq!(stacks[0].frames.len(), 3);
        assert!((mean_depth(&stacks) - 7.0 / 4.0).abs() < 1e-9);
        assert!(mean_depth(&[]).is_nan());
        Ok(())
    }

    /// In the report, times count from the recording's start.
    #[test]
    fn polls_are_of_the_monotonic_clock() -> Result<()> {
        let polls = Recorded::parse(REPORT)?.polls()?;
        assert_eq!((polls[0].start_ns, polls[0].duration_ns), (1020, 30));
        assert_eq!(polls[0].sampled.len(), 2);
        Ok(())
    }

    /// Numbers come from where the report has them; what it does not have is named.
    #[test]
    fn numbers_are_found_or_missed() -> Result<()> {
        let report = Recorded::parse(REPORT)?;
        assert_eq!(report.counter("samples")?, 5);
        assert_eq!(report.walks("sample")?, 4);
        assert!(report.walks("off_cpu").is_err());
        assert_eq!(report.tables()?.took, Duration::from_micros(1));
        let error = report.counter("frames").expect_err("it is not there");
        assert!(error.to_string().contains("/counters/frames"), "{error}");
        Ok(())
    }
}
