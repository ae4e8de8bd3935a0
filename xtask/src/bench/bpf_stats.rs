//! The kernel's own account of what BPF programs cost. What enters: the sysctl switched on for a while. What
//! leaves: runs and nanoseconds, without the traps that lead to the programs, and what memory their maps take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
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

/// What a program cost so far, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub runs: u64,
    pub ns: u64,
}

/// What one process has in the kernel, by id; others on this machine may have loaded the same programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
}

impl Owned {
    /// By the process's open files.
    pub fn by(pid: u32) -> Result<Self> {
        let dir = format!("/proc/{pid}/fdinfo");
        let mut owned = Self::default();
        for entry in fs::read_dir(&dir).with_context(|| format!("could not list {dir}"))? {
            // A file that was closed meanwhile.
            if let Ok(info) = fs::read_to_string(entry?.path()) {
                owned.add(&info);
            }
        }
        Ok(owned)
    }

    /// A program's file and its links' name the program, a map's file the map.
    fn add(&mut self, info: &str) {
        for line in info.lines() {
            let (ids, id) = match line.split_once(':') {
                Some(("prog_id", id)) => (&mut self.programs, id),
                Some(("map_id", id)) => (&mut self.maps, id),
                _ => continue,
            };
            ids.extend(id.trim().parse::<u64>());
        }
    }

    /// Kernel memory of its maps: rings, tables, stacks.
    pub fn map_bytes(&self) -> Result<u64> {
        let maps = bpftool("map")?;
        let of_map = |map: &Value| {
            let id = map["id"].as_u64()?;
            self.maps
                .contains(&id)
                .then(|| map["bytes_memlock"].as_u64())
                .flatten()
        };
        Ok(maps.iter().filter_map(of_map).sum())
    }
}

/// Name and cost by program id.
pub struct Programs(BTreeMap<u64, (String, Cost)>);

impl Programs {
    pub fn now() -> Result<Self> {
        let list = bpftool("prog")?;
        let programs = list.iter().filter_map(|program| {
            let number = |name: &str| program[name].as_u64();
            // Programs that have not run have neither field.
            let cost = Cost {
                runs: number("run_cnt").unwrap_or(0),
                ns: number("run_time_ns").unwrap_or(0),
            };
            let name = program["name"].as_str().unwrap_or_default();
            Some((number("id")?, (name.to_owned(), cost)))
        });
        Ok(Self(programs.collect()))
    }

    /// The cost since `start` of all that is `owned`.
    pub fn cost_since(&self, start: &Self, owned: &Owned) -> Cost {
        self.sum(start, owned, |_| true)
    }

    /// The cost since `start` of those with this name.
    pub fn cost_of(&self, name: &str, start: &Self, owned: &Owned) -> Cost {
        self.sum(start, owned, |program| program == name)
    }

    fn sum(&self, start: &Self, owned: &Owned, wanted: impl Fn(&str) -> bool) -> Cost {
        let mut sum = Cost::default();
        for (id, (name, cost)) in &self.0 {
            if owned.programs.contains(id) && wanted(name) {
                let before = start.0.get(id).map_or(Cost::default(), |(_, cost)| *cost);
                sum.runs += cost.runs.saturating_sub(before.runs);
                sum.ns += cost.ns.saturating_sub(before.ns);
            }
        }
        sum
    }
}

/// A program of one process, which can be looked at often: it is a read of a file.
pub struct Loaded(PathBuf);

impl Loaded {
    /// The program of this name.
    pub fn find(pid: u32, name: &str) -> Result<Self> {
        let programs = Programs::now()?;
        let dir = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&dir).with_context(|| format!("could not list {dir}"))? {
            let path = entry?.path();
            let info = fs::read_to_string(&path).unwrap_or_default();
            let named = |id| programs.0.get(&id).is_some_and(|(of, _)| of == name);
            if cost_in(&info).is_some() && field(&info, "prog_id").is_some_and(named) {
                return Ok(Self(path));
            }
        }
        bail!("process {pid} has no program {name}")
    }

    /// So far.
    pub fn cost(&self) -> Result<Cost> {
        let info = fs::read_to_string(&self.0)
            .with_context(|| format!("could not read {}", self.0.display()))?;
        cost_in(&info).with_context(|| format!("no statistics in {}", self.0.display()))
    }
}

/// A link's file names its program, but only the program's own has this.
fn cost_in(info: &str) -> Option<Cost> {
    Some(Cost {
        runs: field(info, "run_cnt")?,
        ns: field(info, "run_time_ns")?,
    })
}

fn field(info: &str, name: &str) -> Option<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.trim().parse().ok())
}

/// All programs or maps in the kernel.
fn bpftool(what: &str) -> Result<Vec<Value>> {
    let json = command::output(Command::new("bpftool").args(["--json", what, "show"]))?;
    serde_json::from_str(&json).with_context(|| format!("bpftool printed no list of each {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(list: &[(u64, &str, u64, u64)]) -> Programs {
        Programs(
            list.iter()
                .map(|&(id, name, runs, ns)| (id, (name.to_owned(), Cost { runs, ns })))
                .collect(),
        )
    }

    /// Programs of others are not its cost, nor what its own did before.
    #[test]
    fn only_the_observers_programs_count() {
        let owned = Owned {
            programs: [2, 3].into(),
            maps: [].into(),
        };
        let start = programs(&[(1, "poll_enter", 20, 2_000), (2, "poll_enter", 5, 50)]);
        let end = programs(&[
            (1, "poll_enter", 30, 3_000),
            (2, "poll_enter", 9, 90),
            (3, "cpu_sample", 1, 7),
        ]);
        assert_eq!(end.cost_since(&start, &owned), Cost { runs: 5, ns: 47 });
        let samples = end.cost_of("cpu_sample", &start, &owned);
        assert_eq!(samples, Cost { runs: 1, ns: 7 });
    }

    /// As the kernel prints the files of a program, of a link and of a map.
    #[test]
    fn what_a_process_owns_is_in_its_files() {
        let mut owned = Owned::default();
        owned.add("pos:\t0\nflags:\t02000002\nprog_type:\t2\nprog_id:\t41\nrun_cnt:\t9\n");
        owned.add("link_type:\tuprobe_multi\nlink_id:\t7\nprog_id:\t41\n");
        owned.add("map_type:\t27\nmap_id:\t12\nfrozen:\t0\n");
        owned.add("");
        let program = "prog_type:\t7\nprog_id:\t41\nrun_time_ns:\t900\nrun_cnt:\t9\n";
        assert_eq!(cost_in(program), Some(Cost { runs: 9, ns: 900 }));
        assert_eq!(cost_in("link_id:\t7\nprog_id:\t41\n"), None);
        assert_eq!((owned.programs, owned.maps), ([41].into(), [12].into()));
    }
}
