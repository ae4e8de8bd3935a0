//! A file goes in, its bytes come out. Separate because mapping a file is the one thing in
//! `target` that the compiler can't check.

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::Mmap;

/// A read-only, private mapping of a whole file.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps `file`. Only regular files are accepted: a device or a pipe in place of a library is
    /// somebody playing tricks.
    pub fn new(file: &File) -> io::Result<MappedFile> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        // SAFETY: the mapping is private and read-only, and lives as long as the value. The kernel
        // refuses writes to an executable while it runs (ETXTBSY). For libraries nothing does, so
        // no parser keeps a conclusion about the bytes across two reads of them: all offsets are
        // checked against the length of the mapping, which can't change, where they are used.
        let map = unsafe { Mmap::map(file)? };
        Ok(MappedFile(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
