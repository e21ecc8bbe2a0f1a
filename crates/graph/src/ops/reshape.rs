//! Ops that view the same elements under other sizes, and ops that tell sizes.

use super::movement::{axes_of, count, fail, ints_in, ints_of, opt_ints_in, product};
use crate::op::OpResult;
use crate::{
    Cost, DType, Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, TensorView,
    ValueType,
};

/// Inputs: data, shape (integers). A size of -1 is what the others leave; a size of 0 is the
/// data's own, unless `allow_zero`.
#[derive(Clone, Debug, Default)]
pub struct Reshape {
    /// Whether 0 in the shape means a size of 0.
    pub allow_zero: bool,
}

/// Input: data. Makes a matrix of the dimensions before `axis` and those from it on.
#[derive(Clone, Debug)]
pub struct Flatten {
    /// From minus the rank to the rank.
    pub axis: i64,
}

/// Inputs: data, axes (integers, optional). Drops these axes, or all, of size 1.
#[derive(Clone, Debug, Default)]
pub struct Squeeze;

/// Inputs: data, axes (integers). Adds dimensions of size 1 that have these axes in the output.
#[derive(Clone, Debug, Default)]
pub struct Unsqueeze;

/// Input: data, which is the output.
#[derive(Clone, Debug, Default)]
pub struct Identity;

/// Input: data. Output: its sizes, those of the dimensions from `start` to before `end`, negative
/// counting from the end and clamped to the rank.
#[derive(Clone, Debug)]
pub struct ShapeOf {
    /// First dimension.
    pub start: i64,
    /// One past the last dimension; `None`: the rank.
    pub end: Option<i64>,
    /// [`DType::I64`] or [`DType::I32`].
    pub dtype: DType,
}

impl Default for ShapeOf {
    fn default() -> Self {
        ShapeOf { start: 0, end: None, dtype: DType::I64 }
    }
}

/// Input: data. Output: the number of its elements, a scalar i64.
#[derive(Clone, Debug, Default)]
pub struct SizeOf;

/// Input: data. Output: the number of its dimensions, a scalar i32.
#[derive(Clone, Debug, Default)]
pub struct RankOf;

/// The type of a view on the elements of input 0. Scales along one axis do not survive.
fn viewed(cx: &InferCx<'_>, shape: impl Into<Shape>) -> OpResult<Vec<ValueType>> {
    let ty = cx.ty(0)?;
    let quant = ty.quant.clone().filter(|q| q.axis.is_none());
    Ok(vec![ValueType { dtype: ty.dtype, shape: shape.into(), quant }])
}

/// Output 0 is input 0 under other sizes.
fn put_as(inputs: &Inputs<'_>, outputs: &mut Outputs<'_>, dims: &[usize]) -> OpResult {
    outputs.put(0, &TensorView { dims, ..inputs.get(0)? })
}

macro_rules! is_a_view {
    () => {
        fn alias(&self) -> Option<usize> {
            Some(0)
        }

        fn cost(&self, _inputs: &[Option<&ValueType>], _outputs: &[&ValueType]) -> Cost {
            Cost::default()
        }
    };
}

impl Reshape {
    fn dims(&self, data: &[usize], shape: &[i64]) -> OpResult<Dims> {
        let mut dims = Dims::new();
        let mut rest = None;
        for (i, size) in shape.iter().enumerate() {
            dims.push(match *size {
                0 if !self.allow_zero => match data.get(i) {
                    Some(d) => *d,
                    None => return fail(format!("size {i} of {shape:?} copies none of {data:?}")),
                },
                -1 if rest.is_none() => {
                    rest = Some(i);
                    1
                }
                s => match usize::try_from(s) {
                    Ok(s) => s,
                    Err(_) => return fail(format!("{shape:?} is no shape")),
                },
            });
        }
        let (have, take) = (count(data)?, count(&dims)?);
        if let Some(i) = rest {
            if take == 0 || have % take != 0 {
                return fail(format!("{have} elements do not fit the shape {shape:?}"));
            }
            dims[i] = have / take;
        } else if have != take {
            return fail(format!("{have} elements do not fit the shape {shape:?}"));
        }
        Ok(dims)
    }

    /// The same over symbolic sizes.
    fn symbolic(&self, data: &[Dim], shape: &[Dim]) -> OpResult<Vec<Dim>> {
        let mut dims = Vec::with_capacity(shape.len());
        let mut rest = None;
        for (i, size) in shape.iter().enumerate() {
            dims.push(match size.as_i64() {
                Some(0) if !self.allow_zero => match data.get(i) {
                    Some(d) => d.clone(),
                    None => return fail(format!("size {i} of the shape copies none of the data")),
                },
                Some(-1) if rest.is_none() => {
                    rest = Some(i);
                    Dim::from(1)
                }
                Some(s) if s < 0 => return fail(format!("{s} is no size")),
                _ => size.clone(),
            });
        }
        if let Some(i) = rest {
            // Sizes that stand on both sides cancel, whatever they are.
            let mut left = data.to_vec();
            let mut taken = Vec::new();
            for (_, d) in dims.iter().enumerate().filter(|(j, _)| *j != i) {
                match left.iter().position(|l| l == d && *d != 0) {
                    Some(at) => drop(left.remove(at)),
                    None => taken.push(d.clone()),
                }
            }
            dims[i] = product(&left).floor_div(&product(&taken));
        }
        Ok(dims)
    }
}

/// The gradient of a view is the gradient under the sizes of input 0.
macro_rules! gradient_of_a_view {
    () => {
        fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
            let (x, dy) = (g.input(0)?, g.of_first()?);
            let dx = g.reshaped_like(dy, x)?;
            Ok(g.first_only(Some(dx)))
        }
    };
}

/// The elements of a view are those of input 0.
macro_rules! passes_sizes_on {
    () => {
        fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
            cx.sizes(0)
        }
    };
}

impl Op for Reshape {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let Some(shape) = cx.sizes(1)? else {
            let rank = cx.dims(1)?.and_then(|d| d.first()?.fixed());
            return viewed(cx, rank.map_or_else(Shape::unknown, |r| cx.unknown_dims(r.min(64))));
        };
        let fixed: Option<Vec<i64>> = shape.iter().map(Dim::as_i64).collect();
        if let (Some(data), Some(shape)) = (cx.ty(0)?.shape.fixed(), fixed) {
            return viewed(cx, self.dims(&data, &shape)?.as_slice());
        }
        match cx.dims(0)? {
            Some(data) => viewed(cx, self.symbolic(data, &shape)?),
            None => {
                let known = |d: &Dim| match d.as_i64() {
                    Some(0) if !self.allow_zero => cx.unknown_dim(),
                    Some(s) if s < 0 => cx.unknown_dim(),
                    _ => d.clone(),
                };
                viewed(cx, shape.iter().map(known).collect::<Vec<_>>())
            }
        }
    }

    gradient_of_a_view!();

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = self.dims(inputs.get(0)?.dims, &ints_in(inputs, 1)?)?;
        put_as(inputs, outputs, &dims)
    }

    passes_sizes_on!();
    is_a_view!();
}

impl Flatten {
    fn axis(&self, rank: usize) -> OpResult<usize> {
        let axis = if self.axis < 0 { self.axis.saturating_add(rank as i64) } else { self.axis };
        match usize::try_from(axis) {
            Ok(a) if a <= rank => Ok(a),
            _ => fail(format!("axis {} is outside a tensor of rank {rank}", self.axis)),
        }
    }
}

impl Op for Flatten {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let Some(dims) = cx.dims(0)? else {
            return viewed(cx, cx.unknown_dims(2));
        };
        let (rows, columns) = dims.split_at(self.axis(dims.len())?);
        viewed(cx, vec![product(rows), product(columns)])
    }

    gradient_of_a_view!();

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let (rows, columns) = dims.split_at(self.axis(dims.len())?);
        put_as(inputs, outputs, &[count(rows)?, count(columns)?])
    }

    passes_sizes_on!();
    is_a_view!();
}

impl Op for Squeeze {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let Some(dims) = cx.dims(0)? else {
            return viewed(cx, Shape::unknown());
        };
        let dropped = match (cx.opt(1), cx.ints(1)?) {
            (None, _) if dims.iter().all(|d| d.fixed().is_some()) => {
                (0..dims.len()).filter(|i| dims[*i] == 1).collect()
            }
            (Some(_), Some(axes)) => axes_of(&axes, dims.len())?,
            (Some(axes), None) => {
                let dropped = axes.shape.fixed().and_then(|d| d.first().copied());
                let rank = dropped.and_then(|n| dims.len().checked_sub(n));
                return viewed(cx, rank.map_or_else(Shape::unknown, |r| cx.unknown_dims(r)));
            }
            (None, _) => return viewed(cx, Shape::unknown()),
        };
        if let Some(i) = dropped.iter().find(|i| dims[**i].fixed().is_some_and(|d| d != 1)) {
            return fail(format!("dimension {i} of size {} can't be squeezed", dims[*i]));
        }
        let kept = dims.iter().enumerate().filter(|(i, _)| !dropped.contains(i));
        viewed(cx, kept.map(|(_, d)| d.clone()).collect::<Vec<_>>())
    }

    gradient_of_a_view!();

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let dropped: Dims = match opt_ints_in(inputs, 1)? {
            Some(axes) => axes_of(&axes, dims.len())?,
            None => (0..dims.len()).filter(|i| dims[*i] == 1).collect(),
        };
        if let Some(i) = dropped.iter().find(|i| dims[**i] != 1) {
            return fail(format!("dimension {i} of size {} can't be squeezed", dims[*i]));
        }
        let kept: Dims =
            (0..dims.len()).filter(|i| !dropped.contains(i)).map(|i| dims[i]).collect();
        put_as(inputs, outputs, &kept)
    }

    passes_sizes_on!();
    is_a_view!();
}

/// Puts sizes of 1 at `axes` among `dims`.
fn unsqueezed<D: Clone>(dims: &[D], axes: &[i64], one: &D) -> OpResult<Vec<D>> {
    let added = axes_of(axes, dims.len() + axes.len())?;
    let mut own = dims.iter();
    let all = 0..dims.len() + axes.len();
    Ok(all
        .map(|i| if added.contains(&i) { one } else { own.next().unwrap_or(one) }.clone())
        .collect())
}

impl Op for Unsqueeze {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let Some(dims) = cx.dims(0)? else {
            return viewed(cx, Shape::unknown());
        };
        match cx.ints(1)? {
            Some(axes) => viewed(cx, unsqueezed(dims, &axes, &Dim::from(1))?),
            None => {
                let axes = cx.ty(1)?.shape.fixed();
                let added = axes.map(|d| d.first().copied().unwrap_or(1).min(64));
                let shape = added.map(|n| cx.unknown_dims(dims.len() + n));
                viewed(cx, shape.unwrap_or_default())
            }
        }
    }

    gradient_of_a_view!();

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let axes = ints_of(&inputs.get(1)?)?;
        let added = axes_of(&axes, data.dims.len() + axes.len())?;
        let mut own = data.dims.iter();
        let dims: Dims = (0..data.dims.len() + axes.len())
            .map(|i| if added.contains(&i) { 1 } else { own.next().copied().unwrap_or(1) })
            .collect();
        put_as(inputs, outputs, &dims)
    }

    passes_sizes_on!();
    is_a_view!();
}

impl Op for Identity {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    gradient_of_a_view!();

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        outputs.put(0, &inputs.get(0)?)
    }

    passes_sizes_on!();
    is_a_view!();
}

fn put_sizes(outputs: &mut Outputs<'_>, dtype: DType, dims: &[usize], sizes: &[usize]) -> OpResult {
    match dtype {
        DType::I64 => {
            let out = outputs.slice::<i64>(0, dims)?;
            out.iter_mut().zip(sizes).for_each(|(o, s)| *o = *s as i64);
        }
        DType::I32 => {
            let out = outputs.slice::<i32>(0, dims)?;
            for (o, s) in out.iter_mut().zip(sizes) {
                *o = i32::try_from(*s).or_else(|_| fail(format!("size {s} does not fit i32")))?;
            }
        }
        other => return fail(format!("sizes can't be {other}; they are i64 or i32")),
    }
    Ok(())
}

impl ShapeOf {
    fn range(&self, rank: usize) -> std::ops::Range<usize> {
        let signed = rank as i64;
        let clamp = |at: i64| {
            let at = if at < 0 { at.saturating_add(signed) } else { at };
            at.clamp(0, signed) as usize
        };
        let start = clamp(self.start);
        start..clamp(self.end.unwrap_or(signed)).max(start)
    }
}

impl Op for ShapeOf {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let count = match cx.ty(0)?.shape.rank() {
            Some(rank) => Dim::from(self.range(rank).len()),
            None => cx.unknown_dim(),
        };
        Ok(vec![ValueType::new(self.dtype, vec![count])])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        Ok(cx.dims(0)?.map(|dims| dims[self.range(dims.len())].to_vec()))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let sizes = &dims[self.range(dims.len())];
        put_sizes(outputs, self.dtype, &[sizes.len()], sizes)
    }

    fn reads(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, _inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(&[], outputs)
    }
}

impl Op for SizeOf {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(0)?;
        Ok(vec![ValueType::new(DType::I64, Vec::new())])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        Ok(cx.dims(0)?.map(|dims| vec![product(dims)]))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        put_sizes(outputs, DType::I64, &[], &[count(inputs.get(0)?.dims)?])
    }

    fn reads(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, _inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(&[], outputs)
    }
}

impl Op for RankOf {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(0)?;
        Ok(vec![ValueType::new(DType::I32, Vec::new())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        put_sizes(outputs, DType::I32, &[], &[inputs.get(0)?.dims.len()])
    }

    fn reads(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, _inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(&[], outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, run_opt, shape, t, ty};
    use super::*;

    #[test]
    fn reshape_fills_in_what_is_left() {
        let data = t(&[2, 3, 4], &(0..24).collect::<Vec<i32>>());
        let op = Reshape::default();
        let all = (0..24).collect::<Vec<i32>>();
        check(&op, &[&data, &i(&[4, -1])], &[4, 6], &all);
        check(&op, &[&data, &i(&[0, -1])], &[2, 12], &all);
        check(&op, &[&data, &i(&[2, 0, 4, 1])], &[2, 3, 4, 1], &all);
        assert!(error(&op, &[&data, &i(&[5, -1])]).contains("24 elements"));
        assert!(error(&op, &[&data, &i(&[-1, -1])]).contains("no shape"));
        assert!(error(&op, &[&data, &i(&[24, 1, 1, 0])]).contains("copies none"));
        assert!(error(&op, &[&data, &i(&[i64::MAX, i64::MAX])]).contains("too large"));
        let none = t::<f32>(&[0, 3], &[]);
        check::<f32>(&Reshape { allow_zero: true }, &[&none, &i(&[3, 0])], &[3, 0], &[]);
    }

    #[test]
    fn reshape_keeps_symbols() {
        let op = Reshape::default();
        let data = ty(DType::F32, "n, 3, 4");
        assert_eq!(shape(&op, &data, &[&i(&[0, -1])]), "[n, 12]");
        assert_eq!(shape(&op, &data, &[&i(&[-1, 12])]), "[n, 12]");
        assert_eq!(shape(&op, &data, &[&i(&[-1])]), "[12*n]");
        assert_eq!(shape(&op, &data, &[&i(&[-1, 8])]), "[floor((12*n)/(8)), 8]");
    }

    #[test]
    fn flatten_squeeze_and_unsqueeze_move_nothing() {
        let data = t(&[1, 2, 1, 3], &[1u8, 2, 3, 4, 5, 6]);
        let all = [1u8, 2, 3, 4, 5, 6];
        check(&Flatten { axis: 2 }, &[&data], &[2, 3], &all);
        check(&Flatten { axis: 0 }, &[&data], &[1, 6], &all);
        check(&Flatten { axis: -4 }, &[&data], &[1, 6], &all);
        check(&Flatten { axis: 4 }, &[&data], &[6, 1], &all);
        check(&Squeeze, &[&data], &[2, 3], &all);
        check(&Squeeze, &[&data, &i(&[-2])], &[1, 2, 3], &all);
        assert!(error(&Squeeze, &[&data, &i(&[1])]).contains("can't be squeezed"));
        check(&Unsqueeze, &[&data, &i(&[-1, 0])], &[1, 1, 2, 1, 3, 1], &all);
        assert!(error(&Unsqueeze, &[&data, &i(&[6])]).contains("axis 6"));
        assert_eq!(shape(&Unsqueeze, &ty(DType::F32, "n"), &[&i(&[0])]), "[1, n]");
        assert_eq!(shape(&Squeeze, &ty(DType::F32, "n, 1"), &[&i(&[1])]), "[n]");
        assert_eq!(shape(&Squeeze, &ty(DType::F32, "n, 1"), &[]), "[?]");
    }

    #[test]
    fn sizes_need_no_data() {
        let data = t::<f32>(&[2, 3, 0], &[]);
        check(&ShapeOf::default(), &[&data], &[3], &[2i64, 3, 0]);
        let part = ShapeOf { start: -2, end: Some(9), dtype: DType::I32 };
        check(&part, &[&data], &[2], &[3i32, 0]);
        let none = ShapeOf { start: 2, end: Some(1), dtype: DType::I64 };
        check::<i64>(&none, &[&data], &[0], &[]);
        check(&SizeOf, &[&data], &[], &[0i64]);
        check(&RankOf, &[&data], &[], &[3i32]);
        assert!(!ShapeOf::default().reads(0));
        assert!(run_opt(&SizeOf, &[None], 1).is_err());
    }
}
