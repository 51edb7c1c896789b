//! From what is in a folder to its results, whoever did its runs.

use candle_core::Device;

use super::frozen::Frozen;
use super::session::{Machines, Session, Stage};
use super::timed::{self, Timed, TimingRecord};
use super::units::{refuse, timed_kinds, timed_variants, trained};
use super::{Event, ExperimentError, Options, identity, kept};
use crate::record::{Environment, Results, RunRecord};
use crate::spec::VariantPlan;
use crate::store::Folder;

/// Computes the results of a folder with a plan from the runs and the timed blocks that are there, and writes them. `environment` is
/// where this runs.
///
/// # Errors
/// When there is no plan, a run is of another experiment or by another build, or the results cannot be written.
#[doc(hidden)] // for the program
pub fn collect(
    folder: &Folder,
    environment: &Environment,
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Results, ExperimentError> {
    let out = folder.path();
    let frozen = Frozen::read(out)?;
    let build = identity::build(&frozen.plan, environment);
    if build != frozen.build {
        refuse(out, &[format!("its plan is by {}, this is {build}", frozen.build)])?;
    }
    let trained = trained(&frozen.plan);
    let device = Device::Cpu;
    let here = Options {
        folder,
        force: false,
        save_weights: false,
        stop: None,
        device: &device,
        environment,
    };
    let anywhere = Session { frozen: &frozen, options: here, machines: Machines::Any };
    let (records, lost) = kept::gather(&anywhere, &trained)?;
    for kept::Lost { variant, seed, reason } in &lost {
        listen(Event::NotKept { variant, seed: *seed, reason });
    }
    let of_runs = of_runs(environment, records.values().next());
    let session = anywhere.on(&of_runs);
    let runs: usize = trained.iter().map(|trained| trained.seeds.len()).sum();
    let variants = timed_variants(trained);
    let variants: Vec<&VariantPlan> = variants.iter().collect();
    let (kinds, mut timed) = (timed_kinds(&frozen.kinds), Vec::new());
    for kind in &kinds {
        timed.extend(kept_times(&session, kind.as_deref(), &variants, listen)?);
    }
    let is_whole = records.len() == runs
        && timed.len() == kinds.len()
        && timed.iter().all(|timed| timed.is_whole(&frozen.plan));
    let first = timed.first().filter(|_| is_whole);
    let stage = first.map_or(Stage::Running, |first| first.stage(&frozen.plan));
    // Times are of the machine that took them.
    let environment = timed.first().and_then(|timed| timed.environment.clone());
    let session = session.on(environment.as_ref().unwrap_or(&of_runs));
    let (results, path) = session.save(&records, &timed, stage)?;
    listen(Event::Saved(&path));
    Ok(results)
}

/// The timed blocks that are there, of a kind of machine where the plan names some.
fn kept_times(
    session: &Session<'_>,
    kind: Option<&str>,
    variants: &[&VariantPlan],
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Option<TimingRecord>, ExperimentError> {
    match timed::look_from_anywhere(session, kind, variants)? {
        Timed::Kept(record) => return Ok(Some(*record)),
        Timed::Never => {}
        Timed::Other(why) => refuse(session.out(), &why)?,
        Timed::Again(reason) => listen(Event::TimesNotKept { reason: &reason }),
    }
    Ok(None)
}

/// The environment of results without times: this program in it, and what the first run ran on.
fn of_runs(here: &Environment, record: Option<&RunRecord>) -> Environment {
    let Some(machine) = record.and_then(|record| record.machine.clone()) else {
        return here.clone();
    };
    Environment {
        device: machine.device,
        device_name: machine.device_name,
        product_paths: machine.product_paths,
        gpu: None,
        ..here.clone()
    }
}
