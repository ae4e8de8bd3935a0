//! Stacks as `perf record --call-graph dwarf` takes them, for comparison. What enters: a process, and for how long. What
//! leaves: the stack of each sample, as far as perf could unwind it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::{command, packages};

/// What to sample.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub pid: u32,
    pub seconds: u64,
    /// Samples for each second and CPU.
    pub frequency_hz: u32,
}

/// The functions of a sample, innermost first; None for a frame without a name.
pub type Stack = Vec<Option<String>>;

/// Samples a process. `perf.data` grows by the stacks' bytes, 8 KiB for each sample, and is left in `dir`.
pub fn record(options: &Options, dir: &Path) -> Result<Vec<Stack>> {
    packages::install(&["linux-perf"], "the comparison with perf")?;
    let data = dir.join("perf.data");
    let mut record = packages::as_root("perf");
    // The clock: virtual machines often have no hardware counters.
    record
        .args(["record", "--quiet", "--event", "cpu-clock:u"])
        .args([
            "--call-graph",
            "dwarf",
            "--freq",
            &options.frequency_hz.to_string(),
        ])
        .args(["--pid", &options.pid.to_string(), "--output"])
        .arg(&data)
        .args(["--", "sleep", &options.seconds.to_string()]);
    command::output(&mut record)?;
    let script = dir.join("perf.script");
    let file = fs::File::create(&script)
        .with_context(|| format!("could not make {}", script.display()))?;
    // Inlined functions would be looked up by starting addr2line for each address.
    let mut read = packages::as_root("perf");
    read.args([
        "script",
        "--no-inline",
        "--fields",
        "comm,pid,tid,time,ip,sym",
        "--input",
    ])
    .arg(&data);
    let status = read
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{}`", command::display(&read)))?;
    ensure!(
        status.success(),
        "`{}` ended with {status}",
        command::display(&read)
    );
    let text = fs::read(&script).with_context(|| format!("could not read {}", script.display()))?;
    Ok(samples(&String::from_utf8_lossy(&text)))
}

/// Whether perf has no caller of the function that was hit. It may write an address there that it read from the wrong
/// place, and that belongs to nothing.
pub fn is_lost(stack: &Stack) -> bool {
    stack.iter().flatten().count() <= 1
}

/// The samples in what `perf script` prints: a line that says when and where, a line for each frame (address and name),
/// an empty line.
fn samples(script: &str) -> Vec<Stack> {
    let mut samples = Vec::new();
    let mut stack = Stack::new();
    for line in script.lines().chain([""]) {
        if line.is_empty() {
            if !stack.is_empty() {
                samples.push(std::mem::take(&mut stack));
            }
        } else if line.starts_with(['\t', ' '])
            && let Some((_, name)) = line.trim_start().split_once(' ')
        {
            stack.push((name != "[unknown]").then(|| name.to_owned()));
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `perf script` 6.1 prints it: one sample lost in assembly, one whole.
    #[test]
    fn samples_are_read_from_a_script() {
        let script = "tokio-rt-worker 15041/15050 14581.824112: \n\
                      \t          144d8f _blake3_hash_many_avx2\n\
                      \t               1 [unknown]\n\
                      \n\
                      signaller 15041/15051 14581.831582: \n\
                      \t           cf545 clock_nanosleep@GLIBC_2.2.5\n\
                      \t          20ab46 std::thread::functions::sleep\n\
                      \t           e7c58 <app::A as app::B>::send\n\
                      \n";
        let samples = samples(script);
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(samples[0], [name("_blake3_hash_many_avx2"), None]);
        assert_eq!(samples[1][2], name("<app::A as app::B>::send"));
        assert_eq!(samples.len(), 2);
        assert!(is_lost(&samples[0]) && !is_lost(&samples[1]));
        assert!(super::samples("").is_empty());
    }
}
