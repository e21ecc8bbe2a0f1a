//! Convolution of quantised images with the sum that ends a residual block.

use super::{Integers, QBinary, QConv, quantized_input, single, try_store};
use crate::ops::conv::check_same;
use crate::{Cost, InferCx, Inputs, Op, OpError, OpResult, Outputs, Quant, Slot, ValueType};
use std::sync::Arc;

/// A convolution and then the sum of its result and a residual: x, weights, bias?, residual.
///
/// The residual has the convolution's element type and sizes. Rounding is that of the two ops one
/// after the other: the convolution's result is brought to its own quantisation first.
#[derive(Clone, Debug, PartialEq)]
pub struct QConvAdd {
    /// The convolution.
    pub conv: QConv,
    /// Quantisation of the convolution's result: one scale for the whole tensor.
    pub product: Arc<Quant>,
    /// The sum of the convolution's result and the residual.
    pub sum: QBinary,
}

impl Op for QConvAdd {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let out = self.conv.infer(cx)?;
        let residual = quantized_input(cx, 3)?;
        if residual.dtype != self.conv.to {
            return Err(OpError::new(format!(
                "a residual of {} for a convolution to {}",
                residual.dtype, self.conv.to
            )));
        }
        check_same(&residual.shape, &out[0].shape)?;
        Ok(out)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let mut made = Outputs::new([Slot::Open { quant: Some(&self.product), tensor: None }]);
        self.conv.eval(inputs, &mut made)?;
        let Some(Slot::Open { tensor: Some(product), .. }) = made.into_slots().next() else {
            return Err(OpError::new("the convolution gave no result"));
        };
        let (product, residual) = (product.view(), inputs.get(3)?);
        check_same(&residual.dims.into(), &product.dims.into())?;
        let quants = [&self.product, inputs.quant(3)?, outputs.quant(0)?];
        let [a, b, out] = quants.map(single);
        let sum = self.sum.evaluator(product.dtype, [a?, b?, out?])?;
        let (x, y) = (Integers::of(&product)?, Integers::of(&residual)?);
        let sums = (0..product.len()).map(|i| sum(x.at(i), y.at(i)));
        try_store(outputs, 0, product.dtype, product.dims, sums)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        self.conv.cost(inputs, outputs)
    }
}
