//! The maps' contents, and what user space writes into them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt::Display;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use zerocopy::{FromBytes, FromZeros as _, IntoBytes as _};

use super::{ProbeError, Probes, wire};
use crate::event::{RawStack, WalkOutcome};

/// Most stacks and lock waits that one map can hold (`probe-ebpf/src/maps.rs`); a bound for loops over
/// maps that others change meanwhile.
const MOST_ENTRIES: usize = 1 << 16;

const READ: &str = "read";
pub(super) const WRITE: &str = "write to";

/// Makes the error of what was attempted with a map, from the reason.
pub(super) fn failed(
    attempted: &'static str,
    map: &'static str,
) -> impl Fn(&dyn Display) -> ProbeError + Copy {
    move |reason| ProbeError::Map {
        attempted,
        map,
        reason: reason.to_string(),
    }
}

impl Probes {
    /// Bounds the recording; `u64::MAX` for a bound that is not known yet.
    pub fn set_window(&mut self, window: wire::Window) -> Result<(), ProbeError> {
        const BYTES: usize = size_of::<wire::Window>();
        self.array_set::<BYTES>("WINDOW", 0, zerocopy::transmute!(window))
    }

    /// Tells what a poll site runs: a `CLASS_` code.
    pub fn set_site_class(&mut self, site: u32, class: u32) -> Result<(), ProbeError> {
        self.array_set("SITE_CLASS", site, class.to_ne_bytes())
    }

    fn array_set<const BYTES: usize>(
        &mut self,
        name: &'static str,
        index: u32,
        value: [u8; BYTES],
    ) -> Result<(), ProbeError> {
        Array::<_, [u8; BYTES]>::try_from(self.map_mut(name)?)
            .and_then(|mut array| array.set(index, value, 0))
            .map_err(|error| failed(WRITE, name)(&error))
    }

    pub(super) fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, ProbeError> {
        self.ebpf
            .map_mut(name)
            .ok_or_else(|| failed(WRITE, name)(&"no such map"))
    }

    fn map(&self, name: &'static str) -> Result<&Map, ProbeError> {
        self.ebpf
            .map(name)
            .ok_or_else(|| failed(READ, name)(&"no such map"))
    }

    /// Tells what a return address of polls is and whether a probe is there.
    pub fn set_return_site(
        &mut self,
        return_addr: u64,
        state: wire::ReturnSiteState,
    ) -> Result<(), ProbeError> {
        const NAME: &str = "RETURN_SITES";
        let mut bytes = [0; size_of::<wire::ReturnSiteState>()];
        bytes.copy_from_slice(state.as_bytes());
        HashMap::<_, u64, [u8; size_of::<wire::ReturnSiteState>()]>::try_from(self.map_mut(NAME)?)
            .and_then(|mut map| map.insert(return_addr, bytes, 0))
            .map_err(|error| failed(WRITE, NAME)(&error))
    }

    /// Tells what sort of blocking task the `raw::poll` instance at this address polls: a `BLOCKING_` code.
    pub fn add_blocking_poll(&mut self, address: u64, sort: u32) -> Result<(), ProbeError> {
        const NAME: &str = "BLOCKING_POLLS";
        HashMap::<_, u64, u32>::try_from(self.map_mut(NAME)?)
            .and_then(|mut map| map.insert(address, sort, 0))
            .map_err(|error| failed(WRITE, NAME)(&error))
    }

    /// Every lock wait, summed.
    pub fn lock_waits(&self) -> Result<Vec<(wire::LockWaitKey, wire::LockWaitTotals)>, ProbeError> {
        const KEY: usize = size_of::<wire::LockWaitKey>();
        const VALUE: usize = size_of::<wire::LockWaitTotals>();
        self.hash_entries_of::<_, _, KEY, VALUE>("LOCK_WAITS")
    }

    /// Who waited for whom, summed.
    pub fn pairs(&self) -> Result<Vec<(wire::PairKey, wire::Totals)>, ProbeError> {
        const KEY: usize = size_of::<wire::PairKey>();
        const VALUE: usize = size_of::<wire::Totals>();
        self.hash_entries_of::<_, _, KEY, VALUE>("PAIRS")
    }

    /// Holds, summed.
    pub fn holds(&self) -> Result<Vec<(wire::HoldKey, wire::Totals)>, ProbeError> {
        const KEY: usize = size_of::<wire::HoldKey>();
        const VALUE: usize = size_of::<wire::Totals>();
        self.hash_entries_of::<_, _, KEY, VALUE>("HOLDS")
    }

    /// Tasks that wait for permits, and some that gave up.
    pub fn task_waits(&self) -> Result<Vec<(wire::AcquireAddr, wire::TaskWait)>, ProbeError> {
        const KEY: usize = size_of::<wire::AcquireAddr>();
        const VALUE: usize = size_of::<wire::TaskWait>();
        self.hash_entries_of::<_, _, KEY, VALUE>("TASK_WAITS")
    }

    /// Locks that are held now and were seen to be acquired: of Tokio's, and with fast paths probed of threads.
    pub fn held(&self) -> Result<Vec<(wire::HeldKey, wire::Held)>, ProbeError> {
        const KEY: usize = size_of::<wire::HeldKey>();
        const VALUE: usize = size_of::<wire::Held>();
        self.hash_entries_of::<_, _, KEY, VALUE>("HELD")
    }

    fn hash_entries_of<K: FromBytes, V: FromBytes, const KEY: usize, const VALUE: usize>(
        &self,
        name: &'static str,
    ) -> Result<Vec<(K, V)>, ProbeError> {
        Ok(self
            .hash_entries::<[u8; KEY], [u8; VALUE]>(name)?
            .into_iter()
            .filter_map(|(key, value)| Some((read(&key)?, read(&value)?)))
            .collect())
    }

    /// How many interned stacks wait to be taken, of those that decide whether there is room for more.
    pub fn stacks_waiting(&self) -> Result<u64, ProbeError> {
        const NAME: &str = "STACK_COUNTS";
        let failed = failed(READ, NAME);
        let counts: Array<&MapData, u64> =
            Array::try_from(self.map(NAME)?).map_err(|error| failed(&error))?;
        let stored = counts
            .get(&wire::STACKS_STORED, 0)
            .map_err(|error| failed(&error))?;
        Ok(stored.saturating_sub(self.stacks_taken))
    }

    /// Interned stacks by key. They are gone from the maps then, or come once more if the kernel could not remove them; a program
    /// that meets one again stores it again.
    pub fn take_stacks(&mut self) -> Result<BTreeMap<u64, RawStack>, ProbeError> {
        const SHORT: usize = size_of::<wire::ShortStack>();
        const DEEP: usize = size_of::<wire::Stack>();
        let stack = |frames: u32, outcome: u32, addrs: &[u64]| RawStack {
            outcome: WalkOutcome::from_code(outcome),
            addresses: addrs[..(frames as usize).min(addrs.len())].to_vec(),
        };
        let (short, removed) = self.take_entries::<[u8; SHORT]>("STACKS")?;
        self.stacks_taken += removed;
        let taken = self.stacks_taken.to_ne_bytes();
        self.array_set("STACK_COUNTS", wire::STACKS_TAKEN, taken)?;
        let short = short.into_iter().filter_map(|(key, value)| {
            let it: wire::ShortStack = read(&value)?;
            Some((key, stack(it.frames, it.outcome, &it.addrs)))
        });
        let (deep, _) = self.take_entries::<[u8; DEEP]>("DEEP_STACKS")?;
        let deep = deep.into_iter().filter_map(|(key, value)| {
            let it: wire::Stack = read(&value)?;
            Some((key, stack(it.frames, it.outcome, &it.addrs)))
        });
        Ok(short.chain(deep).collect())
    }

    /// Records of the threads that were seen and still live.
    pub fn threads(&self) -> Result<Vec<wire::Thread>, ProbeError> {
        const VALUE: usize = size_of::<wire::Thread>();
        Ok(self
            .hash_entries::<u64, [u8; VALUE]>("THREADS")?
            .into_iter()
            .filter_map(|(_, value)| read(&value))
            .collect())
    }

    /// Reads all entries of a map that only programs fill, and removes them. Returns how many the kernel removed: rather than
    /// wait for a lock of the map for long, it fails (`rqspinlock`).
    fn take_entries<V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<(Vec<(u64, V)>, u64), ProbeError> {
        let entries = self.hash_entries::<u64, V>(name)?;
        let mut map = HashMap::<_, u64, V>::try_from(self.map_mut(name)?)
            .map_err(|error| failed(WRITE, name)(&error))?;
        let removed = entries.iter().filter(|(key, _)| map.remove(key).is_ok());
        let removed = removed.count() as u64;
        Ok((entries, removed))
    }

    fn hash_entries<K: aya::Pod, V: aya::Pod>(
        &self,
        name: &'static str,
    ) -> Result<Vec<(K, V)>, ProbeError> {
        let failed = failed(READ, name);
        let map: HashMap<&MapData, K, V> =
            HashMap::try_from(self.map(name)?).map_err(|error| failed(&error))?;
        let mut entries = Vec::new();
        for entry in map.iter().take(MOST_ENTRIES) {
            match entry {
                Ok(entry) => entries.push(entry),
                // A thread left between two steps of the iteration: only that entry is gone.
                Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(entries)
    }

    /// The counters, summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; wire::COUNTERS as usize], ProbeError> {
        let mut sums = [0; wire::COUNTERS as usize];
        for cpu in self.per_cpu::<[u64; wire::COUNTERS as usize]>("COUNTERS", 0)? {
            for (sum, value) in sums.iter_mut().zip(cpu) {
                *sum += value;
            }
        }
        Ok(sums)
    }

    /// What was seen of a poll site.
    pub fn site_totals(&self, site: u32) -> Result<wire::PollSiteTotals, ProbeError> {
        const NAME: &str = "SITE_TOTALS";
        const VALUE: usize = size_of::<wire::PollSiteTotals>();
        let failed = failed(READ, NAME);
        let map: Array<&MapData, [u8; VALUE]> =
            Array::try_from(self.map(NAME)?).map_err(|error| failed(&error))?;
        let bytes = map.get(&site, 0).map_err(|error| failed(&error))?;
        Ok(read(&bytes).unwrap_or_else(wire::PollSiteTotals::new_zeroed))
    }

    fn per_cpu<V: aya::Pod>(&self, name: &'static str, index: u32) -> Result<Vec<V>, ProbeError> {
        let failed = failed(READ, name);
        let map: PerCpuArray<&MapData, V> =
            PerCpuArray::try_from(self.map(name)?).map_err(|error| failed(&error))?;
        let values = map.get(&index, 0).map_err(|error| failed(&error))?;
        Ok(values.iter().copied().collect())
    }
}

fn read<T: FromBytes>(bytes: &(impl Borrow<[u8]> + ?Sized)) -> Option<T> {
    T::read_from_bytes(bytes.borrow()).ok()
}
