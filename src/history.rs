//! The history: what metrics came to, commit by commit, in an SQLite database. A series holds the values of one metric of one
//! variant that compare: of one plan and data, and of one fingerprint, that of the arithmetic for exact metrics and that of the
//! machine for times.

mod change;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{
    Connection, OptionalExtension as _, Row, Statement, Transaction, TransactionBehavior, params,
};
use sha2::{Digest as _, Sha256};

use crate::claims;
use crate::formatting;
use crate::record::Results;
use crate::regression::fingerprint::{Arithmetic, Machine};
use crate::regression::{Key, Kind, Measured, Metric, Times, exact_metrics};
use crate::store::database::{DatabaseError, Layout, make_database, open_database};

pub use change::Change;

/// The file where none is named.
pub const FILE: &str = "history.db";

/// The database of histories. `"Mant"` in ASCII.
const LAYOUT: Layout =
    Layout { name: "history", application: 0x4d61_6e74, steps: &[include_str!("history/1.sql")] };

/// A history that is open.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    path: PathBuf,
}

/// What became of results that were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Values that are new; none where the same results were there.
    pub values: usize,
    /// Metrics that were left out: the machine computes other values each time, so they have no place in a series.
    pub left_out: usize,
}

/// Which series are meant. Those that have everything that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of these metrics; of all where none is given.
    pub metrics: Vec<Metric>,
    /// Of these variants; of all where none is given.
    pub variants: Vec<String>,
}

/// Values that compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The experiment's name.
    pub experiment: String,
    /// SHA-256 of the plan.
    pub plan: String,
    /// SHA-256 of the data.
    pub data: String,
    /// The fingerprint of the arithmetic, or for times of the machine.
    pub fingerprint: String,
    /// The metric, its variant and seed.
    pub key: Key,
    /// The values, in the order in which the experiments started.
    pub points: Vec<Point>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The commit, or what else is known of the build.
    pub commit: String,
    /// When the experiment started.
    pub started: String,
    /// The program's version.
    pub version: String,
    /// The value; of times the median of the blocks.
    pub value: Measured,
}

/// An experiment's run, as points share it.
struct Run {
    id: i64,
    commit: String,
    started: String,
    version: String,
}

impl History {
    /// Opens the history in a file.
    ///
    /// # Errors
    /// When there is none, or it is none that this program understands.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let connection = open_database(path, &LAYOUT)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Opens the history in a file to add to it, and makes the file where there is none.
    ///
    /// # Errors
    /// When it cannot be made or written, or is none that this program understands.
    pub fn make(path: &Path) -> Result<Self, DatabaseError> {
        let connection = make_database(path, &LAYOUT)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Adds what results say, all of it or nothing. Results that are there already add nothing.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn add(&mut self, results: &Results) -> Result<Added, DatabaseError> {
        let failed = DatabaseError::at(&self.path);
        let (values, left_out) = values(results);
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(&failed)?;
        let is_new = insert(&transaction, results, &values).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        Ok(Added { values: if is_new { values.len() } else { 0 }, left_out })
    }

    /// The series that are meant, by experiment, plan, fingerprint and key.
    ///
    /// # Errors
    /// When the database cannot be read, or holds what no program of this schema writes.
    pub fn series(&self, filter: &Filter) -> Result<Vec<Series>, DatabaseError> {
        // One state of the database, whoever writes meanwhile.
        let failed = DatabaseError::at(&self.path);
        let snapshot = self.connection.unchecked_transaction().map_err(&failed)?;
        let runs = self.runs().map_err(&failed)?;
        let sql = "SELECT run, value FROM point WHERE series = ?1";
        let mut statement = self.connection.prepare(sql).map_err(&failed)?;
        let mut all = Vec::new();
        for (id, mut series) in self.named_series().map_err(&failed)? {
            let Key { metric, variant, .. } = &series.key;
            let has = |given: bool, is_meant: bool| !given || is_meant;
            if has(!filter.metrics.is_empty(), filter.metrics.contains(metric))
                && has(!filter.variants.is_empty(), filter.variants.contains(variant))
            {
                series.points = points(&mut statement, id, &runs).map_err(&failed)?;
                all.push(series);
            }
        }
        drop(statement);
        snapshot.commit().map_err(&failed)?;
        all.sort_by(|a, b| {
            let place = |series: &Series| {
                [&series.experiment, &series.plan, &series.data, &series.fingerprint]
                    .map(Clone::clone)
            };
            (place(a), &a.key).cmp(&(place(b), &b.key))
        });
        Ok(all)
    }

    /// The runs in their order, by their ids.
    fn runs(&self) -> rusqlite::Result<BTreeMap<i64, (usize, Run)>> {
        let sql = "SELECT id, commit_id, source, started, version FROM run ORDER BY started, id";
        let mut statement = self.connection.prepare(sql)?;
        let run = |row: &Row<'_>| {
            let (commit, source): (Option<String>, String) = (row.get(1)?, row.get(2)?);
            let commit = commit.unwrap_or_else(|| format!("source-{source}"));
            Ok(Run { id: row.get(0)?, commit, started: row.get(3)?, version: row.get(4)? })
        };
        let runs = statement.query_map([], run)?.enumerate();
        runs.map(|(place, run)| run.map(|run| (run.id, (place, run)))).collect()
    }

    /// The series without their points, by their ids. A metric that this program does not know is left aside: a program of
    /// another version added it.
    fn named_series(&self) -> rusqlite::Result<Vec<(i64, Series)>> {
        let sql = "SELECT id, experiment, plan, data, fingerprint, key FROM series";
        let mut statement = self.connection.prepare(sql)?;
        let series = |row: &Row<'_>| {
            let key: String = row.get(5)?;
            let series = key.parse().ok().map(|key| {
                Ok::<_, rusqlite::Error>(Series {
                    experiment: row.get(1)?,
                    plan: row.get(2)?,
                    data: row.get(3)?,
                    fingerprint: row.get(4)?,
                    key,
                    points: Vec::new(),
                })
            });
            Ok((row.get::<_, i64>(0)?, series.transpose()?))
        };
        let all = statement.query_map([], series)?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(all.into_iter().filter_map(|(id, series)| Some((id, series?))).collect())
    }
}

/// The points of a series, in the order of the runs.
fn points(
    statement: &mut Statement<'_>,
    series: i64,
    runs: &BTreeMap<i64, (usize, Run)>,
) -> rusqlite::Result<Vec<Point>> {
    let mut rows = statement.query([series])?;
    let mut points = Vec::new();
    while let Some(row) = rows.next()? {
        // Every point has its run: a foreign key says so.
        if let Some((place, run)) = runs.get(&row.get::<_, i64>(0)?) {
            let Run { commit, started, version, .. } = run;
            let (commit, started) = (commit.clone(), started.clone());
            let value = read(row.get_ref(1)?)?;
            points.push((*place, Point { commit, started, version: version.clone(), value }));
        }
    }
    points.sort_by_key(|(place, _)| *place);
    Ok(points.into_iter().map(|(_, point)| point).collect())
}

/// The values that results have a place in the history for, each with the fingerprint that it depends on; and how many exact
/// metrics have none, on a machine that computes other values each time.
fn values(results: &Results) -> (Vec<(String, Key, Measured)>, usize) {
    let environment = &results.environment;
    let arithmetic = Arithmetic::of(environment).fingerprint();
    let machine = Machine::of(environment).fingerprint();
    let is_random = claims::nondeterminism(results).is_some();
    let (exact, random): (Vec<_>, Vec<_>) = exact_metrics(results)
        .into_iter()
        .partition(|(key, _)| !(is_random && key.metric.follows_from_values()));
    let exact = exact.into_iter().map(|(key, value)| (arithmetic.clone(), key, value));
    let times = Times::of(results).medians(&results.plan.baseline);
    let times = times.into_iter().map(|(key, value)| (machine.clone(), key, value));
    (exact.chain(times).collect(), random.len())
}

/// Adds values to the database, but for those of results that are there. Says whether they were new.
fn insert(
    transaction: &Transaction<'_>,
    results: &Results,
    values: &[(String, Key, Measured)],
) -> rusqlite::Result<bool> {
    let environment = &results.environment;
    let plan = results.plan.digest();
    let data = results.data.as_ref().map_or("", |data| data.digest.as_str());
    let digest = digest(results, &plan, values);
    let known = "SELECT id FROM run WHERE digest = ?1";
    if transaction.query_row(known, [&digest], |_| Ok(())).optional()?.is_some() {
        return Ok(false);
    }
    transaction.execute(
        "INSERT INTO run (digest, started, version, commit_id, source, device) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            digest,
            environment.started,
            environment.version,
            environment.git,
            environment.source,
            environment.device_name
        ],
    )?;
    let run = transaction.last_insert_rowid();
    let mut name = transaction.prepare(
        "INSERT INTO series (experiment, plan, data, fingerprint, key) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    let mut find = transaction.prepare(
        "SELECT id FROM series WHERE (experiment, plan, data, fingerprint, key) = (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut put =
        transaction.prepare("INSERT INTO point (series, run, value) VALUES (?1, ?2, ?3)")?;
    for (fingerprint, key, value) in values {
        let key = key.to_string();
        let series = params![results.experiment, plan, data, fingerprint, key];
        name.execute(series)?;
        let id: i64 = find.query_row(series, |row| row.get(0))?;
        put.execute(params![id, run, write(value)])?;
    }
    Ok(true)
}

/// What tells results from others: the values, and what made them when.
fn digest(results: &Results, plan: &str, values: &[(String, Key, Measured)]) -> String {
    let environment = &results.environment;
    let values: Vec<(&str, String, &Measured)> =
        values.iter().map(|(place, key, value)| (&**place, key.to_string(), value)).collect();
    let all = (
        (&results.experiment, plan, results.data.as_ref().map(|data| &data.digest)),
        (&environment.started, &environment.version, &environment.git, &environment.source),
        values,
    );
    formatting::hex(&Sha256::digest(serde_json::to_vec(&all).unwrap_or_default()))
}

/// A value as SQLite stores it: an integer, a real number, a text, or null where it is not finite.
fn write(value: &Measured) -> rusqlite::types::Value {
    use rusqlite::types::Value;
    match value {
        Measured::Count(count) => {
            i64::try_from(*count).map_or(Value::Real(*count as f64), Value::Integer)
        }
        Measured::Number(number) => Value::Real(*number),
        Measured::Text(text) => Value::Text(text.clone()),
        Measured::NotFinite => Value::Null,
    }
}

fn read(value: ValueRef<'_>) -> rusqlite::Result<Measured> {
    let wrong = || {
        let what = "a value that no metric has".into();
        rusqlite::Error::FromSqlConversionFailure(1, value.data_type(), what)
    };
    match value {
        ValueRef::Null => Ok(Measured::NotFinite),
        ValueRef::Integer(count) => u64::try_from(count).map(Measured::Count).map_err(|_| wrong()),
        ValueRef::Real(number) => Ok(Measured::number(number)),
        ValueRef::Text(text) => std::str::from_utf8(text)
            .map(|text| Measured::Text(text.to_owned()))
            .map_err(|_| wrong()),
        ValueRef::Blob(_) => Err(wrong()),
    }
}

impl Series {
    /// Whether its values repeat to the bit.
    fn is_exact(&self) -> bool {
        self.key.metric.kind() == Kind::Exact
    }
}
