//! What a variant costs: time of a training step and memory of training.

use crate::record::Memory;
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::units::{Bytes, Seconds};

use super::{
    Arrange, Axis, Colour, Figure, Fill, Hatch, Key, Look, Mark, Panel, Swatch, label, room_for,
};

/// A part of the peak: its name, its bytes and its look.
type Part = (&'static str, fn(&Memory) -> Bytes, Fill);

/// The parts of the peak, from the axis outwards.
const PARTS: [Part; 5] = [
    ("weights", |memory| memory.weights, Fill { colour: Colour(0, 114, 178), hatch: Hatch::Plain }),
    (
        "master weights",
        |memory| memory.master_weights,
        Fill { colour: Colour(86, 180, 233), hatch: Hatch::Rising },
    ),
    (
        "gradients",
        |memory| memory.gradients,
        Fill { colour: Colour(230, 159, 0), hatch: Hatch::Falling },
    ),
    (
        "optimizer",
        |memory| memory.optimizer,
        Fill { colour: Colour(0, 158, 115), hatch: Hatch::Upright },
    ),
    (
        "activations and work space",
        |memory| memory.activations,
        Fill { colour: Colour(204, 121, 167), hatch: Hatch::Crossed },
    ),
];

/// Time of a training step, with its interval.
pub(super) fn step_time(table: &Table) -> Figure {
    let times = table.rows.iter().filter_map(|row| row.train.as_ref());
    let longest = times.map(|t| t.step_seconds.high.0).fold(0.0, f64::max);
    let (unit, per_second) = time_unit(longest);
    let mut marks = Vec::new();
    let mut gutter = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        let Some(train) = &row.train else {
            let words = no_time(row);
            marks.push(Mark::Words { at: (0.0, y), words });
            continue;
        };
        let time = train.step_seconds;
        marks.push(Mark::Bar {
            y,
            span: (0.0, time.value.0 * per_second),
            fill: Fill { colour: Look::of(index).colour, hatch: Hatch::Plain },
        });
        marks.push(Mark::Whisker { y, span: (time.low.0 * per_second, time.high.0 * per_second) });
        gutter.push((y, with_ratio(time.value, row.time_ratio().map(|r| r.value))));
    }
    Figure {
        file: "step-time",
        title: "Time of one training step".to_owned(),
        subtitle: "Bar: median. Whisker: 95% interval. × is variant ÷ baseline; less is faster."
            .to_owned(),
        alt: alt("Time of one training step", table, |row| {
            let Some(train) = &row.train else {
                return no_time(row);
            };
            let ratio = row.time_ratio();
            let ratio = ratio.map(|r| format!(", {} of the baseline", text::estimate(r)));
            text::estimate(train.step_seconds) + &ratio.unwrap_or_default()
        }),
        room: room_for(table.rows.len(), 24.0),
        arrange: Arrange::Stacked,
        legend: Vec::new(),
        panels: vec![Panel {
            title: String::new(),
            x: cost_axis(format!("time of one step ({unit})"), longest * per_second),
            y: variant_axis(table),
            marks,
            gutter,
            empty: table.rows.is_empty().then(|| "There are no variants.".to_owned()),
            weight: 1.0,
        }],
        notes: Vec::new(),
    }
}

/// Memory of training by category, at the peak.
pub(super) fn memory(table: &Table) -> Figure {
    let peaks = table.rows.iter().filter_map(|row| row.memory);
    let largest = peaks.map(|memory| memory.peak_bytes.0).max().unwrap_or(0);
    let (unit, unit_bytes) = byte_unit(largest);
    let mut marks = Vec::new();
    let mut gutter = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        let Some(memory) = &row.memory else {
            let words = "not measured".to_owned();
            marks.push(Mark::Words { at: (0.0, y), words });
            continue;
        };
        let mut from = 0.0;
        for (_, part, fill) in PARTS {
            let to = from + part(memory).0 as f64 / unit_bytes;
            if to > from {
                let span = (from, to);
                marks.push(Mark::Bar { y, span, fill });
            }
            from = to;
        }
        gutter.push((y, with_ratio(memory.peak_bytes, row.memory_ratio())));
    }
    let legend =
        PARTS.map(|(name, _, fill)| Key { label: name.to_owned(), swatch: Swatch::Fill(fill) });
    Figure {
        file: "memory",
        title: "Peak memory of training".to_owned(),
        subtitle:
            "Live bytes at the peak, by what they hold. × is variant ÷ baseline; less is smaller."
                .to_owned(),
        alt: alt("Peak memory of training", table, memory_words),
        room: room_for(table.rows.len(), 24.0),
        arrange: Arrange::Stacked,
        legend: legend.to_vec(),
        panels: vec![Panel {
            title: String::new(),
            x: cost_axis(format!("memory ({unit})"), largest as f64 / unit_bytes),
            y: variant_axis(table),
            marks,
            gutter,
            empty: table.rows.is_empty().then(|| "There are no variants.".to_owned()),
            weight: 1.0,
        }],
        notes: Vec::new(),
    }
}

fn memory_words(row: &Row) -> String {
    let Some(memory) = &row.memory else {
        return "not measured".to_owned();
    };
    let parts: Vec<String> =
        PARTS.iter().map(|(name, part, _)| format!("{name} {}", part(memory))).collect();
    let total = with_ratio(memory.peak_bytes, row.memory_ratio());
    format!("{total} ({})", parts.join(", "))
}

fn no_time(row: &Row) -> String {
    if row.emulated { "emulated: no time".to_owned() } else { "not measured".to_owned() }
}

fn with_ratio<T: std::fmt::Display>(value: T, ratio: Option<crate::units::Ratio>) -> String {
    ratio.map_or_else(|| value.to_string(), |ratio| format!("{value} · {ratio}"))
}

fn variant_axis(table: &Table) -> Axis {
    Axis::categories(table.rows.iter().map(|row| label(&row.name)).collect())
}

/// From 0 to a little beyond the largest value; without ticks where nothing was measured.
fn cost_axis(label: String, largest: f64) -> Axis {
    let end = if largest > 0.0 { largest * 1.04 } else { 1.0 };
    let mut axis = Axis::linear(label, (0.0, end), |value, decimals| format!("{value:.decimals$}"));
    if largest <= 0.0 {
        axis.ticks.clear();
    }
    axis
}

/// The unit in which [`Seconds`] prints `longest`, and how many make a second.
fn time_unit(longest: f64) -> (&'static str, f64) {
    match Seconds(longest) {
        Seconds(s) if s >= 1.0 || s == 0.0 => ("s", 1.0),
        Seconds(s) if s >= 1e-3 => ("ms", 1e3),
        Seconds(s) if s >= 1e-6 => ("µs", 1e6),
        _ => ("ns", 1e9),
    }
}

/// The unit in which [`Bytes`] prints `largest`, in bytes.
fn byte_unit(largest: u64) -> (&'static str, f64) {
    match largest {
        0..1024 => ("B", 1.0),
        1024..0x0010_0000 => ("KiB", 1024.0),
        0x0010_0000..0x4000_0000 => ("MiB", 1024.0 * 1024.0),
        _ => ("GiB", 1024.0 * 1024.0 * 1024.0),
    }
}

fn alt(title: &str, table: &Table, words: impl Fn(&Row) -> String) -> String {
    let rows = table.rows.iter();
    let rows: Vec<String> = rows.map(|row| format!("{}: {}", row.label(), words(row))).collect();
    format!("{title}. {}.", rows.join("; "))
}
