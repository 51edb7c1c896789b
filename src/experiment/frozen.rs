//! `plan.json`: what an experiment is, fixed before its first run, so that any process on any machine can do a run of it by its
//! number.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::session::json;
use super::{Experiment, ExperimentError, identity};
use crate::formatting;
use crate::model::Engine;
use crate::record::files::PLAN;
use crate::record::{DataFacts, Environment, Identity, SCHEMA};
use crate::spec::{Plan, Reference, check_names};
use crate::store::{self, StoreError};

/// What an experiment is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Frozen {
    schema: u32,
    pub(super) plan: Plan,
    #[serde(default)]
    pub(super) engine: Engine,
    /// The program that may do its runs.
    pub(super) build: String,
    pub(super) data: DataFacts,
    /// The digest of the weights that runs start from, where these are given.
    pub(super) weights: Option<String>,
    /// What is to be said of the data and the model.
    pub(super) notes: Vec<String>,
    /// The kinds of machine on which is timed; none: one machine of any kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) kinds: Vec<String>,
    /// What was published.
    pub(super) reference: Option<Reference>,
    /// SHA-256 of all this as compact JSON, with an empty text in this place: a plan that somebody changed is another.
    digest: String,
}

impl Frozen {
    /// An experiment of this program that is timed on these kinds of machine.
    pub(super) fn of(experiment: &Experiment, environment: &Environment, kinds: &[String]) -> Self {
        let Experiment { plan, task, reference } = experiment;
        let (engine, data) = (task.model.engine(), task.data.facts());
        let mut notes = task.data.notes();
        notes.extend(task.notes.iter().cloned());
        notes.extend((engine == Engine::Candle).then(|| super::OF_CANDLE.to_owned()));
        let weights = task.model.given_digest().map(str::to_owned);
        let frozen = Self {
            digest: String::new(),
            schema: SCHEMA,
            plan: plan.clone(),
            engine,
            build: identity::build(plan, environment),
            data,
            weights,
            notes,
            kinds: kinds.to_vec(),
            reference: reference.clone(),
        };
        Self { digest: frozen.digest(), ..frozen }
    }

    fn digest(&self) -> String {
        let rest = Self { digest: String::new(), ..self.clone() };
        formatting::hex(&Sha256::digest(serde_json::to_vec(&rest).unwrap_or_default()))
    }

    /// What a folder holds; none where there is no plan in it.
    ///
    /// # Errors
    /// When the file cannot be read, or is none of this program's.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>, ExperimentError> {
        let path = folder.join(PLAN);
        if !store::exists(&path)? {
            return Ok(None);
        }
        let unreadable = |error: serde_json::Error| ExperimentError::NoPlan {
            path: path.clone(),
            reason: format!("is not a plan of this version ({error})"),
        };
        let found: Self = serde_json::from_slice(&store::read(&path)?).map_err(unreadable)?;
        if found.digest != found.digest() {
            let reason = "was changed since it was written".to_owned();
            return Err(ExperimentError::NoPlan { path, reason });
        }
        // They become parts of paths.
        check_names("its kinds of machine", &found.kinds)
            .map_err(|reason| ExperimentError::NoPlan { path, reason })?;
        Ok(Some(found))
    }

    /// As [`Frozen::find`], of a folder that must have a plan.
    ///
    /// # Errors
    /// As [`Frozen::find`], and when there is none.
    pub(super) fn read(folder: &Path) -> Result<Self, ExperimentError> {
        Self::find(folder)?.ok_or_else(|| ExperimentError::NoPlan {
            path: folder.join(PLAN),
            reason: "is missing".to_owned(),
        })
    }

    /// Writes it into a folder, unless it is there.
    pub(super) fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let (name, contents) = (Path::new(PLAN), json(self));
        let path = folder.join(name);
        if store::exists(&path)? && store::read(&path)? == contents {
            return Ok(());
        }
        store::write_below(folder, name, &contents).map(drop)
    }

    /// Why runs of this plan are none of `other`'s, whatever they run on.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let [there, here] = [self, other];
        let plans = identity::differences_of_plans(
            (&there.plan, &there.data),
            (&here.plan, &here.data),
            |_| true,
        );
        let kinds = difference_of_kinds(&self.kinds, &other.kinds);
        let anywhere = Environment::default();
        let [there, here] = [there, here].map(|frozen| identity::identity(frozen, None, &anywhere));
        let weights =
            (self.weights != other.weights).then(|| "its runs start from other weights".to_owned());
        let there = Identity { plan: here.plan.clone(), ..there };
        let others = identity::differences_on_any_machine(&there, &here);
        plans.into_iter().chain(weights).chain(kinds).chain(others).collect()
    }
}

/// How the kinds of machine of two plans differ.
pub(super) fn difference_of_kinds(there: &[String], here: &[String]) -> Option<String> {
    let [one, other] = [there, here].map(|kinds| match kinds {
        [] => "no kinds of machine".to_owned(),
        kinds => format!("the kinds of machine {}", formatting::list(kinds)),
    });
    let how = if here.is_empty() { ": do its units with mantissa run" } else { "" };
    (there != here).then(|| format!("its plan names {one}, this one {other}{how}"))
}
