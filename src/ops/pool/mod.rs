//! Pooling over windows that do not overlap (stride = side), and over whole images. Rows and columns left over at the lower
//! and right edge are ignored, as by PyTorch's default.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{DType, Device, Result, Tensor, WithDType as _};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, expect_shape, view, zeroed};
use super::parallel::{carve, for_each, sum, vectorized};

/// Most tasks that the planes of a batch are worked on in; each has its share of the work space.
const TASKS: usize = 16;

/// Sizes of one plane before and after pooling.
#[derive(Clone, Copy)]
struct Window {
    side: usize,
    height: usize,
    width: usize,
}

impl Window {
    /// The window, and the shape of the result for images of the given shape.
    fn of([n, c, height, width]: [usize; 4], side: usize) -> Result<([usize; 4], Self)> {
        if side == 0 || side > height || side > width || side > 15 {
            let text = format!("a pooling window of side {side} does not fit {height} × {width}");
            return Err(candle_core::Error::Msg(text).bt());
        }
        Ok(([n, c, height / side, width / side], Self { side, height, width }))
    }

    fn out_width(self) -> usize {
        self.width / self.side
    }

    fn out_plane(self) -> usize {
        (self.height / self.side) * self.out_width()
    }

    fn plane(self) -> usize {
        self.height * self.width
    }

    /// Values in a window.
    fn area(self) -> usize {
        self.side * self.side
    }

    /// Where in the plane each value of a window is, counted from its first.
    fn offsets(self) -> Vec<usize> {
        (0..self.area()).map(|i| i / self.side * self.width + i % self.side).collect()
    }

    /// The values at one place of all windows of a plane, side by side: loops over them become vectors whatever the sides.
    #[inline(always)]
    fn gather(self, x: &[f32], place: usize, values: &mut [f32]) {
        let (row, column) = (place / self.side, place % self.side);
        let rows = values.chunks_exact_mut(self.out_width());
        for (values, x) in rows.zip(x.chunks_exact(self.side * self.width)) {
            let windows = x[row * self.width..].chunks_exact(self.side);
            for (value, window) in values.iter_mut().zip(windows) {
                *value = window[column];
            }
        }
    }
}

/// Largest value of each `side` × `side` window, and where in the window it was (u8). x: N × C × H × W. The first of equal
/// values wins; a NaN is larger than everything.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[1.0_f32, 5.0, 2.0, 3.0], &Device::Cpu)?.reshape((1, 1, 2, 2))?;
/// let (y, places) = ops::max_pool2d(&x, 2)?;
/// assert_eq!(ops::to_f32(&y)?, [5.0]);
/// assert_eq!(places.flatten_all()?.to_vec1::<u8>()?, [1]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the tensor is not a contiguous tensor of four dimensions, or the window does not fit.
pub fn max_pool2d(x: &Tensor, side: usize) -> Result<(Tensor, Tensor)> {
    let (n, c, height, width) = x.dims4()?;
    let (shape, window) = Window::of([n, c, height, width], side)?;
    on_gpu!(x => cuda::max_pool2d(x, shape, side));
    let mut places = zeroed::<u8>(n * c * window.out_plane())?;
    let y = by_planes(x, shape, window, &mut places, max_plane)?;
    Ok((y, Tensor::from_vec(places, shape.to_vec(), &Device::Cpu)?))
}

/// One plane of [`max_pool2d`].
fn max_plane(window: Window, x: &[f32], values: &mut [f32], (y, places): (&mut [f32], &mut [u8])) {
    vectorized!({
        y.fill(f32::NEG_INFINITY);
        for place in 0..window.area() {
            window.gather(x, place, values);
            for (value, (best, at)) in values.iter().zip(y.iter_mut().zip(&mut *places)) {
                let larger = (*value > *best) | (value.is_nan() & !best.is_nan());
                *best = if larger { *value } else { *best };
                *at = if larger { place as u8 } else { *at };
            }
        }
    });
}

/// Planes of x with those of y and of what belongs to y, and work space.
type Task<'a, T, P> = ((&'a [T], (Unwritten<'a, T>, &'a mut [P])), &'a mut [f32]);

/// A tensor of the given shape of which `pool` computes each plane in f32 from the plane of x, with work space of the new
/// plane's size, and what else belongs to it.
fn by_planes<P: Send>(
    x: &Tensor,
    shape: [usize; 4],
    window: Window,
    beside: &mut [P],
    pool: impl Fn(Window, &[f32], &mut [f32], (&mut [f32], &mut [P])) + Sync + Send,
) -> Result<Tensor> {
    let (plane, out_plane) = (window.plane(), window.out_plane());
    let planes = (shape[0] * shape[1]).div_ceil(TASKS).max(1);
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        // f32 needs no f32 copies.
        let copies = usize::from(T::DTYPE != DType::F32);
        let lengths = [copies * plane, copies * out_plane, out_plane];
        let share = lengths.iter().sum();
        let mut space = zeroed::<f32>(share * TASKS)?;
        build::<T>(shape.to_vec(), |y| {
            let outputs = y.chunks(planes * out_plane).zip(beside.chunks_mut(planes * out_plane));
            let tasks = x.chunks(planes * plane).zip(outputs).zip(space.chunks_mut(share)).collect();
            for_each(tasks, |_, ((x, (y, beside)), space): Task<'_, T, P>| {
                let [wide_x, wide_y, values] = carve(space, lengths);
                let outputs = y.blocks(out_plane).zip(beside.chunks_mut(out_plane));
                for (x, (y, beside)) in x.chunks(plane).zip(outputs) {
                    let x = vectorized!(T::widened(x, wide_x));
                    T::store(y, wide_y, |y| pool(window, x, values, (y, beside)));
                }
            });
        })
    })
}

/// The gradient of [`max_pool2d`]: dy goes to the place of the maximum. `shape` is x's.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[1.0_f32, 5.0, 2.0, 3.0], &Device::Cpu)?.reshape((1, 1, 2, 2))?;
/// let (_, places) = ops::max_pool2d(&x, 2)?;
/// let dy = Tensor::new(&[7.0_f32], &Device::Cpu)?.reshape((1, 1, 1, 1))?;
/// let dx = ops::max_pool2d_backward(&dy, &places, 2, [1, 1, 2, 2])?;
/// assert_eq!(ops::to_f32(&dx)?, [0.0, 7.0, 0.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`max_pool2d`].
pub fn max_pool2d_backward(
    dy: &Tensor,
    places: &Tensor,
    side: usize,
    shape: [usize; 4],
) -> Result<Tensor> {
    let (pooled, window) = Window::of(shape, side)?;
    expect_shape("the gradient of max-pool", dy, &pooled)?;
    expect_shape("the places of max-pool", places, &pooled)?;
    on_gpu!(dy => cuda::max_pool2d_backward(dy, places, side, shape));
    let places = view::<u8>(places)?;
    let planes = (shape[0] * shape[1]).div_ceil(TASKS).max(1);
    let offsets = window.offsets();
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(shape.to_vec(), |dx| {
            let inputs = dy.chunks(planes * window.out_plane())
                .zip(places.chunks(planes * window.out_plane()));
            let tasks = dx.chunks(planes * window.plane()).zip(inputs).collect();
            for_each(tasks, |_, (dx, (dy, places)): (Unwritten<'_, T>, (&[T], &[u8]))| {
                let dx = dx.filled(T::default());
                let planes = dy.chunks(window.out_plane()).zip(places.chunks(window.out_plane()));
                for (dx, (dy, places)) in dx.chunks_mut(window.plane()).zip(planes) {
                    let rows = dy.chunks(window.out_width()).zip(places.chunks(window.out_width()));
                    for (dx, (dy, places)) in dx.chunks_mut(side * window.width).zip(rows) {
                        for (column, (dy, place)) in dy.iter().zip(places).enumerate() {
                            dx[column * side + offsets[usize::from(*place)]] = *dy;
                        }
                    }
                }
            });
        })
    })
}

/// Mean of each `side` × `side` window. x: N × C × H × W.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[1.0_f32, 5.0, 2.0, 4.0], &Device::Cpu)?.reshape((1, 1, 2, 2))?;
/// assert_eq!(ops::to_f32(&ops::avg_pool2d(&x, 2)?)?, [3.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, side: usize) -> Result<Tensor> {
    let (n, c, height, width) = x.dims4()?;
    let (shape, window) = Window::of([n, c, height, width], side)?;
    on_gpu!(x => cuda::avg_pool2d(x, shape, side));
    by_planes(x, shape, window, &mut vec![(); n * c * window.out_plane()], mean_plane)
}

/// One plane of [`avg_pool2d`].
fn mean_plane(window: Window, x: &[f32], values: &mut [f32], (y, _): (&mut [f32], &mut [()])) {
    vectorized!({
        y.fill(0.0);
        for place in 0..window.area() {
            window.gather(x, place, values);
            for (y, value) in y.iter_mut().zip(&*values) {
                *y += value;
            }
        }
        for y in y {
            *y /= window.area() as f32;
        }
    });
}

/// The gradient of [`avg_pool2d`]: dy / side² to every value of the window. `shape` is x's.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let dy = Tensor::new(&[8.0_f32], &Device::Cpu)?.reshape((1, 1, 1, 1))?;
/// let dx = ops::avg_pool2d_backward(&dy, 2, [1, 1, 2, 2])?;
/// assert_eq!(ops::to_f32(&dx)?, [2.0; 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d_backward(dy: &Tensor, side: usize, shape: [usize; 4]) -> Result<Tensor> {
    let (pooled, window) = Window::of(shape, side)?;
    expect_shape("the gradient of average pool", dy, &pooled)?;
    on_gpu!(dy => cuda::avg_pool2d_backward(dy, side, shape));
    let area = window.area() as f32;
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(shape.to_vec(), |dx| {
            let tasks = dx.chunks(window.plane()).zip(dy.chunks(window.out_plane())).collect();
            for_each(tasks, |_, (dx, dy): (Unwritten<'_, T>, &[T])| {
                let dx = dx.filled(T::default());
                let (mut wide, mut narrow) = ([0.0], [T::default()]);
                let rows = dx.chunks_exact_mut(side * window.width);
                for (dx, dy) in rows.zip(dy.chunks_exact(window.out_width())) {
                    for dx in dx.chunks_exact_mut(window.width) {
                        for (values, dy) in dx.chunks_exact_mut(side).zip(dy) {
                            T::widen(&[*dy], &mut wide);
                            T::narrow(&[wide[0] / area], &mut narrow);
                            values.fill(narrow[0]);
                        }
                    }
                }
            });
        })
    })
}

/// Mean over each image plane, summed in f32. x: N × C × H × W; result: N × C.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &Device::Cpu)?.reshape((1, 2, 1, 3))?;
/// assert_eq!(ops::global_avg_pool(&x)?.to_vec2::<f32>()?, [[2.0, 5.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the tensor is not a contiguous tensor of four dimensions.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let (n, c, height, width) = x.dims4()?;
    let plane = height * width;
    on_gpu!(x => cuda::global_avg_pool(x));
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        let mut wide = zeroed(plane)?;
        let means: Vec<f32> = x.chunks(plane)
            .map(|x| vectorized!(sum(T::widened(x, &mut wide)) / plane as f32))
            .collect();
        super::from_f32(&means, (n, c), T::DTYPE, &Device::Cpu)
    })
}

/// The gradient of [`global_avg_pool`]: dy / (H W) everywhere. `shape` is x's.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let dy = Tensor::new(&[[3.0_f32, 6.0]], &Device::Cpu)?;
/// let dx = ops::global_avg_pool_backward(&dy, [1, 2, 1, 3])?;
/// assert_eq!(ops::to_f32(&dx)?, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`global_avg_pool`].
pub fn global_avg_pool_backward(dy: &Tensor, shape: [usize; 4]) -> Result<Tensor> {
    let plane = shape[2] * shape[3];
    expect_shape("the gradient of global average pool", dy, &shape[..2])?;
    on_gpu!(dy => cuda::global_avg_pool_backward(dy, shape));
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(shape.to_vec(), |dx| {
            let (mut wide, mut narrow) = ([0.0], [T::default()]);
            for (dx, dy) in dx.chunks(plane).zip(dy.iter()) {
                T::widen(&[*dy], &mut wide);
                T::narrow(&[wide[0] / plane as f32], &mut narrow);
                dx.filled(narrow[0]);
            }
        })
    })
}
