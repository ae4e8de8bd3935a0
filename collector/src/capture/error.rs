//! What can go wrong with a capture file.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a capture could not be written or read.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file can't be made or written.
    #[error("can't write the capture to {}: {source}; choose another folder, or make room there", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file can't be opened or read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file can be read, but not as a capture.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
}

/// Why bytes are not a capture that this version can use.
#[derive(Debug, Error)]
pub enum FormatError {
    /// It is some other file.
    #[error("this is not a holdup capture; give the capture.holdup that `holdup record` wrote")]
    NotACapture,
    /// A later holdup wrote it.
    #[error(
        "this capture was written by a newer holdup ({what} {found}, this one knows up to {known}); \
         read it with that version"
    )]
    Newer {
        /// Which version differs.
        what: &'static str,
        /// What the file says.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// An earlier holdup wrote it, in a way that is not read any more.
    #[error(
        "this capture was written by an older holdup ({what} {found}, this one reads {known}); read it \
         with that version"
    )]
    Older {
        /// Which version differs.
        what: &'static str,
        /// What the file says.
        found: u32,
        /// What this program reads.
        known: u32,
    },
    /// Not even its beginning is whole, so there is nothing to report on.
    #[error(
        "this capture is damaged at its beginning (byte {offset}: {why}); nothing in it can be used"
    )]
    Unusable {
        /// Bytes from the start of the file.
        offset: u64,
        /// What is there.
        why: String,
    },
    /// Its checksums are right, but it holds times that no recording can have.
    #[error("this capture can't be true ({why}); nothing in it can be used")]
    Impossible {
        /// What is impossible.
        why: String,
    },
    /// Larger than any capture that one recording makes.
    #[error("this file has {bytes} bytes; a capture has at most {most}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// It could not be read to its end.
    #[error(transparent)]
    Io(#[from] io::Error),
}
