//! What stands around a linear layer's products: its bias bit by bit, its gradient within the bound of its sums.

use mantissa::ops;

use crate::emulation::{Device, Geometry};
use crate::support::{
    Storage, array, assert_near, assert_same, awkward, for_each_storage, narrow, sum_bound, tensor,
    uniform, unwritten, values, wide,
};

fn check_bias<T: Storage>(device: Device) {
    let (rows, columns) = (5_usize, 19_usize);
    let product: Vec<f32> = awkward(10, rows * columns);
    let bias: Vec<T> = uniform(11, columns, (-1.0, 1.0));
    let (source, shift) = (array(&product), array(&bias));
    let name = format!("bias_round_{}", T::SUFFIX);
    for with_bias in [false, true] {
        let target = unwritten::<T>(rows * columns);
        let bias_pointer = if with_bias { shift.pointer() } else { std::ptr::null_mut() };
        let geometry = Geometry { grid: (2, 1), block: (8, 2) };
        let sizes = (rows as u32, columns as u32);
        let arguments = (source.pointer(), bias_pointer, target.pointer(), sizes.0, sizes.1);
        device.launch(&name, geometry, arguments);
        let sums = product.iter().enumerate().map(|(i, value)| {
            narrow::<T>(if with_bias { value + wide(bias[i % columns]) } else { *value })
        });
        let expected: Vec<T> = sums.collect();
        assert_same(&name, &target.values(), &expected);
    }
}

#[test]
fn a_product_gets_its_bias_with_one_rounding() {
    for_each_storage!(check_bias);
}

fn check_column_sums<T: Storage>(device: Device) {
    for (rows, columns) in [(1, 1), (5, 33), (77, 70), (16, 32)] {
        let dy: Vec<T> = uniform(5, rows * columns, (-1.0, 1.0));
        let (source, sums) = (array(&dy), unwritten::<T>(columns));
        let arguments = (source.pointer(), sums.pointer(), rows as u32, columns as u32);
        let geometry = Geometry { grid: (2, 1), block: (32, 16) };
        device.launch(&format!("column_sums_{}", T::SUFFIX), geometry, arguments);
        let expected = ops::column_sums(&tensor(&dy, (rows, columns))).unwrap();
        let bound = |i| {
            let column = dy.iter().skip(i).step_by(columns);
            sum_bound(column.map(|v| f64::from(wide(*v))))
        };
        assert_near("column_sums", &sums.values(), &values::<T>(&expected), bound);
        // Of whole numbers every order gives the same sum.
        let whole = vec![narrow::<T>(1.0); rows * columns];
        let source = array(&whole);
        let arguments = (source.pointer(), sums.pointer(), rows as u32, columns as u32);
        device.launch(&format!("column_sums_{}", T::SUFFIX), geometry, arguments);
        let expected = ops::column_sums(&tensor(&whole, (rows, columns))).unwrap();
        assert_same("column_sums", &sums.values(), &values::<T>(&expected));
    }
}

#[test]
fn column_sums_are_the_cpu_within_their_bound() {
    for_each_storage!(check_column_sums);
}
