//! The report for a terminal: what was recorded, the findings, where the time went, which locks, and what
//! the numbers don't cover. Fits 100 columns.

use std::fmt::{self, Write as _};

use crate::capture::EndReason;
use crate::event::{Nanos, SiteClass};
use crate::report::words::count;
use crate::report::{
    Activity, Anatomy, CallSite, Certainty, HoldTotalsEntry, LockShape, LockTypeEntry, Report,
    TaskTypeEntry, WorkerEntry, WorkerRole,
};

/// Columns that text is wrapped to.
const COLUMNS: usize = 100;
/// Findings that are printed; `report.json` has all.
const FINDINGS: usize = 10;
/// Rows of each table.
const ROWS: usize = 8;
/// Holders of each lock, where none has most of the wait.
const HOLDERS: usize = 2;

/// What is emphasised, and how.
#[derive(Clone, Copy)]
struct Style {
    color: bool,
}

impl Style {
    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The report as text.
pub fn terminal(report: &Report, color: bool) -> String {
    let style = Style { color };
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = summary(&mut out, report, style);
    let _ = findings(&mut out, report, style);
    let _ = call_sites(&mut out, report, style);
    let _ = task_types(&mut out, report, style);
    let _ = workers(&mut out, report, style);
    let _ = locks(&mut out, report, style);
    let _ = coverage(&mut out, report, style);
    out
}

fn summary(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    let info = &report.capture;
    let ended = match info.end {
        EndReason::Duration => "",
        EndReason::Interrupted => ", interrupted",
        EndReason::TargetExited => ", ended when the target exited",
        EndReason::TargetExeced => ", ended when the target executed another program",
        EndReason::CaptureFull => ", ended because the capture file was full",
        EndReason::Truncated => ", the capture is cut off",
    };
    writeln!(
        out,
        "{}, pid {} on {}: {} recorded{ended}",
        style.bold(&shown(&info.process_name)),
        info.pid,
        shown(&info.host),
        duration(info.duration_ns),
    )?;
    let summary = &report.summary;
    let anatomy = &summary.anatomy;
    writeln!(
        out,
        "{} of {} polls were long (at least {}), {}{} in total, longest {}",
        summary.long_polls,
        // Long ones that go on count as well.
        summary.polls + report.coverage.polls.lower_bounds,
        duration(info.threshold_ns),
        summary.blocking_certainty.in_words(),
        duration(summary.blocking_ns),
        duration(summary.longest_ns),
    )?;
    if summary.long_polls > 0 {
        writeln!(
            out,
            "made of: on-CPU {}{}, lock wait {}, run queue {}, sleep {}",
            duration(anatomy.on_cpu_ns),
            stolen(anatomy),
            duration(anatomy.lock_wait_ns),
            duration(anatomy.run_queue_ns),
            duration(anatomy.sleep_ns),
        )?;
    }
    writeln!(
        out,
        "{} lock waits, {}{} in total, on any thread; {} waits of tasks for Tokio's locks, {}{}",
        summary.lock_waits,
        summary.lock_wait_certainty.in_words(),
        duration(summary.lock_wait_ns),
        summary.task_waits,
        summary.lock_wait_certainty.in_words(),
        duration(summary.task_wait_ns)
    )
}

/// How much of the time on-CPU was the hypervisor's, where it is enough to matter.
fn stolen(anatomy: &Anatomy) -> String {
    const MATTERS: u64 = 100;
    if anatomy.stolen_ns.0.saturating_mul(MATTERS) < anatomy.on_cpu_ns.0.max(1) {
        return String::new();
    }
    format!(
        " ({} of it taken by the hypervisor)",
        duration(anatomy.stolen_ns)
    )
}

fn findings(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    if report.findings.is_empty() {
        let doubts = report.doubts();
        let text = match (doubts.as_slice(), report.summary.long_polls) {
            ([], 0) => "No finding: nothing held the runtime up.".to_owned(),
            // All others would be in a finding.
            ([], _) => {
                "No finding: the long polls mostly waited for a CPU, together for under 1 % of \
                        the recording."
                    .to_owned()
            }
            (doubts, _) => format!("Nothing was found, but {}.", doubts.join(", and ")),
        };
        writeln!(out)?;
        return wrapped_in(out, "", "", &text, |line| style.bold(line));
    }
    writeln!(out, "\n{}", style.bold("Findings, most harm first"))?;
    for (n, finding) in report.findings.iter().take(FINDINGS).enumerate() {
        let number = format!("{:>2}. ", n + 1);
        wrapped(out, &number, "    ", &shown(&finding.sentence))?;
    }
    let more = report.findings.len().saturating_sub(FINDINGS);
    if more > 0 {
        writeln!(out, "    and {more} more in report.json")?;
    }
    Ok(())
}

fn call_sites(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    if report.call_sites.is_empty() {
        return Ok(());
    }
    heading(
        out,
        style,
        "Where long polls spent their time",
        "      time  share  polls  doing      where",
    )?;
    let total = report.summary.blocking_ns.0.max(1);
    for site in report.call_sites.iter().take(ROWS) {
        writeln!(
            out,
            "{:>10}  {:>4.0}%  {:>5}  {:<9}  {}",
            duration(site.time_ns),
            site.time_ns.0 as f64 * 100.0 / total as f64,
            site.polls,
            activity(site.activity),
            cut(&place(site.call_site.as_ref()), COLUMNS - 38),
        )?;
    }
    rest(out, report.call_sites.len())
}

fn task_types(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    // A worker's loop is polled once, for ever.
    let is_task = |entry: &&TaskTypeEntry| entry.class != SiteClass::Worker;
    let types: Vec<&TaskTypeEntry> = report.task_types.iter().filter(is_task).collect();
    if types.is_empty() {
        return Ok(());
    }
    heading(
        out,
        style,
        "Polls by type of task, most time first",
        "   total    polls  tasks   median      99%  longest   long  task",
    )?;
    for entry in types.iter().take(ROWS) {
        let (pool, tasks) = match entry.class {
            SiteClass::Blocking => ("[pool] ", "-".to_owned()),
            SiteClass::BlockOn => ("[block_on] ", "-".to_owned()),
            _ => (
                "",
                format!("{}{}", entry.tasks_certainty.sign(), entry.tasks),
            ),
        };
        // Those of its long polls alone would look like those of all.
        let quantile = |ns| match entry.class {
            SiteClass::BlockOn => "-".to_owned(),
            _ => duration(ns),
        };
        let polls = match entry.class {
            SiteClass::BlockOn => Certainty::LowerBound.sign(),
            _ => "",
        };
        let polls = format!("{polls}{}", entry.polls);
        writeln!(
            out,
            "{:>8}  {:>7}  {:>5}  {:>7}  {:>7}  {:>7}  {:>5}  {pool}{}",
            duration(entry.total_ns),
            polls,
            tasks,
            quantile(entry.p50_ns),
            quantile(entry.p99_ns),
            duration(entry.max_ns),
            entry.long_polls,
            cut(&shown(&entry.task_name), COLUMNS - 60 - pool.len()),
        )?;
        if let Some(place) = spawned_in(entry, COLUMNS - 10).filter(|_| entry.long_polls > 0) {
            writeln!(out, "          {}", style.dim(&place))?;
        }
    }
    rest(out, types.len())
}

/// Where tasks of a type are spawned, in so many columns: the line whole and the function as far as there is room.
fn spawned_in(entry: &TaskTypeEntry, columns: usize) -> Option<String> {
    let (first, others) = entry.spawned_in.split_first()?;
    let others = match (others.len(), entry.spawned_elsewhere) {
        (0, false) => String::new(),
        (0, true) => " or elsewhere".to_owned(),
        (others, false) => format!(" or {}", count(others as u64, "other place")),
        (others, true) => format!(" or at least {}", count(others as u64, "other place")),
    };
    let Some(at) = &first.at else {
        let place = format!("spawned in {}{others}", first.label);
        return Some(cut(&shown(&place), columns));
    };
    let line = shown(&format!("spawned at {at}{others}, in "));
    let room = columns.saturating_sub(line.chars().count());
    let function = cut(&shown(&first.label), room);
    Some(cut(&format!("{line}{function}"), columns))
}

fn workers(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    if report.workers.is_empty() {
        return Ok(());
    }
    heading(
        out,
        style,
        "Threads of the runtime",
        " busy  parked    polls    longest  stolen  thread",
    )?;
    let of_runtime = |entry: &&WorkerEntry| entry.role != WorkerRole::BlockingPool;
    let workers: Vec<&WorkerEntry> = report.workers.iter().filter(of_runtime).collect();
    let certainty = if report.capture.one_task_of > 1 {
        Certainty::LowerBound
    } else {
        Certainty::Exact
    };
    for entry in workers.iter().take(ROWS) {
        let stolen = entry.stolen.map_or("-".to_owned(), |stolen| {
            format!("{}{stolen}", certainty.sign())
        });
        let part = entry.part(&report.workers);
        let part = part.map_or(String::new(), |part| format!("{part}  "));
        let percent = |ns: Nanos| ns.0 as f64 * 100.0 / entry.observed_ns.0.max(1) as f64;
        writeln!(
            out,
            "{:>4.0}%  {:>5.0}%  {:>7}  {:>9}  {:>6}  {}{} ({})",
            percent(entry.busy_ns),
            percent(entry.parked_ns),
            entry.polls,
            duration(entry.longest_ns),
            stolen,
            part,
            shown(entry.thread.as_deref().unwrap_or("?")),
            entry.tid,
        )?;
    }
    rest(out, workers.len())?;
    let of_pool = |entry: &&TaskTypeEntry| entry.class == SiteClass::Blocking;
    let waited = report.task_types.iter().filter(of_pool);
    let waited = waited.filter(|entry| entry.delays.count > 0);
    let waited = waited.map(|entry| entry.delays.max_ns).max();
    // `block_in_place` makes a thread of the pool a worker: such a one counts for both.
    let pool = report
        .workers
        .iter()
        .filter(|entry| entry.blocking_tasks > 0);
    let threads = pool.clone().count() as u64;
    if threads > 0 {
        let tasks = pool.clone().map(|entry| entry.blocking_tasks);
        let tasks = tasks.fold(0, u64::saturating_add);
        let ran: Nanos = pool.map(|entry| entry.blocking_ns).sum();
        let text = format!(
            "Blocking pool: {} ran for {} on {}; {}.",
            count(tasks, "task"),
            duration(ran),
            count(threads, "thread"),
            match waited {
                Some(waited) => format!("the longest wait for a thread was {}", duration(waited)),
                None => "how long they waited for a thread was not seen".to_owned(),
            }
        );
        wrapped(out, "  ", "    ", &text)?;
    }
    Ok(())
}

fn locks(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    // A channel's wait is for its receiver, not for who holds something.
    let is_lock = |lock: &&LockTypeEntry| lock.kind != LockShape::Channel;
    let types: Vec<&LockTypeEntry> = report.lock_types.iter().filter(is_lock).collect();
    if types.is_empty() {
        return Ok(());
    }
    heading(
        out,
        style,
        "Locks by type, most waited for first",
        "     total    waits    longest  held up to  lock, and who held it while others waited",
    )?;
    for lock in types.iter().take(ROWS) {
        let instances = match lock.instances.len() {
            1 => String::new(),
            several => format!("{several}x "),
        };
        writeln!(
            out,
            "{:>10}  {:>7}  {:>9}  {:>10}  {instances}{}",
            duration(lock.totals.total_ns),
            lock.totals.waits,
            duration(lock.totals.max_ns),
            held(&lock.holds),
            cut(&shown(&lock.name), COLUMNS - 44 - instances.len()),
        )?;
        for (site, percent) in lock.holders.told(HOLDERS).named {
            let released = format!("{percent:>3}% {}", place(Some(site)));
            writeln!(out, "{:44}{}", "", style.dim(&cut(&released, COLUMNS - 44)))?;
        }
        if lock.across_await.count > 0 {
            writeln!(
                out,
                "{:44}held across an await {}, up to {}",
                "",
                times(lock.across_await.count),
                held(&lock.across_await)
            )?;
        }
        if lock.still_waiting.waits > 0 {
            writeln!(
                out,
                "{:44}{} still waiting at the end, {} so far",
                "",
                lock.still_waiting.waits,
                duration(lock.still_waiting.at_least_ns)
            )?;
        }
    }
    rest(out, types.len())
}

/// The longest of some holds, with the sign of how good that is.
fn held(holds: &HoldTotalsEntry) -> String {
    match holds.count {
        0 => "-".to_owned(),
        _ => format!(
            "{}{}",
            holds.longest_certainty.sign(),
            duration(holds.longest_ns)
        ),
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// Of a table.
fn heading(out: &mut String, style: Style, title: &str, columns: &str) -> fmt::Result {
    writeln!(out, "\n{}", style.bold(title))?;
    writeln!(out, "{}", style.dim(columns))
}

fn rest(out: &mut String, rows: usize) -> fmt::Result {
    if rows > ROWS {
        writeln!(out, "           and {} more in report.json", rows - ROWS)?;
    }
    Ok(())
}

fn coverage(out: &mut String, report: &Report, style: Style) -> fmt::Result {
    writeln!(out, "\n{}", style.bold("Coverage"))?;
    let families: Vec<String> = report
        .coverage
        .probes
        .iter()
        .map(|family| format!("{} {}/{}", family.name, family.attached, family.found))
        .collect();
    wrapped(
        out,
        "  ",
        "    ",
        &format!("probed: {}", families.join(", ")),
    )?;
    for note in &report.coverage.notes {
        wrapped(out, "  ", "    ", &shown(note))?;
    }
    Ok(())
}

fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::OnCpu => "on-CPU",
        Activity::LockWait => "lock wait",
        Activity::RunQueue => "run queue",
        Activity::Sleep => "sleep",
    }
}

/// The function and its line; for crypto also who called it.
fn place(site: Option<&CallSite>) -> String {
    let Some(site) = site else {
        return "(no stack)".to_owned();
    };
    let named = |frame: &crate::report::NamedFrame| match &frame.at {
        Some(at) => format!("{} {}", shown(&frame.label), shown(at)),
        None => shown(&frame.label),
    };
    match &site.called_by {
        Some(caller) => format!("{} < {}", named(&site.frame), named(caller)),
        None => named(&site.frame),
    }
}

/// Three digits and a unit: what a person can compare at a glance.
fn duration(ns: Nanos) -> String {
    let ns = ns.0;
    match ns {
        0 => "0".to_owned(),
        1..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => digits(ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => digits(ns as f64 / 1e6, "ms"),
        _ => digits(ns as f64 / 1e9, "s"),
    }
}

fn digits(value: f64, unit: &str) -> String {
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// Names come from the target, which is not trusted with the terminal: control characters would move the
/// cursor or worse, and marks that change the direction of writing would make a name look like another.
pub fn shown(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if harmful(c) { '\u{fffd}' } else { c })
        .collect()
}

/// The end of a long text is cut; paths keep their end, because the line number is there.
fn cut(text: &str, columns: usize) -> String {
    let chars = text.chars().count();
    if chars <= columns {
        return text.to_owned();
    }
    let tail = columns / 2;
    let head = columns - tail - 1;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(chars - tail).collect();
    format!("{start}\u{2026}{end}")
}

/// Words, filled into lines.
fn wrapped(out: &mut String, first: &str, next: &str, text: &str) -> fmt::Result {
    wrapped_in(out, first, next, text, str::to_owned)
}

/// Words, filled into lines, each of them in a style.
fn wrapped_in(
    out: &mut String,
    first: &str,
    next: &str,
    text: &str,
    styled: impl Fn(&str) -> String,
) -> fmt::Result {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        let needed = line.chars().count() + usize::from(!empty) + word.chars().count();
        if needed > COLUMNS && !empty {
            writeln!(out, "{}", styled(&line))?;
            line = next.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    writeln!(out, "{}", styled(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three digits, whatever the size.
    #[test]
    fn durations_have_three_digits() {
        let shown = [
            999,
            1_000,
            12_340,
            99_960,
            5_000_000,
            123_456_789,
            61_000_000_000,
        ]
        .map(|ns| duration(Nanos(ns)));
        assert_eq!(
            shown,
            [
                "999 ns", "1.00 us", "12.3 us", "100 us", "5.00 ms", "123 ms", "61.0 s"
            ]
        );
    }

    /// No line is longer than the terminal, unless one word is.
    #[test]
    fn text_is_wrapped_at_words() {
        let mut out = String::new();
        let text = "word ".repeat(60);
        wrapped(&mut out, " 1. ", "    ", &text).expect("a String takes everything");
        assert_eq!(out.lines().count(), 4);
        assert!(out.lines().all(|line| line.chars().count() <= COLUMNS));
        assert_eq!(out.matches("word").count(), 60);
    }

    /// A target can't write escape sequences to the terminal of the person who looks at it.
    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(shown("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    /// Both ends of a long name stay: the crate in front, the line behind.
    #[test]
    fn long_places_keep_both_ends() {
        let text = format!("{}{}", "a".repeat(80), "src/lib.rs:12");
        let short = cut(&text, 40);
        assert_eq!(short.chars().count(), 40);
        assert!(short.starts_with("aaa") && short.ends_with("src/lib.rs:12"));
    }
}
