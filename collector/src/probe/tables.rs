//! The maps that hold unwind tables: chunks of rows and address spaces are maps of their own inside of maps, so
//! that each comes and goes as a whole, and its memory with it.

use std::io;
use std::mem::offset_of;

use aya::maps::{Array, Map, MapData};
use zerocopy::IntoBytes as _;

use super::maps::{WRITE, failed};
use super::{ProbeError, Probes, elements, wire};
use crate::event::Pid;
use crate::unwind;
use wire::unwind::{Chunk, MAX_RANGES, Range, Ranges, Row, Rule};

const RULES: &str = "RULES";
const CHUNKS: &str = "CHUNKS";
const PROCESSES: &str = "PROCESSES";

impl unwind::Kernel for Probes {
    type Error = ProbeError;

    fn set_rules(&mut self, first: u32, rules: &[Rule]) -> Result<(), ProbeError> {
        let failed = failed(WRITE, RULES);
        let mut map = Array::<_, [u8; size_of::<Rule>()]>::try_from(self.map_mut(RULES)?)
            .map_err(|error| failed(&error))?;
        for (index, rule) in (first..).zip(rules) {
            let mut bytes = [0; size_of::<Rule>()];
            bytes.copy_from_slice(rule.as_bytes());
            map.set(index, bytes, 0).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn set_chunks(&mut self, chunks: &[(u32, &[Row])]) -> Result<(), ProbeError> {
        let failed = failed(WRITE, CHUNKS);
        let map = self.map_of_maps(CHUNKS)?;
        let inner = |rows: &[Row]| {
            let mut chunk = vec![0; size_of::<Chunk>()];
            chunk[..size_of_val(rows)].copy_from_slice(rows.as_bytes());
            elements::single("CHUNK", &chunk)
        };
        let elements: io::Result<Vec<_>> = chunks
            .iter()
            .map(|(chunk, rows)| Ok((*chunk, inner(rows)?)))
            .collect();
        // The kernel waits for running programs after each change of a map of maps, 8 ms: together once.
        elements
            .and_then(|elements| elements::set_all(map, &elements))
            .map_err(|error| failed(&error))
    }

    fn clear_chunk(&mut self, chunk: u32) -> Result<(), ProbeError> {
        elements::delete(self.map_of_maps(CHUNKS)?, chunk)
            .map_err(|error| failed(WRITE, CHUNKS)(&error))
    }

    fn set_ranges(&mut self, pid: Pid, ranges: &[Range]) -> Result<(), ProbeError> {
        let ranges = &ranges[..ranges.len().min(MAX_RANGES)];
        let mut all = vec![0; size_of::<Ranges>()];
        let (count, rest) = all.split_at_mut(offset_of!(Ranges, ranges));
        count[..4].copy_from_slice((ranges.len() as u32).as_bytes());
        rest[..size_of_val(ranges)].copy_from_slice(ranges.as_bytes());
        let map = self.map_of_maps(PROCESSES)?;
        elements::single("RANGES", &all)
            .and_then(|inner| elements::set(map, pid.0, &inner))
            .map_err(|error| failed(WRITE, PROCESSES)(&error))
    }

    fn clear_ranges(&mut self, pid: Pid) -> Result<(), ProbeError> {
        elements::delete(self.map_of_maps(PROCESSES)?, pid.0)
            .map_err(|error| failed(WRITE, PROCESSES)(&error))
    }
}

impl Probes {
    fn map_of_maps(&mut self, name: &'static str) -> Result<&MapData, ProbeError> {
        match self.map_mut(name)? {
            Map::ArrayOfMaps(map) | Map::HashOfMaps(map) => Ok(map),
            _ => Err(failed(WRITE, name)(&"of another kind")),
        }
    }
}
