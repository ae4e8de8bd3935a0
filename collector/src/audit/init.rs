//! An inventory from what was seen: a start for somebody who has none.

use super::locks::is_the_runtimes;
use super::{Inventory, LockRow, Pattern, SiteRow};
use crate::classify::Origin;
use crate::report::{Activity, CallSite, LockShape, LockTypeEntry, NamedFrame, Report};

/// Rows for the locks that were seen, but for the runtime's own, and for the user's functions that computed crypto in
/// long polls.
pub fn inventory_of(report: &Report) -> Inventory {
    let locks = report
        .lock_types
        .iter()
        .filter(|lock| lock.kind != LockShape::Channel && !is_the_runtimes(lock))
        .map(lock_row)
        // What has neither a type nor a place is not known again.
        .filter(|row| !row.protects.is_empty() || !row.acquired_in.is_empty());
    let crypto = report.call_sites.iter().filter_map(|entry| {
        let site = entry.call_site.as_ref()?;
        let is_crypto = site.frame.origin == Origin::Crypto;
        (is_crypto && entry.activity == Activity::OnCpu).then(|| site_row(site))
    });
    let mut sites: Vec<SiteRow> = Vec::new();
    for site in crypto {
        let is_known = |known: &SiteRow| known.function == site.function;
        if !sites.iter().any(is_known) {
            sites.push(site);
        }
    }
    Inventory {
        title: format!("Locking Audit ({})", report.capture.process_name),
        symbol: None,
        locks: locks.collect(),
        sites,
    }
}

fn lock_row(lock: &LockTypeEntry) -> LockRow {
    let frame = lock.acquired_at.as_ref().map(CallSite::own_frame);
    let krate = frame
        .and_then(|frame| frame.krate.clone())
        .unwrap_or_default();
    let acquired_in = match &lock.protects {
        // A type of that crate is enough; everybody has locks around a number.
        Some(protects) if protects.contains(&format!("{krate}::")) => None,
        Some(_) => frame.and_then(file).map(|file| format!("*{file}")),
        None => frame.map(|frame| frame.function.clone()),
    };
    LockRow {
        name: lock.name.clone(),
        file: frame.and_then(file).unwrap_or_default().to_owned(),
        krate,
        lock: lock.protects.clone().unwrap_or_default(),
        held_across_await: String::new(),
        held_too_long: String::new(),
        family: Some(lock.family),
        kind: Some(lock.kind),
        protects: lock.protects.iter().cloned().map(Pattern::new).collect(),
        acquired_in: acquired_in.into_iter().map(Pattern::new).collect(),
        no_lock: None,
        only_with: None,
    }
}

/// A frame's file, without the line.
fn file(frame: &NamedFrame) -> Option<&str> {
    let at = frame.at.as_deref()?;
    Some(at.rsplit_once(':').map_or(at, |(file, _)| file))
}

/// The user's function is what can be moved to the blocking pool, whatever it computes innermost.
fn site_row(site: &CallSite) -> SiteRow {
    let frame = site.own_frame();
    SiteRow {
        name: frame.label.clone(),
        krate: frame.krate.clone().unwrap_or_default(),
        file: file(frame).unwrap_or_default().to_owned(),
        function: vec![Pattern::new(frame.function.clone())],
        called_by: Vec::new(),
    }
}
