//! A part of a tensor written anew.

use super::broadcast::{Offsets, strides};
use super::movement::{fail, ints_in, whole, write_whole};
use crate::op::OpResult;
use crate::{InferCx, Inputs, Op, Outputs, ValueType};

/// Inputs: data, update (of the data's rank, no size larger), starts (integers, one for each
/// dimension). Output: the data, the update written over it from the starts, which are moved so
/// that it lies inside (TFLite and StableHLO `DYNAMIC_UPDATE_SLICE`).
#[derive(Clone, Debug, Default)]
pub struct UpdateSlice;

impl Op for UpdateSlice {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (data, update) = (cx.ty(0)?, cx.ty(1)?);
        if data.dtype != update.dtype {
            return fail(format!("{update} written over {data}"));
        }
        if let (Some(all), Some(part)) = (data.shape.dims(), update.shape.dims()) {
            let larger = all.iter().zip(part).any(|(all, part)| {
                all.fixed().zip(part.fixed()).is_some_and(|(all, part)| part > all)
            });
            if all.len() != part.len() || larger {
                return fail(format!("{update} does not fit into {data}"));
            }
        }
        Ok(vec![data.clone()])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, update) = (inputs.get(0)?, inputs.get(1)?);
        let starts = ints_in(inputs, 2)?;
        let fits = data.dims.len() == update.dims.len()
            && starts.len() == data.dims.len()
            && update.dims.iter().zip(data.dims).all(|(part, all)| part <= all);
        if !fits || data.dtype != update.dtype {
            let (d, u, n) = (data.dims, update.dims, starts.len());
            return fail(format!("sizes {u:?} written over {d:?} from {n} starts"));
        }
        let steps = strides(data.dims);
        let room = data.dims.iter().zip(update.dims).map(|(all, part)| all - part);
        let first: usize = starts
            .iter()
            .zip(room)
            .zip(&steps)
            .map(|((start, room), step)| (*start).clamp(0, room as i64) as usize * step)
            .sum();
        let (old, new) = (whole(&data), whole(&update));
        write_whole(outputs, 0, data.dtype, data.dims, |out| {
            out.copy_from_slice(&old.bytes);
            let from = new.bytes.chunks_exact(new.width);
            for ([at], element) in Offsets::new(update.dims, [&steps]).zip(from) {
                out[(first + at) * new.width..][..new.width].copy_from_slice(element);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{i, run, t};
    use super::*;

    #[test]
    fn an_update_past_the_end_is_moved_inside() {
        let data = t(&[3, 4], &[0f32; 12]);
        let update = t(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let at = |starts: &[i64]| run(&UpdateSlice, &[&data, &update, &i(starts)]);
        let rows = |row: [[f32; 4]; 3]| row.concat();
        let zeros = [0.0; 4];
        assert_eq!(
            at(&[1, 1]).unwrap().slice::<f32>().unwrap(),
            rows([zeros, [0.0, 1.0, 2.0, 0.0], [0.0, 3.0, 4.0, 0.0]])
        );
        assert_eq!(
            at(&[9, -5]).unwrap().slice::<f32>().unwrap(),
            rows([zeros, [1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]])
        );
        assert!(at(&[1]).is_err());
        assert!(run(&UpdateSlice, &[&update, &data, &i(&[0, 0])]).is_err());
    }
}
