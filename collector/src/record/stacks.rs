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

/// What was taken so far.
#[derive(Debug, Default)]
pub(super) struct TakenStacks {
    keys: HashSet<u64>,
    addresses: BTreeSet<u64>,
}

impl TakenStacks {
    /// Takes what is there. What can't be taken stays for the next time.
    pub(super) fn take(
        &mut self,
        probes: &mut Probes,
        writer: &mut Writer,
    ) -> Result<(), RecordError> {
        let has_room = self.keys.len() + wire::STACKS as usize <= MOST_STACKS;
        if has_room && is_waiting(probes, 1) {
            match self.rest(probes) {
                Ok(stacks) => writer.stacks(stacks.iter())?,
                Err(error) => tracing::warn!("stacks are left where they are: {error}"),
            }
        }
        Ok(())
    }

    /// Takes what is there if the room for more gets less.
    pub(super) fn take_early(
        &mut self,
        probes: &mut Probes,
        writer: &mut Writer,
    ) -> Result<(), RecordError> {
        if is_waiting(probes, wire::STACKS / 8) {
            self.take(probes, writer)?;
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

/// Whether so many stacks are there to be taken.
fn is_waiting(probes: &Probes, stacks: u32) -> bool {
    probes
        .stacks_waiting()
        .is_ok_and(|waiting| waiting >= u64::from(stacks))
}
