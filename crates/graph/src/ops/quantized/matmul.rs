//! Matrix product of quantised tensors.

use super::{Clamp, Factors, Rescale, quantized_input, single, store, stored};
use crate::ops::broadcast::{Offsets, broadcast_dims, broadcast_shapes};
use crate::{
    Cost, DType, Dim, Dims, InferCx, Inputs, Op, OpError, OpResult, Outputs, Quant, Shape,
};
use crate::{TensorView, ValueType, elements};

/// `a [.., m, k] × b [.., k, n] (+ bias [n])`, leading dimensions broadcast like NumPy's.
///
/// `a` is int8, uint8 or int16 with one scale; `b` int8, uint8, int16 or int4 with one scale or,
/// when it has two dimensions, one for each of the n columns. The bias (input 2, optional) is
/// int32, or int64 with 16-bit activations, at scale `a × b`. The accumulator is 32 bits wide, 64
/// with 16-bit activations unless there is an int32 bias.
#[derive(Clone, Debug)]
pub struct QMatMul {
    /// `a` is stored as [.., k, m].
    pub transpose_a: bool,
    /// `b` is stored as [.., n, k].
    pub transpose_b: bool,
    /// Element type of the output.
    pub to: DType,
    /// Limits of the stored result.
    pub clamp: Clamp,
    /// How the accumulator is brought to the output's scale.
    pub rescale: Rescale,
}

impl QMatMul {
    /// The factors from accumulators to outputs. ONNX multiplies scales in single precision; so
    /// does TFLite where both operands have one.
    pub fn factors(&self, a: &Quant, b: &Quant, out: &Quant) -> OpResult<Factors> {
        let (a, out) = (single(a)?.0, single(out)?.0);
        match b.scale.as_slice() {
            [b] => self.rescale.factors([f64::from(a * b) / f64::from(out)].into_iter()),
            many => self.rescale.factors(many.iter().map(|b| match self.rescale {
                Rescale::Float => f64::from(a * b) / f64::from(out),
                _ => f64::from(a) * f64::from(*b) / f64::from(out),
            })),
        }
    }
}

/// The sizes [rows, columns] of the last two dimensions, the first where it is stored transposed.
fn matrix<T: Clone>(dims: &[T], transposed: bool) -> OpResult<[T; 2]> {
    match dims {
        [.., r, c] if transposed => Ok([c.clone(), r.clone()]),
        [.., r, c] => Ok([r.clone(), c.clone()]),
        _ => Err(OpError::new("a matrix product needs two dimensions at least")),
    }
}

impl Op for QMatMul {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (a, b) = (quantized_input(cx, 0)?, quantized_input(cx, 1)?);
        Clamp::of(self.to)?;
        let (Some(ad), Some(bd)) = (a.shape.dims(), b.shape.dims()) else {
            return Ok(vec![ValueType::new(self.to, Shape::unknown())]);
        };
        let ([m, k], [k2, n]) = (matrix(ad, self.transpose_a)?, matrix(bd, self.transpose_b)?);
        if k.fixed().zip(k2.fixed()).is_some_and(|(a, b)| a != b) {
            return Err(OpError::new(format!("inner sizes {k} and {k2} differ")));
        }
        check_scales(b.quant.as_deref(), bd.len(), self.transpose_b)?;
        Bias::check(cx.opt(2), Some(&n))?;
        let lead = |dims: &[Dim]| Shape::new(dims[..dims.len() - 2].to_vec());
        let shape = broadcast_shapes(&[&lead(ad), &lead(bd)])?;
        let mut dims = shape.dims().unwrap_or_default().to_vec();
        dims.extend([m, n]);
        Ok(vec![ValueType::new(self.to, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let (_, a_zero) = single(inputs.quant(0)?)?;
        let b_quant = inputs.quant(1)?;
        let (_, out_zero) = single(outputs.quant(0)?)?;
        let factors = self.factors(inputs.quant(0)?, b_quant, outputs.quant(0)?)?;
        let ([m, k], [k2, n]) =
            (matrix(a.dims, self.transpose_a)?, matrix(b.dims, self.transpose_b)?);
        check_scales(Some(b_quant), b.dims.len(), self.transpose_b)?;
        if k != k2 {
            return Err(OpError::new(format!("inner sizes {k} and {k2} differ")));
        }
        let bias = Bias::of(inputs.opt(2), n)?;
        let wide = a.dtype == DType::I16 && !bias.narrow;
        let (av, bv) = (stored(&a)?, stored(&b)?);
        let lead_a = &a.dims[..a.dims.len() - 2];
        let lead_b = &b.dims[..b.dims.len() - 2];
        let lead = broadcast_dims(&[lead_a, lead_b])?;
        let mut dims: Dims = lead.clone();
        dims.extend([m, n]);
        // Strides of one step along k and along the other dimension.
        let (a_row, a_step) = if self.transpose_a { (1, m) } else { (k, 1) };
        let (b_col, b_step) = if self.transpose_b { (k, 1) } else { (1, n) };
        let mut result = Vec::new();
        let mut row = vec![0i32; k];
        for [i, j] in Offsets::broadcast(&lead, [lead_a, lead_b]) {
            for r in 0..m {
                for (s, x) in row.iter_mut().enumerate() {
                    *x = av[i * m * k + r * a_row + s * a_step].wrapping_sub(a_zero);
                }
                for c in 0..n {
                    let b_zero = b_quant.zero_point_at(c);
                    let column =
                        (0..k).map(|s| bv[j * k * n + c * b_col + s * b_step].wrapping_sub(b_zero));
                    let products = row.iter().zip(column);
                    let value = if wide {
                        let acc: i64 = products.map(|(x, y)| i64::from(*x) * i64::from(y)).sum();
                        factors.apply_i64(c, acc.wrapping_add(bias.at(c)))
                    } else {
                        let acc =
                            products.fold(0i32, |acc, (x, y)| acc.wrapping_add(x.wrapping_mul(y)));
                        factors.apply(c, acc.wrapping_add(bias.at(c) as i32))
                    };
                    result.push(self.clamp.apply(value.saturating_add(out_zero)));
                }
            }
        }
        store(outputs, 0, self.to, &dims, &result)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let out = outputs.first().and_then(|ty| ty.shape.fixed());
        let a = inputs.first().copied().flatten().and_then(|ty| ty.shape.fixed());
        let k = a.and_then(|a| matrix(&a, self.transpose_a).ok()).map_or(0, |[_, k]| k);
        let macs = out.map_or(0, |d| d.iter().map(|n| *n as u64).product::<u64>());
        Cost::traffic(inputs, outputs).with_macs(macs.saturating_mul(k as u64))
    }
}

/// Several scales of `b` belong to its columns.
fn check_scales(quant: Option<&Quant>, rank: usize, transposed: bool) -> OpResult {
    let columns = if transposed { rank.wrapping_sub(2) } else { rank.wrapping_sub(1) };
    match quant {
        Some(q) if q.scale.len() > 1 && (q.axis != Some(columns) || rank != 2) => {
            Err(OpError::new("its weights' scales do not belong to their columns"))
        }
        _ => Ok(()),
    }
}

/// A bias at the accumulator's scale.
pub(super) struct Bias {
    values: Vec<i64>,
    /// It is there and of 32 bits.
    pub(super) narrow: bool,
}

impl Bias {
    /// Reads an optional bias of `len` values.
    pub(super) fn of(view: Option<TensorView<'_>>, len: usize) -> OpResult<Bias> {
        let Some(view) = view else {
            return Ok(Bias { values: Vec::new(), narrow: false });
        };
        if view.len() != len {
            return Err(OpError::new(format!(
                "its bias has {} values for {len} channels",
                view.len()
            )));
        }
        match view.dtype {
            DType::I32 | DType::I64 => {
                Ok(Bias { values: view.ints()?, narrow: view.dtype == DType::I32 })
            }
            other => Err(OpError::new(format!("its bias is {other}, neither i32 nor i64"))),
        }
    }

    /// The shape rule's part of [`Bias::of`]: as many values as there are channels, where both are
    /// known.
    pub(super) fn check(ty: Option<&ValueType>, channels: Option<&Dim>) -> OpResult {
        let values = ty.and_then(|ty| elements(&ty.shape.fixed()?));
        match values.zip(channels.and_then(Dim::fixed)) {
            Some((values, channels)) if values != channels => {
                Err(OpError::new(format!("its bias has {values} values for {channels} channels")))
            }
            _ => Ok(()),
        }
    }

    /// The bias of channel `c`.
    pub(super) fn at(&self, c: usize) -> i64 {
        self.values.get(c).copied().unwrap_or(0)
    }
}
