//! The middle and both ends of some measurements. What enters: the same thing measured several times. What leaves: how to
//! say it without a mean that one bad window moves.

use std::fmt;

/// Middle and both ends; not a number where nothing was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (at(middle.wrapping_sub(1)) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        Self {
            median,
            least: at(0),
            most: at(values.len().wrapping_sub(1)),
        }
    }
}

/// With the precision that the formatter is asked for, none when it is not.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median,
            least,
            most,
        } = self;
        let precision = f.precision().unwrap_or(0);
        if f.sign_plus() {
            write!(
                f,
                "{median:+.precision$} ({least:+.precision$} to {most:+.precision$})"
            )
        } else {
            write!(
                f,
                "{median:.precision$} ({least:.precision$} to {most:.precision$})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median of an even number of values is between the two in the middle.
    #[test]
    fn spread_is_median_and_ends() {
        let even = Spread::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!((even.median, even.least, even.most), (2.5, 1.0, 4.0));
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.least, odd.most), (2.0, 1.0, 3.0));
        assert!(Spread::of([]).median.is_nan());
    }

    /// The range stands behind the median, in the same precision.
    #[test]
    fn a_spread_is_printed_with_its_range() {
        let spread = Spread::of([-1.26, 2.0]);
        assert_eq!(format!("{spread:+.1}"), "+0.4 (-1.3 to +2.0)");
        assert_eq!(format!("{spread}"), "0 (-1 to 2)");
    }
}
