//! Of boxes that overlap, only the best.

use super::{Corners, better};
use crate::op::{OpError, OpResult};
use crate::ops::movement::fail;
use crate::{DType, Dim, InferCx, Inputs, Op, Outputs, TensorView, ValueType};

/// Inputs: boxes `[batch, n, 4]`, scores `[batch, classes, n]` (both f32), most boxes for each
/// class (one integer, optional: 0), overlap from which on a box is dropped (f32, optional: 0),
/// score that a box must exceed (f32, optional: none). Output: i64 rows of batch, class and box,
/// the best of each class first (ONNX `NonMaxSuppression`).
#[derive(Clone, Debug, Default)]
pub struct NonMaxSuppression {
    /// Whether boxes are (x centre, y centre, width, height) and not two corners (y, x, y, x).
    pub centred: bool,
}

/// Inputs: boxes `[n, 4]` as two corners, scores `[n]` (both f32), most boxes (one integer),
/// overlap from which on a box is dropped, score that a box must exceed (f32), and sigma of the
/// Gaussian by which overlaps lower scores (f32, optional: 0, none).
///
/// Outputs: i32 indices, best first; their scores (f32, only where the node has three outputs);
/// how many there are (i32 scalar). Unused places are 0 (TFLite `NON_MAX_SUPPRESSION_V4`, `_V5`;
/// Bodla et al. 2017).
#[derive(Clone, Debug, Default)]
pub struct SoftNonMaxSuppression;

fn optional_f32(inputs: &Inputs<'_>, i: usize) -> OpResult<Option<f32>> {
    inputs.opt(i).filter(|t| !t.is_empty()).map(|t| t.scalar::<f32>()).transpose()
}

fn limit(view: Option<TensorView<'_>>) -> OpResult<usize> {
    match view.map(|v| v.ints()).transpose()?.as_deref() {
        None | Some([]) => Ok(0),
        Some([n]) => Ok(usize::try_from(*n).unwrap_or(0)),
        Some(many) => fail(format!("expected one limit, found {}", many.len())),
    }
}

fn check_dims(what: &str, view: &TensorView<'_>, fits: bool) -> OpResult {
    if fits { Ok(()) } else { fail(format!("{what} of sizes {:?}", view.dims)) }
}

impl NonMaxSuppression {
    /// Calls `found` with batch, class and box of what is kept.
    fn select(&self, inputs: &Inputs<'_>, mut found: impl FnMut([usize; 3])) -> OpResult {
        let (boxes, scores) = (inputs.get(0)?, inputs.get(1)?);
        let ([batch, n, four], [batches, classes, each]) = (boxes.dims, scores.dims) else {
            return fail(format!("boxes {:?} with scores {:?}", boxes.dims, scores.dims));
        };
        check_dims("boxes", &boxes, *four == 4 && batch == batches && n == each)?;
        let (corners, scores) = (boxes.slice::<f32>()?, scores.slice::<f32>()?);
        let most = limit(inputs.opt(2))?;
        let (overlap, least) = (optional_f32(inputs, 3)?.unwrap_or(0.0), optional_f32(inputs, 4)?);
        let corners = |b: usize, i: usize| {
            let c = &corners[(b * n + i) * 4..][..4];
            if self.centred { Corners::centred(c) } else { Corners::sorted(c) }
        };
        let mut candidates: Vec<(f32, usize)> = Vec::new();
        let mut kept: Vec<Corners> = Vec::new();
        for b in 0..*batch {
            for class in 0..*classes {
                let scores = &scores[(b * classes + class) * n..][..*n];
                candidates.clear();
                kept.clear();
                candidates.extend(scores.iter().copied().zip(0..));
                candidates.retain(|(score, _)| least.is_none_or(|least| *score > least));
                candidates.sort_unstable_by(|x, y| better(*x, *y));
                for (_, i) in &candidates {
                    if kept.len() >= most {
                        break;
                    }
                    let new = corners(b, *i);
                    if kept.iter().all(|k| k.overlap(&new) <= overlap) {
                        kept.push(new);
                        found([b, class, *i]);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Op for NonMaxSuppression {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(0)?;
        cx.ty(1)?;
        Ok(vec![ValueType::new(DType::I64, vec![cx.unknown_dim(), Dim::from(3)])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let mut rows: Vec<[usize; 3]> = Vec::new();
        self.select(inputs, |row| rows.push(row))?;
        let out = outputs.slice::<i64>(0, &[rows.len(), 3])?;
        out.iter_mut().zip(rows.as_flattened()).for_each(|(o, v)| *o = *v as i64);
        Ok(())
    }
}

impl Op for SoftNonMaxSuppression {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let most = match cx.data(2) {
            Some(most) => Dim::from(limit(Some(most))?),
            None => cx.unknown_dim(),
        };
        let count = ValueType::new(DType::I32, Vec::new());
        let indices = ValueType::new(DType::I32, vec![most.clone()]);
        match cx.outputs() {
            2 => Ok(vec![indices, count]),
            3 => Ok(vec![indices, ValueType::new(DType::F32, vec![most]), count]),
            n => fail(format!("{n} outputs")),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (boxes, scores) = (inputs.get(0)?, inputs.get(1)?);
        let n = scores.dims.first().copied().unwrap_or(0);
        check_dims("boxes", &boxes, boxes.dims == [n, 4])?;
        check_dims("scores", &scores, scores.dims.len() == 1)?;
        let (boxes, scores) = (boxes.slice::<f32>()?, scores.slice::<f32>()?);
        let most = limit(inputs.opt(2))?;
        let threshold = |i: usize| {
            optional_f32(inputs, i)?.ok_or_else(|| OpError::new(format!("threshold {i} is empty")))
        };
        let (overlap, least) = (threshold(3)?, threshold(4)?);
        let sigma = optional_f32(inputs, 5)?.unwrap_or(0.0);
        let corners = |i: usize| Corners::sorted(&boxes[i * 4..][..4]);
        // Score, box, and how many of the boxes kept have lowered the score already.
        let mut candidates: Vec<(f32, usize, usize)> =
            scores.iter().zip(0..).filter(|(s, _)| **s > least).map(|(s, i)| (*s, i, 0)).collect();
        let by_score =
            |x: &(f32, usize, usize), y: &(f32, usize, usize)| better((y.0, y.1), (x.0, x.1));
        // The best stands last.
        candidates.sort_unstable_by(by_score);
        let mut kept: Vec<(usize, f32)> = Vec::new();
        while let Some((before, i, seen)) = candidates.pop() {
            if kept.len() >= most.min(n) {
                break;
            }
            let (mut score, mut dropped) = (before, false);
            for (k, _) in kept[seen..].iter().rev() {
                let shared = corners(i).overlap(&corners(*k));
                if shared >= overlap {
                    dropped = true;
                    break;
                }
                if sigma > 0.0 {
                    score *= (-0.5 / sigma * shared * shared).exp();
                }
                if score <= least {
                    break;
                }
            }
            if dropped {
                continue;
            }
            if score == before {
                kept.push((i, score));
            } else if score > least {
                let next = (score, i, kept.len());
                let at = candidates.partition_point(|c| by_score(c, &next).is_lt());
                candidates.insert(at, next);
            }
        }
        let out = outputs.slice::<i32>(0, &[most])?;
        out.fill(0);
        out.iter_mut().zip(&kept).for_each(|(o, (i, _))| *o = *i as i32);
        let last = outputs.len() - 1;
        if last == 2 {
            let out = outputs.slice::<f32>(1, &[most])?;
            out.fill(0.0);
            out.iter_mut().zip(&kept).for_each(|(o, (_, s))| *o = *s);
        }
        outputs.slice::<i32>(last, &[])?[0] = kept.len() as i32;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::test::{check, error, run_opt, t};
    use super::*;
    use crate::Tensor;

    const SCORES: [f32; 6] = [0.9, 0.75, 0.6, 0.95, 0.5, 0.3];

    fn boxes() -> Vec<f32> {
        let flipped = [
            [1., 1., 0., 0.],
            [0., 0.1, 1., 1.1],
            [0., -0.1, 1., 0.9],
            [0., 10., 1., 11.],
            [1., 10.1, 0., 11.1],
            [1., 101., 0., 100.],
        ];
        flipped.as_flattened().to_vec()
    }

    #[test]
    fn the_best_of_each_class_are_kept() {
        let (b, s) = (t(&[1, 6, 4], &boxes()), t(&[1, 1, 6], &SCORES));
        let (three, half, least) = (t(&[1], &[3i64]), t(&[1], &[0.5f32]), t(&[1], &[0.4f32]));
        let op = NonMaxSuppression::default();
        check(&op, &[&b, &s, &three, &half], &[3, 3], &[0i64, 0, 3, 0, 0, 0, 0, 0, 5]);
        check(&op, &[&b, &s, &three, &half, &least], &[2, 3], &[0i64, 0, 3, 0, 0, 0]);
        check::<i64>(&op, &[&b, &s], &[0, 3], &[]);
        let centred = [0.5f32, 0.5, 1., 1., 0.5, 0.6, 1., 1., 0.5, 10.5, 1., 1.];
        let (b, s) = (t(&[1, 3, 4], &centred), t(&[1, 2, 3], &[0.9f32, 0.8, 0.7, 0.1, 0.2, 0.3]));
        let want = [0i64, 0, 0, 0, 0, 2, 0, 1, 2, 0, 1, 1];
        check(&NonMaxSuppression { centred: true }, &[&b, &s, &three, &half], &[4, 3], &want);
        assert!(error(&op, &[&b, &t(&[1, 1, 4], &[0f32; 4])]).contains("boxes"));
    }

    /// Expected: LiteRT's kernels, ai-edge-litert 2.
    #[test]
    fn scores_of_overlapping_boxes_fall() {
        let (b, s) = (t(&[6, 4], &boxes()), t(&[6], &SCORES));
        let run = |most: i32, overlap: f32, least: f32, sigma: f32, outputs: usize| {
            let most = Tensor::scalar(most);
            let [overlap, least, sigma] = [overlap, least, sigma].map(Tensor::scalar);
            let all = [Some(&b), Some(&s), Some(&most), Some(&overlap), Some(&least), Some(&sigma)];
            let given = if outputs == 3 { &all[..] } else { &all[..5] };
            run_opt(&SoftNonMaxSuppression, given, outputs).unwrap()
        };
        let out = run(6, 0.5, 0.0, 0.0, 3);
        assert_eq!(out[0].slice::<i32>().unwrap(), [3, 0, 5, 0, 0, 0]);
        assert_eq!(out[1].slice::<f32>().unwrap(), [0.95, 0.9, 0.3, 0., 0., 0.]);
        assert_eq!(out[2].slice::<i32>().unwrap(), [3]);
        let out = run(2, 0.5, 0.0, 0.0, 2);
        assert_eq!(out[0].slice::<i32>().unwrap(), [3, 0]);
        assert_eq!(out[1].slice::<i32>().unwrap(), [2]);
        let out = run(6, 1.0, 0.0, 0.5, 3);
        assert_eq!(out[0].slice::<i32>().unwrap(), [3, 0, 1, 5, 4, 2]);
        let want = [0.95, 0.9, 0.384_003_55, 0.3, 0.2560026, 0.19697244];
        for (a, b) in out[1].slice::<f32>().unwrap().iter().zip(want) {
            assert!((a - b).abs() < 1e-6);
        }
    }
}
