//! Columns of blocks put back into images.

use super::convert::{floats, write_floats};
use crate::{Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

/// Adds up overlapping blocks (ONNX `Col2Im`).
///
/// Inputs: the blocks, [batch, channels × block elements, number of blocks]; the image's sizes; a
/// block's sizes. Output: [batch, channels, sizes…].
#[derive(Clone, Debug)]
pub struct Col2Im {
    /// Distance of a block's elements, for each dimension; empty: 1.
    pub dilations: Vec<usize>,
    /// What was added around the image: all beginnings, then all ends; empty: nothing.
    pub pads: Vec<usize>,
    /// Distance of the blocks, for each dimension; empty: 1.
    pub strides: Vec<usize>,
}

fn error<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

fn sizes(ints: &[i64]) -> OpResult<Vec<usize>> {
    let sizes: Option<Vec<usize>> = ints.iter().map(|v| usize::try_from(*v).ok()).collect();
    sizes.ok_or_else(|| OpError::new(format!("sizes {ints:?} are negative")))
}

impl Op for Col2Im {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let rank = |i| -> OpResult<Option<usize>> {
            Ok(cx.dims(i)?.and_then(|d| d.first()).and_then(Dim::fixed))
        };
        let Some(n) = rank(1)?.or(rank(2)?) else {
            return Ok(vec![ValueType::new(dtype, Shape::unknown())]);
        };
        let batch = cx.dims(0)?.and_then(|d| d.first()).cloned();
        let mut dims = vec![batch.unwrap_or_else(|| cx.unknown_dim())];
        let rows = cx.dims(0)?.and_then(|d| d.get(1)).cloned();
        dims.push(match (rows, cx.ints(2)?) {
            (Some(rows), Some(block)) => {
                rows.floor_div(&Dim::from(sizes(&block)?.iter().product::<usize>()))
            }
            _ => cx.unknown_dim(),
        });
        match cx.ints(1)? {
            Some(image) => dims.extend(sizes(&image)?.into_iter().map(Dim::from)),
            None => dims.extend((0..n).map(|_| cx.unknown_dim())),
        }
        Ok(vec![ValueType::new(dtype, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (image, block) = (sizes(&inputs.get(1)?.ints()?)?, sizes(&inputs.get(2)?.ints()?)?);
        let n = image.len();
        let or = |list: &Vec<usize>, value: usize, len: usize| match list.is_empty() {
            true => Ok(vec![value; len]),
            false if list.len() == len => Ok(list.clone()),
            false => error(format!("{list:?} are not {len} numbers")),
        };
        let dilations = or(&self.dilations, 1, n)?;
        let (pads, strides) = (or(&self.pads, 0, 2 * n)?, or(&self.strides, 1, n)?);
        if block.len() != n || block.contains(&0) || strides.contains(&0) {
            return error(format!("blocks of {block:?} in an image of {image:?}"));
        }
        let mut counts = Vec::with_capacity(n);
        for i in 0..n {
            let padded = image[i] + pads[i] + pads[n + i];
            let reach = dilations[i].saturating_mul(block[i] - 1).saturating_add(1);
            match padded.checked_sub(reach) {
                Some(room) => counts.push(room / strides[i] + 1),
                None => return error(format!("a block of {block:?} is larger than {image:?}")),
            }
        }
        let (in_block, blocks): (usize, usize) = (block.iter().product(), counts.iter().product());
        let (batch, channels) = match x.dims {
            [batch, rows, columns] if rows % in_block == 0 && *columns == blocks => {
                (*batch, rows / in_block)
            }
            dims => return error(format!("{dims:?} are not {blocks} blocks of {in_block}")),
        };
        let data = floats(&x)?;
        let area: usize = image.iter().product();
        let mut dims = vec![batch, channels];
        dims.extend_from_slice(&image);
        let out = outputs.bytes(0, x.dtype, &dims)?;
        let mut result = vec![0.0; batch * channels * area];
        for element in 0..in_block {
            for at in 0..blocks {
                let (mut e, mut b, mut place, mut step) = (element, at, Some(0), 1);
                for i in (0..n).rev() {
                    let here = (b % counts[i]) * strides[i] + (e % block[i]) * dilations[i];
                    let inside = here.checked_sub(pads[i]).filter(|v| *v < image[i]);
                    place = place.zip(inside).map(|(p, v): (usize, usize)| p + v * step);
                    (e, b, step) = (e / block[i], b / counts[i], step * image[i]);
                }
                let Some(place) = place else { continue };
                for plane in 0..batch * channels {
                    result[plane * area + place] +=
                        data[(plane * in_block + element) * blocks + at];
                }
            }
        }
        write_floats(x.dtype, out, result.into_iter())
    }
}
