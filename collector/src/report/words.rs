//! Numbers in words.

use super::Certainty;
use crate::event::{Exactness, Nanos};

/// A duration with three or so digits that matter.
pub fn duration(time: Nanos) -> String {
    let ns = time.0 as f64;
    match time.0 {
        0..1_000 => format!("{} ns", time.0),
        1_000..1_000_000 => format!("{:.0} µs", ns / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// A duration with how good it is.
pub fn bounded(time: Nanos, certainty: Certainty) -> String {
    format!("{}{}", certainty.in_words(), duration(time))
}

/// `part` of `whole`, in per cent.
pub fn percent(part: Nanos, whole: Nanos) -> String {
    if part > Nanos::ZERO && part.0.saturating_mul(100) < whole.0 {
        return "under 1 %".to_owned();
    }
    format!("{} %", whole_percent(part, whole))
}

fn whole_percent(part: Nanos, whole: Nanos) -> u64 {
    // Rounded to the nearest, but 100 only for all of it.
    let (part, whole) = (u128::from(part.0), u128::from(whole.0).max(1));
    let rounded = (part * 200 / whole).div_ceil(2);
    let percent = if part < whole {
        rounded.min(99)
    } else {
        rounded
    };
    percent as u64
}

/// The parts of a whole in per cent, which add up to 100; to 0 if there is nothing. What is there at all has
/// at least 1, so that only a part that is everything has 100.
pub fn percents(parts: &[Nanos]) -> Vec<u64> {
    let whole: u128 = parts.iter().map(|part| u128::from(part.0)).sum();
    if whole == 0 {
        return vec![0; parts.len()];
    }
    let exact = |part: Nanos| u128::from(part.0) * 100;
    let mut percents: Vec<u64> = parts
        .iter()
        .map(|part| match (exact(*part) / whole) as u64 {
            0 if *part > Nanos::ZERO => 1,
            percent => percent,
        })
        .collect();
    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|&n| std::cmp::Reverse(exact(parts[n]) % whole));
    // Rounding down left too little ...
    let given: u64 = percents.iter().sum();
    let missing = 100u64.saturating_sub(given) as usize;
    for n in by_remainder.into_iter().take(missing) {
        percents[n] += 1;
    }
    // ... or the ones that were rounded up from nothing too much, which the largest can spare.
    if let Some(largest) = percents.iter_mut().max() {
        *largest = largest.saturating_sub(given.saturating_sub(100));
    }
    percents
}

/// `1 poll`, `2 polls`, `2 processes`.
pub fn count(count: u64, what: &str) -> String {
    let plural = match count {
        1 => "",
        _ if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {what}{plural}")
}

impl From<Exactness> for Certainty {
    fn from(exactness: Exactness) -> Certainty {
        match exactness {
            Exactness::Exact => Certainty::Exact,
            Exactness::LowerBound => Certainty::LowerBound,
            Exactness::UpperBound => Certainty::UpperBound,
        }
    }
}

impl Certainty {
    /// What stands before a number that is no exact one.
    pub fn in_words(self) -> &'static str {
        match self {
            Certainty::Exact => "",
            Certainty::LowerBound => "at least ",
            Certainty::UpperBound => "at most ",
            Certainty::Estimate => "about ",
        }
    }

    /// The same, where there is little room.
    pub fn sign(self) -> &'static str {
        match self {
            Certainty::Exact => "",
            Certainty::LowerBound => "≥",
            Certainty::UpperBound => "≤",
            Certainty::Estimate => "≈",
        }
    }

    /// Of a sum of two numbers, or of the larger of them.
    pub fn and(self, other: Certainty) -> Certainty {
        match (self, other) {
            (Certainty::Exact, certainty) | (certainty, Certainty::Exact) => certainty,
            (one, another) if one == another => one,
            _ => Certainty::Estimate,
        }
    }

    /// Of a sum.
    pub fn of_all(parts: impl IntoIterator<Item = Certainty>) -> Certainty {
        parts.into_iter().fold(Certainty::Exact, Certainty::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each order of magnitude in its unit.
    #[test]
    fn durations() {
        assert_eq!(duration(Nanos(0)), "0 ns");
        assert_eq!(duration(Nanos(999)), "999 ns");
        assert_eq!(duration(Nanos(850_400)), "850 µs");
        assert_eq!(duration(Nanos(42_149_000)), "42.1 ms");
        assert_eq!(duration(Nanos(1_234_000_000)), "1.23 s");
    }

    /// All is said of all only, and nothing of nothing only.
    #[test]
    fn percentages() {
        assert_eq!(percent(Nanos(1), Nanos(1)), "100 %");
        assert_eq!(percent(Nanos(999), Nanos(1000)), "99 %");
        assert_eq!(percent(Nanos(505), Nanos(1000)), "51 %");
        assert_eq!(percent(Nanos(1), Nanos(1000)), "under 1 %");
        assert_eq!(percent(Nanos(0), Nanos(1000)), "0 %");
        assert_eq!(percent(Nanos(0), Nanos(0)), "0 %");
    }

    /// Parts add up to 100, and nothing that is there is left out.
    #[test]
    fn percentages_of_parts() {
        let of = |parts: &[u64]| percents(&parts.iter().copied().map(Nanos).collect::<Vec<_>>());
        assert_eq!(of(&[1, 1, 1]), [34, 33, 33]);
        assert_eq!(of(&[5, 0]), [100, 0]);
        assert_eq!(of(&[99_999, 1]), [99, 1]);
        assert_eq!(of(&[1, 999_996, 1, 1, 1]), [1, 96, 1, 1, 1]);
        assert_eq!(of(&[506, 494]), [51, 49]);
        assert_eq!(of(&[0, 0]), [0, 0]);
        assert_eq!(of(&[u64::MAX, u64::MAX]), [50, 50]);
    }

    /// A sum is as good as its worst part; bounds in both directions leave an estimate.
    #[test]
    fn certainty_of_sums() {
        use Certainty::{Estimate, Exact, LowerBound, UpperBound};
        assert_eq!(Certainty::of_all([]), Exact);
        assert_eq!(Certainty::of_all([Exact, LowerBound]), LowerBound);
        assert_eq!(
            Certainty::of_all([UpperBound, Exact, UpperBound]),
            UpperBound
        );
        assert_eq!(Certainty::of_all([UpperBound, LowerBound, Exact]), Estimate);
        assert_eq!(bounded(Nanos(5), LowerBound), "at least 5 ns");
    }
}
