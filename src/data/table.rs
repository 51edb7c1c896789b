//! Tables in CSV files: a header row, then a row a sample.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Inputs, Split, Targets};
use super::{DataError, held_out, malformed};
use crate::formatting;
use crate::spec::{TableTask, TableTest, limits};
use crate::store;

/// What a file is counted in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Line,
    /// Of a file without lines.
    Row,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Row => "row",
        })
    }
}

impl Unit {
    /// Where a value is.
    pub(super) fn place(self, number: u64, column: &str) -> String {
        format!("{self} {number}, column {column}")
    }
}

/// What of a table is learnt from what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns<'a> {
    /// What is to be predicted.
    pub(super) target: &'a str,
    /// What it is predicted from; none: all other columns.
    pub(super) features: Option<&'a [String]>,
    /// Whether the target is a class or a number.
    pub(super) task: TableTask,
}

/// Loads the training table, and the test split from a table of its own or as a share of the training table.
pub(super) fn load(
    train: &Path,
    test: &TableTest,
    columns: Columns<'_>,
) -> Result<Dataset, DataError> {
    let first = Table::read(train, columns)?;
    let shape = [first.features.len(), 1, 1];
    let classes = match columns.task {
        TableTask::Classification => Some(classes(train, columns.target, &first.targets)?),
        TableTask::Regression => None,
    };
    let outputs = classes.as_ref().map_or(1, BTreeMap::len);
    let features = first.features.clone();
    let first = first.into_split(columns.target, classes.as_ref())?;
    let [train, test] = match test {
        TableTest::File(path) => {
            let columns = Columns { features: Some(&features), ..columns };
            let second = Table::read(path, columns)?;
            [first, second.into_split(columns.target, classes.as_ref())?]
        }
        TableTest::Share(share) => held_out::split(train, &first, (shape, outputs), *share)?,
    };
    Ok(Dataset { shape, outputs, train, test })
}

/// A file that has been read.
struct Table {
    path: PathBuf,
    /// The names of the inputs, in the order in which they stand.
    features: Vec<String>,
    inputs: Vec<f32>,
    /// The line and the target of each row.
    targets: Vec<(u64, String)>,
}

impl Table {
    fn read(path: &Path, columns: Columns<'_>) -> Result<Self, DataError> {
        let (file, _) = store::open(path)?;
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(BufReader::new(file));
        let header = reader.headers().map_err(|error| unreadable(path, &error))?.clone();
        let header: Vec<&str> = header.iter().collect();
        let target = column(path, &header, columns.target)?;
        let features: Vec<String> = match columns.features {
            Some(features) => features.to_vec(),
            None => {
                header.iter().map(ToString::to_string).filter(|n| n != columns.target).collect()
            }
        };
        let places = features.iter().map(|name| column(path, &header, name));
        let places: Vec<usize> = places.collect::<Result<_, _>>()?;
        if places.is_empty() {
            let found = format!("{} is its only column", columns.target);
            return Err(malformed(path, found, "columns to predict it from"));
        }
        let mut table = Self { path: path.to_owned(), features, inputs: vec![], targets: vec![] };
        let mut row = csv::StringRecord::new();
        while reader.read_record(&mut row).map_err(|error| unreadable(path, &error))? {
            let line = row.position().map_or(0, csv::Position::line);
            for (feature, place) in table.features.iter().zip(&places) {
                table.inputs.push(number(path, (line, feature), &row[*place])?);
            }
            table.targets.push((line, row[target].to_owned()));
        }
        Ok(table)
    }

    /// With the targets as labels of these classes, or as numbers where there are no classes.
    fn into_split(
        self,
        column: &str,
        classes: Option<&BTreeMap<String, u32>>,
    ) -> Result<Split, DataError> {
        let path = &self.path;
        let targets = self.targets.iter().map(|(line, text)| ((*line, column), text));
        let targets = if let Some(classes) = classes {
            let label = |((line, column), text): ((u64, &str), &String)| {
                label(path, &Unit::Line.place(line, column), text, classes)
            };
            Targets::Labels(targets.map(label).collect::<Result<_, _>>()?)
        } else {
            let number = |(place, text): (_, &String)| number(path, place, text);
            Targets::Values(targets.map(number).collect::<Result<_, _>>()?)
        };
        Ok(Split { inputs: Inputs::Values(self.inputs), targets })
    }
}

/// The classes that the targets of a column name, and the label of each: whole numbers by their size, other names in alphabetical
/// order. Each target stands behind its place.
pub(super) fn classes(
    path: &Path,
    column: &str,
    targets: &[(u64, String)],
) -> Result<BTreeMap<String, u32>, DataError> {
    let mut names: Vec<&str> = targets.iter().map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > limits::WIDTH {
        let found = format!("column {column} has {} classes", names.len());
        let expected = format!("at most {}; numbers need task = \"regression\"", limits::WIDTH);
        return Err(malformed(path, found, expected));
    }
    if let Some(numbers) = names.iter().map(|name| name.parse().ok()).collect::<Option<Vec<i64>>>()
    {
        let mut numbered: Vec<(i64, &str)> = numbers.into_iter().zip(names).collect();
        numbered.sort_unstable();
        names = numbered.into_iter().map(|(_, name)| name).collect();
    }
    Ok(names.into_iter().map(str::to_owned).zip(0..).collect())
}

/// The place of a column, which the header names once.
pub(super) fn column(path: &Path, header: &[&str], name: &str) -> Result<usize, DataError> {
    let mut places = header.iter().enumerate().filter(|(_, found)| **found == name);
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => {
            let found = format!("two columns are called {name:?}");
            Err(malformed(path, found, "a header row that names each column once"))
        }
        (None, _) => {
            let names: Vec<String> = header.iter().map(|name| format!("{name:?}")).collect();
            let found = format!("no column {name:?} in its header row");
            Err(malformed(path, found, format!("one of {}", formatting::list(&names))))
        }
    }
}

/// The number in a line and column.
fn number(path: &Path, (line, column): (u64, &str), text: &str) -> Result<f32, DataError> {
    let found = match text.parse::<f64>() {
        Ok(value) if (value as f32).is_finite() => return Ok(value as f32),
        Ok(_) => format!("{text}, which f32 does not hold as a number"),
        Err(_) if text.is_empty() => "nothing".to_owned(),
        Err(_) => format!("{text:?}"),
    };
    Err(malformed(path, format!("{}: {found}", Unit::Line.place(line, column)), "a number"))
}

/// The label of the class in a place.
pub(super) fn label(
    path: &Path,
    place: &str,
    text: &str,
    classes: &BTreeMap<String, u32>,
) -> Result<u32, DataError> {
    match classes.get(text) {
        _ if text.is_empty() => Err(malformed(path, format!("{place}: nothing"), "a class")),
        Some(label) => Ok(*label),
        None => {
            let found = format!("{place}: class {text:?}, which no training row has");
            Err(malformed(path, found, "a class to learn from"))
        }
    }
}

/// What is wrong with a file that is no table.
pub(super) fn unreadable(path: &Path, error: &csv::Error) -> DataError {
    let line = |position: &Option<csv::Position>| position.as_ref().map_or(0, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let values = formatting::plural(*len as usize, "value");
            let expected = format!("{expected_len}, as the header row has");
            malformed(path, format!("line {}: {values}", line(pos)), expected)
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            malformed(path, format!("line {}: not UTF-8", line(pos)), "text in UTF-8")
        }
        csv::ErrorKind::Io(error) => {
            store::cannot_read(path)(std::io::Error::new(error.kind(), error.to_string())).into()
        }
        _ => malformed(path, error.to_string(), "a CSV file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::TestShare;

    const COLUMNS: Columns<'_> =
        Columns { target: "y", features: None, task: TableTask::Classification };

    /// Loads texts as `train.csv` and `test.csv`; an error without the folder's name.
    fn loaded(train: &str, test: Option<&str>, columns: Columns<'_>) -> Result<Dataset, String> {
        let folder = tempfile::tempdir().unwrap();
        let [train_path, test_path] =
            ["train.csv", "test.csv"].map(|name| folder.path().join(name));
        store::write(&train_path, train.as_bytes()).unwrap();
        let source = match test {
            Some(test) => {
                store::write(&test_path, test.as_bytes()).unwrap();
                TableTest::File(test_path)
            }
            None => TableTest::Share(TestShare { share: 0.5, seed: 0 }),
        };
        let data = load(&train_path, &source, columns).and_then(|data| data.check().map(|()| data));
        let folder = format!("{}/", folder.path().display());
        data.map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn columns_become_channels_and_targets_classes_or_numbers() {
        let train = "a, y ,b\n1,10,0.5\n-2e3, 9 ,.25\n3,10,0\n";
        let test = "b,y,a,rest\n7,9,8,ignored\n";
        let data = loaded(train, Some(test), COLUMNS).unwrap();
        assert_eq!((data.shape, data.outputs), ([2, 1, 1], 2));
        let inputs = |values: &[f32]| Inputs::Values(values.to_vec());
        assert_eq!(data.train.inputs, inputs(&[1.0, 0.5, -2000.0, 0.25, 3.0, 0.0]));
        // 9 comes before 10, though "10" comes before "9".
        assert_eq!(data.train.targets, Targets::Labels(vec![1, 0, 1]));
        assert_eq!(data.test.inputs, inputs(&[8.0, 7.0]));
        assert_eq!(data.test.targets, Targets::Labels(vec![0]));
        let named = loaded("x,y\n1,cat\n2,ant\n", Some("x,y\n3,cat\n"), COLUMNS).unwrap();
        assert_eq!(named.train.targets, Targets::Labels(vec![1, 0]));
        assert_eq!(named.test.targets, Targets::Labels(vec![1]));

        let features = ["b".to_owned()];
        let only = Columns { features: Some(&features), task: TableTask::Regression, ..COLUMNS };
        let data = loaded(train, Some("y,b\n-1.5,4\n"), only).unwrap();
        assert_eq!((data.shape, data.outputs), ([1, 1, 1], 1));
        assert_eq!(data.train.targets, Targets::Values(vec![10.0, 9.0, 10.0]));
        assert_eq!(data.test.inputs, inputs(&[4.0]));
        assert_eq!(data.test.targets, Targets::Values(vec![-1.5]));
        let all = Columns { features: None, ..only };
        let shared = loaded("x,y\n1,2\n3,4\n", None, all).unwrap();
        assert_eq!(shared.samples(), [1, 1]);
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    #[test]
    fn what_is_no_table_is_named_with_its_line() {
        let good = "x,y\n1,2\n3,4\n";
        let numbers = Columns { task: TableTask::Regression, ..COLUMNS };
        let features = ["z".to_owned()];
        let other = Columns { features: Some(&features), ..COLUMNS };
        let table = [
            (
                "x,y\n1,2\n,4\n",
                good,
                COLUMNS,
                "train.csv: line 3, column x: nothing; expected a number",
            ),
            (
                "x,y\n1,2\n3,\n",
                good,
                COLUMNS,
                "train.csv: line 3, column y: nothing; expected a class",
            ),
            (
                "x,y\n1,2\n3,\n",
                good,
                numbers,
                "train.csv: line 3, column y: nothing; expected a number",
            ),
            (
                "x,y\nred,2\n",
                good,
                COLUMNS,
                "train.csv: line 2, column x: \"red\"; expected a number",
            ),
            (
                good,
                "x,y\n1,high\n",
                numbers,
                "test.csv: line 2, column y: \"high\"; expected a number",
            ),
            (
                "x,y\n1e39,2\n",
                good,
                COLUMNS,
                "train.csv: line 2, column x: 1e39, which f32 does not hold as a number; expected a number",
            ),
            (
                "x,y\nNaN,2\n",
                good,
                COLUMNS,
                "train.csv: line 2, column x: NaN, which f32 does not hold as a number; expected a number",
            ),
            (
                "x,t\n1,2\n",
                good,
                COLUMNS,
                "train.csv: no column \"y\" in its header row; expected one of \"x\" and \"t\"",
            ),
            (
                good,
                good,
                other,
                "train.csv: no column \"z\" in its header row; expected one of \"x\" and \"y\"",
            ),
            (
                good,
                "a,y\n1,2\n",
                COLUMNS,
                "test.csv: no column \"x\" in its header row; expected one of \"a\" and \"y\"",
            ),
            (
                "x,x,y\n1,2,3\n",
                good,
                COLUMNS,
                "train.csv: two columns are called \"x\"; expected a header row that names each column once",
            ),
            (
                "y\n1\n",
                good,
                COLUMNS,
                "train.csv: y is its only column; expected columns to predict it from",
            ),
            (
                "x,y\n1,2\n3\n",
                good,
                COLUMNS,
                "train.csv: line 3: 1 value; expected 2, as the header row has",
            ),
            (
                good,
                "x,y\n1,5\n",
                COLUMNS,
                "test.csv: line 2, column y: class \"5\", which no training row has; expected a class to learn from",
            ),
            ("x,y\n", good, numbers, "the train split has no samples: give it at least 1"),
            (good, "x,y\n", numbers, "the test split has no samples: give it at least 1"),
        ];
        for (train, test, columns, message) in table {
            assert_eq!(loaded(train, Some(test), columns).unwrap_err(), message);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin.csv");
        store::write(&path, b"x,y\n1,caf\xe9\n").unwrap();
        let error = load(&path, &TableTest::File(path.clone()), COLUMNS).unwrap_err().to_string();
        assert!(error.ends_with("latin.csv: line 2: not UTF-8; expected text in UTF-8"), "{error}");
    }
}
