//! `cargo xtask fuzz`. What enters: which targets, and for how long. What leaves: for each a line about what was tried,
//! or the input that broke it.
//!
//! Stable Rust is enough: the compiler has LLVM's coverage pass built in, and libFuzzer is compiled from the sources in
//! its crate. The flags are those that `cargo fuzz` passes, without a sanitizer, which would need nightly. What they
//! find: panics, overflows, endless loops, and memory without bound.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{command, packages, workspace};

/// libFuzzer is written in C++.
const PACKAGES: [&str; 1] = ["g++"];

/// How the code under test is compiled.
const RUST_FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Longest input, in bytes: the largest seed has a third of it.
const MAX_LEN: u32 = 32 << 10;
/// An input that takes longer, in seconds, has found a loop.
const TIMEOUT: u32 = 10;
/// An input that takes more memory, in MiB, has found an allocation without bound.
const RSS_LIMIT: u32 = 512;
/// How many targets run at a time.
const AT_ONCE: usize = 2;
/// Lines of a fuzzer's output that are shown when it found something.
const SHOWN_LINES: usize = 40;

/// What `cargo xtask fuzz` was asked for.
pub struct Options {
    /// These and no others; empty for all.
    pub targets: Vec<String>,
    /// How long each of them runs.
    pub each: Duration,
}

/// How many targets ran how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: u32,
    pub failed: u32,
}

/// All targets, by name: the files in `fuzz/src/bin`.
pub fn targets() -> Result<Vec<String>> {
    let folder = folder().join("src/bin");
    let mut targets = Vec::new();
    let entries =
        fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    targets.sort();
    ensure!(!targets.is_empty(), "{} has no targets", folder.display());
    Ok(targets)
}

/// `cargo xtask fuzz`: fails when a target does.
pub fn run(options: &Options) -> Result<()> {
    let Outcome { passed, failed } = run_targets(options)?;
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0, "the fuzzer found something");
    Ok(())
}

/// Builds the targets and runs them.
pub fn run_targets(options: &Options) -> Result<Outcome> {
    let all = targets()?;
    for target in &options.targets {
        ensure!(
            all.contains(target),
            "no such target: {target}; there are {}",
            all.join(", ")
        );
    }
    let chosen = if options.targets.is_empty() {
        all
    } else {
        options.targets.clone()
    };
    packages::install(&PACKAGES, "the fuzz targets")?;
    let binaries = build()?;

    let queue = Mutex::new(VecDeque::from(chosen));
    let outcome = Mutex::new(Outcome::default());
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let work = || {
        while let Some(target) = next() {
            let result = fuzz(&binaries, &target, options.each);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(summary) => {
                    outcome.passed += 1;
                    println!("{target:<10} ok      {summary}");
                }
                Err(error) => {
                    outcome.failed += 1;
                    println!("{target:<10} FAILED  {error:#}");
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// The folder of the binaries, built.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let target_dir = workspace::target_dir().join("fuzz");
    let mut cargo = Command::new("cargo");
    command::clear_cargo_environment(&mut cargo);
    cargo
        .args(["build", "--release", "--locked", "--bins"])
        // With a target named, the flags are not those of build scripts and macros too.
        .args(["--target", &host, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", RUST_FLAGS.join("\x1f"))
        .current_dir(folder());
    println!("+ {}", command::display(&cargo));
    command::run(&mut cargo).context("the fuzz targets do not build")?;
    Ok(target_dir.join(host).join("release"))
}

/// The triple of this machine.
fn host() -> Result<String> {
    let version = command::output(Command::new("rustc").arg("-vV").current_dir(folder()))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say what machine it is for")
}

/// Runs one target; gives back what it did.
fn fuzz(binaries: &Path, target: &str, duration: Duration) -> Result<String> {
    let place = workspace::target_dir().join("fuzz/runs").join(target);
    if place.exists() {
        fs::remove_dir_all(&place)
            .with_context(|| format!("could not empty {}", place.display()))?;
    }
    // libFuzzer adds what it finds to its corpus; the one in the checkout stays as it is.
    let corpus = place.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("could not make {}", corpus.display()))?;
    let seeds = folder().join("corpus").join(target);
    let entries =
        fs::read_dir(&seeds).with_context(|| format!("could not list {}", seeds.display()))?;
    for entry in entries {
        let seed = entry?;
        fs::copy(seed.path(), corpus.join(seed.file_name()))
            .with_context(|| format!("could not copy {}", seed.path().display()))?;
    }

    let mut fuzzer = Command::new(binaries.join(target));
    fuzzer
        .arg(&corpus)
        .arg(format!("-max_total_time={}", duration.as_secs()))
        .arg(format!("-rss_limit_mb={RSS_LIMIT}"))
        .arg(format!("-timeout={TIMEOUT}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-artifact_prefix={}/", place.display()))
        .arg("-print_final_stats=1");
    let dictionary = folder().join("dictionaries").join(target);
    if dictionary.exists() {
        fuzzer.arg(format!("-dict={}", dictionary.display()));
    }
    let output = fuzzer
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", command::display(&fuzzer)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        anyhow::bail!(
            "{}; the input is in {}\n{tail}",
            output.status,
            place.display()
        );
    }
    summary(&said).with_context(|| format!("{target} ended and did not say what it did"))
}

/// What libFuzzer says at its end, in one line.
fn summary(said: &str) -> Option<String> {
    let stat = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(&format!("stat::{name}:")))
            .map(str::trim)
    };
    // `#123  DONE   cov: 42 ft: 77 corp: 9/1234b lim: 32768 exec/s: 61 rss: 50Mb`
    let covered = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ")?.1.split(' ').next())?;
    Some(format!(
        "{} inputs, {} new, {covered} places covered, {} MiB at most",
        stat("number_of_executed_units")?,
        stat("new_units_added")?,
        stat("peak_rss_mb")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each target has something to begin with, and nothing lies there for a target that is gone.
    #[test]
    fn every_target_has_seeds() -> Result<()> {
        let targets = targets()?;
        for target in &targets {
            let seeds = folder().join("corpus").join(target);
            let count = fs::read_dir(&seeds).map(Iterator::count).unwrap_or(0);
            assert!(count > 0, "{} is empty", seeds.display());
        }
        for entry in fs::read_dir(folder().join("corpus"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let has_reader = targets.iter().any(|target| *target == name);
            assert!(has_reader || path.is_file(), "nobody reads corpus/{name}");
        }
        Ok(())
    }

    /// What libFuzzer prints at its end.
    #[test]
    fn final_statistics_become_a_line() {
        let said = "#2\tINITED cov: 40 ft: 41 corp: 1/1b\n\
                    #9\tDONE   cov: 42 ft: 77 corp: 9/1234b lim: 32768 exec/s: 61 rss: 50Mb\n\
                    Done 9 runs in 2 second(s)\n\
                    stat::number_of_executed_units: 9\n\
                    stat::average_exec_per_sec:     61\n\
                    stat::new_units_added:          3\n\
                    stat::slowest_unit_time_sec:    0\n\
                    stat::peak_rss_mb:              50\n";
        assert_eq!(
            summary(said).as_deref(),
            Some("9 inputs, 3 new, 42 places covered, 50 MiB at most")
        );
        assert_eq!(summary(""), None);
    }
}
