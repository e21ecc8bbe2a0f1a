//! Functions of one quantised number.

use super::{
    Clamp, Integers, Rescale, multiplier, products_only, quantized_input, single, try_store,
};
use crate::{DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};
use kinglet_kernels::fixed::{
    InputScaling16, Lut16, Multiplier, high_mul_i16, inverse_sqrt_multiplier, logistic_i16, lut8,
    rounding_divide_by_pot, tanh_i16,
};

/// Which function. What is not said here follows from the name.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum QFunction {
    /// The same number at another scale or type; with a clamp, the ReLU family.
    Identity,
    /// x where positive, else `alpha` × x.
    LeakyRelu {
        alpha: f32,
    },
    HardSwish,
    Logistic,
    Tanh,
    Elu,
    /// `tanh`: by its tanh approximation.
    Gelu {
        tanh: bool,
    },
    Exp,
    Log,
    Abs,
    /// 1 / √x.
    Rsqrt,
    Neg,
}

/// A function of each element of an 8-, 16- or 32-bit tensor.
///
/// For 8-bit inputs it is a table of 256 entries: [`QUnary::table`].
#[derive(Clone, Debug)]
pub struct QUnary {
    /// Which.
    pub function: QFunction,
    /// Element type of the output.
    pub to: DType,
    /// Limits of the stored result.
    pub clamp: Clamp,
    /// How the result is brought to the output's scale.
    pub rescale: Rescale,
}

type Function = Box<dyn Fn(i32) -> OpResult<i32> + Send + Sync>;

impl Op for QUnary {
    fn name(&self) -> &'static str {
        match self.function {
            QFunction::Identity => "QRequantize",
            QFunction::LeakyRelu { .. } => "QLeakyRelu",
            QFunction::HardSwish => "QHardSwish",
            QFunction::Logistic => "QLogistic",
            QFunction::Tanh => "QTanh",
            QFunction::Elu => "QElu",
            QFunction::Gelu { .. } => "QGelu",
            QFunction::Exp => "QExp",
            QFunction::Log => "QLog",
            QFunction::Abs => "QAbs",
            QFunction::Rsqrt => "QRsqrt",
            QFunction::Neg => "QNeg",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        Clamp::of(ty.dtype)?;
        Clamp::of(self.to)?;
        Ok(vec![ValueType::new(self.to, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let input = single(inputs.quant(0)?)?;
        let output = single(outputs.quant(0)?)?;
        let f = self.evaluator(view.dtype, input, output)?;
        let values = Integers::of(&view)?;
        let results = (0..view.len()).map(|i| f(values.at(i)));
        try_store(outputs, 0, self.to, view.dims, results)
    }
}

/// Scale and zero point.
type Affine = (f32, i32);

impl QUnary {
    /// The results for all 8-bit inputs, at the index of the input's bits as `u8`; each holds the
    /// output's bits. For 8-bit types only.
    ///
    /// # Errors
    /// For other types, or scales that the function can't work with.
    pub fn table(&self, from: DType, input: Affine, output: Affine) -> OpResult<[u8; 256]> {
        let limits = Clamp::of(from)?;
        if from.bits() != 8 || self.to.bits() != 8 {
            return Err(OpError::new(format!("no table from {from} to {}", self.to)));
        }
        let f = self.evaluator(from, input, output)?;
        let range = Clamp::of(self.to)?;
        let mut table = [0; 256];
        for x in limits.low..=limits.high {
            table[usize::from(x as u8)] = range.apply(f(x)?) as u8;
        }
        Ok(table)
    }

    /// The function on stored integers.
    ///
    /// # Errors
    /// For types and scales that it can't work with; when called, for numbers outside its domain.
    pub fn evaluator(
        &self,
        from: DType,
        input: Affine,
        output: Affine,
    ) -> OpResult<impl Fn(i32) -> OpResult<i32> + Send + Sync + use<>> {
        let clamp = self.clamp;
        let raw = match self.rescale {
            Rescale::Float => self.float(input, output),
            Rescale::FixedPoint => self.fixed(from, input, output)?,
            Rescale::FixedPointOnce | Rescale::None => return Err(products_only()),
        };
        Ok(move |x| raw(x).map(|y| clamp.apply(y)))
    }

    fn float(&self, (scale, zero): Affine, (out_scale, out_zero): Affine) -> Function {
        let function = self.function;
        Box::new(move |x| {
            let y = real(function, x.wrapping_sub(zero) as f32 * scale);
            Ok(((y / out_scale).round_ties_even() as i32).saturating_add(out_zero))
        })
    }

    fn fixed(&self, from: DType, input: Affine, output: Affine) -> OpResult<Function> {
        let ((scale, zero), (out_scale, out_zero)) = (input, output);
        let ratio = f64::from(scale / out_scale);
        match self.function {
            QFunction::Identity => {
                let same = scale == out_scale && from.bits() == self.to.bits();
                let m = multiplier(f64::from(scale) / f64::from(out_scale))?;
                Ok(Box::new(move |x| {
                    let x = x.wrapping_sub(zero);
                    let y = if same { x } else { m.apply(x) };
                    Ok(y.saturating_add(out_zero))
                }))
            }
            QFunction::LeakyRelu { alpha } => {
                let (same, leak) =
                    (multiplier(ratio)?, multiplier(f64::from(scale * alpha / out_scale))?);
                Ok(Box::new(move |x| {
                    let x = x.wrapping_sub(zero);
                    let m = if x >= 0 { same } else { leak };
                    Ok(m.apply(x).saturating_add(out_zero))
                }))
            }
            QFunction::Abs => {
                let m = multiplier(ratio)?;
                let same = scale == out_scale;
                Ok(Box::new(move |x| {
                    let x = x.wrapping_sub(zero).wrapping_abs();
                    let y = if same { x } else { m.apply(x) };
                    Ok(y.saturating_add(out_zero))
                }))
            }
            QFunction::Neg => {
                let m = multiplier(ratio)?;
                Ok(Box::new(move |x| Ok(m.apply(zero.wrapping_sub(x)).saturating_add(out_zero))))
            }
            QFunction::HardSwish => hard_swish(input, output),
            QFunction::Rsqrt => {
                let m = multiplier(1.0 / (f64::from(scale.sqrt()) * f64::from(out_scale)))?;
                let max = self.clamp.high;
                Ok(Box::new(move |x| {
                    let x = x.wrapping_sub(zero);
                    match x {
                        i32::MIN..0 => Err(OpError::new("the root of a negative number")),
                        0 => Ok(max),
                        _ => {
                            let (mantissa, shift) = inverse_sqrt_multiplier(x, -1);
                            let root = Multiplier { mantissa, shift }.apply(1 << 20);
                            let y = Multiplier { shift: m.shift - 20, ..m }.apply(root);
                            Ok(y.saturating_add(out_zero))
                        }
                    }
                }))
            }
            QFunction::Logistic if from == DType::I16 => {
                let s = InputScaling16::for_logistic(scale).ok_or_else(|| bad_scale(scale))?;
                Ok(Box::new(move |x| Ok(logistic_i16(x as i16, s).into())))
            }
            QFunction::Tanh if from == DType::I16 => {
                let s = InputScaling16::for_tanh(scale).ok_or_else(|| bad_scale(scale))?;
                Ok(Box::new(move |x| Ok(tanh_i16(x as i16, s).into())))
            }
            function => table(function, from, self.to, input, output),
        }
    }
}

fn bad_scale(scale: f32) -> OpError {
    OpError::new(format!("its scale {scale} is out of range"))
}

/// The function as TFLite tabulates it: in floats, rounded away from zero.
fn table(
    function: QFunction,
    from: DType,
    to: DType,
    input: Affine,
    output: Affine,
) -> OpResult<Function> {
    let limits = Clamp::of(from)?;
    if from == DType::I16 && to == DType::I16 {
        let lut = Lut16::new(input, output, move |x| real(function, x));
        return Ok(Box::new(move |x| Ok(lut.at(x as i16).into())));
    }
    if from != to || from.bits() != 8 {
        return Err(OpError::new(format!("{function:?} from {from} to {to} is not supported")));
    }
    let entries = lut8((limits.low, limits.high), input, output, |x| real(function, x));
    Ok(Box::new(move |x| {
        let bits = entries[usize::from(x as u8)];
        Ok(if from == DType::I8 { (bits as i8).into() } else { bits.into() })
    }))
}

fn real(function: QFunction, x: f32) -> f32 {
    match function {
        QFunction::Identity => x,
        QFunction::LeakyRelu { alpha } => {
            if x >= 0.0 {
                x
            } else {
                alpha * x
            }
        }
        QFunction::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        QFunction::Logistic => 1.0 / (1.0 + (-x).exp()),
        QFunction::Tanh => x.tanh(),
        QFunction::Elu => {
            if x < 0.0 {
                x.exp_m1()
            } else {
                x
            }
        }
        QFunction::Gelu { tanh: true } => {
            let inner = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
            0.5 * x * (1.0 + (inner * (x + 0.044_715 * x * x * x)).tanh())
        }
        QFunction::Gelu { tanh: false } => {
            x * 0.5 * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2)
        }
        QFunction::Exp => x.exp(),
        QFunction::Log => x.ln(),
        QFunction::Abs => x.abs(),
        QFunction::Rsqrt => 1.0 / x.sqrt(),
        QFunction::Neg => -x,
    }
}

/// `x × relu6(x + 3) / 6` in 16-bit fixed point.
fn hard_swish((scale, zero): Affine, (out_scale, out_zero): Affine) -> OpResult<Function> {
    let hires = (1.0f32 / 128.0) * scale;
    let out = multiplier(f64::from(hires / out_scale))?;
    let reluish = multiplier(f64::from(hires / (3.0f32 / 32768.0)))?;
    let narrow = |m: Multiplier| {
        if m.mantissa >= i32::MAX - (1 << 15) {
            i16::MAX
        } else {
            ((m.mantissa + (1 << 15)) >> 16) as i16
        }
    };
    let (out_mantissa, reluish_mantissa) = (narrow(out), narrow(reluish));
    let saturate = |x: i32| x.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
    let left = move |x: i16, by: i32| saturate(i32::from(x).wrapping_shl(by.clamp(0, 15) as u32));
    Ok(Box::new(move |x| {
        let hires = (x.wrapping_sub(zero) as i16).wrapping_shl(7);
        let preshift = high_mul_i16(hires, out_mantissa);
        let mut gate = hires;
        if reluish.shift > 0 {
            gate = left(gate, reluish.shift - 1);
        }
        gate = high_mul_i16(gate, reluish_mantissa);
        if reluish.shift > 0 {
            gate = left(gate, 1);
        }
        if reluish.shift < 0 {
            gate = rounding_divide_by_pot(gate.into(), (-reluish.shift).min(31) as u32) as i16;
        }
        // From [−1, 1] to [0, 1].
        let gate = (i32::from(gate) + (1 << 15)) >> 1;
        let product = match (gate, preshift) {
            (-32768, i16::MIN) => i16::MAX,
            _ => ((gate * i32::from(preshift)) / (1 << 15)) as i16,
        };
        let y = match out.shift {
            s if s <= 0 => rounding_divide_by_pot(product.into(), (-s).min(31) as u32),
            s => left(product, s).into(),
        };
        Ok(y.saturating_add(out_zero))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_the_op_computes() {
        let op = QUnary {
            function: QFunction::LeakyRelu { alpha: 0.5 },
            to: DType::I8,
            clamp: Clamp { low: -128, high: 127 },
            rescale: Rescale::FixedPoint,
        };
        let table = op.table(DType::I8, (0.1, 0), (0.1, 0)).unwrap();
        assert_eq!(table[10], 10);
        assert_eq!(table[usize::from(-10i8 as u8)] as i8, -5);
    }
}
