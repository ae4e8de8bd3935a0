//! A return probe of somebody else's on the workload: through the kernel's tracefs, as perf, ftrace and others set
//! them. While its function runs, the kernel's own address stands on the stack where the return address was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::workload::Workload;

const GROUP: &str = "holdup_test";
const EVENT: &str = "marker";

/// A return probe that is there until it is dropped.
pub struct ReturnProbe {
    tracefs: Tracefs,
}

impl ReturnProbe {
    /// On the function that the workload names for it.
    #[track_caller]
    pub fn on(workload: &Workload) -> Self {
        let said = workload.lines();
        let address = said
            .iter()
            .find_map(|line| line.strip_prefix("return-probe-marker addr=0x"))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .unwrap_or_else(|| panic!("the workload names no function, but says {said:?}"));
        let program = PathBuf::from(format!("/proc/{}/exe", workload.pid));
        let path = fs::read_link(&program).expect("it runs");
        let offset = offset_in_file(workload.pid, address);
        let probe = Self {
            tracefs: Tracefs::get(),
        };
        // What an earlier test that failed has left.
        probe.remove();
        let definition = format!("r:{GROUP}/{EVENT} {}:{offset:#x}\n", path.display());
        probe.write("uprobe_events", &definition);
        probe.write(&format!("events/{GROUP}/{EVENT}/enable"), "1");
        probe
    }

    /// How often it was passed through.
    #[track_caller]
    pub fn hits(&self) -> u64 {
        // A line for each probe: file, event, hits.
        let profile = self.tracefs.path().join("uprobe_profile");
        let text = fs::read_to_string(&profile)
            .unwrap_or_else(|error| panic!("{}: {error}", profile.display()));
        text.lines()
            .filter_map(|line| line.split_once(&format!(" {EVENT} ")))
            .find_map(|(_, behind)| behind.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("the probe is not in {text:?}"))
    }

    #[track_caller]
    fn write(&self, file: &str, text: &str) {
        let file = self.tracefs.path().join(file);
        append(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    fn remove(&self) {
        let tracefs = self.tracefs.path();
        // Neither is there when there is no such probe.
        let _ = append(&tracefs.join(format!("events/{GROUP}/{EVENT}/enable")), "0");
        let _ = append(
            &tracefs.join("uprobe_events"),
            &format!("-:{GROUP}/{EVENT}\n"),
        );
    }
}

impl Drop for ReturnProbe {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Truncating `uprobe_events` would remove everybody's probes.
fn append(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    fs::File::options()
        .append(true)
        .open(file)?
        .write_all(text.as_bytes())
}

/// Where the code at an address of the process lies in its file.
#[track_caller]
fn offset_in_file(pid: u32, address: u64) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    maps.lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let offset = words.nth(1)?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (start, end, offset) = (number(start)?, number(end)?, number(offset)?);
            (start..end)
                .contains(&address)
                .then(|| address - start + offset)
        })
        .expect("the function is in a mapping")
}

/// tracefs where it is, or mounted for as long as this lives.
enum Tracefs {
    There(PathBuf),
    Mounted(TempDir),
}

impl Tracefs {
    #[track_caller]
    fn get() -> Self {
        let usual = PathBuf::from("/sys/kernel/tracing");
        if usual.join("uprobe_events").exists() {
            return Self::There(usual);
        }
        let own = tempfile::tempdir().expect("a temporary folder can be made");
        let status = Command::new("mount")
            .args(["-t", "tracefs", "tracefs"])
            .arg(own.path())
            .status()
            .expect("every system has mount");
        assert!(status.success(), "tracefs can't be mounted");
        Self::Mounted(own)
    }

    fn path(&self) -> &Path {
        match self {
            Self::There(path) => path,
            Self::Mounted(dir) => dir.path(),
        }
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if let Self::Mounted(dir) = self {
            // The folder can't be removed as long as something is mounted there.
            let _ = Command::new("umount").arg(dir.path()).status();
        }
    }
}
