//! Random numbers. A seed gives the same numbers on each run, but not those of other engines.

use kinglet_graph::ops::random::{Bernoulli, Distribution, Multinomial, Random, RandomLike};
use kinglet_graph::{DType, OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("Bernoulli", 15, |cx| {
        let (dtype, seed) = (cx.opt_dtype("dtype")?, seed(cx)?);
        cx.emit(Bernoulli { dtype, seed })
    }),
    op("Multinomial", 7, multinomial),
    op("RandomNormal", 1, |cx| {
        let normal = normal(cx)?;
        random(cx, normal)
    }),
    op("RandomNormalLike", 1, |cx| {
        let normal = normal(cx)?;
        random_like(cx, normal)
    }),
    op("RandomUniform", 1, |cx| {
        let uniform = uniform(cx)?;
        random(cx, uniform)
    }),
    op("RandomUniformLike", 1, |cx| {
        let uniform = uniform(cx)?;
        random_like(cx, uniform)
    }),
];

/// The seed, which the format has as a float.
fn seed(cx: &Cx<'_, '_>) -> OpResult<Option<u64>> {
    Ok(cx.opt_float("seed")?.map(|seed| u64::from(seed.to_bits())))
}

fn normal(cx: &Cx<'_, '_>) -> OpResult<Distribution> {
    let (mean, scale) = (cx.float("mean", 0.0)?, cx.float("scale", 1.0)?);
    Ok(Distribution::Normal { mean: mean.into(), scale: scale.into() })
}

fn uniform(cx: &Cx<'_, '_>) -> OpResult<Distribution> {
    let (low, high) = (cx.float("low", 0.0)?, cx.float("high", 1.0)?);
    Ok(Distribution::Uniform { low: low.into(), high: high.into() })
}

fn random(cx: &mut Cx<'_, '_>, distribution: Distribution) -> OpResult {
    cx.at_most(0)?;
    let dtype = cx.opt_dtype("dtype")?.unwrap_or(DType::F32);
    let seed = seed(cx)?;
    let shape = cx.need("shape", cx.opt_ints("shape")?)?;
    let shape = cx.ints(shape)?;
    cx.emit_on(Random { distribution, dtype, seed }, vec![Some(shape)])
}

fn random_like(cx: &mut Cx<'_, '_>, distribution: Distribution) -> OpResult {
    let (dtype, seed) = (cx.opt_dtype("dtype")?, seed(cx)?);
    cx.emit(RandomLike { distribution, dtype, seed })
}

fn multinomial(cx: &mut Cx<'_, '_>) -> OpResult {
    let samples = cx.int("sample_size", 1)?;
    let samples =
        usize::try_from(samples).map_err(|_| OpError::new(format!("sample_size is {samples}")))?;
    let dtype = cx.opt_dtype("dtype")?.unwrap_or(DType::I32);
    let seed = seed(cx)?;
    cx.emit(Multinomial { samples, dtype, seed })
}
