//! The comparison, computed once: a row a variant, each value typed, and the cells that every renderer shows.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;

use crate::claims::{margin, test_values};
use crate::precision::{LossScale, Policy};
use crate::record::{
    Counts, Engine, Estimate, Evidence, LayerCensus, MetricDifference, Numerics, Results, Role,
    RunRecord, RunSummary, Status, TestMetric, VariantResult,
};
use crate::stats;
use crate::units::{Bytes, Ratio};

use super::{Loaded, text};

/// The titles of [`Row::cells`], but for the metric's.
const TITLES: [&str; 11] = [
    "variant",
    "",
    "step time",
    "training memory",
    "inference time",
    "inference memory",
    "overflow",
    "underflow",
    "updates rounded away",
    "skipped steps",
    "runs",
];

/// How to read the cells: for the foot of a table.
const LEGEND: [&str; 4] = [
    "Step time: median of the timed blocks of this run; machines drift, so a time in seconds has no interval. × is variant ÷ baseline, paired by block, with its 95% interval; below 1 is less. FLOP/s: operations in the matrix products of a step ÷ its time; below them their share of this program's fastest matrix multiplication of that format, which is not the hardware's peak.",
    "Overflow: finite before rounding, past the format's largest value after: infinite, NaN, or held at it. Underflow: not 0 before rounding, 0 after. Counted on census steps, and overflow on rejected steps too, over weights, activations and gradients; of candle's operations, over weights alone: what these round is not known. Settling: before a run's first update, while the loss scale comes down.",
    "Updates rounded away: they were not 0, and left the weight as it was. They and skipped steps are counted on every step.",
    "— means not measured, never 0.",
];

/// How to read [`Table::ratio_cell`].
const RATIO_LEGEND: &str = "÷: this row divided by the row of the same policy in the first experiment. The two were not measured in turns, so there is no interval.";

/// Everything the renderers show of the variants of one experiment, or of several side by side.
#[derive(Clone, Debug, Default)]
pub(super) struct Table<'a> {
    /// One row a variant, in the plan's order; several experiments one after the other.
    pub(super) rows: Vec<Row<'a>>,
    /// The baseline against itself, where the plan asks for it.
    pub(super) controls: Vec<Row<'a>>,
}

/// One variant: its results, which it dereferences to, and what is computed of them.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    /// The results.
    pub(super) result: Cow<'a, VariantResult>,
    /// What its experiment is called.
    pub(super) experiment: &'a str,
    /// The name for eyes, behind its experiment's where there are several: nothing in it moves a cursor or breaks a line.
    label: String,
    /// Whose operations computed it.
    pub(super) engine: Engine,
    /// Whether the others are compared with it.
    pub(super) is_baseline: bool,
    /// Whether the plan trains: else inference alone was measured.
    pub(super) trains: bool,
    /// How the runs ended.
    pub(super) runs: Runs,
    /// What it is judged by.
    pub(super) metric: TestMetric,
    /// The metric over the seeds.
    pub(super) spread: Option<Spread>,
    /// The census counts of all roles together.
    pub(super) counts: Counts,
    /// Steps attempted over all runs.
    pub(super) steps: u64,
    /// The runs' records, as far as they could be read.
    pub(super) records: Vec<&'a RunRecord>,
    /// Whether the policy scales the loss.
    pub(super) scales: bool,
    /// Each seed, and its value of the metric minus the baseline's of the seed that it is paired with.
    pub(super) differences: Vec<(u64, f64)>,
    /// δ: differences closer to 0 are of no matter.
    pub(super) margin: f64,
    /// The census by layer and role, over the runs, in the order in which the records list them.
    pub(super) census: Vec<LayerSum<'a>>,
}

impl Deref for Row<'_> {
    type Target = VariantResult;

    fn deref(&self) -> &VariantResult {
        &self.result
    }
}

/// A line of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its words.
    pub(super) text: String,
    /// Whether it only qualifies the line above.
    pub(super) detail: bool,
}

impl Line {
    /// A line of its own.
    pub(super) fn value(text: impl Into<String>) -> Self {
        Self { text: text.into(), detail: false }
    }

    /// A line that only qualifies the one above.
    pub(super) fn detail(text: impl Into<String>) -> Self {
        Self { text: text.into(), detail: true }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// How the runs of a variant ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// Seeds of the plan.
    pub(super) planned: usize,
    /// All steps done.
    pub(super) completed: usize,
    /// Became non-finite.
    pub(super) diverged: usize,
    /// Stopped by the machine.
    pub(super) failed: usize,
}

impl Runs {
    /// Runs that are in, however they ended.
    pub(super) fn done(self) -> usize {
        self.completed + self.diverged + self.failed
    }

    /// Runs that are not in.
    pub(super) fn missing(self) -> usize {
        self.planned.saturating_sub(self.done())
    }

    /// What went otherwise than planned: `1 diverged`, `2 missing`.
    pub(super) fn troubles(self) -> Vec<String> {
        [(self.diverged, "diverged"), (self.failed, "failed"), (self.missing(), "missing")]
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, word)| format!("{number} {word}"))
            .collect()
    }

    /// The same to end a sentence with: empty, or `, 1 diverged, 2 missing`.
    pub(super) fn remark(self) -> String {
        [vec![String::new()], self.troubles()].concat().join(", ")
    }
}

/// A mean over seeds with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// The mean.
    pub(super) mean: f64,
    /// Standard deviation of the seeds (n − 1); none of one seed.
    pub(super) deviation: Option<f64>,
    /// Seeds in it.
    pub(super) seeds: usize,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        Some(Self { mean: stats::mean(values)?, deviation: stats::sd(values), seeds: values.len() })
    }
}

/// Every variant of the plan, in its order, an interrupted experiment's unstarted ones without runs; then any others.
pub(super) fn variants(results: &Results) -> Vec<Cow<'_, VariantResult>> {
    let mut found: BTreeMap<&str, &VariantResult> = BTreeMap::new();
    for variant in &results.variants {
        found.entry(&variant.name).or_insert(variant);
    }
    let planned = results.plan.variants.iter().map(|plan| {
        found.get(&*plan.name).copied().map_or_else(
            || {
                Cow::Owned(VariantResult {
                    name: plan.name.clone(),
                    policy: plan.policy.to_string(),
                    emulated: false,
                    runs: Vec::new(),
                    train: None,
                    inference: None,
                    serving: None,
                    memory: None,
                    numerics: Numerics::default(),
                    untimed: None,
                    against_baseline: None,
                })
            },
            Cow::Borrowed,
        )
    });
    let names: BTreeSet<&str> = results.plan.variants.iter().map(|plan| &*plan.name).collect();
    let unplanned = results.variants.iter().filter(|variant| !names.contains(&*variant.name));
    planned.chain(unplanned.map(Cow::Borrowed)).collect()
}

impl<'a> Table<'a> {
    /// The table of experiments, complete or not, side by side.
    pub(super) fn of(experiments: &'a [Loaded]) -> Self {
        let mut table = Self::default();
        for Loaded { label, results, records, .. } in experiments {
            let label = (experiments.len() > 1).then_some(label.as_str());
            let part = Self::of_one(results, records, label);
            table.rows.extend(part.rows);
            table.controls.extend(part.controls);
        }
        table
    }

    /// The table of one experiment, under a label where there are others.
    pub(super) fn of_one(
        results: &'a Results,
        records: &'a [RunRecord],
        label: Option<&'a str>,
    ) -> Self {
        let variants = variants(results);
        let baseline = variants.iter().find(|variant| variant.name == results.plan.baseline);
        let margin = baseline.map_or(0.0, |of| margin((&results.plan, results.metric), of));
        let values = |variant: &VariantResult| test_values(results.metric, variant);
        let baseline = baseline.map(|variant| values(variant)).unwrap_or_default();
        let row = |result: Cow<'a, VariantResult>, differences: Vec<(u64, f64)>| {
            let records = records.iter().filter(|record| record.variant == result.name).collect();
            Row::of((results, label), result, records, (differences, margin))
        };
        let rows = variants.into_iter().map(|variant| {
            let is_baseline = variant.name == results.plan.baseline;
            let compared = if is_baseline { &[][..] } else { &baseline };
            let differences = differences(values(&variant), compared, Some);
            row(variant, differences)
        });
        let controls = results.controls.iter().map(|control| {
            let paired = |seed| results.plan.paired_seed(control.kind, seed);
            let differences = differences(values(&control.result), &baseline, paired);
            row(Cow::Borrowed(&control.result), differences)
        });
        Self { rows: rows.collect(), controls: controls.collect() }
    }

    /// The first of its rows, and of its controls.
    pub(super) fn first(&self, number: usize) -> Self {
        let first = |rows: &[Row<'a>]| rows.iter().take(number).cloned().collect();
        Self { rows: first(&self.rows), controls: first(&self.controls) }
    }

    /// How to read its cells.
    pub(super) fn legend(&self) -> Vec<String> {
        let metric = self.metric();
        let direction = if metric.is_higher_better() { "" } else { " Lower is better." };
        let first = format!(
            "{}: mean over the seeds ± standard deviation; below it the mean paired difference to the baseline{} with its 95% \
             interval, and the verdict.{direction}",
            metric.title(),
            metric.in_unit()
        );
        let ratio = self.ratio_title().map(|_| RATIO_LEGEND);
        let rest = LEGEND.into_iter().chain(ratio).map(str::to_owned);
        std::iter::once(first).chain(rest).collect()
    }

    /// What its rows are judged by: all of a report by the same.
    pub(super) fn metric(&self) -> TestMetric {
        self.rows.first().map(|row| row.metric).unwrap_or_default()
    }

    /// The titles of [`Row::cells`].
    pub(super) fn titles(&self) -> [&'static str; 11] {
        let mut titles = TITLES;
        titles[1] = self.metric().name();
        titles
    }

    /// The title of the column that compares the others with the first experiment; none where there is one experiment.
    pub(super) fn ratio_title(&self) -> Option<String> {
        let first = &self.rows.first()?.experiment;
        let several = self.rows.iter().any(|row| row.experiment != *first);
        several.then(|| format!("÷ {}", text::printable(first)))
    }

    /// A row's step time and training memory ÷ those of the same policy in the first experiment, where that is another.
    pub(super) fn ratios(&self, row: &Row<'_>) -> [Option<Ratio>; 2] {
        let first = self.rows.first().map(|first| &first.experiment);
        let mut rows = self.rows.iter().filter(|_| first != Some(&row.experiment));
        let other = rows.find(|o| Some(&o.experiment) == first && o.policy == row.policy);
        let ratio = |of: &dyn Fn(&Row<'_>) -> Option<f64>| Some(Ratio(of(row)? / of(other?)?));
        [
            ratio(&|row| Some(row.train.as_ref()?.step_seconds.value.0)),
            ratio(&|row| Some(row.memory?.peak_bytes.0 as f64)),
        ]
    }

    /// The cell of that column. Two machines are not measured in turns: the ratios have no interval.
    pub(super) fn ratio_cell(&self, row: &Row<'_>) -> Vec<Line> {
        let [time, memory] = self.ratios(row);
        let lines = [(time, "step time"), (memory, "memory")];
        let lines = lines.into_iter().filter_map(|(ratio, of)| Some(format!("{} {of}", ratio?)));
        let lines: Vec<Line> = lines.map(Line::value).collect();
        if lines.is_empty() { vec![Line::value(text::NOT_MEASURED)] } else { lines }
    }

    /// The baseline's row, where the experiment has one.
    pub(super) fn baseline(&self) -> Option<&Row<'a>> {
        self.rows.iter().find(|row| row.is_baseline)
    }

    /// The most steps that a run attempted.
    pub(super) fn steps(&self) -> usize {
        let records = self.rows.iter().flat_map(|row| &row.records);
        records.map(|record| record.loss.len()).max().unwrap_or(0)
    }
}

/// Each seed of a variant and its value of the metric minus the baseline's of the seed that it is paired with.
fn differences(
    variant: Vec<(u64, f64)>,
    baseline: &[(u64, f64)],
    paired: impl Fn(u64) -> Option<u64>,
) -> Vec<(u64, f64)> {
    let of_seed = |wanted: u64| baseline.iter().find(|(seed, _)| *seed == wanted);
    let difference = |(seed, value): (u64, f64)| Some((seed, value - of_seed(paired(seed)?)?.1));
    variant.into_iter().filter_map(difference).collect()
}

/// What the census counted of one layer in one role, over the runs.
#[derive(Clone, Debug)]
pub(super) struct LayerSum<'a> {
    /// The layer.
    pub(super) layer: &'a str,
    /// The role.
    pub(super) role: Role,
    /// The counts; of no elements where values are known only after rounding.
    pub(super) counts: Counts,
    /// Those of the steps before a run's first update, while the loss scale came down.
    pub(super) settling: Counts,
    /// Values by exponent, for those that have any.
    pub(super) binades: BTreeMap<i32, u64>,
}

/// The census of some runs by layer and role.
fn summed<'a>(records: &[&'a RunRecord]) -> Vec<LayerSum<'a>> {
    let mut sums: Vec<LayerSum<'_>> = Vec::new();
    let mut places: BTreeMap<(&str, Role), usize> = BTreeMap::new();
    for LayerCensus { layer, role, counts, exponents } in
        records.iter().flat_map(|record| &record.census)
    {
        let place = *places.entry((layer, *role)).or_insert_with(|| {
            let (counts, settling) = (Counts::default(), Counts::default());
            sums.push(LayerSum { layer, role: *role, counts, settling, binades: BTreeMap::new() });
            sums.len() - 1
        });
        let sum = &mut sums[place];
        sum.counts = sum.counts.plus(counts.unwrap_or_default());
        for (exponent, count) in (exponents.first..).zip(&exponents.bins) {
            if *count > 0 {
                *sum.binades.entry(exponent).or_default() += count;
            }
        }
    }
    for LayerCensus { layer, role, counts, .. } in
        records.iter().flat_map(|record| &record.settling_census)
    {
        if let Some(place) = places.get(&(layer.as_str(), *role)) {
            sums[*place].settling = sums[*place].settling.plus(counts.unwrap_or_default());
        }
    }
    sums
}

impl<'a> Row<'a> {
    fn of(
        (results, label): (&'a Results, Option<&'a str>),
        result: Cow<'a, VariantResult>,
        records: Vec<&'a RunRecord>,
        (differences, margin): (Vec<(u64, f64)>, f64),
    ) -> Self {
        let ended = |status| result.runs.iter().filter(|r| r.status == status).count();
        let values: Vec<f64> = result.runs.iter().filter_map(RunSummary::metric).collect();
        let name = text::printable(&result.name);
        let policy: Option<Policy> = result.policy.parse().ok();
        let numerics = result.numerics;
        Self {
            experiment: label.unwrap_or(&results.experiment),
            label: match label {
                Some(label) => format!("{} · {name}", text::printable(label)),
                None => name,
            },
            engine: results.engine,
            is_baseline: result.name == results.plan.baseline,
            trains: results.plan.train.steps > 0,
            runs: Runs {
                planned: results.plan.seeds.len().max(result.runs.len()),
                completed: ended(Status::Completed),
                diverged: ended(Status::Diverged),
                failed: ended(Status::Failed),
            },
            metric: results.metric,
            spread: Spread::of(&values),
            counts: numerics
                .weights
                .plus(numerics.activations)
                .plus(numerics.activation_gradients)
                .plus(numerics.weight_gradients),
            steps: result.runs.iter().map(|run| run.steps).sum(),
            census: summed(&records),
            records,
            scales: policy.is_some_and(|policy| policy.scale != LossScale::None),
            differences,
            margin,
            result,
        }
    }

    /// The name for eyes.
    pub(super) fn label(&self) -> String {
        self.label.clone()
    }

    /// What to know of every number of it: that the format is emulated, that the operations are candle's.
    pub(super) fn qualifiers(&self) -> Vec<&'static str> {
        let emulated = self.emulated.then_some("emulated");
        let other = (!self.engine.is_own()).then(|| self.engine.name());
        emulated.into_iter().chain(other).collect()
    }

    /// The difference of the metric to the baseline.
    pub(super) fn difference(&self) -> Option<&MetricDifference> {
        self.against_baseline.as_ref()?.metric_difference()
    }

    /// Step time, variant ÷ baseline.
    pub(super) fn time_ratio(&self) -> Option<Estimate<Ratio>> {
        self.against_baseline.as_ref()?.train_time_ratio
    }

    /// Peak training memory, variant ÷ baseline.
    pub(super) fn memory_ratio(&self) -> Option<Ratio> {
        self.against_baseline.as_ref()?.train_memory_ratio
    }

    /// Inference time, variant ÷ baseline.
    pub(super) fn inference_time_ratio(&self) -> Option<Estimate<Ratio>> {
        self.against_baseline.as_ref()?.inference_time_ratio
    }

    /// Peak inference memory, variant ÷ baseline.
    pub(super) fn inference_memory_ratio(&self) -> Option<Ratio> {
        self.against_baseline.as_ref()?.inference_memory_ratio
    }

    /// One cell a title of [`TITLES`], each of one or more lines: the value first, what qualifies it below.
    pub(super) fn cells(&self) -> [Vec<Line>; 11] {
        [
            self.name_cell(),
            self.metric_cell(),
            self.step_cell(),
            memory_cell(self.memory.map(|m| m.peak_bytes), self.memory_ratio()),
            time_cell(
                self.emulated,
                self.inference.as_ref().and_then(|i| i.batch_seconds),
                self.inference_time_ratio(),
            ),
            memory_cell(
                self.inference.as_ref().and_then(|i| i.peak_bytes),
                self.inference_memory_ratio(),
            ),
            self.overflow_cell(),
            self.rounding_cell(self.counts.underflow, self.counts.elements),
            share_cell(self.numerics.updates.lost, self.numerics.updates.elements),
            share_cell(self.numerics.skipped_steps, self.steps),
            self.runs_cell(),
        ]
    }

    /// What a table is sorted by, one number a title of [`TITLES`]; the name is sorted by its text.
    pub(super) fn sort_keys(&self) -> [Option<f64>; 11] {
        let share = |count: u64, of: u64| (of > 0).then(|| count as f64 / of as f64);
        let inference = self.inference.as_ref();
        let updates = self.numerics.updates;
        [
            None,
            self.spread.map(|spread| spread.mean),
            self.train.as_ref().map(|train| train.step_seconds.value.0),
            self.memory.map(|memory| memory.peak_bytes.0 as f64),
            inference.and_then(|i| Some(i.batch_seconds?.value.0)),
            inference.and_then(|i| Some(i.peak_bytes?.0 as f64)),
            share(self.counted().overflow, self.counted().elements),
            share(self.counts.underflow, self.counts.elements),
            share(updates.lost, updates.elements),
            share(self.numerics.skipped_steps, self.steps),
            Some(self.runs.completed as f64),
        ]
    }

    /// The counts of every step that was counted, rejected ones too.
    pub(super) fn counted(&self) -> Counts {
        let Evidence { settling, settled, .. } = self.numerics.evidence;
        match settling.plus(settled) {
            Counts { elements: 0, .. } => self.counts,
            all => all,
        }
    }

    fn overflow_cell(&self) -> Vec<Line> {
        let counts = self.counted();
        let mut lines = self.rounding_cell(counts.overflow, counts.elements);
        let Evidence { settling, settled, .. } = self.numerics.evidence;
        match (settling.overflow, settled.overflow) {
            (0, _) => {}
            (_, 0) => lines.push(Line::detail("all settling")),
            (some, _) => lines.push(Line::detail(format!("{} settling", text::count(some)))),
        }
        lines
    }

    /// What rounding did. candle rounds in its operations, where nobody counts.
    fn rounding_cell(&self, count: u64, of: u64) -> Vec<Line> {
        let mut lines = share_cell(count, of);
        if of > 0 && !self.engine.is_own() {
            lines.push(Line::detail("weights alone"));
        }
        lines
    }

    /// How much of the overflow fell into the steps before the first update, while the loss scale settled; none if none did.
    pub(super) fn settling(&self) -> Option<String> {
        let Evidence { settling, settled, .. } = self.numerics.evidence;
        match (settling.overflow, settled.overflow) {
            (0, _) => None,
            (_, 0) => Some("all while the loss scale settled".to_owned()),
            (some, _) => Some(format!("{} while the loss scale settled", text::count(some))),
        }
    }

    fn name_cell(&self) -> Vec<Line> {
        let mut lines = vec![Line::value(self.label())];
        if self.is_baseline {
            lines.push(Line::detail("baseline"));
        }
        lines.extend(self.qualifiers().into_iter().map(Line::detail));
        lines
    }

    /// `96.12% ± 0.31`, and of one seed the value and that it is one.
    pub(super) fn spread_text(&self, spread: Spread) -> String {
        match spread.deviation {
            Some(deviation) => self.metric.spread(spread.mean, deviation),
            None => format!("{} (1 seed)", self.metric.value(spread.mean)),
        }
    }

    fn metric_cell(&self) -> Vec<Line> {
        let Some(spread) = self.spread else {
            return vec![Line::value(text::NOT_MEASURED)];
        };
        let mut lines = vec![Line::value(self.spread_text(spread))];
        if let Some(difference) = self.difference() {
            lines.push(Line::value(self.metric.difference(difference.value)));
            if let (Some(low), Some(high)) = (difference.low, difference.high) {
                let (low, high) = (self.metric.signed(low), self.metric.signed(high));
                lines.push(Line::detail(format!("({low} to {high})")));
            }
            lines.push(Line::value(text::verdict(difference.verdict)));
        }
        lines
    }

    /// The time of a training step, and how fast its products are, against this program's fastest.
    fn step_cell(&self) -> Vec<Line> {
        let train = self.train.as_ref();
        let mut lines =
            time_cell(self.emulated, train.map(|train| train.step_seconds), self.time_ratio());
        if let Some(work) = train.and_then(|train| train.work) {
            lines.push(Line::detail(work.rate.value.to_string()));
            let share = work.share_of_peak.value * 100.0;
            lines.push(Line::detail(format!("{share:.0}% of fastest")));
        }
        lines
    }

    fn runs_cell(&self) -> Vec<Line> {
        let completed = format!("{} of {}", self.runs.completed, self.runs.planned);
        let mut lines = vec![Line::value(completed)];
        lines.extend(self.runs.troubles().into_iter().map(Line::value));
        lines
    }
}

/// A time in this run, and its ratio to the baseline's with its interval. The time's own interval is left out: it covers the
/// median of a longer stretch in fewer than half of all runs, since machines drift.
pub(super) fn time_cell<T: fmt::Display>(
    emulated: bool,
    time: Option<Estimate<T>>,
    ratio: Option<Estimate<Ratio>>,
) -> Vec<Line> {
    let Some(time) = time else {
        return if emulated {
            vec![Line::detail("emulated:"), Line::detail("no time")]
        } else {
            vec![Line::value(text::NOT_MEASURED)]
        };
    };
    let mut lines = vec![Line::value(time.value.to_string())];
    lines.extend(ratio.map(estimate_lines).unwrap_or_default());
    lines
}

/// A ratio, and its interval below.
fn estimate_lines(estimate: Estimate<Ratio>) -> Vec<Line> {
    let interval = text::interval(estimate.low, estimate.high);
    vec![Line::value(estimate.value.to_string()), Line::detail(format!("({interval})"))]
}

/// A size, and its ratio to the baseline's.
pub(super) fn memory_cell(bytes: Option<Bytes>, ratio: Option<Ratio>) -> Vec<Line> {
    let Some(bytes) = bytes else {
        return vec![Line::value(text::NOT_MEASURED)];
    };
    let ratio = ratio.map(|ratio| Line::value(ratio.to_string()));
    [Some(Line::value(bytes.to_string())), ratio].into_iter().flatten().collect()
}

fn share_cell(count: u64, of: u64) -> Vec<Line> {
    if of == 0 {
        return vec![Line::value(text::NOT_MEASURED)];
    }
    vec![Line::value(text::count(count)), Line::detail(text::share(count as f64 / of as f64))]
}
