//! A locking audit, measured. What enters: an inventory of locks and crypto sites, as somebody wrote it from the source
//! code, and a capture. What leaves: the inventory's own tables with what was seen of each row beside what it says.
//!
//! An inventory is true for as long as somebody keeps it so. Locks that were seen and are in no row are listed, so
//! that what is missing in it shows.
#![forbid(unsafe_code)]

mod init;
mod inventory;
mod locks;
mod markdown;
mod model;
mod pattern;
mod sites;

pub use init::inventory_of;
pub use inventory::{Inventory, InventoryError, LockRow, SiteRow};
pub use markdown::markdown;
pub use model::*;
pub use pattern::Pattern;

use crate::capture::Capture;
use crate::event::Nanos;
use crate::report::Report;

/// A lock that is held longer than this holds a runtime up: the audit's own limit.
pub const TOO_LONG: Nanos = Nanos(5_000_000);

/// What is known of a binary beside the capture of it.
pub trait Names {
    /// Whether a symbol of it contains this; None where nobody can tell.
    fn contain(&self, part: &str) -> Option<bool>;
}

/// Measures an inventory.
pub fn measure(
    inventory: &Inventory,
    capture: &Capture,
    report: &Report,
    names: &dyn Names,
) -> Audit {
    let locks = locks::measure(inventory, report, names);
    Audit {
        schema_version: SCHEMA_VERSION,
        title: inventory.title.clone(),
        capture: report.capture.clone(),
        too_long_ns: TOO_LONG,
        locks: locks.rows,
        locks_in_no_row: locks.in_no_row,
        locks_of_the_runtime: locks.of_the_runtime,
        sites: sites::measure(inventory, capture),
        notes: report.coverage.notes.clone(),
    }
}
