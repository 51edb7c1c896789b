//! The files that texts are in: Parquet, CSV and JSON Lines.

use std::io::{BufRead as _, BufReader};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::super::DataError;
use super::super::malformed;
use super::super::table::{self, Unit};
use crate::store;

/// Texts of a file, and the class of each.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    pub(super) path: PathBuf,
    /// What the file is counted in.
    pub(super) unit: Unit,
    pub(super) contents: Vec<String>,
    /// Where each text is, and its class.
    pub(super) targets: Vec<(u64, String)>,
}

impl Texts {
    /// Reads the columns of texts and classes.
    pub(super) fn read(path: &Path, columns: (&str, &str)) -> Result<Self, DataError> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let texts = match ending {
            // The library panics on some damaged files.
            "parquet" => catch_unwind(|| Self::parquet(path, columns))
                .unwrap_or_else(|_| Err(malformed(path, "it is damaged", "a Parquet file")))?,
            "csv" => Self::csv(path, columns)?,
            "jsonl" | "ndjson" => Self::json_lines(path, columns)?,
            _ => {
                let found = format!("a name that ends in {ending:?}");
                return Err(malformed(path, found, "a name that ends in .parquet, .csv or .jsonl"));
            }
        };
        if let Some(empty) = texts.contents.iter().position(|text| text.trim().is_empty()) {
            let place = texts.unit.place(texts.targets[empty].0, columns.0);
            return Err(malformed(path, format!("{place}: nothing"), "a text"));
        }
        Ok(texts)
    }

    /// Some of the texts.
    pub(super) fn part(&self, chosen: &[usize]) -> Self {
        let contents = chosen.iter().map(|&index| self.contents[index].clone()).collect();
        let targets = chosen.iter().map(|&index| self.targets[index].clone()).collect();
        Self { path: self.path.clone(), unit: self.unit, contents, targets }
    }

    fn new(path: &Path, unit: Unit) -> Self {
        Self { path: path.to_owned(), unit, contents: Vec::new(), targets: Vec::new() }
    }

    fn csv(path: &Path, (text, target): (&str, &str)) -> Result<Self, DataError> {
        let (file, _) = store::open(path)?;
        let mut reader = csv::Reader::from_reader(BufReader::new(file));
        let header = reader.headers().map_err(|error| table::unreadable(path, &error))?.clone();
        let header: Vec<&str> = header.iter().collect();
        let places = (table::column(path, &header, text)?, table::column(path, &header, target)?);
        let mut texts = Self::new(path, Unit::Line);
        let mut row = csv::StringRecord::new();
        while reader.read_record(&mut row).map_err(|error| table::unreadable(path, &error))? {
            let line = row.position().map_or(0, csv::Position::line);
            texts.contents.push(row[places.0].to_owned());
            texts.targets.push((line, row[places.1].to_owned()));
        }
        Ok(texts)
    }

    fn json_lines(path: &Path, (text, target): (&str, &str)) -> Result<Self, DataError> {
        let (file, _) = store::open(path)?;
        let mut texts = Self::new(path, Unit::Line);
        for (line, number) in BufReader::new(file).split(b'\n').zip(1_u64..) {
            let line = line.map_err(store::cannot_read(path))?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&line)
                .map_err(|error| {
                    malformed(path, format!("line {number}: {error}"), "a JSON object a line")
                })?;
            let missing = |column: &str, expected: &str| {
                let found = object.get(column).map_or("nothing".to_owned(), ToString::to_string);
                malformed(path, format!("{}: {found}", Unit::Line.place(number, column)), expected)
            };
            let Some(found) = object.get(text).and_then(serde_json::Value::as_str) else {
                return Err(missing(text, "a text in quotation marks"));
            };
            let class = match object.get(target) {
                Some(serde_json::Value::String(class)) => class.clone(),
                Some(class @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
                    class.to_string()
                }
                _ => return Err(missing(target, "a class: a whole number or a name")),
            };
            texts.contents.push(found.to_owned());
            texts.targets.push((number, class));
        }
        Ok(texts)
    }

    fn parquet(path: &Path, (text, target): (&str, &str)) -> Result<Self, DataError> {
        let (file, _) = store::open(path)?;
        let unreadable = |error: parquet::errors::ParquetError| {
            malformed(path, error.to_string(), "a Parquet file")
        };
        let reader = SerializedFileReader::new(file).map_err(unreadable)?;
        let schema = reader.metadata().file_metadata().schema().clone();
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let places = [table::column(path, &names, text)?, table::column(path, &names, target)?];
        let fields = places.map(|place| schema.get_fields()[place].clone()).to_vec();
        let wanted = Type::group_type_builder(schema.name())
            .with_fields(fields)
            .build()
            .map_err(unreadable)?;
        let rows = reader.get_row_iter(Some(wanted)).map_err(unreadable)?;
        let mut texts = Self::new(path, Unit::Row);
        for (row, number) in rows.zip(1_u64..) {
            let row = row.map_err(unreadable)?;
            let of = |column: &str| row.get_column_iter().find(|(name, _)| *name == column);
            let wrong = |column: &str, expected: &str| {
                let found = of(column).map_or("nothing".to_owned(), |(_, value)| value.to_string());
                malformed(path, format!("{}: {found}", texts.unit.place(number, column)), expected)
            };
            let Some((_, Field::Str(found))) = of(text) else {
                return Err(wrong(text, "a text"));
            };
            let class = match of(target) {
                Some((_, Field::Str(class))) => class.clone(),
                Some((
                    _,
                    class @ (Field::Bool(_)
                    | Field::Byte(_)
                    | Field::Short(_)
                    | Field::Int(_)
                    | Field::Long(_)
                    | Field::UByte(_)
                    | Field::UShort(_)
                    | Field::UInt(_)
                    | Field::ULong(_)),
                )) => class.to_string(),
                _ => return Err(wrong(target, "a class: a whole number or a name")),
            };
            texts.contents.push(found.clone());
            texts.targets.push((number, class));
        }
        Ok(texts)
    }
}
