//! Tensors against the arrays of a fixture.

use kinglet_graph::{Bytes, DType, Tensor};
use kinglet_testing::{Array, Type};
use std::sync::Arc;

/// The graph's element type of an array's.
pub fn dtype(ty: Type) -> DType {
    match ty {
        Type::F64 => DType::F64,
        Type::F32 => DType::F32,
        Type::F16 => DType::F16,
        Type::U8 => DType::U8,
        Type::I8 => DType::I8,
        Type::I16 => DType::I16,
        Type::I32 => DType::I32,
        Type::I64 => DType::I64,
        Type::Bool => DType::Bool,
        other => panic!("no tensors of {other:?} in the fixtures"),
    }
}

/// An array as a tensor.
pub fn tensor(array: &Array) -> Tensor {
    let bytes = Bytes::new(Arc::new(array.data.clone()));
    Tensor::from_bytes(dtype(array.dtype), &array.shape, bytes).unwrap()
}

/// The numbers of an array.
fn reals(array: &Array) -> Vec<f64> {
    macro_rules! each {
        ($t:ty) => {
            array.to_vec::<$t>().unwrap().into_iter().map(f64::from).collect()
        };
    }
    match array.dtype {
        Type::F64 => each!(f64),
        Type::F32 => each!(f32),
        Type::F16 => each!(half::f16),
        Type::U8 => each!(u8),
        Type::I8 => each!(i8),
        Type::I16 => each!(i16),
        Type::I32 => each!(i32),
        Type::Bool => array.data.iter().map(|b| f64::from(*b)).collect(),
        Type::I64 => array.to_vec::<i64>().unwrap().into_iter().map(|v| v as f64).collect(),
        other => panic!("no tensors of {other:?} in the fixtures"),
    }
}

/// Whether `got` is `want`: integers within `steps`, floats within `part` of the largest
/// magnitude wanted (and at least of 1).
pub fn difference(got: &Tensor, want: &Array, steps: f64, part: f64) -> Result<(), String> {
    if (got.dtype(), got.dims()) != (dtype(want.dtype), want.shape.as_slice()) {
        return Err(format!("{got:?} and not {}{:?}", dtype(want.dtype), want.shape));
    }
    let data = got.bytes().to_vec();
    let got = Array { dtype: want.dtype, shape: want.shape.clone(), data };
    let float = dtype(want.dtype).is_float();
    let (got, want) = (reals(&got), reals(want));
    let scale = want.iter().filter(|v| v.is_finite()).fold(1f64, |m, v| m.max(v.abs()));
    let allowed = if float { part * scale } else { steps };
    let distance = |(a, b): (&f64, &f64)| match a == b || (a.is_nan() && b.is_nan()) {
        true => 0.0,
        false if a.is_nan() || b.is_nan() => f64::INFINITY,
        false => (a - b).abs(),
    };
    let worst = got.iter().zip(&want).map(distance).fold(0.0, f64::max);
    if worst <= allowed {
        return Ok(());
    }
    let off = got.iter().zip(&want).filter(|pair| distance(*pair) > 0.0).count();
    let first: Vec<_> =
        got.iter().zip(&want).filter(|pair| distance(*pair) > allowed).take(4).collect();
    Err(format!(
        "{off} of {} differ, by {worst} at most, {allowed} is allowed: {first:?}",
        want.len()
    ))
}
