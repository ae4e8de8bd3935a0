//! The kernel side's counters with their names.

use holdup_probe_ebpf::wire;

/// A name for each counter, in the order of its index; the names are part of the report's schema.
const NAMES: [&str; wire::COUNTERS as usize] = [
    "polls",
    "long_polls",
    "long_poll_ns",
    "blocking_polls",
    "lock_waits",
    "condvar_waits",
    "lost_long_polls",
    "lost_long_poll_ns",
    "lost_samples",
    "lost_off_cpu",
    "lost_lock_waits",
    "lost_other",
    "stacks_not_stored",
    "frames",
    "frames_without_cfi",
    "lock_waits_not_aggregated",
    "threads_not_tracked",
    "polls_too_deep",
    "locks_too_deep",
    "poll_end_without_start",
    "poll_end_unseen",
    "lock_return_without_entry",
    "unlocks",
    "unlocks_not_stored",
    "samples",
    "handoffs",
    "long_polls_began_earlier",
    "return_addresses_restored",
    "task_waits",
    "pairs_not_stored",
    "holds_not_stored",
    "lost_holds",
    "task_releases_unmatched",
    "early_not_kept",
    "lost_delays",
    "wakes_not_stored",
    "walks_uprobe_complete",
    "walks_uprobe_unmapped",
    "walks_uprobe_no_table",
    "walks_uprobe_no_cfi",
    "walks_uprobe_bad_row",
    "walks_uprobe_read_fault",
    "walks_uprobe_too_deep",
    "walks_uprobe_no_registers",
    "walks_uprobe_no_room",
    "walks_sample_complete",
    "walks_sample_unmapped",
    "walks_sample_no_table",
    "walks_sample_no_cfi",
    "walks_sample_bad_row",
    "walks_sample_read_fault",
    "walks_sample_too_deep",
    "walks_sample_no_registers",
    "walks_sample_no_room",
    "walks_off_cpu_complete",
    "walks_off_cpu_unmapped",
    "walks_off_cpu_no_table",
    "walks_off_cpu_no_cfi",
    "walks_off_cpu_bad_row",
    "walks_off_cpu_read_fault",
    "walks_off_cpu_too_deep",
    "walks_off_cpu_no_registers",
    "walks_off_cpu_no_room",
    "back_on_cpu_unseen",
];

/// What the kernel side counted; all zero when a capture was cut off before they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; wire::COUNTERS as usize]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; wire::COUNTERS as usize])
    }
}

impl Counters {
    /// From values in the order of their indices; missing ones are zero.
    pub fn new(values: impl IntoIterator<Item = u64>) -> Counters {
        let mut counters = Counters::default();
        for (slot, value) in counters.0.iter_mut().zip(values) {
            *slot = value;
        }
        counters
    }

    /// The value of a `wire::COUNTER_`.
    pub fn get(&self, counter: u32) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spot checks that names and indices belong together, at both ends and in the middle.
    #[test]
    fn names_follow_the_indices() {
        assert_eq!(NAMES[wire::COUNTER_POLLS as usize], "polls");
        assert_eq!(
            NAMES[wire::COUNTER_LOST_LONG_POLL_NS as usize],
            "lost_long_poll_ns"
        );
        assert_eq!(NAMES[wire::COUNTER_LOST_OTHER as usize], "lost_other");
        assert_eq!(NAMES[wire::COUNTER_FRAMES as usize], "frames");
        let walks = |kind, outcome| NAMES[wire::counter_walks(kind, outcome) as usize];
        use wire::unwind::{KIND_OFF_CPU, KIND_SAMPLE, OUTCOME_NO_CFI, OUTCOME_NO_ROOM};
        assert_eq!(walks(KIND_SAMPLE, OUTCOME_NO_CFI), "walks_sample_no_cfi");
        assert_eq!(
            walks(KIND_OFF_CPU, OUTCOME_NO_ROOM),
            "walks_off_cpu_no_room"
        );
        assert_eq!(
            NAMES[wire::COUNTER_POLL_END_UNSEEN as usize],
            "poll_end_unseen"
        );
        assert_eq!(NAMES[wire::COUNTER_HANDOFFS as usize], "handoffs");
        assert_eq!(
            NAMES[wire::COUNTER_LONG_POLLS_BEGAN_EARLIER as usize],
            "long_polls_began_earlier"
        );
    }

    /// A file with fewer counters than this version knows leaves the others at zero.
    #[test]
    fn missing_counters_are_zero() {
        let counters = Counters::new([7]);
        assert_eq!(counters.get(wire::COUNTER_POLLS), 7);
        assert_eq!(counters.get(wire::COUNTER_HANDOFFS), 0);
        assert_eq!(counters.get(u32::MAX), 0);
    }
}
