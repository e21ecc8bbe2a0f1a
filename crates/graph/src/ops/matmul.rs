//! The matrix product.

use crate::number::{Number, Wide};
use crate::ops::activation::Activation;
use crate::ops::broadcast::{Offsets, broadcast_dim, broadcast_dims, broadcast_shapes};
use crate::ops::unary::{Unary, is_number};
use crate::{
    Cost, DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueType,
};
use crate::{TensorView, elements};
use half::bf16;
use std::sync::Arc;

/// a × b + bias, for a, b, bias? of one number type. NumPy's `matmul`: leading dimensions
/// broadcast, and an operand of rank 1 is a row (a) or a column (b) whose dimension of 1 is left
/// out of the result. The bias broadcasts to the result. ONNX `MatMul` and `Gemm`; TFLite
/// `FULLY_CONNECTED` and `BATCH_MATMUL`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MatMul {
    /// Swap the last two dimensions of a first (rank 2 or more).
    pub transpose_a: bool,
    /// Swap the last two dimensions of b first (rank 2 or more).
    pub transpose_b: bool,
    /// Applied to the result.
    pub activation: Activation,
    /// Whether a and b are of bf16 and what is computed of them, and the bias, of f32: a product of
    /// mixed precision.
    pub wide: bool,
}

/// An operand's leading dimensions, rows and columns after transposition.
struct Operand<T> {
    lead: Vec<T>,
    rows: T,
    columns: T,
}

fn operand<T: Clone>(dims: &[T], one: T, transpose: bool, row: bool) -> OpResult<Operand<T>> {
    let (lead, rows, columns) = match dims {
        [] => return Err(OpError::new("a matrix product of a scalar")),
        [n] if row => (&[][..], one, n.clone()),
        [n] => (&[][..], n.clone(), one),
        [lead @ .., r, c] if transpose => (lead, c.clone(), r.clone()),
        [lead @ .., r, c] => (lead, r.clone(), c.clone()),
    };
    Ok(Operand { lead: lead.to_vec(), rows, columns })
}

impl MatMul {
    /// a × b.
    pub fn new() -> MatMul {
        MatMul::default()
    }

    fn shape(&self, a: &[Dim], b: &[Dim]) -> OpResult<Vec<Dim>> {
        let left = operand(a, Dim::from(1), self.transpose_a, true)?;
        let right = operand(b, Dim::from(1), self.transpose_b, false)?;
        if let (Some(k), Some(l)) = (left.columns.fixed(), right.rows.fixed())
            && k != l
        {
            return Err(OpError::new(format!("a has {k} columns and b {l} rows: must be equal")));
        }
        let lead = broadcast_shapes(&[&left.lead.into(), &right.lead.into()])?;
        let mut out = lead.dims().unwrap_or_default().to_vec();
        out.extend((a.len() > 1).then_some(left.rows));
        out.extend((b.len() > 1).then_some(right.columns));
        Ok(out)
    }

    /// Of elements `T`, results of `O`.
    fn multiply<T: Number, O: Number<Wide = T::Wide>>(
        &self,
        a: TensorView<'_>,
        b: TensorView<'_>,
        bias: Option<TensorView<'_>>,
        dims: &[usize],
        out: &mut [O],
    ) -> OpResult {
        let left = operand(a.dims, 1, self.transpose_a, true)?;
        let right = operand(b.dims, 1, self.transpose_b, false)?;
        let lead = broadcast_dims(&[&left.lead, &right.lead])?;
        let (m, k, n) = (left.rows, left.columns, right.columns);
        let turned = self.transpose_a && a.dims.len() > 1;
        let (a, b) = (a.slice::<T>()?, b.slice::<T>()?);
        let (a_row, a_column) = if turned { (1, m) } else { (k, 1) };
        let (b_row, b_column) = if self.transpose_b { (1, k) } else { (n, 1) };
        let matrices = Offsets::broadcast(&lead, [&left.lead, &right.lead]);
        let mut sums = Vec::with_capacity(out.len());
        for [i, j] in matrices {
            let (a, b) = (&a[i * m * k..][..m * k], &b[j * k * n..][..k * n]);
            for row in 0..m {
                for column in 0..n {
                    sums.push((0..k).fold(T::Wide::ZERO, |sum, x| {
                        let a = a[row * a_row + x * a_column].wide();
                        sum.add(a.mul(b[x * b_row + column * b_column].wide()))
                    }));
                }
            }
        }
        if let Some(bias) = bias {
            let at = Offsets::broadcast(dims, [bias.dims]);
            let bias = bias.slice::<O>()?;
            for (sum, [i]) in sums.iter_mut().zip(at) {
                *sum = sum.add(bias[i].wide());
            }
        }
        for (to, sum) in out.iter_mut().zip(sums) {
            *to = self.activation.on(sum);
        }
        Ok(())
    }
}

impl Op for MatMul {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let from = cx.dtype(0)?;
        let dtype = if self.wide { DType::F32 } else { from };
        let odd = [(1, from), (2, dtype)].into_iter().find_map(|(i, wanted)| {
            cx.opt(i).filter(|ty| ty.dtype != wanted).map(|ty| (ty, wanted))
        });
        if let Some((odd, wanted)) = odd {
            return Err(OpError::new(format!("takes {odd} where {wanted} is wanted")));
        }
        let mixed = !self.wide || from == DType::BF16;
        if !mixed || !is_number(dtype) || !self.activation.takes(dtype) {
            return Err(OpError::new(format!("{self:?} does not take {from}")));
        }
        let (Some(a), Some(b)) = (cx.dims(0)?, cx.dims(1)?) else {
            return Ok(vec![ValueType::new(dtype, Shape::unknown())]);
        };
        let out = self.shape(a, b)?;
        if let Some(Some(bias)) = cx.opt(2).map(|ty| ty.shape.dims()) {
            let lead = out.len().checked_sub(bias.len());
            let fits = lead.is_some_and(|lead| {
                bias.iter()
                    .zip(&out[lead..])
                    .all(|(b, o)| broadcast_dim(b, o).is_ok_and(|d| d == *o || o.fixed().is_none()))
            });
            if !fits {
                return Err(OpError::new(format!(
                    "a bias of {} for a result of {}",
                    Shape::new(bias.to_vec()),
                    Shape::new(out)
                )));
            }
        }
        Ok(vec![ValueType::new(dtype, out)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        if self.wide {
            let m =
                "has no gradient rule in mixed precision: round products once there are gradients";
            return Err(OpError::new(m));
        }
        let (a, b) = (g.input(0)?, g.input(1)?);
        let dy = g.of_first()?;
        let plain = MatMul { activation: Activation::None, ..*self };
        let dy = g.before(self.activation, dy, || Arc::new(plain))?;
        let mut gradients = vec![None; g.inputs()];
        if let (Some(bias), true) = (g.opt_input(2), g.wants(2)) {
            let y = g.output(0);
            gradients[2] = Some(g.summed_to(dy, y, bias)?);
        }
        // A vector is a matrix of one row or column, whose gradient is told the vector's sizes last.
        let (rank_a, rank_b) = (g.rank(a)?, g.rank(b)?);
        let (a_matrix, b_matrix) = (
            if rank_a == 1 { g.unsqueezed(a, &[0])? } else { a },
            if rank_b == 1 { g.unsqueezed(b, &[1])? } else { b },
        );
        let mut of_matrix = dy;
        if rank_b == 1 {
            let last = g.rank(of_matrix)?;
            of_matrix = g.unsqueezed(of_matrix, &[last])?;
        }
        if rank_a == 1 {
            let before_last = g.rank(of_matrix)? - 1;
            of_matrix = g.unsqueezed(of_matrix, &[before_last])?;
        }
        let (ta, tb) = (self.transpose_a && rank_a > 1, self.transpose_b && rank_b > 1);
        let product =
            |transpose_a, transpose_b| MatMul { transpose_a, transpose_b, ..MatMul::new() };
        if g.wants(0) {
            let wide = match ta {
                false => g.apply(product(false, !tb), &[of_matrix, b_matrix])?,
                true => g.apply(product(tb, true), &[b_matrix, of_matrix])?,
            };
            let summed = g.summed_to(wide, wide, a_matrix)?;
            gradients[0] = Some(g.reshaped_like(summed, a)?);
        }
        if g.wants(1) {
            // One matrix for all of a batch: its rows are multiplied as one.
            let shared = rank_b <= 2 && rank_a > 2 && !ta;
            let (a_rows, dy_rows) = match shared {
                true => (g.rows(a_matrix)?, g.rows(of_matrix)?),
                false => (a_matrix, of_matrix),
            };
            let wide = match tb {
                false => g.apply(product(!ta, false), &[a_rows, dy_rows])?,
                true => g.apply(product(true, ta), &[dy_rows, a_rows])?,
            };
            let summed = g.summed_to(wide, wide, b_matrix)?;
            gradients[1] = Some(g.reshaped_like(summed, b)?);
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let dims = &outputs.dims(self, inputs)?[0];
        if self.wide && a.dtype == DType::BF16 {
            let out = outputs.slice::<f32>(0, dims)?;
            return self.multiply::<bf16, f32>(a, b, inputs.opt(2), dims, out);
        }
        crate::dispatch_number!(a.dtype, T => {
            self.multiply::<T, T>(a, b, inputs.opt(2), dims, outputs.slice::<T>(0, dims)?)
        }, else => Err(OpError::new(format!("MatMul does not take {}", a.dtype))))
    }

    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        let activation = self.activation.then(function)?;
        Some(Arc::new(MatMul { activation, ..*self }))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let a = inputs.first().copied().flatten().and_then(|ty| ty.shape.fixed());
        let depth = a.and_then(|a| {
            operand(&a, 1, self.transpose_a, true).ok().map(|operand| operand.columns)
        });
        let outs = outputs.first().and_then(|y| elements(&y.shape.fixed()?));
        let macs = depth.zip(outs).map_or(0, |(k, n)| (k as u64).saturating_mul(n as u64));
        Cost::traffic(inputs, outputs).with_macs(macs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error};

    fn f32s(dims: &[usize], data: &[f32]) -> Tensor {
        Tensor::from_slice(dims, data).unwrap()
    }

    #[test]
    fn every_transposition_of_one_product() {
        let (a, at) =
            (f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.]), f32s(&[3, 2], &[1., 4., 2., 5., 3., 6.]));
        let (b, bt) = (f32s(&[3, 1], &[1., 10., 100.]), f32s(&[1, 3], &[1., 10., 100.]));
        for (transpose_a, transpose_b) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let op = MatMul { transpose_a, transpose_b, ..MatMul::new() };
            let a = if transpose_a { &at } else { &a };
            let b = if transpose_b { &bt } else { &b };
            let out = eval(&op, &[a.clone(), b.clone()]);
            assert_eq!(out[0].dims(), [2, 1]);
            assert_eq!(out[0].slice::<f32>().unwrap(), [321., 654.], "{op:?}");
        }
    }

    #[test]
    fn vectors_and_batches() {
        let op = MatMul::new();
        let v = f32s(&[2], &[1., 2.]);
        let m = f32s(&[2, 2, 2], &[1., 0., 0., 1., 0., 1., 1., 0.]);
        let out = eval(&op, &[v.clone(), m.clone()]);
        assert_eq!(
            (out[0].dims(), out[0].slice().unwrap()),
            (&[2, 2][..], &[1f32, 2., 2., 1.][..])
        );
        let out = eval(&op, &[m, v.clone()]);
        assert_eq!(out[0].slice::<f32>().unwrap(), [1., 2., 2., 1.]);
        let out = eval(&op, &[v.clone(), v]);
        assert_eq!((out[0].dims(), out[0].slice().unwrap()), (&[][..], &[5f32][..]));
    }

    #[test]
    fn bias_and_activation() {
        let op = MatMul { activation: Activation::Relu, ..MatMul::new() };
        let a = f32s(&[2, 1], &[1., -1.]);
        let out = eval(&op, &[a, f32s(&[1, 2], &[2., 3.]), f32s(&[2], &[0., 1.])]);
        assert_eq!(out[0].slice::<f32>().unwrap(), [2., 4., 0., 0.]);
    }

    #[test]
    fn mixed_precision_keeps_what_bf16_would_lose() {
        let bf16s = |dims: &[usize], data: &[f32]| {
            let data: Vec<bf16> = data.iter().map(|x| bf16::from_f32(*x)).collect();
            Tensor::from_slice(dims, &data).unwrap()
        };
        let op = MatMul { wide: true, ..MatMul::new() };
        // 1 + 2⁻⁷ is the bf16 after 1; its square takes 15 bits, and the sum 24.
        let next = 1.0 + 1.0 / 128.0;
        let (a, b) = (bf16s(&[1, 2], &[next, 1.0]), bf16s(&[2, 1], &[next, 256.0]));
        let bias = f32s(&[1], &[1.0 / 16384.0]);
        let out = eval(&op, &[a.clone(), b.clone(), bias]);
        assert_eq!(out[0].slice::<f32>().unwrap(), [257.0 + 1.0 / 64.0 + 1.0 / 8192.0]);
        let narrow = eval(&MatMul::new(), &[a.clone(), b.clone()]);
        assert_eq!(narrow[0].dtype(), DType::BF16);
        assert!(eval_error(&op, &[f32s(&[1, 1], &[1.0]), f32s(&[1, 1], &[1.0])]).contains("f32"));
        assert!(eval_error(&op, &[a, b, bf16s(&[1], &[1.0])]).contains("where f32 is wanted"));
    }

    #[test]
    fn integers_wrap() {
        let a = Tensor::from_slice(&[1, 2], &[i32::MAX, 1]).unwrap();
        let b = Tensor::from_slice(&[2, 1], &[1i32, 1]).unwrap();
        assert_eq!(eval(&MatMul::new(), &[a, b])[0].slice::<i32>().unwrap(), [i32::MIN]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let (a, b) = (f32s(&[2, 3], &[0.; 6]), f32s(&[2, 2], &[0.; 4]));
        assert!(eval_error(&MatMul::new(), &[a.clone(), b]).contains("3 columns and b 2 rows"));
        let b = f32s(&[3, 2], &[0.; 6]);
        let bias = f32s(&[2, 2, 2], &[0.; 8]);
        assert!(eval_error(&MatMul::new(), &[a, b, bias]).contains("a bias of"));
    }
}
