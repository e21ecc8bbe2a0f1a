//! Elements moved between channels or batch and the spatial dimensions.

use super::movement::{
    Ints, Walk, count, each_index, fail, ints_in, row_major, whole, write_whole,
};
use super::window::Layout;
use crate::op::{OpError, OpResult};
use crate::{Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, ValueType};

/// Where a group of channels goes when it becomes a block of space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockOrder {
    /// Channels are (block row, block column, channel): depth-column-row.
    #[default]
    BlockFirst,
    /// Channels are (channel, block row, block column): column-row-depth.
    ChannelFirst,
}

/// Input: images of rank 4. Output: images `block` times as high and wide, of `block²` times
/// fewer channels.
#[derive(Clone, Debug)]
pub struct DepthToSpace {
    /// Side of a block, in elements.
    pub block: usize,
    /// Which channels make a block.
    pub order: BlockOrder,
    /// Where the channels are.
    pub layout: Layout,
}

/// Input: images of rank 4. Output: the inverse of [`DepthToSpace`].
#[derive(Clone, Debug)]
pub struct SpaceToDepth {
    /// Side of a block, in elements.
    pub block: usize,
    /// Which channels make a block.
    pub order: BlockOrder,
    /// Where the channels are.
    pub layout: Layout,
}

/// Inputs: data, block sizes (integers, one for each spatial dimension, which follow the batch),
/// pads (pairs). Pads with zeros (the zero point, where quantised) and spreads each block over
/// the batch.
#[derive(Clone, Debug, Default)]
pub struct SpaceToBatch;

/// Inputs: data, block sizes (integers, one for each spatial dimension, which follow the batch),
/// crops (pairs). The inverse of [`SpaceToBatch`].
#[derive(Clone, Debug, Default)]
pub struct BatchToSpace;

/// Batch, channels, height and width.
fn split<T: Clone>(layout: Layout, dims: &[T]) -> OpResult<[T; 4]> {
    match (layout, dims) {
        (Layout::ChannelsFirst, [n, c, h, w]) | (Layout::ChannelsLast, [n, h, w, c]) => {
            Ok([n.clone(), c.clone(), h.clone(), w.clone()])
        }
        _ => fail(format!("expected images of rank 4, found rank {}", dims.len())),
    }
}

fn join<T>(layout: Layout, [n, c, h, w]: [T; 4]) -> [T; 4] {
    match layout {
        Layout::ChannelsFirst => [n, c, h, w],
        Layout::ChannelsLast => [n, h, w, c],
    }
}

fn check_block(block: usize) -> OpResult<usize> {
    match block.checked_mul(block) {
        Some(square) if block > 0 => Ok(square),
        _ => fail(format!("a block of side {block}")),
    }
}

fn divided(size: usize, by: usize) -> OpResult<usize> {
    if size.is_multiple_of(by) {
        Ok(size / by)
    } else {
        fail(format!("a dimension of size {size} does not divide into blocks of {by}"))
    }
}

/// The same over symbols.
fn divided_dim(size: &Dim, by: usize) -> OpResult<Dim> {
    match size.fixed() {
        Some(n) => divided(n, by).map(Dim::from),
        None => Ok(size.floor_div(&Dim::from(by))),
    }
}

/// Output 0 is what `walk` finds in input 0.
fn put(inputs: &Inputs<'_>, outputs: &mut Outputs<'_>, dims: &[usize], walk: &Walk) -> OpResult {
    let data = inputs.get(0)?;
    let src = whole(&data);
    write_whole(outputs, 0, data.dtype, dims, |dst| {
        walk.copy(&src.bytes, dst, src.width);
        Ok(())
    })
}

fn same_kind(cx: &InferCx<'_>, shape: Shape) -> OpResult<Vec<ValueType>> {
    let ty = cx.ty(0)?;
    let quant = ty.quant.clone().filter(|q| q.axis.is_none());
    Ok(vec![ValueType { dtype: ty.dtype, shape, quant }])
}

/// Strides of the channel and of the block's row and column within the channels of an image with
/// blocks in its depth, `channels` of them after a block is taken out.
fn deep(order: BlockOrder, block: usize, channels: usize, stride: isize) -> [isize; 3] {
    let (b, c) = (block as isize, channels as isize);
    match order {
        BlockOrder::BlockFirst => [stride, c * b * stride, c * stride],
        BlockOrder::ChannelFirst => [b * b * stride, b * stride, stride],
    }
}

impl Op for DepthToSpace {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let square = check_block(self.block)?;
        let Some(dims) = cx.dims(0)? else {
            return same_kind(cx, cx.unknown_dims(4));
        };
        let [n, c, h, w] = split(self.layout, dims)?;
        let block = Dim::from(self.block);
        let out = [n, divided_dim(&c, square)?, h.mul(&block), w.mul(&block)];
        same_kind(cx, join(self.layout, out).to_vec().into())
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(self.clone(), &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let (b, square) = (self.block, check_block(self.block)?);
        let [n, c, h, w] = split(self.layout, dims)?;
        let [sn, sc, sh, sw] = split(self.layout, &row_major(dims))?;
        let c = divided(c, square)?;
        let [sc, row, column] = deep(self.order, b, c, sc);
        let (dims, strides) = match self.layout {
            Layout::ChannelsFirst => ([n, c, h, b, w, b], [sn, sc, sh, row, sw, column]),
            Layout::ChannelsLast => ([n, h, b, w, b, c], [sn, sh, row, sw, column, sc]),
        };
        let walk = Walk { start: 0, dims: dims.into(), strides: strides.into() };
        put(inputs, outputs, &join(self.layout, [n, c, h * b, w * b]), &walk)
    }
}

impl Op for SpaceToDepth {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let square = check_block(self.block)?;
        let Some(dims) = cx.dims(0)? else {
            return same_kind(cx, cx.unknown_dims(4));
        };
        let [n, c, h, w] = split(self.layout, dims)?;
        let (h, w) = (divided_dim(&h, self.block)?, divided_dim(&w, self.block)?);
        let out = [n, c.mul(&Dim::from(square)), h, w];
        same_kind(cx, join(self.layout, out).to_vec().into())
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(self.clone(), &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dims = inputs.get(0)?.dims;
        let (b, square) = (self.block, check_block(self.block)?);
        let [n, c, h, w] = split(self.layout, dims)?;
        let [sn, sc, sh, sw] = split(self.layout, &row_major(dims))?;
        let (h, w) = (divided(h, b)?, divided(w, b)?);
        let step = b as isize;
        // In the order of the output's channels.
        let (of, by) = match self.order {
            BlockOrder::BlockFirst => ([b, b, c], [sh, sw, sc]),
            BlockOrder::ChannelFirst => ([c, b, b], [sc, sh, sw]),
        };
        let (dims, strides) = match self.layout {
            Layout::ChannelsFirst => {
                ([n, of[0], of[1], of[2], h, w], [sn, by[0], by[1], by[2], sh * step, sw * step])
            }
            Layout::ChannelsLast => {
                ([n, h, w, of[0], of[1], of[2]], [sn, sh * step, sw * step, by[0], by[1], by[2]])
            }
        };
        let walk = Walk { start: 0, dims: dims.into(), strides: strides.into() };
        let channels =
            c.checked_mul(square).ok_or_else(|| OpError::new("the block is too large"))?;
        put(inputs, outputs, &join(self.layout, [n, channels, h, w]), &walk)
    }
}

/// Checked block sizes and the pairs of a batch op. Pairs are read as `[k, 2]`.
fn blocks_of(rank: usize, blocks: &[i64], pairs: &[i64]) -> OpResult<usize> {
    if blocks.len() + 1 > rank || pairs.len() != 2 * blocks.len() {
        let (b, p) = (blocks.len(), pairs.len());
        return fail(format!("{b} blocks and {p} pads or crops for a tensor of rank {rank}"));
    }
    let product = blocks.iter().try_fold(1usize, |n, b| {
        usize::try_from(*b).ok().filter(|b| *b > 0).and_then(|b| n.checked_mul(b))
    });
    match product {
        Some(n) if pairs.iter().all(|p| *p >= 0) => Ok(n),
        _ => fail(format!("blocks {blocks:?}, pads or crops {pairs:?}")),
    }
}

/// Blocks and pairs, where all is known.
fn known_blocks(cx: &InferCx<'_>) -> OpResult<Option<(Vec<i64>, Vec<i64>)>> {
    Ok(cx.ints(1)?.zip(cx.ints(2)?))
}

fn batch_rule(
    cx: &InferCx<'_>,
    rule: impl Fn(&[Dim], &[i64], &[i64], usize) -> OpResult<Vec<Dim>>,
) -> OpResult<Vec<ValueType>> {
    let shape = match (cx.dims(0)?, known_blocks(cx)?) {
        (Some(dims), Some((blocks, pairs))) => {
            let product = blocks_of(dims.len(), &blocks, &pairs)?;
            rule(dims, &blocks, &pairs, product)?.into()
        }
        (Some(dims), None) => cx.unknown_dims(dims.len()),
        _ => Shape::unknown(),
    };
    same_kind(cx, shape)
}

impl SpaceToBatch {
    fn dims(dims: &[usize], blocks: &[i64], pads: &[i64]) -> OpResult<Dims> {
        let mut out = Dims::from_slice(dims);
        let product = blocks_of(dims.len(), blocks, pads)?;
        out[0] =
            out[0].checked_mul(product).ok_or_else(|| OpError::new("the blocks are too large"))?;
        for (i, block) in blocks.iter().enumerate() {
            let padded = pads[2 * i].checked_add(pads[2 * i + 1]);
            let padded = padded.and_then(|p| usize::try_from(p).ok()?.checked_add(dims[i + 1]));
            let padded = padded.ok_or_else(|| OpError::new("the pads are too large"))?;
            out[i + 1] = divided(padded, *block as usize)?;
        }
        Ok(out)
    }
}

impl Op for SpaceToBatch {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        batch_rule(cx, |dims, blocks, pads, product| {
            let mut out = dims.to_vec();
            out[0] = dims[0].mul(&Dim::from(product));
            for (i, block) in blocks.iter().enumerate() {
                let padded =
                    &dims[i + 1] + &Dim::constant(pads[2 * i].saturating_add(pads[2 * i + 1]));
                out[i + 1] = divided_dim(&padded, *block as usize)?;
            }
            Ok(out)
        })
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(self.clone(), &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let (blocks, pads): (Ints, Ints) = (ints_in(inputs, 1)?, ints_in(inputs, 2)?);
        let dims = Self::dims(data.dims, &blocks, &pads)?;
        let (src, m) = (whole(&data), blocks.len());
        let zero = data.quant.and_then(|q| q.single()).map_or(0, |q| q.1).to_le_bytes();
        let strides = row_major(data.dims);
        let rest = count(&data.dims[m + 1..])? * src.width;
        let batch = data.dims[0];
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            let mut cells = dst.chunks_exact_mut(rest);
            each_index(&dims[..=m], |index| {
                let Some(cell) = cells.next() else { return };
                // The batch index is (place in the block, batch).
                let (mut block, mut at) =
                    (index[0] / batch, Some((index[0] % batch) as i64 * strides[0] as i64));
                for d in (0..m).rev() {
                    let place = (block % blocks[d] as usize) as i64;
                    block /= blocks[d] as usize;
                    let x = index[d + 1] as i64 * blocks[d] + place - pads[2 * d];
                    let inside = (0..data.dims[d + 1] as i64).contains(&x);
                    at = at.filter(|_| inside).map(|at| at + x * strides[d + 1] as i64);
                }
                match at {
                    Some(at) => {
                        let from = at as usize * src.width;
                        cell.copy_from_slice(&src.bytes[from..from + rest]);
                    }
                    None if src.width <= 4 => super::movement::fill(cell, &zero[..src.width]),
                    None => cell.fill(0),
                }
            });
            Ok(())
        })
    }
}

impl BatchToSpace {
    fn dims(dims: &[usize], blocks: &[i64], crops: &[i64]) -> OpResult<Dims> {
        let mut out = Dims::from_slice(dims);
        out[0] = divided(dims[0], blocks_of(dims.len(), blocks, crops)?)?;
        for (i, block) in blocks.iter().enumerate() {
            let crop =
                crops[2 * i].checked_add(crops[2 * i + 1]).and_then(|c| usize::try_from(c).ok());
            let size = dims[i + 1].checked_mul(*block as usize);
            out[i + 1] = match size.zip(crop).and_then(|(s, c)| s.checked_sub(c)) {
                Some(size) => size,
                None => return fail(format!("crops {crops:?} of {dims:?}")),
            };
        }
        Ok(out)
    }
}

impl Op for BatchToSpace {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        batch_rule(cx, |dims, blocks, crops, product| {
            let mut out = dims.to_vec();
            out[0] = divided_dim(&dims[0], product)?;
            for (i, block) in blocks.iter().enumerate() {
                let crop = Dim::constant(crops[2 * i].saturating_add(crops[2 * i + 1]));
                out[i + 1] = &dims[i + 1].mul(&Dim::constant(*block)) - &crop;
            }
            Ok(out)
        })
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let others = g.others();
        g.moved(self.clone(), &others)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let (blocks, crops): (Ints, Ints) = (ints_in(inputs, 1)?, ints_in(inputs, 2)?);
        let dims = Self::dims(data.dims, &blocks, &crops)?;
        let (src, m) = (whole(&data), blocks.len());
        let strides = row_major(data.dims);
        let rest = count(&data.dims[m + 1..])? * src.width;
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            let mut cells = dst.chunks_exact_mut(rest);
            each_index(&dims[..=m], |index| {
                let Some(cell) = cells.next() else { return };
                let (mut block, mut at) = (0, 0);
                for d in 0..m {
                    let x = index[d + 1] + crops[2 * d] as usize;
                    let side = blocks[d] as usize;
                    block = block * side + x % side;
                    at += x / side * strides[d + 1] as usize;
                }
                at += (block * dims[0] + index[0]) * strides[0] as usize;
                cell.copy_from_slice(&src.bytes[at * src.width..][..rest]);
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, run, shape, t, ty};
    use super::*;
    use crate::DType;

    #[test]
    fn depth_becomes_space_and_back() {
        use BlockOrder::*;
        use Layout::*;
        let x = t(&[1, 8, 1, 2], &(0..16).collect::<Vec<i32>>());
        let d2s = |order, layout| DepthToSpace { block: 2, order, layout };
        let dcr = [0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15];
        check(&d2s(BlockFirst, ChannelsFirst), &[&x], &[1, 2, 2, 4], &dcr);
        let crd = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];
        check(&d2s(ChannelFirst, ChannelsFirst), &[&x], &[1, 2, 2, 4], &crd);
        let last = t(&[1, 1, 2, 4], &[1i8, 2, 3, 4, 5, 6, 7, 8]);
        check(&d2s(BlockFirst, ChannelsLast), &[&last], &[1, 2, 4, 1], &[1i8, 2, 5, 6, 3, 4, 7, 8]);
        for order in [BlockFirst, ChannelFirst] {
            for layout in [ChannelsFirst, ChannelsLast] {
                let x = t(&[2, 8, 4, 8], &(0..512).collect::<Vec<i32>>());
                let deep = run(&SpaceToDepth { block: 2, order, layout }, &[&x]).unwrap();
                let back = run(&d2s(order, layout), &[&deep]).unwrap();
                assert_eq!(back.slice::<i32>().unwrap(), x.slice::<i32>().unwrap());
            }
        }
        assert!(error(&d2s(BlockFirst, ChannelsLast), &[&x]).contains("divide"));
        let huge = DepthToSpace { block: usize::MAX, order: BlockFirst, layout: ChannelsFirst };
        assert!(error(&huge, &[&x]).contains("block"));
        let symbolic = ty(DType::F32, "n, 8, h, w");
        assert_eq!(shape(&d2s(BlockFirst, ChannelsFirst), &symbolic, &[]), "[n, 2, 2*h, 2*w]");
    }

    #[test]
    fn space_becomes_batch_and_back() {
        let x = t(&[1, 2, 3, 1], &[1u8, 2, 3, 4, 5, 6]);
        let (block, pads) = (t(&[2], &[2i32, 2]), t(&[2, 2], &[0i32, 0, 0, 1]));
        let want = [1u8, 3, 2, 0, 4, 6, 5, 0];
        check(&SpaceToBatch, &[&x, &block, &pads], &[4, 1, 2, 1], &want);
        let batched = t(&[4, 1, 2, 1], &want);
        check(&BatchToSpace, &[&batched, &block, &pads], &[1, 2, 3, 1], &[1u8, 2, 3, 4, 5, 6]);
        let none = t(&[2, 2], &[0i32; 4]);
        assert!(error(&SpaceToBatch, &[&x, &block, &none]).contains("divide"));
        assert!(error(&BatchToSpace, &[&x, &block, &none]).contains("divide"));
        let zero = t(&[2], &[0i32, 1]);
        assert!(error(&SpaceToBatch, &[&x, &zero, &none]).contains("blocks"));
        let huge = t(&[2, 2], &[0i64, 0, i64::MAX, 1]);
        assert!(run(&SpaceToBatch, &[&x, &block, &huge]).is_err());
        assert!(
            error(&BatchToSpace, &[&batched, &block, &t(&[2, 2], &[9i32, 0, 0, 0])])
                .contains("crops")
        );
    }
}
