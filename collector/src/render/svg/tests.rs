//! Tests of the drawing.

use super::*;
use crate::{event::Nanos, report::FlameStack};

fn frame(label: &str, kind: FrameKind) -> FlameFrame {
    FlameFrame {
        label: label.into(),
        origin: Origin::User,
        kind,
    }
}

fn flame(stacks: impl IntoIterator<Item = (Vec<FlameFrame>, u64)>) -> Flame {
    let stacks: Vec<FlameStack> = stacks
        .into_iter()
        .map(|(frames, ns)| FlameStack {
            frames,
            value: Nanos(ns),
        })
        .collect();
    Flame {
        total: stacks.iter().map(|stack| stack.value).sum(),
        stacks,
    }
}

fn draw(flame: &Flame) -> String {
    String::from_utf8(svg(flame, "lock wait", "title", "coverage").unwrap()).unwrap()
}

/// What the browser shows when the pointer is on a frame, with XML's escapes undone.
fn tooltips(svg: &str) -> Vec<String> {
    svg.split("<title>")
        .skip(1)
        .map(|rest| {
            rest.split("</title>")
                .next()
                .unwrap()
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&apos;", "'")
                .replace("&amp;", "&")
        })
        .collect()
}

/// The drawn total is the flame's to the nanosecond, also of many stacks under a microsecond.
#[test]
fn total_is_exact() {
    let stacks = (0..5_000u64).map(|i| (vec![frame(&format!("f{i}"), FrameKind::Code)], 333));
    let flame = flame(stacks.chain([(vec![frame("big", FrameKind::Code)], 7_000_000_001)]));
    assert_eq!(flame.total, Nanos(7_001_665_001));
    let svg = draw(&flame);
    assert!(svg.contains("total_samples=\"7001665001\""));
    assert!(tooltips(&svg).contains(&"all (7,001,665 us, 100%)".to_owned()));
    assert!(tooltips(&svg).contains(&"big (7,000,000 us, 99.98%)".to_owned()));
}

/// Names that mean something to XML, to scripts or to folded lines come out as they are.
#[test]
fn hostile_names() {
    let names = [
        "<script>alert('1')</script>",
        "a & b \"quoted\" 'single'",
        "<[u8; 32] as app::T>::f",
        "# not a comment",
        "ends in a number 5",
        "two numbers 5 6",
        "]]> <!-- -->",
        "名前::é",
    ];
    let frames = names.map(|name| frame(name, FrameKind::Code));
    let svg = draw(&flame([(frames.to_vec(), 1_000_000)]));
    let tooltips = tooltips(&svg);
    for name in names {
        let expected = format!("{name} (1,000 us, 100.00%)");
        assert!(tooltips.contains(&expected), "{name} not in {tooltips:?}");
    }
    assert_eq!(tooltips.len(), names.len() + 1);
    assert_eq!(svg.matches("<script").count(), 1, "inferno's own");
}

/// What XML has no way to write, or would break the line or its direction, is replaced.
#[test]
fn control_characters() {
    let labels = [
        ("a\nb", "a b"),
        ("a\0b", "a\u{fffd}b"),
        ("a\u{202e}b", "a\u{fffd}b"),
        ("", "?"),
        ("a\u{e000}b", "a\u{fffd}b"),
    ];
    for (label, expected) in labels {
        let svg = draw(&flame([(vec![frame(label, FrameKind::Code)], 1_000)]));
        let expected = format!("{expected} (1 us, 100.00%)");
        assert!(tooltips(&svg).contains(&expected), "{label:?}");
    }
}

/// Endless names and endless stacks are cut, and say so.
#[test]
fn endless() {
    let long = "x".repeat(100_000);
    let svg = draw(&flame([(vec![frame(&long, FrameKind::Code)], 1_000)]));
    assert!(svg.len() < 60_000, "{}", svg.len());
    assert!(svg.contains("xxx…"));

    let deep: Vec<FlameFrame> = (0..10_000)
        .map(|i| frame(&format!("f{i}"), FrameKind::Code))
        .collect();
    let svg = draw(&flame([(deep, 1_000)]));
    let tooltips = tooltips(&svg);
    assert_eq!(tooltips.len(), 1 + 250 + 1 + 249);
    assert!(tooltips.contains(&"[9501 frames left out] (1 us, 100.00%)".to_owned()));
    assert!(tooltips.contains(&"f0 (1 us, 100.00%)".to_owned()));
    assert!(tooltips.contains(&"f9999 (1 us, 100.00%)".to_owned()));
}

/// An inlined frame is a frame of its own, with a paler colour and the same name.
#[test]
fn inlined() {
    let (code, inlined) = (frame("f", FrameKind::Code), frame("f", FrameKind::Inlined));
    let svg = draw(&flame([
        (vec![code.clone()], 1_000),
        (vec![inlined.clone()], 3_000),
    ]));
    let tooltips = tooltips(&svg);
    assert!(tooltips.contains(&"f (1 us, 25.00%)".to_owned()));
    assert!(tooltips.contains(&"f (3 us, 75.00%)".to_owned()));
    let (code, inlined) = (color(&code), color(&inlined));
    assert!(inlined.r > code.r && inlined.g > code.g && inlined.b > code.b);
}

/// Every colour is in the legend, and the legend ends above the frames.
#[test]
fn legend_is_above_the_frames() {
    let deep: Vec<FlameFrame> = (0..9)
        .map(|i| frame(&format!("f{i}"), FrameKind::Code))
        .collect();
    let subtitle = "several words of coverage ".repeat(40);
    let flame = flame([(deep, 1_000)]);
    let svg =
        String::from_utf8(super::svg(&flame, "lock wait", "title", &subtitle).unwrap()).unwrap();
    let (header, frames) = svg.split_once("<svg y=\"").unwrap();
    let legend = header.split_once("<g id=\"legend\">").unwrap().1;
    for name in ORIGINS.map(|o| o.1).into_iter().chain(KINDS.map(|k| k.1)) {
        assert!(legend.contains(&format!(">{name}</text>")), "{name}");
    }
    let ys = |part: &str| -> Vec<usize> {
        let ys = part.split(" y=\"").skip(1);
        ys.map(|rest| rest.split(['"', '.']).next().unwrap().parse().unwrap())
            .collect()
    };
    let lowest_of_header = *ys(legend).iter().max().unwrap();
    let shift: usize = frames.split('"').next().unwrap().parse().unwrap();
    let highest_frame = shift + *ys(frames).iter().min().unwrap();
    assert!(
        lowest_of_header < highest_frame,
        "{lowest_of_header} {highest_frame}"
    );
    let height = number_after(&svg, " height=\"").unwrap();
    let lowest_frame = shift + *ys(frames).iter().max().unwrap();
    assert!(lowest_frame + LINE_HEIGHT <= height);
}

/// Nothing in the SVG is loaded from elsewhere.
#[test]
fn self_contained() {
    let svg = draw(&flame([(vec![frame("f", FrameKind::Code)], 1_000)]));
    for reference in ["<!DOCTYPE", "href=", "@import", " src=", "url(http"] {
        assert!(!svg.contains(reference), "{reference}");
    }
}

/// Nothing seen is said in words, not drawn as an error.
#[test]
fn empty_flame() {
    let svg = svg(
        &Flame::default(),
        "runtime-blocking time",
        "quiet <server>",
        "0 events lost & no more",
    );
    let svg = String::from_utf8(svg.unwrap()).unwrap();
    assert!(svg.contains(">No runtime-blocking time was seen<"));
    assert!(svg.contains(">quiet &lt;server&gt;<"));
    assert!(svg.contains(">0 events lost &amp; no more<"));
}

/// A damaged capture's times are an error, not an overflow.
#[test]
fn too_much() {
    let stacks = [
        FlameStack {
            frames: vec![],
            value: Nanos(u64::MAX),
        },
        FlameStack {
            frames: vec![],
            value: Nanos(2),
        },
    ];
    let flame = Flame {
        stacks: stacks.to_vec(),
        total: Nanos(0),
    };
    assert!(matches!(svg(&flame, "w", "t", "s"), Err(SvgError::TooMuch)));
}

/// A stack without frames still has its time drawn.
#[test]
fn no_frames() {
    let svg = draw(&flame([(vec![], 5_000)]));
    assert!(tooltips(&svg).contains(&"[no stack] (5 us, 100.00%)".to_owned()));
}
