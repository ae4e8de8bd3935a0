//! The timeline: the report goes in, an SVG comes out with a lane for each thread of the runtime, time from left to right.
//!
//! ```text
//!   tokio-runtime-w (42)  ▁▁▂▁█▁▁▁▁▂██▁▁     how busy it was, tenth of a second by tenth
//!                             |     ||       long polls: as high as the lane, made of what they were made of
//!                         +0 s      +5 s
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::svg::{
    BACKGROUND, FONT_SIZE, LINE_HEIGHT, WIDTH, coverage, cut, escaped, kind_color, shown, wrapped,
};
use crate::event::Nanos;
use crate::report::words::{count, duration};
use crate::report::{Anatomy, FrameKind, LongPollEntry, Report, WorkerEntry, WorkerRole};

/// Lanes that are drawn: of more threads those that come first in the report.
const MOST_LANES: usize = 64;
/// Long polls that are drawn: of more the longest. A browser shows so many without delay.
const MOST_POLLS: usize = 5_000;
/// Height of a lane, and of what is free between two.
const LANE: f64 = 40.0;
const GAP: f64 = 8.0;
/// Where time begins, right of the threads' names.
const LEFT: f64 = 190.0;
const RIGHT: f64 = WIDTH as f64 - 10.0;
/// Anything narrower could not be seen; and much wider than it is, a busy runtime would look like one that stands still.
const NARROWEST: f64 = 0.4;
/// Ticks of the axis at most.
const MOST_TICKS: u64 = 12;

/// Colours of what is no part of a long poll.
const IDLE: &str = "rgb(236,236,238)";
const BUSY: &str = "rgb(150,190,228)";
const POOL: &str = "rgb(176,196,176)";

/// Draws `report`. The subtitle is wrapped, and its own line breaks are kept.
pub fn timeline(report: &Report, title: &str, subtitle: &str) -> Vec<u8> {
    let mut lanes = lanes(report);
    let threads_left_out = lanes.len().saturating_sub(MOST_LANES);
    lanes.truncate(MOST_LANES);
    let has_lane: BTreeSet<u32> = lanes.iter().map(Lane::tid).collect();
    let polls = drawn_polls(report, &has_lane);
    let what_it_is = what_it_is(report, polls.len(), threads_left_out);
    let mut notes = wrapped(&format!("{what_it_is}\n{subtitle}"));
    notes.retain(|line| !line.is_empty());

    let mut body = String::new();
    let mut y = (2 * FONT_SIZE + 4 + notes.len() * LINE_HEIGHT) as f64;
    y = legend(&mut body, y);
    let top = y;
    let scale = Scale::of(report.capture.duration_ns);
    let mut by_thread: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for index in polls {
        let tid = report.long_polls[index].tid;
        by_thread.entry(tid).or_default().push(index);
    }
    let findings = findings_of_polls(report);
    for lane in &lanes {
        let (thread, role) = lane.name(&report.workers);
        text(&mut body, 10.0, y + 15.0, &cut(&thread, 24));
        text(&mut body, 10.0, y + 31.0, &role);
        rect(&mut body, LEFT, y, RIGHT - LEFT, LANE, IDLE, None);
        if let Lane::Known(worker) = lane {
            slices(&mut body, worker, y, &scale);
        }
        for &index in by_thread.get(&lane.tid()).into_iter().flatten() {
            let finding = findings.get(&index).copied();
            poll(&mut body, &report.long_polls[index], finding, y, &scale);
        }
        y += LANE + GAP;
    }
    axis(&mut body, top, y, &scale);
    y += 2.0 * LINE_HEIGHT as f64;
    if lanes.is_empty() {
        text(&mut body, LEFT, y, "No thread of a runtime was seen");
        y += LINE_HEIGHT as f64;
    }
    document(title, &notes, &body, y)
}

/// One thread.
enum Lane<'a> {
    /// Of which there are slices.
    Known(&'a WorkerEntry),
    /// All that is known of it is a long poll: its first one, which had not ended when the recording did.
    Polled(&'a LongPollEntry),
}

impl Lane<'_> {
    fn tid(&self) -> u32 {
        match self {
            Lane::Known(worker) => worker.tid,
            Lane::Polled(poll) => poll.tid,
        }
    }

    /// The thread, and what it is to its runtime.
    fn name(&self, workers: &[WorkerEntry]) -> (String, String) {
        let (thread, role) = match self {
            Lane::Known(worker) => {
                let role = match worker.role {
                    WorkerRole::Worker => "worker",
                    WorkerRole::Scheduler => "runs tasks",
                    WorkerRole::BlockingPool => "blocking pool",
                };
                let part = worker.part(workers);
                (&worker.thread, part.unwrap_or_else(|| role.to_owned()))
            }
            Lane::Polled(poll) => (&poll.thread, "runs tasks".to_owned()),
        };
        let thread = thread.as_deref().unwrap_or("thread");
        (format!("{thread} ({})", self.tid()), role)
    }
}

/// All threads.
fn lanes(report: &Report) -> Vec<Lane<'_>> {
    let known: BTreeSet<u32> = report.workers.iter().map(|worker| worker.tid).collect();
    let others: BTreeMap<u32, &LongPollEntry> = report
        .long_polls
        .iter()
        .filter(|poll| !known.contains(&poll.tid))
        .map(|poll| (poll.tid, poll))
        .collect();
    // Who never came out of a poll comes first.
    let others = others.into_values().map(Lane::Polled);
    others
        .chain(report.workers.iter().map(Lane::Known))
        .collect()
}

/// Which ones, in the order of their starts.
fn drawn_polls(report: &Report, has_lane: &BTreeSet<u32>) -> Vec<usize> {
    let mut polls: Vec<usize> = (0..report.long_polls.len())
        .filter(|&n| has_lane.contains(&report.long_polls[n].tid))
        .collect();
    if polls.len() > MOST_POLLS {
        polls.sort_by_key(|&n| std::cmp::Reverse(report.long_polls[n].duration_ns));
        polls.truncate(MOST_POLLS);
        polls.sort_unstable();
    }
    polls
}

fn what_it_is(report: &Report, drawn: usize, threads_left_out: usize) -> String {
    let info = &report.capture;
    let started = UNIX_EPOCH.checked_add(Duration::from_nanos(info.started_unix_ns));
    let started = started.map_or_else(String::new, |started| {
        format!("From {}. ", humantime::format_rfc3339_millis(started))
    });
    let mut what = format!(
        "{started}Polls of at least {} are drawn as high as the lane; move the pointer onto one.",
        duration(info.threshold_ns)
    );
    let all = report.summary.long_polls;
    let left_out = all.saturating_sub(drawn as u64);
    if left_out > 0 {
        let _ = write!(what, " {drawn} of {all} are drawn.");
    }
    if threads_left_out > 0 {
        let more = count(threads_left_out as u64, "thread");
        let _ = write!(what, " {more} in report.json alone.");
    }
    what
}

/// The number of the finding that a long poll is of, counted from 1.
fn findings_of_polls(report: &Report) -> BTreeMap<usize, usize> {
    let mut of_polls = BTreeMap::new();
    for (n, finding) in (1..).zip(&report.findings) {
        for &poll in &finding.long_polls {
            of_polls.entry(poll).or_insert(n);
        }
    }
    of_polls
}

/// From time to columns.
struct Scale {
    whole: Nanos,
}

impl Scale {
    fn of(whole: Nanos) -> Scale {
        Scale {
            whole: whole.max(Nanos(1)),
        }
    }

    /// The column of a moment; what lies outside of the recording lies at its edge.
    fn x(&self, at: Nanos) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.0 as f64 / self.whole.0 as f64).clamp(0.0, 1.0)
    }

    /// The columns of a stretch, left and width.
    fn stretch(&self, start: Nanos, length: Nanos) -> (f64, f64) {
        let (from, to) = (self.x(start), self.x(start + length));
        (from, to - from)
    }
}

fn slices(out: &mut String, lane: &WorkerEntry, y: f64, scale: &Scale) {
    for slice in &lane.slices {
        let whole = slice.duration_ns.0.max(1) as f64;
        let (x, width) = scale.stretch(slice.start_ns, slice.duration_ns);
        let mut bottom = y + LANE;
        for (time, what, color) in [
            (slice.busy_ns, "polling tasks", BUSY),
            (slice.blocking_ns, "running jobs of the blocking pool", POOL),
        ] {
            let share = (time.0 as f64 / whole).clamp(0.0, 1.0);
            let height = (share * LANE).min(bottom - y);
            if height > 0.0 {
                let tip = format!(
                    "{:.1} s: {:.0} % {what}",
                    seconds(slice.start_ns),
                    share * 100.0
                );
                bottom -= height;
                rect(out, x, bottom, width, height, color, Some(&tip));
            }
        }
    }
}

fn poll(out: &mut String, poll: &LongPollEntry, finding: Option<usize>, y: f64, scale: &Scale) {
    let (x, width) = scale.stretch(poll.start_ns, poll.duration_ns);
    let tip = tip(poll, finding);
    let mut bottom = y + LANE;
    for (time, kind) in parts(&poll.anatomy) {
        let share = time.0 as f64 / poll.duration_ns.0.max(1) as f64;
        let height = (share * LANE).min(bottom - y);
        if height > 0.0 {
            bottom -= height;
            rect(
                out,
                x,
                bottom,
                width.max(NARROWEST),
                height,
                &kind_color(kind),
                Some(&tip),
            );
        }
    }
}

fn parts(anatomy: &Anatomy) -> [(Nanos, FrameKind); 4] {
    [
        (anatomy.on_cpu_ns, FrameKind::OnCpu),
        (anatomy.lock_wait_ns, FrameKind::LockWait),
        (anatomy.run_queue_ns, FrameKind::RunQueue),
        (anatomy.sleep_ns, FrameKind::Sleep),
    ]
}

fn tip(poll: &LongPollEntry, finding: Option<usize>) -> String {
    let mut tip = format!(
        "{:.3} s: {} blocked this thread for {}{}",
        seconds(poll.start_ns),
        poll.task_name,
        poll.certainty.in_words(),
        duration(poll.duration_ns)
    );
    let names = ["on-CPU", "lock wait", "run queue", "sleep"];
    let parts = parts(&poll.anatomy).into_iter().zip(names);
    let parts: Vec<String> = parts
        .filter(|((time, _), _)| *time > Nanos::ZERO)
        .map(|((time, _), name)| format!("{name} {}", duration(time)))
        .collect();
    let _ = write!(tip, "\n{}", parts.join(", "));
    if let Some(victims) = poll.victims.as_ref().filter(|victims| victims.delays > 0) {
        let _ = write!(
            tip,
            "\ndelayed other tasks {}, by {} in total",
            count(victims.delays, "time"),
            duration(victims.delay_ns)
        );
    }
    if let Some(n) = finding {
        let _ = write!(tip, "\nfinding {n}");
    }
    tip
}

fn legend(out: &mut String, y: f64) -> f64 {
    let part = |kind| kind_color(kind);
    let mut x = 10.0;
    for (name, color) in [
        ("long poll: on-CPU", part(FrameKind::OnCpu)),
        ("lock wait", part(FrameKind::LockWait)),
        ("run queue", part(FrameKind::RunQueue)),
        ("sleep, I/O", part(FrameKind::Sleep)),
        ("busy", BUSY.to_owned()),
        ("blocking pool", POOL.to_owned()),
        ("idle, or not known", IDLE.to_owned()),
    ] {
        rect(out, x, y, 12.0, 12.0, &color, None);
        text(out, x + 16.0, y + 10.0, name);
        x += 32.0 + name.len() as f64 * 7.2;
    }
    y + LINE_HEIGHT as f64 + 6.0
}

fn axis(out: &mut String, top: f64, bottom: f64, scale: &Scale) {
    let step = tick(scale.whole);
    let ticks = (0..=MOST_TICKS).map(|n| Nanos(step.0.saturating_mul(n)));
    for at in ticks.take_while(|at| *at <= scale.whole) {
        let x = scale.x(at);
        let _ = write!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"rgb(120,120,120)\" stroke-width=\"0.5\" stroke-dasharray=\"2 3\"/>"
        );
        let label = format!("+{} s", seconds(at));
        text(
            out,
            x.min(RIGHT - 40.0),
            bottom + LINE_HEIGHT as f64,
            &label,
        );
    }
}

/// From one tick to the next: 1, 2 or 5 times a power of ten.
fn tick(whole: Nanos) -> Nanos {
    let least = whole.0.div_ceil(MOST_TICKS).max(1);
    let mut power = 1_u64;
    loop {
        for step in [1, 2, 5].map(|n| power.saturating_mul(n)) {
            if step >= least {
                return Nanos(step);
            }
        }
        power = power.saturating_mul(10);
    }
}

fn seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, color: &str, tip: Option<&str>) {
    let _ = write!(
        out,
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{color}\""
    );
    let _ = match tip {
        Some(tip) => {
            let lines: Vec<String> = tip.lines().map(shown).collect();
            write!(out, "><title>{}</title></rect>", escaped(&lines.join("\n")))
        }
        None => write!(out, "/>"),
    };
}

fn text(out: &mut String, x: f64, y: f64, text: &str) {
    let _ = write!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
        escaped(&shown(text))
    );
}

fn document(title: &str, notes: &[String], body: &str, height: f64) -> Vec<u8> {
    let mut svg = format!(
        concat!(
            "<?xml version=\"1.0\" standalone=\"no\"?>",
            "<svg version=\"1.1\" viewBox=\"0 0 {w} {h:.0}\" width=\"100%\" xmlns=\"http://www.w3.org/2000/svg\">",
            "<style type=\"text/css\">text {{ font-family:monospace; font-size:{f}px; fill:#222; }} ",
            ".title {{ font-size:17px; text-anchor:middle; }} .coverage {{ fill:#555; text-anchor:middle; }}</style>",
            "<rect x=\"0\" y=\"0\" width=\"{w}\" height=\"{h:.0}\" fill=\"rgb({r},{g},{b})\"/>",
            "<text class=\"title\" x=\"50%\" y=\"{y}\">{title}</text>",
        ),
        w = WIDTH,
        h = height,
        f = FONT_SIZE,
        r = BACKGROUND.r,
        g = BACKGROUND.g,
        b = BACKGROUND.b,
        y = 2 * FONT_SIZE - 4,
        title = escaped(&cut(&shown(title), 100)),
    );
    coverage(&mut svg, notes, 2 * FONT_SIZE);
    svg.push_str(body);
    svg.push_str("</svg>\n");
    svg.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks are round, and neither crowded nor sparse.
    #[test]
    fn ticks() {
        for (whole, step) in [
            (Nanos(1), 1),
            (Nanos(30_000_000_000), 5_000_000_000),
            (Nanos(10_000_000_000), 1_000_000_000),
            (Nanos(3_600_000_000_000), 500_000_000_000),
            (Nanos(1 << 53), 1_000_000_000_000_000),
        ] {
            assert_eq!(tick(whole), Nanos(step), "{whole:?}");
            assert!(whole.0 / step <= MOST_TICKS);
        }
    }

    /// Times become columns; what is outside of the recording stays in the picture.
    #[test]
    fn columns() {
        let scale = Scale::of(Nanos(1_000));
        assert_eq!(scale.x(Nanos(0)), LEFT);
        assert_eq!(scale.x(Nanos(1_000)), RIGHT);
        assert_eq!(scale.x(Nanos(u64::MAX)), RIGHT);
        let (x, width) = scale.stretch(Nanos(500), Nanos(250));
        assert_eq!(x, (LEFT + RIGHT) / 2.0);
        assert_eq!(width, (RIGHT - LEFT) / 4.0);
        assert_eq!(Scale::of(Nanos(0)).x(Nanos(0)), LEFT);
    }
}
