//! From what is in a folder to its results, whoever did its runs.

use candle_core::Device;

use super::frozen::Frozen;
use super::session::{Machines, Session, Stage};
use super::timed::{self, Timed};
use super::units::{refuse, timed_variants, trained};
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
    let timed = timed::read(out)?;
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
    // Times are of the machine that took them.
    let environment = match timed.and_then(|timed| timed.environment) {
        Some(timed) => timed,
        None => of_runs(environment, records.values().next()),
    };
    let session = Session { options: Options { environment: &environment, ..here }, ..anywhere };
    let runs: usize = trained.iter().map(|trained| trained.seeds.len()).sum();
    let all_there = records.len() == runs;
    let variants = timed_variants(trained);
    let variants: Vec<&VariantPlan> = variants.iter().collect();
    let wanted = session.nothing_timed();
    let timing = match timed::look((out, false), &frozen.plan, &variants, &wanted)? {
        Timed::Kept(record) => *record,
        Timed::Never => wanted,
        Timed::Other(why) => {
            refuse(out, &why)?;
            wanted
        }
        Timed::Again(reason) => {
            listen(Event::TimesNotKept { reason: &reason });
            wanted
        }
    };
    let stage = if all_there { timing.stage(&frozen.plan) } else { Stage::Running };
    let (results, path) = session.save(&records, &timing.timings, stage)?;
    listen(Event::Saved(&path));
    Ok(results)
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
