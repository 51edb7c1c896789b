//! `[matrix]`: values that a spec gives lists of, such as `train.batch = [32, 64]`. Each combination is an experiment of its own, a
//! cell: the spec with these values, as `--set` gives them.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::source::{Source, SpecError, on_a_deep_stack, option};
use super::{CountImages, Overrides, Plan};

/// More cells than these are a slip of the pen.
const MOST_CELLS: usize = 1000;

/// The key of the table.
pub(super) const KEY: &str = "matrix";

/// An experiment of a spec with a matrix.
#[derive(Clone, Debug, PartialEq)]
#[doc(hidden)] // for the program
pub struct Cell {
    /// The values that make it, such as `lr=0.01,batch=64`; a name that a folder can have.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
}

/// A key of the matrix and its values.
struct Axis {
    /// The path of the key.
    key: String,
    /// The place of its list.
    place: String,
    /// The values, as TOML.
    values: Vec<String>,
}

impl Plan {
    /// As [`Plan::read_counting`], of a spec with a matrix: the plan of each of its cells, the last key of the matrix varying fastest.
    /// None of a spec without one.
    ///
    /// # Errors
    /// As [`Plan::read_counting`], of any cell, and when the matrix is no table of lists.
    #[doc(hidden)] // for the program
    pub fn read_cells(
        (file, text): (&str, &str),
        overrides: &Overrides,
        count: CountImages<'_>,
    ) -> Result<Option<Vec<Cell>>, SpecError> {
        let axes = on_a_deep_stack(file, || axes((file, text), &overrides.set))?;
        let Some(axes) = axes else { return Ok(None) };
        let mut cells = Vec::new();
        for values in combinations(&axes) {
            let set = axes.iter().zip(&values).map(|(axis, value)| format!("{}={value}", axis.key));
            let set: Vec<String> = set.collect();
            let of_cell = Overrides {
                set: overrides.set.iter().chain(&set).cloned().collect(),
                ..overrides.clone()
            };
            let plan = Self::read_cell((file, text), &of_cell, count);
            // The person wrote a list, and no option.
            let plan = plan.map_err(|error| {
                let axis = set.iter().position(|assignment| option(assignment) == error.place);
                let place = axis.map(|axis| axes[axis].place.clone());
                SpecError { place: place.unwrap_or(error.place), ..error }
            })?;
            cells.push(Cell { name: name(&axes, &values), plan });
        }
        Ok(Some(cells))
    }
}

/// The keys of the matrix with their values; none of a spec without one.
fn axes((file, text): (&str, &str), set: &[String]) -> Result<Option<Vec<Axis>>, SpecError> {
    Source::with((file, text), set, |source| {
        let Some(matrix) = source.table().get(KEY) else { return Ok(None) };
        let refuse = |at: usize, what: String| {
            Err(SpecError { place: source.position(at), what: format!("{KEY}{what}") })
        };
        let DeValue::Table(matrix_table) = matrix.get_ref() else {
            return refuse(matrix.span().start, ": must be a table of lists".to_owned());
        };
        let mut found = Vec::new();
        leaves(matrix_table, "", &mut found);
        let mut axes = Vec::new();
        for (key, span, values) in found {
            let Some(values) = values.filter(|values| !values.is_empty()) else {
                let what = format!(".{key}: must be a list of values, such as {key} = [1, 2]");
                return refuse(span.start, what);
            };
            let values = values.into_iter().map(|span| source.text_of(span)).collect();
            axes.push(Axis { key, place: source.position(span.start), values });
        }
        let cells = axes.iter().try_fold(1_usize, |cells, axis: &Axis| {
            cells.checked_mul(axis.values.len()).filter(|cells| *cells <= MOST_CELLS)
        });
        if axes.is_empty() || cells.is_none() {
            let what = format!(": must have 1 to {MOST_CELLS} combinations of values");
            return refuse(matrix.span().start, what);
        }
        Ok(Some(axes))
    })
}

/// A key of the matrix, the span of its value, and those of the values of its list, if it is one.
type Leaf = (String, Range<usize>, Option<Vec<Range<usize>>>);

fn leaves(table: &DeTable<'_>, above: &str, found: &mut Vec<Leaf>) {
    for (key, value) in table {
        let key = format!("{above}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => leaves(table, &format!("{key}."), found),
            DeValue::Array(values) => {
                let values = values.iter().map(toml::Spanned::span).collect();
                found.push((key, value.span(), Some(values)));
            }
            _ => found.push((key, value.span(), None)),
        }
    }
}

/// Every combination of a value of each key.
fn combinations(axes: &[Axis]) -> Vec<Vec<&str>> {
    axes.iter().fold(vec![Vec::new()], |all, axis| {
        let with = |before: &Vec<_>, value| [before.as_slice(), &[value]].concat();
        let longer = |before| axis.values.iter().map(move |value| with(before, value.as_str()));
        all.iter().flat_map(longer).collect()
    })
}

/// The name of a cell: each key by its last part, unless another has the same.
fn name(axes: &[Axis], values: &[&str]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let part = |(axis, value): (&Axis, &&str)| {
        let same = axes.iter().filter(|other| last(&other.key) == last(&axis.key)).count();
        let key = if same == 1 { last(&axis.key) } else { axis.key.clone() };
        let plain: String = value
            .chars()
            .filter_map(|letter| match letter {
                'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '-' | '+' | '_' => Some(letter),
                ',' => Some('+'),
                _ => None,
            })
            .collect();
        format!("{key}={plain}")
    };
    axes.iter().zip(values).map(part).collect::<Vec<_>>().join(",")
}
