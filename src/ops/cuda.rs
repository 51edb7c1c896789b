//! What the operations on a GPU share. Each operation's folder has its kernels, in a `.cu` file, and their launches, in `cuda.rs`.
//!
//! All work is in the device's one stream. Nothing waits for it but what hands values to the host.
#![expect(unsafe_code, reason = "memory is allocated that kernels write")]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda::CudaStorageSlice;
use candle_core::cuda::cudarc::driver::sys::{CUdevice_attribute, CUresult};
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr as _, DeviceRepr, LaunchConfig};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Error, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Launches a kernel: the device, the constant that holds its PTX, its name, the geometry, and its arguments by value.
macro_rules! launch {
    ($gpu:expr, $module:ident, $name:expr, $geometry:expr, $($argument:expr),+ $(,)?) => {{
        use candle_core::cuda::cudarc::driver::PushKernelArg as _;
        let name: &str = $name;
        let ptx = $crate::ops::cuda::$module;
        let kernel = $gpu.get_or_load_custom_func(name, stringify!($module), ptx)?;
        let mut call = kernel.builder();
        launch!(@push call, $($argument),+);
        // SAFETY: the arguments are those that the kernel of this name takes, which the tests under an emulated GPU and on real
        // ones check; the pointers are of tensors that are held until after the launch, and freed in the same stream.
        #[allow(unsafe_code, reason = "a kernel is launched on addresses")]
        let launched = unsafe { call.launch($geometry) };
        launched.map(|_| ()).map_err(|error| $crate::ops::cuda::kernel_error(name, &error))
    }};
    (@push $call:ident, $first:expr $(, $rest:expr)*) => {
        let argument = $first;
        $call.arg(&argument);
        launch!(@push $call $(, $rest)*);
    };
    (@push $call:ident) => {};
}
pub(super) use launch;

/// What went wrong with a kernel.
pub(super) fn kernel_error(name: &str, error: &impl std::fmt::Display) -> Error {
    Error::Msg(format!("the kernel {name}: {error}")).bt()
}

/// The device of a tensor.
pub(super) fn device_of(tensor: &Tensor) -> Result<&CudaDevice> {
    tensor.device().as_cuda_device()
}

/// The address of a contiguous tensor's first value.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op: "mantissa" }.bt());
    };
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::Msg("a tensor of this operation is not on the GPU".to_owned()).bt());
    };
    let gpu = &storage.device;
    let base = match &storage.slice {
        CudaStorageSlice::F32(values) => pointer(gpu, values),
        CudaStorageSlice::F16(values) => pointer(gpu, values),
        CudaStorageSlice::BF16(values) => pointer(gpu, values),
        CudaStorageSlice::U32(values) => pointer(gpu, values),
        CudaStorageSlice::U8(values) => pointer(gpu, values),
        _ => return Err(Error::UnsupportedDTypeForOp(tensor.dtype(), "mantissa").bt()),
    };
    Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
}

/// The address of an array on the GPU.
pub(super) fn pointer<T>(gpu: &CudaDevice, values: &CudaSlice<T>) -> u64 {
    // No event is tracked, so there is nothing to wait for and nothing to record.
    values.device_ptr(&gpu.cuda_stream()).0
}

/// The addresses of tensors that must be of one floating-point type, and that type's name in the kernels' names.
pub(super) fn operands<const N: usize>(tensors: [&Tensor; N]) -> Result<([u64; N], &'static str)> {
    let dtype = tensors[0].dtype();
    Ok((addresses_as(tensors, dtype)?, suffix(dtype)?))
}

/// The addresses of tensors that must be of this type.
pub(super) fn addresses_as<const N: usize>(
    tensors: [&Tensor; N],
    dtype: DType,
) -> Result<[u64; N]> {
    let mut addresses = [0; N];
    for (address, tensor) in addresses.iter_mut().zip(tensors) {
        *address = address_as(tensor, dtype)?;
    }
    Ok(addresses)
}

/// The address of a tensor that must be of this type.
pub(super) fn address_as(tensor: &Tensor, expected: DType) -> Result<u64> {
    if tensor.dtype() == expected {
        return address(tensor);
    }
    Err(Error::UnexpectedDType { msg: "mantissa", expected, got: tensor.dtype() }.bt())
}

/// A storage type's name in the names of kernels.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => Err(Error::UnsupportedDTypeForOp(other, "mantissa").bt()),
    }
}

/// A new tensor whose every value a kernel writes before it is read.
pub(super) fn empty(gpu: &CudaDevice, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let shape = shape.into();
    let count = shape.elem_count();
    let slice = match dtype {
        DType::F32 => CudaStorageSlice::F32(allocate::<f32>(gpu, count)?),
        DType::F16 => CudaStorageSlice::F16(allocate::<f16>(gpu, count)?),
        DType::BF16 => CudaStorageSlice::BF16(allocate::<bf16>(gpu, count)?),
        DType::U32 => CudaStorageSlice::U32(allocate::<u32>(gpu, count)?),
        DType::U8 => CudaStorageSlice::U8(allocate::<u8>(gpu, count)?),
        other => return Err(Error::UnsupportedDTypeForOp(other, "mantissa").bt()),
    };
    let storage = Storage::Cuda(CudaStorage { slice, device: gpu.clone() });
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// An array that is written before it is read.
pub(super) fn allocate<T: DeviceRepr>(gpu: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: as the caller promises.
    unsafe { gpu.cuda_stream().alloc::<T>(count) }.map_err(|error| {
        let bytes = count * size_of::<T>();
        let text = if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            format!("out of memory on the GPU: {bytes} more bytes were asked for")
        } else {
            format!("cannot allocate {bytes} bytes on the GPU: {error}")
        };
        Error::Msg(text).bt()
    })
}

/// How many multiprocessors a GPU has, asked once.
pub(super) fn multiprocessors(gpu: &CudaDevice) -> Result<u32> {
    static KNOWN: Mutex<BTreeMap<usize, u32>> = Mutex::new(BTreeMap::new());
    let context = gpu.cuda_stream().context().clone();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(count) = known.get(&context.ordinal()) {
        return Ok(*count);
    }
    let what = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let count = context.attribute(what).map_err(|error| kernel_error("attribute", &error))?;
    let count = u32::try_from(count).unwrap_or(1).max(1);
    known.insert(context.ordinal(), count);
    Ok(count)
}

/// Most blocks of a grid whose threads loop: enough to fill the GPU several times over.
pub(super) fn most_blocks(gpu: &CudaDevice) -> Result<u64> {
    Ok(u64::from(16 * multiprocessors(gpu)?))
}

/// A geometry of `blocks`, at least one and at most as many as fill the GPU, of these threads.
pub(super) fn blocks(gpu: &CudaDevice, blocks: u64, block: (u32, u32)) -> Result<LaunchConfig> {
    let count = blocks.clamp(1, most_blocks(gpu)?) as u32;
    Ok(LaunchConfig {
        grid_dim: (count, 1, 1),
        block_dim: (block.0, block.1, 1),
        shared_mem_bytes: 0,
    })
}

/// Threads that walk along `count` values, four at a time.
pub(super) fn line(gpu: &CudaDevice, count: usize) -> Result<LaunchConfig> {
    const THREADS: u32 = 256;
    blocks(gpu, (count as u64).div_ceil(4 * u64::from(THREADS)), (THREADS, 1))
}

/// Rows of threads, of which each works on one plane of `size` values at a time: `for_each_in_planes` of common.cuh.
pub(super) fn planes(gpu: &CudaDevice, count: usize, size: usize) -> Result<LaunchConfig> {
    const THREADS: u32 = 256;
    let along = (size.min(THREADS as usize) as u32).next_multiple_of(32).max(32);
    let across = THREADS / along;
    blocks(gpu, (count as u64).div_ceil(across.into()), (along, across))
}

/// Threads of a block that sums. It sets the order of the sums, so it depends on nothing.
pub(super) const SUM_THREADS: u32 = 256;

/// Blocks that work on one of `count` sums at a time.
pub(super) fn sums(gpu: &CudaDevice, count: usize) -> Result<LaunchConfig> {
    blocks(gpu, count as u64, (SUM_THREADS, 1))
}

/// One block.
pub(super) fn one_block() -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (SUM_THREADS, 1, 1), shared_mem_bytes: 0 }
}
