//! Parts of a tensor along its dimensions.

use super::movement::{
    Ints, Walk, axes_of, axis_of, fail, ints_in, opt_ints_in, whole, write_whole,
};
use crate::op::{OpError, OpResult};
use crate::{Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, ValueType};

/// Inputs: data, starts, ends, axes (optional: the first ones), steps (optional: 1); integers.
/// As in Python: negative positions count from the end, all are clamped, a negative step walks
/// backwards (ONNX `Slice`).
#[derive(Clone, Debug, Default)]
pub struct Slice;

/// Inputs: data, starts, sizes; integers, one for each dimension. A size of -1 reaches to the
/// end. Nothing is clamped (TFLite `SLICE`).
#[derive(Clone, Debug, Default)]
pub struct SliceSizes;

/// Inputs: data, begin, end, strides; integers, one for each entry of a subscript like Python's
/// `x[1:3, ..., None, 2]` (TFLite `STRIDED_SLICE`). The masks have one bit for each entry.
#[derive(Clone, Debug, Default)]
pub struct StridedSlice {
    /// Entries whose `begin` is ignored: they start at the first element.
    pub begin_mask: u32,
    /// Entries whose `end` is ignored: they go on to the last element.
    pub end_mask: u32,
    /// The entry, one at most, that stands for all dimensions that no other entry names.
    pub ellipsis_mask: u32,
    /// Entries that add a dimension of size 1.
    pub new_axis_mask: u32,
    /// Entries that pick one element and drop the dimension.
    pub shrink_axis_mask: u32,
    /// Whether `end` counts from `begin`.
    pub offset: bool,
}

/// Python's `range(*slice(start, end, step).indices(size))`: the first index and how many.
fn clamp(start: i64, end: i64, step: i64, size: usize) -> OpResult<(usize, usize)> {
    let n = size as i64;
    if step == 0 {
        return fail("the step of a slice is 0");
    }
    let place = |at: i64| {
        let at = if at < 0 { at.saturating_add(n) } else { at };
        if step > 0 { at.clamp(0, n) } else { at.clamp(-1, n - 1) }
    };
    let (start, end) = (place(start), place(end));
    let far = if step > 0 { end - start } else { start - end };
    let count = if far <= 0 { 0 } else { (far as u64).div_ceil(step.unsigned_abs()) as usize };
    Ok((if count == 0 { 0 } else { start as usize }, count))
}

/// How many elements [`clamp`] leaves of a symbolic size.
fn clamped_dim(start: &Dim, end: &Dim, step: i64, size: &Dim) -> OpResult<Option<Dim>> {
    if let (Some(start), Some(end), Some(n)) = (start.as_i64(), end.as_i64(), size.fixed()) {
        return Ok(Some(Dim::from(clamp(start, end, step, n)?.1)));
    }
    // Whatever is this large means "to the end".
    const FAR: i64 = i32::MAX as i64;
    let zero = Dim::from(0);
    let place = |at: &Dim| match at.as_i64() {
        Some(0) => Some(zero.clone()),
        Some(v) if v >= FAR => Some(size.clone()),
        Some(v) if v <= -FAR => Some(zero.clone()),
        Some(v) if v < 0 => Some((size + at).at_least(&zero)),
        None if !at.is_nonnegative() => None,
        _ => Some(at.at_most(size)),
    };
    // A start past the size leaves nothing, clamped or not.
    let start_at = if start.is_nonnegative() { Some(start.clone()) } else { place(start) };
    match (start_at, place(end), start.as_i64(), end.as_i64()) {
        (Some(start), Some(end), ..) if step > 0 => {
            let far = if start == 0 { end } else { (&end - &start).at_least(&zero) };
            Ok(Some(far.ceil_div(&Dim::constant(step))))
        }
        (_, _, Some(-1), Some(end)) if step < 0 && end <= -FAR => {
            Ok(Some(size.ceil_div(&Dim::constant(step.saturating_neg()))))
        }
        _ => Ok(None),
    }
}

/// A strided part of input 0 becomes output 0, of sizes `dims`.
fn put_part(
    inputs: &Inputs<'_>,
    outputs: &mut Outputs<'_>,
    walk: &Walk,
    dims: &[usize],
) -> OpResult {
    let data = inputs.get(0)?;
    let src = whole(&data);
    write_whole(outputs, 0, data.dtype, dims, |dst| {
        walk.copy(&src.bytes, dst, src.width);
        Ok(())
    })
}

/// The type of a part of input 0: scales along one axis do not survive.
fn part(cx: &InferCx<'_>, shape: impl Into<Shape>) -> OpResult<Vec<ValueType>> {
    let ty = cx.ty(0)?;
    let quant = ty.quant.clone().filter(|q| q.axis.is_none());
    Ok(vec![ValueType { dtype: ty.dtype, shape: shape.into(), quant }])
}

fn same_len(what: &str, a: usize, b: usize) -> OpResult {
    if a == b { Ok(()) } else { fail(format!("{a} starts and {b} {what} given")) }
}

impl Op for Slice {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let Some(dims) = cx.dims(0)? else {
            return part(cx, Shape::unknown());
        };
        let (starts, ends) = (cx.sizes(1)?, cx.sizes(2)?);
        let (axes, steps) = (cx.ints(3)?, cx.ints(4)?);
        let count = match (&starts, &ends) {
            (Some(s), _) | (_, Some(s)) => Some(s.len()),
            _ => cx.dims(1)?.and_then(|d| d.first()?.fixed()),
        };
        let axes = match (cx.opt(3), axes) {
            (Some(_), Some(axes)) => axes_of(&axes, dims.len())?,
            (None, _) if count.is_some_and(|n| n <= dims.len()) => {
                (0..count.unwrap_or_default()).collect()
            }
            _ => return part(cx, cx.unknown_dims(dims.len())),
        };
        if let Some(starts) = &starts {
            same_len("axes", starts.len(), axes.len())?;
        }
        if let (Some(starts), Some(ends)) = (&starts, &ends) {
            same_len("ends", starts.len(), ends.len())?;
        }
        if let Some(steps) = &steps {
            same_len("steps", axes.len(), steps.len())?;
        }
        let mut out = dims.to_vec();
        for (i, axis) in axes.iter().enumerate() {
            let step = match (cx.opt(4), &steps) {
                (None, _) => Some(1),
                (Some(_), steps) => steps.as_ref().map(|s| s[i]),
            };
            let size = match (&starts, &ends, step) {
                (Some(s), Some(e), Some(step)) => clamped_dim(&s[i], &e[i], step, &dims[*axis])?,
                _ => None,
            };
            out[*axis] = size.unwrap_or_else(|| cx.unknown_dim());
        }
        part(cx, out)
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        let steps = cx.ints(4)?.unwrap_or_else(|| vec![1]);
        let known = cx.opt(4).is_none() || cx.data(4).is_some();
        match (cx.sizes(0)?, cx.ints(1)?.as_deref(), cx.ints(2)?.as_deref(), steps.as_slice()) {
            (Some(sizes), Some([start]), Some([end]), [step])
                if known && cx.ty(0)?.shape.rank() == Some(1) =>
            {
                let (start, count) = clamp(*start, *end, *step, sizes.len())?;
                let place = |k: usize| start.wrapping_add_signed(k as isize * *step as isize);
                Ok(Some((0..count).map(|k| sizes[place(k)].clone()).collect()))
            }
            _ => Ok(None),
        }
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let starts = g.constant_ints(1)?.unwrap_or_default();
        let ends = g.constant_ints(2)?.unwrap_or_default();
        let steps = g.constant_ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if steps.iter().any(|s| *s != 1) {
            let others = g.others();
            return g.moved(Slice, &others);
        }
        let dims = g.dims(x)?;
        let axes = match g.constant_ints(3)? {
            Some(axes) => axes_of(&axes, dims.len())?,
            None => (0..starts.len()).collect(),
        };
        let mut dx = dy;
        for ((axis, start), end) in axes.into_iter().zip(starts).zip(ends) {
            let size = dims[axis].fixed().ok_or_else(|| {
                OpError::new(format!("dimension {axis} of size {}: give the sizes", dims[axis]))
            })?;
            let (start, count) = clamp(start, end, 1, size)?;
            dx = g.padded(dx, axis, start as i64, (size - start - count) as i64)?;
        }
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let (starts, ends) = (ints_in(inputs, 1)?, ints_in(inputs, 2)?);
        let axes = match opt_ints_in(inputs, 3)? {
            Some(axes) => axes_of(&axes, dims.len())?,
            None if starts.len() <= dims.len() => (0..starts.len()).collect(),
            None => {
                return fail(format!(
                    "{} starts for a tensor of rank {}",
                    starts.len(),
                    dims.len()
                ));
            }
        };
        let steps = match opt_ints_in(inputs, 4)? {
            Some(steps) => steps,
            None => Ints::from_elem(1, starts.len()),
        };
        same_len("ends", starts.len(), ends.len())?;
        same_len("axes", starts.len(), axes.len())?;
        same_len("steps", starts.len(), steps.len())?;
        let mut walk = Walk::over(dims);
        for (i, axis) in axes.iter().enumerate() {
            let (start, count) = clamp(starts[i], ends[i], steps[i], dims[*axis])?;
            cut(&mut walk, *axis, start, count, steps[i]);
        }
        put_part(inputs, outputs, &walk, &walk.dims)
    }
}

/// Narrows one dimension of `walk`, untouched so far, to `count` places from `start` on.
fn cut(walk: &mut Walk, axis: usize, start: usize, count: usize, step: i64) {
    walk.start = walk.start.wrapping_add(start.wrapping_mul(walk.strides[axis] as usize));
    walk.strides[axis] = walk.strides[axis].wrapping_mul(step as isize);
    walk.dims[axis] = count;
}

impl SliceSizes {
    fn sizes(dims: &[usize], starts: &[i64], sizes: &[i64]) -> OpResult<(Dims, Dims)> {
        if starts.len() != dims.len() || sizes.len() != dims.len() {
            return fail(format!(
                "the slice {starts:?} of {sizes:?} is not of rank {}",
                dims.len()
            ));
        }
        let (mut from, mut of) = (Dims::new(), Dims::new());
        for ((dim, start), size) in dims.iter().zip(starts).zip(sizes) {
            let first = usize::try_from(*start).ok().filter(|s| s <= dim);
            let count = first.and_then(|s| match *size {
                -1 => Some(dim - s),
                n => usize::try_from(n).ok().filter(|n| *n <= dim - s),
            });
            match (first, count) {
                (Some(s), Some(n)) => {
                    from.push(s);
                    of.push(n);
                }
                _ => return fail(format!("the slice {starts:?} of {sizes:?} leaves {dims:?}")),
            }
        }
        Ok((from, of))
    }
}

impl Op for SliceSizes {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (starts, sizes) = (cx.sizes(1)?, cx.sizes(2)?);
        let rank = cx.ty(0)?.shape.rank().or(sizes.as_ref().map(Vec::len));
        let Some(rank) = rank else {
            return part(cx, Shape::unknown());
        };
        let Some(sizes) = sizes.filter(|s| s.len() == rank) else {
            return part(cx, cx.unknown_dims(rank));
        };
        let ints = |v: &[Dim]| v.iter().map(Dim::as_i64).collect::<Option<Vec<i64>>>();
        let starts = starts.filter(|s| s.len() == rank);
        if let (Some(dims), Some(Some(s)), Some(n)) =
            (cx.ty(0)?.shape.fixed(), starts.as_deref().map(ints), ints(&sizes))
        {
            return part(cx, Self::sizes(&dims, &s, &n)?.1.as_slice());
        }
        let dims = cx.dims(0)?;
        let size = |i: usize| match (sizes[i].as_i64(), dims, &starts) {
            (Some(-1), Some(dims), Some(starts)) => &dims[i] - &starts[i],
            (Some(n), ..) if n < 0 => cx.unknown_dim(),
            _ => sizes[i].clone(),
        };
        part(cx, (0..rank).map(size).collect::<Vec<_>>())
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(SliceSizes, &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let (from, of) = Self::sizes(dims, &ints_in(inputs, 1)?, &ints_in(inputs, 2)?)?;
        let mut walk = Walk::over(dims);
        for axis in 0..dims.len() {
            cut(&mut walk, axis, from[axis], of[axis], 1);
        }
        put_part(inputs, outputs, &walk, &walk.dims)
    }
}

/// What one entry of a subscript does to the dimension it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    /// Entry `i` takes a range of dimension `axis`.
    Range { i: usize, axis: usize },
    /// Entry `i` picks one element of dimension `axis`.
    Pick { i: usize, axis: usize },
    /// A dimension taken whole.
    All { axis: usize },
    /// A new dimension of size 1.
    New,
}

impl StridedSlice {
    /// What each dimension of the output, and each dropped one, comes from.
    fn entries(&self, count: usize, rank: usize) -> OpResult<smallvec::SmallVec<[Entry; 8]>> {
        if count > 32 {
            return fail(format!("a subscript of {count} entries; 32 is the most"));
        }
        let has = |mask: u32, i: usize| mask >> i & 1 == 1;
        let is_new = |i: usize| has(self.new_axis_mask, i) && !has(self.ellipsis_mask, i);
        let named = (0..count).filter(|i| !is_new(*i) && !has(self.ellipsis_mask, *i)).count();
        if named > rank || self.ellipsis_mask.count_ones() > 1 {
            return fail(format!(
                "a subscript of {count} entries does not fit a tensor of rank {rank}"
            ));
        }
        let mut entries = smallvec::SmallVec::new();
        let mut axis = 0;
        let whole = |axis: &mut usize, entries: &mut smallvec::SmallVec<[Entry; 8]>| {
            for _ in 0..rank - named {
                entries.push(Entry::All { axis: *axis });
                *axis += 1;
            }
        };
        for i in 0..count {
            if has(self.ellipsis_mask, i) {
                whole(&mut axis, &mut entries);
            } else if is_new(i) {
                entries.push(Entry::New);
            } else {
                let pick = has(self.shrink_axis_mask, i);
                entries.push(if pick { Entry::Pick { i, axis } } else { Entry::Range { i, axis } });
                axis += 1;
            }
        }
        if self.ellipsis_mask == 0 {
            whole(&mut axis, &mut entries);
        }
        Ok(entries)
    }

    /// Start and end of entry `i`, masks applied; `None` where they hang on an unknown size.
    fn bounds(&self, i: usize, begin: i64, end: i64, step: i64, size: &Dim) -> Option<(i64, i64)> {
        let (first, last) = if step > 0 { (0, i64::MAX) } else { (i64::MAX, i64::MIN) };
        let start = if self.begin_mask >> i & 1 == 1 { first } else { begin };
        Some(match (self.end_mask >> i & 1, self.offset) {
            (1, _) => (start, last),
            (_, true) => {
                let n = size.as_i64().filter(|_| start < 0 || start == i64::MAX);
                let from = match (start, n) {
                    (i64::MAX, Some(n)) => n.saturating_sub(1),
                    (s, Some(n)) => s.saturating_add(n).max(0),
                    (s, None) if (0..i64::MAX).contains(&s) => s,
                    _ => return None,
                };
                (from, from.saturating_add(end))
            }
            _ => (start, end),
        })
    }
}

impl Op for StridedSlice {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (begin, end, strides) = (cx.sizes(1)?, cx.sizes(2)?, cx.ints(3)?);
        let count = match (&begin, &end, &strides) {
            (Some(v), ..) | (_, Some(v), _) => Some(v.len()),
            (.., Some(v)) => Some(v.len()),
            _ => cx.dims(1)?.and_then(|d| d.first()?.fixed()),
        };
        let (Some(dims), Some(count)) = (cx.dims(0)?, count) else {
            return part(cx, Shape::unknown());
        };
        for (what, n) in
            [("ends", end.as_ref().map(Vec::len)), ("strides", strides.as_ref().map(Vec::len))]
        {
            same_len(what, count, n.unwrap_or(count))?;
        }
        let mut out = Vec::new();
        for entry in self.entries(count, dims.len())? {
            out.push(match entry {
                Entry::New => Dim::from(1),
                Entry::All { axis } => dims[axis].clone(),
                Entry::Pick { .. } => continue,
                Entry::Range { i, axis } => {
                    let size = match (&begin, &end, &strides) {
                        (Some(begin), Some(end), Some(steps)) => {
                            self.range_dim(i, &begin[i], &end[i], steps[i], &dims[axis])?
                        }
                        _ => None,
                    };
                    size.unwrap_or_else(|| cx.unknown_dim())
                }
            });
        }
        part(cx, out)
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        let (Some(sizes), Some(begin), Some(end), Some(step)) =
            (cx.sizes(0)?, cx.ints(1)?, cx.ints(2)?, cx.ints(3)?)
        else {
            return Ok(None);
        };
        let ([begin], [end], [step], Some(1)) =
            (&begin[..], &end[..], &step[..], cx.ty(0)?.shape.rank())
        else {
            return Ok(None);
        };
        let n = sizes.len();
        match self.entries(1, 1)?.as_slice() {
            [Entry::Pick { .. }] => {
                let at = if self.begin_mask & 1 == 1 { 0 } else { *begin };
                Ok(Some(vec![sizes[axis_of_index(at, n)?].clone()]))
            }
            [Entry::Range { .. }] => {
                let Some((from, to)) = self.bounds(0, *begin, *end, *step, &Dim::from(n)) else {
                    return Ok(None);
                };
                let (start, count) = clamp(from, to, *step, n)?;
                let place = |k: usize| start.wrapping_add_signed(k as isize * *step as isize);
                Ok(Some((0..count).map(|k| sizes[place(k)].clone()).collect()))
            }
            _ => Ok(None),
        }
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(self.clone(), &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let (begin, end) = (ints_in(inputs, 1)?, ints_in(inputs, 2)?);
        let strides = ints_in(inputs, 3)?;
        same_len("ends", begin.len(), end.len())?;
        same_len("strides", begin.len(), strides.len())?;
        let mut walk = Walk::over(dims);
        let mut out = Dims::new();
        for entry in self.entries(begin.len(), dims.len())? {
            match entry {
                Entry::New => out.push(1),
                Entry::All { axis } => out.push(dims[axis]),
                Entry::Pick { i, axis } => {
                    let at = if self.begin_mask >> i & 1 == 1 { 0 } else { begin[i] };
                    cut(&mut walk, axis, axis_of_index(at, dims[axis])?, 1, 1);
                }
                Entry::Range { i, axis } => {
                    let step = strides[i];
                    let size = Dim::from(dims[axis]);
                    let (start, count) = match self.bounds(i, begin[i], end[i], step, &size) {
                        Some((start, end)) => clamp(start, end, step, dims[axis])?,
                        None => return fail("the bounds of the subscript are not known"),
                    };
                    cut(&mut walk, axis, start, count, step);
                    out.push(count);
                }
            }
        }
        put_part(inputs, outputs, &walk, &out)
    }
}

impl StridedSlice {
    fn range_dim(
        &self,
        i: usize,
        begin: &Dim,
        end: &Dim,
        step: i64,
        size: &Dim,
    ) -> OpResult<Option<Dim>> {
        match (begin.as_i64(), end.as_i64()) {
            (Some(b), Some(e)) => {
                let Some((b, e)) = self.bounds(i, b, e, step, size) else {
                    return Ok(None);
                };
                clamped_dim(&Dim::constant(b), &Dim::constant(e), step, size)
            }
            _ if step > 0 && !self.offset => {
                let masked = |mask: u32, v: &Dim, all: i64| {
                    if mask >> i & 1 == 1 { Dim::constant(all) } else { v.clone() }
                };
                let begin = masked(self.begin_mask, begin, 0);
                clamped_dim(&begin, &masked(self.end_mask, end, i64::MAX), step, size)
            }
            _ => Ok(None),
        }
    }
}

/// The place that a picked index means.
fn axis_of_index(index: i64, size: usize) -> OpResult<usize> {
    axis_of(index, size)
        .or_else(|_| fail(format!("index {index} is outside a dimension of size {size}")))
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, shape, t, ty};
    use super::*;
    use crate::{DType, Tensor};

    fn square() -> Tensor {
        t(&[3, 4], &(0..12).collect::<Vec<i32>>())
    }

    #[test]
    fn slices_clamp_as_python_does() {
        let x = square();
        let s = |starts: &[i64],
                 ends: &[i64],
                 axes: &[i64],
                 steps: &[i64],
                 dims: &[usize],
                 want: &[i32]| {
            check(&Slice, &[&x, &i(starts), &i(ends), &i(axes), &i(steps)], dims, want);
        };
        s(&[1], &[100], &[0], &[1], &[2, 4], &[4, 5, 6, 7, 8, 9, 10, 11]);
        s(&[0, -1], &[1, i64::MIN], &[0, 1], &[1, -2], &[1, 2], &[3, 1]);
        s(&[-100], &[-2], &[1], &[1], &[3, 2], &[0, 1, 4, 5, 8, 9]);
        s(&[i64::MAX], &[i64::MIN], &[0], &[-1], &[3, 4], &[8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3]);
        s(&[3], &[1], &[0], &[1], &[0, 4], &[]);
        s(&[0], &[3], &[0], &[i64::MAX], &[1, 4], &[0, 1, 2, 3]);
        check(&Slice, &[&x, &i(&[2]), &i(&[3])], &[1, 4], &[8, 9, 10, 11]);
        assert!(error(&Slice, &[&x, &i(&[0]), &i(&[3]), &i(&[0]), &i(&[0])]).contains("step"));
        assert!(error(&Slice, &[&x, &i(&[0]), &i(&[3]), &i(&[2])]).contains("axis 2"));
        assert!(error(&Slice, &[&x, &i(&[0]), &i(&[3, 4])]).contains("ends"));
    }

    #[test]
    fn slices_of_symbolic_sizes_are_expressions() {
        let x = ty(DType::F32, "n, 8");
        let s = |start: i64, end: i64, step: i64| {
            shape(&Slice, &x, &[&i(&[start]), &i(&[end]), &i(&[0]), &i(&[step])])
        };
        assert_eq!(s(0, i64::MAX, 1), "[n, 8]");
        assert_eq!(s(0, i64::MAX, 2), "[floor((n + 1)/(2)), 8]");
        assert_eq!(s(1, i32::MAX.into(), 1), "[max(n - 1, 0), 8]");
        assert_eq!(s(0, 5, 1), "[min(5, n), 8]");
        assert_eq!(s(-1, i64::MIN, -1), "[n, 8]");
    }

    #[test]
    fn sized_slices_must_fit() {
        let x = square();
        check(&SliceSizes, &[&x, &i(&[1, 1]), &i(&[2, -1])], &[2, 3], &[5, 6, 7, 9, 10, 11]);
        check::<i32>(&SliceSizes, &[&x, &i(&[3, 0]), &i(&[0, 4])], &[0, 4], &[]);
        assert!(error(&SliceSizes, &[&x, &i(&[1, 1]), &i(&[2, 4])]).contains("leaves"));
        assert!(error(&SliceSizes, &[&x, &i(&[-1, 1]), &i(&[2, 4])]).contains("leaves"));
        assert_eq!(
            shape(&SliceSizes, &ty(DType::F32, "n, 8"), &[&i(&[1, 2]), &i(&[-1, 3])]),
            "[n - 1, 3]"
        );
    }

    #[test]
    fn subscripts_pick_add_and_skip_dimensions() {
        let x = t(&[2, 3, 4], &(0..24).collect::<Vec<i32>>());
        // x[1, ..., None, ::-2]
        let op = StridedSlice {
            begin_mask: 0b1000,
            end_mask: 0b1000,
            ellipsis_mask: 0b10,
            new_axis_mask: 0b100,
            shrink_axis_mask: 0b1,
            offset: false,
        };
        let (begin, end, step) = (i(&[1, 0, 0, 0]), i(&[2, 0, 0, 0]), i(&[1, 1, 1, -2]));
        check(&op, &[&x, &begin, &end, &step], &[3, 1, 2], &[15, 13, 19, 17, 23, 21]);
        let plain = StridedSlice::default();
        check(&plain, &[&x, &i(&[-1, 1]), &i(&[2, 2]), &i(&[1, 1])], &[1, 1, 4], &[16, 17, 18, 19]);
        let offset = StridedSlice { offset: true, ..plain.clone() };
        check(&offset, &[&x, &i(&[1, 1]), &i(&[1, 1]), &i(&[1, 1])], &[1, 1, 4], &[16, 17, 18, 19]);
        let pick = StridedSlice { shrink_axis_mask: 1, ..plain.clone() };
        assert!(error(&pick, &[&x, &i(&[2]), &i(&[3]), &i(&[1])]).contains("index 2"));
        assert!(error(&plain, &[&x, &i(&[0; 4]), &i(&[1; 4]), &i(&[1; 4])]).contains("rank 3"));
        assert_eq!(
            shape(&pick, &ty(DType::F32, "3, n"), &[&i(&[0, 0]), &i(&[1, 1 << 31]), &i(&[1, 1])]),
            "[n]"
        );
    }
}
