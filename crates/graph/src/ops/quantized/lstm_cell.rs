//! The cell of TFLite's older integer LSTM: 16-bit fixed point between 8-bit products.

use super::{multiplier, quantized_input, single, store, stored};
use crate::{DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};
use kinglet_kernels::fixed::{
    Multiplier, high_mul, high_mul_i16, logistic, rounding_divide_by_pot, tanh,
};

/// One step of an LSTM after its matrix product. Inputs: the sums that the gates are made of
/// (input, new content, forget, output, side by side: batch × 4 units), int32 with one scale; the
/// cell C (batch × units), int16 with a scale of 2⁻¹¹. Outputs: Y, uint8 with a scale of 2⁻⁷ around
/// 128; the next C; the gates before their activation, int16 with a scale of 2⁻¹².
#[derive(Clone, Debug, PartialEq)]
pub struct QLstmCell;

/// Integer bits of the gates and of the cell.
const GATE_BITS: u32 = 3;
const CELL_BITS: u32 = 4;

/// A sum as a gate. Rounds twice as [`Multiplier::apply`] does, but halves up the second time: so
/// do the products of this LSTM in LiteRT, and no others.
fn gate(factor: Multiplier, sum: i32) -> i16 {
    let (left, right) = (factor.shift.max(0) as u32, factor.shift.min(0).unsigned_abs());
    let high = i64::from(high_mul(sum.wrapping_shl(left), factor.mantissa));
    let half = if right > 0 { 1i64 << (right - 1) } else { 0 };
    ((high + half) >> right).clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

impl Op for QLstmCell {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (sums, cell) = (quantized_input(cx, 0)?, quantized_input(cx, 1)?);
        if (sums.dtype, cell.dtype) != (DType::I32, DType::I16) {
            return Err(OpError::new(format!("an LSTM's cell of {sums} and {cell}")));
        }
        if let Some(quant) = &cell.quant {
            let ((scale, zero), wanted) = (single(quant)?, 2f32.powi(CELL_BITS as i32 - 15));
            if zero != 0 || (scale / wanted - 1.0).abs() > 1e-3 {
                let m = format!("its cell has a scale of {scale} around {zero}, not of {wanted}");
                return Err(OpError::new(m));
            }
        }
        let of_cell = |dtype| ValueType::new(dtype, cell.shape.clone());
        let gates: Shape = sums.shape.clone();
        Ok(vec![of_cell(DType::U8), of_cell(DType::I16), ValueType::new(DType::I16, gates)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (sums, cell) = (inputs.get(0)?, inputs.get(1)?);
        let (&[rows, width], &[batch, units]) = (sums.dims, cell.dims) else {
            return Err(OpError::new("its sums and its cell have not two dimensions"));
        };
        if rows != batch || Some(width) != units.checked_mul(4) {
            let (sums, cell) = (sums.dims, cell.dims);
            return Err(OpError::new(format!("sums of sizes {sums:?} for a cell of {cell:?}")));
        }
        let (scale, _) = single(inputs.quant(0)?)?;
        let factor = multiplier(f64::from(scale) * f64::from(1 << (15 - GATE_BITS)))?;
        let gates: Vec<i32> =
            stored(&sums)?.into_iter().map(|sum| gate(factor, sum).into()).collect();
        let (mut y, mut next) = (stored(&cell)?, stored(&cell)?);
        for (i, (y, c)) in y.iter_mut().zip(&mut next).enumerate() {
            let own = &gates[i / units * width + i % units..];
            let [input, content, forget, output] = [0, 1, 2, 3].map(|g| own[g * units] as i16);
            let taken = high_mul_i16(logistic(input, GATE_BITS), tanh(content, GATE_BITS));
            let taken = rounding_divide_by_pot(taken.into(), CELL_BITS) as i16;
            let kept = high_mul_i16(logistic(forget, GATE_BITS), *c as i16);
            let cell = taken.saturating_add(kept);
            let out = high_mul_i16(logistic(output, GATE_BITS), tanh(cell, CELL_BITS));
            *c = cell.into();
            *y = rounding_divide_by_pot(out.into(), 8).clamp(-128, 127) + 128;
        }
        store(outputs, 0, DType::U8, cell.dims, &y)?;
        store(outputs, 1, DType::I16, cell.dims, &next)?;
        store(outputs, 2, DType::I16, sums.dims, &gates)
    }
}
