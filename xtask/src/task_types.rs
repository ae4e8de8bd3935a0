//! Tasks and their polls by the function that the task runs. What enters: the text of `report.json`, or the lines that
//! console-reader wrote. What leaves: the same numbers of both, of the workload's own tasks alone.
//!
//! `block_on`'s futures are no tasks, and of their polls holdup knows the long ones only: they are left out.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::truth::json_lines;

/// What was seen of the tasks that run one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskType {
    /// 0 of jobs of the blocking pool: each is one poll, and holdup does not count them as tasks.
    pub tasks: u64,
    pub polls: u64,
    /// Their summed duration.
    pub total_ns: u64,
    /// How many polls lasted how long: by the middle of their bucket.
    pub durations: BTreeMap<u64, u64>,
}

/// By the path of the function.
pub type TaskTypes = BTreeMap<String, TaskType>;

/// As holdup reported it.
pub fn of_report(text: &str) -> Result<TaskTypes> {
    let report: Report = serde_json::from_str(text).context("report.json has no task types")?;
    let mut types = TaskTypes::new();
    for entry in report.task_types {
        let Some(function) = entry.future.as_deref().and_then(workloads_function) else {
            continue;
        };
        if entry.class == "block_on" {
            continue;
        }
        ensure!(
            entry.tasks_certainty == "exact",
            "the number of tasks of {function} is no exact one"
        );
        let merged = types.entry(function.to_owned()).or_default();
        merged.tasks += entry.tasks;
        merged.polls += entry.polls;
        merged.total_ns += entry.total_ns;
        for Bucket { from_ns, count } in entry.durations {
            let middle_ns = from_ns + reported_width_ns(from_ns) / 2;
            *merged.durations.entry(middle_ns).or_default() += count;
        }
    }
    Ok(types)
}

/// As console-subscriber said it.
///
/// tracing enters a task's span once more when the task's future is dropped, and console-subscriber takes that for a
/// poll: the last one of each task that has ended is none.
pub fn of_console(text: &str) -> Result<TaskTypes> {
    let mut types = TaskTypes::new();
    let mut is_complete = false;
    for line in json_lines(text, "console-reader") {
        match line? {
            Line::Task(task) => add(&mut types, task)?,
            Line::End { dropped } => {
                ensure!(dropped == 0, "console-subscriber lost {dropped} events");
                is_complete = true;
            }
        }
    }
    ensure!(is_complete, "console-reader has not written all");
    Ok(types)
}

fn add(types: &mut TaskTypes, task: Task) -> Result<()> {
    let Some(function) = workloads_function(&task.name) else {
        return Ok(());
    };
    ensure!(task.has_ended, "a task of {function} has not ended");
    ensure!(
        task.longer_than_histogram == 0,
        "a poll of {function} was longer than console-subscriber counts"
    );
    let Some(polls) = task.polls.checked_sub(1) else {
        bail!("a task of {function} was dropped and had no poll");
    };
    let merged = types.entry(function.to_owned()).or_default();
    merged.tasks += u64::from(task.runs != BLOCKING);
    merged.polls += polls;
    merged.total_ns += task.busy_ns;
    for [from_ns, to_ns, count] in task.histogram {
        *merged.durations.entry(from_ns.midpoint(to_ns)).or_default() += count;
    }
    Ok(())
}

/// What console-subscriber calls a job of the blocking pool.
const BLOCKING: &str = "blocking";

/// Whatever may be around the workload's future or closure, outermost first.
const WRAPPERS: [&str; 3] = ["Instrumented<", "BlockingTask<", "Measured<"];

/// The path of the function that a future or a closure is of: `contention::queue::attend_counter` of
/// `tracing::instrument::Instrumented<contention::task::Measured<contention::queue::attend_counter::{async_fn_env#0}>>`.
/// The compiler ends it with `::{{closure}}` instead. None where it is not the workload's.
fn workloads_function(name: &str) -> Option<&str> {
    let mut name = name;
    for wrapper in WRAPPERS {
        if let Some((path, inner)) = name.split_once(wrapper)
            && path.bytes().all(|byte| byte != b'<')
        {
            name = inner;
        }
    }
    let end = name.find(['<', '{', '>']).unwrap_or(name.len());
    let function = name[..end].trim_end_matches("::");
    function.starts_with("contention::").then_some(function)
}

/// Each power of two is divided in as many buckets.
const REPORTED_BUCKETS_LOG2: u32 = 5;

fn reported_width_ns(from_ns: u64) -> u64 {
    let log2 = from_ns.checked_ilog2().unwrap_or(0);
    (1 << log2) >> REPORTED_BUCKETS_LOG2
}

#[derive(Deserialize)]
struct Report {
    task_types: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    future: Option<String>,
    class: String,
    tasks: u64,
    tasks_certainty: String,
    polls: u64,
    total_ns: u64,
    durations: Vec<Bucket>,
}

#[derive(Deserialize)]
struct Bucket {
    from_ns: u64,
    count: u64,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Task(Task),
    End { dropped: u64 },
}

#[derive(Deserialize)]
struct Task {
    /// Of its future's or closure's type; empty if nobody named it.
    name: String,
    runs: String,
    has_ended: bool,
    polls: u64,
    busy_ns: u64,
    longer_than_histogram: u64,
    /// From, to, count.
    histogram: Vec<[u64; 3]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"task_types": [
        {"future": "tracing::instrument::Instrumented<contention::task::Measured<contention::queue::attend_counter::{async_fn_env#0}>>",
         "class": "multi_thread", "tasks": 2, "tasks_certainty": "exact", "polls": 5, "total_ns": 70,
         "durations": [{"from_ns": 1024, "count": 3}, {"from_ns": 2048, "count": 2}]},
        {"future": "contention::run::{async_fn_env#0}",
         "class": "block_on", "tasks": 0, "tasks_certainty": "exact", "polls": 1, "total_ns": 7, "durations": []},
        {"future": "tracing::instrument::Instrumented<console_subscriber::aggregator::{impl#2}::run::{async_fn_env#0}>",
         "class": "current_thread", "tasks": 1, "tasks_certainty": "exact", "polls": 1, "total_ns": 7, "durations": []},
        {"future": null,
         "class": "unknown", "tasks": 1, "tasks_certainty": "exact", "polls": 1, "total_ns": 7, "durations": []}]}"#;

    /// Two tasks of the workload's, a job of its blocking pool, and a task that nobody named.
    fn lines(has_ended: bool, dropped: u64) -> String {
        let task = |name: &str, runs: &str, polls, buckets| {
            format!(
                r#"{{"kind": "task", "name": "{name}", "runs": "{runs}", "has_ended": {has_ended}, "polls": {polls}, "busy_ns": 35, "longer_than_histogram": 0, "histogram": {buckets}}}"#
            )
        };
        let name = "contention::task::Measured<contention::queue::attend_counter::{{closure}}>";
        let job = "contention::task::spawn_blocking<()>::{{closure}}";
        [
            task(name, "task", 4, "[[1024, 1055, 3], [16, 16, 1]]"),
            task(name, "local", 3, "[[2048, 2111, 2], [16, 16, 1]]"),
            task(job, "blocking", 2, "[[512, 515, 1], [16, 16, 1]]"),
            task("", "block_on", 2, "[]"),
            format!(r#"{{"kind": "end", "dropped": {dropped}}}"#),
        ]
        .join("\n")
    }

    /// Only what is the workload's, and is a task.
    #[test]
    fn a_report_is_read() {
        let attend = TaskType {
            tasks: 2,
            polls: 5,
            total_ns: 70,
            durations: BTreeMap::from([(1040, 3), (2080, 2)]),
        };
        let types = of_report(REPORT).expect("it is whole");
        assert_eq!(
            types,
            TaskTypes::from([("contention::queue::attend_counter".to_owned(), attend)])
        );
        let rough = REPORT.replace("exact", "upper_bound");
        assert!(of_report(&rough).is_err());
    }

    /// The drop of each task's future is no poll.
    #[test]
    fn lines_of_tasks_add_up() {
        let attend = TaskType {
            tasks: 2,
            polls: 5,
            total_ns: 70,
            durations: BTreeMap::from([(16, 2), (1039, 3), (2079, 2)]),
        };
        let jobs = TaskType {
            tasks: 0,
            polls: 1,
            total_ns: 35,
            durations: BTreeMap::from([(16, 1), (513, 1)]),
        };
        let types = of_console(&lines(true, 0)).expect("it is whole");
        assert_eq!(
            types,
            TaskTypes::from([
                ("contention::queue::attend_counter".to_owned(), attend),
                ("contention::task::spawn_blocking".to_owned(), jobs),
            ])
        );
    }

    /// Tasks that go on, lost events, and a file without an end are no base for a comparison.
    #[test]
    fn what_is_incomplete_is_refused() {
        assert!(of_console(&lines(false, 0)).is_err());
        assert!(of_console(&lines(true, 1)).is_err());
        assert!(of_console("").is_err());
    }

    /// Both ways in which a type is written lead to the same function.
    #[test]
    fn functions_are_found() {
        for (name, function) in [
            (
                "contention::task::Measured<contention::sessions::upload::{{closure}}>",
                Some("contention::sessions::upload"),
            ),
            (
                "tokio::runtime::blocking::task::BlockingTask<contention::task::spawn_blocking::{closure_env#0}<(), contention::scenarios::archive_task::{async_fn#0}::{closure_env#0}>>",
                Some("contention::task::spawn_blocking"),
            ),
            (
                "contention::task::spawn_blocking<()>::{{closure}}",
                Some("contention::task::spawn_blocking"),
            ),
            (
                "console_subscriber::Server::serve<contention::X>::{{closure}}",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(workloads_function(name), function, "{name}");
        }
    }
}
