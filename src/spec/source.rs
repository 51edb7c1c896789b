//! TOML text and `--set` overrides → `Spec` → [`Plan`], with the place of every error.
//!
//! The value of an override is parsed behind as many blanks as the texts before it are long. So its spans follow on from
//! theirs, and an offset tells which text it points into.

use std::borrow::Cow;
use std::ops::Range;
use std::panic::resume_unwind;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::keys::with_suggestion;
use super::{CountImages, DataPlan, Invalid, OwnPlan, Plan, Reference, Spec, matrix};
use crate::precision::Policy;

/// What the command line changes in a spec.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// let overrides = Overrides {
///     set: vec!["train.batch=64".to_owned()],
///     variants: Some(vec!["fp32".to_owned(), "bf16-mixed".to_owned()]),
///     seeds: Some(3),
/// };
/// let plan = Plan::read("default.toml", DEFAULT, &overrides)?;
/// assert_eq!((plan.train.batch, plan.variants.len(), &plan.seeds[..]), (64, 2, &[0, 1, 2][..]));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `key=value` each: a key's path with dots, and a TOML value or, failing that, a string; `key=` removes the key.
    pub set: Vec<String>,
    /// The variants to keep or add; none: those of the spec.
    pub variants: Option<Vec<String>>,
    /// Seeds 0 to this; none: those of the spec.
    pub seeds: Option<u64>,
}

/// A spec that cannot be: where, and what is wrong.
///
/// ```
/// use mantissa::spec::{Overrides, Plan};
///
/// let error = Plan::read("mine.toml", "name = 7", &Overrides::default()).unwrap_err();
/// assert!(error.place.starts_with("mine.toml:1:"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct SpecError {
    /// `file:line:column`, `file`, or the option of the command line.
    pub place: String,
    /// The key where one is known, what is wrong, and what would be right.
    pub what: String,
}

impl Plan {
    /// Reads a spec. `file` is what messages call it.
    ///
    /// # Errors
    /// When the text is no TOML, a key is unknown or missing, or a value cannot be.
    ///
    /// ```
    /// use mantissa::spec::{DEFAULT, Overrides, Plan};
    /// let error = Plan::read("default.toml", DEFAULT, &Overrides {
    ///     set: vec!["train.batch=0".to_owned()],
    ///     ..Overrides::default()
    /// });
    /// assert_eq!(
    ///     error.map_err(|error| error.to_string()),
    ///     Err("--set train.batch=0: train.batch: is 0; must be 1 to 65536".to_owned()),
    /// );
    /// ```
    pub fn read(file: &str, text: &str, overrides: &Overrides) -> Result<Self, SpecError> {
        let unknown = |_: &DataPlan| {
            Err("their number is not known, which train.epochs needs; give train.steps".to_owned())
        };
        Self::read_counting((file, text), overrides, &unknown)
    }

    /// As [`Plan::read`], of a spec without `data` and `model`, for a task that brings its own: `own` describes them.
    ///
    /// # Errors
    /// As [`Plan::read`], and when the spec has data or a model.
    pub(crate) fn read_for_task(
        (file, text): (&str, &str),
        overrides: &Overrides,
        own: &OwnPlan,
    ) -> Result<Self, SpecError> {
        let count = |_: &DataPlan| Ok(own.train);
        on_a_deep_stack(file, || {
            Self::read_here((file, text), overrides, (&count, Some(own)), Matrix::Refused)
        })
    }

    /// As [`Plan::read`], with what tells the number of training images of data that are in files: with `train.epochs`, the steps
    /// follow from it.
    ///
    /// # Errors
    /// As [`Plan::read`], and when the images cannot be counted.
    #[doc(hidden)] // for the program and this crate's tests
    pub fn read_counting(
        (file, text): (&str, &str),
        overrides: &Overrides,
        count: CountImages<'_>,
    ) -> Result<Self, SpecError> {
        on_a_deep_stack(file, || {
            Self::read_here((file, text), overrides, (count, None), Matrix::Refused)
        })
    }

    /// As [`Plan::read_counting`], of a cell of the spec's matrix, whose values are among `overrides`.
    ///
    /// # Errors
    /// As [`Plan::read_counting`].
    pub(super) fn read_cell(
        (file, text): (&str, &str),
        overrides: &Overrides,
        count: CountImages<'_>,
    ) -> Result<Self, SpecError> {
        on_a_deep_stack(file, || {
            Self::read_here((file, text), overrides, (count, None), Matrix::Taken)
        })
    }

    fn read_here(
        (file, text): (&str, &str),
        overrides: &Overrides,
        (count, own): (CountImages<'_>, Option<&OwnPlan>),
        matrix: Matrix,
    ) -> Result<Self, SpecError> {
        let assignments = assignments(text.len(), &overrides.set)?;
        let mut source = Source::parse(file, text, &assignments)?;
        for assignment in &assignments {
            source.assign(assignment)?;
        }
        source.take_matrix(matrix)?;
        let spec = source.typed()?;
        source.expect_task(own.is_some())?;
        let plan = Self::resolve(spec, count, own);
        let mut plan = plan.map_err(|error| source.place(&error))?;
        let of_option = |Invalid { key, what }| SpecError { place: key, what };
        if let Some(chosen) = &overrides.variants {
            plan.choose(chosen).map_err(of_option)?;
        }
        if let Some(count) = overrides.seeds {
            plan.reseed(count).map_err(of_option)?;
        }
        Ok(plan)
    }
}

impl Reference {
    /// Reads a file of published figures. `file` is what messages call it.
    ///
    /// # Errors
    /// When the text is no TOML, a key is unknown or missing, or a value cannot be.
    pub fn read(file: &str, text: &str) -> Result<Self, SpecError> {
        on_a_deep_stack(file, || {
            let source = Source::parse(file, text, &[])?;
            let deserializer = Deserializer::from(source.table.clone());
            // The keys that could be suggested are those of a spec.
            let read =
                Self::deserialize(deserializer).map_err(|error| source.explain(&error, None))?;
            read.check().map_err(|error| source.place(&error))?;
            Ok(read)
        })
    }
}

/// What reads a spec, on a thread whose stack is deep enough for any.
pub(super) fn on_a_deep_stack<T: Send>(
    file: &str,
    read: impl FnOnce() -> Result<T, SpecError> + Send,
) -> Result<T, SpecError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        match thread.spawn_scoped(scope, read) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => Err(SpecError {
                place: file.to_owned(),
                what: format!("cannot start a thread to read it: {error}"),
            }),
        }
    })
}

/// What becomes of a spec's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matrix {
    /// Its values were set already.
    Taken,
    /// One experiment is asked for.
    Refused,
}

/// One `--set key.path=value`.
struct Assignment<'a> {
    typed: &'a str,
    path: Vec<&'a str>,
    value: &'a str,
    /// [`PADDED_KEY`], the blanks, the value: a TOML document if the value is one of TOML.
    padded: String,
    span: Range<usize>,
}

const PADDED_KEY: &str = "v=";

/// Stack to read a spec with, of which only what is needed becomes memory. The TOML parser allows 79 keys with dots in each of
/// 79 tables within each other: 6,241 tables, through which all that walks through a spec goes by recursion.
const STACK: usize = 256 << 20;

/// Keys in the path of an override: no table of a spec lies deeper. Each is a table in the one before, and ten
/// thousand would exhaust any stack.
const MOST_KEYS: usize = 8;

fn assignments(mut end: usize, typed: &[String]) -> Result<Vec<Assignment<'_>>, SpecError> {
    let mut assignments = Vec::with_capacity(typed.len());
    for typed in typed {
        let Some((path, value)) = typed.split_once('=') else {
            return refuse(typed, "expected key=value, such as train.steps=100");
        };
        let path: Vec<&str> = path.trim().split('.').collect();
        if path.len() > MOST_KEYS || !path.iter().all(|key| is_bare_key(key)) {
            return refuse(typed, "expected a key's path before the =, such as train.steps");
        }
        let start = end + PADDED_KEY.len();
        let span = start..start + value.len();
        let padded = format!("{PADDED_KEY}{:1$}{value}", "", end);
        end = span.end;
        assignments.push(Assignment { typed, path, value: value.trim(), padded, span });
    }
    Ok(assignments)
}

fn refuse<T>(typed: &str, what: &str) -> Result<T, SpecError> {
    Err(SpecError { place: option(typed), what: what.to_owned() })
}

/// The option as it was typed, or its start where it is long.
pub(super) fn option(typed: &str) -> String {
    /// Letters of an override that are repeated.
    const MOST: usize = 200;
    match typed.char_indices().nth(MOST) {
        None => format!("--set {typed}"),
        Some((end, _)) => format!("--set {}…", &typed[..end]),
    }
}

fn is_bare_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// What adds to a message on a key the key that was probably meant.
type Suggest = fn(&str, &str) -> String;

/// A parsed spec and the texts that its spans point into.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    assignments: &'a [Assignment<'a>],
    table: Spanned<DeTable<'a>>,
}

impl<'a> Source<'a> {
    fn parse(
        file: &'a str,
        text: &'a str,
        assignments: &'a [Assignment<'a>],
    ) -> Result<Self, SpecError> {
        let mut source =
            Self { file, text, assignments, table: Spanned::new(0..0, DeTable::new()) };
        source.table = DeTable::parse(text).map_err(|error| source.explain(&error, None))?;
        Ok(source)
    }

    /// What `read` reads of a spec with these overrides.
    pub(super) fn with<T>(
        (file, text): (&str, &str),
        set: &[String],
        read: impl FnOnce(&Source<'_>) -> Result<T, SpecError>,
    ) -> Result<T, SpecError> {
        let assignments = assignments(text.len(), set)?;
        let mut source = Source::parse(file, text, &assignments)?;
        for assignment in &assignments {
            source.assign(assignment)?;
        }
        read(&source)
    }

    /// The whole spec.
    pub(super) fn table(&self) -> &DeTable<'a> {
        self.table.get_ref()
    }

    /// The text that a span points into.
    pub(super) fn text_of(&self, span: Range<usize>) -> String {
        let of = |text: &str| text.get(span.clone()).map(str::to_owned);
        let lies_in = |assignment: &&Assignment<'_>| assignment.span.start <= span.start;
        let assignment = self.assignments.iter().rev().find(lies_in);
        assignment
            .map_or_else(|| of(self.text), |assignment| of(&assignment.padded))
            .unwrap_or_default()
    }

    /// Takes the matrix out of the spec, or refuses a spec that has one.
    fn take_matrix(&mut self, matrix: Matrix) -> Result<(), SpecError> {
        let Some(removed) = self.table.get_mut().remove(matrix::KEY) else { return Ok(()) };
        if matrix == Matrix::Taken {
            return Ok(());
        }
        Err(SpecError {
            place: self.position(removed.span().start),
            what: format!(
                "{0}: this is for one experiment; choose its values with --set, and remove the matrix with --set {0}=",
                matrix::KEY
            ),
        })
    }

    /// Replaces or adds one value: as TOML where it is TOML, else as a string. Without a value, removes the key.
    fn assign(&mut self, assignment: &'a Assignment<'a>) -> Result<(), SpecError> {
        let Assignment { typed, path, value, padded, span } = assignment;
        if value.is_empty() {
            return match remove(self.table.get_mut(), path) {
                Some(_) => Ok(()),
                None => refuse(typed, &format!("there is no {} to remove", path.join("."))),
            };
        }
        if let Some(other) = alternative(path) {
            self.remove_from_file(&other);
        }
        let parsed = DeTable::parse(padded).map(Spanned::into_inner);
        let value = match parsed.ok().and_then(only_value) {
            Some(value) => value,
            None => Spanned::new(span.clone(), DeValue::String(Cow::Borrowed(*value))),
        };
        let Some((last, above)) = path.split_last() else {
            return Ok(());
        };
        let mut table = self.table.get_mut();
        for key in above {
            let start = span.start..span.start;
            let entry = table
                .entry(Spanned::new(start.clone(), Cow::Borrowed(*key)))
                .or_insert_with(|| Spanned::new(start, DeValue::Table(DeTable::new())));
            let DeValue::Table(below) = entry.get_mut() else {
                return refuse(typed, &format!("{key} is not a table"));
            };
            table = below;
        }
        // The old key would keep its place in the file.
        table.remove(*last);
        table.insert(Spanned::new(span.clone(), Cow::Borrowed(*last)), value);
        Ok(())
    }

    /// Removes what the file says of a key, not what an earlier override does.
    fn remove_from_file(&mut self, path: &[&str]) {
        let table = self.table.get_mut();
        let there = span_of(table, &path.join("."));
        if there.is_some_and(|span| span.start < self.text.len()) {
            remove(table, path);
        }
    }

    /// Checks that the spec has data and a model, or with a task that brings its own, that it has not.
    fn expect_task(&self, is_own: bool) -> Result<(), SpecError> {
        for key in ["data", "model"] {
            let there = self.table.get_ref().get_key_value(key);
            let (place, what) = match there {
                None if !is_own => (self.position(0), format!("missing key \"{key}\"")),
                Some((found, _)) if is_own => {
                    let what = format!("{key}: the task brings its own; remove this key");
                    (self.position(found.span().start), what)
                }
                _ => continue,
            };
            return Err(SpecError { place, what });
        }
        Ok(())
    }

    fn typed(&self) -> Result<Spec, SpecError> {
        let mut numbers = Vec::new();
        for (_, value) in self.table.get_ref() {
            collect_whole(value.get_ref(), &mut numbers);
        }
        let mut table = self.table.clone();
        let mut whole = numbers.iter().map(String::as_str);
        for (_, value) in table.get_mut() {
            write_whole(value.get_mut(), &mut whole);
        }
        reshape(table.get_mut());
        let suggest = Some(with_suggestion as Suggest);
        Spec::deserialize(Deserializer::from(table)).map_err(|error| self.explain(&error, suggest))
    }

    /// The place of an invalid value.
    fn place(&self, Invalid { key, what }: &Invalid) -> SpecError {
        let span = span_of(self.table.get_ref(), key);
        SpecError {
            place: span.map_or_else(|| self.file.to_owned(), |span| self.position(span.start)),
            what: format!("{key}: {what}"),
        }
    }

    /// The place and the meaning of an error of TOML or serde, with what adds the key that was probably meant.
    fn explain(&self, error: &toml::de::Error, suggest: Option<Suggest>) -> SpecError {
        let what = in_our_words(error.message());
        let Some(span) = error.span() else {
            let place = self.file.to_owned();
            return SpecError { place, what };
        };
        SpecError {
            place: self.position(span.start),
            what: match key_at(self.table.get_ref(), &span) {
                Some(key) => {
                    let what = suggest.map_or_else(|| what.clone(), |add| add(&key, &what));
                    format!("{key}: {what}")
                }
                None => what,
            },
        }
    }

    /// An offset as `file:line:column`, or as the override that it lies in.
    pub(super) fn position(&self, offset: usize) -> String {
        if let Some(assignment) =
            self.assignments.iter().rev().find(|assignment| assignment.span.start <= offset)
        {
            return option(assignment.typed);
        }
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{}:{line}:{column}", self.file)
    }
}

/// Removes a key and returns its value, if it is there.
fn remove<'a>(mut table: &mut DeTable<'a>, path: &[&str]) -> Option<Spanned<DeValue<'a>>> {
    let (last, above) = path.split_last()?;
    for key in above {
        let DeValue::Table(below) = table.get_mut(*key)?.get_mut() else {
            return None;
        };
        table = below;
    }
    table.remove(*last)
}

/// The key that an override of another replaces: a training has one length.
fn alternative(path: &[&str]) -> Option<[&'static str; 2]> {
    match path {
        ["train", "epochs"] => Some(["train", "steps"]),
        ["train", "steps"] => Some(["train", "epochs"]),
        _ => None,
    }
}

/// A number such as `1e4`, if it is whole, as TOML writes whole ones after a key.
fn whole(value: &DeValue<'_>) -> Option<String> {
    /// All whole numbers up to this one are floats too.
    const LARGEST: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    let number = value.as_float()?.as_str().parse::<f64>().ok()?;
    let is_whole = number.fract() == 0.0 && number.abs() <= LARGEST;
    is_whole.then(|| format!("v={}", number as i64))
}

/// The whole numbers below a value in their order.
fn collect_whole(value: &DeValue<'_>, found: &mut Vec<String>) {
    match value {
        DeValue::Table(table) => {
            table.iter().for_each(|(_, value)| collect_whole(value.get_ref(), found));
        }
        DeValue::Array(values) => {
            values.iter().for_each(|value| collect_whole(value.get_ref(), found));
        }
        value => found.extend(whole(value)),
    }
}

/// Puts the numbers that [`collect_whole`] found in the place of the floats. To whoever expects a fraction they are numbers too.
fn write_whole<'t>(value: &mut DeValue<'t>, found: &mut dyn Iterator<Item = &'t str>) {
    match value {
        DeValue::Table(table) => {
            table.iter_mut().for_each(|(_, value)| write_whole(value.get_mut(), found));
        }
        DeValue::Array(values) => {
            values.iter_mut().for_each(|value| write_whole(value.get_mut(), found));
        }
        value => {
            if whole(value).is_some()
                && let Some(parsed) = found.next().and_then(|text| DeTable::parse(text).ok())
                && let Some(number) = only_value(parsed.into_inner())
            {
                *value = number.into_inner();
            }
        }
    }
}

/// The value of a table that has but one.
fn only_value(table: DeTable<'_>) -> Option<Spanned<DeValue<'_>>> {
    let mut values = table.into_iter().map(|(_, value)| value);
    values.next().filter(|_| values.len() == 0)
}

/// Gives the table the shape that serde reads without losing its place: `{ kind = "k", … }` becomes `{ k = { … } }`,
/// and a bare variant's name a table.
fn reshape(table: &mut DeTable<'_>) {
    for key in ["data", "model"] {
        kind_outside(table.get_mut(key));
    }
    if let Some(DeValue::Table(train)) = table.get_mut("train").map(Spanned::get_mut) {
        kind_outside(train.get_mut("optimizer"));
    }
    if let Some(DeValue::Array(variants)) = table.get_mut("variants").map(Spanned::get_mut) {
        for variant in variants.iter_mut() {
            let span = variant.span();
            if let DeValue::String(name) = variant.get_ref() {
                let name = Policy::canonical(name).map_or_else(|| name.clone(), Cow::Borrowed);
                let entry = |key| {
                    let value = DeValue::String(name.clone());
                    (
                        Spanned::new(span.clone(), Cow::Borrowed(key)),
                        Spanned::new(span.clone(), value),
                    )
                };
                let table = ["name", "policy"].into_iter().map(entry).collect();
                *variant.get_mut() = DeValue::Table(table);
            }
        }
    }
}

fn kind_outside(value: Option<&mut Spanned<DeValue<'_>>>) {
    let Some(value) = value else { return };
    let span = value.span();
    let DeValue::Table(table) = value.get_mut() else {
        return;
    };
    let kind = match table.remove("kind") {
        Some(kind) => {
            let span = kind.span();
            let name = match kind.into_inner() {
                DeValue::String(name) => name,
                other => Cow::Borrowed(other.type_str()),
            };
            Spanned::new(span, name)
        }
        None => Spanned::new(span.clone(), Cow::Borrowed("")),
    };
    let fields = Spanned::new(span, DeValue::Table(std::mem::take(table)));
    table.insert(kind, fields);
}

/// The span of the value at a path such as `model.blocks[1].kernel`, or of the nearest table or list above it that is
/// there.
fn span_of(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    let mut keys = path.split(['.', '[']).map(|key| key.trim_end_matches(']'));
    let mut value = table.get(keys.next()?)?;
    for key in keys {
        let below = match value.get_ref() {
            DeValue::Table(table) => table.get(key),
            DeValue::Array(values) => key.parse().ok().and_then(|i: usize| values.get(i)),
            _ => None,
        };
        match below {
            Some(below) => value = below,
            None => break,
        }
    }
    Some(value.span())
}

/// The path of the key that a span is about: the key or the value that starts where it does.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let here = || (key.span() == *span || value.span() == *span).then(String::new);
        let rest = below(value, span).or_else(here)?;
        Some(format!("{}{rest}", key.get_ref()))
    })
}

/// [`key_at`] under a value, with the dot or bracket in front.
fn below(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    match value.get_ref() {
        DeValue::Table(table) => key_at(table, span).map(|rest| format!(".{rest}")),
        DeValue::Array(values) => values.iter().enumerate().find_map(|(i, value)| {
            let here = || (value.span() == *span).then(String::new);
            let rest = below(value, span).or_else(here)?;
            Some(format!("[{i}]{rest}"))
        }),
        _ => None,
    }
}

/// A message of serde or TOML on one line and in the words of a spec: keys and values, not fields and variants.
fn in_our_words(message: &str) -> String {
    let message = message.replace('\n', " ");
    if message.contains("recursion") {
        return "too many tables within each other; a spec has at most four".to_owned();
    }
    if let Some(keys) = message.strip_prefix("unexpected keys in table: ")
        && let Some((unknown, known)) = keys.split_once(", available keys: ")
    {
        return format!("unknown key \"{unknown}\"; known: {known}");
    }
    if let Some((head, known)) = message.split_once(", expected ")
        && (head.starts_with("unknown field") || head.starts_with("unknown variant"))
    {
        let known = known.trim_start_matches("one of ").replace(" or ", ", ");
        let head = head
            .replace("unknown variant ``", "missing key `kind`")
            .replace("unknown variant", "unknown value")
            .replace("unknown field", "unknown key");
        return format!("{}; known: {}", head.replace('`', "\""), known.replace('`', ""));
    }
    let mut message = message.replace("missing field", "missing key").replace('`', "\"");
    for (rust, plain) in [
        ("expected usize", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected a sequence", "expected a list"),
    ] {
        message = message.replace(rust, plain);
    }
    message
}
