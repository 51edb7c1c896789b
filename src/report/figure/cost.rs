//! What a variant costs: time of a training step, whole and by phase, memory of training, time and memory of inference.

use std::fmt::Display;

use crate::record::{Estimate, Inference, Memory, Phases};
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::{AXIS, Colour, PALETTE};
use crate::units::{Bytes, Ratio, Seconds};

use super::{
    Arrange, Axis, Figure, Fill, Hatch, Key, Layer, Marks, Panel, Span, Spot, Swatch, alt,
    nothing_in, room_for, row_axis,
};

/// A part of a whole: its name, its size in a thing that has parts, and its look.
type Part<W, T> = (&'static str, fn(&W) -> T, Fill);

const fn fill(colour: Colour, hatch: Hatch) -> Fill {
    Fill { colour, hatch }
}

/// A whole: no part's colour.
pub(super) const WHOLE: Fill = fill(AXIS, Hatch::Plain);

/// The parts of the peak of training, from the axis outwards.
const MEMORY: [Part<Memory, Bytes>; 5] = [
    ("weights", |memory| memory.weights, fill(PALETTE[1], Hatch::Plain)),
    ("master weights", |memory| memory.master_weights, fill(PALETTE[6], Hatch::Rising)),
    ("gradients", |memory| memory.gradients, fill(PALETTE[2], Hatch::Falling)),
    ("optimizer", |memory| memory.optimizer, fill(PALETTE[3], Hatch::Upright)),
    ("activations and work space", |memory| memory.activations, fill(PALETTE[4], Hatch::Crossed)),
];

/// The parts of the peak of inference: the peak, and the weights in it.
const INFERENCE: [Part<(Bytes, Bytes), Bytes>; 2] = [
    ("weights", |(_, weights)| *weights, fill(PALETTE[1], Hatch::Plain)),
    (
        "activations and work space",
        |(peak, weights)| Bytes(peak.0.saturating_sub(weights.0)),
        fill(PALETTE[4], Hatch::Crossed),
    ),
];

/// The peak of inference, and the weights in it, where memory was measured.
fn inference_memory(inference: &Inference) -> Option<(Bytes, Bytes)> {
    Some((inference.peak_bytes?, inference.weights))
}

/// The phases of a step, in their order.
const PHASES: [Part<Phases, Seconds>; 5] = [
    ("data", |phases| phases.data, fill(PALETTE[6], Hatch::Rising)),
    ("forward", |phases| phases.forward, fill(PALETTE[1], Hatch::Plain)),
    ("backward", |phases| phases.backward, fill(PALETTE[2], Hatch::Falling)),
    ("unscale", |phases| phases.unscale, fill(PALETTE[4], Hatch::Crossed)),
    ("update", |phases| phases.update, fill(PALETTE[3], Hatch::Upright)),
];

/// A legend with one entry a part.
fn keys<W, T>(parts: &[Part<W, T>]) -> Vec<Key> {
    let parts = parts.iter().enumerate();
    let key = |(series, (name, _, fill)): (usize, &Part<W, T>)| Key {
        label: (*name).to_owned(),
        swatch: Swatch::Fill(*fill),
        series: Some(series),
    };
    parts.map(key).collect()
}

/// A row's parts side by side, in an axis's unit, `per` of which make one of `T`.
fn stack<W, T: Display + Copy>(
    (y, row): (f64, &Row<'_>),
    whole: &W,
    parts: &[Part<W, T>],
    size: impl Fn(T) -> f64,
) -> Vec<Layer> {
    let mut from = 0.0;
    let mut layers = Vec::new();
    for (series, (name, part, fill)) in parts.iter().enumerate() {
        let to = from + size(part(whole));
        if to > from {
            let words = format!("{}, {name}: {}", row.label(), part(whole));
            let bars = vec![Span { at: y, from, to, words }];
            layers.push(Layer::of(series, Marks::Bars { bars, fill: *fill }));
        }
        from = to;
    }
    layers
}

/// A plot with one bar or stack a row, and words where a row has none.
pub(super) struct Bars {
    title: String,
    axis: String,
    /// The largest value on the axis.
    largest: f64,
    /// What is drawn.
    pub(super) layers: Vec<Layer>,
    /// What stands right of the plot.
    pub(super) gutter: Vec<(f64, String)>,
}

impl Bars {
    /// Without a bar.
    pub(super) fn new(title: &str, axis: String, largest: f64) -> Self {
        Self { title: title.to_owned(), axis, largest, layers: Vec::new(), gutter: Vec::new() }
    }

    /// What stands where there is no bar.
    pub(super) fn say(&mut self, y: f64, words: String) {
        self.layers.push(Layer::plain(Marks::Words(vec![Spot { at: (0.0, y), words }])));
    }

    /// The plot.
    pub(super) fn panel(self, table: &Table<'_>) -> Panel {
        Panel {
            title: self.title,
            x: cost_axis(self.axis, self.largest),
            y: row_axis(table.rows.iter()),
            layers: self.layers,
            gutter: self.gutter,
            empty: nothing_in(table),
            weight: 1.0,
        }
    }
}

/// Times in this run, and beside them the ratio to the baseline's.
fn times(
    table: &Table<'_>,
    (title, axis): (&str, &str),
    of: impl Fn(&Row<'_>) -> (Option<Seconds>, Option<Estimate<Ratio>>),
) -> Panel {
    let times = table.rows.iter().filter_map(|row| of(row).0);
    let longest = times.map(|time| time.0).fold(0.0, f64::max);
    let (unit, per_second) = time_unit(longest);
    let mut bars = Bars::new(title, format!("{axis} ({unit})"), longest * per_second);
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        let (Some(time), ratio) = of(row) else {
            bars.say(y, no_time(row));
            continue;
        };
        let words = format!("{}: {time}{}", row.label(), ratio_words(ratio));
        let span = vec![Span { at: y, from: 0.0, to: time.0 * per_second, words }];
        bars.layers.push(Layer::plain(Marks::Bars { bars: span, fill: WHOLE }));
        bars.gutter.push((y, with_ratio(time, ratio.map(|ratio| ratio.value))));
    }
    bars.panel(table)
}

/// Time of a training step, and of its phases.
pub(super) fn step_time(table: &Table<'_>) -> Figure {
    let whole = times(table, ("whole step", "time of one step"), |row| {
        (row.train.as_ref().map(|train| train.step_seconds.value), row.time_ratio())
    });
    Figure {
        file: "step-time".into(),
        title: "Time of one training step".to_owned(),
        subtitle: "Bar: median of this run. × is variant ÷ baseline; less is faster.".to_owned(),
        alt: alt("Time of one training step", table, step_words),
        room: 2.0 * room_for(table.rows.len(), 24.0),
        arrange: Arrange::Stacked,
        legend: keys(&PHASES),
        panels: vec![whole, phases(table)],
        notes: vec![
            "Phases are measured apart from the whole step, with a wait between them, and drawing a batch (data) is not in the whole."
                .to_owned(),
        ],
    }
}

fn row_phases<'a>(row: &'a Row<'_>) -> Option<&'a Phases> {
    row.train.as_ref()?.phases.as_ref()
}

fn phases(table: &Table<'_>) -> Panel {
    let sum = |phases: &Phases| PHASES.iter().map(|(_, phase, _)| phase(phases).0).sum::<f64>();
    let longest = table.rows.iter().filter_map(row_phases).map(sum).fold(0.0, f64::max);
    let (unit, per_second) = time_unit(longest);
    let axis = format!("time of the phases ({unit})");
    let mut bars = Bars::new("by phase", axis, longest * per_second);
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        if let Some(phases) = row_phases(row) {
            let size = |phase: Seconds| phase.0 * per_second;
            bars.layers.extend(stack((y, row), phases, &PHASES, size));
            bars.gutter.push((y, Seconds(sum(phases)).to_string()));
        } else {
            bars.say(y, no_time(row));
        }
    }
    bars.panel(table)
}

fn step_words(row: &Row<'_>) -> String {
    let Some(train) = &row.train else {
        return no_time(row);
    };
    let phases = row_phases(row).map(|phases| {
        let phases = PHASES.map(|(name, phase, _)| format!("{name} {}", phase(phases)));
        format!(" ({})", phases.join(", "))
    });
    let (time, ratio) = (train.step_seconds.value, ratio_words(row.time_ratio()));
    format!("{time}{ratio}{}", phases.unwrap_or_default())
}

/// `, 0.52× (0.51–0.54×) of the baseline`, where there is a ratio.
fn ratio_words(ratio: Option<Estimate<Ratio>>) -> String {
    ratio.map(|ratio| format!(", {} of the baseline", text::estimate(ratio))).unwrap_or_default()
}

/// Memory of training by category, at the peak.
pub(super) fn memory(table: &Table<'_>) -> Figure {
    let panel = peaks(table, "", &MEMORY, |row| {
        row.memory.map(|memory| (memory, memory.peak_bytes, row.memory_ratio()))
    });
    Figure {
        file: "memory".into(),
        title: "Peak memory of training".to_owned(),
        subtitle:
            "Live bytes at the peak, by what they hold. × is variant ÷ baseline; less is smaller."
                .to_owned(),
        alt: alt("Peak memory of training", table, |row| {
            row.memory.map_or_else(not_measured, |memory| {
                parts_words(memory.peak_bytes, row.memory_ratio(), &memory, &MEMORY)
            })
        }),
        room: room_for(table.rows.len(), 24.0),
        arrange: Arrange::Stacked,
        legend: keys(&MEMORY),
        panels: vec![panel],
        notes: Vec::new(),
    }
}

/// Time of a batch of inference, and its memory.
pub(super) fn inference(table: &Table<'_>) -> Figure {
    let batches = table.rows.iter().filter_map(|row| row.inference.as_ref().map(|i| i.batch));
    let samples = batches.max().map_or_else(String::new, |batch| format!(" of {batch}"));
    let what = format!("time of one batch{samples}");
    let times = times(table, ("time", &what), |row| {
        let time = row.inference.as_ref().and_then(|inference| inference.batch_seconds);
        (time.map(|time| time.value), row.inference_time_ratio())
    });
    let peaks = peaks(table, "peak memory", &INFERENCE, |row| {
        let memory = inference_memory(row.inference.as_ref()?)?;
        Some((memory, memory.0, row.inference_memory_ratio()))
    });
    Figure {
        file: "inference".into(),
        title: "Time and memory of inference".to_owned(),
        subtitle: "Weights in the compute format only. × is variant ÷ baseline; less is better."
            .to_owned(),
        alt: alt("Inference", table, inference_words),
        room: 2.0 * room_for(table.rows.len(), 24.0),
        arrange: Arrange::Stacked,
        legend: keys(&INFERENCE),
        panels: vec![times, peaks],
        notes: Vec::new(),
    }
}

fn inference_words(row: &Row<'_>) -> String {
    let Some(inference) = &row.inference else {
        return not_measured();
    };
    let time = inference.batch_seconds.map_or_else(
        || no_time(row),
        |time| format!("{}{}", time.value, ratio_words(row.inference_time_ratio())),
    );
    let memory = inference_memory(inference).map_or_else(
        || "memory not measured".to_owned(),
        |memory| parts_words(memory.0, row.inference_memory_ratio(), &memory, &INFERENCE),
    );
    format!("{time}; {memory}")
}

/// Peaks of memory by what they hold.
fn peaks<W>(
    table: &Table<'_>,
    title: &str,
    parts: &[Part<W, Bytes>],
    peak: impl Fn(&Row<'_>) -> Option<(W, Bytes, Option<Ratio>)>,
) -> Panel {
    let peaks = table.rows.iter().filter_map(|row| peak(row).map(|peak| peak.1.0));
    let largest = peaks.max().unwrap_or(0);
    let (unit, unit_bytes) = byte_unit(largest);
    let mut bars = Bars::new(title, format!("memory ({unit})"), largest as f64 / unit_bytes);
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        if let Some((whole, peak, ratio)) = peak(row) {
            let size = |bytes: Bytes| bytes.0 as f64 / unit_bytes;
            bars.layers.extend(stack((y, row), &whole, parts, size));
            bars.gutter.push((y, with_ratio(peak, ratio)));
        } else {
            bars.say(y, not_measured());
        }
    }
    bars.panel(table)
}

fn parts_words<W>(
    peak: Bytes,
    ratio: Option<Ratio>,
    whole: &W,
    parts: &[Part<W, Bytes>],
) -> String {
    let parts: Vec<String> =
        parts.iter().map(|(name, part, _)| format!("{name} {}", part(whole))).collect();
    format!("{} ({})", with_ratio(peak, ratio), parts.join(", "))
}

pub(super) fn not_measured() -> String {
    "not measured".to_owned()
}

pub(super) fn no_time(row: &Row<'_>) -> String {
    if row.emulated { "emulated: no time".to_owned() } else { not_measured() }
}

fn with_ratio<T: Display>(value: T, ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| value.to_string(), |ratio| format!("{value} · {ratio}"))
}

/// From 0 to a little beyond the largest value; without ticks where nothing was measured.
fn cost_axis(label: String, largest: f64) -> Axis {
    let end = if largest > 0.0 { largest * 1.04 } else { 1.0 };
    let mut axis = Axis::plain(label, (0.0, end));
    if largest <= 0.0 {
        axis.ticks.clear();
    }
    axis
}

/// The unit in which [`Seconds`] prints `longest`, and how many make a second.
pub(super) fn time_unit(longest: f64) -> (&'static str, f64) {
    match Seconds(longest) {
        Seconds(s) if s >= 1.0 || s == 0.0 => ("s", 1.0),
        Seconds(s) if s >= 1e-3 => ("ms", 1e3),
        Seconds(s) if s >= 1e-6 => ("µs", 1e6),
        _ => ("ns", 1e9),
    }
}

/// The unit in which [`Bytes`] prints `largest`, in bytes.
pub(super) fn byte_unit(largest: u64) -> (&'static str, f64) {
    match largest {
        0..1024 => ("B", 1.0),
        1024..0x0010_0000 => ("KiB", 1024.0),
        0x0010_0000..0x4000_0000 => ("MiB", 1024.0 * 1024.0),
        _ => ("GiB", 1024.0 * 1024.0 * 1024.0),
    }
}
