//! An inventory from what was seen: a start for somebody who has none.

use super::{Inventory, LockRow, Pattern, SiteRow};
use crate::classify::Origin;
use crate::report::{Activity, CallSite, LockShape, LockTypeEntry, Report};

/// Rows for the locks that were seen, and for the crypto that ran in long polls.
pub fn inventory_of(report: &Report) -> Inventory {
    // What has neither a type nor a place is not known again.
    let is_row = |row: &LockRow| !row.protects.is_empty() || !row.acquired_in.is_empty();
    let is_lock = |lock: &&LockTypeEntry| lock.kind != LockShape::Channel;
    let crypto = report.call_sites.iter().filter_map(|entry| {
        let site = entry.call_site.as_ref()?;
        let is_crypto = site.frame.origin == Origin::Crypto;
        (is_crypto && entry.activity == Activity::OnCpu).then(|| site_row(site))
    });
    let mut sites: Vec<SiteRow> = Vec::new();
    for site in crypto {
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    Inventory {
        title: format!("Locking Audit ({})", report.capture.process_name),
        symbol: None,
        locks: report
            .lock_types
            .iter()
            .filter(is_lock)
            .map(lock_row)
            .filter(is_row)
            .collect(),
        sites,
    }
}

fn lock_row(lock: &LockTypeEntry) -> LockRow {
    let frame = lock.acquired_at.as_ref().map(CallSite::own_frame);
    let protects: Vec<Pattern> = lock.protects.iter().cloned().map(Pattern::new).collect();
    let function = frame.map(|frame| Pattern::new(frame.function.clone()));
    LockRow {
        name: lock.name.clone(),
        krate: frame
            .and_then(|frame| frame.krate.clone())
            .unwrap_or_default(),
        file: frame.and_then(|frame| frame.at.clone()).unwrap_or_default(),
        lock: lock.protects.clone().unwrap_or_default(),
        held_across_await: String::new(),
        held_too_long: String::new(),
        family: Some(lock.family),
        kind: Some(lock.kind),
        // Where the type is known, it is enough.
        acquired_in: match protects.is_empty() {
            true => function.into_iter().collect(),
            false => Vec::new(),
        },
        protects,
        no_lock: None,
        only_with: None,
    }
}

fn site_row(site: &CallSite) -> SiteRow {
    let caller = site.called_by.as_ref();
    SiteRow {
        name: site.frame.label.clone(),
        krate: site.frame.krate.clone().unwrap_or_default(),
        file: caller.unwrap_or(&site.frame).at.clone().unwrap_or_default(),
        function: vec![Pattern::new(site.frame.function.clone())],
        called_by: caller
            .map(|frame| Pattern::new(frame.function.clone()))
            .into_iter()
            .collect(),
    }
}
