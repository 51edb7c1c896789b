//! The machine: which device runs the experiment, and what a reader of its numbers must know of it.
//!
//! ```
//! use mantissa::device::Device;
//!
//! let choice = Device::Cpu.resolve()?;
//! assert!(choice.open()?.is_cpu());
//! # Ok::<(), mantissa::device::DeviceError>(())
//! ```

#[cfg_attr(feature = "cuda", expect(unsafe_code, reason = "a graph may go to another thread"))]
mod captured_graph;
#[cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "some of the driver's functions are not safe in cudarc")
)]
#[cfg_attr(not(feature = "cuda"), path = "device/no_cuda.rs")]
mod cuda;
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
#[expect(unsafe_code, reason = "it stands in for a library that is loaded at run time")]
mod driver;
mod environment;
pub(crate) mod gpu;
mod load;
mod meter;
mod phases;
mod probe;
mod stopwatch;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "the driver's functions for pools are not safe in cudarc")]
mod stream;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::formatting::list;
use crate::memory;
use crate::units::Bytes;
use gpu::{Build, GpuError};

#[doc(hidden)] // for training
pub use captured_graph::CapturedGraph;
pub use environment::{Environment, Gpu, UnusedUnits};
pub(crate) use load::LoadMeter;
#[doc(hidden)] // for this crate's examples
pub use meter::Meter;
pub use phases::Phases;
#[doc(hidden)] // for this crate's tests
pub use phases::{Phase, PhaseClock};
#[doc(hidden)] // for timing
pub use probe::{Probe, Reading};
#[doc(hidden)] // for this crate's benchmarks
pub use stopwatch::Stopwatch;

/// A device as asked for. Text form: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// ```
/// use mantissa::device::Device;
///
/// let device: Device = "cuda:1".parse()?;
/// assert_eq!(device, Device::Cuda(1));
/// assert_eq!("cpu".parse(), Ok(Device::Cpu));
/// # Ok::<(), mantissa::device::DeviceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The best one that this build can use.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

/// Why a device is unavailable.
///
/// ```
/// use mantissa::device::{Device, DeviceError};
///
/// let error = "tpu".parse::<Device>();
/// assert_eq!(error, Err(DeviceError::Unknown("tpu".to_owned())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such name.
    #[error("unknown device {0:?}; known: auto, cpu, cuda, cuda:N")]
    Unknown(String),
    /// The build lacks CUDA.
    #[error(
        "--device {0}: this program was built without CUDA; build it with --features cuda or use --device cpu"
    )]
    NoCuda(Device),
    /// The driver refuses to open the GPU.
    #[error("--device {0}: the GPU cannot be opened: {1}; see nvidia-smi for who else uses it")]
    Refused(Device, String),
    /// The build has CUDA and the machine no GPU for it.
    #[error("--device {0}: {1}")]
    Gpu(Device, GpuError),
}

/// The device that runs, and how it came to be chosen where a reader of its numbers must know.
///
/// ```
/// use mantissa::device::Device;
///
/// let choice = Device::Cpu.resolve()?;
/// assert_eq!((choice.device, &choice.note), (Device::Cpu, &None));
/// assert!(choice.open()?.is_cpu());
/// # Ok::<(), mantissa::device::DeviceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Never [`Device::Auto`].
    pub device: Device,
    /// Why it is not the one that could be expected.
    pub note: Option<String>,
}

impl FromStr for Device {
    type Err = DeviceError;
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let digits = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                let number = digits.parse().ok().filter(|_| plain);
                number.map(Self::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(number) => f.pad(&format!("cuda:{number}")),
        }
    }
}

impl Device {
    /// The device that `self` means on this machine: for [`Device::Auto`] the first GPU that can be used, else the CPU with a
    /// note that says why.
    ///
    /// # Errors
    /// When a GPU is asked for and cannot be used.
    pub fn resolve(self) -> Result<Choice, DeviceError> {
        let (device, note) = match self {
            Self::Cpu => (Self::Cpu, None),
            Self::Auto => match first_gpu() {
                None => (Self::Cpu, None),
                Some(Ok(number)) => (Self::Cuda(number), None),
                Some(Err(error)) => {
                    let note =
                        format!("--device auto is the CPU here, for want of a GPU: {error}.");
                    (Self::Cpu, Some(note))
                }
            },
            Self::Cuda(number) => {
                self.check(number)?;
                (self, None)
            }
        };
        Ok(Choice { device, note })
    }

    /// Whether this build can use GPU `number`, the one that `self` names.
    fn check(self, number: usize) -> Result<(), DeviceError> {
        let asked = cuda::ask().ok_or(DeviceError::NoCuda(self))?;
        asked
            .and_then(|(facts, build)| gpu::judge(number, &facts, build))
            .map_err(|error| DeviceError::Gpu(self, error))
    }
}

impl Choice {
    /// Opens the device.
    ///
    /// # Errors
    /// When the driver refuses the GPU.
    pub fn open(&self) -> Result<candle_core::Device, DeviceError> {
        let Device::Cuda(number) = self.device else {
            return Ok(candle_core::Device::Cpu);
        };
        cuda::open(number).map_err(|error| {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            DeviceError::Refused(self.device, reason)
        })
    }
}

/// The first GPU that can be used; none in a build without CUDA.
fn first_gpu() -> Option<Result<usize, GpuError>> {
    let asked = cuda::ask()?;
    Some(asked.and_then(|(facts, build)| gpu::first_usable(&facts, build)))
}

/// What this build makes of the machine's GPUs, a line each.
///
/// ```
/// for line in mantissa::device::gpus() {
///     println!("{line}");
/// }
/// ```
pub fn gpus() -> Vec<String> {
    let (facts, build) = match cuda::ask() {
        None => return vec!["not in this build".to_owned()],
        Some(Err(error)) => return vec![format!("in this build, but no usable GPU: {error}")],
        Some(Ok(asked)) => asked,
    };
    let Build { cuda, capability } = build;
    let mut lines = vec![format!("built with CUDA {cuda} for compute capability {capability}")];
    if facts.capabilities.is_empty() {
        lines.push(format!("no usable GPU: {}", GpuError::NoGpu));
    }
    for number in 0..facts.capabilities.len() {
        let verdict = match gpu::judge(number, &facts, build) {
            Ok(()) => "usable".to_owned(),
            Err(error) => format!("not usable: {error}"),
        };
        let gpu =
            cuda::describe(number).map_or_else(|| "unknown".to_owned(), |gpu| gpu.to_string());
        lines.push(format!("{}: {gpu}; {verdict}", Device::Cuda(number)));
    }
    lines
}

/// How products are computed on the CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)] // for this crate's tests
pub struct ProductPaths {
    /// One line a format that tensors are stored in.
    pub paths: Vec<String>,
    /// Whether products of bf16 count subnormal numbers as 0.
    pub bf16_flushes: bool,
    /// The processor's units for products of 16 bits that they use or that would be slower, under their names among the features.
    pub units: &'static [&'static str],
}

/// What is known of this machine and this build, now.
pub(crate) fn environment(choice: &Choice, threads: usize, products: ProductPaths) -> Environment {
    let gpu = match choice.device {
        Device::Cuda(number) => cuda::describe(number),
        Device::Auto | Device::Cpu => None,
    };
    let system = System::new_with_specifics(
        RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let system = system.ok();
    let name = system.as_ref().and_then(|system| system.cpus().first());
    let name = name.map_or("", |cpu| cpu.brand().trim());
    let name = gpu.as_ref().map_or_else(|| processor(name), |gpu| gpu.name.clone());
    let memory = system.as_ref().map_or(0, System::total_memory);
    let features = cpu_features();
    let unused_units = match choice.device {
        Device::Cuda(_) => Vec::new(),
        Device::Auto | Device::Cpu => {
            unused_units(std::env::consts::ARCH, &features, products.units)
        }
    };
    let flushes = products.bf16_flushes && !matches!(choice.device, Device::Cuda(_));
    let notes = notes(&unused_units, flushes).into_iter();
    let notes = notes.chain(allocator_notes(choice.device)).chain(choice.note.clone());
    Environment {
        device: choice.device.to_string(),
        device_name: name,
        threads,
        logical_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_total: (memory > 0).then_some(Bytes(memory)),
        product_paths: products.paths,
        notes: notes.collect(),
        unused_units,
        cpu_features: features.into_iter().map(str::to_owned).collect(),
        os: operating_system(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git: option_env!("MANTISSA_COMMIT").map(str::to_owned),
        source: env!("MANTISSA_SOURCE").to_owned(),
        build: env!("MANTISSA_BUILD").to_owned(),
        // Whole seconds.
        started: format!("{:.0}", Timestamp::now()),
        gpu,
    }
}

/// The processor by its own name and, on x86-64, by family and model: hosts of virtual machines give several kinds one name.
fn processor(name: &str) -> String {
    let name = if name.is_empty() { "unknown processor" } else { name };
    #[cfg(target_arch = "x86_64")]
    {
        let [family, model] = family_and_model(std::arch::x86_64::__cpuid(1).eax);
        format!("{name} (family {family}, model {model})")
    }
    #[cfg(not(target_arch = "x86_64"))]
    name.to_owned()
}

/// Family and model as AMD's and Intel's manuals have them in register EAX of CPUID's leaf 1.
#[cfg(any(target_arch = "x86_64", test))]
fn family_and_model(signature: u32) -> [u32; 2] {
    let [model, family, more_model, more_family] =
        [(4, 0xF), (8, 0xF), (16, 0xF), (20, 0xFF)].map(|(bit, mask)| signature >> bit & mask);
    let whole_model = if family == 6 || family == 15 { more_model << 4 | model } else { model };
    [if family == 15 { family + more_family } else { family }, whole_model]
}

/// This machine's name in its network.
#[doc(hidden)] // for the program
pub fn host_name() -> String {
    System::host_name().unwrap_or_else(|_| "a machine without a name".to_owned())
}

fn operating_system() -> String {
    let name = System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned());
    format!("{name}, {}", std::env::consts::ARCH)
}

/// What a CPU's numbers lack where a program that uses this library has not set up its allocator.
fn allocator_notes(device: Device) -> Vec<String> {
    let mut notes = Vec::new();
    if matches!(device, Device::Cuda(_)) {
        return notes;
    }
    if !memory::CountingAllocator::is_installed() {
        notes.push(
            "Memory is not measured: this program does not allocate through mantissa::memory::CountingAllocator.".to_owned(),
        );
    }
    if memory::may_return_freed_pages() {
        notes.push(
            "Times may contain the zeroing of memory pages, most in f32: this program did not call \
             mantissa::memory::keep_freed_pages."
                .to_owned(),
        );
    }
    notes
}

/// What would mislead a reader who does not know it.
fn notes(unused: &[UnusedUnits], bf16_flushes: bool) -> Vec<String> {
    let unused = unused.iter().map(|UnusedUnits { format, instructions }| {
        let instructions = list(instructions);
        format!(
            "This processor has instructions of its own for products of {format} ({instructions}), which this version does \
             not use: frameworks that do gain more time by {format} than the ratios here say."
        )
    });
    let mut notes: Vec<String> = unused.collect();
    if bf16_flushes {
        notes.push(
            "This processor's instructions for products of bf16 count subnormal numbers, those below 1.2e-38, as 0; the census \
             counts in f32, where they keep their values."
                .to_owned(),
        );
    }
    if cfg!(debug_assertions) {
        notes.push(
            "Built without optimization: times say nothing; build with --release.".to_owned(),
        );
    }
    for (variable, instead) in [(PRODUCT_PIN, "the processor"), (TF32_PIN, "the policy")] {
        if let Ok(pin) = std::env::var(variable)
            && !pin.trim().is_empty()
        {
            notes.push(format!(
                "{variable}={pin} decides how matrix multiplications run, not {instead}."
            ));
        }
    }
    notes
}

/// The environment variable that pins the instructions of products.
const PRODUCT_PIN: &str = "MANTISSA_ISA";

/// The environment variable that turns TF32 on or off in cuBLAS, whatever the program asks for.
const TF32_PIN: &str = "NVIDIA_TF32_OVERRIDE";

/// The names of the instruction sets in the list that this processor has.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! detected {
    ($detect:ident: $($feature:tt)*) => {
        [$(($feature, std::arch::$detect!($feature))),*]
    };
}

/// The instruction sets that matter to arithmetic and that this processor has.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = detected!(is_x86_feature_detected:
        "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16"
        "avx512fp16");
    #[cfg(target_arch = "x86_64")]
    let features = features.into_iter().chain(AMX.into_iter().zip(has_amx()));
    #[cfg(target_arch = "aarch64")]
    let features = detected!(is_aarch64_feature_detected:
        "neon" "fp16" "fhm" "bf16" "dotprod" "i8mm" "sve" "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&'static str, bool); 0] = [];
    features.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

/// Matrix units of recent Intel processors that multiply bf16 and f16.
#[cfg(target_arch = "x86_64")]
const AMX: [&str; 2] = ["amx-bf16", "amx-fp16"];

/// Whether the processor has each of [`AMX`]. The standard library's own macro does not name them yet.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> [bool; 2] {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return [false; 2];
    }
    let leaf = __cpuid_count(7, 0);
    // The registers of a leaf that a processor does not have mean nothing; leaf 7 says in EAX which of its own it has.
    let second = if leaf.eax >= 1 { __cpuid_count(7, 1).eax } else { 0 };
    amx_bits(leaf.edx, second)
}

/// By Intel's manual: AMX-TILE is bit 24 and AMX-BF16 bit 22 of register EDX of CPUID's leaf 7, AMX-FP16 bit 21 of EAX of its
/// second part. Neither is of use without tiles.
#[cfg(any(target_arch = "x86_64", test))]
fn amx_bits(edx: u32, second_eax: u32) -> [bool; 2] {
    let [tile, bf16, fp16] = [edx >> 24 & 1, edx >> 22 & 1, second_eax >> 21 & 1];
    [tile & bf16 == 1, tile & fp16 == 1]
}

/// The instructions for products of 16 bits, by architecture and format, under their names among the features.
const UNITS: [(&str, &str, &[&str]); 4] = [
    ("x86_64", "f16", &["amx-fp16", "avx512fp16"]),
    ("x86_64", "bf16", &["amx-bf16"]),
    ("aarch64", "f16", &["fp16", "fhm"]),
    ("aarch64", "bf16", &["bf16"]),
];

/// Those of [`UNITS`] that a processor with these features has and that products do not use.
fn unused_units(arch: &str, features: &[&str], used: &[&str]) -> Vec<UnusedUnits> {
    let here = UNITS.iter().filter(|(of, ..)| *of == arch);
    let units = here.map(|(_, format, names)| UnusedUnits {
        format: (*format).to_owned(),
        instructions: names
            .iter()
            .filter(|name| features.contains(name) && !used.contains(name))
            .map(|name| (*name).to_owned())
            .collect(),
    });
    units.filter(|units| !units.instructions.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_text_form() {
        for (text, device, printed) in [
            ("auto", Device::Auto, "auto"),
            ("cpu", Device::Cpu, "cpu"),
            ("cuda", Device::Cuda(0), "cuda:0"),
            ("cuda:12", Device::Cuda(12), "cuda:12"),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), printed);
            assert_eq!(printed.parse(), Ok(device));
        }
        for text in ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda0"] {
            assert_eq!(text.parse::<Device>(), Err(DeviceError::Unknown(text.to_owned())));
        }
    }

    /// EPYC 9004 and 9005 (AMD's revision guides), a Xeon of the fourth generation (Intel's specification update), a Pentium.
    #[test]
    fn a_signature_is_a_family_and_a_model() {
        for (signature, expected) in [
            (0x00A1_0F11, [25, 17]),
            (0x00B0_0F21, [26, 2]),
            (0x0008_06F8, [6, 143]),
            (0x0000_0543, [5, 4]),
        ] {
            assert_eq!(family_and_model(signature), expected, "{signature:x}");
        }
        assert!(processor("").starts_with("unknown processor"));
    }

    #[test]
    fn the_cpu_can_always_be_had() {
        let cpu = Choice { device: Device::Cpu, note: None };
        assert_eq!(Device::Cpu.resolve(), Ok(cpu));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_knows_no_gpu() {
        assert_eq!(Device::Auto.resolve(), Device::Cpu.resolve());
        assert_eq!(Device::Cuda(1).resolve(), Err(DeviceError::NoCuda(Device::Cuda(1))));
        assert_eq!(gpus(), ["not in this build"]);
    }

    // Which one holds depends on the machine: with a GPU in it, or none.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_is_had_or_refused_with_the_reason_and_auto_does_the_same() {
        let auto = Device::Auto.resolve().unwrap();
        match Device::Cuda(0).resolve() {
            Ok(_) => assert!(matches!(auto.device, Device::Cuda(_)) && auto.note.is_none()),
            Err(DeviceError::Gpu(_, error)) => {
                assert_eq!(auto.device, Device::Cpu);
                let note = auto.note.unwrap();
                assert!(note.contains(&error.to_string()), "{note}");
            }
            other => panic!("{other:?}"),
        }
        assert_ne!(gpus(), ["not in this build"]);
    }

    /// An architecture, its features, the units that products use, and those that they do not.
    type UnitsCase<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [(&'a str, &'a [&'a str])]);

    /// Sapphire Rapids has AMX-BF16 and AVX512-FP16, Granite Rapids AMX-FP16 besides; Zen 5 has AVX512-BF16, which is used; a
    /// Neoverse V2 has all of Arm's (`/proc/cpuinfo` of each).
    #[test]
    fn unused_units_follow_from_the_features_and_are_said() {
        let rows: [UnitsCase<'_>; 7] = [
            ("x86_64", &["avx2", "fma", "f16c"], &[], &[]),
            ("x86_64", &["avx512f", "avx512vnni", "avx512bf16"], &[], &[]),
            (
                "x86_64",
                &["avx512f", "avx512bf16", "avx512fp16", "amx-bf16"],
                &[],
                &[("f16", &["avx512fp16"]), ("bf16", &["amx-bf16"])],
            ),
            (
                "x86_64",
                &["avx512f", "avx512bf16", "avx512fp16", "amx-bf16"],
                &["amx-bf16", "avx512fp16"],
                &[],
            ),
            (
                "x86_64",
                &["avx512f", "avx512bf16", "avx512fp16", "amx-bf16", "amx-fp16"],
                &["amx-bf16", "avx512fp16"],
                &[("f16", &["amx-fp16"])],
            ),
            ("aarch64", &["neon"], &[], &[]),
            (
                "aarch64",
                &["neon", "fp16", "fhm", "bf16", "dotprod", "i8mm"],
                &[],
                &[("f16", &["fp16", "fhm"]), ("bf16", &["bf16"])],
            ),
        ];
        for (arch, features, used, expected) in rows {
            let found = unused_units(arch, features, used);
            let names: Vec<(&str, Vec<&str>)> = found
                .iter()
                .map(|units| {
                    (units.format.as_str(), units.instructions.iter().map(|i| &**i).collect())
                })
                .collect();
            let expected: Vec<(&str, Vec<&str>)> =
                expected.iter().map(|(format, names)| (*format, names.to_vec())).collect();
            assert_eq!(names, expected, "{features:?}");
            let plain = notes(&[], false).len();
            assert_eq!(notes(&found, false).len(), plain + found.len());
            assert_eq!(notes(&found, true).len(), plain + found.len() + 1);
        }
    }

    /// By the bits of Intel's manual: no tiles, tiles alone, with bf16, with f16, with both.
    #[test]
    fn matrix_units_are_told_by_their_bits() {
        let (tile, bf16, fp16) = (1 << 24, 1 << 22, 1 << 21);
        for (edx, second, expected) in [
            (bf16, fp16, [false, false]),
            (tile, 0, [false, false]),
            (tile | bf16, 0, [true, false]),
            (tile, fp16, [false, true]),
            (tile | bf16, fp16, [true, true]),
        ] {
            assert_eq!(amx_bits(edx, second), expected, "{edx:x} {second:x}");
        }
    }
}
