//! Between candle tensors and the slices that the CPU's kernels work on.
#![expect(unsafe_code, reason = "a new tensor is what its kernel wrote, and is not zeroed first")]

#[cfg(feature = "cuda")]
pub(super) mod cuda;

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::slice::ChunksMut;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage, StorageRef,
    Tensor,
};

use super::element::{Element, Stored, by_dtype};
use super::matmul::IsaError;
use super::parallel::{BLOCK, CHUNK, for_each, vectorized};
use crate::memory::{self, OutOfMemory};
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

/// Room for `len` values and nothing in it.
///
/// # Errors
/// When there is no memory for them.
pub(crate) fn reserve<T>(len: usize) -> Result<Vec<T>> {
    Ok(memory::reserve(len)?)
}

/// `len` zeros.
///
/// # Errors
/// When there is no memory for them.
pub(crate) fn zeroed<T: Stored>(len: usize) -> Result<Vec<T>> {
    let mut values = reserve(len)?;
    let room: &mut [MaybeUninit<T>] = &mut values.spare_capacity_mut()[..len];
    for_each(room.chunks_mut(CHUNK).collect(), |_, part: &mut [MaybeUninit<T>]| {
        part.fill(MaybeUninit::new(T::default()));
    });
    // SAFETY: there is room for so many, and all were written.
    unsafe { values.set_len(len) };
    Ok(values)
}

impl From<IsaError> for Error {
    fn from(error: IsaError) -> Self {
        Self::Msg(error.to_string()).bt()
    }
}

impl From<OutOfMemory> for Error {
    fn from(error: OutOfMemory) -> Self {
        Self::Msg(error.to_string()).bt()
    }
}

/// Values of a new tensor, or a part of them, that nobody has written yet: `T`s are to be had from it only by writing them, and
/// it counts how many were.
pub(crate) struct Unwritten<'a, T> {
    values: &'a mut [MaybeUninit<T>],
    written: &'a AtomicUsize,
}

impl<'a, T: Element> Unwritten<'a, T> {
    /// Parts of `size` values; the last may be shorter.
    pub(crate) fn chunks(self, size: usize) -> impl ExactSizeIterator<Item = Self> {
        let written = self.written;
        self.values.chunks_mut(size).map(move |values| Self { values, written })
    }

    /// Blocks of `size` values, each set to 0 as it is handed out, so that it is in the nearest cache when it is overwritten.
    #[inline(always)]
    pub(crate) fn blocks(self, size: usize) -> Blocks<'a, T> {
        Blocks { rest: self.values.chunks_mut(size), count: 0, written: self.written }
    }

    /// All of them, set to `value`.
    #[inline(always)]
    pub(crate) fn filled(self, value: T) -> &'a mut [T] {
        self.values.fill(MaybeUninit::new(value));
        self.written.fetch_add(self.values.len(), Ordering::Relaxed);
        // SAFETY: all were just written.
        unsafe { self.values.assume_init_mut() }
    }

    /// Copies of `source`, which has as many values.
    pub(crate) fn copied(self, source: &[T]) {
        self.values.write_copy_of_slice(source);
        self.written.fetch_add(self.values.len(), Ordering::Relaxed);
    }

    /// What `write` puts there.
    ///
    /// # Errors
    /// Those of `write`.
    ///
    /// # Safety
    /// `write` writes every value where it has no error.
    pub(crate) unsafe fn try_written_by<E>(
        self,
        write: impl FnOnce(&mut [MaybeUninit<T>]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        write(self.values)?;
        self.written.fetch_add(self.values.len(), Ordering::Relaxed);
        Ok(())
    }
}

/// See [`Unwritten::blocks`].
pub(crate) struct Blocks<'a, T> {
    rest: ChunksMut<'a, MaybeUninit<T>>,
    /// Values that were handed out.
    count: usize,
    written: &'a AtomicUsize,
}

impl<'a, T: Element> Iterator for Blocks<'a, T> {
    type Item = &'a mut [T];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a mut [T]> {
        let block = self.rest.next()?;
        self.count += block.len();
        block.fill(MaybeUninit::new(T::default()));
        // SAFETY: all were just written.
        Some(unsafe { block.assume_init_mut() })
    }
}

impl<T> Drop for Blocks<'_, T> {
    fn drop(&mut self) {
        self.written.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// A new CPU tensor whose every value `fill` writes.
///
/// # Errors
/// When there is no memory for it, or `fill` left values out.
pub(crate) fn build<T: Element>(
    shape: impl Into<Shape>,
    fill: impl FnOnce(Unwritten<'_, T>),
) -> Result<Tensor> {
    try_build(shape, |values| {
        fill(values);
        Ok(())
    })
}

/// As [`build`], where `fill` may fail.
///
/// # Errors
/// As [`build`], and those of `fill`.
pub(crate) fn try_build<T: Element>(
    shape: impl Into<Shape>,
    fill: impl FnOnce(Unwritten<'_, T>) -> Result<()>,
) -> Result<Tensor> {
    let shape = shape.into();
    let len = shape.elem_count();
    let mut values = reserve::<T>(len)?;
    let written = AtomicUsize::new(0);
    fill(Unwritten { values: &mut values.spare_capacity_mut()[..len], written: &written })?;
    let count = written.into_inner();
    if count != len {
        return Err(Error::Msg(format!("{count} of {len} values of a tensor were written")).bt());
    }
    // SAFETY: there is room for so many, and each was written: they are counted as they are, parts of `Unwritten` do not overlap,
    // and each is used up by writing it.
    unsafe { values.set_len(len) };
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
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops;
///
/// // The second value is half way between two numbers of f16: the even one is taken.
/// let x = Tensor::new(&[0.5_f32, 1.0 + 2.0_f32.powi(-11)], &Device::Cpu)?;
/// let y = ops::cast(&x, DType::F16)?;
/// assert_eq!(ops::to_f32(&y)?, [0.5, 1.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
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
            let tasks = target.chunks(CHUNK).zip(source.chunks(CHUNK)).collect();
            for_each(tasks, |_, (target, source): (Unwritten<'_, T>, &[S])| vectorized!({
                let mut from = [0.0; BLOCK];
                for (target, source) in target.blocks(BLOCK).zip(source.chunks(BLOCK)) {
                    T::narrow(S::widened(source, &mut from), target);
                }
            }));
        })
    }))
}

/// A tensor of `dtype` on `device` from f32 values, rounded once.
///
/// ```
/// use candle_core::{DType, Device};
/// use mantissa::ops;
///
/// let x = ops::from_f32(&[1.0, 2.0, 3.0, 4.0], (2, 2), DType::BF16, &Device::Cpu)?;
/// assert_eq!(x.dims(), [2, 2]);
/// assert_eq!(x.dtype(), DType::BF16);
/// # Ok::<(), candle_core::Error>(())
/// ```
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
        let mut copy = reserve(values.len())?;
        copy.extend_from_slice(values);
        return cast(&from_host(copy, shape, device)?, dtype);
    }
    by_dtype!(dtype, T => build::<T>(shape, |target| {
        let tasks = target.chunks(CHUNK).zip(values.chunks(CHUNK)).collect();
        for_each(tasks, |_, (target, source): (Unwritten<'_, T>, &[f32])| vectorized!({
            for (target, source) in target.blocks(BLOCK).zip(source.chunks(BLOCK)) {
                T::narrow(source, target);
            }
        }));
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
/// ```
/// use candle_core::{DType, Device};
/// use mantissa::ops;
///
/// let x = ops::from_f32(&[1.5, -2.0], 2, DType::F16, &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&x)?, [1.5, -2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`cast`].
pub fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    on_gpu!(tensor => cuda::to_f32(tensor));
    by_dtype!(tensor.dtype(), T => {
        let source = view::<T>(tensor)?;
        let mut target = zeroed(source.len())?;
        T::widen(&source, &mut target);
        Ok(target)
    })
}

/// An f32 tensor of zeros.
///
/// ```
/// use candle_core::Device;
/// use mantissa::ops;
///
/// assert_eq!(ops::to_f32(&ops::zeros((2, 2), &Device::Cpu)?)?, [0.0; 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When there is no memory for it.
pub fn zeros(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    zeros_as(shape, DType::F32, device)
}

/// Zeros of a type: f32, f16 or bf16.
///
/// # Errors
/// When there is no memory for them, or the type is another.
pub fn zeros_as(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return cuda::zeros(shape, dtype, gpu);
    }
    let shape = shape.into();
    by_dtype!(dtype, T => Tensor::from_vec(zeroed::<T>(shape.elem_count())?, shape, device))
}

/// A u32 tensor of zeros.
///
/// # Errors
/// As [`zeros`].
pub fn zeros_u32(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return cuda::zeros(shape, DType::U32, gpu);
    }
    let shape = shape.into();
    Tensor::from_vec(zeroed::<u32>(shape.elem_count())?, shape, device)
}

/// An equal tensor with storage of its own: of u32, too.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
/// use mantissa::precision::Format;
///
/// let x = Tensor::new(&[1.001_f32], &Device::Cpu)?;
/// let y = ops::copy(&x)?;
/// ops::round(&y, Format::BF16)?; // in place
/// assert_eq!((ops::to_f32(&x)?, ops::to_f32(&y)?), (vec![1.001], vec![1.0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`cast`].
pub fn copy(tensor: &Tensor) -> Result<Tensor> {
    on_gpu!(tensor => cuda::copy(tensor));
    if tensor.dtype() == DType::U32 {
        let source = view::<u32>(tensor)?;
        let mut values = reserve(source.len())?;
        values.extend_from_slice(&source);
        return Tensor::from_vec(values, tensor.shape(), tensor.device());
    }
    by_dtype!(tensor.dtype(), T => {
        let source = view::<T>(tensor)?;
        build::<T>(tensor.shape(), |target| target.copied(&source))
    })
}

/// Overwrites `target` with the values of `source`, a tensor of the same shape and type: also of u32.
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
        dtype => by_dtype!(dtype, T => values::<T>(target, source)),
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
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
/// use mantissa::precision::Format;
///
/// // bf16 has 7 bits of mantissa: above 1 its numbers are 2⁻⁷ apart.
/// let x = Tensor::new(&[1.001_f32, 1.007], &Device::Cpu)?;
/// ops::round(&x, Format::BF16)?;
/// assert_eq!(ops::to_f32(&x)?, [1.0, 1.0 + 2.0_f32.powi(-7)]);
/// # Ok::<(), candle_core::Error>(())
/// ```
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
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
/// use mantissa::precision::Format;
///
/// let x = Tensor::new(&[1e5_f32, 1.0, 1e-10], &Device::Cpu)?;
/// let counts = ops::round_counted(&x, Format::F16)?.counts;
/// assert_eq!(ops::to_f32(&x)?, [f32::INFINITY, 1.0, 0.0]);
/// assert_eq!((counts.elements, counts.overflow, counts.underflow), (3, 1, 1));
/// # Ok::<(), candle_core::Error>(())
/// ```
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
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[1.0_f32, f32::NAN], &Device::Cpu)?;
/// let counts = ops::observe(&x)?.counts;
/// assert_eq!((counts.elements, counts.nan), (2, 1));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`round`].
pub fn observe(tensor: &Tensor) -> Result<Tally> {
    on_gpu!(tensor => cuda::observe(tensor));
    let values = view::<f32>(tensor)?;
    Ok(memory::uncounted(|| numerics::observe(&values)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ways to write a value, each on a part of the tensor.
    #[test]
    fn a_tensor_is_what_was_written() {
        let tensor = build::<f32>(11, |values| {
            let mut parts = values.chunks(3);
            let mut part = || parts.next().unwrap();
            part().copied(&[1.0, 2.0, 7.0]);
            part().filled(7.0)[0] = 8.0;
            for piece in part().chunks(1) {
                piece.filled(5.0);
            }
            let blocks = part().blocks(1);
            for (index, block) in blocks.enumerate() {
                block[0] += 3.0 * index as f32;
            }
        });
        let expected = [1.0, 2.0, 7.0, 8.0, 7.0, 7.0, 5.0, 5.0, 5.0, 0.0, 3.0];
        assert_eq!(to_f32(&tensor.unwrap()).unwrap(), expected);
        assert_eq!(build::<half::bf16>(0, |_| ()).unwrap().elem_count(), 0);
    }

    /// A kernel that leaves a value out makes an error, and no tensor of what was in memory before.
    #[test]
    fn a_tensor_of_which_a_value_is_missing_is_an_error() {
        let missing = |fill: fn(Unwritten<'_, f32>)| build::<f32>(5, fill).unwrap_err().to_string();
        for (text, what) in [
            (missing(|_| ()), "0 of 5 values of a tensor were written"),
            (
                missing(|values| values.chunks(4).take(1).for_each(|part| _ = part.filled(1.0))),
                "4 of 5 values of a tensor were written",
            ),
            (
                missing(|values| _ = values.blocks(2).next()),
                "2 of 5 values of a tensor were written",
            ),
        ] {
            assert_eq!(text.lines().next(), Some(what));
        }
    }

    #[test]
    fn a_tensor_that_does_not_fit_the_memory_is_an_error_with_its_size() {
        let error = build::<f32>(1 << 45, |_| unreachable!()).unwrap_err().to_string();
        let expected = "out of memory: 140737488355328 bytes were asked for";
        assert_eq!(error.lines().next(), Some(expected));
        assert!(zeros(1 << 45, &Device::Cpu).is_err());
    }
}
