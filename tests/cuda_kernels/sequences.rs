//! The operations on sequences: the CPU's bits where the order is the same, the bounds of sums elsewhere.

use candle_core::{Device as Cpu, Tensor};
use mantissa::ops::{self, EmbeddingTables, RopeSettings};

use crate::emulation::{Array, Device, Geometry, line};
use crate::support::{
    Storage, UNIT, array, assert_near, assert_same, awkward, for_each_storage, narrow, numbers,
    sum_bound, tensor, uniform, unwritten, values, wide,
};

const PLANES: Geometry = Geometry { grid: (2, 1), block: (8, 2) };

/// Columns and rows of threads that sum columns.
const COLUMNS: Geometry = Geometry { grid: (3, 1), block: (32, 16) };

/// Sequences, positions, rows of the table and values of a row.
const TABLES: [[usize; 4]; 3] = [[1, 1, 1, 1], [3, 5, 11, 7], [4, 20, 6, 70]];

/// Ids that leave out every third row.
fn ids(count: usize, rows: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 % rows) as u32).map(|id| id - id % 3 % 2).collect()
}

fn check_embedding<T: Storage>(device: Device) {
    for [n, length, rows, width] in TABLES {
        let count = n * length;
        let (at, kinds) = (ids(count, rows), ids(count, 2));
        let heights = [rows, length + 1, 2];
        let tables = heights.map(|rows| awkward::<T>(rows as u64, rows * width));
        let arrays = tables.each_ref().map(|table| array(table));
        let [ids_at, kinds_at] = [&at, &kinds].map(|ids| Array::new(ids, 77));
        let target = unwritten::<T>(count * width);
        let tensors: Vec<_> = heights
            .iter()
            .zip(&tables)
            .map(|(rows, table)| tensor(table, (*rows, width)))
            .collect();
        let shaped = |ids: &[u32]| numbers(ids).reshape((n, length)).unwrap();
        let kinds = shaped(&kinds);
        for whole in [true, false] {
            let [tokens, positions, types] = arrays.each_ref().map(Array::pointer);
            let null = std::ptr::null_mut();
            let arguments = (
                ids_at.pointer(),
                kinds_at.pointer(),
                tokens,
                if whole { positions } else { null },
                if whole { types } else { null },
                target.pointer(),
                count as u64,
                length as u32,
                width as u32,
            );
            device.launch(&format!("embedding_{}", T::SUFFIX), PLANES, arguments);
            let tables = EmbeddingTables {
                tokens: &tensors[0],
                positions: whole.then_some(&tensors[1]),
                types: whole.then_some((&kinds, &tensors[2])),
            };
            let expected = ops::embedding(&shaped(&at), &tables).unwrap();
            assert_same("embedding", &target.values(), &values::<T>(&expected));
        }
    }
}

fn check_embedding_gradients<T: Storage>(device: Device) {
    for [n, length, rows, width] in TABLES {
        let count = n * length;
        let at = ids(count, rows);
        let dy = uniform::<T>(1, count * width, (-1.0, 1.0));
        let (source, ids_at) = (array(&dy), Array::new(&at, 77));
        let firsts = Array::new(&vec![55_u32; rows], 77);
        let arguments = (ids_at.pointer(), firsts.pointer(), count as u32, rows as u32);
        device.launch("embedding_firsts", line(2, 8), arguments);
        let of_row = |row: usize| at.iter().position(|id| *id as usize == row);
        let expected: Vec<u32> = (0..rows).map(|row| of_row(row).unwrap_or(count) as u32).collect();
        assert_eq!(firsts.values(), expected);
        let target = unwritten::<T>(rows * width);
        let arguments = (
            source.pointer(),
            ids_at.pointer(),
            firsts.pointer(),
            target.pointer(),
            count as u32,
            rows as u32,
            width as u32,
        );
        device.launch(&format!("embedding_backward_{}", T::SUFFIX), COLUMNS, arguments);
        let gradient = tensor(&dy, (n, length, width));
        let shaped = numbers(&at).reshape((n, length)).unwrap();
        let expected = ops::embedding_backward(&gradient, &shaped, rows).unwrap();
        let bound = |i: usize| {
            let places = (0..count).filter(|place| at[*place] as usize == i / width);
            sum_bound(places.map(|place| f64::from(wide(dy[place * width + i % width]))))
        };
        assert_near("embedding_backward", &target.values(), &values::<T>(&expected), bound);
        let sizes = [n, length, length + 1, width].map(|size| size as u32);
        let target = unwritten::<T>((length + 1) * width);
        let arguments =
            (source.pointer(), target.pointer(), sizes[0], sizes[1], sizes[2], sizes[3]);
        device.launch(&format!("position_backward_{}", T::SUFFIX), PLANES, arguments);
        let expected = ops::position_backward(&gradient, length + 1).unwrap();
        assert_same("position_backward", &target.values(), &values::<T>(&expected));
    }
}

#[test]
fn embeddings_are_the_cpu_and_their_gradients_within_the_bound_of_sums() {
    for_each_storage!(check_embedding);
    for_each_storage!(check_embedding_gradients);
}

fn check_rope<T: Storage>(device: Device) {
    for (n, length, heads, width) in [(1, 1, 1, 2), (3, 5, 2, 6), (2, 9, 3, 40)] {
        let x = awkward::<T>(1, n * length * heads * width);
        let settings = RopeSettings { width, base: 1e4, offset: 3 };
        let table = ops::rope_table(length, settings, &Cpu::Cpu).unwrap();
        let operand = tensor(&x, (n, length, heads * width));
        let (source, angles) = (array(&x), array(&values::<f32>(&table)));
        for (sign, expected) in
            [(1.0_f32, ops::rope(&operand, &table)), (-1.0, ops::rope_backward(&operand, &table))]
        {
            let target = unwritten::<T>(x.len());
            let arguments = (
                source.pointer(),
                angles.pointer(),
                target.pointer(),
                (n * length) as u64,
                length as u32,
                heads as u32,
                width as u32,
                sign,
            );
            device.launch(&format!("rope_{}", T::SUFFIX), PLANES, arguments);
            assert_same("rope", &target.values(), &values::<T>(&expected.unwrap()));
        }
    }
}

#[test]
fn rotary_positions_are_the_cpu_bit_by_bit() {
    for_each_storage!(check_rope);
}

fn check_pools<T: Storage>(device: Device) {
    for (lengths, positions, width) in [(vec![1], 1, 1), (vec![3, 7, 0, 1], 7, 21)] {
        let n = lengths.len();
        let (x, dy) = (awkward::<T>(1, n * positions * width), awkward::<T>(2, n * width));
        let (x_tensor, dy_tensor) = (tensor(&x, (n, positions, width)), tensor(&dy, (n, width)));
        let (from_x, from_dy, there) = (array(&x), array(&dy), Array::new(&lengths, 77));
        let lengths = numbers(&lengths);
        let sizes = (n as u32, positions as u32, width as u32);
        for masked in [true, false] {
            let at = if masked { there.pointer() } else { std::ptr::null_mut() };
            let lengths = masked.then_some(&lengths);
            let y = unwritten::<T>(n * width);
            let arguments = (from_x.pointer(), at, y.pointer(), sizes.0, sizes.1, sizes.2);
            device.launch(&format!("mean_pool_{}", T::SUFFIX), PLANES, arguments);
            let expected = ops::mean_pool(&x_tensor, lengths).unwrap();
            assert_same("mean_pool", &y.values(), &values::<T>(&expected));
            let dx = unwritten::<T>(x.len());
            let arguments = (from_dy.pointer(), at, dx.pointer(), sizes.0, sizes.1, sizes.2);
            device.launch(&format!("mean_pool_backward_{}", T::SUFFIX), PLANES, arguments);
            let expected = ops::mean_pool_backward(&dy_tensor, lengths, positions).unwrap();
            assert_same("mean_pool_backward", &dx.values(), &values::<T>(&expected));
        }
        let (y, dx) = (unwritten::<T>(n * width), unwritten::<T>(x.len()));
        let arguments = (from_x.pointer(), y.pointer(), sizes.0, sizes.1, sizes.2);
        device.launch(&format!("first_token_{}", T::SUFFIX), PLANES, arguments);
        let expected = ops::first_token(&x_tensor).unwrap();
        assert_same("first_token", &y.values(), &values::<T>(&expected));
        let arguments = (from_dy.pointer(), dx.pointer(), sizes.0, sizes.1, sizes.2);
        device.launch(&format!("first_token_backward_{}", T::SUFFIX), PLANES, arguments);
        let expected = ops::first_token_backward(&dy_tensor, positions).unwrap();
        assert_same("first_token_backward", &dx.values(), &values::<T>(&expected));
    }
}

#[test]
fn pools_of_sequences_are_the_cpu_bit_by_bit() {
    for_each_storage!(check_pools);
}

/// Rows and values of a row.
const ROWS: [[usize; 2]; 3] = [[1, 1], [5, 33], [40, 70]];

const EPSILON: f32 = 1e-3;

/// Operands of layer norm with means and a beta, or of RMS norm without, and the CPU's results.
struct NormCase<T> {
    rows: usize,
    width: usize,
    x: Vec<T>,
    dy: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
    y: Tensor,
    /// None of RMS norm.
    mean: Option<Tensor>,
    inverse: Tensor,
    dx: Tensor,
    dgamma: Tensor,
    dbeta: Option<Tensor>,
}

impl<T: Storage> NormCase<T> {
    fn new([rows, width]: [usize; 2], centred: bool) -> Self {
        let x = uniform::<T>(1, rows * width, (-1.0, 3.0));
        let (gamma, beta) = (uniform::<T>(2, width, (0.5, 2.0)), uniform(3, width, (-1.0, 1.0)));
        let dy = uniform::<T>(4, rows * width, (-1.0, 1.0));
        let [of_x, of_dy] = [&x, &dy].map(|values| tensor(values, (rows, width)));
        let [of_gamma, of_beta] = [&gamma, &beta].map(|values| tensor(values, width));
        let (y, mean, inverse, dx, dgamma, dbeta) = if centred {
            let (y, saved) = ops::layer_norm(&of_x, &of_gamma, &of_beta, EPSILON).unwrap();
            let all = ops::layer_norm_backward(&of_dy, &of_x, &of_gamma, &saved).unwrap();
            let (mean, inverse) = (Some(saved.mean), saved.inverse_deviation);
            (y, mean, inverse, all.input, all.gamma, Some(all.beta))
        } else {
            let (y, inverse) = ops::rms_norm(&of_x, &of_gamma, EPSILON).unwrap();
            let all = ops::rms_norm_backward(&of_dy, &of_x, &of_gamma, &inverse).unwrap();
            (y, None, inverse, all.input, all.gamma, None)
        };
        Self { rows, width, x, dy, gamma, beta, y, mean, inverse, dx, dgamma, dbeta }
    }

    fn sizes(&self) -> (u32, u32) {
        (self.rows as u32, self.width as u32)
    }

    /// The largest 1 / deviation.
    fn largest(&self) -> f64 {
        values::<f32>(&self.inverse).iter().fold(0.0, |a, b| f64::max(a, f64::from(*b)))
    }

    /// Sums of so many values of up to 3 in deviations, each rounded a few times.
    fn share(&self) -> f64 {
        64.0 * (self.rows.max(self.width) as f64) * UNIT * self.largest().powi(2)
    }
}

fn check_norm<T: Storage>(device: Device) {
    for (sizes, centred) in ROWS.into_iter().flat_map(|rows| [(rows, true), (rows, false)]) {
        let case = NormCase::<T>::new(sizes, centred);
        let [x, gamma, beta] = [&case.x, &case.gamma, &case.beta].map(|values| array(values));
        let y = unwritten::<T>(case.x.len());
        let [means, inverses] = [(); 2].map(|()| unwritten::<f32>(case.rows));
        let (rows, width) = case.sizes();
        let arguments = (
            x.pointer(),
            gamma.pointer(),
            if centred { beta.pointer() } else { std::ptr::null_mut() },
            y.pointer(),
            if centred { means.pointer() } else { std::ptr::null_mut() },
            inverses.pointer(),
            rows,
            width,
            EPSILON,
        );
        device.launch(&format!("layer_norm_{}", T::SUFFIX), line(2, 16), arguments);
        let share = case.share();
        assert_near("layer_norm", &y.values(), &values::<T>(&case.y), |_| share);
        if let Some(mean) = &case.mean {
            assert_near("mean", &means.values(), &values::<f32>(mean), |_| share);
        }
        let near = |_| share * case.largest();
        assert_near("inverse", &inverses.values(), &values::<f32>(&case.inverse), near);
    }
}

fn check_norm_gradients<T: Storage>(device: Device) {
    for (sizes, centred) in ROWS.into_iter().flat_map(|rows| [(rows, true), (rows, false)]) {
        let case = NormCase::<T>::new(sizes, centred);
        let [dy, x, gamma] = [&case.dy, &case.x, &case.gamma].map(|values| array(values));
        let inverses = array(&values::<f32>(&case.inverse));
        let means = case.mean.as_ref().map(|mean| array(&values::<f32>(mean)));
        let means = means.as_ref().map_or(std::ptr::null_mut(), Array::pointer);
        let dx = unwritten::<T>(case.x.len());
        let (rows, width) = case.sizes();
        let (dy, x, inverses) = (dy.pointer(), x.pointer(), inverses.pointer());
        let arguments = (dy, x, gamma.pointer(), means, inverses, dx.pointer(), rows, width);
        device.launch(&format!("layer_norm_backward_{}", T::SUFFIX), line(2, 16), arguments);
        let share = case.share();
        let near = |_| 4.0 * share * case.largest();
        assert_near("layer_norm_backward", &dx.values(), &values::<T>(&case.dx), near);
        let [dgamma, dbeta] = [(); 2].map(|()| unwritten::<T>(case.width));
        let to_beta = if centred { dbeta.pointer() } else { std::ptr::null_mut() };
        let arguments = (dy, x, means, inverses, dgamma.pointer(), to_beta, rows, width);
        device.launch(&format!("layer_norm_parameters_{}", T::SUFFIX), COLUMNS, arguments);
        let near = |_| case.rows as f64 * share;
        assert_near("dgamma", &dgamma.values(), &values::<T>(&case.dgamma), near);
        let column = |i| {
            let column = case.dy.iter().skip(i).step_by(case.width);
            sum_bound(column.map(|value| f64::from(wide(*value))))
        };
        match &case.dbeta {
            Some(expected) => {
                assert_near("dbeta", &dbeta.values(), &values::<T>(expected), column);
            }
            None => assert_same("dbeta", &dbeta.values(), &vec![narrow(55.0); case.width]),
        }
    }
}

#[test]
fn layer_norms_are_the_cpu_within_the_bound_of_their_sums() {
    for_each_storage!(check_norm);
    for_each_storage!(check_norm_gradients);
}
