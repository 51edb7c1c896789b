//! Policies: which format holds parameters, which computes, which reduces, and how the loss is scaled.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Format, LossScale};

/// A precision policy. Text form: `params=f32,compute=f16,reduce=f32,scale=dynamic`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Holds the weights that the optimizer updates.
    pub params: Format,
    /// Holds operands and results of every operation.
    pub compute: Format,
    /// Sums: always f32, by the arithmetic contract.
    pub reduce: Format,
    /// The loss scale at the start.
    pub scale: LossScale,
}

/// A policy's text that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\"")]
pub struct PolicyError(pub String);

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "params={},compute={},reduce={}",
            self.params, self.compute, self.reduce
        )
    }
}

impl FromStr for Policy {
    type Err = PolicyError;
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Err(PolicyError(text.to_owned()))
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
