//! Convolutions against their definition in f64, on every path and on the twins of those that this machine lacks.

use half::{bf16, f16};

use super::super::matmul::Isa;
use super::*;

/// By the definition, in f64, with each product at every place that there is: forward, and both gradients.
struct Expected {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    /// Sums of magnitudes, which errors are measured by.
    sizes: [Vec<f64>; 3],
}

fn expected(sizes: Sizes, (x, w, dy): (&[f64], &[f64], &[f64])) -> Expected {
    let ConvSettings { stride, padding, dilation, .. } = sizes.settings;
    let zeros = |len: usize| vec![0.0; len];
    let lens = [dy.len(), x.len(), w.len()];
    let ([mut y, mut dx, mut dw], mut magnitudes) = (lens.map(zeros), lens.map(zeros));
    let (outputs, channels) = (sizes.group_outputs(), sizes.group_channels());
    for at in 0..dy.len() {
        let (place, row) = (at % sizes.out_plane(), at / sizes.out_plane());
        let (image, output) = (row / sizes.outputs, row % sizes.outputs);
        for tap in 0..sizes.patch() {
            let (channel, element) =
                (tap / (sizes.kernel.0 * sizes.kernel.1), tap % (sizes.kernel.0 * sizes.kernel.1));
            let down = place / sizes.out.1 * stride + element / sizes.kernel.1 * dilation;
            let across = place % sizes.out.1 * stride + element % sizes.kernel.1 * dilation;
            let (Some(down), Some(across)) =
                (down.checked_sub(padding), across.checked_sub(padding))
            else {
                continue;
            };
            if down >= sizes.height || across >= sizes.width {
                continue;
            }
            let plane = image * sizes.channels + output / outputs * channels + channel;
            let from = (plane * sizes.height + down) * sizes.width + across;
            let weight = output * sizes.patch() + tap;
            let terms = [x[from] * w[weight], dy[at] * w[weight], dy[at] * x[from]];
            (y[at], dx[from], dw[weight]) =
                (y[at] + terms[0], dx[from] + terms[1], dw[weight] + terms[2]);
            for (size, (index, term)) in
                magnitudes.iter_mut().zip([at, from, weight].into_iter().zip(terms))
            {
                size[index] += term.abs();
            }
        }
    }
    Expected { y, dx, dw, sizes: magnitudes }
}

/// Values of x, w and dy of both signs.
fn operands<T: Element>(sizes: Sizes) -> [Vec<T>; 3] {
    let lens = [
        sizes.images * sizes.image(),
        sizes.outputs * sizes.patch(),
        sizes.images * sizes.out_image(),
    ];
    let mut seed = 0;
    lens.map(|len| {
        seed += 31;
        (0..len).map(|i| T::from_f64(((i * 7919 + seed) % 2003) as f64 / 1001.5 - 1.0)).collect()
    })
}

/// y, dx and dw, as f32.
fn compute<T: Element>(
    kernels: &Kernels,
    sizes: Sizes,
    (x, w, dy): (&[T], &[T], &[T]),
) -> [Vec<f32>; 3] {
    let flat = sizes.flattened();
    let y = try_build::<T>(dy.len(), |y| forward(kernels, flat, (x, w), End::NONE, y));
    let dx = try_build::<T>(x.len(), |dx| input_gradient(kernels, flat, (dy, w), dx));
    let [y, dx] = [y, dx].map(|tensor| super::super::to_f32(&tensor.unwrap()).unwrap());
    [y, dx, weight_gradient(kernels, flat, (dy, x)).unwrap()]
}

fn check<T: Element>(name: &str, kernels: &Kernels, sizes: Sizes, half_step: f64) {
    let [x, w, dy] = operands::<T>(sizes);
    let wide = |values: &[T]| values.iter().map(|value| value.to_f64()).collect::<Vec<_>>();
    let expected = expected(sizes, (&wide(&x), &wide(&w), &wide(&dy)));
    let found = compute(kernels, sizes, (&x, &w, &dy));
    let rounded = [half_step, half_step, 2.0_f64.powi(-24)];
    let terms = [sizes.patch(), w.len() / sizes.channels, dy.len() / sizes.outputs];
    let exact = [&expected.y, &expected.dx, &expected.dw];
    for (which, (found, exact)) in found.iter().zip(exact).enumerate() {
        for (index, (found, exact)) in found.iter().zip(exact).enumerate() {
            let size = expected.sizes[which][index];
            let bound = exact.abs() * rounded[which]
                + size * (terms[which] + 3) as f64 * 2.0_f64.powi(-24)
                + 1e-30;
            let error = (f64::from(*found) - exact).abs();
            assert!(
                error <= bound,
                "{name} {:?} {which} [{index}]: {found}, not {exact}",
                sizes.settings
            );
        }
    }
}

/// Strides, borders, dilations and groups, and sides that are no multiple of anything, on every path. There are more images than
/// tasks, so that a task has several.
#[test]
fn convolutions_are_right_on_every_path() {
    for (stride, padding, dilation, groups, kernel, side) in [
        (1, 1, 1, 1, (3, 3), (9, 17)),
        (2, 1, 1, 1, (3, 3), (8, 9)),
        (1, 0, 1, 1, (1, 1), (5, 7)),
        (2, 0, 1, 1, (1, 1), (6, 5)),
        (3, 2, 2, 2, (3, 2), (11, 8)),
        (1, 3, 2, 1, (2, 3), (4, 6)),
        (2, 0, 1, 1, (2, 2), (7, 7)),
        (1, 0, 1, 3, (3, 3), (6, 10)),
    ] {
        let settings = ConvSettings { stride, padding, dilation, groups };
        let (images, channels, outputs) = (TASKS + 3, 3 * groups, 5 * groups);
        let x = super::super::zeros((images, channels, side.0, side.1), &Device::Cpu).unwrap();
        let w = (outputs, channels / groups, kernel.0, kernel.1);
        let w = super::super::zeros(w, &Device::Cpu).unwrap();
        let sizes = Sizes::of(&x, &w, settings).unwrap();
        for (name, kernels) in &Kernels::all() {
            check::<f32>(name, kernels, sizes, 2.0_f64.powi(-24));
            check::<f16>(name, kernels, sizes, 2.0_f64.powi(-11));
            check::<bf16>(name, kernels, sizes, 2.0_f64.powi(-8));
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    fn check<T: Element>(name: &str, kernels: &Kernels, sizes: Sizes) {
        let [x, w, dy] = operands::<T>(sizes);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| compute(kernels, sizes, (&x, &w, &dy)))
        };
        assert!(with(1) == with(2), "{name}");
    }
    let settings = ConvSettings { stride: 1, padding: 1, dilation: 1, groups: 1 };
    let x = super::super::zeros((TASKS * 2 + 1, 7, 10, 9), &Device::Cpu).unwrap();
    let w = super::super::zeros((6, 7, 3, 3), &Device::Cpu).unwrap();
    let sizes = Sizes::of(&x, &w, settings).unwrap();
    for (name, kernels) in Kernels::all() {
        check::<f32>(name, &kernels, sizes);
        check::<f16>(name, &kernels, sizes);
        check::<bf16>(name, &kernels, sizes);
    }
}

/// An infinity in f16 comes out as one wherever its weights are above 0, and as a NaN nowhere.
#[test]
fn an_infinity_goes_through_a_convolution() {
    let settings = ConvSettings { stride: 1, padding: 1, dilation: 1, groups: 1 };
    let x = super::super::zeros((1, 2, 6, 6), &Device::Cpu).unwrap();
    let w = super::super::zeros((3, 2, 3, 3), &Device::Cpu).unwrap();
    let sizes = Sizes::of(&x, &w, settings).unwrap();
    let mut x = vec![f16::from_f64(0.1); 72];
    x[14] = f16::INFINITY;
    let w = vec![f16::from_f64(1.0 / 3.0); 54];
    for kernels in [Kernels::of(Isa::Portable), Kernels::twin_of_amx()] {
        let y =
            try_build::<f16>(108, |y| forward(&kernels, sizes, (&x, &w), End::NONE, y)).unwrap();
        let y = super::super::to_f32(&y).unwrap();
        for (at, value) in y.iter().enumerate() {
            let (row, column) = (at % 36 / 6, at % 6);
            let sees = (1..=3).contains(&row) && (1..=3).contains(&column);
            assert_eq!(*value == f32::INFINITY, sees, "{value} at {at}");
            assert!(!value.is_nan());
        }
    }
}
