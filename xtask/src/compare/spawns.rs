//! Where tasks were spawned. What enters: the lines that spawned tasks, as the compiler passed them on. What leaves: whether
//! the report has the same lines for the same tasks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, none_of};
use crate::reported::Reported;
use crate::truth::{CodeLine, Truth};

pub fn spawns(truth: &Truth, report: &Reported) -> Vec<Check> {
    let mut happened: BTreeMap<&str, BTreeSet<&CodeLine>> = BTreeMap::new();
    for spawn in &truth.spawns {
        let lines = happened.entry(maker(&spawn.future)).or_default();
        lines.insert(&spawn.line);
    }
    let mut said: BTreeMap<&str, BTreeSet<&CodeLine>> = BTreeMap::new();
    for (future, lines) in &report.spawned_in {
        // What the workload puts around each of its futures.
        let inner = future.strip_prefix("contention::task::Measured<");
        let lines_of_maker = said.entry(maker(inner.unwrap_or(future))).or_default();
        lines_of_maker.extend(lines);
    }
    let is_same = |a: &CodeLine, b: &CodeLine| a.line == b.line && b.file.ends_with(&a.file);
    let (mut compared, mut missing, mut others) = (0, Vec::new(), Vec::new());
    for (maker, lines) in &happened {
        // None of its tasks was polled in the recording.
        let Some(said) = said.get(maker) else {
            continue;
        };
        for line in lines {
            compared += 1;
            if !said.iter().any(|said| is_same(line, said)) {
                missing.push(format!("{maker} at {}:{}", line.file, line.line));
            }
        }
        for said in said {
            if !lines.iter().any(|line| is_same(line, said)) {
                others.push(format!("{maker} at {}:{}", said.file, said.line));
            }
        }
    }
    // Without debug information types have no names, and places none.
    if happened.is_empty() || report.spawned_in.is_empty() {
        return Vec::new();
    }
    vec![
        Check {
            what: "places that spawned tasks".to_owned(),
            figure: compared.to_string(),
            allowed: "more than 0".to_owned(),
            holds: compared > 0,
        },
        none_of("places that the report does not have", &missing),
        none_of("places that spawned no such task", &others),
    ]
}

/// The function that a future comes from: the workload names an `async fn`'s future otherwise than debug information does.
fn maker(future: &str) -> &str {
    future.split_once("::{").map_or(future, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::super::examples::{report, truth, wrong};
    use super::*;
    use crate::truth::Spawn;

    fn line(file: &str, line: u32) -> CodeLine {
        CodeLine {
            file: file.to_owned(),
            line,
        }
    }

    fn checked(said: &[CodeLine]) -> Vec<String> {
        let mut happened = truth(&[]);
        happened.spawns = vec![Spawn {
            future: "contention::stock::count::{{closure}}".to_owned(),
            line: line("src/stock.rs", 7),
        }];
        let mut reported = report(&[]);
        let future = "contention::task::Measured<contention::stock::count::{async_fn_env#0}>";
        reported.spawned_in = vec![(future.to_owned(), said.to_vec())];
        wrong(&spawns(&happened, &reported))
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// The same line, by the end of its path; a wrong one is missing and too much.
    #[test]
    fn lines_are_compared() {
        assert!(checked(&[line("/w/contention/src/stock.rs", 7)]).is_empty());
        let wrong_line = checked(&[line("/w/contention/src/stock.rs", 8)]);
        assert_eq!(wrong_line.len(), 2, "{wrong_line:?}");
        assert_eq!(checked(&[]).len(), 1);
    }

    /// Nothing compared is nothing shown.
    #[test]
    fn nothing_compared() {
        let mut happened = truth(&[]);
        happened.spawns = vec![Spawn {
            future: "contention::stock::count::{{closure}}".to_owned(),
            line: line("src/stock.rs", 7),
        }];
        let mut reported = report(&[]);
        assert!(spawns(&happened, &reported).is_empty());
        reported.spawned_in = vec![("app::f::{async_fn_env#0}".to_owned(), Vec::new())];
        assert_eq!(
            wrong(&spawns(&happened, &reported)),
            ["places that spawned tasks"]
        );
    }
}
