//! The rules: TOML in, a lookup by crate, path, symbol and module out.

use std::collections::HashMap;

use serde::Deserialize;

use super::Origin;

/// The rules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not the TOML that is expected.
    #[error(
        "the classification rules can't be used: {0}\nA rule is `[[rule]]` with `origin` and any of `crates`, `paths`, `symbols`, `modules`; compare with the ones that come with holdup (collector/src/classify/default.toml)"
    )]
    Toml(#[from] toml::de::Error),
    /// A rule that would match everything, or nothing.
    #[error("rule {rule} has an empty pattern in `{list}`; remove it")]
    EmptyPattern {
        /// Which rule, counted from 1.
        rule: usize,
        /// In which of its lists.
        list: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    origin: Origin,
    #[serde(default)]
    crates: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    symbols: Vec<String>,
    #[serde(default)]
    modules: Vec<String>,
}

/// Which crates, symbols and modules are of which origin.
#[derive(Clone, Debug)]
pub struct Rules {
    crates: Patterns,
    paths: HashMap<String, Rank>,
    symbols: Patterns,
    modules: Patterns,
}

/// A rule's place in the file, which decides between two that match, and what it says.
type Rank = (usize, Origin);

impl Rules {
    /// The rules that come with holdup.
    pub fn embedded() -> Rules {
        Rules::from_toml(include_str!("default.toml"))
            .expect("the embedded rules are tested to be valid")
    }

    /// Rules from a file's text, in place of the embedded ones.
    pub fn from_toml(text: &str) -> Result<Rules, RulesError> {
        let File { rule: rules } = toml::from_str(text)?;
        let mut all = Rules {
            crates: Patterns::default(),
            paths: HashMap::new(),
            symbols: Patterns::default(),
            modules: Patterns::default(),
        };
        for (place, rule) in rules.into_iter().enumerate() {
            let Rule {
                origin,
                crates,
                paths,
                symbols,
                modules,
            } = rule;
            for (list, patterns) in [
                ("crates", &crates),
                ("paths", &paths),
                ("symbols", &symbols),
                ("modules", &modules),
            ] {
                if patterns.iter().any(String::is_empty) {
                    let rule = place + 1;
                    return Err(RulesError::EmptyPattern { rule, list });
                }
            }
            let rank = (place, origin);
            for name in crates {
                all.crates.add(normalized(&name), rank);
            }
            for path in paths {
                all.paths.entry(path).or_insert(rank);
            }
            for name in symbols {
                all.symbols.add(name, rank);
            }
            for name in modules {
                all.modules.add(name, rank);
            }
        }
        Ok(all)
    }

    /// By crate; `-` and `_` are the same.
    pub(super) fn by_crate(&self, name: &str) -> Option<Rank> {
        self.crates.find(&normalized(name))
    }

    /// By the beginning of a path.
    pub(super) fn by_path(&self, path: &str) -> Option<Rank> {
        let ends = path.match_indices("::").map(|(end, _)| end);
        ends.chain([path.len()])
            .filter_map(|end| self.paths.get(&path[..end]))
            .min_by_key(|rank| rank.0)
            .copied()
    }

    /// By a name without a path.
    pub(super) fn by_symbol(&self, name: &str) -> Option<Rank> {
        self.symbols.find(name)
    }

    /// By the file name of a binary or library.
    pub(super) fn by_module(&self, name: &str) -> Option<Rank> {
        self.modules.find(name)
    }
}

/// A crate's name as the compiler has it.
pub(super) fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

/// Names and names with `*`, each with the first rule that has it.
#[derive(Clone, Debug, Default)]
struct Patterns {
    names: HashMap<String, Rank>,
    globs: Vec<(String, Rank)>,
}

impl Patterns {
    fn add(&mut self, pattern: String, rank: Rank) {
        if pattern.contains('*') {
            self.globs.push((pattern, rank));
        } else {
            self.names.entry(pattern).or_insert(rank);
        }
    }

    fn find(&self, name: &str) -> Option<Rank> {
        let by_name = self.names.get(name).copied();
        let by_glob = self
            .globs
            .iter()
            .find(|(glob, _)| glob_matches(glob, name))
            .map(|(_, rank)| *rank);
        by_name.into_iter().chain(by_glob).min_by_key(|rank| rank.0)
    }
}

/// Whether `name` matches `glob`, in which `*` stands for any run of characters.
///
/// Linear in the number of parts: the first must begin the name, the last must end it, and taking
/// each in between at its first place leaves the most for those that follow.
fn glob_matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else {
        return name == glob;
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*` matches any run, also none, and a part is never used twice.
    #[test]
    fn globs() {
        for (glob, name, expected) in [
            ("pqcrypto_*", "pqcrypto_mlkem", true),
            ("pqcrypto_*", "pqcrypto", false),
            ("libcrypto.so*", "libcrypto.so.3", true),
            ("libcrypto.so*", "libcrypto.so", true),
            ("libcrypto.so*", "mylibcrypto.so", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(glob_matches(glob, name), expected, "{glob} on {name}");
        }
    }

    /// The first rule of the file wins, whether by name or by glob.
    #[test]
    fn first_rule_wins() {
        let rules = Rules::from_toml(
            r#"
            [[rule]]
            origin = "user"
            crates = ["aes-*"]
            [[rule]]
            origin = "crypto"
            crates = ["aes_gcm", "aes"]
            "#,
        )
        .unwrap();
        assert_eq!(rules.by_crate("aes-gcm"), Some((0, Origin::User)));
        assert_eq!(rules.by_crate("aes"), Some((1, Origin::Crypto)));
        assert_eq!(rules.by_crate("tokio"), None);
    }

    /// Paths match whole segments.
    #[test]
    fn paths() {
        let rules = Rules::from_toml("[[rule]]\norigin = \"lock\"\npaths = [\"std::sync::mutex\"]")
            .unwrap();
        assert_eq!(
            rules.by_path("std::sync::mutex::Mutex<T>::lock"),
            Some((0, Origin::Lock))
        );
        assert_eq!(rules.by_path("std::sync::mutex"), Some((0, Origin::Lock)));
        assert_eq!(rules.by_path("std::sync::mutexes::f"), None);
    }

    /// A mistake in the user's file is an error that names it, never a rule that is ignored.
    #[test]
    fn mistakes() {
        let text = |e: RulesError| e.to_string();
        let unknown = text(Rules::from_toml("[[rule]]\norigin = \"magic\"").unwrap_err());
        assert!(unknown.contains("magic"), "{unknown}");
        let key =
            text(Rules::from_toml("[[rule]]\norigin = \"user\"\ncrate = [\"a\"]").unwrap_err());
        assert!(key.contains("crate"), "{key}");
        let empty =
            text(Rules::from_toml("[[rule]]\norigin = \"user\"\ncrates = [\"\"]").unwrap_err());
        assert!(empty.contains("rule 1"), "{empty}");
        assert!(Rules::from_toml("no toml at all").is_err());
    }
}
