//! Tables in memory of our own, for stacks that are walked in user space: the same rows, rules and ranges that the
//! kernel side gets, and the look-up in them.

use std::collections::HashMap;
use std::convert::Infallible;

use holdup_probe_ebpf::wire::unwind::{NO_CHUNK_UNMAPPED, RULE_NONE, Range, Row, Rule};

use super::Kernel;
use crate::event::Pid;

/// The tables of one process.
#[derive(Debug, Default)]
pub struct Kept {
    rules: Vec<Rule>,
    chunks: HashMap<u32, Vec<Row>>,
    ranges: Vec<Range>,
}

impl Kernel for Kept {
    type Error = Infallible;

    fn set_rules(&mut self, first: u32, rules: &[Rule]) -> Result<(), Infallible> {
        self.rules.truncate(first as usize);
        self.rules.extend_from_slice(rules);
        Ok(())
    }

    fn set_chunks(&mut self, chunks: &[(u32, &[Row])]) -> Result<(), Infallible> {
        let owned = chunks.iter().map(|(chunk, rows)| (*chunk, rows.to_vec()));
        self.chunks.extend(owned);
        Ok(())
    }

    fn clear_chunk(&mut self, chunk: u32) -> Result<(), Infallible> {
        self.chunks.remove(&chunk);
        Ok(())
    }

    fn set_ranges(&mut self, _: Pid, ranges: &[Range]) -> Result<(), Infallible> {
        self.ranges = ranges.to_vec();
        Ok(())
    }

    fn clear_ranges(&mut self, _: Pid) -> Result<(), Infallible> {
        self.ranges.clear();
        Ok(())
    }
}

impl Kept {
    /// The rule at an address, or the `NO_CHUNK_` code of why there is none.
    pub(super) fn rule(&self, addr: u64) -> Result<Option<&Rule>, u32> {
        let after = self.ranges.partition_point(|range| range.start <= addr);
        let range = after
            .checked_sub(1)
            .and_then(|n| self.ranges.get(n))
            .ok_or(NO_CHUNK_UNMAPPED)?;
        let rows = self.chunks.get(&range.chunk).ok_or(range.chunk)?;
        let place = addr.wrapping_sub(range.base) as u32;
        let after = rows.partition_point(|row| row.place <= place);
        let rule = after
            .checked_sub(1)
            .and_then(|n| rows.get(n))
            .map_or(RULE_NONE, |row| row.rule);
        Ok(self.rules.get(rule as usize))
    }
}

/// A kernel, and beside it the same tables here.
#[derive(Debug)]
pub struct KeptBeside<'a, K> {
    /// Who gets them first.
    pub kernel: &'a mut K,
    /// Who keeps them.
    pub kept: &'a mut Kept,
}

impl<K: Kernel> Kernel for KeptBeside<'_, K> {
    type Error = K::Error;

    fn set_rules(&mut self, first: u32, rules: &[Rule]) -> Result<(), K::Error> {
        self.kernel.set_rules(first, rules)?;
        let Ok(()) = self.kept.set_rules(first, rules);
        Ok(())
    }

    fn set_chunks(&mut self, chunks: &[(u32, &[Row])]) -> Result<(), K::Error> {
        self.kernel.set_chunks(chunks)?;
        let Ok(()) = self.kept.set_chunks(chunks);
        Ok(())
    }

    fn clear_chunk(&mut self, chunk: u32) -> Result<(), K::Error> {
        self.kernel.clear_chunk(chunk)?;
        let Ok(()) = self.kept.clear_chunk(chunk);
        Ok(())
    }

    fn set_ranges(&mut self, pid: Pid, ranges: &[Range]) -> Result<(), K::Error> {
        self.kernel.set_ranges(pid, ranges)?;
        let Ok(()) = self.kept.set_ranges(pid, ranges);
        Ok(())
    }

    fn clear_ranges(&mut self, pid: Pid) -> Result<(), K::Error> {
        self.kernel.clear_ranges(pid)?;
        let Ok(()) = self.kept.clear_ranges(pid);
        Ok(())
    }
}
