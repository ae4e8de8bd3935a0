//! `cargo xtask test`. What enters: which suites. What leaves: a line for each suite, and a last line that
//! counts. A test that could not run has failed, unless the caller said to leave it out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::{command, ebpf, fuzz, packages, workloads, workspace};

/// What the live tests call, beside the workloads: bpftool lists what is loaded in the kernel.
const LIVE_PACKAGES: [&str; 3] = ["binutils", "bpftool", "util-linux"];

/// The reason in `#[ignore = "..."]` of a test that only this command can run begins with this.
const LIVE_REASON: &str = "live:";

/// One thing that is tested, in the order in which they run: what fails soonest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Suite {
    /// The sources are formatted
    Fmt,
    /// No lint speaks, in any target, with any feature
    Clippy,
    /// Everything compiles with stable Rust, in any target, with any feature
    Check,
    /// The checked-in eBPF object is what its sources build
    Ebpf,
    /// Unit and replay tests; need no root
    Unit,
    /// What parses the target's files survives what no compiler writes
    Fuzz,
    /// holdup on the running kernel, attached to the workloads; needs root
    Live,
    /// holdup on a real Citadel server under load; needs root
    Citadel,
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no suite is hidden");
        f.pad(value.get_name())
    }
}

/// What `cargo xtask test` was asked for.
pub struct Options {
    /// Run these and no others; empty for all.
    pub only: Vec<Suite>,
    /// Leave these out.
    pub skip: Vec<Suite>,
}

impl Options {
    fn wants(&self, suite: Suite) -> bool {
        (self.only.is_empty() || self.only.contains(&suite)) && !self.skip.contains(&suite)
    }
}

/// How many tests of a suite went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    /// Not run although nobody said so: as bad as failed.
    skipped: u32,
    /// Not run because the caller said so.
    left_out: u32,
}

impl Tally {
    const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
        left_out: 0,
    };
    const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
        left_out: 0,
    };
    const LEFT_OUT: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 0,
        left_out: 1,
    };

    fn is_good(self) -> bool {
        self.failed == 0 && self.skipped == 0
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(
            Self::default(),
            |sum,
             Self {
                 passed,
                 failed,
                 skipped,
                 left_out,
             }| Self {
                passed: sum.passed + passed,
                failed: sum.failed + failed,
                skipped: sum.skipped + skipped,
                left_out: sum.left_out + left_out,
            },
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        let skipped = self.skipped + self.left_out;
        if skipped > 0 {
            write!(f, ", {skipped} skipped")
        } else {
            Ok(())
        }
    }
}

/// Runs the suites that are wanted, all of them even when one fails.
pub fn run(options: &Options) -> Result<ExitCode> {
    // Asked for now: what is built meanwhile may replace the file.
    let xtask = std::env::current_exe().context("xtask has no path")?;
    let mut results = Vec::new();
    for &suite in Suite::value_variants() {
        if !options.wants(suite) {
            results.push((suite, Tally::LEFT_OUT, Duration::ZERO));
            continue;
        }
        println!("\n=== {suite}");
        let started = Instant::now();
        let tally = run_suite(suite, &xtask).unwrap_or_else(|error| {
            println!("{suite} failed: {error:#}");
            Tally::FAILED
        });
        results.push((suite, tally, started.elapsed()));
    }

    println!("\n=== summary");
    for (suite, tally, took) in &results {
        if *tally == Tally::LEFT_OUT {
            println!("{suite:<8} left out, as told");
        } else {
            let verdict = if tally.is_good() { "ok" } else { "FAILED" };
            println!("{suite:<8} {verdict:<6} {tally} ({} s)", took.as_secs());
        }
    }
    let total: Tally = results.iter().map(|(_, tally, _)| *tally).sum();
    println!("{total}");
    std::io::stdout()
        .flush()
        .context("could not write the summary")?;
    Ok(if total.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_suite(suite: Suite, xtask: &Path) -> Result<Tally> {
    const ALL: [&str; 3] = ["--workspace", "--all-targets", "--all-features"];
    match suite {
        Suite::Fmt => succeeds(workspace::cargo("fmt").args(["--all", "--check"])),
        Suite::Clippy => succeeds(
            workspace::cargo("clippy")
                .args(ALL)
                .args(["--", "--deny", "warnings"]),
        ),
        Suite::Check => succeeds(workspace::cargo("check").args(ALL)),
        Suite::Ebpf => {
            ebpf::run(&ebpf::Options {
                check: true,
                install: packages::root_is_reachable(),
            })?;
            Ok(Tally::PASSED)
        }
        Suite::Unit => tests(workspace::cargo("test").arg("--workspace")),
        Suite::Fuzz => fuzz(),
        Suite::Live => live(xtask, &workloads::build()?, &["--skip", "citadel::"]),
        Suite::Citadel => live(xtask, &workloads::build_citadel()?, &["citadel::"]),
    }
}

fn succeeds(command: &mut Command) -> Result<Tally> {
    println!("+ {}", command::display(command));
    command::run(command)?;
    Ok(Tally::PASSED)
}

/// How long the fuzz targets run, two at a time, if none finds anything.
const FUZZING: Duration = Duration::from_secs(180);

fn fuzz() -> Result<Tally> {
    let targets = fuzz::targets()?;
    let options = fuzz::Options {
        each: FUZZING * 2 / u32::try_from(targets.len()).context("that many targets")?,
        targets,
    };
    let fuzz::Outcome { passed, failed } = fuzz::run_targets(&options)?;
    Ok(Tally {
        passed,
        failed,
        ..Tally::default()
    })
}

/// Builds the live tests as the user, and runs them with root's rights, one at a time: they measure.
///
/// Optimized, because that is the holdup people run, and because reading a 100 MB binary's debug info
/// takes minutes otherwise.
fn live(
    xtask: &Path,
    programs: &BTreeMap<&'static str, PathBuf>,
    filter: &[&str],
) -> Result<Tally> {
    ask_for_root()?;
    packages::install(&LIVE_PACKAGES, "the live tests")?;
    let tests_binary = build_live_tests()?;
    let mut run = packages::as_root("env");
    for (name, path) in programs {
        run.arg(variable(&format!("HOLDUP_TEST_{name}"), path));
    }
    run.arg(variable("HOLDUP_TEST_XTASK", xtask));
    run.current_dir(workspace::root())
        .arg(tests_binary)
        .args(["--ignored", "--test-threads=1"])
        .args(filter);
    // The first tests measure microseconds; what the builds wrote shall not go to the disk meanwhile.
    command::run(&mut Command::new("sync"))?;
    tests(&mut run)
}

fn variable(name: &str, value: &Path) -> OsString {
    let mut variable = OsString::from(name);
    variable.push("=");
    variable.push(value);
    variable
}

fn ask_for_root() -> Result<()> {
    if packages::root_is_reachable() {
        return Ok(());
    }
    let leave_out = "become root, or leave them out with `--skip live --skip citadel`";
    if !std::io::stdin().is_terminal() {
        bail!("the live tests load programs into the kernel, which needs root: {leave_out}");
    }
    println!("the live tests load programs into the kernel: sudo asks for your password");
    let status = Command::new("sudo")
        .arg("--validate")
        .status()
        .context("could not start sudo")?;
    ensure!(status.success(), "no root: {leave_out}");
    Ok(())
}

/// The path of the live tests' binary, built.
fn build_live_tests() -> Result<PathBuf> {
    let mut build = workspace::cargo("test");
    build.args([
        "--release",
        "--package",
        "holdup",
        "--test",
        "live",
        "--no-run",
    ]);
    println!("+ {}", command::display(&build));
    // Cargo's messages are JSON lines; what a person wants to see goes to stderr.
    let messages = build
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("could not start cargo")?;
    ensure!(messages.status.success(), "the live tests do not build");
    String::from_utf8_lossy(&messages.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "live" && message["profile"]["test"] == true)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built the live tests and did not say where")
}

/// Runs test binaries, shows what they print, and counts.
fn tests(command: &mut Command) -> Result<Tally> {
    println!("+ {}", command::display(command));
    // One pipe for both, so that what a person sees is in order.
    let (reader, writer) = std::io::pipe().context("could not make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("could not clone the pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("could not start `{}`", command::display(command)))?;
    // The command keeps its ends of the pipe open until they are replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("could not read what the tests print")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        println!("{line}");
        lines.push(line);
    }
    let status = child.wait().context("could not wait for the tests")?;
    Ok(count(&lines, status))
}

/// Reads libtest's `test result:` lines. A run that failed without one that says so (it did not compile,
/// it crashed) counts as one failure; so does a run of no test at all.
fn count(lines: &[String], status: ExitStatus) -> Tally {
    let mut tally = Tally::default();
    // These have a suite of their own; the result lines count them too.
    let mut live = 0;
    for line in lines {
        if let Some(result) = line.strip_prefix("test result: ") {
            tally.passed += number_before(result, " passed");
            tally.failed += number_before(result, " failed");
            tally.skipped += number_before(result, " ignored");
        } else if line.starts_with("test ")
            && line.contains(&format!(" ... ignored, {LIVE_REASON}"))
        {
            live += 1;
        }
    }
    tally.skipped = tally.skipped.saturating_sub(live);
    let ran_nothing = tally.passed + tally.failed == 0;
    if tally.failed == 0 && (!status.success() || ran_nothing) {
        tally.failed = 1;
    }
    tally
}

fn number_before(result: &str, what: &str) -> u32 {
    result
        .split(what)
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn counted(text: &str, exit_code: i32) -> Tally {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        count(&lines, ExitStatus::from_raw(exit_code << 8))
    }

    /// The results of several binaries add up.
    #[test]
    fn results_add_up() {
        let text = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            counted(text, 101),
            Tally {
                passed: 4,
                failed: 2,
                ..Tally::default()
            }
        );
    }

    /// A test that is ignored is missed, unless it is one of those that the live suites run.
    #[test]
    fn only_live_tests_may_be_ignored() {
        let text = "test processes::none ... ignored, live: cargo xtask test\n\
                    test slow ... ignored\n\
                    test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out";
        let tally = counted(text, 0);
        assert_eq!(
            tally,
            Tally {
                passed: 5,
                skipped: 1,
                ..Tally::default()
            }
        );
        assert!(!tally.is_good());
    }

    /// What did not compile, and what filtered every test away, has failed.
    #[test]
    fn no_result_is_a_failure() {
        assert_eq!(counted("error: could not compile", 101), Tally::FAILED);
        assert_eq!(
            counted("test result: ok. 0 passed; 0 failed; 0 ignored", 0),
            Tally::FAILED
        );
    }

    /// The last line has one form.
    #[test]
    fn the_last_line_counts() {
        assert_eq!(
            Tally {
                passed: 7,
                ..Tally::default()
            }
            .to_string(),
            "7 passed, 0 failed"
        );
        let mixed = [Tally::PASSED, Tally::FAILED, Tally::LEFT_OUT]
            .into_iter()
            .sum::<Tally>();
        assert_eq!(mixed.to_string(), "1 passed, 1 failed, 1 skipped");
    }

    /// `--only` and `--skip` together: what is skipped stays out.
    #[test]
    fn skip_wins_over_only() {
        let options = Options {
            only: vec![Suite::Unit, Suite::Live],
            skip: vec![Suite::Live],
        };
        assert!(options.wants(Suite::Unit));
        assert!(!options.wants(Suite::Live));
        assert!(!options.wants(Suite::Fmt));
    }
}
