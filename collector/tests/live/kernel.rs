//! What is in the kernel. What enters: the kernel's own lists. What leaves: whether a recording left
//! anything behind.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Ids of everything of BPF that is loaded, and the probes that tracefs knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    programs: BTreeSet<u64>,
    links: BTreeSet<u64>,
    uprobe_events: String,
}

impl Loaded {
    pub fn now() -> Self {
        // Not there without tracefs; nothing can be in it then.
        let uprobe_events =
            fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap_or_default();
        Self {
            programs: ids("prog"),
            links: ids("link"),
            uprobe_events,
        }
    }

    /// Fails if something is there that was not. The kernel frees programs a moment after the last user
    /// is gone.
    #[track_caller]
    pub fn expect_nothing_new(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let now = Self::now();
            let clean = now.programs.is_subset(&self.programs)
                && now.links.is_subset(&self.links)
                && now.uprobe_events == self.uprobe_events;
            if clean {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind: before {self:?}, now {now:?}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn ids(kind: &str) -> BTreeSet<u64> {
    let output = Command::new("bpftool")
        .args(["--json", kind, "show"])
        .output()
        .expect("bpftool is installed by `cargo xtask test`");
    assert!(
        output.status.success(),
        "bpftool: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list: Value = serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["id"].as_u64())
        .collect()
}

/// The release of the running kernel, as far as rules speak of it.
pub fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("every kernel has one");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
