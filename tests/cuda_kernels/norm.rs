//! Batch norm: statistics within the bound of their sums; what follows from given statistics, the CPU's bits.

use candle_core::Tensor;
use mantissa::ops::{self, BatchNormSaved};

use crate::emulation::{Array, Device, Geometry, devices, line};
use crate::support::{
    Storage, UNIT, array, assert_near, assert_same, for_each_storage, narrow, sum_bound, tensor,
    uniform, unwritten, values, wide,
};

/// Images, channels, and the sides of a plane.
const SHAPES: [[usize; 4]; 3] = [[3, 5, 4, 3], [2, 3, 7, 7], [33, 1, 1, 2]];
const GEOMETRY: Geometry = Geometry { grid: (2, 1), block: (5, 2) };

/// One case: operands, and the CPU's results.
struct Case<T> {
    shape: [usize; 4],
    x: Vec<T>,
    dy: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
    y: Tensor,
    saved: BatchNormSaved,
    variance: Tensor,
}

impl<T: Storage> Case<T> {
    fn new(shape: [usize; 4]) -> Self {
        let (count, channels) = (shape.iter().product(), shape[1]);
        let x = uniform::<T>(1, count, (-1.0, 3.0));
        let dy = uniform::<T>(2, count, (-1.0, 1.0));
        let (gamma, beta) = (uniform(3, channels, (0.5, 2.0)), uniform(4, channels, (-1.0, 1.0)));
        let [scale, shift] = [&gamma, &beta].map(|values| tensor::<T>(values, channels));
        let (y, saved, variance) =
            ops::batch_norm(&tensor(&x, shape.to_vec()), &scale, &shift, ops::Then::Nothing)
                .unwrap();
        Self { shape, x, dy, gamma, beta, y, saved, variance }
    }

    fn sizes(&self) -> (u32, u32, u32) {
        let [n, c, h, w] = self.shape;
        (n as u32, c as u32, (h * w) as u32)
    }

    /// The values of a tensor that belong to a channel.
    fn of_channel<'a>(&self, values: &'a [T], channel: usize) -> impl Iterator<Item = f64> + 'a {
        let (_, channels, plane) = self.sizes();
        let planes = values.chunks(plane as usize).skip(channel).step_by(channels as usize);
        planes.flatten().map(|value| f64::from(wide(*value)))
    }

    fn count(&self) -> f64 {
        f64::from(self.sizes().0 * self.sizes().2)
    }
}

fn check_statistics<T: Storage>(device: Device) {
    for shape in SHAPES {
        let case = Case::<T>::new(shape);
        let (n, c, plane) = case.sizes();
        let source = array(&case.x);
        for threads in [1, 8, 64] {
            let results = [(); 3].map(|()| unwritten::<f32>(c as usize));
            let [mean, variance, inverse] = &results;
            let arguments = (
                source.pointer(),
                mean.pointer(),
                variance.pointer(),
                inverse.pointer(),
                n,
                c,
                plane,
            );
            device.launch(
                &format!("batch_norm_statistics_{}", T::SUFFIX),
                line(2, threads),
                arguments,
            );
            let mean_bound = |i| sum_bound(case.of_channel(&case.x, i)) / case.count();
            assert_near("mean", &mean.values(), &values::<f32>(&case.saved.mean), mean_bound);
            // A mean that is off by e moves the variance by e², and its computation by as much as a sum of squares.
            let variance_bound = |i| {
                let squares = case.of_channel(&case.x, i).map(|v| (v.abs() + 3.0).powi(2));
                sum_bound(squares) / case.count() + mean_bound(i)
            };
            assert_near(
                "variance",
                &variance.values(),
                &values::<f32>(&case.variance),
                variance_bound,
            );
            let variance = variance.values();
            let expected: Vec<f32> = variance.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
            assert_same("inverse deviation", &inverse.values(), &expected);
        }
    }
}

/// Sums, and the input gradient that follows from them.
fn check_gradients<T: Storage>(device: Device) {
    for shape in SHAPES {
        let case = Case::<T>::new(shape);
        let (n, c, plane) = case.sizes();
        let channels = c as usize;
        let [dy, x] = [&case.dy, &case.x].map(|values| tensor(values, shape.to_vec()));
        let gamma = tensor(&case.gamma, channels);
        let expected = ops::batch_norm_backward(&dy, &x, &gamma, &case.saved, None).unwrap();
        let [dy, x, gamma] = [&case.dy, &case.x, &case.gamma].map(|values| array(values));
        let BatchNormSaved { mean, inverse_deviation } = &case.saved;
        let [mean, inverse] = [mean, inverse_deviation].map(|v| array(&values::<f32>(v)));
        let [plain, weighted] = [(); 2].map(|()| unwritten::<f32>(channels));
        let [dgamma, dbeta] = [(); 2].map(|()| unwritten::<T>(channels));
        let arguments = (
            dy.pointer(),
            x.pointer(),
            mean.pointer(),
            inverse.pointer(),
            plain.pointer(),
            weighted.pointer(),
            dgamma.pointer(),
            dbeta.pointer(),
            n,
            c,
            plane,
        );
        device.launch(&format!("batch_norm_gradient_sums_{}", T::SUFFIX), line(2, 32), arguments);
        let plain_bound = |i| sum_bound(case.of_channel(&case.dy, i));
        assert_near("dbeta", &dbeta.values(), &values::<T>(&expected.beta), plain_bound);
        // |x̂| is at most the root of the number of values, and each product is rounded three times.
        let weighted_bound = |i| plain_bound(i) * case.count().sqrt() * 3.0;
        assert_near("dgamma", &dgamma.values(), &values::<T>(&expected.gamma), weighted_bound);
        let rounded = |sums: Vec<f32>| sums.into_iter().map(narrow).collect::<Vec<T>>();
        assert_same("plain", &dbeta.values(), &rounded(plain.values()));
        assert_same("weighted", &dgamma.values(), &rounded(weighted.values()));

        let dx = unwritten::<T>(case.x.len());
        let arguments = (
            dy.pointer(),
            x.pointer(),
            dx.pointer(),
            mean.pointer(),
            inverse.pointer(),
            gamma.pointer(),
            plain.pointer(),
            weighted.pointer(),
            n,
            c,
            plane,
        );
        device.launch(&format!("batch_norm_backward_{}", T::SUFFIX), GEOMETRY, arguments);
        let bound = |i: usize| {
            let channel = i / plane as usize % channels;
            let factor = 2.0 * f64::from(inverse.values()[channel]);
            let sums = plain_bound(channel) + weighted_bound(channel) * case.count().sqrt();
            factor * (sums / case.count() + 8.0 * UNIT)
        };
        assert_near("batch_norm_backward", &dx.values(), &values::<T>(&expected.input), bound);
    }
}

#[test]
fn statistics_and_gradients_are_the_cpu_within_the_bound_of_their_sums() {
    for_each_storage!(check_statistics);
    for_each_storage!(check_gradients);
}

fn check_normalization<T: Storage>(device: Device) {
    for shape in SHAPES {
        let case = Case::<T>::new(shape);
        let (n, c, plane) = case.sizes();
        let (source, target) = (array(&case.x), unwritten::<T>(case.x.len()));
        let [gamma, beta] = [&case.gamma, &case.beta].map(|values| array(values));
        let [mean, variance] = [&case.saved.mean, &case.variance].map(|v| array(&values::<f32>(v)));
        let arguments = (
            source.pointer(),
            target.pointer(),
            mean.pointer(),
            variance.pointer(),
            gamma.pointer(),
            beta.pointer(),
            n,
            c,
            plane,
        );
        device.launch(&format!("batch_norm_{}", T::SUFFIX), GEOMETRY, arguments);
        assert_same("batch_norm", &target.values(), &values::<T>(&case.y));
    }
}

#[test]
fn normalization_is_the_cpu_bit_by_bit() {
    for_each_storage!(check_normalization);
}

fn check_channel_sums<T: Storage>(device: Device) {
    for shape in SHAPES {
        let case = Case::<T>::new(shape);
        let (n, c, plane) = case.sizes();
        let (source, sums) = (array(&case.dy), unwritten::<T>(c as usize));
        let arguments = (source.pointer(), sums.pointer(), n, c, plane);
        device.launch(&format!("channel_sums_{}", T::SUFFIX), line(2, 16), arguments);
        let exact: Vec<T> = (0..c as usize)
            .map(|i| narrow(case.of_channel(&case.dy, i).sum::<f64>() as f32))
            .collect();
        let bound = |i| sum_bound(case.of_channel(&case.dy, i));
        assert_near("channel_sums", &sums.values(), &exact, bound);
    }
}

#[test]
fn sums_over_channels_are_within_their_bound() {
    for_each_storage!(check_channel_sums);
}

#[test]
fn running_statistics_move_by_their_share_unless_the_step_is_rejected() {
    let [old_mean, old_variance, mean, variance] =
        [5, 6, 7, 8].map(|seed| uniform::<f32>(seed, 37, (0.0, 2.0)));
    let (momentum, unbiased) = (0.1_f32, 12.0_f32 / 11.0);
    let cases = devices().into_iter().flat_map(|device| [(device, true), (device, false)]);
    for (device, is_applied) in cases {
        let running = [array(&old_mean), array(&old_variance)];
        let applied = Array::new(&[u32::from(is_applied)], 7);
        let batch = [array(&mean), array(&variance)];
        let arguments = (
            running[0].pointer(),
            running[1].pointer(),
            batch[0].pointer(),
            batch[1].pointer(),
            37_u32,
            momentum,
            unbiased,
            applied.pointer(),
        );
        device.launch("running_statistics", line(2, 8), arguments);
        let expected = [&old_mean, &old_variance].map(|values| tensor(values, 37));
        let batch = (&tensor(&mean, 37), &tensor(&variance, 37));
        let applied = tensor(&[f32::from(u8::from(is_applied))], 1);
        ops::update_running_statistics((&expected[0], &expected[1]), batch, 12, &applied).unwrap();
        assert_same("mean", &running[0].values(), &values::<f32>(&expected[0]));
        assert_same("variance", &running[1].values(), &values::<f32>(&expected[1]));
    }
}
