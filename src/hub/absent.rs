//! What a build without the feature `hub` has of the hub: nothing.

use std::path::PathBuf;

use super::{HubError, Repository};

pub(super) fn list(repository: &Repository<'_>) -> Result<Vec<String>, HubError> {
    Err(absent(repository))
}

pub(super) fn kept(_: &Repository<'_>) -> Vec<String> {
    Vec::new()
}

pub(super) fn file(repository: &Repository<'_>, _: &str) -> Result<PathBuf, HubError> {
    Err(absent(repository))
}

fn absent(repository: &Repository<'_>) -> HubError {
    let what = "this program was built without the feature hub, and downloads nothing".to_owned();
    repository.error(what)
}
