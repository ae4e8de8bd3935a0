//! The kernel's own account of what BPF programs cost. What enters: the sysctl switched on for a while. What
//! leaves: runs and nanoseconds, without the traps that lead to the programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Statistics are on as long as this lives; then they are what they were before.
pub struct Enabled {
    before: String,
}

impl Enabled {
    pub fn new() -> Result<Self> {
        let switch = Path::new(SWITCH);
        let before =
            fs::read_to_string(switch).with_context(|| format!("could not read {SWITCH}"))?;
        fs::write(switch, "1").with_context(|| format!("could not write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!(
                "could not set {SWITCH} back to {}: {error}",
                self.before.trim()
            );
        }
    }
}

/// What all programs of a kind cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub runs: u64,
    pub ns: u64,
}

/// Cost by program id.
pub struct Programs(BTreeMap<u64, Cost>);

impl Programs {
    pub fn now() -> Result<Self> {
        let json = command::output(Command::new("bpftool").args(["--json", "prog", "show"]))?;
        let list: Value = serde_json::from_str(&json).context("bpftool printed no JSON")?;
        let programs = list.as_array().into_iter().flatten().filter_map(|program| {
            let number = |name: &str| program[name].as_u64();
            // Programs that have not run have neither field.
            let cost = Cost {
                runs: number("run_cnt").unwrap_or(0),
                ns: number("run_time_ns").unwrap_or(0),
            };
            Some((number("id")?, cost))
        });
        Ok(Self(programs.collect()))
    }

    /// The cost since `start` of programs that are not in `others`.
    pub fn cost_since(&self, start: &Self, others: &Self) -> Cost {
        let mut sum = Cost::default();
        for (id, cost) in self.0.iter().filter(|(id, _)| !others.0.contains_key(id)) {
            let before = start.0.get(id).copied().unwrap_or_default();
            sum.runs += cost.runs.saturating_sub(before.runs);
            sum.ns += cost.ns.saturating_sub(before.ns);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was loaded before the observer came is not its cost.
    #[test]
    fn only_new_programs_count() {
        let programs = |list: &[(u64, u64, u64)]| {
            Programs(
                list.iter()
                    .map(|&(id, runs, ns)| (id, Cost { runs, ns }))
                    .collect(),
            )
        };
        let others = programs(&[(1, 10, 1_000)]);
        let start = programs(&[(1, 20, 2_000), (2, 5, 50)]);
        let end = programs(&[(1, 30, 3_000), (2, 9, 90), (3, 1, 7)]);
        assert_eq!(end.cost_since(&start, &others), Cost { runs: 5, ns: 47 });
    }
}
