//! Trends: the values of a metric, commit by commit, a panel a variant and a line a seed, with a divider before the first commit
//! of each new level, and the levels of times.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Arrange, At, Axis, Choices, Figure, Key, Layer, Look, MOST_PANELS, Marks, Panel, Spot, Stroke,
    Swatch, Tick, cost, first_of, room_for,
};
use crate::history::Point;
use crate::regression::{Kind, Measured, Metric};
use crate::report::history::Trend;
use crate::report::text;

/// So many of the latest commits are drawn.
const MOST_COMMITS: usize = 2000;

/// With more commits than these, only the first of each new level has a marker: there is no room for others.
const MOST_MARKED: usize = 100;

/// Commits named on an axis, about.
const NAMED: usize = 6;

/// Changes named below a figure.
const MOST_CHANGES: usize = 8;

/// The commits of a figure, in their order: each with the time at which its experiment started.
type Commits<'a> = Vec<(&'a str, &'a str)>;

/// A figure a metric, plan, data and fingerprint of series that have numbers, at most so many; also how many there would be.
pub(in crate::report) fn trends(trends: &[Trend<'_>], most: usize) -> (Vec<Figure>, usize) {
    let mut groups: BTreeMap<_, Vec<&Trend<'_>>> = BTreeMap::new();
    let has_numbers =
        |trend: &&Trend<'_>| trend.series.points.iter().any(|point| point.value.value().is_some());
    for trend in trends.iter().filter(has_numbers) {
        groups.entry((trend.place(), trend.series.key.metric)).or_default().push(trend);
    }
    let all = groups.len();
    let figures = groups.into_iter().take(most).enumerate();
    (figures.map(|(at, ((_, metric), group))| figure(at + 1, metric, &group)).collect(), all)
}

fn figure(number: usize, metric: Metric, group: &[&Trend<'_>]) -> Figure {
    let commits = commits(group);
    let mut variants: Vec<&str> = Vec::new();
    for trend in group {
        if !variants.contains(&trend.series.key.variant.as_str()) {
            variants.push(&trend.series.key.variant);
        }
    }
    let (unit, factor) = unit(metric, group);
    let seeds = seeds(group);
    let panels = variants.iter().take(MOST_PANELS).map(|variant| {
        let of: Vec<&Trend<'_>> =
            group.iter().filter(|trend| trend.series.key.variant == *variant).copied().collect();
        panel((variant, unit, factor), &of, &commits, &seeds)
    });
    let panels: Vec<Panel> = panels.collect();
    let name = metric.name().replace('_', " ");
    let changes: Vec<String> = group.iter().flat_map(|trend| trend.sentences()).collect();
    let mut notes: Vec<String> =
        changes.iter().take(MOST_CHANGES).map(|change| format!("{change}.")).collect();
    if changes.len() > MOST_CHANGES {
        let more = text::count((changes.len() - MOST_CHANGES) as u64);
        notes.push(format!("And {more} more, which the table names."));
    }
    notes.extend(first_of(MOST_PANELS, variants.len(), "variants", "the table has them all"));
    if group.iter().any(|trend| trend.series.points.len() > MOST_COMMITS) {
        notes.push(format!("The latest {MOST_COMMITS} commits are drawn."));
    }
    let title = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
    let summary = if changes.is_empty() { "no change".to_owned() } else { changes.join("; ") };
    Figure {
        file: format!("trend-{number}").into(),
        alt: format!("{title} by commit: {summary}."),
        title,
        subtitle: format!("{}. Upright, dashed: a new level begins.", group[0].title()),
        room: room_for(panels.len(), 190.0),
        arrange: Arrange::Stacked,
        legend: legend(&seeds),
        panels,
        notes,
    }
}

/// The seeds of some series, in their order.
fn seeds(group: &[&Trend<'_>]) -> Vec<u64> {
    let seeds: BTreeSet<u64> = group.iter().filter_map(|trend| trend.series.key.seed).collect();
    seeds.into_iter().collect()
}

/// An entry a seed, where there are several.
fn legend(seeds: &[u64]) -> Vec<Key> {
    let keys = seeds.iter().enumerate().filter(|_| seeds.len() > 1);
    keys.map(|(at, seed)| {
        let label = format!("seed {seed}");
        Key { label, swatch: Swatch::Line(Look::of(at)), series: Some(at) }
    })
    .collect()
}

/// The latest commits of some series.
fn commits<'a>(group: &[&Trend<'a>]) -> Commits<'a> {
    let points = group.iter().flat_map(|trend| &trend.series.points);
    let all: BTreeSet<(&str, &str)> =
        points.map(|point| (point.started.as_str(), point.commit.as_str())).collect();
    let skipped = all.len().saturating_sub(MOST_COMMITS);
    all.into_iter().skip(skipped).collect()
}

/// The unit of a metric's axis, and what a value is multiplied by.
fn unit(metric: Metric, group: &[&Trend<'_>]) -> (&'static str, f64) {
    let values = group.iter().flat_map(|trend| &trend.series.points);
    let largest = values.filter_map(|point| point.value.value()).fold(0.0, f64::max);
    match metric.unit() {
        "seconds" => cost::time_unit(largest),
        "bytes" => {
            let (unit, bytes) = cost::byte_unit(largest as u64);
            (unit, 1.0 / bytes)
        }
        "ratio" => ("×", 1.0),
        unit => (unit, 1.0),
    }
}

fn panel(
    (variant, unit, factor): (&str, &str, f64),
    trends: &[&Trend<'_>],
    commits: &Commits<'_>,
    seeds: &[u64],
) -> Panel {
    let place = |point: &Point| {
        commits.binary_search(&(point.started.as_str(), point.commit.as_str())).ok()
    };
    let (mut layers, mut dividers) = (Vec::new(), BTreeSet::new());
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for trend in trends {
        let key = &trend.series.key;
        let index = key.seed.and_then(|seed| seeds.binary_search(&seed).ok()).unwrap_or(0);
        let look = Look::of(index);
        let spots = trend.series.points.iter().filter_map(|point| {
            let value = point.value.value()? * factor;
            let at = (place(point)? as f64, value);
            let value = key.metric.text(&point.value);
            let words = format!("{key}: {value} at {}, {}", point.commit, point.started);
            Some(Spot { at, words: text::printable(&words) })
        });
        let spots: Vec<Spot> = spots.collect();
        low = spots.iter().map(|spot| spot.at.1).fold(low, f64::min);
        high = spots.iter().map(|spot| spot.at.1).fold(high, f64::max);
        let points = spots.iter().map(|spot| spot.at).collect();
        let is_crowded = commits.len() > MOST_MARKED;
        let stroke = if is_crowded { Stroke::Faint } else { Stroke::Main };
        let plain = Look { dash: &[], ..look };
        layers.push(Layer::of(index, Marks::Line { points, look: plain, stroke }));
        let places =
            trend.changes.iter().filter_map(|change| place(&trend.series.points[change.at]));
        let places: BTreeSet<usize> = places.collect();
        let is_shown = |spot: &Spot| !is_crowded || places.contains(&(spot.at.0 as usize));
        let spots = spots.into_iter().filter(is_shown).collect();
        let lines = levels(trend, &place, factor).into_iter();
        layers
            .extend(lines.map(|points| {
                Layer::of(index, Marks::Line { points, look, stroke: Stroke::Main })
            }));
        layers.push(Layer::of(index, Marks::Points { spots, look }));
        dividers.extend(places);
    }
    let dividers = dividers.into_iter().map(|at| Layer::plain(Marks::Divider(at as f64 - 0.5)));
    let is_empty = !(low.is_finite() && high.is_finite());
    let pad = ((high - low) * 0.08).max(high.abs() * 0.01).max(1e-9);
    let range = if is_empty { (0.0, 1.0) } else { (low - pad, high + pad) };
    let of_unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
    Panel {
        title: format!("{}{of_unit}", text::shorten(&text::printable(variant), 60)),
        x: axis(commits),
        y: Axis::plain("", range).with(Choices { log: false, zero: true }),
        layers: dividers.chain(layers).collect(),
        gutter: Vec::new(),
        empty: is_empty.then(|| "None of the latest values is a number.".to_owned()),
        weight: 1.0,
    }
}

/// A line a level of a noisy series that changed, as far as it is drawn.
fn levels(
    trend: &Trend<'_>,
    place: &impl Fn(&Point) -> Option<usize>,
    factor: f64,
) -> Vec<Vec<At>> {
    let (points, changes) = (&trend.series.points, &trend.changes);
    let is_noisy = trend.series.key.metric.kind() == Kind::Noisy;
    let first = changes.first().filter(|_| is_noisy).map(|change| (0, &change.before));
    let later = changes.iter().map(|change| (change.at, &change.after));
    let starts: Vec<(usize, &Measured)> = match first {
        Some(first) => std::iter::once(first).chain(later).collect(),
        None => Vec::new(),
    };
    let ends: Vec<usize> = changes.iter().map(|change| change.at).chain([points.len()]).collect();
    let line = |((from, value), end): ((usize, &Measured), usize)| {
        let mut places = points[from..end].iter().filter_map(place);
        let first = places.next()?;
        let last = places.next_back().unwrap_or(first);
        let level = value.value()? * factor;
        Some(vec![(first as f64, level), (last as f64, level)])
    };
    starts.into_iter().zip(ends).filter_map(line).collect()
}

/// Commits at equal distances, of which some are named.
fn axis(commits: &Commits<'_>) -> Axis {
    let every = commits.len().div_ceil(NAMED).max(1);
    let named = commits.iter().enumerate().step_by(every);
    let ticks = named.map(|(at, (_, commit))| Tick {
        at: at as f64,
        label: text::shorten(&text::printable(commit), 12),
    });
    let ticks = ticks.collect();
    Axis::commits((-0.5, commits.len().max(1) as f64 - 0.5), ticks)
}
