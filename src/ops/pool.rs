//! Pooling over windows that do not overlap (stride = side), and over whole images. Rows and columns left over at the lower
//! and right edge are ignored, as by PyTorch's default.

use candle_core::{Device, Result, Tensor, WithDType as _};

use super::element::{Element, by_dtype};
use super::host::{buffer, build, expect_shape, view};
use super::parallel::{for_each, sum, vectorized};

/// Image planes in one task.
const PLANES: usize = 16;

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

    /// Position in the input plane of the first value of output `o`'s window.
    fn start(self, o: usize) -> usize {
        (o / self.out_width()) * self.side * self.width + (o % self.out_width()) * self.side
    }

    /// Offset in the input plane of value `i` of a window.
    fn offset(self, i: usize) -> usize {
        (i / self.side) * self.width + i % self.side
    }
}

/// Largest value of each `side` × `side` window, and where in the window it was (u8). x: N × C × H × W. The first of equal
/// values wins; a NaN is larger than everything.
///
/// # Errors
/// When the tensor is not a contiguous CPU tensor of four dimensions, or the window does not fit.
pub fn max_pool2d(x: &Tensor, side: usize) -> Result<(Tensor, Tensor)> {
    let (n, c, height, width) = x.dims4()?;
    let (shape, window) = Window::of([n, c, height, width], side)?;
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        let mut places = vec![0_u8; n * c * window.out_plane()];
        let y = build::<T>(shape.to_vec(), |y| {
            let outputs = y.chunks_mut(PLANES * window.out_plane())
                .zip(places.chunks_mut(PLANES * window.out_plane()));
            let tasks = x.chunks(PLANES * window.plane()).zip(outputs).collect();
            for_each(tasks, |_, (x, (y, places)): (&[T], (&mut [T], &mut [u8]))| {
                let planes = y.chunks_mut(window.out_plane())
                    .zip(places.chunks_mut(window.out_plane()));
                for (x, (y, places)) in x.chunks(window.plane()).zip(planes) {
                    max_pool_plane(x, y, places, window);
                }
            });
        })?;
        Ok((y, Tensor::from_vec(places, shape.to_vec(), &Device::Cpu)?))
    })
}

/// One plane of [`max_pool2d`].
fn max_pool_plane<T: Element>(x: &[T], y: &mut [T], places: &mut [u8], window: Window) {
    for (o, (y, place)) in y.iter_mut().zip(places).enumerate() {
        let start = window.start(o);
        let (mut best, mut at) = (x[start], 0);
        for i in 1..window.side * window.side {
            let value = x[start + window.offset(i)];
            let is_nan = |value: T| value.partial_cmp(&value).is_none();
            if value > best || (is_nan(value) && !is_nan(best)) {
                (best, at) = (value, i);
            }
        }
        (*y, *place) = (best, at as u8);
    }
}

/// The gradient of [`max_pool2d`]: dy goes to the place of the maximum. `shape` is x's.
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
    let (storage, layout) = places.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op: "max_pool2d_backward" }.bt());
    };
    let candle_core::Storage::Cpu(storage) = &*storage else {
        return Err(candle_core::Error::Msg("max-pool places must be on the CPU".to_owned()).bt());
    };
    let places = &storage.as_slice::<u8>()?[start..end];
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(shape.to_vec(), |dx| {
            let inputs = dy.chunks(window.out_plane()).zip(places.chunks(window.out_plane()));
            let tasks = dx.chunks_mut(window.plane()).zip(inputs).collect();
            for_each(tasks, |_, (dx, (dy, places)): (&mut [T], (&[T], &[u8]))| {
                dx.fill(T::default());
                for (o, (dy, place)) in dy.iter().zip(places).enumerate() {
                    dx[window.start(o) + window.offset(usize::from(*place))] = *dy;
                }
            });
        })
    })
}

/// Mean of each `side` × `side` window. x: N × C × H × W.
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, side: usize) -> Result<Tensor> {
    let (n, c, height, width) = x.dims4()?;
    let (shape, window) = Window::of([n, c, height, width], side)?;
    let area = (side * side) as f32;
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        let mut wide = buffer::<f32>(n * c * window.out_plane());
        let tasks = wide.chunks_mut(window.out_plane()).zip(x.chunks(window.plane())).collect();
        for_each(tasks, |_, (y, x): (&mut [f32], &[T])| {
            for (o, y) in y.iter_mut().enumerate() {
                let mut value = [0.0];
                *y = 0.0;
                for i in 0..side * side {
                    T::widen(&[x[window.start(o) + window.offset(i)]], &mut value);
                    *y += value[0];
                }
                *y /= area;
            }
        });
        super::from_f32(&wide, shape.to_vec(), T::DTYPE)
    })
}

/// The gradient of [`avg_pool2d`]: dy / side² to every value of the window. `shape` is x's.
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d_backward(dy: &Tensor, side: usize, shape: [usize; 4]) -> Result<Tensor> {
    let (pooled, window) = Window::of(shape, side)?;
    expect_shape("the gradient of average pool", dy, &pooled)?;
    let area = (side * side) as f32;
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(shape.to_vec(), |dx| {
            let tasks = dx.chunks_mut(window.plane()).zip(dy.chunks(window.out_plane())).collect();
            for_each(tasks, |_, (dx, dy): (&mut [T], &[T])| {
                dx.fill(T::default());
                let (mut wide, mut narrow) = ([0.0], [T::default()]);
                for (o, dy) in dy.iter().enumerate() {
                    T::widen(&[*dy], &mut wide);
                    T::narrow(&[wide[0] / area], &mut narrow);
                    for i in 0..side * side {
                        dx[window.start(o) + window.offset(i)] = narrow[0];
                    }
                }
            });
        })
    })
}

/// Mean over each image plane, summed in f32. x: N × C × H × W; result: N × C.
///
/// # Errors
/// When the tensor is not a contiguous CPU tensor of four dimensions.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let (n, c, height, width) = x.dims4()?;
    let plane = height * width;
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        let mut wide = vec![0.0; plane * PLANES];
        let mut means = vec![0.0; n * c];
        for (means, x) in means.chunks_mut(PLANES).zip(x.chunks(plane * PLANES)) {
            let x = vectorized(|| T::widened(x, &mut wide));
            for (mean, x) in means.iter_mut().zip(x.chunks(plane)) {
                *mean = vectorized(|| sum(x)) / plane as f32;
            }
        }
        super::from_f32(&means, (n, c), T::DTYPE)
    })
}

/// The gradient of [`global_avg_pool`]: dy / (H W) everywhere. `shape` is x's.
///
/// # Errors
/// As [`global_avg_pool`].
pub fn global_avg_pool_backward(dy: &Tensor, shape: [usize; 4]) -> Result<Tensor> {
    let plane = shape[2] * shape[3];
    expect_shape("the gradient of global average pool", dy, &shape[..2])?;
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(shape.to_vec(), |dx| {
            let (mut wide, mut narrow) = ([0.0], [T::default()]);
            for (dx, dy) in dx.chunks_mut(plane).zip(dy.iter()) {
                T::widen(&[*dy], &mut wide);
                T::narrow(&[wide[0] / plane as f32], &mut narrow);
                dx.fill(narrow[0]);
            }
        })
    })
}
