//! candle's autograd on F64 tensors, which the operations are compared with.
#![allow(dead_code, reason = "no test uses all of it")]

use candle_core::{DType, Result, Tensor, Var};

use crate::ops_support::UNIT;

/// The values of a tensor.
pub(crate) fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// The value of `forward` and the gradients of Σ dy · value with respect to every input, in F64.
pub(crate) fn autograd(
    inputs: &[&Tensor],
    dy: &Tensor,
    forward: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let inputs: Vec<Var> = inputs
        .iter()
        .map(|input| Var::from_tensor(&input.to_dtype(DType::F64)?))
        .collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
    let value = forward(&tensors)?;
    let gradients = (&value * dy.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
    let mut all = vec![value.detach()];
    for input in &inputs {
        all.push(gradients.get(input).cloned().unwrap_or(input.zeros_like()?));
    }
    Ok(all)
}

/// Every value of `result` is within its own `bound` of `expected`.
pub(crate) fn check(case: &str, result: &Tensor, expected: &Tensor, bound: &[f64]) -> Result<()> {
    assert_eq!(result.dims(), expected.dims(), "{case}");
    let values = to_f64(result)?.into_iter().zip(to_f64(expected)?).zip(bound);
    for (i, ((result, expected), bound)) in values.enumerate() {
        let error = (result - expected).abs();
        assert!(
            error <= *bound,
            "{case}[{i}]: {result} is {error:e} from {expected}, over {bound:e}"
        );
    }
    Ok(())
}

/// `results` are the value and the gradients of an operation that is linear in each operand, with sums of at most `terms`.
pub(crate) fn check_multilinear(
    case: &str,
    results: &[&Tensor],
    (inputs, dy): (&[&Tensor], &Tensor),
    terms: usize,
    forward: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let expected = autograd(inputs, dy, &forward)?;
    let sizes: Vec<Tensor> = inputs.iter().map(|input| input.abs()).collect::<Result<_>>()?;
    let sizes = autograd(&sizes.iter().collect::<Vec<_>>(), &dy.abs()?, &forward)?;
    assert_eq!(results.len(), expected.len(), "{case}");
    for (i, result) in results.iter().enumerate() {
        let bound: Vec<f64> =
            to_f64(&sizes[i])?.iter().map(|size| (terms + 2) as f64 * UNIT * size).collect();
        check(&format!("{case}, output {i}"), result, &expected[i], &bound)?;
    }
    Ok(())
}
