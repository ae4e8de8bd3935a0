//! The audit as Markdown: the inventory's own tables, with what was measured behind what they say. No sign at a number means
//! that it is exact; `≥` is a lower bound, `≤` an upper one, `≈` an estimate.

use std::fmt::Write as _;

use super::{Audit, LockResult, Ran, SeenLocks, SiteResult};
use crate::event::Nanos;
use crate::report::Certainty;
use crate::report::words::{count, duration};

/// All tables.
pub fn markdown(audit: &Audit) -> String {
    let mut out = String::new();
    let info = &audit.capture;
    let _ = writeln!(out, "# {}, measured\n", cell(&audit.title));
    let _ = writeln!(
        out,
        "{}, pid {} on {}: {} recorded, {} CPU samples for each second and CPU.\n",
        cell(&info.process_name),
        info.pid,
        cell(&info.host),
        duration(info.duration_ns),
        info.frequency_hz,
    );
    let _ = writeln!(
        out,
        "A number without a sign is exact; `≥` is a lower bound, `≈` an estimate from samples. The audit's own words are in the \
         columns with a question mark.\n"
    );
    locks(&mut out, audit);
    sites(&mut out, audit);
    others(
        &mut out,
        "Locks that were seen and are in no row",
        &audit.locks_in_no_row,
    );
    others(
        &mut out,
        "Of the runtime and its libraries",
        &audit.locks_of_the_runtime,
    );
    if !audit.notes.is_empty() {
        let _ = writeln!(out, "## What limits these numbers\n");
        for note in &audit.notes {
            let _ = writeln!(out, "- {}", cell(note));
        }
        out.push('\n');
    }
    out
}

fn table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(out, "| {} |", head.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}

fn locks(out: &mut String, audit: &Audit) {
    let _ = writeln!(out, "## Inventory Table\n");
    let too_long = format!("Held over {}", duration(audit.too_long_ns));
    let head = [
        "Brief Name",
        "Crate",
        "File Location",
        "Fully qualified name",
        "Held across .await?",
        "Held for too long?",
        "Seen",
        "Acquisitions that waited",
        "Wait: total, longest",
        "Longest hold",
        "Held across .await",
        &too_long,
    ];
    table(out, &head, audit.locks.iter().map(lock_row));
}

fn lock_row(row: &LockResult) -> Vec<String> {
    let mut cells: Vec<String> = [
        &row.name,
        &row.krate,
        &row.file,
        &row.lock,
        &row.held_across_await,
        &row.held_too_long,
    ]
    .into_iter()
    .map(|text| cell(text))
    .collect();
    match &row.seen {
        Some(seen) => {
            cells.push(format!("yes, {}", count(seen.instances, "instance")));
            cells.extend(measured(seen));
        }
        None => {
            let why = row.unseen_because.as_deref().unwrap_or("");
            cells.push(format!("no: {}", cell(why)));
            cells.extend(std::iter::repeat_n("–".to_owned(), 5));
        }
    }
    cells
}

fn measured(seen: &SeenLocks) -> [String; 5] {
    [
        signed(seen.wait_certainty, &seen.waits.to_string()),
        match seen.waits {
            0 => "–".to_owned(),
            _ => format!(
                "{}, {}",
                time(seen.wait_total_ns, seen.wait_certainty),
                time(seen.wait_max_ns, seen.wait_certainty)
            ),
        },
        match seen.holds {
            0 => "no hold seen".to_owned(),
            n => format!(
                "{} ({} seen)",
                time(seen.hold_longest_ns, seen.hold_certainty),
                count(n, "hold")
            ),
        },
        match (seen.across_await, seen.holds) {
            (0, 0) => "no hold seen".to_owned(),
            (0, n) => format!("not seen, in {}", count(n, "hold")),
            (n, _) => format!(
                "**{}**, longest {}",
                count(n, "time"),
                time(seen.across_await_longest_ns, seen.across_await_certainty)
            ),
        },
        match (seen.held_too_long, seen.holds, seen.hold_certainty) {
            (0, 0, _) => "no hold seen".to_owned(),
            (0, _, Certainty::Exact) => "never".to_owned(),
            (0, ..) => "not seen".to_owned(),
            (n, ..) => format!("**≥ {}**", count(n, "time")),
        },
    ]
}

fn sites(out: &mut String, audit: &Audit) {
    if audit.sites.is_empty() {
        return;
    }
    let _ = writeln!(out, "## Key Crypto/Exchange Sites To Offload\n");
    let head = [
        "Site",
        "Crate",
        "File",
        "Ran on a worker thread",
        "Ran on the blocking pool",
    ];
    table(out, &head, audit.sites.iter().map(site_row));
}

fn site_row(site: &SiteResult) -> Vec<String> {
    vec![
        cell(&site.name),
        cell(&site.krate),
        cell(&site.file),
        match ran(&site.on_worker) {
            Some(ran) => format!("**{ran}**"),
            None => "no sample".to_owned(),
        },
        ran(&site.on_blocking_pool).unwrap_or_else(|| "no sample".to_owned()),
    ]
}

fn ran(ran: &Ran) -> Option<String> {
    (ran.at_least > 0).then(|| {
        format!(
            "≥ {}, longest ≈ {}, in all ≈ {}",
            count(ran.at_least, "time"),
            duration(ran.estimated_longest_ns),
            duration(ran.estimated_total_ns)
        )
    })
}

fn others(out: &mut String, title: &str, locks: &[SeenLocks]) {
    if locks.is_empty() {
        return;
    }
    let _ = writeln!(out, "## {title}\n");
    let head = [
        "Lock",
        "Taken at",
        "Instances",
        "Acquisitions that waited",
        "Wait: total, longest",
        "Longest hold",
        "Held across .await",
        "Held too long",
    ];
    let rows = locks.iter().map(|lock| {
        let name = lock.name.split(" locked at ").next().unwrap_or(&lock.name);
        let mut cells = vec![
            cell(name),
            lock.acquired_at.as_deref().map_or("?".to_owned(), cell),
            lock.instances.to_string(),
        ];
        cells.extend(measured(lock));
        cells
    });
    table(out, &head, rows);
}

fn time(time: Nanos, certainty: Certainty) -> String {
    signed(certainty, &duration(time))
}

fn signed(certainty: Certainty, number: &str) -> String {
    match certainty.sign() {
        "" => number.to_owned(),
        sign => format!("{sign} {number}"),
    }
}

/// Text from an inventory, or from the profiled binary, can't end its cell, nor begin markup or HTML of its own.
fn cell(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' => shown.push_str("\\|"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '&' => shown.push_str("&amp;"),
            c if c.is_control() => shown.push(' '),
            c => shown.push(c),
        }
    }
    shown
}
