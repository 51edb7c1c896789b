//! Where an experiment ran.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// The machine, the software and the settings that the numbers depend on.
///
/// ```
/// use mantissa::device::Device;
/// use mantissa::experiment::Machine;
/// use mantissa::record::Environment;
///
/// let Environment { device, version, gpu, .. } = Machine::open(Device::Cpu)?.environment;
/// assert_eq!((&device[..], &version[..]), ("cpu", env!("CARGO_PKG_VERSION")));
/// assert_eq!(gpu, None);
/// # Ok::<(), mantissa::experiment::MachineError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The own name of the GPU, or of the processor with its family and model.
    pub device_name: String,
    /// Worker threads.
    pub threads: usize,
    /// Logical processors of the machine.
    pub logical_cpus: usize,
    /// Memory of the machine.
    pub memory_total: Option<Bytes>,
    /// Instruction sets that matter here and that the processor has, such as `avx2`, `f16c`, `avx512bf16`.
    pub cpu_features: Vec<String>,
    /// How each native format's products run on this processor, such as `bf16: widened to f32 (FMA)`.
    pub product_paths: Vec<String>,
    /// What the processor has for products of 16 bits and this program does not use; empty where a GPU runs, and in files of
    /// before it was recorded.
    #[serde(default)]
    pub unused_units: Vec<UnusedUnits>,
    /// Operating system and architecture.
    pub os: String,
    /// This program's version.
    pub version: String,
    /// Commit of this program's source, with `-dirty-` and the start of `source` where it had changes; none outside a checkout.
    pub git: Option<String>,
    /// SHA-256 of this program's source files, the first 12 hexadecimal digits; empty in older files.
    #[serde(default)]
    pub source: String,
    /// The compiler and the build profile.
    pub build: String,
    /// When the experiment started, UTC, as `YYYY-MM-DDTHH:MM:SSZ`.
    pub started: String,
    /// What a reader must know before trusting a number, such as a fallback to the CPU.
    pub notes: Vec<String>,
    /// The GPU that ran it; none on the CPU, and left out of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// Instructions of a processor that multiply one format, and that this program's products of that format do without: its times
/// say nothing of what the processor can do in it.
///
/// ```
/// use mantissa::record::Environment;
///
/// /// The formats of which times say nothing of what the processor can do.
/// fn untold(environment: &Environment) -> Vec<&str> {
///     environment.unused_units.iter().map(|units| &units.format[..]).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnusedUnits {
    /// The format's name, such as `bf16`.
    pub format: String,
    /// Their names as in `cpu_features`, such as `amx-bf16`.
    pub instructions: Vec<String>,
}

/// A GPU, its driver, and what this program was built with for it. What the driver does not report is absent.
///
/// ```
/// use mantissa::record::Results;
///
/// /// What ran an experiment.
/// fn ran_on(results: &Results) -> String {
///     match &results.environment.gpu {
///         Some(gpu) => format!("{}, compute capability {}", gpu.name, gpu.compute_capability),
///         None => results.environment.device_name.clone(),
///     }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// Its own name.
    pub name: String,
    /// Its compute capability, such as `9.0`.
    pub compute_capability: String,
    /// Its memory.
    pub memory_total: Option<Bytes>,
    /// The driver's version.
    pub driver: Option<String>,
    /// The newest version of CUDA that the driver can run.
    pub driver_cuda: String,
    /// The version of CUDA that this program was built with.
    pub build_cuda: String,
    /// The compute capability that this program was built for.
    pub build_capability: String,
    /// The limit of its power in watts.
    pub power_limit_watts: Option<f64>,
    /// The highest clock of its multiprocessors in MHz.
    pub clock_mhz: Option<u32>,
    /// The highest clock of its memory in MHz.
    pub memory_clock_mhz: Option<u32>,
}

impl fmt::Display for Gpu {
    /// What is known, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = [
            Some(self.name.clone()),
            Some(format!("compute capability {}", self.compute_capability)),
            self.memory_total.map(|bytes| bytes.to_string()),
            self.driver.as_ref().map(|version| format!("driver {version}")),
            Some(format!("driver for CUDA {}", self.driver_cuda)),
            self.power_limit_watts.map(|watts| format!("{watts:.0} W at most")),
            self.clock_mhz.map(|clock| format!("{clock} MHz at most")),
            self.memory_clock_mhz.map(|clock| format!("memory {clock} MHz at most")),
        ];
        f.pad(&facts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_without_a_gpu_is_what_it_was_before_cuda() {
        let cpu = Environment::default();
        let text = serde_json::to_string(&cpu).unwrap();
        assert!(!text.contains("gpu"), "{text}");
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), cpu);
        let gpu = Environment { gpu: Some(Gpu::default()), ..cpu };
        let text = serde_json::to_string(&gpu).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), gpu);
    }

    #[test]
    fn unused_units_are_in_the_file_and_none_in_older_ones() {
        let units = UnusedUnits { format: "bf16".into(), instructions: vec!["amx-bf16".into()] };
        let here = Environment { unused_units: vec![units], ..Environment::default() };
        let text = serde_json::to_string(&here).unwrap();
        let named = r#""unused_units":[{"format":"bf16","instructions":["amx-bf16"]}],"#;
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), here);
        let older = text.replace(named, "");
        assert_ne!(older, text);
        assert_eq!(serde_json::from_str::<Environment>(&older).unwrap(), Environment::default());
    }

    #[test]
    fn a_gpu_says_what_is_known_of_it() {
        let little = Gpu {
            name: "Example GPU".into(),
            compute_capability: "9.0".into(),
            driver_cuda: "13.0".into(),
            ..Gpu::default()
        };
        let known = "Example GPU, compute capability 9.0, driver for CUDA 13.0";
        assert_eq!(little.to_string(), known);
        let all = Gpu {
            memory_total: Some(Bytes(80 << 30)),
            driver: Some("580.1".into()),
            power_limit_watts: Some(699.6),
            clock_mhz: Some(1980),
            memory_clock_mhz: Some(2619),
            ..little
        };
        assert_eq!(
            all.to_string(),
            "Example GPU, compute capability 9.0, 80.0 GiB, driver 580.1, driver for CUDA 13.0, 700 W at most, \
             1980 MHz at most, memory 2619 MHz at most"
        );
    }
}
