//! SQLite databases: opened, made and brought up to date here. What is in their tables is the business of who asks.
//!
//! One file and a rollback journal, no write-ahead log: at rest a database is the one file that people copy and cache, and
//! locks work on more file systems. A process that is killed while it writes leaves its journal, from which the next one to open
//! the database puts back what was there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{StoreError, folder_of, is_there, kind, make_folder, remove_if_empty};

/// How long a process waits for another that writes.
const PATIENCE: Duration = Duration::from_mins(1);

/// A kind of database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// What it holds, for complaints, such as `history`.
    pub name: &'static str,
    /// The number by which such a file is known (`PRAGMA application_id`).
    pub application: i32,
    /// What leads from each version of the schema to the next, the first one from nothing. Their number is the version that this
    /// program knows (`PRAGMA user_version`).
    pub steps: &'static [&'static str],
}

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is none, or nothing is in it.
    #[error("{}: no {name} is there", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it would hold.
        name: &'static str,
    },
    /// It is something else: a folder, no database, or one of another program.
    #[error("{}: is {is}, no {name} of mantissa; give another file, or move this one away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it would hold.
        name: &'static str,
        /// What it is.
        is: String,
    },
    /// A newer program wrote it.
    #[error(
        "{}: schema {version} is newer than this program's {known}; use the mantissa that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version that it declares.
        version: i64,
        /// The newest that this program knows.
        known: usize,
    },
    /// It was cut short or changed.
    #[error("{}: is damaged ({detail}); restore it from a copy, or move it away and start another", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// It cannot be written.
    #[error("{}: cannot be opened for writing ({detail}); make it and its folder writable, or give another file", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// The machine failed, or another process wrote for too long.
    #[error("{}: {detail}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// The file system failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DatabaseError {
    /// Makes the error of a statement that failed on the database at a path.
    pub fn at(path: &Path) -> impl Fn(rusqlite::Error) -> Self {
        let path = path.to_owned();
        move |error| {
            let (path, detail) = (path.clone(), error.to_string());
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    Self::Damaged { path, detail }
                }
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                    Self::ReadOnly { path, detail }
                }
                // A table that is not there, or a value that has not the type of its column.
                Some(ErrorCode::Unknown) | None => Self::Damaged { path, detail },
                Some(_) => Self::Failed { path, detail },
            }
        }
    }
}

/// Opens the database at a path to read it.
///
/// # Errors
/// When there is none, or it is none that this program understands.
pub(crate) fn open_database(path: &Path, layout: &Layout) -> Result<Connection, DatabaseError> {
    let missing = || DatabaseError::Missing { path: path.to_owned(), name: layout.name };
    if !is_database_file(path, layout)? {
        return Err(missing());
    }
    // Not read-only: what a killed writer left is put back by whoever comes next.
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    match version(&connection, path, layout)? {
        0 => Err(missing()),
        version if version == layout.steps.len() => Ok(connection),
        _ => update(&mut connection, path, layout).map(|()| connection),
    }
}

/// Opens the database at a path to write it, and makes it and the folders above it where there is none.
///
/// # Errors
/// When it cannot be made or written, or is none that this program understands.
pub(crate) fn make_database(path: &Path, layout: &Layout) -> Result<Connection, DatabaseError> {
    is_database_file(path, layout)?;
    let made = make_folder(folder_of(path))?;
    let opened = (|| {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut connection = connect(path, flags)?;
        if version(&connection, path, layout)? < layout.steps.len() {
            update(&mut connection, path, layout)?;
        }
        Ok(connection)
    })();
    if opened.is_err() {
        for folder in &made {
            remove_if_empty(folder);
        }
    }
    opened
}

/// Whether there is a file, which may be a database.
fn is_database_file(path: &Path, layout: &Layout) -> Result<bool, DatabaseError> {
    match is_there(path)? {
        Some(found) if !found.is_file() => Err(DatabaseError::Foreign {
            path: path.to_owned(),
            name: layout.name,
            is: kind(found.file_type()).to_owned(),
        }),
        found => Ok(found.is_some()),
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, DatabaseError> {
    let failed = DatabaseError::at(path);
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(PATIENCE).map_err(&failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(&failed)?;
    Ok(connection)
}

/// The version of the schema; 0 where there is nothing yet.
fn version(connection: &Connection, path: &Path, layout: &Layout) -> Result<usize, DatabaseError> {
    let failed = DatabaseError::at(path);
    let foreign = |is: &str| DatabaseError::Foreign {
        path: path.to_owned(),
        name: layout.name,
        is: is.to_owned(),
    };
    // One state of the file is asked, not those before and after another process made it.
    let alone = connection.is_autocommit().then(|| connection.unchecked_transaction());
    let _one_state = alone.transpose().map_err(&failed)?;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application =
        number("PRAGMA application_id").map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => foreign("no database"),
            _ => failed(error),
        })?;
    let version = number("PRAGMA user_version").map_err(&failed)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(&failed)?;
    if (application, version, tables) == (0, 0, 0) {
        return Ok(0);
    }
    if application != i64::from(layout.application) {
        return Err(foreign("a database of another program"));
    }
    let known = layout.steps.len();
    match usize::try_from(version) {
        Ok(version) if (1..=known).contains(&version) => Ok(version),
        Ok(newer) if newer > known => {
            Err(DatabaseError::Newer { path: path.to_owned(), version, known })
        }
        _ => Err(DatabaseError::Damaged {
            path: path.to_owned(),
            detail: format!("it has no schema {version}"),
        }),
    }
}

/// Does the steps that the schema lacks, all or none.
fn update(connection: &mut Connection, path: &Path, layout: &Layout) -> Result<(), DatabaseError> {
    let failed = DatabaseError::at(path);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    // Asked again: another process may have done it while this one waited.
    let from = version(&transaction, path, layout)?;
    for step in &layout.steps[from..] {
        transaction.execute_batch(step).map_err(&failed)?;
    }
    transaction.pragma_update(None, "application_id", layout.application).map_err(&failed)?;
    transaction.pragma_update(None, "user_version", layout.steps.len() as i64).map_err(&failed)?;
    transaction.commit().map_err(&failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Layout = Layout {
        name: "list",
        application: 0x6d61_6e74,
        steps: &["CREATE TABLE a (x INTEGER) STRICT"],
    };
    const TWO: Layout = Layout {
        steps: &[
            "CREATE TABLE a (x INTEGER) STRICT",
            "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 7",
        ],
        ..ONE
    };

    #[test]
    fn an_older_schema_is_brought_up_to_date_and_a_newer_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/list.db");
        assert!(matches!(open_database(&path, &ONE), Err(DatabaseError::Missing { .. })));
        let old = make_database(&path, &ONE).unwrap();
        old.execute("INSERT INTO a VALUES (1)", []).unwrap();
        drop(old);
        let new = open_database(&path, &TWO).unwrap();
        let sum: i64 = new.query_row("SELECT x + y FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 8);
        drop(new);
        for error in [open_database(&path, &ONE).err(), make_database(&path, &ONE).err()] {
            let error = error.unwrap().to_string();
            assert!(error.contains("schema 2 is newer than this program's 1; use the"), "{error}");
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_old_schema() {
        const BROKEN: Layout = Layout {
            steps: &[ONE.steps[0], "CREATE TABLE b (x INTEGER); CREATE TABLE a (x)"],
            ..ONE
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.db");
        make_database(&path, &ONE).unwrap();
        assert!(make_database(&path, &BROKEN).is_err());
        let old = open_database(&path, &ONE).unwrap();
        let tables: i64 =
            old.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }
}
