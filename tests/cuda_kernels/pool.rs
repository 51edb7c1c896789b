//! Pooling: the CPU's bits, but for means over whole planes.

use mantissa::ops;

use crate::emulation::{Array, Device, Geometry, line};
use crate::support::{
    Storage, array, assert_near, assert_same, awkward, for_each_storage, narrow, sum_bound, tensor,
    uniform, unwritten, values, wide,
};

/// Shapes with and without left-over rows and columns, and window sides.
const CASES: [([usize; 4], usize); 4] =
    [([2, 3, 7, 5], 2), ([1, 2, 9, 10], 3), ([3, 1, 4, 4], 2), ([1, 5, 3, 2], 1)];

/// Threads share planes, and loop over both planes and the values of one.
const GEOMETRY: Geometry = Geometry { grid: (2, 1), block: (5, 2) };

fn sizes(shape: [usize; 4], side: usize) -> (u64, u32, u32, u32) {
    ((shape[0] * shape[1]) as u64, shape[2] as u32, shape[3] as u32, side as u32)
}

fn count(shape: [usize; 4]) -> usize {
    shape.iter().product()
}

fn pooled([n, c, h, w]: [usize; 4], side: usize) -> [usize; 4] {
    [n, c, h / side, w / side]
}

fn check_max_pool<T: Storage>(device: Device) {
    for (shape, side) in CASES {
        let (planes, height, width, edge) = sizes(shape, side);
        let small = pooled(shape, side);
        // Few different values, many of them NaN, so that many are equal; and values of every kind.
        let uneven = uniform::<f32>(3, count(shape), (-2.0, 3.0));
        let coarse = uneven.iter().map(|v| if *v > 2.0 { f32::NAN } else { v.round() });
        let coarse: Vec<T> = coarse.map(narrow).collect();
        for x in [awkward::<T>(1, count(shape)), coarse] {
            let (source, target) = (array(&x), unwritten::<T>(count(small)));
            let places = Array::new(&vec![99_u8; count(small)], 7);
            let arguments =
                (source.pointer(), target.pointer(), places.pointer(), planes, height, width, edge);
            device.launch(&format!("max_pool2d_{}", T::SUFFIX), GEOMETRY, arguments);
            let (y, at) = ops::max_pool2d(&tensor(&x, shape.to_vec()), side).unwrap();
            assert_same("max_pool2d", &target.values(), &values::<T>(&y));
            let expected: Vec<u8> = at.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(places.values(), expected, "{shape:?}");

            let dy: Vec<T> = awkward(2, count(small));
            let (gradient, dx) = (array(&dy), unwritten::<T>(count(shape)));
            let arguments =
                (gradient.pointer(), places.pointer(), dx.pointer(), planes, height, width, edge);
            device.launch(&format!("max_pool2d_backward_{}", T::SUFFIX), GEOMETRY, arguments);
            let dy = tensor(&dy, small.to_vec());
            let expected = ops::max_pool2d_backward(&dy, &at, side, shape).unwrap();
            assert_same("max_pool2d_backward", &dx.values(), &values::<T>(&expected));
        }
    }
}

fn check_avg_pool<T: Storage>(device: Device) {
    for (shape, side) in CASES {
        let (planes, height, width, edge) = sizes(shape, side);
        let small = pooled(shape, side);
        let x: Vec<T> = awkward(4, count(shape));
        let (source, target) = (array(&x), unwritten::<T>(count(small)));
        let arguments = (source.pointer(), target.pointer(), planes, height, width, edge);
        device.launch(&format!("avg_pool2d_{}", T::SUFFIX), GEOMETRY, arguments);
        let expected = ops::avg_pool2d(&tensor(&x, shape.to_vec()), side).unwrap();
        assert_same("avg_pool2d", &target.values(), &values::<T>(&expected));

        let dy: Vec<T> = awkward(5, count(small));
        let (gradient, dx) = (array(&dy), unwritten::<T>(count(shape)));
        let arguments = (gradient.pointer(), dx.pointer(), planes, height, width, edge);
        device.launch(&format!("avg_pool2d_backward_{}", T::SUFFIX), GEOMETRY, arguments);
        let dy = tensor(&dy, small.to_vec());
        let expected = ops::avg_pool2d_backward(&dy, side, shape).unwrap();
        assert_same("avg_pool2d_backward", &dx.values(), &values::<T>(&expected));
    }
}

#[test]
fn pools_are_the_cpu_bit_by_bit() {
    for_each_storage!(check_max_pool);
    for_each_storage!(check_avg_pool);
}

fn check_global_pool<T: Storage>(device: Device) {
    for (shape, _) in CASES {
        let (planes, plane) = ((shape[0] * shape[1]) as u64, (shape[2] * shape[3]) as u32);
        let x: Vec<T> = uniform(6, count(shape), (-3.0, 3.0));
        for threads in [1, 4, 64] {
            let (source, target) = (array(&x), unwritten::<T>(planes as usize));
            let arguments = (source.pointer(), target.pointer(), planes, plane);
            device.launch(&format!("global_avg_pool_{}", T::SUFFIX), line(2, threads), arguments);
            let expected = ops::global_avg_pool(&tensor(&x, shape.to_vec())).unwrap();
            let bound = |i: usize| {
                let values = x.chunks(plane as usize).nth(i).unwrap();
                sum_bound(values.iter().map(|v| f64::from(wide(*v)))) / f64::from(plane)
            };
            assert_near("global_avg_pool", &target.values(), &values::<T>(&expected), bound);
        }
        let dy: Vec<T> = awkward(7, planes as usize);
        let (gradient, dx) = (array(&dy), unwritten::<T>(count(shape)));
        let arguments = (gradient.pointer(), dx.pointer(), planes, plane);
        device.launch(&format!("global_avg_pool_backward_{}", T::SUFFIX), GEOMETRY, arguments);
        let dy = tensor(&dy, (shape[0], shape[1]));
        let expected = ops::global_avg_pool_backward(&dy, shape).unwrap();
        assert_same("global_avg_pool_backward", &dx.values(), &values::<T>(&expected));
    }
}

#[test]
fn means_over_planes_are_the_cpu_within_the_bound_of_their_sums() {
    for_each_storage!(check_global_pool);
}
