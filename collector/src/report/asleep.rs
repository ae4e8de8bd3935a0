//! What long polls slept for.

use std::collections::BTreeMap;

use super::words::percent;
use super::{AsleepEntry, LongPollEntry};
use crate::classify::{Asleep, SleepKind};
use crate::correlate::{Activity, Share};
use crate::event::Nanos;

/// What one long poll slept for.
pub fn of_shares(shares: &[Share], architecture: &str) -> Vec<AsleepEntry> {
    let mut sum = AsleepSum::default();
    for share in shares {
        if share.activity == Activity::Sleep {
            let Asleep { kind, call } = Asleep::new(share.cause, architecture);
            sum.add(kind, call, share.time);
        }
    }
    sum.finish()
}

/// What several slept for, all together.
pub fn of_polls<'a>(polls: impl IntoIterator<Item = &'a LongPollEntry>) -> Vec<AsleepEntry> {
    let mut sum = AsleepSum::default();
    for entry in polls.into_iter().flat_map(|poll| &poll.asleep) {
        sum.add(entry.kind, entry.call.as_deref(), entry.time_ns);
    }
    sum.finish()
}

/// Sleep by reason.
#[derive(Default)]
struct AsleepSum<'a>(BTreeMap<(SleepKind, Option<&'a str>), Nanos>);

impl<'a> AsleepSum<'a> {
    fn add(&mut self, kind: SleepKind, call: Option<&'a str>, time: Nanos) {
        *self.0.entry((kind, call)).or_default() += time;
    }

    /// Most first.
    fn finish(self) -> Vec<AsleepEntry> {
        let reasons = self.0.into_iter();
        let mut entries: Vec<AsleepEntry> = reasons
            .map(|((kind, call), time_ns)| AsleepEntry {
                kind,
                call: call.map(str::to_owned),
                time_ns,
            })
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.time_ns));
        entries
    }
}

/// The kind with the most time, that time, and of it the entry with the most.
fn main_kind(asleep: &[AsleepEntry]) -> Option<(&AsleepEntry, Nanos)> {
    let mut kinds: BTreeMap<SleepKind, Nanos> = BTreeMap::new();
    for entry in asleep {
        *kinds.entry(entry.kind).or_default() += entry.time_ns;
    }
    let (kind, time) = kinds
        .into_iter()
        .reduce(|most, other| if other.1 > most.1 { other } else { most })?;
    // Most first.
    let most = asleep.iter().find(|entry| entry.kind == kind)?;
    Some((most, time))
}

/// `asleep in file or socket I/O (`pread64`)`; where there are several kinds of sleep, the one with the most and its share.
pub fn in_words(asleep: &[AsleepEntry]) -> String {
    let Some((most, time)) = main_kind(asleep) else {
        return "asleep".to_owned();
    };
    let total: Nanos = asleep.iter().map(|entry| entry.time_ns).sum();
    let call = most
        .call
        .as_ref()
        .map_or_else(String::new, |call| format!(" (`{call}`)"));
    let share = if time == total {
        String::new()
    } else {
        format!(", {} of that", percent(time, total))
    };
    format!("asleep{share} {}{call}", most.kind.in_words())
}

/// What to do about it.
pub fn advice(asleep: &[AsleepEntry]) -> &'static str {
    match main_kind(asleep).map(|(most, _)| most.kind) {
        Some(SleepKind::Timer) => "Use `tokio::time::sleep`.",
        Some(SleepKind::Condvar | SleepKind::Futex) => {
            "Wait with one of Tokio's own (`Notify`, a channel, a `Mutex`), or in `tokio::task::spawn_blocking`."
        }
        Some(SleepKind::PageFault | SleepKind::Memory) => {
            "Prepare that memory before, or in `tokio::task::spawn_blocking`."
        }
        _ => "Use its async counterpart, or `tokio::task::spawn_blocking`.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: SleepKind, call: &str, ms: u64) -> AsleepEntry {
        AsleepEntry {
            kind,
            call: Some(call.to_owned()),
            time_ns: Nanos(ms * 1_000_000),
        }
    }

    /// Several calls of one kind are one reason, also if another kind's single call took longer than each.
    #[test]
    fn the_kind_with_the_most_time_is_told() {
        let asleep = [
            entry(SleepKind::Timer, "clock_nanosleep", 40),
            entry(SleepKind::Io, "pread64", 35),
            entry(SleepKind::Io, "fsync", 25),
        ];
        assert_eq!(
            in_words(&asleep),
            "asleep, 60 % of that in file or socket I/O (`pread64`)"
        );
        assert_eq!(
            in_words(&asleep[1..]),
            "asleep in file or socket I/O (`pread64`)"
        );
        assert!(advice(&asleep).contains("async counterpart"));
        assert_eq!(in_words(&[]), "asleep");
    }
}
