//! SVDF of integers: a product with the features, then one along the memory of each filter.

use super::byte_value;
use super::sums::Sums;
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use kinglet_graph::ops::quantized::{Clamp, QSvdf};
use kinglet_graph::{DType, Element, OpResult, Value};
use kinglet_kernels::fixed::Multiplier;
use kinglet_kernels::qconv::{ConvShape, QWeights};
use kinglet_kernels::requant::Byte;

/// [`QSvdf`] of int8 with constant weights; time weights and memory of one type.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QSvdf>() else { return Ok(None) };
    let (Some(x), Some(state), y) = (cx.input(0), cx.input(4), cx.output(0)) else {
        return Ok(None);
    };
    let (Some(features), Some(time)) = (cx.constant(1), cx.constant(2)) else { return Ok(None) };
    let (Some((Byte::Signed, x_scale, x_zero)), Some((Byte::Signed, y_scale, y_zero))) =
        (byte_value(&x.ty), byte_value(&y.ty))
    else {
        return Ok(None);
    };
    let bias: &[i32] = match (cx.input(3), cx.constant(3)) {
        (None, _) => &[],
        (Some(_), Some(bias)) if bias.dtype == DType::I32 => bias.slice()?,
        _ => return Ok(None),
    };
    let (x_dims, state_dims) = (cx.dims(x)?, cx.dims(state)?);
    let (&[batch, depth], &[filters, depth2], &[filters2, memory]) =
        (x_dims.as_slice(), features.dims, time.dims)
    else {
        return Ok(None);
    };
    let fits = depth == depth2
        && filters == filters2
        && state_dims.as_slice() == [batch, filters * memory]
        && op.rank > 0
        && filters.is_multiple_of(op.rank)
        && (bias.is_empty() || bias.len() * op.rank == filters);
    if !fits || features.dtype != DType::I8 || batch * depth * filters * memory == 0 {
        return Ok(None);
    }
    let scale = |value: Option<&Value>| Some(value?.ty.quant.as_ref()?.single()?.0);
    let (Some(features_scale), Some(time_scale), Some(memory_scale)) =
        (scale(cx.input(1)), scale(cx.input(2)), scale(cx.input(4)))
    else {
        return Ok(None);
    };
    let scales = op.factors([x_scale, features_scale, time_scale, memory_scale, y_scale])?;
    let shape = ConvShape::matrix(batch, depth, filters);
    let weights =
        QWeights { data: features.bytes, kind: Byte::Signed, zero_points: &[0], bias: &[] };
    let sums = Sums::dense(cx.isa, &shape, (Byte::Signed, x_zero), &weights, cx.threads);
    let scratch = (4 * batch * filters).next_multiple_of(64) + sums.planned(cx.threads);
    let (packed, limits) = (sums.packed_bytes(), Clamp::of(state.ty.dtype)?);
    let sizes = Sizes { batch, filters, memory, rank: op.rank };
    let (clamp, bias) = (op.clamp, bias.to_vec());
    let lowered = match (state.ty.dtype, time.dtype) {
        (DType::I8, DType::I8) => {
            let (time, store) = (time.slice::<i8>()?.to_vec(), |x: i32| x as i8);
            Lowered::new(Svdf { sums, sizes, time, store, limits, clamp, bias, scales, y_zero })
        }
        (DType::I16, DType::I16) => {
            let (time, store) = (time.slice::<i16>()?.to_vec(), |x: i32| x as i16);
            Lowered::new(Svdf { sums, sizes, time, store, limits, clamp, bias, scales, y_zero })
        }
        _ => return Ok(None),
    };
    let absorbed: &[usize] = if cx.input(3).is_some() { &[1, 2, 3] } else { &[1, 2] };
    Ok(Some(lowered.with_scratch(scratch).with_absorbed(absorbed, packed)))
}

struct Sizes {
    batch: usize,
    filters: usize,
    memory: usize,
    rank: usize,
}

/// `T`: what the memory holds.
struct Svdf<T> {
    sums: Sums,
    sizes: Sizes,
    /// For each filter, the weights of its memory.
    time: Vec<T>,
    store: fn(i32) -> T,
    /// Of the memory.
    limits: Clamp,
    /// Of the result.
    clamp: Clamp,
    bias: Vec<i32>,
    /// Of features and of results.
    scales: [Multiplier; 2],
    y_zero: i32,
}

impl<T: Element + Into<i32>> Kernel for Svdf<T> {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let &Sizes { batch, filters, memory, rank } = &self.sizes;
        let (x, old) = (io.input::<i8>(0)?, io.input::<T>(4)?);
        let (features, rest) = io.scratch.split_at_mut((4 * batch * filters).next_multiple_of(64));
        let features: &mut [i32] = bytemuck::cast_slice_mut(&mut features[..4 * batch * filters]);
        self.sums.run(io.pool, bytemuck::cast_slice(x), features, rest);
        let [y, state] = io.outputs.as_mut_slice() else { unreachable!("it has two outputs") };
        let (y, state) = (y.slice_mut::<i8>()?, state.slice_mut::<T>()?);
        let filters_of = state.chunks_exact_mut(memory).zip(old.chunks_exact(memory)).zip(features);
        let units = filters / rank;
        let mut sum = 0i32;
        for (i, ((new, old), feature)) in filters_of.enumerate() {
            // Filter `f` of a sequence; the last of a unit's filters completes its sum.
            let f = i % filters;
            let (unit, place) = (f / rank, f % rank);
            new[..memory - 1].copy_from_slice(&old[1..]);
            new[memory - 1] = (self.store)(self.limits.apply(self.scales[0].apply(*feature)));
            if place == 0 {
                sum = self.bias.get(unit).copied().unwrap_or(0);
            }
            let weights = &self.time[f * memory..][..memory];
            sum = new
                .iter()
                .zip(weights)
                .fold(sum, |sum, (m, w)| sum.wrapping_add((*m).into().wrapping_mul((*w).into())));
            if place == rank - 1 {
                let value = self.scales[1].apply(sum).saturating_add(self.y_zero);
                y[i / filters * units + unit] = self.clamp.apply(value).clamp(-128, 127) as i8;
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("qsvdf {}", T::DTYPE)
    }
}
