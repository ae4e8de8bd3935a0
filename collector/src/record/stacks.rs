//! Stacks, on their way from the kernel's maps into the capture file. What enters: the maps' room for stacks, which a busy program
//! fills in seconds. What leaves: each stack once, in the file, and the addresses that want names.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::RecordError;
use crate::capture::Writer;
use crate::event::RawStack;
use crate::probe::{ProbeError, Probes};
use crate::symbolize::SymbolTable;
use holdup_probe_ebpf::wire;

/// So many are kept of a recording: what is made of it later has them all in memory, at half a kilobyte each. When there are more
/// they stay in the maps, and the kernel side counts what finds no room there.
const MOST_STACKS: usize = 1 << 18;

/// So many are taken before it is time.
pub(super) const MANY: u32 = wire::STACKS / 8;

/// What was taken so far.
#[derive(Debug, Default)]
pub(super) struct TakenStacks {
    keys: HashSet<u64>,
    addresses: BTreeSet<u64>,
}

impl TakenStacks {
    /// Takes what is there, if it is so many. What can't be taken stays for the next time.
    pub(super) fn take(
        &mut self,
        at_least: u32,
        probes: &mut Probes,
        writer: &mut Writer,
    ) -> Result<(), RecordError> {
        let has_room = self.keys.len() + wire::STACKS as usize <= MOST_STACKS;
        let is_waiting = |waiting| waiting >= u64::from(at_least);
        if has_room && probes.stacks_waiting().is_ok_and(is_waiting) {
            match self.rest(probes) {
                Ok(stacks) => writer.stacks(stacks.iter())?,
                Err(error) => tracing::warn!("stacks are left where they are: {error}"),
            }
        }
        Ok(())
    }

    /// What is there and not in the file.
    pub(super) fn rest(
        &mut self,
        probes: &mut Probes,
    ) -> Result<BTreeMap<u64, RawStack>, ProbeError> {
        let mut stacks = probes.take_stacks()?;
        stacks.retain(|key, _| self.keys.insert(*key));
        for stack in stacks.values() {
            self.addresses
                .extend(SymbolTable::lookup_addresses(&stack.addresses));
        }
        Ok(stacks)
    }

    /// The addresses of all of them.
    pub(super) fn into_addresses(self) -> BTreeSet<u64> {
        self.addresses
    }
}
