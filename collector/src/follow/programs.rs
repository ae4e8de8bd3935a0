//! Which of the programs that a command starts are worth a recorder. A build starts thousands of compilers: what had
//! nothing to probe is known again by its file, and the tools that run tests are none of them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::event::Pid;

/// A file, and that it is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i64,
}

/// Rust's own tools. They have locks, and nobody wants to know of them.
const TOOLS: [&str; 12] = [
    "cargo",
    "cargo-clippy",
    "cargo-nextest",
    "clippy-driver",
    "rustc",
    "rustdoc",
    "rustfmt",
    "rustup",
    "rust-lld",
    "sccache",
    "build-script-build",
    "build-script-main",
];

/// What to do with a process that just started a program.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may have something to probe.
    Probe {
        /// Its program's file name.
        name: String,
        /// The program.
        file: FileId,
    },
    /// It has nothing.
    Nothing,
}

/// What is known of programs.
#[derive(Debug, Default)]
pub struct Programs {
    nothing: HashSet<FileId>,
    counted: u64,
}

impl Programs {
    /// Looks at what a process runs.
    pub fn look(&self, pid: Pid) -> Verdict {
        let exe = format!("/proc/{}/exe", pid.0);
        // One that is gone already has nothing.
        let (Ok(file), Ok(path)) = (fs::metadata(&exe), fs::read_link(&exe)) else {
            return Verdict::Nothing;
        };
        let file = FileId {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified_ns: file.mtime() * 1_000_000_000 + file.mtime_nsec(),
        };
        if self.nothing.contains(&file) || is_tool(&path) {
            return Verdict::Nothing;
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        Verdict::Probe {
            name: name.to_string_lossy().into_owned(),
            file,
        }
    }

    /// A recorder found nothing to probe in it.
    pub fn has_nothing(&mut self, file: FileId) {
        self.nothing.insert(file);
    }

    /// A number that no other recorder has.
    pub fn count(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }
}

fn is_tool(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| TOOLS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program is asked about once, and again when its file is another one.
    #[test]
    fn programs_are_known_again() {
        let me = Pid(std::process::id());
        let mut programs = Programs::default();
        let Verdict::Probe { name, file } = programs.look(me) else {
            panic!("this test is no tool");
        };
        assert!(name.starts_with("holdup-"), "{name}");
        programs.has_nothing(FileId {
            bytes: file.bytes + 1,
            ..file
        });
        assert_ne!(programs.look(me), Verdict::Nothing);
        programs.has_nothing(file);
        assert_eq!(programs.look(me), Verdict::Nothing);
        assert_eq!(programs.look(Pid(u32::MAX)), Verdict::Nothing);
    }

    /// Compilers and what starts them are left alone, by their whole name.
    #[test]
    fn tools_are_left_alone() {
        assert!(is_tool(Path::new("/home/me/.cargo/bin/cargo")));
        assert!(is_tool(Path::new("rustc")));
        assert!(!is_tool(Path::new("/target/debug/deps/cargo_tests-0f")));
        assert!(!is_tool(Path::new("/cargo/server")));
    }
}
