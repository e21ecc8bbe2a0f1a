//! Tensors made from a rule rather than from data.

use super::movement::{axis_of, count, fail, fill, ints_in, ints_of, whole, write_whole};
use crate::number::Number;
use crate::op::{OpError, OpResult};
use crate::{
    DType, Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, TensorView,
    ValueType,
};

/// Inputs: shape (integers), value (one element). Output: copies of the value (ONNX
/// `ConstantOfShape`, TFLite `FILL`).
#[derive(Clone, Debug, Default)]
pub struct Fill;

/// Input: data. Output: as many zeros.
#[derive(Clone, Debug, Default)]
pub struct ZerosLike;

/// Inputs: start, limit, step: scalars of one number type. Output: start and so on to before the
/// limit.
#[derive(Clone, Debug, Default)]
pub struct Range;

/// Input: data of rank 2. Output: ones on one diagonal, else zeros, of the same sizes.
#[derive(Clone, Debug, Default)]
pub struct EyeLike {
    /// Element type; `None`: the data's.
    pub dtype: Option<DType>,
    /// Which diagonal: 0 the main one, positive above it.
    pub k: i64,
}

/// Inputs: indices (numbers), depth (one number), values (off, on). Or four inputs: indices,
/// depth, on, off. Output: for each index a row along a new dimension, on at the index.
#[derive(Clone, Debug)]
pub struct OneHot {
    /// Place of the new dimension in the output; negative counts from the end.
    pub axis: i64,
    /// Whether negative indices count from the end of the row. Those outside it are on nowhere.
    pub wrap: bool,
}

/// Inputs: data of rank 2 or more, k (one integer, optional: 0). Output: the data above or below
/// diagonal `k` of each matrix, the diagonal included, else zeros.
#[derive(Clone, Debug)]
pub struct Trilu {
    /// Whether the part above is kept.
    pub upper: bool,
}

/// The one element of a small input, in whole bytes.
fn element(view: &TensorView<'_>) -> OpResult<([u8; 16], usize)> {
    let element = whole(view);
    if element.bytes.len() != element.width {
        return fail(format!("expected one value, found {:?}", view.dims));
    }
    let mut bytes = [0; 16];
    bytes[..element.width].copy_from_slice(&element.bytes);
    Ok((bytes, element.width))
}

/// One number, of any type.
fn number(view: &TensorView<'_>) -> OpResult<f64> {
    crate::dispatch_number!(view.dtype, T => match view.slice::<T>()? {
        [v] => Ok(v.to_f64()),
        many => fail(format!("expected one number, found {}", many.len())),
    }, else => fail(format!("expected a number, found {}", view.dtype)))
}

impl Op for Fill {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(1)?;
        let shape = match cx.sizes(0)? {
            Some(sizes) => match sizes.iter().find(|s| s.as_i64().is_some_and(|s| s < 0)) {
                Some(s) => return fail(format!("{s} is no size")),
                None => Shape::new(sizes),
            },
            None => match cx.dims(0)?.and_then(|d| d.first()?.fixed()) {
                Some(rank) if rank <= 64 => cx.unknown_dims(rank),
                _ => Shape::unknown(),
            },
        };
        Ok(vec![ValueType::new(dtype, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let size =
            |s: &i64| usize::try_from(*s).map_err(|_| OpError::new(format!("{s} is no size")));
        let dims = ints_in(inputs, 0)?.iter().map(size).collect::<OpResult<Dims>>()?;
        count(&dims)?;
        let value = inputs.get(1)?;
        let (bytes, width) = element(&value)?;
        write_whole(outputs, 0, value.dtype, &dims, |dst| {
            fill(dst, &bytes[..width]);
            Ok(())
        })
    }
}

impl Op for ZerosLike {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![ValueType::new(cx.dtype(0)?, cx.ty(0)?.shape.clone())])
    }

    fn gradient(&self, _g: &mut Gradient<'_>) -> OpResult<Gradients> {
        Ok(vec![None])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        outputs.bytes(0, data.dtype, data.dims)?.fill(0);
        Ok(())
    }

    fn reads(&self, _input: usize) -> bool {
        false
    }
}

/// How many elements a range has. Far more than memory holds is an error.
fn range_len<T: Number>(start: T, limit: T, step: T) -> OpResult<usize> {
    let steps = match (start.to_integer(), limit.to_integer(), step.to_integer()) {
        (Some(start), Some(limit), Some(step)) => {
            if step == 0 {
                return fail("the step of a range is 0");
            }
            let (far, step) = if step > 0 { (limit - start, step) } else { (start - limit, -step) };
            return usize::try_from((far.max(0) + step - 1) / step)
                .or_else(|_| fail("the range is too long"));
        }
        _ => ((limit.to_f64() - start.to_f64()) / step.to_f64()).ceil(),
    };
    if steps.is_nan() || steps > 1e15 {
        return fail(format!("a range of {steps} elements"));
    }
    Ok(steps.max(0.0) as usize)
}

fn range_ends<T: Number>(get: impl Fn(usize) -> OpResult<T>) -> OpResult<(T, T, usize)> {
    let (start, step) = (get(0)?, get(2)?);
    Ok((start, step, range_len(start, get(1)?, step)?))
}

impl Op for Range {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        for i in 1..3 {
            if cx.dtype(i)? != dtype {
                return fail(format!("the start is {dtype}, input {i} {}", cx.dtype(i)?));
            }
        }
        let known = (0..3).all(|i| cx.data(i).is_some());
        let size = if known {
            let get = |i: usize| cx.data(i).ok_or_else(|| OpError::new("unknown"));
            crate::dispatch_number!(dtype, T => {
                Dim::from(range_ends(|i| get(i)?.scalar::<T>())?.2)
            }, else => return fail(format!("there is no range of {dtype}")))
        } else if !dtype.is_integer() {
            cx.unknown_dim()
        } else {
            match (cx.sizes(0)?.as_deref(), cx.sizes(1)?.as_deref(), cx.sizes(2)?.as_deref()) {
                (Some([start]), Some([limit]), Some([step]))
                    if *start == 0 && *step == 1 && limit.is_nonnegative() =>
                {
                    limit.clone()
                }
                _ => cx.unknown_dim(),
            }
        };
        Ok(vec![ValueType::new(dtype, vec![size])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dtype = inputs.get(0)?.dtype;
        crate::dispatch_number!(dtype, T => {
            let (start, step, n) = range_ends(|i| inputs.get(i)?.scalar::<T>())?;
            for (i, out) in outputs.slice::<T>(0, &[n])?.iter_mut().enumerate() {
                *out = match (start.to_integer(), step.to_integer()) {
                    (Some(start), Some(step)) => T::of_integer(start + i as i128 * step),
                    _ => T::of_f64(start.to_f64() + i as f64 * step.to_f64()),
                };
            }
            Ok(())
        }, else => fail(format!("there is no range of {dtype}")))
    }
}

fn matrix(dims: &[usize]) -> OpResult<(usize, usize)> {
    match dims {
        [.., rows, columns] => Ok((*rows, *columns)),
        _ => fail(format!("{dims:?} is no matrix")),
    }
}

impl Op for EyeLike {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        Ok(vec![ValueType::new(self.dtype.unwrap_or(ty.dtype), ty.shape.clone())])
    }

    fn gradient(&self, _g: &mut Gradient<'_>) -> OpResult<Gradients> {
        Ok(vec![None])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let (rows, columns) = matrix(data.dims)?;
        if data.dims.len() != 2 {
            return fail(format!("{:?} is no matrix", data.dims));
        }
        let dtype = self.dtype.unwrap_or(data.dtype);
        outputs.bytes(0, dtype, data.dims)?.fill(0);
        let diagonal = |row: usize| {
            let column = (row as i64).checked_add(self.k)?;
            usize::try_from(column).ok().filter(|c| *c < columns).map(|c| row * columns + c)
        };
        if dtype == DType::Bool {
            let out = outputs.slice::<crate::Bool>(0, data.dims)?;
            (0..rows).filter_map(diagonal).for_each(|at| out[at] = true.into());
            return Ok(());
        }
        crate::dispatch_number!(dtype, T => {
            let out = outputs.slice::<T>(0, data.dims)?;
            (0..rows).filter_map(diagonal).for_each(|at| out[at] = T::of_f64(1.0));
            Ok(())
        }, else => fail(format!("{dtype} has no one")))
    }

    fn reads(&self, _input: usize) -> bool {
        false
    }
}

/// The size that a depth means.
fn depth_of(view: &TensorView<'_>) -> OpResult<usize> {
    let depth = number(view)?;
    if (0.0..1e15).contains(&depth) {
        Ok(depth as usize)
    } else {
        fail(format!("a depth of {depth}"))
    }
}

impl Op for OneHot {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let shape = match cx.dims(0)? {
            None => Shape::unknown(),
            Some(dims) => {
                let mut dims = dims.to_vec();
                let depth = match (cx.data(1), cx.dtype(1)?.is_integer()) {
                    (Some(depth), _) => Dim::from(depth_of(&depth)?),
                    (None, true) => match cx.sizes(1)?.as_deref() {
                        Some([depth]) => depth.clone(),
                        _ => cx.unknown_dim(),
                    },
                    _ => cx.unknown_dim(),
                };
                dims.insert(axis_of(self.axis, dims.len() + 1)?, depth);
                Shape::new(dims)
            }
        };
        Ok(vec![ValueType::new(cx.dtype(2)?, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (indices, values) = (inputs.get(0)?, inputs.get(2)?);
        let depth = depth_of(&inputs.get(1)?)?;
        let axis = axis_of(self.axis, indices.dims.len() + 1)?;
        let (mut on, mut off) = ([0; 16], [0; 16]);
        let width = whole(&values).width;
        match inputs.opt(3) {
            Some(last) => {
                (on, off) = (element(&values)?.0, element(&last)?.0);
            }
            None => {
                let both = whole(&values);
                if both.bytes.len() != 2 * width {
                    return fail(format!(
                        "expected the values off and on, found {:?}",
                        values.dims
                    ));
                }
                off[..width].copy_from_slice(&both.bytes[..width]);
                on[..width].copy_from_slice(&both.bytes[width..]);
            }
        }
        let mut dims = Dims::from_slice(indices.dims);
        dims.insert(axis, depth);
        count(&dims)?;
        let after = count(&indices.dims[axis..])?;
        write_whole(outputs, 0, values.dtype, &dims, |dst| {
            fill(dst, &off[..width]);
            crate::dispatch_number!(indices.dtype, T => {
                for (k, index) in indices.slice::<T>()?.iter().enumerate() {
                    let mut index = index.to_f64();
                    if index < 0.0 && self.wrap {
                        index += depth as f64;
                    }
                    if index >= 0.0 && index < depth as f64 {
                        let at = (k / after * depth + index as usize) * after + k % after;
                        dst[at * width..][..width].copy_from_slice(&on[..width]);
                    }
                }
                Ok(())
            }, else => fail(format!("expected indices, found {}", indices.dtype)))
        })
    }
}

impl Op for Trilu {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        match ty.shape.rank() {
            Some(rank) if rank < 2 => fail(format!("{ty} is no matrix")),
            _ => Ok(vec![ty.clone()]),
        }
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(self.clone(), &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let k = match inputs.opt(1).map(|k| ints_of(&k)).transpose()?.as_deref() {
            None => 0,
            Some([k]) => *k,
            Some(many) => return fail(format!("expected one diagonal, found {}", many.len())),
        };
        let (rows, columns) = matrix(data.dims)?;
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, data.dims, |dst| {
            dst.copy_from_slice(&src.bytes);
            if dst.is_empty() {
                return Ok(());
            }
            for (i, row) in dst.chunks_exact_mut(columns * src.width).enumerate() {
                // Columns below this one lie under the diagonal; above the next one, over it.
                let at = ((i % rows) as i64).saturating_add(k);
                let edge = |at: i64| at.clamp(0, columns as i64) as usize * src.width;
                if self.upper {
                    row[..edge(at)].fill(0);
                } else {
                    row[edge(at.saturating_add(1))..].fill(0);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, run, shape, t, ty};
    use super::*;
    use crate::Bool;

    #[test]
    fn fill_repeats_one_value() {
        check(&Fill, &[&i(&[2, 2]), &t(&[1], &[7i16])], &[2, 2], &[7i16; 4]);
        check::<f32>(&Fill, &[&i(&[0]), &t(&[], &[7f32])], &[0], &[]);
        check(&Fill, &[&i(&[]), &t(&[], &[7f32])], &[], &[7f32]);
        assert!(error(&Fill, &[&i(&[-1]), &t(&[], &[7f32])]).contains("no size"));
        assert!(error(&Fill, &[&i(&[1 << 40, 1 << 40]), &t(&[], &[7f32])]).contains("too large"));
        assert!(error(&Fill, &[&i(&[1 << 60]), &t(&[], &[7f32])]).contains("fit in memory"));
        assert!(error(&Fill, &[&i(&[1]), &t(&[2], &[7f32, 8.])]).contains("one value"));
        check(&ZerosLike, &[&t(&[2], &[1u8, 2])], &[2], &[0u8, 0]);
    }

    #[test]
    fn ranges_stop_before_the_limit() {
        let range = |a: i64, b: i64, c: i64| {
            let (a, b, c) = (t(&[], &[a]), t(&[], &[b]), t(&[], &[c]));
            run(&Range, &[&a, &b, &c]).map(|t| t.slice::<i64>().unwrap().to_vec())
        };
        assert_eq!(range(1, 6, 2).unwrap(), [1, 3, 5]);
        assert_eq!(range(5, 0, -2).unwrap(), [5, 3, 1]);
        assert_eq!(range(5, 0, 2).unwrap(), []);
        assert!(range(0, 1, 0).is_err());
        assert!(range(i64::MIN, i64::MAX, 1).is_err());
        let (a, b, c) = (t(&[], &[0f32]), t(&[], &[1f32]), t(&[], &[0.4f32]));
        check(&Range, &[&a, &b, &c], &[3], &[0f32, 0.4, 0.8]);
        assert!(error(&Range, &[&a, &b, &t(&[], &[0f32])]).contains("elements"));
        assert!(error(&Range, &[&a, &b, &t(&[], &[1i32])]).contains("i32"));
    }

    #[test]
    fn diagonals() {
        let x = t(&[2, 3], &[1f32, 2., 3., 4., 5., 6.]);
        check(&EyeLike { dtype: Some(DType::I8), k: 1 }, &[&x], &[2, 3], &[0i8, 1, 0, 0, 0, 1]);
        check(&EyeLike { dtype: None, k: -1 }, &[&x], &[2, 3], &[0f32, 0., 0., 1., 0., 0.]);
        let bools = EyeLike { dtype: Some(DType::Bool), k: i64::MAX };
        check(&bools, &[&x], &[2, 3], &[Bool(0); 6]);
        let (upper, lower) = (Trilu { upper: true }, Trilu { upper: false });
        check(&upper, &[&x], &[2, 3], &[1f32, 2., 3., 0., 5., 6.]);
        check(&upper, &[&x, &t(&[], &[-1i64])], &[2, 3], &[1f32, 2., 3., 4., 5., 6.]);
        check(&lower, &[&x], &[2, 3], &[1f32, 0., 0., 4., 5., 0.]);
        check(&lower, &[&x, &t(&[], &[i64::MAX])], &[2, 3], &[1f32, 2., 3., 4., 5., 6.]);
        check(&lower, &[&x, &t(&[], &[i64::MIN])], &[2, 3], &[0f32; 6]);
        assert!(error(&upper, &[&t(&[2], &[1f32, 2.])]).contains("no matrix"));
    }

    #[test]
    fn one_hot_rows() {
        let op = OneHot { axis: -1, wrap: true };
        let (at, depth) = (i(&[1, -1, 3]), t(&[], &[3i64]));
        let values = t(&[2], &[0i8, 5]);
        check(&op, &[&at, &depth, &values], &[3, 3], &[0i8, 5, 0, 0, 0, 5, 0, 0, 0]);
        let first = OneHot { axis: 0, wrap: false };
        let (on, off) = (t(&[], &[1f32]), t(&[], &[0f32]));
        let want = [0f32, 0., 0., 1., 0., 0., 0., 0., 0.];
        check(&first, &[&at, &depth, &on, &off], &[3, 3], &want);
        assert!(error(&op, &[&at, &t(&[], &[-1i64]), &values]).contains("depth"));
        assert!(error(&op, &[&at, &depth, &on]).contains("off and on"));
        assert_eq!(shape(&op, &ty(DType::I64, "n"), &[&depth, &values]), "[n, 3]");
    }
}
