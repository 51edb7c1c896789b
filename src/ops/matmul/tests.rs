//! Products against their definition in f64, on every path that this machine has and on the twins of those that it lacks.

use candle_core::Tensor;
use half::{bf16, f16};

use super::super::host::{to_f32, try_build};
use super::*;

/// Values of both signs with all bits of f16 and bf16 in use; the same for the same seed.
fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    std::iter::repeat_with(next).take(len).map(T::from_f64).collect()
}

/// Rows, columns and depth of a product, and whether the lines of each operand run along the depth.
#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: [usize; 3],
    along: [bool; 2],
}

fn operand<T>(values: &[T], outer: usize, depth: usize, along: bool) -> Operand<'_, T> {
    if along {
        Operand::along_depth(values, outer, depth)
    } else {
        Operand::across_depth(values, outer, depth)
    }
}

fn compute<T: Element>(kernels: &Kernels, product: Product<'_, T>) -> Vec<T> {
    let shape = (product.left.outer, product.right.outer);
    let result: Tensor = try_build::<T>(shape, |out| Ok(multiply(kernels, product, out)?)).unwrap();
    result.flatten_all().unwrap().to_vec1().unwrap()
}

/// Each result is within the error of a sum in f32 of the definition: half a step of the type, and for each product and sum at most
/// half a step of f32, of the sum of magnitudes (Higham 2002, section 3.1).
fn check<T: Element>(name: &str, kernels: &Kernels, case: Case, half_step: f64) {
    let Case { sizes: [m, n, k], along } = case;
    let (a, b) = (values::<T>(m * k, 1), values::<T>(n * k, 2));
    let bias = values::<T>(n, 3);
    let product = Product {
        left: operand(&a, m, k, along[0]),
        right: operand(&b, n, k, along[1]),
        end: End {
            bias: (n % 2 == 1).then_some(&bias[..]),
            then: if m % 3 == 0 { Then::Relu } else { Then::Nothing },
        },
    };
    let result = compute(kernels, product);
    let at = |values: &[T], outer: usize, along: bool, row: usize, step: usize| {
        values[if along { row * k + step } else { step * outer + row }].to_f64()
    };
    for row in 0..m {
        for column in 0..n {
            let mut exact = if product.end.bias.is_some() { bias[column].to_f64() } else { 0.0 };
            let mut size = exact.abs();
            for step in 0..k {
                let term = at(&a, m, along[0], row, step) * at(&b, n, along[1], column, step);
                exact += term;
                size += term.abs();
            }
            if product.end.then == Then::Relu {
                exact = exact.max(0.0);
            }
            let found = result[row * n + column].to_f64();
            let bound = exact.abs() * half_step + size * (k + 2) as f64 * 2.0_f64.powi(-24) + 1e-30;
            assert!(
                (found - exact).abs() <= bound,
                "{name} {} {case:?} at {row}, {column}: {found}, not {exact}",
                std::any::type_name::<T>()
            );
        }
    }
}

fn check_all(sizes: [usize; 3]) {
    for (name, kernels) in Kernels::all() {
        for along in [[true, true], [true, false], [false, false], [false, true]] {
            let case = Case { sizes, along };
            check::<f32>(name, &kernels, case, 2.0_f64.powi(-24));
            check::<f16>(name, &kernels, case, 2.0_f64.powi(-11));
            check::<bf16>(name, &kernels, case, 2.0_f64.powi(-8));
        }
    }
}

/// Every size from 1 to 70 once in each place, and those around multiples of every kernel's rows, columns and blocks.
#[test]
fn products_are_right_at_all_edges() {
    for size in 1..=70 {
        check_all([size, 5, 9]);
        check_all([3, size, 8]);
        check_all([7, 6, size]);
    }
    for sizes in [[13, 31, 255], [12, 33, 256], [49, 24, 257], [33, 63, 512], [65, 97, 31]] {
        check_all(sizes);
    }
    check_all([400, 10, 40]);
    check_all([10, 400, 40]);
}

/// By their definition: chains of fused multiply-adds over 256 steps of the depth from 0, added in order. The left operand is read in
/// place, and packed since its lines are whole pages; and the right one is more than stays in a cache.
#[test]
fn products_of_f32_have_the_same_bits_on_every_path() {
    for (m, n, k) in [(29, 61, 700), (45, 20, 1024), (150, 130, 2100)] {
        let (a, b) = (values::<f32>(m * k, 4), values::<f32>(n * k, 5));
        let product = Product {
            left: Operand::along_depth(&a, m, k),
            right: Operand::along_depth(&b, n, k),
            end: End::NONE,
        };
        let mut expected = Vec::new();
        for row in a.chunks(k) {
            for column in b.chunks(k) {
                let blocks = row.chunks(256).zip(column.chunks(256)).map(|(row, column)| {
                    row.iter().zip(column).fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
                });
                expected.push(blocks.reduce(|sum, block| sum + block).unwrap());
            }
        }
        for (name, kernels) in Kernels::all() {
            assert!(compute(&kernels, product) == expected, "{name}: {m} × {n} × {k}");
        }
    }
}

/// What is in the operands of a comparison of bits.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Values around 1.
    Ordinary,
    /// Any finite bits: all exponents, subnormals, sums that overflow.
    Finite,
    /// As these, and one in 97 is an infinity or a NaN.
    Special,
}

fn bits(kind: Kind, len: usize, seed: u64) -> Vec<bf16> {
    if let Kind::Ordinary = kind {
        return values(len, seed);
    }
    let any = values::<f32>(len, seed).into_iter().enumerate();
    any.map(|(index, value)| {
        let value = bf16::from_bits((value.to_bits() >> 3) as u16);
        match kind {
            Kind::Special if index % 97 == 5 => bf16::from_bits(value.to_bits() | 0x7F80),
            _ if value.is_finite() => value,
            _ => bf16::from_bits(value.to_bits() & 0xBFFF),
        }
    })
    .collect()
}

/// What the instructions compute, where they are there, is what their twins compute. A NaN is a NaN, whatever else its bits say.
#[test]
fn twins_have_the_bits_of_the_instructions() {
    fn same<T: Element>(kernels: &Kernels, twin: &Kernels, product: Product<'_, T>) -> bool {
        let bits = |value: &T| {
            let value = value.to_f64();
            if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
        };
        let [found, expected] = [kernels, twin].map(|kernels| compute(kernels, product));
        found.iter().map(bits).eq(expected.iter().map(bits))
    }
    let pairs = [(Isa::Avx512Bf16, Kernels::twin_of_dot()), (Isa::Amx, Kernels::twin_of_amx())];
    for (isa, twin) in pairs {
        if !isa.is_here() {
            println!("skipped: this machine has no {isa}");
            continue;
        }
        let kernels = Kernels::of(isa);
        for (m, n, k) in [(70, 45, 300), (1, 1, 1), (33, 32, 64), (40, 70, 5)] {
            for kind in [Kind::Ordinary, Kind::Finite, Kind::Special] {
                let (a, b) = (bits(kind, m * k, 6), bits(kind, n * k, 7));
                let product = Product {
                    left: Operand::along_depth(&a, m, k),
                    right: Operand::across_depth(&b, n, k),
                    end: End::NONE,
                };
                assert!(same(&kernels, &twin, product), "{isa}, {kind:?}, {m} × {n} × {k}");
            }
            let (a, b) = (values::<f16>(m * k, 10), values::<f16>(n * k, 11));
            let product = Product {
                left: Operand::across_depth(&a, m, k),
                right: Operand::along_depth(&b, n, k),
                end: End::NONE,
            };
            assert!(same(&kernels, &twin, product), "{isa}, f16, {m} × {n} × {k}");
        }
    }
}

/// One infinity or NaN reaches its row and nothing else, on every path; one in the right operand its column.
#[test]
fn what_is_not_finite_stays_what_it_is() {
    fn check<T: Element>(name: &str, kernels: &Kernels) {
        let (m, n, k) = (37, 35, 40);
        for bad in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let mut a: Vec<T> = vec![T::from_f64(1.0 / 3.0); m * k];
            let b = vec![T::from_f64(1.0 / 3.0); n * k];
            a[5 * k + 7] = T::from_f64(bad);
            let (left, right) = (Operand::along_depth(&a, m, k), Operand::along_depth(&b, n, k));
            let result = compute(kernels, Product { left, right, end: End::NONE });
            for (place, value) in result.iter().enumerate() {
                let (value, is_bad) = (value.to_f64(), place / n == 5);
                let as_expected = if !is_bad {
                    value.is_finite()
                } else if bad.is_nan() {
                    value.is_nan()
                } else {
                    value == bad
                };
                assert!(as_expected, "{name}: {value} at {place} of {bad}");
            }
        }
    }
    for (name, kernels) in Kernels::all() {
        check::<f32>(name, &kernels);
        check::<f16>(name, &kernels);
        check::<bf16>(name, &kernels);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    fn check<T: Element>(name: &str, kernels: &Kernels, sizes: [usize; 3]) {
        let [m, n, k] = sizes;
        let (a, b) = (values::<T>(m * k, 12), values::<T>(n * k, 13));
        let product = Product {
            left: Operand::along_depth(&a, m, k),
            right: Operand::across_depth(&b, n, k),
            end: End { bias: Some(&b[..n]), then: Then::Nothing },
        };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| compute(kernels, product))
        };
        assert!(with(1) == with(2) && with(2) == with(3), "{name}");
    }
    for (name, kernels) in Kernels::all() {
        for sizes in [[50, 300, 300], [300, 20, 270]] {
            check::<f32>(name, &kernels, sizes);
            check::<f16>(name, &kernels, sizes);
            check::<bf16>(name, &kernels, sizes);
        }
    }
}

/// Half of all finite f16: the other half differs in sign.
#[test]
fn two_bf16_add_up_to_every_f16() {
    for bits in 0..=0x7BFF_u16 {
        let value = f16::from_bits(bits);
        let [high, low] = [0, 1].map(|part| bf16::from_bits(value.part(part)));
        assert_eq!(high.to_f32() + low.to_f32(), value.to_f32());
        assert!(!high.to_f32().is_subnormal() && !low.to_f32().is_subnormal());
    }
    assert_eq!(f16::INFINITY.part(1), 0);
}

#[test]
fn an_operand_without_memory_for_it_is_an_error() {
    let a = [1.0_f32];
    let operand = Operand::along_depth(&a, 1, 1);
    let refused = with_space(usize::MAX / 8, |_| ());
    assert!(refused.is_err());
    let product = Product { left: operand, right: operand, end: End::NONE };
    let result =
        try_build::<f32>((1, 1), |out| Ok(multiply(&Kernels::of(Isa::Portable), product, out)?));
    assert_eq!(to_f32(&result.unwrap()).unwrap(), [1.0]);
}
