//! One run of an experiment in its folder: its lock, its checkpoint and its record.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::session::{Session, json};
use super::{Event, ExperimentError, identity, kept};
use crate::record::files::{checkpoint_path, record_path, weights_path};
use crate::record::{Failure, Identity, RunMachine, RunRecord, RunSummary, Status};
use crate::spec::{CheckpointEvery, VariantPlan};
use crate::store::{self, FileLock, LockState, StoreError};
use crate::train::{self, Checkpoint, Ended, Follow, RunError, Setup, Trained, Wants};

/// Does a run, from its checkpoint where there is one, and leaves its record. None where it was stopped on its way, and left a
/// checkpoint.
///
/// # Errors
/// When another process does it, its checkpoint is of another experiment, or a file cannot be written.
pub(super) fn complete(
    session: &Session<'_>,
    setup: Setup<'_>,
    (variant, seed): (&VariantPlan, u64),
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Option<RunRecord>, ExperimentError> {
    if session.is_stopped() {
        return Ok(None);
    }
    let run = (&*variant.name, seed);
    let (name, out) = (format!("{}, seed {seed}", variant.name), session.out());
    let lock = take_lock(session, &record_path(out, run.0, seed), &name)?;
    // Another process may have done it since the folder was looked at.
    if let Some(record) = kept::finished(session, (variant, seed))? {
        lock.finish();
        return Ok(Some(record));
    }
    listen(Event::RunStarted { variant: run.0, seed });
    let identity = session.identity(Some(&variant.policy));
    let from = find_checkpoint(session, run, &identity, listen)?;
    if let Some(checkpoint) = &from {
        listen(Event::Resumed { variant: run.0, seed, steps: checkpoint.steps() });
    }
    let of = session.plan().train.steps;
    let every = session.plan().train.checkpoint_every;
    let (kept_at, error) = (Instant::now(), None);
    let mut course = Course {
        session,
        run,
        identity: &identity,
        lock: &lock,
        of,
        every,
        kept_at,
        error,
        listen,
    };
    let ended = train::run(setup, (variant, seed), from, &mut course);
    if let Some(error) = course.error {
        return Err(error);
    }
    let (record, weights) = match ended {
        Ok(Ended::Stopped) => return Ok(None),
        Ok(Ended::Trained(trained)) => {
            let Trained { record, weights } = *trained;
            (record, weights)
        }
        Err(error) => (failed(variant, seed, error.to_string()), None),
    };
    let machine = Some(RunMachine::of(session.options.environment));
    let record = RunRecord { identity: Some(identity), machine, ..record };
    if lock.is_lost() {
        return Err(lost(session, &name));
    }
    if let Some(weights) = weights {
        store::write_below(out, &weights_path(Path::new(""), run.0, seed), &weights)?;
    }
    save(out, &record)?;
    remove_checkpoint(out, run)?;
    lock.finish();
    listen(Event::RunFinished { variant: run.0, summary: &record.summary });
    Ok(Some(record))
}

/// Leaves the record of a run that took its process with it.
///
/// # Errors
/// When another process does the run, or its record cannot be written.
pub(super) fn give_up(
    session: &Session<'_>,
    (variant, seed): (&VariantPlan, u64),
    reason: String,
) -> Result<RunRecord, ExperimentError> {
    let name = format!("{}, seed {seed}", variant.name);
    let lock = take_lock(session, &record_path(session.out(), &variant.name, seed), &name)?;
    let identity = Some(session.identity(Some(&variant.policy)));
    let machine = Some(RunMachine::of(session.options.environment));
    let record = RunRecord { identity, machine, ..failed(variant, seed, reason) };
    save(session.out(), &record)?;
    lock.finish();
    Ok(record)
}

/// Takes the lock of a file of the folder.
///
/// # Errors
/// When another process has it.
pub(super) fn take_lock(
    session: &Session<'_>,
    file: &Path,
    what: &str,
) -> Result<FileLock, ExperimentError> {
    match FileLock::take(file, session.options.folder.holder())? {
        Ok(lock) => Ok(lock),
        Err(LockState::Held(holder)) => Err(held(session, what, holder)),
        Err(_) => Err(lost(session, what)),
    }
}

fn held(session: &Session<'_>, what: &str, holder: String) -> ExperimentError {
    ExperimentError::Held { folder: session.out().to_owned(), what: what.to_owned(), holder }
}

/// The error of a lock that somebody else took over.
fn lost(session: &Session<'_>, what: &str) -> ExperimentError {
    held(session, what, "another process, which took this one for dead".to_owned())
}

/// Follows a run: passes its steps on, keeps checkpoints, and stops it when that is asked for.
struct Course<'a, 'l> {
    session: &'a Session<'a>,
    run: (&'a str, u64),
    identity: &'a Identity,
    lock: &'a FileLock,
    of: u64,
    every: CheckpointEvery,
    /// When the last checkpoint was kept, or the run began.
    kept_at: Instant,
    error: Option<ExperimentError>,
    listen: &'a mut (dyn FnMut(Event<'_>) + 'l),
}

impl Course<'_, '_> {
    fn write(&self, file: &[u8]) -> Result<(), ExperimentError> {
        let (session, (variant, seed)) = (self.session, self.run);
        if self.lock.is_lost() {
            return Err(lost(session, &format!("{variant}, seed {seed}")));
        }
        let name = checkpoint_path(Path::new(""), variant, seed);
        store::write_below(session.out(), &name, file)?;
        Ok(())
    }
}

impl Follow for Course<'_, '_> {
    fn step(&mut self, done: u64) {
        (self.listen)(Event::Step { done, of: self.of });
    }

    fn wants(&mut self, done: u64) -> Wants {
        if self.session.is_stopped() || self.lock.seems_lost() {
            return Wants::Stop;
        }
        let is_due = match self.every {
            CheckpointEvery::Never => false,
            CheckpointEvery::Steps(steps) => done.is_multiple_of(steps),
            CheckpointEvery::Seconds(seconds) => {
                self.kept_at.elapsed() >= Duration::from_secs_f64(seconds)
            }
        };
        if is_due && done < self.of { Wants::Checkpoint } else { Wants::Nothing }
    }

    fn keep(&mut self, checkpoint: Checkpoint) -> Result<ControlFlow<()>, RunError> {
        let file = checkpoint.to_file(self.identity.clone())?;
        if let Err(error) = self.write(&file) {
            self.error = Some(error);
            return Ok(ControlFlow::Break(()));
        }
        self.kept_at = Instant::now();
        Ok(ControlFlow::Continue(()))
    }
}

/// The checkpoint that a run goes on from.
///
/// # Errors
/// When there is one of another experiment.
fn find_checkpoint(
    session: &Session<'_>,
    (variant, seed): (&str, u64),
    here: &Identity,
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Checkpoint>, ExperimentError> {
    let path = checkpoint_path(session.out(), variant, seed);
    if !store::exists(&path)? {
        return Ok(None);
    }
    let mut unusable = |reason: &str| {
        listen(Event::CheckpointNotUsed { variant, seed, reason });
        Ok(None)
    };
    let checkpoint = match Checkpoint::from_file(&store::read(&path)?) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let error = RunError::from(error);
            return unusable(&format!("its checkpoint cannot be read ({error})"));
        }
    };
    let there = checkpoint.identity();
    let of_another = there.map(|there| identity::differences_on_any_machine(there, here));
    match of_another {
        Some(why) if why.is_empty() && checkpoint.run() == (variant, seed) => {}
        Some(why) if why.is_empty() => {
            let (variant, seed) = checkpoint.run();
            let variant = variant.escape_debug();
            return unusable(&format!("its checkpoint is that of {variant}, seed {seed}"));
        }
        why => {
            let why = why.unwrap_or_default().join("; ");
            let why = format!("{}: {why}", path.display());
            return Err(ExperimentError::Occupied { folder: session.out().to_owned(), why });
        }
    }
    match there.and_then(|there| identity::difference_of_machines(there, here)) {
        Some(difference) => unusable(&format!("its checkpoint was {difference}")),
        None => Ok(Some(checkpoint)),
    }
}

/// Removes what a run that is over needs no more, and what a process left that was killed behind its record.
pub(super) fn remove_leftovers(out: &Path, run: (&str, u64)) -> Result<(), StoreError> {
    remove_checkpoint(out, run)?;
    store::remove_free_lock(&record_path(out, run.0, run.1))
}

fn remove_checkpoint(out: &Path, (variant, seed): (&str, u64)) -> Result<(), StoreError> {
    let path = checkpoint_path(out, variant, seed);
    if store::exists(&path)? { store::remove(&path) } else { Ok(()) }
}

/// Writes the record of a run into its place.
pub(super) fn save(out: &Path, record: &RunRecord) -> Result<(), StoreError> {
    let name = record_path(Path::new(""), &record.variant, record.summary.seed);
    store::write_below(out, &name, &json(record)).map(drop)
}

/// The record of a run that could not be done.
pub(super) fn failed(variant: &VariantPlan, seed: u64, reason: String) -> RunRecord {
    let summary = RunSummary {
        seed,
        status: Status::Failed,
        test_accuracy: None,
        test_squared_error: None,
        test_perplexity: None,
        final_loss: None,
        steps: 0,
        skipped_steps: 0,
        weights_digest: None,
        failure: Some(Failure { step: 0, layer: None, reason }),
    };
    RunRecord::new(&variant.name, summary)
}
