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

    /// Holds that are listed one by one.
    pub fn holds(&self) -> &[Value] {
        self.list("/holds")
    }

    /// All locks that somebody waited for, or held.
    pub fn locks(&self) -> &[Value] {
        self.list("/locks")
    }

    /// All polls, by the type of their future.
    pub fn task_types(&self) -> &[Value] {
        self.list("/task_types")
    }

    /// Threads that were stuck.
    pub fn stuck(&self) -> &[Value] {
        self.list("/stuck")
    }

    /// The process.
    pub fn pid(&self) -> u64 {
        self.at("/capture/pid").as_u64().expect("a number")
    }

    /// When the recording began, on `CLOCK_MONOTONIC`.
    pub fn started_ns(&self) -> u64 {
        let start = self.at("/capture/started_monotonic_ns").as_u64();
        start.expect("a number")
    }

    /// The functions of a stack, innermost first.
    #[track_caller]
    pub fn functions(&self, stack: &Value) -> Vec<&str> {
        let id = stack.as_str().expect("a stack's id");
        let frames = self.list("/frames");
        self.list(&format!("/stacks/{id}"))
            .iter()
            .map(|n| n.as_u64().expect("an index") as usize)
            .map(|n| frames[n]["label"].as_str().expect("a name"))
            .collect()
    }

    /// Whether a stack reaches the thread's start.
    pub fn is_whole(&self, stack: &Value) -> bool {
        let id = stack.as_str().expect("a stack's id");
        self.at("/cut_stacks").get(id).is_none()
    }

    /// How many probes of a family were attached.
    #[track_caller]
    pub fn attached(&self, family: &str) -> u64 {
        let families = self.list("/coverage/probes").iter();
        let mut named = families.filter(|it| it["name"] == family);
        let family = named.next().expect("it is in the coverage");
        family["attached"].as_u64().expect("a number")
    }

    /// Threads of runtimes and of their blocking pools.
    pub fn workers(&self) -> &[Value] {
        self.list("/workers")
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

    /// How stacks of one kind (`uprobe`, `sample`, `off_cpu`) were taken: `taken`, `complete`, `outcomes`.
    pub fn unwinding(&self, kind: &str) -> Option<&Value> {
        self.0
            .pointer("/coverage/unwinding")?
            .as_array()?
            .iter()
            .find(|entry| entry["kind"] == kind)
    }

    /// Stacks for which there was no room.
    pub fn stacks_not_stored(&self) -> Option<u64> {
        self.0.pointer("/coverage/stacks/not_stored")?.as_u64()
    }

    /// The listed stacks by id: source-level frames, innermost first, as `frames` has them.
    pub fn stacks(&self) -> Vec<(&str, Vec<&Value>)> {
        let frames = self.list("/frames");
        self.at("/stacks")
            .as_object()
            .expect("stacks have ids")
            .iter()
            .map(|(id, indices)| {
                let indices = indices.as_array().expect("a stack is a list");
                let frame = |index: &Value| {
                    let index = index.as_u64().expect("a frame is an index");
                    &frames[usize::try_from(index).expect("it fits")]
                };
                (id.as_str(), indices.iter().map(frame).collect())
            })
            .collect()
    }

    /// Why the walk of a listed stack did not reach the thread's start; None if it did.
    pub fn why_cut(&self, stack: &str) -> Option<&str> {
        self.at("/cut_stacks").get(stack)?.as_str()
    }

    /// The stacks of those who released a lock that others waited for.
    pub fn holder_stacks(&self) -> Vec<String> {
        self.list("/locks")
            .iter()
            .flat_map(|lock| lock["pairs"].as_array().into_iter().flatten())
            .filter_map(|pair| pair["holder_stack"].as_str().map(str::to_owned))
            .collect()
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
