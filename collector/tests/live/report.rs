//! What a report says, for tests to ask. What enters: `report.json`. What leaves: its parts, by their names
//! in the schema, so that a schema that changed shows in this file alone.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// A whole report.
#[derive(Debug)]
pub struct Report(Value);

impl Report {
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_slice(&bytes).expect("report.json is JSON"))
    }

    #[track_caller]
    fn at(&self, pointer: &str) -> &Value {
        self.0
            .pointer(pointer)
            .unwrap_or_else(|| panic!("the report has no {pointer}"))
    }

    #[track_caller]
    fn list(&self, pointer: &str) -> &[Value] {
        self.at(pointer)
            .as_array()
            .unwrap_or_else(|| panic!("{pointer} is no list"))
    }

    /// The findings, whole.
    pub fn findings(&self) -> &[Value] {
        self.list("/findings")
    }

    /// The findings, as the sentences that a person reads.
    pub fn sentences(&self) -> Vec<&str> {
        self.findings()
            .iter()
            .map(|finding| {
                finding["sentence"]
                    .as_str()
                    .expect("a finding is a sentence")
            })
            .collect()
    }

    pub fn long_polls(&self) -> &[Value] {
        self.list("/long_polls")
    }

    /// Sum of one part of all long polls' anatomy: `on_cpu_ns`, `lock_wait_ns`, `run_queue_ns`, `sleep_ns`.
    pub fn anatomy_ns(&self, part: &str) -> u64 {
        self.long_polls()
            .iter()
            .map(|poll| {
                poll["anatomy"][part]
                    .as_u64()
                    .unwrap_or_else(|| panic!("no anatomy of {part} in {poll}"))
            })
            .sum()
    }

    /// Waits of all locks, condvars left out.
    pub fn lock_waits(&self) -> u64 {
        self.list("/locks")
            .iter()
            .map(|lock| lock["waits"].as_u64().expect("a lock has waits"))
            .sum()
    }

    /// What could be seen, what could not, and what was lost: as text to search in.
    pub fn coverage(&self) -> String {
        self.at("/coverage").to_string()
    }

    /// A counter of the kernel side.
    pub fn counter(&self, name: &str) -> u64 {
        self.at(&format!("/counters/{name}"))
            .as_u64()
            .expect("a counter is a number")
    }

    /// `duration`, `interrupted`, `target_exited`, `target_execed` or `truncated`.
    pub fn end_reason(&self) -> &str {
        self.at("/capture/end")
            .as_str()
            .expect("a reason is a word")
    }
}
