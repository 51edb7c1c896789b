//! Between candle tensors and the slices that the CPU's kernels work on.
#![expect(unsafe_code, reason = "buffers that a kernel fills are not zeroed first")]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{
    CpuStorage, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage, StorageRef,
    Tensor,
};

use super::element::{Element, by_dtype};
use super::parallel::{BLOCK, CHUNK, for_each, vectorized};
use crate::memory;

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
pub(crate) fn view<T: Element>(tensor: &Tensor) -> Result<View<'_, T>> {
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

impl<T: Element> Deref for View<'_, T> {
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
pub(crate) fn edit<T: Element>(tensor: &Tensor, edit: impl FnOnce(&mut [T])) -> Result<()> {
    struct Edit<T, F>(Cell<Option<F>>, PhantomData<T>);
    impl<T: Element, F: FnOnce(&mut [T])> InplaceOp1 for Edit<T, F> {
        fn name(&self) -> &'static str {
            "edit"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                return Err(Error::RequiresContiguous { op: "edit" }.bt());
            };
            let dtype = match storage {
                CpuStorage::F16(_) => DType::F16,
                CpuStorage::BF16(_) => DType::BF16,
                _ => DType::F32,
            };
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

/// `tensor` in another storage type, rounded once; the same tensor if it already is of that type.
///
/// # Errors
/// When the tensor is not contiguous on the CPU or either type is not f32, f16 or bf16.
pub fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
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

/// A tensor of `dtype` from f32 values, rounded once.
///
/// # Errors
/// When the shape does not fit, or the type is not f32, f16 or bf16.
pub fn from_f32(values: &[f32], shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let shape = shape.into();
    if shape.elem_count() != values.len() {
        return Err(Error::Msg(format!("{} values do not fill {shape:?}", values.len())).bt());
    }
    by_dtype!(dtype, T => build::<T>(shape, |target| {
        let tasks = target.chunks_mut(CHUNK).zip(values.chunks(CHUNK)).collect();
        for_each(tasks, |_, (target, source)| vectorized!(T::narrow(source, target)));
    }))
}

/// The values of a tensor as f32, exactly.
///
/// # Errors
/// As [`cast`].
pub fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    by_dtype!(tensor.dtype(), T => {
        let source = view::<T>(tensor)?;
        let mut target = vec![0.0; source.len()];
        T::widen(&source, &mut target);
        Ok(target)
    })
}

/// Lets `round` change the values of an f32 tensor in place: the rounding step of wide mode.
///
/// # Errors
/// When the tensor is not a contiguous f32 tensor on the CPU.
pub fn round_in_place(tensor: &Tensor, round: impl FnOnce(&mut [f32])) -> Result<()> {
    edit::<f32>(tensor, |values| {
        vectorized!(memory::uncounted(|| round(values)));
    })
}
