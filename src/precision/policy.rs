//! Policies: which format holds parameters, which computes, which reduces, and how the loss is scaled.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DynamicScale, Format, FormatError, LossScale, ScaleError};

/// A precision policy. Text form: `params=f32,compute=f16,reduce=f32,scale=dynamic`; a name of [`Policy::NAMED`] or
/// [`Policy::ALIASES`] is understood too.
///
/// ```
/// use mantissa::precision::Policy;
///
/// let policy: Policy = "fp16-mixed".parse()?;
/// assert_eq!(policy.to_string(), "params=f32,compute=f16,reduce=f32,scale=dynamic");
/// # Ok::<(), mantissa::precision::PolicyError>(())
/// ```
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

/// Invalid text of a policy.
///
/// ```
/// use mantissa::precision::{Policy, PolicyError};
///
/// let error = "params=f32,compute=f16,reduce=f32".parse::<Policy>().unwrap_err();
/// assert!(matches!(error, PolicyError::Missing { key: "scale", .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither a name nor a text form.
    #[error("unknown policy \"{text}\"; known: {known}, or a text such as {example}", known = known_names(), example = EXAMPLE)]
    Unknown {
        /// What was typed.
        text: String,
    },
    /// A key that there is not.
    #[error("policy \"{text}\": unknown key \"{key}\"; known: params, compute, reduce, scale")]
    UnknownKey {
        /// What was typed.
        text: String,
        /// The key.
        key: String,
    },
    /// The same key twice.
    #[error("policy \"{text}\": {key} is given twice")]
    Repeated {
        /// What was typed.
        text: String,
        /// The key.
        key: &'static str,
    },
    /// A key is not there.
    #[error("policy \"{text}\": {key} is missing; write it as in {example}", example = EXAMPLE)]
    Missing {
        /// What was typed.
        text: String,
        /// The key.
        key: &'static str,
    },
    /// An invalid format.
    #[error("policy \"{text}\": {key}: {source}")]
    Format {
        /// What was typed.
        text: String,
        /// The key.
        key: &'static str,
        /// Why.
        source: FormatError,
    },
    /// An invalid loss scale.
    #[error("policy \"{text}\": {source}")]
    Scale {
        /// What was typed.
        text: String,
        /// Why.
        source: ScaleError,
    },
    /// Sums in another format than f32.
    #[error("policy \"{text}\": reduce is {reduce}; sums are accumulated in f32: write reduce=f32")]
    Reduce {
        /// What was typed.
        text: String,
        /// The format.
        reduce: String,
    },
    /// Parameters that are neither master weights nor what computes.
    #[error(
        "policy \"{text}\": params is {params}; it must be f32 (mixed) or the format of compute, {compute}"
    )]
    Params {
        /// What was typed.
        text: String,
        /// The format of the parameters.
        params: String,
        /// The format that computes.
        compute: String,
    },
}

const EXAMPLE: &str = "params=f32,compute=f16,reduce=f32,scale=dynamic";

/// The keys of the text form, in the order in which they are printed.
const KEYS: [&str; 4] = ["params", "compute", "reduce", "scale"];

fn known_names() -> String {
    Policy::NAMED.map(|(name, _)| name).join(", ")
}

impl Policy {
    /// The policies that have a name. `-mixed` and `-true` mean what they mean in Lightning.
    pub const NAMED: [(&'static str, Self); 6] = [
        ("fp32", Self::uniform(Format::F32)),
        ("tf32", Self::mixed(Format::TF32, LossScale::None)),
        ("fp16-mixed", Self::mixed(Format::F16, LossScale::Dynamic(DynamicScale::DEFAULT))),
        ("bf16-mixed", Self::mixed(Format::BF16, LossScale::None)),
        ("fp16-true", Self::uniform(Format::F16)),
        ("bf16-true", Self::uniform(Format::BF16)),
    ];

    /// Names that mean one of [`Policy::NAMED`]: Lightning's, its older ones, and the formats alone, which are mixed precision with
    /// it too.
    pub const ALIASES: [(&'static str, &'static str); 7] = [
        ("32-true", "fp32"),
        ("32", "fp32"),
        ("16-mixed", "fp16-mixed"),
        ("16", "fp16-mixed"),
        ("fp16", "fp16-mixed"),
        ("16-true", "fp16-true"),
        ("bf16", "bf16-mixed"),
    ];

    /// The name among [`Policy::NAMED`] that an alias stands for.
    pub fn canonical(alias: &str) -> Option<&'static str> {
        Self::ALIASES.iter().find(|(known, _)| *known == alias).map(|(_, name)| *name)
    }

    const fn uniform(format: Format) -> Self {
        Self { params: format, ..Self::mixed(format, LossScale::None) }
    }

    const fn mixed(compute: Format, scale: LossScale) -> Self {
        Self { params: Format::F32, compute, reduce: Format::F32, scale }
    }

    /// Whether f32 master weights stand behind another compute format.
    pub fn is_mixed(&self) -> bool {
        self.params == Format::F32 && self.compute != Format::F32
    }

    /// Whether a format has no arithmetic of its own here, so that it is f32's with results rounded: then times and memory say
    /// nothing of hardware. `has_tf32` says whether the device multiplies TF32.
    pub fn is_emulated(&self, has_tf32: bool) -> bool {
        !(self.params.has_arithmetic(has_tf32) && self.compute.has_arithmetic(has_tf32))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { params, compute, reduce, scale } = self;
        f.pad(&format!("params={params},compute={compute},reduce={reduce},scale={scale}"))
    }
}

impl FromStr for Policy {
    type Err = PolicyError;
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let name = Self::canonical(text).unwrap_or(text);
        if let Some((_, policy)) = Self::NAMED.into_iter().find(|(known, _)| *known == name) {
            return Ok(policy);
        }
        if !text.contains('=') {
            return Err(PolicyError::Unknown { text: text.to_owned() });
        }
        let [params, compute, reduce, scale] = values(text)?;
        let format = |key, value: &str| {
            value.parse::<Format>().map_err(|source| PolicyError::Format {
                text: text.to_owned(),
                key,
                source,
            })
        };
        let policy = Self {
            params: format("params", params)?,
            compute: format("compute", compute)?,
            reduce: format("reduce", reduce)?,
            scale: scale
                .parse()
                .map_err(|source| PolicyError::Scale { text: text.to_owned(), source })?,
        };
        policy.checked(text)
    }
}

/// The value of each of [`KEYS`], in their order.
fn values(text: &str) -> Result<[&str; 4], PolicyError> {
    let mut values = [None; 4];
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let Some(index) = KEYS.iter().position(|known| *known == key.trim()) else {
            return Err(PolicyError::UnknownKey {
                text: text.to_owned(),
                key: key.trim().to_owned(),
            });
        };
        if values[index].replace(value.trim()).is_some() {
            return Err(PolicyError::Repeated { text: text.to_owned(), key: KEYS[index] });
        }
    }
    let value = |index: usize| {
        values[index]
            .ok_or_else(|| PolicyError::Missing { text: text.to_owned(), key: KEYS[index] })
    };
    Ok([value(0)?, value(1)?, value(2)?, value(3)?])
}

impl Policy {
    /// The policy, if its formats go together.
    fn checked(self, text: &str) -> Result<Self, PolicyError> {
        if self.reduce != Format::F32 {
            return Err(PolicyError::Reduce {
                text: text.to_owned(),
                reduce: self.reduce.to_string(),
            });
        }
        if self.params != Format::F32 && self.params != self.compute {
            return Err(PolicyError::Params {
                text: text.to_owned(),
                params: self.params.to_string(),
                compute: self.compute.to_string(),
            });
        }
        Ok(self)
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_policies_mean_what_they_say() {
        // (name, text form, mixed, emulated)
        #[rustfmt::skip]
        let table = [
            ("fp32", "params=f32,compute=f32,reduce=f32,scale=none", false, false),
            ("tf32", "params=f32,compute=tf32,reduce=f32,scale=none", true, true),
            ("fp16-mixed", "params=f32,compute=f16,reduce=f32,scale=dynamic", true, false),
            ("bf16-mixed", "params=f32,compute=bf16,reduce=f32,scale=none", true, false),
            ("fp16-true", "params=f16,compute=f16,reduce=f32,scale=none", false, false),
            ("bf16-true", "params=bf16,compute=bf16,reduce=f32,scale=none", false, false),
        ];
        let named = Policy::NAMED.map(|(name, policy)| {
            (name, policy.to_string(), policy.is_mixed(), policy.is_emulated(false))
        });
        assert_eq!(
            named,
            table.map(|(name, text, mixed, emulated)| (name, text.to_owned(), mixed, emulated))
        );
        for (name, policy) in Policy::NAMED {
            assert!(!policy.is_emulated(true), "{name} where there is TF32");
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }

    #[test]
    fn a_policy_is_parsed_as_it_is_printed() {
        for text in [
            "params=f32,compute=fp8-e4m3,reduce=f32,scale=static:128",
            "params=e5m10,compute=e5m10,reduce=f32,scale=none",
            "params=f32,compute=fp8-e4m3-sat,reduce=f32,scale=none",
            "params=e5m2-sat,compute=e5m2-sat,reduce=f32,scale=none",
            "params=f32,compute=fp4-e2m1,reduce=f32,scale=none",
            "params=f32,compute=e5m10,reduce=f32,scale=dynamic:init=1024:interval=200",
        ] {
            let policy: Policy = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
            assert!(policy.is_emulated(true));
        }
        let loose: Policy = "scale=none, reduce=f32, compute=bf16, params = f32".parse().unwrap();
        assert_eq!(loose, "bf16-mixed".parse().unwrap());
    }

    #[test]
    fn serde_uses_the_text_form_and_understands_names() {
        let policy: Policy = serde_json::from_str("\"fp16-mixed\"").unwrap();
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(json, "\"params=f32,compute=f16,reduce=f32,scale=dynamic\"");
        let error = serde_json::from_str::<Policy>("\"fp8\"").unwrap_err().to_string();
        assert!(error.starts_with("unknown policy \"fp8\"; known: fp32, tf32,"), "{error}");
    }

    #[test]
    fn a_wrong_text_says_what_is_wrong() {
        let known = "known: fp32, tf32, fp16-mixed, bf16-mixed, fp16-true, bf16-true, or a text such as params=f32,compute=f16,reduce=f32,scale=dynamic";
        let formats = FormatError(String::new()).to_string();
        let formats = formats.strip_prefix("unknown format \"\"; ").unwrap();
        for (text, expected) in [
            ("fp8", format!("unknown policy \"fp8\"; {known}")),
            ("", format!("unknown policy \"\"; {known}")),
            ("param=f32", "policy \"param=f32\": unknown key \"param\"; known: params, compute, reduce, scale".into()),
            ("params=f32,", "policy \"params=f32,\": unknown key \"\"; known: params, compute, reduce, scale".into()),
            ("params=f32,params=f16", "policy \"params=f32,params=f16\": params is given twice".into()),
            (
                "params=f32,compute=f16,reduce=f32",
                "policy \"params=f32,compute=f16,reduce=f32\": scale is missing; write it as in params=f32,compute=f16,reduce=f32,scale=dynamic".into(),
            ),
            (
                "params=f32,compute=fp16,reduce=f32,scale=none",
                format!("policy \"params=f32,compute=fp16,reduce=f32,scale=none\": compute: unknown format \"fp16\"; {formats}"),
            ),
            (
                "params=f32,compute=f16,reduce=f16,scale=none",
                "policy \"params=f32,compute=f16,reduce=f16,scale=none\": reduce is f16; sums are accumulated in f32: write reduce=f32".into(),
            ),
            (
                "params=bf16,compute=f16,reduce=f32,scale=none",
                "policy \"params=bf16,compute=f16,reduce=f32,scale=none\": params is bf16; it must be f32 (mixed) or the format of compute, f16".into(),
            ),
            (
                "params=f32,compute=f16,reduce=f32,scale=static:-1",
                "policy \"params=f32,compute=f16,reduce=f32,scale=static:-1\": loss scale: static is \"-1\"; it must be a positive finite number".into(),
            ),
        ] {
            assert_eq!(text.parse::<Policy>().unwrap_err().to_string(), expected, "{text}");
        }
    }
}
