//! The inventory: what somebody wrote down of locks and sites, as TOML. See `inventories/citadel.toml`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Pattern;
use crate::report::{LockFamily, LockShape};

/// The inventory that holdup has of Citadel-Protocol.
const CITADEL: &str = include_str!("../../inventories/citadel.toml");

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Its name.
    pub title: String,
    /// Some symbol of the binaries that it is about contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Locks.
    #[serde(default, rename = "lock")]
    pub locks: Vec<LockRow>,
    /// Functions whose work belongs on the blocking pool.
    #[serde(default, rename = "site")]
    pub sites: Vec<SiteRow>,
}

/// A lock, or several that are one to its reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRow {
    /// For people.
    pub name: String,
    /// Its crate.
    #[serde(rename = "crate")]
    pub krate: String,
    /// Where it is declared.
    pub file: String,
    /// Its type.
    pub lock: String,
    /// What the inventory says of that.
    #[serde(default)]
    pub held_across_await: String,
    /// The same.
    #[serde(default)]
    pub held_too_long: String,
    /// Whose lock.
    pub family: Option<LockFamily>,
    /// What sort.
    pub kind: Option<LockShape>,
    /// Types that it protects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protects: Vec<Pattern>,
    /// Files and functions that take it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acquired_in: Vec<Pattern>,
    /// Why it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_lock: Option<String>,
    /// A part of a symbol's name that is there only with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_with: Option<String>,
}

/// A function whose work belongs on the blocking pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRow {
    /// For people.
    pub name: String,
    /// Its crate.
    #[serde(rename = "crate")]
    pub krate: String,
    /// Where it is called.
    pub file: String,
    /// The function.
    pub function: Vec<Pattern>,
    /// Who calls it, directly or not; without, anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub called_by: Vec<Pattern>,
}

/// Why it is no inventory.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// Not the TOML that is expected.
    #[error("it is no inventory: {0}")]
    Toml(#[from] toml::de::Error),
    /// A row could never be seen.
    #[error("the lock {name:?} {lacks}")]
    Lock {
        /// Its name.
        name: String,
        /// What it lacks.
        lacks: &'static str,
    },
}

impl Inventory {
    /// holdup's own, of Citadel-Protocol.
    pub fn citadel() -> Inventory {
        match Inventory::from_toml(CITADEL) {
            Ok(inventory) => inventory,
            Err(error) => unreachable!("a test reads it: {error}"),
        }
    }

    /// Writes one, to be edited.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// Reads one.
    pub fn from_toml(text: &str) -> Result<Inventory, InventoryError> {
        let inventory: Inventory = toml::from_str(text)?;
        for row in &inventory.locks {
            let lacks = |lacks| InventoryError::Lock {
                name: row.name.clone(),
                lacks,
            };
            if row.no_lock.is_some() {
                continue;
            }
            if row.family.is_none() || row.kind.is_none() {
                return Err(lacks("has neither `no_lock` nor both `family` and `kind`"));
            }
            if row.protects.is_empty() && row.acquired_in.is_empty() {
                return Err(lacks("has neither `protects` nor `acquired_in`"));
            }
        }
        Ok(inventory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// holdup's own inventory has all that the audit has.
    #[test]
    fn the_embedded_inventory_is_whole() {
        let inventory = Inventory::citadel();
        assert_eq!(inventory.locks.len(), 14);
        assert_eq!(inventory.sites.len(), 12);
        assert_eq!(inventory.symbol.as_deref(), Some("citadel_crypt"));
    }

    fn refused(text: &str) -> String {
        Inventory::from_toml(text)
            .expect_err("it is none")
            .to_string()
    }

    /// What can't be meant is refused, and said.
    #[test]
    fn mistakes_are_told() {
        let row = "title = 't'\n[[lock]]\nname = 'n'\ncrate = 'c'\nfile = 'f'\nlock = 'l'\n";
        assert!(refused(row).contains("\"n\" has neither `no_lock`"));
        let known = format!("{row}family = 'tokio'\nkind = 'mutex'\n");
        assert!(refused(&known).contains("has neither `protects`"));
        assert!(refused(&format!("{known}protect = ['x']")).contains("unknown field"));
        assert!(refused(&row.replace("lock = 'l'", "family = 'futex'")).contains("futex"));
        assert!(Inventory::from_toml(&format!("{known}protects = ['x']")).is_ok());
        assert!(Inventory::from_toml(&format!("{row}no_lock = 'an atomic'")).is_ok());
    }
}
