//! Copies, conversions, rounding and counting on a GPU.
#![expect(unsafe_code, reason = "values are copied to and from addresses")]

use candle_core::cuda::cudarc::driver::{DeviceRepr, result};
use candle_core::{CudaDevice, DType, Error, Result, Shape, Storage, Tensor};

use crate::numerics::{TALLY_WORDS, Tally};
use crate::ops::Stored;
use crate::ops::cuda::{
    address, address_as, device_of, empty, kernel_error, launch, line, pointer, suffix,
};
use crate::precision::{Format, Rounder};

/// A tensor of these values.
pub(crate) fn from_host<T: Stored>(
    values: &[T],
    shape: impl Into<Shape>,
    gpu: &CudaDevice,
) -> Result<Tensor> {
    let tensor = empty(gpu, shape, T::DTYPE)?;
    let to = address(&tensor)?;
    // SAFETY: there are as many bytes at `to`, which was just allocated; the driver has read the values when this returns.
    unsafe { result::memcpy_htod_async(to, values, gpu.cuda_stream().cu_stream()) }
        .map_err(|error| kernel_error("copy to the GPU", &error))?;
    Ok(tensor)
}

pub(crate) fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let gpu = device_of(tensor)?;
    let target = empty(gpu, tensor.shape(), dtype)?;
    let (from, to, count) = (address(tensor)?, address(&target)?, tensor.elem_count());
    let name = format!("cast_{}_{}", suffix(tensor.dtype())?, suffix(dtype)?);
    if count > 0 {
        launch!(gpu, HOST, &name, line(gpu, count)?, from, to, count as u64)?;
    }
    Ok(target)
}

/// Zeros of a type of four bytes.
pub(crate) fn zeros(shape: impl Into<Shape>, dtype: DType, gpu: &CudaDevice) -> Result<Tensor> {
    let tensor = empty(gpu, shape, dtype)?;
    let (at, bytes) = (address_as(&tensor, dtype)?, tensor.elem_count() * dtype.size_in_bytes());
    // SAFETY: there are as many bytes at `at`, which was just allocated.
    unsafe { result::memset_d8_async(at, 0, bytes, gpu.cuda_stream().cu_stream()) }
        .map_err(|error| kernel_error("memset", &error))?;
    Ok(tensor)
}

pub(crate) fn copy(tensor: &Tensor) -> Result<Tensor> {
    let target = empty(device_of(tensor)?, tensor.shape(), tensor.dtype())?;
    copy_into(&target, tensor)?;
    Ok(target)
}

/// Copies between tensors of one shape and type.
pub(crate) fn copy_into(target: &Tensor, source: &Tensor) -> Result<()> {
    let gpu = device_of(target)?;
    let (to, from) = (address(target)?, address_as(source, target.dtype())?);
    let bytes = source.elem_count() * source.dtype().size_in_bytes();
    // SAFETY: both are contiguous and of this many bytes, and stay alive: what frees them does so later in the stream.
    unsafe { result::memcpy_dtod_async(to, from, bytes, gpu.cuda_stream().cu_stream()) }
        .map_err(|error| kernel_error("copy", &error))
}

pub(crate) fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    let wide =
        if tensor.dtype() == DType::F32 { tensor.clone() } else { cast(tensor, DType::F32)? };
    let (storage, layout) = wide.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        return Err(Error::RequiresContiguous { op: "to_f32" }.bt());
    };
    let values = storage.as_cuda_slice::<f32>()?.slice(start..end);
    storage.device.clone_dtoh(&values)
}

pub(crate) fn all_finite(tensor: &Tensor) -> Result<bool> {
    let gpu = device_of(tensor)?;
    let total = gpu.alloc_zeros::<u64>(1)?;
    let name = format!("count_non_finite_{}", suffix(tensor.dtype())?);
    let (values, count) = (address(tensor)?, tensor.elem_count());
    if count > 0 {
        let at = pointer(gpu, &total);
        launch!(gpu, HOST, &name, line(gpu, count)?, values, count as u64, at)?;
    }
    Ok(gpu.clone_dtoh(&total)? == [0])
}

pub(crate) fn round(tensor: &Tensor, format: Format) -> Result<()> {
    let gpu = device_of(tensor)?;
    let (values, count) = (address_as(tensor, DType::F32)?, tensor.elem_count());
    if count > 0 {
        let rounder = Argument(Rounder::new(format));
        launch!(gpu, HOST, "round_values", line(gpu, count)?, values, count as u64, rounder)?;
    }
    Ok(())
}

pub(crate) fn round_counted(tensor: &Tensor, format: Format) -> Result<Tally> {
    let gpu = device_of(tensor)?;
    let (values, count) = (address_as(tensor, DType::F32)?, tensor.elem_count());
    let rounder = Argument(Rounder::new(format));
    tally(gpu, |tally| {
        let geometry = line(gpu, count)?;
        launch!(gpu, HOST, "round_census", geometry, values, count as u64, rounder, tally)
    })
}

pub(crate) fn observe(tensor: &Tensor) -> Result<Tally> {
    let gpu = device_of(tensor)?;
    let (values, count) = (address_as(tensor, DType::F32)?, tensor.elem_count());
    tally(gpu, |tally| {
        launch!(gpu, HOST, "observe_census", line(gpu, count)?, values, count as u64, tally)
    })
}

/// What `count` adds to the tally at the address that it is given. Waits for it.
fn tally(gpu: &CudaDevice, count: impl FnOnce(u64) -> Result<()>) -> Result<Tally> {
    let words = gpu.alloc_zeros::<u64>(TALLY_WORDS)?;
    count(pointer(gpu, &words))?;
    let mut found = [0; TALLY_WORDS];
    gpu.memcpy_dtoh(&words, &mut found)?;
    Ok(Tally::from_words(&found))
}

/// A structure that a kernel takes by value.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Argument<T>(pub(in crate::ops) T);

// SAFETY: only plain data of the kernels' own layout is wrapped.
unsafe impl<T: Copy> DeviceRepr for Argument<T> {}
