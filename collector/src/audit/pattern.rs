//! Patterns for names: text with `*` for anything.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text in which `*` stands for anything, nothing included. It has to fit from end to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// This text.
    pub fn new(text: impl Into<String>) -> Pattern {
        Pattern(text.into())
    }

    /// Whether a name fits. Names come from the profiled binary: this takes linear time in each part.
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or("");
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            // Without a star.
            return rest.is_empty();
        };
        // The leftmost place for each leaves the most for those behind.
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether one of them fits.
pub(super) fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.fits(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A star is anything, and the ends are fixed.
    #[test]
    fn patterns_fit() {
        for (pattern, name, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("app::Table", "app::Table", true),
            ("app::Table", "app::Tables", false),
            ("app::Table<*>", "app::Table<u8>", true),
            ("app::Table<*>", "app::Table<u8>, A", false),
            ("*::finish", "a::finish", true),
            ("*::finish", "a::finish_all", false),
            ("*/x-*/src/*.rs", "/r/x-1.2/src/a/b.rs", true),
            ("*/x-*/src/*.rs", "/r/y-1.2/src/a/b.rs", false),
            ("a*b*a", "aba", true),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
            ("*ab*ab", "abxab", true),
        ] {
            assert_eq!(Pattern::new(pattern).fits(name), fits, "{pattern} {name}");
        }
    }
}
