//! Borders added and cropped.

use super::movement::{
    Ints, axes_of, each_index, fail, fill, ints_of, opt_ints_in, row_major, whole, write_whole,
};
use crate::op::{OpError, OpResult};
use crate::ops::unary::Unary;
use crate::{Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, TensorView, ValueType};
use smallvec::SmallVec;

/// What stands in the border.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PadMode {
    /// One value.
    #[default]
    Constant,
    /// The data mirrored on its first and last element: `c b | a b c | b a`.
    Reflect,
    /// The data mirrored on its border: `b a | a b c | c b`.
    Symmetric,
    /// The outermost element: `a a | a b c | c c`.
    Edge,
    /// The data over and over: `b c | a b c | a b`.
    Wrap,
}

/// Inputs: data, pads (integers), value (optional, one element), axes (integers, optional: all).
///
/// The pads are all begins and then all ends (`[2k]`, ONNX), or a pair for each dimension
/// (`[k, 2]`, TFLite). Negative ones crop. Without a value the border is zero: the zero point, where the
/// data is quantised.
#[derive(Clone, Debug, Default)]
pub struct Pad {
    /// What stands in the border.
    pub mode: PadMode,
}

/// Pads of one dimension: elements added before and after.
type Pads = SmallVec<[(i64, i64); 6]>;

fn pads_of(rank: usize, pads: &[i64], in_pairs: bool, axes: Option<&[i64]>) -> OpResult<Pads> {
    let axes: Dims = match axes {
        Some(axes) => axes_of(axes, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return fail(format!("{} pads for {} dimensions", pads.len(), axes.len()));
    }
    let mut list: Pads = smallvec::smallvec![(0, 0); rank];
    for (i, axis) in axes.iter().enumerate() {
        list[*axis] =
            if in_pairs { (pads[2 * i], pads[2 * i + 1]) } else { (pads[i], pads[axes.len() + i]) };
    }
    Ok(list)
}

fn padded(size: usize, (before, after): (i64, i64)) -> OpResult<usize> {
    let sum = before.checked_add(after).and_then(|p| p.checked_add(i64::try_from(size).ok()?));
    sum.and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| OpError::new(format!("a size of {size} padded by {before} and {after}")))
}

/// One dimension: where each element of the output comes from.
#[derive(Clone, Copy)]
struct Border {
    mode: PadMode,
    /// Where the data starts in the output.
    start: i64,
    /// The part of the data that cropping leaves.
    first: i64,
    count: i64,
}

impl Border {
    fn new(mode: PadMode, size: usize, (before, after): (i64, i64)) -> Border {
        let first = (-before).max(0);
        let count = size as i64 - first - (-after).max(0);
        Border { mode, start: before.max(0), first, count }
    }

    /// The index in the data of element `i`; `None` in a constant border.
    fn source(&self, i: usize) -> Option<usize> {
        let n = self.count;
        let at = i as i64 - self.start;
        let mirror = |period: i64, last: i64| {
            let k = at.rem_euclid(period.max(1));
            if k < n { k } else { last - k }
        };
        let at = match self.mode {
            _ if (0..n).contains(&at) => at,
            PadMode::Constant => return None,
            PadMode::Edge => at.clamp(0, n - 1),
            PadMode::Wrap => at.rem_euclid(n),
            PadMode::Reflect => mirror(2 * (n - 1), 2 * (n - 1)),
            PadMode::Symmetric => mirror(2 * n, 2 * n - 1),
        };
        Some((at + self.first) as usize)
    }
}

/// The bytes of one element of the border.
fn border_value(inputs: &Inputs<'_>, data: &TensorView<'_>) -> OpResult<[u8; 16]> {
    let mut value = [0; 16];
    if let Some(given) = inputs.opt(2) {
        let whole = whole(&given);
        if given.dtype != data.dtype || whole.bytes.len() != whole.width {
            return fail(format!(
                "the value is {}{:?}, to pad with it takes one {}",
                given.dtype, given.dims, data.dtype
            ));
        }
        value[..whole.width].copy_from_slice(&whole.bytes);
    } else if let Some((_, zero)) = data.quant.and_then(|q| q.single()) {
        value[..4].copy_from_slice(&zero.to_le_bytes());
        if data.dtype.bits() > 32 && zero < 0 {
            value[4..].fill(0xff);
        }
    }
    Ok(value)
}

impl Op for Pad {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let quant = ty.quant.clone().filter(|q| q.axis.is_none());
        let shape = match (ty.shape.dims(), cx.sizes(1)?, cx.dims(1)?) {
            (None, ..) => Default::default(),
            (Some(dims), Some(pads), Some(layout))
                if cx.opt(3).is_none() || cx.data(3).is_some() =>
            {
                let (pairs, axes) = (layout.len() == 2, cx.ints(3)?);
                // The places of the pads do not hang on their values.
                let places: Ints = (0..pads.len() as i64).collect();
                let at = pads_of(dims.len(), &places, pairs, axes.as_deref())?;
                let kept = axes.map(|axes| axes_of(&axes, dims.len())).transpose()?;
                let mut out = Vec::with_capacity(dims.len());
                for (i, dim) in dims.iter().enumerate() {
                    if kept.as_ref().is_some_and(|k| !k.contains(&i)) {
                        out.push(dim.clone());
                        continue;
                    }
                    let (a, b) = (&pads[at[i].0 as usize], &pads[at[i].1 as usize]);
                    out.push(match (dim.fixed(), a.as_i64(), b.as_i64()) {
                        (Some(n), Some(a), Some(b)) => Dim::from(padded(n, (a, b))?),
                        _ => &(dim + a) + b,
                    });
                }
                out.into()
            }
            (Some(dims), ..) => cx.unknown_dims(dims.len()),
        };
        Ok(vec![ValueType { dtype: ty.dtype, shape, quant }])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        if g.wants(2) {
            return Err(OpError::new("has no gradient rule for the value of the border"));
        }
        let (dy, pads) = (g.of_first()?, g.input(1)?);
        if self.mode != PadMode::Constant {
            let others = g.others();
            return g.moved(self.clone(), &others);
        }
        let back = g.apply(Unary::Neg, &[pads])?;
        let axes = g.opt_input(3);
        let dx = g.apply_all(Pad::default(), &[Some(dy), Some(back), None, axes], 1)?[0];
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let rank = data.dims.len();
        let layout = inputs.get(1)?;
        let axes = opt_ints_in(inputs, 3)?;
        let pads = pads_of(rank, &ints_of(&layout)?, layout.dims.len() == 2, axes.as_deref())?;
        let value = border_value(inputs, &data)?;
        let (mut dims, mut borders) = (Dims::new(), SmallVec::<[Border; 6]>::new());
        for (size, pads) in data.dims.iter().zip(&pads) {
            dims.push(padded(*size, *pads)?);
            borders.push(Border::new(self.mode, *size, *pads));
        }
        let empty = borders.iter().any(|b| b.count <= 0);
        if empty && self.mode != PadMode::Constant && !dims.contains(&0) {
            return fail(format!("there is nothing in {:?} to pad {:?} with", data.dims, dims));
        }
        let src = whole(&data);
        let width = src.width;
        // From the last padded dimension on, what is inside is copied in one piece.
        let last = pads.iter().rposition(|p| *p != (0, 0)).unwrap_or(0);
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            let strides = row_major(data.dims);
            let block = dims.iter().skip(last + 1).product::<usize>() * width;
            let (row, border) = match (dims.get(last), borders.get(last)) {
                (Some(n), Some(border)) => (*n, *border),
                _ => (1, Border::new(PadMode::Edge, 1, (0, 0))),
            };
            let start = border.start.clamp(0, row as i64) as usize;
            let end = (border.start + border.count).clamp(start as i64, row as i64) as usize;
            let mut rows = dst.chunks_exact_mut(row * block);
            each_index(&dims[..last], |index| {
                let Some(out) = rows.next() else { return };
                let mut at = Some(0);
                for (d, i) in index.iter().enumerate() {
                    let from = borders[d].source(*i);
                    at = at.zip(from).map(|(at, i)| at + i * strides[d] as usize);
                }
                let Some(at) = at else {
                    return fill(out, &value[..width]);
                };
                let from = |i: usize| border.source(i).map(|s| at * width + s * block);
                for (range, run) in [(0..start, false), (start..end, true), (end..row, false)] {
                    if range.is_empty() {
                        continue;
                    }
                    let part = &mut out[range.start * block..range.end * block];
                    if run {
                        if let Some(s) = from(range.start) {
                            part.copy_from_slice(&src.bytes[s..s + part.len()]);
                        }
                        continue;
                    }
                    for (i, cell) in range.zip(part.chunks_exact_mut(block)) {
                        match from(i) {
                            Some(s) => cell.copy_from_slice(&src.bytes[s..s + block]),
                            None => fill(cell, &value[..width]),
                        }
                    }
                }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, run_opt, shape, t, ty};
    use super::*;
    use crate::{DType, Inputs, Interpreter, Outputs, Quant, Slot, Tensor};
    use std::sync::Arc;

    fn pad(mode: PadMode, n: i32, before: i64, after: i64) -> Vec<i32> {
        let data = t(&[n as usize], &(1..=n).collect::<Vec<i32>>());
        let pads = i(&[before, after]);
        let out = run_opt(&Pad { mode }, &[Some(&data), Some(&pads)], 1).unwrap();
        out[0].slice().unwrap().to_vec()
    }

    #[test]
    fn every_mode_has_its_border() {
        assert_eq!(pad(PadMode::Constant, 3, 2, 1), [0, 0, 1, 2, 3, 0]);
        assert_eq!(pad(PadMode::Edge, 3, 2, 1), [1, 1, 1, 2, 3, 3]);
        assert_eq!(pad(PadMode::Reflect, 3, 2, 5), [3, 2, 1, 2, 3, 2, 1, 2, 3, 2]);
        assert_eq!(pad(PadMode::Symmetric, 3, 4, 4), [3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1]);
        assert_eq!(pad(PadMode::Wrap, 3, 4, 2), [3, 1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(pad(PadMode::Reflect, 1, 2, 1), [1, 1, 1, 1]);
    }

    #[test]
    fn negative_pads_crop() {
        assert_eq!(pad(PadMode::Constant, 4, -1, -2), [2]);
        assert_eq!(pad(PadMode::Constant, 4, -1, 1), [2, 3, 4, 0]);
        assert_eq!(pad(PadMode::Constant, 2, 4, -3), [0, 0, 0]);
        assert_eq!(pad(PadMode::Constant, 2, -3, 4), [0, 0, 0]);
        assert_eq!(pad(PadMode::Edge, 4, -1, 1), [2, 3, 4, 4]);
        assert_eq!(pad(PadMode::Reflect, 4, 2, -1), [3, 2, 1, 2, 3]);
    }

    #[test]
    fn many_dimensions_and_values() {
        let x = t(&[2, 1, 2], &[1f32, 2., 3., 4.]);
        let pads = i(&[0, 1, 0, 1, 0, 0]);
        let nine = t(&[], &[9f32]);
        let want = [9f32, 9., 1., 2., 9., 9., 3., 4., 9., 9., 9., 9.];
        check(&Pad::default(), &[&x, &pads, &nine], &[3, 2, 2], &want);
        let pairs = t(&[3, 2], &[0i32, 1, 1, 0, 0, 0]);
        check(&Pad::default(), &[&x, &pairs, &nine], &[3, 2, 2], &want);
        let axes = i(&[-2, 0]);
        check(&Pad::default(), &[&x, &i(&[1, 0, 0, 1]), &nine, &axes], &[3, 2, 2], &want);
        check(&Pad::default(), &[&x, &i(&[0; 6])], &[2, 1, 2], &[1f32, 2., 3., 4.]);
        check(&Pad::default(), &[&t(&[], &[5u8]), &i(&[])], &[], &[5u8]);
    }

    #[test]
    fn quantised_zero_is_the_zero_point() {
        let x = t(&[1], &[5i8]).with_quant(Some(Arc::new(Quant::per_tensor(0.5, -7))));
        let pads = i(&[1, 1]);
        let views = [Some(x.view()), Some(pads.view())];
        let mut outputs = Outputs::new([Slot::Open { quant: None, tensor: None }]);
        let runner = Interpreter::default();
        Pad::default().eval(&Inputs::new(&views, &runner), &mut outputs).unwrap();
        assert_eq!(outputs.slice::<i8>(0, &[3]).unwrap(), [-7, 5, -7]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let x = t(&[2], &[1f32, 2.]);
        let pads = |v: &[i64]| error(&Pad::default(), &[&x, &i(v)]);
        assert!(pads(&[1]).contains("1 pads for 1"));
        assert!(pads(&[-2, -1]).contains("padded by"));
        assert!(pads(&[i64::MAX, i64::MAX]).contains("padded by"));
        assert!(pads(&[i64::MAX - 9, 0]).contains("too large"));
        assert!(error(&Pad::default(), &[&x, &i(&[1, 1]), &t(&[], &[0i32])]).contains("i32"));
        let none = Tensor::zeros(DType::F32, &[0]).unwrap();
        assert!(error(&Pad { mode: PadMode::Edge }, &[&none, &i(&[1, 0])]).contains("nothing"));
        check(&Pad::default(), &[&none, &i(&[1, 0])], &[1], &[0f32]);
        assert_eq!(
            shape(&Pad::default(), &ty(DType::F32, "n, 3"), &[&i(&[1, 0, 1, 2])]),
            "[n + 2, 5]"
        );
    }
}
