//! What a value is: element type, shape and quantisation.

use crate::{Bindings, DType, Dim};
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// Concrete sizes, outermost first.
pub type Dims = SmallVec<[usize; 6]>;

/// Elements of a tensor of these sizes, or `None` when the product overflows.
pub fn elements(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// Sizes that may be symbolic, or a rank not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Shape(Option<Vec<Dim>>);

impl Shape {
    /// A shape of which not even the rank is known.
    pub fn unknown() -> Shape {
        Shape(None)
    }

    /// A shape of the given sizes.
    pub fn new(dims: Vec<Dim>) -> Shape {
        Shape(Some(dims))
    }

    /// The sizes, when the rank is known.
    pub fn dims(&self) -> Option<&[Dim]> {
        self.0.as_deref()
    }

    /// The rank, when known.
    pub fn rank(&self) -> Option<usize> {
        self.0.as_ref().map(Vec::len)
    }

    /// The sizes, when every one is a number.
    pub fn fixed(&self) -> Option<Dims> {
        self.0.as_ref()?.iter().map(Dim::fixed).collect()
    }

    /// This shape with bound symbols replaced by their values.
    #[must_use]
    pub fn bind(&self, bindings: &Bindings) -> Shape {
        Shape(self.0.as_ref().map(|dims| dims.iter().map(|d| d.bind(bindings)).collect()))
    }

    /// Whether a tensor of sizes `dims` may have this shape: symbols match any size.
    pub fn admits(&self, dims: &[usize]) -> bool {
        self.0.as_ref().is_none_or(|own| {
            own.len() == dims.len()
                && own.iter().zip(dims).all(|(d, n)| d.fixed().is_none_or(|d| d == *n))
        })
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape(Some(dims.iter().map(|d| Dim::from(*d)).collect()))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("[?]"),
            Some(dims) => {
                f.write_str("[")?;
                for (i, d) in dims.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{d}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// Affine quantisation: real = scale × (stored − zero point).
#[derive(Clone, Debug, PartialEq)]
pub struct Quant {
    /// One scale, or one for each index of `axis`.
    pub scale: Vec<f32>,
    /// One zero point, or one for each index of `axis`.
    pub zero_point: Vec<i32>,
    /// The dimension along which scales differ; `None`: one for the whole tensor.
    pub axis: Option<usize>,
}

impl Quant {
    /// One scale and zero point for a whole tensor.
    pub fn per_tensor(scale: f32, zero_point: i32) -> Quant {
        Quant { scale: vec![scale], zero_point: vec![zero_point], axis: None }
    }

    /// The scale at index `i` of the axis.
    pub fn scale_at(&self, i: usize) -> f32 {
        self.scale[if self.scale.len() == 1 { 0 } else { i }]
    }

    /// The zero point at index `i` of the axis.
    pub fn zero_point_at(&self, i: usize) -> i32 {
        self.zero_point[if self.zero_point.len() == 1 { 0 } else { i }]
    }

    /// The scale and zero point, when there is just one of each.
    pub fn single(&self) -> Option<(f32, i32)> {
        match (self.scale.as_slice(), self.zero_point.as_slice()) {
            ([s], [z]) => Some((*s, *z)),
            _ => None,
        }
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.single(), self.axis) {
            (Some((s, z)), _) => write!(f, "q({s}, {z})"),
            (None, Some(axis)) => write!(f, "q(axis {axis})"),
            (None, None) => f.write_str("q(?)"),
        }
    }
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueType {
    /// Stored element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
    /// How stored integers stand for real numbers, if they do.
    pub quant: Option<Arc<Quant>>,
}

impl ValueType {
    /// An unquantised type.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> ValueType {
        ValueType { dtype, shape: shape.into(), quant: None }
    }

    /// The same type with another shape.
    #[must_use]
    pub fn with_shape(&self, shape: impl Into<Shape>) -> ValueType {
        ValueType { shape: shape.into(), ..self.clone() }
    }

    /// Bytes that a value of this type takes, when its sizes are known and fit.
    pub fn bytes(&self) -> Option<usize> {
        self.dtype.bytes(elements(&self.shape.fixed()?)?)
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Shape {
        Shape::new(dims)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)?;
        match &self.quant {
            Some(q) => write!(f, " {q}"),
            None => Ok(()),
        }
    }
}
