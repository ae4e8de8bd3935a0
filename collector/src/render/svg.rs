//! The flamegraph: a [`Flame`] goes in, an SVG that a browser shows, zooms and searches comes out,
//! with nothing to load from anywhere.
//!
//! inferno draws the frames. It takes folded lines (`a;b;c 12`), in which a name can't hold every
//! character, and it has no legend: this module gives names a form that survives that way, and
//! makes room for the legend under the title.

use std::{collections::HashMap, fmt::Write as _, ops::RangeInclusive};

use inferno::flamegraph::{
    self, Options, TextTruncateDirection,
    color::{BackgroundColor, Color, PaletteMap},
};

use crate::{
    classify::Origin,
    fnv,
    report::{Flame, FlameFrame, FrameKind},
};

/// The flamegraph could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum SvgError {
    /// The times don't add up to a number that can be drawn exactly.
    #[error(
        "the flamegraph's times add up to more than {MAX_TOTAL_NS} ns, which no recording can: the capture file is damaged"
    )]
    TooMuch,
    /// inferno failed.
    #[error("the flamegraph could not be drawn: {0}")]
    Draw(#[from] std::io::Error),
    /// The drawing is not as this module expects it, which a test would have shown.
    #[error("the flamegraph has no `{0}`: this build of holdup does not fit its inferno")]
    Layout(&'static str),
}

/// Largest integer that the script in the SVG holds exactly: 2^53, in nanoseconds 104 days.
const MAX_TOTAL_NS: u64 = 1 << 53;

/// Width that text is laid out for; the script stretches the frames to the window's.
pub(super) const WIDTH: usize = 1200;
pub(super) const FONT_SIZE: usize = 12;
/// Of a character of a monospace font, in font sizes: what inferno reckons with.
const FONT_WIDTH: f64 = 0.6;
pub(super) const LINE_HEIGHT: usize = 16;

/// Longest label: a name beyond it is cut. Real ones, generics and all, rarely pass 500.
const MAX_LABEL_CHARS: usize = 1000;
/// Deepest stack: beyond it, the middle is left out, and the frame in its place says so.
const MAX_DEPTH: usize = 500;

/// Draws `flame`. `title` is one line; `subtitle`, where the coverage belongs, is wrapped, and its
/// own line breaks are kept. `what` is drawn, in the words of a sentence: if there is nothing of it,
/// the SVG says "No … was seen".
///
/// Widths are in nanoseconds and the numbers are shown in microseconds, rounded one by one: the
/// drawn total is [`Flame::total`], whatever the number of stacks. Frames under 0.01 % of it are
/// not drawn, but the time is in those under them.
pub fn svg(flame: &Flame, what: &str, title: &str, subtitle: &str) -> Result<Vec<u8>, SvgError> {
    let total = flame
        .stacks
        .iter()
        .try_fold(0u64, |sum, stack| sum.checked_add(stack.value.0))
        .filter(|&sum| sum <= MAX_TOTAL_NS)
        .ok_or(SvgError::TooMuch)?;
    let subtitle = wrapped(subtitle);
    if total == 0 {
        return Ok(empty(what, title, &subtitle).into_bytes());
    }

    let (lines, mut colors) = folded(flame);
    let mut options = Options::default();
    options.title = cut(&shown(title), 100);
    // Makes inferno leave room for one line, which `with_header` fills.
    options.subtitle = Some(" ".into());
    options.count_name = "us".into();
    options.factor = 1e-3;
    options.name_type = String::new();
    options.font_size = FONT_SIZE;
    options.font_width = FONT_WIDTH;
    options.frame_height = LINE_HEIGHT;
    options.text_truncate_direction = TextTruncateDirection::Right;
    options.bgcolors = Some(BackgroundColor::Flat(BACKGROUND));
    options.palette_map = Some(&mut colors);

    let mut drawn = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut drawn)?;
    let drawn = String::from_utf8(drawn).map_err(|_| SvgError::Layout("UTF-8"))?;
    let drawn = unfold_names(&drawn);
    Ok(with_header(drawn, &subtitle)?.into_bytes())
}

/// Folded lines of the stacks, and a colour for each name in them.
fn folded(flame: &Flame) -> (Vec<String>, PaletteMap) {
    let mut names: HashMap<&FlameFrame, String> = HashMap::new();
    let mut colors = PaletteMap::default();
    // inferno's own frame at the root, which says "all".
    colors.insert("", ORIGINS[ORIGINS.len() - 1].2);
    let mut lines = Vec::with_capacity(flame.stacks.len());
    for stack in flame.stacks.iter().filter(|stack| stack.value.0 > 0) {
        let mut line = String::new();
        for place in shown_frames(stack.frames.len()) {
            let (name, frame);
            match place {
                Place::Frame(index) => {
                    frame = &stack.frames[index];
                    name = names
                        .entry(frame)
                        .or_insert_with(|| folded_name(&frame.label, frame.kind))
                        .as_str();
                    colors.insert(name, color(frame));
                }
                Place::LeftOut(count) => {
                    let label = format!("[{count} frames left out]");
                    line.push_str(&folded_name(&label, FrameKind::Code));
                    line.push(';');
                    continue;
                }
            }
            line.push_str(name);
            line.push(';');
        }
        if line.is_empty() {
            line.push_str(&folded_name("[no stack]", FrameKind::NoStack));
            line.push(';');
        }
        line.pop();
        let _ = write!(line, " {}", stack.value.0);
        lines.push(line);
    }
    (lines, colors)
}

enum Place {
    Frame(usize),
    LeftOut(usize),
}

/// Which of a stack's frames are drawn.
fn shown_frames(depth: usize) -> impl Iterator<Item = Place> {
    let left_out: RangeInclusive<usize> = if depth > MAX_DEPTH {
        MAX_DEPTH / 2..=depth - MAX_DEPTH / 2
    } else {
        RangeInclusive::new(1, 0)
    };
    (0..depth).filter_map(move |index| {
        if index == *left_out.start() && !left_out.is_empty() {
            Some(Place::LeftOut(left_out.end() - left_out.start() + 1))
        } else if left_out.contains(&index) {
            None
        } else {
            Some(Place::Frame(index))
        }
    })
}

/// Characters that mean something in a folded line: `;` parts frames, a space can begin a count, `#`
/// begins a comment. They go through inferno as private-use characters, which labels never have.
const FOLDED: [(char, char); 3] = [(';', '\u{e000}'), (' ', '\u{e001}'), ('#', '\u{e002}')];

/// A label as a name in a folded line.
fn folded_name(label: &str, kind: FrameKind) -> String {
    let mut name = cut(&shown(label), MAX_LABEL_CHARS);
    if name.is_empty() {
        name.push('?');
    }
    for (char, stand_in) in FOLDED {
        name = name.replace(char, stand_in.encode_utf8(&mut [0; 4]));
    }
    if kind == FrameKind::Inlined {
        // inferno's own mark of an inlined frame: it makes a name of its own, and is not shown.
        name.push_str("_[i]");
    }
    name
}

/// Puts the characters back that names can't have in folded lines; none needs escaping in XML.
fn unfold_names(svg: &str) -> String {
    let back = |c| FOLDED.iter().find(|(_, s)| *s == c).map_or(c, |(c, _)| *c);
    svg.chars().map(back).collect()
}

/// A label with only characters that XML allows, that stay on their line and in their order.
pub(super) fn shown(label: &str) -> String {
    label
        .trim()
        .chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            // Private use (see FOLDED), not in XML, or changing the direction of text.
            '\u{e000}'..='\u{f8ff}'
            | '\u{fffe}'
            | '\u{ffff}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

pub(super) fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Lines of at most what fits in [`WIDTH`].
pub(super) fn wrapped(text: &str) -> Vec<String> {
    let max = (WIDTH as f64 / (FONT_SIZE as f64 * FONT_WIDTH)) as usize - 6;
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in shown(paragraph).split_whitespace() {
            let length = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && length > max {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&cut(word, max));
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    lines
}

const fn rgb(r: u8, g: u8, b: u8) -> Color {
    Color { r, g, b }
}

pub(super) const BACKGROUND: Color = rgb(250, 250, 250);

/// What a colour means, in the legend's order: whose code it is.
const ORIGINS: [(Origin, &str, Color); 8] = [
    (Origin::User, "your code", rgb(118, 183, 107)),
    (Origin::Crypto, "crypto", rgb(244, 142, 84)),
    (Origin::Lock, "lock", rgb(232, 186, 60)),
    (Origin::Runtime, "runtime", rgb(126, 170, 224)),
    (Origin::Library, "library", rgb(170, 196, 190)),
    (Origin::Std, "std", rgb(196, 186, 216)),
    (Origin::Kernel, "kernel", rgb(214, 160, 190)),
    (Origin::Unknown, "unknown", rgb(200, 200, 200)),
];

/// And what the thread was doing.
const KINDS: [(FrameKind, &str, Color); 6] = [
    (FrameKind::Root, "task", rgb(168, 168, 178)),
    (FrameKind::OnCpu, "on-CPU", rgb(216, 84, 102)),
    (FrameKind::LockWait, "lock wait", rgb(214, 158, 0)),
    (FrameKind::RunQueue, "run queue", rgb(180, 140, 208)),
    (FrameKind::Sleep, "sleep, I/O", rgb(88, 174, 180)),
    (FrameKind::NoStack, "no stack", rgb(178, 164, 148)),
];

/// The colour of what a thread was doing, as SVG has it.
pub(super) fn kind_color(kind: FrameKind) -> String {
    let color = KINDS.iter().find(|(known, ..)| *known == kind);
    let color = color.map_or(BACKGROUND, |(.., color)| *color);
    format!("rgb({},{},{})", color.r, color.g, color.b)
}

/// A frame's colour: its kind's, or its origin's; paler if inlined. Neighbours of one colour differ
/// a little by their name, so that they can be told apart, and always in the same way.
fn color(frame: &FlameFrame) -> Color {
    let base = match frame.kind {
        FrameKind::Code | FrameKind::Inlined => ORIGINS
            .iter()
            .find(|(origin, ..)| *origin == frame.origin)
            .map(|(.., color)| *color),
        kind => KINDS
            .iter()
            .find(|(k, ..)| *k == kind)
            .map(|(.., color)| *color),
    }
    .unwrap_or(ORIGINS[ORIGINS.len() - 1].2);
    // 0..=15 becomes -7.5 % to +7.5 %.
    let hash = fnv::hash(frame.label.bytes());
    let varied = mixed(base, (hash >> 60) as f64 / 100.0 - 0.075);
    if frame.kind == FrameKind::Inlined {
        mixed(varied, INLINED_PALER)
    } else {
        varied
    }
}

/// How far towards white an inlined frame's colour goes.
const INLINED_PALER: f64 = 0.4;

/// `color` by `part` nearer to white, or to black if negative.
fn mixed(color: Color, part: f64) -> Color {
    let towards = if part < 0.0 { 0.0 } else { 255.0 };
    let mix = |from: u8| {
        let from = f64::from(from);
        (from + (towards - from) * part.abs()).round() as u8
    };
    rgb(mix(color.r), mix(color.g), mix(color.b))
}

/// Adds subtitle and legend between inferno's title and the frames, and moves the frames down by
/// what they need.
fn with_header(svg: String, subtitle: &[String]) -> Result<String, SvgError> {
    let (header, height) = header(subtitle);
    // inferno has made room for one line of subtitle.
    let shift = height.saturating_sub(2 * FONT_SIZE);

    // No reference to a document type elsewhere.
    let svg = replace_between(&svg, "<!DOCTYPE", ">", |_| Some(String::new()))?;
    let svg = replace_between(&svg, "<svg version", ">", |tag| {
        let height = number_after(tag, " height=\"")?;
        let taller = height + shift;
        Some(
            tag.replacen(
                &format!(" height=\"{height}\""),
                &format!(" height=\"{taller}\""),
                1,
            )
            .replacen(&format!(" {height}\""), &format!(" {taller}\""), 1),
        )
    })?;
    let svg = replace_between(&svg, "<rect x=\"0\" y=\"0\" width=\"100%\"", ">", |tag| {
        let height = number_after(tag, " height=\"")?;
        let taller = height + shift;
        Some(tag.replacen(
            &format!(" height=\"{height}\""),
            &format!(" height=\"{taller}\""),
            1,
        ))
    })?;
    let mut svg = svg;
    for element in ["<text id=\"details\"", "<text id=\"matched\""] {
        svg = replace_between(&svg, element, ">", |tag| {
            let y = number_after(tag, " y=\"")?;
            let (before, rest) = tag.split_once(" y=\"")?;
            let (_, after) = rest.split_once('"')?;
            Some(format!("{before} y=\"{}\"{after}", y + shift))
        })?;
    }
    replace_between(&svg, "<svg id=\"frames\"", ">", |tag| {
        let moved = tag.replacen("<svg ", &format!("<svg y=\"{shift}\" "), 1);
        Some(format!("{header}{moved}"))
    })
}

/// Replaces what begins with `start` and ends with the first `end` after it.
fn replace_between(
    text: &str,
    start: &'static str,
    end: &str,
    change: impl FnOnce(&str) -> Option<String>,
) -> Result<String, SvgError> {
    let missing = SvgError::Layout(start);
    let Some(from) = text.find(start) else {
        return Err(missing);
    };
    let Some(length) = text[from..].find(end) else {
        return Err(missing);
    };
    let to = from + length + end.len();
    match change(&text[from..to]) {
        Some(changed) => Ok([&text[..from], &changed, &text[to..]].concat()),
        None => Err(missing),
    }
}

/// The whole number that follows `before`.
fn number_after(text: &str, before: &str) -> Option<usize> {
    let (_, rest) = text.split_once(before)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Lines of the subtitle and the legend, and the height they take from under the title on.
fn header(subtitle: &[String]) -> (String, usize) {
    let mut header = String::from(concat!(
        "<style type=\"text/css\">",
        "#search { opacity:0.6; } #unzoom { text-decoration:underline; }",
        ".coverage { text-anchor:middle; fill:#555; } #legend text { fill:#333; }",
        "</style>",
    ));
    let title_bottom = 2 * FONT_SIZE + 8;
    let mut y = coverage(&mut header, subtitle, title_bottom);
    header.push_str("<g id=\"legend\">");
    y += 6;
    let code = ORIGINS.map(|(_, name, color)| (name, color));
    let paler = mixed(ORIGINS[0].2, INLINED_PALER);
    let code: Vec<_> = code
        .into_iter()
        .chain([("paler: inlined", paler)])
        .collect();
    let kinds = KINDS.map(|(_, name, color)| (name, color));
    for (what, entries) in [("code:", &code[..]), ("time:", &kinds[..])] {
        let mut x = 10;
        let text = |header: &mut String, x: usize, text: &str| {
            let _ = write!(
                header,
                "<text x=\"{x}\" y=\"{}\">{}</text>",
                y + LINE_HEIGHT - 4,
                escaped(text)
            );
            (text.chars().count() as f64 * FONT_SIZE as f64 * FONT_WIDTH) as usize
        };
        x += text(&mut header, x, what) + 10;
        for (name, color) in entries {
            let _ = write!(
                header,
                "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"rgb({},{},{})\"/>",
                y + 2,
                color.r,
                color.g,
                color.b
            );
            x += 16;
            x += text(&mut header, x, name) + 16;
        }
        y += LINE_HEIGHT + 2;
    }
    header.push_str("</g>");
    (header, y + 6 - title_bottom)
}

/// In place of a flamegraph where there is nothing to draw.
fn empty(what: &str, title: &str, subtitle: &[String]) -> String {
    let mut svg = String::new();
    let mut y = 2 * FONT_SIZE;
    let height = y + 4 * LINE_HEIGHT + subtitle.len() * LINE_HEIGHT;
    let _ = write!(
        svg,
        concat!(
            "<?xml version=\"1.0\" standalone=\"no\"?>",
            "<svg version=\"1.1\" width=\"100%\" height=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">",
            "<style type=\"text/css\">text {{ font-family:monospace; font-size:{}px; ",
            "text-anchor:middle; }} .coverage {{ fill:#555; }}</style>",
            "<rect x=\"0\" y=\"0\" width=\"100%\" height=\"{}\" fill=\"rgb({},{},{})\"/>",
            "<text x=\"50%\" y=\"{}\" style=\"font-size:17px\">{}</text>",
        ),
        height,
        FONT_SIZE,
        height,
        BACKGROUND.r,
        BACKGROUND.g,
        BACKGROUND.b,
        y,
        escaped(&cut(&shown(title), 100)),
    );
    y = coverage(&mut svg, subtitle, y + 8) - 4;
    y += 2 * LINE_HEIGHT;
    let _ = write!(
        svg,
        "<text x=\"50%\" y=\"{y}\">No {} was seen</text></svg>",
        escaped(&shown(what))
    );
    svg
}

/// Adds the lines of a subtitle from `y` on, and returns where they end.
pub(super) fn coverage(svg: &mut String, lines: &[String], mut y: usize) -> usize {
    for line in lines {
        y += LINE_HEIGHT;
        let _ = write!(
            svg,
            "<text class=\"coverage\" x=\"50%\" y=\"{}\">{}</text>",
            y - 4,
            escaped(line)
        );
    }
    y
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
