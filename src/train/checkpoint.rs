//! A run that is not over, as a file: one file of safetensors, so that it is there whole or not at all. Its tensors are what a
//! trainer keeps from one step to the next; what is no tensor is JSON, in a tensor of bytes.

use std::collections::BTreeMap;

use candle_core::{Device, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::run::Log;
use crate::ops::StepState;
use crate::record::Identity;
use crate::units::Bytes;

/// The tensor of the JSON.
const STATE: &str = "state.json";

/// What a checkpoint has beside tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// What the run belongs to; none before an experiment fills it in.
    pub(super) identity: Option<Identity>,
    pub(super) variant: String,
    pub(super) seed: u64,
    /// Steps done.
    pub(super) steps: u64,
    pub(super) end: StepState,
    /// What the run's state takes; none where memory is not measured.
    pub(super) held: Option<Bytes>,
    /// The record so far.
    pub(super) log: Log,
}

/// A run that is not over.
///
/// Only a run of the same program goes on from one: there is no version of the form.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub(super) state: State,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// The file of a run that an experiment did with this identity.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn to_file(&self, identity: Identity) -> Result<Vec<u8>> {
        let state = State { identity: Some(identity), ..self.state.clone() };
        let json = serde_json::to_vec(&state).map_err(Error::wrap)?;
        let length = json.len();
        let json = Tensor::from_vec(json, length, &Device::Cpu)?;
        let mut named: Vec<(&str, Tensor)> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        named.push((STATE, json));
        Ok(safetensors::serialize(named, None)?)
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// When it is cut short, or no checkpoint of this program.
    pub fn from_file(bytes: &[u8]) -> Result<Self> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        let mut tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let json = tensors.remove(STATE).ok_or_else(|| missing(STATE))?.to_vec1::<u8>()?;
        let state: State = serde_json::from_slice(&json).map_err(Error::wrap)?;
        if state.log.steps() != state.steps {
            return Err(Error::Msg("its record is not of as many steps".to_owned()).bt());
        }
        Ok(Self { state, tensors })
    }

    /// What the run belongs to.
    pub fn identity(&self) -> Option<&Identity> {
        self.state.identity.as_ref()
    }

    /// The name of the variant, and the seed.
    pub fn run(&self) -> (&str, u64) {
        (&self.state.variant, self.state.seed)
    }

    /// Steps that are done.
    pub fn steps(&self) -> u64 {
        self.state.steps
    }
}

/// The error of a checkpoint without a tensor.
pub(super) fn missing(name: &str) -> Error {
    Error::Msg(format!("it has no tensor \"{name}\"")).bt()
}
