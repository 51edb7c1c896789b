//! What decides a run, and in what two experiments differ: runs that agree in all of it can stand in one comparison,
//! whatever experiment asked for them.

use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::frozen::Frozen;
use crate::data;
use crate::formatting;
use crate::precision::Policy;
use crate::record::{DataFacts, Environment, Identity, Results, VariantResult};
use crate::spec::{ModelPlan, Plan, VariantPlan, values_that_differ};
use crate::store;

/// More values that differ are only counted.
const MOST_DIFFERENCES: usize = 6;

/// What a plan says of a run of any policy. Where the data are is no part of it, since their digest tells what they are; nor
/// are seeds, variants and thresholds, or how long is timed.
pub(super) fn deciding(plan: &Plan) -> Value {
    let mut deciding = json!({
        "data": { "augment": data::augmentation(&plan.data) },
        "model": plan.model,
        "train": plan.train,
        "measure": {
            "census_every": plan.measure.census_every,
            "inference_batch": plan.measure.inference_batch,
        },
    });
    // When a run is kept changes nothing of it.
    if let Some(train) = deciding["train"].as_object_mut() {
        train.remove("checkpoint_every");
    }
    // Runs of plans that serve nothing are those of older versions.
    if let Some(serving) = plan.measure.serving {
        deciding["measure"]["serving"] = json!(serving);
    }
    deciding
}

/// What decides the runs of a policy of an experiment in this environment; without a policy, what those of all policies have in
/// common.
pub(super) fn identity(
    frozen: &Frozen,
    policy: Option<&Policy>,
    environment: &Environment,
) -> Identity {
    let Frozen { plan, build, data, weights, .. } = frozen;
    let decided = match weights {
        Some(digest) => json!([deciding(plan), policy, digest]),
        None => json!([deciding(plan), policy]),
    };
    Identity {
        plan: formatting::hex(&Sha256::digest(decided.to_string())),
        build: build.clone(),
        device: environment.device_name.clone(),
        product_paths: environment.product_paths.clone(),
        data: data.clone(),
    }
}

/// The program that did runs of this plan, where it was this one in this environment.
pub(super) fn build(plan: &Plan, environment: &Environment) -> String {
    let Environment { version, git, source, build, .. } = environment;
    let commit = git.as_deref().unwrap_or("no commit");
    let program = match plan.model {
        ModelPlan::Own { .. } => format!(", in a program of SHA-256 {}", program_digest()),
        _ => String::new(),
    };
    format!("mantissa {version} of {commit}, sources {source}, {build}{program}")
}

/// The digest of the running program, which has the code of a task made in Rust. Where it cannot be read no run is kept for
/// another process.
fn program_digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let file = std::env::current_exe().ok();
        let digest = file.and_then(|file| store::sha256(&file).ok());
        digest.unwrap_or_else(|| format!("unknown, process {}", std::process::id()))
    })
}

/// In what two runs of one variant differ, or a run and one that is to be.
pub(super) fn differences(there: &Identity, here: &Identity) -> Vec<String> {
    let mut why = differences_on_any_machine(there, here);
    why.extend(difference_of_machines(there, here));
    why
}

/// How what two runs ran on differs.
pub(super) fn difference_of_machines(there: &Identity, here: &Identity) -> Option<String> {
    if there.device != here.device {
        return Some(format!("run on {}, this is {}", there.device, here.device));
    }
    (there.product_paths != here.product_paths).then(|| {
        let [there, here] = [there, here].map(|identity| identity.product_paths.join(", "));
        format!("products ran as {there}, here as {here}")
    })
}

/// As [`differences`], but for what they ran on.
pub(super) fn differences_on_any_machine(there: &Identity, here: &Identity) -> Vec<String> {
    let mut why = Vec::new();
    if there.plan != here.plan {
        why.push("it is of another plan".to_owned());
    }
    if there.build != here.build {
        why.push(format!("built as {}, this is {}", there.build, here.build));
    }
    if there.data != here.data {
        let there = if there.data == DataFacts::default() {
            "data that are not recorded".to_owned()
        } else {
            there.data.to_string()
        };
        why.push(format!("learnt from {there}; this is {}", here.data));
    }
    why
}

/// Why the runs of a results file cannot stand beside those of an experiment in this environment: every value of the plans that
/// differs by its key, and what else differs.
pub(super) fn whole_differences(
    frozen: &Frozen,
    environment: &Environment,
    old: &Results,
) -> Vec<String> {
    let old_data = old.data.clone().unwrap_or_default();
    let has_runs = |variant: &VariantPlan| {
        let of_plan = |result: &&VariantResult| result.name == variant.name;
        old.variants.iter().find(of_plan).is_some_and(|result| !result.runs.is_empty())
    };
    let of_plan =
        differences_of_plans((&old.plan, &old_data), (&frozen.plan, &frozen.data), has_runs);
    let here = identity(frozen, None, environment);
    let there = Identity {
        plan: here.plan.clone(),
        build: build(&old.plan, &old.environment),
        device: old.environment.device_name.clone(),
        product_paths: old.environment.product_paths.clone(),
        data: old_data,
    };
    of_plan.into_iter().chain(differences(&there, &here)).collect()
}

/// How the runs of two plans differ: every value by its key, of the policies that of the variants that `counts`.
pub(super) fn differences_of_plans(
    (old, old_data): (&Plan, &DataFacts),
    (plan, data): (&Plan, &DataFacts),
    counts: impl Fn(&VariantPlan) -> bool,
) -> Option<String> {
    let mut values = values_that_differ("", &deciding(old), &deciding(plan));
    if old_data != data {
        let [there, here] = [old, plan].map(|plan| json!(plan.data));
        let found = values_that_differ("data", &there, &here);
        values.extend(found.into_iter().filter(|found| !found.starts_with("data.augment")));
    }
    for variant in old.variants.iter().filter(|variant| counts(variant)) {
        let planned = plan.variants.iter().find(|planned| planned.name == variant.name);
        if let Some(planned) = planned.filter(|planned| planned.policy != variant.policy) {
            let key = format!("the policy of {}", variant.name);
            values.extend(values_that_differ(&key, &json!(variant.policy), &json!(planned.policy)));
        }
    }
    if values.len() > MOST_DIFFERENCES {
        let more = values.len() - MOST_DIFFERENCES;
        values.truncate(MOST_DIFFERENCES);
        values.push(format!("{} more", formatting::plural(more, "value")));
    }
    (!values.is_empty()).then(|| format!("another plan: {}", values.join(", ")))
}
