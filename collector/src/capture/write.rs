//! Writes a capture file: the meta data at once, records and stacks as they come, the rest at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zerocopy::{Immutable, IntoBytes};

use super::{CaptureError, Meta, Rest, section};
use crate::event::RawStack;
use crate::symbolize::SymbolTable;

/// Records are gathered to sections of about this size; a killed recorder loses one at most.
const CHUNK_BYTES: usize = 64 << 10;

/// Entries for each section of the long lists, so that a cut loses a part of one and not all of it.
const CHUNK_ENTRIES: usize = 4096;

/// A capture file being written.
pub struct Writer {
    path: PathBuf,
    file: File,
    records: Vec<u8>,
    /// Bytes of records and stacks so far.
    written: u64,
}

impl Writer {
    /// Makes the file, in place of one that is there, and writes its beginning. A link that has its name is
    /// replaced, not followed.
    pub fn create(path: &Path, meta: &Meta) -> Result<Writer, CaptureError> {
        let made = match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::create_new(path),
        };
        let file = made.map_err(|source| CaptureError::Write {
            path: path.to_owned(),
            source,
        })?;
        let mut writer = Writer {
            path: path.to_owned(),
            file,
            records: Vec::with_capacity(CHUNK_BYTES * 2),
            written: 0,
        };
        let mut header = section::MAGIC.to_vec();
        header.extend(section::VERSION.to_le_bytes());
        writer.bytes(&header)?;
        writer.json(section::META, meta)?;
        Ok(writer)
    }

    /// Adds one record of the ring buffer, verbatim.
    pub fn record(&mut self, raw: &[u8]) -> Result<(), CaptureError> {
        self.written += 4 + raw.len() as u64;
        self.records.extend((raw.len() as u32).to_le_bytes());
        self.records.extend(raw);
        if self.records.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether the file is as long as one may get: what follows the records needs room too.
    pub fn is_full(&self) -> bool {
        self.written >= section::MOST_FILE_BYTES / 2
    }

    /// Hands the records so far to the system, so that they are there if this process is killed.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        let result = self.section(section::RECORDS, &records);
        self.records = records;
        self.records.clear();
        result
    }

    /// Adds stacks, by their keys.
    pub fn stacks<'a>(
        &mut self,
        stacks: impl Iterator<Item = (&'a u64, &'a RawStack)>,
    ) -> Result<(), CaptureError> {
        let mut chunk = Vec::new();
        for (n, (key, stack)) in stacks.enumerate() {
            chunk.extend(key.to_le_bytes());
            chunk.extend((stack.addresses.len() as u32).to_le_bytes());
            chunk.extend(stack.outcome.code().to_le_bytes());
            chunk.extend(
                stack
                    .addresses
                    .iter()
                    .flat_map(|address| address.to_le_bytes()),
            );
            if (n + 1).is_multiple_of(CHUNK_ENTRIES) {
                self.write_stacks(&chunk)?;
                chunk.clear();
            }
        }
        self.write_stacks(&chunk)
    }

    fn write_stacks(&mut self, chunk: &[u8]) -> Result<(), CaptureError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.written += chunk.len() as u64;
        self.section(section::STACKS, chunk)
    }

    /// Completes the file.
    pub fn finish(mut self, rest: &Rest) -> Result<(), CaptureError> {
        let Rest {
            meta,
            probes,
            poll_sites,
            return_sites,
            lock_waits,
            pairs,
            holds,
            stacks,
            counters,
            threads,
            stuck,
            runtime_threads,
            symbols,
            end,
        } = rest;
        self.flush()?;
        self.json(section::META, meta)?;
        self.json(section::PROBES, probes)?;
        for sites in poll_sites.chunks(CHUNK_ENTRIES) {
            self.json(section::POLL_SITES, &sites)?;
        }
        for sites in return_sites.chunks(CHUNK_ENTRIES) {
            self.json(section::RETURN_SITES, &sites)?;
        }
        self.section(section::COUNTERS, counters.as_bytes())?;
        self.map(section::LOCK_WAITS, lock_waits)?;
        self.map(section::PAIRS, pairs)?;
        self.map(section::HOLDS, holds)?;
        for threads in threads.chunks(CHUNK_ENTRIES) {
            self.section(section::THREADS, threads.as_bytes())?;
        }
        if !stuck.is_empty() {
            self.json(section::STUCK, stuck)?;
        }
        for threads in runtime_threads.chunks(CHUNK_ENTRIES) {
            self.json(section::RUNTIME_THREADS, &threads)?;
        }
        self.stacks(stacks.iter())?;
        let mut table = SymbolTable::default();
        for (address, frames) in &symbols.frames {
            table.frames.insert(*address, frames.clone());
            if table.frames.len() == CHUNK_ENTRIES {
                self.json(section::SYMBOLS, &table)?;
                table.frames = BTreeMap::new();
            }
        }
        table.refused.clone_from(&symbols.refused);
        self.json(section::SYMBOLS, &table)?;
        self.json(section::END, end)
    }

    /// Keys and values, one after the other.
    fn map<K, V>(&mut self, kind: u32, entries: &[(K, V)]) -> Result<(), CaptureError>
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        for entries in entries.chunks(CHUNK_ENTRIES) {
            let bytes = entries
                .iter()
                .flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
            self.section(kind, &bytes.collect::<Vec<_>>().concat())?;
        }
        Ok(())
    }

    fn json(&mut self, kind: u32, value: &impl Serialize) -> Result<(), CaptureError> {
        match serde_json::to_vec(value) {
            Ok(payload) => self.section(kind, &payload),
            Err(error) => Err(self.failed(io::Error::other(error))),
        }
    }

    fn section(&mut self, kind: u32, payload: &[u8]) -> Result<(), CaptureError> {
        if payload.len() > section::MOST_SECTION_BYTES as usize {
            let error = format!("section {kind} has {} bytes", payload.len());
            return Err(self.failed(io::Error::other(error)));
        }
        let mut bytes = Vec::with_capacity(section::SECTION_HEADER + payload.len());
        bytes.extend(kind.to_le_bytes());
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(section::checksum(kind, payload).to_le_bytes());
        bytes.extend(payload);
        self.bytes(&bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        self.file
            .write_all(bytes)
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for Writer {
    /// A recording that failed in the middle keeps what it had. Who cares for the error calls `flush`.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}
