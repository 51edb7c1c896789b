//! A history as a table of a terminal, and as a page with figures.

use std::path::{Path, PathBuf};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table as Grid};

use super::{ReportError, csv, figure, html, save, save_figures, text};
use crate::history::{Change, Point, Series};
use crate::record::files::is_page;
use crate::regression::{Kind, Measured};
use crate::store;

/// The page of a history.
pub const HISTORY_PAGE: &str = "history.html";

/// Rows of the table: who looks for others names a metric or a variant.
const MOST_LISTED: usize = 200;

/// Figures of a page.
const MOST_FIGURES: usize = 24;

/// What the names of the figures' files begin with.
const FIGURE: &str = "trend-";

/// A series and where it changed.
#[derive(Clone, Debug)]
pub struct Trend<'a> {
    /// The series.
    pub series: &'a Series,
    /// Its changes.
    pub changes: Vec<Change>,
}

/// The listed series of one plan, data and fingerprint.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// What they are of.
    pub(super) title: String,
    /// One row a series.
    pub(super) rows: Vec<[String; 5]>,
}

impl Group {
    /// The titles of a row's cells.
    pub(super) const TITLES: [&str; 5] = ["metric", "commits", "first", "last", "changes"];
}

impl<'a> Trend<'a> {
    /// A series with its changes.
    pub fn of(series: &'a Series) -> Self {
        Self { series, changes: series.changes() }
    }

    /// What series have in common that are listed and drawn together.
    pub(super) fn place(&self) -> [&'a str; 4] {
        let Series { experiment, plan, data, fingerprint, .. } = self.series;
        [experiment, plan, data, fingerprint]
    }

    /// The same in words.
    pub(super) fn title(&self) -> String {
        let Series { experiment, plan, fingerprint, key, .. } = self.series;
        let on = match key.metric.kind() {
            Kind::Exact => "exact, with arithmetic",
            Kind::Noisy => "timed on machine",
        };
        let plan = plan.get(..12).unwrap_or(plan);
        text::printable(&format!("{experiment}, plan {plan}, {on} {fingerprint}"))
    }

    /// Each change as a sentence without its end.
    pub(super) fn sentences(&self) -> Vec<String> {
        let sentence = |change: &Change| format!("{}: {}", self.series.key, self.change(change));
        self.changes.iter().map(|change| text::printable(&sentence(change))).collect()
    }

    /// `0123456789ab: 10.0 ms → 12.0 ms (+20.0%)`.
    fn change(&self, change: &Change) -> String {
        let metric = self.series.key.metric;
        let share = change.share().map(|share| format!(" ({:+.1}%)", share * 100.0));
        format!(
            "{} → {}{} at {}",
            metric.text(&change.before),
            metric.text(&change.after),
            share.unwrap_or_default(),
            self.series.points[change.at].commit
        )
    }

    fn row(&self) -> [String; 5] {
        let Series { key, points, .. } = self.series;
        let value = |point: Option<&Point>| {
            point.map_or_else(String::new, |point| key.metric.text(&point.value))
        };
        let changes: Vec<String> = self.changes.iter().map(|change| self.change(change)).collect();
        [
            key.to_string(),
            text::count(points.len() as u64),
            value(points.first()),
            value(points.last()),
            if changes.is_empty() { "none".to_owned() } else { changes.join("; ") },
        ]
        .map(|cell| text::printable(&cell))
    }
}

/// The series as a table: those that changed, then others, as far as there is room; and what is to be said beside.
fn groups(trends: &[Trend<'_>]) -> (Vec<Group>, Vec<String>) {
    let is_changed = |trend: &&Trend<'_>| !trend.changes.is_empty();
    let changed = trends.iter().filter(is_changed).count();
    let mut listed: Vec<&Trend<'_>> = trends.iter().filter(is_changed).collect();
    listed.extend(trends.iter().filter(|trend| trend.changes.is_empty()));
    listed.truncate(MOST_LISTED);
    // Together again by what they are of; those that changed stay first.
    listed.sort_by_key(|trend| trend.place());
    let groups = listed.chunk_by(|a, b| a.place() == b.place()).map(|group| Group {
        title: group[0].title(),
        rows: group.iter().map(|trend| trend.row()).collect(),
    });
    let mut notes =
        vec![format!("{} series, of which {changed} changed.", text::count(trends.len() as u64))];
    if trends.len() > MOST_LISTED {
        notes.push(format!(
            "The first {MOST_LISTED} are listed, those that changed before the others; --metric and --variant show others."
        ));
    }
    (groups.collect(), notes)
}

/// The series as text for a terminal.
pub fn history_terminal(trends: &[Trend<'_>]) -> String {
    let (groups, notes) = groups(trends);
    let mut parts = Vec::new();
    for Group { title, rows } in groups {
        let mut grid = Grid::new();
        grid.load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(Group::TITLES);
        grid.add_rows(rows);
        let lines: Vec<String> = grid.lines().map(|line| line.trim_end().to_owned()).collect();
        parts.push(format!("{title}\n{}\n", lines.join("\n")));
    }
    parts.push(notes.join(" "));
    parts.join("\n")
}

/// Writes a page and the figures of a history into a folder: of the series that changed, or of all where `all` says so. Returns
/// the paths, the page last.
///
/// # Errors
/// When a file cannot be made or written.
pub fn render_history(
    dir: &Path,
    trends: &[Trend<'_>],
    all: bool,
) -> Result<Vec<PathBuf>, ReportError> {
    store::sweep(dir)?;
    let (groups, mut notes) = groups(trends);
    let drawn = trends.iter().filter(|trend| all || !trend.changes.is_empty());
    let drawn: Vec<Trend<'_>> = drawn.cloned().collect();
    let (figures, wanted) = figure::trends(&drawn, MOST_FIGURES);
    if wanted > figures.len() {
        notes.push(format!(
            "The first {MOST_FIGURES} of {wanted} figures are drawn; --metric and --variant draw others."
        ));
    }
    let mut written = Vec::new();
    let drawings = save_figures(dir, &figures, &mut written)?;
    let page = html::history("History", (&groups, &notes), &drawings);
    save(dir, HISTORY_PAGE, page, &mut written)?;
    // Figures that an earlier page had.
    let folder = dir.join("figures");
    for file in store::list(&folder)? {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(FIGURE) && !written.contains(&file) {
            store::remove(&file)?;
        }
    }
    Ok(written)
}

/// The page in a folder that [`render_history`] would replace, where nothing says that this program wrote it.
///
/// # Errors
/// When the file system does not say.
pub fn foreign_history(dir: &Path) -> Result<Option<PathBuf>, store::StoreError> {
    let page = dir.join(HISTORY_PAGE);
    Ok((store::exists(&page)? && !is_page(&page)?).then_some(page))
}

const COLUMNS: [&str; 12] = [
    "experiment",
    "plan",
    "data",
    "fingerprint",
    "kind",
    "variant",
    "metric",
    "seed",
    "commit",
    "version",
    "started",
    "value",
];

/// Every value of some series as CSV.
///
/// # Errors
/// When the CSV library fails.
pub fn history_csv(all: &[Series]) -> Result<String, String> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|error| error.to_string())?;
    for series in all {
        let Series { experiment, plan, data, fingerprint, key, points } = series;
        let kind = match key.metric.kind() {
            Kind::Exact => "exact",
            Kind::Noisy => "noisy",
        };
        let seed = key.seed.map_or_else(String::new, |seed| seed.to_string());
        for Point { commit, started, version, value } in points {
            let value = match value {
                Measured::Count(count) => count.to_string(),
                Measured::Number(number) => number.to_string(),
                Measured::Text(text) => csv::words(text),
                Measured::NotFinite => "NaN".to_owned(),
            };
            let [experiment, plan, data, fingerprint, variant, commit, version, started] =
                [experiment, plan, data, fingerprint, &key.variant, commit, version, started]
                    .map(|text| csv::words(text));
            let row = [
                &experiment,
                &plan,
                &data,
                &fingerprint,
                kind,
                &variant,
                key.metric.name(),
                &seed,
                &commit,
                &version,
                &started,
                &value,
            ];
            writer.write_record(row).map_err(|error| error.to_string())?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}
