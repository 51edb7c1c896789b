//! What numbers depend on beside the program and the plan. Two parts: what the arithmetic depends on, and what times do.
//!
//! On a CPU results follow from how products are computed and from nothing else of the machine: everything else is integer
//! and IEEE arithmetic in a fixed order, and elementary functions are those of the crate `libm`, not the system's. So exact
//! metrics carry over between processors, and times do not.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::formatting;
use crate::precision::Policy;
use crate::record::{Environment, Gpu};

/// What exact metrics depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arithmetic {
    /// `cpu` or `cuda`.
    pub device: String,
    /// The processor's architecture, such as `x86_64`.
    pub architecture: String,
    /// How products of each format run, such as `bf16: AMX-BF16`; empty on a GPU.
    pub product_paths: Vec<String>,
    /// The GPU and what computes on it; none on a CPU.
    pub gpu: Option<GpuLibraries>,
}

/// A GPU and the versions that decide which kernels run on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuLibraries {
    /// Its own name.
    pub name: String,
    /// The driver's version.
    pub driver: Option<String>,
    /// The newest version of CUDA that the driver can run.
    pub driver_cuda: String,
    /// The version of CUDA that the program was built with.
    pub build_cuda: String,
    /// The compute capability that the program was built for.
    pub build_capability: String,
}

impl From<&Gpu> for GpuLibraries {
    fn from(gpu: &Gpu) -> Self {
        Self {
            name: gpu.name.clone(),
            driver: gpu.driver.clone(),
            driver_cuda: gpu.driver_cuda.clone(),
            build_cuda: gpu.build_cuda.clone(),
            build_capability: gpu.build_capability.clone(),
        }
    }
}

impl Arithmetic {
    /// That of an environment.
    pub fn of(environment: &Environment) -> Self {
        let gpu = environment.gpu.as_ref();
        let architecture = environment.os.rsplit(", ").next().unwrap_or_default();
        Self {
            device: device_kind(environment).to_owned(),
            architecture: architecture.to_owned(),
            product_paths: match gpu {
                Some(_) => Vec::new(),
                None => environment.product_paths.clone(),
            },
            gpu: gpu.map(GpuLibraries::from),
        }
    }

    /// The name that a baseline's file has: the device, and the start of a digest of everything here.
    pub fn fingerprint(&self) -> String {
        format!("{}-{}", self.device, digest(self))
    }

    /// In what `here` differs from this for the arithmetic of a policy; none where results of it carry over. Every policy
    /// needs the path of f32, which census steps take, beside that of its own format.
    pub fn difference(&self, here: &Self, policy: &Policy) -> Option<String> {
        if self.device != here.device {
            return Some(format!("it ran on {} there, on {} here", self.device, here.device));
        }
        if self.architecture != here.architecture {
            let [there, here] = [self, here].map(|of| &of.architecture);
            return Some(format!("the processor is {there} there, {here} here"));
        }
        if self.gpu != here.gpu {
            let text = |gpu: &Option<GpuLibraries>| gpu.as_ref().map_or_else(String::new, describe);
            return Some(format!("the GPU is {} there, {} here", text(&self.gpu), text(&here.gpu)));
        }
        let needed = [policy.params, policy.compute].map(|format| format.to_string());
        let matters = |path: &&String| {
            let format = path.split(':').next().unwrap_or_default();
            format == "f32" || needed.iter().any(|needed| needed == format)
        };
        let [there, here] =
            [self, here].map(|of| of.product_paths.iter().filter(matters).collect::<Vec<_>>());
        let path = there.iter().find(|path| !here.contains(path));
        let path = path.or_else(|| here.iter().find(|path| !there.contains(path)))?;
        let format = path.split(':').next().unwrap_or_default();
        let [there, here] = [&there, &here].map(|paths| path_of(paths, format));
        Some(format!("products of {format} run as \"{there}\" there, as \"{here}\" here"))
    }
}

/// How products of a format run, without the format's name.
fn path_of(paths: &[&String], format: &str) -> String {
    let path = paths.iter().find_map(|path| path.strip_prefix(&format!("{format}: ")));
    path.unwrap_or("unknown").to_owned()
}

fn describe(gpu: &GpuLibraries) -> String {
    let GpuLibraries { name, driver, driver_cuda, build_cuda, build_capability } = gpu;
    let driver = driver.as_deref().unwrap_or("unknown");
    format!(
        "{name} (driver {driver} for CUDA {driver_cuda}, built with CUDA {build_cuda} for {build_capability})"
    )
}

/// What times depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The arithmetic's fingerprint: other instructions take other times.
    pub arithmetic: String,
    /// The name of the GPU, or of the processor with its family and model.
    pub device_name: String,
    /// Worker threads.
    pub threads: usize,
    /// Logical processors.
    pub logical_cpus: usize,
    /// The build profile, such as `release`.
    pub profile: String,
}

impl Machine {
    /// That of an environment.
    pub fn of(environment: &Environment) -> Self {
        Self {
            arithmetic: Arithmetic::of(environment).fingerprint(),
            device_name: environment.device_name.clone(),
            threads: environment.threads,
            logical_cpus: environment.logical_cpus,
            profile: environment.build.rsplit(", ").next().unwrap_or_default().to_owned(),
        }
    }

    /// The start of a digest of everything here.
    pub fn fingerprint(&self) -> String {
        digest(self)
    }

    /// In what `here` differs from this; none where times carry over.
    pub fn difference(&self, here: &Self) -> Option<String> {
        let rows = [
            ("the machine", self.device_name.clone(), here.device_name.clone()),
            ("the number of threads", self.threads.to_string(), here.threads.to_string()),
            (
                "the number of processors",
                self.logical_cpus.to_string(),
                here.logical_cpus.to_string(),
            ),
            ("the build", self.profile.clone(), here.profile.clone()),
            ("the arithmetic", self.arithmetic.clone(), here.arithmetic.clone()),
        ];
        let differs = rows.into_iter().find(|(_, there, here)| there != here);
        differs.map(|(what, there, here)| format!("{what} is {there} there, {here} here"))
    }
}

fn device_kind(environment: &Environment) -> &str {
    environment.device.split(':').next().unwrap_or_default()
}

/// The first 8 hexadecimal digits of the SHA-256 of a value as JSON.
fn digest(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    formatting::hex(&Sha256::digest(json)[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(paths: &[&str]) -> Environment {
        Environment {
            device: "cpu".to_owned(),
            device_name: "Example (family 6, model 1)".to_owned(),
            threads: 2,
            logical_cpus: 2,
            product_paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            os: "Linux 6, x86_64".to_owned(),
            build: "rustc 1.95.0, release".to_owned(),
            ..Environment::default()
        }
    }

    const AVX2: [&str; 3] = ["f32: FMA", "f16: widened", "bf16: widened"];
    const AMX: [&str; 3] = ["f32: FMA", "f16: four", "bf16: AMX"];

    #[test]
    fn the_arithmetic_knows_no_processor_and_the_machine_does() {
        let one = environment(&AVX2);
        let other = Environment { device_name: "Other".to_owned(), threads: 8, ..one.clone() };
        assert_eq!(Arithmetic::of(&one), Arithmetic::of(&other));
        let [there, here] = [&one, &other].map(Machine::of);
        assert_ne!(there.fingerprint(), here.fingerprint());
        let expected = "the machine is Example (family 6, model 1) there, Other here";
        assert_eq!(there.difference(&here).as_deref(), Some(expected));
        assert_eq!(there.difference(&there), None);
        let debug = Environment { build: "rustc 1.95.0, debug".to_owned(), ..one };
        let expected = "the build is release there, debug here";
        assert_eq!(there.difference(&Machine::of(&debug)).as_deref(), Some(expected));
    }

    #[test]
    fn a_policy_carries_over_where_the_paths_of_its_formats_do() {
        let [avx2, amx] = [&AVX2, &AMX].map(|paths| Arithmetic::of(&environment(paths)));
        assert_ne!(avx2.fingerprint(), amx.fingerprint());
        let differs = |policy: &str| avx2.difference(&amx, &policy.parse().unwrap());
        assert_eq!(differs("fp32"), None);
        let expected = "products of bf16 run as \"widened\" there, as \"AMX\" here";
        assert_eq!(differs("bf16-mixed").as_deref(), Some(expected));
        let expected = "products of f16 run as \"widened\" there, as \"four\" here";
        assert_eq!(differs("fp16-true").as_deref(), Some(expected));
        let other = Arithmetic { architecture: "aarch64".to_owned(), ..avx2.clone() };
        let expected = "the processor is x86_64 there, aarch64 here";
        let fp32: Policy = "fp32".parse().unwrap();
        assert_eq!(avx2.difference(&other, &fp32).as_deref(), Some(expected));
    }

    #[test]
    fn a_gpu_is_told_by_its_driver_and_libraries() {
        let gpu = Gpu {
            name: "Example".to_owned(),
            driver: Some("580.1".to_owned()),
            driver_cuda: "13.0".to_owned(),
            build_cuda: "12.9".to_owned(),
            build_capability: "9.0".to_owned(),
            ..Gpu::default()
        };
        let on = |gpu: &Gpu| {
            let device = "cuda:0".to_owned();
            Arithmetic::of(&Environment { device, gpu: Some(gpu.clone()), ..environment(&AVX2) })
        };
        let newer = Gpu { driver: Some("590.0".to_owned()), ..gpu.clone() };
        let fp32: Policy = "fp32".parse().unwrap();
        assert!(on(&gpu).fingerprint().starts_with("cuda-"));
        let expected = "the GPU is Example (driver 580.1 for CUDA 13.0, built with CUDA 12.9 for 9.0) there, \
                        Example (driver 590.0 for CUDA 13.0, built with CUDA 12.9 for 9.0) here";
        assert_eq!(on(&gpu).difference(&on(&newer), &fp32).as_deref(), Some(expected));
        // The processor beside it does not matter.
        let beside = Environment {
            gpu: Some(gpu.clone()),
            device: "cuda:1".to_owned(),
            ..environment(&AMX)
        };
        assert_eq!(on(&gpu), Arithmetic::of(&beside));
    }
}
