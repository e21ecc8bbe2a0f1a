//! Functions of one number, applied to each element.
//!
//! A line of the table below is all that a new function takes: its parameters, its value at a real
//! `x` and, after the arrow, its derivative there; after `int`, its value at an integer `x`, if the
//! function takes integers as well. The shape rule, the reference, the gradient rule and the cost
//! follow, and the runtime runs it.

use crate::number::Number;
use crate::ops::activation::Activation;
use crate::ops::logic::Compare;
use crate::{
    DType, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType,
};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI, PI};
use std::sync::Arc;

macro_rules! functions {
    (|$x:ident|; $(
        $(#[$doc:meta])*
        $name:ident $({ $($(#[$field_doc:meta])* $field:ident),* })?
            : $real:expr => $slope:expr $(, int $int:expr)?;
    )*) => {
        /// A function of each element of input 0, of any float type (some: of any integer type).
        /// The output has the input's type and sizes.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Unary {
            $($(#[$doc])* $name $({ $($(#[$field_doc])* $field: f32),* })?,)*
        }

        impl Unary {
            /// Its name.
            pub fn function_name(&self) -> &'static str {
                match self { $(Unary::$name { .. } => stringify!($name),)* }
            }

            /// Its value at `x`.
            pub fn at(&self, $x: f64) -> f64 {
                match *self { $(
                    Unary::$name $({ $($field),* })? => {
                        $($(let $field = f64::from($field);)*)?
                        $real
                    }
                )* }
            }

            /// Its derivative at `x`; at a kink, that of one side.
            #[allow(unused_variables, reason = "a parameter may shift a function only")]
            pub fn slope_at(&self, $x: f64) -> f64 {
                match *self { $(
                    Unary::$name $({ $($field),* })? => {
                        $($(let $field = f64::from($field);)*)?
                        $slope
                    }
                )* }
            }

            /// Its value at an integer; `None` where it takes no integers.
            pub fn at_integer(&self, $x: i128) -> Option<i128> {
                match *self { $(
                    Unary::$name { .. } => functions!(@int $($int)?),
                )* }
            }
        }
    };
    (@int) => { None };
    (@int $int:expr) => { Some($int) };
}

functions! {
    |x|;
    /// |x|.
    Abs: x.abs() => sign(x), int x.wrapping_abs();
    /// −x.
    Neg: -x => -1.0, int x.wrapping_neg();
    /// −1, 0 or 1; NaN stays.
    Sign: if x == 0.0 || x.is_nan() { x } else { x.signum() } => 0.0, int x.signum();
    /// The next integer above.
    Ceil: x.ceil() => 0.0;
    /// The next integer below.
    Floor: x.floor() => 0.0;
    /// The nearest integer; of two, the even one.
    Round: x.round_ties_even() => 0.0;
    /// x².
    Square: x * x => 2.0 * x, int x.wrapping_mul(x);
    /// Square root.
    Sqrt: x.sqrt() => 0.5 / x.sqrt();
    /// 1 / √x.
    Rsqrt: 1.0 / x.sqrt() => -0.5 / (x * x.sqrt());
    /// 1 / x.
    Reciprocal: 1.0 / x => -1.0 / (x * x);
    /// eˣ.
    Exp: x.exp() => x.exp();
    /// Natural logarithm.
    Log: x.ln() => 1.0 / x;
    /// Sine.
    Sin: x.sin() => x.cos();
    /// Cosine.
    Cos: x.cos() => -x.sin();
    /// Tangent.
    Tan: x.tan() => 1.0 + x.tan().powi(2);
    /// Inverse sine.
    Asin: x.asin() => 1.0 / (1.0 - x * x).sqrt();
    /// Inverse cosine.
    Acos: x.acos() => -1.0 / (1.0 - x * x).sqrt();
    /// Inverse tangent.
    Atan: x.atan() => 1.0 / (1.0 + x * x);
    /// Hyperbolic sine.
    Sinh: x.sinh() => x.cosh();
    /// Hyperbolic cosine.
    Cosh: x.cosh() => x.sinh();
    /// Hyperbolic tangent.
    Tanh: x.tanh() => 1.0 - x.tanh().powi(2);
    /// Inverse hyperbolic sine.
    Asinh: x.asinh() => 1.0 / (x * x + 1.0).sqrt();
    /// Inverse hyperbolic cosine.
    Acosh: x.acosh() => 1.0 / (x * x - 1.0).sqrt();
    /// Inverse hyperbolic tangent.
    Atanh: x.atanh() => 1.0 / (1.0 - x * x);
    /// The error function.
    Erf: libm::erf(x) => FRAC_2_SQRT_PI * (-x * x).exp();
    /// 1 / (1 + e⁻ˣ).
    Sigmoid: sigmoid(x) => sigmoid_slope(x);
    /// max(x, 0).
    Relu: if x < 0.0 { 0.0 } else { x } => within(x, 0.0, f64::INFINITY), int x.max(0);
    /// min(max(x, 0), 6).
    Relu6: clamp(x, 0.0, 6.0) => within(x, 0.0, 6.0), int x.clamp(0, 6);
    /// min(max(x, −1), 1).
    ReluN1To1: clamp(x, -1.0, 1.0) => within(x, -1.0, 1.0), int x.clamp(-1, 1);
    /// min(max(x, 0), 1).
    Relu0To1: clamp(x, 0.0, 1.0) => within(x, 0.0, 1.0), int x.clamp(0, 1);
    /// min(max(x, `min`), `max`).
    Clamp {
        /// The lower bound.
        min,
        /// The upper bound.
        max
    }: clamp(x, min, max) => within(x, min, max);
    /// x, times `alpha` below 0.
    LeakyRelu {
        /// The slope below 0.
        alpha
    }: if x < 0.0 { alpha * x } else { x } => if x < 0.0 { alpha } else { 1.0 };
    /// x, and `alpha` (eˣ − 1) below 0.
    Elu {
        /// Minus the limit far below 0.
        alpha
    }: if x < 0.0 { alpha * x.exp_m1() } else { x } => if x < 0.0 { alpha * x.exp() } else { 1.0 };
    /// x, and `alpha` (exp(x / `alpha`) − 1) below 0.
    Celu {
        /// Minus the limit far below 0.
        alpha
    }: if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x }
        => if x < 0.0 { (x / alpha).exp() } else { 1.0 };
    /// `gamma` x, and `gamma` `alpha` (eˣ − 1) below 0.
    Selu {
        /// Shape below 0.
        alpha,
        /// Scale of the whole.
        gamma
    }: gamma * if x > 0.0 { x } else { alpha * x.exp_m1() }
        => gamma * if x > 0.0 { 1.0 } else { alpha * x.exp() };
    /// x Φ(x), Φ the normal distribution function.
    Gelu: 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2))
        => 0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
    /// Gelu's usual approximation by tanh.
    GeluTanh: 0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh())
        => gelu_tanh_slope(x);
    /// min(max(`alpha` x + `beta`, 0), 1).
    HardSigmoid {
        /// Slope.
        alpha,
        /// Value at 0.
        beta
    }: clamp(alpha * x + beta, 0.0, 1.0) => alpha * within(alpha * x + beta, 0.0, 1.0);
    /// x min(max(x + 3, 0), 6) / 6.
    HardSwish: x * clamp(x + 3.0, 0.0, 6.0) / 6.0
        => clamp(x + 3.0, 0.0, 6.0) / 6.0 + x * within(x, -3.0, 3.0) / 6.0;
    /// x sigmoid(x).
    Silu: x * sigmoid(x) => sigmoid(x) + x * sigmoid_slope(x);
    /// x sigmoid(`alpha` x).
    Swish {
        /// Steepness.
        alpha
    }: x * sigmoid(alpha * x) => sigmoid(alpha * x) + alpha * x * sigmoid_slope(alpha * x);
    /// x tanh(softplus(x)).
    Mish: x * softplus(x).tanh()
        => softplus(x).tanh() + x * sigmoid(x) * (1.0 - softplus(x).tanh().powi(2));
    /// log(1 + eˣ).
    Softplus: softplus(x) => sigmoid(x);
    /// x / (1 + |x|).
    Softsign: x / (1.0 + x.abs()) => (1.0 + x.abs()).powi(-2);
    /// x + `bias` below −`lambda`, x − `bias` above `lambda`, 0 between them.
    Shrink {
        /// Half the width of what becomes 0.
        lambda,
        /// Shift of the rest towards 0.
        bias
    }: if x < -lambda { x + bias } else if x > lambda { x - bias } else { 0.0 }
        => f64::from(u8::from(x.abs() > lambda));
    /// `alpha` x + `beta`: an activation of recurrent nets.
    Affine {
        /// Slope.
        alpha,
        /// Value at 0.
        beta
    }: alpha * x + beta => alpha;
    /// `alpha` tanh(`beta` x): an activation of recurrent nets.
    ScaledTanh {
        /// Scale.
        alpha,
        /// Steepness.
        beta
    }: alpha * (beta * x).tanh() => alpha * beta * (1.0 - (beta * x).tanh().powi(2));
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `max` where the bounds cross; NaN stays.
fn clamp(x: f64, min: f64, max: f64) -> f64 {
    let above = if x < min { min } else { x };
    if above > max { max } else { above }
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// The slope of a clamp: 0 on the bounds too.
fn within(x: f64, min: f64, max: f64) -> f64 {
    f64::from(u8::from(x > min && x < max))
}

fn gelu_tanh_slope(x: f64) -> f64 {
    let (root, cubic) = (FRAC_2_PI.sqrt(), 0.044715);
    let tanh = (root * (x + cubic * x * x * x)).tanh();
    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * root * (1.0 + 3.0 * cubic * x * x)
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        self.function_name()
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        // Numbers in whole steps still make sense to a function of reals where it says so.
        let takes = ty.dtype.is_float()
            || ty.dtype.is_integer()
                && (self.at_integer(0).is_some() || matches!(self, Unary::Shrink { .. }));
        if takes && is_number(ty.dtype) {
            Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
        } else {
            Err(OpError::new(format!("{} does not take {}", self.name(), ty.dtype)))
        }
    }

    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        let both = Activation::of(*self).then(function)?.function()?;
        Some(Arc::new(both))
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        if matches!(self, Unary::Sign | Unary::Ceil | Unary::Floor | Unary::Round) {
            return Ok(vec![None]);
        }
        let (x, dy) = (g.input(0)?, g.of_first()?);
        Ok(vec![Some(g.slope(*self, x, dy)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        crate::dispatch_number!(x.dtype, T => {
            let out = outputs.slice::<T>(0, x.dims)?;
            for (to, v) in out.iter_mut().zip(x.slice::<T>()?) {
                *to = self.on_element(*v);
            }
            Ok(())
        }, else => Err(OpError::new(format!("{} does not take {}", self.name(), x.dtype))))
    }
}

impl Unary {
    /// Its value at an element that it takes.
    pub(crate) fn on_element<T: Number>(&self, x: T) -> T {
        match x.to_integer().and_then(|x| self.at_integer(x)) {
            Some(v) => T::of_integer(v),
            None => T::of_f64(self.at(x.to_f64())),
        }
    }
}

/// A function's derivative at each element of input 0, times input 1, which has the same sizes and
/// float type: the gradient of a [`Unary`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The function whose derivative it is.
    pub function: Unary,
}

impl Op for Slope {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = crate::ops::conv::float(cx, 2)?;
        Ok(vec![ValueType::new(dtype, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, by) = (inputs.get(0)?, inputs.get(1)?);
        if x.dims != by.dims {
            return Err(OpError::new(format!("sizes {:?} and {:?} differ", x.dims, by.dims)));
        }
        crate::dispatch_float!(x.dtype, T => {
            let out = outputs.slice::<T>(0, x.dims)?;
            for ((to, x), by) in out.iter_mut().zip(x.slice::<T>()?).zip(by.slice::<T>()?) {
                *to = T::of_f64(self.function.slope_at(x.to_f64()) * by.to_f64());
            }
            Ok(())
        }, else => Err(OpError::new(format!("Slope does not take {}", x.dtype))))
    }
}

pub(crate) fn is_number(dtype: DType) -> bool {
    crate::dispatch_number!(dtype, T => size_of::<T>() > 0, else => false)
}

/// min(max(x, min), max) with bounds that are inputs: x, min?, max?, the bounds of one element
/// each. Any number type. Where the bounds cross, the upper one wins; NaN stays.
#[derive(Clone, Debug)]
pub struct Clip;

impl Clip {
    /// The bounds, when both are constant or absent: what this is as a [`Activation::Clamp`].
    pub fn bounds(
        min: Option<crate::TensorView<'_>>,
        max: Option<crate::TensorView<'_>>,
    ) -> OpResult<Activation> {
        let bound = |b: Option<crate::TensorView<'_>>, none| match b {
            Some(b) => Ok(b.scalar::<f32>()?),
            None => Ok(none),
        };
        Ok(Activation::Clamp {
            min: bound(min, f32::NEG_INFINITY)?,
            max: bound(max, f32::INFINITY)?,
        })
    }
}

impl Clip {
    /// The function that this is where its bounds are constant.
    fn constant_clamp(&self, g: &Gradient<'_>) -> OpResult<Option<Unary>> {
        let mut bounds = [None; 2];
        for (to, i) in bounds.iter_mut().zip([1, 2]) {
            let Some(bound) = g.opt_input(i) else { continue };
            let Some(data) = &g.graph.value(bound).data else { return Ok(None) };
            *to = Some(data.view());
        }
        if g.dtype(g.input(0)?) != DType::F32 {
            return Ok(None);
        }
        Ok(Clip::bounds(bounds[0], bounds[1])?.function())
    }
}

impl Op for Clip {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        for bound in [cx.opt(1), cx.opt(2)].into_iter().flatten() {
            if bound.dtype != ty.dtype {
                return Err(OpError::new(format!(
                    "a bound of {} for values of {}",
                    bound.dtype, ty.dtype
                )));
            }
        }
        if !is_number(ty.dtype) {
            return Err(OpError::new(format!("Clip does not take {}", ty.dtype)));
        }
        Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, mut dy) = (g.input(0)?, g.of_first()?);
        if let Some(clamp) = self.constant_clamp(g)? {
            let dx = g.slope(clamp, x, dy)?;
            return Ok(g.first_only(Some(dx)));
        }
        for (i, compare) in [(1, Compare::Greater), (2, Compare::Less)] {
            let Some(bound) = g.opt_input(i) else { continue };
            if g.wants(i) {
                return Err(OpError::new("has no gradient rule for its bounds"));
            }
            let inside = g.apply(compare, &[x, bound])?;
            dy = g.only_where(inside, dy)?;
        }
        Ok(g.first_only(Some(dy)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        crate::dispatch_number!(x.dtype, T => {
            let min = inputs.opt(1).map(|b| b.scalar::<T>()).transpose()?;
            let max = inputs.opt(2).map(|b| b.scalar::<T>()).transpose()?;
            let out = outputs.slice::<T>(0, x.dims)?;
            for (to, v) in out.iter_mut().zip(x.slice::<T>()?) {
                let above = min.filter(|min| *v < *min).unwrap_or(*v);
                *to = max.filter(|max| above > *max).unwrap_or(above);
            }
            Ok(())
        }, else => Err(OpError::new(format!("Clip does not take {}", x.dtype))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error};

    fn at(function: Unary, x: &[f32]) -> Vec<f32> {
        let x = Tensor::from_slice(&[x.len()], x).unwrap();
        eval(&function, &[x])[0].slice::<f32>().unwrap().to_vec()
    }

    fn near(found: &[f32], wanted: &[f32]) {
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() < 1e-6, "{found:?} is not {wanted:?}");
        }
        assert_eq!(found.len(), wanted.len());
    }

    #[test]
    fn values_worked_by_hand() {
        assert_eq!(at(Unary::Round, &[0.5, 1.5, 2.5, -0.5, -1.5]), [0.0, 2.0, 2.0, 0.0, -2.0]);
        assert_eq!(at(Unary::Sign, &[-3.0, 0.0, 0.2]), [-1.0, 0.0, 1.0]);
        assert_eq!(at(Unary::HardSwish, &[-4.0, -3.0, 0.0, 3.0, 5.0]), [0.0, 0.0, 0.0, 3.0, 5.0]);
        assert_eq!(at(Unary::LeakyRelu { alpha: 0.5 }, &[-2.0, 2.0]), [-1.0, 2.0]);
        assert_eq!(
            at(Unary::Shrink { lambda: 1.0, bias: 0.5 }, &[-2.0, 1.0, 2.0]),
            [-1.5, 0.0, 1.5]
        );
        near(&at(Unary::Softplus, &[0.0, 100.0, -100.0]), &[2f32.ln(), 100.0, 0.0]);
        near(&at(Unary::Gelu, &[1.0, -1.0]), &[0.841_344_7, -0.158_655_25]);
        near(&at(Unary::Erf, &[0.5]), &[0.520_499_9]);
        near(&at(Unary::Celu { alpha: 2.0 }, &[-2.0]), &[2.0 * (1f32 / 1f32.exp() - 1.0)]);
    }

    #[test]
    fn nan_stays() {
        for function in [Unary::Relu, Unary::Relu6, Unary::Sign, Unary::HardSwish] {
            assert!(at(function, &[f32::NAN])[0].is_nan(), "{function:?}");
        }
    }

    #[test]
    fn integers_where_they_make_sense() {
        let x = Tensor::from_slice(&[2], &[-128i8, 5]).unwrap();
        assert_eq!(
            eval(&Unary::Abs, std::slice::from_ref(&x))[0].slice::<i8>().unwrap(),
            [-128, 5]
        );
        assert_eq!(eval(&Unary::Relu, std::slice::from_ref(&x))[0].slice::<i8>().unwrap(), [0, 5]);
        assert!(eval_error(&Unary::Exp, &[x]).contains("does not take i8"));
    }

    #[test]
    fn clip_with_and_without_bounds() {
        let x = Tensor::from_slice(&[3], &[-2i32, 0, 2]).unwrap();
        let clip = |bounds: &[Option<Tensor>]| {
            let mut inputs = vec![Some(x.clone())];
            inputs.extend(bounds.iter().cloned());
            crate::ops::test::eval_opt(&Clip, &inputs, 1).unwrap()[0]
                .slice::<i32>()
                .unwrap()
                .to_vec()
        };
        assert_eq!(clip(&[Some(Tensor::scalar(-1)), Some(Tensor::scalar(1))]), [-1, 0, 1]);
        assert_eq!(clip(&[None, Some(Tensor::scalar(1))]), [-2, 0, 1]);
        assert_eq!(clip(&[Some(Tensor::scalar(1)), Some(Tensor::scalar(-1))]), [-1, -1, -1]);
        assert_eq!(clip(&[]), [-2, 0, 2]);
    }
}
