//! The backtraces in the workload's truth. Its README has the schema.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::compare::Stack;
use super::names::normal;

/// Of each place its marker and the backtraces that end in it.
pub struct Truth {
    points: BTreeMap<String, (String, Vec<Stack>)>,
}

impl Truth {
    #[track_caller]
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).expect("the workload wrote its truth");
        let mut points: BTreeMap<String, (String, Vec<Stack>)> = BTreeMap::new();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("the truth is JSON lines"));
        for line in lines.filter(|line| line["kind"] == "stack") {
            assert_eq!(line["cut"], false, "a backtrace is too deep for the truth");
            let word = |name: &str| line[name].as_str().expect("it is a word").to_owned();
            let (_, stacks) = points
                .entry(word("point"))
                .or_insert_with(|| (normal(&word("marker")), Vec::new()));
            let frames = line["frames"].as_array().expect("it is a list");
            stacks.push(Stack::new(frames.iter().map(|frame| {
                // The C library's and the vDSO's own functions have no symbols, only those they export:
                // whoever names one may say anything.
                let any_name = frame["library"]
                    .as_str()
                    .is_some_and(|library| library != "libcontention_plugin.so");
                let name = frame["function"].as_str().unwrap_or("");
                let name = (!any_name).then(|| normal(name));
                (name, frame["inlined"] == true)
            })));
        }
        Self { points }
    }

    /// The backtraces of a place, from the marker's caller outward.
    pub fn stacks(&self, point: &str) -> Result<&[Stack], String> {
        let (_, stacks) = self.at(point)?;
        Ok(stacks)
    }

    /// The name of a place's marker, in its normal form.
    pub fn marker(&self, point: &str) -> Result<String, String> {
        Ok(self.at(point)?.0.clone())
    }

    fn at(&self, point: &str) -> Result<&(String, Vec<Stack>), String> {
        self.points
            .get(point)
            .ok_or_else(|| "the workload never passed through it".to_owned())
    }
}
