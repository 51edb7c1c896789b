//! Tokens a second of a language model that is served: of prefill and of decode, one panel each for every batch.

use crate::record::{Estimate, ServedBatch};
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::INK;
use crate::units::Ratio;

use super::cost::{Bars, WHOLE, no_time, not_measured};
use super::{Arrange, Figure, Layer, MOST_PANELS, Marks, Panel, Span, alt, room_for};

/// A part of serving: its name, its speed, and its time against the baseline's.
struct Part {
    name: &'static str,
    rate: fn(&ServedBatch) -> Estimate<f64>,
    ratio: fn(&ServedBatch) -> Option<Estimate<Ratio>>,
}

const PARTS: [Part; 2] = [
    Part {
        name: "prefill",
        rate: |served| served.prefill_tokens_per_second,
        ratio: |served| served.against_baseline.as_ref()?.prefill_time_ratio,
    },
    Part {
        name: "decode",
        rate: |served| served.decode_tokens_per_second,
        ratio: |served| served.against_baseline.as_ref()?.decode_time_ratio,
    },
];

/// The figure; none where nothing was timed.
pub(super) fn figure(table: &Table<'_>) -> Option<Figure> {
    let mut batches: Vec<usize> = table.rows.iter().flat_map(served).map(|s| s.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    batches.truncate(MOST_PANELS / PARTS.len());
    let panels: Vec<Panel> = PARTS
        .iter()
        .flat_map(|part| batches.iter().map(|batch| panel(table, part, *batch)))
        .collect();
    (!panels.is_empty()).then(|| Figure {
        file: "serving".into(),
        title: "Tokens per second of serving".to_owned(),
        subtitle: "Bar: median over blocks, of all sequences together; whisker: its 95% interval. × is the time, variant ÷ baseline."
            .to_owned(),
        alt: alt("Tokens per second of serving", table, words),
        room: panels.len() as f64 * room_for(table.rows.len(), 24.0),
        arrange: Arrange::Stacked,
        legend: Vec::new(),
        panels,
        notes: Vec::new(),
    })
}

/// The batches that a variant was timed with.
fn served<'a>(row: &'a Row<'_>) -> impl Iterator<Item = &'a ServedBatch> {
    row.serving.iter().flat_map(|serving| &serving.batches)
}

fn panel(table: &Table<'_>, part: &Part, batch: usize) -> Panel {
    let of = |row: &Row<'_>| {
        let found = served(row).find(|served| served.batch == batch)?;
        Some(((part.rate)(found), (part.ratio)(found)))
    };
    let highs = table.rows.iter().filter_map(|row| Some(of(row)?.0.high));
    let largest = highs.filter(|high| high.is_finite()).fold(0.0, f64::max);
    let title = format!("{}, {}", part.name, text::plural(batch, "sequence"));
    let mut bars = Bars::new(&title, "tokens per second".to_owned(), largest);
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        let Some((rate, ratio)) = of(row) else {
            bars.say(y, if row.serving.is_some() { no_time(row) } else { not_measured() });
            continue;
        };
        let words = format!("{}: {}", row.label(), rate_words(rate, ratio));
        let bar = vec![Span { at: y, from: 0.0, to: rate.value, words: words.clone() }];
        bars.layers.push(Layer::plain(Marks::Bars { bars: bar, fill: WHOLE }));
        let spans = vec![Span { at: y, from: rate.low, to: rate.high, words }];
        bars.layers.push(Layer::plain(Marks::Whiskers { spans, upright: false, colour: INK }));
        let ratio = ratio.map(|ratio| format!(" · {}", ratio.value));
        bars.gutter.push((y, format!("{}/s{}", text::rate(rate.value), ratio.unwrap_or_default())));
    }
    bars.panel(table)
}

/// `2,000 tokens/s (1,800 to 2,200), 0.50× (0.45–0.55×) of the baseline's time`.
fn rate_words(rate: Estimate<f64>, ratio: Option<Estimate<Ratio>>) -> String {
    let [value, low, high] = [rate.value, rate.low, rate.high].map(text::rate);
    let ratio = ratio.map(|ratio| format!(", {} of the baseline's time", text::estimate(ratio)));
    format!("{value} tokens/s ({low} to {high}){}", ratio.unwrap_or_default())
}

fn words(row: &Row<'_>) -> String {
    let mut said = Vec::new();
    for served in served(row) {
        for part in &PARTS {
            let rate = rate_words((part.rate)(served), (part.ratio)(served));
            let together = text::plural(served.batch, "sequence");
            said.push(format!("{} of {together} {rate}", part.name));
        }
    }
    if said.is_empty() { not_measured() } else { said.join(", ") }
}
