//! What NVML tells of a GPU while it works. Where there is no NVML, and on a CPU, there is no probe.

use candle_core::Device;
#[cfg(feature = "cuda")]
use nvml_wrapper::{
    Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor},
};
use serde::{Deserialize, Serialize};

/// A look at a GPU now. What the driver does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Energy since the driver was loaded.
    pub joules: Option<f64>,
    /// Power.
    pub watts: Option<f64>,
    /// Clock of the multiprocessors.
    pub clock_mhz: Option<u32>,
    /// Temperature.
    pub celsius: Option<u32>,
    /// Why the clocks are held back, by NVML's names.
    pub throttled: Vec<String>,
}

/// Looks at one GPU.
#[derive(Debug)]
pub struct Probe {
    #[cfg(feature = "cuda")]
    nvml: Nvml,
    #[cfg(feature = "cuda")]
    address: String,
}

impl Probe {
    /// None for a CPU, and where NVML cannot be loaded.
    pub fn of(device: &Device) -> Option<Self> {
        #[cfg(feature = "cuda")]
        if let candle_core::DeviceLocation::Cuda { gpu_id } = device.location() {
            let address = super::cuda::bus_address(i32::try_from(gpu_id).ok()?)?;
            return Some(Self { nvml: Nvml::init().ok()?, address });
        }
        let _ = device;
        None
    }

    /// A look at it. Takes well under a millisecond, and no work of the GPU's.
    pub fn read(&self) -> Reading {
        #[cfg(feature = "cuda")]
        if let Ok(gpu) = self.nvml.device_by_pci_bus_id(self.address.clone()) {
            // An idle GPU, and clocks that an application set, are no throttling.
            let harmless = ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING;
            let reasons = gpu.current_throttle_reasons().unwrap_or(ThrottleReasons::empty());
            return Reading {
                joules: gpu
                    .total_energy_consumption()
                    .ok()
                    .map(|millijoules| millijoules as f64 / 1e3),
                watts: gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
                clock_mhz: gpu.clock_info(Clock::SM).ok(),
                celsius: gpu.temperature(TemperatureSensor::Gpu).ok(),
                throttled: (reasons - harmless)
                    .iter_names()
                    .map(|(name, _)| name.to_owned())
                    .collect(),
            };
        }
        Reading::default()
    }
}
