//! A row of a table for each token.

use super::typed;
use super::weights::{check, decode_row};
use crate::number::Number;
use crate::ops::logic::Compare;
use crate::ops::scatter::ScatterNdZeros;
use crate::{
    Cost, DType, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Tensor,
    ValueType,
};

/// Rows of a table, decoded. Inputs: ids, i32 [n]; the table [size, width] in any encoding.
/// Output: f32 [n, width], of a table of f64 the same. An id of −1 gives zeros.
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

/// What rows of a table of `dtype` are decoded to.
fn decoded(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

impl Op for Embedding {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ids = typed(cx, 0, DType::I32, 1)?;
        check(cx.dtype(1)?)?;
        match cx.dims(1)? {
            Some([_, width]) => {
                let dims = vec![ids[0].clone(), width.clone()];
                Ok(vec![ValueType::new(decoded(cx.dtype(1)?), dims)])
            }
            _ => Err(OpError::new(format!("a table of {}: must have two dimensions", cx.ty(1)?))),
        }
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (ids, table) = (inputs.slice::<i32>(0)?, inputs.get(1)?);
        let [size, width] = *table.dims else {
            return Err(OpError::new("a table of one dimension"));
        };
        let mut row = vec![0.0; width];
        crate::dispatch!(decoded(table.dtype), T in [F64 f64, F32 f32] => {
            let out = outputs.slice::<T>(0, &[ids.len(), width])?;
            for (out, id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
                match usize::try_from(*id) {
                    Err(_) => row.fill(0.0),
                    Ok(id) if id < size => decode_row(&table, id, &mut row)?,
                    Ok(id) => return Err(OpError::new(format!("id {id} in a table of {size}"))),
                }
                out.iter_mut().zip(&row).for_each(|(o, v)| *o = T::of_f64(*v));
            }
            Ok(())
        }, else => unreachable!("rows are decoded to f32 or f64"))
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (ids, table, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        if g.dtype(table) != g.dtype(dy) {
            return Err(OpError::new(format!("a table of {} can't be trained", g.dtype(table))));
        }
        let none = g.graph.add_constant("", Tensor::scalar(0i32));
        let real = g.apply(Compare::GreaterOrEqual, &[ids, none])?;
        let real = g.unsqueezed(real, &[1])?;
        let rows = g.only_where(real, dy)?;
        // Rows of -1 add their zeros to the last one.
        let (ids, sizes) = (g.unsqueezed(ids, &[1])?, g.sizes_of(table)?);
        Ok(vec![None, Some(g.apply(ScatterNdZeros, &[ids, rows, sizes])?)])
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        // It reads as many rows as it writes, and not the table.
        let rows: Vec<_> = inputs.iter().take(1).copied().collect();
        Cost::traffic(&rows, outputs)
    }
}
