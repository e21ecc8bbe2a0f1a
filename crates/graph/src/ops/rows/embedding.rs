//! A row of a table for each token.

use super::weights::{check, decode_row};
use super::{f32_of, typed};
use crate::{Cost, DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Rows of a table, decoded. Inputs: ids, i32 [n]; the table [size, width] in any encoding.
/// Output: f32 [n, width]. An id of −1 gives zeros.
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

impl Op for Embedding {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ids = typed(cx, 0, DType::I32, 1)?;
        check(cx.dtype(1)?)?;
        match cx.dims(1)? {
            Some([_, width]) => Ok(f32_of(vec![ids[0].clone(), width.clone()])),
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
        let out = outputs.slice::<f32>(0, &[ids.len(), width])?;
        for (row, id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
            match usize::try_from(*id) {
                Err(_) => row.fill(0.0),
                Ok(id) if id < size => decode_row(&table, id, row)?,
                Ok(id) => return Err(OpError::new(format!("id {id} in a table of {size}"))),
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        // It reads as many rows as it writes, and not the table.
        let rows: Vec<_> = inputs.iter().take(1).copied().collect();
        Cost::traffic(&rows, outputs)
    }
}
