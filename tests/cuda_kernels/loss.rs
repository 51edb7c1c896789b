//! Cross-entropy within units of the CPU's exponentials and sums; the gradient of the squared error and counts exactly.

use mantissa::ops::{self, LossSettings};

use crate::emulation::{Array, Device, devices, line};
use crate::support::{
    Storage, array, assert_near, assert_same, awkward, for_each_storage, narrow, numbers,
    sum_bound, tensor, uniform, unwritten, values, wide,
};

/// Rows and classes, and threads of a block.
const CASES: [(usize, usize, u32); 4] = [(7, 10, 4), (5, 3, 32), (3, 1000, 64), (1, 1, 1)];

fn labels(rows: usize, classes: usize) -> Vec<u32> {
    (0..rows).map(|row| (row * 7 % classes) as u32).collect()
}

fn check_cross_entropy<T: Storage>(device: Device) {
    for (rows, classes, threads) in CASES {
        let x: Vec<T> = uniform(1, rows * classes, (-8.0, 8.0));
        let at = labels(rows, classes);
        let (logits, label) = (array(&x), Array::new(&at, 0));
        for (smoothing, scale, parts) in [(0.0_f32, 1.0_f32, 1_u32), (0.1, 1024.0, 3)] {
            let (gradient, losses) = (unwritten::<T>(rows * classes), unwritten::<f32>(rows));
            let factor = array(&[scale]);
            let arguments = (
                logits.pointer(),
                label.pointer(),
                gradient.pointer(),
                losses.pointer(),
                rows as u32,
                classes as u32,
                smoothing,
                factor.pointer(),
                parts,
            );
            let name = format!("cross_entropy_{}", T::SUFFIX);
            device.launch(&name, line(2, threads), arguments);
            let settings = LossSettings { smoothing, micro_batches: parts as usize };
            let x = tensor(&x, (rows, classes));
            let expected =
                ops::cross_entropy(&x, &numbers(&at), settings, &tensor(&[scale], 1)).unwrap();
            // A probability is at most 1; exponentials are right within units, sums of them as sums are.
            let relative = sum_bound((0..classes).map(|_| 1.0)).max(1e-6);
            let bound = f64::from(scale / parts as f32) / rows as f64 * relative;
            let got = gradient.values();
            assert_near(&name, &got, &values::<T>(&expected.gradient), |_| bound);

            let loss = array(&[0.25_f32]);
            let arguments = (losses.pointer(), rows as u32, parts, 0_u32, loss.pointer());
            device.launch("mean_loss", line(1, threads), arguments);
            let [mean, after] = [true, false].map(|is_first| {
                let loss = tensor(&[0.25_f32], 1);
                ops::mean_loss(&expected.losses, parts as usize, is_first, &loss).unwrap();
                values::<f32>(&loss)
            });
            assert_near("mean_loss", &loss.values(), &after, |_| 20.0 * relative);
            device.launch(
                "mean_loss",
                line(1, threads),
                (losses.pointer(), rows as u32, parts, 1_u32, loss.pointer()),
            );
            assert_near("mean_loss", &loss.values(), &mean, |_| 20.0 * relative);
        }
    }
}

fn check_evaluation<T: Storage>(device: Device) {
    for (rows, classes, threads) in CASES {
        let x: Vec<T> = uniform(2, rows * classes, (-8.0, 8.0));
        let at = labels(rows, classes);
        let (logits, label, losses) = (array(&x), Array::new(&at, 0), unwritten::<f32>(rows));
        let arguments =
            (logits.pointer(), label.pointer(), losses.pointer(), rows as u32, classes as u32);
        device.launch(&format!("cross_entropy_loss_{}", T::SUFFIX), line(2, threads), arguments);
        let expected = ops::cross_entropy_loss(&tensor(&x, (rows, classes)), &numbers(&at));
        let expected = values::<f32>(&expected.unwrap());
        let relative = sum_bound((0..classes).map(|_| 1.0)).max(1e-6);
        assert_near("losses", &losses.values(), &expected, |_| 20.0 * relative);
    }
}

/// The gradient has no sum in it.
fn check_squared_error<T: Storage>(device: Device) {
    for (rows, each, threads) in CASES {
        let x: Vec<T> = uniform(1, rows * each, (-8.0, 8.0));
        let targets: Vec<f32> = uniform(2, rows * each, (-4.0, 4.0));
        let (outputs, at) = (array(&x), array(&targets));
        let (x, targets) = (tensor(&x, (rows, each)), tensor(&targets, (rows, each)));
        let relative = sum_bound((0..each).map(|_| 1.0)).max(1e-6);
        for (scale, parts) in [(1.0_f32, 1_u32), (1024.0, 3)] {
            let (gradient, losses) = (unwritten::<T>(rows * each), unwritten::<f32>(rows));
            let factor = array(&[scale]);
            let arguments = (
                outputs.pointer(),
                at.pointer(),
                gradient.pointer(),
                losses.pointer(),
                rows as u32,
                each as u32,
                factor.pointer(),
                parts,
            );
            let name = format!("squared_error_{}", T::SUFFIX);
            device.launch(&name, line(2, threads), arguments);
            let expected =
                ops::squared_error(&x, &targets, parts as usize, &tensor(&[scale], 1)).unwrap();
            assert_same(&name, &gradient.values(), &values::<T>(&expected.gradient));
            let expected = values::<f32>(&expected.losses);
            assert_near(&name, &losses.values(), &expected, |_| 144.0 * relative);
        }
        let losses = unwritten::<f32>(rows);
        let arguments =
            (outputs.pointer(), at.pointer(), losses.pointer(), rows as u32, each as u32);
        device.launch(&format!("squared_error_loss_{}", T::SUFFIX), line(2, threads), arguments);
        let expected = values::<f32>(&ops::squared_error_loss(&x, &targets).unwrap());
        assert_near("squared errors", &losses.values(), &expected, |_| 144.0 * relative);
    }
}

#[test]
fn losses_and_their_gradients_are_the_cpu_within_units() {
    for_each_storage!(check_squared_error);
    for_each_storage!(check_cross_entropy);
    for_each_storage!(check_evaluation);
}

/// Where a logit is infinite or NaN, so are the results of the CPU and of the kernel.
#[test]
fn special_logits_give_what_the_cpu_gives() {
    const INF: f32 = f32::INFINITY;
    let x =
        [[0.0, INF, 1.0], [f32::NAN, 0.0, 0.0], [-INF, 0.0, 0.0], [-INF; 3], [1e30, -1e30, 0.0]];
    let x: Vec<f32> = x.concat();
    let at = [0, 1, 0, 2, 1];
    for device in devices() {
        for smoothing in [0.0_f32, 0.1] {
            let (logits, label, scale) = (array(&x), Array::new(&at, 0), array(&[1.0_f32]));
            let (gradient, losses) = (unwritten::<f32>(15), unwritten::<f32>(5));
            let arguments = (
                logits.pointer(),
                label.pointer(),
                gradient.pointer(),
                losses.pointer(),
                5_u32,
                3_u32,
                smoothing,
                scale.pointer(),
                1_u32,
            );
            device.launch("cross_entropy_f32", line(2, 2), arguments);
            let settings = LossSettings { smoothing, micro_batches: 1 };
            let (x, at) = (tensor(&x, (5, 3)), numbers(&at));
            let expected = ops::cross_entropy(&x, &at, settings, &tensor(&[1.0_f32], 1)).unwrap();
            let expected = values::<f32>(&expected.gradient);
            assert_near("gradient", &gradient.values(), &expected, |_| 1e-6);
            if smoothing == 0.0 {
                let expected = values::<f32>(&ops::cross_entropy_loss(&x, &at).unwrap());
                assert_near("losses", &losses.values(), &expected, |_| 1e-6);
            }
        }
    }
}

fn check_count_correct<T: Storage>(device: Device) {
    for (rows, classes, threads) in [(700, 2, 2), (300, 3, 4), (50, 10, 32)] {
        // Few different values, so that ties are common; and values of every kind.
        let coarse = uniform::<T>(3, rows * classes, (-2.0, 2.0));
        let coarse = coarse.iter().map(|v| narrow(wide(*v).round())).collect();
        for x in [coarse, awkward::<T>(4, rows * classes)] {
            let at = labels(rows, classes);
            let (logits, label, correct) = (array(&x), Array::new(&at, 0), Array::new(&[5_u64], 0));
            let arguments =
                (logits.pointer(), label.pointer(), rows as u32, classes as u32, correct.pointer());
            device.launch(&format!("count_correct_{}", T::SUFFIX), line(3, threads), arguments);
            let expected = ops::count_correct(&tensor(&x, (rows, classes)), &numbers(&at)).unwrap();
            assert_eq!(correct.values(), [5 + expected], "{rows} × {classes} {}", T::SUFFIX);
        }
    }
}

#[test]
fn correct_rows_are_counted_as_by_the_cpu() {
    for_each_storage!(check_count_correct);
}
