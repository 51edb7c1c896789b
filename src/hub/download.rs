//! Downloads, by the crate `hf-hub`.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::{HubError, Kind, Listener, Repository, Transfer};
use crate::store;

/// Folders within each other in a repository, at most.
const NESTED: usize = 8;

/// Letters of a SHA-256 in hexadecimal digits.
const DIGEST: usize = 64;

/// Why nothing came.
struct Why {
    what: String,
    /// Whether the hub says that there is no such file.
    is_missing: bool,
}

impl Why {
    fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), is_missing: false }
    }
}

/// The paths of the files of a repository.
pub(super) fn list(repository: &Repository<'_>) -> Result<Vec<String>, HubError> {
    let failed = |why: Why| refused(repository, "its files cannot be listed", why);
    let (repo, _) = places(repository).map_err(failed)?;
    let info = api().and_then(|api| api.repo(repo).info().map_err(reason)).map_err(failed)?;
    Ok(info.siblings.into_iter().map(|file| file.rfilename).collect())
}

/// The paths of the files of a repository that are in the cache.
pub(super) fn kept(repository: &Repository<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok((repo, cache)) = places(repository) {
        let folder = cache.path().join(repo.folder_name());
        let commit = store::read_to_string(&folder.join("refs").join(revision(repository)));
        if let Ok(commit) = commit {
            gather(&folder.join("snapshots").join(commit.trim()), "", &mut names);
        }
    }
    names
}

/// Adds the files below a folder by their paths from there. What cannot be read is not there.
fn gather(folder: &Path, below: &str, names: &mut Vec<String>) {
    if below.split('/').count() > NESTED {
        return;
    }
    for path in store::list(folder).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = if below.is_empty() { name.into_owned() } else { format!("{below}/{name}") };
        if path.is_dir() {
            gather(&path, &name, names);
        } else if store::is_file(&path).unwrap_or(false) {
            names.push(name);
        }
    }
}

/// Where a file is on this machine, which is downloaded if it is not there.
pub(super) fn file(repository: &Repository<'_>, file: &str) -> Result<PathBuf, HubError> {
    let action = format!("{file} cannot be downloaded");
    let failed = |why: Why| refused(repository, &action, why);
    let (repo, cache) = places(repository).map_err(failed)?;
    if let Some(path) = cache.repo(repo.clone()).get(file) {
        return Ok(path);
    }
    let size = Cell::new(0);
    let heard = Heard { file, done: 0, size: &size, listen: repository.listen };
    let path = api()
        .and_then(|api| api.repo(repo).download_with_progress(file, heard).map_err(reason))
        .map_err(failed)?;
    match damage(&path, size.get()) {
        None => Ok(path),
        Some(what) => {
            // The link, and what it leads to.
            for path in [path.canonicalize().ok(), Some(path)].into_iter().flatten() {
                let _ = store::remove(&path);
            }
            Err(failed(Why::of(format!("{what}; try again"))))
        }
    }
}

/// What is wrong with a file that was downloaded. A large one is kept under its SHA-256.
fn damage(path: &Path, size: u64) -> Option<String> {
    let (found, name) = match (store::open(path), path.canonicalize()) {
        (Ok((_, found)), Ok(blob)) => (found, blob.file_name()?.to_string_lossy().into_owned()),
        (Err(error), _) => return Some(error.to_string()),
        (_, Err(error)) => return Some(error.to_string()),
    };
    if found != size {
        return Some(format!("{found} of {size} bytes came"));
    }
    let is_digest = name.len() == DIGEST && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return None;
    }
    match store::sha256(path) {
        Ok(digest) if digest.eq_ignore_ascii_case(&name) => None,
        Ok(_) => Some("other bytes came than the hub has".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// What `hf-hub` calls a repository, and where it keeps files.
fn places(repository: &Repository<'_>) -> Result<(Repo, Cache), Why> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    if std::env::var_os("HF_HOME").is_none() && home.is_none() {
        // The crate would panic.
        return Err(Why::of("there is no home folder to keep it in: set HF_HOME"));
    }
    let kind = match repository.kind {
        Kind::Dataset => RepoType::Dataset,
        Kind::Model => RepoType::Model,
    };
    let (name, revision) = (repository.name.repository.clone(), revision(repository).to_owned());
    Ok((Repo::with_revision(name, kind, revision), Cache::from_env()))
}

/// The branch, tag or commit that is meant.
fn revision<'a>(repository: &'a Repository<'_>) -> &'a str {
    repository.name.revision.as_deref().unwrap_or("main")
}

/// What makes connections, unless `HF_HUB_OFFLINE` forbids them.
fn api() -> Result<Api, Why> {
    let offline = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
    if ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()) {
        return Err(Why::of("HF_HUB_OFFLINE is set"));
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut builder = ApiBuilder::from_cache(Cache::from_env()).with_progress(false);
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(token) = variable("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    builder.build().map_err(reason)
}

#[expect(clippy::needless_pass_by_value, reason = "errors are passed on by map_err")]
fn reason(error: ApiError) -> Why {
    let other = |error: &dyn std::error::Error| {
        Why::of(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let ApiError::RequestError(request) = &error else {
        return other(&error);
    };
    let ureq::Error::StatusCode(status) = **request else {
        return other(request);
    };
    let what = match status {
        401 | 403 => ": there is no such repository, or it takes a token",
        404 => ": there is no such repository, revision or file",
        _ => "",
    };
    Why { what: format!("HTTP status {status}{what}"), is_missing: status == 404 }
}

fn refused(repository: &Repository<'_>, action: &str, why: Why) -> HubError {
    let Why { what, is_missing } = why;
    HubError { is_missing, ..repository.error(format!("{action}: {what}")) }
}

/// Listens to a download.
struct Heard<'a> {
    file: &'a str,
    done: u64,
    /// The size that the hub says the file has.
    size: &'a Cell<u64>,
    listen: Option<Listener<'a>>,
}

impl Heard<'_> {
    fn tell(&self) {
        if let Some(listen) = self.listen {
            listen(Transfer { file: self.file, done: self.done, of: self.size.get() });
        }
    }
}

impl Progress for Heard<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.size.set(size as u64);
        self.done = 0;
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.tell();
    }

    fn finish(&mut self) {}
}
