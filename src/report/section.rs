//! A table under a heading of its own, which not every experiment has.

use super::load::Loaded;
use super::table::Line;
use super::{kinds, published, serving};

/// The table of one experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// The same for the tables of all experiments.
    pub(super) heading: &'static str,
    /// The experiment, where there are several.
    pub(super) experiment: Option<String>,
    /// The titles of the columns.
    pub(super) titles: Vec<String>,
    /// The rows.
    pub(super) rows: Vec<SectionRow>,
    /// How to read it, a sentence each.
    pub(super) about: Vec<String>,
}

/// A row of a [`Section`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SectionRow {
    /// Whether the others are compared with it.
    pub(super) is_baseline: bool,
    /// One cell a title.
    pub(super) cells: Vec<Vec<Line>>,
}

impl Section {
    /// The heading's name in an address.
    pub(super) fn id(&self) -> String {
        self.heading.to_lowercase().replace(' ', "-")
    }
}

/// The tables that the experiments have, those of one heading together.
pub(super) fn sections(experiments: &[Loaded]) -> Vec<Section> {
    [serving::served(experiments), kinds::on_kinds(experiments), published::published(experiments)]
        .concat()
}
