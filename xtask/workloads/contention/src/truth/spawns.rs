//! Which lines spawned tasks. What enters: a future's type, and the caller's line as the compiler passes it on. What leaves:
//! JSON lines, one for each line and type.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::lock;

/// Type, file, line.
static SPAWNS: Mutex<BTreeSet<(&'static str, &'static str, u32)>> = Mutex::new(BTreeSet::new());

/// A task is spawned by whoever called the caller of this.
#[track_caller]
pub fn spawned<F>() {
    let at = Location::caller();
    lock(&SPAWNS).insert((std::any::type_name::<F>(), at.file(), at.line()));
}

pub fn lines() -> Vec<Value> {
    let spawns = lock(&SPAWNS);
    let line = |(future, file, line): &(&str, &str, u32)| json!({"kind": "spawn", "future": future, "file": file, "line": line});
    spawns.iter().map(line).collect()
}
