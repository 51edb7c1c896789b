//! When a GPU will do: the decision alone, on facts that others gather.

use std::fmt;

/// A version of CUDA, or a GPU's compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the point.
    pub major: u32,
    /// After the point.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.major, self.minor))
    }
}

/// What this program was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    /// The version of CUDA.
    pub cuda: Version,
    /// The compute capability that its kernels were compiled for.
    pub capability: Version,
}

/// What the driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The newest version of CUDA that it can run.
    pub cuda: Version,
    /// The compute capability of each GPU, by number.
    pub capabilities: Vec<Version>,
}

/// Why a GPU cannot be used, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There is no driver, or it does not start.
    #[error("no NVIDIA driver: {0}; install the driver or use --device cpu")]
    NoDriver(String),
    /// The driver cannot run what this build's CUDA made.
    #[error(
        "the driver runs CUDA up to {driver} and this program was built with CUDA {build}; update the driver or build \
         with CUDA {driver}"
    )]
    OldDriver {
        /// The newest version that it can run.
        driver: Version,
        /// The version of this build.
        build: Version,
    },
    /// There is no GPU at all.
    #[error("the driver sees no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES or use --device cpu")]
    NoGpu,
    /// There is none of this number.
    #[error("no GPU {number}; the driver sees {count}, counted from 0")]
    NoSuchGpu {
        /// The number asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// It is older than bf16.
    #[error("GPU {number} has compute capability {found}; needs {OLDEST} or later, for bf16")]
    NoBf16 {
        /// Its number.
        number: usize,
        /// Its compute capability.
        found: Version,
    },
    /// This build's kernels do not run on it.
    #[error(
        "GPU {number} has compute capability {found} and this program was built for {build}; build it again with \
         CUDA_COMPUTE_CAP={}{}",
        found.major,
        found.minor
    )]
    OtherBuild {
        /// Its number.
        number: usize,
        /// Its compute capability.
        found: Version,
        /// The compute capability of this build.
        build: Version,
    },
}

/// The first compute capability with bf16.
pub(crate) const OLDEST: Version = Version { major: 8, minor: 0 };

/// From here on candle compiles its kernels with features of one generation, and they run on no other.
const FIRST_EXCLUSIVE: Version = Version { major: 9, minor: 0 };

/// Whether GPU `number` can run what `build` made.
///
/// # Errors
/// The first thing that stands against it.
pub(crate) fn judge(number: usize, facts: &Facts, build: Build) -> Result<(), GpuError> {
    let count = facts.capabilities.len();
    if count == 0 {
        return Err(GpuError::NoGpu);
    }
    if facts.cuda < build.cuda {
        return Err(GpuError::OldDriver { driver: facts.cuda, build: build.cuda });
    }
    let found = *facts.capabilities.get(number).ok_or(GpuError::NoSuchGpu { number, count })?;
    if found < OLDEST {
        return Err(GpuError::NoBf16 { number, found });
    }
    let exclusive = build.capability >= FIRST_EXCLUSIVE;
    if found < build.capability || (exclusive && found != build.capability) {
        return Err(GpuError::OtherBuild { number, found, build: build.capability });
    }
    Ok(())
}

/// The first GPU that can run what `build` made.
///
/// # Errors
/// What stands against the first one.
pub(crate) fn first_usable(facts: &Facts, build: Build) -> Result<usize, GpuError> {
    let first = judge(0, facts, build);
    let mut others = 1..facts.capabilities.len();
    match first {
        Ok(()) => Ok(0),
        Err(error) => others.find(|number| judge(*number, facts, build).is_ok()).ok_or(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        let (major, minor) = text.split_once('.').unwrap();
        Version { major: major.parse().unwrap(), minor: minor.parse().unwrap() }
    }

    /// A row: the driver's CUDA, its GPUs, the build's CUDA and compute capability.
    type Row = (&'static str, &'static [&'static str], &'static str, &'static str);

    fn read((cuda, gpus, build, capability): Row) -> (Facts, Build) {
        let capabilities = gpus.iter().map(|gpu| version(gpu)).collect();
        let facts = Facts { cuda: version(cuda), capabilities };
        (facts, Build { cuda: version(build), capability: version(capability) })
    }

    #[test]
    fn what_stands_against_a_gpu_is_told_with_the_remedy() {
        let rows: &[(Row, usize, &str)] = &[
            (("13.0", &["8.0"], "13.0", "8.0"), 0, ""),
            (("13.1", &["9.0"], "13.0", "8.0"), 0, ""),
            (("13.0", &["8.6", "12.0"], "12.9", "8.0"), 1, ""),
            (("13.0", &["9.0"], "13.0", "9.0"), 0, ""),
            (
                ("13.0", &[], "13.0", "8.0"),
                0,
                "the driver sees no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES or use --device cpu",
            ),
            (
                ("12.8", &["8.0"], "13.0", "8.0"),
                0,
                "the driver runs CUDA up to 12.8 and this program was built with CUDA 13.0; update the driver or \
                 build with CUDA 12.8",
            ),
            (
                ("13.0", &["8.0", "8.0"], "13.0", "8.0"),
                2,
                "no GPU 2; the driver sees 2, counted from 0",
            ),
            (
                ("13.0", &["7.5"], "13.0", "8.0"),
                0,
                "GPU 0 has compute capability 7.5; needs 8.0 or later, for bf16",
            ),
            (
                ("13.0", &["8.0"], "13.0", "8.6"),
                0,
                "GPU 0 has compute capability 8.0 and this program was built for 8.6; build it again with \
                 CUDA_COMPUTE_CAP=80",
            ),
            (
                ("13.0", &["9.0", "10.0"], "13.0", "9.0"),
                1,
                "GPU 1 has compute capability 10.0 and this program was built for 9.0; build it again with \
                 CUDA_COMPUTE_CAP=100",
            ),
        ];
        for (row, number, expected) in rows {
            let (facts, build) = read(*row);
            let found = judge(*number, &facts, build).err();
            let found = found.map_or_else(String::new, |error| error.to_string());
            assert_eq!(found, *expected, "{row:?}");
        }
        assert_eq!(
            GpuError::NoDriver("libcuda.so.1: not found".to_owned()).to_string(),
            "no NVIDIA driver: libcuda.so.1: not found; install the driver or use --device cpu"
        );
    }

    #[test]
    fn the_first_usable_gpu_is_taken() {
        let old = GpuError::NoBf16 { number: 0, found: version("7.5") };
        let rows: &[(&[&str], Result<usize, GpuError>)] = &[
            (&["8.0", "9.0"], Ok(0)),
            (&["7.5", "7.0", "8.9"], Ok(2)),
            (&["7.5", "7.0"], Err(old)),
            (&[], Err(GpuError::NoGpu)),
        ];
        for (gpus, expected) in rows {
            let capabilities = gpus.iter().map(|gpu| version(gpu)).collect();
            let facts = Facts { cuda: version("13.0"), capabilities };
            let build = Build { cuda: version("13.0"), capability: version("8.0") };
            assert_eq!(first_usable(&facts, build), *expected);
        }
    }
}
