//! What the driver and NVML say of the GPUs. The decisions are in `gpu`.

use std::sync::OnceLock;

use candle_core::cuda::cudarc::driver::result::{self, DriverError};
use candle_core::cuda::cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;

use super::Gpu;
use super::gpu::{Build, Facts, GpuError, Version};
pub(super) use super::stream::open;
use crate::units::Bytes;

/// What the driver says and what this program was built with.
#[expect(clippy::unnecessary_wraps, reason = "a build without CUDA has nothing to say here")]
pub(super) fn ask() -> Option<Result<(Facts, Build), GpuError>> {
    Some(facts().map(|facts| (facts, build())))
}

/// What this program was built with.
fn build() -> Build {
    let number = |text: &str| text.parse().unwrap_or(0);
    let (major, minor) = env!("MANTISSA_CUDA_VERSION").split_once('.').unwrap_or_default();
    let cuda = Version { major: number(major), minor: number(minor) };
    Build { cuda, capability: tenths(number(env!("MANTISSA_CUDA_ARCHITECTURE"))) }
}

/// 86 as 8.6.
fn tenths(number: u32) -> Version {
    Version { major: number / 10, minor: number % 10 }
}

/// What the driver says, asked once.
///
/// # Errors
/// When there is no driver, or it does not start.
fn facts() -> Result<Facts, GpuError> {
    static FACTS: OnceLock<Result<Facts, GpuError>> = OnceLock::new();
    FACTS.get_or_init(gather).clone()
}

fn gather() -> Result<Facts, GpuError> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    super::driver::load().map_err(GpuError::NoDriver)?;
    let failed = |DriverError(code): DriverError| GpuError::NoDriver(format!("{code:?}"));
    let mut cuda = 0;
    // SAFETY: it writes one number, and may be called before all others.
    unsafe { sys::cuDriverGetVersion(&raw mut cuda) }.result().map_err(failed)?;
    let cuda = u32::try_from(cuda).unwrap_or(0);
    let cuda = Version { major: cuda / 1000, minor: cuda % 1000 / 10 };
    let count = match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => return Err(failed(error)),
        Ok(()) => result::device::get_count().map_err(failed)?,
    };
    let capabilities: Result<_, _> = (0..count).map(capability).collect();
    Ok(Facts { cuda, capabilities: capabilities.map_err(failed)? })
}

fn capability(number: i32) -> Result<Version, DriverError> {
    let ask = |what| attribute(number, what).map(|value| u32::try_from(value).unwrap_or(0));
    Ok(Version {
        major: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        minor: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    })
}

fn attribute(number: i32, what: CUdevice_attribute) -> Result<i32, DriverError> {
    let device = result::device::get(number)?;
    // SAFETY: the device comes from `get`.
    unsafe { result::device::get_attribute(device, what) }
}

/// What a reader of results must know of GPU `number`; none if the driver does not know it.
pub(super) fn describe(number: usize) -> Option<Gpu> {
    let facts = facts().ok()?;
    let capability = facts.capabilities.get(number)?;
    let number = i32::try_from(number).ok()?;
    let device = result::device::get(number).ok()?;
    // SAFETY: the device comes from `get`.
    let memory = unsafe { result::device::total_mem(device) }.ok();
    let Build { cuda, capability: built_for } = build();
    let gpu = Gpu {
        name: result::device::get_name(device).ok()?,
        compute_capability: capability.to_string(),
        memory_total: memory.map(|bytes| Bytes(bytes as u64)),
        driver: None,
        driver_cuda: facts.cuda.to_string(),
        build_cuda: cuda.to_string(),
        build_capability: built_for.to_string(),
        power_limit_watts: None,
        clock_mhz: None,
        memory_clock_mhz: None,
    };
    Some(with_nvml(number, gpu))
}

/// Adds what only NVML tells.
fn with_nvml(number: i32, gpu: Gpu) -> Gpu {
    let (Ok(nvml), Some(address)) = (Nvml::init(), bus_address(number)) else {
        return gpu;
    };
    let driver = nvml.sys_driver_version().ok();
    let Ok(device) = nvml.device_by_pci_bus_id(address) else {
        return Gpu { driver, ..gpu };
    };
    Gpu {
        driver,
        power_limit_watts: device
            .enforced_power_limit()
            .ok()
            .map(|milliwatts| f64::from(milliwatts) / 1e3),
        clock_mhz: device.max_clock_info(Clock::SM).ok(),
        memory_clock_mhz: device.max_clock_info(Clock::Memory).ok(),
        ..gpu
    }
}

/// Where a GPU is plugged in: NVML counts GPUs in another order than CUDA, and knows nothing of `CUDA_VISIBLE_DEVICES`.
pub(super) fn bus_address(number: i32) -> Option<String> {
    let ask = |what| attribute(number, what).ok();
    Some(format!(
        "{:08x}:{:02x}:{:02x}.0",
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?
    ))
}
