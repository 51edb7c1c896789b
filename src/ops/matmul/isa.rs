//! The instructions that products use: the best that the processor has, or those that [`VARIABLE`] asks for.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The environment variable that pins an instruction set.
pub const VARIABLE: &str = "MANTISSA_ISA";

/// An instruction set that products are written for. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor has.
    Portable,
    /// AVX2, FMA and F16C of x86-64.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX512-BF16.
    Avx512Bf16,
    /// AMX-TILE and AMX-BF16: the matrix units of Intel's server processors.
    Amx,
}

/// Why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No such name.
    #[error(
        "{VARIABLE}={0} is no instruction set; use one of portable, avx2, avx512, avx512-bf16, amx"
    )]
    Unknown(String),
    /// The processor or the operating system lacks it.
    #[error("{VARIABLE}={0}: this machine has no {0}; the best it has is {best}", best = best())]
    Missing(Isa),
}

impl Isa {
    /// All of them, the simplest first.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Its name, as [`VARIABLE`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    /// Whether this machine has it and those before it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Avx512Bf16 => Self::Avx512.is_here() && is_x86_feature_detected!("avx512bf16"),
            Self::Amx => Self::Avx512Bf16.is_here() && super::amx::is_here(),
        }
    }

    /// Whether this machine has it and those before it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_here(self) -> bool {
        self == Self::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(text: &str) -> Result<Self, IsaError> {
        let found = Self::ALL.into_iter().find(|isa| isa.name() == text);
        found.ok_or_else(|| IsaError::Unknown(text.to_owned()))
    }
}

/// The best instruction set that this machine has.
fn best() -> Isa {
    Isa::ALL.into_iter().rev().find(|isa| isa.is_here()).unwrap_or(Isa::Portable)
}

/// What `pin` asks for, or the best where it asks for nothing.
fn choose(pin: &str) -> Result<Isa, IsaError> {
    if pin.trim().is_empty() {
        return Ok(best());
    }
    let isa: Isa = pin.trim().parse()?;
    if isa.is_here() { Ok(isa) } else { Err(IsaError::Missing(isa)) }
}

/// The instruction set that the products of this process use.
///
/// # Errors
/// When [`VARIABLE`] asks for one that does not exist or that this machine lacks.
pub fn isa() -> Result<Isa, IsaError> {
    static CHOSEN: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
    let chosen = || choose(&std::env::var_os(VARIABLE).unwrap_or_default().to_string_lossy());
    CHOSEN.get_or_init(chosen).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_taken_or_refused_by_name() {
        assert_eq!(choose(""), Ok(best()));
        assert_eq!(choose(" portable\n"), Ok(Isa::Portable));
        assert_eq!(choose("sse"), Err(IsaError::Unknown("sse".to_owned())));
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
            let expected = if isa.is_here() { Ok(isa) } else { Err(IsaError::Missing(isa)) };
            assert_eq!(choose(isa.name()), expected);
        }
        let text = IsaError::Missing(Isa::Amx).to_string();
        assert!(text.starts_with("MANTISSA_ISA=amx: this machine has no amx; the best it has is "));
    }
}
