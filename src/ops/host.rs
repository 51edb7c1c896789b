//! Between candle tensors and the slices that the CPU's kernels work on.
#![expect(unsafe_code, reason = "buffers that a kernel fills are not zeroed first")]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage, StorageRef,
    Tensor,
};

#[cfg(feature = "cuda")]
use super::cuda;
use super::element::{Element, Stored, by_dtype};
use super::parallel::{BLOCK, CHUNK, for_each, vectorized};
use crate::memory;
use crate::numerics::{self, Tally};
use crate::precision::Format;

/// A contiguous CPU tensor's values, borrowed.
pub(crate) struct View<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    element: PhantomData<T>,
}

/// Borrows the values of a contiguous CPU tensor of type `T`.
///
/// # Errors
/// When it is on another device, not contiguous, or of another type.
pub(crate) fn view<T: Stored>(tensor: &Tensor) -> Result<View<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op: "mantissa" }.bt());
    };
    let Storage::Cpu(values) = &*storage else {
        return Err(Error::Msg("this operation has no kernel for this device".to_owned()).bt());
    };
    T::cpu_storage_as_slice(values)?;
    Ok(View { storage, range: start..end, element: PhantomData })
}

impl<T: Stored> Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(values) => {
                T::cpu_storage_as_slice(values).map_or(&[], |values| &values[self.range.clone()])
            }
            _ => &[],
        }
    }
}

/// A kernel walks its tensors together and would leave values unwritten where one is shorter.
///
/// # Errors
/// When `tensor`, named by `what`, is not of the shape `dims`.
pub(crate) fn expect_shape(what: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    if tensor.dims() == dims {
        return Ok(());
    }
    let text = format!("{what} must have the shape {dims:?}, not {:?}", tensor.dims());
    Err(Error::Msg(text).bt())
}

/// A buffer of `len` values that its caller fills before anyone reads it.
pub(crate) fn buffer<T: Element>(len: usize) -> Vec<T> {
    let mut values = Vec::<T>::with_capacity(len);
    let (start, capacity) = (values.as_mut_ptr(), values.capacity());
    std::mem::forget(values);
    // SAFETY: the allocation holds at least `len` values; any bits are a valid f32, f16 or bf16; kernels write each value
    // before it is read.
    unsafe { Vec::from_raw_parts(start, len, capacity) }
}

/// A new CPU tensor whose every value `fill` writes.
pub(crate) fn build<T: Element>(
    shape: impl Into<Shape>,
    fill: impl FnOnce(&mut [T]),
) -> Result<Tensor> {
    let shape = shape.into();
    let mut values = buffer::<T>(shape.elem_count());
    fill(&mut values);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Hands `edit` the values of a contiguous CPU tensor to change in place.
///
/// # Errors
/// As [`view`].
pub(crate) fn edit<T: Stored>(tensor: &Tensor, edit: impl FnOnce(&mut [T])) -> Result<()> {
    struct Edit<T, F>(Cell<Option<F>>, PhantomData<T>);
    impl<T: Stored, F: FnOnce(&mut [T])> InplaceOp1 for Edit<T, F> {
        fn name(&self) -> &'static str {
            "edit"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                return Err(Error::RequiresContiguous { op: "edit" }.bt());
            };
            let dtype = storage.dtype();
            let Some(values) = T::of(storage) else {
                return Err(Error::UnsupportedDTypeForOp(dtype, "edit").bt());
            };
            if let Some(edit) = self.0.take() {
                edit(&mut values[start..end]);
            }
            Ok(())
        }
    }
    tensor.inplace_op1(&Edit(Cell::new(Some(edit)), PhantomData))
}

/// The first value of a tensor.
///
/// # Errors
/// As [`view`], and when there is none.
pub(crate) fn first<T: Stored>(tensor: &Tensor) -> Result<T> {
    let missing = || Error::Msg("a tensor without values".to_owned()).bt();
    view::<T>(tensor)?.first().copied().ok_or_else(missing)
}

/// `tensor` in another storage type, rounded once; the same tensor if it already is of that type.
///
/// # Errors
/// When the tensor is not contiguous or either type is not f32, f16 or bf16.
pub fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    on_gpu!(tensor => cuda::cast(tensor, dtype));
    by_dtype!(tensor.dtype(), S => by_dtype!(dtype, T => {
        let source = view::<S>(tensor)?;
        build::<T>(tensor.shape(), |target| {
            let tasks = target.chunks_mut(CHUNK).zip(source.chunks(CHUNK)).collect();
            for_each(tasks, |_, (target, source)| vectorized!({
                let mut from = [0.0; BLOCK];
                for (target, source) in target.chunks_mut(BLOCK).zip(source.chunks(BLOCK)) {
                    T::narrow(S::widened(source, &mut from), target);
                }
            }));
        })
    }))
}

/// A tensor of `dtype` on `device` from f32 values, rounded once.
///
/// # Errors
/// When the shape does not fit, or the type is not f32, f16 or bf16.
pub fn from_f32(
    values: &[f32],
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    if shape.elem_count() != values.len() {
        return Err(Error::Msg(format!("{} values do not fill {shape:?}", values.len())).bt());
    }
    if !device.is_cpu() {
        return cast(&from_host(values.to_vec(), shape, device)?, dtype);
    }
    by_dtype!(dtype, T => build::<T>(shape, |target| {
        let tasks = target.chunks_mut(CHUNK).zip(values.chunks(CHUNK)).collect();
        for_each(tasks, |_, (target, source)| vectorized!(T::narrow(source, target)));
    }))
}

/// A tensor on `device` that takes over these values.
///
/// # Errors
/// When the shape does not fit, or there is no memory for it.
pub fn from_host<T: Stored>(
    values: Vec<T>,
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    if shape.elem_count() != values.len() {
        return Err(Error::Msg(format!("{} values do not fill {shape:?}", values.len())).bt());
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return cuda::from_host(&values, shape, gpu);
    }
    Tensor::from_vec(values, shape, device)
}

/// The values of a tensor as f32, exactly.
///
/// # Errors
/// As [`cast`].
pub fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    on_gpu!(tensor => cuda::to_f32(tensor));
    by_dtype!(tensor.dtype(), T => {
        let source = view::<T>(tensor)?;
        let mut target = vec![0.0; source.len()];
        T::widen(&source, &mut target);
        Ok(target)
    })
}

/// An f32 tensor of zeros.
///
/// # Errors
/// When there is no memory for it.
pub fn zeros(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return cuda::zeros(shape, gpu);
    }
    Tensor::zeros(shape, DType::F32, device)
}

/// An equal tensor with storage of its own.
///
/// # Errors
/// As [`cast`].
pub fn copy(tensor: &Tensor) -> Result<Tensor> {
    on_gpu!(tensor => cuda::copy(tensor));
    by_dtype!(tensor.dtype(), T => {
        let source = view::<T>(tensor)?;
        build::<T>(tensor.shape(), |target| target.copy_from_slice(&source))
    })
}

/// Overwrites `target` with the values of `source`, a tensor of the same shape and type: f32 or u32.
///
/// # Errors
/// When they are not that.
pub fn copy_into(target: &Tensor, source: &Tensor) -> Result<()> {
    fn values<T: Stored>(target: &Tensor, source: &Tensor) -> Result<()> {
        let source = view::<T>(source)?;
        edit::<T>(target, |target| target.copy_from_slice(&source))
    }
    expect_shape("the tensor to copy", source, target.dims())?;
    on_gpu!(target => cuda::copy_into(target, source));
    match target.dtype() {
        DType::U32 => values::<u32>(target, source),
        _ => values::<f32>(target, source),
    }
}

/// Whether no value is infinite or NaN.
///
/// # Errors
/// As [`cast`].
pub fn all_finite(tensor: &Tensor) -> Result<bool> {
    on_gpu!(tensor => cuda::all_finite(tensor));
    Ok(to_f32(tensor)?.iter().all(|value| value.is_finite()))
}

/// Rounds an f32 tensor to `format`, in place: the rounding step of wide mode.
///
/// # Errors
/// When the tensor is not a contiguous f32 tensor.
pub fn round(tensor: &Tensor, format: Format) -> Result<()> {
    on_gpu!(tensor => cuda::round(tensor, format));
    edit::<f32>(tensor, |values| {
        vectorized!(memory::uncounted(|| numerics::round(format, values)));
    })
}

/// As [`round`], and counts what that did.
///
/// # Errors
/// As [`round`].
pub fn round_counted(tensor: &Tensor, format: Format) -> Result<Tally> {
    on_gpu!(tensor => cuda::round_counted(tensor, format));
    let mut tally = Tally::default();
    edit::<f32>(tensor, |values| {
        tally = vectorized!(memory::uncounted(|| numerics::round_counted(format, values)));
    })?;
    Ok(tally)
}

/// Counts the values of an f32 tensor as they are.
///
/// # Errors
/// As [`round`].
pub fn observe(tensor: &Tensor) -> Result<Tally> {
    on_gpu!(tensor => cuda::observe(tensor));
    let values = view::<f32>(tensor)?;
    Ok(memory::uncounted(|| numerics::observe(&values)))
}
