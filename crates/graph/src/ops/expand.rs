//! Tensors repeated along their dimensions.

use super::broadcast::{broadcast_dim, broadcast_dims};
use super::movement::{Walk, count, fail, ints_in, row_major, whole, write_whole};
use crate::op::{OpError, OpResult};
use crate::{Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, ValueType};

/// Inputs: data, shape (integers). Broadcasts the data and the shape against each other, as NumPy
/// does (ONNX `Expand`, TFLite `BROADCAST_TO`).
#[derive(Clone, Debug, Default)]
pub struct Expand;

/// Inputs: data, repeats (integers, one for each dimension). Puts the data beside itself.
#[derive(Clone, Debug, Default)]
pub struct Tile;

fn sizes_of(shape: &[i64]) -> OpResult<Dims> {
    let size = |s: &i64| usize::try_from(*s).map_err(|_| OpError::new(format!("{s} is no size")));
    shape.iter().map(size).collect()
}

impl Op for Expand {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let shape = match (ty.shape.dims(), cx.sizes(1)?) {
            (Some(dims), Some(shape)) => {
                let rank = dims.len().max(shape.len());
                let one = Dim::from(1);
                let at = |d: &[Dim], i: usize| {
                    (i + d.len()).checked_sub(rank).map_or(one.clone(), |i| d[i].clone())
                };
                let size = |i| {
                    let wanted = at(&shape, i);
                    match wanted.as_i64() {
                        Some(s) if s < 0 => fail(format!("{s} is no size")),
                        _ => broadcast_dim(&at(dims, i), &wanted),
                    }
                };
                Shape::new((0..rank).map(size).collect::<OpResult<_>>()?)
            }
            (Some(dims), None) => match cx.dims(1)?.and_then(|d| d.first()?.fixed()) {
                Some(rank) if rank <= 64 => cx.unknown_dims(rank.max(dims.len())),
                _ => Shape::unknown(),
            },
            _ => Shape::unknown(),
        };
        Ok(vec![ValueType {
            dtype: ty.dtype,
            shape,
            quant: ty.quant.clone().filter(|q| q.axis.is_none()),
        }])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, y, dy) = (g.input(0)?, g.output(0), g.of_first()?);
        let dx = g.summed_to(dy, y, x)?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let shape = sizes_of(&ints_in(inputs, 1)?)?;
        let dims = broadcast_dims(&[data.dims, &shape])?;
        count(&dims)?;
        let mut walk = Walk { start: 0, dims, strides: Default::default() };
        walk.strides.resize(walk.dims.len() - data.dims.len(), 0);
        for (d, s) in data.dims.iter().zip(row_major(data.dims)) {
            walk.strides.push(if *d == 1 { 0 } else { s });
        }
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, &walk.dims, |dst| {
            walk.copy(&src.bytes, dst, src.width);
            Ok(())
        })
    }
}

impl Op for Tile {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let shape = match (ty.shape.dims(), cx.sizes(1)?) {
            (Some(dims), Some(repeats)) if dims.len() == repeats.len() => {
                if let Some(r) = repeats.iter().filter_map(Dim::as_i64).find(|r| *r < 0) {
                    return fail(format!("data can't be repeated {r} times"));
                }
                Shape::new(dims.iter().zip(&repeats).map(|(d, r)| d.mul(r)).collect())
            }
            (Some(dims), Some(repeats)) => {
                return fail(format!("{} repeats for rank {}", repeats.len(), dims.len()));
            }
            (Some(dims), None) => cx.unknown_dims(dims.len()),
            _ => Shape::unknown(),
        };
        Ok(vec![ValueType {
            dtype: ty.dtype,
            shape,
            quant: ty.quant.clone().filter(|q| q.axis.is_none()),
        }])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(Tile, &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let repeats = sizes_of(&ints_in(inputs, 1)?)?;
        if repeats.len() != data.dims.len() {
            return fail(format!("{} repeats for rank {}", repeats.len(), data.dims.len()));
        }
        let strides = row_major(data.dims);
        let mut walk = Walk { start: 0, dims: Dims::new(), strides: Default::default() };
        let mut dims = Dims::new();
        for ((d, r), s) in data.dims.iter().zip(&repeats).zip(strides) {
            dims.push(d.checked_mul(*r).ok_or_else(|| OpError::new("the repeats are too large"))?);
            walk.dims.extend([*r, *d]);
            walk.strides.extend([0, s]);
        }
        count(&dims)?;
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            walk.copy(&src.bytes, dst, src.width);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, shape, t, ty};
    use super::*;
    use crate::DType;

    #[test]
    fn expand_broadcasts_both_ways() {
        let x = t(&[2, 1], &[1u16, 2]);
        check(&Expand, &[&x, &i(&[2, 1, 3])], &[2, 2, 3], &[1u16, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2]);
        check(&Expand, &[&x, &i(&[1])], &[2, 1], &[1u16, 2]);
        check::<u16>(&Expand, &[&x, &i(&[0])], &[2, 0], &[]);
        assert!(error(&Expand, &[&x, &i(&[3, 1])]).contains("broadcast"));
        assert!(error(&Expand, &[&x, &i(&[-1])]).contains("no size"));
        assert!(error(&Expand, &[&x, &i(&[1 << 40, 1 << 40, 1, 1])]).contains("too large"));
        assert_eq!(shape(&Expand, &ty(DType::F32, "n, 1"), &[&i(&[3, 1, 4])]), "[3, n, 4]");
    }

    #[test]
    fn tile_repeats_every_dimension() {
        let x = t(&[2, 2], &[1i64, 2, 3, 4]);
        check(&Tile, &[&x, &i(&[1, 2])], &[2, 4], &[1i64, 2, 1, 2, 3, 4, 3, 4]);
        check(&Tile, &[&x, &i(&[2, 1])], &[4, 2], &[1i64, 2, 3, 4, 1, 2, 3, 4]);
        check::<i64>(&Tile, &[&x, &i(&[2, 0])], &[4, 0], &[]);
        assert!(error(&Tile, &[&x, &i(&[2])]).contains("1 repeats"));
        assert!(error(&Tile, &[&x, &i(&[2, -2])]).contains("-2"));
        assert!(error(&Tile, &[&x, &i(&[1, i64::MAX])]).contains("too large"));
        assert_eq!(shape(&Tile, &ty(DType::F32, "n, 3"), &[&i(&[2, 2])]), "[2*n, 6]");
    }
}
