//! What decides a run, and in what two experiments differ: runs that agree in all of it can stand in one comparison,
//! whatever experiment asked for them.

use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::data;
use crate::formatting;
use crate::precision::Policy;
use crate::record::{DataFacts, Environment, Identity, Results};
use crate::spec::{ModelPlan, Plan, values_that_differ};
use crate::store;

/// More values that differ are only counted.
const MOST_DIFFERENCES: usize = 6;

/// What a plan says of a run of any policy. Where the data are is no part of it, since their digest tells what they are; nor
/// are seeds, variants and thresholds, or how long is timed.
fn deciding(plan: &Plan) -> Value {
    let mut deciding = json!({
        "data": { "augment": data::augmentation(&plan.data) },
        "model": plan.model,
        "train": plan.train,
        "measure": {
            "census_every": plan.measure.census_every,
            "inference_batch": plan.measure.inference_batch,
        },
    });
    // Runs of plans that serve nothing are those of older versions.
    if let Some(serving) = plan.measure.serving {
        deciding["measure"]["serving"] = json!(serving);
    }
    deciding
}

/// What decides the runs of a policy under this plan, with these data and the digest of the weights that they start from where
/// these are given, here and by this build; without a policy, what those
/// of all policies have in common.
pub(super) fn identity(
    plan: &Plan,
    policy: Option<&Policy>,
    environment: &Environment,
    (data, weights): (&DataFacts, Option<&str>),
) -> Identity {
    let Environment { version, git, source, build, .. } = environment;
    let commit = git.as_deref().unwrap_or("no commit");
    let program = match plan.model {
        ModelPlan::Own { .. } => format!(", in a program of SHA-256 {}", program_digest()),
        _ => String::new(),
    };
    let decided = match weights {
        Some(digest) => json!([deciding(plan), policy, digest]),
        None => json!([deciding(plan), policy]),
    };
    Identity {
        plan: formatting::hex(&Sha256::digest(decided.to_string())),
        build: format!("mantissa {version} of {commit}, sources {source}, {build}{program}"),
        device: environment.device_name.clone(),
        product_paths: environment.product_paths.clone(),
        data: data.clone(),
    }
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
    let mut why = Vec::new();
    if there.plan != here.plan {
        why.push("it is of another plan".to_owned());
    }
    if there.build != here.build {
        why.push(format!("built as {}, this is {}", there.build, here.build));
    }
    if there.device != here.device {
        why.push(format!("run on {}, this is {}", there.device, here.device));
    } else if there.product_paths != here.product_paths {
        let [there, here] = [there, here].map(|identity| identity.product_paths.join(", "));
        why.push(format!("products ran as {there}, here as {here}"));
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

/// Why the runs of a results file cannot stand beside those of this plan: every value of the plans that differs by its key, and
/// what else differs.
pub(super) fn whole_differences(
    plan: &Plan,
    (environment, data): (&Environment, &DataFacts),
    old: &Results,
) -> Vec<String> {
    let old_data = old.data.clone().unwrap_or_default();
    let there = identity(&old.plan, None, &old.environment, (&old_data, None));
    let here = identity(plan, None, environment, (data, None));
    let mut values = values_that_differ("", &deciding(&old.plan), &deciding(plan));
    if old_data != *data {
        let [there, here] = [&old.plan, plan].map(|plan| json!(plan.data));
        let found = values_that_differ("data", &there, &here);
        values.extend(found.into_iter().filter(|found| !found.starts_with("data.augment")));
    }
    for variant in old.variants.iter().filter(|variant| !variant.runs.is_empty()) {
        let policy = |plan: &Plan| {
            let planned = plan.variants.iter().find(|planned| planned.name == variant.name);
            planned.map(|planned| planned.policy)
        };
        if let (Some(there), Some(here)) = (policy(&old.plan), policy(plan))
            && there != here
        {
            let key = format!("the policy of {}", variant.name);
            values.extend(values_that_differ(&key, &json!(there), &json!(here)));
        }
    }
    if values.len() > MOST_DIFFERENCES {
        let more = values.len() - MOST_DIFFERENCES;
        values.truncate(MOST_DIFFERENCES);
        values.push(format!("{} more", formatting::plural(more, "value")));
    }
    let of_plan = (!values.is_empty()).then(|| format!("another plan: {}", values.join(", ")));
    let there = Identity { plan: here.plan.clone(), ..there };
    of_plan.into_iter().chain(differences(&there, &here)).collect()
}
