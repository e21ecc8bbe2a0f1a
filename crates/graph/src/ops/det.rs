//! Determinants.

use super::convert::{floats, write_floats};
use crate::{InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

/// The determinant of each square matrix in the last two dimensions.
#[derive(Clone, Debug)]
pub struct Det;

impl Op for Det {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let shape = match cx.dims(0)? {
            None => Shape::unknown(),
            Some([outer @ .., _, _]) => Shape::new(outer.to_vec()),
            Some(dims) => {
                return Err(OpError::new(format!("{} dimensions hold no matrix", dims.len())));
            }
        };
        Ok(vec![ValueType::new(cx.dtype(0)?, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (outer, n) = match x.dims {
            [outer @ .., rows, n] if rows == n => (outer, *n),
            dims => return Err(OpError::new(format!("{dims:?} hold no square matrices"))),
        };
        let data = floats(&x)?;
        let out = outputs.bytes(0, x.dtype, outer)?;
        let count: usize = outer.iter().product();
        let of = |i: usize| determinant(data[i * n * n..][..n * n].to_vec(), n);
        write_floats(x.dtype, out, (0..count).map(of))
    }
}

/// By elimination, each column's largest element leading.
fn determinant(mut m: Vec<f64>, n: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..n {
        let size = |row: &usize| m[row * n + column].abs();
        let lead = (column..n).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        if lead != column {
            (0..n).for_each(|k| m.swap(lead * n + k, column * n + k));
            product = -product;
        }
        let pivot = m[column * n + column];
        product *= pivot;
        if pivot == 0.0 {
            return 0.0;
        }
        for row in column + 1..n {
            let factor = m[row * n + column] / pivot;
            for k in column..n {
                m[row * n + k] -= factor * m[column * n + k];
            }
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::determinant;

    #[test]
    fn by_hand() {
        assert_eq!(determinant(vec![], 0), 1.0);
        assert_eq!(determinant(vec![0.0, 1.0, 1.0, 0.0], 2), -1.0);
        assert_eq!(determinant(vec![1.0, 2.0, 2.0, 4.0], 2), 0.0);
        assert_eq!(determinant(vec![2.0, 0.0, 1.0, 0.0, 3.0, 0.0, 1.0, 0.0, 1.0], 3), 3.0);
    }
}
