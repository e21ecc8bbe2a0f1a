//! What a tensor holds, each once.

use super::broadcast::{AroundAxis, axis_of};
use super::convert::{Number, numbers};
use crate::{DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};
use std::cmp::Ordering;

/// The distinct elements, or distinct slices along an axis (ONNX `Unique`).
///
/// Outputs: the distinct ones; where each first stands; for each in the input, its place in output
/// 0; how often each occurs. All but the first are i64.
#[derive(Clone, Debug)]
pub struct Unique {
    /// The axis along which slices are compared; without one, all elements are.
    pub axis: Option<i64>,
    /// Whether they come in order, and not as they first occur.
    pub sorted: bool,
}

fn order(a: Number, b: Number) -> Ordering {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => a.cmp(&b),
        // Zeros of either sign are one number.
        _ => (a.as_f64() + 0.0).total_cmp(&(b.as_f64() + 0.0)),
    }
}

impl Op for Unique {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let found = cx.unknown_dim();
        let (mut all, first) = match (cx.dims(0)?, self.axis) {
            (Some(dims), Some(axis)) => {
                let axis = axis_of(axis, dims.len())?;
                let mut out = dims.to_vec();
                out[axis] = found.clone();
                (dims[axis].clone(), out.into())
            }
            (None, Some(_)) => (cx.unknown_dim(), crate::Shape::unknown()),
            (_, None) => (cx.unknown_dim(), vec![found.clone()].into()),
        };
        if let (None, Some(dims)) = (self.axis, cx.ty(0)?.shape.fixed()) {
            all = crate::Dim::from(dims.iter().product::<usize>());
        }
        let list = |of| ValueType::new(DType::I64, vec![of]);
        let types =
            [ValueType::new(cx.dtype(0)?, first), list(found.clone()), list(all), list(found)];
        Ok(types.into_iter().take(cx.outputs()).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let bits = x.dtype.bits();
        if bits < 8 {
            return Err(OpError::new(format!("Unique does not take {}", x.dtype)));
        }
        let flat = [x.len()];
        let (dims, axis) = match self.axis {
            None => (&flat[..], 0),
            Some(axis) => (x.dims, axis_of(axis, x.dims.len())?),
        };
        let AroundAxis { outer, len, inner } = AroundAxis::new(dims, axis);
        let numbers = numbers(&x)?;
        let compare = |a: usize, b: usize| {
            let places = (0..outer).flat_map(|o| (0..inner).map(move |i| (o * len, i)));
            let element =
                |slice: usize, (o, i): (usize, usize)| numbers.at((o + slice) * inner + i);
            places
                .map(|p| order(element(a, p), element(b, p)))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        let mut by_value: Vec<usize> = (0..len).collect();
        // A stable sort: of equals the first comes first.
        by_value.sort_by(|a, b| compare(*a, *b));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for i in by_value {
            match groups.last_mut() {
                Some(group) if compare(group[0], i).is_eq() => group.push(i),
                _ => groups.push(vec![i]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let mut out_dims = dims.to_vec();
        out_dims[axis] = groups.len();
        let width = bits / 8 * inner;
        let out = outputs.bytes(0, x.dtype, &out_dims)?;
        for o in 0..outer {
            for (k, group) in groups.iter().enumerate() {
                let from = &x.bytes[(o * len + group[0]) * width..][..width];
                out[(o * groups.len() + k) * width..][..width].copy_from_slice(from);
            }
        }
        let mut put = |i: usize, list: Vec<i64>| match i < outputs.len() {
            true => outputs.slice::<i64>(i, &[list.len()]).map(|out| out.copy_from_slice(&list)),
            false => Ok(()),
        };
        put(1, groups.iter().map(|g| g[0] as i64).collect())?;
        let mut places = vec![0i64; len];
        for (k, group) in groups.iter().enumerate() {
            group.iter().for_each(|i| places[*i] = k as i64);
        }
        put(2, places)?;
        put(3, groups.iter().map(|g| g.len() as i64).collect())
    }
}
