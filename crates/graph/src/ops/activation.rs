//! The function that an op may apply to its result before storing it.

use crate::DType;
use crate::number::Number;
use crate::ops::unary::Unary;

/// A function applied to each element of an op's result, fused into the op. Ops on
/// quantised integers clamp instead.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// The result as it is.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// min(max(x, −1), 1).
    ReluN1To1,
    /// min(max(x, `min`), `max`).
    Clamp {
        /// The lower bound; may be −∞.
        min: f32,
        /// The upper bound; may be ∞.
        max: f32,
    },
    /// Any other function.
    Function(Unary),
}

impl Activation {
    /// The activation that `function` is.
    pub fn of(function: Unary) -> Activation {
        match function {
            Unary::Relu => Activation::Relu,
            Unary::Relu6 => Activation::Relu6,
            Unary::ReluN1To1 => Activation::ReluN1To1,
            Unary::Relu0To1 => Activation::Clamp { min: 0.0, max: 1.0 },
            Unary::Clamp { min, max } => Activation::Clamp { min, max },
            other => Activation::Function(other),
        }
    }

    /// The function that this is; `None` for none.
    pub fn function(self) -> Option<Unary> {
        match self {
            Activation::None => None,
            Activation::Relu => Some(Unary::Relu),
            Activation::Relu6 => Some(Unary::Relu6),
            Activation::ReluN1To1 => Some(Unary::ReluN1To1),
            Activation::Clamp { min, max } => Some(Unary::Clamp { min, max }),
            Activation::Function(function) => Some(function),
        }
    }

    /// The bounds, for those that only clamp (`None` of them: infinite bounds).
    pub fn clamp(self) -> Option<(f32, f32)> {
        match self {
            Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Activation::Relu => Some((0.0, f32::INFINITY)),
            Activation::Relu6 => Some((0.0, 6.0)),
            Activation::ReluN1To1 => Some((-1.0, 1.0)),
            Activation::Clamp { min, max } => Some((min, max)),
            Activation::Function(_) => None,
        }
    }

    /// This and then `function` as one activation, if it can be one.
    pub fn then(self, function: Unary) -> Option<Activation> {
        let next = Activation::of(function);
        if self == Activation::None {
            return Some(next);
        }
        // Two clamps are one, whose bounds the second clamps.
        let ((low, high), (min, max)) = (self.clamp()?, next.clamp()?);
        let (min, max) = (low.max(min).min(max), high.max(min).min(max));
        Some(
            [Activation::Relu, Activation::Relu6, Activation::ReluN1To1]
                .into_iter()
                .find(|a| a.clamp() == Some((min, max)))
                .unwrap_or(Activation::Clamp { min, max }),
        )
    }

    /// Whether it may follow an op whose result is of `dtype`.
    pub fn takes(self, dtype: DType) -> bool {
        dtype.is_float() || self.function().is_none_or(|f| f.at_integer(0).is_some())
    }

    /// Its value at a result of an op, rounded to the element type before and after: what the
    /// function would make of it as an op of its own.
    pub(crate) fn on<T: Number>(self, result: T::Wide) -> T {
        let result = T::narrow(result);
        self.function().map_or(result, |f| f.on_element(result))
    }

    /// Its value at `x`.
    pub fn at(self, x: f64) -> f64 {
        self.function().map_or(x, |f| f.at(x))
    }
}

impl From<Unary> for Activation {
    fn from(function: Unary) -> Activation {
        Activation::of(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamps_agree_with_their_functions() {
        for activation in [Activation::Relu, Activation::Relu6, Activation::ReluN1To1] {
            let (min, max) = activation.clamp().unwrap();
            for x in [-7.0, -0.5, 0.5, 7.0] {
                assert_eq!(activation.at(x), x.clamp(min.into(), max.into()));
            }
            assert_eq!(Activation::of(activation.function().unwrap()), activation);
        }
        assert_eq!(Activation::of(Unary::Silu).clamp(), None);
    }

    #[test]
    fn two_clamps_are_one() {
        let relu = Activation::of(Unary::Relu);
        assert_eq!(relu.then(Unary::Relu6), Some(Activation::Relu6));
        let above = relu.then(Unary::Clamp { min: -2.0, max: -1.0 }).unwrap();
        assert_eq!(above, Activation::Clamp { min: -1.0, max: -1.0 });
        assert_eq!(relu.then(Unary::Silu), None);
        assert_eq!(Activation::None.then(Unary::Silu), Some(Activation::of(Unary::Silu)));
    }
}
