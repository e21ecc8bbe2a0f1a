//! Tensors put together and taken apart along one dimension.

use super::movement::{axis_of, count, fail, ints_of, whole, write_whole};
use crate::op::{OpError, OpResult};
use crate::ops::reshape::ShapeOf;
use crate::{
    DType, Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Quant, Shape, ValueId,
    ValueType,
};

/// Inputs: any number, of the same sizes but along `axis`. Output: one after the other.
///
/// Quantised u8 inputs whose scale is not the output's are rescaled as TFLite does; any other
/// type must have the output's own.
#[derive(Clone, Debug)]
pub struct Concat {
    /// Negative counts from the end.
    pub axis: i64,
}

/// Inputs: data, sizes (integers, optional: as even as can be, the last part the smaller one).
/// Outputs: the parts of `axis`. One size may be -1: what the others leave.
#[derive(Clone, Debug)]
pub struct Split {
    /// Negative counts from the end.
    pub axis: i64,
}

/// Inputs: any number, of the same sizes. Output: one beside the other along a new dimension
/// (TFLite `PACK`).
#[derive(Clone, Debug)]
pub struct Stack {
    /// Place of the new dimension in the output; negative counts from the end.
    pub axis: i64,
}

/// Input: data. Outputs: its parts of size 1 along `axis`, which is dropped (TFLite `UNPACK`).
#[derive(Clone, Debug)]
pub struct Unstack {
    /// Negative counts from the end.
    pub axis: i64,
}

/// Sizes before, of, and after an axis, as counts.
fn around(dims: &[usize], axis: usize) -> OpResult<(usize, usize, usize)> {
    Ok((count(&dims[..axis])?, dims[axis], count(&dims[axis + 1..])?))
}

/// The gradient of output `i`, zeros where there is none.
fn part_gradient(g: &mut Gradient<'_>, i: usize) -> OpResult<ValueId> {
    match g.opt(i) {
        Some(dy) => Ok(dy),
        None => {
            let part = g.output(i);
            g.zeros_like(part)
        }
    }
}

impl Op for Concat {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let first = cx.ty(0)?;
        let mut out: Option<Vec<Dim>> = None;
        let mut sum = Some(Dim::from(0));
        for i in 0..cx.len() {
            let ty = cx.ty(i)?;
            if ty.dtype != first.dtype {
                return fail(format!("input {i} is {}, input 0 {}", ty.dtype, first.dtype));
            }
            let Some(dims) = ty.shape.dims() else {
                sum = None;
                continue;
            };
            let axis = axis_of(self.axis, dims.len())?;
            sum = sum.map(|s| &s + &dims[axis]);
            let out = out.get_or_insert_with(|| dims.to_vec());
            if out.len() != dims.len() {
                return fail(format!(
                    "input {i} is of rank {}, another of {}",
                    dims.len(),
                    out.len()
                ));
            }
            for (d, (own, new)) in out.iter_mut().zip(dims).enumerate() {
                match (own.fixed(), new.fixed()) {
                    _ if d == axis => {}
                    (Some(a), Some(b)) if a != b => {
                        return fail(format!("dimension {d} is {b} in input {i} and {a} before"));
                    }
                    (None, Some(_)) => *own = new.clone(),
                    _ => {}
                }
            }
        }
        let shape = match out {
            None => Shape::unknown(),
            Some(mut dims) => {
                let axis = axis_of(self.axis, dims.len())?;
                dims[axis] = sum.unwrap_or_else(|| cx.unknown_dim());
                Shape::new(dims)
            }
        };
        let one_scale = first.quant.clone().filter(|q| q.axis.is_none());
        Ok(vec![ValueType { dtype: first.dtype, shape, quant: one_scale }])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        let mut all = Vec::new();
        for i in 0..cx.len() {
            match (cx.ty(i)?.shape.rank(), cx.sizes(i)?) {
                (Some(1), Some(sizes)) => all.extend(sizes),
                _ => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let dy = g.of_first()?;
        let axis = axis_of(self.axis, g.rank(dy)?)?;
        let mut sizes = Vec::with_capacity(g.inputs());
        for i in 0..g.inputs() {
            let part = g.input(i)?;
            let (start, end) = (axis as i64, Some(axis as i64 + 1));
            sizes.push(g.apply(ShapeOf { start, end, dtype: DType::I64 }, &[part])?);
        }
        let sizes = g.apply(Concat { axis: 0 }, &sizes)?;
        let count = g.inputs();
        let parts = g.apply_all(Split { axis: self.axis }, &[Some(dy), Some(sizes)], count)?;
        Ok(parts.into_iter().map(Some).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let first = inputs.get(0)?;
        let axis = axis_of(self.axis, first.dims.len())?;
        let mut dims = Dims::from_slice(first.dims);
        dims[axis] = 0;
        for i in 0..inputs.len() {
            let view = inputs.get(i)?;
            let fits = view.dtype == first.dtype
                && view.dims.len() == dims.len()
                && (0..dims.len()).all(|d| d == axis || view.dims[d] == dims[d]);
            dims[axis] = match dims[axis].checked_add(if fits { view.dims[axis] } else { 0 }) {
                Some(sum) if fits => sum,
                _ => {
                    return fail(format!(
                        "input {i} of {:?} does not fit {:?}",
                        view.dims, first.dims
                    ));
                }
            };
        }
        let quant = outputs.opt_quant(0);
        let (before, total, after) = around(&dims, axis)?;
        write_whole(outputs, 0, first.dtype, &dims, |dst| {
            let row = dst.len().checked_div(before).unwrap_or(0);
            let width = if row == 0 { return Ok(()) } else { row / (total * after) };
            let mut at = 0;
            for i in 0..inputs.len() {
                let view = inputs.get(i)?;
                let part = view.dims[axis] * after * width;
                let rescale = rescaling(view.dtype, view.quant, quant, i)?;
                let src = whole(&view);
                if part == 0 {
                    continue;
                }
                for (out, from) in dst.chunks_exact_mut(row).zip(src.bytes.chunks_exact(part)) {
                    let out = &mut out[at..at + part];
                    match rescale {
                        None => out.copy_from_slice(from),
                        Some(r) => out.iter_mut().zip(from).for_each(|(o, v)| *o = r.apply(*v)),
                    }
                }
                at += part;
            }
            Ok(())
        })
    }
}

/// TFLite's `ConcatenationWithScaling`: in float, rounded half away from zero.
#[derive(Clone, Copy)]
struct Rescale {
    scale: f32,
    bias: f32,
    zero_point: i32,
}

impl Rescale {
    fn apply(self, v: u8) -> u8 {
        let v = (f32::from(v) * self.scale + self.bias).round() as i32;
        v.saturating_add(self.zero_point).clamp(0, 255) as u8
    }
}

/// How input `i` gets the output's quantisation; `None`: it has it, or there is none.
fn rescaling(
    dtype: DType,
    from: Option<&Quant>,
    to: Option<&Quant>,
    i: usize,
) -> OpResult<Option<Rescale>> {
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(None);
    };
    if from.scale == to.scale && from.zero_point == to.zero_point {
        return Ok(None);
    }
    match (dtype, from.single(), to.single()) {
        (DType::U8, Some((from, from_zero)), Some((to, zero_point))) => {
            let scale = from * (1.0 / to);
            Ok(Some(Rescale { scale, bias: -(from_zero as f32) * scale, zero_point }))
        }
        _ => fail(format!("input {i} is quantised as {from}, the output as {to}")),
    }
}

impl Concat {
    /// What each byte of input `i`, of type `dtype` and quantisation `from`, becomes in an output
    /// of quantisation `to`; `None`: itself.
    ///
    /// # Errors
    /// For types that are not rescaled.
    pub fn table(
        dtype: DType,
        from: Option<&Quant>,
        to: Option<&Quant>,
        i: usize,
    ) -> OpResult<Option<[u8; 256]>> {
        let rescale = rescaling(dtype, from, to, i)?;
        Ok(rescale.map(|r| std::array::from_fn(|byte| r.apply(byte as u8))))
    }
}

impl Split {
    /// The sizes of the parts, without wasting memory on what the file claims.
    fn part(&self, size: usize, sizes: Option<&[i64]>, parts: usize, i: usize) -> OpResult<usize> {
        let Some(sizes) = sizes else {
            let each = size.div_ceil(parts.max(1));
            return Ok(each.min(size.saturating_sub(i.saturating_mul(each))));
        };
        if sizes.len() != parts {
            return fail(format!("{} sizes for {parts} outputs", sizes.len()));
        }
        let mut sum = 0usize;
        let mut open = None;
        for (k, s) in sizes.iter().enumerate() {
            match usize::try_from(*s) {
                Ok(s) => sum = sum.saturating_add(s),
                Err(_) if *s == -1 && open.is_none() => open = Some(k),
                Err(_) => return fail(format!("{sizes:?} are no sizes")),
            }
        }
        match (open, size.checked_sub(sum)) {
            (Some(k), Some(rest)) if k == i => Ok(rest),
            (Some(_), Some(_)) | (None, Some(0)) => Ok(sizes[i] as usize),
            _ => fail(format!("sizes {sizes:?} do not add up to {size}")),
        }
    }
}

impl Op for Split {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let Some(dims) = ty.shape.dims() else {
            return Ok(vec![ValueType::new(ty.dtype, Shape::unknown()); cx.outputs()]);
        };
        let axis = axis_of(self.axis, dims.len())?;
        let sizes = cx.sizes(1)?;
        let ints =
            sizes.as_ref().and_then(|s| s.iter().map(Dim::as_i64).collect::<Option<Vec<_>>>());
        let one_scale = ty.quant.clone().filter(|q| q.axis.is_none());
        (0..cx.outputs())
            .map(|i| {
                let mut dims = dims.to_vec();
                dims[axis] = match (cx.opt(1), &ints, &sizes, dims[axis].fixed()) {
                    (None, _, _, Some(n)) => Dim::from(self.part(n, None, cx.outputs(), i)?),
                    (Some(_), Some(ints), _, Some(n)) => {
                        Dim::from(self.part(n, Some(ints), cx.outputs(), i)?)
                    }
                    (None, _, _, None) if cx.outputs() == 1 => dims[axis].clone(),
                    (Some(_), _, Some(sizes), _) => match sizes.get(i) {
                        Some(s) if s.as_i64().is_none_or(|s| s >= 0) => s.clone(),
                        _ => cx.unknown_dim(),
                    },
                    _ => cx.unknown_dim(),
                };
                Ok(ValueType { dtype: ty.dtype, shape: dims.into(), quant: one_scale.clone() })
            })
            .collect()
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let parts = (0..g.outputs()).map(|i| part_gradient(g, i)).collect::<OpResult<Vec<_>>>()?;
        let dx = g.apply(Concat { axis: self.axis }, &parts)?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let axis = axis_of(self.axis, data.dims.len())?;
        let sizes = inputs.opt(1).map(|s| ints_of(&s)).transpose()?;
        let (before, size, after) = around(data.dims, axis)?;
        let src = whole(&data);
        let mut dims = Dims::from_slice(data.dims);
        let mut at = 0;
        for i in 0..outputs.len() {
            let n = self.part(size, sizes.as_deref(), outputs.len(), i)?;
            dims[axis] = n;
            let block = after * src.width;
            write_whole(outputs, i, data.dtype, &dims, |dst| {
                if dst.is_empty() {
                    return Ok(());
                }
                for (k, out) in dst.chunks_exact_mut(n * block).enumerate().take(before) {
                    out.copy_from_slice(&src.bytes[(k * size + at) * block..][..n * block]);
                }
                Ok(())
            })?;
            at += n;
        }
        Ok(())
    }
}

impl Op for Stack {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let first = cx.ty(0)?;
        let mut out: Option<Vec<Dim>> = None;
        for i in 0..cx.len() {
            let ty = cx.ty(i)?;
            let Some(dims) = ty.shape.dims() else { continue };
            let own = out.get_or_insert_with(|| dims.to_vec());
            let same =
                |a: &Dim, b: &Dim| a.fixed().is_none_or(|a| b.fixed().is_none_or(|b| a == b));
            let alike = own.len() == dims.len() && own.iter().zip(dims).all(|(a, b)| same(a, b));
            if ty.dtype != first.dtype || !alike {
                return fail(format!("input {i} is {ty}, input 0 {first}"));
            }
            for (own, new) in own.iter_mut().zip(dims).filter(|(own, _)| own.fixed().is_none()) {
                *own = new.clone();
            }
        }
        let shape = match out {
            None => Shape::unknown(),
            Some(mut dims) => {
                dims.insert(axis_of(self.axis, dims.len() + 1)?, Dim::from(cx.len()));
                Shape::new(dims)
            }
        };
        let one_scale = first.quant.clone().filter(|q| q.axis.is_none());
        Ok(vec![ValueType { dtype: first.dtype, shape, quant: one_scale }])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        let mut all = Vec::new();
        for i in 0..cx.len() {
            match (cx.ty(i)?.shape.rank(), cx.sizes(i)?) {
                (Some(0), Some(sizes)) => all.extend(sizes),
                _ => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (dy, count) = (g.of_first()?, g.inputs());
        let parts = g.apply_all(Unstack { axis: self.axis }, &[Some(dy)], count)?;
        Ok(parts.into_iter().map(Some).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let first = inputs.get(0)?;
        let axis = axis_of(self.axis, first.dims.len() + 1)?;
        let mut dims = Dims::from_slice(first.dims);
        dims.insert(axis, inputs.len());
        let after = count(&first.dims[axis..])?;
        write_whole(outputs, 0, first.dtype, &dims, |dst| {
            for i in 0..inputs.len() {
                let view = inputs.get(i)?;
                if view.dims != first.dims || view.dtype != first.dtype {
                    return fail(format!(
                        "input {i} of {:?} does not fit {:?}",
                        view.dims, first.dims
                    ));
                }
                let src = whole(&view);
                let block = after * src.width;
                if block == 0 {
                    return Ok(());
                }
                let places = dst.chunks_exact_mut(block).skip(i).step_by(inputs.len());
                places.zip(src.bytes.chunks_exact(block)).for_each(|(o, v)| o.copy_from_slice(v));
            }
            Ok(())
        })
    }
}

impl Op for Unstack {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let one_scale = ty.quant.clone().filter(|q| q.axis.is_none());
        let shape = match ty.shape.dims() {
            None => Shape::unknown(),
            Some(dims) => {
                let mut dims = dims.to_vec();
                let size = dims.remove(axis_of(self.axis, dims.len())?);
                check_parts(size.fixed().unwrap_or(cx.outputs()), cx.outputs())?;
                Shape::new(dims)
            }
        };
        Ok(vec![ValueType { dtype: ty.dtype, shape, quant: one_scale }; cx.outputs()])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let parts = (0..g.outputs()).map(|i| part_gradient(g, i)).collect::<OpResult<Vec<_>>>()?;
        let dx = g.apply(Stack { axis: self.axis }, &parts)?;
        Ok(vec![Some(dx)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let axis = axis_of(self.axis, data.dims.len())?;
        let (_, size, after) = around(data.dims, axis)?;
        check_parts(size, outputs.len())?;
        let mut dims = Dims::from_slice(data.dims);
        dims.remove(axis);
        let src = whole(&data);
        let block = after * src.width;
        for i in 0..size {
            write_whole(outputs, i, data.dtype, &dims, |dst| {
                if block > 0 {
                    let parts = src.bytes.chunks_exact(block).skip(i).step_by(size);
                    dst.chunks_exact_mut(block).zip(parts).for_each(|(o, v)| o.copy_from_slice(v));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn check_parts(size: usize, outputs: usize) -> OpResult {
    if size == outputs {
        Ok(())
    } else {
        Err(OpError::new(format!("a dimension of size {size} for {outputs} outputs")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, run_opt, shape, t, ty};
    use super::*;
    use crate::{Interpreter, Slot, Tensor};
    use std::sync::Arc;

    #[test]
    fn concat_joins_along_any_axis() {
        let (a, b) =
            (t(&[2, 1, 2], &[1u8, 2, 3, 4]), t(&[2, 2, 2], &[5u8, 6, 7, 8, 9, 10, 11, 12]));
        let joined = [1u8, 2, 5, 6, 7, 8, 3, 4, 9, 10, 11, 12];
        check(&Concat { axis: 1 }, &[&a, &b], &[2, 3, 2], &joined);
        check(&Concat { axis: -2 }, &[&a, &b], &[2, 3, 2], &joined);
        check(&Concat { axis: 0 }, &[&a, &a], &[4, 1, 2], &[1u8, 2, 3, 4, 1, 2, 3, 4]);
        let none = t::<u8>(&[2, 0, 2], &[]);
        check(&Concat { axis: 1 }, &[&none, &a, &none], &[2, 1, 2], &[1u8, 2, 3, 4]);
        assert!(error(&Concat { axis: 0 }, &[&a, &b]).contains("dimension 1"));
        assert!(error(&Concat { axis: 3 }, &[&a, &b]).contains("axis 3"));
        let f = t(&[2, 1, 2], &[0f32; 4]);
        assert!(error(&Concat { axis: 1 }, &[&a, &f]).contains("f32"));
        assert_eq!(shape(&Concat { axis: 1 }, &ty(DType::U8, "2, n, 2"), &[&b]), "[2, n + 2, 2]");
    }

    #[test]
    fn u8_of_other_scales_is_rescaled() {
        let quant = |s, z| Some(Arc::new(Quant::per_tensor(s, z)));
        let a = t(&[2], &[10u8, 200]).with_quant(quant(0.5, 10));
        let b = t(&[2], &[10u8, 255]).with_quant(quant(1.0, 0));
        let views = [Some(a.view()), Some(b.view())];
        let to = Quant::per_tensor(1.0, 3);
        let mut outputs = Outputs::new([Slot::Open { quant: Some(&to), tensor: None }]);
        let runner = Interpreter::default();
        Concat { axis: 0 }.eval(&Inputs::new(&views, &runner), &mut outputs).unwrap();
        assert_eq!(outputs.slice::<u8>(0, &[4]).unwrap(), [3, 98, 13, 255]);
    }

    #[test]
    fn split_takes_sizes_or_halves() {
        let x = t(&[2, 5], &(0..10).collect::<Vec<i32>>());
        let parts = |sizes: Option<&Tensor>, n| {
            let out = run_opt(&Split { axis: 1 }, &[Some(&x), sizes], n).unwrap();
            out.iter().map(|t| t.slice::<i32>().unwrap().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(parts(None, 2), [vec![0, 1, 2, 5, 6, 7], vec![3, 4, 8, 9]]);
        assert_eq!(
            parts(Some(&i(&[0, -1, 4])), 3),
            [vec![], vec![0, 5], vec![1, 2, 3, 4, 6, 7, 8, 9]]
        );
        let bad = |s: &[i64]| run_opt(&Split { axis: 1 }, &[Some(&x), Some(&i(s))], 2).unwrap_err();
        assert!(bad(&[2, 2]).to_string().contains("add up"));
        assert!(bad(&[2, 4]).to_string().contains("add up"));
        assert!(bad(&[-2, 7]).to_string().contains("no sizes"));
        assert!(bad(&[2, 2, 1]).to_string().contains("3 sizes"));
    }

    #[test]
    fn stack_and_unstack_are_inverse() {
        let (a, b) = (t(&[2, 2], &[1i16, 2, 3, 4]), t(&[2, 2], &[5i16, 6, 7, 8]));
        check(&Stack { axis: 1 }, &[&a, &b], &[2, 2, 2], &[1i16, 2, 5, 6, 3, 4, 7, 8]);
        check(&Stack { axis: -1 }, &[&a, &b], &[2, 2, 2], &[1i16, 5, 2, 6, 3, 7, 4, 8]);
        let stacked = t(&[2, 2, 2], &[1i16, 2, 5, 6, 3, 4, 7, 8]);
        let parts = run_opt(&Unstack { axis: 1 }, &[Some(&stacked)], 2).unwrap();
        assert_eq!(parts[0].slice::<i16>().unwrap(), a.slice::<i16>().unwrap());
        assert_eq!(parts[1].slice::<i16>().unwrap(), b.slice::<i16>().unwrap());
        assert!(run_opt(&Unstack { axis: 1 }, &[Some(&stacked)], 3).is_err());
    }
}
