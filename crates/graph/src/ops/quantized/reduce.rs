//! Reductions of quantised numbers over axes.

use super::{Factors, Rescale, multiplier, products_only, quantized_input, single, store, stored};
use crate::ops::broadcast::{Offsets, axes_of, strides};
use crate::{Dim, Dims, InferCx, Inputs, Op, OpResult, Outputs, Shape, ValueType};
use kinglet_kernels::fixed::Multiplier;

/// Which reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QReduceKind {
    /// The mean.
    Mean,
    /// The sum.
    Sum,
    /// The product: brought to the output's scale step by step, a part at each factor.
    Product,
}

/// The mean, sum or product over `axes` of an 8- or 16-bit tensor.
#[derive(Clone, Debug)]
pub struct QReduce {
    /// Which.
    pub kind: QReduceKind,
    /// Over which axes, each once; negative counts from the back.
    pub axes: Vec<i64>,
    /// Keep the reduced axes, of size 1.
    pub keep_dims: bool,
    /// How the sum is brought to the output's scale.
    pub rescale: Rescale,
}

impl Op for QReduce {
    fn name(&self) -> &'static str {
        match self.kind {
            QReduceKind::Mean => "QReduceMean",
            QReduceKind::Sum => "QReduceSum",
            QReduceKind::Product => "QReduceProduct",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        let Some(dims) = ty.shape.dims() else {
            return Ok(vec![ValueType::new(ty.dtype, Shape::unknown())]);
        };
        let axes = axes_of(&self.axes, dims.len())?;
        let mut out = Vec::with_capacity(dims.len());
        for (i, d) in dims.iter().enumerate() {
            match (axes.contains(&i), self.keep_dims) {
                (false, _) => out.push(d.clone()),
                (true, true) => out.push(Dim::from(1)),
                (true, false) => {}
            }
        }
        Ok(vec![ValueType::new(ty.dtype, out)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let (in_scale, in_zero) = single(inputs.quant(0)?)?;
        let (out_scale, out_zero) = single(outputs.quant(0)?)?;
        let axes = axes_of(&self.axes, view.dims.len())?;
        let kept: Dims = view
            .dims
            .iter()
            .enumerate()
            .map(|(i, d)| if axes.contains(&i) { 1 } else { *d })
            .collect();
        let mut to = strides(&kept);
        axes.iter().for_each(|a| to[*a] = 0);
        let count = axes.iter().map(|a| view.dims[*a]).product::<usize>();
        let places = Offsets::new(view.dims, [&to]).map(|[at]| at);
        let elements = stored(&view)?;
        let elements = elements.iter().zip(places);
        if self.kind == QReduceKind::Product {
            let results = self.products(
                elements,
                kept.iter().product(),
                count,
                [(in_scale, in_zero), (out_scale, out_zero)],
            )?;
            return store(outputs, 0, view.dtype, &self.shown(view.dims, &axes), &results);
        }
        let mut sums = vec![0i32; kept.iter().product()];
        for (x, at) in elements {
            sums[at] = sums[at].wrapping_add(*x);
        }
        let divisor = if self.kind == QReduceKind::Mean { count.max(1) } else { 1 };
        let offset = in_zero.wrapping_mul(count as i32);
        let scale = self.factors(in_scale, out_scale, divisor)?;
        for sum in &mut sums {
            *sum = scale.apply(0, sum.wrapping_sub(offset)).saturating_add(out_zero);
        }
        store(outputs, 0, view.dtype, &self.shown(view.dims, &axes), &sums)
    }
}

impl QReduce {
    /// The sizes of the result.
    fn shown(&self, dims: &[usize], axes: &[usize]) -> Dims {
        let size = |i: usize| match (axes.contains(&i), self.keep_dims) {
            (false, _) => Some(dims[i]),
            (true, true) => Some(1),
            (true, false) => None,
        };
        (0..dims.len()).filter_map(size).collect()
    }

    /// The products of elements, each with the place of its product. Each multiplication is
    /// rescaled by the input's scale over the root of the output's, so that products stay small.
    fn products<'x>(
        &self,
        elements: impl Iterator<Item = (&'x i32, usize)>,
        places: usize,
        count: usize,
        [(in_scale, in_zero), (out_scale, out_zero)]: [(f32, i32); 2],
    ) -> OpResult<Vec<i32>> {
        let root = f64::from(out_scale).powf(1.0 / count.max(1) as f64);
        let rescale = self.rescale.factors([f64::from(in_scale) / root].into_iter())?;
        let mut products: Vec<Option<i32>> = vec![None; places];
        for (x, at) in elements {
            let x = x.wrapping_sub(in_zero);
            products[at] = Some(match products[at] {
                None => x,
                Some(product) => rescale.apply_i64(0, i64::from(product) * i64::from(x)),
            });
        }
        let last = |p: Option<i32>| rescale.apply_i64(0, p.unwrap_or(1).into());
        Ok(products.into_iter().map(|p| last(p).saturating_add(out_zero)).collect())
    }

    /// The factor from sums less their zero points to results: `divisor` is the count of summed
    /// elements for a mean, 1 for a sum.
    ///
    /// # Errors
    /// For scales whose ratio is too large.
    pub fn factors(&self, in_scale: f32, out_scale: f32, divisor: usize) -> OpResult<Factors> {
        let ratio = f64::from(in_scale) / f64::from(out_scale);
        Ok(match self.rescale {
            Rescale::FixedPointOnce | Rescale::None => return Err(products_only()),
            Rescale::FixedPoint => Factors::Fixed(vec![divided(multiplier(ratio)?, divisor)]),
            Rescale::Float => Factors::Float(vec![(ratio / divisor as f64) as f32]),
        })
    }
}

/// `scale` divided by a count, its mantissa kept at full precision.
fn divided(scale: Multiplier, count: usize) -> Multiplier {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let shift = (63 - count.leading_zeros() as i32).min(32).min(31 + scale.shift);
    Multiplier {
        mantissa: ((i64::from(scale.mantissa) << shift) / count) as i32,
        shift: scale.shift - shift,
    }
}
