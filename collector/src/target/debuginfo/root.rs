//! A root folder and a path in it go in; an opened regular file comes out.
//!
//! The root can be the target's, who decides what is in it: links that lead out of it are followed
//! inside of it, as the target itself would, and nothing but a regular file is ever opened: opening a FIFO
//! waits for a writer, and opening a device can do anything.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// A root folder. It stays reachable after the process that it was opened for is gone.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    /// What `dir` was opened as, for people.
    path: PathBuf,
}

impl Root {
    /// Opens a folder as root; None if that is not possible, as for a process that is gone.
    pub fn open(path: &Path) -> Option<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(Root {
            dir,
            path: path.to_owned(),
        })
    }

    /// Whether this is the same folder.
    pub fn is(&self, other: &Root) -> bool {
        let identity = |root: &Root| {
            let stat = rustix::fs::fstat(&root.dir).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        identity(self).is_some_and(|this| identity(other) == Some(this))
    }

    /// Opens the regular file at a path in this root.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve)?;
        readable(&place)
    }

    /// A path in this root as we see it.
    pub fn shown(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Opens the regular file at a path that the person at our side of the container named.
pub fn open_ours(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    readable(&rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// The file that is known by its place only, opened for reading.
fn readable(place: &OwnedFd) -> io::Result<File> {
    let stat = rustix::fs::fstat(place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    // What the kernel shows as files may be a device's memory.
    let shown_by_the_kernel = [
        0x6265_6572, // sysfs; all of linux/magic.h
        0x9fa0,      // proc
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
    ];
    if shown_by_the_kernel.contains(&rustix::fs::fstatfs(place)?.f_type) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a file of the kernel's own",
        ));
    }
    // The very file that was looked at, whatever its name stands for by now.
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}
